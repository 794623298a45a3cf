//! The crash model, tested on orders of writes of which we know whether they are right.

use std::{cell::Cell, future::Future, pin::Pin, rc::Rc, sync::Arc};

use block_core::{FileOffset, FileRange};
use futures_util::future::join;

use super::*;
use crate::{SimulatedClock, StorageExt};

/// What a story works with: sectors that are filled with one byte each.
#[derive(Clone)]
struct Disk {
    storage: CrashStorage,
    executor: Executor,
    promised: Rc<Cell<u8>>,
}

impl Disk {
    async fn write(&self, sector: u64, value: u8) {
        let bytes = [value; 512];
        self.storage.write_bytes(&self.executor, at(sector), &bytes).await.unwrap();
    }

    async fn write_durable(&self, sector: u64, value: u8) {
        let buffer = Buffer::from_bytes(&[value; 512]);
        let offset = at(sector);
        let durable = true;
        let write = StorageOperation::Write { offset, buffer, durable };
        self.storage.submit(&self.executor, write, None).await.result.unwrap();
    }

    async fn sync(&self) {
        self.storage.sync(&self.executor).await.unwrap();
    }

    async fn set_sectors(&self, count: u64) {
        self.storage.set_length(&self.executor, count * 512).await.unwrap();
    }

    /// Tells the world that from now on version `value` is there after any crash.
    fn promise(&self, value: u8) {
        self.promised.set(value);
    }
}

fn at(sector: u64) -> FileOffset {
    FileOffset::new(sector * 512)
}

type Running = Pin<Box<dyn Future<Output = ()>>>;

/// An order of writes, and what must hold after a crash at any instant of it.
struct Story {
    name: &'static str,
    is_right: bool,
    /// What each sector holds at first.
    before: &'static [u8],
    run: fn(Disk) -> Running,
    /// The sectors that a crash left, and what was promised: is that what was meant?
    holds: fn(&[u8], u8) -> bool,
}

macro_rules! story {
    ($name:literal, $right:literal, $before:expr, |$disk:ident| $body:block, $holds:expr) => {
        Story {
            name: $name,
            is_right: $right,
            before: $before,
            run: |$disk| Box::pin(async move { $body }),
            holds: $holds,
        }
    };
}

/// Sector 0 points at the sector of the same number as the version that it holds.
fn pointer_is_good(sectors: &[u8], promised: u8) -> bool {
    let version = sectors[0];
    version >= promised && (version == 0 || sectors[usize::from(version)] == version)
}

/// Sectors 1 and 2 must always be equal.
fn twins_are_equal(sectors: &[u8], promised: u8) -> bool {
    sectors[1] == sectors[2] && sectors[1] >= promised
}

/// Twins again. Sector 3 is the journal's mark, 4 and 5 its content: marked, it is played back.
fn twins_are_equal_after_playback(sectors: &[u8], promised: u8) -> bool {
    let mut sectors = sectors.to_vec();
    if sectors[3] != 0 {
        (sectors[1], sectors[2]) = (sectors[4], sectors[5]);
    }
    twins_are_equal(&sectors, promised)
}

/// As above, but the mark is a checksum: it fits the content, or the journal is ignored.
fn twins_are_equal_after_checked_playback(sectors: &[u8], promised: u8) -> bool {
    let mut sectors = sectors.to_vec();
    if sectors[3] == sectors[4] && sectors[3] == sectors[5] && sectors[3] != 0 {
        (sectors[1], sectors[2]) = (sectors[4], sectors[5]);
    }
    twins_are_equal(&sectors, promised)
}

/// Sectors 0 and 1 say whether a and b own the room in sector 2.
fn room_is_its_owners(sectors: &[u8], _promised: u8) -> bool {
    (sectors[0] == 0 || sectors[2] == b'a') && (sectors[1] == 0 || sectors[2] == b'b')
}

/// The record is in its old place at the end, or in its new one.
fn record_is_somewhere(sectors: &[u8], _promised: u8) -> bool {
    sectors[0] == 9 || sectors.get(3) == Some(&9)
}

const FREE: &[u8] = &[0; 6];
const OWNED_BY_A: &[u8] = &[1, 0, b'a'];
const RECORD_AT_THE_END: &[u8] = &[0, 0, 0, 9];

