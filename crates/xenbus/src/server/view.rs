//! The tree as one request sees it: directly, or through a transaction. What requests do to nodes, and whether they may.

use wire::xenstore::{ErrorName, Path, Permission};

use super::{
    events::{Change, ChangeKind},
    transaction::Transaction,
    tree::{Node, Tree},
};

/// What a request wants to do with a node.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(crate) enum Wish {
    Read,
    Write,
}

/// The tree as a domain sees it in one request.
pub(crate) struct View<'a> {
    pub(crate) tree: &'a mut Tree,
    pub(crate) transaction: Option<&'a mut Transaction>,
    pub(crate) domain: u16,
    /// What was changed directly.
    pub(crate) changes: Vec<Change>,
    /// Nodes that the domain may own.
    pub(crate) nodes_max: usize,
}

impl View<'_> {
    /// A node, whoever may see it; the client does not hear of it.
    fn look(&mut self, path: &Path) -> Option<Node> {
        match &mut self.transaction {
            Some(transaction) => transaction.peek(self.tree, path).cloned(),
            None => self.tree.get(path).cloned(),
        }
    }

    /// A node that the client hears of.
    fn read(&mut self, path: &Path) -> Option<Node> {
        match &mut self.transaction {
            Some(transaction) => transaction.read(self.tree, path).cloned(),
            None => self.tree.get(path).cloned(),
        }
    }

    fn put(&mut self, path: &Path, node: Node) {
        match &mut self.transaction {
            Some(transaction) => transaction.put(self.tree, path, node),
            None => self.tree.put(path, node),
        }
    }

    fn note(&mut self, change: Change) {
        match &mut self.transaction {
            Some(transaction) => transaction.note(change),
            None => self.changes.push(change),
        }
    }

    /// A node that the domain may read or write.
    ///
    /// # Errors
    /// What is wrong, unless the domain may not even know: then it is `EACCES`.
    pub(crate) fn node(&mut self, path: &Path, wish: Wish) -> Result<Node, ErrorName> {
        let Some(node) = self.read(path) else {
            return Err(self.hidden(path, wish, ErrorName::Enoent));
        };
        match self.may(&node, wish) {
            true => Ok(node),
            false => Err(self.hidden(path, wish, ErrorName::Eacces)),
        }
    }

    fn may(&self, node: &Node, wish: Wish) -> bool {
        let access = node.access(self.domain);
        match wish {
            Wish::Read => access.may_read(),
            Wish::Write => access.may_write(),
        }
    }

    /// An error as the domain is told it: what is below a node that it may not see does not leak.
    fn hidden(&mut self, path: &Path, wish: Wish, error: ErrorName) -> ErrorName {
        let ancestor = self.nearest_ancestor(path);
        if self.may(&ancestor, wish) { error } else { ErrorName::Eacces }
    }

    fn nearest_ancestor(&mut self, path: &Path) -> Node {
        let mut path = path.clone();
        while let Some(parent) = path.parent() {
            if let Some(node) = self.look(&parent) {
                return node;
            }
            path = parent;
        }
        self.look(&Path::root()).expect("there is always a root")
    }

    /// A node gets a value; it is made, with its parents, if it is not there.
    pub(crate) fn write(&mut self, path: &Path, value: &[u8]) -> Result<(), ErrorName> {
        match self.look(path) {
            Some(mut node) => {
                if !self.may(&node, Wish::Write) {
                    return Err(ErrorName::Eacces);
                }
                node.value = value.to_vec();
                self.change(path, node);
            }
            None => self.make(path, value)?,
        }
        Ok(())
    }

    /// A node is made if it is not there.
    pub(crate) fn make_directory(&mut self, path: &Path) -> Result<(), ErrorName> {
        match self.look(path) {
            Some(node) if self.may(&node, Wish::Write) => Ok(()),
            Some(_) => Err(ErrorName::Eacces),
            None => self.make(path, &[]),
        }
    }

    fn change(&mut self, path: &Path, node: Node) {
        let readers = [Some(&node), None];
        let change = Change::new(ChangeKind::Changed, path, readers);
        self.put(path, node);
        self.note(change);
    }

    /// Nodes that the domain owns, those that the transaction will make among them.
    fn owned(&self) -> usize {
        let made = self.transaction.as_ref().map_or(0, |transaction| transaction.made_for(self.tree, self.domain));
        self.tree.owned_by(self.domain) + made
    }

    /// Makes a node and those above it that are missing. They belong to who makes them, and are as visible as the node
    /// that they are made below.
    fn make(&mut self, path: &Path, value: &[u8]) -> Result<(), ErrorName> {
        let above = self.nearest_ancestor(path);
        if !self.may(&above, Wish::Write) {
            return Err(ErrorName::Eacces);
        }
        let mut missing = vec![path.clone()];
        let mut next = path.parent();
        while let Some(parent) = next {
            if self.look(&parent).is_some() {
                break;
            }
            next = parent.parent();
            missing.push(parent);
        }
        if self.domain != 0 && self.owned() + missing.len() > self.nodes_max {
            return Err(ErrorName::Enospc);
        }
        let mut permissions = above.permissions;
        if self.domain != 0 {
            permissions[0].domain = self.domain;
        }
        for path in missing.into_iter().rev() {
            let node = Node {
                value: Vec::new(),
                permissions: permissions.clone(),
                children: Default::default(),
                generation: 0,
            };
            self.put(&path, node);
        }
        let mut node = self.look(path).expect("it was just made");
        node.value = value.to_vec();
        self.change(path, node);
        Ok(())
    }

    /// A node goes, with all below. One that is not there is as good as gone, if its parent is there.
    pub(crate) fn remove(&mut self, path: &Path) -> Result<(), ErrorName> {
        let Some(parent) = path.parent() else { return Err(ErrorName::Einval) };
        match self.node(path, Wish::Write) {
            Ok(_) => {}
            Err(ErrorName::Enoent) => return self.node(&parent, Wish::Write).map(drop),
            Err(error) => return Err(error),
        }
        let parent_node = self.look(&parent);
        let doomed = self.all_below(path);
        for (index, (path, node)) in doomed.iter().enumerate() {
            let kind = if index == 0 { ChangeKind::Removed } else { ChangeKind::RemovedBelow };
            self.note(Change::new(kind, path, [Some(node), parent_node.as_ref()]));
        }
        for (path, _) in doomed.iter().rev() {
            match &mut self.transaction {
                Some(transaction) => transaction.remove(self.tree, path),
                None => self.tree.remove(path),
            }
        }
        Ok(())
    }

    /// A node and all below it, each before those below it.
    fn all_below(&mut self, path: &Path) -> Vec<(Path, Node)> {
        let mut found = Vec::new();
        let mut waiting = vec![path.clone()];
        while let Some(path) = waiting.pop() {
            let Some(node) = self.look(&path) else { continue };
            waiting.extend(node.children.iter().rev().filter_map(|name| path.join(name).ok()));
            found.push((path, node));
        }
        found
    }

    /// Who may do what with a node from now on. Only its owner may say so, and cannot give it away.
    pub(crate) fn set_permissions(&mut self, path: &Path, permissions: Vec<Permission>) -> Result<(), ErrorName> {
        let node = self.node(path, Wish::Write)?;
        if self.domain != 0 {
            if node.owner() != self.domain {
                return Err(ErrorName::Eacces);
            }
            if permissions[0].domain != self.domain {
                return Err(ErrorName::Eperm);
            }
        }
        let mut changed = node.clone();
        changed.permissions = permissions;
        let change = Change::new(ChangeKind::Changed, path, [Some(&node), Some(&changed)]);
        self.put(path, changed);
        self.note(change);
        Ok(())
    }
}
