//! The ring of a guest that means harm.

use std::{
    collections::HashMap,
    sync::{
        Arc,
        atomic::{AtomicBool, Ordering},
    },
    thread,
};

use block_core::Result;
use storage_io::Executor;
use wire::blkif::{Abi, OperationCode, Response, Segment, Status};
use xen::{
    Access, DomainId, GrantRef, PAGE_BYTES, Port,
    hosted::{EndAccess, Guest, GuestChannel},
};

use super::{
    HostileMode, Random,
    requests::{Expected, HostileRequest, Material},
};
use crate::ring::FrontRing;

/// A domain that has nothing to do with any of it.
const STRANGER: DomainId = DomainId(0x7123);
/// Pages whose grants are taken back under way, in each round.
const REVOKED_PAGES: usize = 8;
/// Turns of the executor after which they are, at most.
const TURNS: u64 = 16;
/// Complaints that a report keeps.
const COMPLAINTS_MAX: usize = 16;
/// What the first word of the ring is when it holds what is on the disk.
const DATA: u32 = u32::MAX;
/// Events in a storm, in each round.
const KICKS: usize = 64;

/// How a hostile frontend is made.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct HostileOptions {
    /// Where the backend runs.
    pub backend: DomainId,
    /// How the ring is laid out.
    pub abi: Abi,
    /// The ring has two to the power of this many pages.
    pub order: u32,
    /// Sectors of the disk.
    pub sectors: u64,
    /// What is random comes again with it.
    pub seed: u64,
}

/// What became of it, as far as the guest can tell.
#[derive(Clone, Debug, Default, PartialEq, Eq)]
pub struct HostileReport {
    /// Requests that were put into the ring, those that no backend should take among them.
    pub sent: u64,
    /// Answers, by what they said: done, failed, not offered.
    pub okay: u64,
    /// As above.
    pub failed: u64,
    /// As above.
    pub unsupported: u64,
    /// Pages that the backend still used when their request had been answered.
    pub stray_pages: u64,
    /// Answers that no backend may give. There should be none.
    pub complaints: Vec<String>,
}

/// A frontend that does what it likes, on one executor.
pub struct HostileFront {
    executor: Executor,
    guest: Guest,
    ring: FrontRing,
    channel: GuestChannel,
    backend: DomainId,
    material: Material,
    /// The pages of `material`, and their grants.
    pages: Vec<(u32, GrantRef)>,
    random: Random,
    next_id: u64,
    /// Requests without an answer: what they were, in order, by their names.
    asked: HashMap<u64, Vec<(OperationCode, Expected)>>,
    /// Data has come over the ring's indices: nothing that stands there means anything any more.
    is_overwritten: bool,
    report: HostileReport,
}

impl HostileFront {
    /// Makes a ring and leaves an end of an event channel open; the backend can be told of both.
    ///
    /// # Errors
    /// What the guest has run out of.
    pub fn new(executor: &Executor, guest: &Guest, options: HostileOptions) -> Result<HostileFront> {
        let HostileOptions { backend, abi, order, sectors, seed } = options;
        let ring = FrontRing::new(guest, backend, abi, order)?;
        let channel = guest.allocate_unbound(executor, backend)?;
        let pages = ["good", "list", "stranger's", "read-only", "outside", "far outside"]
            .into_iter()
            .map(|kind| {
                let page = guest.allocate_page()?;
                let (to, access) = match kind {
                    "stranger's" => (STRANGER, Access::Write),
                    "read-only" => (backend, Access::Read),
                    _ => (backend, Access::Write),
                };
                Ok((page, guest.grant(page, to, access)?))
            })
            .collect::<Result<Vec<_>>>()?;
        // Granted, of pages that the guest does not have.
        let granted = 1 | u32::from(backend.0) << 16;
        let end = u32::try_from(guest.memory().length() / PAGE_BYTES).unwrap_or(u32::MAX);
        guest.put_entry(pages[4].1, end, granted);
        guest.put_entry(pages[5].1, u32::MAX, granted);
        let grant = |index: usize| pages[index].1.0;
        let bad = vec![grant(2), grant(3), grant(4), grant(5), 32768, u32::MAX];
        let material = Material { abi, sectors: sectors.max(16), good: grant(0), list: grant(1), bad };
        Ok(HostileFront {
            executor: executor.clone(),
            guest: guest.clone(),
            ring,
            channel,
            backend,
            material,
            pages,
            random: Random::new(seed),
            next_id: 1,
            asked: HashMap::new(),
            is_overwritten: false,
            report: HostileReport::default(),
        })
    }

    /// The grants of the ring's pages, in order.
    pub fn ring_grants(&self) -> Vec<GrantRef> {
        self.ring.grants().to_vec()
    }

    /// The end of the event channel for the backend to bind to.
    pub fn port(&self) -> Port {
        self.channel.port()
    }

