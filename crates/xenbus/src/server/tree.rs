//! The nodes, as everybody sees them who is not in a transaction.

use std::collections::{BTreeSet, HashMap};

use wire::xenstore::{Access, Path, Permission};

/// One node.
#[derive(Clone, Debug, PartialEq, Eq)]
pub(crate) struct Node {
    pub(crate) value: Vec<u8>,
    /// The owner first; never empty.
    pub(crate) permissions: Vec<Permission>,
    /// Names of the nodes directly below.
    pub(crate) children: BTreeSet<String>,
    /// When it was changed last.
    pub(crate) generation: u64,
}

impl Node {
    pub(crate) fn owner(&self) -> u16 {
        self.permissions[0].domain
    }

    /// What a domain may do with it. The first domain may everything.
    pub(crate) fn access(&self, domain: u16) -> Access {
        if domain == 0 || domain == self.owner() {
            return Access::Both;
        }
        let listed = self.permissions[1..].iter().find(|permission| permission.domain == domain);
        listed.unwrap_or(&self.permissions[0]).access
    }
}

/// All nodes. There is always a root.
#[derive(Debug)]
pub(crate) struct Tree {
    nodes: HashMap<Path, Node>,
    /// Counts changes.
    generation: u64,
}

impl Tree {
    /// A tree with the root alone, which everybody may read.
    pub(crate) fn new() -> Tree {
        let permissions = vec![Permission { access: Access::Read, domain: 0 }];
        let root = Node { value: Vec::new(), permissions, children: BTreeSet::new(), generation: 1 };
        Tree { nodes: HashMap::from([(Path::root(), root)]), generation: 1 }
    }

    pub(crate) fn get(&self, path: &Path) -> Option<&Node> {
        self.nodes.get(path)
    }

    /// Puts a node where it belongs; its parent is there. It gets a generation of its own.
    pub(crate) fn put(&mut self, path: &Path, mut node: Node) {
        self.generation += 1;
        node.generation = self.generation;
        let is_new = self.nodes.insert(path.clone(), node).is_none();
        if let Some(parent) = path.parent().filter(|_| is_new) {
            self.change_children(&parent, |children| children.insert(path.name().to_owned()));
        }
    }

    /// Takes a node away that has no children.
    pub(crate) fn remove(&mut self, path: &Path) {
        if self.nodes.remove(path).is_none() {
            return;
        }
        if let Some(parent) = path.parent() {
            self.change_children(&parent, |children| children.remove(path.name()));
        }
    }

    fn change_children(&mut self, parent: &Path, change: impl FnOnce(&mut BTreeSet<String>) -> bool) {
        self.generation += 1;
        let parent = self.nodes.get_mut(parent).expect("a node has a parent as long as it is there");
        change(&mut parent.children);
        parent.generation = self.generation;
    }

    /// How many nodes a domain owns.
    pub(crate) fn owned_by(&self, domain: u16) -> usize {
        self.nodes.values().filter(|node| node.owner() == domain).count()
    }

    /// A node that a domain owns, the topmost of its branch.
    pub(crate) fn first_owned_by(&self, domain: u16) -> Option<Path> {
        let owned = self.nodes.iter().filter(|(_, node)| node.owner() == domain);
        owned.map(|(path, _)| path).min_by_key(|path| path.as_str().len()).cloned()
    }

    pub(crate) fn len(&self) -> usize {
        self.nodes.len()
    }
}
