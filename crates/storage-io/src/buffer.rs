//! Memory that the kernel may own for a while: page-aligned, owned by value, splittable without copying.

use std::{
    alloc::{self, Layout},
    fmt,
    ptr::NonNull,
    sync::{Arc, Mutex, PoisonError, Weak},
};

/// Alignment of every buffer's memory, in bytes: the page, which every O_DIRECT device accepts.
pub const PAGE: usize = 4096;

/// One allocation: page-aligned, initialised, returned to its pool or to the allocator when its last user has gone.
struct Memory {
    start: NonNull<u8>,
    capacity: usize,
    pool: Weak<PoolInner>,
}

// SAFETY: the memory is plain bytes, owned by this value; every access goes through a `Segment`, and no two segments
// of one memory overlap.
unsafe impl Send for Memory {}
// SAFETY: as above; `&Memory` alone gives access to no byte.
unsafe impl Sync for Memory {}

impl Memory {
    fn layout(capacity: usize) -> Layout {
        Layout::from_size_align(capacity, PAGE).expect("a buffer is far smaller than the address space")
    }

    fn new(length: usize) -> Self {
        let capacity = length.max(1).next_multiple_of(PAGE);
        let layout = Self::layout(capacity);
        // SAFETY: the layout has a size above zero.
        let start = unsafe { alloc::alloc_zeroed(layout) };
        let Some(start) = NonNull::new(start) else { alloc::handle_alloc_error(layout) };
        Memory { start, capacity, pool: Weak::new() }
    }
}

impl Drop for Memory {
    fn drop(&mut self) {
        if let Some(pool) = self.pool.upgrade()
            && pool.keep(Memory { start: self.start, capacity: self.capacity, pool: Weak::new() })
        {
            return;
        }
        // SAFETY: allocated in `new` with this layout, and nobody else frees it: `keep` took a copy only if it said so.
        unsafe { alloc::dealloc(self.start.as_ptr(), Self::layout(self.capacity)) };
    }
}

/// A run of one memory that no other segment overlaps.
struct Segment {
    memory: Arc<Memory>,
    from: usize,
    length: usize,
}

impl Segment {
    fn start(&self) -> *mut u8 {
        // SAFETY: `from` is at most the memory's capacity.
        unsafe { self.memory.start.as_ptr().add(self.from) }
    }

    fn bytes(&self) -> &[u8] {
        // SAFETY: the run is inside the memory, initialised, and no other segment overlaps it.
        unsafe { std::slice::from_raw_parts(self.start(), self.length) }
    }

    fn bytes_mut(&mut self) -> &mut [u8] {
        // SAFETY: as in `bytes`; `&mut self` makes it the only access.
        unsafe { std::slice::from_raw_parts_mut(self.start(), self.length) }
    }

    /// Keeps the first `at` bytes, gives the rest.
    fn split_off(&mut self, at: usize) -> Segment {
        let rest = Segment { memory: self.memory.clone(), from: self.from + at, length: self.length - at };
        self.length = at;
        rest
    }

    /// Whether `next` begins where this one ends, in the same memory.
    fn continues_in(&self, next: &Segment) -> bool {
        Arc::ptr_eq(&self.memory, &next.memory) && self.from + self.length == next.from
    }
}

/// Owned bytes: a list of segments of page-aligned memory. It goes to the kernel by value and comes back with the
/// answer, so nobody can touch it in between.
#[derive(Default)]
pub struct Buffer {
    first: Option<Segment>,
    more: Vec<Segment>,
    length: usize,
}

impl Buffer {
    /// No bytes.
    pub fn empty() -> Self {
        Buffer::default()
    }

    /// `length` zeroes in one segment.
    pub fn zeroed(length: usize) -> Self {
        Self::of(Memory::new(length), length)
    }

    /// A copy of `bytes` in one segment.
    pub fn from_bytes(bytes: &[u8]) -> Self {
        let mut buffer = Self::zeroed(bytes.len());
        buffer.copy_in(0, bytes);
        buffer
    }

    fn of(memory: Memory, length: usize) -> Self {
        assert!(length <= memory.capacity, "a buffer lies in its memory");
        if length == 0 {
            return Buffer::default();
        }
        Buffer { first: Some(Segment { memory: Arc::new(memory), from: 0, length }), more: Vec::new(), length }
    }

    /// Bytes.
    pub fn len(&self) -> usize {
        self.length
    }

    /// Whether it holds no byte.
    pub fn is_empty(&self) -> bool {
        self.length == 0
    }

    /// Its runs of memory, in order.
    pub fn segments(&self) -> impl Iterator<Item = &[u8]> {
        self.first.iter().chain(&self.more).map(Segment::bytes)
    }

    /// Its runs of memory, in order, to write into.
    pub fn segments_mut(&mut self) -> impl Iterator<Item = &mut [u8]> {
        self.first.iter_mut().chain(&mut self.more).map(Segment::bytes_mut)
    }

    /// How many runs of memory it has.
    pub fn segment_count(&self) -> usize {
        usize::from(self.first.is_some()) + self.more.len()
    }