const STORIES: &[Story] = &[
    story!(
        "data, sync, pointer, sync",
        true,
        FREE,
        |disk| {
            for version in 1..4 {
                disk.write(version.into(), version).await;
                disk.sync().await;
                disk.write(0, version).await;
                disk.sync().await;
                disk.promise(version);
            }
        },
        pointer_is_good
    ),
    story!(
        "pointer, sync, data, sync",
        false,
        FREE,
        |disk| {
            disk.write(0, 1).await;
            disk.sync().await;
            disk.write(1, 1).await;
            disk.sync().await;
        },
        pointer_is_good
    ),
    story!(
        "data, pointer, sync: nothing between",
        false,
        FREE,
        |disk| {
            disk.write(1, 1).await;
            disk.write(0, 1).await;
            disk.sync().await;
            disk.promise(1);
        },
        pointer_is_good
    ),
    story!(
        "a promise before the sync",
        false,
        FREE,
        |disk| {
            disk.write(1, 1).await;
            disk.sync().await;
            disk.write(0, 1).await;
            disk.promise(1);
            disk.sync().await;
        },
        pointer_is_good
    ),
    story!(
        "a sync that does not wait for the data",
        false,
        FREE,
        |disk| {
            join(disk.write(1, 1), disk.sync()).await;
            disk.write(0, 1).await;
            disk.sync().await;
        },
        pointer_is_good
    ),
    story!(
        "data, sync, durable pointer",
        true,
        FREE,
        |disk| {
            for version in 1..4 {
                disk.write(version.into(), version).await;
                disk.sync().await;
                disk.write_durable(0, version).await;
                disk.promise(version);
            }
        },
        pointer_is_good
    ),
    story!(
        "data, durable pointer: it makes only itself durable",
        false,
        FREE,
        |disk| {
            disk.write(1, 1).await;
            disk.write_durable(0, 1).await;
        },
        pointer_is_good
    ),
    story!(
        "durable data, pointer",
        true,
        FREE,
        |disk| {
            for version in 1..4 {
                disk.write_durable(version.into(), version).await;
                disk.write(0, version).await;
            }
            disk.sync().await;
            disk.promise(3);
        },
        pointer_is_good
    ),
    story!(
        "an old version is over when a newer one is durable",
        true,
        FREE,
        |disk| {
            disk.write(1, 7).await;
            disk.write_durable(1, 1).await;
            disk.write(0, 1).await;
        },
        pointer_is_good
    ),
    story!(
        "an old version is not over when a newer one is volatile",
        false,
        FREE,
        |disk| {
            disk.write(1, 7).await;
            disk.write(1, 1).await;
            disk.write_durable(0, 1).await;
        },
        pointer_is_good
    ),
    story!(
        "data in an extended file, sync, pointer",
        true,
        &[0],
        |disk| {
            disk.write(1, 1).await;
            disk.sync().await;
            disk.write(0, 1).await;
        },
        |sectors, _| sectors[0] == 0 || sectors.get(1) == Some(&1)
    ),
    story!(
        "durable data in an extended file, pointer",
        true,
        &[0],
        |disk| {
            disk.set_sectors(3).await;
            disk.write_durable(2, 1).await;
            disk.write(0, 1).await;
        },
        |sectors, _| sectors[0] == 0 || sectors.get(2) == Some(&1)
    ),
    story!(
        "data in an extended file, pointer",
        false,
        &[0],
        |disk| {
            disk.write(1, 1).await;
            disk.write(0, 1).await;
        },
        |sectors, _| sectors[0] == 0 || sectors.get(1) == Some(&1)
    ),
    story!(
        "two sectors at once",
        false,
        FREE,
        |disk| {
            let twins = Buffer::from_bytes(&[1; 1024]);
            disk.storage.write(&disk.executor, at(1), twins).await.1.unwrap();
            disk.sync().await;
        },
        twins_are_equal
    ),
    story!(
        "two sectors, one after the other",
        false,
        FREE,
        |disk| {
            disk.write(1, 1).await;
            disk.write(2, 1).await;
            disk.sync().await;
        },
        twins_are_equal
    ),
    story!(
        "journal, sync, mark, sync, twins, sync, unmark",
        true,
        FREE,
        |disk| {
            for version in 1..3 {
                join(disk.write(4, version), disk.write(5, version)).await;
                disk.sync().await;
                disk.write(3, version).await;
                disk.sync().await;
                disk.promise(version);
                join(disk.write(1, version), disk.write(2, version)).await;
                disk.sync().await;
                disk.write(3, 0).await;
                disk.sync().await;
            }
        },
        twins_are_equal_after_playback
    ),
    story!(
        "the journal is used again before its mark is durably gone",
        false,
        FREE,
        |disk| {
            for version in 1..3 {
                join(disk.write(4, version), disk.write(5, version)).await;
                disk.sync().await;
                disk.write(3, version).await;
                disk.sync().await;
                join(disk.write(1, version), disk.write(2, version)).await;
                disk.sync().await;
                disk.write(3, 0).await;
            }
        },
        twins_are_equal_after_playback
    ),
    story!(
        "journal and mark at once",
        false,
        FREE,
        |disk| {
            join(join(disk.write(4, 1), disk.write(5, 1)), disk.write(3, 1)).await;
            disk.sync().await;
            join(disk.write(1, 1), disk.write(2, 1)).await;
        },
        twins_are_equal_after_playback
    ),
    story!(
        "journal and checksum at once",
        true,
        FREE,
        |disk| {
            join(join(disk.write(4, 1), disk.write(5, 1)), disk.write(3, 1)).await;
            disk.sync().await;
            disk.promise(1);
            join(disk.write(1, 1), disk.write(2, 1)).await;
            disk.sync().await;
            disk.write(3, 0).await;
        },
        twins_are_equal_after_checked_playback
    ),
    story!(
        "no sync behind the journal",
        false,
        FREE,
        |disk| {
            join(join(disk.write(4, 1), disk.write(5, 1)), disk.write(3, 1)).await;
            join(disk.write(1, 1), disk.write(2, 1)).await;
            disk.sync().await;
        },
        twins_are_equal_after_checked_playback
    ),
    story!(
        "no sync before the mark goes",
        false,
        FREE,
        |disk| {
            join(join(disk.write(4, 1), disk.write(5, 1)), disk.write(3, 1)).await;
            disk.sync().await;
            join(disk.write(1, 1), disk.write(2, 1)).await;
            disk.write(3, 0).await;
            disk.sync().await;
        },
        twins_are_equal_after_checked_playback
    ),
    story!(
        "free, sync, reuse, sync, publish",
        true,
        OWNED_BY_A,
        |disk| {
            disk.write(0, 0).await;
            disk.sync().await;
            disk.write(2, b'b').await;
            disk.sync().await;
            disk.write(1, 1).await;
        },
        room_is_its_owners
    ),
    story!(
        "free, reuse, sync, publish",
        false,
        OWNED_BY_A,
        |disk| {
            disk.write(0, 0).await;
            disk.write(2, b'b').await;
            disk.sync().await;
            disk.write(1, 1).await;
        },
        room_is_its_owners
    ),
    story!(
        "punch, then free",
        false,
        OWNED_BY_A,
        |disk| {
            let room = FileRange::new(at(2), 512);
            disk.storage.discard(&disk.executor, room).await.unwrap();
            disk.sync().await;
            disk.write(0, 0).await;
        },
        room_is_its_owners
    ),
    story!(
        "free, sync, punch",
        true,
        OWNED_BY_A,
        |disk| {
            let room = FileRange::new(at(2), 512);
            disk.write(0, 0).await;
            disk.sync().await;
            disk.storage.discard(&disk.executor, room).await.unwrap();
        },
        room_is_its_owners
    ),
    story!(
        "copy, sync, cut",
        true,
        RECORD_AT_THE_END,
        |disk| {
            disk.write(0, 9).await;
            disk.sync().await;
            disk.set_sectors(1).await;
            disk.sync().await;
        },
        record_is_somewhere
    ),
    story!(
        "copy, cut",
        false,
        RECORD_AT_THE_END,
        |disk| {
            disk.write(0, 9).await;
            disk.set_sectors(1).await;
            disk.sync().await;
        },
        record_is_somewhere
    ),
    story!(
        "cut, extend: what was cut does not come back",
        false,
        RECORD_AT_THE_END,
        |disk| {
            disk.set_sectors(1).await;
            disk.set_sectors(4).await;
            disk.sync().await;
        },
        record_is_somewhere
    ),
    story!(
        "extended room reads as zeroes",
        true,
        RECORD_AT_THE_END,
        |disk| {
            disk.set_sectors(6).await;
            let room = FileRange::new(at(6), 1024);
            disk.storage.allocate(&disk.executor, room).await.unwrap();
        },
        |sectors, _| sectors[3] == 9 && sectors[4..].iter().all(|value| *value == 0)
    ),
];

