//! The platform without Xen: guests, backends, and those of them that are killed.

#![allow(clippy::unwrap_used, reason = "a test that cannot go on fails")]

use std::{
    io::{BufRead, BufReader, Write},
    path::Path,
    process::{Command, Stdio},
    sync::{Arc, atomic::Ordering},
    thread,
};

use block_core::ErrorKind;
use storage_io::{EngineChoice, Executor, Sender, mailbox};
use xen::{
    Access, CopyStatus, DomainId, EventChannels, GrantCopy, GrantRef, Grants, Kernel, Local, PAGE_BYTES,
    hosted::{Broker, BrokerLimits, EndAccess, Guest, HostedChannels, HostedGrants, SOCKET_NAME},
};

const GUEST: DomainId = DomainId(5);
const HOST: DomainId = DomainId(0);

/// What the thread of a broker is told.
enum Order {
    Destroy(DomainId),
    Create(DomainId, Sender<()>),
    End,
}

/// A broker on a thread of its own, with one domain.
struct World {
    directory: tempfile::TempDir,
    orders: Sender<Order>,
    thread: Option<thread::JoinHandle<()>>,
}

impl World {
    fn new() -> World {
        World::with_limits(BrokerLimits::default())
    }

    fn with_limits(limits: BrokerLimits) -> World {
        let directory = tempfile::tempdir().unwrap();
        let (orders, mut received) = mailbox();
        let (up, mut is_up) = mailbox();
        let path = directory.path().to_owned();
        let thread = thread::spawn(move || {
            let executor = Executor::new(EngineChoice::Inline).unwrap();
            let broker = Broker::start(&executor, &path, limits).unwrap();
            broker.create_domain(GUEST, 1024).unwrap();
            up.send(()).unwrap();
            executor.block_on(async {
                loop {
                    match received.recv().await {
                        Some(Order::Destroy(domain)) => broker.destroy_domain(domain),
                        Some(Order::Create(domain, done)) => {
                            broker.create_domain(domain, 16).unwrap();
                            done.send(()).unwrap();
                        }
                        _ => return,
                    }
                }
            });
        });
        Executor::new(EngineChoice::Inline).unwrap().block_on(is_up.recv()).unwrap();
        World { directory, orders, thread: Some(thread) }
    }

    fn path(&self) -> &Path {
        self.directory.path()
    }

    fn guest(&self) -> Guest {
        Guest::boot(self.path(), GUEST).unwrap()
    }

    fn grants(&self) -> HostedGrants {
        HostedGrants::connect(self.path(), HOST).unwrap()
    }
}

impl Drop for World {
    fn drop(&mut self) {
        let _ = self.orders.send(Order::End);
        self.thread.take().unwrap().join().unwrap();
    }
}

/// A page of the guest that begins with these bytes, granted.
fn granted(guest: &Guest, bytes: &[u8], to: DomainId, access: Access) -> (u32, GrantRef) {
    let page = guest.allocate_page().unwrap();
    guest.memory().copy_in(page as usize * PAGE_BYTES, bytes);
    (page, guest.grant(page, to, access).unwrap())
}

fn read(grants: &dyn Grants, grant: GrantRef, length: usize) -> Result<Vec<u8>, CopyStatus> {
    let mut bytes = vec![0; length];
    let mut batch = [GrantCopy::new(GUEST, grant, 0, Local::To(&mut bytes))];
    grants.copy(&mut batch).unwrap();
    match batch[0].status {
        CopyStatus::Okay => Ok(bytes),
        status => Err(status),
    }
}

fn write(grants: &dyn Grants, grant: GrantRef, offset: u16, bytes: &[u8]) -> CopyStatus {
    let mut batch = [GrantCopy::new(GUEST, grant, offset, Local::From(bytes))];
    grants.copy(&mut batch).unwrap();
    batch[0].status
}

#[test]
fn bytes_are_copied_both_ways() {
    let world = World::new();
    let (guest, grants) = (world.guest(), world.grants());
    let (page, grant) = granted(&guest, b"from the guest", HOST, Access::Write);
    assert_eq!(read(&grants, grant, 14).unwrap(), b"from the guest");
    assert_eq!(write(&grants, grant, 4090, b"to it."), CopyStatus::Okay);
    let mut bytes = [0; 6];
    guest.memory().copy_out(page as usize * PAGE_BYTES + 4090, &mut bytes);
    assert_eq!(&bytes, b"to it.");
    assert_eq!(guest.end_access(grant).unwrap(), EndAccess::Ended);
}

