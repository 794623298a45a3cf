//! What a disk holds, read and written by a few lines that know nothing of the program's own code.

use super::place::Place;

const BLOCK: usize = 2 << 20;
const SECTORS: usize = BLOCK / 512;

/// The image as a reader sees it: its bytes, and what its header says.
struct Vhd {
    bytes: Vec<u8>,
    blocks: usize,
}

impl Vhd {
    fn read(place: &Place, name: &str) -> Vhd {
        let bytes = place.read(name);
        let size = u64::from_be_bytes(bytes[48..56].try_into().unwrap());
        Vhd { bytes, blocks: usize::try_from(size).unwrap().div_ceil(BLOCK) }
    }

    fn entry(&self, block: usize) -> Option<usize> {
        let entry = u32::from_be_bytes(self.bytes[1536 + block * 4..][..4].try_into().unwrap());
        (entry != u32::MAX).then_some(entry as usize * 512)
    }

    fn has(&self, sector: usize) -> Option<usize> {
        let start = self.entry(sector / SECTORS)?;
        let index = sector % SECTORS;
        let is_present = self.bytes[start + index / 8] & (0x80 >> (index % 8)) != 0;
        is_present.then_some(start + 512 + index * 512)
    }
}

/// The disk of a chain, given leaf first.
pub(crate) fn disk(place: &Place, chain: &[&str]) -> Vec<u8> {
    let images: Vec<Vhd> = chain.iter().map(|name| Vhd::read(place, name)).collect();
    let mut disk = vec![0; images[0].blocks * BLOCK];
    for (sector, bytes) in disk.chunks_mut(512).enumerate() {
        let found = images
            .iter()
            .find_map(|image| Some((image, image.has(sector).filter(|_| sector / SECTORS < image.blocks)?)));
        if let Some((image, place)) = found {
            bytes.copy_from_slice(&image.bytes[place..place + 512]);
        }
    }
    disk
}

/// Writes runs of sectors to an image: first, how many, and the byte that fills them.
pub(crate) fn give(place: &Place, name: &str, runs: &[(usize, usize, u8)]) {
    let mut image = Vhd::read(place, name);
    let footer = image.bytes.split_off(image.bytes.len() - 512);
    for (sector, byte) in
        runs.iter().flat_map(|&(first, count, byte)| (first..first + count).map(move |sector| (sector, byte)))
    {
        let (block, index) = (sector / SECTORS, sector % SECTORS);
        if image.entry(block).is_none() {
            let start = (image.bytes.len() + 512).next_multiple_of(4096) - 512;
            image.bytes.resize(start + 512 + BLOCK, 0);
            let entry = u32::try_from(start / 512).unwrap();
            image.bytes[1536 + block * 4..][..4].copy_from_slice(&entry.to_be_bytes());
        }
        let start = image.entry(block).unwrap();
        image.bytes[start + index / 8] |= 0x80 >> (index % 8);
        image.bytes[start + 512 + index * 512..][..512].fill(byte);
    }
    image.bytes.extend(footer);
    place.write(name, &image.bytes);
}
