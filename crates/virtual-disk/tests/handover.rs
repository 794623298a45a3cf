//! An image that goes from host to host and back, at random: no write of one lands after the other has begun, and each sees
//! what the other was answered. Storage is slow, hand-overs are given up, hosts rest and wake.

#![allow(clippy::unwrap_used, reason = "a test that cannot go on fails")]

mod support;

use std::{collections::BTreeMap, sync::atomic::Ordering, time::Duration};

use block_core::{ErrorKind, Tag};
use image_chain::Writing;
use support::{
    Script, bytes, is_done,
    two_hosts::{PATIENCE, TwoHosts, open},
};
use test_support::cycles;
use virtual_disk::WriteAccess;

const BLOCK: usize = 4096;
/// Blocks that a host writes: every other one, in four blocks of the image.
const BLOCKS: u64 = 64;
const STRIDE: u64 = (8 << 20) / (2 * BLOCKS);

/// What was written into a block by the only host that writes it.
#[derive(Clone, Debug, Default)]
struct Written {
    answered: u8,
    /// Written since, and not answered yet.
    later: Vec<u8>,
}

struct World {
    hosts: TwoHosts,
    clients: [Script; 2],
    blocks: BTreeMap<u64, Written>,
    asked: Vec<(usize, Tag, u64, u8)>,
    next: u8,
}

impl World {
    fn new(seed: u64) -> World {
        let hosts = TwoHosts::new(seed, 8 << 20);
        for host in [0, 1] {
            hosts.run(host, async |disk| open(disk, Writing::Later).await).unwrap();
        }
        let clients = [hosts.hosts[0].serve(), hosts.hosts[1].serve()];
        World { hosts, clients, blocks: BTreeMap::new(), asked: Vec::new(), next: 0 }
    }

    fn random(&self, below: u64) -> u64 {
        self.hosts.hosts[0].executor.random() % below
    }

    fn slow(&self) {
        for host in &self.hosts.hosts {
            host.slowness.store(self.random(3) * 5_000, Ordering::Relaxed);
        }
    }

    /// Has a host write some of its blocks, each once at a time.
    fn write(&mut self, host: usize) {
        for _ in 0..self.random(12) {
            let block = self.random(BLOCKS) * 2 + host as u64;
            if self.asked.iter().any(|(_, _, asked, _)| *asked == block) {
                continue;
            }
            self.next = self.next % 250 + 1;
            let tag = self.clients[host].write(block * STRIDE, self.next, BLOCK);
            self.asked.push((host, tag, block, self.next));
            self.blocks.entry(block).or_default().later.push(self.next);
        }
    }

    /// Lets time pass, and takes note of what was answered.
    fn pass(&mut self, most: Duration) {
        let time = Duration::from_micros(self.random(u64::try_from(most.as_micros()).unwrap() + 1));
        self.hosts.pass(time);
        self.collect();
    }

    fn collect(&mut self) {
        let World { clients, blocks, asked, .. } = self;
        asked.retain(|(host, tag, block, value)| {
            let Some(answer) = clients[*host].answer(*tag) else { return true };
            assert!(is_done(Some(answer)));
            *blocks.get_mut(block).unwrap() = Written { answered: *value, later: Vec::new() };
            false
        });
    }

    /// Everything that a host has asked is answered.
    fn finish(&mut self, host: usize) {
        while self.asked.iter().any(|(asked, ..)| *asked == host) {
            self.hosts.pass(Duration::from_millis(1));
            self.collect();
        }
    }

    /// A client that goes; a new one comes in its place.
    fn leave(&mut self, host: usize) {
        self.clients[host].end();
        self.finish(host);
        self.clients[host] = self.hosts.hosts[host].serve();
    }

    /// Whoever has write access sees all that was answered anywhere.
    fn check(&mut self, host: usize) {
        let reader = self.clients[host].clone();
        let reads: Vec<(u64, Tag)> =
            self.blocks.keys().map(|block| (*block, reader.read(block * STRIDE, BLOCK))).collect();
        for (block, tag) in reads {
            let mut answer = None;
            self.hosts.run_until(|| {
                answer = answer.take().or_else(|| reader.answer(tag));
                answer.is_some()
            });
            let found = bytes(answer)[0];
            let Written { answered, later } = &self.blocks[&block];
            let fits = found == *answered || later.contains(&found);
            assert!(fits, "block {block} has {found} on host {host}, not {answered} or {later:?}");
        }
        self.collect();
    }

