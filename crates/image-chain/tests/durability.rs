//! What a flush and a durable write ask of the storage.

#![allow(clippy::unwrap_used, reason = "a test that panics has told its story")]

mod support;

use std::sync::Arc;

use storage_io::{Buffer, Fault, FaultRule, FaultScript, FaultyStorage, OperationKind, TracedOperation, TracedStorage};
use support::{Disk, Host, range};

const EIO: i32 = 5;

fn trace(host: &Host, path: &str) -> TracedStorage {
    let traced = TracedStorage::new(host.files.get(path).unwrap());
    host.files.put(path, Arc::new(traced.clone()));
    traced
}

fn write_durably(disk: &Disk, start: u64) {
    let write = disk.queue.write(range(start, 4096), Buffer::zeroed(4096), true);
    disk.run(write).1.unwrap();
}

fn syncs(trace: &[TracedOperation]) -> usize {
    trace.iter().filter(|operation| **operation == TracedOperation::Sync).count()
}

#[test]
fn a_durable_write_in_place_is_one_operation_once_the_tables_are_durable() {
    let host = Host::new();
    host.vhd("/a.vhd", 2);
    let traced = trace(&host, "/a.vhd");
    let disk = host.open("vhd:/a.vhd").unwrap();
    write_durably(&disk, 0);
    assert!(syncs(&traced.take()) > 0, "a new block: its tables must be made durable");
    write_durably(&disk, 0);
    assert!(matches!(traced.take()[..], [TracedOperation::Write { durable: true, .. }]));
    disk.write(8192, &[1; 4096]);
    traced.take();
    write_durably(&disk, 8192);
    assert_eq!(syncs(&traced.take()), 1, "in place, but what names the place may not be durable");
    disk.close();
}

#[test]
fn durable_zeroes_are_flushed() {
    let host = Host::new();
    host.vhd("/a.vhd", 2);
    let traced = trace(&host, "/a.vhd");
    let disk = host.open("vhd:/a.vhd").unwrap();
    disk.write(0, &[1; 4096]);
    traced.take();
    disk.run(disk.queue.write_zeroes(range(0, 4096), false, false, true)).unwrap();
    assert_eq!(traced.take().last(), Some(&TracedOperation::Sync));
    disk.close();
}

#[test]
fn after_a_failed_sync_every_flush_fails_until_the_disk_is_opened_again() {
    let host = Host::new();
    host.vhd("/a.vhd", 2);
    let script = FaultScript::new();
    let faulty = FaultyStorage::new(host.files.get("/a.vhd").unwrap(), script.clone());
    host.files.put("/a.vhd", Arc::new(faulty));
    let disk = host.open("vhd:/a.vhd").unwrap();
    disk.write(0, &[1; 4096]);
    script.add(FaultRule::once_after(0, Fault::error(EIO)).of(OperationKind::Sync));
    for _ in 0..3 {
        assert_eq!(disk.run(disk.queue.flush()).unwrap_err().os_error(), Some(EIO));
    }
    assert_eq!(disk.run(disk.home.flush()).unwrap_err().os_error(), Some(EIO));
    assert_eq!(script.struck(), 1, "the sync was not repeated");
    disk.write(0, &[2; 4096]);
    let Disk { home, queue, .. } = disk;
    drop(queue);
    assert_eq!(host.executor.block_on(home.close()).unwrap_err().os_error(), Some(EIO));
    let disk = host.open("vhd:/a.vhd").unwrap();
    disk.run(disk.queue.flush()).unwrap();
    disk.close();
}

/// A durable write that fails has used up the one report of what the kernel could not write, be it its own or not.
#[test]
fn after_a_failed_durable_write_every_flush_fails_until_the_disk_is_opened_again() {
    let host = Host::new();
    host.vhd("/a.vhd", 2);
    let script = FaultScript::new();
    let faulty = FaultyStorage::new(host.files.get("/a.vhd").unwrap(), script.clone());
    host.files.put("/a.vhd", Arc::new(faulty));
    let disk = host.open("vhd:/a.vhd").unwrap();
    write_durably(&disk, 0);
    script.add(FaultRule::once_after(0, Fault::error(EIO)).of(OperationKind::Write));
    let write = disk.queue.write(range(0, 4096), Buffer::zeroed(4096), true);
    assert_eq!(disk.run(write).1.unwrap_err().os_error(), Some(EIO));
    assert_eq!(disk.run(disk.queue.flush()).unwrap_err().os_error(), Some(EIO));
    let Disk { home, queue, .. } = disk;
    drop(queue);
    assert_eq!(host.executor.block_on(home.close()).unwrap_err().os_error(), Some(EIO));
    let disk = host.open("vhd:/a.vhd").unwrap();
    disk.run(disk.queue.flush()).unwrap();
    disk.close();
}

#[test]
fn a_closed_disk_answers_that_it_is_closed() {
    let host = Host::new();
    host.vhd("/a.vhd", 2);
    let Disk { home, queue, .. } = host.open("vhd:/a.vhd").unwrap();
    host.executor.block_on(home.close()).unwrap();
    let (_, result) = host.executor.block_on(queue.read(range(0, 512), Buffer::zeroed(512)));
    assert_eq!(result.unwrap_err().kind(), block_core::ErrorKind::Closed);
    assert_eq!(host.executor.block_on(queue.flush()).unwrap_err().kind(), block_core::ErrorKind::Closed);
}
