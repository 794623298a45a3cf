//! Tasks of any thread that wait for something to change.

use std::{
    collections::BTreeMap,
    mem,
    sync::{Arc, Mutex, MutexGuard, PoisonError},
    task::Waker,
};

/// Those who wait: all are woken, and look for themselves whether it was what they wait for.
#[derive(Debug, Default)]
pub(crate) struct Waiting(Mutex<Places>);

#[derive(Debug, Default)]
struct Places {
    wakers: BTreeMap<u64, Waker>,
    next: u64,
}

impl Waiting {
    /// Guards the list; nothing waits while it is locked.
    fn places(&self) -> MutexGuard<'_, Places> {
        self.0.lock().unwrap_or_else(PoisonError::into_inner)
    }

    /// Something has changed.
    pub(crate) fn wake_all(&self) {
        // Wakers are foreign code: not under the lock.
        let wakers = mem::take(&mut self.places().wakers);
        wakers.into_values().for_each(Waker::wake);
    }
}

/// A place among those who wait, given back when it is dropped.
#[derive(Debug)]
pub(crate) struct Place {
    waiting: Arc<Waiting>,
    number: u64,
}

impl Place {
    /// Takes a place.
    pub(crate) fn new(waiting: &Arc<Waiting>) -> Place {
        let mut places = waiting.places();
        places.next += 1;
        Place { waiting: waiting.clone(), number: places.next }
    }

    /// From now on, the next change wakes this one.
    pub(crate) fn set(&self, waker: &Waker) {
        self.waiting.places().wakers.insert(self.number, waker.clone());
    }
}

impl Drop for Place {
    fn drop(&mut self) {
        self.waiting.places().wakers.remove(&self.number);
    }
}
