//! What is done within a transaction.

use block_core::{Error, ErrorKind, Result};
use wire::xenstore::{ErrorName, Operation, Path, Permission};

use super::client::Store;

/// A transaction that is open. Dropping it leaves it to the server, which forgets it with the connection.
#[derive(Debug)]
pub struct Transaction {
    store: Store,
    number: u32,
    /// The connection that it was begun on: another one may give the same number to somebody else.
    connection: u64,
    /// The domain has not been suspended since it was begun.
    suspensions: u64,
}

impl Transaction {
    pub(super) fn new(store: Store, number: u32, connection: u64) -> Transaction {
        let suspensions = store.shared().suspensions();
        Transaction { store, number, connection, suspensions }
    }

    fn check(&self) -> Result<()> {
        if self.is_on_another_connection() {
            return Err(Error::new(ErrorKind::Closed, "the connection to XenStore was lost in a transaction"));
        }
        if self.store.shared().suspensions() != self.suspensions {
            // What was read may be of another host.
            let again = std::io::Error::from_raw_os_error(ErrorName::Eagain.number());
            return Err(Error::from_os("suspended in a transaction", again));
        }
        Ok(())
    }

    fn is_on_another_connection(&self) -> bool {
        self.store.shared().connection_number() != self.connection
    }

    /// A node's value; none if there is no such node.
    ///
    /// # Errors
    /// What the server says.
    pub async fn read(&self, path: &Path) -> Result<Option<Vec<u8>>> {
        self.check()?;
        self.store.read_in(self.number, path).await
    }

    /// The names of the nodes directly below a node; none if there is no such node.
    ///
    /// # Errors
    /// What the server says.
    pub async fn directory(&self, path: &Path) -> Result<Option<Vec<String>>> {
        self.check()?;
        self.store.directory_in(self.number, path).await
    }

    /// A node gets a value; it is made if it is not there.
    ///
    /// # Errors
    /// What the server says.
    pub async fn write(&self, path: &Path, value: &[u8]) -> Result<()> {
        self.check()?;
        let parts = [path.as_str().as_bytes(), b"\0", value];
        self.store.ask(self.number, Operation::Write, &parts).await.map(drop)
    }

    /// A node goes, with all below it.
    ///
    /// # Errors
    /// What the server says.
    pub async fn remove(&self, path: &Path) -> Result<()> {
        self.check()?;
        self.store.ask(self.number, Operation::Remove, &[path.as_str().as_bytes(), b"\0"]).await.map(drop)
    }

    /// Who may do what with a node from now on; the owner first.
    ///
    /// # Errors
    /// What the server says.
    pub async fn set_permissions(&self, path: &Path, permissions: &[Permission]) -> Result<()> {
        self.check()?;
        self.store.set_permissions_in(self.number, path, permissions).await
    }

    pub(super) async fn end(self, word: &[u8]) -> Result<()> {
        let checked = self.check();
        let word = if checked.is_ok() { word } else { b"F\0" };
        if self.is_on_another_connection() {
            return checked;
        }
        let ended = self.store.ask(self.number, Operation::TransactionEnd, &[word]).await;
        checked.and(ended.map(drop))
    }
}
