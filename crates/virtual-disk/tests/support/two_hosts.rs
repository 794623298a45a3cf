//! Two hosts and one image. Its lock is kept as the kernel keeps it: by an open file, until its last write has landed.
//! Every write is written down when it lands.

use std::{
    cell::RefCell,
    path::{Path, PathBuf},
    rc::Rc,
    sync::{
        Arc, Mutex,
        atomic::{AtomicU64, Ordering},
    },
    time::Duration,
};

use block_core::{Error, ErrorKind, Origin, Result};
use futures_util::future::LocalBoxFuture;
use image_chain::{ChainSpec, Writing};
use image_format::vhd::create;
use storage_io::{
    BufferPool, Completion, Executor, Hold, Limits, LockPolicy, MemoryFiles, MemoryStorage, OpenOptions, Opener,
    Pending, SimulatedClock, Storage, StorageOperation,
};
use virtual_disk::{Disk, Settings};

use super::{Job, Script, spec, vhd_options};

/// Where the image is.
pub(crate) const IMAGE: &str = "/v";
/// The longest that a host waits for the other.
pub(crate) const PATIENCE: Duration = Duration::from_secs(5);

/// What storage says to somebody who has lost a lock.
const ESTALE: i32 = 116;

/// What happened to the image.
#[derive(Debug, Default)]
pub(crate) struct Ledger {
    /// The open file that has the lock.
    holder: Option<u64>,
    /// Which host wrote, in the order in which writes landed.
    pub(crate) writers: Vec<usize>,
    /// Writes that landed though their file did not have the lock any more.
    pub(crate) strays: usize,
    /// Writes of a file that has lost the lock are refused, as by storage that knows of locks.
    pub(crate) refuses: bool,
    next_file: u64,
}

/// The hosts, at one time.
pub(crate) struct TwoHosts {
    pub(crate) clock: SimulatedClock,
    pub(crate) ledger: Arc<Mutex<Ledger>>,
    pub(crate) hosts: [OneHost; 2],
}

/// A host with a disk.
pub(crate) struct OneHost {
    pub(crate) executor: Executor,
    pub(crate) disk: Disk,
    /// The longest that a write takes, in microseconds.
    pub(crate) slowness: Arc<AtomicU64>,
}

impl TwoHosts {
    /// One VHD image of `bytes` bytes, and nobody has it open.
    pub(crate) fn new(seed: u64, bytes: u64) -> TwoHosts {
        let (clock, ledger) = (SimulatedClock::new(), Arc::<Mutex<Ledger>>::default());
        let files = MemoryFiles::new();
        let storage: Arc<dyn Storage> = Arc::new(MemoryStorage::new(0));
        let maker = Executor::simulated(seed, clock.clone());
        maker.block_on(create(&maker, &storage, &vhd_options(1, bytes, 0))).unwrap();
        files.put(IMAGE, storage);
        let hosts = [0, 1].map(|number| OneHost::new(seed + number as u64, number, &clock, &files, &ledger));
        TwoHosts { clock, ledger, hosts }
    }

    /// Runs one ready task of one host.
    pub(crate) fn step(&self) -> bool {
        let [a, b] = &self.hosts;
        let is_first = a.executor.random() % 2 == 0;
        let (one, other) = if is_first { (a, b) } else { (b, a) };
        one.executor.step() || other.executor.step()
    }

    /// Lets time pass until somebody waits no more. False: nobody waits.
    pub(crate) fn advance(&self) -> bool {
        let next = self.hosts.iter().filter_map(|host| host.executor.next_timer()).min();
        next.inspect(|moment| self.clock.advance_to(*moment)).is_some()
    }

    /// Runs until `is_done`.
    pub(crate) fn run_until(&self, mut is_done: impl FnMut() -> bool) {
        while !is_done() {
            if !self.step() {
                let timers = self.hosts.iter().filter_map(|host| host.executor.next_timer());
                self.clock.advance_to(timers.min().expect("nobody will ever end this"));
            }
        }
    }

    /// Runs everything, and lets this much time pass.
    pub(crate) fn pass(&self, duration: Duration) {
        let end = self.clock.now() + duration;
        loop {
            while self.step() {}
            let next = self.hosts.iter().filter_map(|host| host.executor.next_timer()).min();
            match next.filter(|moment| *moment <= end) {
                Some(moment) => self.clock.advance_to(moment),
                None => break,
            }
        }
        self.clock.advance_to(end);
    }

    /// Does something to the disk of a host, to its end.
    pub(crate) fn run<T: 'static>(&self, host: usize, what: impl AsyncFnOnce(Disk) -> T + 'static) -> T {
        let job = self.hosts[host].begin(what);
        self.run_until(|| job.is_done());
        job.result()
    }

    /// Somebody takes the lock away.
    pub(crate) fn break_lock(&self) {
        self.ledger.lock().unwrap().holder = None;
    }

    pub(crate) fn strays(&self) -> usize {
        self.ledger.lock().unwrap().strays
    }

    /// The hosts in the order in which they wrote, each change of hands once.
    pub(crate) fn hands(&self) -> Vec<usize> {
        let mut hands = self.ledger.lock().unwrap().writers.clone();
        hands.dedup();
        hands
    }
}

impl Drop for TwoHosts {
    fn drop(&mut self) {
        self.hosts.iter().for_each(|host| host.executor.end_tasks());
    }
}

