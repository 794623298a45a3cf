//! A guest of a hosted platform: its memory, what it grants, and the ends of channels that it leaves open.

use std::{
    collections::{BTreeSet, VecDeque},
    os::fd::OwnedFd,
    path::Path,
    pin::Pin,
    sync::{Arc, Mutex, MutexGuard, PoisonError, atomic::Ordering},
};

use block_core::{Error, ErrorKind, Result};
use storage_io::Executor;

use super::{
    connection::Connection,
    layout::{self, Ask, GRANTS, PINS_BYTES, TABLE_BYTES},
    pinning,
    ports::Doorbell,
};
use crate::{Access, Account, DomainId, EndAccess, EventChannel, GrantRef, Kernel, PAGE_BYTES, Port, SharedMemory};

/// A guest, as one of its kernels runs it. Clones are the same.
#[derive(Clone, Debug)]
pub struct Guest(Arc<Inner>);

#[derive(Debug)]
struct Inner {
    connection: Connection,
    pages: u32,
    memory: SharedMemory,
    memory_file: OwnedFd,
    table: SharedMemory,
    /// Guards which pages and entries are free.
    free: Mutex<Free>,
    /// Guards what we know of the backends that may pin pages of ours.
    backends: Mutex<Backends>,
}

/// What backends have pinned, as of some version of the table.
#[derive(Debug, Default)]
struct Backends {
    version: u32,
    pins: Vec<SharedMemory>,
}

/// Pages and entries that are free: those that were given back, and all from some number on.
#[derive(Debug, Default)]
struct Free {
    pages: BTreeSet<u32>,
    next_page: u32,
    grants: BTreeSet<u32>,
    next_grant: u32,
    /// Pages with their grants that a backend may still ask for: they are used when there are no others, oldest first.
    retired: VecDeque<(u32, u32)>,
}

impl Free {
    /// There are none that nobody asks for: what was retired first is free now.
    fn recall(&mut self) {
        if let Some((page, grant)) = self.retired.pop_front() {
            self.pages.insert(page);
            self.grants.insert(grant);
        }
    }

    fn page(&mut self, count: u32) -> Option<u32> {
        if self.pages.is_empty() && self.next_page < count {
            self.next_page += 1;
            return Some(self.next_page - 1);
        }
        if self.pages.is_empty() {
            self.recall();
        }
        self.pages.pop_first()
    }

    fn grant(&mut self) -> Option<u32> {
        if self.grants.is_empty() && self.next_grant < GRANTS {
            self.next_grant += 1;
            return Some(self.next_grant - 1);
        }
        if self.grants.is_empty() {
            self.recall();
        }
        self.grants.pop_first()
    }
}

impl Guest {
    /// Starts a kernel in a domain. What the one before has granted and nobody uses is taken back; what is in use stays,
    /// and is not used for anything else.
    ///
    /// # Errors
    /// `NotFound` if there is no such domain, or what the operating system says.
    pub fn boot(directory: &Path, domain: DomainId) -> Result<Guest> {
        let connection = Connection::open(directory, domain)?;
        let ([pages, _], [memory, table]) = connection.ask_for(Ask::OwnMemory, 0, 0)?;
        let guest = Guest(Arc::new(Inner {
            connection,
            pages,
            memory: SharedMemory::map(&memory, 0, pages as usize * PAGE_BYTES)?,
            memory_file: memory,
            table: SharedMemory::map(table, 0, TABLE_BYTES)?,
            free: Mutex::default(),
            backends: Mutex::default(),
        }));
        guest.take_over()?;
        Ok(guest)
    }

