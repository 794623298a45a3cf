//! Memory that somebody else may change while we look.

use std::{
    ffi::c_void,
    os::fd::AsFd,
    ptr::NonNull,
    sync::atomic::{AtomicU8, AtomicU32, AtomicU64, Ordering},
};

use block_core::{Result, ResultExt};
use rustix::mm::{MapFlags, ProtFlags, mmap, munmap};

use crate::Access;

/// Bytes of a page: what is granted, and what rings are made of.
pub const PAGE_BYTES: usize = 4096;

/// Memory shared with others, mapped for reading and writing. Nothing is ever borrowed from it: bytes are copied in and
/// out with atomic accesses, so whatever others do to them meanwhile is at worst a strange value.
#[derive(Debug)]
pub struct SharedMemory {
    start: NonNull<u8>,
    length: usize,
}

// SAFETY: all accesses are atomic, and the mapping stays until the value is dropped.
unsafe impl Send for SharedMemory {}
// SAFETY: as above.
unsafe impl Sync for SharedMemory {}

impl SharedMemory {
    /// Maps a part of a file whole pages long. It must not become shorter: callers map sealed files and devices.
    ///
    /// # Errors
    /// What the operating system says.
    ///
    /// # Panics
    /// When the part is empty or not whole pages.
    pub fn map(file: impl AsFd, offset: u64, length: usize) -> Result<SharedMemory> {
        assert!(length > 0 && length.is_multiple_of(PAGE_BYTES), "whole pages are mapped");
        let (prot, flags) = (ProtFlags::READ | ProtFlags::WRITE, MapFlags::SHARED);
        // SAFETY: the kernel chooses an address where nothing is.
        let start = unsafe { mmap(std::ptr::null_mut(), length, prot, flags, file, offset) };
        let start = start.map_err(std::io::Error::from).context("mapping shared memory")?;
        let start = NonNull::new(start.cast()).expect("nothing is mapped at zero");
        Ok(SharedMemory { start, length })
    }

    /// Maps a part of a device, for reading alone if nothing else is permitted.
    ///
    /// # Errors
    /// What the device says.
    pub(crate) fn map_device(device: impl AsFd, offset: u64, length: usize, access: Access) -> Result<SharedMemory> {
        let prot = match access {
            Access::Read => ProtFlags::READ,
            Access::Write => ProtFlags::READ | ProtFlags::WRITE,
        };
        // SAFETY: the kernel chooses an address where nothing is. A write to what is mapped for reading ends the process.
        let start = unsafe { mmap(std::ptr::null_mut(), length, prot, MapFlags::SHARED, device, offset) };
        let start = start.map_err(std::io::Error::from).context("mapping granted pages")?;
        Ok(SharedMemory { start: NonNull::new(start.cast()).expect("nothing is mapped at zero"), length })
    }

    /// Maps pages of a file, in this order, one behind the other.
    ///
    /// # Errors
    /// What the operating system says.
    ///
    /// # Panics
    /// Without a page.
    pub fn map_pages(file: impl AsFd, pages: &[u32]) -> Result<SharedMemory> {
        assert!(!pages.is_empty(), "at least one page is mapped");
        let file = file.as_fd();
        let length = pages.len() * PAGE_BYTES;
        // The place first, then each page into it.
        let place = SharedMemory::map(file, 0, length).or_else(|_| SharedMemory::reserve(length))?;
        for (index, page) in pages.iter().enumerate() {
            let offset = u64::from(*page) * PAGE_BYTES as u64;
            let (prot, flags) = (ProtFlags::READ | ProtFlags::WRITE, MapFlags::SHARED | MapFlags::FIXED);
            let at = place.start.as_ptr().wrapping_add(index * PAGE_BYTES).cast::<c_void>();
            // SAFETY: the range lies within `place`, which is ours, and which nobody has seen yet.
            let mapped = unsafe { mmap(at, PAGE_BYTES, prot, flags, file, offset) };
            mapped.map_err(std::io::Error::from).context("mapping a page")?;
        }
        Ok(place)
    }

