//! Whole lives of rings whose guests do anything in any order: nothing panics, every ring can be disconnected, nothing of
//! it is left, and neither the disk nor a neighbour is any worse for it.

use std::sync::atomic::Ordering;

use export::blkif::{ConnectedRing, Polling, RingFeatures, RingOptions};
use guest::FrontOptions;
use storage_io::{Fault, FaultRule, OperationKind};
use wire::blkif::{Abi, SLOT_BYTES_MAX, Segment};
use xen::{
    Access, GrantRef, PAGE_BYTES, SharedMemory,
    hosted::{EndAccess, GuestChannel},
};

use crate::{
    neighbour::Neighbour,
    world::{DISK_SECTORS, GUEST, HOST, OFFER, World, pattern},
};

const STEPS: u64 = 60;
const DATA_PAGES: usize = 6;

struct Random(u64);

impl Random {
    fn next(&mut self) -> u64 {
        self.0 ^= self.0 << 13;
        self.0 ^= self.0 >> 7;
        self.0 ^= self.0 << 17;
        self.0
    }

    fn index(&mut self, count: usize) -> usize {
        usize::try_from(self.next() % count as u64).unwrap()
    }

    fn one_in(&mut self, count: usize) -> bool {
        self.index(count) == 0
    }

    fn byte(&mut self) -> u8 {
        self.next().to_le_bytes()[2]
    }
}

/// A guest's memory, and what it does to it.
struct Session<'a> {
    world: &'a World,
    random: Random,
    abi: Abi,
    ring: SharedMemory,
    ring_pages: Vec<(u32, GrantRef)>,
    data: Vec<(u32, GrantRef)>,
    /// Grants that were taken back while somebody had the page, and one that nobody uses.
    in_use: Vec<(u32, GrantRef)>,
    produced: u32,
    slots: u32,
    channel: GuestChannel,
    /// It writes over its slots while they are looked at.
    scribbles: bool,
    /// It has written nonsense over the indices.
    has_lied: bool,
}

