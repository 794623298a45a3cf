//! Connections over the queues of a disk: they are spread, and what is done to the disk reaches all of them.

#![allow(clippy::unwrap_used, reason = "a test that cannot go on fails")]

mod support;

use std::{
    future::pending,
    pin::pin,
    process::Command,
    sync::{
        Arc, Barrier, Mutex,
        atomic::{AtomicBool, AtomicU64, Ordering},
    },
    thread,
    time::Duration,
};

use block_core::{Error, ErrorKind};
use export::nbd::{Limits, client::Client};
use futures_util::future::select;
use storage_io::{BufferPool, EngineChoice, Executor, MemoryStorage, Sender, TracedOperation, TracedStorage, mailbox};
use support::{HANG, Options, Served, Starter, threads};
use test_support::require_tool;

const QUEUES: Limits = Limits { queues: 3, ..limits() };

const fn limits() -> Limits {
    Limits {
        connections: 16,
        queues: 1,
        idle_queue: Duration::from_secs(600),
        requests: 128,
        bytes: 64 << 20,
        own_bytes: 1 << 20,
        shared_bytes: 256 << 20,
        negotiation: Duration::from_secs(60),
        lingering: Duration::from_secs(60),
    }
}

fn served() -> Served {
    Served::with(Options { limits: QUEUES, ..Options::default() })
}

fn clients<const COUNT: usize>(served: &Served) -> [Client; COUNT] {
    std::array::from_fn(|_| served.client())
}

fn assert_served(client: &mut Client, byte: u8) {
    client.write(u64::from(byte) * 512, &[byte; 512]).unwrap();
    let mut bytes = [0; 512];
    client.read(u64::from(byte) * 512, &mut bytes).unwrap();
    assert_eq!(bytes, [byte; 512]);
}

/// Clients that never stop asking, and count the answers.
struct Load {
    stop: Arc<AtomicBool>,
    answers: Vec<Arc<AtomicU64>>,
    threads: Vec<thread::JoinHandle<()>>,
}

impl Load {
    fn start(clients: impl IntoIterator<Item = Client>) -> Load {
        let mut load = Load { stop: Arc::default(), answers: Vec::new(), threads: Vec::new() };
        for (mut client, byte) in clients.into_iter().zip(1..) {
            let (stop, answers) = (load.stop.clone(), Arc::new(AtomicU64::new(0)));
            load.answers.push(answers.clone());
            load.threads.push(thread::spawn(move || {
                while !stop.load(Ordering::Relaxed) {
                    assert_served(&mut client, byte);
                    answers.fetch_add(1, Ordering::Relaxed);
                }
            }));
        }
        load
    }

    fn answers(&self) -> Vec<u64> {
        self.answers.iter().map(|answers| answers.load(Ordering::Relaxed)).collect()
    }

    /// Waits until every client has got further answers.
    fn await_progress(&self) {
        let before = self.answers();
        for _ in 0..6000 {
            if self.answers().iter().zip(&before).all(|(now, before)| now > before) {
                return;
            }
            thread::sleep(Duration::from_millis(10));
        }
        panic!("no progress: {before:?}, then {:?}", self.answers());
    }

    fn end(self) {
        self.stop.store(true, Ordering::Relaxed);
        self.threads.into_iter().for_each(|thread| thread.join().unwrap());
    }
}

#[test]
fn connections_are_spread_over_the_queues_and_see_the_same_disk() {
    let served = served();
    let mut first = served.client();
    assert_eq!(served.spread(), [1], "one client needs no further thread");
    first.write(0, &[9; 4096]).unwrap();
    let mut others: [Client; 4] = clients(&served);
    assert_eq!(served.spread(), [2, 2, 1]);
    for (other, byte) in others.iter_mut().zip(1..) {
        let mut bytes = [0; 4096];
        other.read(0, &mut bytes).unwrap();
        assert_eq!(bytes, [9; 4096]);
        assert_served(other, 10 + byte);
    }
    drop((first, others));
    served.await_spread(&[0, 0, 0]);
}

#[test]
fn a_pause_holds_the_requests_of_every_queue() {
    let served = served();
    let load = Load::start(clients::<4>(&served));
    served.await_spread(&[2, 1, 1]);
    for _ in 0..test_support::cycles(20, 500) {
        load.await_progress();
        served.pause();
        assert_eq!(served.in_flight(), 0);
        let held = load.answers();
        thread::sleep(Duration::from_millis(2));
        // An answer may have been on its way to the client.
        assert!(load.answers().iter().zip(&held).all(|(now, then)| now - then <= 1), "requests pass a paused disk");
        served.resume();
    }
    load.await_progress();
    load.end();
}

