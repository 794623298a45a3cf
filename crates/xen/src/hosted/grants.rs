//! The pages of guests, as a backend uses them: by looking at the grant table at the moment of use, as Xen does.

use std::{
    collections::HashMap,
    fmt,
    path::Path,
    sync::{Arc, PoisonError, RwLock, atomic::Ordering},
};

use block_core::{Error, ErrorKind, Result};

use super::{
    connection::Connection,
    layout::{self, Ask, LIMITS_BYTES, PINS_BYTES, TABLE_BYTES},
    pinning,
};
use crate::{
    Access, Account, CopyStatus, DomainId, GrantCopy, GrantRef, Grants, Local, Mapping, PAGE_BYTES, SharedMemory,
};

/// The pages of guests of a hosted platform. Clones are the same.
#[derive(Clone)]
pub struct HostedGrants(Arc<Inner>);

struct Inner {
    connection: Connection,
    /// Guards which domains we know; looked at for every batch, changed when one comes.
    domains: RwLock<HashMap<DomainId, Arc<Attached>>>,
}

/// The memory of a domain, and what we have pinned of it.
struct Attached {
    user: DomainId,
    pages: u32,
    memory: SharedMemory,
    memory_file: std::os::fd::OwnedFd,
    table: SharedMemory,
    pins: SharedMemory,
    limits: SharedMemory,
}

impl HostedGrants {
    /// The pages that guests grant to the domain `user`, by the broker whose socket is in `directory`.
    ///
    /// # Errors
    /// What the operating system says.
    pub fn connect(directory: &Path, user: DomainId) -> Result<HostedGrants> {
        let connection = Connection::open(directory, user)?;
        Ok(HostedGrants(Arc::new(Inner { connection, domains: RwLock::default() })))
    }

    /// What a domain has granted, and what is used of it by anybody.
    ///
    /// # Errors
    /// `NotFound` if there is no such domain.
    pub fn account(&self, domain: DomainId) -> Result<Account> {
        self.0.connection.account(domain)
    }

    fn attached(&self, domain: DomainId) -> Result<Arc<Attached>> {
        let is_there = |attached: &&Arc<Attached>| layout::alive(&attached.table).load(Ordering::Acquire) != 0;
        let known = self.0.domains.read().unwrap_or_else(PoisonError::into_inner);
        if let Some(attached) = known.get(&domain).filter(is_there) {
            return Ok(attached.clone());
        }
        drop(known);
        let attached = Arc::new(Attached::new(&self.0.connection, domain)?);
        let mut known = self.0.domains.write().unwrap_or_else(PoisonError::into_inner);
        known.insert(domain, attached.clone());
        Ok(attached)
    }
}

impl fmt::Debug for HostedGrants {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        write!(f, "HostedGrants(domain {})", self.0.connection.domain())
    }
}

impl Attached {
    fn new(connection: &Connection, domain: DomainId) -> Result<Attached> {
        let ([pages, _], files) = connection.ask_for(Ask::Attach, u32::from(domain.0), 0)?;
        let [memory_file, table, pins, limits] = files;
        Ok(Attached {
            user: connection.domain(),
            pages,
            memory: SharedMemory::map(&memory_file, 0, pages as usize * PAGE_BYTES)?,
            memory_file,
            table: SharedMemory::map(table, 0, TABLE_BYTES)?,
            pins: SharedMemory::map(pins, 0, PINS_BYTES)?,
            limits: SharedMemory::map(limits, 0, LIMITS_BYTES)?,
        })
    }

    /// Pins a granted page: as long as it is, its guest cannot have it back.
    fn pin(&self, grant: GrantRef, access: Access) -> std::result::Result<u32, CopyStatus> {
        let page = pinning::pin(&self.table, &self.pins, grant, self.user, access)?;
        if page < self.pages {
            return Ok(page);
        }
        self.unpin(grant);
        Err(CopyStatus::BadPage)
    }

    fn unpin(&self, grant: GrantRef) {
        pinning::unpin(&self.pins, grant);
    }

