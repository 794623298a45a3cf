//! A guest that moves within a host: no request of the one that comes is taken before the last of the one that goes is
//! answered.

use control_api::native::{ConnectRing, DiskSummary, Handover, OpenImages, RingStatistics};
use guest::{Front, FrontOptions};
use storage_io::Wait;
use wire::blkif::Abi;
use xen::hosted::Guest;

use crate::{
    host::eventually,
    hosted::{DEVICE, DOMAIN, Hosted, OTHER_DOMAIN},
};

/// Two guests with a ring each; the first is connected.
struct Move {
    hosted: Hosted,
    old: Front,
    new: Front,
    /// Keeps the second guest alive.
    _guest: Guest,
}

impl Move {
    fn begin(how: impl FnOnce(OpenImages) -> OpenImages) -> Move {
        let hosted = Hosted::with(how);
        let guest = Guest::boot(hosted.host.place.scratch(), OTHER_DOMAIN).unwrap();
        let old = hosted.front(FrontOptions::default());
        let new = Front::new(&hosted.executor, &guest, FrontOptions::default()).unwrap();
        hosted.connect(hosted.asking(DEVICE, &[&old], Abi::X86_64)).unwrap();
        Move { hosted, old, new, _guest: guest }
    }

    fn comes(&self, exclusive: bool) {
        let asked = self.hosted.asking(DEVICE, &[&self.new], Abi::X86_64);
        let asked = ConnectRing { domain: OTHER_DOMAIN.0, exclusive, ..asked };
        self.hosted.connect(asked).unwrap();
    }

    fn goes(&self, domain: u16) {
        let (minor, device) = (self.hosted.number(), DEVICE);
        let asked = control_api::native::Command::DisconnectRing {
            minor,
            domain,
            device,
            deadline_ms: None,
            is_removed: false,
        };
        self.hosted.native().ask(asked).unwrap();
    }

    fn shown(&self, domain: u16) -> RingStatistics {
        let DiskSummary { rings, .. } = self.hosted.shown();
        rings.into_iter().find(|ring| ring.domain == domain).unwrap()
    }
}

#[test]
fn the_guest_that_goes_is_held_until_the_one_that_comes_has_gone() {
    let moving = Move::begin(|open| open);
    let Move { hosted, old, new, .. } = &moving;
    hosted.executor.block_on(old.write(0, &[1; 512])).unwrap();
    moving.comes(true);
    assert!(moving.shown(DOMAIN.0).held && !moving.shown(OTHER_DOMAIN.0).held);
    let late = hosted.begin_to_write(old, 0, [9; 512]);
    assert_eq!(hosted.executor.block_on(new.read(0, 1)).unwrap(), [1; 512]);
    hosted.executor.block_on(new.write(0, &[2; 512])).unwrap();
    assert_eq!(hosted.executor.block_on(new.read(0, 1)).unwrap(), [2; 512], "the old guest's write was not taken");
    let before = moving.shown(OTHER_DOMAIN.0).handover.unwrap();
    assert_eq!((before.domain, before.device), (DOMAIN.0, DEVICE));
    assert!(before.blackout_us.is_some(), "{before:?}");
    // The migration is given up.
    moving.goes(OTHER_DOMAIN.0);
    hosted.executor.block_on(late).unwrap();
    assert_eq!(hosted.executor.block_on(old.read(0, 1)).unwrap(), [9; 512]);
    assert!(!moving.shown(DOMAIN.0).held);
}

#[test]
fn what_was_taken_of_the_guest_that_goes_is_answered_before_the_other_is_served() {
    let moving = Move::begin(|open| OpenImages { faults: Some("write=delay(400ms)".into()), ..open });
    let Move { hosted, old, new, .. } = &moving;
    let slow = hosted.begin_to_write(old, 0, [1; 512]);
    eventually("it was taken", || hosted.shown().in_flight == 1);
    moving.comes(true);
    assert_eq!(hosted.shown().in_flight, 0, "it has ended");
    hosted.executor.turn(Wait::No).unwrap();
    hosted.executor.block_on(slow).unwrap();
    assert_eq!(hosted.executor.block_on(new.read(0, 1)).unwrap(), [1; 512]);
    // The one that was held can go.
    moving.goes(DOMAIN.0);
    moving.goes(OTHER_DOMAIN.0);
    assert_eq!(hosted.shown().rings, []);
}

#[test]
fn guests_that_share_a_disk_are_served_together() {
    let moving = Move::begin(|open| open);
    let Move { hosted, old, new, .. } = &moving;
    moving.comes(false);
    hosted.executor.block_on(old.write(0, &[1; 512])).unwrap();
    hosted.executor.block_on(new.write(1, &[2; 512])).unwrap();
    assert!(!moving.shown(DOMAIN.0).held);
    assert_eq!(moving.shown(OTHER_DOMAIN.0).handover, None);
}

#[test]
fn who_has_gone_before_the_other_comes_is_known_too() {
    let moving = Move::begin(|open| open);
    let Move { hosted, old, new, .. } = &moving;
    hosted.executor.block_on(old.write(0, &[1; 512])).unwrap();
    moving.goes(DOMAIN.0);
    moving.comes(true);
    let known = Handover { domain: DOMAIN.0, device: DEVICE, blackout_us: None };
    assert_eq!(moving.shown(OTHER_DOMAIN.0).handover, Some(known), "nothing was asked yet");
    hosted.executor.block_on(new.read(0, 1)).unwrap();
    assert!(moving.shown(OTHER_DOMAIN.0).handover.unwrap().blackout_us.is_some());
}
