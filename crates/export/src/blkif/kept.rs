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