    fn has_access(&self, host: usize) -> bool {
        self.hosts.hosts[host].disk.status().write_access() == WriteAccess::Held
    }
}

/// The one goes, now or while the other comes.
fn migrate(world: &mut World, from: usize) {
    let to = 1 - from;
    world.write(from);
    world.pass(Duration::from_millis(3));
    if world.random(2) == 0 {
        world.write(to);
        world.pass(Duration::from_millis(3));
    }
    world.leave(from);
    let writer = world.hosts.hosts[to].disk.writer();
    world.hosts.run(to, async |disk| disk.begin_writing().await).unwrap();
    world.write(to);
    world.check(to);
    world.finish(to);
    drop(writer);
}

/// The other comes in vain, and the one goes on.
fn give_up(world: &mut World, from: usize) {
    world.write(from);
    world.finish(from);
    if !world.has_access(from) {
        return;
    }
    let writer = world.hosts.hosts[1 - from].disk.writer();
    let coming = world.hosts.hosts[1 - from].begin(async |disk| disk.begin_writing().await);
    world.write(from);
    world.pass(PATIENCE / 2);
    world.write(from);
    world.hosts.run_until(|| coming.is_done());
    assert_eq!(coming.result().unwrap_err().kind(), ErrorKind::NotPermitted);
    drop(writer);
    world.check(from);
    world.finish(from);
}

/// The one rests while the other writes, and goes on when it has gone.
fn rest(world: &mut World, from: usize) {
    let to = 1 - from;
    world.write(from);
    world.pass(Duration::from_millis(2));
    world.hosts.run(from, async |disk| disk.quiesce(None).await).unwrap();
    world.collect();
    let writer = world.hosts.hosts[to].disk.writer();
    world.hosts.run(to, async |disk| disk.begin_writing().await).unwrap();
    world.write(to);
    world.check(to);
    drop(writer);
    world.leave(to);
    world.hosts.pass(Duration::from_millis(1));
    world.hosts.run(to, async |disk| disk.end_writing().await).unwrap();
    world.hosts.run(from, async |disk| disk.resume(None).await).unwrap();
    world.check(from);
    world.finish(from);
}

#[test]
fn no_write_of_one_host_lands_after_the_first_of_the_other() {
    for seed in 0..cycles(8, 2000) {
        println!("seed {seed}");
        let mut world = World::new(seed);
        let mut owner = 0;
        for _ in 0..5 {
            world.slow();
            match world.random(4) {
                0 | 1 => {
                    migrate(&mut world, owner);
                    owner = 1 - owner;
                }
                2 => give_up(&mut world, owner),
                _ => rest(&mut world, owner),
            }
            assert_eq!(world.hosts.strays(), 0, "seed {seed}: a write landed without the lock");
        }
        world.leave(owner);
        world.leave(1 - owner);
        world.hosts.pass(Duration::from_secs(1));
        assert!(!world.has_access(0) && !world.has_access(1), "seed {seed}: nobody writes any more");
        assert!(world.hosts.hands().len() > 1 || world.blocks.is_empty() || owner == 0, "seed {seed}");
    }
}

/// The checker itself: where the lock is lost under a slow write, it says so.
#[test]
fn a_write_that_lands_behind_a_lost_lock_is_seen() {
    let world = World::new(1);
    let tag = world.clients[0].write(0, 1, BLOCK);
    world.hosts.pass(Duration::from_millis(1));
    assert!(is_done(world.clients[0].answer(tag)));
    world.hosts.hosts[0].slowness.store(50_000, Ordering::Relaxed);
    world.clients[0].write(0, 2, BLOCK);
    world.hosts.pass(Duration::from_micros(1));
    world.hosts.break_lock();
    world.clients[1].write(STRIDE, 3, BLOCK);
    world.hosts.pass(Duration::from_secs(1));
    assert!(world.hosts.strays() > 0, "{:?}", world.hosts.hands());
}
