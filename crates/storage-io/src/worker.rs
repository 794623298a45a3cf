//! Threads for what cannot be asked of the kernel without waiting: opening, locking, ioctls, and all I/O where no
//! asynchronous interface is to be had. They start when first needed and end with their executor.

use std::{
    collections::VecDeque,
    io,
    panic::{AssertUnwindSafe, catch_unwind},
    sync::{Arc, Condvar, Mutex, PoisonError},
    thread,
};

use crate::{engine::Key, shared::Shared};

/// As many jobs as may wait for a device at once; also the depth of the plain threads engine.
const WORKERS_MAX: usize = 16;

pub(crate) type Job = Box<dyn FnOnce() -> i32 + Send>;

/// A bounded set of threads that run jobs and report each under its key.
pub(crate) struct Workers {
    queue: Arc<Queue>,
    shared: Arc<Shared>,
}

#[derive(Default)]
struct Queue {
    state: Mutex<State>,
    ready: Condvar,
}

#[derive(Default)]
struct State {
    jobs: VecDeque<(Key, Job)>,
    threads: usize,
    idle: usize,
    closed: bool,
}

impl Workers {
    pub(crate) fn new(shared: Arc<Shared>) -> Self {
        Workers { queue: Arc::default(), shared }
    }

    /// Hands a job to an idle thread, or to a new one, or lets it wait for one.
    ///
    /// # Errors
    /// The operating system refuses the very first thread; with at least one running, the job waits for it.
    pub(crate) fn run(&self, key: Key, job: Job) -> io::Result<()> {
        let mut state = self.queue.state.lock().unwrap_or_else(PoisonError::into_inner);
        if state.idle <= state.jobs.len() && state.threads < WORKERS_MAX {
            let (queue, shared) = (self.queue.clone(), self.shared.clone());
            match thread::Builder::new().name("oxtap-io".into()).spawn(move || work(&queue, &shared)) {
                Ok(_) => state.threads += 1,
                Err(error) if state.threads == 0 => return Err(error),
                Err(_) => {}
            }
        }
        state.jobs.push_back((key, job));
        drop(state);
        self.queue.ready.notify_one();
        Ok(())
    }
}

impl Drop for Workers {
    fn drop(&mut self) {
        self.queue.state.lock().unwrap_or_else(PoisonError::into_inner).closed = true;
        self.queue.ready.notify_all();
    }
}

/// A worker's life. A job that hangs hangs this thread only.
fn work(queue: &Queue, shared: &Shared) {
    loop {
        let mut state = queue.state.lock().unwrap_or_else(PoisonError::into_inner);
        state.idle += 1;
        while state.jobs.is_empty() && !state.closed {
            state = queue.ready.wait(state).unwrap_or_else(PoisonError::into_inner);
        }
        state.idle -= 1;
        let Some((key, job)) = state.jobs.pop_front() else {
            return;
        };
        drop(state);
        // A job that panics has left no result, which its waiter sees; the thread serves on.
        let result = catch_unwind(AssertUnwindSafe(job)).unwrap_or(0);
        shared.complete(key, result);
    }
}
