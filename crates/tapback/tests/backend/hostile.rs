//! Guests that write whatever they like, as fast as they can.

use std::{
    cell::Cell,
    io::{ErrorKind, Read, Write},
    os::unix::net::UnixStream,
    rc::Rc,
};

use guest::hostile::HostileNodes;
use wire::xenstore::Operation;

use crate::world::{GUEST, World, XVDA};

/// States, and what is none.
const SHOWN: [&[u8]; 12] =
    [b"1", b"3", b"4", b"5", b"6", b"0", b"9", b"", b"-1", b"4\0", b"99999999999999999999", &[b'4'; 3000]];

#[test]
fn a_storm_of_states_costs_bounded_work_and_holds_up_no_other_device() {
    let world = World::new();
    world.run(async {
        let vbd = world.ready_vbd(GUEST, XVDA).await;
        vbd.show_ring(&[("ring-ref", "8"), ("event-channel", "3")], 1).await;
        let begun = world.executor.now();
        let rounds = Rc::new(Cell::new(0_u32));
        let storm = {
            let (store, node, rounds) = (world.guest_store(GUEST), vbd.front.join("state").unwrap(), rounds.clone());
            world.executor.spawn(async move {
                loop {
                    for state in SHOWN {
                        store.write(&node, state).await.unwrap();
                        rounds.set(rounds.get() + 1);
                    }
                }
            })
        };
        for device in [51728, 51744, 51760] {
            let other = world.connected_vbd(8, device).await;
            other.detach(true).await;
            other.wait_for(6).await;
        }
        while rounds.get() < 2000 {
            world.settle().await;
        }
        drop(storm);
        let milliseconds = (world.executor.now() - begun).as_millis();
        let looks = u128::from(vbd.looks());
        // A burst, and then one in five milliseconds; our own writes are looked at, too, and count.
        assert!(looks <= 64 + milliseconds / 5 + 2, "{looks} looks in {milliseconds} ms, {} states", rounds.get());
        assert!(u128::from(rounds.get()) > looks, "{} states", rounds.get());
        vbd.show(6).await;
        vbd.wait_for(6).await;
        world.settle().await;
        vbd.show(1).await;
        vbd.wait_for(2).await;
        vbd.show(3).await;
        vbd.wait_for(4).await;
        assert_eq!(vbd.settled().await, "4", "and the disk is as good as ever");
    });
}

#[test]
fn a_device_whose_storage_hangs_holds_up_no_other() {
    let world = World::new();
    world.run(async {
        let hung = world.connected_vbd(GUEST, XVDA).await;
        world.worker.set_slow_to_disconnect(Some(XVDA));
        hung.detach(true).await;
        for _ in 0..10 {
            let other = world.connected_vbd(8, 51728).await;
            other.detach(false).await;
            other.show(6).await;
            other.wait_for(6).await;
            other.remove().await;
        }
        assert_eq!(hung.settled().await, "5");
    });
}

#[test]
fn whatever_order_of_states_is_shown_the_device_comes_out_of_it() {
    let seed = test_support::seed();
    let mut random = seed;
    let mut below = |count: u64| {
        random = random.wrapping_mul(6_364_136_223_846_793_005).wrapping_add(1_442_695_040_888_963_407);
        (random >> 33) % count
    };
    let world = World::new();
    world.run(async {
        let vbd = world.ready_vbd(GUEST, XVDA).await;
        vbd.show_ring(&[("ring-ref", "8"), ("event-channel", "3")], 1).await;
        for _ in 0..test_support::cycles(30, 1000) {
            for _ in 0..below(6) {
                let state = u8::try_from(below(9)).unwrap();
                match below(8) {
                    0 => vbd.unset("state").await,
                    1 => world.worker.set_slow_to_connect(below(2) == 0),
                    2 => world.worker.set_slow_to_disconnect((below(2) == 0).then_some(XVDA)),
                    3 => world.worker.die(),
                    _ => vbd.show(state).await,
                }
                for _ in 0..below(20) {
                    world.store.read(&vbd.back).await.unwrap();
                }
            }
            world.worker.set_slow_to_connect(false);
            world.worker.set_slow_to_disconnect(None);
            world.settle().await;
            vbd.show(6).await;
            vbd.wait_for(6).await;
            assert!(!vbd.is_connected(), "seed {seed}");
            vbd.show(1).await;
            vbd.wait_for(2).await;
            vbd.show(3).await;
            vbd.wait_for(4).await;
            assert!(vbd.is_connected(), "seed {seed}");
        }
    });
}

#[test]
fn what_else_a_guest_writes_is_not_looked_at() {
    let world = World::new();
    world.run(async {
        let vbd = world.connected_vbd(GUEST, XVDA).await;
        let looks = vbd.looks();
        for index in 0..500 {
            vbd.set(&format!("junk-{index}"), &[b'x'; 1000]).await;
        }
        world.settle().await;
        assert_eq!(vbd.looks(), looks);
    });
}

