//! Random clients on several queues, failing storage and a random operator against a plain array: every request is
//! answered exactly once, whatever is done to the disk meanwhile, reads give what was written, and what each state
//! promises holds after every single step.

#![allow(clippy::unwrap_used, reason = "a test that cannot go on fails")]

#[path = "../support/mod.rs"]
mod support;

mod invariants;
mod operator;

use std::{
    cell::{Cell, RefCell},
    collections::{BTreeMap, HashSet},
    rc::Rc,
};

use block_core::{ErrorKind, Tag};
use image_chain::{ChainSpec, Writing};
use invariants::Watch;
use operator::Operator;
use storage_io::{Buffer, Fault, FaultRule, OperationKind, Task};
use support::{Host, Script, range, spec, vhd_options, vhd_spec};
use virtual_disk::{DiskQueue, DiskState, Operation, Outcome, Settings};

const SLOT: usize = 4096;
const SLOTS: usize = 64;
/// From slot to slot: several in each block of a VHD.
const STRIDE: u64 = 1 << 16;
const SOURCES: usize = 4;

/// What fails in some world, and often enough to be met in every run.
const STRUCK: [OperationKind; 9] = [
    OperationKind::Read,
    OperationKind::Write,
    OperationKind::Sync,
    OperationKind::Discard,
    OperationKind::WriteZeroes,
    OperationKind::SetLength,
    OperationKind::Unlock,
    OperationKind::Lock,
    OperationKind::Open,
];

const EAGAIN: i32 = 11;
const ENOSPC: i32 = 28;

struct Client {
    script: Script,
    serving: Task<Script>,
    /// Which of the queues serves it.
    queue: usize,
    waiting: BTreeMap<Tag, Asked>,
}

struct Asked {
    slot: usize,
    change: Change,
    /// It was on its way while the disk was stuck: its answer may have been given up.
    may_be_lost: bool,
}

/// What a request does to its slot.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
enum Change {
    /// It reads.
    None,
    /// It puts this there; zero for what must read as zeroes.
    Put { byte: u8, durable: bool },
    /// Zero or what was there before: nobody cares.
    Discard,
}

#[derive(Clone)]
struct Slot {
    /// What it may hold: a change that failed may have been done.
    holds: Vec<u8>,
    /// With a request on its way: others leave it alone, since requests that overlap have no order.
    is_busy: bool,
}

struct World {
    host: Host,
    clients: Vec<Client>,
    /// Home's own first.
    queues: Vec<DiskQueue>,
    slots: Vec<Slot>,
    operator: Rc<Operator>,
    watch: Watch,
    answered: u64,
    failed: u64,
    /// Requests whose answers never come: their queue has died.
    lost: u64,
    /// Deadlines are reached.
    time_passes: bool,
    is_vhd: bool,
}

impl World {
    fn new(seed: u64) -> World {
        let host = Host::new(seed);
        let is_vhd = seed % 3 == 1;
        let first = if is_vhd {
            host.put_vhd("/image0", &vhd_options(1, 8 << 20, 32 << 20));
            vhd_spec("/image0")
        } else {
            host.put_raw("/image0", 8 << 20);
            spec("/image0")
        };
        // Some take write access with their first writer only.
        let writing = if seed % 4 == 2 { Writing::Later } else { Writing::Now };
        let first = ChainSpec { writing, ..first };
        host.run(async move |disk| disk.open(first, Settings::default()).await).unwrap();
        let queues = vec![host.disk.queue(), host.add_queue(), host.add_queue()];
        let operator = Operator::new(&host, is_vhd, writing);
        let mut world = World {
            clients: Vec::new(),
            watch: Watch::new(&host),
            operator,
            host,
            queues,
            slots: vec![Slot { holds: vec![0], is_busy: false }; SLOTS],
            answered: 0,
            failed: 0,
            lost: 0,
            time_passes: seed.is_multiple_of(2),
            is_vhd,
        };
        (0..SOURCES).for_each(|index| world.connect(index % 3));
        world
    }

    fn random(&self, below: usize) -> usize {
        usize::try_from(self.host.executor.random() % below as u64).unwrap()
    }

    /// A new client of a queue.
    fn connect(&mut self, queue: usize) {
        let script = Script::default();
        let serving = self.queues[queue].serve(script.clone());
        self.clients.push(Client { serving, script, queue, waiting: BTreeMap::new() });
    }

