//! What frontends say of their rings, right and wrong.

use control_api::native::{ConnectRing, RingAbi};

use crate::world::{GUEST, Vbd, World, XVDA};

/// What is asked of the tapdisk for a frontend with these nodes.
fn asked(nodes: &[(&str, &str)]) -> ConnectRing {
    let world = World::new();
    world.run(async {
        let vbd = world.ready_vbd(GUEST, XVDA).await;
        vbd.show_ring(nodes, 3).await;
        vbd.wait_for(4).await;
        world.worker.ring(GUEST, XVDA)
    })
}

/// The error that a frontend with these nodes is told; it must be told to close, and nothing may have been connected.
async fn refused(vbd: &Vbd<'_>) -> String {
    assert_eq!(vbd.settled().await, "5");
    assert_eq!((vbd.world.worker.connected.get(), vbd.world.worker.refused.get()), (0, 0));
    vbd.error().await.unwrap()
}

fn refusal(nodes: &[(&str, &str)]) -> String {
    let world = World::new();
    world.run(async {
        let vbd = world.ready_vbd(GUEST, XVDA).await;
        vbd.show_ring(nodes, 3).await;
        refused(&vbd).await
    })
}

#[test]
fn rings_of_many_pages_and_many_queues_are_read_right() {
    let mut nodes = vec![
        ("ring-page-order".to_owned(), "4".to_owned()),
        ("multi-queue-num-queues".to_owned(), "4".to_owned()),
        ("protocol".to_owned(), "arm-abi".to_owned()),
    ];
    for queue in 0..4 {
        nodes.push((format!("queue-{queue}/event-channel"), (100 + queue).to_string()));
        nodes.extend((0..16).map(|page| (format!("queue-{queue}/ring-ref{page}"), (queue * 16 + page).to_string())));
    }
    let nodes: Vec<(&str, &str)> = nodes.iter().map(|(name, value)| (name.as_str(), value.as_str())).collect();
    let ring = asked(&nodes);
    assert_eq!((ring.queues.len(), ring.abi, ring.indirect_segments), (4, RingAbi::Arm, 256));
    for (index, queue) in (0..).zip(&ring.queues) {
        assert_eq!(queue.port, 100 + index);
        assert_eq!(queue.pages, (index * 16..index * 16 + 16).collect::<Vec<u32>>());
    }
}

#[test]
fn a_single_page_may_be_named_in_three_ways() {
    let channel = ("event-channel", "3");
    let ring = [("ring-ref", "8"), channel];
    let numbered = [("ring-page-order", "0"), ("ring-ref0", "8"), channel];
    let mixed = [("ring-page-order", "0"), ("ring-ref", "8"), channel];
    for nodes in [&ring[..], &numbered, &mixed] {
        let ring = asked(nodes);
        assert_eq!((&ring.queues[0].pages[..], ring.queues[0].port), (&[8][..], 3));
        assert_eq!(ring.abi, RingAbi::X86_32, "without a protocol, on this machine");
    }
}

#[test]
fn pages_may_be_counted_as_they_were_once() {
    let nodes = [("num-ring-pages", "2"), ("ring-ref0", "8"), ("ring-ref1", "9"), ("event-channel", "3")];
    assert_eq!(asked(&nodes).queues[0].pages, [8, 9]);
    assert!(refusal(&[("num-ring-pages", "3"), ("event-channel", "3")]).starts_with("22 "));
}

#[test]
fn queues_that_an_older_kernel_has_left_behind_are_not_taken_for_the_boot_loaders() {
    let nodes = [("multi-queue-num-queues", "4"), ("ring-ref", "8"), ("event-channel", "3")];
    let ring = asked(&nodes);
    assert_eq!((ring.queues.len(), &ring.queues[0].pages[..]), (1, &[8][..]));
}

#[test]
fn the_toolstack_may_ask_to_look_at_rings_and_to_keep_pages_mapped() {
    let told = |nodes: &'static [(&'static str, &'static str)], agrees: &'static str| {
        let world = World::new();
        world.run(async {
            let vbd = world.vbd(GUEST, XVDA).await;
            vbd.wait_for(2).await;
            for (name, value) in nodes {
                world.store.write(&vbd.node(name), value.as_bytes()).await.unwrap();
            }
            vbd.run_script().await;
            vbd.show_ring(&[("ring-ref", "8"), ("event-channel", "3"), ("feature-persistent", agrees)], 3).await;
            vbd.wait_for(4).await;
            let ring = world.worker.ring(GUEST, XVDA);
            (ring.polling_us, ring.persistent, vbd.read("feature-persistent").await.unwrap())
        })
    };
    assert_eq!(told(&[], "1"), (0, false, "0".to_owned()));
    let both = &[("polling-duration", "1000"), ("persistent-enable", "1")];
    assert_eq!(told(both, "1"), (1000, true, "1".to_owned()));
    assert_eq!(told(both, "0"), (1000, false, "0".to_owned()), "pages stay mapped if both want it");
    assert_eq!(told(&[("polling-duration", "1000"), ("polling-idle-threshold", "50")], "1").0, 0);
}

