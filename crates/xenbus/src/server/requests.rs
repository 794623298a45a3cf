//! What each operation does.

use wire::xenstore::{
    ErrorName, Message, Operation, PAYLOAD_BYTES_MAX, Path, Permission, path_and_rest, put_permissions, strings,
};

use super::{
    connection::ConnectionId,
    events::{Change, Watch},
    store::Store,
    view::{View, Wish},
};

/// What an operation gives: the payload of its reply.
type Reply = Result<Vec<u8>, ErrorName>;

const OKAY: &[u8] = b"OK\0";

impl Store {
    /// Carries out a request: its reply, and what has changed for everybody.
    pub(super) fn carry_out(&mut self, id: ConnectionId, message: &Message) -> (Reply, Vec<Change>) {
        let payload = message.payload.as_slice();
        match message.operation {
            Operation::Directory
            | Operation::Read
            | Operation::GetPermissions
            | Operation::Write
            | Operation::MakeDirectory
            | Operation::Remove
            | Operation::SetPermissions
            | Operation::DirectoryPart => self.with_nodes(id, message),
            Operation::TransactionEnd => self.end_transaction(id, message),
            Operation::Release => {
                let released = self.only_first_domain(id).and_then(|()| domain_of(payload));
                (released.and_then(|domain| self.release(domain)).map(|()| OKAY.to_vec()), Vec::new())
            }
            Operation::Introduce => {
                let introduced = self.only_first_domain(id).and_then(|()| domain_of(payload));
                (introduced.and_then(|domain| self.introduce(domain)).map(|()| OKAY.to_vec()), Vec::new())
            }
            _ => (self.about_connection(id, message), Vec::new()),
        }
    }

    /// What concerns the connection or a domain, and no node.
    fn about_connection(&mut self, id: ConnectionId, message: &Message) -> Reply {
        let payload = message.payload.as_slice();
        match message.operation {
            Operation::Watch => self.watch(id, payload),
            Operation::Unwatch => self.unwatch(id, payload),
            Operation::ResetWatches => {
                let connection = self.connection(id);
                connection.watches.clear();
                connection.transactions.clear();
                Ok(OKAY.to_vec())
            }
            Operation::TransactionStart => self.start_transaction(id, message.transaction),
            Operation::GetDomainPath => {
                domain_of(payload).map(|domain| format!("/local/domain/{domain}\0").into_bytes())
            }
            Operation::IsDomainIntroduced => {
                let is_there = self.domains.contains(&domain_of(payload)?);
                Ok(if is_there { b"T\0".to_vec() } else { b"F\0".to_vec() })
            }
            Operation::Resume => {
                self.only_first_domain(id)?;
                match self.domains.contains(&domain_of(payload)?) {
                    true => Ok(OKAY.to_vec()),
                    false => Err(ErrorName::Enoent),
                }
            }
            _ => Err(ErrorName::Enosys),
        }
    }

    fn only_first_domain(&mut self, id: ConnectionId) -> Result<(), ErrorName> {
        if self.connection(id).domain == 0 { Ok(()) } else { Err(ErrorName::Eacces) }
    }

    /// The absolute name of what a client calls `path`.
    fn absolute(&mut self, id: ConnectionId, path: &[u8]) -> Result<(Path, Option<String>), ErrorName> {
        let path = Path::from_bytes(path).map_err(|_| ErrorName::Einval)?;
        if path.is_absolute() || path.is_special() {
            return Ok((path, None));
        }
        let prefix = format!("/local/domain/{}/", self.connection(id).domain);
        let whole = Path::new(format!("{prefix}{path}")).map_err(|_| ErrorName::Einval)?;
        Ok((whole, Some(prefix)))
    }

    fn node_path(&mut self, id: ConnectionId, path: &[u8]) -> Result<Path, ErrorName> {
        let (path, _) = self.absolute(id, path)?;
        if path.is_special() { Err(ErrorName::Einval) } else { Ok(path) }
    }

