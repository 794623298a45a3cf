//! A watch: something may be different at a node, or below it.

use std::{cell::RefCell, collections::BTreeSet, rc::Rc};

use storage_io::Signal;
use wire::xenstore::{Operation, Path};

use super::client::Store;

/// Different paths that are remembered for one watch. With more, only the watched node itself is told, once: whoever
/// looks there sees all. So a guest that writes and writes costs no memory.
const PATHS_MAX: usize = 256;

/// Tells of what changes at a node and below it. Dropping it ends it.
#[derive(Debug)]
pub struct Watch {
    store: Store,
    path: Path,
    token: String,
    events: Rc<Events>,
}

/// What one watch has to tell.
#[derive(Debug, Default)]
pub(super) struct Events {
    paths: RefCell<BTreeSet<String>>,
    came: Signal,
    /// Why the server does not tell anything at present.
    refusal: RefCell<Option<String>>,
}

impl Events {
    /// Takes note of an event at `path`, of a watch of `watched`. The same path twice is one event.
    pub(super) fn put(&self, path: &str, watched: &Path) {
        let mut paths = self.paths.borrow_mut();
        if paths.len() >= PATHS_MAX && !paths.contains(path) {
            paths.clear();
            paths.insert(watched.as_str().to_owned());
        } else {
            paths.insert(path.to_owned());
        }
        drop(paths);
        self.came.notify();
    }

    pub(super) fn set_refusal(&self, refusal: Option<String>) {
        self.refusal.replace(refusal);
    }

    pub(super) fn refusal(&self) -> Option<String> {
        self.refusal.borrow().clone()
    }
}

impl Watch {
    pub(super) fn new(store: Store, path: &Path) -> Watch {
        let events = Rc::<Events>::default();
        let token = store.shared().add_watch(path, &events);
        Watch { store, path: path.clone(), token, events }
    }

    /// The watched node.
    pub fn path(&self) -> &Path {
        &self.path
    }

    /// Ends when something has changed; says where. What changed there may have changed back, or changed more since.
    pub async fn next(&self) -> String {
        self.events.came.find(|| self.events.paths.borrow_mut().pop_first()).await
    }

    /// Why the server refuses this watch at present, if it does: its quota is used up, for example. It is asked again now and
    /// then; until it agrees, changes are not told, and each time the watched node itself is told instead.
    pub fn refusal(&self) -> Option<String> {
        self.events.refusal()
    }

    /// All that has changed and was not told yet.
    pub fn take(&self) -> Vec<String> {
        std::mem::take(&mut *self.events.paths.borrow_mut()).into_iter().collect()
    }
}

impl Drop for Watch {
    fn drop(&mut self) {
        self.store.shared().remove_watch(&self.token);
        let parts = [self.path.as_str().as_bytes(), b"\0", self.token.as_bytes(), b"\0"];
        // Nobody waits for the answer. Events that come before it have a token that nobody knows any more.
        let _ = self.store.shared().ask(0, Operation::Unwatch, &parts);
    }
}
