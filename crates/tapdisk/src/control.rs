//! What the process does with requests: tells at once what can be told, and orders from the disks what must be done.

use std::{
    cell::{Cell, RefCell},
    os::fd::OwnedFd,
    pin::pin,
    rc::Rc,
    sync::Arc,
    time::Duration,
};

use block_core::{Error, ErrorKind, Result, ResultExt};
use control_api::{Minor, RunDir, errno};
use futures_util::future::{Either, join_all, select};
use rustix::io::Errno;
use storage_io::{EngineKind, Executor, Moment, Signal, Task, mailbox, reply};

use crate::{
    answers,
    arguments::Options,
    home::{self, Done, Job, JobKind, Setup},
    jail::Jail,
    jobs::{self, JobRecord, Jobs},
    log::{Log, seconds},
    loops::{LoopState, Loops},
    rings::{Parting, Platform, RingName},
    shared_memory::StatisticsDirectory,
    slot::{Published, Slot},
};

/// Named descriptors that images may ask for.
const NAMED_DESCRIPTORS_MAX: usize = 10;
/// What of such a name counts.
const DESCRIPTOR_NAME_BYTES_MAX: usize = 39;
/// How long closing may take when the process is told to end; then it is done by force.
const END_GRACE: Duration = Duration::from_secs(10);

/// What became of a close that took too long.
const TOO_LATE: &str = "close by force";

/// The process: its slots, and what must be removed when it ends.
pub(crate) struct Control {
    executor: Executor,
    pub(crate) run: RunDir,
    pub(crate) pid: u32,
    options: Options,
    jail: Jail,
    /// What does the I/O of new disks.
    found: EngineKind,
    begun: Moment,
    pub(crate) log: Log,
    pub(crate) loops: Loops,
    /// In the order of their attachment.
    pub(crate) slots: RefCell<Vec<Rc<Slot>>>,
    pub(crate) jobs: Jobs,
    descriptors: RefCell<Vec<(String, OwnedFd)>>,
    /// Tasks and directories that go when the process ends, before its last answer.
    belongings: RefCell<Option<Belongings>>,
    /// Devices in which everything fails.
    failing: Cell<usize>,
    /// Something was attached, once, or fails here.
    was_used: Cell<bool>,
    is_ending: Cell<bool>,
    changed: Signal,
}

/// What others see of the process.
pub(crate) struct Belongings {
    /// Tasks that hold the sockets of the process.
    pub(crate) _listeners: Vec<Task<()>>,
    pub(crate) _statistics: StatisticsDirectory,
}

impl Control {
    pub(crate) fn new(
        executor: &Executor,
        run: RunDir,
        pid: u32,
        options: Options,
        found: EngineKind,
        jail: Jail,
        log: Log,
    ) -> Rc<Control> {
        Rc::new(Control {
            executor: executor.clone(),
            run,
            pid,
            options,
            jail,
            found,
            begun: executor.now(),
            log,
            loops: Loops::default(),
            slots: RefCell::default(),
            jobs: Jobs::default(),
            descriptors: RefCell::default(),
            belongings: RefCell::default(),
            failing: Cell::new(0),
            was_used: Cell::new(false),
            is_ending: Cell::new(false),
            changed: Signal::new(),
        })
    }

    /// The loop of the control sockets.
    pub(crate) fn executor(&self) -> &Executor {
        &self.executor
    }

    /// Ends, after so long, if nobody has given it anything to do: whoever has started it for that is no more.
    pub(crate) async fn end_if_unused(self: Rc<Self>, time: Duration) {
        self.executor.sleep(time).await;
        if !self.was_used.get() {
            self.log.info("nobody has given it anything to do: it ends");
            self.end();
        }
    }

    /// There is one more device in which everything fails.
    pub(crate) fn begins_to_fail(&self) {
        self.was_used.set(true);
        self.failing.set(self.failing.get() + 1);
    }

    /// There is one less. Who was started for it alone has nothing more to do.
    pub(crate) fn fails_no_more(&self) {
        self.failing.set(self.failing.get() - 1);
        if self.failing.get() == 0 && self.slots.borrow().is_empty() {
            self.end();
        }
    }

    pub(crate) fn now(&self) -> Moment {
        self.executor.now()
    }

    /// Since it began.
    pub(crate) fn uptime(&self) -> Duration {
        self.now() - self.begun
    }

    /// Where guests are.
    pub(crate) fn platform(&self) -> &Platform {
        &self.options.platform
    }

    /// What does the I/O of new disks.
    pub(crate) fn engine_found(&self) -> EngineKind {
        self.found
    }

    pub(crate) fn own(&self, belongings: Belongings) {
        self.belongings.replace(Some(belongings));
    }

    /// Ends when the process should.
    pub(crate) async fn ended(&self) {
        self.changed.until(|| self.is_ending.get() && self.slots.borrow().is_empty()).await;
    }