#[test]
fn what_makes_no_sense_is_told_with_number_and_place() {
    let good = [("ring-ref", "8"), ("event-channel", "3")];
    let with = |name, value| refusal(&[&good[..], &[(name, value)]].concat());
    let fe = "/local/domain/7/device/vbd/51712";
    assert_eq!(refusal(&[]), format!("22 reading {fe}/event-channel: there is none"));
    assert_eq!(refusal(&[("event-channel", "3")]), format!("22 reading {fe}/ring-ref: there is none"));
    assert_eq!(with("ring-ref", "-1"), format!("22 reading {fe}/ring-ref: '-1' is not a number"));
    assert_eq!(
        with("event-channel", "4294967296"),
        format!("22 reading {fe}/event-channel: '4294967296' is not a number")
    );
    assert_eq!(with("ring-page-order", "31"), "22 the ring has 2^31 pages; at most 2^4 were offered");
    assert_eq!(with("ring-page-order", "1"), format!("22 reading {fe}/ring-ref0: there is none"));
    assert_eq!(with("multi-queue-num-queues", "0"), "22 guest requested 0 queues; at most 4 were offered");
    assert_eq!(
        with("multi-queue-num-queues", "4294967295"),
        "22 guest requested 4294967295 queues; at most 4 were offered"
    );
    assert_eq!(with("protocol", "sparc-abi"), "93 unknown fe protocol 'sparc-abi'");
}

#[test]
fn a_page_or_a_channel_that_is_named_twice_is_refused() {
    let pages = [("ring-page-order", "1"), ("ring-ref0", "8"), ("ring-ref1", "8"), ("event-channel", "3")];
    assert_eq!(refusal(&pages), "22 grant reference 8 is named twice as a page of the ring");
    let queues = |page, port| {
        let first = [("queue-0/ring-ref", "8"), ("queue-0/event-channel", "3"), ("multi-queue-num-queues", "2")];
        refusal(&[&first[..], &[("queue-1/ring-ref", page), ("queue-1/event-channel", port)]].concat())
    };
    assert_eq!(queues("8", "4"), "22 grant reference 8 is named twice as a page of the ring");
    assert_eq!(queues("9", "3"), "22 event channel 3 is named for two rings");
    let missing = [("multi-queue-num-queues", "2"), ("queue-0/ring-ref", "8"), ("queue-0/event-channel", "3")];
    assert!(refusal(&missing).starts_with("22 reading /local/domain/7/device/vbd/51712/queue-1/event-channel"));
}

#[test]
fn values_may_be_as_long_as_they_like_and_any_bytes() {
    let world = World::new();
    world.run(async {
        let vbd = world.ready_vbd(GUEST, XVDA).await;
        vbd.set("ring-ref", &[b'8'; 3900]).await;
        vbd.set("event-channel", b"3").await;
        vbd.show(3).await;
        let error = refused(&vbd).await;
        assert!(error.ends_with("'... (3900 bytes) is not a number") && error.len() < 200, "{error}");
        vbd.show(6).await;
        vbd.wait_for(6).await;
        vbd.show(1).await;
        vbd.wait_for(2).await;
        vbd.set("ring-ref", &[0xff, 0, b'\n']).await;
        vbd.show(3).await;
        assert!(refused(&vbd).await.contains("'\\xff\\x00\\n'"));
    });
}

#[test]
fn a_ring_that_the_tapdisk_refuses_is_told_once_and_another_is_tried() {
    let world = World::new();
    world.run(async {
        let vbd = world.ready_vbd(GUEST, XVDA).await;
        world.worker.refusal.set(Some(22));
        vbd.show_ring(&[("ring-ref", "8"), ("event-channel", "3")], 3).await;
        vbd.wait_for(5).await;
        assert_eq!(vbd.settled().await, "5");
        assert_eq!((vbd.error().await.unwrap().as_str(), world.worker.refused.get()), ("22 as the test wants it", 1));
        vbd.show(6).await;
        vbd.wait_for(6).await;
        world.worker.refusal.set(None);
        vbd.show(1).await;
        vbd.wait_for(2).await;
        vbd.show(3).await;
        vbd.wait_for(4).await;
        world.settle().await;
        assert_eq!(vbd.error().await, None);
    });
}
