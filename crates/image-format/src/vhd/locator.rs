//! Parent locators: the path to the parent in the encodings of three platforms, and the bare name in the header.
//!
//! ```text
//!   MacX   file://./a.vhd      UTF-8
//!   W2ku   .\a.vhd             UTF-16LE
//!   W2ru   .\a.vhd             UTF-16LE
//! ```
//!
//! All three hold the same relative path. Paths outside ASCII are stored as Unicode; the C tools refuse to make such
//! images, and read only the ASCII ones.

use block_core::{Error, ErrorKind, FileOffset, FileRange, Result, SECTOR};

use super::layout::{PARENT_NAME_BYTES, ParentLocatorBytes};

/// Paths are shorter than this in every tool that reads them.
const PATH_BYTES_MAX: usize = 1024;
/// More than any encoding of the longest path needs.
const ENCODED_BYTES_MAX: u64 = 4096;
/// No file ends behind this.
const FILE_BYTES_MAX: u64 = i64::MAX as u64;
const URL_SCHEME: &str = "file://";

/// How a path is encoded.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum LocatorCode {
    /// A URL in UTF-8.
    MacX,
    /// UTF-16, absolute on Windows.
    W2ku,
    /// UTF-16, relative.
    W2ru,
    /// Encodings of long gone systems: known, never read.
    Obsolete,
}

impl LocatorCode {
    /// The codes of a new image, in the order of its slots.
    pub const WRITTEN: [Self; 3] = [Self::MacX, Self::W2ku, Self::W2ru];

    /// The code in a locator; `None` for an empty slot.
    pub fn from_bits(bits: u32) -> Result<Option<Self>> {
        match &bits.to_be_bytes() {
            [0, 0, 0, 0] => Ok(None),
            b"MacX" => Ok(Some(Self::MacX)),
            b"W2ku" => Ok(Some(Self::W2ku)),
            b"W2ru" => Ok(Some(Self::W2ru)),
            b"Wi2r" | b"Wi2k" | b"Mac " => Ok(Some(Self::Obsolete)),
            _ => Err(corrupt("invalid platform code")),
        }
    }

    fn to_bits(self) -> u32 {
        u32::from_be_bytes(match self {
            Self::MacX => *b"MacX",
            Self::W2ku => *b"W2ku",
            Self::W2ru => *b"W2ru",
            Self::Obsolete => unreachable!("only codes of LocatorCode::WRITTEN are written"),
        })
    }

    /// The bytes of a relative path with `/` between its parts.
    pub fn encode(self, path: &str) -> Result<Vec<u8>> {
        if path.len() >= PATH_BYTES_MAX || path.contains('\0') {
            return Err(Error::new(ErrorKind::LimitReached, "the path to the parent is too long"));
        }
        Ok(match self {
            Self::MacX => [URL_SCHEME, path].concat().into_bytes(),
            Self::W2ku | Self::W2ru | Self::Obsolete => {
                let windows = [".\\", &path.strip_prefix("./").unwrap_or(path).replace('/', "\\")].concat();
                windows.encode_utf16().flat_map(u16::to_le_bytes).collect()
            }
        })
    }

    /// The path that `bytes` encode, with `/` between its parts.
    pub fn decode(self, bytes: &[u8]) -> Result<String> {
        let path = match self {
            Self::MacX => decode_url(bytes)?,
            Self::W2ku | Self::W2ru => decode_windows(bytes)?,
            Self::Obsolete => return Err(Error::new(ErrorKind::Unsupported, "an obsolete platform's locator")),
        };
        if path.is_empty() || path.len() >= PATH_BYTES_MAX || path.contains('\0') {
            return Err(corrupt("invalid path in a parent locator"));
        }
        Ok(path)
    }
}

fn decode_url(bytes: &[u8]) -> Result<String> {
    let text = std::str::from_utf8(bytes).map_err(|_| corrupt("a parent locator is not UTF-8"))?;
    text.trim_end_matches('\0')
        .strip_prefix(URL_SCHEME)
        .map(str::to_owned)
        .ok_or_else(|| corrupt("a parent locator is no file URL"))
}

fn decode_windows(bytes: &[u8]) -> Result<String> {
    let (pairs, rest) = bytes.as_chunks::<2>();
    if !rest.is_empty() {
        return Err(corrupt("a parent locator has half a character"));
    }
    let units: Vec<u16> = pairs.iter().map(|&pair| u16::from_le_bytes(pair)).collect();
    let text = String::from_utf16(&units).map_err(|_| corrupt("a parent locator is not UTF-16"))?;
    let path = text.trim_end_matches('\0').replace('\\', "/");
    Ok(match path.strip_prefix("C:").or_else(|| path.strip_prefix("c:")) {
        Some(without_drive) => without_drive.to_owned(),
        None => path,
    })
}

