//! The home thread of a disk: its executor, its images, its NBD sockets. Jobs are done one after the other; only closing
//! by force does not wait for its turn.
//!
//! ```text
//!   orders --> job, job, job ------+--> Disk: open, pause, resume, close
//!   urgent --> close by force -----+--> Exports: sockets from open to close, also while paused
//! ```

use std::{
    cell::{Cell, RefCell},
    io,
    rc::Rc,
    sync::Arc,
    thread,
    time::Duration,
};

use block_core::{Error, ErrorKind, Result, ResultExt};
use control_api::{Minor, RunDir, protocol::Text};
use image_chain::{ChainSpec, ImageName};
use rustix::io::Errno;
use storage_io::{Access, BufferPool, EngineChoice, Executor, Files, LockPolicy, Receiver, ReplyTo};
use virtual_disk::{Disk, DiskState, Geometry, Settings, Status};

use crate::{
    exports::Exports,
    jail::Jail,
    log::Log,
    pages::Pages,
    slot::{Done, EmptyPause, Order, Published},
};

/// Free buffers that are kept, for each of a few sizes: a client's usual queue of usual requests.
const POOL_BYTES: usize = 4 << 20;
/// How often, and how far apart, the images of a paused disk are tried: what storage has just moved may show up late.
const RESUME_ATTEMPTS: u32 = 10;
const RESUME_PAUSE: Duration = Duration::from_secs(1);

/// What can be done to a disk.
#[derive(Debug)]
pub(crate) enum Job {
    /// Open images.
    Open(Open),
    /// Drain, and close the images; requests are held.
    Pause,
    /// Open the images again, or others.
    Resume(Option<Text>),
    /// Drain, and close everything.
    Close,
    /// Close in bounded time, whatever hangs.
    ForceClose,
    /// Forget the disk: the thread ends.
    Detach,
}

impl Job {
    /// Its name in logs.
    pub(crate) fn name(&self) -> &'static str {
        match self {
            Job::Open(_) => "open",
            Job::Pause => "pause",
            Job::Resume(_) => "resume",
            Job::Close => "close",
            Job::ForceClose => "close by force",
            Job::Detach => "detach",
        }
    }
}

/// What to open, and how.
#[derive(Clone, Debug)]
pub(crate) struct Open {
    /// `type:path`.
    pub(crate) name: Text,
    pub(crate) is_read_only: bool,
    /// Several disks write to the image: nobody locks it.
    pub(crate) is_shared: bool,
    /// Go through the page cache.
    pub(crate) is_buffered: bool,
}

/// What a home thread is given.
pub(crate) struct Setup {
    pub(crate) minor: Minor,
    pub(crate) pid: u32,
    pub(crate) run: RunDir,
    pub(crate) engine: EngineChoice,
    pub(crate) jail: Jail,
    pub(crate) log: Log,
    pub(crate) published: Arc<Published>,
    pub(crate) orders: Receiver<Order>,
    pub(crate) urgent: Receiver<Order>,
}

/// Starts a home thread; `up` is told when it takes orders.
pub(crate) fn start(setup: Setup, up: ReplyTo<Result<Arc<Status>>>) -> io::Result<()> {
    let name = format!("disk {}", setup.minor);
    thread::Builder::new().name(name).spawn(move || run(setup, up)).map(drop)
}

fn run(setup: Setup, up: ReplyTo<Result<Arc<Status>>>) {
    let executor = match Executor::new(setup.engine).context("engine") {
        Ok(executor) => executor,
        Err(error) => {
            let _ = up.answer(Err(error));
            return;
        }
    };
    let Setup { minor, pid, run, jail, log, published, orders, urgent, .. } = setup;
    let reporter = log.reporter(minor, published.clone());
    let disk = Disk::new(&executor, jail.opener(Rc::new(Files)), BufferPool::new(POOL_BYTES), reporter);
    let _ = up.answer(Ok(disk.status()));
    let pages = Pages::new(&run, pid, minor);
    let home = Rc::new(Home {
        executor: executor.clone(),
        disk,
        minor,
        pid,
        run,
        log,
        published,
        opened: RefCell::default(),
        exports: RefCell::default(),
        pages,
        is_forced: Cell::new(false),
    });
    let detached = executor.block_on(home.serve(orders, urgent));
    // The answer to the last job comes when nothing of the disk is left.
    drop((home, executor));
    if let Some(done) = detached {
        let _ = done.answer(Ok(None));
    }
}