    fn reserve(length: usize) -> Result<SharedMemory> {
        // SAFETY: the kernel chooses an address where nothing is.
        let start = unsafe {
            rustix::mm::mmap_anonymous(
                std::ptr::null_mut(),
                length,
                ProtFlags::READ | ProtFlags::WRITE,
                MapFlags::PRIVATE,
            )
        };
        let start = start.map_err(std::io::Error::from).context("reserving room for pages")?;
        Ok(SharedMemory { start: NonNull::new(start.cast()).expect("nothing is mapped at zero"), length })
    }

    /// Bytes of it.
    pub fn length(&self) -> usize {
        self.length
    }

    fn check(&self, offset: usize, length: usize) {
        let end = offset.checked_add(length);
        assert!(end.is_some_and(|end| end <= self.length), "{length} bytes at {offset:#x} of {:#x}", self.length);
    }

    /// A 32-bit word, which others may change at any time.
    ///
    /// # Panics
    /// When it does not lie within the memory, aligned.
    pub fn word(&self, offset: usize) -> &AtomicU32 {
        self.check(offset, 4);
        assert!(offset.is_multiple_of(4), "words are aligned");
        // SAFETY: it lies within the mapping, which starts at a page, and lives as long as `self`; all accesses are atomic.
        unsafe { AtomicU32::from_ptr(self.start.as_ptr().add(offset).cast()) }
    }

    fn byte(&self, offset: usize) -> &AtomicU8 {
        self.check(offset, 1);
        // SAFETY: as for words.
        unsafe { AtomicU8::from_ptr(self.start.as_ptr().add(offset)) }
    }

    /// A 64-bit word, which others may change at any time.
    ///
    /// # Panics
    /// When it does not lie within the memory, aligned.
    pub(crate) fn long_word(&self, offset: usize) -> &AtomicU64 {
        self.check(offset, 8);
        debug_assert!(offset.is_multiple_of(8), "words are aligned");
        // SAFETY: as for words; callers give multiples of eight.
        unsafe { AtomicU64::from_ptr(self.start.as_ptr().add(offset).cast()) }
    }

    /// Copies bytes out, each once.
    ///
    /// # Panics
    /// When they do not lie within the memory.
    pub fn copy_out(&self, offset: usize, bytes: &mut [u8]) {
        self.check(offset, bytes.len());
        #[cfg(target_arch = "x86_64")]
        if bytes.len() >= LONG {
            // SAFETY: all of it lies within the mapping, and in a slice that nobody else has.
            return unsafe { copy_at_once(self.start.as_ptr().add(offset), bytes.as_mut_ptr(), bytes.len()) };
        }
        let mut at = offset;
        let head = bytes.len().min(at.next_multiple_of(8) - at);
        let (head, rest) = bytes.split_at_mut(head);
        let (words, tail) = rest.as_chunks_mut::<8>();
        for byte in head {
            *byte = self.byte(at).load(Ordering::Relaxed);
            at += 1;
        }
        for word in words {
            *word = self.long_word(at).load(Ordering::Relaxed).to_le_bytes();
            at += 8;
        }
        for byte in tail {
            *byte = self.byte(at).load(Ordering::Relaxed);
            at += 1;
        }
    }

    /// Copies bytes in, each once.
    ///
    /// # Panics
    /// When they do not lie within the memory.
    pub fn copy_in(&self, offset: usize, bytes: &[u8]) {
        self.check(offset, bytes.len());
        #[cfg(target_arch = "x86_64")]
        if bytes.len() >= LONG {
            // SAFETY: all of it lies in a slice that nobody changes, and within the mapping.
            return unsafe { copy_at_once(bytes.as_ptr(), self.start.as_ptr().add(offset), bytes.len()) };
        }
        let mut at = offset;
        let head = bytes.len().min(at.next_multiple_of(8) - at);
        let (head, rest) = bytes.split_at(head);
        let (words, tail) = rest.as_chunks::<8>();
        for byte in head {
            self.byte(at).store(*byte, Ordering::Relaxed);
            at += 1;
        }
        for word in words {
            self.long_word(at).store(u64::from_le_bytes(*word), Ordering::Relaxed);
            at += 8;
        }
        for byte in tail {
            self.byte(at).store(*byte, Ordering::Relaxed);
            at += 1;
        }
    }
}

