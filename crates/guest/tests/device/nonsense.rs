//! Backends whose answers make no sense: their guest gives the disk up, and goes on living.

use std::sync::atomic::Ordering;

use block_core::{Error, ErrorKind};
use guest::{Front, FrontOptions};
use wire::blkif::{Abi, OperationCode, Response, Status};
use xen::{
    Access, DomainId, EventChannel, EventChannels, Grants, Mapping,
    hosted::{HostedChannels, HostedGrants},
};

use crate::world::{DOMAIN, World};

const RSP_PROD: usize = 8;

/// The other side of a ring, which a test plays by hand.
struct Backend {
    memory: Mapping,
    channel: Box<dyn EventChannel>,
}

impl Backend {
    /// Puts responses into the ring, and says that there are so many.
    fn answer(&self, responses: &[Response], count: u32) {
        let slots = Abi::X86_64.slots(0).unwrap();
        for (index, response) in (0..).zip(responses) {
            let (bytes, length) = response.encode(Abi::X86_64);
            self.memory.copy_in(Abi::X86_64.slot_offset(index, slots), &bytes[..length]);
        }
        self.memory.word(RSP_PROD).store(count, Ordering::SeqCst);
        self.channel.notify();
    }
}

/// The errors that two reads of a guest get, one that waits and one that comes later, and how the first of three ended.
fn answered_with(responses: &[Response], count: u32) -> [Error; 2] {
    let world = World::new();
    let guest = world.boot();
    let front = Front::new(&world.executor, &guest, FrontOptions::default()).unwrap();
    let host = DomainId(0);
    let grants = HostedGrants::connect(world.directory.path(), host).unwrap();
    let channels = HostedChannels::connect(world.directory.path(), host).unwrap();
    let memory = grants.map(DOMAIN, &front.ring_grants(), Access::Write).unwrap();
    let channel = channels.bind(&world.executor, DOMAIN, front.port()).unwrap();
    let backend = Backend { memory, channel };
    world.run(async {
        let reads = [0, 8].map(|sector| {
            let front = front.clone();
            world.executor.spawn(async move { front.read(sector, 8).await })
        });
        while front.in_flight() < 2 {
            world.executor.yield_now().await;
        }
        let granted = guest.account().unwrap().granted;
        backend.answer(responses, count);
        let [first, second] = reads;
        if responses.first().is_some_and(|response| *response == GOOD) {
            first.await.unwrap();
        } else {
            first.await.unwrap_err();
        }
        let waiting = second.await.unwrap_err();
        let later = front.read(0, 8).await.unwrap_err();
        assert!(guest.account().unwrap().granted >= granted - 1, "what it may still touch stays granted");
        drop(backend);
        assert_eq!((front.in_flight(), front.end().unwrap()), (0, 0), "it has let go of the ring");
        [waiting, later]
    })
}

/// The answer to the first read.
const GOOD: Response = Response { id: 1, operation: OperationCode::Read, status: Status::Okay };

#[test]
fn a_backend_that_makes_no_sense_costs_a_guest_its_disk_and_no_more() {
    let unknown = Response { id: 77, ..GOOD };
    let other = Response { operation: OperationCode::Write, ..GOOD };
    let cases: [(&[Response], u32, &str); 5] = [
        (&[unknown], 1, "answers nothing that was asked"),
        (&[other], 1, "answers a Read"),
        (&[GOOD, GOOD], 2, "answers nothing that was asked"),
        (&[], 3, "responses run ahead of requests: 3"),
        (&[], u32::MAX, "responses run ahead of requests: 4294967295"),
    ];
    for (responses, count, words) in cases {
        for error in answered_with(responses, count) {
            assert_eq!(error.kind(), ErrorKind::Corrupt, "{error}");
            assert!(error.to_string().contains(words), "{error} instead of {words}");
        }
    }
}
