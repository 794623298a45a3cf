//! Limits, as those who send requests feel them; in time that passes only when nothing else can.

#![allow(clippy::unwrap_used, reason = "a test that cannot go on fails")]

mod support;

use std::{
    pin::pin,
    rc::Rc,
    sync::Arc,
    task::{Context, Poll, Waker},
    time::Duration,
};

use block_core::{ErrorKind, GuestOffset, GuestRange, Tag};
use futures_util::future::{Either, select};
use storage_io::{
    Buffer, BufferPool, EngineChoice, Executor, Fault, FaultRule, MemoryFiles, MemoryStorage, OperationKind,
};
use support::{Host, Script, failed, is_done, spec};
use virtual_disk::{
    Account, Budget, Disk, LatencyClass, Limits, Operation, Outcome, Rate, RateLimits, Request, RequestKind,
    RequestSource, Settings,
};

const SECOND: Duration = Duration::from_secs(1);

fn requests(per_second: u64, burst: u64) -> RateLimits {
    RateLimits { requests: Rate::new(per_second).map(|rate| rate.with_burst(burst)), bytes: None }
}

fn bytes(per_second: u64, burst: u64) -> RateLimits {
    RateLimits { requests: None, bytes: Rate::new(per_second).map(|rate| rate.with_burst(burst)) }
}

/// A running disk with limits, and clients with a queue each.
fn limited(seed: u64, limits: Limits, clients: usize) -> (Host, Vec<Script>) {
    let host = Host::running(seed);
    host.disk.limiter().set(limits);
    let scripts: Vec<Script> = (0..clients).map(|_| Script::default()).collect();
    for script in &scripts {
        host.add_queue().serve(script.clone()).detach();
    }
    host.settle();
    (host, scripts)
}

fn many(script: &Script, count: u64, length: usize) {
    for index in 0..count {
        script.read(index % 64 * 4096, length);
    }
}

#[test]
fn requests_come_at_their_rate_after_the_burst() {
    let (host, scripts) = limited(1, Limits { total: requests(100, 50), ..Limits::NONE }, 1);
    many(&scripts[0], 5000, 512);
    host.settle();
    // The bucket is full, and the one that empties it goes beyond.
    assert_eq!(scripts[0].answered(), 51);
    for second in 1..=10 {
        host.pass(SECOND);
        assert_eq!(scripts[0].answered(), 51 + second * 100);
    }
}

#[test]
fn clients_of_all_queues_share_the_rate() {
    let (host, scripts) = limited(2, Limits { total: bytes(1 << 20, 0), ..Limits::NONE }, 3);
    scripts.iter().for_each(|script| many(script, 5000, 4096));
    host.pass(10 * SECOND);
    let answered: Vec<usize> = scripts.iter().map(Script::answered).collect();
    let all: usize = answered.iter().sum();
    assert!((2560..=2562).contains(&all), "{answered:?}");
    // One did not have to wait for its first, and one has just had its turn.
    assert!(answered.iter().all(|count| count.abs_diff(all / 3) <= 2), "each gets its turn: {answered:?}");
}

#[test]
fn reads_do_not_pay_for_writes() {
    let limits = Limits { write: bytes(4096, 0), ..Limits::NONE };
    let (host, scripts) = limited(3, limits, 2);
    for _ in 0..100 {
        scripts[0].write(0, 1, 4096);
    }
    many(&scripts[1], 1000, 4096);
    host.settle();
    assert_eq!(scripts[1].answered(), 1000);
    assert_eq!(scripts[0].answered(), 1);
    host.pass(10 * SECOND);
    assert_eq!(scripts[0].answered(), 11);
}

#[test]
fn what_moves_nothing_is_free() {
    let (host, scripts) = limited(4, Limits { total: requests(1, 0), ..Limits::NONE }, 2);
    scripts[0].read(0, 512);
    scripts[0].read(0, 512);
    let flushes: Vec<_> = (0..10).map(|_| scripts[1].ask(Operation::Flush)).collect();
    host.settle();
    assert!(flushes.into_iter().all(|flush| is_done(scripts[1].answer(flush))));
    assert_eq!(scripts[0].answered(), 1);
}

#[test]
fn reads_pass_writes_that_wait() {
    let (host, scripts) = limited(5, Limits { write: requests(1, 0), ..Limits::NONE }, 1);
    let writes: Vec<_> = (0..10).map(|_| scripts[0].write(0, 1, 512)).collect();
    let read = scripts[0].read(4096, 512);
    host.settle();
    let status = host.disk.status();
    assert!(scripts[0].answer(read).is_some(), "of the same client");
    assert_eq!((scripts[0].answered(), status.held()), (1, 9));
    host.pass(SECOND);
    assert_eq!((scripts[0].answered(), status.held()), (2, 8));
    host.pass(8 * SECOND);
    assert!(writes.into_iter().all(|write| is_done(scripts[0].answer(write))));
    assert_eq!(status.held(), 0);
}

