//! One disk that an NBD client and two guests load at the same time.

use std::{
    sync::atomic::{AtomicUsize, Ordering},
    thread,
};

use control_api::native::ConnectRing;
use export::nbd::client::Client as NbdClient;
use futures_util::future::join_all;
use guest::{Front, FrontOptions};
use xen::hosted::Guest;

use crate::{
    host::minor,
    hosted::{DEVICE, Hosted, OTHER_DOMAIN},
};

const BLOCK: usize = 4096;
const SECTORS: u64 = 8;
/// Blocks that each side writes.
const OWN_BLOCKS: u64 = 64;
/// Where the blocks are that everybody reads, behind the areas of three sides.
const SHARED: u64 = 3 * OWN_BLOCKS;
const SHARED_BLOCKS: u64 = 16;
/// Blocks that a guest works on at one time, each in a lane of its own.
const LANES: u64 = 4;
/// Rounds of each lane; more while another side has not done its own, so that all three work at one time.
const ROUNDS: u64 = 64;
/// A hang limit.
const ROUNDS_MAX: u64 = 1_000_000;

/// What a side writes into a block: different for each side, block and round.
fn stamped(side: u64, block: u64, round: u64) -> Vec<u8> {
    let words = [side, block, round].map(u64::to_le_bytes).concat();
    words.iter().copied().cycle().take(BLOCK).collect()
}

/// Who has done its rounds: everybody goes on until all have.
#[derive(Default)]
struct Together(AtomicUsize);

impl Together {
    fn goes_on(&self, round: u64, lanes: usize) -> bool {
        if round == ROUNDS {
            self.0.fetch_add(1, Ordering::Relaxed);
        }
        assert!(round < ROUNDS_MAX, "somebody does not come on");
        round < ROUNDS || self.0.load(Ordering::Relaxed) < lanes
    }
}

/// The blocks of a lane, and the last round of each.
struct Lane {
    side: u64,
    lane: u64,
    lanes: u64,
    rounds: Vec<u64>,
}

impl Lane {
    fn new(side: u64, lane: u64, lanes: u64) -> Lane {
        Lane { side, lane, lanes, rounds: vec![0; usize::try_from(OWN_BLOCKS / lanes).unwrap()] }
    }

    /// The block that is next, with what it shall hold.
    fn next(&mut self, round: u64) -> (u64, Vec<u8>) {
        let index = round * 7 % (OWN_BLOCKS / self.lanes);
        self.rounds[usize::try_from(index).unwrap()] = round + 1;
        let block = self.block(index);
        (block, stamped(self.side, block, round + 1))
    }

    fn block(&self, index: u64) -> u64 {
        self.side * OWN_BLOCKS + index * self.lanes + self.lane
    }

    /// Every block and what it holds at the end; one that was never written is zero.
    fn expected(&self) -> Vec<(u64, Vec<u8>)> {
        let all = (0..).zip(&self.rounds).map(|(index, round)| (self.block(index), *round));
        all.map(|(block, round)| (block, if round == 0 { vec![0; BLOCK] } else { stamped(self.side, block, round) }))
            .collect()
    }
}

fn shared(round: u64) -> (u64, Vec<u8>) {
    let block = SHARED + round % SHARED_BLOCKS;
    (block, stamped(9, block, 0))
}

async fn load_lane(front: &Front, mut lane: Lane, together: &Together, lanes: usize) -> Lane {
    for round in 0.. {
        if !together.goes_on(round, lanes) {
            break;
        }
        let (block, bytes) = lane.next(round);
        front.write(block * SECTORS, &bytes).await.unwrap();
        for (block, bytes) in [(block, bytes), shared(round)] {
            assert!(front.read(block * SECTORS, 8).await.unwrap() == bytes, "block {block}, round {round}");
        }
    }
    lane
}

fn load_client(client: &mut NbdClient, mut lane: Lane, together: &Together, lanes: usize) -> Lane {
    let mut found = vec![0; BLOCK];
    for round in 0.. {
        if !together.goes_on(round, lanes) {
            break;
        }
        let (block, bytes) = lane.next(round);
        client.write(block * BLOCK as u64, &bytes).unwrap();
        for (block, bytes) in [(block, bytes), shared(round)] {
            client.read(block * BLOCK as u64, &mut found).unwrap();
            assert!(found == bytes, "block {block}, round {round}");
        }
    }
    lane
}

#[test]
fn an_nbd_client_and_two_guests_load_one_disk_at_the_same_time() {
    let hosted = Hosted::new();
    let other = Guest::boot(hosted.host.place.scratch(), OTHER_DOMAIN).unwrap();
    let fronts =
        [&hosted.guest, &other].map(|guest| Front::new(&hosted.executor, guest, FrontOptions::default()).unwrap());
    let asked = hosted.asking(DEVICE, &[&fronts[0]], FrontOptions::default().abi);
    hosted.connect(asked).unwrap();
    let asked = hosted.asking(DEVICE, &[&fronts[1]], FrontOptions::default().abi);
    hosted.connect(ConnectRing { domain: OTHER_DOMAIN.0, ..asked }).unwrap();
    let socket = hosted.host.run.nbd_socket(hosted.pid, minor(&hosted.minor));
    let mut client = NbdClient::connect_unix(&socket, "").unwrap();
    for (block, bytes) in (0..SHARED_BLOCKS).map(shared) {
        client.write(block * BLOCK as u64, &bytes).unwrap();
    }

    let together = Together::default();
    let lanes_in_all = 2 * usize::try_from(LANES).unwrap() + 1;
    let mut done: Vec<Lane> = thread::scope(|scope| {
        let nbd = scope.spawn(|| load_client(&mut client, Lane::new(2, 0, 1), &together, lanes_in_all));
        let guests = (0..).zip(&fronts).flat_map(|(side, front)| {
            let lane = move |lane| Lane::new(side, lane, LANES);
            (0..LANES).map(lane).map(move |lane| (front, lane))
        });
        let loads = guests.map(|(front, lane)| load_lane(front, lane, &together, lanes_in_all));
        let mut done = hosted.executor.block_on(join_all(loads));
        done.push(nbd.join().unwrap());
        done
    });

    let expected: Vec<(u64, Vec<u8>)> =
        done.drain(..).flat_map(|lane| lane.expected()).chain((0..SHARED_BLOCKS).map(shared)).collect();
    assert_eq!(expected.len() as u64, 3 * OWN_BLOCKS + SHARED_BLOCKS);
    let mut found = vec![0; BLOCK];
    for (block, bytes) in &expected {
        client.read(block * BLOCK as u64, &mut found).unwrap();
        assert!(found == *bytes, "the client sees block {block}");
        for front in &fronts {
            let found = hosted.executor.block_on(front.read(block * SECTORS, 8)).unwrap();
            assert!(found == *bytes, "a guest sees block {block}");
        }
    }
}