impl OneHost {
    fn new(
        seed: u64,
        number: usize,
        clock: &SimulatedClock,
        files: &MemoryFiles,
        ledger: &Arc<Mutex<Ledger>>,
    ) -> OneHost {
        let executor = Executor::simulated(seed, clock.clone());
        let slowness = Arc::<AtomicU64>::default();
        let opener =
            LockingFiles { files: files.clone(), ledger: ledger.clone(), host: number, slowness: slowness.clone() };
        let disk = Disk::new(&executor, Rc::new(opener), BufferPool::new(1 << 20), Arc::new(()));
        OneHost { executor, disk, slowness }
    }

    /// Begins what is done to the disk.
    pub(crate) fn begin<T: 'static>(&self, what: impl AsyncFnOnce(Disk) -> T + 'static) -> Job<T> {
        let slot = Rc::new(RefCell::new(None));
        let (disk, result) = (self.disk.clone(), slot.clone());
        self.executor.spawn(async move { *result.borrow_mut() = Some(what(disk).await) }).detach();
        Job(slot)
    }

    /// A client of the disk.
    pub(crate) fn serve(&self) -> Script {
        let script = Script::default();
        self.disk.queue().serve(script.clone()).detach();
        script
    }
}

/// The image, written at once or by the first writer.
pub(crate) fn image(writing: Writing) -> ChainSpec {
    let lock = LockPolicy::Exclusive { deadline: PATIENCE };
    ChainSpec { leaf: format!("vhd:{IMAGE}").parse().unwrap(), lock, writing, ..spec(IMAGE) }
}

/// Opens the image.
pub(crate) async fn open(disk: Disk, writing: Writing) -> Result<()> {
    disk.open(image(writing), Settings::default()).await.map(drop)
}

struct LockingFiles {
    files: MemoryFiles,
    ledger: Arc<Mutex<Ledger>>,
    host: usize,
    slowness: Arc<AtomicU64>,
}

impl Opener for LockingFiles {
    fn open(
        &self,
        executor: &Executor,
        path: &Path,
        options: OpenOptions,
    ) -> LocalBoxFuture<'static, Result<Arc<dyn Storage>>> {
        let opening = self.files.open(executor, path, options);
        let (ledger, host, slowness) = (self.ledger.clone(), self.host, self.slowness.clone());
        let executor = executor.clone();
        Box::pin(async move {
            let storage = opening.await?;
            let number = {
                let mut ledger = ledger.lock().unwrap();
                ledger.next_file += 1;
                ledger.next_file
            };
            let file = Arc::new(LockedFile { storage, ledger, host, slowness, number });
            if let LockPolicy::Exclusive { deadline } = options.lock {
                let end = executor.now() + deadline;
                while let Err(error) = file.lock() {
                    if executor.now() >= end {
                        return Err(error);
                    }
                    executor.sleep(Duration::from_millis(1)).await;
                }
            }
            Ok(file as Arc<dyn Storage>)
        })
    }

    fn canonical(&self, executor: &Executor, path: &Path) -> LocalBoxFuture<'static, Result<PathBuf>> {
        self.files.canonical(executor, path)
    }
}

/// An open file.
#[derive(Debug)]
struct LockedFile {
    storage: Arc<dyn Storage>,
    ledger: Arc<Mutex<Ledger>>,
    host: usize,
    slowness: Arc<AtomicU64>,
    number: u64,
}

impl LockedFile {
    fn lock(&self) -> Result<()> {
        let mut ledger = self.ledger.lock().unwrap();
        match ledger.holder {
            Some(holder) if holder != self.number => Err(Error::new(ErrorKind::Busy, "in use by another")),
            _ => {
                ledger.holder = Some(self.number);
                Ok(())
            }
        }
    }

    fn unlock(&self) {
        let mut ledger = self.ledger.lock().unwrap();
        if ledger.holder == Some(self.number) {
            ledger.holder = None;
        }
    }
}

impl Drop for LockedFile {
    fn drop(&mut self) {
        self.unlock();
    }
}

impl Storage for LockedFile {
    fn submit(&self, executor: &Executor, operation: StorageOperation, hold: Option<Hold>) -> Pending {
        let done = |result| Pending::completed(Completion { buffer: None, result });
        match operation {
            StorageOperation::Lock => return done(self.lock()),
            StorageOperation::Unlock => {
                self.unlock();
                return done(Ok(()));
            }
            _ => {}
        }
        let delay = match self.slowness.load(Ordering::Relaxed) {
            0 => Duration::ZERO,
            longest => Duration::from_micros(executor.random() % longest),
        };
        let changes = operation.changes();
        let (storage, ledger, executor) = (self.storage.clone(), self.ledger.clone(), executor.clone());
        let (host, number) = (self.host, self.number);
        Pending::spawn(&executor.clone(), hold, async move {
            if !delay.is_zero() {
                executor.sleep(delay).await;
            }
            if changes {
                let mut ledger = ledger.lock().unwrap();
                let is_stray = ledger.holder != Some(number);
                if is_stray && ledger.refuses {
                    let error = Error::from_os("its lock was lost", std::io::Error::from_raw_os_error(ESTALE));
                    return Completion { buffer: operation.into_buffer(), result: Err(error) };
                }
                ledger.writers.push(host);
                ledger.strays += usize::from(is_stray);
            }
            storage.submit(&executor, operation, None).await
        })
    }

    fn length(&self) -> u64 {
        self.storage.length()
    }

    fn limits(&self) -> Limits {
        self.storage.limits()
    }

    fn origin(&self) -> Origin {
        self.storage.origin()
    }
}
