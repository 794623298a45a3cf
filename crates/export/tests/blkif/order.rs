//! Rings on a platform that writes down in which order things are given back, and whose event channels can break.

use std::{
    future::{Future, pending, ready},
    pin::Pin,
    sync::{Arc, Mutex},
};

use block_core::{Error, ErrorKind, Result};
use export::blkif::{BrokenRing, ConnectedRing, RingChange, RingFeatures, RingOptions};
use rustix::fs::{MemfdFlags, ftruncate, memfd_create};
use storage_io::Executor;
use wire::blkif::{Abi, OperationCode, Request, RequestBody, Segment, Transfer};
use xen::{
    Access, DomainId, EventChannel, EventChannels, GrantCopy, GrantRef, Grants, Mapping, PAGE_BYTES, Port, SharedMemory,
};

use crate::world::{World, options};

const RING: GrantRef = GrantRef(1);
const DATA: GrantRef = GrantRef(2);

/// What was given back, in order. All pages are zeroes, but for a ring with one write in it.
#[derive(Clone, Debug, Default)]
struct Recorder {
    given_back: Arc<Mutex<Vec<&'static str>>>,
    /// Its event channels break at once.
    is_broken: bool,
}

impl Recorder {
    fn gave_back(&self, what: &'static str) {
        self.given_back.lock().unwrap().push(what);
    }
}

impl Grants for Recorder {
    fn copy(&self, _batch: &mut [GrantCopy<'_>]) -> Result<()> {
        unreachable!("pages stay mapped");
    }

    fn map(&self, _domain: DomainId, grants: &[GrantRef], _access: Access) -> Result<Mapping> {
        let file = memfd_create("pages", MemfdFlags::CLOEXEC).unwrap();
        ftruncate(&file, PAGE_BYTES as u64).unwrap();
        let memory = SharedMemory::map(file, 0, PAGE_BYTES).unwrap();
        let what = if grants == [RING] { "ring" } else { "data" };
        if what == "ring" {
            let segments = vec![Segment::page(DATA.0)];
            let body = RequestBody::Transfer { transfer: Transfer::Write, sector: 0, segments };
            let request = Request { id: 7, operation: OperationCode::Write, body };
            memory.copy_in(Abi::X86_64.slot_offset(0, 32), &request.encode(Abi::X86_64, 0));
            memory.copy_in(0, &1_u32.to_le_bytes());
        }
        let recorder = self.clone();
        Ok(Mapping::new(memory, move || {
            recorder.gave_back(what);
            Ok(())
        }))
    }
}

impl EventChannels for Recorder {
    fn bind(&self, _executor: &Executor, _domain: DomainId, _remote: Port) -> Result<Box<dyn EventChannel>> {
        Ok(Box::new(Silent(self.clone())))
    }
}

/// A channel that nobody rings.
#[derive(Debug)]
struct Silent(Recorder);

impl EventChannel for Silent {
    fn port(&self) -> Port {
        Port(1)
    }

    fn wait(&self) -> Pin<Box<dyn Future<Output = Result<()>> + '_>> {
        if self.0.is_broken {
            return Box::pin(ready(Err(Error::new(ErrorKind::Io, "it is broken"))));
        }
        Box::pin(pending())
    }

    fn unmask(&self) {}

    fn notify(&self) {}
}

impl Drop for Silent {
    fn drop(&mut self) {
        self.0.gave_back("event channel");
    }
}

#[test]
fn a_ring_gives_its_event_channel_back_first_and_its_own_pages_last() {
    for is_forced in [false, true] {
        let world = World::new();
        let platform = Recorder::default();
        let features = RingFeatures { persistent: true, polling: None };
        let options = RingOptions { features, ..options(vec![RING], Port(9), Abi::X86_64) };
        let grants = Arc::new(platform.clone());
        let ring = ConnectedRing::connect(&world.disk.queue(), grants, &platform, &options).unwrap();
        world.run(async {
            while ring.counters().mapped_copies == 0 {
                world.executor.yield_now().await;
            }
            if is_forced {
                drop(ring);
            } else {
                ring.disconnect().await;
            }
        });
        let given_back = platform.given_back.lock().unwrap().clone();
        assert_eq!(given_back, ["event channel", "data", "ring"], "by force: {is_forced}");
    }
}

#[test]
fn a_broken_event_channel_is_told_and_the_ring_can_be_disconnected() {
    let world = World::new();
    let platform = Recorder { is_broken: true, ..Recorder::default() };
    let options = RingOptions {
        features: RingFeatures { persistent: true, polling: None },
        ..options(vec![RING], Port(9), Abi::X86_64)
    };
    let grants = Arc::new(platform.clone());
    let ring = ConnectedRing::connect(&world.disk.queue(), grants, &platform, &options).unwrap();
    world.run(async {
        assert_eq!(ring.changes().next().await, Some(RingChange::Broken(BrokenRing::NoEvents)));
        assert_eq!(ring.disconnect().await.broken, Some(BrokenRing::NoEvents));
    });
}
