//! One sync for all who wait for one.

use std::cell::{Cell, RefCell};
use std::rc::Rc;
use std::sync::Arc;

use block_core::{Error, Result};
use storage_io::{Executor, Storage, StorageExt};

use crate::promise::Promise;

/// Makes a storage durable, for many callers at once: those who come while a sync runs share the next one, since the
/// running one may have begun before their writes ended.
///
/// A sync that failed is never tried again: the kernel has dropped what it could not write, and would say that all is
/// well. Every later one fails with the same error until the image is opened again.
pub(crate) struct Syncer(Rc<State>);

struct State {
    storage: Arc<dyn Storage>,
    next: RefCell<Option<Promise<Result<()>>>>,
    is_running: Cell<bool>,
    failure: RefCell<Option<Error>>,
}

impl Syncer {
    pub(crate) fn new(storage: Arc<dyn Storage>) -> Self {
        let (next, failure) = (RefCell::new(None), RefCell::new(None));
        Self(Rc::new(State { storage, next, is_running: Cell::new(false), failure }))
    }

    /// Ends when everything that had completed at the call is durable.
    pub(crate) fn sync(&self, executor: &Executor) -> Promise<Result<()>> {
        let state = &self.0;
        if let Some(failure) = &*state.failure.borrow() {
            return Promise::known(Err(failure.clone()));
        }
        let round = state.next.borrow_mut().get_or_insert_with(Promise::new).clone();
        if !state.is_running.replace(true) {
            executor.spawn(run(state.clone(), executor.clone())).detach();
        }
        round
    }
}

async fn run(state: Rc<State>, executor: Executor) {
    loop {
        let Some(round) = state.next.borrow_mut().take() else { break };
        let failure = state.failure.borrow().clone();
        let result = match failure {
            Some(failure) => Err(failure),
            None => state.storage.sync(&executor).await,
        };
        if let Err(error) = &result {
            state.failure.borrow_mut().get_or_insert_with(|| error.clone());
        }
        round.resolve(result);
    }
    state.is_running.set(false);
}