#[test]
fn a_flush_covers_what_was_answered_on_other_queues() {
    let storage = Arc::new(TracedStorage::new(Arc::new(MemoryStorage::new(4 << 20))));
    let served = Served::of_storage(storage.clone(), Options { limits: QUEUES, ..Options::default() });
    let mut clients: [Client; 3] = clients(&served);
    served.await_spread(&[1, 1, 1]);
    for writer in 0..3 {
        clients[writer].write(0, &[1; 512]).unwrap();
        storage.take();
        clients[(writer + 1) % 3].flush().unwrap();
        let synced = storage.take().iter().any(|operation| matches!(operation, TracedOperation::Sync));
        assert!(synced, "queue {writer} had written");
    }
}

#[test]
fn closing_reaches_the_connections_of_every_queue() {
    let served = served();
    let mut raws = [(); 4].map(|()| served.raw());
    served.await_spread(&[2, 1, 1]);
    served.run(|world| async move { world.disk.close().await }).unwrap();
    for raw in &mut raws {
        raw.read(1, 0, 512);
    }
    for raw in &mut raws {
        assert_eq!(raw.reply(), (1, 108), "the disk is shutting down");
    }
    served.run(|world| async move { world.server.close().await });
    for raw in &mut raws {
        assert!(raw.has_ended());
    }
    assert_eq!(served.spread(), [0], "the queues' threads end with the server");
}

#[test]
fn a_server_that_is_dropped_ends_the_connections_of_every_queue() {
    let served = served();
    let mut raws = [(); 4].map(|()| served.raw());
    served.await_spread(&[2, 1, 1]);
    drop(served);
    for raw in &mut raws {
        assert!(raw.has_ended());
    }
}

#[test]
fn a_queue_that_is_not_used_any_more_ends_and_a_new_one_is_started() {
    let limits = Limits { queues: 2, idle_queue: Duration::from_millis(20), ..limits() };
    let served = Served::with(Options { limits, ..Options::default() });
    let mut stays = served.client();
    for round in 0..5 {
        let mut comes = served.client();
        assert_eq!(served.spread(), [1, 1]);
        assert_served(&mut comes, 20 + round);
        drop(comes);
        served.await_spread(&[1]);
        assert_served(&mut stays, 20 + round);
    }
}

#[test]
fn without_a_thread_the_others_serve() {
    let refuse: Starter = Box::new(|_| Err(Error::new(ErrorKind::LimitReached, "no more threads")));
    // A thread that ends before it serves anybody, as one does that finds no memory for its executor.
    let forget: Starter = Box::new(|worker| {
        drop(worker);
        Ok(())
    });
    let vanish: Starter = Box::new(|worker| {
        thread::spawn(move || {
            thread::sleep(Duration::from_millis(20));
            drop(worker);
        });
        Ok(())
    });
    for starter in [refuse, forget, vanish] {
        let served = Served::with(Options { limits: QUEUES, starter, ..Options::default() });
        let mut clients: [Client; 3] = clients(&served);
        served.await_spread(&[3]);
        for (client, byte) in clients.iter_mut().zip(1..) {
            assert_served(client, byte);
        }
    }
}

/// Threads of queues that die when something is sent to the mailbox.
fn mortal() -> (Starter, Arc<Mutex<Vec<Sender<()>>>>) {
    let killers = Arc::new(Mutex::new(Vec::new()));
    let kept = killers.clone();
    let starter: Starter = Box::new(move |worker| {
        let (killer, mut killed) = mailbox();
        kept.lock().unwrap().push(killer);
        thread::spawn(move || {
            let executor = Executor::new(EngineChoice::Probe).unwrap();
            let pool = BufferPool::new(1 << 20);
            executor.block_on(async { _ = select(pin!(worker.serve(&executor, pool)), pin!(killed.recv())).await });
            executor.end_tasks();
        });
        Ok(())
    });
    (starter, killers)
}

type Halts = Arc<Mutex<Vec<Sender<Arc<Barrier>>>>>;

/// Threads of queues that stand still: each takes a barrier from the mailbox, meets the test there, and goes on when they
/// meet for the second time.
fn halting() -> (Starter, Halts) {
    let halts = Halts::default();
    let kept = halts.clone();
    let starter: Starter = Box::new(move |worker| {
        let (halt, mut halted) = mailbox::<Arc<Barrier>>();
        kept.lock().unwrap().push(halt);
        thread::spawn(move || {
            let executor = Executor::new(EngineChoice::Probe).unwrap();
            let halts = async {
                while let Some(barrier) = halted.recv().await {
                    barrier.wait();
                    barrier.wait();
                }
                pending::<()>().await;
            };
            let pool = BufferPool::new(1 << 20);
            executor.block_on(async { _ = select(pin!(worker.serve(&executor, pool)), pin!(halts)).await });
            executor.end_tasks();
        });
        Ok(())
    });
    (starter, halts)
}

