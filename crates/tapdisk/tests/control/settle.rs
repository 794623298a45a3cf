//! A guest that stands still: what it has asked is durable, another host may write, and it finds everything as it was if it
//! goes on here after all.

use std::fs::File;

use control_api::native::{Command, ConnectRing, OpenImages, ResultOf, RingSettled, WriteAccess};
use guest::{Front, FrontOptions};
use wire::blkif::Abi;
use xen::hosted::Guest;

use crate::hosted::{DEVICE, DOMAIN, Hosted, OTHER_DOMAIN};

fn late() -> (Hosted, Front) {
    let hosted = Hosted::with(|open| OpenImages { late: true, request_timeout_seconds: Some(1), ..open });
    let front = hosted.front(FrontOptions::default());
    hosted.connect(hosted.asking(DEVICE, &[&front], Abi::X86_64)).unwrap();
    (hosted, front)
}

fn settle(hosted: &Hosted) -> RingSettled {
    let (minor, domain, device) = (hosted.number(), DOMAIN.0, DEVICE);
    match hosted.native().ask(Command::SettleRing { minor, domain, device }).unwrap() {
        ResultOf::SettleRing(settled) => settled,
        other => panic!("{other:?}"),
    }
}

/// Takes the lock as another host would.
fn locked(hosted: &Hosted) -> Option<File> {
    let file = File::options().read(true).write(true).open(&hosted.image).unwrap();
    file.try_lock().ok().map(|()| file)
}

fn is_settled(hosted: &Hosted) -> bool {
    hosted.shown().rings[0].settled
}

#[test]
fn another_host_may_write_and_the_guest_goes_on_as_if_nothing_had_been() {
    let (hosted, front) = late();
    for round in 1..4 {
        hosted.executor.block_on(front.write(8, &[round; 512])).unwrap();
        assert!(locked(&hosted).is_none());
        assert_eq!(settle(&hosted), RingSettled { connected: true, not_durable: None });
        assert!(is_settled(&hosted) && hosted.shown().write_access == WriteAccess::Later);
        assert!(locked(&hosted).is_some(), "who is told of it may tell others to write");
        assert_eq!(hosted.executor.block_on(front.read(8, 1)).unwrap(), [round; 512], "it asks, and is served");
        assert!(!is_settled(&hosted) && locked(&hosted).is_none(), "it may write at any time again");
    }
    settle(&hosted);
    assert!(hosted.disconnect(DEVICE, None).connected, "it can go as it is");
    assert!(!settle(&hosted).connected);
}

#[test]
fn a_guest_that_goes_on_waits_for_the_other_host() {
    let (hosted, front) = late();
    settle(&hosted);
    let other = locked(&hosted).unwrap();
    let write = hosted.begin_to_write(&front, 0, [9; 512]);
    std::thread::sleep(std::time::Duration::from_millis(50));
    assert!(is_settled(&hosted), "the other host writes");
    assert_eq!(std::fs::read(&hosted.image).unwrap()[..512], [0; 512]);
    drop(other);
    hosted.executor.block_on(write).unwrap();
    assert!(!is_settled(&hosted));
}

#[test]
fn one_that_is_settled_is_held_for_a_guest_that_comes_and_goes_on_when_that_goes() {
    let (hosted, old) = late();
    let guest = Guest::boot(hosted.host.place.scratch(), OTHER_DOMAIN).unwrap();
    let new = Front::new(&hosted.executor, &guest, FrontOptions::default()).unwrap();
    hosted.executor.block_on(old.write(0, &[1; 512])).unwrap();
    settle(&hosted);
    let asked = hosted.asking(DEVICE, &[&new], Abi::X86_64);
    hosted.connect(ConnectRing { domain: OTHER_DOMAIN.0, exclusive: true, ..asked }).unwrap();
    let late = hosted.begin_to_write(&old, 0, [9; 512]);
    assert_eq!(hosted.executor.block_on(new.read(0, 1)).unwrap(), [1; 512]);
    hosted.executor.block_on(new.write(0, &[2; 512])).unwrap();
    assert_eq!(hosted.executor.block_on(new.read(0, 1)).unwrap(), [2; 512]);
    let shown = hosted.shown();
    let of = |domain| shown.rings.iter().find(|ring| ring.domain == domain).unwrap();
    assert!(of(DOMAIN.0).held && of(OTHER_DOMAIN.0).handover.unwrap().blackout_us.is_some());
    let (minor, domain, device) = (hosted.number(), OTHER_DOMAIN.0, DEVICE);
    hosted
        .native()
        .ask(Command::DisconnectRing { minor, domain, device, deadline_ms: None, is_removed: false })
        .unwrap();
    hosted.executor.block_on(late).unwrap();
    assert_eq!(hosted.executor.block_on(old.read(0, 1)).unwrap(), [9; 512]);
}
