//! What one disk takes from the budget, for all its rings.

use std::{
    collections::VecDeque,
    fmt,
    sync::{Arc, Mutex, MutexGuard, PoisonError},
    task::{Poll, Waker},
    time::Duration,
};

use block_core::{Error, ErrorKind, Result};

use super::{
    bell::Opened,
    change::{Amount, Change},
    line::{Give, GiveUp, Step, Take},
    words::{Slot, Use},
};

/// The share of one disk in the budget of the host. Clones are the same; any thread may use it.
#[derive(Clone)]
pub struct Share(Arc<Entry>);

/// An entry of the table, and who uses it here.
struct Entry {
    opened: Arc<Opened>,
    slot: Slot,
    /// Guards the entry's own words, and the rings of the disk that wait. Held for some accesses, never over I/O.
    rings: Arc<Mutex<Rings>>,
}

/// The rings of a disk: one of them stands in line for all, so that a disk with many gets no more than others.
#[derive(Debug, Default)]
pub(super) struct Rings {
    /// Pages that they copy.
    copied: u32,
    /// The first of those that wait stands in the line of all disks.
    is_in_line: bool,
    waiting: VecDeque<(u64, Waker)>,
    next: u64,
}

impl Rings {
    pub(super) fn is_in_line(&self) -> bool {
        self.is_in_line
    }

    /// Who is to look again.
    pub(super) fn first(&self) -> Option<Waker> {
        self.waiting.front().map(|(_, waker)| waker.clone())
    }
}

/// What pages are mapped for.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum MapPurpose {
    /// A ring: without it, its guest has no disk.
    Ring,
    /// Data, which can be copied as well: an eighth of the limit is left to rings, and one disk gets a sixteenth.
    Data,
}

impl Share {
    pub(super) fn new(opened: Arc<Opened>) -> Result<Share> {
        let slot = opened.table().claim()?;
        let rings = Arc::<Mutex<Rings>>::default();
        opened.register(slot, rings.clone());
        Ok(Share(Arc::new(Entry { opened, slot, rings })))
    }

    /// Pages that may be copied for this disk at one time.
    pub fn batch_pages(&self) -> u32 {
        self.0.opened.table().limits().batch()
    }

    /// A place for one of the disk's rings to wait at.
    pub fn waiter(&self) -> Waiter {
        Waiter { share: self.clone(), number: None }
    }

    /// Somebody has waited for so long for pages to be copied: for the account of all.
    pub fn count_wait(&self, waited: Duration) {
        self.0.opened.table().count_wait(waited);
    }

    /// Takes pages that are to be mapped.
    ///
    /// # Errors
    /// `LimitReached` if there are not so many left.
    pub fn map(&self, pages: u32, purpose: MapPurpose) -> Result<Permit> {
        if self.try_map(pages, purpose) {
            return Ok(Permit { entry: self.0.clone(), what: Use::Mapped, pages });
        }
        let opened = &self.0.opened;
        if purpose == MapPurpose::Ring {
            opened.clear_dead();
            if self.try_map(pages, purpose) {
                return Ok(Permit { entry: self.0.clone(), what: Use::Mapped, pages });
            }
        } else {
            opened.clear_dead_soon();
        }
        let (limit, used) = (opened.table().limits().mapped, opened.table().used(Use::Mapped));
        let words = format!("{pages} pages to be mapped: {used} of {limit} are in use on this host");
        Err(Error::new(ErrorKind::LimitReached, words))
    }

    fn try_map(&self, pages: u32, purpose: MapPurpose) -> bool {
        let table = self.0.opened.table();
        let limits = table.limits();
        let _rings = self.0.rings();
        let limit = match purpose {
            MapPurpose::Ring => limits.mapped,
            MapPurpose::Data if table.used_by(Use::Mapped, self.0.slot) + pages > limits.mapped_by_one() => {
                return false;
            }
            MapPurpose::Data => limits.mapped - limits.mapped / 8,
        };
        let mut change = Change::new(Use::Mapped, self.0.slot, Amount::Take(pages), limit);
        let in_use = table.in_use();
        loop {
            if let Some(made) = change.step(&in_use) {
                return made;
            }
        }
    }
}

impl fmt::Debug for Share {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        write!(f, "Share({:?} {:?})", self.0.slot, self.0.rings())
    }
}

