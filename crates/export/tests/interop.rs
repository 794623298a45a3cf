//! Other people's clients, over their own command lines.

#![allow(clippy::unwrap_used, reason = "a test that cannot go on fails")]

mod support;

use std::{
    fs,
    net::{Ipv4Addr, SocketAddr},
    path::{Path, PathBuf},
    process::{Command, Output},
};

use support::{Options, Served};
use test_support::require_tool;

const DISK: usize = 64 << 20;

fn served() -> Served {
    Served::with(Options { bytes: DISK, ..Options::default() })
}

fn run(command: &mut Command) -> Output {
    let output = command.output().unwrap();
    let text = |bytes: &[u8]| String::from_utf8_lossy(bytes).into_owned();
    assert!(
        output.status.success(),
        "{command:?}: {}\n{}\n{}",
        output.status,
        text(&output.stdout),
        text(&output.stderr)
    );
    output
}

fn stdout(command: &mut Command) -> String {
    String::from_utf8(run(command).stdout).unwrap()
}

fn tool(name: &str) -> Command {
    Command::new(require_tool(name))
}

/// A file as large as the disk, in parts data and in parts hole.
fn patterned_file(directory: &Path) -> PathBuf {
    let path = directory.join("pattern");
    let bytes: Vec<u8> = (0..DISK)
        .map(|index| if (index >> 20) % 3 == 1 { 0 } else { u8::try_from((index * 7 + (index >> 12)) % 251).unwrap() })
        .collect();
    fs::write(&path, bytes).unwrap();
    path
}

fn read_all(served: &Served) -> Vec<u8> {
    let mut client = served.client();
    let mut bytes = vec![0; DISK];
    for (index, part) in bytes.chunks_mut(4 << 20).enumerate() {
        client.read((index * (4 << 20)) as u64, part).unwrap();
    }
    bytes
}

#[test]
fn nbdinfo_sees_what_is_offered() {
    let served = served();
    let told = stdout(tool("nbdinfo").arg(served.uri()));
    for expected in [
        "protocol: newstyle-fixed without TLS",
        "using structured packets",
        "export-size: 67108864 (64M)",
        "base:allocation",
        "is_read_only: false",
        "can_block_status_payload: false",
        "can_cache: true",
        "can_df: true",
        "can_fast_zero: true",
        "can_flush: true",
        "can_fua: true",
        "can_multi_conn: true",
        "can_trim: true",
        "can_zero: true",
        "block_size_minimum: 1",
        "block_size_preferred: 4096",
        "block_size_maximum: 33554432",
    ] {
        // What this release of the tool does not know, it does not tell.
        let key = expected.split(':').next().unwrap();
        assert!(told.contains(expected) || !told.contains(key), "'{expected}' is not in:\n{told}");
    }
    assert!(told.contains("export-size: 67108864"), "{told}");
    let listed = stdout(tool("nbdinfo").arg("--list").arg(served.uri()));
    assert!(listed.contains("export=\"tapdisk_client\""), "{listed}");
    run(tool("nbdinfo").args(["--can", "structured-reply"]).arg(served.uri()));
    run(tool("nbdinfo").args(["--can", "df"]).arg(served.uri()));
    run(tool("nbdinfo").args(["--can", "fast-zero"]).arg(served.uri()));
    served.await_connections(0);
}

#[test]
fn nbd_client_lists_the_export() {
    let served = served();
    let listed = stdout(tool("nbd-client").arg("--list").arg("--unix").arg(served.socket()));
    assert!(listed.lines().any(|line| line.trim() == "tapdisk_client"), "{listed}");
    served.await_connections(0);
}

#[test]
fn nbdinfo_maps_the_whole_disk() {
    let served = served();
    let map = stdout(tool("nbdinfo").arg("--map").arg(served.uri()));
    let mut next = 0;
    for line in map.lines() {
        let mut fields = line.split_whitespace().map(|field| field.parse::<u64>().unwrap_or(u64::MAX));
        let (offset, length, state) = (fields.next().unwrap(), fields.next().unwrap(), fields.next().unwrap());
        assert!(offset == next && length > 0 && state <= 3, "{map}");
        next = offset + length;
    }
    assert_eq!(next, DISK as u64, "{map}");
}

