//! The part of an executor that other threads reach.
//!
//! The loop says that it falls asleep, and then looks once more; who brings work puts it down, and then looks whether the
//! loop sleeps. Both orders are total (`SeqCst` and the lock), so one of the two sees the other, and only who finds it
//! asleep pays for a system call.

use std::{
    collections::VecDeque,
    os::fd::OwnedFd,
    sync::{
        Arc, Mutex, MutexGuard, PoisonError,
        atomic::{AtomicBool, Ordering},
    },
    task::Wake,
};

use rustix::event::{EventfdFlags, eventfd};

use crate::engine::Key;

/// Who is ready, which worker has finished, and how to wake who waits for that.
pub(crate) struct Shared {
    state: Mutex<SharedState>,
    sleeping: AtomicBool,
    wake: OwnedFd,
}

#[derive(Default)]
struct SharedState {
    ready: VecDeque<usize>,
    completed: Vec<(Key, i32)>,
}

impl SharedState {
    fn is_empty(&self) -> bool {
        self.ready.is_empty() && self.completed.is_empty()
    }
}

impl Shared {
    pub(crate) fn new() -> std::io::Result<Self> {
        let wake = eventfd(0, EventfdFlags::CLOEXEC | EventfdFlags::NONBLOCK)?;
        Ok(Shared { state: Mutex::default(), sleeping: AtomicBool::new(false), wake })
    }

    /// The lock guards a few words; nothing waits and nothing can panic while it is held.
    fn state(&self) -> MutexGuard<'_, SharedState> {
        self.state.lock().unwrap_or_else(PoisonError::into_inner)
    }

    fn make_ready(&self, index: usize) {
        self.state().ready.push_back(index);
        self.wake_if_asleep();
    }

    /// A worker thread has finished.
    pub(crate) fn complete(&self, key: Key, result: i32) {
        self.state().completed.push((key, result));
        self.wake_if_asleep();
    }

    /// From now on, whoever brings work wakes the loop. Whether there is work already.
    pub(crate) fn fall_asleep(&self) -> bool {
        self.sleeping.store(true, Ordering::SeqCst);
        !self.state().is_empty()
    }

    /// From now on, nobody needs to wake the loop.
    pub(crate) fn stay_awake(&self) {
        self.sleeping.store(false, Ordering::SeqCst);
    }

    /// Whether somebody is ready, or a worker has finished.
    pub(crate) fn has_work(&self) -> bool {
        !self.state().is_empty()
    }

    /// How many tasks are ready.
    pub(crate) fn ready_count(&self) -> usize {
        self.state().ready.len()
    }

    /// Takes the task that has been ready for longest.
    pub(crate) fn pop_ready(&self) -> Option<usize> {
        self.state().ready.pop_front()
    }

    /// Takes one of the ready tasks, which `draw` chooses among so many.
    pub(crate) fn draw_ready(&self, draw: impl FnOnce(usize) -> usize) -> Option<usize> {
        let mut state = self.state();
        let count = state.ready.len();
        if count == 0 { None } else { state.ready.swap_remove_back(draw(count)) }
    }

    /// Puts the ready tasks into another order; `draw` gives a number below the one that it is given.
    pub(crate) fn shuffle_ready(&self, mut draw: impl FnMut(usize) -> usize) {
        let mut state = self.state();
        for last in (1..state.ready.len()).rev() {
            state.ready.swap(last, draw(last + 1));
        }
    }

    /// What the workers have finished, and how many tasks are ready.
    pub(crate) fn take_completed(&self) -> (Vec<(Key, i32)>, usize) {
        let mut state = self.state();
        (std::mem::take(&mut state.completed), state.ready.len())
    }

    pub(crate) fn wake_if_asleep(&self) {
        if self.sleeping.swap(false, Ordering::SeqCst) {
            // A counter that is full wakes as well as one that was raised.
            let _ = rustix::io::write(&self.wake, &1_u64.to_le_bytes());
        }
    }

    pub(crate) fn clear_wake(&self) {
        // Nothing to read means that it was clear.
        let _ = rustix::io::read(&self.wake, &mut [0; 8]);
    }

    pub(crate) fn wake_descriptor(&self) -> &OwnedFd {
        &self.wake
    }
}

/// Makes one task ready, from any thread, once until it is polled.
pub(crate) struct TaskWake {
    index: usize,
    queued: AtomicBool,
    shared: Arc<Shared>,
}

impl TaskWake {
    pub(crate) fn new(index: usize, shared: &Arc<Shared>) -> Arc<Self> {
        Arc::new(TaskWake { index, queued: AtomicBool::new(false), shared: shared.clone() })
    }

    /// One that is woken already, for who looks without being told.
    pub(crate) fn woken(index: usize, shared: &Arc<Shared>) -> Arc<Self> {
        Arc::new(TaskWake { index, queued: AtomicBool::new(true), shared: shared.clone() })
    }

    /// Whether it was woken since it was polled.
    pub(crate) fn is_woken(&self) -> bool {
        self.queued.load(Ordering::Acquire)
    }

    /// It is polled now: whoever wakes it from now on makes it ready again. Whether it was woken.
    pub(crate) fn take(&self) -> bool {
        self.queued.swap(false, Ordering::AcqRel)
    }
}

impl Wake for TaskWake {
    fn wake(self: Arc<Self>) {
        self.wake_by_ref();
    }

    fn wake_by_ref(self: &Arc<Self>) {
        if !self.queued.swap(true, Ordering::AcqRel) {
            self.shared.make_ready(self.index);
        }
    }
}
