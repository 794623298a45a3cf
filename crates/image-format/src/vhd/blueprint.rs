//! The bytes in front of the blocks of a new image.

use block_core::{Error, ErrorKind, FileOffset, Result};
use uuid::Uuid;

use super::layout::{FOOTER_BYTES, HEADER_BYTES, UNUSED_ENTRY};
use super::locator::{Locator, LocatorCode};
use super::{BatmapHeader, BlockShape, DiskType, Footer, Header, Timestamp, disk_bytes_rounded};

/// The image that is wanted.
#[derive(Clone, Debug)]
pub struct CreateOptions {
    /// Bytes of the disk. Without a parent they are rounded up to 2 MiB; a child has as many as it is given, since the
    /// guest that goes on with it must not see its disk grow.
    pub disk_bytes: u64,
    /// Bytes that the tables have room for, so that the disk can grow quickly; at least the disk's own.
    pub reserved_bytes: u64,
    /// All room at once, and no tables.
    pub fixed: bool,
    /// Its identity.
    pub uuid: Uuid,
    /// Now.
    pub timestamp: Timestamp,
    /// The image that it continues, if any.
    pub parent: Option<ParentLink>,
}

/// What a child records of its parent.
#[derive(Clone, Debug)]
pub struct ParentLink {
    /// Its identity; a raw image has none.
    pub uuid: Option<Uuid>,
    /// When it was last changed.
    pub timestamp: Timestamp,
    /// Its bare name.
    pub name: String,
    /// The path to it from the child's directory, as [`super::relative_path`] gives it.
    pub path: String,
}

/// What to write for a new dynamic or differencing image: the head at offset 0, the footer at the end.
#[derive(Debug)]
pub struct Blueprint {
    /// Footer copy, header, table, batmap, locators.
    pub head: Vec<u8>,
    /// The footer.
    pub footer: Footer,
}

impl Blueprint {
    /// Computes the bytes of a dynamic image, or of a differencing one if it has a parent.
    pub fn new(image: &CreateOptions) -> Result<Self> {
        let disk_type = if image.parent.is_some() { DiskType::Differencing } else { DiskType::Dynamic };
        let disk_bytes = match image.parent {
            Some(_) => image.disk_bytes,
            None => disk_bytes_rounded(image.disk_bytes)?,
        };
        let entries = table_entries(disk_bytes_rounded(image.reserved_bytes.max(image.disk_bytes))?)?;
        let footer = Footer::new(disk_type, disk_bytes, image.uuid, image.timestamp);

        let header = Header::new(FileOffset::new((FOOTER_BYTES + HEADER_BYTES) as u64), entries);
        let batmap = BatmapHeader::new(header.table_range().end(), entries);
        let (header, paths) = match &image.parent {
            Some(parent) => link(header, parent, batmap.map_range().end())?,
            None => (header, Vec::new()),
        };

        let mut head = Head::default();
        head.put(FileOffset::new(0), footer.as_bytes());
        head.put(FileOffset::new(FOOTER_BYTES as u64), header.as_bytes());
        head.put(header.table_range().start(), &vec![UNUSED_ENTRY.to_be_bytes(); entries as usize].concat());
        head.put(batmap.header_range().start(), batmap.as_bytes());
        head.pad_to(batmap.map_range().end());
        for (locator, path) in paths {
            head.put(locator.room().start(), &path);
            head.pad_to(locator.room().end());
        }
        Ok(Self { head: head.0, footer })
    }
}

/// Entries of the table of a disk of `disk_bytes`.
fn table_entries(disk_bytes: u64) -> Result<u32> {
    u32::try_from(BlockShape::DEFAULT.blocks(disk_bytes))
        .map_err(|_| Error::new(ErrorKind::LimitReached, "the disk has more blocks than a table can name"))
}

/// An encoded path to the parent and its place.
type PlacedPath = (Locator, Vec<u8>);

/// The header with its parent, and the encoded paths with their places from `end` on.
fn link(header: Header, parent: &ParentLink, end: FileOffset) -> Result<(Header, Vec<PlacedPath>)> {
    let mut end = end;
    let mut paths = Vec::new();
    for code in LocatorCode::WRITTEN {
        let path = code.encode(&parent.path)?;
        let locator = Locator::new(code, end, path.len());
        end = locator.room().end();
        paths.push((locator, path));
    }
    let locators: Vec<Locator> = paths.iter().map(|(locator, _)| *locator).collect();
    let header = header.with_parent(parent.uuid, parent.timestamp, &parent.name, &locators)?;
    Ok((header, paths))
}

/// Bytes from offset 0 on, written in ascending order.
#[derive(Default)]
struct Head(Vec<u8>);

impl Head {
    fn pad_to(&mut self, offset: FileOffset) {
        let length = usize::try_from(offset.get()).expect("tables of at most 2^32 entries fit memory");
        assert!(length >= self.0.len(), "the head is written in ascending order");
        self.0.resize(length, 0);
    }

