//! What was done to a storage since it was last durable, and what of it a crash may leave.
//!
//! ```text
//!   submitted --> applied (readers see it) --> completed
//!       |             |                            |
//!       +-------------+------- volatile -----------+--> folded into the durable image: by a sync that was
//!                                                       submitted later, or by itself if it is durable
//! ```

use std::sync::Arc;

use block_core::SECTOR;

use super::{fate::Fate, image::Image};

/// One change of a storage.
pub(super) enum Change {
    /// Bytes; longer than the storage, they extend it.
    Data { offset: u64, bytes: Vec<u8> },
    /// Zeroes from here to there, as far as the storage goes.
    Zero { start: u64, end: u64 },
    /// At least this long.
    Extend(u64),
    /// Exactly this long.
    Length(u64),
}

impl Change {
    /// The first byte that it changes, and the one behind the last.
    fn span(&self) -> (u64, u64) {
        match self {
            Change::Data { offset, bytes } => (*offset, offset + bytes.len() as u64),
            Change::Zero { start, end } => (*start, *end),
            Change::Extend(_) => (0, 0),
            Change::Length(length) => (*length, u64::MAX),
        }
    }

    /// How long a storage of `length` bytes is after it.
    fn length_after(&self, length: u64) -> u64 {
        match self {
            Change::Data { .. } => length.max(self.span().1),
            Change::Zero { .. } => length,
            Change::Extend(end) => length.max(*end),
            Change::Length(length) => *length,
        }
    }

    /// Makes the whole change.
    pub(super) fn apply(&self, image: &mut Image) {
        image.set_length(self.length_after(image.length()));
        match self {
            Change::Data { offset, bytes } => image.write(*offset, bytes),
            Change::Zero { start, end } => image.zero(*start, *end),
            Change::Extend(_) | Change::Length(_) => {}
        }
    }
}

/// How far a change has come.
#[derive(Clone, Copy, PartialEq, Eq)]
pub(super) enum Phase {
    Submitted,
    Applied,
    Completed,
}

/// A change that is not durable.
#[derive(Clone)]
pub(super) struct Entry {
    id: u64,
    change: Arc<Change>,
    pub(super) phase: Phase,
    /// Runs of bytes that a later change, durable already, has replaced.
    replaced: Vec<(u64, u64)>,
    /// A later change of the length is durable already.
    length_replaced: bool,
}

impl Entry {
    /// The starts of the sectors that it may still change, in order.
    fn sectors(&self) -> impl Iterator<Item = u64> {
        let (start, end) = match &*self.change {
            Change::Data { .. } | Change::Zero { .. } => self.change.span(),
            Change::Extend(_) | Change::Length(_) => (0, 0),
        };
        let is_live = move |sector: &u64| !self.replaced.iter().any(|(from, to)| (*from..*to).contains(sector));
        (start..end).step_by(512).filter(is_live)
    }

    fn length_after(&self, length: u64) -> u64 {
        if self.length_replaced { length } else { self.change.length_after(length) }
    }

    /// Makes the parts of the change that `fate` spares.
    fn apply_some(&self, index: usize, image: &mut Image, fate: &mut Fate) {
        let length = self.length_after(image.length());
        if length != image.length() && fate.spares_length(self.phase) {
            image.set_length(length);
        }
        for sector in self.sectors() {
            if !fate.spares_sector(index, self.phase) {
                continue;
            }
            match &*self.change {
                Change::Data { offset, bytes } => {
                    let from = usize::try_from(sector - offset).expect("a sector of these bytes");
                    image.write(sector, &bytes[from..from + 512]);
                }
                _ => image.zero(sector, sector + SECTOR),
            }
        }
    }
}

/// The durable image and the volatile changes: those that were applied in their order, then those that were not.
#[derive(Clone, Default)]
pub(super) struct Journal {
    durable: Arc<Image>,
    entries: Vec<Entry>,
    next_id: u64,
}

