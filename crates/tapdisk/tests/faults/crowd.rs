//! Two hundred disks of one host come, work and go at once, and leave nothing: as many processes, and in one.

use std::{fs, path::PathBuf, thread};

use control_api::{Minor, OpenRequest};
use export::nbd::client::Client;
use test_support::cycles;

use crate::host::{Host, aio, eventually, minor, names};

const DISKS: usize = 200;
const DISK_BYTES: u64 = 4 << 20;

/// How much more memory the later rounds may leave than the earlier ones. In a usual run 400 disks are opened between the
/// two, in a long one 1800: what is found is a loss of 10 KiB each time, or of 2.3. What is lost less often than with every
/// disk, or is smaller, is not.
const GROWTH_KIB_MAX: u64 = 4 << 10;

/// Does something for each disk, for all of them at the same time.
fn at_once<T: Send>(work: impl Fn(usize) -> T + Sync) -> Vec<T> {
    thread::scope(|scope| {
        let work = &work;
        let threads: Vec<_> = (0..DISKS).map(|number| scope.spawn(move || work(number))).collect();
        threads.into_iter().map(|thread| thread.join().unwrap()).collect()
    })
}

/// An image for each disk: raw ones, and every second a VHD.
fn images(host: &Host) -> Vec<String> {
    let scratch = host.place.scratch();
    let made =
        host.place.program("vhd-util").args(["create", "-n", "model.vhd", "-s", "4"]).current_dir(scratch).status();
    assert!(made.unwrap().success());
    let image = |number: usize| match number % 2 {
        0 => aio(&host.raw_image(&format!("{number}.img"), DISK_BYTES)),
        _ => {
            let path = scratch.join(format!("{number}.vhd"));
            fs::copy(scratch.join("model.vhd"), &path).unwrap();
            format!("vhd:{}", path.display())
        }
    };
    (0..DISKS).map(image).collect()
}

/// Writes and reads what only this disk holds.
fn load(host: &Host, pid: u32, minor: Minor, number: usize) {
    let mut client = Client::connect_unix(&host.run.nbd_socket(pid, minor), "").unwrap();
    let bytes: Vec<u8> = (0..65536).map(|at: usize| ((at / 512 + number) % 251).try_into().unwrap()).collect();
    for place in [0, 1 << 20, (3 << 20) + 4096] {
        client.write(place, &bytes).unwrap();
    }
    client.flush().unwrap();
    for place in [0, 1 << 20, (3 << 20) + 4096] {
        let mut read = vec![0; bytes.len()];
        client.read(place, &mut read).unwrap();
        assert!(read == bytes, "disk {number} at {place:#x}");
    }
    client.disconnect().unwrap();
}

/// A line of a process's status, in KiB.
fn kibibytes(pid: u32, field: &str) -> u64 {
    let status = fs::read_to_string(format!("/proc/{pid}/smaps_rollup")).unwrap();
    let line = status.lines().find_map(|line| line.strip_prefix(field)).unwrap();
    line.trim().trim_end_matches(" kB").parse().unwrap()
}

fn entries(pid: u32, directory: &str) -> usize {
    fs::read_dir(PathBuf::from(format!("/proc/{pid}")).join(directory)).unwrap().count()
}

#[test]
fn two_hundred_processes_come_and_go_at_once() {
    let host = Host::new();
    let images = images(&host);
    for round in 0..cycles(1, 20) {
        let minors = at_once(|number| {
            let created = host.ok(&["create", "-a", &images[number]]);
            minor(created.trim().rsplit_once("tapdisk-").unwrap().1)
        });
        let pids = at_once(|number| {
            let line = host.ok(&["list", "-m", &minors[number].to_string()]);
            assert!(line.contains(" state=0 ") && line.contains(&images[number]), "{line}");
            line.strip_prefix("pid=").unwrap().split(' ').next().unwrap().parse::<u32>().unwrap()
        });
        if round == 0 {
            let (resident, own) = (kibibytes(pids[0], "Rss:"), kibibytes(pids[0], "Pss:"));
            println!("memory of an idle tapdisk with one disk: {resident} KiB resident, {own} KiB its own share");
        }
        at_once(|number| load(&host, pids[number], minors[number], number));
        at_once(|number| {
            host.ok(&["destroy", "-p", &pids[number].to_string(), "-m", &minors[number].to_string()]);
        });
        assert_eq!(host.ok(&["list"]), "");
        host.place.assert_nothing_left();
    }
    assert_eq!(names(host.run.path()), ["tapdisk"]);
}

/// One round of all disks in one process; what is measured while all are open and idle.
fn round(host: &Host, pid: u32, images: &[String]) -> u64 {
    let client = host.client(pid);
    let minors = at_once(|number| {
        let minor = host.run.allocate_minor().unwrap();
        client.attach(minor).unwrap();
        client.open(minor, &OpenRequest::new(images[number].clone()).unwrap()).unwrap();
        minor
    });
    assert_eq!(client.list().unwrap().len(), 1 + DISKS);
    let idle = kibibytes(pid, "Rss:");
    at_once(|number| load(host, pid, minors[number], number));
    at_once(|number| {
        client.close(minors[number]).unwrap();
        client.detach(minors[number]).unwrap();
        host.run.free_minor(minors[number]).unwrap();
    });
    idle
}

#[test]
fn two_hundred_disks_of_one_process_come_and_go_at_once() {
    let host = Host::new();
    let images = images(&host);
    // One that stays keeps the process.
    let (pid, _) = host.attached(1);
    let (threads, empty) = (entries(pid, "task"), kibibytes(pid, "Rss:"));
    let idle = round(&host, pid, &images);
    println!("memory of an idle disk in a process of many: {} KiB resident", (idle - empty) / DISKS as u64);

    eventually("all threads have ended", || entries(pid, "task") <= threads);
    let descriptors = entries(pid, "fd");
    // The first round is not counted: what it leaves is room that the allocator keeps for those to come.
    let mut resident = Vec::new();
    for _ in 1..cycles(5, 20) {
        round(&host, pid, &images);
        eventually("threads do not grow", || entries(pid, "task") <= threads);
        eventually("descriptors do not grow", || entries(pid, "fd") <= descriptors);
        resident.push(kibibytes(pid, "Rss:"));
    }
    // What the allocator keeps goes up and down; what is lost goes up only.
    let (before, after) = resident.split_at(resident.len() / 2);
    let grown = after.iter().min().unwrap().saturating_sub(*before.iter().min().unwrap());
    assert!(grown <= GROWTH_KIB_MAX, "resident after each round, in KiB: {resident:?}");
}
