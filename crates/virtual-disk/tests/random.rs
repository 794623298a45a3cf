//! Random clients and a random operator against a plain array: every request is answered exactly once, whatever is done
//! to the disk meanwhile, and reads give what was written.

#![allow(clippy::unwrap_used, reason = "a test that cannot go on fails")]

mod support;

use std::{cell::Cell, collections::BTreeMap, rc::Rc, time::Duration};

use block_core::{ErrorKind, Tag};
use storage_io::{Buffer, Task};
use support::{Host, Script, range, spec};
use virtual_disk::{DiskState, Operation, Outcome, Settings};

const SLOT: usize = 4096;
const SLOTS: usize = 16;
const SOURCES: usize = 3;

struct Client {
    script: Script,
    _serving: Task<Script>,
    waiting: BTreeMap<Tag, Asked>,
}

struct Asked {
    slot: usize,
    written: Option<u8>,
}

struct World {
    host: Host,
    clients: Vec<Client>,
    /// What each slot holds. A write that failed was not let in, and has changed nothing.
    model: [u8; SLOTS],
    /// Slots with a request on its way: others leave them alone, since requests that overlap have no order.
    busy: [bool; SLOTS],
    answered: u64,
    /// The disk was closed by force while storage hung: the answers of what ran then never come, and its slots stay busy.
    was_stuck: Rc<Cell<bool>>,
    /// Deadlines are reached.
    time_passes: bool,
}

impl World {
    fn new(seed: u64) -> World {
        let host = Host::running(seed);
        let clients = (0..SOURCES).map(|_| {
            let script = Script::default();
            Client { _serving: host.disk.queue().serve(script.clone()), script, waiting: BTreeMap::new() }
        });
        World {
            clients: clients.collect(),
            host,
            model: [0; SLOTS],
            busy: [false; SLOTS],
            answered: 0,
            was_stuck: Rc::default(),
            time_passes: seed.is_multiple_of(4),
        }
    }

    fn random(&self, below: usize) -> usize {
        usize::try_from(self.host.executor.random() % below as u64).unwrap()
    }

    fn act(&mut self) {
        match self.random(20) {
            0 => self.operate(),
            1 => self.host.tap.close(),
            2 if self.time_passes && self.random(8) == 0 => _ = self.host.executor.advance_clock(),
            2 | 3 => self.host.tap.open(),
            4..=9 => self.ask(),
            _ => {
                self.host.executor.step();
            }
        }
        self.collect();
    }

    /// Somebody pauses, resumes or closes the disk, in whatever state it is.
    fn operate(&self) {
        let disk = self.host.disk.clone();
        let (choice, was_stuck) = (self.random(6), self.was_stuck.clone());
        let task = self.host.executor.spawn(async move {
            // What does not fit the state is refused, which is as good.
            let _ = match choice {
                0 => disk.pause(Some(Duration::from_secs(1))).await.map(drop),
                1 => disk.pause(None).await.map(drop),
                2 => disk.resume(None).await.map(drop),
                3 => disk.close().await,
                4 => disk.force_close().await.inspect_err(|_| was_stuck.set(true)),
                _ => disk.open(spec("/a"), Settings::default()).await.map(drop),
            };
        });
        task.detach();
    }

    fn ask(&mut self) {
        let slot = self.random(SLOTS);
        if std::mem::replace(&mut self.busy[slot], true) {
            return;
        }
        let byte = u8::try_from(self.random(255)).unwrap();
        let range = range((slot * SLOT) as u64, SLOT as u64);
        let (operation, written) = match self.random(2) {
            0 => (Operation::Read { range, buffer: Buffer::zeroed(SLOT) }, None),
            _ => {
                let buffer = Buffer::from_bytes(&[byte; SLOT]);
                (Operation::Write { range, buffer, durable: byte % 2 == 0 }, Some(byte))
            }
        };
        let chosen = self.random(SOURCES);
        let client = &mut self.clients[chosen];
        let tag = client.script.ask(operation);
        client.waiting.insert(tag, Asked { slot, written });
    }

    fn collect(&mut self) {
        for client in &mut self.clients {
            let tags: Vec<_> = client.waiting.keys().copied().collect();
            for tag in tags {
                let Some(outcome) = client.script.answer(tag) else { continue };
                let asked = client.waiting.remove(&tag).unwrap();
                self.busy[asked.slot] = false;
                self.answered += 1;
                match outcome {
                    Outcome::Read(buffer) => {
                        let expected = self.model[asked.slot];
                        assert!(buffer.to_vec().iter().all(|&byte| byte == expected), "slot {}", asked.slot);
                    }
                    Outcome::Done => self.model[asked.slot] = asked.written.unwrap(),
                    Outcome::Failed(error) => assert_eq!(error.kind(), ErrorKind::Closed),
                    Outcome::Extents(_) => panic!("nobody asked for extents"),
                }
            }
        }
    }

    /// Ends everything: all that was asked is answered, once.
    fn finish(mut self) -> u64 {
        self.host.tap.open();
        // Those who operate stand in line; the last word is ours.
        self.host.settle();
        self.host.executor.block_on(self.host.disk.close()).unwrap();
        self.host.settle();
        self.collect();
        assert_eq!(self.host.disk.status().state(), DiskState::Closed);
        let is_all_answered = self.clients.iter().all(|client| client.waiting.is_empty());
        assert!(is_all_answered || self.was_stuck.get(), "a request was never answered");
        self.answered
    }
}

#[test]
fn every_request_is_answered_once_whatever_is_done_to_the_disk() {
    let first = test_support::seed();
    let (mut answered, mut stuck) = (0, 0);
    for seed in (0..test_support::cycles(100, 5000)).map(|index| first.wrapping_add(index)) {
        println!("seed {seed:#x}");
        let mut world = World::new(seed);
        (0..600).for_each(|_| world.act());
        let was_stuck = world.was_stuck.clone();
        answered += world.finish();
        stuck += u64::from(was_stuck.get());
    }
    assert!(answered > 1000, "only {answered} requests");
    println!("{answered} requests were answered, {stuck} disks got stuck");
}