/// A locator whose numbers make sense: what it points at can be read.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct Locator {
    code: LocatorCode,
    room: FileRange,
    length: u64,
}

impl Locator {
    /// A locator for `length` encoded bytes at `offset`, in as many sectors as they need.
    pub(super) fn new(code: LocatorCode, offset: FileOffset, length: usize) -> Self {
        let length = length as u64;
        Self { code, room: FileRange::new(offset, length.next_multiple_of(SECTOR)), length }
    }

    /// The locator in a slot; `None` for an empty slot.
    pub fn check(slot: &ParentLocatorBytes) -> Result<Option<Self>> {
        let Some(code) = LocatorCode::from_bits(slot.platform_code.get())? else {
            return Ok(None);
        };
        let room = room_of(slot).ok_or_else(|| corrupt("invalid offset of a parent locator"))?;
        let length = u64::from(slot.data_length.get());
        if length > room.length() || length > ENCODED_BYTES_MAX {
            return Err(corrupt("invalid length of a parent locator"));
        }
        Ok(Some(Self { code, room, length }))
    }

    /// The same for a path of `length` encoded bytes.
    pub(super) fn with_length(self, length: usize) -> Self {
        let length = length as u64;
        assert!(length <= self.length_max(), "a path lies in the room set aside for it");
        Self { length, ..self }
    }

    /// The longest path that has room.
    pub(super) fn length_max(self) -> u64 {
        self.room.length().min(ENCODED_BYTES_MAX)
    }

    /// How its path is encoded.
    pub fn code(self) -> LocatorCode {
        self.code
    }

    /// The sectors set aside for it.
    pub fn room(self) -> FileRange {
        self.room
    }

    /// The encoded path: what to read and give to [`LocatorCode::decode`].
    pub fn encoded(self) -> FileRange {
        FileRange::new(self.room.start(), self.length)
    }

    /// The bytes of its slot in the header.
    pub(super) fn to_slot(self) -> ParentLocatorBytes {
        ParentLocatorBytes {
            platform_code: self.code.to_bits().into(),
            data_space: u32::try_from(self.room.length()).expect("an encoded path is short").into(),
            data_length: u32::try_from(self.length).expect("an encoded path is short").into(),
            reserved: 0.into(),
            data_offset: self.room.start().get().into(),
        }
    }
}

/// The sectors that a used slot claims. `data_space` counts sectors below 512, bytes from there on; a number of bytes
/// that is not whole sectors claims nothing.
pub(super) fn room_of(slot: &ParentLocatorBytes) -> Option<FileRange> {
    let space = u64::from(slot.data_space.get());
    let bytes = match space {
        0..SECTOR => space * SECTOR,
        _ if space.is_multiple_of(SECTOR) => space,
        _ => 0,
    };
    FileRange::checked(slot.data_offset.get(), bytes).filter(|room| room.end().get() <= FILE_BYTES_MAX)
}

/// The header's form of the parent's bare name: UTF-16BE, zero padded.
pub fn encode_parent_name(name: &str) -> Result<[u8; PARENT_NAME_BYTES]> {
    let mut bytes = [0; PARENT_NAME_BYTES];
    let units: Vec<u16> = name.encode_utf16().collect();
    if units.len() > PARENT_NAME_BYTES / 2 {
        return Err(Error::new(ErrorKind::LimitReached, "the parent's name has more than 256 characters"));
    }
    for (pair, unit) in bytes.as_chunks_mut::<2>().0.iter_mut().zip(units) {
        *pair = unit.to_be_bytes();
    }
    Ok(bytes)
}

/// The parent's bare name in a header; it may fill its field without a zero at the end.
pub fn decode_parent_name(bytes: &[u8; PARENT_NAME_BYTES]) -> Result<String> {
    let pairs = bytes.as_chunks::<2>().0;
    let units: Vec<u16> = pairs.iter().map(|&pair| u16::from_be_bytes(pair)).take_while(|&unit| unit != 0).collect();
    String::from_utf16(&units).map_err(|_| corrupt("the parent's name is not UTF-16"))
}

fn corrupt(reason: &'static str) -> Error {
    Error::new(ErrorKind::Corrupt, reason)
}

#[cfg(test)]
mod tests {
    use super::*;
    use proptest::prelude::*;

