//! `oxtap hosted` and `oxtap guest`: a host without Xen, set up by hand, and a guest on it.

use std::{
    io::{BufRead, BufReader, Read},
    path::PathBuf,
    process::{Child, ChildStdout, Stdio},
    time::{Duration, Instant},
};

use export::nbd::client::Client;
use guest::hostile::{HostileMode, HostileNodes};
use rustix::process::Signal;
use serde_json::Value;
use storage_io::{EngineChoice, Executor};
use test_support::{ProcessGuard, RunDirectory};
use xen::store::{Address, Store};

use crate::tapdisk::{json, oxtap, refused, run};

/// How long it may take to end. A hang limit.
const END_MAX: Duration = Duration::from_secs(60);

/// Blocks of a disk.
const BLOCKS: u64 = 512;
/// Where the guest shows its state.
const STATE: &str = "/local/domain/1/device/vbd/51712/state";
/// What a process may grow by that has been at work for a while: the allocator keeps some of what it was given.
const GROWTH_BYTES_MAX: u64 = 16 << 20;

/// A running `oxtap hosted run`.
struct HostedHost<'a> {
    place: &'a RunDirectory,
    child: Child,
    guard: ProcessGuard,
    stdout: BufReader<ChildStdout>,
    directory: PathBuf,
}

impl HostedHost<'_> {
    fn start(place: &RunDirectory) -> HostedHost<'_> {
        HostedHost::with_log(place, std::fs::File::create(place.scratch().join("host.log")).unwrap())
    }

    fn with_log(place: &RunDirectory, log: impl Into<Stdio>) -> HostedHost<'_> {
        let directory = place.scratch().join("host");
        let mut command = place.program("oxtap");
        command.args(["hosted", "run"]).arg(&directory).stdout(Stdio::piped()).stderr(log);
        let mut child = command.spawn().unwrap();
        let guard = ProcessGuard::new(child.id()).unwrap();
        let mut stdout = BufReader::new(child.stdout.take().unwrap());
        let mut said = String::new();
        while !said.contains("xenstore-ls") {
            assert!(stdout.read_line(&mut said).unwrap() > 0, "it ended: {said}");
        }
        HostedHost { place, child, guard, stdout, directory }
    }

    fn words<'w>(&'w self, words: &[&'w str]) -> Vec<&'w str> {
        words.iter().map(|word| if *word == "HOST" { self.directory.to_str().unwrap() } else { word }).collect()
    }

    /// Runs `oxtap` where it must succeed; HOST is the directory.
    fn oxtap(&self, words: &[&str]) -> String {
        oxtap(self.place, &self.words(words))
    }

    fn json(&self, words: &[&str]) -> Value {
        json(self.place, &self.words(words))
    }

    /// Domain 1 gets a disk of so many blocks of 4 KiB.
    fn with_disk(&self, blocks: u64) -> Value {
        let image = self.place.scratch().join("disk.raw");
        std::fs::File::create(&image).unwrap().set_len(blocks << 12).unwrap();
        self.json(&["hosted", "add-disk", "HOST", "1", "xvda", &format!("aio:{}", image.display())])
    }

    /// A guest that works on its disk until somebody ends it.
    fn guest_at_work(&self) -> (Child, ProcessGuard) {
        let mut command = self.place.program("oxtap");
        let words = self.words(&["guest", "HOST", "1", "xvda", "--requests", "1000000000"]);
        let child = command.args(words).stdout(Stdio::null()).stderr(Stdio::piped()).spawn().unwrap();
        let guard = ProcessGuard::new(child.id()).unwrap();
        while self.node(STATE).as_deref() != Some("4") {
            std::thread::sleep(Duration::from_millis(5));
        }
        (child, guard)
    }

    /// What XenStore holds.
    fn node(&self, path: &str) -> Option<String> {
        let executor = Executor::new(EngineChoice::Inline).unwrap();
        let store = Store::connect(&executor, Address::Socket(self.directory.join("socket"))).unwrap();
        let value = executor.block_on(store.read(&path.parse().unwrap())).unwrap();
        value.map(|value| String::from_utf8(value).unwrap())
    }

    fn write_node(&self, path: &str, value: &str) {
        let executor = Executor::new(EngineChoice::Inline).unwrap();
        let store = Store::connect(&executor, Address::Socket(self.directory.join("socket"))).unwrap();
        executor.block_on(store.write(&path.parse().unwrap(), value.as_bytes())).unwrap();
    }

    fn end(mut self) {
        self.guard.signal(Signal::INT).unwrap();
        assert!(self.guard.wait_for_end(END_MAX).unwrap(), "it does not end");
        let mut rest = String::new();
        self.stdout.read_to_string(&mut rest).unwrap();
        assert!(self.child.wait().unwrap().success(), "{rest}");
        assert!(!self.directory.join("socket").exists() && !self.directory.join("xen").exists());
    }
}

