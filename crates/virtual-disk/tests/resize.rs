//! Disks that become larger under their clients, and what is refused.

#![allow(clippy::unwrap_used, reason = "a test that cannot go on fails")]

mod support;

use block_core::ErrorKind;
use image_format::vhd::create;
use storage_io::{Fault, FaultRule, MemoryStorage, OperationKind, Storage, StorageExt};
use support::{DISK_BYTES, Host, Posing, Script, bytes, failed, is_done, spec, vhd_options, vhd_spec};
use virtual_disk::{DiskState, Settings};

const MIB: u64 = 1 << 20;
const DISK: u64 = DISK_BYTES as u64;

fn serve(host: &Host) -> Script {
    let script = Script::default();
    host.disk.queue().serve(script.clone()).detach();
    host.settle();
    script
}

fn vhd_host(seed: u64, reserved_bytes: u64) -> (Host, Script) {
    let host = Host::new(seed);
    host.put_vhd("/v", &vhd_options(1, 8 * MIB, reserved_bytes));
    host.run(async |disk| disk.open(vhd_spec("/v"), Settings::default()).await).unwrap();
    let script = serve(&host);
    (host, script)
}

#[test]
fn a_larger_image_on_resume_is_a_larger_disk_and_every_source_is_told() {
    let host = Host::running(1);
    let near = serve(&host);
    let far = Script::default();
    host.add_queue().serve(far.clone()).detach();
    let beyond = near.read(DISK, 512);
    host.settle();
    assert_eq!(failed(near.answer(beyond)), ErrorKind::Invalid);
    host.put_raw("/larger", 2 * DISK_BYTES);
    host.run(async |disk| disk.pause(None).await).unwrap();
    let held = far.write(DISK, 6, 512);
    let geometry = host.run(async |disk| disk.resume(Some(spec("/larger"))).await).unwrap();
    host.settle();
    assert!(is_done(far.answer(held)), "what was held is measured by the new size");
    assert_eq!((geometry.bytes(), host.disk.status().geometry().unwrap().bytes()), (2 * DISK, 2 * DISK));
    assert_eq!((near.sizes(), far.sizes()), (vec![2 * DISK], vec![2 * DISK]));
    assert_eq!(host.disk.status().resized(), 1);
    host.run(async |disk| disk.pause(None).await).unwrap();
    host.run(async |disk| disk.resume(None).await).unwrap();
    host.settle();
    assert_eq!((near.sizes().len(), host.disk.status().resized()), (1, 1), "the same size is no news");
}

#[test]
fn a_raw_file_is_made_longer_while_its_requests_wait() {
    let host = Host::running(2);
    let script = serve(&host);
    let write = script.write(DISK - 512, 4, 512);
    host.settle();
    assert!(is_done(script.answer(write)));
    let growing = host.begin(async |disk| disk.grow(Some(3 * DISK)).await);
    host.faults.add(FaultRule::every(Fault::Hang).of(OperationKind::SetLength));
    host.settle();
    assert_eq!(host.disk.status().state(), DiskState::Growing);
    let held = script.read(2 * DISK, 4096);
    host.settle();
    assert_eq!(script.answered(), 0);
    host.faults.release();
    host.settle();
    assert_eq!(growing.result().unwrap().bytes(), 3 * DISK);
    assert_eq!(bytes(script.answer(held)), [0; 4096]);
    let read = script.read(DISK - 512, 512);
    host.settle();
    assert_eq!(bytes(script.answer(read)), [4; 512]);
    assert_eq!(script.sizes(), [3 * DISK]);
}

#[test]
fn what_its_owner_made_longer_is_adopted() {
    let host = Host::running(3);
    let script = serve(&host);
    host.scribble("/a", DISK, &[9; 4096]);
    let geometry = host.run(async |disk| disk.grow(None).await).unwrap();
    assert_eq!(geometry.bytes(), DISK + 4096);
    let read = script.read(DISK, 4096);
    host.settle();
    assert_eq!(bytes(script.answer(read)), [9; 4096]);
    let same = host.run(async |disk| disk.grow(None).await).unwrap();
    assert_eq!((same.bytes(), script.sizes().len()), (DISK + 4096, 1));
}

