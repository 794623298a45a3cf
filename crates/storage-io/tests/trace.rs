//! What an executor's loop tells about itself, on every engine.

#![allow(clippy::unwrap_used, reason = "a test fails where it cannot go on")]

mod common;

use std::{
    fs,
    os::unix::net::UnixStream,
    pin::pin,
    sync::{Arc, mpsc},
    thread,
    time::Duration,
};

use common::{at, directory, open, pattern};
use futures_util::future::{Either, select};
use storage_io::{
    EngineChoice, EngineKind, Executor, LoopTrace, OpenOptions, Receiver, StorageExt, Turn, Wait, Woken, mailbox,
};

/// Far longer than anything here takes: a test that hangs fails.
const HANG: Duration = Duration::from_secs(60);

/// All that has woken the loop while `story` ran, summed up.
fn woken_by(executor: &Executor, story: impl Future<Output = ()>) -> Woken {
    let trace = executor.trace();
    let before = trace.count();
    executor.block_on(story);
    let turns = trace.turns();
    let mut sum = Woken::default();
    for Turn { woken, .. } in turns.iter().filter(|turn| turn.number > before) {
        sum.completions += woken.completions;
        sum.readiness += woken.readiness;
        sum.jobs += woken.jobs;
        sum.timers += woken.timers;
        sum.wakes += woken.wakes;
    }
    sum
}

on_every_engine! {
    fn each_turn_tells_what_woke_it(executor) {
        let directory = directory();
        let path = directory.path().join("image");
        fs::write(&path, pattern(4096, 1)).unwrap();
        let file = open(executor, &path, OpenOptions::read());
        let read = woken_by(executor, async { drop(file.read_bytes(executor, at(0), 4096).await.unwrap()) });
        assert_eq!(Woken { wakes: 0, ..read }, Woken { completions: 1, ..Woken::default() });
        let slept = woken_by(executor, executor.sleep(Duration::from_millis(2)));
        assert_eq!(Woken { wakes: 0, ..slept }, Woken { timers: 1, ..Woken::default() });
        let job = woken_by(executor, async { executor.blocking("a job", || ()).await.unwrap() });
        // Done at once, it wakes nobody.
        let jobs = u16::from(executor.engine() != EngineKind::Inline);
        assert_eq!(Woken { wakes: 0, ..job }, Woken { jobs, ..Woken::default() });
        let (_writer, reader) = UnixStream::pair().unwrap();
        reader.set_nonblocking(true).unwrap();
        let ready = woken_by(executor, async { executor.writable(&reader).await.unwrap() });
        assert_eq!(Woken { wakes: 0, ..ready }, Woken { readiness: 1, ..Woken::default() });
        let (sender, mut receiver) = mailbox();
        let told = thread::spawn(move || {
            thread::sleep(Duration::from_millis(5));
            sender.send(7).unwrap();
        });
        let message = woken_by(executor, async { assert_eq!(receiver.recv().await, Some(7)) });
        assert_eq!(message, Woken { wakes: 1, ..Woken::default() });
        told.join().unwrap();
    }

    fn idle_and_busy_time_are_told_apart(executor) {
        let trace = executor.trace();
        executor.block_on(executor.sleep(Duration::from_millis(20)));
        let task = executor.spawn(async { thread::sleep(Duration::from_millis(20)) });
        executor.block_on(task);
        let turns = trace.turns();
        let long = Duration::from_millis(15);
        assert!(turns.iter().any(|turn| turn.idle > long && turn.took < turn.idle), "{turns:#?}");
        assert!(turns.iter().any(|turn| turn.took > long && turn.polled == 2), "{turns:#?}");
        assert!(turns.windows(2).all(|pair| pair[0].began <= pair[1].began && pair[0].number + 1 == pair[1].number));
    }

    fn another_thread_sees_that_a_task_hangs_and_what_came_before(executor) {
        let trace = executor.trace();
        executor.block_on(executor.yield_now());
        let before = trace.count();
        let (release, hung) = mpsc::channel::<()>();
        let task = executor.spawn(async move { hung.recv_timeout(HANG) });
        let watcher = thread::spawn(move || watch(&trace, before, &release));
        executor.block_on(task).unwrap();
        watcher.join().unwrap();
        assert_eq!(executor.trace().running(), None);
    }

    fn a_nested_turn_is_a_turn_of_its_own(executor) {
        let (on, trace) = (executor.clone(), executor.trace());
        let before = trace.count();
        executor.block_on(executor.spawn(async move {
            on.turn(Wait::No).unwrap();
            assert!(on.trace().running().is_some(), "the outer turn still runs");
        }));
        assert!(trace.count() >= before + 2);
        assert_eq!(trace.running(), None);
    }
}

