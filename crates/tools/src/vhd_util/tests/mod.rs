//! Commands that are killed, lose power or see an error at every one of their writes. What they leave is valid, or `revert`
//! or `repair` makes it so; every disk of the tree reads as before; and the command can be run again to its end.

#![allow(clippy::unwrap_used, reason = "a test")]

mod world;

use std::collections::BTreeMap;

use storage_io::{CrashPoint, CrashStorage, Effect, Fault, FaultRule, OperationKind};

use self::world::{Files, Moment, World};

/// Images of which the disks are looked at, and what these hold.
type Disks = BTreeMap<&'static str, Vec<u8>>;

/// A command, what it is run on, and what it changes of what a guest sees.
struct Story {
    line: &'static str,
    prepare: fn(&World),
    /// The image that it makes, and nobody has until it is done; or that it empties.
    makes: Option<&'static str>,
}

const fn story(line: &'static str, prepare: fn(&World)) -> Story {
    Story { line, prepare, makes: None }
}

/// A base and two children, one of them with a child of its own that holds nothing.
fn tree(world: &World) {
    world.make("create -n @base -s 8 -S 200");
    world.give("base", 0, &[(0, 4096, 1)]);
    world.give("base", 2, &[(7, 3, 2)]);
    world.make("snapshot -e -n @middle -p @base");
    world.make("snapshot -e -n @leaf -p @middle");
    world.give("leaf", 2, &[(8, 1, 3), (4095, 1, 4)]);
    world.give("leaf", 0, &[(0, 4096, 5)]);
    world.make("snapshot -e -n @other -p @base");
    world.give("other", 1, &[(9, 9, 6)]);
    // Who has closed it says which blocks are whole.
    for name in ["base", "leaf"] {
        wipe_map(world, name);
        world.make(&format!("repair -n @{name}"));
    }
}

/// The map of which blocks are whole does not fit its sum.
fn wipe_map(world: &World, name: &str) {
    world.patch(name, 2560, &[0x55]);
}

/// What a tapdisk leaves that was killed.
fn lose_end(world: &World, name: &str) {
    let end = world.bytes(name).len() - 512;
    world.patch(name, end, &[0xc7; 512]);
}

/// A block lies where the batmap was: the work of a writer that knows of no batmaps.
fn displace_batmap(world: &World) {
    let old = world.bytes("base");
    let mut new = old[..2048].to_vec();
    for block in [0, 2] {
        let entry = u32::from_be_bytes(old[1536 + block * 4..][..4].try_into().unwrap()) as usize;
        let start = u32::try_from(new.len() / 512).unwrap();
        new[1536 + block * 4..][..4].copy_from_slice(&start.to_be_bytes());
        new.extend(&old[entry * 512..][..512 + world::BLOCK]);
    }
    new.extend(&old[..512]);
    world.put("base", &new);
}

const LEAVES: [&str; 2] = ["leaf", "other"];

const MARKS: [Story; 5] = [
    story("set -n @leaf -f hidden -v 1", |_| ()),
    story("set -n @base -f hidden -v 1", |_| ()),
    story("set -n @leaf -f hidden -v 1", |world| lose_end(world, "leaf")),
    story("set -n @leaf -f marker -v 9", |_| ()),
    story("set -n @base -f marker -v 9", |_| ()),
];

const REPAIRS: [Story; 7] = [
    story("repair -n @base", displace_batmap),
    story("repair -n @leaf", |world| lose_end(world, "leaf")),
    story("repair -n @leaf", |world| world.patch("leaf", 0, &[0; 512])),
    story("repair -n @leaf", |world| wipe_map(world, "leaf")),
    story("repair -n @base", |world| world.patch("base", 2048, &[0; 512])),
    story("repair -n @leaf", |world| {
        lose_end(world, "leaf");
        wipe_map(world, "leaf");
    }),
    story("repair -n @leaf", |world| {
        world.make("set -n @leaf -f hidden -v 1");
        let end = world.bytes("leaf").len() - 512;
        world.patch("leaf", end + 85, &[0]);
    }),
];

const SNAPSHOTS: [Story; 3] = [
    Story { line: "snapshot -n @new -p @leaf", prepare: |_| (), makes: Some("new") },
    Story {
        line: "snapshot -n @new -p @leaf -S 4000",
        prepare: |world| world.make("create -n @new -s 64"),
        makes: Some("new"),
    },
    Story {
        line: "snapshot -n @new -p @leaf",
        prepare: |world| world.patch("leaf", 2048 + 29, &[1]),
        makes: Some("new"),
    },
];

const CREATES: [Story; 3] = [
    Story { line: "create -n @new -s 8", prepare: |_| (), makes: Some("new") },
    Story { line: "create -n @new -s 8", prepare: |world| world.put("new", &[7; 9000]), makes: Some("new") },
    Story { line: "create -n @new -s 2 -r", prepare: |_| (), makes: Some("new") },
];

