//! The shortest reader of VHD chains: a sector at a time, straight from the public description of the format, with
//! nothing in common with ours. Images lie in one directory; the header's name leads to the parent.

use std::{fs, path::Path};

const SECTOR: usize = 512;
const DIFFERENCING: u64 = 4;
const UNUSED: u64 = 0xffff_ffff;

enum Image {
    Raw(Vec<u8>),
    Vhd { bytes: Vec<u8>, parent: Option<Box<Image>> },
}

/// What the disk holds.
pub(crate) fn contents(path: &Path) -> Vec<u8> {
    let image = Image::open(path, true);
    let Image::Vhd { bytes, .. } = &image else { unreachable!("opened as a VHD") };
    let sectors = number(bytes, 48, 8) / SECTOR;
    (0..sectors).flat_map(|sector| image.sector(sector)).collect()
}

impl Image {
    fn open(path: &Path, is_vhd: bool) -> Image {
        let bytes = fs::read(path).unwrap();
        if !is_vhd {
            return Image::Raw(bytes);
        }
        let parent = (number(&bytes, 60, 4) as u64 == DIFFERENCING).then(|| {
            let units = bytes[512 + 64..512 + 576].chunks(2).map(|pair| u16::from_be_bytes([pair[0], pair[1]]));
            let name = String::from_utf16(&units.take_while(|unit| *unit != 0).collect::<Vec<_>>()).unwrap();
            let is_vhd = bytes[512 + 40..512 + 56] != [0; 16];
            Box::new(Image::open(&path.with_file_name(name), is_vhd))
        });
        Image::Vhd { bytes, parent }
    }

    fn sector(&self, sector: usize) -> [u8; SECTOR] {
        let at = |bytes: &[u8], place: usize| {
            let mut found = [0; SECTOR];
            let part = bytes.get(place..).unwrap_or_default();
            let length = part.len().min(SECTOR);
            found[..length].copy_from_slice(&part[..length]);
            found
        };
        let (bytes, parent) = match self {
            Image::Raw(bytes) => return at(bytes, sector * SECTOR),
            Image::Vhd { bytes, parent } => (bytes, parent),
        };
        let (table, per_block) = (number(bytes, 512 + 16, 8), number(bytes, 512 + 32, 4) / SECTOR);
        let (block, within) = (sector / per_block, sector % per_block);
        let entry = number(bytes, table + block * 4, 4);
        if entry as u64 != UNUSED {
            let bitmap = entry * SECTOR;
            if bytes[bitmap + within / 8] & (0x80 >> (within % 8)) != 0 {
                return at(bytes, bitmap + (per_block / 8).next_multiple_of(SECTOR) + within * SECTOR);
            }
        }
        parent.as_ref().map_or([0; SECTOR], |parent| parent.sector(sector))
    }
}

/// A number of `length` bytes, the highest first.
fn number(bytes: &[u8], place: usize, length: usize) -> usize {
    bytes[place..place + length].iter().fold(0, |number, byte| number << 8 | usize::from(*byte))
}