    /// What concerns nodes, directly or in a transaction.
    fn with_nodes(&mut self, id: ConnectionId, message: &Message) -> (Reply, Vec<Change>) {
        let asked = path_and_rest(&message.payload).map_err(|_| ErrorName::Einval);
        let asked = asked.and_then(|(path, rest)| Ok((self.node_path(id, path)?, rest)));
        let (path, rest) = match asked {
            Ok(asked) => asked,
            Err(error) => return (Err(error), Vec::new()),
        };
        let quotas = self.quotas;
        let directory_bytes_max = match self.faults.directory_bytes_max {
            0 => PAYLOAD_BYTES_MAX,
            less => less.min(PAYLOAD_BYTES_MAX),
        };
        let connection = self.connections.get_mut(&id).expect("asked by a client that is there");
        let domain = connection.domain;
        let transaction = match message.transaction {
            0 => None,
            number => match connection.transactions.get_mut(&number) {
                Some(transaction) if domain != 0 && transaction.len() >= quotas.transaction_nodes => {
                    return (Err(ErrorName::Enospc), Vec::new());
                }
                Some(transaction) => Some(transaction),
                None => return (Err(ErrorName::Enoent), Vec::new()),
            },
        };
        let nodes_max = quotas.nodes;
        let mut view = View { tree: &mut self.tree, transaction, domain, changes: Vec::new(), nodes_max };
        let is_privileged = domain == 0;
        let reply = match message.operation {
            Operation::Read => view.node(&path, Wish::Read).map(|node| node.value),
            Operation::Directory => directory(&mut view, &path, directory_bytes_max),
            Operation::DirectoryPart => directory_part(&mut view, &path, rest),
            Operation::GetPermissions => view.node(&path, Wish::Read).map(|node| {
                let mut out = Vec::new();
                put_permissions(&mut out, &node.permissions);
                out
            }),
            Operation::Write if !is_privileged && rest.len() > quotas.value_bytes => Err(ErrorName::Enospc),
            Operation::Write => view.write(&path, rest).map(|()| OKAY.to_vec()),
            Operation::MakeDirectory => view.make_directory(&path).map(|()| OKAY.to_vec()),
            Operation::Remove => view.remove(&path).map(|()| OKAY.to_vec()),
            _ => permissions_of(rest)
                .and_then(|permissions| match permissions.len() {
                    count if !is_privileged && count > quotas.permissions => Err(ErrorName::Enospc),
                    _ => view.set_permissions(&path, permissions),
                })
                .map(|()| OKAY.to_vec()),
        };
        (reply, view.changes)
    }

    fn start_transaction(&mut self, id: ConnectionId, within: u32) -> Reply {
        if within != 0 {
            return Err(ErrorName::Ebusy);
        }
        let transactions_max = self.quotas.transactions;
        let connection = self.connection(id);
        if connection.domain != 0 && connection.transactions.len() >= transactions_max {
            return Err(ErrorName::Enospc);
        }
        Ok(format!("{}\0", connection.new_transaction()).into_bytes())
    }

    fn end_transaction(&mut self, id: ConnectionId, message: &Message) -> (Reply, Vec<Change>) {
        let Some(transaction) = self.connection(id).transactions.remove(&message.transaction) else {
            return (Err(ErrorName::Enoent), Vec::new());
        };
        match message.payload.strip_suffix(b"\0").unwrap_or(&message.payload) {
            b"F" => return (Ok(OKAY.to_vec()), Vec::new()),
            b"T" => {}
            _ => return (Err(ErrorName::Einval), Vec::new()),
        }
        let domain = self.connection(id).domain;
        let made = if domain == 0 { 0 } else { transaction.made_for(&self.tree, domain) };
        if made > 0 && self.tree.owned_by(domain) + made > self.quotas.nodes {
            return (Err(ErrorName::Enospc), Vec::new());
        }
        self.ends = self.ends.wrapping_add(1);
        let is_refused = self.faults.again_every != 0 && self.ends.is_multiple_of(self.faults.again_every);
        match is_refused {
            true => (Err(ErrorName::Eagain), Vec::new()),
            false => match transaction.commit(&mut self.tree) {
                Some(changes) => (Ok(OKAY.to_vec()), changes),
                None => (Err(ErrorName::Eagain), Vec::new()),
            },
        }
    }

