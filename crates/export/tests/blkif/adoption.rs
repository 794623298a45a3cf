//! A ring whose process has gone: another one goes on where it has ended, or answers with errors. What dies here is the ring,
//! with everything that was under way; its record stays.

use std::fs::File;

use block_core::ErrorKind;
use export::blkif::{ConnectedRing, DeviceAccount, FailingRing, RECORD_BYTES, RingOptions};
use guest::{Front, FrontOptions};
use storage_io::{Fault, FaultRule, OperationKind, Task};
use wire::blkif::Abi;
use xen::SharedMemory;

use crate::world::{World, of_front, pattern};

/// A ring with its record.
struct Recorded {
    world: World,
    front: Front,
    options: RingOptions,
    record: File,
}

type Asked<T> = Task<block_core::Result<T>>;

impl Recorded {
    fn new(made: FrontOptions) -> Recorded {
        let world = World::new();
        let front = Front::new(&world.executor, &world.guest, made).unwrap();
        let record = tempfile::tempfile().unwrap();
        record.set_len(RECORD_BYTES as u64).unwrap();
        Recorded { options: of_front(&front, made), world, front, record }
    }

    fn memory(&self) -> SharedMemory {
        SharedMemory::map(&self.record, 0, RECORD_BYTES).unwrap()
    }

    fn try_connect(&self, options: &RingOptions) -> block_core::Result<ConnectedRing> {
        let (queue, world) = (self.world.disk.queue(), &self.world);
        let device = DeviceAccount::default().into();
        let record = Some(self.memory());
        ConnectedRing::connect_one_of(&device, &queue, world.grants.clone(), &world.channels, options, record)
    }

    fn connect(&self) -> ConnectedRing {
        self.try_connect(&self.options).unwrap()
    }

    fn adopt(&self) -> ConnectedRing {
        self.try_connect(&RingOptions { adopted: true, ..self.options.clone() }).unwrap()
    }

    fn fail(&self) -> FailingRing {
        let World { executor, grants, channels, .. } = &self.world;
        FailingRing::adopt(executor, &**grants, channels, self.memory()).unwrap()
    }

    fn write(&self, sector: u64, sectors: usize, seed: u8) -> Asked<()> {
        let front = self.front.clone();
        self.world.executor.spawn(async move { front.write(sector, &pattern(sectors, seed)).await })
    }

    fn read(&self, sector: u64, sectors: usize) -> Asked<Vec<u8>> {
        let front = self.front.clone();
        self.world.executor.spawn(async move { front.read(sector, sectors).await })
    }

    /// So many requests hang in storage, and then the process dies.
    async fn dies_with(&self, ring: ConnectedRing, hanging: u64) {
        while self.world.faults.hanging() < hanging {
            self.world.executor.yield_now().await;
        }
        drop(ring);
        self.world.faults.clear();
        self.world.faults.release();
        while self.world.faults.hanging() > 0 {
            self.world.executor.yield_now().await;
        }
    }
}

const LARGE: FrontOptions =
    FrontOptions { backend: xen::DomainId(0), abi: Abi::X86_64, order: 2, segments_max: 256, persistent: false };

#[test]
fn what_was_under_way_is_done_again_and_the_guest_notices_nothing() {
    for made in [
        FrontOptions { abi: Abi::X86_32, ..FrontOptions::default() },
        LARGE,
        FrontOptions { persistent: true, ..LARGE },
    ] {
        let recorded = Recorded::new(made);
        let ring = recorded.connect();
        recorded.world.run(async {
            recorded.front.write(0, &pattern(8, 1)).await.unwrap();
            recorded.world.faults.add(FaultRule::every(Fault::Hang).of(OperationKind::Write));
            recorded.world.faults.add(FaultRule::every(Fault::Hang).of(OperationKind::Read));
            let sectors = made.segments_max.min(40) * 8;
            let (write, read, other) =
                (recorded.write(64, sectors, 2), recorded.read(0, 8), recorded.write(1024, 1, 3));
            recorded.dies_with(ring, 3).await;
            assert_eq!(recorded.front.in_flight(), 3, "nobody answers");
            let ring = recorded.adopt();
            assert_eq!(ring.repeated(), 3);
            write.await.unwrap();
            other.await.unwrap();
            assert_eq!(read.await.unwrap(), pattern(8, 1));
            assert_eq!(recorded.front.read(64, sectors).await.unwrap(), pattern(sectors, 2));
            assert_eq!(recorded.front.read(1024, 1).await.unwrap(), pattern(1, 3));
            assert_eq!((ring.counters().refused, recorded.front.stray_pages()), (0, 0));
            ring.disconnect().await;
            recorded.front.end().unwrap();
        });
        recorded.world.is_clean();
    }
}

