//! What can be asked of XenStore.

use std::{path::PathBuf, rc::Rc, time::Duration};

use block_core::{Error, ErrorKind, Result};
use storage_io::{Executor, Task};
use wire::xenstore::{
    ErrorName, Operation, PAYLOAD_BYTES_MAX, Path, Permission, put_permissions, strings, transaction_id,
};

use super::{
    driver::{Driver, Shared},
    transaction::Transaction,
    watch::Watch,
};

/// Where XenStore is.
#[derive(Clone, Debug, PartialEq, Eq)]
pub enum Address {
    /// The socket of a server on this host.
    Socket(PathBuf),
    /// The kernel's device: for domains in which no server runs.
    Device(PathBuf),
}

impl Address {
    /// Where it is on a host with Xen: the socket named by `XENSTORED_PATH`, the usual socket if there is one, else the
    /// device.
    pub fn from_environment() -> Address {
        if let Some(path) = std::env::var_os("XENSTORED_PATH") {
            return Address::Socket(path.into());
        }
        let usual = PathBuf::from("/run/xenstored/socket");
        if usual.exists() { Address::Socket(usual) } else { Address::Device("/dev/xen/xenbus".into()) }
    }

    /// The longest payload that may be sent there. The device takes a message with its header in one piece of this length.
    pub(super) fn payload_bytes_max(&self) -> usize {
        match self {
            Address::Socket(_) => PAYLOAD_BYTES_MAX,
            Address::Device(_) => PAYLOAD_BYTES_MAX - wire::xenstore::HEADER_BYTES,
        }
    }
}

/// Between two attempts of a transaction, at first.
const PAUSE_MIN: Duration = Duration::from_millis(1);
/// And at most.
const PAUSE_MAX: Duration = Duration::from_millis(100);
/// Attempts of a transaction: somebody who writes all the time must not hold us up for ever.
const ATTEMPTS_MAX: u32 = 200;
/// A list in parts is begun anew when it changes meanwhile, so often.
const LISTINGS_MAX: u32 = 50;

/// A connection to XenStore. Clones are the same; when the last one and the last watch go, the connection ends.
#[derive(Clone)]
pub struct Store {
    shared: Rc<Shared>,
    _driver: Rc<Task<()>>,
}

impl Store {
    /// Connects.
    ///
    /// # Errors
    /// What the operating system says. Later losses of the connection are made good by themselves.
    pub fn connect(executor: &Executor, address: Address) -> Result<Store> {
        let shared = Shared::new(executor, address);
        let driver = Driver::open(&shared)?;
        let driver = executor.spawn(driver.run());
        Ok(Store { shared, _driver: Rc::new(driver) })
    }

    pub(super) fn shared(&self) -> &Rc<Shared> {
        &self.shared
    }

    /// The executor that it lives on.
    pub fn executor(&self) -> &Executor {
        &self.shared.executor
    }

    /// A node's value; none if there is no such node.
    ///
    /// # Errors
    /// What the server says.
    pub async fn read(&self, path: &Path) -> Result<Option<Vec<u8>>> {
        self.read_in(0, path).await
    }

    pub(super) async fn read_in(&self, transaction: u32, path: &Path) -> Result<Option<Vec<u8>>> {
        if_there(self.ask(transaction, Operation::Read, &[path.as_str().as_bytes(), b"\0"]).await)
    }

    /// The names of the nodes directly below a node; none if there is no such node.
    ///
    /// # Errors
    /// What the server says.
    pub async fn directory(&self, path: &Path) -> Result<Option<Vec<String>>> {
        self.directory_in(0, path).await
    }

    pub(super) async fn directory_in(&self, transaction: u32, path: &Path) -> Result<Option<Vec<String>>> {
        let asked = self.ask(transaction, Operation::Directory, &[path.as_str().as_bytes(), b"\0"]).await;
        match asked {
            Err(error) if error.os_error() == Some(ErrorName::E2big.number()) => {
                if_there(self.long_directory(transaction, path).await)
            }
            asked => Ok(if_there(asked)?.map(|list| names(&list)).transpose()?),
        }
    }

    /// A list that is too long for one message comes in parts, all of the same generation.
    async fn long_directory(&self, transaction: u32, path: &Path) -> Result<Vec<String>> {
        for _ in 0..LISTINGS_MAX {
            let (mut list, mut generation) = (Vec::new(), None);
            loop {
                let offset = list.len().to_string();
                let parts = [path.as_str().as_bytes(), b"\0", offset.as_bytes(), b"\0"];
                let part = self.ask(transaction, Operation::DirectoryPart, &parts).await?;
                let (this, rest) = wire::xenstore::path_and_rest(&part).map_err(|_| malformed())?;
                if generation.get_or_insert_with(|| this.to_vec()).as_slice() != this {
                    break;
                }
                if rest.is_empty() {
                    return Err(malformed());
                }
                list.extend_from_slice(rest);
                if rest == b"\0" || list.ends_with(b"\0\0") {
                    list.pop();
                    return names(&list);
                }
            }
        }
        Err(Error::new(ErrorKind::Busy, format!("{path}: its list never stays as it is")))
    }

    /// A node gets a value; it is made if it is not there.
    ///
    /// # Errors
    /// What the server says.
    pub async fn write(&self, path: &Path, value: &[u8]) -> Result<()> {
        self.ask(0, Operation::Write, &[path.as_str().as_bytes(), b"\0", value]).await.map(drop)
    }

    /// A node goes, with all below it. One that is not there is as good.
    ///
    /// # Errors
    /// What the server says.
    pub async fn remove(&self, path: &Path) -> Result<()> {
        if_there(self.ask(0, Operation::Remove, &[path.as_str().as_bytes(), b"\0"]).await).map(drop)
    }