    /// Keeps the first `at` bytes and gives the rest. No byte is copied.
    ///
    /// # Panics
    /// When `at` is behind the end.
    #[must_use]
    pub fn split_off(&mut self, at: usize) -> Buffer {
        assert!(at <= self.length, "a buffer is split inside");
        let mut rest = Buffer::empty();
        let mut position = 0;
        let segments = self.first.take().into_iter().chain(std::mem::take(&mut self.more));
        self.length = 0;
        for mut segment in segments {
            let length = segment.length;
            if position >= at {
                rest.push(segment);
            } else if position + length > at {
                let behind = segment.split_off(at - position);
                self.push(segment);
                rest.push(behind);
            } else {
                self.push(segment);
            }
            position += length;
        }
        rest
    }

    /// Puts `next` behind it. No byte is copied; what was split comes together again.
    pub fn append(&mut self, mut next: Buffer) {
        for segment in next.first.take().into_iter().chain(std::mem::take(&mut next.more)) {
            self.push(segment);
        }
    }

    fn push(&mut self, segment: Segment) {
        if segment.length == 0 {
            return;
        }
        self.length += segment.length;
        let last = if self.more.is_empty() { self.first.as_mut() } else { self.more.last_mut() };
        match last {
            None => self.first = Some(segment),
            Some(last) if last.continues_in(&segment) => last.length += segment.length,
            Some(_) => self.more.push(segment),
        }
    }

    /// Copies `bytes` to position `at`.
    ///
    /// # Panics
    /// When they do not fit.
    pub fn copy_in(&mut self, at: usize, bytes: &[u8]) {
        assert!(at + bytes.len() <= self.length, "bytes are copied into the buffer");
        let mut skip = at;
        let mut rest = bytes;
        for segment in self.segments_mut() {
            let from = skip.min(segment.len());
            let count = (segment.len() - from).min(rest.len());
            segment[from..from + count].copy_from_slice(&rest[..count]);
            skip -= from;
            rest = &rest[count..];
        }
    }

    /// Copies bytes from position `at` until `out` is full.
    ///
    /// # Panics
    /// When there are not as many.
    pub fn copy_out(&self, at: usize, out: &mut [u8]) {
        assert!(at + out.len() <= self.length, "bytes are copied out of the buffer");
        let mut skip = at;
        let mut filled = 0;
        for segment in self.segments() {
            let from = skip.min(segment.len());
            let count = (segment.len() - from).min(out.len() - filled);
            out[filled..filled + count].copy_from_slice(&segment[from..from + count]);
            skip -= from;
            filled += count;
        }
    }

    /// Sets `length` bytes from position `from` to `value`.
    ///
    /// # Panics
    /// When they are not all inside.
    pub fn fill(&mut self, from: usize, length: usize, value: u8) {
        assert!(from + length <= self.length, "bytes are filled inside the buffer");
        let (mut skip, mut left) = (from, length);
        for segment in self.segments_mut() {
            let start = skip.min(segment.len());
            let count = (segment.len() - start).min(left);
            segment[start..start + count].fill(value);
            skip -= start;
            left -= count;
        }
    }

    /// A copy of its bytes.
    pub fn to_vec(&self) -> Vec<u8> {
        let mut bytes = vec![0; self.length];
        self.copy_out(0, &mut bytes);
        bytes
    }

    /// Whether every segment's address and length is a multiple of `unit`, a power of two.
    pub fn is_aligned(&self, unit: usize) -> bool {
        self.segments().all(|segment| (segment.as_ptr().addr() | segment.len()) & (unit - 1) == 0)
    }

    /// The kernel's view of its bytes behind the first `done`, if they are one run. Valid as long as the buffer is.
    pub(crate) fn single_run(&self, done: usize) -> Option<libc::iovec> {
        let (first, []) = (self.first.as_ref()?, self.more.as_slice()) else {
            return None;
        };
        assert!(done <= first.length, "no more is done than there is");
        // SAFETY: `done` is at most the segment's length.
        let start = unsafe { first.start().add(done) };
        Some(libc::iovec { iov_base: start.cast(), iov_len: first.length - done })
    }

    /// The kernel's list of its bytes behind the first `done`, at most `IOV_MAX` entries. Valid as long as the buffer is.
    pub(crate) fn io_vectors(&self, done: usize, vectors: &mut Vec<libc::iovec>) {
        const IOV_MAX: usize = 1024;
        vectors.clear();
        let mut skip = done;
        for segment in self.first.iter().chain(&self.more) {
            if skip >= segment.length {
                skip -= segment.length;
                continue;
            }
            if vectors.len() == IOV_MAX {
                break;
            }
            // SAFETY: `skip` is smaller than the segment's length.
            let start = unsafe { segment.start().add(skip) };
            vectors.push(libc::iovec { iov_base: start.cast(), iov_len: segment.length - skip });
            skip = 0;
        }
    }
}

impl fmt::Debug for Buffer {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        write!(f, "Buffer({} bytes in {} segments)", self.length, self.segment_count())
    }
}

/// Recycles buffers, so that the data path neither zeroes nor maps memory for each request. Any thread may take from
/// it; a buffer goes back by itself when its last part is dropped, also when that is after the pool's last handle.
#[derive(Clone)]
pub struct BufferPool(Arc<PoolInner>);

