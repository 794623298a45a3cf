//! The home thread of a disk: its executor, its images, its NBD sockets. Jobs are done one after the other; closing by
//! force and what takes no time do not wait for their turn.
//!
//! ```text
//!   orders --> job, job, job -----------------+--> Disk: open, pause, quiesce, resume, grow, close
//!   urgent --> close by force, turn back -----+--> Exports: sockets from open to close, also while paused
//! ```

mod files;
mod job;
mod life;

use std::{
    cell::{Cell, RefCell},
    io,
    rc::Rc,
    sync::Arc,
    thread,
};

use block_core::{Result, ResultExt};
use control_api::{Minor, RingRecords, RunDir};
use storage_io::{BufferPool, EngineChoice, Executor, Receiver, ReplyTo, Signal};
use virtual_disk::{Disk, Limiter, Status};

use self::files::DiskFiles;
pub(crate) use self::job::{Done, Gave, Job, JobKind, Name, Open};
use crate::{
    exports::Exports,
    jail::Jail,
    layers::ValveName,
    log::Log,
    loops::{Loops, Purpose},
    pages::Pages,
    rings::{Books, BudgetChoice, HostBudget, Parting, Platform, RingName, Rings},
    slot::Published,
    valve::Valve,
};

/// Free buffers that are kept, for each of a few sizes: a client's usual queue of usual requests.
const POOL_BYTES: usize = 4 << 20;

/// One thing to do when those before it are done, and where the result goes.
pub(crate) struct Order {
    /// Of the job.
    pub(crate) number: u64,
    pub(crate) job: Job,
    pub(crate) done: ReplyTo<Done>,
}

/// What waits for no turn.
pub(crate) enum Urgent {
    /// Close, whatever hangs.
    ForceClose(ReplyTo<Done>),
    /// Give up the job of this number, if it is being done and can be given up.
    TurnBack(u64, ReplyTo<bool>),
    /// Let a guest go; without its answers when this time has passed.
    DisconnectRing(RingName, Parting, ReplyTo<Done>),
    /// Do nothing more for a guest until it asks.
    SettleRing(RingName, ReplyTo<Done>),
    /// Draw on the budget of this rate limiter, or of none.
    DrawOn(Option<ValveName>, ReplyTo<()>),
}

/// What a home thread gives when it takes orders: what may be looked at and changed from other threads.
#[derive(Debug)]
pub(crate) struct Up {
    pub(crate) status: Arc<Status>,
    pub(crate) limiter: Arc<Limiter>,
}

/// What a home thread is given.
pub(crate) struct Setup {
    pub(crate) minor: Minor,
    pub(crate) pid: u32,
    pub(crate) run: RunDir,
    pub(crate) engine: EngineChoice,
    pub(crate) jail: Jail,
    pub(crate) retry_eio: bool,
    pub(crate) platform: Platform,
    pub(crate) budget: BudgetChoice,
    pub(crate) log: Log,
    pub(crate) loops: Loops,
    pub(crate) published: Arc<Published>,
    pub(crate) orders: Receiver<Order>,
    pub(crate) urgent: Receiver<Urgent>,
}

/// Starts a home thread; `up` is told when it takes orders.
pub(crate) fn start(setup: Setup, up: ReplyTo<Result<Up>>) -> io::Result<()> {
    let name = format!("disk {}", setup.minor);
    thread::Builder::new().name(name).spawn(move || run(setup, up)).map(drop)
}

fn run(setup: Setup, up: ReplyTo<Result<Up>>) {
    let executor = match Executor::new(setup.engine).context("engine") {
        Ok(executor) => executor,
        Err(error) => {
            let _ = up.answer(Err(error));
            return;
        }
    };
    let Setup { minor, pid, run, engine, jail, retry_eio, platform, budget, log, loops, published, orders, urgent } =
        setup;
    let known = loops.register(&executor, Purpose::Queue(minor, 0));
    let reporter = log.reporter(minor, published.clone());
    let files = Rc::new(DiskFiles::new(jail.opener()));
    let disk = Disk::new(&executor, files.clone(), BufferPool::new(POOL_BYTES), reporter);
    let _ = up.answer(Ok(Up { status: disk.status(), limiter: disk.limiter() }));
    let pages = Rc::new(Pages::new(&run, pid, minor));
    let budget = HostBudget::new(budget, run.grant_budget());
    let books = Books { minor, log: log.clone(), published: published.clone(), pages: pages.clone() };
    let rings = Rings::new(&executor, &disk, platform, budget, RingRecords::new(&run), books);
    let home = Rc::new(Home {
        executor: executor.clone(),
        disk,
        files,
        minor,
        pid,
        run,
        engine,
        retry_eio,
        loops,
        log,
        published,
        opened: RefCell::default(),
        exports: RefCell::default(),
        rings,
        valve: RefCell::default(),
        is_valve_told: Cell::new(false),
        pages,
        is_forced: Cell::new(false),
        has_abandoned: Cell::new(false),
        current: Cell::new(None),
        turning_back: Turning::default(),
    });
    let detached = executor.block_on(home.serve(orders, urgent));
    // The answer to the last job comes when nothing of the disk is left, also of tasks that hold their executor.
    drop((home, known));
    executor.end_tasks();
    drop(executor);
    if let Some(done) = detached {
        let _ = done.answer(Ok(Gave::Nothing));
    }
}