impl Journal {
    pub(super) fn new(durable: Image) -> Self {
        let durable = Arc::new(durable);
        Journal { durable, ..Journal::default() }
    }

    /// Notes a change that somebody asked for.
    pub(super) fn submit(&mut self, change: Change) -> u64 {
        let id = self.next_id;
        self.next_id += 1;
        self.entries.push(Entry {
            id,
            change: Arc::new(change),
            phase: Phase::Submitted,
            replaced: Vec::new(),
            length_replaced: false,
        });
        id
    }

    /// The change takes effect: from now on it is later than all that did before. The length is the file system's own
    /// business, done in order, so its changes complete here.
    pub(super) fn apply(&mut self, id: u64) -> Arc<Change> {
        let from = self.position(id).expect("applied before it can be durable");
        let mut entry = self.entries.remove(from);
        let change = entry.change.clone();
        let is_length = matches!(*change, Change::Length(_) | Change::Extend(_));
        entry.phase = if is_length { Phase::Completed } else { Phase::Applied };
        let applied = self.entries.partition_point(|entry| entry.phase != Phase::Submitted);
        self.entries.insert(applied, entry);
        change
    }

    /// The change is answered. A durable one is folded at once, with the changes of the length that it depends on.
    pub(super) fn complete(&mut self, id: u64, durable: bool) {
        let Some(at) = self.position(id) else { return };
        self.entries[at].phase = Phase::Completed;
        if durable {
            let is_length = |entry: &Entry| matches!(*entry.change, Change::Length(_) | Change::Extend(_));
            let before = self.entries[..at].iter().filter(|entry| is_length(entry));
            let ids: Vec<u64> = before.map(|entry| entry.id).chain([id]).collect();
            self.fold(&ids);
        }
    }

    /// The changes that a sync submitted now has to make durable.
    pub(super) fn completed(&self) -> Vec<u64> {
        let completed = self.entries.iter().filter(|entry| entry.phase == Phase::Completed);
        completed.map(|entry| entry.id).collect()
    }

    /// Makes changes durable. What was applied before one of them and is not among them lost the bytes that both changed.
    pub(super) fn fold(&mut self, ids: &[u64]) {
        let image = Arc::make_mut(&mut self.durable);
        let mut kept: Vec<Entry> = Vec::new();
        for entry in self.entries.drain(..) {
            if !ids.contains(&entry.id) {
                kept.push(entry);
                continue;
            }
            let (start, end) = entry.change.span();
            let is_length = matches!(*entry.change, Change::Length(_));
            for earlier in &mut kept {
                earlier.replaced.push((start, end));
                earlier.length_replaced |= is_length;
            }
            if entry.replaced.is_empty() && !entry.length_replaced {
                entry.change.apply(image);
            } else {
                entry.apply_some(0, image, &mut Fate::Spared);
            }
        }
        self.entries = kept;
    }

    /// What is left when `fate` has decided about each volatile change.
    pub(super) fn survivor(&self, mut fate: Fate) -> Image {
        let mut image = Image::clone(&self.durable);
        for (index, entry) in self.entries.iter().enumerate() {
            entry.apply_some(index, &mut image, &mut fate);
        }
        image
    }

    /// How many changes are volatile.
    pub(super) fn entry_count(&self) -> usize {
        self.entries.len()
    }

    /// How many versions of sectors are volatile.
    pub(super) fn sector_count(&self) -> usize {
        self.entries.iter().map(|entry| entry.sectors().count()).sum()
    }

    /// How many volatile changes of the length there are.
    pub(super) fn length_count(&self) -> usize {
        let mut length = self.durable.length();
        let mut changes = |entry: &&Entry| {
            let before = length;
            length = entry.length_after(before);
            before != length
        };
        self.entries.iter().filter(|entry| changes(entry)).count()
    }

    fn position(&self, id: u64) -> Option<usize> {
        self.entries.iter().position(|entry| entry.id == id)
    }
}
