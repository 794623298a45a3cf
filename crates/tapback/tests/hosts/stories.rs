//! What may happen to a guest on its way.

use std::{
    cell::{Cell, RefCell},
    collections::BTreeMap,
    sync::atomic::Ordering,
    time::Duration,
};

use block_core::Tag;
use test_support::cycles;
use virtual_disk::Outcome;

use crate::{
    support::{Script, bytes, two_hosts::PATIENCE},
    world::{DISK_BYTES, World},
};

const BLOCK: usize = 4096;
/// Blocks that the guest writes, all over the image.
const BLOCKS: u64 = 64;
const STRIDE: u64 = DISK_BYTES / BLOCKS;
const A_MOMENT: Duration = Duration::from_millis(5);
/// The longest that a slow disk takes for a request.
const SLOW_US: u64 = 80_000;

/// What was written into a block.
#[derive(Clone, Debug, Default)]
struct Written {
    answered: u8,
    /// Written since, and not answered.
    later: Vec<u8>,
}

/// One write that has no answer yet.
struct Asked {
    script: Script,
    tag: Tag,
    block: u64,
    value: u8,
}

/// A guest that knows what it has written, wherever it is. What has no answer when it moves it asks again, as they do.
struct Guest<'a> {
    world: &'a World,
    at: Cell<usize>,
    blocks: RefCell<BTreeMap<u64, Written>>,
    asked: RefCell<Vec<Asked>>,
    next: Cell<u8>,
    failed: Cell<u32>,
}