    fn act(&mut self) {
        match self.random(480) {
            0..=9 => {
                if self.random(2) == 0 {
                    self.spoil_work();
                }
                self.operator.act(&self.host);
            }
            10..=15 => self.host.tap.close(),
            16..=35 if self.time_passes => _ = self.host.advance(),
            16..=65 => self.host.tap.open(),
            66..=71 => self.spoil(),
            72..=75 => {
                self.host.faults.clear();
                self.host.open_faults.clear();
            }
            76 => self.kill_or_add(),
            80..=180 => self.ask(),
            _ => _ = self.host.step(),
        }
        self.look();
        self.collect();
    }

    fn look(&mut self) {
        self.watch.look(&self.host);
        if self.host.disk.status().state() == DiskState::Stuck {
            let waiting = self.clients.iter_mut().flat_map(|client| client.waiting.values_mut());
            waiting.for_each(|asked| asked.may_be_lost = true);
        }
    }

    /// Some of the operations to come fail: a few in a way that passes, one for good, and rarely a sync.
    fn spoil(&mut self) {
        use OperationKind::*;
        let kind = [Read, Read, Write, Write, Discard, WriteZeroes][self.random(6)];
        let rule = match self.random(20) {
            0 => FaultRule::once_after(0, Fault::error(ENOSPC)).of(Sync),
            1..=6 => FaultRule::once_after(self.random(4) as u64, Fault::error(ENOSPC)).of(kind),
            _ => FaultRule { times: self.random(6) as u64, ..FaultRule::every(Fault::error(EAGAIN)) }.of(kind),
        };
        self.host.faults.add(rule);
    }

    /// What is done to the disk next may fail: not at its requests, but at the disk's own work.
    fn spoil_work(&mut self) {
        use OperationKind::*;
        let kind = [Open, SetLength, Allocate, Lock, Unlock][self.random(5)];
        let script = if kind == Open { &self.host.open_faults } else { &self.host.faults };
        script.add(FaultRule::once_after(0, Fault::error(ENOSPC)).of(kind));
    }

    /// The thread of a queue dies with all that it was doing; or there is a new one.
    fn kill_or_add(&mut self) {
        if self.random(3) == 0 || self.queues.len() == 1 {
            let queue = self.host.add_queue();
            self.queues.push(queue);
            self.connect(self.queues.len() - 1);
            return;
        }
        let killed = 1 + self.random(self.queues.len() - 1);
        for client in self.clients.extract_if(.., |client| client.queue == killed) {
            // Nobody waits for these any more, and nobody knows what became of them.
            self.lost += client.waiting.len() as u64;
            drop(client.serving);
        }
        self.clients.iter_mut().filter(|client| client.queue > killed).for_each(|client| client.queue -= 1);
        drop(self.queues.remove(killed));
        let executor = self.host.others.borrow_mut().remove(killed - 1);
        executor.end_tasks();
    }

    fn ask(&mut self) {
        let slot = self.random(SLOTS);
        if self.clients.is_empty() || std::mem::replace(&mut self.slots[slot].is_busy, true) {
            return;
        }
        let byte = u8::try_from(self.random(255)).unwrap();
        let (range, durable) = (range(slot as u64 * STRIDE, SLOT as u64), byte % 8 == 0);
        let (operation, change) = match self.random(8) {
            0 => (Operation::Discard { range, durable }, Change::Discard),
            1 => {
                let operation = Operation::WriteZeroes { range, may_free: byte % 2 == 0, fast_only: false, durable };
                (operation, Change::Put { byte: 0, durable })
            }
            2..=4 => {
                let buffer = Buffer::from_bytes(&[byte; SLOT]);
                (Operation::Write { range, buffer, durable }, Change::Put { byte, durable })
            }
            _ => (Operation::Read { range, buffer: Buffer::zeroed(SLOT) }, Change::None),
        };
        let chosen = self.random(self.clients.len());
        let client = &mut self.clients[chosen];
        let tag = client.script.ask(operation);
        client.waiting.insert(tag, Asked { slot, change, may_be_lost: false });
    }

    fn collect(&mut self) {
        let mut answers = Vec::new();
        for client in &mut self.clients {
            let ready: Vec<_> =
                client.waiting.keys().filter_map(|tag| Some((*tag, client.script.answer(*tag)?))).collect();
            answers.extend(ready.into_iter().map(|(tag, outcome)| (client.waiting.remove(&tag).unwrap(), outcome)));
        }
        answers.into_iter().for_each(|(asked, outcome)| self.judge(&asked, outcome));
    }

