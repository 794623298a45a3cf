//! What a client gives up goes back to the file system, or to the device.

use std::{fs, os::unix::fs::FileExt};

use test_support::LoopDevice;

use crate::served::{Host, occupied};

const MIB: u64 = 1 << 20;

#[test]
fn a_raw_file_gets_smaller() {
    let host = Host::new();
    host.raw("a.raw", 16 * MIB);
    let disk = host.serve(&host.image("aio", "a.raw"));
    disk.io(&["write -P 7 0 16M", "flush"]);
    let full = occupied(&host.path("a.raw"));
    assert!(full >= 16 * MIB, "{full}");
    disk.io(&["discard 4M 8M", "flush", "read -P 7 0 4M", "read -P 0 4M 8M", "read -P 7 12M 4M"]);
    let rest = occupied(&host.path("a.raw"));
    assert!(rest <= full - 8 * MIB, "{full} bytes before, {rest} after");
    disk.close();
    assert_eq!(host.path("a.raw").metadata().unwrap().len(), 16 * MIB);
}

#[test]
fn a_vhd_gets_smaller_while_it_is_served() {
    let host = Host::new();
    host.vhd_util("create -n a.vhd -s 32");
    let disk = host.serve(&host.image("vhd", "a.vhd"));
    disk.io(&["write -P 7 0 16M", "flush"]);
    let full = occupied(&host.path("a.vhd"));
    assert!(full >= 16 * MIB, "{full}");
    // Whole blocks, and a part of one.
    disk.io(&["discard 4M 8M", "discard 13M 512k", "flush"]);
    let rest = occupied(&host.path("a.vhd"));
    assert!(rest <= full - 8 * MIB, "{full} bytes before, {rest} after");
    disk.io(&["read -P 7 0 4M", "read -P 0 4M 8M", "read -P 7 12M 1M", "read -P 0 13M 512k", "read -P 7 13824k 2560k"]);
    disk.close();
    assert_eq!(host.vhd_util("query -n a.vhd -a"), "4\n");
}

#[test]
fn room_that_was_given_up_is_used_again() {
    let host = Host::new();
    host.vhd_util("create -n a.vhd -s 32");
    let disk = host.serve(&host.image("vhd", "a.vhd"));
    for round in 1..=8 {
        disk.io(&[&format!("write -P {round} 0 16M"), "flush", "discard 0 16M", "flush"]);
    }
    disk.io(&["write -P 9 16M 8M", "read -P 0 0 16M", "read -P 9 16M 8M"]);
    disk.close();
    assert_eq!(host.vhd_util("query -n a.vhd -a"), "4\n");
    // Of the 136 MiB that were written in all, at most what was in use at one time and what was made ahead.
    let length = host.path("a.vhd").metadata().unwrap().len();
    assert!(length <= 64 * MIB, "{length} bytes for 8 MiB");
    assert!(occupied(&host.path("a.vhd")) <= 16 * MIB, "{} bytes", occupied(&host.path("a.vhd")));
}

#[test]
fn a_child_gets_smaller_and_still_hides_its_parent() {
    let host = Host::new();
    fs::write(host.path("a.raw"), vec![0xee; 16 << 20]).unwrap();
    host.vhd_util("snapshot -n b.vhd -p a.raw -m");
    let disk = host.serve(&host.image("vhd", "b.vhd"));
    disk.io(&["write -P 7 0 16M", "flush"]);
    let full = occupied(&host.path("b.vhd"));
    disk.io(&["discard 4M 8M", "flush", "read -P 0 4M 8M", "read -P 7 12M 4M"]);
    let rest = occupied(&host.path("b.vhd"));
    assert!(rest < full - 7 * MIB, "{full} bytes before, {rest} after");
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
    let disk = host.serve(&format!("aio:{}", device.path().display()));
    disk.io(&["write -P 7 0 16M", "flush"]);
    let full = occupied(&host.path("disk"));
    assert!(full >= 16 * MIB, "{full}");
    disk.io(&["discard 4M 8M", "flush", "read -P 7 0 4M", "read -P 0 4M 8M", "read -P 7 12M 4M"]);
    let rest = occupied(&host.path("disk"));
    assert!(rest <= full - 8 * MIB, "{full} bytes before, {rest} after");
    disk.close();
}

#[test]
fn a_device_is_told_of_the_blocks_that_a_vhd_gives_up() {
    let host = Host::new();
    host.raw("disk", 40 * MIB);
    let test = "a_device_is_told_of_the_blocks_that_a_vhd_gives_up";
    let Some(device) = LoopDevice::attach(test, &host.path("disk")) else { return };
    host.vhd_util(&format!("create -n {} -s 32", device.path().display()));
    let disk = host.serve(&format!("vhd:{}", device.path().display()));
    disk.io(&["write -P 7 0 16M", "flush"]);
    let full = occupied(&host.path("disk"));
    assert!(full >= 16 * MIB, "{full}");
    disk.io(&["discard 4M 8M", "flush", "read -P 7 0 4M", "read -P 0 4M 8M", "read -P 7 12M 4M"]);
    let rest = occupied(&host.path("disk"));
    assert!(rest <= full - 7 * MIB, "{full} bytes before, {rest} after");
    disk.close();
    // The footer is where a device has it.
    let mut footer = [0; 8];
    fs::File::open(host.path("disk")).unwrap().read_exact_at(&mut footer, 40 * MIB - 512).unwrap();
    assert_eq!(&footer, b"conectix");
}