#[test]
fn a_client_with_many_requests_gets_no_more_than_one_with_few() {
    let (host, scripts) = limited(12, Limits { total: requests(10, 0), ..Limits::NONE }, 2);
    many(&scripts[0], 1000, 512);
    host.settle();
    // The other one asks again whenever it was answered.
    let (busy, modest) = (&scripts[0], &scripts[1]);
    let mut asked = 0;
    for _ in 0..100 {
        if modest.answered() == asked {
            modest.read(0, 512);
            asked += 1;
        }
        host.pass(SECOND / 10);
    }
    assert!(busy.answered().abs_diff(modest.answered()) <= 4, "{} and {}", busy.answered(), modest.answered());
}

#[test]
fn limits_that_change_are_felt_at_once() {
    let crawl = Limits { total: bytes(1, 0), ..Limits::NONE };
    let (host, scripts) = limited(6, crawl, 2);
    scripts.iter().for_each(|script| many(script, 101, 4096));
    host.pass(SECOND);
    assert_eq!(scripts.iter().map(Script::answered).sum::<usize>(), 1);
    host.disk.limiter().set(Limits { total: requests(100, 0), ..Limits::NONE });
    host.pass(SECOND - Duration::from_millis(1));
    assert_eq!(scripts.iter().map(Script::answered).sum::<usize>(), 101);
    host.disk.limiter().set(crawl);
    host.pass(SECOND);
    assert_eq!(scripts.iter().map(Script::answered).sum::<usize>(), 102, "the new bucket lets one go");
    host.disk.limiter().set(Limits::NONE);
    host.settle();
    assert_eq!(scripts.iter().map(Script::answered).sum::<usize>(), 202);
}

#[test]
fn time_that_was_waited_for_limits_is_counted_as_such() {
    let (host, scripts) = limited(7, Limits { read: requests(10, 0), ..Limits::NONE }, 1);
    many(&scripts[0], 3, 512);
    host.pass(SECOND);
    let totals = host.disk.status().totals();
    assert_eq!((totals.throttled, totals.throttled_microseconds), (2, 300_000));
    let queued = totals.queued(LatencyClass::Read);
    assert_eq!((queued.count(), queued.longest()), (3, Duration::from_millis(200)));
    assert_eq!(totals.served(LatencyClass::Read).longest(), Duration::ZERO);
    assert_eq!(host.disk.status().count(RequestKind::Read).requests, 3);
}

#[test]
fn a_disk_whose_requests_wait_for_limits_is_paused_at_once_and_keeps_them() {
    let (host, scripts) = limited(8, Limits { total: requests(1, 0), ..Limits::NONE }, 1);
    many(&scripts[0], 4, 512);
    host.settle();
    let before = host.clock.now();
    host.run(async |disk| disk.pause(None).await).unwrap();
    assert_eq!(host.clock.now(), before);
    host.pass(10 * SECOND);
    assert_eq!(scripts[0].answered(), 1);
    host.run(async |disk| disk.resume(None).await).unwrap();
    host.settle();
    // The turn of the one that waited came meanwhile, and nobody has taken anything from the bucket since.
    assert_eq!(scripts[0].answered(), 3);
    host.pass(SECOND);
    assert_eq!(scripts[0].answered(), 4);
}

#[test]
fn a_disk_that_closes_answers_those_that_wait_for_limits() {
    for by_force in [false, true] {
        let (host, scripts) = limited(9, Limits { total: requests(1, 0), ..Limits::NONE }, 1);
        let requests: Vec<_> = (0..3).map(|_| scripts[0].read(0, 512)).collect();
        host.settle();
        let closed = host.run(async move |disk| if by_force { disk.force_close().await } else { disk.close().await });
        closed.unwrap();
        host.settle();
        assert!(scripts[0].answer(requests[0]).is_some());
        for request in &requests[1..] {
            assert_eq!(failed(scripts[0].answer(*request)), ErrorKind::Closed, "by force: {by_force}");
        }
        assert_eq!(host.disk.status().held(), 0);
        // Limits belong to the disk, and outlive what it had open.
        host.run(async |disk| disk.open(support::spec("/a"), Settings::default()).await).unwrap();
        assert!(host.disk.limiter().limits().total.requests.is_some());
    }
}

fn account(budget: &Budget) -> Option<Account> {
    match budget.poll_account(&mut Context::from_waker(Waker::noop())) {
        Poll::Ready(account) => Some(account),
        Poll::Pending => None,
    }
}

