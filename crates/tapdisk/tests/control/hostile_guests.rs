//! Guests that mean harm, on a tapdisk that serves others too: each mode of theirs on threads of its own, beside a client of
//! another disk of the same process that writes, reads, and finds what it has written.

use std::{
    fs,
    sync::{
        Arc,
        atomic::{AtomicBool, AtomicU64, Ordering},
    },
    thread,
};

use control_api::native::{ConnectRing, RingDisconnected, RingQueue};
use export::nbd::client::Client as NbdClient;
use guest::hostile::{HostileFront, HostileMode, HostileOptions};
use wire::blkif::Abi;
use xen::DomainId;

use crate::{
    host::{aio, eventually, minor},
    hosted::{DEVICE, DISK_BYTES, Hosted},
};

/// Memory that a tapdisk may have more after many hostile guests than after the first of each kind.
const GROWTH_MAX: usize = 16 << 20;

/// A client of another disk of the same tapdisk, under load until it is dropped.
struct Neighbour {
    rounds: Arc<AtomicU64>,
    is_ending: Arc<AtomicBool>,
    thread: Option<thread::JoinHandle<()>>,
}

impl Neighbour {
    fn new(hosted: &Hosted) -> Neighbour {
        let number = hosted.host.attach(hosted.pid);
        let image = aio(&hosted.host.raw_image("neighbour", DISK_BYTES));
        hosted.host.ok(&["open", "-p", &hosted.pid.to_string(), "-m", &number, "-a", &image]);
        let socket = hosted.host.run.nbd_socket(hosted.pid, minor(&number));
        let (rounds, is_ending) = (Arc::<AtomicU64>::default(), Arc::<AtomicBool>::default());
        let (counted, ended) = (rounds.clone(), is_ending.clone());
        let thread = thread::spawn(move || {
            let mut client = NbdClient::connect_unix(&socket, "").unwrap();
            while !ended.load(Ordering::Relaxed) {
                let round = counted.load(Ordering::Relaxed);
                let bytes: Vec<u8> = round.to_le_bytes().repeat(1024);
                let at = round * 8192 % (DISK_BYTES - 8192);
                client.write(at, &bytes).unwrap();
                let mut found = vec![0; bytes.len()];
                client.read(at, &mut found).unwrap();
                assert!(found == bytes, "round {round}: other bytes at {at}");
                counted.store(round + 1, Ordering::Relaxed);
            }
        });
        Neighbour { rounds, is_ending, thread: Some(thread) }
    }

    fn rounds(&self) -> u64 {
        self.rounds.load(Ordering::Relaxed)
    }

    fn end(mut self) {
        self.is_ending.store(true, Ordering::Relaxed);
        self.thread.take().unwrap().join().unwrap();
    }
}

fn memory(pid: u32) -> usize {
    let status = fs::read_to_string(format!("/proc/{pid}/status")).unwrap();
    let line = status.lines().find_map(|line| line.strip_prefix("RssAnon:")).unwrap();
    line.trim().strip_suffix(" kB").unwrap().parse::<usize>().unwrap() << 10
}

/// Whether the guest's ring is one that is not looked at any more.
fn is_broken(hosted: &Hosted) -> bool {
    let disks = hosted.native().list().unwrap();
    let disk = disks.into_iter().find(|disk| disk.minor == hosted.number()).unwrap();
    disk.rings[0].broken.is_some()
}

/// One guest in this mode, from its connection to its end.
fn does_harm(hosted: &Hosted, mode: HostileMode, abi: Abi, persistent: bool) -> RingDisconnected {
    let options =
        HostileOptions { backend: DomainId(0), abi, order: 1, sectors: DISK_BYTES / 512, seed: test_support::seed() };
    let mut hostile = HostileFront::new(&hosted.executor, &hosted.guest, options).unwrap();
    let pages = hostile.ring_grants().iter().map(|grant| grant.0).collect();
    let queues = vec![RingQueue { pages, port: hostile.port().0 }];
    hosted.connect(ConnectRing { queues, persistent, ..hosted.asking(DEVICE, &[], abi) }).unwrap();
    hosted.executor.block_on(hostile.act(mode, 10)).unwrap();
    if mode.breaks_the_ring() {
        eventually("the ring is found out", || is_broken(hosted));
        let before = hostile.answered();
        (0..20).for_each(|_| hostile.go_on_regardless());
        assert!(is_broken(hosted));
        assert_eq!(hostile.answered(), before, "{mode:?}: a broken ring is looked at again");
    }
    assert!(hostile.report().complaints.is_empty(), "{mode:?}: {:?}", hostile.report());
    // Pages that stay mapped are the backend's until it gives them back.
    assert!(persistent || hostile.report().stray_pages == 0, "{mode:?}: {:?}", hostile.report());
    let ended = hosted.disconnect(DEVICE, None);
    if !hostile.has_overwritten_its_ring() {
        assert_eq!(ended.broken.is_some(), mode.breaks_the_ring(), "{mode:?}: {ended:?}");
    }
    assert_eq!(hostile.release().unwrap(), 0, "{mode:?}");
    ended
}

#[test]
fn guests_that_mean_harm_hurt_nobody_else_and_leave_nothing() {
    let hosted = Hosted::new();
    let neighbour = Neighbour::new(&hosted);
    let mut memory_before = 0;
    for pass in 0..test_support::cycles(2, 30) {
        for (mode, name) in HostileMode::ALL {
            let abi = if pass % 2 == 0 { Abi::X86_64 } else { Abi::X86_32 };
            let (persistent, rounds_before) = (pass % 2 == 1, neighbour.rounds());
            let ended = does_harm(&hosted, mode, abi, persistent);
            assert_eq!((ended.pages.mapped, ended.pages.leaked, ended.pages.granted), (0, 0, 0), "{name}");
            assert_eq!(hosted.used(), 0, "{name}");
            // Whatever it was, the other client goes on meanwhile.
            eventually("the neighbour goes on", || neighbour.rounds() > rounds_before);
        }
        if pass == 0 {
            memory_before = memory(hosted.pid);
        }
    }
    let grown = memory(hosted.pid).saturating_sub(memory_before);
    assert!(grown < GROWTH_MAX, "{} KiB stay behind", grown >> 10);
    println!("{} rounds of the neighbour; {} KiB stay behind", neighbour.rounds(), grown >> 10);
    neighbour.end();
    let front = hosted.front(guest::FrontOptions::default());
    hosted.connect(hosted.asking(DEVICE, &[&front], Abi::X86_64)).unwrap();
    hosted.executor.block_on(front.write(0, &[1; 512])).unwrap();
    assert_eq!(hosted.executor.block_on(front.read(0, 1)).unwrap(), [1; 512], "the disk is as good as before");
}
