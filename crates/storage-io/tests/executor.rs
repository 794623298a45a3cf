//! The executor: tasks, turns, timers, readiness, wake-ups, and foreign loops, on every engine.

#![allow(clippy::unwrap_used, reason = "a test fails where it cannot go on")]

mod common;

use std::{
    cell::{Cell, RefCell},
    fs,
    future::{Future, poll_fn},
    io::{Read, Write},
    os::{
        fd::{AsFd, AsRawFd},
        unix::net::UnixStream,
    },
    process::{Command, Stdio},
    rc::Rc,
    sync::mpsc,
    task::Poll,
    thread,
    time::{Duration, Instant},
};

use common::{at, directory, new_file, open, pattern};
use rustix::event::epoll;
use storage_io::{
    Buffer, EngineChoice, EngineKind, Executor, MemoryStorage, Moment, SimulatedClock, StorageExt, StorageOperation,
    Task, Wait, mailbox, reply,
};

/// Far longer than anything here takes: a test that hangs fails.
const HANG: Duration = Duration::from_secs(60);

/// Two ends that do not block.
fn pair() -> (UnixStream, UnixStream) {
    let (left, right) = UnixStream::pair().unwrap();
    left.set_nonblocking(true).unwrap();
    right.set_nonblocking(true).unwrap();
    (left, right)
}