    /// Who may do what with a node; none if there is no such node.
    ///
    /// # Errors
    /// What the server says.
    pub async fn permissions(&self, path: &Path) -> Result<Option<Vec<Permission>>> {
        let asked = self.ask(0, Operation::GetPermissions, &[path.as_str().as_bytes(), b"\0"]).await;
        let Some(payload) = if_there(asked)? else { return Ok(None) };
        let permissions: Option<Vec<Permission>> = names(&payload)?.iter().map(|text| text.parse().ok()).collect();
        permissions.ok_or_else(malformed).map(Some)
    }

    /// Who may do what with a node from now on; the owner first.
    ///
    /// # Errors
    /// What the server says.
    pub async fn set_permissions(&self, path: &Path, permissions: &[Permission]) -> Result<()> {
        self.set_permissions_in(0, path, permissions).await
    }

    pub(super) async fn set_permissions_in(
        &self,
        transaction: u32,
        path: &Path,
        permissions: &[Permission],
    ) -> Result<()> {
        let mut list = Vec::new();
        put_permissions(&mut list, permissions);
        self.ask(transaction, Operation::SetPermissions, &[path.as_str().as_bytes(), b"\0", &list]).await.map(drop)
    }

    /// Tells of what changes at a node and below it, from now on, beginning with the node itself. The path may be a
    /// special name, such as `@releaseDomain`.
    pub fn watch(&self, path: &Path) -> Watch {
        Watch::new(self.clone(), path)
    }

    /// The watches that the server refuses at present, and why. Each is asked for again now and then.
    pub fn refused_watches(&self) -> Vec<(Path, String)> {
        self.shared.refusals()
    }

    /// How often the connection was lost. The server that was found again may have forgotten everything.
    pub fn losses(&self) -> u64 {
        self.shared.connection_number()
    }

    /// Carries out `body` with all it does at once or not at all; again, if somebody else has changed what it has read.
    /// It must have no effect besides.
    ///
    /// # Errors
    /// That of `body`, after which nothing has changed, or what the server says.
    pub async fn transaction<T>(&self, body: impl AsyncFn(&Transaction) -> Result<T>) -> Result<T> {
        let mut pause = PAUSE_MIN;
        let mut attempt = 1;
        loop {
            let error = match self.try_transaction(&body).await {
                Ok(value) => return Ok(value),
                Err(error) => error,
            };
            if !is_to_be_repeated(&error) || attempt == ATTEMPTS_MAX {
                return Err(error);
            }
            attempt += 1;
            self.shared.executor.sleep(pause).await;
            pause = (pause * 2).min(PAUSE_MAX);
        }
    }

    async fn try_transaction<T>(&self, body: &impl AsyncFn(&Transaction) -> Result<T>) -> Result<T> {
        let started = self.ask(0, Operation::TransactionStart, &[b"\0"]).await?;
        let number = transaction_id(&started).map_err(|_| malformed())?;
        let transaction = Transaction::new(self.clone(), number, self.shared.connection_number());
        let result = body(&transaction).await;
        let word: &[u8] = if result.is_ok() { b"T\0" } else { b"F\0" };
        let ended = transaction.end(word).await;
        // If the body has failed, how the rest ends is of no interest.
        result.and_then(|value| ended.map(|()| value))
    }

    /// Drops all watches, as a domain does that is about to be suspended; [`resume`](Self::resume) registers them again.
    /// Transactions that are open begin anew.
    pub async fn suspend(&self) {
        self.shared.set_suspended(true);
        for (path, token) in self.shared.watches() {
            // A server that has forgotten it already is as good.
            let _ = self.ask(0, Operation::Unwatch, &[path.as_str().as_bytes(), b"\0", token.as_bytes(), b"\0"]).await;
        }
    }

    /// Registers all watches again; each has an event.
    pub async fn resume(&self) {
        self.shared.set_suspended(false);
        for (path, token) in self.shared.watches() {
            self.shared.register(&path, &token);
        }
    }

    /// Asks, and waits for the answer; outside of a transaction as often as the connection is lost.
    pub(super) async fn ask(&self, transaction: u32, operation: Operation, parts: &[&[u8]]) -> Result<Vec<u8>> {
        loop {
            let error = match self.shared.ask(transaction, operation, parts)?.await {
                Some(result) => return result,
                None => Error::new(ErrorKind::Closed, "the connection to XenStore was lost"),
            };
            if transaction != 0 || self.shared.is_over() {
                return Err(error);
            }
        }
    }
}

impl std::fmt::Debug for Store {
    fn fmt(&self, f: &mut std::fmt::Formatter<'_>) -> std::fmt::Result {
        write!(f, "Store({:?})", self.shared.address)
    }
}

/// Somebody else was faster, or the connection was lost, and with it the transaction.
fn is_to_be_repeated(error: &Error) -> bool {
    error.os_error() == Some(ErrorName::Eagain.number()) || error.kind() == ErrorKind::Closed
}

fn if_there<T>(asked: Result<T>) -> Result<Option<T>> {
    match asked {
        Err(error) if error.os_error() == Some(ErrorName::Enoent.number()) => Ok(None),
        asked => asked.map(Some),
    }
}

fn names(list: &[u8]) -> Result<Vec<String>> {
    let names = strings(list).map_err(|_| malformed())?;
    Ok(names.map(|name| String::from_utf8_lossy(name).into_owned()).collect())
}

pub(super) fn malformed() -> Error {
    Error::new(ErrorKind::Corrupt, "an answer of XenStore that makes no sense")
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn the_device_takes_sixteen_bytes_less_than_a_socket() {
        let [socket, device] = [Address::Socket("s".into()), Address::Device("d".into())];
        assert_eq!((socket.payload_bytes_max(), device.payload_bytes_max()), (4096, 4080));
    }
}