#[test]
fn each_copy_of_a_batch_has_its_own_status() {
    let world = World::new();
    let (guest, grants) = (world.guest(), world.grants());
    let (_, good) = granted(&guest, b"good", HOST, Access::Write);
    let (_, read_only) = granted(&guest, b"read", HOST, Access::Read);
    let (_, others) = granted(&guest, b"others", DomainId(7), Access::Write);
    let (_, gone) = granted(&guest, b"gone", HOST, Access::Write);
    guest.put_entry(gone, 0, 0);
    let (_, outside) = granted(&guest, b"x", HOST, Access::Write);
    guest.put_entry(outside, 1024, 1);
    let copy = |domain, grant, offset| GrantCopy::new(domain, grant, offset, Local::From(b"1234"));
    let mut batch = [
        copy(GUEST, good, 0),
        copy(GUEST, read_only, 0),
        copy(GUEST, others, 0),
        copy(GUEST, gone, 0),
        copy(GUEST, GrantRef(u32::MAX), 0),
        copy(GUEST, outside, 0),
        copy(GUEST, good, 4093),
        copy(DomainId(9), good, 0),
        copy(GUEST, good, 4092),
    ];
    grants.copy(&mut batch).unwrap();
    use CopyStatus::*;
    let expected = [Okay, BadGrant, BadGrant, BadGrant, BadGrant, BadPage, Failed, BadDomain, Okay];
    assert_eq!(batch.map(|copy| copy.status), expected);
    assert_eq!(read(&grants, read_only, 4).unwrap(), b"read", "reading is permitted");
    assert_eq!(guest.account().unwrap().used, 0, "nothing stays pinned");
}

#[test]
fn a_ring_is_mapped_whole_or_not_at_all() {
    let world = World::new();
    let (guest, grants) = (world.guest(), world.grants());
    let ring: Vec<_> = (0..4).map(|index| granted(&guest, &[index; 4], HOST, Access::Write)).collect();
    let mut refs: Vec<GrantRef> = ring.iter().map(|(_, grant)| *grant).rev().collect();
    let mapping = grants.map(GUEST, &refs, Access::Write).unwrap();
    assert_eq!(mapping.length(), 4 * PAGE_BYTES);
    let words = [0, 1, 2, 3].map(|index| mapping.word(index * PAGE_BYTES).load(Ordering::Relaxed));
    assert_eq!(words, [0x0303_0303, 0x0202_0202, 0x0101_0101, 0]);
    mapping.word(8).store(77, Ordering::Relaxed);
    assert_eq!(guest.memory().word(ring[3].0 as usize * PAGE_BYTES + 8).load(Ordering::Relaxed), 77);
    assert_eq!(guest.account().unwrap().used, 4);
    refs[2] = GrantRef(20_000);
    assert_eq!(grants.map(GUEST, &refs, Access::Write).unwrap_err().kind(), ErrorKind::Invalid);
    assert_eq!(guest.account().unwrap().used, 4, "the failed one has pinned nothing");
    drop(mapping);
    assert_eq!(guest.account().unwrap().used, 0);
}

#[test]
fn a_mapping_that_outlives_its_maker_is_counted_once() {
    let world = World::with_limits(BrokerLimits { mapped_pages: 1, copies: 1 });
    let guest = world.guest();
    let (_, grant) = granted(&guest, b"ring", HOST, Access::Write);
    for _ in 0..3 {
        let maker = world.grants();
        let mapping = maker.map(GUEST, &[grant], Access::Write).unwrap();
        drop(maker);
        assert_eq!(guest.account().unwrap().used, 1, "the page is mapped");
        drop(mapping);
        assert_eq!(guest.account().unwrap().used, 0);
    }
}

