//! What a guest's kernel has: pages of its own that it grants, and ends of channels that it leaves open.

use std::{fmt, sync::Arc};

use block_core::Result;
use storage_io::Executor;

use crate::{Access, DomainId, EventChannel, GrantRef, SharedMemory};

/// What became of a grant that its guest wants back.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum EndAccess {
    /// Nobody has the page any more.
    Ended,
    /// Somebody still has it: nobody else can get it, but it must not be used for anything else yet.
    InUse,
}

/// What a domain has granted, and what others use of it.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct Account {
    /// Entries of its grant table that are in use by the domain itself.
    pub granted: u32,
    /// Uses by others: a page that is mapped twice counts twice.
    pub used: u32,
}

/// A domain as the one that grants. Any thread may use it.
pub trait Kernel: Send + Sync + fmt::Debug {
    /// Grants a page that is used for nothing else; its number, and the grant's.
    ///
    /// # Errors
    /// `LimitReached` when there is no page left, or no grant.
    fn grant_page(&self, to: DomainId, access: Access) -> Result<(u32, GrantRef)>;

    /// Takes a granted page back, and is free to use it for something else if nobody has it.
    ///
    /// # Errors
    /// When the platform has gone.
    fn take_back(&self, page: u32, grant: GrantRef) -> Result<EndAccess>;

    /// Takes a granted page back from a backend that may be about to copy and has not said that it is done. A copy that
    /// comes too late is refused, and must not find another page by the number of the grant: neither is used again as long
    /// as there are others.
    ///
    /// # Errors
    /// When the platform has gone.
    fn retire(&self, page: u32, grant: GrantRef) -> Result<EndAccess> {
        self.take_back(page, grant)
    }

    /// Some granted pages as one piece of memory.
    ///
    /// # Errors
    /// What the operating system says.
    fn map_pages(&self, pages: &[u32]) -> Result<SharedMemory>;

    /// Copies bytes to the start of a granted page.
    ///
    /// # Panics
    /// When they are more than a page, or the page is not granted.
    fn copy_in(&self, page: u32, bytes: &[u8]);

    /// Copies bytes from the start of a granted page.
    ///
    /// # Panics
    /// As for [`copy_in`](Self::copy_in).
    fn copy_out(&self, page: u32, bytes: &mut [u8]);

    /// Leaves an end of a channel open for a domain.
    ///
    /// # Errors
    /// What the platform has run out of.
    fn leave_open(&self, executor: &Executor, to: DomainId) -> Result<Box<dyn EventChannel>>;

    /// What is granted, and what others use of it as far as that can be known.
    ///
    /// # Errors
    /// When the platform has gone.
    fn account(&self) -> Result<Account>;
}

impl Kernel for Arc<dyn Kernel> {
    fn grant_page(&self, to: DomainId, access: Access) -> Result<(u32, GrantRef)> {
        (**self).grant_page(to, access)
    }

    fn take_back(&self, page: u32, grant: GrantRef) -> Result<EndAccess> {
        (**self).take_back(page, grant)
    }

    fn retire(&self, page: u32, grant: GrantRef) -> Result<EndAccess> {
        (**self).retire(page, grant)
    }

    fn map_pages(&self, pages: &[u32]) -> Result<SharedMemory> {
        (**self).map_pages(pages)
    }

    fn copy_in(&self, page: u32, bytes: &[u8]) {
        (**self).copy_in(page, bytes);
    }

    fn copy_out(&self, page: u32, bytes: &mut [u8]) {
        (**self).copy_out(page, bytes);
    }

    fn leave_open(&self, executor: &Executor, to: DomainId) -> Result<Box<dyn EventChannel>> {
        (**self).leave_open(executor, to)
    }

    fn account(&self) -> Result<Account> {
        (**self).account()
    }
}
