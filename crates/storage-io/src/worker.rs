//! Threads for what cannot be asked of the kernel without waiting: opening, locking, ioctls, and all I/O where no
//! asynchronous interface is to be had.
//!
//! ```text
//!   job of a file ----> fewer than 16 of that file run? --yes--> runnable --> an idle thread, or a new one
//!                                  \--no--> held until one of them has ended
//!   job of its own ------------------------------------------> runnable
//! ```
//!
//! What hangs holds up nobody but its own file: a thread that hangs is not counted on, another one is started. Threads
//! start when they are needed, end when they have been idle for a while, and end with their executor. There is a limit,
//! so that a host full of hung mounts does not drown in threads; a job that would wait behind what hangs is refused.

use std::{
    collections::{HashMap, VecDeque},
    io,
    panic::{AssertUnwindSafe, catch_unwind},
    sync::{Arc, Condvar, Mutex, MutexGuard, PoisonError},
    thread,
    time::Duration,
};

use crate::{engine::Key, shared::Shared};

/// Jobs of one file that run at once: as many as a device is glad of, and the depth of the plain threads engine.
const OF_A_FILE_MAX: usize = 16;
/// Threads of one executor; so many only if most of them hang, or hundreds of images are opened at once.
pub(crate) const WORKERS_MAX: usize = 256;
/// An idle thread ends after this long.
const IDLE: Duration = Duration::from_secs(5);
/// Jobs are calls of the kernel with little around them.
const STACK_BYTES: usize = 256 << 10;

pub(crate) type Job = Box<dyn FnOnce() -> i32 + Send>;

/// Names what jobs belong to: an open file, by its address.
pub(crate) type Group = usize;

/// A bounded set of threads that run jobs and report each under its key.
pub(crate) struct Workers {
    queue: Arc<Queue>,
    shared: Arc<Shared>,
}

/// Why a job was not taken.
pub(crate) enum Refused {
    /// All threads that there may be are busy: they hang.
    AllBusy,
    /// The operating system gives no thread.
    NoThread(io::Error),
}

struct Queue {
    state: Mutex<State>,
    ready: Condvar,
    /// How long a thread may be idle.
    idle: Duration,
}

#[derive(Default)]
struct State {
    /// Waiting for a thread only.
    runnable: VecDeque<Queued>,
    groups: HashMap<Group, Members>,
    threads: usize,
    idle: usize,
    closed: bool,
}

struct Queued {
    key: Key,
    group: Option<Group>,
    job: Job,
}

/// The jobs of one group.
#[derive(Default)]
struct Members {
    /// Running or runnable.
    running: usize,
    held: VecDeque<Queued>,
}

impl Workers {
    pub(crate) fn new(shared: Arc<Shared>) -> Self {
        Self::with_idle(shared, IDLE)
    }

    fn with_idle(shared: Arc<Shared>, idle: Duration) -> Self {
        let queue = Queue { state: Mutex::default(), ready: Condvar::new(), idle };
        Workers { queue: Arc::new(queue), shared }
    }

    /// Runs a job that belongs to a file, or lets it wait until enough of the others of that file have ended.
    ///
    /// # Errors
    /// The operating system refuses the very first thread; with at least one running, the job waits for it.
    pub(crate) fn run_for(&self, group: Group, key: Key, job: Job) -> Result<(), Refused> {
        let mut state = self.queue.state();
        let queued = Queued { key, group: Some(group), job };
        let members = state.groups.entry(group).or_default();
        if members.running >= OF_A_FILE_MAX {
            members.held.push_back(queued);
            return Ok(());
        }
        members.running += 1;
        match self.find_thread(&mut state) {
            Err(refused) if state.threads == 0 => {
                state.leave(Some(group));
                return Err(refused);
            }
            Ok(()) | Err(_) => self.start(state, queued),
        }
        Ok(())
    }

