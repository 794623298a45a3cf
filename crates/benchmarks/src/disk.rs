//! Disks in this process, with as many queues as asked for: the first on the calling thread, the others on theirs.

use std::{
    cell::Cell,
    fs::File,
    io::Write,
    path::{Path, PathBuf},
    rc::Rc,
    sync::{
        Arc,
        atomic::{AtomicBool, Ordering},
    },
    thread,
    time::Duration,
};

use block_core::{Result, ResultExt};
use image_chain::{ChainSpec, ImageKind, ImageName};
use storage_io::{Access, BufferPool, EngineChoice, Executor, Files, LockPolicy, MemoryFiles, Opener};
use virtual_disk::{Disk, DiskQueue, Report, Reporter, Settings};

use crate::{
    load::{Pattern, Saturating},
    stripes::Stripes,
    usage::own_cpu,
};

/// Free buffers kept by each queue, for each size.
const POOL_BYTES: usize = 16 << 20;
/// Before anything is measured, tables are read and memory is touched.
const WARM_UP: Duration = Duration::from_millis(50);

/// Where the bytes of a raw image are.
#[derive(Clone, Debug)]
pub(crate) enum Place {
    /// A file, through the page cache or past it.
    File { path: PathBuf, is_direct: bool },
    /// Nowhere but in memory: no kernel on the way.
    Memory(u64),
}

/// What came of a load on some queues.
#[derive(Clone, Copy, Debug)]
pub(crate) struct Throughput {
    /// In a second.
    pub(crate) requests: f64,
    /// CPU time of one request, in all threads of this process, in microseconds.
    pub(crate) cpu: f64,
}

/// Nobody listens.
pub(crate) struct Silent;

impl Reporter for Silent {
    fn report(&self, _: Report) {}
}

/// A file of so many bytes, none of them in a hole.
pub(crate) fn make_file(path: &Path, bytes: u64) -> Result<()> {
    let fill = || {
        let mut file = File::create(path)?;
        let part: Vec<u8> = (0..1_u32 << 20).map(|index| u8::try_from(index % 251).expect("a byte")).collect();
        for _ in 0..bytes >> 20 {
            file.write_all(&part)?;
        }
        file.sync_all()
    };
    fill().context(path.display())
}

pub(crate) fn pool() -> BufferPool {
    BufferPool::new(POOL_BYTES)
}

/// A disk that is open, on an executor of the calling thread.
pub(crate) fn open(place: &Place) -> Result<(Executor, Disk)> {
    let executor = Executor::new(EngineChoice::Probe).context("engine")?;
    let (opener, path, direct): (Rc<dyn Opener>, _, _) = match place {
        Place::File { path, is_direct } => (Rc::new(Files), path.clone(), *is_direct),
        Place::Memory(bytes) => {
            let files = MemoryFiles::new();
            files.put("/memory", Arc::new(Stripes::new(*bytes)));
            (Rc::new(files), "/memory".into(), false)
        }
    };
    let leaf = ImageName::new(ImageKind::Raw, path);
    let spec = ChainSpec { direct, lock: LockPolicy::None, ..ChainSpec::new(leaf, Access::Write) };
    let disk = Disk::new(&executor, opener, pool(), Arc::new(Silent));
    executor.block_on(disk.open(spec, Settings::default()))?;
    Ok((executor, disk))
}

/// Keeps `depth` requests under way on each of `queues` queues of an open disk.
pub(crate) fn saturate(
    (executor, disk): &(Executor, Disk),
    pattern: Pattern,
    queues: u64,
    depth: u64,
    duration: Duration,
) -> Result<Throughput> {
    let [warm, done] = [(); 2].map(|()| Arc::new(AtomicBool::new(false)));
    let run = Run { pattern, depth, warm: warm.clone(), done: done.clone() };
    let others: Vec<_> = (1..queues)
        .map(|number| {
            let (seed, run) = (disk.add_queue(), run.clone());
            thread::spawn(move || {
                let executor = Executor::new(EngineChoice::Probe)?;
                let queue = seed.start(&executor, pool());
                let requests = executor.block_on(run.measure(&queue, number));
                drop(queue);
                executor.end_tasks();
                Ok(requests)
            })
        })
        .collect();
    let used = Rc::new(Cell::new(Duration::ZERO));
    let mut requests = executor.block_on(async {
        let (timer, used) = (executor.clone(), used.clone());
        let _timer = executor.spawn(async move {
            timer.sleep(WARM_UP).await;
            warm.store(true, Ordering::Relaxed);
            let before = own_cpu();
            timer.sleep(duration).await;
            used.set(own_cpu() - before);
            done.store(true, Ordering::Relaxed);
        });
        run.measure(&disk.queue(), 0).await
    });
    for other in others {
        let other: Result<f64> = other.join().expect("a queue's thread does not panic");
        requests += other?;
    }
    Ok(Throughput { requests, cpu: used.get().as_secs_f64() * 1e6 / (requests * duration.as_secs_f64()) })
}

/// What each queue does.
#[derive(Clone)]
struct Run {
    pattern: Pattern,
    depth: u64,
    warm: Arc<AtomicBool>,
    done: Arc<AtomicBool>,
}

impl Run {
    /// Requests in a second.
    async fn measure(&self, queue: &DiskQueue, number: u64) -> f64 {
        let load = |stop| Saturating::new(self.pattern, self.depth, 1 + number, queue.pool().clone(), stop);
        queue.serve(load(&self.warm)).await;
        let began = queue.executor().now();
        let load = queue.serve(load(&self.done)).await;
        assert!(load.failed == 0, "{} requests failed", load.failed);
        #[allow(clippy::cast_precision_loss, reason = "a count of requests of some seconds")]
        let answered = load.answered as f64;
        answered / (queue.executor().now() - began).as_secs_f64()
    }
}