on_every_engine! {
    fn tasks_run_and_their_results_are_awaited(executor) {
        let double = |number: u32| executor.spawn(async move { number * 2 });
        let tasks: Vec<_> = (0..10).map(double).collect();
        let mut sum = 0;
        executor.block_on(async {
            for task in tasks {
                sum += task.await;
            }
        });
        assert_eq!(sum, 90);
    }

    fn a_task_may_run_a_nested_turn(executor) {
        let log = Rc::new(RefCell::new(Vec::new()));
        let (inside, outside, nested) = (log.clone(), log.clone(), executor.clone());
        let first = executor.spawn(async move {
            inside.borrow_mut().push("first begins");
            assert!(nested.turn(Wait::No).unwrap(), "the second task is ready");
            inside.borrow_mut().push("first ends");
        });
        let second = executor.spawn(async move { outside.borrow_mut().push("second") });
        executor.block_on(async {
            first.await;
            second.await;
        });
        assert_eq!(*log.borrow(), ["first begins", "second", "first ends"]);
    }

    fn a_task_that_is_ready_inside_its_own_poll_runs_again(executor) {
        let (polls, count, nested) = (Rc::new(Cell::new(0)), Rc::new(Cell::new(0)), executor.clone());
        let (counted, ended) = (polls.clone(), count.clone());
        let task = executor.spawn(poll_fn(move |cx| {
            counted.set(counted.get() + 1);
            if counted.get() < 3 {
                cx.waker().wake_by_ref();
                // The nested turn meets this very task, which cannot be polled now and must not be forgotten.
                nested.turn(Wait::No).unwrap();
                return Poll::Pending;
            }
            ended.set(1);
            Poll::Ready(())
        }));
        for _ in 0..5 {
            executor.turn(Wait::No).unwrap();
        }
        assert_eq!((polls.get(), count.get()), (3, 1));
        drop(task);
    }

    fn a_task_dropped_inside_its_own_poll_is_freed_after_it(executor) {
        struct Noisy(Rc<Cell<bool>>);
        impl Drop for Noisy {
            fn drop(&mut self) {
                self.0.set(true);
            }
        }
        let freed = Rc::new(Cell::new(false));
        let handle: Rc<RefCell<Option<Task<()>>>> = Rc::default();
        let (own_handle, noisy, seen) = (handle.clone(), Noisy(freed.clone()), freed.clone());
        *handle.borrow_mut() = Some(executor.spawn(async move {
            let noisy = noisy;
            drop(own_handle.borrow_mut().take());
            assert!(!seen.get(), "what the task holds is there until its poll returns");
            std::future::pending::<()>().await;
            drop(noisy);
        }));
        executor.turn(Wait::No).unwrap();
        assert!(freed.get());
    }

    fn a_registration_dropped_inside_a_callback_leaves_the_others(executor) {
        let (left, right) = pair();
        let (other, mut peer) = pair();
        let ready = executor.block_on(async {
            // Both become ready in one turn; whoever runs first drops its own registration and a third one.
            let third = executor.readable(&left);
            (&right).write_all(b"x").unwrap();
            peer.write_all(b"y").unwrap();
            let mut third = Box::pin(third);
            let polled = poll_fn(|cx| Poll::Ready(third.as_mut().poll(cx).is_ready())).await;
            executor.readable(&other).await.unwrap();
            drop(third);
            polled
        });
        assert!(!ready);
        // The dropped registration is gone: another on the same descriptor is told.
        executor.block_on(executor.readable(&left)).unwrap();
        let mut byte = [0];
        (&left).read_exact(&mut byte).unwrap();
        assert_eq!(byte, *b"x");
    }

    /// A turn first finds out what is ready and then runs it: what becomes ready by running waits for the next turn.
    fn what_becomes_ready_while_tasks_run_waits_for_the_next_turn(executor) {
        let (left, right) = pair();
        let log = Rc::new(RefCell::new(Vec::new()));
        let (late, early, on) = (log.clone(), log.clone(), executor.clone());
        let reader = executor.spawn(async move {
            on.readable(&left).await.unwrap();
            late.borrow_mut().push("reader");
        });
        while executor.turn(Wait::No).unwrap() {}
        let on = executor.clone();
        let writer = executor.spawn(async move {
            (&right).write_all(b"x").unwrap();
            early.borrow_mut().push("writer");
            on.yield_now().await;
            early.borrow_mut().push("writer again");
            right
        });
        let turn = |wait| {
            executor.turn(wait).unwrap();
            std::mem::take(&mut *log.borrow_mut())
        };
        assert_eq!(turn(Wait::No), ["writer"], "neither what it made ready nor itself runs in the same turn");
        let mut next = turn(Wait::For(HANG));
        next.sort_unstable();
        assert_eq!(next, ["reader", "writer again"]);
        executor.block_on(async { drop((reader.await, writer.await)) });
    }

    /// Both were found ready in one turn; the first to run takes the other's registration away.
    fn a_registration_that_was_found_ready_may_be_dropped_before_it_is_seen(executor) {
        let (left, right) = pair();
        let (other, mut peer) = pair();
        let tasks: Rc<RefCell<Vec<Task<()>>>> = Rc::default();
        let ran = Rc::new(Cell::new(0));
        for socket in [left, other] {
            let (on, ran, all) = (executor.clone(), ran.clone(), tasks.clone());
            let task = executor.spawn(async move {
                on.readable(&socket).await.unwrap();
                ran.set(ran.get() + 1);
                // Its own too, which is freed when it has returned.
                let all = std::mem::take(&mut *all.borrow_mut());
                drop(all);
            });
            tasks.borrow_mut().push(task);
        }
        while executor.turn(Wait::No).unwrap() {}
        (&right).write_all(b"x").unwrap();
        peer.write_all(b"y").unwrap();
        while ran.get() == 0 {
            executor.turn(Wait::For(HANG)).unwrap();
        }
        while executor.turn(Wait::No).unwrap() {}
        assert_eq!((ran.get(), executor.in_flight()), (1, 0));
        // The loop goes on.
        executor.block_on(executor.sleep(Duration::from_millis(1)));
    }

    fn readiness_is_told_for_each_direction(executor) {
        let (mut left, right) = pair();
        executor.block_on(async {
            executor.writable(&left).await.unwrap();
            let mut filled = 0;
            while let Ok(count) = left.write(&[1; 65536]) {
                filled += count;
            }
            let reader = executor.clone();
            let peer = right.try_clone().unwrap();
            let read = executor.spawn(async move {
                let (mut peer, mut total, mut bytes) = (peer, 0, vec![0; 65536]);
                while total < filled {
                    reader.readable(&peer).await.unwrap();
                    total += peer.read(&mut bytes).unwrap();
                }
                total
            });
            executor.writable(&left).await.unwrap();
            assert_eq!(read.await, filled);
            drop(right);
            // A peer that went away is news, too.
            executor.readable(&left).await.unwrap();
            assert_eq!(left.read(&mut [0]).unwrap(), 0);
        });
    }

    fn timers_fire_in_the_order_of_their_deadlines_and_not_when_cancelled(executor) {
        let log = Rc::new(RefCell::new(Vec::new()));
        let start = executor.now();
        let tasks: Vec<_> = [30, 10, 20, 10]
            .iter()
            .enumerate()
            .map(|(index, milliseconds)| {
                let (log, sleep) = (log.clone(), executor.sleep_until(start + Duration::from_millis(*milliseconds)));
                executor.spawn(async move {
                    sleep.await;
                    log.borrow_mut().push(index);
                })
            })
            .collect();
        let (cancelled, log_of_cancelled) = (executor.sleep(Duration::from_millis(15)), log.clone());
        let cancelled = executor.spawn(async move {
            cancelled.await;
            log_of_cancelled.borrow_mut().push(99);
        });
        executor.turn(Wait::No).unwrap();
        drop(cancelled);
        executor.block_on(async {
            for task in tasks {
                task.await;
            }
        });
        assert_eq!(*log.borrow(), [1, 3, 2, 0]);
        assert!(executor.now() - start >= Duration::from_millis(30), "no timer is early");
        assert_eq!(executor.next_timer(), None);
    }

    fn another_thread_wakes_a_sleeping_executor(executor) {
        let (sender, mut receiver) = mailbox();
        let thread = thread::spawn(move || {
            for number in 0..100_u32 {
                if number % 10 == 0 {
                    thread::sleep(Duration::from_millis(1));
                }
                assert!(sender.send(number).is_ok());
            }
        });
        let received = executor.block_on(async {
            let mut received = Vec::new();
            while let Some(number) = receiver.recv().await {
                received.push(number);
            }
            received
        });
        thread.join().unwrap();
        assert!(received.into_iter().eq(0..100));
    }

    fn a_job_on_a_worker_gives_its_result_and_its_panic_is_an_error(executor) {
        executor.block_on(async {
            assert_eq!(executor.blocking("a job", || 6 * 7).await.unwrap(), 42);
            if executor.engine() != EngineKind::Inline {
                let jobs: Vec<_> = (0..40).map(|index| executor.blocking("a job", move || index)).collect();
                for (index, job) in jobs.into_iter().enumerate() {
                    assert_eq!(job.await.unwrap(), index);
                }
                let error = executor.blocking("a job", || panic!("on purpose")).await.unwrap_err();
                assert_eq!(error.kind(), block_core::ErrorKind::Closed);
                assert_eq!(executor.blocking("a job", || "still there").await.unwrap(), "still there");
            }
        });
    }

    fn an_empty_set_sleeps(executor) {
        let turns = turns_within(executor, Duration::from_millis(20));
        assert!(turns < 10, "{turns} turns with nothing to do");
    }

    fn hundreds_of_operations_at_once_all_end(executor) {
        // More than the queues of any engine hold.
        const COUNT: usize = 3000;
        for direct in [true, false] {
            let directory = directory();
            let path = directory.path().join("image");
            fs::write(&path, pattern(COUNT * 512, 1)).unwrap();
            let options = storage_io::OpenOptions { direct, ..storage_io::OpenOptions::read() };
            let file = open(executor, &path, options);
            let reads: Vec<_> = (0..COUNT)
                .map(|index| {
                    let offset = at(index as u64 * 512);
                    file.submit(executor, StorageOperation::Read { offset, buffer: Buffer::zeroed(512) }, None)
                })
                .collect();
            let expected = pattern(COUNT * 512, 1);
            executor.block_on(async {
                for (index, read) in reads.into_iter().enumerate() {
                    let completion = read.await;
                    completion.result.unwrap();
                    assert!(completion.buffer.unwrap().to_vec() == expected[index * 512..][..512]);
                }
            });
            assert_eq!(executor.in_flight(), 0);
        }
    }

    fn an_executor_that_is_dropped_with_tasks_waiting_frees_them(executor) {
        let held = Rc::new(());
        for _ in 0..10 {
            let (held, sleeper, (left, _right)) = (held.clone(), executor.clone(), pair());
            executor
                .spawn(async move {
                    let _held = held;
                    sleeper.sleep(HANG).await;
                    sleeper.readable(&left).await.unwrap();
                })
                .detach();
        }
        executor.turn(Wait::No).unwrap();
        assert_eq!(Rc::strong_count(&held), 11);
        executor.end_tasks();
        assert_eq!(Rc::strong_count(&held), 1);
    }
}

