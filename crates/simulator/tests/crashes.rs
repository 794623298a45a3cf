//! Crashes at random instants of random work: what is left opens for writing without repair, holds everything that was
//! flushed, and nothing that must not be there.

use simulator::{Base, Inspector, Mix, Plan, Replay, Shape, Simulation, seeds};
use storage_io::StorageKind;
use test_support::{cycles, seed};

/// States of each format that are looked at.
const STATES: u64 = 20_000;
const STATES_THOROUGH: u64 = 100_000;
/// At each instant so many states are drawn.
const STATES_AT_ONCE: u64 = 32;

fn run(test: &'static str, shape: Shape, levels: usize) {
    let wanted = cycles(STATES, STATES_THOROUGH);
    let mut states = 0;
    for seed in seeds(seed(), u64::MAX) {
        let _replay = Replay::of(test, seed);
        states += crash(seed, shape, levels);
        if states >= wanted {
            break;
        }
    }
}

/// One disk, crashed at many instants of its life. How many states were looked at.
fn crash(seed: u64, shape: Shape, levels: usize) -> u64 {
    let mix = if seed & 1 == 0 { Mix::CHURN } else { Mix::EVERYTHING };
    let plan = Plan { shape, mix, in_flight: 32, may_fail: false };
    let mut simulation = Simulation::new(seed, plan);
    for _ in 1..levels {
        simulation.work(60);
        simulation.snapshot();
    }
    let mut inspector = Inspector::new(seed);
    for _ in 0..3 {
        let burst = simulation.start(80);
        let executor = simulation.executor.clone();
        let mut next = 1 + simulation.random().below(400);
        while executor.step() {
            next -= 1;
            if next == 0 {
                inspector.look(&simulation, STATES_AT_ONCE);
                next = 1 + simulation.random().below(400);
            }
        }
        executor.block_on(burst.ended());
        inspector.look(&simulation, STATES_AT_ONCE);
        simulation.check();
        simulation.reopen();
    }
    inspector.states()
}

#[test]
fn raw() {
    run("crashes raw", Shape::small(Base::Raw), 1);
}

#[test]
fn fixed() {
    run("crashes fixed", Shape::small(Base::Fixed), 1);
}

#[test]
fn dynamic() {
    run("crashes dynamic", Shape::small(Base::Dynamic), 1);
}

#[test]
fn differencing() {
    run("crashes differencing", Shape::small(Base::Dynamic), 3);
}

#[test]
fn dynamic_on_a_device() {
    let shape = Shape { storage: StorageKind::BlockDevice, ..Shape::small(Base::Dynamic) };
    run("crashes dynamic_on_a_device", shape, 2);
}
