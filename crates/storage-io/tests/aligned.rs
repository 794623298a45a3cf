//! Storages with units of 4 KiB serve any bytes, and nobody's neighbours are lost.

#![allow(clippy::unwrap_used, reason = "a test fails where it cannot go on")]

mod common;

use std::{rc::Rc, sync::Arc};

use block_core::ErrorKind;
use common::{Draw, at, pattern, range};
use futures_util::future::join_all;
use storage_io::{
    AlignedStorage, Buffer, EngineChoice, Executor, Hold, MemoryStorage, SimulatedClock, Storage, StorageExt,
    StorageOperation, TracedOperation, TracedStorage,
};

const UNIT: u64 = 4096;

/// Memory that takes whole units only, and shows the same behind an [`AlignedStorage`].
fn coarse(length: usize) -> (MemoryStorage, AlignedStorage) {
    let memory = MemoryStorage::new(length).with_limits(|limits| limits.alignment = 4096);
    let aligned = AlignedStorage::new(Arc::new(memory.clone()));
    (memory, aligned)
}

fn bytes(number: u64) -> usize {
    usize::try_from(number).unwrap()
}

#[test]
fn random_operations_on_any_bytes_leave_what_an_array_would_hold() {
    let seed = test_support::seed();
    for round in 0..test_support::cycles(20, 400) {
        let executor = &Executor::simulated(seed ^ round, SimulatedClock::new());
        let mut draw = Draw::new(seed.wrapping_add(round * 7919));
        let mut model = pattern(bytes(draw.below(20_000)), 1);
        let memory = MemoryStorage::from_bytes(model.clone()).with_limits(|limits| limits.alignment = 4096);
        let storage = AlignedStorage::new(Arc::new(memory.clone()));
        executor.block_on(async {
            for step in 0..300 {
                random_operation(executor, &storage, &mut model, &mut draw, step).await;
                assert_eq!(storage.length(), model.len() as u64, "round {round}, step {step}");
                assert!(memory.to_vec() == model, "round {round}, step {step}");
            }
        });
    }
}

async fn random_operation(
    executor: &Executor,
    storage: &AlignedStorage,
    model: &mut Vec<u8>,
    draw: &mut Draw,
    step: u64,
) {
    let unit = [1, 512, UNIT][bytes(draw.below(3))];
    let from = draw.below(24_000) / unit * unit;
    let length = (1 + draw.below(9_000)).next_multiple_of(unit);
    let (first, end) = (bytes(from), bytes(from + length));
    let inside = first.min(model.len())..end.min(model.len());
    match draw.below(8) {
        0 => {
            storage.allocate(executor, range(from, length)).await.unwrap();
            model.resize(model.len().max(end), 0);
        }
        1 => {
            storage.discard(executor, range(from, length)).await.unwrap();
            model[inside].fill(0);
        }
        2 => {
            storage.write_zeroes(executor, range(from, length), true).await.unwrap();
            model[inside].fill(0);
        }
        3 => {
            storage.set_length(executor, from).await.unwrap();
            model.resize(first, 0);
        }
        4 | 5 => {
            let data = pattern(end - first, u8::try_from(step % 256).unwrap());
            let durable = draw.below(2) == 0;
            let operation = StorageOperation::Write { offset: at(from), buffer: Buffer::from_bytes(&data), durable };
            storage.submit(executor, operation, None).await.result.unwrap();
            model.resize(model.len().max(end), 0);
            model[first..end].copy_from_slice(&data);
        }
        _ => {
            let read = storage.read_bytes(executor, at(from), end - first).await;
            if end <= model.len() {
                assert!(read.unwrap() == model[first..end]);
            } else if end > model.len().next_multiple_of(bytes(UNIT)) {
                assert_eq!(read.unwrap_err().kind(), ErrorKind::Io);
            }
        }
    }
}