#[test]
fn a_page_in_use_is_not_given_back() {
    let world = World::new();
    let (guest, grants) = (world.guest(), world.grants());
    let (_, grant) = granted(&guest, b"ring", HOST, Access::Write);
    let mapping = grants.map(GUEST, &[grant], Access::Write).unwrap();
    assert_eq!(guest.end_access(grant).unwrap(), EndAccess::InUse);
    assert_eq!(read(&grants, grant, 4), Err(CopyStatus::BadGrant), "nobody else gets it");
    mapping.word(0).store(1, Ordering::Relaxed);
    drop(mapping);
    assert_eq!(guest.end_access(grant).unwrap(), EndAccess::Ended);
}

#[test]
fn pages_outlive_their_domain_until_they_are_unmapped() {
    let world = World::new();
    let (guest, grants) = (world.guest(), world.grants());
    let (page, grant) = granted(&guest, b"ring", HOST, Access::Write);
    let mapping = grants.map(GUEST, &[grant], Access::Write).unwrap();
    world.orders.send(Order::Destroy(GUEST)).map_err(|_| ()).unwrap();
    let executor = Executor::new(EngineChoice::Inline).unwrap();
    let (done, mut is_done) = mailbox();
    world.orders.send(Order::Create(GUEST, done)).map_err(|_| ()).unwrap();
    executor.block_on(is_done.recv());
    mapping.word(0).store(5, Ordering::Relaxed);
    assert_eq!(guest.memory().word(page as usize * PAGE_BYTES).load(Ordering::Relaxed), 5);
    assert_eq!(read(&grants, grant, 4), Err(CopyStatus::BadGrant), "the new domain of this number grants nothing");
    let again = Guest::boot(world.path(), GUEST).unwrap();
    let (_, grant) = granted(&again, b"again", HOST, Access::Read);
    assert_eq!(read(&grants, grant, 5).unwrap(), b"again");
}

#[test]
fn no_more_is_mapped_or_copied_at_once_than_the_host_has_room_for() {
    let world = World::with_limits(BrokerLimits { mapped_pages: 3, copies: 2 });
    let (guest, first, second) = (world.guest(), world.grants(), world.grants());
    let refs: Vec<_> = (0..4).map(|_| granted(&guest, b"", HOST, Access::Write).1).collect();
    let mapped = first.map(GUEST, &refs[..2], Access::Write).unwrap();
    let refused = second.map(GUEST, &refs[..2], Access::Write).unwrap_err();
    assert_eq!(refused.os_error(), Some(12), "{refused}");
    let other = second.map(GUEST, &refs[2..3], Access::Write).unwrap();
    drop(mapped);
    let again = second.map(GUEST, &refs[..2], Access::Write).unwrap();
    drop((other, again));
    let mut batch: Vec<_> = refs.iter().map(|grant| GrantCopy::new(GUEST, *grant, 0, Local::From(b"x"))).collect();
    assert_eq!(first.copy(&mut batch[..3]).unwrap_err().os_error(), Some(12));
    first.copy(&mut batch[..2]).unwrap();
    let statuses = [0, 1, 2].map(|index: usize| batch[index].status);
    assert_eq!(statuses, [CopyStatus::Okay, CopyStatus::Okay, CopyStatus::Pending]);
}

#[test]
fn events_go_both_ways_and_the_first_comes_for_nothing() {
    let world = World::new();
    let guest = world.guest();
    let channels = HostedChannels::connect(world.path(), HOST).unwrap();
    let executor = Executor::new(EngineChoice::Inline).unwrap();
    let end = guest.allocate_unbound(&executor, HOST).unwrap();
    assert_eq!(channels.bind(&executor, GUEST, xen::Port(99)).unwrap_err().kind(), ErrorKind::Invalid);
    assert_eq!(channels.bind(&executor, DomainId(9), end.port()).unwrap_err().os_error(), Some(3));
    let channel = channels.bind(&executor, GUEST, end.port()).unwrap();
    assert!(channels.bind(&executor, GUEST, end.port()).is_err(), "it is bound already");
    executor.block_on(async {
        channel.wait().await.unwrap();
        end.notify();
        end.notify();
        channel.unmask();
        channel.wait().await.unwrap();
        channel.notify();
        end.wait().await.unwrap();
    });
    drop(channel);
    channels.bind(&executor, GUEST, end.port()).unwrap();
}

