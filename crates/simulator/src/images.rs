//! The images of a disk, in memory: made, snapshotted, opened.

use std::{path::PathBuf, sync::Arc};

use block_core::{FileOffset, Result};
use image_format::{
    ImageKind,
    vhd::{self, CreateOptions, DiskKey, FOOTER_BYTES, HEADER_BYTES, KeyHash, ParentLink, Timestamp},
};
use storage_io::{CrashStorage, EngineChoice, Executor, Storage, StorageExt, StorageKind};
use uuid::Uuid;

/// What the base of a disk is; what is put on top of it is always a differencing VHD.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Base {
    /// The disk's bytes.
    Raw,
    /// A fixed VHD.
    Fixed,
    /// A dynamic VHD.
    Dynamic,
}

/// The sizes of a disk and of what it lies on.
#[derive(Clone, Copy, Debug)]
pub struct Shape {
    /// The lowest image.
    pub base: Base,
    /// Bytes in a block of its VHDs. Small blocks make small disks with many blocks.
    pub block_bytes: u32,
    /// How many blocks the disk has.
    pub blocks: u64,
    /// Whether the images are files or devices.
    pub storage: StorageKind,
    /// Whether its dynamic and differencing VHDs are encrypted.
    pub is_encrypted: bool,
}

impl Shape {
    /// A disk of 64 blocks of 16 KiB, in files.
    pub fn small(base: Base) -> Self {
        Shape { base, block_bytes: 16 << 10, blocks: 64, storage: StorageKind::File, is_encrypted: false }
    }

    /// A disk of 8 blocks of 2 MiB, in files.
    pub fn usual(base: Base) -> Self {
        Shape { base, block_bytes: USUAL_BLOCK, blocks: 8, storage: StorageKind::File, is_encrypted: false }
    }

    /// The same, encrypted.
    #[must_use]
    pub fn encrypted(self) -> Self {
        Shape { is_encrypted: true, ..self }
    }

    /// Bytes of the disk.
    pub fn disk_bytes(self) -> u64 {
        u64::from(self.block_bytes) * self.blocks
    }
}

/// What encrypted disks are encrypted with.
const KEY: [u8; 32] = [7; 32];
/// The block size that images are created with.
const USUAL_BLOCK: u32 = 2 << 20;

/// One image file.
#[derive(Clone, Debug)]
pub struct ImageFile {
    /// Its format.
    pub kind: ImageKind,
    /// Its name.
    pub path: PathBuf,
    /// Its bytes.
    pub storage: CrashStorage,
    /// What it is encrypted with.
    pub key: Option<Arc<DiskKey>>,
    uuid: Option<Uuid>,
    is_sparse: bool,
}

impl ImageFile {
    /// Bytes of the file.
    pub fn storage_length(&self) -> u64 {
        self.storage.length()
    }

    /// Whether it is a dynamic or differencing VHD.
    pub fn is_sparse_vhd(&self) -> bool {
        self.is_sparse
    }
}

/// The images of a disk, base first.
#[derive(Clone, Debug)]
pub struct Images {
    shape: Shape,
    files: Vec<ImageFile>,
}

impl Images {
    /// An empty disk of one image.
    ///
    /// # Errors
    /// Creating the image failed.
    pub fn create(shape: Shape) -> Result<Images> {
        let mut images = Images { shape, files: Vec::new() };
        let file = match shape.base {
            Base::Raw => ImageFile {
                kind: ImageKind::Raw,
                path: "/images/0.raw".into(),
                storage: CrashStorage::new(shape.disk_bytes()),
                key: None,
                uuid: None,
                is_sparse: false,
            },
            Base::Fixed => images.new_vhd(true, None)?,
            Base::Dynamic => images.new_vhd(false, None)?,
        };
        images.files.push(file);
        Ok(images)
    }

    /// Puts a new leaf on top.
    ///
    /// # Errors
    /// Creating the image failed.
    pub fn snapshot(&mut self) -> Result<()> {
        let parent = self.leaf().clone();
        let name = parent.path.file_name().and_then(|name| name.to_str()).expect("we named it").to_owned();
        let path = format!("./{name}");
        let link = ParentLink { uuid: parent.uuid, timestamp: Timestamp::new(1), name, path };
        let file = self.new_vhd(false, Some(link))?;
        self.files.push(file);
        Ok(())
    }