/// Six writers own 700 bytes each, in turn, over 8 units: nearly every write shares units with its neighbours.
#[test]
fn neighbours_in_one_unit_are_not_lost() {
    const OWNERS: u64 = 6;
    const PIECE_BYTES: usize = 700;
    const PIECE: u64 = PIECE_BYTES as u64;
    let seed = test_support::seed();
    for round in 0..test_support::cycles(50, 1000) {
        let executor = &Executor::simulated(seed ^ round, SimulatedClock::new());
        let (memory, storage) = coarse(bytes(8 * UNIT));
        let writers = (0..OWNERS).map(|owner| {
            let (executor, storage) = (executor.clone(), storage.clone());
            let task = executor.clone();
            executor.spawn(async move {
                let mut written = Vec::new();
                for step in 0..30 {
                    let piece = (task.random() % (8 * UNIT / PIECE / OWNERS) * OWNERS + owner) * PIECE;
                    let value = u8::try_from(1 + owner * 40 + step).unwrap();
                    storage.write_bytes(&task, at(piece), &[value; PIECE_BYTES]).await.unwrap();
                    written.push((piece, value));
                }
                written
            })
        });
        let written = executor.block_on(join_all(writers.collect::<Vec<_>>()));
        let mut model = vec![0; bytes(8 * UNIT)];
        for (piece, value) in written.concat() {
            model[bytes(piece)..][..bytes(PIECE)].fill(value);
        }
        assert!(memory.to_vec() == model, "round {round}");
    }
}

/// A writer of whole units and one that changes a few bytes inside them: what the first wrote last stays around them.
#[test]
fn whole_units_wait_for_claims_and_claims_for_them() {
    let seed = test_support::seed();
    for round in 0..test_support::cycles(50, 1000) {
        let executor = &Executor::simulated(seed ^ round, SimulatedClock::new());
        let (memory, storage) = coarse(bytes(4 * UNIT));
        let (whole, part) = (storage.clone(), storage);
        let (first, second) = (executor.clone(), executor.clone());
        let wholes = executor.spawn(async move {
            for value in 1..=20 {
                whole.write_bytes(&first, at(0), &[value; 2 * 4096]).await.unwrap();
                for _ in 0..first.random() % 8 {
                    first.yield_now().await;
                }
                let front = whole.read_bytes(&first, at(0), 4000).await.unwrap();
                assert_eq!(front, [value; 4000], "round {round}");
            }
        });
        let parts = executor.spawn(async move {
            for value in 101..=130 {
                part.write_bytes(&second, at(UNIT - 10), &[value; 20]).await.unwrap();
            }
        });
        executor.block_on(async {
            wholes.await;
            parts.await;
        });
        let held = memory.to_vec();
        assert!(held[..bytes(UNIT) - 10].iter().all(|byte| *byte == 20), "round {round}: {}", held[0]);
        assert!(held[bytes(UNIT) + 10..2 * 4096].iter().all(|byte| *byte == 20), "round {round}");
    }
}

/// Writers behind the end and inside the last unit at once: the cut of one never removes what another put there.
#[test]
fn the_cut_of_the_last_unit_takes_nothing_away() {
    let seed = test_support::seed();
    for round in 0..test_support::cycles(100, 2000) {
        let executor = &Executor::simulated(seed ^ round, SimulatedClock::new());
        let (memory, storage) = coarse(1000);
        let tasks: Vec<_> = [(1000, 200), (UNIT, bytes(UNIT)), (1200, 300), (2 * UNIT, 100)]
            .into_iter()
            .map(|(from, length)| {
                let (task, storage) = (executor.clone(), storage.clone());
                executor.spawn(async move {
                    storage.write_bytes(&task, at(from), &vec![7; length]).await.unwrap();
                    assert!(storage.length() >= from + length as u64, "{from}+{length}: {}", storage.length());
                })
            })
            .collect();
        executor.block_on(join_all(tasks));
        assert_eq!(memory.to_vec().len(), 2 * 4096 + 100, "round {round}");
        assert_eq!(memory.to_vec().iter().filter(|byte| **byte == 7).count(), 200 + 4096 + 300 + 100, "round {round}");
    }
}