const CHANGES: [Story; 7] = [
    story("modify -n @leaf -p @base", |_| ()),
    story("modify -n @leaf -s 12000256", |_| ()),
    story("modify -n @leaf -s 12000256", |world| world.make("modify -n @leaf -s 14000128")),
    Story { line: "modify -n @leaf -z", prepare: |_| (), makes: Some("leaf") },
    Story { line: "modify -n @leaf -z", prepare: |world| wipe_map(world, "leaf"), makes: Some("leaf") },
    Story { line: "modify -n @leaf -z", prepare: |world| world.patch("leaf", 2048, &[0; 512]), makes: Some("leaf") },
    story("fill -n @other", |_| ()),
];

const RESIZES: [Story; 7] = [
    story("resize -n @base -s 200 -f", |_| ()),
    story("resize -n @base -s 4000 -j @j", |_| ()),
    story("resize -n @leaf -s 4000 -j @j", |world| world.patch("leaf", 2048, &[0; 512])),
    story("resize -n @leaf -s 200 -j @j", |world| lose_end(world, "leaf")),
    story("resize -n @leaf -s 200 -j @j", |_| ()),
    story("resize -n @leaf -s 4000 -j @j", |_| ()),
    story("resize -n @leaf -s 4000 -j @j", |world| wipe_map(world, "leaf")),
];

impl Story {
    /// The world in which it begins, and what is in it.
    fn world(&self) -> (World, Files, Disks) {
        let world = World::new();
        tree(&world);
        let disks = LEAVES.into_iter().map(|leaf| (leaf, world.disk(leaf))).collect();
        (self.prepare)(&world);
        let files = world.files();
        (world, files, disks)
    }

    /// What a storage manager does with what is left; then the disks are as they were, and the story has its end.
    fn assert_survived(&self, world: &World, disks: &Disks, what: &str) {
        let what = format!("{}: {what}", self.line);
        let image = self.line.split_whitespace().nth(2).unwrap();
        if world.has("j") {
            let reverted = world.run(&format!("revert -n {image} -j @j"));
            // A journal that was never whole is refused, and its image was never touched.
            if reverted.is_err() {
                world.run(&format!("check -n {image}")).unwrap_or_else(|error| panic!("{what}: {error}"));
                let path = world.path("j");
                std::fs::remove_file(path).unwrap();
            }
            assert!(!world.has("j"), "{what}: its journal is gone");
        }
        let valid = |name: &str, when: &str| {
            if world.run(&format!("check -n @{name}")).is_ok() {
                return;
            }
            world.run(&format!("repair -n @{name}")).unwrap_or_else(|error| panic!("{what}: {when}: repair: {error}"));
            let checked = world.run(&format!("check -n @{name}"));
            checked.unwrap_or_else(|error| panic!("{what}: {when}: {name} is valid: {error}"));
        };
        let assert_same = |when: &str| {
            for (leaf, disk) in disks {
                let now = world.disk(leaf);
                // What is emptied shows its parent, or still its own.
                let below = if self.makes == Some(leaf) { world.disk("middle") } else { disk.clone() };
                let is_right = now.iter().zip(disk).zip(&below).all(|((now, own), below)| now == own || now == below);
                assert!(is_right, "{what}: {when}: the disk of {leaf}");
            }
        };
        for name in ["base", "middle", "leaf", "other"] {
            valid(name, "left");
        }
        assert_same("left");
        world.run(self.line).unwrap_or_else(|error| panic!("{what}: again: {error}"));
        let made = self.makes.filter(|name| *name != "leaf");
        for name in ["base", "middle", "leaf", "other"].into_iter().chain(made) {
            world
                .run(&format!("check -n @{name}"))
                .unwrap_or_else(|error| panic!("{what}: in the end: {name}: {error}"));
        }
        assert_same("in the end");
        assert!(!world.has("j"), "{what}: in the end there is no journal");
    }
}

/// What a crash may leave: all of it, if it is little.
fn survivors(point: &CrashPoint, seed: u64) -> Vec<CrashStorage> {
    match point.every_power_cut(4) {
        Some(all) => all.collect(),
        None => (0..test_support::cycles(2, 100)).map(|index| point.power_cut(seed ^ index << 32)).collect(),
    }
}

/// The states of all files that a crash may leave: each file in all its ways, the others drawn along.
fn states(moment: &Moment, seed: u64) -> Vec<Files> {
    let killed = moment.iter().map(|(path, point)| (path.clone(), point.killed(seed))).collect();
    let ways: Vec<_> = moment.iter().map(|(path, point)| (path, survivors(point, seed))).collect();
    let most = ways.iter().map(|(_, ways)| ways.len()).max().unwrap_or(0);
    // A clone would be the same storage, changed by whoever had it before.
    let one = |index: usize, ways: &[CrashStorage]| ways[index % ways.len()].crash(0);
    let cut = |index: usize| ways.iter().map(|(path, ways)| ((*path).clone(), one(index, ways))).collect();
    [killed].into_iter().chain((0..most).map(cut)).collect()
}

