//! Crashes at random instants of random work: what is left opens for writing without repair, holds everything that was
//! flushed, and nothing that must not be there. The work then goes on with one of the states, and crashes again.

use simulator::{Base, Crash, Inspector, Mix, Plan, Replay, Shape, Simulation, seeds};
use storage_io::StorageKind;
use test_support::{cycles, seed};

/// States of each format that are looked at.
const STATES: u64 = 20_000;
/// What is read of them has to be decrypted.
const STATES_ENCRYPTED: u64 = 2_000;
const STATES_THOROUGH: u64 = 100_000;
/// At each instant so many states are drawn.
const STATES_AT_ONCE: u64 = 32;
/// So many steps of the executor lie between two instants, at most.
const STEPS_BETWEEN: u64 = 400;

fn run(test: &'static str, shape: Shape, levels: usize) {
    run_states(test, shape, levels, STATES);
}

fn run_states(test: &'static str, shape: Shape, levels: usize, usual: u64) {
    let wanted = cycles(usual, STATES_THOROUGH);
    let mut states = 0;
    for seed in seeds(seed(), u64::MAX) {
        let _replay = Replay::of(test, seed);
        states += crash(seed, shape, levels);
        if states >= wanted {
            break;
        }
    }
}

/// One disk, crashed at many instants of its lives. How many states were looked at.
fn crash(seed: u64, shape: Shape, levels: usize) -> u64 {
    let mix = if seed & 1 == 0 { Mix::CHURN } else { Mix::EVERYTHING };
    let plan = Plan { shape, mix, in_flight: 32 };
    let mut simulation = Simulation::new(seed, plan);
    for _ in 1..levels {
        simulation.work(60);
        simulation.snapshot();
    }
    let mut inspector = Inspector::new(seed);
    for _ in 0..4 {
        if simulation.random().once_in(2) {
            live_and_die(&mut simulation, &mut inspector);
        } else {
            live(&mut simulation, &mut inspector);
        }
    }
    inspector.states()
}

/// Works, and is closed and opened again.
fn live(simulation: &mut Simulation, inspector: &mut Inspector) {
    let burst = simulation.start(80);
    while look_later(simulation, inspector) {}
    simulation.executor.block_on(burst.ended());
    inspector.look(simulation, STATES_AT_ONCE);
    simulation.check();
    simulation.reopen();
}

/// Works, until a crash ends it; a state that it left is the next life.
fn live_and_die(simulation: &mut Simulation, inspector: &mut Inspector) {
    let burst = simulation.start(80);
    let looks = simulation.random().below(3);
    let _ = (0..=looks).all(|_| look_later(simulation, inspector));
    let point = simulation.images().leaf().storage.crash_point();
    let seed = simulation.random().draw();
    if simulation.random().once_in(3) {
        simulation.crash(Crash::Killed, point.killed(seed));
    } else {
        simulation.crash(Crash::PowerCut, point.power_cut(seed));
    }
    drop(burst);
}

/// Lets some steps pass, then takes crashes. False: nothing is left to do.
fn look_later(simulation: &mut Simulation, inspector: &mut Inspector) -> bool {
    let steps = 1 + simulation.random().below(STEPS_BETWEEN);
    if !(0..steps).all(|_| simulation.executor.step()) {
        return false;
    }
    inspector.look(simulation, STATES_AT_ONCE);
    true
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
fn differencing_over_raw_on_a_device() {
    let shape = Shape { storage: StorageKind::BlockDevice, ..Shape::small(Base::Raw) };
    run("crashes differencing_over_raw_on_a_device", shape, 2);
}

#[test]
fn encrypted() {
    run_states("crashes encrypted", Shape::small(Base::Dynamic).encrypted(), 2, STATES_ENCRYPTED);
}
