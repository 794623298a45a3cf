//! Pages that a guest has granted to us.

use std::{any::Any, fmt, ops::Deref};

use block_core::Result;

use crate::{DomainId, GrantRef, SharedMemory, budget::Share};

/// What a page is wanted for.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Access {
    /// Reading only.
    Read,
    /// Reading and writing.
    Write,
}

/// Our side of a copy. On Xen it is pinned page by page: parts that do not cross a page of ours cost one operation each.
#[derive(Debug)]
pub enum Local<'a> {
    /// The guest's bytes come here.
    To(&'a mut [u8]),
    /// These bytes go to the guest.
    From(&'a [u8]),
}

impl Local<'_> {
    /// How many bytes.
    pub fn length(&self) -> usize {
        match self {
            Local::To(bytes) => bytes.len(),
            Local::From(bytes) => bytes.len(),
        }
    }
}

/// How one copy of a batch ended.
#[derive(Clone, Copy, Debug, PartialEq, Eq, Hash)]
pub enum CopyStatus {
    /// All bytes were copied.
    Okay,
    /// Nobody has said yet.
    Pending,
    /// The guest has not granted this page to us, or not for this.
    BadGrant,
    /// There is no such domain.
    BadDomain,
    /// The page is not there, or not now.
    BadPage,
    /// Anything else.
    Failed,
}

/// One copy between a granted page and memory of ours.
#[derive(Debug)]
pub struct GrantCopy<'a> {
    /// Who has granted the page.
    pub domain: DomainId,
    /// The page.
    pub grant: GrantRef,
    /// Where in the page the bytes start; with their length they end within it.
    pub offset: u16,
    /// Our side.
    pub local: Local<'a>,
    /// How it ended; `Pending` before.
    pub status: CopyStatus,
}

impl<'a> GrantCopy<'a> {
    /// A copy that has not been made.
    pub fn new(domain: DomainId, grant: GrantRef, offset: u16, local: Local<'a>) -> GrantCopy<'a> {
        GrantCopy { domain, grant, offset, local, status: CopyStatus::Pending }
    }
}

/// The pages of guests. Any thread may use it.
pub trait Grants: Send + Sync + fmt::Debug {
    /// Makes all copies of a batch that can be made; each has its own status afterwards. A guest's bytes are copied once.
    ///
    /// # Errors
    /// When the batch as a whole could not be begun; no status means anything then.
    fn copy(&self, batch: &mut [GrantCopy<'_>]) -> Result<()>;

    /// Maps pages one behind the other, all of them or none, until the mapping is dropped.
    ///
    /// # Errors
    /// `Invalid` if any of them is not granted, `LimitReached` if no more may be mapped.
    fn map(&self, domain: DomainId, grants: &[GrantRef], access: Access) -> Result<Mapping>;

    /// As [`map`](Self::map), the pages of a ring, without which its guest has no disk.
    ///
    /// # Errors
    /// As for `map`.
    fn map_ring(&self, domain: DomainId, grants: &[GrantRef]) -> Result<Mapping> {
        self.map(domain, grants, Access::Write)
    }

    /// The share in the host's budget from which pages are taken before they are copied; none if nothing is limited.
    fn share(&self) -> Option<&Share> {
        None
    }
}

/// Mapped pages of a guest; dropping it gives them back.
pub struct Mapping {
    memory: Option<SharedMemory>,
    /// What gives the pages back, after they are unmapped.
    release: Option<Box<Release>>,
    /// What is dropped when they have been given back.
    held: Option<Box<dyn Any + Send + Sync>>,
}

type Release = dyn FnOnce() -> Result<()> + Send + Sync;

impl Mapping {
    /// Pages, and what gives them back when they are unmapped.
    pub fn new(memory: SharedMemory, release: impl FnOnce() -> Result<()> + Send + Sync + 'static) -> Mapping {
        Mapping { memory: Some(memory), release: Some(Box::new(release)), held: None }
    }

    /// The same, with something that is held as long.
    pub(crate) fn with(mut self, held: impl Any + Send + Sync) -> Mapping {
        self.held = Some(Box::new((self.held.take(), held)));
        self
    }

    /// Gives the pages back.
    ///
    /// # Errors
    /// What the platform says if it does not take them: the guest will not get them back then.
    pub fn unmap(mut self) -> Result<()> {
        self.give_back()
    }

    fn give_back(&mut self) -> Result<()> {
        self.memory.take();
        self.release.take().map_or(Ok(()), |release| release())
    }
}

impl Deref for Mapping {
    type Target = SharedMemory;

    fn deref(&self) -> &SharedMemory {
        self.memory.as_ref().expect("it is there until it is dropped")
    }
}

impl fmt::Debug for Mapping {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        write!(f, "Mapping({} bytes)", self.length())
    }
}

impl Drop for Mapping {
    fn drop(&mut self) {
        // Who wants to know whether it worked calls `unmap`.
        let _ = self.give_back();
    }
}
