//! What the process does with requests: tells at once what can be told, and orders from the disks what must be done.

use std::{
    cell::{Cell, RefCell},
    io,
    os::fd::OwnedFd,
    rc::Rc,
    sync::Arc,
    time::Duration,
};

use block_core::{Error, ErrorKind, Result, ResultExt};
use control_api::{
    Minor, RunDir, errno,
    protocol::{ALL_MINORS, Body, DecodeError, Message, Request},
};
use futures_util::future::{Either, join_all, select};
use rustix::io::Errno;
use storage_io::{EngineChoice, Executor, Signal, Task, mailbox, reply};

use crate::{
    answers,
    home::{self, Job, Setup},
    jail::Jail,
    log::Log,
    shared_memory::StatisticsDirectory,
    slot::{Done, Published, Slot, information},
    statistics::json_of_all,
};

/// Named descriptors that images may ask for.
const NAMED_DESCRIPTORS_MAX: usize = 10;
/// What of such a name counts.
const DESCRIPTOR_NAME_BYTES_MAX: usize = 39;
/// How long closing may take when the process is told to end; then it is done by force.
const END_GRACE: Duration = Duration::from_secs(10);

/// The process: its slots, and what must be removed when it ends.
pub(crate) struct Control {
    executor: Executor,
    pub(crate) run: RunDir,
    pub(crate) pid: u32,
    engine: EngineChoice,
    jail: Jail,
    pub(crate) log: Log,
    /// In the order of their attachment.
    slots: RefCell<Vec<Rc<Slot>>>,
    descriptors: RefCell<Vec<(String, OwnedFd)>>,
    /// Tasks and directories that go when the process ends, before its last answer.
    belongings: RefCell<Option<Belongings>>,
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
        engine: EngineChoice,
        jail: Jail,
        log: Log,
    ) -> Rc<Control> {
        Rc::new(Control {
            executor: executor.clone(),
            run,
            pid,
            engine,
            jail,
            log,
            slots: RefCell::default(),
            descriptors: RefCell::default(),
            belongings: RefCell::default(),
            is_ending: Cell::new(false),
            changed: Signal::new(),
        })
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

    /// The answer to something that is no request.
    pub(crate) fn refuse(&self, error: DecodeError) -> Vec<u8> {
        answers::failure(error.cookie, &error.into())
    }

    /// The answer to a request.
    pub(crate) async fn answer(self: &Rc<Self>, request: Request) -> Vec<u8> {
        let Request { message: Message { cookie, body }, log_path, key } = request;
        let (has_log, has_key) = (log_path.is_some(), key.is_some());
        match body {
            Body::Pid => answers::message(cookie, Body::PidResponse(self.pid.cast_signed())),
            Body::List => answers::list(cookie, self.slots.borrow().iter().map(|slot| &**slot)),
            Body::Stats => self.statistics(cookie),
            Body::DiskInfo => {
                let size = self.slot(cookie).map(|slot| slot.information());
                answers::sized(cookie, size, Body::DiskInfoResponse)
            }
            Body::Attach => answers::done(cookie, self.attach(cookie).await, Body::AttachResponse),
            Body::Detach => answers::done(cookie, self.detach(cookie).await, Body::DetachResponse),
            Body::Open(parameters) => {
                let size = match answers::open(parameters, has_log, has_key) {
                    Ok(open) => self.open(cookie, Job::Open(open)).await,
                    Err(error) => Err(error),
                };
                let size = size.map(|geometry| geometry.map(information).unwrap_or_default());
                answers::sized(cookie, size, Body::OpenResponse)
            }
            Body::Resume(parameters) => {
                let result = match answers::resume(parameters, has_log) {
                    Ok(name) => self.order(cookie, Job::Resume(name)).await,
                    Err(error) => self.slot(cookie).and(Err(error)),
                };
                answers::done(cookie, result, Body::ResumeResponse)
            }
            Body::Pause => answers::done(cookie, self.order(cookie, Job::Pause).await, Body::PauseResponse),
            Body::Close => answers::done(cookie, self.order(cookie, Job::Close).await, Body::CloseResponse),
            Body::ForceShutdown => answers::done(cookie, self.force_close(cookie).await, Body::CloseResponse),
            Body::RingConnect(_) => {
                let no_xen = Error::new(ErrorKind::NotFound, "this host has no Xen");
                answers::failure(cookie, &self.slot(cookie).and(Err::<(), _>(no_xen)).expect_err("both are errors"))
            }
            Body::RingDisconnect(ring) => {
                let words = format!("ring {}-{} is not connected", ring.domid, ring.devid);
                answers::failure(cookie, &os(words, Errno::NODEV))
            }
            other => {
                let words = format!("'{}' is not served", other.kind().name());
                answers::failure(0, &Error::new(ErrorKind::Invalid, words))
            }
        }
    }

    fn find(&self, cookie: u16) -> Option<Rc<Slot>> {
        self.slots.borrow().iter().find(|slot| slot.minor().number() == cookie).cloned()
    }

    fn slot(&self, cookie: u16) -> Result<Rc<Slot>> {
        self.find(cookie).ok_or_else(|| os(format!("minor {cookie} is not attached here"), Errno::NODEV))
    }

    fn statistics(&self, cookie: u16) -> Vec<u8> {
        if cookie == ALL_MINORS {
            let all: Vec<String> = self.slots.borrow().iter().map(|slot| slot.statistics()).collect();
            return answers::statistics(cookie, json_of_all(&all));
        }
        match self.slot(cookie) {
            Ok(slot) => answers::statistics(cookie, slot.statistics()),
            Err(error) => answers::failure(cookie, &error),
        }
    }

    async fn attach(self: &Rc<Self>, cookie: u16) -> Result<()> {
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
        let published = Arc::new(Published::default());
        let ((orders, their_orders), (urgent, their_urgent)) = (mailbox(), mailbox());
        let setup = Setup {
            minor,
            pid: self.pid,
            run: self.run.clone(),
            engine: self.engine,
            jail: self.jail.clone(),
            log: self.log.clone(),
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

    async fn detach(&self, cookie: u16) -> Result<()> {
        let slot = self.slot(cookie)?;
        self.carry_out(&slot, Job::Detach).await?;
        self.forget(&slot);
        // Gone before the answer: whoever gets it finds nothing left. (Also the lock of the marker.)
        drop(slot);
        if self.slots.borrow().is_empty() {
            self.end();
        }
        Ok(())
    }

    fn forget(&self, slot: &Rc<Slot>) {
        self.slots.borrow_mut().retain(|other| !Rc::ptr_eq(other, slot));
        self.changed.notify();
    }

    async fn open(&self, cookie: u16, job: Job) -> Done {
        let missing = || Error::new(ErrorKind::Invalid, format!("minor {cookie} is not attached here"));
        let slot = self.find(cookie).ok_or_else(missing)?;
        self.carry_out(&slot, job).await
    }

    async fn order(&self, cookie: u16, job: Job) -> Result<()> {
        self.carry_out(&*self.slot(cookie)?, job).await.map(drop)
    }

    async fn force_close(&self, cookie: u16) -> Result<()> {
        self.carry_out(&*self.slot(cookie)?, Job::ForceClose).await.map(drop)
    }

    /// Has a disk do a job, and logs how it went.
    async fn carry_out(&self, slot: &Slot, job: Job) -> Done {
        let name = job.name();
        let (minor, result) = match job {
            Job::ForceClose => (slot.minor(), slot.force().await),
            job => (slot.minor(), slot.order(job).await),
        };
        match &result {
            Ok(_) => self.log.info(format!("minor={minor} image={}: {name} done", slot.name())),
            Err(error) => self.log.error(format!("minor={minor}: {name}: {error} ({})", errno(error))),
        }
        result
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

    async fn close_for_good(&self, slot: &Rc<Slot>) -> bool {
        let too_late = self.executor.sleep(END_GRACE);
        let closed = self.carry_out(slot, Job::Close);
        let closed = match select(Box::pin(closed), Box::pin(too_late)).await {
            Either::Left((result, _)) => result,
            Either::Right(_) => self.carry_out(slot, Job::ForceClose).await,
        };
        let is_well = closed.is_ok();
        if is_well {
            // It has nothing open any more, so nothing can keep it.
            let _ = slot.order(Job::Detach).await;
        }
        self.forget(slot);
        is_well
    }

    /// Removes what others see of the process, whatever its disks do.
    pub(crate) fn abandon(&self) {
        self.belongings.take();
    }

    /// Everything that is known, into the log.
    pub(crate) fn dump(&self) {
        let slots = self.slots.borrow();
        let lines: Vec<String> = slots.iter().map(|slot| slot.describe()).collect();
        let kept: Vec<String> = self.descriptors.borrow().iter().map(|(name, _)| name.clone()).collect();
        let head = format!("dump: {} disks, engine {:?}, descriptors {kept:?}", slots.len(), self.engine);
        self.log.dump([vec![head], lines].concat().join("\n"));
    }
}

fn os(words: String, error: Errno) -> Error {
    Error::from_os(words, io::Error::from(error))
}