struct Home {
    executor: Executor,
    disk: Disk,
    minor: Minor,
    pid: u32,
    run: RunDir,
    log: Log,
    published: Arc<Published>,
    /// How the images were opened, which also holds for those of a resume.
    opened: RefCell<Option<Open>>,
    exports: RefCell<Option<Exports>>,
    pages: Pages,
    is_forced: Cell<bool>,
}

impl Home {
    /// Does jobs until one of them is to detach the disk; gives where to say that it is done.
    async fn serve(self: &Rc<Self>, mut orders: Receiver<Order>, urgent: Receiver<Order>) -> Option<ReplyTo<Done>> {
        let _overtaking = self.executor.spawn(self.clone().serve_urgent(urgent));
        while let Some(Order { job, done }) = orders.recv().await {
            let is_last = matches!(job, Job::Detach);
            let result = self.carry_out(job).await;
            if is_last && result.is_ok() {
                return Some(done);
            }
            // Whoever asked may have gone.
            let _ = done.answer(result);
        }
        None
    }

    async fn serve_urgent(self: Rc<Self>, mut urgent: Receiver<Order>) {
        while let Some(Order { done, .. }) = urgent.recv().await {
            let result = self.force_close().await;
            let _ = done.answer(result.map(|()| None));
        }
    }

    async fn carry_out(&self, job: Job) -> Done {
        match job {
            Job::Open(open) => self.open(open).await.map(Some),
            Job::Pause => self.pause().await.map(|()| None),
            Job::Resume(name) => self.resume(name).await.map(|()| None),
            Job::Close => self.close().await.map(|()| None),
            Job::ForceClose => self.force_close().await.map(|()| None),
            Job::Detach => self.detach().map(|()| None),
        }
    }

    fn state(&self) -> DiskState {
        self.disk.status().state()
    }

    async fn open(&self, open: Open) -> Result<Geometry> {
        match self.state() {
            DiskState::Attached | DiskState::Closed => {}
            DiskState::Stuck => return Err(self.stuck()),
            _ => return Err(os(format!("minor {} is open already", self.minor), Errno::ALREADY)),
        }
        let spec = spec(&open, &open.name)?;
        {
            let mut words = self.published.words();
            words.name = open.name.clone();
            words.is_buffered = open.is_buffered;
            words.empty_pause = None;
        }
        self.is_forced.set(false);
        let geometry = self.disk.open(spec, Settings::default()).await?;
        if let Err(error) = self.start_serving() {
            // The first error is the one that matters; nobody has written anything yet.
            let _ = self.disk.close().await;
            return Err(error);
        }
        self.opened.replace(Some(open));
        Ok(geometry)
    }

    fn start_serving(&self) -> Result<()> {
        if self.is_forced.get() {
            return Err(Error::new(ErrorKind::Closed, "the disk was closed by force"));
        }
        let exports = Exports::start(&self.disk, &self.run, self.pid, self.minor, &self.log)?;
        self.exports.replace(Some(exports));
        self.count(self.pages.open(&self.disk));
        Ok(())
    }

    /// Statistics in shared memory are a service, not a duty.
    fn count(&self, made: Result<()>) {
        if let Err(error) = made {
            self.log.warning(format!("minor={}: {error}", self.minor));
        }
    }

    async fn pause(&self) -> Result<()> {
        if matches!(self.state(), DiskState::Attached | DiskState::Closed) {
            self.published.words().empty_pause.get_or_insert(EmptyPause::Paused);
            return Ok(());
        }
        self.disk.pause(None).await?;
        self.pages.pause();
        Ok(())
    }

