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
    /// I/O on a file. The kernel reads or writes `buffer` until it completes; `file` keeps descriptor and lock.
    Operation { kind: CommandKind, file: HeldFile, buffer: Option<Buffer>, vectors: Vec<libc::iovec>, done: usize },
    /// Somebody wants to know that a descriptor is ready.
    Watch,
    /// A worker runs a job.
    Job { what: Cow<'static, str> },
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

    /// Starts I/O on a file.
    pub(crate) fn start(
        &mut self,
        kind: CommandKind,
        file: &Arc<OpenFile>,
        buffer: Option<Buffer>,
        hold: Option<Hold>,
        since: Moment,
    ) -> Key {
        let file = self.files.hold(file);
        let work = Work::Operation { kind, file, buffer, vectors: Vec::new(), done: 0 };
        let key = self.entries.insert(Entry { work, waiter: Waiter::None, hold, since });
        self.issue(key);
        key
    }

    /// Gives the kernel what is left of an operation.
    fn issue(&mut self, key: Key) {
        let Work::Operation { kind, file, buffer, vectors, done } = &mut self.entries[key].work else {
            unreachable!("only operations are issued")
        };
        let command = Command {
            kind: *kind,
            descriptor: file.descriptor(),
            direct: file.is_direct(),
            memory: buffer.as_mut().map_or(Memory::None, |buffer| memory_of(buffer, *done, vectors)),
            done: *done,
        };
        if command.is_transfer() && file.is_at_hand(buffer.as_ref().map_or(0, Buffer::len) - *done) {
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
struct HeldFiles(Vec<Weak<Arc<OpenFile>>>);

impl HeldFiles {
    fn hold(&mut self, file: &Arc<OpenFile>) -> HeldFile {
        let mut held = self.0.iter().filter_map(Weak::upgrade);
        if let Some(held) = held.find(|held| Arc::ptr_eq(held, file)) {
            return held;
        }
        let held = Rc::new(file.clone());
        self.0.retain(|other| other.strong_count() > 0);
        self.0.push(Rc::downgrade(&held));
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
            Work::Operation { kind, file, buffer, .. } => file.describe(*kind, buffer.as_ref().map_or(0, Buffer::len)),
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

    /// Accounts for a result of the kernel. A transfer may be cut short by a signal or a limit and goes on where it
    /// stopped; one that moves nothing has met the end of the file.
    fn advance(&mut self, result: i32) -> Advance {
        let Work::Operation { kind, file, buffer, done, .. } = &mut self.work else {
            return Advance::Done(result.min(0));
        };
        if result == -libc::EINTR {
            return Advance::Again;
        }
        let length = buffer.as_ref().map_or(0, Buffer::len);
        let advance = match (usize::try_from(result), buffer) {
            (Ok(moved), Some(buffer)) => transferred(*kind, buffer, done, moved),
            // Behind a short direct read, the rest is not aligned: that was the end of the file.
            (Err(_), Some(_)) if result == -libc::EINVAL && *done > 0 => Advance::Done(SHORT),
            (_, _) => Advance::Done(result.min(0)),
        };
        if let Advance::Done(0) = advance {
            file.was_done(*kind, length);
        }
        advance
    }

    fn into_completion(self, result: i32) -> Completion {
        match self.work {
            Work::Operation { kind, file, buffer, .. } => {
                let length = buffer.as_ref().map_or(0, Buffer::len);
                Completion { buffer, result: to_result(result).map_err(|error| file.explain(kind, length, error)) }
            }
            Work::Watch => Completion { buffer: None, result: to_result(result) },
            Work::Job { what } => {
                Completion { buffer: None, result: to_result(result).map_err(|error| error.context(what)) }
            }
        }
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