/// How many turns an executor with nothing to do takes in this time; a signal may end one early.
fn turns_within(executor: &Executor, time: Duration) -> u32 {
    let deadline = Instant::now() + time;
    let mut turns = 0;
    loop {
        let left = deadline.saturating_duration_since(Instant::now());
        if left.is_zero() {
            return turns;
        }
        assert!(!executor.turn(Wait::For(left)).unwrap(), "nothing is there that could run");
        turns += 1;
    }
}

/// Everything that can wake an executor, while somebody else polls its descriptor.
fn drive_from_outside(executor: &Executor) {
    let directory = directory();
    let file = open(executor, &directory.path().join("image"), new_file(true));
    let (left, mut right) = pair();
    let (sender, mut receiver) = mailbox();
    let done = Rc::new(RefCell::new(Vec::new()));
    let finish = |name: &'static str| {
        let done = done.clone();
        move || done.borrow_mut().push(name)
    };

    let (end, timer) = (finish("timer"), executor.clone());
    executor
        .spawn(async move {
            // The last to end: nothing but the timer wakes anybody then.
            for _ in 0..10 {
                timer.sleep(Duration::from_millis(20)).await;
            }
            end();
        })
        .detach();
    let (end, io) = (finish("file"), executor.clone());
    executor
        .spawn(async move {
            for index in 0..20 {
                file.write_bytes(&io, at(index * 4096), &pattern(4096, 1)).await.unwrap();
                file.sync(&io).await.unwrap();
                assert_eq!(file.read_bytes(&io, at(index * 4096), 4096).await.unwrap(), pattern(4096, 1));
            }
            end();
        })
        .detach();
    let (end, socket) = (finish("socket"), executor.clone());
    executor
        .spawn(async move {
            let mut left = left;
            for _ in 0..5 {
                socket.readable(&left).await.unwrap();
                left.read_exact(&mut [0]).unwrap();
            }
            end();
        })
        .detach();
    let end = finish("mailbox");
    executor
        .spawn(async move {
            while receiver.recv().await.is_some() {}
            end();
        })
        .detach();
    let (end, jobs) = (finish("job"), executor.clone());
    executor
        .spawn(async move {
            jobs.blocking("a job", || thread::sleep(Duration::from_millis(5))).await.unwrap();
            jobs.yield_now().await;
            end();
        })
        .detach();

    let foreign = epoll::create(epoll::CreateFlags::CLOEXEC).unwrap();
    epoll::add(&foreign, executor.descriptor(), epoll::EventData::new_u64(1), epoll::EventFlags::IN).unwrap();
    let other = thread::spawn(move || {
        for _ in 0..5 {
            thread::sleep(Duration::from_millis(10));
            right.write_all(b"x").unwrap();
            assert!(sender.send(()).is_ok());
        }
        right
    });
    let turns = poll_until(executor, foreign.as_fd(), || done.borrow().len() == 5);
    other.join().unwrap();
    assert!(turns < 1000, "{turns} turns: the descriptor is readable although there is nothing to do");
    // Nothing is left to do: the descriptor is quiet.
    executor.turn(Wait::No).unwrap();
    executor.turn(Wait::No).unwrap();
    assert!(!is_readable(foreign.as_fd(), Duration::from_millis(20)), "there is nothing to do");
}

