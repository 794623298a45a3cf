//! A look at one image: what its footer and its header say.

use std::{
    ffi::OsStr,
    fs,
    path::{Path, PathBuf},
    sync::Arc,
};

use block_core::{Error, ErrorKind, FileOffset, Result, SECTOR};
use image_format::vhd::{
    BATMAP_HEADER_BYTES, BatmapRule, DiskType, FOOTER_BYTES, Footer, Header, KeyHash, UncheckedBatmapHeader,
    UncheckedFooter, UncheckedHeader,
};
use storage_io::{OpenOptions, Storage, StorageExt, StorageKind};

use super::{
    super::{
        Session,
        key::key_hash,
        opened::{Demands, OpenedVhd},
        parents::{parent_of, stored_parent_of},
        set::marker,
    },
    Target, base,
    volumes::{Volume, name_of},
};

/// One read of this many bytes brings footer and header.
const HEAD_BYTES: usize = 4096;

/// What was seen.
#[derive(Clone, Debug)]
pub(super) struct Seen {
    pub(super) name: PathBuf,
    pub(super) canonical: PathBuf,
    pub(super) volume: Option<String>,
    pub(super) capacity: u64,
    pub(super) size: u64,
    pub(super) hidden: u8,
    /// The marker, and the hash of the key in hexadecimal digits.
    pub(super) marks: Option<(u8, String)>,
    pub(super) parent: Option<SeenParent>,
}

/// What an image says of its parent.
#[derive(Clone, Debug)]
pub(super) struct SeenParent {
    pub(super) name: String,
    /// Where it is, if that was looked for and found.
    pub(super) path: Option<PathBuf>,
    pub(super) is_raw: bool,
}

/// Why an image could not be seen.
pub(super) struct Trouble {
    pub(super) words: &'static str,
    pub(super) error: Error,
    /// There is no such file.
    pub(super) is_missing: bool,
}

type Looked<T> = std::result::Result<T, Trouble>;

/// How to look.
pub(super) struct Look<'a> {
    pub(super) session: &'a Session,
    /// What the start of an image says will do.
    pub(super) is_fast: bool,
    pub(super) with_markers: bool,
}

impl Look<'_> {
    pub(super) async fn at(&self, target: &Target, group: Option<&OsStr>) -> Looked<Seen> {
        match &target.volume {
            Some(volume) => self.at_volume(target, volume, group.unwrap_or_default()).await,
            None => self.at_file(target).await,
        }
    }

    async fn at_file(&self, target: &Target) -> Looked<Seen> {
        let metadata = fs::metadata(&target.name).map_err(|error| Trouble {
            is_missing: error.kind() == std::io::ErrorKind::NotFound,
            ..trouble("failure scanning target")(Error::from_os(target.name.display().to_string(), error))
        })?;
        let size = if metadata.is_file() { metadata.len() } else { 0 };
        let canonical = target.name.canonicalize().unwrap_or_else(|_| target.name.clone());
        let blank = Seen {
            name: target.name.clone(),
            canonical,
            volume: None,
            capacity: size,
            size,
            hidden: 1,
            marks: self.with_markers.then(|| (0, String::new())),
            parent: None,
        };
        let files = &self.session.files;
        let storage = files.open(&self.session.executor, &target.name, OpenOptions::read()).await;
        let storage = storage.map_err(trouble("opening file"))?;
        if target.is_raw {
            let is_device = storage.limits().kind == StorageKind::BlockDevice;
            return Ok(Seen { capacity: if is_device { storage.length() } else { size }, ..blank });
        }
        let demands = Demands { disabled: true, start_only: self.is_fast, ..Demands::default() };
        let read = |demands| OpenedVhd::read(&self.session.executor, storage.clone(), &target.name, demands);
        let mut vhd = read(demands).await;
        if vhd.is_err() && self.is_fast {
            // A fixed image has its only footer at the end.
            vhd = read(Demands { start_only: false, ..demands }).await;
        }
        let vhd = vhd.map_err(|error| trouble(words_of(&error))(error))?;
        let parent = self.parent_of_file(&vhd).await.map_err(trouble("getting parent"))?;
        let marks = match self.with_markers {
            true => Some(self.marks(&vhd).await.map_err(trouble("checking markers"))?),
            false => None,
        };
        let footer = vhd.footer.bytes();
        Ok(Seen { capacity: footer.current_size.get(), hidden: footer.hidden, marks, parent, ..blank })
    }

    /// The parent; one that is not where it should be is still named.
    async fn parent_of_file(&self, vhd: &OpenedVhd) -> Result<Option<SeenParent>> {
        let Some(header) = vhd.header.as_ref().filter(|_| vhd.footer.disk_type() == DiskType::Differencing) else {
            return Ok(None);
        };
        let is_raw = header.parent_uuid().is_none();
        if self.is_fast {
            let name = header.parent_name()?;
            let path = vhd.path.parent().map(|directory| directory.join(&name));
            return Ok(Some(SeenParent { name, path, is_raw }));
        }
        if let Ok(Some(parent)) = parent_of(self.session, vhd).await {
            return Ok(Some(SeenParent { name: base(&parent.path), path: Some(parent.path), is_raw }));
        }
        let stored = stored_parent_of(self.session, vhd).await?.unwrap_or_default();
        Ok(Some(SeenParent { name: base(Path::new(&stored)), path: None, is_raw }))
    }

    async fn marks(&self, vhd: &OpenedVhd) -> Result<(u8, String)> {
        let marker = marker(self.session, vhd).await?;
        Ok((marker, key_hash(self.session, vhd).await?.map(hash_digits).unwrap_or_default()))
    }

    async fn at_volume(&self, target: &Target, volume: &Volume, group: &OsStr) -> Looked<Seen> {
        let blank = Seen {
            name: target.name.clone(),
            canonical: target.name.clone(),
            volume: Some(volume.name.clone()),
            capacity: volume.bytes,
            size: volume.bytes,
            hidden: 1,
            marks: self.with_markers.then(|| (0, String::new())),
            parent: None,
        };
        if target.is_raw {
            return Ok(blank);
        }
        let part = self.open_volume(volume, group).await?;
        let head = part.bytes(0, HEAD_BYTES).await.map_err(trouble("reading headers"))?;
        let footer = UncheckedFooter::parse(&head).and_then(UncheckedFooter::check_all_but_disabled);
        let footer = footer.map_err(trouble("invalid footer"))?;
        let header = part.header(&footer, &head).await.map_err(trouble("reading header"))?;
        let mut seen = Seen { capacity: footer.bytes().current_size.get(), hidden: footer.hidden(), ..blank };
        if footer.disk_type() == DiskType::Differencing {
            let name = header.parent_name().map_err(trouble("getting parent"))?;
            let is_raw = header.parent_uuid().is_none();
            seen.parent = Some(SeenParent { name: part.volume_named(&name, group), path: None, is_raw });
        }
        if self.with_markers {
            seen.marks = Some(part.marks(&footer, &header).await.map_err(trouble("checking markers"))?);
        }
        Ok(seen)
    }

    async fn open_volume(&self, volume: &Volume, group: &OsStr) -> Looked<VolumePart<'_>> {
        // One that is not in one piece can be read only while it is active.
        let active = || (Path::new("/dev").join(group).join(&volume.name), 0);
        let (device, offset) = volume.place.clone().unwrap_or_else(active);
        let opened = self.session.files.open(&self.session.executor, &device, OpenOptions::read()).await;
        let storage = opened.map_err(trouble("opening device"))?;
        let is_missing = offset.saturating_add(HEAD_BYTES as u64) > storage.length();
        if is_missing || volume.bytes < HEAD_BYTES as u64 {
            let words = format!("{}: too small for an image", volume.name);
            return Err(trouble("device too small")(Error::new(ErrorKind::Invalid, words)));
        }
        Ok(VolumePart { session: self.session, storage, offset })
    }
}

