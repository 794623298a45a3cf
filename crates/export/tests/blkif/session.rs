//! A guest that does with its ring, its memory and its grants whatever some bytes say: nothing panics, no request is answered
//! twice, every ring can be disconnected, nothing of it is left, and neither the disk nor a neighbour is any worse for it.

use std::{collections::HashMap, sync::atomic::Ordering};

use export::blkif::{ConnectedRing, Polling, RingFeatures, RingOptions};
use futures_util::future::join;
use guest::FrontOptions;
use storage_io::{Fault, FaultRule, OperationKind};
use test_support::Choices;
use wire::blkif::{Abi, RawRequest, Response, SLOT_BYTES_MAX, Segment};
use xen::{
    Access, GrantRef, PAGE_BYTES, SharedMemory,
    hosted::{EndAccess, GuestChannel},
};

use crate::{
    neighbour::Neighbour,
    world::{DISK_SECTORS, GUEST, HOST, OFFER, World, pattern},
};

/// Steps of one life, if the bytes suffice.
const STEPS: usize = 60;
const DATA_PAGES: usize = 6;

/// A guest's memory, and what it does to it.
struct Session<'a> {
    world: &'a World,
    choices: Choices<'a>,
    abi: Abi,
    ring: SharedMemory,
    ring_pages: Vec<(u32, GrantRef)>,
    data: Vec<(u32, GrantRef)>,
    /// Grants that were taken back while somebody had the page, and one that nobody uses.
    in_use: Vec<(u32, GrantRef)>,
    produced: u32,
    slots: u32,
    /// Requests that wait for an answer, by their names.
    asked: HashMap<u64, u32>,
    /// Up to where answers were taken.
    taken: u32,
    /// How many.
    answers: u64,
    channel: GuestChannel,
    /// It writes over its slots while they are looked at.
    scribbles: bool,
    /// It has written nonsense over the indices, or has had data written over the ring: what the disk holds since then may
    /// do so again.
    has_lied: bool,
}