/// Drives an executor as a foreign loop does; how many turns it took.
fn poll_until(executor: &Executor, foreign: std::os::fd::BorrowedFd<'_>, mut is_done: impl FnMut() -> bool) -> u32 {
    let mut turns = 0;
    executor.turn(Wait::No).unwrap();
    while !is_done() {
        assert!(is_readable(foreign, HANG), "there is work, and nobody is told");
        executor.turn(Wait::No).unwrap();
        turns += 1;
    }
    turns
}

fn is_readable(epoll: std::os::fd::BorrowedFd<'_>, limit: Duration) -> bool {
    let deadline = Instant::now() + limit;
    loop {
        let mut events = [const { std::mem::MaybeUninit::<epoll::Event>::uninit() }; 4];
        let left = deadline.saturating_duration_since(Instant::now());
        match epoll::wait(epoll, &mut events, Some(&left.try_into().unwrap())) {
            Ok((ready, _)) => return !ready.is_empty(),
            // Completions that arrive for a sleeping thread may interrupt its wait.
            Err(rustix::io::Errno::INTR) => {}
            Err(error) => panic!("{error}"),
        }
    }
}

on_every_engine! {
    fn a_foreign_loop_drives_it_by_its_descriptor(executor) {
        drive_from_outside(executor);
    }

    fn one_executor_waits_for_another_by_its_descriptor(executor) {
        let inner = Executor::new(EngineChoice::Probe).unwrap();
        let (answer, reply) = reply();
        inner
            .spawn({
                let inner = inner.clone();
                async move {
                    inner.sleep(Duration::from_millis(10)).await;
                    answer.answer(7).unwrap();
                }
            })
            .detach();
        let descriptor = inner.descriptor().try_clone_to_owned().unwrap();
        inner.turn(Wait::No).unwrap();
        let outer = executor.clone();
        let pump = executor.spawn(async move {
            loop {
                outer.readable(&descriptor).await.unwrap();
                inner.turn(Wait::No).unwrap();
            }
        });
        assert_eq!(executor.block_on(reply), Some(7));
        drop(pump);
    }
}