    /// Keeps a descriptor for an image that asks for it by this name; an older one of this name is closed.
    pub(crate) fn keep_descriptor(&self, name: &str, descriptor: OwnedFd) {
        let name = answers::cut(name, DESCRIPTOR_NAME_BYTES_MAX);
        let mut descriptors = self.descriptors.borrow_mut();
        descriptors.retain(|(known, _)| known != name);
        if descriptors.len() >= NAMED_DESCRIPTORS_MAX {
            self.log.warning(format!("descriptor {name:?} refused: {NAMED_DESCRIPTORS_MAX} are kept already"));
            return;
        }
        descriptors.push((name.to_owned(), descriptor));
    }

    pub(crate) fn find(&self, cookie: u16) -> Option<Rc<Slot>> {
        self.slots.borrow().iter().find(|slot| slot.minor().number() == cookie).cloned()
    }

    pub(crate) fn slot(&self, cookie: u16) -> Result<Rc<Slot>> {
        self.find(cookie).ok_or_else(|| os(format!("minor {cookie} is not attached here"), Errno::NODEV))
    }

    pub(crate) async fn attach(self: &Rc<Self>, cookie: u16) -> Result<()> {
        let words = |words| format!("minor {cookie} {words}");
        if self.is_ending.get() {
            return Err(Error::new(ErrorKind::Closed, "this tapdisk is about to end"));
        }
        if self.find(cookie).is_some() {
            return Err(os(words("is attached here already"), Errno::EXIST));
        }
        let minor = Minor::new(cookie).ok_or_else(|| os(words("is not allocated"), Errno::PERM))?;
        // Never waits: a marker that another tapdisk holds is an error.
        let held = self.run.hold_minor(minor)?;
        self.was_used.set(true);
        let published = Arc::new(Published::default());
        let ((orders, their_orders), (urgent, their_urgent)) = (mailbox(), mailbox());
        let setup = Setup {
            minor,
            pid: self.pid,
            run: self.run.clone(),
            engine: self.options.engine,
            retry_eio: self.options.retry_eio,
            platform: self.options.platform.clone(),
            budget: self.options.budget,
            jail: self.jail.clone(),
            log: self.log.clone(),
            loops: self.loops.clone(),
            published: published.clone(),
            orders: their_orders,
            urgent: their_urgent,
        };
        let (up, is_up) = reply();
        let slot = Rc::new(Slot::new(held, published, orders, urgent));
        home::start(setup, up).context("thread")?;
        // From here on it is taken, also while the thread comes up.
        self.slots.borrow_mut().push(slot.clone());
        let gone = || Err(Error::new(ErrorKind::Closed, words("has lost its thread")));
        match is_up.await.unwrap_or_else(gone) {
            Ok(status) => slot.is_up(status),
            Err(error) => {
                self.forget(&slot);
                return Err(error);
            }
        }
        self.log.info(format!("minor={minor}: attached"));
        Ok(())
    }

    fn forget(&self, slot: &Rc<Slot>) {
        self.slots.borrow_mut().retain(|other| !Rc::ptr_eq(other, slot));
        self.changed.notify();
    }

    /// Begins a job: it is done when those before it at the same disk have been, whoever waits for it.
    pub(crate) fn begin(self: &Rc<Self>, slot: &Rc<Slot>, job: Job) -> Result<Rc<JobRecord>> {
        let record = self.jobs.begin(slot.minor(), job.kind(), job.connects(), self.executor.now())?;
        let waits = job.kind().waits_for_its_turn();
        if waits {
            slot.line_up(&record);
        }
        let (control, slot, entry) = (self.clone(), slot.clone(), record.clone());
        let task = async move {
            let done = control.carry_out(&slot, &entry, job).await;
            if waits {
                slot.leave(&entry);
            }
            control.log_end(&slot, &entry, &done);
            if entry.kind == JobKind::Detach && done.is_ok() {
                control.forget(&slot);
                // Gone before the answer: whoever gets it finds nothing left. (Also the lock of the marker.)
                drop(slot);
                if control.slots.borrow().is_empty() {
                    control.end();
                }
            }
            control.jobs.end(&entry, done);
        };
        self.executor.spawn(task).detach();
        Ok(record)
    }

    /// Does a job and waits for its end.
    pub(crate) async fn have_done(self: &Rc<Self>, slot: &Rc<Slot>, job: Job) -> Done {
        self.begin(slot, job)?.ended().await
    }

