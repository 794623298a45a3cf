//! Clients of libnbd, nbdkit and qemu see a server that keeps to the protocol.

use crate::served::{Host, run, stdout};

/// The lines of `nbdinfo --map`: offset, length, description.
fn map(host: &Host, uri: &str) -> Vec<(u64, u64, String)> {
    let told = stdout(host.tool("nbdinfo").arg("--map").arg(uri));
    let lines = told.lines().map(|line| {
        let fields: Vec<&str> = line.split_whitespace().collect();
        (fields[0].parse().unwrap(), fields[1].parse().unwrap(), fields[3].to_owned())
    });
    lines.collect()
}

#[test]
fn the_map_of_a_chain_says_where_there_is_data() {
    let host = Host::new();
    host.vhd_util("create -n a.vhd -s 32");
    let disk = host.serve(&host.image("vhd", "a.vhd"));
    disk.io(&["write -P 1 2M 2M", "write -P 1 8M 64k"]);
    disk.close();
    host.vhd_util("snapshot -n b.vhd -p a.vhd");
    let disk = host.serve(&host.image("vhd", "b.vhd"));
    disk.io(&["write -P 2 4M 1M", "write -P 2 31M 1M", "flush"]);
    let mebibytes = |(offset, length, what): &(u64, u64, String)| (*offset, offset + length, what.clone());
    let extents: Vec<_> = map(&host, &disk.uri()).iter().map(mebibytes).collect();
    let mib = |count: u64| count << 20;
    let expected = [
        (0, mib(2), "hole,zero"),
        (mib(2), mib(5), "data"),
        (mib(5), mib(8), "hole,zero"),
        (mib(8), mib(8) + (64 << 10), "data"),
        (mib(8) + (64 << 10), mib(31), "hole,zero"),
        (mib(31), mib(32), "data"),
    ];
    assert_eq!(extents, expected.map(|(start, end, what)| (start, end, what.to_owned())));
    // The sums of the map are the disk.
    let totals = stdout(host.tool("nbdinfo").args(["--map", "--totals"]).arg(disk.uri()));
    assert!(totals.contains(&(mib(4) + (64 << 10)).to_string()), "{totals}");
    disk.close();
}

#[test]
fn nbdinfo_sees_the_size_and_the_only_export() {
    let host = Host::new();
    host.raw("a.raw", 5 << 20);
    let disk = host.serve(&host.image("aio", "a.raw"));
    assert_eq!(stdout(host.tool("nbdinfo").arg("--size").arg(disk.uri())), "5242880\n");
    let listed = stdout(host.tool("nbdinfo").args(["--list", "--json"]).arg(disk.uri()));
    assert_eq!(listed.matches("\"export-name\"").count(), 1, "{listed}");
    for ability in ["flush", "fua", "trim", "zero", "fast-zero", "cache", "df", "multi-conn", "structured-reply"] {
        let mut can = host.tool("nbdinfo");
        let can = match ability {
            "structured-reply" => can.args(["--can", "connect"]),
            other => can.args(["--can", other]),
        };
        assert!(can.arg(disk.uri()).status().unwrap().success(), "{ability}");
    }
    assert!(!host.tool("nbdinfo").args(["--is", "read-only"]).arg(disk.uri()).status().unwrap().success());
    disk.close();
}

#[test]
fn qemu_io_flushes_discards_zeroes_and_reads_back() {
    let host = Host::new();
    host.vhd_util("create -n a.vhd -s 32");
    host.vhd_util("snapshot -n b.vhd -p a.vhd");
    let disk = host.serve(&host.image("vhd", "b.vhd"));
    disk.io(&[
        "write -P 7 0 8M",
        "flush",
        "write -f -P 8 1M 64k",
        "read -P 8 1M 64k",
        "discard 2M 2M",
        "read -P 0 2M 2M",
        "write -z 4M 1M",
        "read -P 0 4M 1M",
        "write -z -u 5M 1M",
        "read -P 0 5M 1M",
        "write -z -f 6M 512",
        "read -P 0 6M 512",
        "read -P 7 6291968 1M",
        "aio_write -P 9 16M 1M",
        "aio_write -P 10 18M 1M",
        "aio_read 0 4M",
        "aio_flush",
        "read -P 9 16M 1M",
        "read -P 10 18M 1M",
        "flush",
    ]);
    disk.close();
}

#[test]
fn nbdkit_passes_a_disk_on() {
    let host = Host::new();
    host.vhd_util("create -n a.vhd -s 16");
    let disk = host.serve(&host.image("vhd", "a.vhd"));
    disk.io(&["write -P 3 1M 3M"]);
    let through = |script: &str| {
        let mut nbdkit = host.tool("nbdkit");
        nbdkit.args(["-U", "-", "nbd"]).arg(format!("socket={}", disk.socket().display()));
        stdout(nbdkit.args(["--run", script]))
    };
    let map = through("nbdinfo --map \"$uri\"");
    let extents: Vec<Vec<&str>> = map.lines().map(|line| line.split_whitespace().collect()).collect();
    assert_eq!(extents.len(), 3, "{map}");
    assert_eq!(extents[1][..2], ["1048576", "3145728"], "{map}");
    through("qemu-io -f raw \"$uri\" -c 'read -P 3 1M 3M' -c 'write -P 4 2M 1M' -c 'discard 3M 1M' -c flush");
    disk.io(&["read -P 3 1M 1M", "read -P 4 2M 1M", "read -P 0 3M 1M"]);
    disk.close();
}

#[test]
fn many_connections_see_one_disk() {
    let host = Host::new();
    host.vhd_util("create -n a.vhd -s 32");
    let disk = host.serve(&host.image("vhd", "a.vhd"));
    let bytes: Vec<u8> = (0..32_usize << 20).map(|at| u8::try_from((at >> 12) % 255 + 1).unwrap()).collect();
    std::fs::write(host.path("source"), bytes).unwrap();
    run(host.tool("nbdcopy").args(["--connections=8", "--requests=32", "--flush", "source"]).arg(disk.uri()));
    run(host.tool("qemu-img").args(["compare", "-f", "raw", "-F", "raw", "source"]).arg(disk.uri()));
    disk.close();
}

#[test]
fn clients_wait_while_a_disk_is_paused() {
    let host = Host::new();
    host.raw("a.raw", 4 << 20);
    let disk = host.serve(&host.image("aio", "a.raw"));
    disk.tap_ctl("pause");
    let mut client = host.tool("qemu-io");
    let client = client.args(["-f", "raw"]).arg(disk.uri()).args(["-c", "write -P 5 0 1M", "-c", "read -P 5 0 1M"]);
    let mut client = client.stdout(std::process::Stdio::null()).spawn().unwrap();
    // Whether it had asked before the disk went on does not matter to what must hold.
    std::thread::sleep(std::time::Duration::from_millis(200));
    assert!(client.try_wait().unwrap().is_none(), "answered by a paused disk");
    disk.tap_ctl("unpause");
    assert!(client.wait().unwrap().success());
    disk.io(&["read -P 5 0 1M"]);
    disk.close();
}