impl<'a> Guest<'a> {
    /// It is started on the first host.
    async fn start(world: &'a World) -> Guest<'a> {
        world.sides[0].attach().await;
        world.sides[0].show_ring().await;
        world.sides[0].wait_for("4").await;
        let (blocks, asked) = (RefCell::default(), RefCell::default());
        Guest { world, at: Cell::new(0), blocks, asked, next: Cell::new(0), failed: Cell::new(0) }
    }

    fn script(&self) -> Script {
        self.world.sides[self.at.get()].guest().expect("it is served here")
    }

    /// Asks for some writes, each block once at a time.
    fn write(&self) {
        self.collect();
        for _ in 0..=self.world.random(12) {
            let block = self.world.random(BLOCKS);
            if self.asked.borrow().iter().any(|asked| asked.block == block) {
                continue;
            }
            self.next.set(self.next.get() % 250 + 1);
            self.blocks.borrow_mut().entry(block).or_default().later.push(self.next.get());
            self.ask(block, self.next.get());
        }
    }

    fn ask(&self, block: u64, value: u8) {
        let script = self.script();
        let tag = script.write(block * STRIDE, value, BLOCK);
        self.asked.borrow_mut().push(Asked { script, tag, block, value });
    }

    /// Takes note of what was answered.
    fn collect(&self) {
        let mut blocks = self.blocks.borrow_mut();
        self.asked.borrow_mut().retain(|Asked { script, tag, block, value }| {
            match script.answer(*tag) {
                None => return true,
                Some(Outcome::Failed(_)) => self.failed.set(self.failed.get() + 1),
                Some(_) => drop(blocks.insert(*block, Written { answered: *value, later: Vec::new() })),
            }
            false
        });
    }

    /// It runs on the other host, and asks again what was not answered.
    fn comes(&self, to: usize) {
        self.collect();
        self.at.set(to);
        let asked = self.asked.take();
        asked.into_iter().for_each(|asked| self.ask(asked.block, asked.value));
    }

    /// Everything that it has asked is answered.
    async fn finish(&self) {
        self.collect();
        while !self.asked.borrow().is_empty() {
            self.world.pass(A_MOMENT).await;
            self.collect();
        }
    }

    /// It finds all that it was answered.
    async fn check(&self) {
        self.finish().await;
        let script = self.script();
        let blocks = self.blocks.borrow().clone();
        for (block, Written { answered, later }) in blocks {
            let tag = script.read(block * STRIDE, BLOCK);
            let found = bytes(Some(script.answered_to(tag).await))[0];
            assert!(found == answered || later.contains(&found), "block {block}: {found}, not {answered} or {later:?}");
        }
    }
}

/// The host that was left has closed: nothing of it lands from here on.
async fn left(world: &World, from: usize) -> usize {
    world.sides[from].wait_for("6").await;
    let told = world.sides[from].read("shutdown-done").await;
    assert_eq!(told.as_deref(), Some("1"), "{:?}", world.sides[from].error().await);
    world.hosts.ledger.lock().unwrap().writers.len()
}

fn check_order(world: &World, from: usize, since: usize) {
    let late = world.hosts.ledger.lock().unwrap().writers[since..].contains(&from);
    assert!(!late && world.hosts.strays() == 0, "a write of the host that was left has landed late");
}

/// The guest goes to the other host. With early signs, that serves it before it is destroyed where it was.
async fn migrate(world: &World, guest: &Guest<'_>, has_signs: bool) {
    let (from, to) = (guest.at.get(), 1 - guest.at.get());
    let [source, target] = [&world.sides[from], &world.sides[to]];
    guest.write();
    world.pass(A_MOMENT).await;
    target.attach().await;
    guest.write();
    world.pass(A_MOMENT).await;
    if has_signs {
        source.suspend().await;
    }
    let is_first = has_signs || world.random(2) == 0;
    if is_first {
        target.show_ring().await;
    }
    if has_signs {
        target.wait_for("4").await;
        guest.comes(to);
        guest.write();
    }
    world.pass(PATIENCE / 4).await;
    source.destroy().await;
    if !is_first {
        target.show_ring().await;
    }
    let since = left(world, from).await;
    target.wait_for("4").await;
    if !has_signs {
        guest.comes(to);
    }
    guest.write();
    guest.check().await;
    check_order(world, from, since);
    source.forget().await;
}

/// The other host comes in vain: it is destroyed while it waits, or gives up by itself.
async fn give_up(world: &World, guest: &Guest<'_>, has_signs: bool) {
    let (from, to) = (guest.at.get(), 1 - guest.at.get());
    let [source, target] = [&world.sides[from], &world.sides[to]];
    target.attach().await;
    guest.write();
    if has_signs {
        source.suspend().await;
        world.pass(A_MOMENT).await;
    }
    target.show_ring().await;
    if has_signs {
        // It would be served; nothing was written there yet.
        target.wait_for("4").await;
    } else if world.random(2) == 0 {
        target.wait_for("5").await;
        let error = target.error().await.unwrap();
        assert!(error.starts_with("1 ") && error.contains("no write access"), "{error}");
    }
    world.pass(A_MOMENT).await;
    target.destroy().await;
    target.wait_for("6").await;
    target.forget().await;
    guest.collect();
    guest.comes(from);
    guest.write();
    guest.check().await;
    assert_eq!(world.hosts.strays(), 0);
}

/// Storage takes the lock away from the host that has it, and refuses what comes from there.
async fn lose_the_lock(world: &World, guest: &Guest<'_>) {
    let (from, to) = (guest.at.get(), 1 - guest.at.get());
    let [source, target] = [&world.sides[from], &world.sides[to]];
    guest.write();
    target.attach().await;
    world.hosts.break_lock();
    target.show_ring().await;
    target.wait_for("4").await;
    guest.write();
    source.destroy().await;
    let since = left(world, from).await;
    guest.comes(to);
    guest.write();
    guest.check().await;
    check_order(world, from, since);
    assert!(guest.failed.get() > 0, "it was told that it does not write any more");
    source.forget().await;
}

fn slow(world: &World) {
    for host in &world.hosts.hosts {
        host.slowness.store([0, 2_000, SLOW_US][usize::try_from(world.random(3)).unwrap()], Ordering::Relaxed);
    }
}

#[test]
fn no_write_of_the_host_that_a_guest_leaves_lands_after_the_first_of_the_other() {
    for seed in 0..cycles(6, 500) {
        println!("seed {seed}");
        let world = World::new(seed);
        world.run(async {
            let guest = Guest::start(&world).await;
            for _ in 0..4 {
                slow(&world);
                match world.random(4) {
                    0 => migrate(&world, &guest, false).await,
                    1 => migrate(&world, &guest, true).await,
                    2 => give_up(&world, &guest, false).await,
                    _ => give_up(&world, &guest, true).await,
                }
            }
            assert_eq!(guest.failed.get(), 0, "it has noticed nothing");
        });
    }
}

#[test]
fn a_host_that_has_lost_the_lock_writes_nothing_more_and_tells_its_guest() {
    for seed in 0..cycles(4, 300) {
        println!("seed {seed}");
        let world = World::new(seed);
        world.hosts.ledger.lock().unwrap().refuses = true;
        world.run(async {
            let guest = Guest::start(&world).await;
            slow(&world);
            lose_the_lock(&world, &guest).await;
        });
    }
}

/// The checker itself.
#[test]
fn a_write_that_lands_behind_a_lost_lock_is_seen() {
    let world = World::new(1);
    world.may_stray.set(true);
    world.run(async {
        let guest = Guest::start(&world).await;
        guest.write();
        guest.finish().await;
        world.hosts.hosts[0].slowness.store(SLOW_US, Ordering::Relaxed);
        guest.write();
        world.sides[1].attach().await;
        world.hosts.break_lock();
        world.sides[1].show_ring().await;
        world.sides[1].wait_for("4").await;
        guest.comes(1);
        world.pass(Duration::from_secs(1)).await;
    });
    assert!(world.hosts.strays() > 0, "{:?}", world.hosts.hands());
}
