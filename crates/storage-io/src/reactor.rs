//! What is on its way: operations with the memory that the kernel owns meanwhile, readiness, jobs on worker threads.

use std::{
    borrow::Cow,
    os::fd::{BorrowedFd, RawFd},
    rc::{Rc, Weak},
    sync::Arc,
    task::{Context, Waker},
    time::Duration,
};

use block_core::{Error, ErrorKind};
use slab::Slab;

use crate::{
    Buffer, Completion, Hold,
    engine::{Command, CommandKind, Engine, EngineKind, Interest, Key, Memory, Started},
    executor::Wait,
    open_file::OpenFile,
    shared::Shared,
    time::Moment,
    trace::Woken,
    worker::{Job, Refused, WORKERS_MAX, Workers},
};

/// Something that the kernel or a worker thread has not finished.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct RunningOperation {
    /// What it is: "/a.vhd: writing 4096 bytes at 0x2000", "opening /a.vhd".
    pub what: String,
    /// Since when, on the executor's clock.
    pub since: Moment,
}

/// The table of what is on its way, and the engine that carries it.
pub(crate) struct Reactor {
    entries: Slab<Entry>,
    engine: Box<dyn Engine>,
    workers: Workers,
    /// Completions of one collection, and what was done at once since; kept to reuse its memory.
    collected: Vec<(Key, i32)>,
    /// Completed, and nobody waits for them any more.
    orphans: Vec<Orphan>,
    /// What has completed since somebody asked.
    woken: Woken,
    files: HeldFiles,
    /// Bytes that may still be moved at once in this turn.
    at_once_left: usize,
}

/// What became of an operation that was started.
pub(crate) enum Begun {
    /// It will complete.
    Running(Key),
    /// It has. The hold is to be dropped when the reactor is no longer borrowed.
    Done(Completion, Option<Hold>),
}

struct Entry {
    work: Work,
    waiter: Waiter,
    /// Kept until the work ends, whoever still waits.
    hold: Option<Hold>,
    /// When the turn began in which it was asked for.
    since: Moment,
}

enum Work {
    /// I/O on a file. The kernel reads or writes its buffer until it completes; `file` keeps descriptor and lock.
    Operation { file: HeldFile, step: Step },
    /// Somebody wants to know that a descriptor is ready.
    Watch,
    /// A worker runs a job.
    Job { what: Cow<'static, str> },
}

/// I/O on a file, and how far it has come.
struct Step {
    kind: CommandKind,
    buffer: Option<Buffer>,
    vectors: Vec<libc::iovec>,
    done: usize,
}

enum Waiter {
    /// Nobody has asked yet.
    None,
    /// To be woken.
    Task(Waker),
    /// The answer is there and was not taken yet.
    Answered(i32),
    /// Whoever asked has gone; the entry goes with the completion.
    Gone,
}

impl Reactor {
    pub(crate) fn new(engine: Box<dyn Engine>, shared: Arc<Shared>) -> Self {
        let workers = Workers::new(shared);
        Reactor {
            entries: Slab::new(),
            engine,
            workers,
            collected: Vec::new(),
            orphans: Vec::new(),
            woken: Woken::default(),
            files: HeldFiles::default(),
            at_once_left: AT_ONCE_MAX,
        }
    }

    pub(crate) fn engine_kind(&self) -> EngineKind {
        self.engine.kind()
    }

    pub(crate) fn descriptor(&self) -> BorrowedFd<'_> {
        self.engine.descriptor()
    }

    /// Operations and jobs that have not completed.
    pub(crate) fn in_flight(&self) -> usize {
        self.entries.iter().filter(|(_, entry)| entry.is_in_flight()).count()
    }

    /// What has not completed, and since when; readiness is nobody's work.
    pub(crate) fn under_way(&self) -> impl Iterator<Item = RunningOperation> {
        let running = self.entries.iter().filter(|(_, entry)| entry.is_in_flight());
        running.map(|(_, entry)| RunningOperation { what: entry.work.describe(), since: entry.since })
    }