#[derive(Clone, Copy, PartialEq)]
enum Model {
    AnySubset,
    Prefix,
    Killed,
}

/// Whether some crash at some instant leaves what must not be.
fn is_rejected(story: &Story, model: Model) -> bool {
    (0..16).any(|seed| {
        let executor = Executor::simulated(seed, SimulatedClock::new());
        let bytes: Vec<u8> = story.before.iter().flat_map(|value| [*value; 512]).collect();
        let disk =
            Disk { storage: CrashStorage::from_bytes(&bytes), executor: executor.clone(), promised: Rc::default() };
        let bad = |state: CrashStorage| {
            let sectors: Vec<u8> = state.to_vec().chunks(512).map(whole).collect();
            !(story.holds)(&sectors, disk.promised.get())
        };
        let running = executor.spawn((story.run)(disk.clone()));
        let mut any_bad = false;
        while executor.step() {
            let point = disk.storage.crash_point();
            any_bad |= match model {
                Model::AnySubset => point.every_power_cut(1 << 12).unwrap().any(bad),
                Model::Prefix => (0..=point.steps()).any(|count| bad(point.prefix(count))),
                Model::Killed => (0..16).any(|seed| bad(point.killed(seed))),
            };
        }
        executor.block_on(running);
        any_bad
    })
}