/// A hung job, with a lock and a hold: closing takes no longer than without it, and what hangs keeps both.
#[test]
fn closing_does_not_wait_for_what_hangs() {
    for choice in [EngineChoice::IoUring, EngineChoice::Libaio, EngineChoice::Threads] {
        let executor = Executor::new(choice).unwrap();
        let (release, hung) = std::sync::mpsc::channel::<()>();
        let hold: Rc<dyn std::any::Any> = Rc::new(());
        drop(executor.blocking_holding("a job", Some(hold.clone()), move || hung.recv_timeout(HANG)));
        let start = Instant::now();
        executor.turn(Wait::No).unwrap();
        executor.end_tasks();
        assert_eq!((executor.in_flight(), Rc::strong_count(&hold)), (1, 2), "{choice:?}");
        assert!(start.elapsed() < HANG / 2, "{choice:?}: closing waited");
        release.send(()).unwrap();
        while executor.in_flight() > 0 {
            executor.turn(Wait::For(HANG)).unwrap();
        }
        assert_eq!(Rc::strong_count(&hold), 1, "{choice:?}");
    }
}

/// Twenty jobs that hang do not keep anybody from opening a file.
#[test]
fn hung_jobs_do_not_stop_others() {
    let directory = directory();
    let path = directory.path().join("image");
    fs::write(&path, pattern(512, 1)).unwrap();
    for choice in [EngineChoice::IoUring, EngineChoice::Libaio, EngineChoice::Threads] {
        let executor = Executor::new(choice).unwrap();
        let (release, hung): (Vec<_>, Vec<_>) = (0..20).map(|_| mpsc::channel::<()>()).unzip();
        hung.into_iter().for_each(|hung| drop(executor.blocking("a job", move || hung.recv_timeout(HANG))));
        let start = Instant::now();
        assert_eq!(open(&executor, &path, storage_io::OpenOptions::read()).length(), 512);
        assert!(start.elapsed() < HANG / 2, "{choice:?}");
        assert_eq!(executor.in_flight(), 20);
        drop(release);
    }
}