    /// Starts I/O on a file. What is at hand is done at once, but not so much that others would have to wait for it.
    pub(crate) fn start(
        &mut self,
        kind: CommandKind,
        file: &Arc<OpenFile>,
        buffer: Option<Buffer>,
        hold: Option<Hold>,
        since: Moment,
    ) -> Begun {
        let mut step = Step { kind, buffer, vectors: Vec::new(), done: 0 };
        let cost = step.length().max(AT_ONCE_COST_MIN);
        if step.is_at_hand(file) && cost <= self.at_once_left {
            self.at_once_left -= cost;
            self.woken.completions = self.woken.completions.saturating_add(1);
            let result = step.run(file);
            return Begun::Done(step.into_completion(file, result), hold);
        }
        let file = self.files.hold(file);
        let work = Work::Operation { file, step };
        let key = self.entries.insert(Entry { work, waiter: Waiter::None, hold, since });
        self.issue(key);
        Begun::Running(key)
    }

    /// Gives the kernel what is left of an operation.
    fn issue(&mut self, key: Key) {
        let Work::Operation { file, step } = &mut self.entries[key].work else {
            unreachable!("only operations are issued")
        };
        let command = step.command(file);
        if step.is_at_hand(file) {
            // Such a file system offers nothing but calls that wait, and nothing to wait for.
            self.collected.push((key, command.run()));
            return;
        }
        let group = Arc::as_ptr(&**file).addr();
        if let Started::Refused = self.engine.start(key, command) {
            let taken = self.workers.run_for(group, key, Box::new(move || command.run()));
            self.settle(key, taken);
        }
    }

    /// Runs a job on a worker thread.
    pub(crate) fn job(&mut self, what: Cow<'static, str>, job: Job, hold: Option<Hold>, since: Moment) -> Key {
        let key = self.entries.insert(Entry { work: Work::Job { what }, waiter: Waiter::None, hold, since });
        if self.engine.runs_jobs_inline() {
            let result = job();
            self.finish(key, result);
            return key;
        }
        let entries = &self.entries;
        let hang = |entry: &Entry| entry.is_in_flight() && since - entry.since > HUNG;
        let most_hang = || entries.iter().filter(|(_, entry)| hang(entry)).count() > WORKERS_MAX / 2;
        let taken = self.workers.run(key, job, || !most_hang());
        self.settle(key, taken);
        key
    }

    /// Ends what the workers have not taken.
    fn settle(&mut self, key: Key, taken: Result<(), Refused>) {
        match taken {
            Ok(()) => {}
            Err(Refused::AllBusy) => self.finish(key, ALL_BUSY),
            Err(Refused::NoThread(error)) => self.finish(key, -error.raw_os_error().unwrap_or(libc::EAGAIN)),
        }
    }

    /// Waits for `descriptor` to become ready, once.
    pub(crate) fn watch(&mut self, descriptor: RawFd, interest: Interest, since: Moment) -> Key {
        let key = self.entries.insert(Entry { work: Work::Watch, waiter: Waiter::None, hold: None, since });
        if let Err(error) = self.engine.watch(key, descriptor, interest) {
            self.finish(key, -error.raw_os_error().unwrap_or(libc::EIO));
        }
        key
    }

    /// Gives up a watch. Engines that report it all the same find the entry marked.
    pub(crate) fn unwatch(&mut self, key: Key) {
        if let Waiter::Answered(_) = self.entries[key].waiter {
            self.entries.remove(key);
        } else if self.engine.unwatch(key) {
            self.entries.remove(key);
        } else {
            self.entries[key].waiter = Waiter::Gone;
        }
    }

    /// The answer, if it is there; otherwise `cx` is woken when it is. The hold comes with it, to be dropped when the
    /// reactor is no longer borrowed.
    pub(crate) fn poll(&mut self, key: Key, cx: &mut Context<'_>) -> Option<(Completion, Option<Hold>)> {
        let entry = &mut self.entries[key];
        if let Waiter::Answered(result) = entry.waiter {
            let mut entry = self.entries.remove(key);
            let hold = entry.hold.take();
            return Some((entry.into_completion(result), hold));
        }
        entry.waiter = Waiter::Task(cx.waker().clone());
        None
    }

    /// Nobody waits any more. What the kernel holds stays until its completion.
    pub(crate) fn abandon(&mut self, key: Key) {
        let entry = &mut self.entries[key];
        if let Waiter::Answered(_) = entry.waiter {
            self.orphans.push(Orphan { _entry: self.entries.remove(key) });
        } else {
            entry.waiter = Waiter::Gone;
        }
    }

    /// Collects what has completed, waiting as told. Nobody is woken yet.
    pub(crate) fn collect(&mut self, wait: Wait, timer: Option<Duration>) -> Result<(), Error> {
        self.at_once_left = AT_ONCE_MAX;
        let wait = if self.collected.is_empty() { wait } else { Wait::No };
        self.engine
            .collect(wait, timer, &mut self.collected)
            .map_err(|error| Error::from_os("waiting for completions", error))
    }

