//! An image of any format.

use std::path::Path;
use std::sync::Arc;

use block_core::{Error, ErrorKind, GuestRange, Result, SECTOR};
use storage_io::{Access, Executor, Storage};
use uuid::Uuid;

use crate::vhd::{DiskKey, VhdImage};
use crate::{Format, Freed, ImageKind, Lookup, Miss, ParentReference, RawImage, WritePlan};

/// One image of a kind that we know.
pub enum Image {
    /// The disk's bytes and nothing else.
    Raw(RawImage),
    /// VHD.
    Vhd(VhdImage),
}

impl Image {
    /// Opens the image in `storage`, and changes nothing there. Its `path` is canonical: paths to a parent are relative to
    /// its directory.
    pub async fn open(
        executor: &Executor,
        storage: Arc<dyn Storage>,
        kind: ImageKind,
        path: &Path,
        access: Access,
    ) -> Result<Self> {
        Self::open_with_key(executor, storage, kind, path, access, None).await
    }

    /// The same for a disk that is encrypted if, and only if, there is a key.
    ///
    /// # Errors
    /// As [`VhdImage::open_with_key`]; the format of raw images knows no encryption.
    pub async fn open_with_key(
        executor: &Executor,
        storage: Arc<dyn Storage>,
        kind: ImageKind,
        path: &Path,
        access: Access,
        key: Option<Arc<DiskKey>>,
    ) -> Result<Self> {
        match kind {
            ImageKind::Raw if key.is_some() => {
                Err(Error::new(ErrorKind::Invalid, "there is a key, and a raw image is not encrypted"))
            }
            ImageKind::Raw => Ok(Image::Raw(RawImage::new(storage))),
            ImageKind::Vhd => VhdImage::open_with_key(executor, storage, path, access, key).await.map(Image::Vhd),
        }
    }

    /// Prepares an image that was opened for writing, and is found good with all its parents, for the first write.
    pub async fn begin_writing(&self, executor: &Executor) -> Result<()> {
        match self {
            Image::Raw(_) => Ok(()),
            Image::Vhd(image) => image.begin_writing(executor).await,
        }
    }

    /// Makes the disk in `storage`, which nobody has opened as an image, `bytes` long.
    pub async fn grow(executor: &Executor, storage: &Arc<dyn Storage>, kind: ImageKind, bytes: u64) -> Result<()> {
        if !bytes.is_multiple_of(SECTOR) {
            return Err(Error::new(ErrorKind::Invalid, format!("{bytes} bytes are not whole sectors")));
        }
        match kind {
            ImageKind::Raw => RawImage::grow(executor, storage, bytes).await,
            ImageKind::Vhd => VhdImage::grow(executor, storage, bytes).await,
        }
    }

    /// Its format.
    pub fn kind(&self) -> ImageKind {
        match self {
            Image::Raw(_) => ImageKind::Raw,
            Image::Vhd(_) => ImageKind::Vhd,
        }
    }
}

/// Asks the format, whichever it is.
macro_rules! ask {
    ($image:expr, $format:ident => $question:expr) => {
        match $image {
            Image::Raw($format) => $question,
            Image::Vhd($format) => $question,
        }
    };
}

impl Format for Image {
    fn size(&self) -> u64 {
        ask!(self, format => format.size())
    }

    fn granule(&self) -> u64 {
        ask!(self, format => format.granule())
    }

    fn storage(&self) -> &Arc<dyn Storage> {
        ask!(self, format => format.storage())
    }

    fn parent(&self) -> Option<ParentReference> {
        ask!(self, format => format.parent())
    }

    fn identity(&self) -> Option<Uuid> {
        ask!(self, format => format.identity())
    }

    fn key(&self) -> Option<&Arc<DiskKey>> {
        ask!(self, format => format.key())
    }

    fn map(&self, range: GuestRange) -> Lookup {
        ask!(self, format => format.map(range))
    }

    async fn load(&self, executor: &Executor, miss: Miss) -> Result<()> {
        ask!(self, format => format.load(executor, miss).await)
    }

    async fn plan_write(&self, executor: &Executor, range: GuestRange) -> Result<WritePlan> {
        ask!(self, format => format.plan_write(executor, range).await)
    }

    async fn commit(&self, executor: &Executor, plan: WritePlan) -> Result<()> {
        ask!(self, format => format.commit(executor, plan).await)
    }

    async fn free(&self, executor: &Executor, granule: GuestRange) -> Result<Option<Freed>> {
        ask!(self, format => format.free(executor, granule).await)
    }

    async fn release(&self, executor: &Executor, freed: Freed) -> Result<()> {
        ask!(self, format => format.release(executor, freed).await)
    }

    async fn flush(&self, executor: &Executor) -> Result<()> {
        ask!(self, format => format.flush(executor).await)
    }

    async fn close(&self, executor: &Executor) -> Result<()> {
        ask!(self, format => format.close(executor).await)
    }
}