#[test]
fn dropping_an_executor_does_not_wait_for_what_hangs() {
    for choice in [EngineChoice::IoUring, EngineChoice::Libaio, EngineChoice::Threads] {
        let executor = Executor::new(choice).unwrap();
        let (release, hung) = std::sync::mpsc::channel::<()>();
        drop(executor.blocking("a job", move || hung.recv_timeout(HANG)));
        let start = Instant::now();
        drop(executor);
        assert!(start.elapsed() < HANG / 2, "{choice:?}: dropping waited");
        release.send(()).unwrap();
    }
}

/// In a child process: descriptor 0 is closed, or always readable. Neither may end a wait on nothing.
#[test]
fn an_empty_set_does_not_touch_descriptor_0() {
    const CHILD: &str = "OXTAP_TEST_EMPTY_SET";
    if std::env::var_os(CHILD).is_some() {
        if std::env::var(CHILD).unwrap() == "closed" {
            // SAFETY: nobody in this process uses its standard input.
            unsafe { libc::close(0) };
        }
        for choice in [EngineChoice::IoUring, EngineChoice::Libaio, EngineChoice::Threads, EngineChoice::Inline] {
            let executor = Executor::new(choice).unwrap();
            let turns = turns_within(&executor, Duration::from_millis(50));
            assert!(turns < 10, "{choice:?}: {turns} turns: descriptor 0 ends the waits");
            executor.block_on(executor.sleep(Duration::from_millis(1)));
        }
        return;
    }
    for state in ["closed", "readable"] {
        let mut child = Command::new(std::env::current_exe().unwrap())
            .args(["--exact", "an_empty_set_does_not_touch_descriptor_0", "--nocapture"])
            .env(CHILD, state)
            .stdin(Stdio::piped())
            .spawn()
            .unwrap();
        // The end of a pipe is readable for ever.
        drop(child.stdin.take());
        assert!(child.wait().unwrap().success(), "{state}");
    }
}

/// A few tasks that talk, sleep and do I/O in a simulation; the order in which they did.
fn simulated_story(seed: u64) -> (Vec<String>, Moment) {
    let clock = SimulatedClock::new();
    let executor = Executor::simulated(seed, clock.clone());
    let storage = MemoryStorage::new(1 << 16);
    let log = Rc::new(RefCell::new(Vec::new()));
    let tasks: Vec<_> = (0..6)
        .map(|task: u64| {
            let (executor, storage, log) = (executor.clone(), storage.clone(), log.clone());
            let inner = executor.clone();
            executor.spawn(async move {
                for step in 0..5 {
                    if inner.random() % 3 == 0 {
                        inner.sleep(Duration::from_millis(inner.random() % 100)).await;
                    }
                    storage.write_bytes(&inner, at(task * 512), &[step; 512]).await.unwrap();
                    log.borrow_mut().push(format!("{task}:{step}@{:?}", inner.now().since_start()));
                }
            })
        })
        .collect();
    executor.block_on(async {
        for task in tasks {
            task.await;
        }
    });
    let log = log.borrow().clone();
    (log, clock.now())
}