    async fn resume(&self, name: Option<Text>) -> Result<()> {
        if let Some(empty) = &mut self.published.words().empty_pause {
            *empty = EmptyPause::ResumeFailed;
            return Err(Error::new(ErrorKind::SizeChanged, format!("minor {} was never opened", self.minor)));
        }
        if !matches!(self.state(), DiskState::Paused | DiskState::ResumeFailed) {
            return Err(Error::new(ErrorKind::Invalid, format!("minor {} is not paused", self.minor)));
        }
        let mut open = self.opened.borrow().clone().expect("a disk that is paused was opened");
        open.name = name.unwrap_or(open.name);
        let spec = spec(&open, &open.name)?;
        let result = self.try_to_resume(&spec).await;
        let is_another_disk = result.as_ref().is_err_and(|error| error.kind() == ErrorKind::SizeChanged);
        if result.is_ok() || is_another_disk {
            self.published.words().name = open.name.clone();
            self.opened.replace(Some(open));
        }
        result?;
        self.count(self.pages.resume());
        Ok(())
    }

    /// Opens the images, several times if the system says that they cannot be opened.
    async fn try_to_resume(&self, spec: &ChainSpec) -> Result<()> {
        let mut attempt = 1;
        loop {
            let error = match self.disk.resume(Some(spec.clone())).await {
                Ok(_) => return Ok(()),
                Err(error) => error,
            };
            let is_refused = error.os_error() == Some(Errno::ACCESS.raw_os_error());
            let may_pass = error.os_error().is_some() && error.kind() != ErrorKind::Busy && !is_refused;
            if !may_pass || attempt == RESUME_ATTEMPTS || self.is_forced.get() {
                return Err(error);
            }
            self.log.warning(format!("minor={}: resume, attempt {attempt}: {error}", self.minor));
            self.executor.sleep(RESUME_PAUSE).await;
            attempt += 1;
        }
    }

    async fn close(&self) -> Result<()> {
        self.published.words().empty_pause = None;
        if let Some(exports) = &*self.exports.borrow() {
            exports.stop_listening();
        }
        let result = self.disk.close().await;
        self.stop_serving().await;
        result
    }

    async fn force_close(&self) -> Result<()> {
        self.is_forced.set(true);
        self.published.words().empty_pause = None;
        let result = self.disk.force_close().await;
        self.stop_serving().await;
        result
    }

    /// Ends all connections and removes their sockets.
    async fn stop_serving(&self) {
        self.pages.close();
        let exports = self.exports.take();
        if let Some(exports) = exports {
            exports.close().await;
        }
    }

    fn detach(&self) -> Result<()> {
        match self.state() {
            DiskState::Attached | DiskState::Closed => Ok(()),
            DiskState::Stuck => Err(self.stuck()),
            _ => Err(os(format!("minor {} is open", self.minor), Errno::BUSY)),
        }
    }

    fn stuck(&self) -> Error {
        let trouble = self.disk.status().trouble().map(|error| format!(": {error}")).unwrap_or_default();
        os(format!("minor {} is stuck{trouble}", self.minor), Errno::BUSY)
    }
}

/// What to open, as the chain wants it told.
fn spec(open: &Open, name: &Text) -> Result<ChainSpec> {
    let text = std::str::from_utf8(name);
    let leaf: ImageName = text.map_err(|_| Error::new(ErrorKind::Invalid, format!("{name}: not UTF-8")))?.parse()?;
    let access = if open.is_read_only { Access::Read } else { Access::Write };
    let mut spec = ChainSpec::new(leaf, access);
    spec.direct = !open.is_buffered;
    if open.is_shared {
        spec.lock = LockPolicy::None;
    }
    Ok(spec)
}

fn os(words: String, error: Errno) -> Error {
    Error::from_os(words, error.into())
}
