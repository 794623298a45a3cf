//! A storage in memory that many threads use without meeting: its bytes lie in stripes, each under a lock of its own.

use std::sync::{Mutex, PoisonError};

use block_core::{Error, ErrorKind, Origin, Result};
use storage_io::{Buffer, Completion, Executor, Hold, Limits, Pending, Storage, StorageKind, StorageOperation};

const STRIPE_BYTES: usize = 1 << 20;

/// Zeroes, until something is written. It has the length that it was made with.
#[derive(Debug)]
pub(crate) struct Stripes(Vec<Mutex<Vec<u8>>>);

impl Stripes {
    pub(crate) fn new(bytes: u64) -> Stripes {
        let count = usize::try_from(bytes).expect("it fits into memory") / STRIPE_BYTES;
        Stripes((0..count).map(|_| Mutex::new(vec![0; STRIPE_BYTES])).collect())
    }

    fn read(&self, mut offset: usize, buffer: &mut Buffer) -> Result<()> {
        for segment in buffer.segments_mut() {
            let stripe = self.stripe(offset)?.lock().unwrap_or_else(PoisonError::into_inner);
            let from = offset % STRIPE_BYTES;
            let part = stripe.get(from..from + segment.len()).ok_or_else(crosses)?;
            segment.copy_from_slice(part);
            offset += segment.len();
        }
        Ok(())
    }

    fn write(&self, mut offset: usize, buffer: &Buffer) -> Result<()> {
        for segment in buffer.segments() {
            let mut stripe = self.stripe(offset)?.lock().unwrap_or_else(PoisonError::into_inner);
            let from = offset % STRIPE_BYTES;
            let part = stripe.get_mut(from..from + segment.len()).ok_or_else(crosses)?;
            part.copy_from_slice(segment);
            offset += segment.len();
        }
        Ok(())
    }

    fn stripe(&self, offset: usize) -> Result<&Mutex<Vec<u8>>> {
        self.0.get(offset / STRIPE_BYTES).ok_or_else(|| Error::new(ErrorKind::Invalid, "beyond the end"))
    }
}

fn crosses() -> Error {
    Error::new(ErrorKind::Unsupported, "a request that crosses stripes")
}

impl Storage for Stripes {
    fn submit(&self, _: &Executor, operation: StorageOperation, _: Option<Hold>) -> Pending {
        let place = |offset: block_core::FileOffset| usize::try_from(offset.get()).expect("it fits into memory");
        let completion = match operation {
            StorageOperation::Read { offset, mut buffer } => {
                let result = self.read(place(offset), &mut buffer);
                Completion { buffer: Some(buffer), result }
            }
            StorageOperation::Write { offset, buffer, .. } => {
                let result = self.write(place(offset), &buffer);
                Completion { buffer: Some(buffer), result }
            }
            _ => Completion { buffer: None, result: Ok(()) },
        };
        Pending::completed(completion)
    }

    fn length(&self) -> u64 {
        (self.0.len() * STRIPE_BYTES) as u64
    }

    fn origin(&self) -> Origin {
        Origin { place: "/memory".into(), is_remote: false }
    }

    fn limits(&self) -> Limits {
        Limits {
            alignment: 1,
            kind: StorageKind::Memory,
            read_only: false,
            discards: true,
            zeroes_fast: true,
            logical_block_size: 512,
            physical_block_size: 512,
            identity: (0, 1),
        }
    }
}
