//! The executor: tasks of one thread, run when what they wait for is ready.
//!
//! A turn collects what is ready (completions, readiness, timers, wake-ups from other threads) and then dispatches it:
//! each task that was ready when the dispatch began is polled once. Nothing is borrowed while a task is polled, so a
//! task may spawn, cancel, or run a nested turn; a task that is cancelled inside its own poll is marked and freed when
//! the poll returns.

use std::{
    borrow::Cow,
    cell::{Cell, Ref, RefCell, RefMut},
    future::Future,
    marker::PhantomData,
    os::fd::{AsFd, AsRawFd, BorrowedFd, OwnedFd},
    pin::{Pin, pin},
    rc::{Rc, Weak},
    sync::{Arc, Mutex, PoisonError},
    task::{Context, Poll, Waker},
    time::Duration,
};

use block_core::{Error, Result};
use slab::Slab;

use crate::{
    Blocking, Buffer, Completion, EngineChoice, EngineKind, Hold, Pending, Readiness, Task,
    engine::{self, Chosen, CommandKind, Interest, Key, Simulated},
    open_file::OpenFile,
    reactor::{Begun, Reactor, RunningOperation},
    shared::{Shared, TaskWake},
    task::Slot,
    time::{Clock, Moment, SimulatedClock, Sleep, Timers},
    trace::{LoopTrace, Turn, Woken},
};

/// How long a turn may wait for something to become ready.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Wait {
    /// Not at all.
    No,
    /// At most this long.
    For(Duration),
    /// Until something is.
    Forever,
}

/// Runs tasks and carries their I/O. A handle: clones are the same executor. It stays on the thread that made it; what
/// other threads have are [`crate::Sender`]s and [`Waker`]s.
#[derive(Clone)]
pub struct Executor(Rc<Inner>);

/// Somebody with work under way that neither the kernel nor a worker does: the requests of a client, say.
pub trait UnderWay {
    /// What is under way. Made when somebody asks for it.
    fn under_way(&self) -> Vec<RunningOperation>;
}

/// What the first half of a turn has found.
struct Collected {
    began: Moment,
    /// When the turn began that this one is nested in.
    outer: u64,
    woken: Woken,
    result: Result<()>,
}

/// Names a task; the generation tells it from an earlier one in the same place.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(crate) struct TaskId {
    index: usize,
    generation: u64,
}

struct Inner {
    tasks: RefCell<Slab<TaskEntry>>,
    next_generation: Cell<u64>,
    reactor: RefCell<Reactor>,
    refused: Vec<(EngineKind, Error)>,
    timers: RefCell<Timers>,
    /// What is under way although no kernel knows of it.
    notes: RefCell<Slab<RunningOperation>>,
    /// Those who have work under way of which no kernel knows either, and say so when they are asked.
    accountable: RefCell<Vec<Weak<dyn UnderWay>>>,
    clock: Clock,
    /// What the clock showed when the last turn began to dispatch, and when it had.
    turn_began: Cell<Moment>,
    turn_ended: Cell<Moment>,
    trace: Arc<LoopTrace>,
    random: Cell<u64>,
    /// Ready tasks run in an order drawn from `random`.
    shuffled: bool,
    /// Somebody polls our descriptor in a loop of their own.
    driven_from_outside: Cell<bool>,
    shared: Arc<Shared>,
}

type BoxedFuture = Pin<Box<dyn Future<Output = ()>>>;

struct TaskEntry {
    generation: u64,
    /// Taken out while it is polled.
    future: Option<BoxedFuture>,
    waker: Waker,
    wake: Arc<TaskWake>,
    /// Cancelled inside its own poll.
    cancelled: bool,
    /// A nested turn found it ready inside its own poll.
    ready_again: bool,
}

/// The index of the future that `block_on` was given: no slab is this large.
const MAIN: usize = usize::MAX;