/// A volume as its device shows it.
struct VolumePart<'a> {
    session: &'a Session,
    storage: Arc<dyn Storage>,
    offset: u64,
}

impl VolumePart<'_> {
    async fn bytes(&self, offset: u64, length: usize) -> Result<Vec<u8>> {
        let place = self.offset.checked_add(offset).filter(|place| place.is_multiple_of(SECTOR));
        let place = place.ok_or_else(|| Error::new(ErrorKind::Corrupt, "invalid offset"))?;
        self.storage.read_bytes(&self.session.executor, FileOffset::new(place), length).await
    }

    async fn header(&self, footer: &Footer, head: &[u8]) -> Result<Header> {
        // A fixed volume has no copy of its footer at the start, and what looks like one is a guest's.
        let fixed = || Error::new(ErrorKind::Corrupt, "a fixed image has no header");
        let offset = footer.header_offset().ok_or_else(fixed)?.get();
        let bytes = match usize::try_from(offset).ok().and_then(|offset| head.get(offset..)) {
            Some(bytes) if bytes.len() >= 2 * FOOTER_BYTES => bytes.to_vec(),
            _ => self.bytes(offset, 2 * FOOTER_BYTES).await?,
        };
        UncheckedHeader::parse(&bytes)?.check()
    }

    fn volume_named(&self, name: &str, group: &OsStr) -> String {
        // Plain names have no group in front.
        if name.starts_with("VHD-") || name.starts_with("LV-") {
            return name.to_owned();
        }
        name_of(name, &group.to_string_lossy())
    }

    async fn marks(&self, footer: &Footer, header: &Header) -> Result<(u8, String)> {
        if footer.batmap_rule() == BatmapRule::Absent {
            return Ok((0, String::new()));
        }
        let place = header.table_range().end();
        let bytes = self.bytes(place.get(), BATMAP_HEADER_BYTES).await?;
        let batmap = UncheckedBatmapHeader::parse(&bytes)?.check(place, 0, 0)?;
        Ok((batmap.marker(), batmap.key_hash().map(hash_digits).unwrap_or_default()))
    }
}

fn hash_digits(hash: KeyHash) -> String {
    super::super::key::digits(&hash.hash)
}

fn trouble(words: &'static str) -> impl Fn(Error) -> Trouble {
    move |error| Trouble { words, error, is_missing: false }
}

/// What of an image could not be read.
fn words_of(error: &Error) -> &'static str {
    let words = error.to_string();
    match words {
        _ if error.os_error().is_some() => "reading headers",
        words if words.starts_with("header") => "reading header",
        _ => "invalid footer",
    }
}