/// The value that fills a sector.
fn whole(sector: &[u8]) -> u8 {
    assert!(sector.iter().all(|byte| *byte == sector[0]), "a sector is torn");
    sector[0]
}

#[test]
fn exactly_the_wrong_orders_are_rejected() {
    for story in STORIES {
        assert_eq!(!is_rejected(story, Model::AnySubset), story.is_right, "{}", story.name);
    }
}

#[test]
fn a_model_that_keeps_the_order_accepts_wrong_orders() {
    let wrong = STORIES.iter().filter(|story| !story.is_right);
    let (found, missed): (Vec<_>, Vec<_>) = wrong.partition(|story| is_rejected(story, Model::Prefix));
    let missed: Vec<_> = missed.iter().map(|story| story.name).collect();
    assert_eq!(
        missed,
        [
            "data, pointer, sync: nothing between",
            "a sync that does not wait for the data",
            "data in an extended file, pointer",
            "the journal is used again before its mark is durably gone",
            "no sync behind the journal",
            "no sync before the mark goes",
            "free, reuse, sync, publish",
            "copy, cut",
        ]
    );
    assert!(found.len() > missed.len());
    let right = STORIES.iter().filter(|story| story.is_right);
    assert!(right.clone().count() > 0);
    right.for_each(|story| assert!(!is_rejected(story, Model::Prefix), "{}", story.name));
}

#[test]
fn a_killed_process_loses_nothing_that_was_answered() {
    let is_killed_right = |name: &str| !is_rejected(STORIES.iter().find(|s| s.name == name).unwrap(), Model::Killed);
    assert!(is_killed_right("data, pointer, sync: nothing between"));
    assert!(is_killed_right("a promise before the sync"));
    assert!(is_killed_right("copy, cut"));
    assert!(!is_killed_right("two sectors at once"));
    assert!(!is_killed_right("pointer, sync, data, sync"));
}

fn run_all(storage: &CrashStorage, steps: impl AsyncFnOnce(&Executor, &CrashStorage)) {
    let executor = Executor::new(crate::EngineChoice::Inline).unwrap();
    executor.block_on(steps(&executor, storage));
}