impl Entry {
    fn rings(&self) -> MutexGuard<'_, Rings> {
        self.rings.lock().unwrap_or_else(PoisonError::into_inner)
    }

    /// Tries to take pages for copies, for the first of the rings that wait. True: taken.
    fn take(&self, rings: &mut Rings, pages: u32) -> (bool, Option<Slot>) {
        let table = self.opened.table();
        let limits = table.limits();
        if rings.copied > 0 && rings.copied + pages > limits.batch() {
            // Its own rings give back what it waits for; it is not in anybody's way meanwhile.
            return (false, None);
        }
        let in_use = table.in_use();
        let mut take = match rings.is_in_line {
            true => Take::in_line(self.slot, pages, limits.copies),
            false => Take::new(self.slot, pages, limits.copies),
        };
        let is_taken = loop {
            match take.step(&in_use) {
                Step::GoOn => {}
                Step::Sleep => break false,
                Step::Taken => break true,
            }
        };
        if rings.is_in_line == is_taken {
            rings.is_in_line = !is_taken;
            self.opened.count_in_line(!is_taken);
        }
        if is_taken {
            rings.copied += pages;
        }
        (is_taken, in_use.called())
    }

    /// Nobody of the rings waits for what the line would bring.
    fn leave_line(&self, rings: &mut Rings) -> Option<Slot> {
        if !std::mem::take(&mut rings.is_in_line) {
            return None;
        }
        self.opened.count_in_line(false);
        let in_use = self.opened.table().in_use();
        let mut give_up = GiveUp::Leave(self.slot);
        while give_up.step(&in_use).is_none() {}
        in_use.called()
    }

    fn give_back(&self, what: Use, pages: u32) {
        let mut rings = self.rings();
        let in_use = self.opened.table().in_use();
        let mut give = Give::new(what, self.slot, pages);
        while give.step(&in_use).is_none() {}
        if what == Use::Copies {
            rings.copied -= pages;
        }
        // If it stands in line, it comes when it is called.
        let next = if rings.is_in_line { None } else { rings.first() };
        drop(rings);
        if let Some(next) = next {
            next.wake();
        }
        self.opened.tell(in_use.called());
    }
}

impl Drop for Entry {
    fn drop(&mut self) {
        let is_in_line = self.rings().is_in_line;
        if is_in_line {
            self.opened.count_in_line(false);
        }
        self.opened.forget(self.slot);
    }
}

/// One of a disk's rings, which waits for room, or does not. Dropping it gives its place up.
#[derive(Debug)]
pub struct Waiter {
    share: Share,
    number: Option<u64>,
}

impl Waiter {
    /// Takes so many pages, all or none, which are then copied; `waker` is woken when it is worth while to ask again.
    ///
    /// More than [`Share::batch_pages`] are never taken: they are then copied one part after the other.
    pub fn poll(&mut self, pages: u32, waker: &Waker) -> Poll<Permit> {
        let entry = &self.share.0;
        let pages = pages.min(self.share.batch_pages());
        let mut rings = entry.rings();
        let position = self.number.and_then(|own| rings.waiting.iter().position(|(number, _)| *number == own));
        let is_first = position == Some(0) || rings.waiting.is_empty();
        let (is_taken, called) = if is_first { entry.take(&mut rings, pages) } else { (false, None) };
        if !is_taken {
            self.number = Some(rings.wait(position, waker));
            drop(rings);
            entry.opened.tell(called);
            return Poll::Pending;
        }
        if position.is_some() {
            rings.waiting.pop_front();
            self.number = None;
        }
        let next = rings.first();
        drop(rings);
        if let Some(next) = next {
            next.wake();
        }
        entry.opened.tell(called);
        Poll::Ready(Permit { entry: entry.clone(), what: Use::Copies, pages })
    }

    /// Whether it has asked and waits.
    pub fn is_waiting(&self) -> bool {
        self.number.is_some()
    }
}

impl Rings {
    /// Puts one behind all others, unless it waits already; gives its number.
    fn wait(&mut self, position: Option<usize>, waker: &Waker) -> u64 {
        if let Some(position) = position {
            let (number, known) = &mut self.waiting[position];
            known.clone_from(waker);
            return *number;
        }
        self.next += 1;
        self.waiting.push_back((self.next, waker.clone()));
        self.next
    }
}

impl Drop for Waiter {
    fn drop(&mut self) {
        let Some(own) = self.number else { return };
        let entry = &self.share.0;
        let mut rings = entry.rings();
        let was_first = rings.waiting.front().is_some_and(|(number, _)| *number == own);
        rings.waiting.retain(|(number, _)| *number != own);
        if !was_first {
            return;
        }
        let called = entry.leave_line(&mut rings);
        let next = rings.first();
        drop(rings);
        if let Some(next) = next {
            next.wake();
        }
        entry.opened.tell(called);
    }
}

/// Pages of the budget. Dropping it gives them back.
pub struct Permit {
    entry: Arc<Entry>,
    what: Use,
    pages: u32,
}

impl Permit {
    /// How many pages.
    pub fn pages(&self) -> u32 {
        self.pages
    }
}

impl fmt::Debug for Permit {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        write!(f, "Permit({:?}, {} pages)", self.what, self.pages)
    }
}

impl Drop for Permit {
    fn drop(&mut self) {
        self.entry.give_back(self.what, self.pages);
    }
}