    /// Runs a job that belongs to nobody else. Without a thread for it, it waits for one if it `may_wait`.
    ///
    /// # Errors
    /// There is no thread for it, and it would wait behind what hangs.
    pub(crate) fn run(&self, key: Key, job: Job, may_wait: impl FnOnce() -> bool) -> Result<(), Refused> {
        let mut state = self.queue.state();
        match self.find_thread(&mut state) {
            Err(refused) if state.threads == 0 || !may_wait() => return Err(refused),
            Ok(()) | Err(_) => self.start(state, Queued { key, group: None, job }),
        }
        Ok(())
    }

    /// Makes sure that one more runnable job finds a thread.
    fn find_thread(&self, state: &mut State) -> Result<(), Refused> {
        if state.idle > state.runnable.len() {
            return Ok(());
        }
        if state.threads >= WORKERS_MAX {
            return Err(Refused::AllBusy);
        }
        let (queue, shared) = (self.queue.clone(), self.shared.clone());
        let thread = thread::Builder::new().name("oxtap-io".into()).stack_size(STACK_BYTES);
        thread.spawn(move || work(&queue, &shared)).map_err(Refused::NoThread)?;
        state.threads += 1;
        Ok(())
    }

    fn start(&self, mut state: MutexGuard<'_, State>, queued: Queued) {
        state.runnable.push_back(queued);
        drop(state);
        self.queue.ready.notify_one();
    }
}

impl Drop for Workers {
    fn drop(&mut self) {
        self.queue.state().closed = true;
        self.queue.ready.notify_all();
    }
}

impl Queue {
    /// The lock guards lists; nothing waits and nothing can panic while it is held.
    fn state(&self) -> MutexGuard<'_, State> {
        self.state.lock().unwrap_or_else(PoisonError::into_inner)
    }

    /// The next job for the calling thread, which is counted as idle; none when the thread shall end.
    fn next(&self) -> Option<Queued> {
        let mut state = self.state();
        let mut is_late = false;
        while state.runnable.is_empty() && !state.closed && !is_late {
            let (woken, timeout) = self.ready.wait_timeout(state, self.idle).unwrap_or_else(PoisonError::into_inner);
            (state, is_late) = (woken, timeout.timed_out());
        }
        state.idle -= 1;
        let next = state.runnable.pop_front();
        state.threads -= usize::from(next.is_none());
        next
    }
}

impl State {
    /// One job of a group has ended: the next that was held may run.
    fn leave(&mut self, group: Option<Group>) {
        let Some(group) = group else { return };
        let members = self.groups.get_mut(&group).expect("a group stays as long as one of its jobs runs");
        if let Some(next) = members.held.pop_front() {
            // The calling thread takes it, or one before it.
            self.runnable.push_back(next);
            return;
        }
        members.running -= 1;
        if members.running == 0 {
            self.groups.remove(&group);
        }
    }
}

/// A worker's life. A job that hangs hangs this thread only.
fn work(queue: &Queue, shared: &Shared) {
    queue.state().idle += 1;
    while let Some(Queued { key, group, job }) = queue.next() {
        // A job that panics has left no result, which its waiter sees; the thread serves on.
        let result = catch_unwind(AssertUnwindSafe(job)).unwrap_or(0);
        let mut state = queue.state();
        state.leave(group);
        // Before its completion is told: whoever has another job at once finds this thread.
        state.idle += 1;
        drop(state);
        shared.complete(key, result);
    }
}

#[cfg(test)]
mod tests {
    use std::sync::mpsc;

    use super::*;

    /// Far longer than anything here takes: a test that hangs fails.
    const HANG: Duration = Duration::from_secs(60);

    struct Bench {
        workers: Workers,
        shared: Arc<Shared>,
        done: Vec<Key>,
    }

    /// Jobs that hang until this is dropped.
    struct Gate(Vec<mpsc::Sender<()>>);

