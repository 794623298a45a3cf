//! Flushes: one sync of the leaf serves all flushes that wait for it, and a failed sync is the last one.
//!
//! ```text
//!   flush a  |--- sync 1 ---|
//!   flush b      |..waits...|--- sync 2 ---|      (sync 1 may have begun before what b must cover was answered)
//!   flush c          |.waits|--- sync 2 ---|
//! ```
//!
//! After a failed sync the kernel may have dropped what it could not write and say so only once: repeating the sync
//! would succeed and prove nothing. Every later flush fails until the chain is opened again.

use std::{cell::RefCell, rc::Rc};

use block_core::{Error, ErrorKind, Result};
use image_format::Format;

use storage_io::Signal;

use crate::chain::Chain;

/// Which syncs have begun and ended.
#[derive(Default)]
pub(crate) struct Syncs {
    state: RefCell<State>,
    ended: Signal,
}

#[derive(Default)]
struct State {
    begun: u64,
    ended: u64,
    failed: Option<Error>,
}

/// What a flush does next.
enum Turn {
    /// It is served, or never will be.
    Over(Result<()>),
    /// No sync runs: begin one for all who wait.
    Begin,
}

impl Syncs {
    fn turn(&self, wanted: u64) -> Option<Turn> {
        let mut state = self.state.borrow_mut();
        if let Some(error) = &state.failed {
            return Some(Turn::Over(Err(error.clone())));
        }
        if state.ended >= wanted {
            return Some(Turn::Over(Ok(())));
        }
        let runs = state.begun > state.ended;
        (!runs).then(|| {
            state.begun += 1;
            Turn::Begin
        })
    }

    fn end(&self, result: &Result<()>) {
        let mut state = self.state.borrow_mut();
        state.ended = state.begun;
        state.failed = result.as_ref().err().cloned();
        drop(state);
        self.ended.notify();
    }

    /// The first sync that begins after now.
    fn next(&self) -> u64 {
        self.state.borrow().begun + 1
    }
}

impl<F: Format + 'static> Chain<F> {
    /// Makes what was answered before this call durable.
    pub(crate) async fn flush(self: &Rc<Self>) -> Result<()> {
        let wanted = self.syncs.next();
        loop {
            match self.syncs.ended.find(|| self.syncs.turn(wanted)).await {
                Turn::Over(result) => return result,
                Turn::Begin => {
                    let tables = self.shared.tables.now();
                    let result = self.leaf().flush(&self.executor).await;
                    if result.is_ok() {
                        self.shared.tables.made_durable(tables);
                    }
                    let lasting = |error: Error| error.context("a flush failed, the image must be opened again");
                    self.syncs.end(&result.map_err(lasting));
                }
            }
        }
    }

    /// A chain whose leaf only reads has nothing to flush.
    pub(crate) async fn flush_if_writable(self: &Rc<Self>) -> Result<()> {
        if self.shared.read_only { Ok(()) } else { self.flush().await }
    }

    /// Refuses to change an image that only reads.
    pub(crate) fn check_writable(&self) -> Result<()> {
        if self.shared.read_only { Err(Error::new(ErrorKind::ReadOnly, "the disk is read-only")) } else { Ok(()) }
    }
}
