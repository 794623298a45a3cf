//! What sectors may hold, computed once and then compared with many findings.

use std::collections::BTreeMap;

use block_core::GuestRange;

use super::{Version, is_over, sectors_of};
use crate::content::{SECTOR_BYTES, describe};

/// What one sector may hold.
pub(super) struct Choice {
    /// Each version with its bytes, and which of them may be seen.
    versions: Vec<(Version, [u8; SECTOR_BYTES], Seen)>,
    zero_too: bool,
}

/// Which bytes of a version may be seen.
enum Seen {
    None,
    All,
    Some(Box<[bool; SECTOR_BYTES]>),
}

impl Choice {
    /// The versions that are not over; and zeroes, if it may show what lies in a place that it never had.
    pub(super) fn new(index: u64, versions: &[Version], settles: impl Fn(&Version) -> bool, zero_too: bool) -> Choice {
        let all_whole = versions.iter().all(Version::is_whole);
        let seen = |version: &Version, is_seen: &dyn Fn(usize) -> bool| match all_whole {
            true if is_seen(0) => Seen::All,
            true => Seen::None,
            false => Seen::Some(Box::new(std::array::from_fn(|byte| version.covers(byte) && is_seen(byte)))),
        };
        let current = versions.iter().map(|version| {
            (version.clone(), version.sector(index), seen(version, &|byte| !is_over(version, byte, versions, &settles)))
        });
        Choice { versions: current.collect(), zero_too }
    }

    /// Whether `found` may be what the sector holds from byte `from` on.
    fn permits(&self, from: usize, found: &[u8]) -> bool {
        let to = from + found.len();
        let is_whole = |(_, sector, seen): &(_, [u8; SECTOR_BYTES], _)| match seen {
            Seen::All => sector[from..to] == *found,
            Seen::Some(_) | Seen::None => false,
        };
        let is_zero = || found.iter().all(|byte| *byte == 0);
        let fits = |byte: usize| {
            let mut versions = self.versions.iter();
            let shows = |(_, sector, seen): &(_, [u8; SECTOR_BYTES], Seen)| match seen {
                Seen::All | Seen::None => false,
                Seen::Some(seen) => seen[byte] && sector[byte] == found[byte - from],
            };
            versions.any(shows) || self.zero_too && found[byte - from] == 0
        };
        let is_mixed = || {
            let any_mixed = self.versions.iter().any(|(_, _, seen)| matches!(seen, Seen::Some(_)));
            any_mixed && (from..to).all(fits)
        };
        self.versions.iter().any(is_whole) || is_mixed() || self.zero_too && is_zero()
    }

    fn complaint(&self, index: u64, found: &[u8]) -> String {
        let mut lines = vec![format!("sector {index} holds {}; it may hold", describe_part(found))];
        for (version, ..) in self.versions.iter().filter(|(_, _, seen)| seen.any()) {
            let Version { stamp, change, from, to, start, end, is_done, .. } = version;
            let state = match (*is_done, *end) {
                (_, u64::MAX) => "running".to_owned(),
                (true, end) => format!("answered at {end}"),
                (false, end) => format!("failed at {end}"),
            };
            lines.push(format!("  {} {change:?} of bytes {from}..{to}, begun at {start}, {state}", stamp.0));
        }
        if self.zero_too {
            lines.push("  zeroes, since it has no place of its own".to_owned());
        }
        lines.join("\n")
    }
}

impl Seen {
    fn any(&self) -> bool {
        match self {
            Seen::None => false,
            Seen::All => true,
            Seen::Some(bytes) => bytes.contains(&true),
        }
    }
}

/// What a disk may hold after a crash.
pub struct Permitted {
    pub(super) sectors: BTreeMap<u64, Choice>,
}

impl Permitted {
    /// Whether `bytes` may be what the disk holds in `range`.
    ///
    /// # Errors
    /// What is wrong, in words.
    pub fn check(&self, range: GuestRange, bytes: &[u8]) -> Result<(), String> {
        check(range, bytes, |index| self.sectors.get(&index))
    }
}

/// Holds bytes against what each sector may hold; one that was never touched is zeroes.
pub(super) fn check<C: std::borrow::Borrow<Choice>>(
    range: GuestRange,
    bytes: &[u8],
    choice: impl Fn(u64) -> Option<C>,
) -> Result<(), String> {
    let mut rest = bytes;
    for (index, from, to) in sectors_of(range) {
        let (found, behind) = rest.split_at(to - from);
        rest = behind;
        match choice(index) {
            Some(choice) if choice.borrow().permits(from, found) => {}
            Some(choice) => return Err(choice.borrow().complaint(index, found)),
            None if *found == [0; SECTOR_BYTES][from..to] => {}
            None => return Err(format!("sector {index} was never written and holds {}", describe_part(found))),
        }
    }
    Ok(())
}

fn describe_part(found: &[u8]) -> String {
    if found.len() == SECTOR_BYTES { describe(found) } else { format!("{found:02x?}") }
}
