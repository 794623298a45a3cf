//! What a disk may hold: a plain model that knows every write, and for each sector which of them may be seen.
//!
//! ```text
//!   time ---->      |--- write 1 ---|        |-- write 3 --|
//!                           |--- write 2 ---|
//!   permitted now:  0, 1    0, 1, 2    1, 2    1, 2, 3       3
//! ```
//!
//! A version is over when another one *strictly* followed it: began after it had ended, and is itself *settled*. What
//! settles a version is the question that is asked: for a read, that it was answered before the read began; for a killed
//! process, that it was answered; for a power cut, that it was answered before an answered flush began. A discard settles
//! nothing: afterwards the sector reads as before, or as zeroes.
//!
//! A power cut may besides show zeroes where a sector is written that had no place of its own in the leaf at the last
//! flush; or what lies in its place because an earlier crash took back that it was written there.

mod choice;
#[cfg(test)]
mod tests;

use std::{collections::BTreeMap, rc::Rc};

use block_core::GuestRange;
use storage_io::Buffer;

use self::choice::{Choice, check};
use crate::content::{SECTOR_BYTES, Stamp};

pub use self::choice::Permitted;

/// What a write leaves.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Change {
    /// Its own bytes.
    Write {
        /// Durable when answered.
        durable: bool,
    },
    /// Zeroes.
    Zero {
        /// Durable when answered.
        durable: bool,
    },
    /// Zeroes, or nothing.
    Discard,
}

/// A moment in the order of things.
#[derive(Clone, Copy, Debug, PartialEq, Eq, PartialOrd, Ord)]
pub struct Instant(u64);

/// A change that has begun.
#[derive(Clone, Copy, Debug)]
#[must_use = "a change that is not ended counts as running for ever"]
pub struct Begun {
    stamp: Stamp,
    range: GuestRange,
}

impl Begun {
    /// The bytes to write.
    pub(crate) fn buffer(self) -> Buffer {
        let length = usize::try_from(self.range.length()).expect("ranges of tests fit memory");
        let mut bytes = vec![0; length];
        self.stamp.fill(self.range.start().get(), &mut bytes);
        Buffer::from_bytes(&bytes)
    }
}

/// A crash that the disk may have gone through.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Crash {
    /// The process died; what it wrote is the kernel's.
    Killed,
    /// The power failed.
    PowerCut,
}

#[derive(Clone, Debug)]
struct Version {
    stamp: Stamp,
    change: Change,
    content: Content,
    /// Bytes of the sector that it is about.
    from: usize,
    to: usize,
    start: u64,
    /// When it was answered; later than everything while it is not.
    end: u64,
    /// Answered, without an error.
    is_done: bool,
    /// The leaf was not there yet.
    is_inherited: bool,
}

/// The sector that a change leaves, where it is about it.
#[derive(Clone, Debug)]
enum Content {
    Zeroes,
    /// What the stamp makes of it.
    Stamped,
    Bytes(Rc<[u8; SECTOR_BYTES]>),
}

impl Version {
    /// What the disk holds before anything that is still of interest.
    fn old(content: Content, is_inherited: bool) -> Version {
        let change = Change::Write { durable: true };
        let (stamp, from, to, start, end, is_done) = (Stamp(0), 0, SECTOR_BYTES, 0, 0, true);
        Version { stamp, change, content, from, to, start, end, is_done, is_inherited }
    }

    fn covers(&self, byte: usize) -> bool {
        (self.from..self.to).contains(&byte)
    }

    fn is_whole(&self) -> bool {
        self.from == 0 && self.to == SECTOR_BYTES
    }

    fn ends_others(&self) -> bool {
        self.is_done && self.change != Change::Discard
    }

    fn is_durable(&self) -> bool {
        matches!(self.change, Change::Write { durable: true } | Change::Zero { durable: true })
    }

    fn sector(&self, index: u64) -> [u8; SECTOR_BYTES] {
        match &self.content {
            Content::Zeroes => [0; SECTOR_BYTES],
            Content::Stamped => self.stamp.sector(index),
            Content::Bytes(bytes) => **bytes,
        }
    }
}

/// All that may matter about a sector.
#[derive(Clone)]
struct Sector {
    versions: Vec<Version>,
}

impl Sector {
    fn untouched() -> Self {
        Sector { versions: vec![Version::old(Content::Zeroes, true)] }
    }