impl Executor {
    /// An executor on the engine that is wanted.
    ///
    /// # Errors
    /// The engine cannot be set up, or for [`EngineChoice::Probe`] none can; the text says why for each.
    pub fn new(choice: EngineChoice) -> Result<Executor> {
        let shared = Arc::new(Shared::new().map_err(|error| Error::from_os("eventfd", error))?);
        let chosen = engine::set_up(choice, &shared)?;
        let seed = u64::from(std::process::id()) << 32 ^ Arc::as_ptr(&shared).addr() as u64;
        Ok(Self::with(chosen, shared, Clock::Monotonic, seed, false))
    }

    /// An executor without a kernel: memory storages only, time from `clock`, ready tasks in an order drawn from
    /// `seed`.
    ///
    /// # Panics
    /// When the process has no descriptor left.
    pub fn simulated(seed: u64, clock: SimulatedClock) -> Executor {
        let shared = Arc::new(Shared::new().expect("a simulation needs one descriptor"));
        let engine = Box::new(Simulated { shared: shared.clone() });
        let chosen = Chosen { engine, refused: Vec::new() };
        Self::with(chosen, shared, Clock::Simulated(clock), seed, true)
    }

    fn with(chosen: Chosen, shared: Arc<Shared>, clock: Clock, seed: u64, shuffled: bool) -> Executor {
        Executor(Rc::new(Inner {
            tasks: RefCell::new(Slab::new()),
            next_generation: Cell::new(0),
            reactor: RefCell::new(Reactor::new(chosen.engine, shared.clone())),
            refused: chosen.refused,
            timers: RefCell::default(),
            notes: RefCell::default(),
            accountable: RefCell::default(),
            turn_began: Cell::new(clock.now()),
            turn_ended: Cell::new(clock.now()),
            trace: Arc::new(LoopTrace::new(clock.clone())),
            clock,
            random: Cell::new(seed),
            shuffled,
            driven_from_outside: Cell::new(false),
            shared,
        }))
    }

    /// The engine it runs on.
    pub fn engine(&self) -> EngineKind {
        self.0.reactor.borrow().engine_kind()
    }

    /// The engines that probing tried before, and why each could not be set up.
    pub fn refused_engines(&self) -> &[(EngineKind, Error)] {
        &self.0.refused
    }

    /// Whether it is a simulation.
    pub fn is_simulated(&self) -> bool {
        self.0.shuffled
    }

    /// Operations and jobs whose completion has not been seen.
    pub fn in_flight(&self) -> usize {
        self.0.reactor.borrow().in_flight()
    }

    /// What the kernel, the worker threads and those who [list](Self::list) theirs have not finished, oldest first. Made
    /// when it is asked for; its times are those of the turns in which the work was asked for.
    pub fn operations(&self) -> Vec<RunningOperation> {
        let mut operations: Vec<_> = self.0.reactor.borrow().under_way().collect();
        operations.extend(self.0.notes.borrow().iter().map(|(_, operation)| operation.clone()));
        let accountable: Vec<_> = self.0.accountable.borrow().iter().filter_map(Weak::upgrade).collect();
        operations.extend(accountable.iter().flat_map(|somebody| somebody.under_way()));
        operations.sort_by_key(|operation| operation.since);
        operations
    }

    /// Lists what somebody has under way, too, as long as it is there.
    pub fn list(&self, somebody: &Rc<impl UnderWay + 'static>) {
        let somebody: Rc<dyn UnderWay> = somebody.clone();
        let mut accountable = self.0.accountable.borrow_mut();
        accountable.retain(|other| other.strong_count() > 0);
        accountable.push(Rc::downgrade(&somebody));
    }

    /// Lists something as under way that neither the kernel nor a worker does, until the note is dropped.
    pub(crate) fn note(&self, what: String) -> Note {
        let operation = RunningOperation { what, since: self.now() };
        Note { executor: self.clone(), index: self.0.notes.borrow_mut().insert(operation) }
    }