    fn judge(&mut self, asked: &Asked, outcome: Outcome) {
        self.answered += 1;
        let slot = &mut self.slots[asked.slot];
        slot.is_busy = false;
        match (outcome, asked.change) {
            (Outcome::Read(buffer), Change::None) => {
                let found = buffer.to_vec();
                assert!(found.iter().all(|byte| *byte == found[0]), "slot {} is torn", asked.slot);
                assert!(slot.holds.contains(&found[0]), "slot {}: {} not in {:?}", asked.slot, found[0], slot.holds);
                slot.holds = vec![found[0]];
            }
            (Outcome::Done, Change::Put { byte, .. }) => slot.holds = vec![byte],
            (Outcome::Done, Change::Discard) => slot.holds.push(0),
            (Outcome::Failed(error), change) => {
                self.failed += 1;
                let is_ours = matches!(error.os_error(), Some(EAGAIN | ENOSPC));
                // Nothing has been written of what got no write access.
                let is_refused = matches!(error.kind(), ErrorKind::Closed | ErrorKind::NotPermitted);
                assert!(is_ours || is_refused, "{error}");
                // What a storage refuses before it begins has changed no byte of a raw image.
                match change {
                    Change::Put { byte, durable } if is_ours && (self.is_vhd || durable) => slot.holds.push(byte),
                    Change::Discard if is_ours => slot.holds.push(0),
                    _ => {}
                }
            }
            (outcome, _) => panic!("not what was asked for: {outcome:?}"),
        }
    }

    /// Runs everything that can run without time passing.
    fn settle(&mut self) {
        while self.host.step() {
            self.look();
        }
    }

    /// Ends everything: all that was asked is answered, once.
    fn finish(mut self) -> Story {
        self.host.tap.open();
        self.host.faults.clear();
        self.host.open_faults.clear();
        // Those who operate stand in line; the last word is ours.
        self.settle();
        let closing = self.host.begin(async |disk| disk.close().await);
        self.settle();
        while !closing.is_done() {
            assert!(self.host.advance(), "nobody will ever end this");
            self.settle();
        }
        let closed = closing.result();
        self.collect();
        // A failed sync, or durable write, is told again by every flush.
        let is_told_again = |error: &block_core::Error| matches!(error.os_error(), Some(EAGAIN | ENOSPC));
        assert!(closed.as_ref().err().is_none_or(is_told_again), "{closed:?}");
        assert_eq!(self.host.disk.status().state(), DiskState::Closed);
        self.operator.check_all_ended();
        let was_stuck = self.operator.was_stuck.get();
        let mut waiting = self.clients.iter().flat_map(|client| client.waiting.values());
        assert!(waiting.all(|asked| asked.may_be_lost), "a request was never answered");
        self.watch.check_end(&self.host, self.queues.len());
        let Watch { states, retries, struck, .. } = self.watch;
        Story { answered: self.answered, failed: self.failed, lost: self.lost, was_stuck, states, retries, struck }
    }
}

/// What happened in one world.
struct Story {
    answered: u64,
    failed: u64,
    lost: u64,
    was_stuck: bool,
    states: BTreeMap<u8, u64>,
    retries: u64,
    struck: HashSet<OperationKind>,
}

#[test]
fn every_request_is_answered_once_whatever_is_done_to_the_disk() {
    let first = test_support::seed();
    let (mut answered, mut failed, mut lost, mut stuck, mut retries) = (0, 0, 0, 0, 0);
    let (mut states, mut struck) = (BTreeMap::new(), HashSet::new());
    for seed in (0..test_support::cycles(120, 2000)).map(|index| first.wrapping_add(index)) {
        println!("seed {seed:#x}");
        let mut world = World::new(seed);
        (0..4000).for_each(|_| world.act());
        let story = world.finish();
        answered += story.answered;
        failed += story.failed;
        lost += story.lost;
        stuck += u64::from(story.was_stuck);
        retries += story.retries;
        struck.extend(story.struck);
        story.states.into_iter().for_each(|(state, times)| *states.entry(state).or_insert(0) += times);
    }
    println!("{answered} answered, {failed} with a failure, {lost} lost, {retries} retries, {stuck} disks got stuck");
    let entered: Vec<_> = DiskState::ALL.into_iter().map(|state| (state, states.get(&(state as u8)))).collect();
    println!("{entered:?}, struck {struck:?}");
    assert!(answered > 10_000 && failed > 100 && retries > 100, "not much happened");
    let spared: Vec<_> = STRUCK.iter().filter(|kind| !struck.contains(kind)).collect();
    assert!(spared.is_empty(), "never failed: {spared:?}");
    let rare = [DiskState::Attached, DiskState::Stuck];
    let never = entered.iter().find(|(state, times)| times.is_none() && !rare.contains(state));
    assert!(never.is_none(), "{never:?} was never met");
}

/// Shared with what the operator has begun.
type Shared<T> = Rc<RefCell<T>>;
/// A flag of the same kind.
type Flag = Rc<Cell<bool>>;
