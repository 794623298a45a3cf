//! Requesters go away at every point of a write or a discard. Nothing is half made, nothing hangs, nobody else notices.

#![allow(clippy::unwrap_used, reason = "a test")]

mod common;

use std::cell::RefCell;
use std::collections::BTreeMap;
use std::rc::Rc;
use std::sync::Arc;

use common::{Disk, MIB, Random, SPB, Seen, child_options, create, simulated};
use storage_io::CrashStorage;

/// Writes and discards, each of which may be dropped after a drawn number of steps.
fn work(disk: &Rc<Disk>, random: &mut Random, certain: &Rc<RefCell<BTreeMap<u64, u64>>>) {
    let executor = disk.executor.clone();
    for tag in 1..120 {
        // Blocks that are only written, and by each sector once; and blocks that are discarded as well.
        let (is_certain, block) = (random.below(2) == 0, random.below(20));
        let sector = if is_certain { block * SPB + tag } else { (20 + block) * SPB + tag };
        let (ours, marks) = (disk.clone(), certain.clone());
        let is_discard = !is_certain && random.below(4) == 0;
        let task = executor.spawn(async move {
            if is_discard {
                ours.discard(20 + block).await.unwrap();
            } else {
                ours.write(sector, 1, tag).await.unwrap();
                if is_certain {
                    marks.borrow_mut().insert(sector, tag);
                }
            }
        });
        for _ in 0..random.below(30) {
            executor.step();
        }
        match random.below(3) {
            0 => drop(task),
            _ => task.detach(),
        }
    }
}

#[test]
fn a_requester_may_go_away_at_any_point() {
    let seed = test_support::seed();
    for round in 0..test_support::cycles(30, 1000) {
        let storage = CrashStorage::new(0);
        create(Arc::new(storage.clone()), &child_options(128 * MIB));
        let mut random = Random(seed ^ round);
        let executor = simulated(random.next());
        let disk = Rc::new(Disk::open(&executor, Arc::new(storage.clone())).unwrap());
        let certain = Rc::default();
        work(&disk, &mut random, &certain);
        while executor.step() {}
        executor.block_on(disk.close()).unwrap();
        let reopened = Disk::open(&executor, Arc::new(storage)).unwrap();
        for (sector, tag) in certain.borrow().iter() {
            assert_eq!(executor.block_on(reopened.see(*sector)).unwrap(), Seen::Tag(*tag), "round {round}");
        }
        for (sector, seen) in executor.block_on(reopened.contents()).unwrap() {
            assert_eq!(seen, Seen::Tag(sector % SPB), "round {round}: sector {sector} shows another's bytes");
        }
        executor.end_tasks();
    }
}