#[test]
fn events_wait_for_those_who_are_not_looking() {
    let world = World::new();
    let guest = world.guest();
    let channels = HostedChannels::connect(world.path(), HOST).unwrap();
    let executor = Executor::new(EngineChoice::Inline).unwrap();
    let end = guest.allocate_unbound(&executor, HOST).unwrap();
    let channel = channels.bind(&executor, GUEST, end.port()).unwrap();
    executor.block_on(async {
        channel.wait().await.unwrap();
        end.notify();
        channel.unmask();
        channel.wait().await.unwrap();
    });
}

#[test]
fn a_kernel_takes_over_the_memory_of_the_one_before() {
    let world = World::new();
    let (first, grants) = (world.guest(), world.grants());
    let (page, mapped) = granted(&first, b"ring", HOST, Access::Write);
    let (_, unused) = granted(&first, b"data", HOST, Access::Write);
    let mapping = grants.map(GUEST, &[mapped], Access::Write).unwrap();
    drop(first);
    let second = world.guest();
    assert_eq!(read(&grants, unused, 4), Err(CopyStatus::BadGrant));
    for _ in 0..1023 {
        assert_ne!(second.allocate_page().unwrap(), page, "somebody still has it");
    }
    assert_eq!(second.allocate_page().unwrap_err().kind(), ErrorKind::LimitReached);
    drop(mapping);
}

/// Guest and backend look at the same entry at the same instant, again and again: never does the guest get a page back
/// that the backend then writes to.
#[test]
fn a_page_that_was_given_back_is_never_written_to() {
    let world = World::new();
    let guest = world.guest();
    let grants: Arc<dyn Grants> = Arc::new(world.grants());
    let page = guest.allocate_page().unwrap();
    let rounds = test_support::cycles(20_000, 1_000_000);
    let grant = guest.grant(page, HOST, Access::Write).unwrap();
    let backend = {
        let grants = grants.clone();
        thread::spawn(move || {
            let mut written = 0;
            for _ in 0..rounds {
                written += u64::from(write(&*grants, grant, 0, &[1; 64]) == CopyStatus::Okay);
            }
            written
        })
    };
    let word = guest.memory().word(page as usize * PAGE_BYTES);
    while !backend.is_finished() {
        guest.put_entry(grant, page, 1);
        thread::yield_now();
        if guest.end_access(grant).unwrap() == EndAccess::Ended {
            word.store(0, Ordering::SeqCst);
            for _ in 0..100 {
                assert_eq!(word.load(Ordering::SeqCst), 0, "written to after it was given back");
            }
        }
    }
    println!("{} of {rounds} writes were made", backend.join().unwrap());
}

/// A backend that maps, and then waits to be killed; started by the test below.
#[test]
fn a_copy_that_comes_too_late_finds_nobody_elses_page() {
    let world = World::new();
    let (guest, grants) = (world.guest(), world.grants());
    let (page, grant) = guest.grant_page(HOST, Access::Write).unwrap();
    assert_eq!(guest.retire(page, grant).unwrap(), EndAccess::Ended);
    // All other pages of the guest are in use, one by one, and then this one.
    let others: Vec<_> = (0..1023).map(|_| guest.grant_page(HOST, Access::Write).unwrap()).collect();
    assert!(!others.iter().any(|other| other.0 == page || other.1 == grant));
    assert_ne!(write(&grants, grant, 0, b"too late"), CopyStatus::Okay);
    assert_eq!(guest.grant_page(HOST, Access::Write).unwrap().0, page, "it is not lost");
}

#[test]
fn process_that_maps_and_waits() {
    let Some(directory) = std::env::var_os("OXTAP_TEST_HOSTED") else { return };
    let grant = GrantRef(std::env::var("OXTAP_TEST_GRANT").unwrap().parse().unwrap());
    let grants = HostedGrants::connect(Path::new(&directory), HOST).unwrap();
    let _mapping = grants.map(GUEST, &[grant], Access::Write).unwrap();
    // Straight to the descriptor: what tests print is kept back.
    std::io::stderr().write_all(b"mapped\n").unwrap();
    loop {
        thread::park();
    }
}