    fn new_vhd(&self, fixed: bool, parent: Option<ParentLink>) -> Result<ImageFile> {
        let number = self.files.len();
        let uuid = Uuid::from_u128(number as u128 + 1);
        // Created with as many usual blocks, then told that they are smaller.
        let disk_bytes = self.shape.blocks * u64::from(USUAL_BLOCK);
        let options =
            CreateOptions { disk_bytes, reserved_bytes: 0, fixed, uuid, timestamp: Timestamp::new(1), parent };
        let key = if self.shape.is_encrypted && !fixed { Some(Arc::new(DiskKey::new(&KEY)?)) } else { None };
        let storage = self.create_vhd(&options, key.as_deref())?;
        let path = format!("/images/{number}.vhd").into();
        Ok(ImageFile { kind: ImageKind::Vhd, path, storage, key, uuid: Some(uuid), is_sparse: !fixed })
    }

    fn create_vhd(&self, options: &CreateOptions, key: Option<&DiskKey>) -> Result<CrashStorage> {
        let executor = Executor::new(EngineChoice::Inline)?;
        executor.block_on(async {
            let draft: Arc<dyn Storage> = Arc::new(CrashStorage::new(0));
            vhd::create(&executor, &draft, options).await?;
            let length = draft.length() - FOOTER_BYTES as u64;
            let mut head = match usize::try_from(length) {
                Ok(length) if !options.fixed => draft.read_bytes(&executor, FileOffset::new(0), length).await?,
                _ => Vec::new(),
            };
            let mut footer = draft.read_bytes(&executor, FileOffset::new(length), FOOTER_BYTES).await?;
            self.shrink(&mut head, &mut footer);
            key.into_iter().for_each(|key| put_key_hash(&mut head, key));
            let end = self.footer_place(head.len() as u64, options.fixed);
            let storage = CrashStorage::new(end + FOOTER_BYTES as u64);
            storage.write_bytes(&executor, FileOffset::new(0), &head).await?;
            storage.write_bytes(&executor, FileOffset::new(end), &footer).await?;
            storage.sync(&executor).await?;
            Ok(storage.with_limits(|limits| limits.kind = self.shape.storage))
        })
    }

    /// Behind the other bytes of a file; in the last sector of a device, which has room for every block.
    fn footer_place(&self, head: u64, fixed: bool) -> u64 {
        match self.shape.storage {
            _ if fixed => self.shape.disk_bytes(),
            StorageKind::BlockDevice => head + self.shape.disk_bytes() * 2,
            _ => head,
        }
    }

    /// Gives an image of blocks of 2 MiB the block size of this disk.
    fn shrink(&self, head: &mut [u8], footer: &mut [u8]) {
        if self.shape.block_bytes == USUAL_BLOCK {
            return;
        }
        let disk_bytes = self.shape.disk_bytes();
        let resize = |footer: &mut [u8]| {
            footer[40..48].copy_from_slice(&disk_bytes.to_be_bytes());
            footer[48..56].copy_from_slice(&disk_bytes.to_be_bytes());
            put_checksum(footer, 64);
        };
        resize(footer);
        if let Some((copy, rest)) = head.split_at_mut_checked(FOOTER_BYTES) {
            resize(copy);
            let header = &mut rest[..HEADER_BYTES];
            header[32..36].copy_from_slice(&self.shape.block_bytes.to_be_bytes());
            put_checksum(header, 36);
        }
    }

    /// The sizes.
    pub fn shape(&self) -> Shape {
        self.shape
    }

    /// The images, base first.
    pub fn files(&self) -> &[ImageFile] {
        &self.files
    }

    /// The writable image.
    pub fn leaf(&self) -> &ImageFile {
        self.files.last().expect("a disk has at least one image")
    }

    /// The same disk with another content of the leaf: what a crash left of it.
    #[must_use]
    pub fn with_leaf(&self, storage: CrashStorage) -> Images {
        let mut images = self.clone();
        images.files.last_mut().expect("a disk has at least one image").storage = storage;
        images
    }
}

/// Says in the header of the batmap, behind the table, what the disk is encrypted with.
fn put_key_hash(head: &mut [u8], key: &DiskKey) {
    let entries = u32::from_be_bytes(head[512 + 28..512 + 32].try_into().expect("four bytes"));
    let table_bytes = usize::try_from(entries).expect("a small disk") * 4;
    let batmap = &mut head[1536 + table_bytes.next_multiple_of(512)..];
    let KeyHash { nonce, hash } = key.hash([9; 32]);
    batmap[29] = 1;
    batmap[30..62].copy_from_slice(&nonce);
    batmap[62..94].copy_from_slice(&hash);
}

/// The sum over a structure with a checksum of four bytes at `place`.
fn put_checksum(bytes: &mut [u8], place: usize) {
    bytes[place..place + 4].fill(0);
    let sum: u32 = bytes.iter().map(|byte| u32::from(*byte)).sum();
    bytes[place..place + 4].copy_from_slice(&(!sum).to_be_bytes());
}