    /// Takes back what an earlier kernel of this domain has granted.
    fn take_over(&self) -> Result<()> {
        let (mut pages, mut grants, mut kept) = (BTreeSet::new(), BTreeSet::new(), Vec::new());
        for grant in (0..GRANTS).map(GrantRef) {
            if !pinning::is_granted(&self.0.table, grant) {
                continue;
            }
            let page = pinning::page_of(&self.0.table, grant);
            match self.revoke(grant)? {
                EndAccess::Ended => {}
                EndAccess::InUse => kept.push((grant.0, page)),
            }
        }
        let last_grant = kept.iter().map(|(grant, _)| grant + 1).max().unwrap_or(0);
        let last_page = kept.iter().map(|(_, page)| page + 1).max().unwrap_or(0);
        grants.extend((0..last_grant).filter(|grant| kept.iter().all(|(kept, _)| kept != grant)));
        pages.extend((0..last_page).filter(|page| kept.iter().all(|(_, kept)| kept != page)));
        let retired = VecDeque::new();
        *self.free() = Free { pages, next_page: last_page, grants, next_grant: last_grant, retired };
        Ok(())
    }

    fn free(&self) -> MutexGuard<'_, Free> {
        self.0.free.lock().unwrap_or_else(PoisonError::into_inner)
    }

    /// The domain.
    pub fn domain(&self) -> DomainId {
        self.0.connection.domain()
    }

    /// All its memory.
    pub fn memory(&self) -> &SharedMemory {
        &self.0.memory
    }

    /// A page that is used for nothing else; its number in [`memory`](Self::memory).
    ///
    /// # Errors
    /// `LimitReached` when there is none left.
    pub fn allocate_page(&self) -> Result<u32> {
        let page = self.free().page(self.0.pages);
        page.ok_or_else(|| Error::new(ErrorKind::LimitReached, format!("domain {} has no page left", self.domain())))
    }

    /// Some pages as one piece of memory.
    ///
    /// # Errors
    /// What the operating system says.
    pub fn map_pages(&self, pages: &[u32]) -> Result<SharedMemory> {
        SharedMemory::map_pages(&self.0.memory_file, pages)
    }

    /// Gives a page back that is not granted.
    pub fn free_page(&self, page: u32) {
        self.free().pages.insert(page);
    }

    /// Grants a page.
    ///
    /// # Errors
    /// `LimitReached` when the table is full.
    pub fn grant(&self, page: u32, to: DomainId, access: Access) -> Result<GrantRef> {
        let grant = self.free().grant().map(GrantRef).ok_or_else(|| {
            let words = format!("the grant table of domain {} is full", self.domain());
            Error::new(ErrorKind::LimitReached, words)
        })?;
        self.put_entry(grant, page, layout::flags(to, access));
        Ok(grant)
    }

    /// Writes an entry of the table as it is given, whatever it means: hostile guests do that.
    pub fn put_entry(&self, grant: GrantRef, page: u32, flags: u32) {
        pinning::write_entry(&self.0.table, grant, page, flags);
    }

    /// Takes a grant back. If somebody still has the page, neither the entry nor the page is used again before
    /// [`end_access`](Self::end_access) says so.
    ///
    /// # Errors
    /// When the broker has gone.
    pub fn end_access(&self, grant: GrantRef) -> Result<EndAccess> {
        let ended = self.revoke(grant)?;
        if ended == EndAccess::Ended {
            self.free().grants.insert(grant.0);
        }
        Ok(ended)
    }

    fn revoke(&self, grant: GrantRef) -> Result<EndAccess> {
        let users = pinning::take_back(&self.0.table, grant, || self.users(grant))?;
        Ok(if users == 0 { EndAccess::Ended } else { EndAccess::InUse })
    }

    /// How many uses there are of a grant. The broker is asked only when backends have come or gone.
    fn users(&self, grant: GrantRef) -> Result<u32> {
        let mut backends = self.0.backends.lock().unwrap_or_else(PoisonError::into_inner);
        loop {
            let version = layout::version(&self.0.table).load(Ordering::SeqCst);
            if backends.version == version {
                let uses = backends.pins.iter().map(|pins| pinning::pins_of(pins, grant));
                return Ok(uses.sum());
            }
            *backends = Backends { version, pins: self.all_pins()? };
        }
    }

    fn all_pins(&self) -> Result<Vec<SharedMemory>> {
        let mut all = Vec::new();
        for index in 0.. {
            match self.0.connection.ask_for::<1>(Ask::PinsOf, index, 0) {
                Ok((_, [pins])) => all.push(SharedMemory::map(pins, 0, PINS_BYTES)?),
                Err(error) if error.os_error() == Some(libc::EINVAL) => break,
                Err(error) => return Err(error),
            }
        }
        Ok(all)
    }

    /// Leaves an end of a channel open for a domain.
    ///
    /// # Errors
    /// When the broker has gone, or the system has no descriptor left.
    pub fn allocate_unbound(&self, executor: &Executor, peer: DomainId) -> Result<GuestChannel> {
        let ([port, _], [wait, notify]) = self.0.connection.ask_for(Ask::AllocateUnbound, u32::from(peer.0), 0)?;
        let doorbell = Doorbell::new(executor, wait, notify);
        Ok(GuestChannel { guest: self.clone(), port: Port(port), doorbell })
    }

    /// What the domain has granted, and what others use of it.
    ///
    /// # Errors
    /// When the broker has gone.
    pub fn account(&self) -> Result<Account> {
        self.0.connection.account(self.domain())
    }

    fn unbind(&self, port: Port) {
        // The broker does the same when we go.
        let _ = self.0.connection.ask(Ask::Unbind, port.0, 0);
    }
}