#[test]
fn a_backend_that_is_killed_gives_everything_back() {
    let world = World::with_limits(BrokerLimits { mapped_pages: 1, copies: 1 });
    let (guest, grants) = (world.guest(), world.grants());
    let (_, grant) = granted(&guest, b"ring", HOST, Access::Write);
    let mut child = Command::new(std::env::current_exe().unwrap())
        .args(["--exact", "process_that_maps_and_waits", "--nocapture"])
        .env("OXTAP_TEST_HOSTED", world.path())
        .env("OXTAP_TEST_GRANT", grant.0.to_string())
        .stdout(Stdio::null())
        .stderr(Stdio::piped())
        .spawn()
        .unwrap();
    let mut lines = BufReader::new(child.stderr.take().unwrap()).lines();
    assert!(lines.any(|line| line.unwrap() == "mapped"));
    assert_eq!(guest.account().unwrap().used, 1);
    assert!(grants.map(GUEST, &[grant], Access::Write).is_err(), "there is room for one page");
    child.kill().unwrap();
    child.wait().unwrap();
    while guest.account().unwrap().used > 0 {
        thread::yield_now();
    }
    drop(grants.map(GUEST, &[grant], Access::Write).unwrap());
    assert_eq!(guest.end_access(grant).unwrap(), EndAccess::Ended);
}

/// A process that talks nonsense to the broker, as some domain but the first, until it is cut off or has said all.
fn talk_nonsense(directory: &Path, mut random: impl FnMut() -> u32) {
    use rustix::net::{AddressFamily, RecvFlags, SendFlags, SocketAddrUnix, SocketFlags, SocketType};
    let socket =
        rustix::net::socket_with(AddressFamily::UNIX, SocketType::SEQPACKET, SocketFlags::CLOEXEC, None).unwrap();
    rustix::net::connect(&socket, &SocketAddrUnix::new(directory.join(SOCKET_NAME)).unwrap()).unwrap();
    for _ in 0..30 {
        let number = |random: &mut dyn FnMut() -> u32| if random().is_multiple_of(4) { random() } else { random() % 8 };
        let (ask, a, b) = (random() % 13, number(&mut random), number(&mut random));
        // Whoever says that he is the first domain is believed: that is for the directory's permissions to prevent.
        let a = if ask == 1 && a == 0 { u32::from(GUEST.0) } else { a };
        let mut bytes = [ask, a, b].map(u32::to_le_bytes).concat();
        bytes.truncate(if random().is_multiple_of(50) { random() as usize % 12 } else { 12 });
        if rustix::net::send(&socket, &bytes, SendFlags::NOSIGNAL).is_err() {
            return;
        }
        if !matches!(rustix::net::recv(&socket, &mut [0_u8; 12], RecvFlags::empty()), Ok((_, 12))) {
            return;
        }
    }
}

#[test]
fn whatever_the_broker_is_asked_others_are_served() {
    let world = World::new();
    let other = DomainId(200);
    let (made, mut is_made) = mailbox();
    assert!(world.orders.send(Order::Create(other, made)).is_ok());
    Executor::new(EngineChoice::Inline).unwrap().block_on(is_made.recv()).unwrap();
    let (guest, grants) = (Guest::boot(world.path(), other).unwrap(), world.grants());
    let mut state = test_support::seed() | 1;
    let mut random = move || {
        state ^= state << 13;
        state ^= state >> 7;
        state ^= state << 17;
        u32::from_le_bytes(*state.to_le_bytes().first_chunk().unwrap())
    };
    for round in 0..test_support::cycles(100, 10_000) {
        talk_nonsense(world.path(), &mut random);
        let stamp = round.to_le_bytes();
        let (page, grant) = granted(&guest, &stamp, HOST, Access::Read);
        let mut bytes = [0; 8];
        let mut batch = [GrantCopy::new(other, grant, 0, Local::To(&mut bytes))];
        grants.copy(&mut batch).unwrap();
        assert_eq!((batch[0].status, bytes), (CopyStatus::Okay, stamp));
        assert_eq!(guest.end_access(grant).unwrap(), EndAccess::Ended);
        guest.free_page(page);
        assert_eq!(guest.account().unwrap().used, 0);
    }
}
