//! The owner map against the walk.

use block_core::{FileOffset, SECTOR};

use super::*;
use crate::piece::{LayerId, push_piece};

const UNIT: u64 = 8 * SECTOR;
/// Two pages and a bit, the last unit cut short by the end of the disk.
const SIZE: u64 = 1100 * UNIT - 3 * SECTOR;

/// A small generator, so that a failing seed can be run again.
struct Random(u64);

impl Random {
    fn below(&mut self, end: u64) -> u64 {
        self.0 ^= self.0 << 13;
        self.0 ^= self.0 >> 7;
        self.0 ^= self.0 << 17;
        self.0 % end
    }
}

/// The truth: an owner for each sector.
struct Truth(Vec<Owner>);

impl Truth {
    fn new() -> Truth {
        Truth(vec![Owner::Hole; usize::try_from(SIZE / SECTOR).unwrap()])
    }

    fn at(&self, position: u64) -> Owner {
        self.0[usize::try_from(position / SECTOR).unwrap()]
    }

    fn set(&mut self, range: GuestRange, owner: Owner) {
        for part in range.granules(SECTOR) {
            let sector = usize::try_from(part.start().get() / SECTOR).unwrap();
            self.0[sector] = owner.advanced(part.start() - range.start());
        }
    }

    fn pieces(&self, range: GuestRange) -> Vec<Piece> {
        let mut pieces = Vec::new();
        for part in range.granules(SECTOR) {
            push_piece(&mut pieces, Piece { range: part, owner: self.at(part.start().get()) });
        }
        pieces
    }
}

fn runs(pieces: &[Piece]) -> Vec<(GuestOffset, Option<Owner>)> {
    pieces.iter().map(|piece| (piece.range.start(), Some(piece.owner))).collect()
}

fn random_range(random: &mut Random, length_max: u64) -> GuestRange {
    let sectors = SIZE / SECTOR;
    let start = random.below(sectors);
    let length = (1 + random.below(length_max)).min(sectors - start);
    GuestRange::new(GuestOffset::new(start * SECTOR), length * SECTOR)
}

fn random_owner(random: &mut Random) -> Owner {
    match random.below(6) {
        0 | 1 => Owner::Hole,
        layer => {
            let offset = FileOffset::new(random.below(1 << 20) * SECTOR);
            Owner::Data { layer: LayerId(u16::try_from(layer).unwrap()), offset }
        }
    }
}

fn check_lookups(writer: &OwnerWriter, truth: &Truth, random: &mut Random) -> u32 {
    let mut hits = 0;
    for _ in 0..50 {
        let range = random_range(random, 20);
        if let Some(found) = writer.map().lookup(range) {
            assert_eq!(found.range.start(), range.start());
            assert!(range.contains(found.range) && !found.range.is_empty());
            assert_eq!(truth.pieces(found.range), [found]);
            hits += 1;
        }
    }
    hits
}

/// Random walks, commits and frees; whatever the map answers must be the truth. Gives how many lookups were answered.
fn story(bytes_max: usize, seed: u64) -> u32 {
    let mut random = Random(seed);
    let mut truth = Truth::new();
    let mut writer = OwnerWriter::new(SIZE, UNIT, bytes_max);
    let mut hits = 0;
    for _ in 0..400 {
        let range = random_range(&mut random, 20);
        match random.below(4) {
            0 => {
                let unit = writer.map().unit_at(range.start());
                let known = runs(&truth.pieces(unit)).into_iter();
                // What only a parent knows may be left out.
                let known = known.map(|(start, owner)| (start, owner.filter(|_| random.below(3) > 0)));
                writer.store(unit, known);
            }
            1 => {
                let unit = writer.map().unit_at(range.start());
                writer.store(unit, runs(&truth.pieces(unit)));
            }
            2 => {
                let owner = random_owner(&mut random);
                truth.set(range, owner);
                writer.overlay(range, owner);
            }
            _ => {
                truth.set(range, Owner::Hole);
                writer.forget(range);
            }
        }
        assert!(writer.bytes <= bytes_max, "seed {seed}: {} bytes of {bytes_max}", writer.bytes);
        assert_eq!(writer.bytes, writer.pages.values().sum::<usize>());
        hits += check_lookups(&writer, &truth, &mut random);
    }
    hits
}

#[test]
fn what_the_map_answers_is_the_truth_under_every_bound() {
    let one_page = PAGE_BYTES + RUN_TABLE_BYTES + 1000;
    for seed in 1..20 {
        assert_eq!(story(0, seed), 0, "a map of zero bytes knows nothing");
        let one = story(one_page, seed);
        let all = story(usize::MAX, seed);
        assert!(0 < one && one < all, "seed {seed}: one page answered {one}, an unbounded map {all}");
    }
}

#[test]
fn an_unbounded_map_knows_every_unit_that_was_stored() {
    let truth = Truth::new();
    let mut writer = OwnerWriter::new(SIZE, UNIT, usize::MAX);
    let mut position = GuestOffset::new(0);
    while position.get() < SIZE {
        let unit = writer.map().unit_at(position);
        writer.store(unit, runs(&truth.pieces(unit)));
        position = unit.end();
    }
    let last = GuestRange::new(GuestOffset::new(SIZE - 2 * SECTOR), 2 * SECTOR);
    assert_eq!(writer.map().lookup(last), Some(Piece { range: last, owner: Owner::Hole }));
}

#[test]
fn a_page_in_use_outlives_an_idle_one() {
    let mut writer = OwnerWriter::new(SIZE, UNIT, 2 * PAGE_BYTES);
    let unit = |index: u64| GuestRange::new(GuestOffset::new(index * UNIT), UNIT);
    let hole = |index| [(unit(index).start(), Some(Owner::Hole))];
    let (first, second, third) = (0, 512, 1024);
    writer.store(unit(first), hole(first));
    writer.store(unit(second), hole(second));
    // Both marks are cleared once; then only the first page is used again.
    writer.make_room(usize::MAX, 0);
    writer.pages.keys().for_each(|page| _ = writer.map.page(*page).unwrap().take_used());
    assert!(writer.map().lookup(unit(first)).is_some());
    writer.store(unit(third), hole(third));
    assert!(writer.map().lookup(unit(first)).is_some(), "the page in use stays");
    assert!(writer.map().lookup(unit(second)).is_none(), "the idle page goes");
}

#[test]
fn a_huge_disk_of_tiny_granules_keeps_a_small_directory() {
    let map = OwnerMap::new(1 << 46, 512);
    assert!(map.directory.len() <= 1 << 18);
    assert_eq!(map.unit_at(GuestOffset::new((1 << 46) - 512)).end().get(), 1 << 46);
}

#[test]
fn a_walk_of_a_scattered_unit_is_merged_and_found() {
    let mut writer = OwnerWriter::new(SIZE, UNIT, usize::MAX);
    let sector = |index: u64| GuestRange::new(GuestOffset::new(index * SECTOR), SECTOR);
    let owner = |index: u64| Owner::Data {
        layer: LayerId(u16::try_from(index % 2).unwrap()),
        offset: FileOffset::new(index * SECTOR),
    };
    let pieces: Vec<_> = (0..8).map(|index| Piece { range: sector(index), owner: owner(index) }).collect();
    writer.store(GuestRange::new(GuestOffset::new(0), UNIT), runs(&pieces));
    for index in 0..8 {
        let rest = GuestRange::new(GuestOffset::new(index * SECTOR), UNIT - index * SECTOR);
        assert_eq!(writer.map().lookup(rest), Some(Piece { range: sector(index), owner: owner(index) }));
    }
}
