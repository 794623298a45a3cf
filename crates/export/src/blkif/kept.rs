//! Pages of a guest that stay mapped between requests: persistent grants.
//!
//! ```text
//!   a page is named --> here already? --> copied through the mapping
//!                         | no
//!                         v
//!                       room, and the platform agrees? --> mapped, copied through the mapping
//!                         | no
//!                         v
//!                       copied by the hypervisor, as any other page
//! ```
//!
//! Mapping is never needed, only cheaper: whatever stands against it, a request is served all the same. A page is mapped
//! for writing or not at all, so one that was granted for reading alone can never be written through here. Nothing here is
//! in use longer than one copy: any page may be given back at any time, which is for us to decide and not for the guest.

use std::{collections::HashMap, rc::Rc, sync::Arc, time::Duration};

use block_core::ErrorKind;
use storage_io::Moment;
use xen::{Access, DomainId, GrantRef, Grants, SharedMemory};

use super::account::{MappedPages, PageAccount};

/// Pages that stay mapped for one ring, at most: 32 requests of 11 segments, three times over. As many as Linux keeps.
pub(super) const KEPT_PAGES_MAX: usize = 1056;
/// Of a full table, this part makes room: one in so many.
const MAKES_ROOM: usize = 20;
/// How long nothing is given back to make room after that was done, and nothing is mapped after the platform refused to:
/// a guest that uses more pages than are kept must not cost more than one that uses none again.
const PAUSE: Duration = Duration::from_millis(100);
/// A page that was not used for so long is given back.
const UNUSED_MAX: Duration = Duration::from_secs(60);
/// How often such pages are looked for.
pub(super) const LOOK_EVERY: Duration = Duration::from_secs(10);

/// The pages that stay mapped for one ring.
#[derive(Debug)]
pub(super) struct KeptPages {
    grants: Arc<dyn Grants>,
    domain: DomainId,
    account: Rc<PageAccount>,
    pages: HashMap<GrantRef, Kept>,
    /// Before this, no more pages are mapped than there is room for.
    room_again: Option<Moment>,
    /// Before this, the platform is not asked to map any.
    map_again: Option<Moment>,
}

#[derive(Debug)]
struct Kept {
    memory: MappedPages,
    used: Moment,
}

impl KeptPages {
    pub(super) fn new(grants: Arc<dyn Grants>, domain: DomainId, account: Rc<PageAccount>) -> KeptPages {
        KeptPages { grants, domain, account, pages: HashMap::new(), room_again: None, map_again: None }
    }

    /// Copies by way of a page, if it is mapped or can be; false if it cannot.
    pub(super) fn copy(&mut self, grant: GrantRef, now: Moment, copy: impl FnOnce(&SharedMemory)) -> bool {
        if let Some(kept) = self.pages.get_mut(&grant) {
            kept.used = now;
            copy(&kept.memory);
            return true;
        }
        let Some(memory) = self.map(grant, now) else { return false };
        copy(&memory);
        self.pages.insert(grant, Kept { memory, used: now });
        true
    }

    /// Whether a page is mapped.
    pub(super) fn has(&self, grant: GrantRef) -> bool {
        self.pages.contains_key(&grant)
    }

    fn map(&mut self, grant: GrantRef, now: Moment) -> Option<MappedPages> {
        let is_paused = |until: Option<Moment>| until.is_some_and(|until| now < until);
        if is_paused(self.map_again) || !self.has_room(now) {
            return None;
        }
        match self.grants.map(self.domain, &[grant], Access::Write) {
            Ok(mapping) => Some(MappedPages::new(mapping, &self.account)),
            Err(error) => {
                // A page that is not granted for writing says nothing about others.
                if error.kind() != ErrorKind::Invalid {
                    self.map_again = Some(now + PAUSE);
                }
                None
            }
        }
    }

    /// Whether there is room for one more; makes it, by giving back what was not used for longest, but not all the time.
    fn has_room(&mut self, now: Moment) -> bool {
        if self.pages.len() < KEPT_PAGES_MAX {
            return true;
        }
        if self.room_again.is_some_and(|again| now < again) {
            return false;
        }
        self.room_again = Some(now + PAUSE);
        let mut uses: Vec<Moment> = self.pages.values().map(|kept| kept.used).collect();
        let mut left = uses.len() / MAKES_ROOM;
        let (_, newest, _) = uses.select_nth_unstable(left - 1);
        self.pages.retain(|_, kept| {
            let goes = left > 0 && kept.used <= *newest && kept.used < now;
            left -= usize::from(goes);
            !goes
        });
        self.pages.len() < KEPT_PAGES_MAX
    }

    /// Gives back what was not used for long.
    pub(super) fn give_back_unused(&mut self, now: Moment) {
        self.pages.retain(|_, kept| now - kept.used < UNUSED_MAX);
    }
}

#[cfg(test)]
mod tests {
    use std::sync::atomic::{AtomicBool, AtomicU32, Ordering};

    use block_core::{Error, Result};
    use rustix::fs::{MemfdFlags, ftruncate, memfd_create};
    use storage_io::{Executor, SimulatedClock};
    use xen::{GrantCopy, Mapping, PAGE_BYTES};

    use super::*;

    /// Every page is the same one; counts how often the platform is asked.
    #[derive(Debug)]
    struct Platform {
        asked: AtomicU32,
        is_full: AtomicBool,
        memory: std::os::fd::OwnedFd,
    }