    async fn carry_out(&self, slot: &Rc<Slot>, record: &JobRecord, job: Job) -> Done {
        if let Job::ForceClose = job {
            record.run();
            return slot.force().await;
        }
        let end = job.deadline().map(|deadline| record.asked + deadline);
        if let Job::DisconnectRing { name, parting } = job {
            record.run();
            self.in_time(end, self.turn_connects_back(slot, name)).await;
            let deadline = end.map(|end| end - self.executor.now());
            return slot.disconnect_ring(name, Parting { deadline, ..parting }).await;
        }
        if let Job::SettleRing(name) = job {
            record.run();
            return slot.settle_ring(name).await;
        }
        match self.in_time(end, slot.turn_of(record)).await {
            Some(true) => record.run(),
            Some(false) => return jobs::cancelled(),
            None if record.kind == JobKind::Close => {
                record.run();
                return slot.force().await.context(TOO_LATE);
            }
            None => return Err(Error::new(ErrorKind::TimedOut, "others are still being done to the disk")),
        }
        let job = job.with_deadline(end.map(|end| end - self.executor.now()));
        let is_close = record.kind == JobKind::Close;
        match self.in_time(end.filter(|_| is_close), slot.order(record.number, job)).await {
            Some(done) => done,
            None => slot.force().await.context(TOO_LATE),
        }
    }

    /// No device of this name is connected later that was asked for before.
    async fn turn_connects_back(&self, slot: &Slot, name: RingName) {
        for connect in self.jobs.unfinished(slot.minor()).into_iter().filter(|job| job.ring == Some(name)) {
            connect.cancel();
            slot.look_again();
            // However it ended.
            drop(connect.ended().await);
        }
    }

    /// What a future gives, unless the time is up before.
    async fn in_time<T>(&self, end: Option<Moment>, future: impl Future<Output = T>) -> Option<T> {
        let Some(end) = end else { return Some(future.await) };
        match select(pin!(future), pin!(self.executor.sleep_until(end))).await {
            Either::Left((value, _)) => Some(value),
            Either::Right(_) => None,
        }
    }

    fn log_end(&self, slot: &Slot, record: &JobRecord, done: &Done) {
        let (minor, name) = (record.minor, record.kind.name());
        match done {
            Ok(_) => self.log.info(format!("minor={minor} image={}: {name} done", slot.name())),
            Err(error) => self.log.error(format!("minor={minor}: {name}: {error} ({})", errno(error))),
        }
    }

    /// Gives a job up, where that is possible. Says whether it was.
    pub(crate) async fn cancel(&self, record: &JobRecord) -> bool {
        let Some(slot) = self.find(record.minor.number()) else { return false };
        if record.cancel() {
            slot.look_again();
            return true;
        }
        !record.has_ended() && slot.turn_back(record.number).await
    }

    /// The process ends; nobody can find it any more.
    fn end(&self) {
        self.is_ending.set(true);
        self.belongings.take();
        self.changed.notify();
    }

    /// Closes and detaches everything, as well as it can be done in bounded time. Says whether all is well.
    pub(crate) async fn close_all(self: Rc<Self>) -> bool {
        self.is_ending.set(true);
        let slots = self.slots.borrow().clone();
        let closed = join_all(slots.iter().map(|slot| self.close_for_good(slot))).await;
        self.end();
        closed.into_iter().all(|closed| closed)
    }

    async fn close_for_good(self: &Rc<Self>, slot: &Rc<Slot>) -> bool {
        let closed = self.have_done(slot, Job::Close { deadline: Some(END_GRACE) }).await;
        // What has nothing open any more is easily detached; what is stuck is left.
        let is_well = closed.is_ok() && self.have_done(slot, Job::Detach).await.is_ok();
        self.forget(slot);
        is_well
    }

    /// Removes what others see of the process, whatever its disks do.
    pub(crate) fn abandon(&self) {
        self.belongings.take();
    }

    /// What every event loop does.
    pub(crate) async fn look_at_loops(&self) -> Vec<LoopState> {
        self.loops.look(&self.executor).await
    }

    /// Everything that is known, into the log. In bounded time, also while disks hang.
    pub(crate) async fn dump(self: Rc<Self>) {
        let loops = self.look_at_loops().await;
        let now = self.now();
        let mut lines = {
            let slots = self.slots.borrow();
            let kept: Vec<String> = self.descriptors.borrow().iter().map(|(name, _)| name.clone()).collect();
            let head = format!("dump: {} disks, engine {:?}, descriptors {kept:?}", slots.len(), self.options.engine);
            let disks = slots.iter().flat_map(|slot| slot.describe(now));
            [head].into_iter().chain(disks).collect::<Vec<String>>()
        };
        let jobs = self.jobs.all();
        let jobs = jobs.iter().filter(|job| !job.has_ended());
        lines.extend(jobs.map(|job| {
            let JobRecord { number, minor, kind, asked, .. } = &**job;
            format!(
                "job {number}: minor={minor} {}: {:?}, asked {} ago",
                kind.name(),
                job.state(),
                seconds(now - *asked)
            )
        }));
        lines.extend(loops.iter().flat_map(LoopState::lines));
        self.log.dump(lines.join("\n"));
    }
}

/// A refusal that has a number of the operating system.
pub(crate) fn os(words: String, error: Errno) -> Error {
    Error::from_os(words, error.into())
}