/// A storage becomes shorter while a write of what is its last unit then, and one behind its end, wait their turn.
#[test]
fn a_write_that_waited_while_the_end_moved_looks_again() {
    let seed = test_support::seed();
    for round in 0..test_support::cycles(100, 2000) {
        let executor = &Executor::simulated(seed ^ round, SimulatedClock::new());
        let (memory, storage) = coarse(bytes(2 * UNIT));
        let write = |from, length| {
            let buffer = Buffer::from_bytes(&vec![7; length]);
            StorageOperation::Write { offset: at(from), buffer, durable: false }
        };
        let operations = [StorageOperation::SetLength(5000), write(4200, 100), write(2 * UNIT, bytes(UNIT))];
        let pending = operations.map(|operation| storage.submit(executor, operation, None));
        executor.block_on(join_all(pending)).into_iter().for_each(|completion| completion.result.unwrap());
        let held = memory.to_vec();
        assert_eq!((storage.length(), held.len()), (3 * UNIT, bytes(3 * UNIT)), "round {round}");
        assert!(held[4200..4300].iter().chain(&held[8192..]).all(|byte| *byte == 7), "round {round}");
    }
}

#[test]
fn a_dropped_write_is_not_left_between_its_read_and_its_write() {
    let executor = &Executor::simulated(test_support::seed(), SimulatedClock::new());
    let (memory, storage) = coarse(bytes(UNIT));
    let hold: Hold = Rc::new(());
    let buffer = Buffer::from_bytes(&[9; 100]);
    let write = StorageOperation::Write { offset: at(50), buffer, durable: false };
    drop(storage.submit(executor, write, Some(hold.clone())));
    executor.block_on(async {
        while Rc::strong_count(&hold) > 1 {
            executor.yield_now().await;
        }
    });
    assert_eq!(memory.to_vec()[50..150], [9; 100]);
    // Its claim has gone with it.
    executor.block_on(storage.write_bytes(executor, at(0), &[1; 4096])).unwrap();
}

#[test]
fn what_fits_goes_straight_through_and_what_does_not_reads_only_its_edges() {
    let executor = &Executor::new(EngineChoice::Inline).unwrap();
    let (memory, _) = coarse(bytes(64 * UNIT));
    let trace = TracedStorage::new(Arc::new(memory));
    let storage = AlignedStorage::new(Arc::new(trace.clone()));
    let write = |start, length| TracedOperation::Write { range: range(start, length), durable: false };
    let read = |start, length| TracedOperation::Read(range(start, length));
    executor.block_on(async {
        storage.write_bytes(executor, at(UNIT), &[1; 8192]).await.unwrap();
        assert_eq!(trace.take(), [write(UNIT, 2 * UNIT)]);
        storage.write_bytes(executor, at(512), &vec![2; bytes(8 * UNIT)]).await.unwrap();
        assert_eq!(trace.take(), [read(0, UNIT), read(8 * UNIT, UNIT), write(0, 9 * UNIT)]);
        storage.write_bytes(executor, at(UNIT), &[3; 512]).await.unwrap();
        assert_eq!(trace.take(), [read(UNIT, UNIT), write(UNIT, UNIT)]);
        storage.read_bytes(executor, at(UNIT - 1), 2).await.unwrap();
        assert_eq!(trace.take(), [read(0, 2 * UNIT)]);
        // Memory that is not aligned, on whole units: nothing has to be read.
        let mut shifted = Buffer::zeroed(8192).split_off(512);
        drop(shifted.split_off(4096));
        storage.write(executor, at(0), shifted).await.1.unwrap();
        assert_eq!(trace.take(), [write(0, UNIT)]);
    });
    assert_eq!(storage.limits().alignment, 1);
}