    /// Does it so many times. If that [breaks the ring](HostileMode::breaks_the_ring), it is done once, and no answer is
    /// waited for.
    ///
    /// # Errors
    /// When the platform has gone.
    pub async fn act(&mut self, mode: HostileMode, rounds: u64) -> Result<()> {
        self.fill_pages();
        let _flipper = (mode == HostileMode::FlippingMemory).then(|| self.flipper());
        if mode.breaks_the_ring() {
            return self.break_ring(mode).await;
        }
        for _ in 0..rounds {
            if self.is_overwritten {
                return Ok(());
            }
            match mode {
                HostileMode::KickStorm => self.storm().await,
                HostileMode::RevokedGrants => self.revoke_under_way().await?,
                _ => {
                    for _ in 0..self.ring.free() {
                        self.put_hostile(mode);
                    }
                    self.push();
                    self.take_answers(mode).await?;
                }
            }
        }
        Ok(())
    }

    /// Whether data has come over the ring's own indices, because slots that changed named its pages: the backend may stop
    /// the ring for it, and events may be lost.
    pub fn has_overwritten_its_ring(&self) -> bool {
        self.is_overwritten
    }

    /// After a ring was broken: goes on as if nothing had happened. A backend does not look there any more.
    pub fn go_on_regardless(&mut self) {
        self.put_hostile(HostileMode::DuplicateIds);
        self.ring.push();
        self.channel.notify();
    }

    /// How far the backend says that it has answered: once a ring is broken, this stays as it is.
    pub fn answered(&self) -> u32 {
        self.ring.answered()
    }

    /// What became of it until now.
    pub fn report(&self) -> &HostileReport {
        &self.report
    }

    /// Ends it: the backend has let go of the ring. Says how many pages of the ring it still has.
    ///
    /// # Errors
    /// When the platform has gone.
    pub fn release(self) -> Result<usize> {
        for (page, grant) in self.pages {
            if self.guest.end_access(grant)? == EndAccess::Ended {
                self.guest.free_page(page);
            }
        }
        self.ring.release()
    }

    /// Content of the pages: the first holds no segment, the second lists the first, again and again.
    fn fill_pages(&self) {
        let at = |index: usize| self.pages[index].0 as usize * PAGE_BYTES;
        self.guest.memory().copy_in(at(0), &[0xff; PAGE_BYTES]);
        let list: Vec<u8> = (0..PAGE_BYTES / 8).flat_map(|_| Segment::page(self.material.good).encode()).collect();
        self.guest.memory().copy_in(at(1), &list);
    }

    fn put_hostile(&mut self, mode: HostileMode) {
        let id = self.next_id;
        self.next_id += 1;
        let request = self.material.request(mode, id, &mut self.random);
        self.put(&request);
    }

    fn put(&mut self, request: &HostileRequest) {
        let slot = &request.slot;
        let id_at = if self.material.abi == Abi::X86_32 { 4 } else { 8 };
        let id = u64::from_le_bytes(*slot[id_at..].first_chunk().expect("a slot is longer"));
        let operation = match OperationCode::from_number(slot[0]) {
            OperationCode::Indirect => OperationCode::from_number(slot[1]),
            operation => operation,
        };
        self.asked.entry(id).or_default().push((operation, request.expected));
        self.report.sent += 1;
        self.ring.put(slot);
    }

    fn push(&self) {
        if self.ring.push() {
            self.channel.notify();
        }
    }

    /// Waits until all that was asked is answered.
    async fn take_answers(&mut self, mode: HostileMode) -> Result<()> {
        if mode == HostileMode::FlippingMemory {
            self.look_for_answers().await;
            return Ok(());
        }
        loop {
            while let Some(response) = self.ring.take() {
                self.judge(&response);
            }
            if self.ring.free() == self.ring.slots() {
                self.asked.clear();
                return Ok(());
            }
            if !self.ring.arm() {
                self.channel.wait().await?;
            }
        }
    }

    /// As above, while slots change: what was asked is not known, and it may have been data for the ring itself.
    async fn look_for_answers(&mut self) {
        while self.ring.free() < self.ring.slots() {
            match self.ring.try_take() {
                Ok(Some(response)) => self.count(response.status),
                Ok(None) if self.ring.produced() == self.ring.next_request() => self.executor.yield_now().await,
                Ok(None) | Err(_) => {
                    self.is_overwritten = true;
                    break;
                }
            }
        }
        self.asked.clear();
    }

    fn count(&mut self, status: Status) {
        let count = match status {
            Status::Okay => &mut self.report.okay,
            Status::Error => &mut self.report.failed,
            Status::Unsupported => &mut self.report.unsupported,
        };
        *count += 1;
    }