impl Kernel for Guest {
    fn grant_page(&self, to: DomainId, access: Access) -> Result<(u32, GrantRef)> {
        let page = self.allocate_page()?;
        match self.grant(page, to, access) {
            Ok(grant) => Ok((page, grant)),
            Err(error) => {
                self.free_page(page);
                Err(error)
            }
        }
    }

    fn take_back(&self, page: u32, grant: GrantRef) -> Result<EndAccess> {
        let ended = self.end_access(grant)?;
        if ended == EndAccess::Ended {
            self.free_page(page);
        }
        Ok(ended)
    }

    fn retire(&self, page: u32, grant: GrantRef) -> Result<EndAccess> {
        let ended = self.revoke(grant)?;
        if ended == EndAccess::Ended {
            self.free().retired.push_back((page, grant.0));
        }
        Ok(ended)
    }

    fn map_pages(&self, pages: &[u32]) -> Result<SharedMemory> {
        Guest::map_pages(self, pages)
    }

    fn copy_in(&self, page: u32, bytes: &[u8]) {
        assert!(bytes.len() <= PAGE_BYTES, "no more than a page");
        self.memory().copy_in(page as usize * PAGE_BYTES, bytes);
    }

    fn copy_out(&self, page: u32, bytes: &mut [u8]) {
        assert!(bytes.len() <= PAGE_BYTES, "no more than a page");
        self.memory().copy_out(page as usize * PAGE_BYTES, bytes);
    }

    fn leave_open(&self, executor: &Executor, to: DomainId) -> Result<Box<dyn EventChannel>> {
        Ok(Box::new(self.allocate_unbound(executor, to)?))
    }

    fn account(&self) -> Result<Account> {
        Guest::account(self)
    }
}

/// The guest's end of a channel; dropping it closes it.
#[derive(Debug)]
pub struct GuestChannel {
    guest: Guest,
    port: Port,
    doorbell: Doorbell,
}

impl GuestChannel {
    /// The number that a backend binds to.
    pub fn port(&self) -> Port {
        self.port
    }

    /// Ends when there was an event.
    ///
    /// # Errors
    /// When the channel is broken.
    pub async fn wait(&self) -> Result<()> {
        self.doorbell.wait().await?;
        self.doorbell.unmask();
        Ok(())
    }

    /// Tells the backend.
    pub fn notify(&self) {
        self.doorbell.notify();
    }
}

impl EventChannel for GuestChannel {
    fn port(&self) -> Port {
        self.port
    }

    fn wait(&self) -> Pin<Box<dyn Future<Output = Result<()>> + '_>> {
        Box::pin(self.doorbell.wait())
    }

    fn unmask(&self) {
        self.doorbell.unmask();
    }

    fn notify(&self) {
        self.doorbell.notify();
    }
}

impl Drop for GuestChannel {
    fn drop(&mut self) {
        self.guest.unbind(self.port);
    }
}

/// For those who keep descriptors beside the futures that wait for them.
pub(super) type SharedDescriptor = Arc<OwnedFd>;