/// Bytes from which on one instruction copies faster than a loop over words.
#[cfg(target_arch = "x86_64")]
const LONG: usize = 256;

/// Copies bytes, each once, by one instruction: whatever others do to them meanwhile, no compiler assumes anything of them.
///
/// # Safety
/// Both sides are memory of so many bytes, which does not overlap, and whoever shares it uses atomic accesses or none of
/// what a compiler knows.
#[cfg(target_arch = "x86_64")]
unsafe fn copy_at_once(from: *const u8, to: *mut u8, length: usize) {
    // SAFETY: the caller says that both sides are there; the flag of direction is clear whenever assembly begins.
    unsafe {
        std::arch::asm!(
            "rep movsb",
            inout("rcx") length => _,
            inout("rsi") from => _,
            inout("rdi") to => _,
            options(nostack, preserves_flags)
        );
    }
}

impl Drop for SharedMemory {
    fn drop(&mut self) {
        // SAFETY: it is our mapping, and whoever borrowed from it borrowed `self`.
        let unmapped = unsafe { munmap(self.start.as_ptr().cast(), self.length) };
        debug_assert!(unmapped.is_ok(), "a mapping can be unmapped");
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use rustix::fs::{MemfdFlags, ftruncate, memfd_create};

    fn file(pages: usize) -> std::os::fd::OwnedFd {
        let file = memfd_create("test", MemfdFlags::CLOEXEC).unwrap();
        ftruncate(&file, (pages * PAGE_BYTES) as u64).unwrap();
        file
    }

    #[test]
    fn bytes_of_any_alignment_go_in_and_out() {
        let memory = SharedMemory::map(file(1), 0, PAGE_BYTES).unwrap();
        let pattern: Vec<u8> = (0..=250).cycle().take(3000).collect();
        for offset in 1..20 {
            for length in [0, 1, 3, 7, 8, 9, 16, 63, 100, 255, 256, 257, 1000, 3000] {
                memory.copy_in(0, &[0xee; PAGE_BYTES]);
                memory.copy_in(offset, &pattern[..length]);
                let mut bytes = vec![0xff; length + 2];
                memory.copy_out(offset - 1, &mut bytes);
                assert_eq!(bytes[1..=length], pattern[..length], "{length} bytes at {offset}");
                assert_eq!((bytes[0], bytes[length + 1]), (0xee, 0xee), "around {length} bytes at {offset}");
            }
        }
        memory.copy_in(PAGE_BYTES - 3, &[1, 2, 3]);
    }

    #[test]
    fn pages_are_mapped_in_the_order_given() {
        let file = file(4);
        let all = SharedMemory::map(&file, 0, 4 * PAGE_BYTES).unwrap();
        for (page, number) in (0..4).zip(0..) {
            all.word(page * PAGE_BYTES).store(number, Ordering::Relaxed);
        }
        let some = SharedMemory::map_pages(&file, &[3, 1, 1]).unwrap();
        let seen = [0, 1, 2].map(|index| some.word(index * PAGE_BYTES).load(Ordering::Relaxed));
        assert_eq!(seen, [3, 1, 1]);
        some.word(0).store(9, Ordering::Relaxed);
        assert_eq!(all.word(3 * PAGE_BYTES).load(Ordering::Relaxed), 9);
    }

    #[test]
    #[should_panic(expected = "2 bytes at 0xfff of 0x1000")]
    fn nothing_beyond_the_end_is_touched() {
        SharedMemory::map(file(1), 0, PAGE_BYTES).unwrap().copy_in(PAGE_BYTES - 1, &[0; 2]);
    }
}