#[test]
fn what_cannot_be_done_leaves_the_disk_as_it_was() {
    let host = Host::running(4);
    let script = serve(&host);
    for (length, kind) in [(DISK - 512, ErrorKind::Invalid), (DISK + 1, ErrorKind::Invalid)] {
        let error = host.run(async move |disk| disk.grow(Some(length)).await).unwrap_err();
        assert_eq!((error.kind(), host.disk.status().state()), (kind, DiskState::Running), "{error}");
    }
    host.faults.add(FaultRule::once_after(0, Fault::error(28)).of(OperationKind::SetLength));
    let error = host.run(async |disk| disk.grow(Some(2 * DISK)).await).unwrap_err();
    assert_eq!((error.kind(), host.disk.status().state()), (ErrorKind::NoSpace, DiskState::Running));
    let write = script.write(0, 1, 512);
    host.settle();
    assert!(is_done(script.answer(write)));
    host.faults.add(FaultRule::every(Fault::error(5)).of(OperationKind::Lock));
    let error = host.run(async |disk| disk.grow(None).await).unwrap_err();
    assert_eq!((error.kind(), host.disk.status().state()), (ErrorKind::Io, DiskState::Quiesced));
    host.faults.clear();
    host.run(async |disk| disk.resume(None).await).unwrap();
    host.run(async |disk| disk.pause(None).await).unwrap();
    let error = host.run(async |disk| disk.grow(None).await).unwrap_err();
    assert_eq!(error.to_string(), "the disk is paused");
}

#[test]
fn growing_can_be_turned_back_while_it_waits_for_requests() {
    let host = Host::running(5);
    let script = serve(&host);
    host.tap.close();
    script.write(0, 1, 512);
    host.settle();
    let growing = host.begin(async |disk| disk.grow(Some(2 * DISK)).await);
    host.settle();
    assert!(host.disk.cancel());
    host.settle();
    assert_eq!(growing.result().unwrap_err().kind(), ErrorKind::Cancelled);
    host.tap.open();
    host.settle();
    assert_eq!((script.answered(), host.disk.status().geometry().unwrap().bytes()), (1, DISK));
}

#[test]
fn a_vhd_image_grows_as_far_as_its_table_goes() {
    let (host, script) = vhd_host(6, 64 * MIB);
    let write = script.write(7 * MIB, 2, 4096);
    host.settle();
    assert!(is_done(script.answer(write)));
    let error = host.run(async |disk| disk.grow(Some(66 * MIB)).await).unwrap_err();
    assert_eq!((error.kind(), host.disk.status().state()), (ErrorKind::LimitReached, DiskState::Running), "{error}");
    host.run(async |disk| disk.grow(Some(64 * MIB)).await).unwrap();
    let write = script.write(63 * MIB, 3, 4096);
    host.settle();
    assert!(is_done(script.answer(write)));
    host.run(async |disk| disk.close().await).unwrap();
    let geometry = host.run(async |disk| disk.open(vhd_spec("/v"), Settings::default()).await).unwrap();
    assert_eq!(geometry.bytes(), 64 * MIB);
    for (offset, byte) in [(7 * MIB, 2), (63 * MIB, 3), (30 * MIB, 0)] {
        let read = script.read(offset, 4096);
        host.settle();
        assert_eq!(bytes(script.answer(read)), [byte; 4096], "{offset:#x}");
    }
}

/// Every operation of it fails once: the disk has the old size or the new one, and all it held.
#[test]
fn growing_a_vhd_image_fails_as_a_whole() {
    for step in 0.. {
        let (host, script) = vhd_host(7, 64 * MIB);
        let write = script.write(0, 2, 4096);
        host.settle();
        assert!(is_done(script.answer(write)));
        host.faults.add(FaultRule::once_after(step, Fault::error(5)));
        let result = host.run(async |disk| disk.grow(Some(32 * MIB)).await);
        let was_struck = host.faults.struck() > 0;
        host.faults.clear();
        if host.disk.status().state() == DiskState::Quiesced {
            host.run(async |disk| disk.resume(None).await).unwrap();
        }
        assert_eq!(host.disk.status().state(), DiskState::Running, "step {step}");
        let now = host.disk.status().geometry().unwrap().bytes();
        assert!(now == 8 * MIB || now == 32 * MIB, "step {step}: {now}");
        assert!(result.is_err() || now == 32 * MIB, "step {step}");
        let read = script.read(0, 4096);
        host.settle();
        assert_eq!(bytes(script.answer(read)), [2; 4096], "step {step}");
        if !was_struck {
            assert!(step > 10, "{step}");
            break;
        }
    }
}

