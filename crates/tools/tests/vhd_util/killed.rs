//! Commands that are killed at random: what they leave is checked, undone or repaired, holds what it held before, and the
//! command can be run again to its end.

use std::{process::Stdio, thread, time::Duration};

use test_support::{cycles, seed, target_program};

use super::place::{Place, fill_blocks};

/// Random numbers of a test (splitmix64).
struct Random(u64);

impl Random {
    fn below(&mut self, bound: u64) -> u64 {
        self.0 = self.0.wrapping_add(0x9e37_79b9_7f4a_7c15);
        let mixed = (self.0 ^ (self.0 >> 30)).wrapping_mul(0xbf58_476d_1ce4_e5b9);
        let mixed = (mixed ^ (mixed >> 27)).wrapping_mul(0x94d0_49bb_1331_11eb);
        (mixed ^ (mixed >> 31)) % bound
    }
}

/// Begins a command and kills it after a while that says nothing about how far it is.
fn kill(place: &Place, random: &mut Random, line: &str) {
    let mut command = place.command(target_program("vhd-util"));
    let command = command.args(line.split_whitespace()).stdout(Stdio::null()).stderr(Stdio::null());
    let mut child = command.spawn().unwrap();
    thread::sleep(Duration::from_micros(random.below(12_000)));
    child.kill().unwrap();
    child.wait().unwrap();
}

/// A base with data, a child with some of its own, and an image that is not closed.
fn tree(place: &Place) {
    place.make("create -n base.vhd -s 64");
    fill_blocks(place, "base.vhd", 2, 5);
    place.make("snapshot -n middle.vhd -p base.vhd -e");
    place.make("snapshot -n leaf.vhd -p middle.vhd -e");
    fill_blocks(place, "leaf.vhd", 1, 7);
}

fn disk(place: &Place, name: &str) -> Vec<u8> {
    let read = ["read", "-n", name, "-r", "0", "-c", "8193"];
    let ended = place.command(target_program("vhd-util")).args(read).output().unwrap();
    assert!(ended.status.success(), "{name}: {}", String::from_utf8_lossy(&ended.stderr));
    ended.stdout
}

/// Valid as it is, or once it is repaired.
fn settle(place: &Place, name: &str, what: &str) {
    if place.run(&format!("check -n {name}")).status != 0 {
        assert_eq!(place.run(&format!("repair -n {name}")).status, 0, "{what}");
        let checked = place.run(&format!("check -n {name}"));
        assert_eq!(checked.status, 0, "{what}: {}", checked.stdout);
    }
}

#[test]
fn a_resize_that_is_killed_is_reverted() {
    let place = Place::new();
    tree(&place);
    let before = disk(&place, "leaf.vhd");
    let mut random = Random(seed());
    for round in 0..cycles(8, 400) {
        // Each time the tables grow anew.
        let size = 4000 + 2000 * (round % 100 + 1);
        kill(&place, &mut random, &format!("resize -n leaf.vhd -s {size} -j j"));
        if place.path("j").exists() {
            assert_eq!(place.run("revert -n leaf.vhd -j j").status, 0, "round {round}");
        }
        settle(&place, "leaf.vhd", &format!("round {round}"));
        assert!(disk(&place, "leaf.vhd") == before, "round {round}");
        place.make(&format!("resize -n leaf.vhd -s {size} -j j"));
        assert_eq!(place.ask("query -n leaf.vhd -v"), format!("{size}\n"));
        assert!(disk(&place, "leaf.vhd") == before, "round {round}, again");
        if round % 100 == 99 {
            tree(&place);
        }
    }
}

#[test]
fn marks_and_parents_that_are_killed_leave_the_disk_as_it_is() {
    let place = Place::new();
    tree(&place);
    let before = disk(&place, "leaf.vhd");
    let mut random = Random(seed() ^ 1);
    let lines = [
        "modify -n leaf.vhd -p base.vhd",
        "set -n leaf.vhd -f hidden -v 1",
        "modify -n leaf.vhd -p middle.vhd",
        "set -n leaf.vhd -f marker -v 9",
        "set -n leaf.vhd -f hidden -v 0",
        "repair -n leaf.vhd",
        "snapshot -n new.vhd -p leaf.vhd",
    ];
    for round in 0..cycles(3, 100) {
        for line in lines {
            let what = format!("round {round}: {line}");
            if line.starts_with("repair") {
                // What a tapdisk leaves that was killed.
                let end = place.size("leaf.vhd") - 512;
                place.patch("leaf.vhd", end, &[0xc7; 512]);
            }
            kill(&place, &mut random, line);
            settle(&place, "leaf.vhd", &what);
            assert!(disk(&place, "leaf.vhd") == before, "{what}");
            place.make(line);
            settle(&place, "leaf.vhd", &what);
            assert!(disk(&place, "leaf.vhd") == before, "{what}, again");
        }
        assert!(disk(&place, "new.vhd") == before, "round {round}");
    }
}