    impl Gate {
        fn job(&mut self) -> Job {
            let (go, hung) = mpsc::channel::<()>();
            self.0.push(go);
            Box::new(move || {
                assert_eq!(hung.recv_timeout(HANG), Err(mpsc::RecvTimeoutError::Disconnected));
                0
            })
        }
    }

    fn bench(idle: Duration) -> Bench {
        let shared = Arc::new(Shared::new().unwrap());
        Bench { workers: Workers::with_idle(shared.clone(), idle), shared, done: Vec::new() }
    }

    /// Looks again and again, ten seconds at most.
    fn wait_until(mut is_so: impl FnMut() -> bool) {
        for _ in 0..10_000 {
            if is_so() {
                return;
            }
            thread::sleep(Duration::from_millis(1));
        }
        panic!("it does not come");
    }

    fn nothing() -> Job {
        Box::new(|| 0)
    }

    impl Bench {
        /// Waits until so many jobs are done; which, in the order of their keys.
        fn done(&mut self, count: usize) -> &[Key] {
            wait_until(|| {
                self.done.extend(self.shared.take_completed().0.into_iter().map(|(key, _)| key));
                self.done.len() >= count
            });
            self.done.sort_unstable();
            &self.done
        }

        fn threads(&self) -> usize {
            self.workers.queue.state().threads
        }
    }

    #[test]
    fn what_hangs_holds_up_its_own_file_and_nobody_else() {
        let mut bench = bench(IDLE);
        let mut gate = Gate(Vec::new());
        for key in 0..OF_A_FILE_MAX + 3 {
            assert!(bench.workers.run_for(1, key, gate.job()).is_ok());
        }
        assert_eq!(bench.threads(), OF_A_FILE_MAX);
        assert!(bench.workers.run_for(2, 100, nothing()).is_ok());
        assert!(bench.workers.run(101, nothing(), || false).is_ok());
        assert_eq!(bench.done(2), [100, 101]);
        drop(gate);
        assert_eq!(bench.done(OF_A_FILE_MAX + 5).len(), OF_A_FILE_MAX + 5);
        assert!(bench.workers.queue.state().groups.is_empty());
    }

    #[test]
    fn when_all_threads_hang_a_job_is_refused_or_waits_as_it_wants() {
        let mut bench = bench(IDLE);
        let mut gate = Gate(Vec::new());
        for key in 0..WORKERS_MAX {
            assert!(bench.workers.run(key, gate.job(), || unreachable!("there are threads left")).is_ok());
        }
        assert!(matches!(bench.workers.run(WORKERS_MAX, nothing(), || false), Err(Refused::AllBusy)));
        assert!(bench.workers.run(WORKERS_MAX, nothing(), || true).is_ok());
        // What belongs to a file is I/O: it waits.
        assert!(bench.workers.run_for(1, WORKERS_MAX + 1, nothing()).is_ok());
        assert_eq!(bench.threads(), WORKERS_MAX);
        drop(gate);
        assert_eq!(bench.done(WORKERS_MAX + 2).len(), WORKERS_MAX + 2);
    }

    #[test]
    fn threads_start_when_they_are_needed_and_end_when_they_are_not() {
        let mut bench = bench(Duration::from_millis(10));
        assert_eq!(bench.threads(), 0);
        for key in 0..8 {
            assert!(bench.workers.run(key, nothing(), || false).is_ok());
        }
        bench.done(8);
        wait_until(|| bench.threads() == 0);
        assert!(bench.workers.run(8, nothing(), || false).is_ok());
        assert_eq!((bench.done(9).len(), bench.threads() <= 1), (9, true));
    }

    #[test]
    fn one_thread_is_enough_for_one_job_after_the_other() {
        let mut bench = bench(IDLE);
        for key in 0..100 {
            assert!(bench.workers.run(key, nothing(), || false).is_ok());
            bench.done(key + 1);
        }
        assert_eq!(bench.threads(), 1);
    }
}