#[test]
fn a_disk_is_given_used_by_many_kernels_and_taken_away() {
    let place = RunDirectory::new();
    let host = HostedHost::start(&place);
    let added = host.with_disk(BLOCKS);
    assert_eq!((&added["domain"], &added["device"], &added["name"]), (&1.into(), &51712.into(), &"xvda".into()));
    let options = ["--cycles", "4", "--requests", "200", "--queues", "2", "--ring-order", "1", "--handover", "mixed"];
    let told = host.json(&[&["guest", "HOST", "1", "xvda"], options.as_slice()].concat());
    assert_eq!((&told["kernels"], &told["crashes"]), (&4.into(), &1.into()), "{told}");
    assert_eq!((&told["sectors"], &told["queues"]), (&(BLOCKS * 8).into(), &2.into()), "{told}");
    assert!(told["blocks_checked"].as_u64().unwrap() >= 4 * BLOCKS, "{told}");
    for lost in ["stray_pages", "kept_ring_pages", "pages_granted_at_the_end", "pages_used_at_the_end"] {
        assert_eq!(told[lost], 0, "{lost}");
    }
    host.oxtap(&["hosted", "remove-disk", "HOST", "1", "xvda"]);
    assert_eq!(host.json(&["ls"]), Value::Array(Vec::new()), "its tapdisk has gone");
    let (status, said) = refused(&place, &host.words(&["guest", "HOST", "1", "xvda"]));
    assert!(status == 2 && said.contains("no such device"), "{said}");
    host.end();
}

#[test]
fn another_process_checks_what_the_first_has_written() {
    let place = RunDirectory::new();
    let host = HostedHost::start(&place);
    host.with_disk(BLOCKS);
    host.oxtap(&["guest", "HOST", "1", "xvda", "--requests", "300", "--seed", "5"]);
    let read_only = ["guest", "HOST", "1", "xvda", "--requests", "10", "--read-only", "--seed", "5"];
    assert_eq!(host.json(&read_only)["writes"], 0);
    // Half of a stamped block is something else.
    let image = std::fs::OpenOptions::new().write(true).open(place.scratch().join("disk.raw")).unwrap();
    for block in 0..BLOCKS {
        std::os::unix::fs::FileExt::write_all_at(&image, b"x", block * 4096 + 4000).unwrap();
    }
    let (_, said) = refused(&place, &host.words(&read_only));
    assert!(said.contains("was written, and there is"), "{said}");
    host.end();
}

#[test]
fn a_process_takes_over_from_one_that_was_killed() {
    let place = RunDirectory::new();
    let host = HostedHost::start(&place);
    host.with_disk(BLOCKS);
    for left in ["4", "5", "6"] {
        let (mut child, guard) = host.guest_at_work();
        guard.signal(Signal::KILL).unwrap();
        child.wait().unwrap();
        if left != "4" {
            host.write_node(STATE, left);
        }
        let told = host.json(&["guest", "HOST", "1", "xvda", "--requests", "50"]);
        assert_eq!(told["kernels"], 1, "from {left}");
        assert_eq!(host.node(STATE).as_deref(), Some("1"), "at its start again");
    }
    host.end();
}

