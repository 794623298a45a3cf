//! Both ends of a ring on one simulated executor, whose tasks run in any order: nobody sleeps while there is something for
//! him. The executor notices when all sleep.

use std::{cell::Cell, future::Future, os::fd::OwnedFd, pin::Pin, rc::Rc, sync::Arc};

use block_core::Result;
use export::blkif::{ConnectedRing, RingFeatures, RingOptions};
use guest::FrontHalf;
use image_chain::ChainSpec;
use rustix::fs::{MemfdFlags, ftruncate, memfd_create};
use storage_io::{
    Access, BufferPool, Executor, Fault, FaultRule, FaultScript, FaultyStorage, LockPolicy, MemoryFiles, MemoryStorage,
    OperationKind, Signal, SimulatedClock,
};
use virtual_disk::{Disk, Settings};
use wire::blkif::{Abi, OperationCode, Request, RequestBody, Segment, Transfer};
use xen::{
    CopyStatus, DomainId, EventChannel, EventChannels, GrantCopy, GrantRef, Grants, Mapping, PAGE_BYTES, Port,
    SharedMemory,
};

use crate::world::{GUEST, OFFER};

const DISK_BYTES: usize = 1 << 20;

/// A bell that remembers that it was rung.
#[derive(Debug, Default)]
struct Bell {
    is_rung: Cell<bool>,
    rang: Signal,
}

impl Bell {
    fn ring(&self) {
        self.is_rung.set(true);
        self.rang.notify();
    }

    async fn wait(&self) {
        self.rang.until(|| self.is_rung.take()).await;
    }
}

/// The two ends of one event channel. As on Xen, there is an event that nobody sent at first.
#[derive(Clone, Debug, Default)]
struct Bells {
    backend: Rc<Bell>,
    guest: Rc<Bell>,
}

impl EventChannels for Bells {
    fn bind(&self, _: &Executor, _: DomainId, _: Port) -> Result<Box<dyn EventChannel>> {
        self.backend.ring();
        Ok(Box::new(BackendEnd { bells: self.clone(), is_masked: Cell::new(false) }))
    }
}

#[derive(Debug)]
struct BackendEnd {
    bells: Bells,
    is_masked: Cell<bool>,
}

impl EventChannel for BackendEnd {
    fn port(&self) -> Port {
        Port(1)
    }

    fn wait(&self) -> Pin<Box<dyn Future<Output = Result<()>> + '_>> {
        Box::pin(async {
            assert!(!self.is_masked.get(), "no event comes before the last one was unmasked");
            self.bells.backend.wait().await;
            self.is_masked.set(true);
            Ok(())
        })
    }

    fn unmask(&self) {
        self.is_masked.set(false);
    }

    fn notify(&self) {
        self.bells.guest.ring();
    }
}

/// The ring is the only page that there is; data goes nowhere, and nothing comes from there.
#[derive(Debug)]
struct OnePage(OwnedFd);

impl Grants for OnePage {
    fn copy(&self, batch: &mut [GrantCopy<'_>]) -> Result<()> {
        batch.iter_mut().for_each(|copy| copy.status = CopyStatus::Okay);
        Ok(())
    }

    fn map(&self, _: DomainId, _: &[GrantRef], _: xen::Access) -> Result<Mapping> {
        Ok(Mapping::new(SharedMemory::map(&self.0, 0, PAGE_BYTES)?, || Ok(())))
    }
}

/// A guest that has up to as many requests under way as its ring has slots, and sleeps when it can do nothing. Now and then
/// it sends nothing before all is answered, so that the backend sleeps, too.
async fn requests(executor: Executor, mut half: FrontHalf<SharedMemory>, bells: Bells, count: u64) {
    let (mut sent, mut answered, mut is_draining) = (0, 0, false);
    while answered < count {
        is_draining = sent > answered && (is_draining || executor.random().is_multiple_of(3));
        for _ in 0..executor.random() % 4 {
            executor.yield_now().await;
        }
        let burst = 1 + executor.random() % 40;
        for _ in 0..burst {
            if is_draining || sent == count || half.free() == 0 {
                break;
            }
            let transfer = if executor.random().is_multiple_of(2) { Transfer::Read } else { Transfer::Write };
            let sector = executor.random() % 200 * 8;
            let body = RequestBody::Transfer { transfer, sector, segments: vec![Segment::page(9)] };
            half.put(&Request { id: sent, operation: transfer.operation(), body }.encode(Abi::X86_64, 0));
            sent += 1;
        }
        if half.push() {
            bells.backend.ring();
        }
        while let Some(response) = half.take() {
            assert_ne!(response.operation, OperationCode::Unknown(9));
            answered += 1;
        }
        let can_send = sent < count && half.free() > 0 && (!is_draining || sent == answered);
        if answered < count && !can_send && !half.arm() {
            bells.guest.wait().await;
        }
    }
}

fn schedule(seed: u64) {
    let executor = Executor::simulated(seed, SimulatedClock::new());
    let (files, faults) = (MemoryFiles::new(), FaultScript::new());
    files.put("/a", Arc::new(FaultyStorage::new(Arc::new(MemoryStorage::new(DISK_BYTES)), faults.clone())));
    let disk = Disk::new(&executor, Rc::new(files), BufferPool::new(1 << 20), Arc::new(()));
    let image = "aio:/a".parse().unwrap();
    let spec = ChainSpec { direct: false, lock: LockPolicy::None, ..ChainSpec::new(image, Access::Write) };
    executor.block_on(disk.open(spec, Settings::default())).unwrap();
    for kind in [OperationKind::Read, OperationKind::Write] {
        let delay = std::time::Duration::from_micros(executor.random() % 200);
        faults.add(FaultRule::every(Fault::Delay(delay)).of(kind));
    }
    let file = memfd_create("ring", MemfdFlags::CLOEXEC).unwrap();
    ftruncate(&file, PAGE_BYTES as u64).unwrap();
    let half = FrontHalf::new(SharedMemory::map(&file, 0, PAGE_BYTES).unwrap(), Abi::X86_64, 32);
    let bells = Bells::default();
    let options = RingOptions {
        domain: GUEST,
        pages: vec![GrantRef(1)],
        port: Port(1),
        abi: Abi::X86_64,
        offer: OFFER,
        features: RingFeatures::default(),
        read_only: false,
        adopted: false,
        repeats_changes: true,
    };
    let ring = ConnectedRing::connect(&disk.queue(), Arc::new(OnePage(file)), &bells, &options).unwrap();
    let count = 300;
    let guest = executor.spawn(requests(executor.clone(), half, bells, count));
    executor.block_on(guest);
    let end = executor.block_on(ring.disconnect());
    assert_eq!((end.counters.requests, end.counters.refused, end.broken), (count, 0, None), "seed {seed:#x}");
    executor.end_tasks();
}

#[test]
fn in_whatever_order_tasks_run_nobody_sleeps_while_there_is_something_for_him() {
    let seed = test_support::seed();
    for number in 0..test_support::cycles(200, 20_000) {
        schedule(seed ^ number.wrapping_mul(0x9e37_79b9_7f4a_7c15));
    }
}
