//! Words that two parties share, behind a trait: what both do to them can be checked in every order that there is.

use std::{
    ops::Deref,
    sync::atomic::{Ordering, fence},
};

use crate::SharedMemory;

/// Memory whose words others change at any time. A ring's indices and a grant's pins are kept through it, on shared pages
/// and, where the order of each access is what a test is about, on a model of memory.
pub trait Words {
    /// Bytes of it.
    fn length(&self) -> usize;

    /// The word at an offset.
    fn load(&self, offset: usize, order: Ordering) -> u32;

    /// Changes the word at an offset.
    fn store(&self, offset: usize, value: u32, order: Ordering);

    /// Adds to the word at an offset, around the end of numbers; what it was before.
    fn fetch_add(&self, offset: usize, value: u32, order: Ordering) -> u32;

    /// Keeps accesses on both sides in order.
    fn fence(&self, order: Ordering);

    /// Copies bytes out, each once, in no order.
    fn copy_out(&self, offset: usize, bytes: &mut [u8]);

    /// Copies bytes in, each once, in no order.
    fn copy_in(&self, offset: usize, bytes: &[u8]);
}

impl Words for SharedMemory {
    fn length(&self) -> usize {
        SharedMemory::length(self)
    }

    fn load(&self, offset: usize, order: Ordering) -> u32 {
        self.word(offset).load(order)
    }

    fn store(&self, offset: usize, value: u32, order: Ordering) {
        self.word(offset).store(value, order);
    }

    fn fetch_add(&self, offset: usize, value: u32, order: Ordering) -> u32 {
        self.word(offset).fetch_add(value, order)
    }

    fn fence(&self, order: Ordering) {
        fence(order);
    }

    fn copy_out(&self, offset: usize, bytes: &mut [u8]) {
        SharedMemory::copy_out(self, offset, bytes);
    }

    fn copy_in(&self, offset: usize, bytes: &[u8]) {
        SharedMemory::copy_in(self, offset, bytes);
    }
}

/// Mappings of it, whoever keeps account of them.
impl<T: Deref<Target = SharedMemory>> Words for T {
    fn length(&self) -> usize {
        SharedMemory::length(self)
    }

    fn load(&self, offset: usize, order: Ordering) -> u32 {
        Words::load(&**self, offset, order)
    }

    fn store(&self, offset: usize, value: u32, order: Ordering) {
        Words::store(&**self, offset, value, order);
    }

    fn fetch_add(&self, offset: usize, value: u32, order: Ordering) -> u32 {
        Words::fetch_add(&**self, offset, value, order)
    }

    fn fence(&self, order: Ordering) {
        fence(order);
    }

    fn copy_out(&self, offset: usize, bytes: &mut [u8]) {
        SharedMemory::copy_out(self, offset, bytes);
    }

    fn copy_in(&self, offset: usize, bytes: &[u8]) {
        SharedMemory::copy_in(self, offset, bytes);
    }
}