impl<'a> Session<'a> {
    fn new(world: &'a World, bytes: &'a [u8]) -> Session<'a> {
        let mut choices = Choices::new(bytes);
        let abi = if choices.one_in(2) { Abi::X86_64 } else { Abi::X86_32 };
        let order = u32::try_from(if choices.one_in(8) { 4 } else { choices.index(3) }).unwrap();
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
        Session {
            world,
            scribbles: choices.one_in(3),
            choices,
            abi,
            ring,
            ring_pages,
            data,
            in_use: vec![first],
            produced: 0,
            slots,
            asked: HashMap::new(),
            taken: 0,
            answers: 0,
            channel,
            has_lied: false,
        }
    }

    fn connect(&mut self) -> ConnectedRing {
        let polling = self.choices.one_in(3).then(|| Polling { window: std::time::Duration::from_micros(50) });
        let options = RingOptions {
            domain: GUEST,
            pages: self.ring_pages.iter().map(|(_, grant)| *grant).collect(),
            port: self.channel.port(),
            abi: self.abi,
            offer: OFFER,
            features: RingFeatures { persistent: self.choices.one_in(2), polling },
            read_only: self.choices.one_in(8),
            adopted: false,
            repeats_changes: true,
        };
        let World { disk, grants, channels, .. } = self.world;
        ConnectedRing::connect(&disk.queue(), grants.clone(), channels, &options).unwrap()
    }

    fn word(&self, at: usize) -> u32 {
        self.ring.word(at).load(Ordering::SeqCst)
    }

    /// A slot that is anything, or nearly makes sense.
    fn slot(&mut self) -> [u8; SLOT_BYTES_MAX] {
        if self.choices.one_in(8) {
            let slot = self.choices.array();
            self.has_lied |= self.names_the_ring(&slot);
            return slot;
        }
        let mut slot = [0; SLOT_BYTES_MAX];
        let id_at = if self.abi == Abi::X86_32 { 4 } else { 8 };
        let (sector_at, body_at) = (id_at + 8, id_at + 16);
        (slot[0], slot[1]) = (self.choices.byte() % 7, self.choices.byte() % 13);
        // Few names: some requests have the same.
        slot[id_at] = self.choices.byte() % 64;
        let sector = match self.choices.index(8) {
            0 => DISK_SECTORS.wrapping_sub(u64::from(self.choices.byte())),
            1 => self.choices.number(),
            _ => u64::from(self.choices.byte()),
        };
        slot[sector_at..body_at].copy_from_slice(&sector.to_le_bytes());
        match slot[0] {
            5 => slot[body_at..body_at + 8]
                .copy_from_slice(&(u64::MAX >> (self.choices.byte() % 65).min(63)).to_le_bytes()),
            6 => {
                slot[1] %= 3;
                slot[2..4].copy_from_slice(&u16::try_from(self.choices.index(300)).unwrap().to_le_bytes());
                let grant = self.grant();
                slot[body_at + 4..body_at + 8].copy_from_slice(&grant.to_le_bytes());
            }
            _ => {
                for at in (body_at..).step_by(8).take(usize::from(slot[1].min(11))) {
                    let segment = self.segment();
                    slot[at..at + 8].copy_from_slice(&segment);
                }
            }
        }
        slot
    }

    /// A whole page, or some of its sectors, or what is no segment.
    fn segment(&mut self) -> [u8; 8] {
        let mut segment = Segment::page(self.grant()).encode();
        if self.choices.one_in(4) {
            let sectors = self.choices.byte();
            (segment[4], segment[5]) = (sectors % 9, sectors / 9 % 9);
        }
        segment
    }

    /// Whether data may go over the ring itself: one of its pages is named where a grant may be.
    fn names_the_ring(&self, bytes: &[u8]) -> bool {
        let mut words = bytes.as_chunks::<4>().0.iter().map(|word| u32::from_le_bytes(*word));
        words.any(|word| self.ring_pages.iter().any(|(_, grant)| grant.0 == word))
    }

    fn grant(&mut self) -> u32 {
        let index = self.choices.index(self.data.len() + 1);
        match self.data.get(index) {
            Some((_, grant)) => grant.0,
            // The ring itself, which data may overwrite.
            None if self.choices.one_in(1000) => {
                self.has_lied = true;
                self.ring_pages[0].1.0
            }
            None => (1 + u32::from(self.choices.byte())) << 16,
        }
    }

    /// Requests, as many as there is room for; sometimes a few more.
    fn produce(&mut self) {
        self.take_answers();
        let room = self.slots.wrapping_sub(self.produced.wrapping_sub(self.word(8)));
        let mut count = u32::from(self.choices.byte()) % 12;
        match self.choices.one_in(300) {
            true => self.has_lied |= count > room,
            false => count = count.min(room),
        }
        for _ in 0..count {
            let slot = self.slot();
            let at = self.abi.slot_offset(self.produced, self.slots);
            self.ring.copy_in(at, &slot[..self.abi.slot_bytes()]);
            *self.asked.entry(RawRequest::new(self.abi, slot).id()).or_default() += 1;
            self.produced = self.produced.wrapping_add(1);
        }
        self.ring.word(0).store(self.produced, Ordering::SeqCst);
        if !self.choices.one_in(4) {
            self.channel.notify();
        }
    }

    /// Each answer belongs to a request that has had none; where the ring makes no sense any more, nobody can tell.
    fn take_answers(&mut self) {
        let made = self.word(8);
        if self.has_lied {
            return;
        }
        assert!(made.wrapping_sub(self.taken) <= self.produced.wrapping_sub(self.taken), "more answers than requests");
        while self.taken != made {
            let mut answer = [0; 16];
            self.ring.copy_out(self.abi.slot_offset(self.taken, self.slots), &mut answer);
            let answer = Response::decode(&answer);
            let waiting = self.asked.get_mut(&answer.id).filter(|waiting| **waiting > 0);
            *waiting.unwrap_or_else(|| panic!("{answer:?} answers nothing")) -= 1;
            self.taken = self.taken.wrapping_add(1);
            self.answers += 1;
        }
    }

    /// What no guest should do to its ring.
    fn lie(&mut self) {
        let value = match self.choices.index(4) {
            0 => self.produced.wrapping_sub(1 + u32::from(self.choices.byte()) % 8),
            1 => self.produced.wrapping_add(u32::from(self.choices.byte())),
            2 => u32::from_le_bytes(*self.choices.number().to_le_bytes().first_chunk().unwrap()),
            _ => 0,
        };
        // The events that it wants are its own affair; the rest is a lie.
        let at = [0, 4, 8, 12, 12, 12][self.choices.index(6)];
        self.has_lied |= at == 0 || at == 8;
        self.ring.word(at).store(value, Ordering::SeqCst);
    }

    /// Takes a grant back, or gives it for something else.
    fn change_grant(&mut self) {
        let index = self.choices.index(self.data.len());
        let guest = &self.world.guest;
        if self.choices.one_in(2) {
            let (page, flags) = (u32::from(self.choices.byte()) << 4, u32::from(self.choices.byte() % 4));
            // Any page, but none of the ring's.
            if self.ring_pages.iter().all(|(of_ring, _)| *of_ring != page) {
                guest.put_entry(self.data[index].1, page, flags);
            }
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
        let index = self.choices.index(self.data.len());
        let few: Vec<[u8; 8]> = (0..1 + self.choices.index(8)).map(|_| self.segment()).collect();
        let mut bytes: Vec<u8> = few.into_iter().cycle().take(PAGE_BYTES / 8).flatten().collect();
        if self.choices.one_in(4) {
            let (at, segment) = (self.choices.index(PAGE_BYTES / 8) * 8, self.choices.array::<8>());
            self.has_lied |= self.names_the_ring(&segment);
            bytes[at..at + 8].copy_from_slice(&segment);
        }
        self.world.guest.memory().copy_in(self.data[index].0 as usize * PAGE_BYTES, &bytes);
    }

    fn scribble(&mut self) {
        // A grant may become one of the ring's own pages.
        self.has_lied = true;
        let at = 64 + self.choices.index(self.ring.length() - 72);
        self.ring.copy_in(at, &self.choices.number().to_le_bytes());
    }

    async fn yields(&mut self) {
        for _ in 0..self.choices.index(12) {
            self.world.executor.yield_now().await;
        }
    }

    async fn step(&mut self) {
        match self.choices.index(40) {
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
                let fault = Fault::error([5, 28, 95][self.choices.index(3)]);
                self.world
                    .faults
                    .add(FaultRule::once_after(self.choices.number() % 4, fault).of(kinds[self.choices.index(2)]));
            }
            _ => self.yields().await,
        }
    }

    /// Whoever comes next begins with a ring that makes sense.
    fn begin_again(&mut self) {
        self.ring.copy_in(0, &[0; 16]);
        (self.produced, self.taken, self.answers) = (0, 0, 0);
        self.asked.clear();
        self.channel = self.world.guest.allocate_unbound(&self.world.executor, HOST).unwrap();
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

/// A host for guests that do what bytes say, one after the other, and one beside them that wants nothing but its disk.
#[derive(Default)]
pub(crate) struct Host {
    /// To begin a host takes longer than most lives.
    place: Option<(World, Neighbour)>,
}

impl Host {
    /// A guest lives and ends; says whether it was found out.
    pub(crate) fn live(&mut self, bytes: &[u8]) -> bool {
        let (world, neighbour) = self.place.get_or_insert_with(|| {
            let world = World::new();
            let neighbour = Neighbour::idle(&world);
            (world, neighbour)
        });
        let (life, ()) = world.run(join(live(world, bytes), neighbour.one_round()));
        world.run(async {
            neighbour.one_round().await;
            let (front, ring) = world.front(FrontOptions::default());
            front.write(0, &pattern(8, 1)).await.unwrap();
            assert_eq!(front.read(0, 8).await.unwrap(), pattern(8, 1), "the disk is as good as before");
            ring.disconnect().await;
            front.release_ring().unwrap();
        });
        world.is_clean();
        if life.has_lied {
            self.end();
        }
        life.was_found_out
    }

    /// The neighbour has nothing to complain of.
    pub(crate) fn end(&mut self) {
        if let Some((world, neighbour)) = self.place.take() {
            world.run(neighbour.end());
        }
    }
}

/// What there is to be said of a life.
struct Life {
    was_found_out: bool,
    /// What it has left on the disk may go over the rings of others.
    has_lied: bool,
}

/// A few lives of one ring, one after the other.
async fn live(world: &World, bytes: &[u8]) -> Life {
    let mut session = Session::new(world, bytes);
    let mut was_found_out = false;
    for _ in 0..1 + session.choices.index(2) {
        let ring = session.connect();
        for _ in 0..STEPS {
            if session.choices.is_over() {
                break;
            }
            session.step().await;
        }
        world.faults.clear();
        let end = ring.disconnect().await;
        assert_eq!((end.pages.mapped, end.pages.leaked), (0, 0), "{end:?}");
        assert!(end.broken.is_none() || session.has_lied, "{end:?} of a ring whose indices made sense");
        session.take_answers();
        assert!(session.has_lied || session.answers == end.counters.requests, "{} answers: {end:?}", session.answers);
        was_found_out |= end.broken.is_some();
        session.begin_again();
    }
    let has_lied = session.has_lied;
    session.end();
    Life { was_found_out, has_lied }
}
