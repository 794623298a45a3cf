//! Random work on chains against a plain model of a disk: whatever is written, zeroed, discarded, snapshotted and opened
//! again, what is read is what may be there.

use simulator::{Base, Mix, Plan, Replay, Shape, Simulation, seeds};
use storage_io::StorageKind;
use test_support::{cycles, seed};

const LEVELS_MAX: usize = 4;

/// Rounds of work, each followed by a full comparison; between them the disk is opened again or snapshotted.
fn run(test: &'static str, shape: Shape, usual: u64, thorough: u64) {
    let mut allocated = 0;
    for seed in seeds(seed(), cycles(usual, thorough)) {
        let _replay = Replay::of(test, seed);
        let plan = Plan { shape, mix: Mix::EVERYTHING, in_flight: 32 };
        let mut simulation = Simulation::new(seed, plan);
        for _ in 0..8 {
            let operations = 50 + simulation.random().below(200);
            simulation.work(operations);
            simulation.check();
            match simulation.random().below(3) {
                0 if simulation.images().files().len() < LEVELS_MAX => simulation.snapshot(),
                1 => simulation.reopen(),
                _ => {}
            }
            simulation.check();
        }
        allocated += simulation.oracle().touched().count();
    }
    assert!(allocated > 0, "the work touched the disk");
}

#[test]
fn raw() {
    run("property raw", Shape::small(Base::Raw), 20, 500);
}

#[test]
fn fixed() {
    run("property fixed", Shape::small(Base::Fixed), 20, 500);
}

#[test]
fn dynamic() {
    run("property dynamic", Shape::small(Base::Dynamic), 24, 1000);
}

#[test]
fn dynamic_with_blocks_of_two_mebibytes() {
    run("property dynamic_with_blocks_of_two_mebibytes", Shape::usual(Base::Dynamic), 2, 50);
}

#[test]
fn dynamic_on_a_device() {
    let shape = Shape { storage: StorageKind::BlockDevice, ..Shape::small(Base::Dynamic) };
    run("property dynamic_on_a_device", shape, 20, 500);
}

#[test]
fn encrypted() {
    run("property encrypted", Shape::small(Base::Dynamic).encrypted(), 16, 500);
}

#[test]
fn encrypted_over_a_plain_parent_on_a_device() {
    let shape = Shape { storage: StorageKind::BlockDevice, ..Shape::small(Base::Raw).encrypted() };
    run("property encrypted_over_a_plain_parent_on_a_device", shape, 12, 500);
}
