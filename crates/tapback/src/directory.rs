//! The device's own directory, as far as we write into it.
//!
//! It is the toolstack's: it may go, or be replaced by another of its name, at any time. So everything is written in a
//! transaction that looks first whether the directory is still the one that is meant, and nothing is made anew in one that
//! has gone. What the toolstack has put into our state and we have not seen yet is not written over.

use std::cell::Cell;

use block_core::Result;
use wire::xenstore::Path;
use xen::store::{Store, Transaction};
use xenbus::State;

use crate::{agent::TOLD, nodes, offer::Node};

/// Longer words are cut: a node holds only so many.
const ERROR_CHARACTERS_MAX: usize = 400;

pub(crate) struct Directory {
    store: Store,
    path: Path,
    errors: Path,
    /// The frontend's directory, as the toolstack has named it.
    frontend: Path,
    /// The state that we know to be in the node.
    shown: Cell<State>,
    /// An error may have been told that was not taken back.
    has_error: Cell<bool>,
}

/// What is written at once.
pub(crate) struct Change<'a> {
    pub(crate) nodes: &'a [Node],
    pub(crate) removed: &'a [&'a str],
    pub(crate) state: StateChange,
}

/// What becomes of the state.
#[derive(Clone, Copy, PartialEq, Eq)]
pub(crate) enum StateChange {
    To(State),
    /// It stays, and is not written: frontends look at nothing.
    Keep,
    /// It stays, and is written: frontends look again at what they know.
    Again,
}

impl Directory {
    pub(crate) fn new(store: &Store, path: Path, errors: Path, frontend: Path, shown: State) -> Directory {
        // Whoever served the device, or another of its name, before may have told of one.
        let (shown, has_error) = (Cell::new(shown), Cell::new(true));
        Directory { store: store.clone(), path, errors, frontend, shown, has_error }
    }

    pub(crate) fn frontend(&self) -> &Path {
        &self.frontend
    }

    /// The state that the node is known to show.
    pub(crate) fn shown(&self) -> State {
        self.shown.get()
    }

    /// The toolstack has written this state.
    pub(crate) fn note_shown(&self, state: State) {
        self.shown.set(state);
    }

    /// Writes all of it or nothing; false if the directory is not what it was.
    pub(crate) async fn write(&self, change: &Change<'_>) -> Result<bool> {
        let written = self.store.transaction(async |transaction| self.try_write(transaction, change).await).await?;
        if let (true, StateChange::To(state)) = (written, change.state) {
            self.shown.set(state);
        }
        Ok(written)
    }

    /// Whether one of these nodes has another value.
    pub(crate) async fn differs(&self, nodes: &[Node]) -> Result<bool> {
        for (name, value) in nodes {
            if nodes::read(&self.store, &self.node(name)).await?.as_deref() != Some(value.as_bytes()) {
                return Ok(true);
            }
        }
        Ok(false)
    }

    /// The value of the state; none if the directory is not ours.
    async fn state_in(&self, transaction: &Transaction) -> Result<Option<Vec<u8>>> {
        let state = transaction.read(&self.node("state")).await?;
        let frontend = transaction.read(&self.node("frontend")).await?;
        Ok(state.filter(|_| frontend.as_deref() == Some(self.frontend.as_str().as_bytes())))
    }

    async fn try_write(&self, transaction: &Transaction, change: &Change<'_>) -> Result<bool> {
        let state_node = self.node("state");
        let Some(value) = self.state_in(transaction).await? else { return Ok(false) };
        let state = nodes::state(Some(&value));
        if !self.may_become(state, change.state) {
            return Ok(false);
        }
        for name in change.removed {
            transaction.remove(&self.node(name)).await?;
        }
        for (name, value) in change.nodes {
            transaction.write(&self.node(name), value.as_bytes()).await?;
        }
        match change.state {
            StateChange::To(next) if next != state => {
                transaction.write(&state_node, next.number().to_string().as_bytes()).await?;
            }
            StateChange::Again => transaction.write(&state_node, &value).await?,
            StateChange::To(_) | StateChange::Keep => {}
        }
        Ok(true)
    }

    /// Says that the disk is at rest, or does not say so any more; false if the directory is not what it was.
    pub(crate) async fn tell_rest(&self, is_at_rest: bool) -> Result<bool> {
        let told = self.node(TOLD);
        self.store
            .transaction(async |transaction| {
                let Some(state) = self.state_in(transaction).await? else { return Ok(false) };
                if self.is_new(nodes::state(Some(&state))) {
                    return Ok(false);
                }
                match is_at_rest {
                    true => transaction.write(&told, b"").await?,
                    false => transaction.remove(&told).await?,
                }
                Ok(true)
            })
            .await
    }

    /// Makes whoever watches look at the directory, if it is there: its value is written again.
    pub(crate) async fn touch(&self) -> Result<bool> {
        self.store
            .transaction(async |transaction| {
                let is_there = transaction.read(&self.node("frontend")).await?.is_some();
                let value = transaction.read(&self.path).await?.filter(|_| is_there);
                if let Some(value) = &value {
                    transaction.write(&self.path, value).await?;
                }
                Ok(value.is_some())
            })
            .await
    }

    /// Whether a directory that shows `found` is the one that we know, and what we want may be written over it.
    fn may_become(&self, found: State, next: StateChange) -> bool {
        let is_ended_by_toolstack = found == State::Closing && self.shown.get() != State::Closing;
        let ends = matches!(next, StateChange::To(State::Closing | State::Closed));
        !self.is_new(found) && (ends || !is_ended_by_toolstack)
    }

    /// Whether a directory that shows `found` is another one, which has not begun.
    fn is_new(&self, found: State) -> bool {
        found == State::Initialising && self.shown.get() != State::Initialising
    }

    /// Tells of an error where Linux does: its number and words.
    pub(crate) async fn report(&self, errno: i32, words: &str) -> Result<()> {
        let words = words.chars().map(|character| if character.is_control() { '?' } else { character });
        let text: String = format!("{errno} ").chars().chain(words).take(ERROR_CHARACTERS_MAX).collect();
        self.has_error.set(true);
        let node = self.errors.join("error").expect("a plain name");
        self.store.write(&node, text.as_bytes()).await
    }

    /// Takes back what was told, with the directories that were made for it.
    pub(crate) async fn clear_report(&self) -> Result<()> {
        if !self.has_error.get() {
            return Ok(());
        }
        self.store
            .transaction(async |transaction| {
                if transaction.directory(&self.errors).await?.is_none() {
                    // Nobody has told of one, or somebody else has taken it back.
                    return Ok(());
                }
                nodes::remove_below_guest(transaction, &self.errors).await
            })
            .await?;
        self.has_error.set(false);
        Ok(())
    }

    fn node(&self, name: &str) -> Path {
        self.path.join(name).expect("a plain name")
    }
}