impl<'a> Session<'a> {
    fn new(world: &'a World, seed: u64) -> Session<'a> {
        let mut random = Random(seed | 1);
        let abi = if random.one_in(2) { Abi::X86_64 } else { Abi::X86_32 };
        let order = u32::try_from(if random.one_in(8) { 4 } else { random.index(3) }).unwrap();
        let page = |access| {
            let page = world.guest.allocate_page().unwrap();
            (page, world.guest.grant(page, HOST, access).unwrap())
        };
        // Zeroes in a list of segments name this one, and not the ring.
        let first = page(Access::Read);
        let ring_pages: Vec<_> = (0..1 << order).map(|_| page(Access::Write)).collect();
        let data = (0..DATA_PAGES).map(|index| page(if index == 0 { Access::Read } else { Access::Write })).collect();
        let ring = world.guest.map_pages(&ring_pages.iter().map(|(page, _)| *page).collect::<Vec<_>>()).unwrap();
        ring.copy_in(0, &vec![0; ring.length()]);
        let channel = world.guest.allocate_unbound(&world.executor, HOST).unwrap();
        let slots = abi.slots(order).unwrap();
        let (in_use, produced, scribbles, has_lied) = (vec![first], 0, random.one_in(3), false);
        Session { world, random, abi, ring, ring_pages, data, in_use, produced, slots, channel, scribbles, has_lied }
    }

    fn connect(&mut self) -> ConnectedRing {
        let polling = self.random.one_in(3).then(|| Polling { window: std::time::Duration::from_micros(50) });
        let options = RingOptions {
            domain: GUEST,
            pages: self.ring_pages.iter().map(|(_, grant)| *grant).collect(),
            port: self.channel.port(),
            abi: self.abi,
            offer: OFFER,
            features: RingFeatures { persistent: self.random.one_in(2), polling },
            read_only: self.random.one_in(8),
        };
        let World { disk, grants, channels, .. } = self.world;
        ConnectedRing::connect(&disk.queue(), grants.clone(), channels, &options).unwrap()
    }

    fn word(&self, at: usize) -> u32 {
        self.ring.word(at).load(Ordering::SeqCst)
    }

    /// A slot that is random, or nearly makes sense.
    fn slot(&mut self) -> [u8; SLOT_BYTES_MAX] {
        let mut slot: [u8; SLOT_BYTES_MAX] = std::array::from_fn(|_| self.random.byte());
        if self.random.one_in(4) {
            return slot;
        }
        let id_at = if self.abi == Abi::X86_32 { 4 } else { 8 };
        (slot[0], slot[1]) = (self.random.byte() % 7, self.random.byte() % 13);
        let sector = self.random.next() % DISK_SECTORS;
        slot[id_at + 8..id_at + 16].copy_from_slice(&sector.to_le_bytes());
        for at in (id_at + 16..id_at + 16 + 11 * 8).step_by(8) {
            let segment = Segment::page(self.grant()).encode();
            slot[at..at + 8].copy_from_slice(&segment);
        }
        if slot[0] == 6 {
            slot[1] %= 2;
            slot[2..4].copy_from_slice(&(self.random.next() % 300).to_le_bytes()[..2]);
            let grant = self.grant();
            slot[id_at + 20..id_at + 24].copy_from_slice(&grant.to_le_bytes());
        }
        slot
    }

    fn grant(&mut self) -> u32 {
        let index = self.random.index(self.data.len() + 1);
        match self.data.get(index) {
            Some((_, grant)) => grant.0,
            // The ring itself, which data may overwrite.
            None if self.random.one_in(3000) => {
                self.has_lied = true;
                self.ring_pages[0].1.0
            }
            None => (1 + u32::from(self.random.byte())) << 16,
        }
    }

    /// Requests, as many as there is room for; sometimes a few more.
    fn produce(&mut self) {
        let room = self.slots.wrapping_sub(self.produced.wrapping_sub(self.word(8)));
        let mut count = u32::from(self.random.byte()) % 12;
        match self.random.one_in(300) {
            true => self.has_lied = true,
            false => count = count.min(room),
        }
        for _ in 0..count {
            let slot = self.slot();
            let at = self.abi.slot_offset(self.produced, self.slots);
            self.ring.copy_in(at, &slot[..self.abi.slot_bytes()]);
            self.produced = self.produced.wrapping_add(1);
        }
        self.ring.word(0).store(self.produced, Ordering::SeqCst);
        if !self.random.one_in(4) {
            self.channel.notify();
        }
    }

    /// What no guest should do to its ring.
    fn lie(&mut self) {
        let value = match self.random.index(4) {
            0 => self.produced.wrapping_sub(1 + u32::from(self.random.byte()) % 8),
            1 => self.produced.wrapping_add(u32::from(self.random.byte())),
            2 => u32::from_le_bytes(*self.random.next().to_le_bytes().first_chunk().unwrap()),
            _ => 0,
        };
        // The events that it wants are its own affair; the rest is a lie.
        let at = [0, 4, 8, 12, 12, 12][self.random.index(6)];
        self.has_lied |= at == 0 || at == 8;
        self.ring.word(at).store(value, Ordering::SeqCst);
    }

    /// Takes a grant back, or gives it for something else.
    fn change_grant(&mut self) {
        let index = self.random.index(self.data.len());
        let guest = &self.world.guest;
        if self.random.one_in(2) {
            let flags = self.random.next().to_le_bytes();
            // Any page, but none of the ring's.
            guest.put_entry(self.data[index].1, 16 + (u32::from(flags[0]) << 4), u32::from(flags[1] % 4));
            return;
        }
        let (page, grant) = self.data[index];
        match guest.end_access(grant).unwrap() {
            EndAccess::Ended => guest.free_page(page),
            EndAccess::InUse => self.in_use.push((page, grant)),
        }
        let page = guest.allocate_page().unwrap();
        self.data[index] = (page, guest.grant(page, HOST, Access::Write).unwrap());
    }

    /// Lists of segments, or anything, in a page of data.
    fn fill(&mut self) {
        let index = self.random.index(self.data.len());
        let segments = (0..PAGE_BYTES / 8).flat_map(|_| match self.random.one_in(400) {
            true => self.random.next().to_le_bytes(),
            false => Segment::page(self.grant()).encode(),
        });
        let bytes: Vec<u8> = segments.collect();
        self.world.guest.memory().copy_in(self.data[index].0 as usize * PAGE_BYTES, &bytes);
    }

    fn scribble(&mut self) {
        // A grant may become one of the ring's own pages.
        self.has_lied = true;
        let at = 64 + self.random.index(self.ring.length() - 72);
        self.ring.copy_in(at, &self.random.next().to_le_bytes());
    }

    async fn yields(&mut self) {
        for _ in 0..self.random.index(12) {
            self.world.executor.yield_now().await;
        }
    }

    async fn step(&mut self) {
        match self.random.index(40) {
            0..16 => self.produce(),
            16..20 => self.channel.notify(),
            20..23 => self.change_grant(),
            23..26 => self.fill(),
            26..28 if self.scribbles => self.scribble(),
            28 => {
                self.lie();
                self.channel.notify();
                self.yields().await;
            }
            29 => {
                self.world.disk.pause(None).await.unwrap();
                self.produce();
                self.yields().await;
                self.world.disk.resume(None).await.unwrap();
            }
            30 => {
                let kinds = [OperationKind::Read, OperationKind::Write];
                let fault = Fault::error([5, 28, 95][self.random.index(3)]);
                self.world
                    .faults
                    .add(FaultRule::once_after(self.random.next() % 4, fault).of(kinds[self.random.index(2)]));
            }
            _ => self.yields().await,
        }
    }

    /// Gives everything back; the backend has let go.
    fn end(self) {
        let Session { world, ring_pages, data, in_use, ring, .. } = self;
        drop(ring);
        for (page, grant) in ring_pages.into_iter().chain(data).chain(in_use) {
            assert_eq!(world.guest.end_access(grant).unwrap(), EndAccess::Ended, "somebody has kept a page");
            world.guest.free_page(page);
        }
    }
}

/// A few lives of one ring, one after the other; says whether it was found out.
async fn live(world: &World, seed: u64) -> bool {
    let mut session = Session::new(world, seed);
    let mut is_broken = false;
    for _ in 0..1 + session.random.index(2) {
        let ring = session.connect();
        for _ in 0..STEPS {
            session.step().await;
        }
        world.faults.clear();
        let end = ring.disconnect().await;
        assert_eq!((end.pages.mapped, end.pages.leaked), (0, 0), "{seed:#x}: {end:?}");
        assert!(end.broken.is_none() || session.has_lied, "{seed:#x}: {end:?} of a ring whose indices made sense");
        is_broken |= end.broken.is_some();
        // Whoever comes next begins with a ring that makes sense.
        session.ring.copy_in(0, &[0; 16]);
        (session.produced, session.has_lied) = (0, false);
        session.channel = world.guest.allocate_unbound(&world.executor, HOST).unwrap();
    }
    session.end();
    is_broken
}

#[test]
fn whatever_a_guest_does_in_whatever_order() {
    let world = World::new();
    let seed = test_support::seed();
    let lives = test_support::cycles(60, 6000);
    world.run(async {
        let neighbour = Neighbour::new(&world);
        let mut broken = 0;
        for number in 0..lives {
            broken += u64::from(live(&world, seed ^ (number + 1).wrapping_mul(0x9e37_79b9_7f4a_7c15)).await);
        }
        println!("{broken} of {lives} guests were found out; {} rounds of the neighbour", neighbour.rounds());
        assert!(neighbour.rounds() >= lives);
        neighbour.end().await;
        let (front, ring) = world.front(FrontOptions::default());
        front.write(0, &pattern(8, 1)).await.unwrap();
        assert_eq!(front.read(0, 8).await.unwrap(), pattern(8, 1), "the disk is as good as before");
        ring.disconnect().await;
        front.release_ring().unwrap();
    });
    world.is_clean();
}
