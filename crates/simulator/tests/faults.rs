//! Each operation on the storages is made to fail, one at a time: the request that met it fails or not, everything else
//! is right, what comes later works, and so does the image when it is opened again.

use block_core::{GuestOffset, GuestRange, Operation};
use simulator::{Base, Inspector, Mix, Plan, Replay, Shape, Simulation, seeds};
use storage_io::{Effect, Fault, FaultRule, OperationKind, StorageKind};
use test_support::{cycles, seed};

const EIO: i32 = 5;

fn run(test: &'static str, shape: Shape, levels: usize) {
    for seed in seeds(seed(), cycles(1, 30)) {
        let replay = Replay::of(test, seed);
        let mut number = 0;
        let mut requests = 0;
        loop {
            replay.note(format!("operation {number} fails"));
            match fail_once(seed, shape, levels, number) {
                None => break,
                Some(failed) => requests += failed,
            }
            number += 1;
        }
        assert!(number > 40 && requests > 0, "{number} operations failed, and with them {requests} requests");
    }
}

/// Makes one operation fail: one of opening, working or closing. How many requests failed with it; none if there are not
/// as many operations.
fn fail_once(seed: u64, shape: Shape, levels: usize, number: u64) -> Option<u64> {
    let mut simulation = Simulation::new(seed, Plan { shape, mix: Mix::EVERYTHING, in_flight: 8 });
    for _ in 1..levels {
        simulation.work(20);
        simulation.snapshot();
    }
    simulation.close().expect("nothing has failed yet");
    let faults = simulation.faults.clone();
    let effect = [Effect::None, Effect::Torn, Effect::All][usize::try_from(number % 3).expect("one of three")];
    faults.add(FaultRule::once_after(number, Fault::Fail { errno: EIO, effect }));
    let opened = simulation.open();
    assert!(opened.is_ok() || faults.struck() == 1, "opening fails only when an operation does: {opened:?}");
    if opened.is_err() {
        simulation.open().expect("what failed once does not keep the disk from being opened");
    }
    simulation.may_fail(true);
    simulation.work(30);
    // Room that is made ahead may have met the fault before anybody asked for it.
    simulation.rest();
    after_the_fault(&mut simulation, Inspector::new(seed));
    (faults.struck() == 1).then(|| simulation.failed())
}

/// Whatever has failed: what comes later works, but for flushes after a failed sync, and nothing is wrong.
fn after_the_fault(simulation: &mut Simulation, mut inspector: Inspector) {
    let faults = simulation.faults.clone();
    let sync_failed = faults.last_struck() == Some(OperationKind::Sync);
    simulation.may_fail(faults.struck() == 0 || sync_failed);
    simulation.work(20);
    inspector.look(simulation, 4);
    simulation.check();
    let closed = simulation.close();
    let sync_failed = faults.last_struck() == Some(OperationKind::Sync);
    assert!(closed.is_ok() || faults.struck() == 1, "closing fails only when an operation does: {closed:?}");
    assert!(closed.is_err() || !sync_failed, "a failed sync is told at the latest when the disk is closed");
    faults.clear();
    simulation.may_fail(false);
    simulation.open().expect("what failed once does not keep the disk from being opened");
    simulation.check();
    simulation.work(20);
    simulation.check();
    simulation.reopen();
    simulation.check();
    inspector.look(simulation, 1);
}

/// The first sectors of a block.
fn start_of(block: u64) -> GuestRange {
    GuestRange::new(GuestOffset::new(block * u64::from(Shape::small(Base::Dynamic).block_bytes)), 8 * 512)
}

fn write(range: GuestRange) -> Operation<()> {
    Operation::Write { range, buffer: (), durable: false }
}