    fn judge(&mut self, response: &Response) {
        self.count(response.status);
        let asked = self.asked.get_mut(&response.id);
        let found = asked.and_then(|asked| {
            let index = asked.iter().position(|(operation, _)| *operation == response.operation)?;
            Some(asked.swap_remove(index))
        });
        let words = match found {
            None => "answers nothing that was asked",
            Some((_, Expected::Refused)) if response.status == Status::Okay => "says that nonsense was done",
            Some(_) => return,
        };
        if self.report.complaints.len() < COMPLAINTS_MAX {
            self.report.complaints.push(format!("{response:?} {words}"));
        }
    }

    async fn storm(&mut self) {
        for _ in 0..KICKS {
            self.channel.notify();
            self.executor.yield_now().await;
        }
    }

    /// Some grants are taken back before the backend can look, some while it may.
    async fn revoke_under_way(&mut self) -> Result<()> {
        let mut granted = Vec::with_capacity(REVOKED_PAGES);
        for index in 0..REVOKED_PAGES.min(self.ring.free() as usize) {
            let page = self.guest.allocate_page()?;
            let grant = self.guest.grant(page, self.backend, Access::Write)?;
            let sector = self.random.below(self.material.sectors / 8) * 8;
            let operation = u8::try_from(index % 2).expect("a bit");
            self.next_id += 1;
            let slot = self.material.transfer(operation, self.next_id, sector, grant.0);
            self.put(&HostileRequest { slot, expected: Expected::Anything });
            granted.push((page, grant));
        }
        let before = self.guest.end_access(granted[0].1)?;
        debug_assert_eq!(before, EndAccess::Ended, "nobody has seen it");
        self.push();
        for _ in 0..self.random.below(TURNS) {
            self.executor.yield_now().await;
        }
        let mut in_use = Vec::new();
        for (page, grant) in granted.drain(1..) {
            match self.guest.end_access(grant)? {
                EndAccess::Ended => self.guest.free_page(page),
                EndAccess::InUse => in_use.push((page, grant)),
            }
        }
        self.take_answers(HostileMode::RevokedGrants).await?;
        self.guest.free_page(granted[0].0);
        for (page, grant) in in_use {
            match self.guest.end_access(grant)? {
                EndAccess::Ended => self.guest.free_page(page),
                EndAccess::InUse => self.report.stray_pages += 1,
            }
        }
        Ok(())
    }

    async fn break_ring(&mut self, mode: HostileMode) -> Result<()> {
        // Something is on the disk, and the ring is in use.
        for (operation, grant) in [(1, self.material.good), (0, self.material.list)] {
            let slot = self.material.transfer(operation, self.next_id, 0, grant);
            self.next_id += 1;
            self.put(&HostileRequest { slot, expected: Expected::Anything });
            self.push();
            self.take_answers(mode).await?;
        }
        let begun = self.ring.next_request();
        match mode {
            HostileMode::Overrun => self.ring.set_produced(begun.wrapping_add(self.ring.slots() + 1)),
            HostileMode::TakeBack => self.ring.set_produced(begun.wrapping_sub(1)),
            _ => {
                let own = self.ring.grants()[0].0;
                let slot = self.material.transfer(0, self.next_id, 0, own);
                self.put(&HostileRequest { slot, expected: Expected::Anything });
                self.ring.push();
                self.channel.notify();
                // When the data has come, there is something to look at.
                while self.ring.memory().word(0).load(Ordering::SeqCst) != DATA {
                    self.executor.yield_now().await;
                }
            }
        }
        self.channel.notify();
        Ok(())
    }

    /// Writes to all that the backend may read, but the indices, until it is dropped.
    fn flipper(&self) -> Flipper {
        let stop = Arc::new(AtomicBool::new(false));
        let (guest, stopped, mut random) = (self.guest.clone(), stop.clone(), self.random.clone());
        let slots: Vec<u32> = self.ring.pages().to_vec();
        let data = [self.pages[0].0, self.pages[1].0];
        let thread = thread::spawn(move || {
            while !stopped.load(Ordering::Relaxed) {
                for _ in 0..64 {
                    let bytes = random.next().to_le_bytes();
                    let (page, first) = match random.below(2) {
                        0 => (slots[random.index(slots.len())], 64),
                        _ => (data[usize::from(bytes[0] % 2)], 0),
                    };
                    let offset = first + random.index((PAGE_BYTES - first) / 8) * 8;
                    let at = page as usize * PAGE_BYTES + offset;
                    // Sometimes few bytes: what was nearly right is nearly right again.
                    let length = 1 + usize::from(bytes[7] % 8);
                    guest.memory().copy_in(at, &bytes[..length]);
                }
                thread::yield_now();
            }
        });
        Flipper { stop, thread: Some(thread) }
    }
}

/// A thread that writes to memory until this is dropped.
struct Flipper {
    stop: Arc<AtomicBool>,
    thread: Option<thread::JoinHandle<()>>,
}

impl Drop for Flipper {
    fn drop(&mut self) {
        self.stop.store(true, Ordering::Relaxed);
        if let Some(thread) = self.thread.take() {
            // It has nothing to tell.
            let _ = thread.join();
        }
    }
}
