//! What a client gives up goes back to the file system, or to the device.

use std::{
    fs,
    os::unix::fs::FileExt,
    path::Path,
    thread::sleep,
    time::{Duration, Instant},
};

use test_support::LoopDevice;

use crate::served::{Host, LONG, Served, occupied};

const MIB: u64 = 1 << 20;

/// Writes 16 MiB and opens the disk again: a tapdisk that has just written may still be making room ahead.
fn filled<'a>(host: &'a Host, image: &str) -> Served<'a> {
    let disk = host.serve(image);
    disk.io(&["write -P 7 0 16M", "flush"]);
    disk.close();
    host.serve(image)
}

/// Waits until a file occupies `bytes` less than it did.
fn assert_falls(path: &Path, before: u64, bytes: u64) {
    assert!(before >= 16 * MIB, "{before} bytes for 16 MiB");
    let deadline = Instant::now() + LONG;
    while occupied(path) > before - bytes {
        assert!(Instant::now() < deadline, "{before} bytes before, {} after", occupied(path));
        sleep(Duration::from_millis(5));
    }
}

#[test]
fn a_raw_file_gets_smaller() {
    let host = Host::new();
    host.raw("a.raw", 16 * MIB);
    let disk = filled(&host, &host.image("aio", "a.raw"));
    let full = occupied(&host.path("a.raw"));
    disk.io(&["discard 4M 8M", "flush", "read -P 7 0 4M", "read -P 0 4M 8M", "read -P 7 12M 4M"]);
    assert_falls(&host.path("a.raw"), full, 8 * MIB);
    disk.close();
    assert_eq!(host.path("a.raw").metadata().unwrap().len(), 16 * MIB);
}

#[test]
fn a_vhd_gets_smaller_while_it_is_served() {
    let host = Host::new();
    host.vhd_util("create -n a.vhd -s 32");
    let disk = filled(&host, &host.image("vhd", "a.vhd"));
    let full = occupied(&host.path("a.vhd"));
    // Whole blocks, and a part of one.
    disk.io(&["discard 4M 8M", "discard 13M 512k", "flush"]);
    assert_falls(&host.path("a.vhd"), full, 8 * MIB + (512 << 10));
    disk.io(&["read -P 7 0 4M", "read -P 0 4M 8M", "read -P 7 12M 1M", "read -P 0 13M 512k", "read -P 7 13824k 2560k"]);
    disk.close();
    assert_eq!(host.vhd_util("query -n a.vhd -a"), "4\n");
}

#[test]
fn room_that_was_given_up_is_used_again() {
    let host = Host::new();
    host.vhd_util("create -n a.vhd -s 32");
    let disk = host.serve(&host.image("vhd", "a.vhd"));
    for round in 1..=20 {
        disk.io(&[&format!("write -P {round} 0 8M"), "flush", "discard 0 8M", "flush"]);
    }
    disk.io(&["write -P 9 16M 8M", "read -P 0 0 16M", "read -P 9 16M 8M"]);
    disk.close();
    assert_eq!(host.vhd_util("query -n a.vhd -a"), "4\n");
    // Of the 168 MiB that were written in all, what was in use at one time, and what was made ahead.
    let length = host.path("a.vhd").metadata().unwrap().len();
    assert!(length <= 100 * MIB, "{length} bytes for 8 MiB");
    let rest = occupied(&host.path("a.vhd"));
    assert!(rest <= 16 * MIB, "{rest} bytes for 8 MiB");
}

#[test]
fn a_child_gets_smaller_and_still_hides_its_parent() {
    let host = Host::new();
    fs::write(host.path("a.raw"), vec![0xee; 16 << 20]).unwrap();
    host.vhd_util("snapshot -n b.vhd -p a.raw -m");
    let disk = filled(&host, &host.image("vhd", "b.vhd"));
    let full = occupied(&host.path("b.vhd"));
    disk.io(&["discard 4M 8M", "flush", "read -P 0 4M 8M", "read -P 7 12M 4M"]);
    assert_falls(&host.path("b.vhd"), full, 8 * MIB - (64 << 10));
    disk.close();
    let disk = host.serve(&host.image("vhd", "b.vhd"));
    disk.io(&["read -P 7 0 4M", "read -P 0 4M 8M", "read -P 7 12M 4M"]);
    disk.close();
}

#[test]
fn a_device_is_told_of_what_a_raw_disk_gives_up() {
    let host = Host::new();
    host.raw("disk", 16 * MIB);
    let test = "a_device_is_told_of_what_a_raw_disk_gives_up";
    let Some(device) = LoopDevice::attach(test, &host.path("disk")) else { return };
    let disk = filled(&host, &format!("aio:{}", device.path().display()));
    let full = occupied(&host.path("disk"));
    disk.io(&["discard 4M 8M", "flush", "read -P 7 0 4M", "read -P 0 4M 8M", "read -P 7 12M 4M"]);
    assert_falls(&host.path("disk"), full, 8 * MIB);
    disk.close();
}

#[test]
fn a_device_is_told_of_the_blocks_that_a_vhd_gives_up() {
    let host = Host::new();
    host.raw("disk", 40 * MIB);
    let test = "a_device_is_told_of_the_blocks_that_a_vhd_gives_up";
    let Some(device) = LoopDevice::attach(test, &host.path("disk")) else { return };
    host.vhd_util(&format!("create -n {} -s 32", device.path().display()));
    let disk = filled(&host, &format!("vhd:{}", device.path().display()));
    let full = occupied(&host.path("disk"));
    disk.io(&["discard 4M 8M", "flush", "read -P 7 0 4M", "read -P 0 4M 8M", "read -P 7 12M 4M"]);
    // Blocks do not begin at pages of the file below.
    assert_falls(&host.path("disk"), full, 8 * MIB - (64 << 10));
    disk.close();
    // The footer is where a device has it.
    let mut footer = [0; 8];
    fs::File::open(host.path("disk")).unwrap().read_exact_at(&mut footer, 40 * MIB - 512).unwrap();
    assert_eq!(&footer, b"conectix");
}