    /// Takes the completions that were collected; wakes who waits for them.
    pub(crate) fn complete_collected(&mut self) {
        let mut collected = std::mem::take(&mut self.collected);
        for (key, result) in collected.drain(..) {
            self.complete(key, result);
        }
        // What was started again meanwhile, and done at once, has been collected behind it.
        collected.append(&mut self.collected);
        self.collected = collected;
    }

    /// What has completed since the last call.
    pub(crate) fn take_woken(&mut self) -> Woken {
        std::mem::take(&mut self.woken)
    }

    /// Leaves waiting to whoever polls the descriptor.
    pub(crate) fn leave(&mut self, timer: Option<Duration>) -> Result<(), Error> {
        let timer = if self.collected.is_empty() { timer } else { Some(Duration::ZERO) };
        self.engine.leave(timer).map_err(|error| Error::from_os("handing over operations", error))
    }

    /// What completed with nobody waiting. The caller drops it when the reactor is no longer borrowed, since the drop of
    /// a hold may call the executor.
    #[must_use]
    pub(crate) fn take_orphans(&mut self) -> Vec<Orphan> {
        std::mem::take(&mut self.orphans)
    }

    /// Takes the completion of one entry, which was waited for.
    pub(crate) fn complete(&mut self, key: Key, result: i32) {
        self.entries[key].work.count(&mut self.woken);
        self.finish(key, result);
    }

    /// Goes on with what is left of a short transfer, or wakes the waiter.
    fn finish(&mut self, key: Key, result: i32) {
        let entry = &mut self.entries[key];
        let result = match entry.advance(result) {
            Advance::Again => {
                self.issue(key);
                return;
            }
            Advance::Done(result) => result,
        };
        match std::mem::replace(&mut entry.waiter, Waiter::Answered(result)) {
            Waiter::Task(waker) => waker.wake(),
            Waiter::Gone => self.orphans.push(Orphan { _entry: self.entries.remove(key) }),
            Waiter::None => {}
            Waiter::Answered(_) => unreachable!("an operation completes once"),
        }
    }
}

/// A file that operations of this thread have in use.
type HeldFile = Rc<Arc<OpenFile>>;

/// The files in use, each held once for all operations on it: threads that share a file would otherwise write its count
/// with every operation, in a line that all of them read.
#[derive(Default)]
struct HeldFiles(Vec<(*const OpenFile, Weak<Arc<OpenFile>>)>);

impl HeldFiles {
    fn hold(&mut self, file: &Arc<OpenFile>) -> HeldFile {
        let address = Arc::as_ptr(file);
        // A file that has gone may have had the same address.
        let known = self.0.iter().filter(|(other, _)| *other == address).find_map(|(_, held)| held.upgrade());
        if let Some(held) = known {
            return held;
        }
        let held = Rc::new(file.clone());
        self.0.retain(|(_, other)| other.strong_count() > 0);
        self.0.push((address, Rc::downgrade(&held)));
        held
    }
}

/// An entry that nobody waits for any more; dropping it drops its file, buffer and hold.
pub(crate) struct Orphan {
    _entry: Entry,
}

enum Advance {
    Again,
    Done(i32),
}

impl Work {
    fn describe(&self) -> String {
        match self {
            Work::Operation { file, step } => file.describe(step.kind, step.length()),
            Work::Watch => "waiting for a descriptor".into(),
            Work::Job { what } => what.to_string(),
        }
    }

    fn count(&self, woken: &mut Woken) {
        let count = match self {
            Work::Operation { .. } => &mut woken.completions,
            Work::Watch => &mut woken.readiness,
            Work::Job { .. } => &mut woken.jobs,
        };
        *count = count.saturating_add(1);
    }
}

impl Entry {
    fn is_in_flight(&self) -> bool {
        !matches!(self.work, Work::Watch) && !matches!(self.waiter, Waiter::Answered(_))
    }

    fn advance(&mut self, result: i32) -> Advance {
        match &mut self.work {
            Work::Operation { file, step } => step.advance(file, result),
            _ => Advance::Done(result.min(0)),
        }
    }

    fn into_completion(self, result: i32) -> Completion {
        match self.work {
            Work::Operation { file, step } => step.into_completion(&file, result),
            Work::Watch => Completion { buffer: None, result: to_result(result) },
            Work::Job { what } => {
                Completion { buffer: None, result: to_result(result).map_err(|error| error.context(what)) }
            }
        }
    }
}