#[test]
fn nbdcopy_copies_in_and_out() {
    let served = served();
    let pattern = patterned_file(served.directory());
    run(tool("nbdcopy").arg("--requests=64").arg("--connections=4").arg(&pattern).arg(served.uri()));
    let expected = fs::read(&pattern).unwrap();
    assert!(read_all(&served) == expected);
    let copy = served.directory().join("copy");
    run(tool("nbdcopy").arg("--connections=4").arg(served.uri()).arg(&copy));
    assert!(fs::read(&copy).unwrap() == expected);
    served.await_connections(0);
}

#[test]
fn nbdcopy_copies_over_tcp() {
    let served = served();
    let anywhere = SocketAddr::from((Ipv4Addr::LOCALHOST, 0));
    let address = served.run(move |world| async move { world.server.listen_tcp(anywhere) }).unwrap();
    let pattern = patterned_file(served.directory());
    run(tool("nbdcopy").arg(&pattern).arg(format!("nbd://{address}/any-name")));
    assert!(read_all(&served) == fs::read(&pattern).unwrap());
}

#[test]
fn qemu_io_reads_and_writes_at_any_alignment() {
    let served = served();
    let mut command = tool("qemu-io");
    command.args(["-f", "raw", "--discard=unmap"]);
    for request in [
        "write -P 0x11 1000 3001",
        "write -f -P 0x22 65536 131072",
        "flush",
        "write -z 70000 1000",
        "write -z -u 81920 4096",
        "discard 131072 65536",
        "read -P 0x11 1000 3001",
        "read -P 0x22 65536 4464",
        "read -P 0 70000 1000",
        "read -P 0 81920 4096",
        "read -P 0x22 71000 10920",
        "aio_write -P 0x33 1048576 2097152",
        "aio_read -P 0 4194304 1048576",
        "aio_flush",
        "read -P 0x33 1048576 2097152",
    ] {
        command.args(["-c", request]);
    }
    let told = stdout(command.arg(served.uri()));
    assert!(!told.contains("failed") && !told.contains("error"), "{told}");
    let bytes = read_all(&served);
    assert!(bytes[1000..4001].iter().all(|&byte| byte == 0x11) && bytes[999] == 0 && bytes[4001] == 0);
    assert!(bytes[70000..71000].iter().all(|&byte| byte == 0));
}

#[test]
fn qemu_img_converts_and_compares() {
    let served = served();
    let pattern = patterned_file(served.directory());
    run(tool("qemu-img").args(["convert", "-n", "-f", "raw", "-O", "raw"]).arg(&pattern).arg(served.uri()));
    let told = stdout(tool("qemu-img").args(["compare", "-f", "raw", "-F", "raw"]).arg(&pattern).arg(served.uri()));
    assert!(told.contains("identical"), "{told}");
}

#[test]
fn fio_verifies_what_it_wrote() {
    let served = served();
    for (size, depth) in [("4k", 32), ("512-64k", 16), ("1m", 4)] {
        let mut fio = tool("fio");
        fio.current_dir(served.directory());
        fio.args(["--name=verify", "--ioengine=nbd", "--rw=randwrite", "--verify=crc32c", "--size=48m"]);
        fio.args(["--verify_fatal=1", "--group_reporting", "--output-format=terse"]);
        let block = if size.contains('-') { format!("--bsrange={size}") } else { format!("--bs={size}") };
        fio.arg(format!("--uri={}", served.uri())).arg(block).arg(format!("--iodepth={depth}"));
        run(&mut fio);
    }
    served.await_connections(0);
}

#[test]
fn nbdkit_serves_our_disk_on() {
    let served = served();
    let pattern = patterned_file(served.directory());
    run(tool("nbdcopy").arg(&pattern).arg(served.uri()));
    // nbdkit's own NBD client between: a third implementation that reads our replies.
    let copy = served.directory().join("copy");
    let mut nbdkit = tool("nbdkit");
    nbdkit.args(["-U", "-", "--exit-with-parent", "nbd"]).arg(format!("uri={}", served.uri()));
    nbdkit.arg("--run").arg(format!("nbdcopy \"$uri\" '{}'", copy.display()));
    run(&mut nbdkit);
    assert!(fs::read(&copy).unwrap() == fs::read(&pattern).unwrap());
}