#[test]
fn any_version_of_a_sector_survives_and_nothing_else() {
    let storage = CrashStorage::from_bytes(&[1; 512]);
    run_all(&storage, async |executor, storage| {
        for value in 2..5 {
            storage.write_bytes(executor, at(0), &[value; 512]).await.unwrap();
        }
    });
    let point = storage.crash_point();
    let mut every: Vec<u8> = point.every_power_cut(8).unwrap().map(|s| whole(&s.to_vec())).collect();
    every.sort_unstable();
    every.dedup();
    assert_eq!(every, [1, 2, 3, 4]);
    let mut drawn: Vec<u8> = (0..200).map(|seed| whole(&storage.crash(seed).to_vec())).collect();
    drawn.sort_unstable();
    drawn.dedup();
    assert_eq!(drawn, [1, 2, 3, 4]);
    assert!(point.every_power_cut(7).is_none());
}

#[test]
fn the_same_seed_draws_the_same_state() {
    let storage = CrashStorage::new(64 * 512);
    run_all(&storage, async |executor, storage| {
        storage.write_bytes(executor, at(0), &[7; 64 * 512]).await.unwrap();
    });
    for seed in 0..50 {
        assert_eq!(storage.crash(seed).to_vec(), storage.crash(seed).to_vec());
    }
    let distinct: std::collections::BTreeSet<_> = (0..50).map(|seed| storage.crash(seed).to_vec()).collect();
    assert!(distinct.len() > 20);
}

#[test]
fn a_point_is_not_moved_by_what_happens_later_and_a_survivor_can_crash_again() {
    let storage = CrashStorage::new(1024);
    let point = storage.crash_point();
    run_all(&storage, async |executor, storage| {
        storage.write_bytes(executor, at(0), &[1; 1024]).await.unwrap();
        storage.sync(executor).await.unwrap();
    });
    assert_eq!(point.power_cut(0).to_vec(), [0; 1024]);
    let survivor = storage.crash(0);
    assert_eq!(survivor.to_vec(), [1; 1024]);
    run_all(&survivor, async |executor, storage| {
        storage.write_bytes(executor, at(1), &[2; 512]).await.unwrap();
    });
    assert_eq!(survivor.crash_point().volatile_sectors(), 1);
    assert_eq!(storage.to_vec(), [1; 1024]);
}

#[test]
fn a_device_has_a_fixed_length_and_may_ignore_a_discard() {
    let storage = CrashStorage::from_bytes(&[1; 1024]).with_limits(|limits| limits.kind = StorageKind::BlockDevice);
    let executor = Executor::simulated(3, SimulatedClock::new());
    let kept = (0..32).map(|_| {
        executor.block_on(async {
            storage.write_bytes(&executor, at(0), &[1; 512]).await.unwrap();
            let range = FileRange::new(at(0), 512);
            storage.discard(&executor, range).await.unwrap();
            storage.read_bytes(&executor, at(0), 512).await.unwrap()[0]
        })
    });
    assert_eq!(kept.collect::<std::collections::BTreeSet<_>>(), [0, 1].into());
    executor.block_on(async {
        assert!(storage.write_bytes(&executor, at(2), &[1; 512]).await.is_err());
        assert!(storage.set_length(&executor, 512).await.is_err());
        assert!(storage.set_length(&executor, 1024).await.is_ok());
    });
}

#[test]
fn what_is_not_aligned_is_refused() {
    let storage: Arc<dyn Storage> = Arc::new(CrashStorage::new(2048));
    let executor = Executor::new(crate::EngineChoice::Inline).unwrap();
    executor.block_on(async {
        assert!(storage.write_bytes(&executor, FileOffset::new(1), &[0; 512]).await.is_err());
        assert!(storage.read_bytes(&executor, at(0), 100).await.is_err());
        assert!(storage.set_length(&executor, 1000).await.is_err());
        let mut buffer = Buffer::zeroed(1024);
        let _ = buffer.split_off(600);
        let mut odd = buffer.split_off(88);
        assert_eq!(odd.len(), 512);
        odd.fill(0, 512, 1);
        assert!(storage.write(&executor, at(0), odd).await.1.is_err());
    });
}