#[test]
fn a_queue_does_not_end_when_it_has_just_been_given_a_client() {
    let idle_queue = Duration::from_millis(500);
    let (starter, halts) = halting();
    let limits = Limits { queues: 2, idle_queue, ..limits() };
    let served = Served::with(Options { limits, starter, ..Options::default() });
    let _stays = served.client();
    drop(served.client());
    served.await_spread(&[1, 0]);
    // The queue takes notice of the client only when it has been idle for long enough to end, as home sees it.
    let barrier = Arc::new(Barrier::new(2));
    halts.lock().unwrap()[0].send(barrier.clone()).unwrap();
    barrier.wait();
    let stream = served.stream();
    served.await_connections(2);
    thread::sleep(idle_queue + Duration::from_millis(100));
    barrier.wait();
    assert_served(&mut Client::over(stream, "any", Some(HANG)).unwrap(), 1);
}

#[test]
fn a_queue_that_dies_takes_its_clients_along_and_nobody_else() {
    let (starter, killers) = mortal();
    let served = Served::with(Options { limits: QUEUES, starter, ..Options::default() });
    let mut stays = served.client();
    let mut goes = served.raw();
    let mut stays_too = served.client();
    served.await_spread(&[1, 1, 1]);
    killers.lock().unwrap()[0].send(()).unwrap();
    assert!(goes.has_ended());
    served.await_spread(&[1, 1]);
    assert_served(&mut stays, 1);
    assert_served(&mut stays_too, 2);
    assert_served(&mut served.client(), 3);
    // Nothing waits for the dead.
    served.pause();
    served.resume();
    assert_served(&mut stays, 4);
    served.close();
}

#[test]
fn connections_that_come_and_go_under_load_and_pauses_harm_nobody() {
    let limits = Limits { queues: 3, idle_queue: Duration::from_millis(1), ..limits() };
    let served = Served::with(Options { limits, starter: threads(), ..Options::default() });
    let load = Load::start(clients::<2>(&served));
    for round in 0..test_support::cycles(40, 1000) {
        let mut guests: [Client; 3] = clients(&served);
        guests.iter_mut().zip(100..).for_each(|(guest, byte)| assert_served(guest, byte));
        if round % 4 == 0 {
            served.pause();
            drop(guests);
            served.resume();
        }
    }
    load.await_progress();
    load.end();
    served.close();
}

#[test]
fn a_disk_that_grew_is_larger_for_clients_that_come_then() {
    let served = served();
    let mut before: [Client; 3] = clients(&served);
    served.pause();
    served.run(|world| async move { world.files.put("/a", Arc::new(MemoryStorage::new(6 << 20))) });
    served.resume();
    let mut after: [Client; 3] = clients(&served);
    for client in &mut after {
        assert_eq!(client.size(), 6 << 20);
        client.write((6 << 20) - 512, &[1; 512]).unwrap();
    }
    for (client, byte) in before.iter_mut().zip(1..) {
        assert_eq!(client.size(), 4 << 20);
        assert_served(client, byte);
    }
}

#[test]
fn nbdcopy_copies_in_and_out_over_four_connections() {
    let bytes = 32 << 20;
    let served = Served::with(Options { bytes, limits: QUEUES, ..Options::default() });
    let [original, copy] = ["original", "copy"].map(|name| served.directory().join(name));
    let pattern: Vec<u8> = (0..bytes).map(|index| u8::try_from((index * 7 + (index >> 12)) % 251).unwrap()).collect();
    std::fs::write(&original, &pattern).unwrap();
    let nbdcopy = |from: &str, to: &str| {
        let mut command = Command::new(require_tool("nbdcopy"));
        let status = command.args(["--connections=4", "--threads=4", "--flush", from, to]).status().unwrap();
        assert!(status.success(), "{command:?}: {status}");
    };
    nbdcopy(original.to_str().unwrap(), &served.uri());
    assert_eq!(served.spread().len(), 3, "all queues were used");
    nbdcopy(&served.uri(), copy.to_str().unwrap());
    assert!(std::fs::read(copy).unwrap() == pattern);
    served.await_connections(0);
    served.close();
}
