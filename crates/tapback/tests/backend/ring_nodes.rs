//! Frontends that say anything of their rings: what the tapdisk is asked for makes sense, or the frontend is told why not.

use std::collections::BTreeSet;

use control_api::native::ConnectRing;

use crate::world::{GUEST, Vbd, World, XVDA};

const QUEUES: usize = 5;

struct Random(u64);

impl Random {
    fn index(&mut self, count: usize) -> usize {
        self.0 = self.0.wrapping_mul(6_364_136_223_846_793_005).wrapping_add(1_442_695_040_888_963_407);
        usize::try_from(self.0 >> 33).unwrap() % count
    }

    fn one_in(&mut self, count: usize) -> bool {
        self.index(count) == 0
    }

    /// A number that is a small one more often than not.
    fn value(&mut self) -> Vec<u8> {
        const ODD: [&[u8]; 12] = [
            b"",
            b"0",
            b"31",
            b"-1",
            b"+1",
            b" 1",
            b"0x1",
            b"4294967295",
            b"4294967296",
            b"99999999999999999999",
            b"\xff\xfe",
            &[b'1'; 3000],
        ];
        match self.one_in(30) {
            true => ODD[self.index(ODD.len())].to_vec(),
            false => (1 + self.index(400)).to_string().into_bytes(),
        }
    }

    /// The nodes of one frontend, some of them left behind by others.
    fn nodes(&mut self) -> Vec<(String, Vec<u8>)> {
        let mut nodes = Vec::new();
        let order = self.index(4);
        let counts: [(&str, Vec<u8>); 3] = [
            ("ring-page-order", order.to_string().into_bytes()),
            ("num-ring-pages", (1_u32 << order).to_string().into_bytes()),
            ("multi-queue-num-queues", self.index(QUEUES + 1).to_string().into_bytes()),
        ];
        for (name, usual) in counts {
            if self.one_in(2) {
                let value = if self.one_in(12) { self.value() } else { usual };
                nodes.push((name.to_owned(), value));
            }
        }
        if self.one_in(2) {
            let known: [&[u8]; 5] = [b"x86_64-abi", b"x86_32-abi", b"arm-abi", b"x86_64-ab", b"\xff"];
            let index = if self.one_in(8) { 3 + self.index(2) } else { self.index(3) };
            nodes.push(("protocol".to_owned(), known[index].to_vec()));
        }
        let queues = (0..QUEUES).map(|queue| format!("queue-{queue}/"));
        for directory in std::iter::once(String::new()).chain(queues) {
            for name in ["event-channel", "ring-ref"] {
                if !self.one_in(10) {
                    nodes.push((format!("{directory}{name}"), self.value()));
                }
            }
            for index in 0..1 << order {
                if !self.one_in(40) {
                    nodes.push((format!("{directory}ring-ref{index}"), self.value()));
                }
            }
        }
        nodes
    }
}

/// What no tapdisk should be asked for.
fn makes_sense(ring: &ConnectRing) -> bool {
    let pages: Vec<u32> = ring.queues.iter().flat_map(|queue| queue.pages.iter().copied()).collect();
    let ports: BTreeSet<u32> = ring.queues.iter().map(|queue| queue.port).collect();
    let is_length = |count: usize| count.is_power_of_two() && count <= 16;
    (1..=4).contains(&ring.queues.len())
        && ring.queues.iter().all(|queue| is_length(queue.pages.len()))
        && pages.iter().collect::<BTreeSet<_>>().len() == pages.len()
        && ports.len() == ring.queues.len()
}

/// One frontend comes, says what it has, and goes. Whether it was served.
async fn come_and_go(vbd: &Vbd<'_>, nodes: &[(String, Vec<u8>)]) -> bool {
    for (name, value) in nodes {
        vbd.set(name, value).await;
    }
    vbd.show(3).await;
    let mut state = vbd.settled().await;
    while state == "2" {
        state = vbd.settled().await;
    }
    let is_served = state == "4";
    match is_served {
        true => {
            let ring = vbd.world.worker.ring(GUEST, XVDA);
            assert!(makes_sense(&ring), "{ring:?}");
        }
        false => {
            assert_eq!((state.as_str(), vbd.is_connected()), ("5", false));
            let error = vbd.error().await.unwrap();
            assert!((10..400).contains(&error.len()), "{error}");
        }
    }
    vbd.show(6).await;
    vbd.wait_for(6).await;
    for (name, _) in nodes {
        vbd.unset(name).await;
    }
    vbd.show(1).await;
    vbd.wait_for(2).await;
    is_served
}

#[test]
fn whatever_a_frontend_says_of_its_rings_is_served_or_refused_with_words() {
    let mut random = Random(test_support::seed());
    let world = World::new();
    let frontends = test_support::cycles(60, 5000);
    world.run(async {
        let neighbour = world.connected_vbd(8, XVDA).await;
        let vbd = world.ready_vbd(GUEST, XVDA).await;
        let mut served = 0;
        for _ in 0..frontends {
            let nodes = random.nodes();
            served += u64::from(come_and_go(&vbd, &nodes).await);
        }
        println!("{served} of {frontends} frontends were served");
        assert_eq!(neighbour.settled().await, "4");
    });
}