    /// What only those may read who were granted it so.
    const READ_ONLY: GrantRef = GrantRef(u32::MAX);

    impl Grants for Platform {
        fn copy(&self, _batch: &mut [GrantCopy<'_>]) -> Result<()> {
            unreachable!("nothing here copies so")
        }

        fn map(&self, _domain: DomainId, grants: &[GrantRef], access: Access) -> Result<Mapping> {
            self.asked.fetch_add(1, Ordering::Relaxed);
            if self.is_full.load(Ordering::Relaxed) {
                return Err(Error::new(ErrorKind::LimitReached, "no more"));
            }
            if grants[0] == READ_ONLY && access == Access::Write {
                return Err(Error::new(ErrorKind::Invalid, "not granted"));
            }
            Ok(Mapping::new(SharedMemory::map(&self.memory, 0, PAGE_BYTES)?, || Ok(())))
        }
    }

    /// Pages kept by a clock that the test moves.
    struct World {
        platform: Arc<Platform>,
        account: Rc<PageAccount>,
        kept: KeptPages,
        clock: SimulatedClock,
        executor: Executor,
    }

    impl World {
        fn new() -> World {
            let memory = memfd_create("test", MemfdFlags::CLOEXEC).unwrap();
            ftruncate(&memory, PAGE_BYTES as u64).unwrap();
            let platform = Arc::new(Platform { asked: AtomicU32::new(0), is_full: AtomicBool::new(false), memory });
            let account = Rc::<PageAccount>::default();
            let kept = KeptPages::new(platform.clone(), DomainId(1), account.clone());
            let clock = SimulatedClock::new();
            let executor = Executor::simulated(1, clock.clone());
            World { platform, account, kept, clock, executor }
        }

        /// Whether a page is copied through its mapping.
        fn uses(&mut self, grant: u32) -> bool {
            self.kept.copy(GrantRef(grant), self.executor.now(), |memory| assert_eq!(memory.length(), PAGE_BYTES))
        }

        fn later(&self, by: Duration) {
            self.clock.advance_to(self.clock.now() + by);
        }

        fn asked(&self) -> u32 {
            self.platform.asked.swap(0, Ordering::Relaxed)
        }
    }

    #[allow(clippy::cast_possible_truncation, reason = "a few pages")]
    const MAX: u32 = KEPT_PAGES_MAX as u32;

    #[test]
    fn what_was_not_used_for_longest_makes_room() {
        let mut world = World::new();
        for grant in 0..MAX {
            world.later(Duration::from_micros(1));
            assert!(world.uses(grant));
        }
        assert_eq!((world.asked(), world.account.get().mapped), (MAX, MAX));
        // The oldest is used again; one twentieth of the others makes room.
        world.later(Duration::from_micros(1));
        assert!(world.uses(0) && world.uses(MAX));
        assert_eq!((world.asked(), world.account.get().mapped), (1, MAX - MAX / 20 + 1));
        world.later(Duration::from_micros(1));
        assert!(world.uses(0) && world.uses(MAX / 20 + 1), "they stayed");
        assert_eq!(world.asked(), 0);
        assert!(world.uses(1), "it went, and comes back");
        assert_eq!((world.asked(), world.account.get().peak), (1, MAX));
    }

    #[test]
    fn a_guest_that_uses_ever_other_pages_costs_no_mappings_all_the_time() {
        let mut world = World::new();
        let mut mapped = 0;
        for grant in 0..100 * MAX {
            // A tenth of a second for each time around.
            world.later(Duration::from_nanos(100_000_000 / u64::from(MAX)));
            mapped += u32::from(world.uses(grant % (2 * MAX)));
        }
        assert!(world.asked() <= MAX + 101 * (MAX / 20), "room is made ten times a second at most");
        assert!(mapped > 40 * MAX, "what is kept serves although other pages come by: {mapped}");
        assert_eq!(world.account.get().peak, MAX);
    }

    #[test]
    fn a_platform_that_is_full_is_left_alone_for_a_while() {
        let mut world = World::new();
        assert!(world.uses(1));
        world.platform.is_full.store(true, Ordering::Relaxed);
        for grant in 2..100 {
            assert!(!world.uses(grant));
        }
        assert_eq!(world.asked(), 2);
        assert!(world.uses(1), "what is mapped stays");
        world.platform.is_full.store(false, Ordering::Relaxed);
        world.later(PAUSE);
        assert!(world.uses(2));
    }

    #[test]
    fn a_page_that_cannot_be_mapped_for_writing_says_nothing_about_others() {
        let mut world = World::new();
        assert!(!world.uses(READ_ONLY.0));
        assert!(world.uses(1));
        assert_eq!(world.account.get().mapped, 1);
    }

    #[test]
    fn pages_that_are_not_used_any_more_are_given_back() {
        let mut world = World::new();
        assert!(world.uses(1) && world.uses(2));
        world.later(UNUSED_MAX - Duration::from_secs(1));
        assert!(world.uses(2));
        world.later(Duration::from_secs(1));
        world.kept.give_back_unused(world.executor.now());
        assert_eq!(world.account.get().mapped, 1);
        world.later(UNUSED_MAX);
        world.kept.give_back_unused(world.executor.now());
        assert_eq!(world.account.get().mapped, 0);
    }
}