/// A write to block 7 of which one operation fails and is carried out all the same; then what is asked for later, one
/// after the other. False: the write has fewer operations.
fn failed_write(seed: u64, number: u64, later: impl IntoIterator<Item = Vec<Operation<()>>>) -> bool {
    // The entries of 256 blocks are more than a sector of the table.
    let shape = Shape { blocks: 256, ..Shape::small(Base::Dynamic) };
    let mut simulation = Simulation::new(seed, Plan { shape, mix: Mix::EVERYTHING, in_flight: 8 });
    simulation.work_on([write(start_of(2))]);
    simulation.rest();
    let faults = simulation.faults.clone();
    faults.add(FaultRule::once_after(number, Fault::Fail { errno: EIO, effect: Effect::All }));
    simulation.may_fail(true);
    simulation.work_on([write(start_of(7))]);
    simulation.rest();
    if faults.struck() == 0 {
        return false;
    }
    simulation.may_fail(false);
    later.into_iter().for_each(|operations| simulation.work_on(operations));
    Inspector::new(seed).look(&simulation, 8);
    simulation.work_on([Operation::Flush]);
    Inspector::new(seed).look(&simulation, 8);
    simulation.check();
    simulation.reopen();
    simulation.check();
    true
}

#[test]
fn what_failed_does_not_come_to_light_later() {
    let seed = seed();
    let replay = Replay::of("faults what_failed_does_not_come_to_light_later", seed);
    let zero = || Operation::WriteZeroes { range: start_of(7), may_free: false, fast_only: false, durable: false };
    let behind = GuestRange::new(start_of(7).end(), 512);
    let mut number = 0;
    replay.note("the first operation of a write fails");
    while failed_write(seed, number, [vec![zero()]]) {
        // The same block again, and so many others that they need the room that was meant for it.
        failed_write(seed, number, [vec![write(behind)]]);
        failed_write(seed, number, [(200..216).map(|block| write(start_of(block))).collect()]);
        // The same sectors once more, of which only the bits may survive, when it is durable that they are zero.
        failed_write(seed, number, [vec![zero()], vec![Operation::Flush], vec![write(start_of(7))]]);
        number += 1;
        replay.note(format!("operation {number} of a write fails"));
    }
    assert!(number >= 3, "data, entry and bits were written");
}

#[test]
fn what_a_write_has_put_stays_when_another_of_the_same_sectors_fails() {
    let seed = seed();
    let replay = Replay::of("faults what_a_write_has_put_stays_when_another_of_the_same_sectors_fails", seed);
    let both = GuestRange::new(start_of(7).start(), 2 * start_of(7).length());
    let last = GuestRange::new(GuestOffset::new(start_of(8).start().get() - 512), 512);
    for number in 0.. {
        replay.note(format!("operation {number} of two writes fails"));
        let simulation =
            Simulation::new(seed, Plan { shape: Shape::small(Base::Dynamic), mix: Mix::EVERYTHING, in_flight: 8 });
        // The block is there, with other sectors.
        simulation.work_on([write(last)]);
        simulation.rest();
        let faults = simulation.faults.clone();
        faults.add(FaultRule::once_after(number, Fault::Fail { errno: EIO, effect: Effect::None }));
        simulation.may_fail(true);
        simulation.work_on([write(both), write(start_of(7))]);
        simulation.rest();
        if faults.struck() == 0 {
            assert!(number >= 3, "data, entry and bits were written");
            return;
        }
        simulation.may_fail(false);
        simulation.work_on([Operation::Flush]);
        // Some of its sectors have a place, and some have none.
        simulation.work_on([write(GuestRange::new(both.start(), 2 * both.length()))]);
        Inspector::new(seed).look(&simulation, 8);
        simulation.check();
    }
}

#[test]
fn raw() {
    run("faults raw", Shape::small(Base::Raw), 1);
}

#[test]
fn fixed() {
    run("faults fixed", Shape::small(Base::Fixed), 1);
}

#[test]
fn dynamic() {
    run("faults dynamic", Shape::small(Base::Dynamic), 1);
}

#[test]
fn differencing() {
    run("faults differencing", Shape::small(Base::Dynamic), 3);
}

#[test]
fn dynamic_on_a_device() {
    let shape = Shape { storage: StorageKind::BlockDevice, ..Shape::small(Base::Dynamic) };
    run("faults dynamic_on_a_device", shape, 1);
}