#[test]
fn the_same_seed_gives_the_same_order_and_another_seed_another() {
    let seed = test_support::seed();
    assert_eq!(simulated_story(seed), simulated_story(seed));
    let others = (1..20).filter(|other| simulated_story(seed ^ other).0 != simulated_story(seed).0).count();
    assert!(others > 10, "only {others} of 19 seeds gave another order");
}

#[test]
fn stepping_runs_one_task_at_a_time() {
    let executor = Executor::simulated(1, SimulatedClock::new());
    let count = Rc::new(Cell::new(0));
    for _ in 0..3 {
        let count = count.clone();
        executor.spawn(async move { count.set(count.get() + 1) }).detach();
    }
    for expected in 1..=3 {
        assert!(executor.step());
        assert_eq!(count.get(), expected);
    }
    assert!(!executor.step());
}

#[test]
#[should_panic(expected = "the simulation waits for something that nobody will do")]
fn a_simulation_that_is_stuck_says_so() {
    Executor::simulated(1, SimulatedClock::new()).block_on(std::future::pending::<()>());
}

#[test]
fn a_file_is_not_closed_by_a_dropped_storage_before_its_operations_have_ended() {
    for choice in [EngineChoice::IoUring, EngineChoice::Libaio, EngineChoice::Threads] {
        let executor = &Executor::new(choice).unwrap();
        let directory = directory();
        let path = directory.path().join("image");
        let file = open(executor, &path, new_file(true));
        let buffer = Buffer::from_bytes(&pattern(1 << 20, 1));
        let write = file.submit(executor, StorageOperation::Write { offset: at(0), buffer, durable: false }, None);
        drop((file, write));
        // Whatever opens next would get the number of a descriptor that was closed too early.
        let strangers: Vec<_> =
            (0..8).map(|index| fs::File::create(directory.path().join(format!("{index}"))).unwrap()).collect();
        while executor.in_flight() > 0 {
            executor.turn(Wait::Forever).unwrap();
        }
        assert!(fs::read(&path).unwrap() == pattern(1 << 20, 1), "{choice:?}");
        assert!(strangers.iter().all(|stranger| stranger.metadata().unwrap().len() == 0), "{choice:?}");
        assert!(strangers.iter().all(|stranger| stranger.as_raw_fd() > 2));
    }
}

#[test]
fn moments_of_different_executors_compare() {
    let first = Executor::new(EngineChoice::Probe).unwrap();
    let before = first.now();
    let second = Executor::new(EngineChoice::Probe).unwrap();
    let between = second.now();
    assert!(before <= between && between <= first.now());
}

#[test]
fn what_has_not_ended_is_told_oldest_first() {
    let executor = Executor::new(EngineChoice::Threads).unwrap();
    assert_eq!(executor.operations(), []);
    let (go, hung) = mpsc::channel::<()>();
    let first = executor.spawn(executor.blocking("opening /a.vhd", move || hung.recv_timeout(HANG)));
    executor.block_on(executor.sleep(Duration::from_millis(2)));
    let before = executor.now();
    executor.block_on(executor.sleep(Duration::from_millis(2)));
    let (stay, stuck) = mpsc::channel::<()>();
    let second = executor.blocking("a younger job", move || stuck.recv_timeout(HANG));
    let (_waits, silent) = pair();
    let _readiness = executor.readable(&silent);
    let operations = executor.operations();
    let names: Vec<_> = operations.iter().map(|operation| operation.what.as_str()).collect();
    assert_eq!(names, ["opening /a.vhd", "a younger job"]);
    assert!(operations[0].since < before && operations[1].since > before);
    drop((go, stay));
    executor.block_on(async {
        let _ = (first.await, second.await);
    });
    assert_eq!(executor.operations(), []);
}
