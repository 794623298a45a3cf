//! One call to the kernel, in words that every engine understands.

use std::{io, os::fd::RawFd};

use block_core::FileRange;

/// What a command does with its file.
#[derive(Clone, Copy, Debug)]
pub(crate) enum CommandKind {
    /// The last `tail` bytes may lie behind the end of the file; they read as zeroes.
    Read {
        offset: u64,
        tail: usize,
    },
    Write {
        offset: u64,
        durable: bool,
    },
    Sync,
    Fallocate {
        range: FileRange,
        mode: i32,
    },
    SetLength(u64),
    /// Of a block device.
    Discard(FileRange),
    /// Of a block device.
    ZeroOut(FileRange),
}

impl CommandKind {
    /// Whether it does nothing but move bytes that are in the page cache afterwards.
    pub(crate) fn is_transfer(self) -> bool {
        matches!(self, CommandKind::Read { .. } | CommandKind::Write { .. })
    }
}

/// The memory of a command.
#[derive(Clone, Copy, Debug)]
pub(crate) enum Memory {
    None,
    /// One run: no list is needed.
    One {
        start: *mut libc::c_void,
        length: usize,
    },
    /// A list of runs, in the reactor's entry, which outlives the command.
    Many {
        vectors: *const libc::iovec,
        count: u32,
    },
}

impl Memory {
    pub(crate) fn of(vectors: &[libc::iovec]) -> Self {
        match vectors {
            [] => Memory::None,
            [one] => Memory::One { start: one.iov_base, length: one.iov_len },
            many => Memory::Many {
                vectors: many.as_ptr(),
                count: u32::try_from(many.len()).expect("at most IOV_MAX vectors"),
            },
        }
    }
}

/// One call to the kernel.
#[derive(Clone, Copy, Debug)]
pub(crate) struct Command {
    pub(crate) kind: CommandKind,
    pub(crate) descriptor: RawFd,
    /// Whether the descriptor bypasses the page cache.
    pub(crate) direct: bool,
    pub(crate) memory: Memory,
    /// Bytes of the operation that are done already; offsets move by as much.
    pub(crate) done: usize,
}

// SAFETY: the pointers name memory that the reactor keeps until the command's completion, whichever thread runs it.
unsafe impl Send for Command {}

impl Command {
    /// Flags of a write.
    pub(crate) fn write_flags(durable: bool) -> i32 {
        if durable { libc::RWF_DSYNC } else { 0 }
    }

    /// Runs it on the calling thread; the kernel's result or its negative error number.
    pub(crate) fn run(&self) -> i32 {
        let result = match self.kind {
            CommandKind::Read { .. } | CommandKind::Write { .. } => self.transfer(),
            // SAFETY: the descriptor is open until the command has ended.
            CommandKind::Sync => unsafe { libc::fdatasync(self.descriptor) as isize },
            CommandKind::Fallocate { range, mode } => {
                let (start, length) = (signed(range.start().get()), signed(range.length()));
                // SAFETY: the descriptor is open until the command has ended.
                unsafe { libc::fallocate(self.descriptor, mode, start, length) as isize }
            }
            // SAFETY: the descriptor is open until the command has ended.
            CommandKind::SetLength(length) => unsafe { libc::ftruncate(self.descriptor, signed(length)) as isize },
            CommandKind::Discard(range) => self.device_range(BLKDISCARD, range),
            CommandKind::ZeroOut(range) => self.device_range(BLKZEROOUT, range),
        };
        if result < 0 {
            return -io::Error::last_os_error().raw_os_error().unwrap_or(libc::EIO);
        }
        i32::try_from(result).expect("one call moves less than 2 GiB")
    }

    fn transfer(&self) -> isize {
        let one;
        let (vectors, count) = match self.memory {
            Memory::None => (std::ptr::null(), 0),
            Memory::One { start, length } => {
                one = libc::iovec { iov_base: start, iov_len: length };
                (&raw const one, 1)
            }
            Memory::Many { vectors, count } => (vectors, count.try_into().expect("at most IOV_MAX vectors")),
        };
        let done = self.done as u64;
        match self.kind {
            CommandKind::Read { offset, .. } => {
                // SAFETY: the descriptor is open and the memory is the command's until it has ended.
                unsafe { libc::preadv(self.descriptor, vectors, count, signed(offset + done)) }
            }
            CommandKind::Write { offset, durable } => {
                let (offset, flags) = (signed(offset + done), Self::write_flags(durable));
                // SAFETY: as for the read.
                unsafe { libc::pwritev2(self.descriptor, vectors, count, offset, flags) }
            }
            _ => unreachable!("only reads and writes transfer"),
        }
    }

    fn device_range(&self, request: libc::Ioctl, range: FileRange) -> isize {
        let range = [range.start().get(), range.length()];
        // SAFETY: these requests read two 64-bit numbers.
        unsafe { libc::ioctl(self.descriptor, request, range.as_ptr()) as isize }
    }
}

/// `_IO(0x12, 119)`: discard a range of a block device. How `_IO` packs its numbers depends on the machine; this one lies
/// next to a request that is known for each.
const BLKDISCARD: libc::Ioctl = libc::BLKSSZGET - 104 + 119;
/// `_IO(0x12, 127)`: make a range of a block device read as zeroes.
const BLKZEROOUT: libc::Ioctl = libc::BLKSSZGET - 104 + 127;

/// The kernel's signed offsets; what does not fit is refused by the kernel as out of range.
pub(crate) fn signed(offset: u64) -> i64 {
    i64::try_from(offset).unwrap_or(i64::MAX)
}