    fn slot(code: &[u8; 4], space: u32, length: u32, offset: u64) -> ParentLocatorBytes {
        ParentLocatorBytes {
            platform_code: u32::from_be_bytes(*code).into(),
            data_space: space.into(),
            data_length: length.into(),
            reserved: 0.into(),
            data_offset: offset.into(),
        }
    }

    #[test]
    fn the_three_encodings_of_a_neighbour() {
        assert_eq!(LocatorCode::MacX.encode("./a.vhd").unwrap(), b"file://./a.vhd");
        let windows = b".\0\\\0a\0.\0v\0h\0d\0";
        assert_eq!(LocatorCode::W2ku.encode("./a.vhd").unwrap(), windows);
        assert_eq!(LocatorCode::W2ru.encode("./a.vhd").unwrap(), windows);
    }

    #[test]
    fn a_path_that_climbs_keeps_its_dots_in_windows_form() {
        let encoded = LocatorCode::W2ru.encode("../d1/p.vhd").unwrap();
        let text = String::from_utf16(
            &encoded.as_chunks::<2>().0.iter().map(|&pair| u16::from_le_bytes(pair)).collect::<Vec<_>>(),
        );
        assert_eq!(text.unwrap(), r".\..\d1\p.vhd");
        assert_eq!(LocatorCode::W2ru.decode(&encoded).unwrap(), "./../d1/p.vhd");
    }

    #[test]
    fn drives_are_dropped_and_schemes_are_needed() {
        let drive: Vec<u8> = r"C:\vm\p.vhd".encode_utf16().flat_map(u16::to_le_bytes).collect();
        assert_eq!(LocatorCode::W2ku.decode(&drive).unwrap(), "/vm/p.vhd");
        assert!(LocatorCode::MacX.decode(b"./a.vhd").is_err());
        assert!(LocatorCode::MacX.decode(b"file://").is_err());
        assert!(LocatorCode::MacX.decode(b"file://a\0b").is_err());
        assert!(LocatorCode::W2ku.decode(b"odd").is_err());
        assert!(LocatorCode::W2ku.decode(&[0x00, 0xd8]).is_err());
    }

    #[test]
    fn room_is_in_sectors_below_512_and_in_bytes_above() {
        let room = |space| Locator::check(&slot(b"MacX", space, 14, 4096)).unwrap().unwrap().room().length();
        assert_eq!((room(1), room(512), room(1024)), (512, 512, 1024));
        assert!(Locator::check(&slot(b"MacX", 513, 14, 4096)).is_err());
    }

    #[test]
    fn hostile_numbers_are_refused() {
        for wrong in [
            slot(b"MacX", 1, 513, 4096),
            slot(b"MacX", 0, 1, 4096),
            slot(b"MacX", 512, 14, u64::MAX),
            slot(b"MacX", 0x8000_0000, 4097, 4096),
            slot(b"Evil", 512, 14, 4096),
        ] {
            assert_eq!(Locator::check(&wrong).unwrap_err().kind(), ErrorKind::Corrupt);
        }
        assert_eq!(Locator::check(&slot(&[0; 4], 1, 2, 3)).unwrap(), None);
    }

    #[test]
    fn a_locator_survives_its_slot() {
        let locator = Locator::new(LocatorCode::W2ru, FileOffset::new(4096), 600);
        assert_eq!(locator.room().length(), 1024);
        assert_eq!(Locator::check(&locator.to_slot()).unwrap(), Some(locator));
    }

    #[test]
    fn names_fill_their_field_to_the_last_unit() {
        let longest = "x".repeat(256);
        assert_eq!(decode_parent_name(&encode_parent_name(&longest).unwrap()).unwrap(), longest);
        assert!(encode_parent_name(&"x".repeat(257)).is_err());
        assert_eq!(encode_parent_name("a").unwrap()[..4], [0, b'a', 0, 0]);
        assert!(decode_parent_name(&[0xdc; 512]).is_err());
    }

    proptest! {
        #[test]
        fn every_path_survives_every_encoding(path in "[^\0\\\\]{0,200}") {
            let path = format!("./{path}");
            for code in LocatorCode::WRITTEN {
                prop_assert_eq!(&code.decode(&code.encode(&path).unwrap()).unwrap(), &path);
            }
        }

        #[test]
        fn arbitrary_bytes_are_decoded_or_refused(bytes in prop::collection::vec(any::<u8>(), 0..64)) {
            for code in LocatorCode::WRITTEN {
                let _ = code.decode(&bytes);
            }
        }
    }
}