impl Step {
    fn length(&self) -> usize {
        self.buffer.as_ref().map_or(0, Buffer::len)
    }

    /// The call to the kernel for what is left of it.
    fn command(&mut self, file: &OpenFile) -> Command {
        let (done, vectors) = (self.done, &mut self.vectors);
        Command {
            kind: self.kind,
            descriptor: file.descriptor(),
            direct: file.is_direct(),
            memory: self.buffer.as_mut().map_or(Memory::None, |buffer| memory_of(buffer, done, vectors)),
            done,
        }
    }

    /// Whether the calling thread moves what is left in no more time than it takes to have somebody else do it.
    fn is_at_hand(&self, file: &OpenFile) -> bool {
        self.kind.is_transfer() && file.is_at_hand(self.length() - self.done)
    }

    /// Does it on the calling thread.
    fn run(&mut self, file: &OpenFile) -> i32 {
        loop {
            let result = self.command(file).run();
            if let Advance::Done(result) = self.advance(file, result) {
                return result;
            }
        }
    }

    /// Accounts for a result of the kernel. A transfer may be cut short by a signal or a limit and goes on where it
    /// stopped; one that moves nothing has met the end of the file.
    fn advance(&mut self, file: &OpenFile, result: i32) -> Advance {
        if result == -libc::EINTR {
            return Advance::Again;
        }
        let length = self.length();
        let advance = match (usize::try_from(result), &mut self.buffer) {
            (Ok(moved), Some(buffer)) => transferred(self.kind, buffer, &mut self.done, moved),
            // Behind a short direct read, the rest is not aligned: that was the end of the file.
            (Err(_), Some(_)) if result == -libc::EINVAL && self.done > 0 => Advance::Done(SHORT),
            (_, _) => Advance::Done(result.min(0)),
        };
        if let Advance::Done(0) = advance {
            file.was_done(self.kind, length);
        }
        advance
    }

    fn into_completion(self, file: &OpenFile, result: i32) -> Completion {
        let length = self.length();
        let result = to_result(result).map_err(|error| file.explain(self.kind, length, error));
        Completion { buffer: self.buffer, result }
    }
}

/// The kernel's view of what is left of a buffer; a single run needs no list.
fn memory_of(buffer: &mut Buffer, done: usize, vectors: &mut Vec<libc::iovec>) -> Memory {
    if let Some(run) = buffer.single_run(done) {
        return Memory::of(&[run]);
    }
    buffer.io_vectors(done, vectors);
    Memory::of(vectors)
}

/// Accounts for `moved` bytes of a transfer.
fn transferred(kind: CommandKind, buffer: &mut Buffer, done: &mut usize, moved: usize) -> Advance {
    *done += moved;
    if *done >= buffer.len() {
        return Advance::Done(0);
    }
    let tail = match kind {
        CommandKind::Read { tail, .. } => tail,
        _ => 0,
    };
    if tail > 0 && *done + tail >= buffer.len() {
        buffer.fill(*done, buffer.len() - *done, 0);
        return Advance::Done(0);
    }
    if moved == 0 { Advance::Done(SHORT) } else { Advance::Again }
}

/// A transfer that met the end of the file; no error number of the kernel is this small.
const SHORT: i32 = -5000;
/// Bytes that are moved at once in one turn. What comes then waits for the next: a task that reads without end holds up
/// no other.
const AT_ONCE_MAX: usize = 2 << 20;
/// What the shortest of these transfers counts for.
const AT_ONCE_COST_MIN: usize = 4 << 10;
/// What takes longer on a worker thread is taken to hang.
const HUNG: Duration = Duration::from_secs(10);
/// A job for which there is no thread.
const ALL_BUSY: i32 = -5001;

fn to_result(result: i32) -> Result<(), Error> {
    match result {
        0.. => Ok(()),
        SHORT => Err(Error::new(ErrorKind::Io, "the storage ends before the range does")),
        ALL_BUSY => Err(Error::new(ErrorKind::LimitReached, "all worker threads hang that there may be")),
        errno => Err(Error::from_os("", std::io::Error::from_raw_os_error(-errno))),
    }
}

impl Drop for Reactor {
    /// The kernel may still write into memory that was not given back: that memory is leaked on purpose.
    fn drop(&mut self) {
        let entries = std::mem::take(&mut self.entries);
        for (_, entry) in entries {
            if entry.is_in_flight() {
                std::mem::forget(entry);
            }
        }
    }
}
