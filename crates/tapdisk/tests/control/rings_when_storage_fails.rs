//! Guests and storage that hangs or fails: a guest is let go of in bounded time, and gets its pages back.

use control_api::native::{Command, Faults, OpenImages, ResultOf, State};
use guest::{Front, FrontOptions};
use wire::blkif::Abi;

use crate::{
    host::eventually,
    hosted::{DEVICE, DOMAIN, Hosted},
};

/// A guest on a disk whose storage is told how to fail, with one write under way for each ring.
fn failing(rules: &str, rings: usize) -> (Hosted, Vec<Front>) {
    let queues = Some(u16::try_from(rings).unwrap());
    let hosted = Hosted::with(|open| OpenImages { faults: Some(String::new()), queues, ..open });
    let fronts: Vec<Front> = (0..rings).map(|_| hosted.front(FrontOptions::default())).collect();
    hosted.connect(hosted.asking(DEVICE, &fronts.iter().collect::<Vec<_>>(), Abi::X86_64)).unwrap();
    replace(&hosted, rules);
    for (sector, front) in (0..).zip(&fronts) {
        hosted.begin_to_write(front, sector, [1; 512]).detach();
    }
    eventually("storage has the writes", || {
        let shown = hosted.shown();
        shown.in_flight + shown.waiting == rings as u64
    });
    (hosted, fronts)
}

fn replace(hosted: &Hosted, rules: &str) {
    let faults = Faults { minor: hosted.number(), rules: rules.into() };
    hosted.native().ask(Command::Faults(faults)).unwrap();
}

#[test]
fn a_dump_tells_what_guests_have_asked_for_and_which_pages_it_is_about() {
    let (hosted, _fronts) = failing("write=hang", 2);
    let ResultOf::Dump(dump) = hosted.native().ask(Command::Dump {}).unwrap() else { panic!("a dump was asked for") };
    let operations = dump.loops.iter().flat_map(|event_loop| &event_loop.operations);
    let begins = format!("domain {DOMAIN}: request 0x1: Write at sector ");
    let mut asked: Vec<_> = operations.filter_map(|operation| operation.what.strip_prefix(&begins)).collect();
    asked.sort_unstable();
    assert!(
        asked.len() == 2 && asked[0].starts_with("0, grants [") && asked[1].starts_with("1, grants ["),
        "{asked:?}"
    );
    replace(&hosted, "");
}

#[test]
fn closing_by_force_lets_go_of_guests_whose_requests_hang() {
    let (hosted, fronts) = failing("write=hang", 2);
    let close = Command::Close { minor: hosted.number(), force: true, deadline_ms: None };
    let error = hosted.native().ask(close).unwrap_err();
    assert!(error.to_string().contains("2 requests in flight"), "{error}");
    let shown = hosted.shown();
    assert_eq!((shown.state, shown.rings.len()), (State::Stuck, 0));
    assert_eq!((shown.ring_pages.mapped, shown.ring_pages.leaked, hosted.used()), (0, 0, 0));
    assert!(fronts.iter().all(|front| front.end().unwrap() == 0));
    replace(&hosted, "");
    eventually("storage lets go", || hosted.shown().state == State::Closed);
}

#[test]
fn a_guest_whose_requests_hang_is_let_go_of_at_its_deadline_and_the_disk_stays() {
    let (hosted, fronts) = failing("write=hang", 1);
    let ended = hosted.disconnect(DEVICE, Some(200));
    assert_eq!((ended.connected, ended.pages.mapped, ended.pages.leaked), (true, 0, 0));
    assert_eq!((hosted.used(), hosted.shown().state), (0, State::Running));
    assert_eq!(fronts[0].end().unwrap(), 0);
    // The same guest comes back while the old write still hangs, and reads.
    let front = hosted.front(FrontOptions::default());
    hosted.connect(hosted.asking(DEVICE, &[&front], Abi::X86_64)).unwrap();
    assert_eq!(hosted.executor.block_on(front.read(64, 1)).unwrap(), [0; 512]);
    replace(&hosted, "");
    eventually("the old write has ended", || hosted.shown().in_flight == 0);
    hosted.executor.block_on(front.write(0, &[2; 512])).unwrap();
}

#[test]
fn a_guest_is_let_go_of_while_a_pause_waits_for_its_requests() {
    let (hosted, fronts) = failing("write=hang", 1);
    let mut pausing = hosted.native();
    pausing.begin(Command::Pause { minor: hosted.number(), deadline_ms: None }).unwrap();
    eventually("the disk comes to rest", || hosted.shown().state == State::Pausing);
    assert!(hosted.disconnect(DEVICE, Some(200)).connected);
    assert_eq!((hosted.used(), fronts[0].end().unwrap()), (0, 0));
    replace(&hosted, "");
    eventually("the disk is at rest", || hosted.shown().state == State::Paused);
}

#[test]
fn closing_does_not_wait_for_what_is_tried_again_and_again() {
    let (hosted, fronts) = failing("write=EAGAIN", 1);
    eventually("it is tried again", || hosted.shown().waiting == 1);
    hosted.native().ask(Command::Close { minor: hosted.number(), force: false, deadline_ms: None }).unwrap();
    let shown = hosted.shown();
    assert_eq!((shown.state, shown.rings.len(), shown.ring_pages.leaked), (State::Closed, 0, 0));
    assert_eq!(fronts[0].end().unwrap(), 0);
}

#[test]
fn what_was_answered_before_a_guest_left_is_on_storage() {
    let hosted = Hosted::with(|open| OpenImages { faults: Some("write=delay(50ms)".into()), ..open });
    let front = hosted.front(FrontOptions::default());
    hosted.connect(hosted.asking(DEVICE, &[&front], Abi::X86_64)).unwrap();
    let writing = hosted.begin_to_write(&front, 0, [5; 512]);
    eventually("it is taken", || hosted.shown().in_flight == 1);
    let ended = hosted.disconnect(DEVICE, None);
    assert_eq!((ended.counters.requests, ended.counters.kicks_out), (1, 1));
    // The answer was in the ring before its pages were given back.
    hosted.executor.block_on(writing).unwrap();
    assert_eq!(std::fs::read(&hosted.image).unwrap()[..512], [5; 512]);
}
