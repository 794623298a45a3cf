//! The budget of grants that the tapdisks of a host share.

use std::{
    task::{Poll, Waker},
    thread,
    time::Duration,
};

use control_api::native::Throttled;
use guest::FrontOptions;
use xen::budget::{Budget, MapPurpose, REQUEST_PAGES_MAX};

use crate::hosted::{DEVICE, Hosted};

/// The budget as another process of the same host has it.
fn other(hosted: &Hosted) -> Budget {
    Budget::open(&hosted.host.run.grant_budget(), None).unwrap()
}

fn until(is_so: impl Fn() -> bool) {
    let looks = (0..10_000).map(|_| thread::sleep(Duration::from_millis(1)));
    assert!(looks.into_iter().any(|()| is_so()), "it has become so in ten seconds");
}

#[test]
fn a_guest_waits_until_the_host_has_room_and_the_statistics_tell_how_long() {
    let hosted = Hosted::with_budget("264");
    let front = hosted.front(FrontOptions::default());
    hosted.connect(hosted.asking(DEVICE, &[&front], FrontOptions::default().abi)).unwrap();
    let budget = other(&hosted);
    assert_eq!((budget.account().limits.copies, budget.account().mapped), (REQUEST_PAGES_MAX, 1));
    let share = budget.share().unwrap();
    let Poll::Ready(held) = share.waiter().poll(REQUEST_PAGES_MAX, Waker::noop()) else { panic!("there is room") };
    let writing = hosted.begin_to_write(&front, 0, [7; 512]);
    until(|| budget.account().waiting == 1);
    assert_eq!(front.in_flight(), 1);
    drop(held);
    hosted.executor.block_on(writing).unwrap();
    let Throttled { requests, waited_us } = hosted.shown().rings[0].counters.throttled;
    assert!(requests == 1 && waited_us > 0, "{requests} {waited_us}");
    assert_eq!(hosted.disconnect(DEVICE, None).counters.throttled.requests, 1);
    assert_eq!((budget.account().shares, budget.account().mapped), (1, 0), "nothing is left but our own");
}

#[test]
fn a_tapdisk_that_is_killed_gives_its_share_back() {
    let hosted = Hosted::with_budget("264");
    let front = hosted.front(FrontOptions::default());
    hosted.connect(hosted.asking(DEVICE, &[&front], FrontOptions::default().abi)).unwrap();
    let share = other(&hosted).share().unwrap();
    assert!(share.map(REQUEST_PAGES_MAX, MapPurpose::Ring).is_err(), "one page is mapped");
    hosted.kill();
    until(|| share.map(REQUEST_PAGES_MAX, MapPurpose::Ring).is_ok());
}

#[test]
fn without_a_budget_nobody_waits() {
    let hosted = Hosted::with_budget("off");
    let front = hosted.front(FrontOptions::default());
    hosted.connect(hosted.asking(DEVICE, &[&front], FrontOptions::default().abi)).unwrap();
    hosted.executor.block_on(front.write(0, &[7; 512])).unwrap();
    assert!(!hosted.host.run.grant_budget().exists());
}

#[test]
fn a_host_that_was_told_nothing_of_a_budget_has_one() {
    let hosted = Hosted::new();
    let front = hosted.front(FrontOptions::default());
    hosted.connect(hosted.asking(DEVICE, &[&front], FrontOptions::default().abi)).unwrap();
    assert!(hosted.host.run.grant_budget().exists());
    assert_eq!(other(&hosted).account().mapped, 1, "the page of the ring is in it");
    hosted.executor.block_on(front.write(0, &[7; 512])).unwrap();
}