#[test]
fn a_budget_is_drawn_on_byte_by_byte() {
    let (host, scripts) = limited(10, Limits::NONE, 2);
    let budget = Budget::new(false);
    host.disk.limiter().set_budget(Some(budget.clone()));
    budget.connected();
    scripts[0].write(0, 1, 4096);
    scripts[0].write(0, 1, 4096);
    scripts[1].write(8192, 1, 512);
    scripts[1].read(8192, 512);
    host.settle();
    let first = account(&budget).unwrap();
    assert_eq!(first, Account { need: 4608, done: 0 }, "one request of each client");
    host.tap.close();
    budget.grant(4608).unwrap();
    host.settle();
    assert_eq!(account(&budget), Some(Account { need: 4096, done: 0 }), "nothing has ended yet");
    host.tap.open();
    host.settle();
    assert_eq!(account(&budget), Some(Account { need: 0, done: 4608 }));
    assert_eq!(scripts.iter().map(Script::answered).sum::<usize>(), 3, "reads are free");
    // Whoever gave has gone: the rest goes on.
    budget.disconnected();
    host.settle();
    assert_eq!(scripts[0].answered(), 2);
}

#[test]
fn a_request_that_fails_is_done_with_as_well() {
    let (host, scripts) = limited(11, Limits::NONE, 1);
    let budget = Budget::new(false);
    host.disk.limiter().set_budget(Some(budget.clone()));
    budget.connected();
    let write = scripts[0].write(0, 1, 4096);
    host.settle();
    account(&budget).unwrap();
    host.faults.add(FaultRule::once_after(0, Fault::error(28)).of(OperationKind::Write));
    budget.grant(4096).unwrap();
    host.settle();
    assert_eq!(failed(scripts[0].answer(write)), ErrorKind::NoSpace);
    assert_eq!(account(&budget), Some(Account { need: 0, done: 4096 }));
}

/// What is refused while it waits for its turn has used nothing of it.
#[test]
fn a_close_gives_reserved_turns_back() {
    let (host, scripts) = limited(31, Limits { total: bytes(1 << 20, 0), ..Limits::NONE }, 1);
    let [script] = &scripts[..] else { panic!("there is one client") };
    let first = script.read(0, 4096);
    let large = script.read(0, 3 << 20);
    host.settle();
    assert!(script.answer(first).is_some() && script.answer(large).is_none());
    host.run(async |disk| disk.close().await).unwrap();
    assert_eq!(failed(script.answer(large)), ErrorKind::Closed);
    host.run(async |disk| disk.open(spec("/a"), Settings::default()).await).unwrap();
    host.pass(SECOND / 100);
    let small = script.read(0, 512);
    host.settle();
    assert!(script.answer(small).is_some(), "only the first request is paid for");
}

/// A client that has its next request ready when the one before is answered, and wakes nobody then.
struct OneByOne {
    left: u32,
    is_running: bool,
}

impl RequestSource for OneByOne {
    fn poll_next(&mut self, _: &mut Context<'_>) -> Poll<Option<Request>> {
        if self.is_running {
            return Poll::Pending;
        }
        if self.left == 0 {
            return Poll::Ready(None);
        }
        self.is_running = true;
        self.left -= 1;
        let range = GuestRange::new(GuestOffset::new(0), 512);
        let operation = Operation::Read { range, buffer: Buffer::zeroed(512) };
        Poll::Ready(Some(Request { tag: Tag(self.left.into()), operation }))
    }

    fn answer(&mut self, _: Tag, _: Outcome) {
        self.is_running = false;
    }

    fn publish(&mut self) {}
}

/// In real time, where a request whose bytes are at hand is answered in the moment in which its turn comes.
#[test]
fn who_waits_for_its_answers_is_asked_again_after_each() {
    let executor = Executor::new(EngineChoice::Probe).unwrap();
    let files = MemoryFiles::new();
    files.put("/a", Arc::new(MemoryStorage::new(4096)));
    let disk = Disk::new(&executor, Rc::new(files), BufferPool::new(1 << 20), Arc::new(()));
    executor.block_on(disk.open(spec("/a"), Settings::default())).unwrap();
    disk.limiter().set(Limits { total: requests(1000, 0), ..Limits::NONE });
    let served = executor.block_on(async {
        let serving = disk.queue().serve(OneByOne { left: 30, is_running: false });
        let hang = executor.sleep(60 * SECOND);
        match select(pin!(serving), pin!(hang)).await {
            Either::Left((source, _)) => source,
            Either::Right(_) => panic!("it is not asked any more"),
        }
    });
    assert_eq!(served.left, 0);
    executor.block_on(disk.close()).unwrap();
    executor.end_tasks();
}
