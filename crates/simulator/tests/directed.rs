//! Crashes where we know that it is hard: growth under many allocations, freed blocks that come back, and guests that
//! write what looks like a footer.

use block_core::{GuestOffset, GuestRange, Operation};
use image_format::vhd::{DiskType, Footer, Timestamp};
use simulator::{Base, Burst, Crash, Inspector, Mix, Plan, Replay, Shape, Simulation, seeds};
use test_support::{cycles, seed};

fn simulation(seed: u64, base: Base) -> Simulation {
    Simulation::new(seed, Plan { shape: Shape::small(base), mix: Mix::CHURN, in_flight: 32 })
}

/// A part of a block, in sectors.
fn part(simulation: &Simulation, block: u64, sector: u64, count: u64) -> GuestRange {
    let block_bytes = u64::from(simulation.plan().shape.block_bytes);
    GuestRange::new(GuestOffset::new(block * block_bytes + sector * 512), count * 512)
}

fn block(simulation: &Simulation, block: u64) -> GuestRange {
    part(simulation, block, 0, u64::from(simulation.plan().shape.block_bytes) / 512)
}

fn write(range: GuestRange) -> Operation<()> {
    Operation::Write { range, buffer: (), durable: false }
}

/// Runs the burst to its end, with a few crashes about every `often` steps.
fn look_all_along(simulation: &mut Simulation, inspector: &mut Inspector, burst: Burst, often: u64) {
    let executor = simulation.executor.clone();
    while executor.step() {
        if simulation.random().once_in(often) {
            inspector.look(simulation, 4);
        }
    }
    executor.block_on(burst.ended());
    inspector.look(simulation, 16);
    simulation.check();
}

/// Crashes right now and goes on with a state that was left.
fn crash(simulation: &mut Simulation, crash: Crash) {
    let point = simulation.images().leaf().storage.crash_point();
    let seed = simulation.random().draw();
    let state = if crash == Crash::Killed { point.killed(seed) } else { point.power_cut(seed) };
    simulation.crash(crash, state);
}

#[test]
fn thirty_two_allocations_in_flight_across_growth() {
    for seed in seeds(seed(), cycles(8, 100)) {
        let _replay = Replay::of("directed thirty_two_allocations_in_flight_across_growth", seed);
        let mut simulation = simulation(seed, Base::Dynamic);
        let mut inspector = Inspector::new(seed);
        simulation.work_on([write(part(&simulation, 60, 0, 4))]);
        simulation.work_on([Operation::Flush]);
        let length = simulation.images().leaf().storage_length();
        let burst = simulation.start_on((0..32).map(|block| write(part(&simulation, block, block % 8, 3))));
        look_all_along(&mut simulation, &mut inspector, burst, 4);
        assert!(simulation.images().leaf().storage_length() > length, "the file has grown meanwhile");
        simulation.reopen();
        simulation.check();
    }
}

#[test]
fn a_lost_write_does_not_come_back_when_a_later_one_is_lost() {
    for seed in seeds(seed(), cycles(200, 4000)) {
        let _replay = Replay::of("directed a_lost_write_does_not_come_back_when_a_later_one_is_lost", seed);
        let mut simulation = simulation(seed, Base::Dynamic);
        let mut inspector = Inspector::new(seed);
        simulation.work_on([write(part(&simulation, 1, 0, 2)), Operation::Flush]);
        let in_doubt = part(&simulation, 1, 4, 2);
        simulation.work_on([write(in_doubt)]);
        // Some of these cuts keep the data of the write and lose its bits.
        crash(&mut simulation, Crash::PowerCut);
        simulation.work_on([Operation::Flush, write(in_doubt)]);
        // And some of these keep the bits of the second write and lose its data.
        inspector.look(&simulation, 16);
    }
}

#[test]
fn freed_blocks_come_back_under_a_batmap_that_knew_them() {
    for seed in seeds(seed(), cycles(8, 100)) {
        let _replay = Replay::of("directed freed_blocks_come_back_under_a_batmap_that_knew_them", seed);
        let mut simulation = simulation(seed, Base::Dynamic);
        let mut inspector = Inspector::new(seed);
        // Complete blocks, so that closing marks them in the batmap.
        simulation.work_on((0..8).map(|index| write(block(&simulation, index))));
        simulation.reopen();
        // Freed, and at the same time others take their room.
        let discards = (0..8).map(|index| Operation::Discard { range: block(&simulation, index), durable: false });
        let others = (20..28).map(|index| write(part(&simulation, index, 5, 2)));
        let burst = simulation.start_on(discards.chain(others));
        look_all_along(&mut simulation, &mut inspector, burst, 8);
        // The same blocks again, but not complete.
        let burst = simulation.start_on((0..8).map(|index| write(part(&simulation, index, index, 3))));
        look_all_along(&mut simulation, &mut inspector, burst, 8);
        crash(&mut simulation, Crash::PowerCut);
        simulation.work_on((0..8).map(|index| write(part(&simulation, index, 20 + index, 1))));
        simulation.check();
        simulation.reopen();
        simulation.check();
    }
}

/// What a guest may write to make its disk look like another image.
fn forged(disk_type: DiskType) -> Vec<u8> {
    let footer = Footer::new(disk_type, 2 << 20, uuid::Uuid::from_u128(99), Timestamp::new(1));
    footer.as_bytes().to_vec()
}

#[test]
fn footers_forged_in_a_dynamic_image_are_never_at_its_end() {
    for seed in seeds(seed(), cycles(8, 100)) {
        let _replay = Replay::of("directed footers_forged_in_a_dynamic_image_are_never_at_its_end", seed);
        let mut simulation = simulation(seed, Base::Dynamic);
        let mut inspector = Inspector::new(seed);
        let kind = if seed & 1 == 0 { DiskType::Fixed } else { DiskType::Dynamic };
        let forge = |simulation: &Simulation, index: u64| {
            let range = block(simulation, index);
            simulation.write(GuestOffset::new(range.end().get() - 512), &forged(kind));
            simulation.write(range.start(), &forged(kind));
        };
        (0..6).for_each(|index| forge(&simulation, index));
        simulation.work_on([Operation::Flush]);
        // What is left has room behind the last block, and is cut there before it grows.
        for life in 1..4 {
            crash(&mut simulation, if life == 2 { Crash::PowerCut } else { Crash::Killed });
            let first = life * 10;
            let burst = simulation.start_on((first..first + 6).map(|index| write(part(&simulation, index, 2, 1))));
            look_all_along(&mut simulation, &mut inspector, burst, 1);
            (first..first + 6).for_each(|index| forge(&simulation, index));
            inspector.look(&simulation, 32);
        }
        simulation.reopen();
        simulation.check();
    }
}

#[test]
fn a_fixed_image_that_begins_like_a_dynamic_one_is_refused_and_untouched() {
    let mut simulation = simulation(seed(), Base::Fixed);
    simulation.write(GuestOffset::new(0), &forged(DiskType::Fixed));
    simulation.reopen();
    simulation.check();
    simulation.write(GuestOffset::new(0), &forged(DiskType::Dynamic));
    simulation.close().unwrap();
    let bytes = simulation.images().leaf().storage.to_vec();
    let refused = simulation.open().unwrap_err().to_string();
    assert!(refused.contains("repair"), "{refused}");
    assert_eq!(simulation.images().leaf().storage.to_vec(), bytes);
}