#[test]
fn a_barrier_and_what_is_behind_it_keep_their_order() {
    let recorded = Recorded::new(LARGE);
    let ring = recorded.connect();
    recorded.world.run(async {
        recorded.world.faults.add(FaultRule::every(Fault::Hang).of(OperationKind::Write));
        let before = recorded.write(0, 8, 1);
        recorded.world.executor.yield_now().await;
        let front = recorded.front.clone();
        let barrier = recorded.world.executor.spawn(async move { front.write_barrier(0, &pattern(8, 2)).await });
        recorded.world.executor.yield_now().await;
        let behind = recorded.write(0, 8, 3);
        recorded.dies_with(ring, 1).await;
        let ring = recorded.adopt();
        assert_eq!(ring.repeated(), 2, "what is behind the barrier was not looked at");
        before.await.unwrap();
        barrier.await.unwrap();
        behind.await.unwrap();
        assert_eq!(recorded.front.read(0, 8).await.unwrap(), pattern(8, 3));
        ring.disconnect().await;
    });
}

#[test]
fn who_goes_on_may_die_as_well_and_again() {
    let recorded = Recorded::new(FrontOptions::default());
    let mut ring = recorded.connect();
    recorded.world.run(async {
        for round in 0..10 {
            recorded.world.faults.add(FaultRule::every(Fault::Hang).of(OperationKind::Write));
            let writes: Vec<_> = (0..5).map(|at| recorded.write(at * 8, 8, round)).collect();
            recorded.dies_with(ring, 5).await;
            recorded.world.faults.add(FaultRule::every(Fault::Hang).of(OperationKind::Write));
            let second = recorded.adopt();
            recorded.dies_with(second, 5).await;
            ring = recorded.adopt();
            assert_eq!(ring.repeated(), 5);
            for write in writes {
                write.await.unwrap();
            }
        }
        assert_eq!(recorded.front.read(32, 8).await.unwrap(), pattern(8, 9));
        ring.disconnect().await;
    });
}

#[test]
fn what_others_may_write_meanwhile_is_not_written_again() {
    let recorded = Recorded::new(FrontOptions::default());
    let ring = recorded.connect();
    recorded.world.run(async {
        let shared = RingOptions { adopted: true, repeats_changes: false, ..recorded.options.clone() };
        recorded.world.faults.add(FaultRule::every(Fault::Hang).of(OperationKind::Read));
        let read = recorded.read(0, 8);
        recorded.dies_with(ring, 1).await;
        let ring = recorded.try_connect(&shared).unwrap();
        read.await.unwrap();
        recorded.world.faults.add(FaultRule::every(Fault::Hang).of(OperationKind::Write));
        let write = recorded.write(0, 8, 1);
        recorded.dies_with(ring, 1).await;
        assert!(recorded.try_connect(&shared).unwrap_err().to_string().contains("others may write"));
        let failing = recorded.fail();
        assert_eq!(write.await.unwrap_err().kind(), ErrorKind::Io);
        failing.let_go().await;
    });
}

#[test]
fn the_record_of_another_ring_is_not_believed() {
    let recorded = Recorded::new(FrontOptions::default());
    let ring = recorded.connect();
    recorded.world.run(async {
        recorded.world.faults.add(FaultRule::every(Fault::Hang).of(OperationKind::Write));
        let write = recorded.write(0, 8, 1);
        recorded.dies_with(ring, 1).await;
        let other = Front::new(&recorded.world.executor, &recorded.world.guest, FrontOptions::default()).unwrap();
        let options = RingOptions { adopted: true, ..of_front(&other, FrontOptions::default()) };
        let ring = recorded.try_connect(&options).unwrap();
        assert_eq!(ring.repeated(), 0);
        other.write(0, &pattern(8, 2)).await.unwrap();
        // Now the record is about that one.
        let lost = recorded.try_connect(&RingOptions { adopted: true, ..recorded.options.clone() }).unwrap_err();
        assert_eq!(lost.os_error(), Some(107), "{lost}");
        ring.disconnect().await;
        recorded.front.abandon();
        assert!(write.await.is_err());
    });
}

#[test]
fn without_a_disk_everything_fails_what_was_asked_and_what_is_asked() {
    let recorded = Recorded::new(LARGE);
    let ring = recorded.connect();
    recorded.world.run(async {
        recorded.world.faults.add(FaultRule::every(Fault::Hang).of(OperationKind::Write));
        let writes: Vec<_> = (0..20).map(|at| recorded.write(at * 512, 512, 1)).collect();
        recorded.dies_with(ring, 20).await;
        let failing = recorded.fail();
        assert_eq!(failing.answered(), 20);
        for write in writes {
            assert_eq!(write.await.unwrap_err().kind(), ErrorKind::Io);
        }
        assert_eq!(recorded.front.read(0, 8).await.unwrap_err().kind(), ErrorKind::Io);
        assert!(recorded.front.flush().await.is_err() && recorded.front.discard(0, 8).await.is_err());
        // Who fails may die as well.
        drop(failing);
        let late = recorded.read(0, 8);
        recorded.world.executor.yield_now().await;
        let failing = recorded.fail();
        assert_eq!((failing.answered(), late.await.unwrap_err().kind()), (0, ErrorKind::Io));
        failing.let_go().await;
        assert_eq!((recorded.front.in_flight(), recorded.front.end().unwrap()), (0, 0));
    });
    recorded.world.is_clean();
}
