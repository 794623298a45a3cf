//! The account of a ring's pages.

use std::{cell::Cell, ops::Deref, rc::Rc, sync::Arc};

use xen::{Mapping, PAGE_BYTES, SharedMemory};

use super::{device_account::DeviceAccount, features::RingPages};

/// Counts pages as they are named, mapped and given back.
#[derive(Debug, Default)]
pub(super) struct PageAccount {
    pages: Cell<RingPages>,
    device: Arc<DeviceAccount>,
}

impl PageAccount {
    /// The account of one of the rings of a device.
    pub(super) fn of(device: Arc<DeviceAccount>) -> PageAccount {
        PageAccount { pages: Cell::default(), device }
    }

    /// That of its device.
    pub(super) fn device(&self) -> &Arc<DeviceAccount> {
        &self.device
    }

    /// The pages as they are now.
    pub(super) fn get(&self) -> RingPages {
        self.pages.get()
    }

    fn change(&self, change: impl FnOnce(&mut RingPages)) {
        let mut pages = self.pages.get();
        change(&mut pages);
        self.pages.set(pages);
    }

    /// Requests under way name so many pages.
    pub(super) fn named(&self, count: u32) {
        self.change(|pages| pages.granted = count);
    }

    /// So many more are mapped.
    pub(super) fn mapped(&self, count: u32) {
        self.device.mapped(count);
        self.change(|pages| {
            pages.mapped += count;
            pages.peak = pages.peak.max(pages.mapped);
        });
    }

    /// So many were unmapped, and given back unless that failed.
    pub(super) fn unmapped(&self, count: u32, is_given_back: bool) {
        self.device.unmapped(count);
        self.change(|pages| {
            pages.mapped -= count;
            pages.leaked += if is_given_back { 0 } else { count };
        });
    }

    /// The ring has been let go of: what is still mapped will not be given back.
    pub(super) fn close(&self) {
        self.change(|pages| pages.leaked += pages.mapped);
    }
}

/// Mapped pages that are in the account until they are given back.
#[derive(Debug)]
pub(super) struct MappedPages {
    mapping: Option<Mapping>,
    count: u32,
    account: Rc<PageAccount>,
}

impl MappedPages {
    pub(super) fn new(mapping: Mapping, account: &Rc<PageAccount>) -> MappedPages {
        let count = u32::try_from(mapping.length() / PAGE_BYTES).expect("pages of one guest");
        account.mapped(count);
        MappedPages { mapping: Some(mapping), count, account: account.clone() }
    }
}

impl Deref for MappedPages {
    type Target = SharedMemory;

    fn deref(&self) -> &SharedMemory {
        self.mapping.as_ref().expect("it is there until it is dropped")
    }
}

impl Drop for MappedPages {
    fn drop(&mut self) {
        if let Some(mapping) = self.mapping.take() {
            self.account.unmapped(self.count, mapping.unmap().is_ok());
        }
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use block_core::{Error, ErrorKind};
    use rustix::fs::{MemfdFlags, ftruncate, memfd_create};

    fn mapping(pages: usize, is_taken_back: bool) -> Mapping {
        let file = memfd_create("test", MemfdFlags::CLOEXEC).unwrap();
        ftruncate(&file, (pages * PAGE_BYTES) as u64).unwrap();
        let memory = SharedMemory::map(file, 0, pages * PAGE_BYTES).unwrap();
        Mapping::new(memory, move || is_taken_back.then_some(()).ok_or(Error::new(ErrorKind::Io, "no")))
    }

    #[test]
    fn pages_are_counted_until_they_are_given_back() {
        let account = Rc::<PageAccount>::default();
        let ring = MappedPages::new(mapping(4, true), &account);
        drop(MappedPages::new(mapping(1, true), &account));
        account.named(3);
        assert_eq!(account.get(), RingPages { granted: 3, mapped: 4, peak: 5, leaked: 0 });
        drop(ring);
        account.named(0);
        account.close();
        assert_eq!(account.get(), RingPages { granted: 0, mapped: 0, peak: 5, leaked: 0 });
    }

    #[test]
    fn the_most_of_a_device_is_what_its_rings_have_mapped_at_one_time() {
        let device = Arc::<DeviceAccount>::default();
        let [one, other] = [(); 2].map(|()| Rc::new(PageAccount::of(device.clone())));
        let _rings = [&one, &other].map(|account| MappedPages::new(mapping(1, true), account));
        for account in [&one, &other] {
            drop(MappedPages::new(mapping(4, true), account));
        }
        assert_eq!((one.get().peak, other.get().peak, device.peak()), (5, 5, 6));
    }

    #[test]
    fn what_cannot_be_given_back_or_is_kept_has_leaked() {
        let account = Rc::<PageAccount>::default();
        drop(MappedPages::new(mapping(2, false), &account));
        assert_eq!(account.get(), RingPages { granted: 0, mapped: 0, peak: 2, leaked: 2 });
        let _kept = MappedPages::new(mapping(1, true), &account);
        account.close();
        assert_eq!(account.get().leaked, 3);
    }
}