/// Waits until a turn lasts for 20 ms, looks, and lets it end.
fn watch(trace: &Arc<LoopTrace>, before: u64, release: &mpsc::Sender<()>) {
    while trace.running().is_none_or(|lasts| lasts < Duration::from_millis(20)) {
        thread::sleep(Duration::from_millis(1));
    }
    let turns = trace.turns();
    assert_eq!(turns.len() as u64, trace.count().min(256));
    assert_eq!(trace.count(), before, "the turn that hangs has not ended");
    release.send(()).unwrap();
}

/// Runs `story`, which must end: a wake-up that is lost leaves it waiting for ever.
fn in_time<T>(executor: &Executor, story: impl Future<Output = T>) -> T {
    let limit = executor.sleep(HANG);
    executor.block_on(async {
        match select(pin!(story), pin!(limit)).await {
            Either::Left((result, _)) => result,
            Either::Right(_) => panic!("a wake-up was lost"),
        }
    })
}

const ENGINES: [EngineChoice; 4] =
    [EngineChoice::IoUring, EngineChoice::Libaio, EngineChoice::Threads, EngineChoice::Inline];

/// Messages and turns in large numbers, with a reader beside them: nothing gets lost, and every turn that is seen is whole.
#[test]
fn threads_that_send_wake_and_look_at_once_lose_nothing() {
    const SENDERS: u64 = 4;
    let each = test_support::cycles(5_000, 1_000_000);
    for choice in ENGINES {
        let executor = Executor::new(choice).unwrap();
        let trace = executor.trace();
        let (sender, receiver) = mailbox();
        let (stop, stopped) = mpsc::channel::<()>();
        let looker = thread::spawn(move || {
            while stopped.try_recv() == Err(mpsc::TryRecvError::Empty) {
                let turns = trace.turns();
                assert!(turns.windows(2).all(|pair| pair[0].number < pair[1].number && pair[0].began <= pair[1].began));
                assert!(turns.iter().all(|turn| turn.took < HANG && turn.idle < HANG));
            }
        });
        let senders: Vec<_> = (0..SENDERS)
            .map(|from| {
                let sender = sender.clone();
                thread::spawn(move || (0..each).for_each(|number| sender.send((from, number)).unwrap()))
            })
            .collect();
        drop(sender);
        assert_eq!(in_time(&executor, receive_in_order(&executor, receiver)), [each; 4], "{choice:?}");
        senders.into_iter().for_each(|sender| sender.join().unwrap());
        drop(stop);
        looker.join().unwrap();
    }
}

/// How many messages of each sender there were.
async fn receive_in_order(executor: &Executor, mut receiver: Receiver<(u64, u64)>) -> [u64; 4] {
    let mut next = [0; 4];
    while let Some((from, number)) = receiver.recv().await {
        let expected = &mut next[usize::try_from(from).unwrap()];
        assert_eq!(number, *expected, "messages of sender {from} arrive in order");
        *expected += 1;
        if number % 64 == 0 {
            // Falls asleep often, so that there is somebody to wake.
            executor.sleep(Duration::from_micros(1)).await;
        }
    }
    next
}

/// Each side sleeps until the other has sent: one wake-up lost, and both sleep for ever.
#[test]
fn two_executors_that_take_turns_never_both_sleep() {
    let rounds = test_support::cycles(5_000, 1_000_000);
    for choice in ENGINES {
        let (there, mut arrived) = mailbox();
        let (back, mut returned) = mailbox();
        let other = thread::spawn(move || {
            let executor = Executor::new(choice).unwrap();
            in_time(&executor, async {
                while let Some(number) = arrived.recv().await {
                    back.send(number).unwrap();
                }
            });
        });
        let executor = Executor::new(choice).unwrap();
        in_time(&executor, async {
            for round in 0..rounds {
                there.send(round).unwrap();
                assert_eq!(returned.recv().await, Some(round));
            }
        });
        drop(there);
        other.join().unwrap();
    }
}
