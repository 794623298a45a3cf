//! Queue threads: a disk is served by its home thread alone until more connections come than one. Each further queue has
//! a thread with an executor of its own, which ends when its connections have gone, at the latest when the disk is closed.

use std::thread;

use block_core::{Result, ResultExt};
use control_api::Minor;
use export::nbd::Worker;
use storage_io::{BufferPool, EngineChoice, Executor};

use crate::{
    log::Log,
    loops::{Loops, Purpose},
};

/// More threads than this help few disks and cost all others.
const USUAL_MAX: usize = 4;
/// Free buffers that a queue keeps, for each of a few sizes.
const POOL_BYTES: usize = 4 << 20;

/// How many queues a disk may have if nobody says: as many as there are processors, within reason.
pub(crate) fn usual() -> usize {
    thread::available_parallelism().map_or(1, usize::from).min(USUAL_MAX)
}

/// What the queue threads of a disk have in common.
#[derive(Clone)]
pub(crate) struct QueueThreads {
    pub(crate) engine: EngineChoice,
    pub(crate) minor: Minor,
    /// How many queues there may be, home's with them.
    pub(crate) count: usize,
    pub(crate) log: Log,
    pub(crate) loops: Loops,
}

impl QueueThreads {
    /// Starts a thread for one more queue.
    pub(crate) fn start(&self, worker: Worker) -> Result<()> {
        let (minor, queue, threads) = (self.minor, worker.queue(), self.clone());
        let run = move || {
            if let Err(error) = threads.run(worker) {
                let words = "queue cannot start, others serve its connections";
                threads.log.warning(format!("minor={minor}: {words}: {error}"));
            }
        };
        thread::Builder::new().name(format!("queue {minor}.{queue}")).spawn(run).map(drop).context("queue")
    }

    /// The life of such a thread.
    fn run(&self, worker: Worker) -> Result<()> {
        let executor = Executor::new(self.engine).context("engine")?;
        let known = self.loops.register(&executor, Purpose::Queue(self.minor, worker.queue()));
        executor.block_on(worker.serve(&executor, BufferPool::new(POOL_BYTES)));
        drop(known);
        executor.end_tasks();
        Ok(())
    }
}