    /// Whether the sector durably has a place in the leaf. Zeroes need none, and a discard may take it away.
    fn has_place(&self, flushed: u64) -> bool {
        let is_write = |version: &Version| matches!(version.change, Change::Write { .. });
        let is_taken_after = |place: &Version| {
            self.versions.iter().any(|version| !is_write(version) && version.end > place.start && version.start > 0)
        };
        let gives_place = |version: &Version| {
            is_write(version) && !version.is_inherited && is_flushed(version, flushed) && !is_taken_after(version)
        };
        self.versions.iter().any(gives_place)
    }
}

/// The content of a disk, as far as it is determined.
#[derive(Clone, Default)]
pub struct Oracle {
    /// Sectors that were ever changed; the others are zeroes.
    sectors: BTreeMap<u64, Sector>,
    now: u64,
    last_stamp: u64,
    /// When the last flush that succeeded began.
    flushed: u64,
    /// When the reads that are running began, and how many began then.
    reads: BTreeMap<u64, usize>,
}

/// Versions of a sector above which those that are over are forgotten.
const VERSIONS_MANY: usize = 12;

impl Oracle {
    /// A disk of zeroes.
    pub fn new() -> Self {
        Self::default()
    }

    fn tick(&mut self) -> u64 {
        self.now += 1;
        self.now
    }

    /// A change begins; a write puts the bytes of its stamp.
    pub fn begin(&mut self, change: Change, range: GuestRange) -> Begun {
        let content = if matches!(change, Change::Write { .. }) { Content::Stamped } else { Content::Zeroes };
        self.begin_with(change, range, |_| content.clone())
    }

    /// A write of whole sectors of other bytes begins.
    pub fn begin_write(&mut self, range: GuestRange, bytes: &[u8]) -> Begun {
        let first = range.start().get() / SECTOR_BYTES as u64;
        self.begin_with(Change::Write { durable: false }, range, |index| {
            let at = usize::try_from(index - first).expect("inside the bytes") * SECTOR_BYTES;
            let sector = bytes[at..at + SECTOR_BYTES].try_into().expect("as long as a sector");
            Content::Bytes(Rc::new(sector))
        })
    }

    fn begin_with(&mut self, change: Change, range: GuestRange, content: impl Fn(u64) -> Content) -> Begun {
        self.last_stamp += 1;
        let stamp = Stamp(self.last_stamp);
        let start = self.tick();
        let flushed = self.flushed;
        let first_read = self.reads.first_key_value().map_or(u64::MAX, |(start, _)| *start);
        for (index, from, to) in sectors_of(range) {
            let versions = &mut self.sectors.entry(index).or_insert_with(Sector::untouched).versions;
            if versions.len() > VERSIONS_MANY {
                forget(versions, |version| is_flushed(version, flushed) && version.end < first_read);
            }
            let (content, end, is_done, is_inherited) = (content(index), u64::MAX, false, false);
            versions.push(Version { stamp, change, content, from, to, start, end, is_done, is_inherited });
        }
        Begun { stamp, range }
    }

    /// A change was answered. One that failed may have been made all the same, or in part.
    pub fn end(&mut self, begun: Begun, is_done: bool) {
        let end = self.tick();
        for (index, ..) in sectors_of(begun.range) {
            let sector = self.sectors.get_mut(&index).expect("the change has begun");
            let mine = sector.versions.iter_mut().filter(|version| version.stamp == begun.stamp);
            mine.for_each(|version| (version.end, version.is_done) = (end, is_done));
        }
    }

    /// A read or a flush begins.
    pub fn begin_read(&mut self) -> Instant {
        let start = self.tick();
        *self.reads.entry(start).or_default() += 1;
        Instant(start)
    }

    /// A read has ended: `bytes` is what it found.
    pub fn end_read(&mut self, begun: Instant, range: GuestRange, bytes: &[u8]) -> Result<(), String> {
        self.abandon_read(begun);
        self.check(range, bytes, |version| version.ends_others() && version.end < begun.0)
    }

    /// A read that failed, or whose answer nobody took.
    pub fn abandon_read(&mut self, begun: Instant) {
        self.reads.remove(&begun.0);
    }

    /// A flush begins.
    pub fn begin_flush(&mut self) -> Instant {
        Instant(self.tick())
    }

    /// A flush was answered, and not with an error.
    pub fn end_flush(&mut self, begun: Instant) {
        self.flushed = self.flushed.max(begun.0);
    }

