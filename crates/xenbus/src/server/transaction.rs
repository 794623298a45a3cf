//! A transaction: what it has seen of the tree, and what it wants to change.
//!
//! A node that was looked at is kept as it was, with its generation; when the transaction ends, every node that the client
//! has read must still have that generation, else all is to be done again. A node that was only written does not conflict
//! with anybody.

use std::collections::BTreeMap;

use wire::xenstore::Path;

use super::{
    events::Change,
    tree::{Node, Tree},
};

#[derive(Debug)]
struct Entry {
    /// As the transaction sees it; none: it is not there.
    node: Option<Node>,
    /// Its generation when it was copied, 0 if it was not there.
    generation: u64,
    /// The client has learned something about it.
    is_read: bool,
    is_changed: bool,
}

/// An open transaction.
#[derive(Debug, Default)]
pub(crate) struct Transaction {
    entries: BTreeMap<Path, Entry>,
    /// What it has done, in order, for those who watch.
    changes: Vec<Change>,
}

impl Transaction {
    /// How many nodes it knows.
    pub(crate) fn len(&self) -> usize {
        self.entries.len()
    }

    /// A node as the transaction sees it, for the client to know.
    pub(crate) fn read(&mut self, tree: &Tree, path: &Path) -> Option<&Node> {
        let entry = self.entry(tree, path);
        entry.is_read |= !entry.is_changed;
        entry.node.as_ref()
    }

    /// A node as the transaction sees it, for us to know.
    pub(crate) fn peek(&mut self, tree: &Tree, path: &Path) -> Option<&Node> {
        self.entry(tree, path).node.as_ref()
    }

    fn entry(&mut self, tree: &Tree, path: &Path) -> &mut Entry {
        self.entries.entry(path.clone()).or_insert_with(|| {
            let node = tree.get(path).cloned();
            let generation = node.as_ref().map_or(0, |node| node.generation);
            Entry { node, generation, is_read: false, is_changed: false }
        })
    }

    pub(crate) fn put(&mut self, tree: &Tree, path: &Path, node: Node) {
        let is_new = self.set(tree, path, Some(node));
        if is_new {
            self.change_parent(tree, path, |parent, name| _ = parent.children.insert(name));
        }
    }

    pub(crate) fn remove(&mut self, tree: &Tree, path: &Path) {
        self.set(tree, path, None);
        self.change_parent(tree, path, |parent, name| _ = parent.children.remove(&name));
    }

    /// Whether there was none before.
    fn set(&mut self, tree: &Tree, path: &Path, node: Option<Node>) -> bool {
        let entry = self.entry(tree, path);
        entry.is_changed = true;
        std::mem::replace(&mut entry.node, node).is_none()
    }

    fn change_parent(&mut self, tree: &Tree, path: &Path, change: impl FnOnce(&mut Node, String)) {
        let Some(parent) = path.parent() else { return };
        if let Some(node) = &mut self.entry(tree, &parent).node {
            change(node, path.name().to_owned());
        }
    }

    pub(crate) fn note(&mut self, change: Change) {
        self.changes.push(change);
    }

    /// How many nodes a domain will own more than in the tree.
    pub(crate) fn made_for(&self, tree: &Tree, domain: u16) -> usize {
        let is_new = |(path, entry): &(&Path, &Entry)| {
            let is_owned = entry.node.as_ref().is_some_and(|node| node.owner() == domain);
            entry.is_changed && is_owned && tree.get(path).is_none()
        };
        self.entries.iter().filter(is_new).count()
    }

    /// Whether nobody has changed what it has read, nor taken away what it wants to write below, nor put anything below
    /// what it wants to take away.
    fn is_current(&self, tree: &Tree) -> bool {
        let generation = |path: &Path| tree.get(path).map_or(0, |node| node.generation);
        self.entries.iter().all(|(path, entry)| {
            let is_as_read = !entry.is_read || entry.generation == generation(path);
            let fits = match &entry.node {
                _ if !entry.is_changed => true,
                Some(_) => path.parent().is_none_or(|up| self.will_be_there(tree, &up)),
                None => self.will_be_childless(tree, path),
            };
            is_as_read && fits
        })
    }

    fn will_be_there(&self, tree: &Tree, path: &Path) -> bool {
        match self.entries.get(path).filter(|entry| entry.is_changed) {
            Some(entry) => entry.node.is_some(),
            None => tree.get(path).is_some(),
        }
    }

    fn will_be_childless(&self, tree: &Tree, path: &Path) -> bool {
        let mut children = tree.get(path).into_iter().flat_map(|node| &node.children);
        children.all(|name| path.join(name).is_ok_and(|child| !self.will_be_there(tree, &child)))
    }

    /// Carries it out, if nobody has changed what it has seen, and tells what has changed.
    pub(crate) fn commit(self, tree: &mut Tree) -> Option<Vec<Change>> {
        if !self.is_current(tree) {
            return None;
        }
        let (gone, there): (Vec<_>, Vec<_>) =
            self.entries.into_iter().filter(|(_, entry)| entry.is_changed).partition(|(_, entry)| entry.node.is_none());
        // Children before their parents, then parents before their children.
        gone.iter().rev().for_each(|(path, _)| tree.remove(path));
        for (path, entry) in there {
            let mut node = entry.node.expect("those without one are gone");
            // Who comes and goes below it is told by those who do.
            node.children = tree.get(&path).map(|old| old.children.clone()).unwrap_or_default();
            tree.put(&path, node);
        }
        Some(self.changes)
    }
}