    fn watch(&mut self, id: ConnectionId, payload: &[u8]) -> Reply {
        let mut parts = strings(payload).map_err(|_| ErrorName::Einval)?;
        let (Some(path), Some(token)) = (parts.next(), parts.next()) else { return Err(ErrorName::Einval) };
        let (path, prefix) = self.absolute(id, path)?;
        let watches_max = self.quotas.watches;
        let connection = self.connection(id);
        let watch = Watch { path, token: token.to_vec(), prefix };
        if connection.watches.contains(&watch) {
            return Err(ErrorName::Eexist);
        }
        if connection.domain != 0 && connection.watches.len() >= watches_max {
            return Err(ErrorName::Enospc);
        }
        connection.watches.push(watch);
        Ok(OKAY.to_vec())
    }

    fn unwatch(&mut self, id: ConnectionId, payload: &[u8]) -> Reply {
        let mut parts = strings(payload).map_err(|_| ErrorName::Einval)?;
        let (Some(path), Some(token)) = (parts.next(), parts.next()) else { return Err(ErrorName::Einval) };
        let (path, _) = self.absolute(id, path)?;
        let watches = &mut self.connection(id).watches;
        let found = watches.iter().position(|watch| watch.path == path && watch.token == token);
        watches.remove(found.ok_or(ErrorName::Enoent)?);
        Ok(OKAY.to_vec())
    }

    /// Removes what a domain owns; what has changed.
    pub(super) fn remove_nodes_of(&mut self, domain: u16) -> Vec<Change> {
        let mut changes = Vec::new();
        let mut view =
            View { tree: &mut self.tree, transaction: None, domain: 0, changes: Vec::new(), nodes_max: usize::MAX };
        while let Some(path) = view.tree.first_owned_by(domain) {
            if view.remove(&path).is_err() {
                break;
            }
            changes.append(&mut view.changes);
        }
        debug_assert!(changes.iter().all(Change::is_removal), "nodes only go");
        changes
    }
}

fn directory(view: &mut View<'_>, path: &Path, bytes_max: usize) -> Reply {
    let list = list_of(view, path)?;
    if list.len() > bytes_max { Err(ErrorName::E2big) } else { Ok(list) }
}

/// A part of a list that is too long for one message: the generation, then names, and an empty one at the very end.
fn directory_part(view: &mut View<'_>, path: &Path, rest: &[u8]) -> Reply {
    let digits = rest.strip_suffix(b"\0").unwrap_or(rest);
    let offset = std::str::from_utf8(digits).ok().and_then(|digits| digits.parse::<usize>().ok());
    let offset = offset.ok_or(ErrorName::Einval)?;
    let generation = view.node(path, Wish::Read)?.generation;
    let list = list_of(view, path)?;
    let mut reply = format!("{generation}\0").into_bytes();
    let rest = list.get(offset..).unwrap_or_default();
    let room = PAYLOAD_BYTES_MAX - reply.len() - 1;
    if rest.len() <= room {
        reply.extend_from_slice(rest);
        reply.push(0);
    } else {
        let whole_names = rest[..room].iter().rposition(|byte| *byte == 0).map_or(0, |end| end + 1);
        reply.extend_from_slice(&rest[..whole_names]);
    }
    Ok(reply)
}

fn list_of(view: &mut View<'_>, path: &Path) -> Reply {
    let node = view.node(path, Wish::Read)?;
    let mut list = Vec::new();
    for name in &node.children {
        list.extend_from_slice(name.as_bytes());
        list.push(0);
    }
    Ok(list)
}

fn permissions_of(rest: &[u8]) -> Result<Vec<Permission>, ErrorName> {
    let parts = strings(rest).map_err(|_| ErrorName::Einval)?;
    let permissions: Option<Vec<Permission>> = parts.map(|part| std::str::from_utf8(part).ok()?.parse().ok()).collect();
    permissions.filter(|permissions| !permissions.is_empty()).ok_or(ErrorName::Einval)
}

/// The domain that a request names first.
fn domain_of(payload: &[u8]) -> Result<u16, ErrorName> {
    let first = strings(payload).map_err(|_| ErrorName::Einval)?.next().ok_or(ErrorName::Einval)?;
    let is_number = !first.is_empty() && first.iter().all(u8::is_ascii_digit);
    let number = std::str::from_utf8(first).ok().filter(|_| is_number).and_then(|digits| digits.parse().ok());
    number.ok_or(ErrorName::Einval)
}
