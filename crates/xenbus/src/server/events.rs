//! What has changed, and who is told.

use wire::xenstore::{Path, Permission};

use super::tree::Node;

/// How a node has changed.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(crate) enum ChangeKind {
    /// Made, written, or its permissions set.
    Changed,
    /// Removed, with all below.
    Removed,
    /// Removed with a node above it: only those hear of it who watch this very node.
    RemovedBelow,
}

/// One change.
#[derive(Clone, Debug)]
pub(crate) struct Change {
    pub(crate) kind: ChangeKind,
    pub(crate) path: Path,
    /// The permissions of nodes of which a domain must be able to read one to be told.
    readable_by: Vec<Vec<Permission>>,
}

impl Change {
    pub(crate) fn new(kind: ChangeKind, path: &Path, readers: [Option<&Node>; 2]) -> Change {
        let readable_by = readers.into_iter().flatten().map(|node| node.permissions.clone()).collect();
        Change { kind, path: path.clone(), readable_by }
    }

    /// A change of no node: a domain has come or gone.
    pub(crate) fn special(path: Path) -> Change {
        Change { kind: ChangeKind::Changed, path, readable_by: Vec::new() }
    }

    /// Whether whoever watches `watched` hears of it.
    pub(crate) fn concerns(&self, watched: &Path) -> bool {
        match self.kind {
            ChangeKind::RemovedBelow => *watched == self.path,
            _ => watched.covers(&self.path),
        }
    }

    /// Whether a domain may know of it.
    pub(crate) fn is_visible_to(&self, domain: u16) -> bool {
        let may_read = |permissions: &Vec<Permission>| {
            let listed = permissions[1..].iter().find(|permission| permission.domain == domain);
            permissions[0].domain == domain || listed.unwrap_or(&permissions[0]).access.may_read()
        };
        domain == 0 || self.path.is_special() || self.readable_by.iter().any(may_read)
    }
}

/// What a connection watches.
#[derive(Clone, Debug, PartialEq, Eq)]
pub(crate) struct Watch {
    /// Absolute, or special.
    pub(crate) path: Path,
    pub(crate) token: Vec<u8>,
    /// What the client left out in front of the path; events leave it out, too.
    pub(crate) prefix: Option<String>,
}

impl Watch {
    /// A path as the client wants it told.
    pub(crate) fn told<'a>(&self, path: &'a Path) -> &'a str {
        let path = path.as_str();
        self.prefix.as_ref().and_then(|prefix| path.strip_prefix(prefix.as_str())).unwrap_or(path)
    }
}
