//! Frontends that say anything of their rings: what the tapdisk is asked for makes sense, or the frontend is told why not.

use test_support::Choices;

use crate::{
    said::{Reader, makes_sense, nodes},
    world::{GUEST, Vbd, World, XVDA},
};

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
    let world = World::new();
    world.run(async { drop(world.connected_vbd(8, XVDA).await) });
    let vbd = world.run(world.ready_vbd(GUEST, XVDA));
    let (mut served, mut frontends) = (0, 0);
    test_support::feed("ring-nodes", 1024, (60, 5000), |bytes| {
        served += u64::from(world.run(come_and_go(&vbd, &nodes(&mut Choices::new(bytes)))));
        frontends += 1;
    });
    println!("{served} of {frontends} frontends were served");
    assert_eq!(world.run(Vbd::new(&world, 8, XVDA).settled()), "4");
}

#[test]
fn whatever_a_frontend_says_of_its_rings_is_read_the_same_way() {
    let reader = Reader::new();
    test_support::feed("ring-nodes", 1024, (300, 30_000), |bytes| reader.read_anything(bytes));
}