    /// What the disk holds now that nothing runs. Where several versions were possible, this one it is from now on.
    pub fn settle(&mut self, range: GuestRange, bytes: &[u8]) -> Result<(), String> {
        self.check(range, bytes, Version::ends_others)?;
        for (index, from, to) in sectors_of(range) {
            let start = usize::try_from(index * SECTOR_BYTES as u64 + from as u64 - range.start().get());
            let start = start.expect("inside the bytes");
            let Some(sector) = self.sectors.get_mut(&index).filter(|_| to - from == SECTOR_BYTES) else { continue };
            let versions = &mut sector.versions;
            forget(versions, Version::ends_others);
            if versions.iter().all(Version::is_whole) {
                let found = &bytes[start..start + SECTOR_BYTES];
                versions.retain(|version| version.sector(index) == found);
            }
        }
        Ok(())
    }

    /// What a reader of the disk may find after a crash at this instant.
    pub fn after(&self, crash: Crash) -> Permitted {
        let settles = |version: &Version| match crash {
            Crash::Killed => version.ends_others(),
            Crash::PowerCut => version.ends_others() && is_flushed(version, self.flushed),
        };
        let choice = |(index, sector): (&u64, &Sector)| {
            let is_written = sector.versions.iter().any(|version| !is_flushed(version, self.flushed));
            let is_homeless = is_written && !sector.has_place(self.flushed);
            let zero_too = crash == Crash::PowerCut && is_homeless;
            (*index, Choice::new(*index, &sector.versions, settles, zero_too))
        };
        Permitted { sectors: self.sectors.iter().map(choice).collect() }
    }

    /// The disk has gone through a crash, and this is what it holds now: nothing is running any more, and what was found is
    /// durable.
    pub fn crashed(&mut self, range: GuestRange, bytes: &[u8]) {
        self.reads.clear();
        let flushed = self.flushed;
        for (index, from, to) in sectors_of(range) {
            let Some(sector) = self.sectors.get_mut(&index) else { continue };
            let has_place = sector.has_place(flushed);
            assert_eq!(to - from, SECTOR_BYTES, "whole sectors are looked at after a crash");
            let at = usize::try_from(index * SECTOR_BYTES as u64 - range.start().get()).expect("inside the bytes");
            let found = bytes[at..at + SECTOR_BYTES].try_into().expect("as long as a sector");
            // What the crash took back is gone for good: nothing may bring it to light again.
            sector.versions = vec![Version::old(Content::Bytes(Rc::new(found)), !has_place)];
        }
    }

    /// The leaf becomes a parent: all that was answered is flushed, and no sector has a place in the new leaf. What is
    /// under way waits, and goes to the new leaf.
    pub fn snapshot(&mut self) {
        for sector in self.sectors.values_mut() {
            forget(&mut sector.versions, Version::ends_others);
            for version in sector.versions.iter_mut().filter(|version| version.end < u64::MAX) {
                (version.start, version.end, version.is_done, version.is_inherited) = (0, 0, true, true);
            }
        }
    }

    /// Sectors that were ever changed, in order.
    pub fn touched(&self) -> impl Iterator<Item = u64> {
        self.sectors.keys().copied()
    }

    fn check(&self, range: GuestRange, bytes: &[u8], settles: impl Fn(&Version) -> bool + Copy) -> Result<(), String> {
        check(range, bytes, |index| {
            self.sectors.get(&index).map(|sector| Choice::new(index, &sector.versions, settles, false))
        })
    }
}

fn is_flushed(version: &Version, flushed: u64) -> bool {
    version.is_inherited || version.is_done && (version.is_durable() || version.end < flushed)
}

/// Whether `version` is over at `byte`.
fn is_over(version: &Version, byte: usize, versions: &[Version], settles: &impl Fn(&Version) -> bool) -> bool {
    versions.iter().any(|later| settles(later) && later.covers(byte) && version.end < later.start)
}

/// Drops the versions that are over in all their bytes because of one other.
fn forget(versions: &mut Vec<Version>, settles: impl Fn(&Version) -> bool) {
    let all = versions.clone();
    versions.retain(|version| {
        !all.iter().any(|later| {
            settles(later)
                && later.ends_others()
                && version.end < later.start
                && later.from <= version.from
                && version.to <= later.to
        })
    });
}

/// The sectors that a range touches: index, and which of its bytes.
fn sectors_of(range: GuestRange) -> impl Iterator<Item = (u64, usize, usize)> {
    range.granules(SECTOR_BYTES as u64).map(|part| {
        let index = part.start().get() / SECTOR_BYTES as u64;
        let inside = |offset: u64| usize::try_from(offset - index * SECTOR_BYTES as u64).expect("inside a sector");
        (index, inside(part.start().get()), inside(part.end().get()))
    })
}
