//! The door: what is checked of every request, once, so that nothing below needs to.

use block_core::{Error, ErrorKind, GuestOffset, GuestRange, Result};

use crate::{Geometry, Operation, Outcome};

/// What becomes of a request at the door.
#[derive(Debug)]
pub(crate) enum Admission {
    /// It goes on to the chain: in range, permitted, about at least one byte.
    Enter(Operation),
    /// It is answered right here.
    Answered(Outcome),
}

/// Checks a request against the disk it is for.
///
/// # Panics
/// When the buffer is not as long as the range: the source made both.
pub(crate) fn admit(geometry: &Geometry, operation: Operation) -> Admission {
    if let Operation::Read { range, buffer } | Operation::Write { range, buffer, .. } = &operation {
        assert_eq!(range.length(), buffer.len() as u64, "a source gives a buffer as long as its range");
    }
    match check(geometry, &operation) {
        Err(error) => Admission::Answered(Outcome::Failed(error)),
        Ok(()) if operation.range().is_some_and(GuestRange::is_empty) => Admission::Answered(nothing_to_do(operation)),
        Ok(()) => Admission::Enter(operation),
    }
}

fn check(geometry: &Geometry, operation: &Operation) -> Result<()> {
    if geometry.read_only && operation.changes() {
        return Err(Error::new(ErrorKind::ReadOnly, "the disk is read-only"));
    }
    let disk = GuestRange::new(GuestOffset::new(0), geometry.bytes());
    match operation.range() {
        Some(range) if !disk.contains(range) => {
            let words = format!("{range} is not on a disk of {:#x} bytes", geometry.bytes());
            Err(Error::new(ErrorKind::Invalid, words))
        }
        _ => Ok(()),
    }
}

fn nothing_to_do(operation: Operation) -> Outcome {
    match operation {
        Operation::Read { buffer, .. } => Outcome::Read(buffer),
        Operation::Extents { .. } => Outcome::Extents(Vec::new()),
        _ => Outcome::Done,
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use storage_io::Buffer;

    const DISK: Geometry = Geometry {
        sectors: 8,
        logical_block_size: 512,
        physical_block_size: 4096,
        read_only: false,
        can_discard: true,
    };

    fn range(start: u64, length: u64) -> GuestRange {
        GuestRange::checked(start, length).unwrap()
    }

    fn kind_of(admission: Admission) -> Option<ErrorKind> {
        match admission {
            Admission::Answered(Outcome::Failed(error)) => Some(error.kind()),
            _ => None,
        }
    }

    #[test]
    fn what_is_not_all_on_the_disk_is_invalid() {
        for (start, length) in [(4096, 1), (4095, 2), (0, 4097), (u64::MAX - 1, 1), (4097, 0)] {
            let admission = admit(&DISK, Operation::Discard { range: range(start, length), durable: false });
            assert_eq!(kind_of(admission), Some(ErrorKind::Invalid), "{start}+{length}");
        }
        let last_byte = Operation::Discard { range: range(4095, 1), durable: false };
        assert!(matches!(admit(&DISK, last_byte), Admission::Enter(_)));
    }

    #[test]
    fn a_read_only_disk_takes_everything_but_changes() {
        let disk = Geometry { read_only: true, ..DISK };
        let all = range(0, 512);
        let changes = [
            Operation::Write { range: all, buffer: Buffer::zeroed(512), durable: false },
            Operation::Discard { range: all, durable: false },
            Operation::WriteZeroes { range: all, may_free: true, fast_only: false, durable: false },
        ];
        for operation in changes {
            assert_eq!(kind_of(admit(&disk, operation)), Some(ErrorKind::ReadOnly));
        }
        let others = [
            Operation::Read { range: all, buffer: Buffer::zeroed(512) },
            Operation::Flush,
            Operation::Cache { range: all },
            Operation::Extents { range: all, first_only: false },
        ];
        for operation in others {
            assert!(matches!(admit(&disk, operation), Admission::Enter(_)));
        }
    }

    #[test]
    fn what_is_about_no_byte_is_done_at_once() {
        let read = Operation::Read { range: range(4096, 0), buffer: Buffer::empty() };
        assert!(matches!(admit(&DISK, read), Admission::Answered(Outcome::Read(buffer)) if buffer.is_empty()));
        let write = Operation::Write { range: range(0, 0), buffer: Buffer::empty(), durable: true };
        assert!(matches!(admit(&DISK, write), Admission::Answered(Outcome::Done)));
    }

    #[test]
    #[should_panic(expected = "as long as its range")]
    fn a_buffer_of_another_length_is_the_sources_bug() {
        let _ = admit(&DISK, Operation::Read { range: range(0, 512), buffer: Buffer::zeroed(511) });
    }
}