#[test]
fn whatever_nodes_a_guest_writes_the_device_comes_out_of_it() {
    let seed = test_support::seed();
    let world = World::new();
    world.run(async {
        let neighbour = world.connected_vbd(8, XVDA).await;
        let vbd = world.ready_vbd(GUEST, XVDA).await;
        let store = world.guest_store(GUEST);
        for (mode, name) in HostileNodes::ALL {
            mode.write(&store, &vbd.front, 100, seed).await.unwrap();
            world.settle().await;
            for stale in ["ring-page-order", "multi-queue-num-queues", "protocol"] {
                vbd.unset(stale).await;
            }
            vbd.show(6).await;
            vbd.wait_for(6).await;
            vbd.show(1).await;
            vbd.wait_for(2).await;
            vbd.show_ring(&[("ring-ref", "8"), ("event-channel", "3")], 3).await;
            vbd.wait_for(4).await;
            assert_eq!(neighbour.settled().await, "4", "{name}, seed {seed}");
        }
    });
}

#[test]
fn a_message_of_64_kib_ends_the_connection_that_it_came_by_and_no_other() {
    let world = World::new();
    world.run(async {
        let neighbour = world.connected_vbd(8, XVDA).await;
        let vbd = world.ready_vbd(GUEST, XVDA).await;
        let before = world.sockets.connections();
        let mut raw = UnixStream::connect(world.guest_socket(GUEST)).unwrap();
        raw.set_nonblocking(true).unwrap();
        let payload = [vbd.front.as_str().as_bytes(), b"/ring-ref\0", &[b'8'; 65536]].concat();
        let words = [Operation::Write.number(), 1, 0, u32::try_from(payload.len()).unwrap()];
        let bytes: Vec<u8> = words.iter().flat_map(|word| word.to_le_bytes()).chain(payload).collect();
        // How much of it is taken before the connection ends is the server's affair.
        let sent = raw.write(&bytes).unwrap();
        assert!(sent > 16, "{sent}");
        world.settle().await;
        assert_eq!(world.sockets.connections(), before, "it has ended, and no other");
        match raw.read(&mut [0; 16]) {
            Ok(count) => assert_eq!(count, 0, "no answer"),
            Err(error) => assert_eq!(error.kind(), ErrorKind::ConnectionReset),
        }
        assert_eq!(world.store.read(&vbd.front.join("ring-ref").unwrap()).await.unwrap(), None);
        // The guest's kernel has another connection, and goes on.
        vbd.show_ring(&[("ring-ref", "8"), ("event-channel", "3")], 3).await;
        vbd.wait_for(4).await;
        assert_eq!(neighbour.settled().await, "4");
    });
}

#[test]
fn a_value_of_64_kib_in_the_store_is_refused_with_its_reason_and_holds_up_nobody() {
    for name in ["ring-ref", "event-channel", "ring-page-order", "protocol", "multi-queue-num-queues"] {
        let world = World::new();
        world.run(async {
            let vbd = world.ready_vbd(GUEST, XVDA).await;
            vbd.show_ring(&[("ring-ref", "8"), ("event-channel", "3")], 1).await;
            let node = vbd.front.join(name).unwrap();
            world.plant(&node, &[b'8'; 65536]);
            vbd.show(3).await;
            let neighbour = world.connected_vbd(8, XVDA).await;
            assert_eq!((vbd.settled().await.as_str(), neighbour.state().await.as_str()), ("5", "4"), "{name}");
            let error = vbd.error().await.unwrap();
            assert!(error.starts_with("7 ") && error.contains(name) && error.len() < 200, "{error}");
            assert_eq!((world.worker.connected.get(), vbd.is_connected()), (1, false));
            vbd.unset(name).await;
            vbd.show(6).await;
            vbd.wait_for(6).await;
            vbd.show(1).await;
            vbd.wait_for(2).await;
            vbd.show_ring(&[("ring-ref", "8"), ("event-channel", "3")], 3).await;
            vbd.wait_for(4).await;
        });
    }
}

#[test]
fn a_state_of_64_kib_in_the_store_is_no_state_and_holds_up_nobody() {
    let world = World::new();
    world.run(async {
        let vbd = world.ready_vbd(GUEST, XVDA).await;
        vbd.show_ring(&[("ring-ref", "8"), ("event-channel", "3")], 1).await;
        world.plant(&vbd.front.join("state").unwrap(), &[b'3'; 65536]);
        let neighbour = world.connected_vbd(8, XVDA).await;
        assert_eq!((vbd.settled().await.as_str(), neighbour.state().await.as_str()), ("2", "4"));
        vbd.show(3).await;
        vbd.wait_for(4).await;
    });
}
