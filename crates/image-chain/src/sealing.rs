//! Encrypted images: what is read is decrypted where it lies, in the requester's own buffer; what is written goes through a
//! buffer of ours, since the requester gets his back as it was, and may try again with it.

use std::sync::Arc;

use block_core::{GuestOffset, SECTOR};
use image_format::vhd::DiskKey;
use storage_io::{Buffer, BufferPool};

/// Free memory that is kept for each of a few sizes of writes.
const POOL_BYTES: usize = 1 << 20;

/// Encrypts what is written to the leaf.
pub(crate) struct Sealer {
    key: Arc<DiskKey>,
    pool: BufferPool,
}

impl Sealer {
    /// For the leaf of a disk that is encrypted with `key`.
    pub(crate) fn new(key: &Arc<DiskKey>) -> Sealer {
        Sealer { key: key.clone(), pool: BufferPool::new(POOL_BYTES) }
    }

    /// The sectors from `start` on as the leaf has them.
    pub(crate) fn seal(&self, start: GuestOffset, plain: &Buffer) -> Buffer {
        let mut sealed = self.pool.take(plain.len());
        let mut at = 0;
        for segment in sealed.segments_mut() {
            plain.copy_out(at, segment);
            self.key.encrypt((start.get() + at as u64) / SECTOR, segment);
            at += segment.len();
        }
        sealed
    }
}

/// What goes to the storage of the leaf; and what the requester gets back, if that is something else.
pub(crate) fn seal(sealer: Option<&Sealer>, start: GuestOffset, buffer: Buffer) -> (Buffer, Option<Buffer>) {
    match sealer {
        None => (buffer, None),
        Some(sealer) => (sealer.seal(start, &buffer), Some(buffer)),
    }
}

/// Decrypts sectors that were read, the first of which is that of the disk at `start`.
pub(crate) fn unseal(key: &DiskKey, start: GuestOffset, buffer: &mut Buffer) {
    let mut sector = start.get() / SECTOR;
    if buffer.segments().all(|segment| (segment.len() as u64).is_multiple_of(SECTOR)) {
        for segment in buffer.segments_mut() {
            key.decrypt(sector, segment);
            sector += segment.len() as u64 / SECTOR;
        }
    } else {
        // A sector lies in two segments.
        let mut whole = buffer.to_vec();
        key.decrypt(sector, &mut whole);
        buffer.copy_in(0, &whole);
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    /// Sectors whose bytes differ, in segments of the given lengths.
    fn buffer(lengths: &[usize]) -> Buffer {
        let mut whole = Buffer::empty();
        let mut next = 0_u32;
        for length in lengths {
            let bytes: Vec<u8> = (next..).take(*length).map(|index| (index * 7 / 3).to_le_bytes()[0]).collect();
            next += u32::try_from(*length).unwrap();
            whole.append(Buffer::from_bytes(&bytes));
        }
        whole
    }

    #[test]
    fn a_buffer_is_sealed_as_one_run_however_it_is_cut() {
        let key = Arc::new(DiskKey::new(&[5; 64]).unwrap());
        let start = GuestOffset::new(12 * SECTOR);
        for lengths in [&[4096][..], &[512, 1024, 2560], &[100, 924, 3072], &[4095, 1]] {
            let plain = buffer(lengths);
            let mut expected = plain.to_vec();
            key.encrypt(12, &mut expected);
            let (mut sealed, kept) = seal(Some(&Sealer::new(&key)), start, plain);
            let kept = kept.unwrap();
            assert_eq!((sealed.to_vec(), kept.to_vec()), (expected, buffer(lengths).to_vec()), "{lengths:?}");
            // Also what is read may be cut in any way.
            let mut read = buffer(lengths);
            read.copy_in(0, &sealed.to_vec());
            unseal(&key, start, &mut read);
            unseal(&key, start, &mut sealed);
            assert_eq!((read.to_vec(), sealed.to_vec()), (kept.to_vec(), kept.to_vec()), "{lengths:?}");
        }
    }

    #[test]
    fn what_is_not_encrypted_goes_as_it_is() {
        let (buffer, kept) = seal(None, GuestOffset::new(0), Buffer::from_bytes(&[3; 512]));
        assert_eq!((buffer.to_vec(), kept.is_none()), (vec![3; 512], true));
    }
}