fn survives_crashes(stories: &[Story], moments_least: usize) {
    let seed = test_support::seed();
    for story in stories {
        let (world, _, disks) = story.world();
        let (ended, moments) = world.watch(story.line);
        ended.unwrap_or_else(|error| panic!("{}: {error}", story.line));
        assert!(moments.len() >= moments_least, "{}: {} moments", story.line, moments.len());
        for (index, moment) in moments.iter().enumerate() {
            for (state, left) in states(moment, seed ^ index as u64).into_iter().enumerate() {
                world.restore(left);
                story.assert_survived(&world, &disks, &format!("moment {index}, state {state}, seed {seed:#x}"));
            }
        }
    }
}

/// Each operation fails once, in one of the ways in which it can. What is told is what failed.
fn survives_failures(stories: &[Story]) {
    const EIO: i32 = 5;
    const ENOSPC: i32 = 28;
    const WAYS: [(i32, Effect); 3] = [(EIO, Effect::None), (ENOSPC, Effect::Torn), (EIO, Effect::All)];
    for story in stories {
        let (world, files, disks) = story.world();
        for round in 0..test_support::cycles(1, 3) {
            for skip in 0.. {
                world.restore(files.iter().map(|(path, storage)| (path.clone(), storage.crash(0))).collect());
                let (errno, effect) = WAYS[usize::try_from(skip + round).unwrap() % WAYS.len()];
                let script = world.script();
                let before = script.struck();
                script.add(FaultRule::once_after(skip, Fault::Fail { errno, effect }));
                let ended = world.run(story.line);
                script.clear();
                if script.struck() == before {
                    assert!(skip > 2, "{}: {skip} operations", story.line);
                    break;
                }
                let what = format!("operation {skip} fails with {errno}, {effect:?}");
                if let (Err(error), true) = (&ended, script.last_struck() != Some(OperationKind::Read)) {
                    assert_eq!(error.os_error(), Some(errno), "{}: {what}: {error}", story.line);
                }
                story.assert_survived(&world, &disks, &what);
            }
        }
    }
}

/// The first `usual` of them, unless there is time for all.
fn some(stories: &[Story], usual: u64) -> &[Story] {
    let count = test_support::cycles(usual, stories.len() as u64);
    &stories[..usize::try_from(count).unwrap()]
}

#[test]
fn marks_survive_a_crash_at_every_write() {
    survives_crashes(&MARKS, 2);
}

#[test]
fn a_repair_survives_a_crash_at_every_write() {
    survives_crashes(&REPAIRS, 2);
}

#[test]
fn a_snapshot_survives_a_crash_at_every_write() {
    survives_crashes(&SNAPSHOTS, 4);
}

#[test]
fn a_new_image_survives_a_crash_at_every_write() {
    survives_crashes(&CREATES, 4);
}

#[test]
fn a_change_survives_a_crash_at_every_write() {
    survives_crashes(some(&CHANGES, 6), 2);
}

#[test]
fn a_resize_survives_a_crash_at_every_write() {
    survives_crashes(some(&RESIZES, 4), 4);
}

#[test]
fn marks_survive_a_failure_of_every_operation() {
    survives_failures(&MARKS);
}

#[test]
fn a_repair_survives_a_failure_of_every_operation() {
    survives_failures(&REPAIRS);
}

#[test]
fn a_snapshot_survives_a_failure_of_every_operation() {
    survives_failures(&SNAPSHOTS);
}

#[test]
fn a_new_image_survives_a_failure_of_every_operation() {
    survives_failures(&CREATES);
}

#[test]
fn a_change_survives_a_failure_of_every_operation() {
    survives_failures(some(&CHANGES, 6));
}

#[test]
fn a_resize_survives_a_failure_of_every_operation() {
    survives_failures(some(&RESIZES, 4));
}

#[test]
fn whoever_reads_through_a_chain_opens_each_parent_once() {
    let world = World::new();
    tree(&world);
    // What is read goes to the log of the test: dots, not noise.
    world.give("middle", 3, &[(4, 1, b'.')]);
    world.give("base", 3, &[(5, 3, b'.')]);
    for line in ["read -n @leaf -r 12292 -c 3", "read -n @leaf -R 6293504 -c 2048"] {
        let times_opened = || ["middle", "base"].map(|name| world.times_opened(name));
        let _before = times_opened();
        world.make(line);
        assert_eq!(times_opened(), [1, 1], "{line}");
    }
}
