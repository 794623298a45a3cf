//! A guest with a disk of its own in the same process, which writes and reads all the time and finds what it has written.

use std::{cell::Cell, rc::Rc, sync::Arc};

use export::blkif::{ConnectedRing, RingOptions};
use guest::{Front, FrontOptions};
use image_chain::ChainSpec;
use storage_io::{Access, BufferPool, LockPolicy, MemoryFiles, MemoryStorage, Task};
use virtual_disk::{Disk, Settings};
use wire::blkif::Abi;
use xen::hosted::Guest;

use crate::world::{HOST, NEIGHBOUR, World, options};

const SECTORS: u64 = 1 << 11;
/// Requests that it has under way.
const TASKS: u64 = 4;

/// The neighbour, under load until [`end`](Self::end).
pub(crate) struct Neighbour {
    guest: Guest,
    front: Front,
    ring: ConnectedRing,
    _disk: Disk,
    load: Vec<Task<()>>,
    rounds: Rc<Cell<u64>>,
    is_ending: Rc<Cell<bool>>,
}

impl Neighbour {
    pub(crate) fn new(world: &World) -> Neighbour {
        let mut neighbour = Neighbour::idle(world);
        let load = (0..TASKS).map(|number| {
            let (front, rounds, is_ending) =
                (neighbour.front.clone(), neighbour.rounds.clone(), neighbour.is_ending.clone());
            world.executor.spawn(async move {
                while !is_ending.get() {
                    write_and_read(&front, number, rounds.get()).await;
                    rounds.set(rounds.get() + 1);
                }
            })
        });
        neighbour.load = load.collect();
        neighbour
    }

    /// One that does nothing but what it is told to.
    pub(crate) fn idle(world: &World) -> Neighbour {
        let files = MemoryFiles::new();
        files.put("/b", Arc::new(MemoryStorage::new(usize::try_from(SECTORS * 512).unwrap())));
        let disk = Disk::new(&world.executor, Rc::new(files), BufferPool::new(16 << 20), Arc::new(()));
        let image = "aio:/b".parse().unwrap();
        let spec = ChainSpec { direct: false, lock: LockPolicy::None, ..ChainSpec::new(image, Access::Write) };
        world.executor.block_on(disk.open(spec, Settings::default())).unwrap();
        let guest = Guest::boot(world.directory.path(), NEIGHBOUR).unwrap();
        let front =
            Front::new(&world.executor, &guest, FrontOptions { backend: HOST, ..FrontOptions::default() }).unwrap();
        let (pages, port) = (front.ring_grants(), front.port());
        let options = RingOptions { domain: NEIGHBOUR, ..options(pages, port, Abi::X86_64) };
        let ring = ConnectedRing::connect(&disk.queue(), world.grants.clone(), &world.channels, &options).unwrap();
        let (rounds, is_ending) = (Rc::<Cell<u64>>::default(), Rc::<Cell<bool>>::default());
        Neighbour { guest, front, ring, _disk: disk, load: Vec::new(), rounds, is_ending }
    }

    /// Writes, and finds what it has written.
    pub(crate) async fn one_round(&self) {
        write_and_read(&self.front, 0, self.rounds.get()).await;
        self.rounds.set(self.rounds.get() + 1);
    }

    /// How often it has found what it had written.
    pub(crate) fn rounds(&self) -> u64 {
        self.rounds.get()
    }

    /// Ends the load. Nothing was refused, and nothing is left.
    pub(crate) async fn end(self) {
        let Neighbour { guest, front, ring, load, is_ending, .. } = self;
        is_ending.set(true);
        for task in load {
            task.await;
        }
        let end = ring.disconnect().await;
        assert_eq!((end.broken, end.counters.refused, front.stray_pages()), (None, 0, 0));
        assert_eq!(front.release_ring().unwrap(), 0);
        let account = guest.account().unwrap();
        assert_eq!((account.granted, account.used), (0, 0));
    }
}

/// Each task has its own part of the disk.
async fn write_and_read(front: &Front, task: u64, round: u64) {
    let part = SECTORS / TASKS;
    let sector = task * part + round * 24 % (part - 24);
    let stamp = round.to_le_bytes();
    let bytes: Vec<u8> = (0..24 * 512).map(|index| stamp[index % 8] ^ u8::try_from(index % 253).unwrap()).collect();
    front.write(sector, &bytes).await.unwrap();
    assert!(front.read(sector, 24).await.unwrap() == bytes, "round {round}: other bytes at sector {sector}");
}