/// What was a device of somebody else's has the footer of an old image in what is its last sector now.
#[test]
fn a_grown_device_with_garbage_at_its_end_is_resumed_by_its_own_footer() {
    let (host, script) = vhd_host(8, 0);
    let write = script.write(MIB, 7, 4096);
    host.settle();
    assert!(is_done(script.answer(write)));
    for garbage in [vec![0xa5; 512], last_sector_of(&host, false)] {
        host.run(async |disk| disk.pause(None).await).unwrap();
        let length = host.files.get("/v").unwrap().length();
        host.scribble("/v", length + MIB, &garbage);
        host.run(async |disk| disk.resume(None).await).unwrap();
        let read = script.read(MIB, 4096);
        host.settle();
        assert_eq!(bytes(script.answer(read)), [7; 4096]);
    }
    host.run(async |disk| disk.pause(None).await).unwrap();
    let length = host.files.get("/v").unwrap().length();
    host.scribble("/v", length + MIB, &last_sector_of(&host, true));
    let error = host.run(async |disk| disk.resume(None).await).unwrap_err();
    let (mine, foreign) = (uuid::Uuid::from_u128(1).to_string(), uuid::Uuid::from_u128(0xf).to_string());
    assert!(error.to_string().contains(&mine) && error.to_string().contains(&foreign), "{error}");
    assert_eq!(host.disk.status().state(), DiskState::ResumeFailed);
}

/// A fixed image has one footer, at the end: where that is not, nothing tells which image it is.
#[test]
fn a_resume_that_finds_no_image_names_the_one_that_was_expected() {
    for closes_files in [false, true] {
        let host = Host::new(9);
        let options = image_format::vhd::CreateOptions { fixed: true, ..vhd_options(0xe, 2 * MIB, 0) };
        host.put_vhd("/v", &options);
        host.run(async |disk| disk.open(vhd_spec("/v"), Settings::default()).await).unwrap();
        host.run(async move |disk| if closes_files { disk.pause(None).await } else { disk.quiesce(None).await })
            .unwrap();
        let length = host.files.get("/v").unwrap().length();
        host.scribble("/v", length + MIB, &[0xa5; 512]);
        let error = host.run(async |disk| disk.resume(None).await).unwrap_err();
        let expected = uuid::Uuid::from_u128(0xe).to_string();
        assert_eq!(error.kind(), ErrorKind::Corrupt);
        assert!(error.to_string().contains(&expected) && error.to_string().contains("/v"), "{error}");
        assert_eq!(host.disk.status().trouble().unwrap().to_string(), error.to_string());
        let error = host.run(async |disk| disk.resume(Some(vhd_spec("/v"))).await).unwrap_err();
        assert!(!error.to_string().contains(&expected), "who names an image expects no other: {error}");
    }
}

/// Clients that have read and written single sectors cannot go on with larger ones.
#[test]
fn an_image_with_larger_sectors_is_not_this_disk() {
    let host = Host::running(10);
    let script = serve(&host);
    for (path, sector) in [("/same", 512), ("/other", 4096)] {
        host.files.put(path, Posing::new(false, sector));
    }
    for closes_files in [false, true] {
        host.run(async move |disk| if closes_files { disk.pause(None).await } else { disk.quiesce(None).await })
            .unwrap();
        let error = host.run(async |disk| disk.resume(Some(spec("/other"))).await).unwrap_err();
        assert_eq!((error.kind(), host.disk.status().state()), (ErrorKind::SizeChanged, DiskState::ResumeFailed));
        assert!(error.to_string().contains("512") && error.to_string().contains("4096"), "{error}");
        host.run(async |disk| disk.resume(Some(spec("/same"))).await).unwrap();
        let write = script.write(512, 1, 512);
        host.settle();
        assert!(is_done(script.answer(write)));
    }
}

/// The footer of a foreign image.
fn last_sector_of(host: &Host, fixed: bool) -> Vec<u8> {
    let storage: std::sync::Arc<dyn Storage> = std::sync::Arc::new(MemoryStorage::new(0));
    let options = image_format::vhd::CreateOptions { fixed, ..vhd_options(0xf, 2 * MIB, 0) };
    host.executor.block_on(create(&host.executor, &storage, &options)).unwrap();
    let offset = block_core::FileOffset::new(storage.length() - 512);
    host.executor.block_on(storage.read_bytes(&host.executor, offset, 512)).unwrap()
}