#[test]
fn a_disk_in_use_is_taken_away_only_by_force() {
    let place = RunDirectory::new();
    let host = HostedHost::start(&place);
    host.with_disk(BLOCKS);
    let (mut child, _guard) = host.guest_at_work();
    let remove = ["hosted", "remove-disk", "HOST", "1", "xvda"];
    let (status, said) = refused(&place, &host.words(&[remove.as_slice(), &["--patience", "0.5"]].concat()));
    assert!(status == 16 && said.contains("still in use"), "{status}: {said}");
    let told = host.node("/local/domain/1/error/device/vbd/51712/error");
    assert_eq!(told.as_deref(), Some("16 Device in use; refusing to close"));
    host.oxtap(&[remove.as_slice(), &["--force"]].concat());
    assert!(!child.wait().unwrap().success(), "its disk has gone");
    assert_eq!((host.node(STATE), host.json(&["ls"])), (None, Value::Array(Vec::new())));
    host.end();
}

#[test]
fn a_guest_that_means_harm_harms_nobody() {
    let place = RunDirectory::new();
    let host = HostedHost::start(&place);
    host.with_disk(BLOCKS);
    let rings = HostileMode::ALL.into_iter().map(|(_, name)| name);
    let modes: Vec<&str> = rings.chain(HostileNodes::ALL.into_iter().map(|(_, name)| name)).collect();
    assert_eq!(modes.len(), 17);
    for mode in modes {
        host.oxtap(&["guest", "HOST", "1", "xvda", "--hostile", mode, "--requests", "5"]);
    }
    host.oxtap(&["guest", "HOST", "1", "xvda", "--requests", "50"]);
    host.end();
}

#[test]
fn guests_do_not_wait_for_whoever_reads_the_log() {
    let place = RunDirectory::new();
    let (log, end) = std::io::pipe().unwrap();
    // The least that there is: it is full when a few kernels have come and gone.
    rustix::pipe::fcntl_setpipe_size(&end, 4096).unwrap();
    let host = HostedHost::with_log(&place, end);
    host.with_disk(64);
    let mut command = place.program("oxtap");
    command.args(host.words(&["guest", "HOST", "1", "xvda", "--requests", "1", "--cycles", "150"]));
    let mut kernels = command.stdout(Stdio::null()).spawn().unwrap();
    let guard = ProcessGuard::new(kernels.id()).unwrap();
    assert!(guard.wait_for_end(END_MAX).unwrap() && kernels.wait().unwrap().success(), "the guest is not served");
    // Somebody reads again: what was kept is there, and what was not is counted.
    let mut said = BufReader::new(log).lines().map(Result::unwrap);
    assert!(said.next().unwrap().ends_with(": offered"));
    assert!(said.any(|line| line.contains(" lines were left out here")));
    host.end();
}

#[test]
fn who_asks_for_nonsense_is_told_so() {
    let place = RunDirectory::new();
    let host = HostedHost::start(&place);
    let refused = |words: &[&str]| refused(&place, &host.words(words)).1;
    assert!(refused(&["guest", "HOST", "9", "xvda"]).contains("no domain 9"));
    assert!(refused(&["hosted", "add-disk", "HOST", "1", "disk", "aio:/x"]).contains("not the name of a disk"));
    assert!(refused(&["hosted", "add-disk", "HOST", "1", "xvda", "aio:/not/there"]).contains("/not/there"));
    assert!(
        refused(&["hosted", "remove-disk", "HOST", "1", "xvda"]).contains("has no disk xvda"),
        "nothing is left of it"
    );
    assert!(refused(&["hosted", "remove-domain", "HOST", "9"]).contains("no domain 9"));
    assert!(!run(&place, &host.words(&["guest", "HOST", "1", "xvda", "--hostile", "friendly"])).status.success());
    host.oxtap(&["hosted", "remove-domain", "HOST", "1"]);
    assert!(!host.directory.join("socket.1").exists());
    host.end();
}