struct PoolInner {
    /// One stack of free memories for each power of two of pages.
    classes: [Mutex<Vec<Memory>>; CLASSES],
    kept_per_class: usize,
}

/// 4 KiB to 4 MiB; what is larger comes from the allocator.
const CLASSES: usize = 11;

impl BufferPool {
    /// A pool that keeps at most `bytes` of free memory in each of its size classes (4 KiB, 8 KiB, ... 4 MiB).
    pub fn new(bytes: usize) -> Self {
        BufferPool(Arc::new(PoolInner {
            classes: std::array::from_fn(|_| Mutex::new(Vec::new())),
            kept_per_class: bytes,
        }))
    }

    /// A buffer of `length` bytes in one segment. Its content is unspecified: zeroes or what an earlier request left.
    pub fn take(&self, length: usize) -> Buffer {
        let class = class_of(length);
        if length == 0 || class >= CLASSES {
            return Buffer::zeroed(length);
        }
        let recycled = self.0.classes[class].lock().unwrap_or_else(PoisonError::into_inner).pop();
        let mut memory = recycled.unwrap_or_else(|| Memory::new(PAGE << class));
        memory.pool = Arc::downgrade(&self.0);
        Buffer::of(memory, length)
    }
}

impl fmt::Debug for BufferPool {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.write_str("BufferPool")
    }
}

/// The index of the smallest class that holds `length` bytes.
fn class_of(length: usize) -> usize {
    length.div_ceil(PAGE).max(1).next_power_of_two().trailing_zeros() as usize
}

impl PoolInner {
    /// Takes the memory back, if there is room for it. The caller frees it otherwise.
    fn keep(&self, memory: Memory) -> bool {
        let class = class_of(memory.capacity);
        let mut free = self.classes[class].lock().unwrap_or_else(PoisonError::into_inner);
        if (free.len() + 1) * memory.capacity > self.kept_per_class {
            std::mem::forget(memory);
            return false;
        }
        free.push(memory);
        true
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    fn counting(length: usize) -> Vec<u8> {
        (0..length).map(|index| u8::try_from(index % 251).unwrap()).collect()
    }

    #[test]
    fn what_is_split_comes_together_again() {
        let bytes = counting(10_000);
        let mut buffer = Buffer::from_bytes(&bytes);
        let mut middle = buffer.split_off(512);
        let tail = middle.split_off(4096);
        assert_eq!((buffer.len(), middle.len(), tail.len()), (512, 4096, 10_000 - 4608));
        buffer.append(middle);
        buffer.append(tail);
        assert_eq!((buffer.segment_count(), buffer.to_vec()), (1, bytes));
    }

    #[test]
    fn parts_in_another_order_are_several_segments_with_the_right_bytes() {
        let bytes = counting(8192);
        let mut head = Buffer::from_bytes(&bytes);
        let mut tail = head.split_off(4096);
        tail.append(head);
        assert_eq!(tail.segment_count(), 2);
        assert_eq!(tail.to_vec(), [&bytes[4096..], &bytes[..4096]].concat());
        assert!(tail.is_aligned(PAGE));
    }

    #[test]
    fn copies_cross_segments() {
        let mut buffer = Buffer::zeroed(100);
        buffer.append(Buffer::zeroed(100));
        buffer.copy_in(90, &counting(20));
        let mut out = [0; 20];
        buffer.copy_out(90, &mut out);
        assert_eq!(out.as_slice(), counting(20));
        buffer.fill(95, 10, 0xff);
        assert_eq!(buffer.to_vec()[94..106], [4, 255, 255, 255, 255, 255, 255, 255, 255, 255, 255, 15]);
    }

    #[test]
    fn a_pool_gives_the_same_memory_again_after_all_parts_are_gone() {
        let pool = BufferPool::new(1 << 20);
        let mut buffer = pool.take(8192);
        let address = buffer.segments().next().unwrap().as_ptr();
        let tail = buffer.split_off(4096);
        drop(buffer);
        assert_ne!(pool.take(8192).segments().next().unwrap().as_ptr(), address, "a part is still in use");
        drop(tail);
        let addresses = [pool.take(8192), pool.take(8192)].map(|buffer| buffer.segments().next().unwrap().as_ptr());
        assert!(addresses.contains(&address) || pool.take(5000).segments().next().unwrap().as_ptr() == address);
    }

    #[test]
    fn a_pool_keeps_no_more_than_it_was_told() {
        let pool = BufferPool::new(2 * PAGE);
        drop([pool.take(PAGE), pool.take(PAGE), pool.take(PAGE)]);
        assert_eq!(pool.0.classes[0].lock().unwrap().len(), 2);
    }

    #[test]
    fn io_vectors_begin_behind_what_is_done() {
        let mut buffer = Buffer::zeroed(100);
        buffer.append(Buffer::zeroed(100));
        let mut vectors = Vec::new();
        buffer.io_vectors(130, &mut vectors);
        assert_eq!(vectors.iter().map(|vector| vector.iov_len).collect::<Vec<_>>(), [70]);
    }
}