struct Home {
    executor: Executor,
    disk: Disk,
    files: Rc<DiskFiles>,
    minor: Minor,
    pid: u32,
    run: RunDir,
    engine: EngineChoice,
    retry_eio: bool,
    loops: Loops,
    log: Log,
    published: Arc<Published>,
    /// How the images were opened, which also holds for those of a resume.
    opened: RefCell<Option<Open>>,
    exports: RefCell<Option<Rc<Exports>>>,
    rings: Rc<Rings>,
    valve: RefCell<Option<Valve>>,
    /// Whether a command has decided about it since the images were opened; their names then do not.
    is_valve_told: Cell<bool>,
    pages: Rc<Pages>,
    is_forced: Cell<bool>,
    /// A guest was let go of whose requests storage may still hold.
    has_abandoned: Cell<bool>,
    /// The job that is being done.
    current: Cell<Option<u64>>,
    turning_back: Turning,
}

/// Whether the job that is being done shall be given up.
#[derive(Default)]
struct Turning {
    /// It waits for something that need not come.
    is_possible: Cell<bool>,
    is_wanted: Cell<bool>,
    changed: Signal,
}

impl Home {
    /// Does jobs until one of them is to detach the disk; gives where to say that it is done.
    async fn serve(self: &Rc<Self>, mut orders: Receiver<Order>, urgent: Receiver<Urgent>) -> Option<ReplyTo<Done>> {
        let _overtaking = self.executor.spawn(self.clone().serve_urgent(urgent));
        while let Some(Order { number, job, done }) = orders.recv().await {
            let is_last = job.kind() == JobKind::Detach;
            self.current.set(Some(number));
            let result = self.carry_out(job).await;
            self.current.set(None);
            if is_last && result.is_ok() {
                return Some(done);
            }
            // Whoever asked may have gone.
            let _ = done.answer(result);
        }
        None
    }

    async fn serve_urgent(self: Rc<Self>, mut urgent: Receiver<Urgent>) {
        while let Some(urgent) = urgent.recv().await {
            match urgent {
                Urgent::ForceClose(done) => {
                    let home = self.clone();
                    let closing = async move { done.answer(home.force_close().await.map(|()| Gave::Nothing)) };
                    self.executor.spawn(closing).detach();
                }
                Urgent::DisconnectRing(name, parting, done) => {
                    let home = self.clone();
                    let leaving = async move { done.answer(home.disconnect_ring(name, parting).await) };
                    self.executor.spawn(leaving).detach();
                }
                Urgent::SettleRing(name, done) => {
                    let home = self.clone();
                    let settling = async move { done.answer(home.settle_ring(name).await) };
                    self.executor.spawn(settling).detach();
                }
                Urgent::TurnBack(number, done) => {
                    let _ = done.answer(self.current.get() == Some(number) && self.turn_back());
                }
                Urgent::DrawOn(valve, done) => {
                    self.is_valve_told.set(true);
                    self.limit_by(valve.as_ref());
                    let _ = done.answer(());
                }
            }
        }
    }

    async fn carry_out(&self, job: Job) -> Done {
        let nothing = |()| Gave::Nothing;
        match job {
            Job::Open(open) => self.open(*open).await.map(Gave::Opened),
            Job::Pause { deadline } => self.pause(deadline).await.map(Gave::Quiet),
            Job::Resume(name) => self.resume(name).await.map(Gave::Opened),
            Job::Quiesce { deadline } => self.quiesce(deadline).await.map(Gave::Quiet),
            Job::Grow(bytes) => self.grow(bytes).await,
            Job::Close { .. } => self.close().await.map(nothing),
            Job::ForceClose => self.force_close().await.map(nothing),
            Job::ConnectRing { device, adopt } => self.connect_ring(*device, adopt).await,
            Job::DisconnectRing { name, parting } => self.disconnect_ring(name, parting).await,
            Job::SettleRing(name) => self.settle_ring(name).await,
            Job::Detach => self.detach().map(nothing),
        }
    }
}