/// Open descriptors, and bytes in memory.
fn held_by(pid: u64) -> (usize, u64) {
    let descriptors = std::fs::read_dir(format!("/proc/{pid}/fd")).unwrap().count();
    let pages = std::fs::read_to_string(format!("/proc/{pid}/statm")).unwrap();
    let resident: u64 = pages.split(' ').nth(1).unwrap().parse().unwrap();
    (descriptors, resident * 4096)
}

/// The same, when the guest that has just ended is forgotten: its connections, rings, ports and watches.
fn at_rest(pid: u64) -> (usize, u64) {
    let mut held = held_by(pid);
    for _ in 0..20 {
        std::thread::sleep(Duration::from_millis(10));
        held = held.min(held_by(pid));
    }
    held
}

/// Waits until a process has no more descriptors than that; bytes in memory then.
fn until_it_holds(pid: u64, descriptors: usize) -> u64 {
    let deadline = Instant::now() + END_MAX;
    loop {
        match held_by(pid) {
            (held, bytes) if held <= descriptors => return bytes,
            (held, _) => assert!(Instant::now() < deadline, "{pid} has {held} descriptors, not {descriptors}"),
        }
        std::thread::sleep(Duration::from_millis(10));
    }
}

#[test]
fn a_hundred_kernels_under_load_leave_nothing_behind() {
    let place = RunDirectory::new();
    let host = HostedHost::start(&place);
    let tapdisk = host.with_disk(64)["pid"].as_u64().unwrap();
    let kernels = |count: u64, handover: &str| {
        let options = ["--requests", "30", "--queues", "2", "--handover", handover, "--cycles", &count.to_string()];
        host.json(&[&["guest", "HOST", "1", "xvda"], options.as_slice()].concat())
    };
    for handover in ["shutdown", "crash"] {
        kernels(5, handover);
        let processes = [u64::from(host.child.id()), tapdisk];
        let before = processes.map(at_rest);
        let told = kernels(test_support::cycles(100, 1000), handover);
        for (pid, (descriptors, bytes)) in processes.into_iter().zip(before) {
            let after = until_it_holds(pid, descriptors);
            assert!(after < bytes + GROWTH_BYTES_MAX, "{pid} grew from {bytes} to {after} bytes, {handover}");
        }
        assert_eq!(told["descriptors_at_the_end"], told["descriptors_of_the_first"], "{told}");
        for lost in ["stray_pages", "kept_ring_pages", "pages_granted_at_the_end", "pages_used_at_the_end"] {
            assert_eq!(told[lost], 0, "{lost}, {handover}");
        }
    }
    host.end();
}

/// A client of the first disk of this host.
fn client(host: &HostedHost<'_>) -> Client {
    let socket = host.json(&["ls"])[0]["nbd_socket"].as_str().unwrap().to_owned();
    Client::connect_unix(socket.as_ref(), "").unwrap()
}

const LAST_BLOCK: u64 = (BLOCKS - 1) << 12;

#[test]
fn a_disk_of_a_device_goes_with_it_and_a_client_beside_it_loses_nothing_that_was_answered() {
    let place = RunDirectory::new();
    let host = HostedHost::start(&place);
    host.with_disk(BLOCKS);
    let mut client = client(&host);
    client.write(0, &[6; 4096]).unwrap();
    // Guests come and go beside it.
    host.oxtap(&["guest", "HOST", "1", "xvda", "--requests", "50", "--cycles", "2"]);
    client.write(LAST_BLOCK, &[7; 4096]).unwrap();
    host.oxtap(&["hosted", "remove-disk", "HOST", "1", "xvda"]);
    // It is the device's disk, whoever else has come: a client is no owner.
    assert!(client.read(0, &mut [0; 512]).is_err());
    assert_eq!(host.json(&["ls"]), Value::Array(Vec::new()));
    let image = std::fs::read(place.scratch().join("disk.raw")).unwrap();
    assert!(image[usize::try_from(LAST_BLOCK).unwrap()..].iter().all(|byte| *byte == 7));
    host.end();
}