    fn copy(&self, copy: &mut GrantCopy<'_>) -> CopyStatus {
        let (offset, length) = (usize::from(copy.offset), copy.local.length());
        if offset + length > PAGE_BYTES {
            return CopyStatus::Failed;
        }
        let access = if matches!(copy.local, Local::To(_)) { Access::Read } else { Access::Write };
        let page = match self.pin(copy.grant, access) {
            Ok(page) => page,
            Err(status) => return status,
        };
        let at = page as usize * PAGE_BYTES + offset;
        match &mut copy.local {
            Local::To(bytes) => self.memory.copy_out(at, bytes),
            Local::From(bytes) => self.memory.copy_in(at, bytes),
        }
        self.unpin(copy.grant);
        CopyStatus::Okay
    }

    /// Takes so many pages from what all may map together.
    fn reserve_mapped(&self, pages: u32) -> Result<()> {
        let max = layout::usage_max(&self.limits).mapped.load(Ordering::Relaxed);
        let taken = layout::usage(&self.limits).mapped.fetch_add(pages, Ordering::SeqCst);
        layout::usage(&self.pins).mapped.fetch_add(pages, Ordering::SeqCst);
        if taken.saturating_add(pages) <= max {
            return Ok(());
        }
        self.release_mapped(pages);
        Err(Error::from_os("mapping granted pages", std::io::Error::from_raw_os_error(libc::ENOMEM)))
    }

    fn release_mapped(&self, pages: u32) {
        layout::usage(&self.pins).mapped.fetch_sub(pages, Ordering::SeqCst);
        layout::usage(&self.limits).mapped.fetch_sub(pages, Ordering::SeqCst);
    }

    /// All pages pinned, or none.
    fn pin_all(&self, grants: &[GrantRef], access: Access) -> Result<Vec<u32>> {
        let mut pages = Vec::with_capacity(grants.len());
        for (index, grant) in grants.iter().enumerate() {
            match self.pin(*grant, access) {
                Ok(page) => pages.push(page),
                Err(_) => {
                    grants[..index].iter().for_each(|grant| self.unpin(*grant));
                    return Err(Error::new(ErrorKind::Invalid, format!("the page {grant} is not granted to us")));
                }
            }
        }
        Ok(pages)
    }
}

impl Grants for HostedGrants {
    fn copy(&self, batch: &mut [GrantCopy<'_>]) -> Result<()> {
        for copies in batch.chunk_by_mut(|one, next| one.domain == next.domain) {
            let Ok(attached) = self.attached(copies[0].domain) else {
                copies.iter_mut().for_each(|copy| copy.status = CopyStatus::BadDomain);
                continue;
            };
            let count = u32::try_from(copies.len()).unwrap_or(u32::MAX);
            attached.begin_copies(count)?;
            copies.iter_mut().for_each(|copy| copy.status = attached.copy(copy));
            attached.end_copies(count);
        }
        Ok(())
    }

    fn map(&self, domain: DomainId, grants: &[GrantRef], access: Access) -> Result<Mapping> {
        let attached = self.attached(domain)?;
        let count = u32::try_from(grants.len()).unwrap_or(u32::MAX);
        attached.reserve_mapped(count)?;
        let mapped = attached.pin_all(grants, access).and_then(|pages| {
            SharedMemory::map_pages(&attached.memory_file, &pages).inspect_err(|_| {
                grants.iter().for_each(|grant| attached.unpin(*grant));
            })
        });
        let memory = match mapped {
            Ok(memory) => memory,
            Err(error) => {
                attached.release_mapped(count);
                return Err(error);
            }
        };
        let grants = grants.to_vec();
        // The broker takes everything back when the connection ends: it must not end before the mapping does.
        let connected = self.0.clone();
        Ok(Mapping::new(memory, move || {
            grants.iter().for_each(|grant| attached.unpin(*grant));
            attached.release_mapped(count);
            drop(connected);
            Ok(())
        }))
    }
}

impl Attached {
    fn begin_copies(&self, count: u32) -> Result<()> {
        let max = layout::usage_max(&self.limits).copies.load(Ordering::Relaxed);
        layout::usage(&self.pins).copies.fetch_add(count, Ordering::SeqCst);
        let under_way = layout::usage(&self.limits).copies.fetch_add(count, Ordering::SeqCst);
        if under_way.saturating_add(count) <= max {
            return Ok(());
        }
        self.end_copies(count);
        Err(Error::from_os("copying granted pages", std::io::Error::from_raw_os_error(libc::ENOMEM)))
    }

    fn end_copies(&self, count: u32) {
        layout::usage(&self.limits).copies.fetch_sub(count, Ordering::SeqCst);
        layout::usage(&self.pins).copies.fetch_sub(count, Ordering::SeqCst);
    }
}