    /// Runs `future` as a task of its own.
    pub fn spawn<T: 'static>(&self, future: impl Future<Output = T> + 'static) -> Task<T> {
        let slot = Slot::new();
        let result = slot.clone();
        let id = self.insert(Box::pin(async move { Slot::fill(&result, future.await) }), true);
        Task { executor: self.clone(), id: Some(id), slot }
    }

    /// Runs `future` as a task of its own that nobody waits for, and begins with it at once: what ends without waiting
    /// ends before this returns. (In a simulation it begins when it is drawn, like any other.)
    pub fn begin(&self, future: impl Future<Output = ()> + 'static) {
        let id = self.insert(Box::pin(future), self.0.shuffled);
        if !self.0.shuffled {
            self.run(id.index);
        }
    }

    fn insert(&self, future: BoxedFuture, is_ready: bool) -> TaskId {
        let generation = self.0.next_generation.get();
        self.0.next_generation.set(generation + 1);
        let mut tasks = self.0.tasks.borrow_mut();
        let vacant = tasks.vacant_entry();
        let index = vacant.key();
        let wake = TaskWake::new(index, &self.0.shared);
        let waker = Waker::from(wake.clone());
        if is_ready {
            waker.wake_by_ref();
        }
        vacant.insert(TaskEntry {
            generation,
            future: Some(future),
            waker,
            wake,
            cancelled: false,
            ready_again: false,
        });
        TaskId { index, generation }
    }

    /// Ends a task: at once, or when its own poll returns.
    pub(crate) fn cancel(&self, id: TaskId) {
        let mut tasks = self.0.tasks.borrow_mut();
        let Some(entry) = tasks.get_mut(id.index).filter(|entry| entry.generation == id.generation) else {
            return;
        };
        if entry.future.is_none() {
            entry.cancelled = true;
            return;
        }
        let entry = tasks.remove(id.index);
        // The future's own drop may spawn and cancel.
        drop(tasks);
        drop(entry);
    }

    /// Ends all tasks, as if each had been dropped by whoever spawned it. Tasks hold handles of their executor: one that
    /// is to be freed with tasks still waiting needs this.
    pub fn end_tasks(&self) {
        loop {
            let Some(future) = self.take_any_future() else { return };
            drop(future);
        }
    }

    fn take_any_future(&self) -> Option<BoxedFuture> {
        let mut tasks = self.0.tasks.borrow_mut();
        let index = tasks.iter().find(|(_, entry)| entry.future.is_some()).map(|(index, _)| index)?;
        tasks.remove(index).future
    }

    /// One turn: collects what is ready, waiting as told if nothing is, then dispatches it. Whether a task ran.
    ///
    /// # Errors
    /// The kernel refuses to be waited for; nothing has been lost.
    pub fn turn(&self, wait: Wait) -> Result<bool> {
        let turn = self.collect(wait);
        let polled = self.dispatch();
        self.end_turn(turn, polled)?;
        Ok(polled > 0)
    }

    /// Notes a turn that was dispatched.
    fn end_turn(&self, turn: Collected, polled: u32) -> Result<()> {
        let now = self.now();
        let (began, ended) = (turn.began, self.0.turn_ended.replace(now));
        let (idle, took) = (began - ended, now - began);
        self.0.trace.end(Turn { number: 0, began, idle, took, woken: turn.woken, polled }, turn.outer);
        if self.0.driven_from_outside.get() { turn.result.and(self.leave_to_outside()) } else { turn.result }
    }

    /// Runs `future` to its end, and the other tasks meanwhile.
    ///
    /// # Panics
    /// When the kernel can no longer be waited for, and in a simulation when nothing is left that could ever end it.
    pub fn block_on<T>(&self, future: impl Future<Output = T>) -> T {
        let mut future = pin!(future);
        let wake = TaskWake::woken(MAIN, &self.0.shared);
        let waker = Waker::from(wake.clone());
        // One more task, except that it may borrow and need not be freed. None: nobody has woken it.
        let mut poll = || wake.take().then(|| future.as_mut().poll(&mut Context::from_waker(&waker)));
        let mut polled = poll();
        loop {
            if let Some(Poll::Ready(result)) = polled {
                return result;
            }
            let wait = if wake.is_woken() { Wait::No } else { Wait::Forever };
            let turn = self.collect(wait);
            let ran = self.dispatch();
            polled = poll();
            self.end_turn(turn, ran + u32::from(polled.is_some())).expect("the kernel can be waited for");
            let stuck = self.0.shuffled && ran == 0 && polled.is_none();
            assert!(!stuck || self.advance_clock(), "the simulation waits for something that nobody will do");
        }
    }

    /// Runs one ready task, drawn at random; for simulations that step several executors on one thread. False: none is
    /// ready.
    pub fn step(&self) -> bool {
        let turn = self.collect(Wait::No);
        let chosen = self.0.shared.draw_ready(|count| self.random_below(count));
        if let Some(index) = chosen {
            self.run(index);
        }
        // A simulation has no kernel whose refusal could matter.
        let _ = self.end_turn(turn, chosen.is_some().into());
        chosen.is_some()
    }

    /// In a simulation, moves the clock to the earliest timer. False: there is none.
    pub fn advance_clock(&self) -> bool {
        let Clock::Simulated(clock) = &self.0.clock else {
            return false;
        };
        let Some(deadline) = self.next_timer() else {
            return false;
        };
        clock.advance_to(deadline);
        true
    }

    /// When the earliest timer is due.
    pub fn next_timer(&self) -> Option<Moment> {
        self.0.timers.borrow().next()
    }

    /// The first half of a turn: finds out what is ready, and runs none of it.
    fn collect(&self, wait: Wait) -> Collected {
        let shared = &self.0.shared;
        let has_work = if wait == Wait::No { shared.has_work() } else { shared.fall_asleep() };
        let wait = if has_work { Wait::No } else { wait };
        let timer = self.next_timer().map(|deadline| deadline - self.now());
        let result = self.0.reactor.borrow_mut().collect(wait, timer);
        // Before anyone is woken: who is awake needs no eventfd.
        shared.stay_awake();
        let (completed, ready) = shared.take_completed();
        let mut reactor = self.0.reactor.borrow_mut();
        reactor.complete_collected();
        for (key, result) in completed {
            reactor.complete(key, result);
        }
        let mut woken = Woken { wakes: u32::try_from(ready).unwrap_or(u32::MAX), ..reactor.take_woken() };
        let orphans = reactor.take_orphans();
        drop(reactor);
        let began = self.now();
        self.0.turn_began.set(began);
        let outer = self.0.trace.begin(began);
        drop(orphans);
        woken.timers = self.fire_timers(began);
        Collected { began, outer, woken, result }
    }

    /// Wakes whose time has come; how many.
    fn fire_timers(&self, now: Moment) -> u16 {
        let mut count: u16 = 0;
        while let Some(waker) = self.take_due(now) {
            waker.wake();
            count = count.saturating_add(1);
        }
        count
    }

    fn take_due(&self, now: Moment) -> Option<Waker> {
        self.0.timers.borrow_mut().take_due(now)
    }

    /// Polls each task that is ready now once. What becomes ready meanwhile waits for the next turn; what a nested turn
    /// has run already is not there any more. How many were polled.
    fn dispatch(&self) -> u32 {
        let count = self.0.shared.ready_count();
        if self.0.shuffled {
            self.0.shared.shuffle_ready(|count| self.random_below(count));
        }
        let mut ran = 0;
        for _ in 0..count {
            let Some(index) = self.0.shared.pop_ready() else {
                break;
            };
            ran += u32::from(self.run(index));
        }
        ran
    }

    /// Polls a task. False: there is none, or it is being polled.
    fn run(&self, index: usize) -> bool {
        let Some((mut future, waker)) = self.take_future(index) else {
            return false;
        };
        let poll = future.as_mut().poll(&mut Context::from_waker(&waker));
        let mut tasks = self.0.tasks.borrow_mut();
        let entry = tasks.get_mut(index).expect("a task stays in its place while it is polled");
        if poll.is_pending() && !entry.cancelled {
            entry.future = Some(future);
            if std::mem::take(&mut entry.ready_again) {
                entry.waker.wake_by_ref();
            }
            return true;
        }
        let entry = tasks.remove(index);
        drop(tasks);
        drop((entry, future));
        true
    }

    /// The task's future, for a poll. None when it has ended, or is being polled further up the stack: then it is ready
    /// again when that poll has returned.
    fn take_future(&self, index: usize) -> Option<(BoxedFuture, Waker)> {
        let mut tasks = self.0.tasks.borrow_mut();
        let entry = tasks.get_mut(index)?;
        entry.wake.take();
        let future = entry.future.take();
        entry.ready_again = future.is_none();
        Some((future?, entry.waker.clone()))
    }

    /// A descriptor that is readable when [`Executor::turn`] would find work: a loop that polls it, and calls `turn`
    /// when it is readable, drives this executor. Call `turn` once after asking for it.
    pub fn descriptor(&self) -> BorrowedFd<'_> {
        self.0.driven_from_outside.set(true);
        // What the kernel refuses now, it refuses in the next turn, which can say so.
        let _ = self.leave_to_outside();
        let reactor = self.0.reactor.borrow();
        let descriptor = reactor.descriptor().as_raw_fd();
        // SAFETY: the engine owns the descriptor as long as this executor lives, and the borrow ends before that.
        unsafe { BorrowedFd::borrow_raw(descriptor) }
    }

    /// From now on, whatever becomes ready makes the descriptor readable.
    fn leave_to_outside(&self) -> Result<()> {
        let shared = &self.0.shared;
        if shared.fall_asleep() {
            shared.wake_if_asleep();
        }
        let timer = self.next_timer().map(|deadline| deadline - self.now());
        self.0.reactor.borrow_mut().leave(timer)
    }

    /// The time on its clock.
    pub fn now(&self) -> Moment {
        self.0.clock.now()
    }

    /// What its loop has done lately, for other threads to read, also when a task hangs.
    pub fn trace(&self) -> Arc<LoopTrace> {
        self.0.trace.clone()
    }

    /// The time when the last turn began: what is cheap to know, for what need not be exact.
    pub fn turn_began(&self) -> Moment {
        self.0.turn_began.get()
    }

    /// Ends after `duration`.
    pub fn sleep(&self, duration: Duration) -> Sleep {
        self.sleep_until(self.now() + duration)
    }

    /// Ends when the clock shows `deadline`.
    pub fn sleep_until(&self, deadline: Moment) -> Sleep {
        Sleep::new(self.clone(), deadline)
    }

    pub(crate) fn timers(&self) -> RefMut<'_, Timers> {
        self.0.timers.borrow_mut()
    }

    /// A random number (splitmix64); the same seed gives the same numbers. Not for secrets.
    pub fn random(&self) -> u64 {
        let state = self.0.random.get().wrapping_add(0x9e37_79b9_7f4a_7c15);
        self.0.random.set(state);
        let mixed = (state ^ (state >> 30)).wrapping_mul(0xbf58_476d_1ce4_e5b9);
        let mixed = (mixed ^ (mixed >> 27)).wrapping_mul(0x94d0_49bb_1331_11eb);
        mixed ^ (mixed >> 31)
    }

    fn random_below(&self, count: usize) -> usize {
        usize::try_from(self.random()).unwrap_or(0) % count
    }

    /// Lets the other ready tasks run first.
    pub async fn yield_now(&self) {
        let mut yielded = false;
        std::future::poll_fn(|cx| {
            if std::mem::replace(&mut yielded, true) {
                return Poll::Ready(());
            }
            cx.waker().wake_by_ref();
            Poll::Pending
        })
        .await;
    }

    /// Runs `job` on a worker thread (the inline engine: right here). Dropping the future gives up the answer only.
    /// `what` says what it does, for whoever asks why it takes so long: "opening /a.vhd".
    pub fn blocking<T: Send + 'static>(
        &self,
        what: impl Into<Cow<'static, str>>,
        job: impl FnOnce() -> T + Send + 'static,
    ) -> Blocking<T> {
        self.blocking_holding(what, None, job)
    }

    /// As [`Executor::blocking`]; `hold` is kept until the job has ended.
    pub fn blocking_holding<T: Send + 'static>(
        &self,
        what: impl Into<Cow<'static, str>>,
        hold: Option<Hold>,
        job: impl FnOnce() -> T + Send + 'static,
    ) -> Blocking<T> {
        let result = Arc::new(Mutex::new(None));
        let slot = result.clone();
        let run = move || {
            let outcome = job();
            *slot.lock().unwrap_or_else(PoisonError::into_inner) = Some(outcome);
            0
        };
        let key = self.0.reactor.borrow_mut().job(what.into(), Box::new(run), hold, self.turn_began());
        Blocking { pending: Pending::kernel(self.clone(), key), result }
    }

    /// Ends when `descriptor`, which must be non-blocking, can be read. At most one task waits for it at a time.
    pub fn readable<'fd>(&self, descriptor: &'fd impl AsFd) -> Readiness<'fd> {
        self.watch(descriptor.as_fd(), Interest::Read)
    }

    /// Ends when `descriptor`, which must be non-blocking, can be written. At most one task waits for it at a time.
    pub fn writable<'fd>(&self, descriptor: &'fd impl AsFd) -> Readiness<'fd> {
        self.watch(descriptor.as_fd(), Interest::Write)
    }

    /// As [`Executor::readable`], for a future that is stored beside the descriptor that it waits for.
    pub fn readable_owned(&self, descriptor: Arc<OwnedFd>) -> Readiness<'static> {
        self.watch_owned(descriptor, Interest::Read)
    }

    /// As [`Executor::writable`], for a future that is stored beside the descriptor that it waits for.
    pub fn writable_owned(&self, descriptor: Arc<OwnedFd>) -> Readiness<'static> {
        self.watch_owned(descriptor, Interest::Write)
    }

    fn watch_owned(&self, descriptor: Arc<OwnedFd>, interest: Interest) -> Readiness<'static> {
        let key = self.0.reactor.borrow_mut().watch(descriptor.as_raw_fd(), interest, self.turn_began());
        Readiness { executor: self.clone(), key: Some(key), descriptor: PhantomData, _owned: Some(descriptor) }
    }

    fn watch<'fd>(&self, descriptor: BorrowedFd<'fd>, interest: Interest) -> Readiness<'fd> {
        let key = self.0.reactor.borrow_mut().watch(descriptor.as_raw_fd(), interest, self.turn_began());
        Readiness { executor: self.clone(), key: Some(key), descriptor: PhantomData, _owned: None }
    }

    pub(crate) fn unwatch(&self, key: Key) {
        self.0.reactor.borrow_mut().unwatch(key);
    }

    /// Starts I/O on a file; file, buffer and hold are kept until the kernel has finished with them.
    pub(crate) fn start(
        &self,
        kind: CommandKind,
        file: &Arc<OpenFile>,
        buffer: Option<Buffer>,
        hold: Option<Hold>,
    ) -> Pending {
        let begun = self.0.reactor.borrow_mut().start(kind, file, buffer, hold, self.turn_began());
        match begun {
            Begun::Running(key) => Pending::kernel(self.clone(), key),
            // The hold's own drop may call the executor.
            Begun::Done(completion, _hold) => Pending::completed(completion),
        }
    }

    pub(crate) fn poll_operation(&self, key: Key, cx: &mut Context<'_>) -> Option<Completion> {
        let answer = self.0.reactor.borrow_mut().poll(key, cx);
        // The hold's own drop may call the executor.
        answer.map(|(completion, _hold)| completion)
    }

    pub(crate) fn abandon(&self, key: Key) {
        self.0.reactor.borrow_mut().abandon(key);
    }
}

/// Keeps something in the list of what is under way.
pub(crate) struct Note {
    executor: Executor,
    index: usize,
}

impl Drop for Note {
    fn drop(&mut self) {
        self.executor.0.notes.borrow_mut().remove(self.index);
    }
}

impl std::fmt::Debug for Executor {
    fn fmt(&self, f: &mut std::fmt::Formatter<'_>) -> std::fmt::Result {
        let tasks: Ref<'_, Slab<TaskEntry>> = self.0.tasks.borrow();
        write!(f, "Executor({} tasks)", tasks.len())
    }
}
