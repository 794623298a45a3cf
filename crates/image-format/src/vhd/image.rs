//! An opened VHD.

use std::cell::{Cell, RefCell};
use std::rc::Rc;
use std::sync::Arc;

use block_core::{Error, ErrorKind, GuestRange, Result};
use storage_io::{Executor, Storage};
use uuid::Uuid;

use super::layout::FOOTER_BYTES;
use super::room::Room;
use super::tables::Tables;
use super::{BatmapHeader, DiskKey, Footer, Header, KeyHash, Metadata};
use crate::raw::{map_in_order, plan_in_order};
use crate::sync::Syncer;
use crate::{Bitmap, Format, Freed, Lookup, Mapping, Miss, ParentReference, WritePlan};

/// A fixed image has no unit of allocation; this is what others keep books in.
const FIXED_GRANULE: u64 = 2 << 20;

/// A VHD.
pub struct VhdImage {
    pub(super) storage: Arc<dyn Storage>,
    pub(super) footer: Rc<Footer>,
    pub(super) parent: Option<ParentReference>,
    pub(super) syncer: Rc<Syncer>,
    pub(super) body: Body,
    /// What the bytes of the disk are encrypted with, for whoever moves them.
    pub(super) key: Option<Arc<DiskKey>>,
}

/// Where the disk's bytes are.
pub(super) enum Body {
    /// In order, from the start of the storage on.
    Fixed,
    /// In blocks.
    Sparse(Rc<Sparse>),
}

/// The blocks of a dynamic or differencing image.
pub(super) struct Sparse {
    pub(super) storage: Arc<dyn Storage>,
    pub(super) syncer: Rc<Syncer>,
    pub(super) footer: Rc<Footer>,
    pub(super) header: Header,
    pub(super) metadata: Metadata,
    /// What a sector is that is not here.
    pub(super) hole: Mapping,
    pub(super) is_writable: bool,
    pub(super) tables: RefCell<Tables>,
    pub(super) room: RefCell<Room>,
    pub(super) batmap: RefCell<Option<StoredBatmap>>,
    /// Whether the copy of the footer at offset 0 is there.
    pub(super) has_footer_copy: bool,
    /// Whether tables or room changed since the image was opened.
    pub(super) is_changed: Cell<bool>,
}

/// The batmap as the storage has it.
pub(super) struct StoredBatmap {
    pub(super) header: BatmapHeader,
    /// The bits that a reader may see there.
    pub(super) bits: Bitmap,
    /// Whether a reader would believe it.
    pub(super) is_valid: bool,
}

impl VhdImage {
    /// What the image says it is.
    pub fn footer(&self) -> &Footer {
        &self.footer
    }

    /// The header; a fixed image has none.
    pub fn header(&self) -> Option<&Header> {
        match &self.body {
            Body::Fixed => None,
            Body::Sparse(sparse) => Some(&sparse.header),
        }
    }

    /// A number that a storage manager left on the image, if it has room for one.
    pub fn marker(&self) -> Option<u8> {
        match &self.body {
            Body::Fixed => None,
            Body::Sparse(sparse) => sparse.batmap.borrow().as_ref().map(|batmap| batmap.header.marker()),
        }
    }

    /// The hash of the key that the disk is encrypted with, as far as its batmap's header has one.
    pub fn key_hash(&self) -> Option<KeyHash> {
        match &self.body {
            Body::Fixed => None,
            Body::Sparse(sparse) => sparse.batmap.borrow().as_ref().and_then(|batmap| batmap.header.key_hash()),
        }
    }

    /// How many blocks it has; `None` for a fixed image.
    pub fn allocated_blocks(&self) -> Option<usize> {
        match &self.body {
            Body::Fixed => None,
            Body::Sparse(sparse) => Some(sparse.tables.borrow().allocated()),
        }
    }

    /// Whether it should have a batmap that readers believe, and has none. Closing an image that was opened for writing puts
    /// one there, of what is known by then.
    pub fn has_lost_batmap(&self) -> bool {
        match &self.body {
            Body::Fixed => false,
            Body::Sparse(sparse) => sparse.batmap.borrow().as_ref().is_some_and(|batmap| !batmap.is_valid),
        }
    }

    /// Bytes that its parts need in a file, up to the end of the footer.
    pub fn physical_bytes(&self) -> u64 {
        let end = match &self.body {
            Body::Fixed => self.footer.disk_bytes(),
            Body::Sparse(sparse) => sparse.end_of_blocks().get(),
        };
        end + FOOTER_BYTES as u64
    }
}

impl Sparse {
    pub(super) fn check_writable(&self) -> Result<()> {
        if self.is_writable {
            return Ok(());
        }
        Err(Error::new(ErrorKind::ReadOnly, "the image was opened for reading"))
    }

    pub(super) fn block_of(&self, range: GuestRange) -> usize {
        usize::try_from(self.metadata.shape().block_of(range)).expect("the number of blocks is bounded when opened")
    }
}

impl Format for VhdImage {
    fn size(&self) -> u64 {
        self.footer.disk_bytes()
    }

    fn granule(&self) -> u64 {
        match &self.body {
            Body::Fixed => FIXED_GRANULE,
            Body::Sparse(sparse) => sparse.metadata.shape().data_bytes(),
        }
    }

    fn storage(&self) -> &Arc<dyn Storage> {
        &self.storage
    }

    fn parent(&self) -> Option<ParentReference> {
        self.parent.clone()
    }

    fn identity(&self) -> Option<Uuid> {
        Some(self.footer.uuid())
    }

    fn key(&self) -> Option<&Arc<DiskKey>> {
        self.key.as_ref()
    }

    fn map(&self, range: GuestRange) -> Lookup {
        match &self.body {
            Body::Fixed => map_in_order(range),
            Body::Sparse(sparse) => sparse.map(range),
        }
    }

    async fn load(&self, executor: &Executor, miss: Miss) -> Result<()> {
        match &self.body {
            Body::Fixed => Ok(()),
            Body::Sparse(sparse) => sparse.load_range(executor, miss.range).await,
        }
    }

    async fn plan_write(&self, executor: &Executor, range: GuestRange) -> Result<WritePlan> {
        match &self.body {
            Body::Fixed => Ok(plan_in_order(range)),
            Body::Sparse(sparse) => sparse.plan_write(executor, range).await,
        }
    }

    async fn commit(&self, executor: &Executor, plan: WritePlan) -> Result<()> {
        match &self.body {
            Body::Fixed => Ok(()),
            Body::Sparse(sparse) => sparse.commit(executor, plan).await,
        }
    }

    async fn free(&self, executor: &Executor, granule: GuestRange) -> Result<Option<Freed>> {
        match &self.body {
            Body::Fixed => Ok(None),
            Body::Sparse(sparse) => sparse.free(executor, granule).await,
        }
    }

    async fn release(&self, executor: &Executor, freed: Freed) -> Result<()> {
        match &self.body {
            Body::Fixed => Ok(()),
            Body::Sparse(sparse) => sparse.release(executor, freed).await,
        }
    }

    async fn flush(&self, executor: &Executor) -> Result<()> {
        if let Body::Sparse(sparse) = &self.body {
            sparse.mend(executor).await?;
        }
        self.syncer.sync(executor).await
    }

    async fn close(&self, executor: &Executor) -> Result<()> {
        match &self.body {
            Body::Sparse(sparse) => sparse.close(executor).await,
            Body::Fixed if self.storage.limits().read_only => Ok(()),
            Body::Fixed => self.flush(executor).await,
        }
    }
}