    fn put(&mut self, offset: FileOffset, bytes: &[u8]) {
        self.pad_to(offset);
        self.0.extend_from_slice(bytes);
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::vhd::{Metadata, UncheckedBatmapHeader, UncheckedFooter, UncheckedHeader};

    const MIB: u64 = 1 << 20;

    fn image(disk_bytes: u64) -> CreateOptions {
        CreateOptions {
            disk_bytes,
            reserved_bytes: 0,
            fixed: false,
            uuid: Uuid::from_u128(1),
            timestamp: Timestamp::new(9),
            parent: None,
        }
    }

    fn child(disk_bytes: u64) -> CreateOptions {
        let parent = ParentLink {
            uuid: Some(Uuid::from_u128(2)),
            timestamp: Timestamp::new(8),
            name: "a.vhd".into(),
            path: "./a.vhd".into(),
        };
        CreateOptions { parent: Some(parent), ..image(disk_bytes) }
    }

    fn empty_file_bytes(image: &CreateOptions) -> usize {
        Blueprint::new(image).unwrap().head.len() + FOOTER_BYTES
    }

    fn reopened(blueprint: &Blueprint) -> (Footer, Header, Metadata) {
        let footer = UncheckedFooter::parse(&blueprint.head).unwrap().check().unwrap();
        let header = UncheckedHeader::parse(&blueprint.head[512..]).unwrap().check().unwrap();
        let metadata = Metadata::new(&footer, &header, blueprint.head.len() as u64).unwrap();
        let batmap = &blueprint.head[usize::try_from(header.table_range().end().get()).unwrap()..];
        let batmap = UncheckedBatmapHeader::parse(batmap).unwrap();
        let batmap = batmap.check(header.table_range().end(), metadata.blocks() as u64, footer.disk_bytes()).unwrap();
        let map = &blueprint.head[usize::try_from(batmap.map_range().start().get()).unwrap()..];
        batmap.check_map(map, footer.disk_bytes()).unwrap();
        (footer, header, metadata.with_batmap(&batmap))
    }

    #[test]
    fn empty_images_have_the_sizes_that_other_tools_make() {
        assert_eq!(empty_file_bytes(&image(64 * MIB)), 3584);
        assert_eq!(empty_file_bytes(&image(0)), 3584);
        assert_eq!(empty_file_bytes(&child(64 * MIB)), 5120);
    }

    #[test]
    fn what_is_written_is_read_back() {
        let (footer, _, metadata) = reopened(&Blueprint::new(&image(7 * MIB)).unwrap());
        assert_eq!((footer.disk_bytes(), footer.disk_type()), (8 * MIB, DiskType::Dynamic));
        assert_eq!(metadata.blocks(), 4);
        let (footer, header, metadata) = reopened(&Blueprint::new(&child(64 * MIB)).unwrap());
        assert_eq!(footer.disk_type(), DiskType::Differencing);
        assert_eq!(header.parent_uuid(), Some(Uuid::from_u128(2)));
        assert_eq!(metadata.end_of_headers().get(), 4608);
        assert_eq!(metadata.shape().place_behind(metadata.end_of_headers()).unwrap().get(), 7680);
    }

    #[test]
    fn the_golden_bytes_of_a_childs_tables() {
        let head = Blueprint::new(&child(64 * MIB)).unwrap().head;
        assert_eq!(head[512..520], *b"cxsparse");
        assert_eq!(head[1536..1664], [0xff; 128]);
        assert_eq!(head[1664..2048], [0; 384]);
        assert_eq!(head[2048..2056], *b"tdbatmap");
        assert_eq!(head[2560..3072], [0; 512]);
        assert_eq!(head[3072..3086], *b"file://./a.vhd");
        assert_eq!(head[3584..3598], *b".\0\\\0a\0.\0v\0h\0d\0");
        assert_eq!(head[4096..4110], *b".\0\\\0a\0.\0v\0h\0d\0");
        let slot = |index: usize| head[512 + 576 + index * 24..][..24].to_vec();
        let expected: Vec<u8> =
            [&b"MacX"[..], &512_u32.to_be_bytes(), &14_u32.to_be_bytes(), &[0; 4], &3072_u64.to_be_bytes()].concat();
        assert_eq!(slot(0), expected);
        assert_eq!(slot(1)[..4], *b"W2ku");
        assert_eq!(slot(2)[..4], *b"W2ru");
        assert_eq!(slot(3), [0; 24]);
    }

    #[test]
    fn a_child_is_exactly_as_large_as_it_is_told_and_others_are_rounded() {
        let size = |options: &CreateOptions| Blueprint::new(options).unwrap().footer.disk_bytes();
        assert_eq!(size(&image(7 * MIB)), 8 * MIB);
        assert_eq!(size(&child(7 * MIB)), 7 * MIB);
        let (_, _, metadata) = reopened(&Blueprint::new(&child(7 * MIB)).unwrap());
        assert_eq!(metadata.blocks(), 4);
    }

    #[test]
    fn tables_have_room_for_what_is_reserved() {
        let blueprint = Blueprint::new(&CreateOptions { reserved_bytes: 64 << 30, ..image(64 * MIB) }).unwrap();
        let (footer, header, metadata) = reopened(&blueprint);
        assert_eq!((footer.disk_bytes(), header.table_entries(), metadata.blocks()), (64 * MIB, 32768, 32));
    }

    #[test]
    fn four_tebibytes_are_no_special_size_and_absurd_ones_are_refused() {
        let (footer, _, metadata) = reopened(&Blueprint::new(&image(4 << 40)).unwrap());
        assert_eq!((footer.disk_bytes(), metadata.blocks()), (4 << 40, 1 << 21));
        assert!(Blueprint::new(&image(u64::MAX)).is_err());
        assert!(Blueprint::new(&image(1 << 60)).is_err());
    }
}
