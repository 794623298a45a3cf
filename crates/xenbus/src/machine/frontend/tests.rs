//! Stories, and what holds in every state that events can lead to.

use std::collections::{HashMap, VecDeque};

use super::*;

use Action::{
    Finish, MakeRing, Publish, ReadDisk, RefuseClosing, ReleaseRing, StartDisk, StartTimer, StopDisk, StopTimer,
};
use Event::{Backend, DiskRead, InUse, RingMade, Shutdown, Timeout};
use State::{Closed, Closing, Connected, InitWait, Initialising, Unknown};

fn all_events() -> Vec<Event> {
    let backends = State::ALL.into_iter().map(Backend);
    let others = [
        RingMade(true),
        RingMade(false),
        DiskRead(true),
        DiskRead(false),
        InUse(true),
        InUse(false),
        Shutdown,
        Timeout,
    ];
    backends.chain(others).collect()
}

/// Every state that any sequence of events leads to, from whatever another kernel has left.
fn all_reachable() -> HashMap<Frontend, Vec<Event>> {
    let pairs = State::ALL.into_iter().flat_map(|own| State::ALL.map(|backend| (own, backend)));
    let starts: Vec<Frontend> = pairs.map(|(own, backend)| Frontend::new(own, backend).0).collect();
    let mut reached: HashMap<_, _> = starts.iter().map(|start| (*start, Vec::new())).collect();
    let mut waiting = VecDeque::from(starts);
    while let Some(frontend) = waiting.pop_front() {
        for event in all_events() {
            let (next, _) = frontend.apply(event);
            if !reached.contains_key(&next) {
                reached.insert(next, [reached[&frontend].as_slice(), &[event]].concat());
                waiting.push_back(next);
            }
        }
    }
    reached
}

/// Goes through a story from the start of a new device.
fn story(steps: &[(Event, &[Action])]) -> Frontend {
    let (frontend, first) = Frontend::new(Initialising, Initialising);
    assert!(first.is_empty());
    go_on(frontend, steps)
}

fn go_on(mut frontend: Frontend, steps: &[(Event, &[Action])]) -> Frontend {
    for (index, (event, expected)) in steps.iter().enumerate() {
        let (next, actions) = frontend.apply(*event);
        assert_eq!(actions, *expected, "step {index}: {event:?} in {frontend:?}");
        frontend = next;
    }
    frontend
}

const CONNECT: [(Event, &[Action]); 4] = [
    (Backend(InitWait), &[MakeRing]),
    (RingMade(true), &[]),
    (Backend(Connected), &[ReadDisk]),
    (DiskRead(true), &[Publish(Connected), StartDisk]),
];

fn after_connecting(steps: &[(Event, &[Action])]) -> Frontend {
    story(&[&CONNECT, steps].concat())
}

#[test]
fn a_shutdown_is_over_when_its_timer_runs_out_whatever_the_backend_does() {
    for (frontend, path) in all_reachable() {
        let mut frontend = frontend.apply(Shutdown).0;
        for event in [Timeout, RingMade(true), DiskRead(true), Timeout, Timeout] {
            frontend = frontend.apply(event).0;
        }
        let waits_for_hands = matches!(frontend.phase, Phase::Making | Phase::Reading);
        assert!(frontend.phase == Phase::Left || waits_for_hands, "{path:?}: {frontend:?}");
    }
}

#[test]
fn a_ring_is_released_only_when_the_backend_has_let_go() {
    for (frontend, path) in all_reachable() {
        for event in all_events() {
            let (next, actions) = frontend.apply(event);
            if actions.contains(&ReleaseRing) {
                assert!(matches!(next.backend, Closed | Unknown), "{path:?} {event:?}");
                assert!(!next.has_ring, "{path:?} {event:?}");
            }
        }
    }
}

#[test]
fn every_wait_for_the_backend_while_leaving_has_a_timer() {
    for (frontend, path) in all_reachable() {
        for event in all_events() {
            let (next, actions) = frontend.apply(event);
            let begins = |phase| next.phase == phase && frontend.phase != phase;
            if begins(Phase::Leaving) || begins(Phase::Resetting) {
                assert!(actions.contains(&StartTimer), "{path:?} {event:?}");
            }
            if next.phase == Phase::Left && frontend.phase != Phase::Left {
                assert!(actions.iter().rev().any(|action| matches!(action, Finish(_))), "{path:?} {event:?}");
            }
        }
    }
}

#[test]
fn a_disk_is_used_and_left_to_the_next_kernel() {
    after_connecting(&[
        (InUse(true), &[]),
        (Shutdown, &[StopDisk, Publish(Closing), StartTimer]),
        (Backend(Closing), &[Publish(Closed), StartTimer]),
        (Backend(Closed), &[ReleaseRing, Publish(Initialising), StopTimer, Finish(Outcome::AtItsStart)]),
        (Backend(InitWait), &[]),
    ]);
}

#[test]
fn offers_are_ignored_while_shutting_down() {
    let frontend = after_connecting(&[(Shutdown, &[StopDisk, Publish(Closing), StartTimer]), (Backend(InitWait), &[])]);
    assert_eq!((frontend.phase, frontend.own), (Phase::Leaving, Closing));
}

#[test]
fn a_backend_that_is_dead_holds_up_a_shutdown_only_for_so_long() {
    let frontend = after_connecting(&[
        (Shutdown, &[StopDisk, Publish(Closing), StartTimer]),
        (Timeout, &[StopTimer, Finish(Outcome::TimedOut)]),
    ]);
    assert!(frontend.has_ring, "the backend may still use it");
}

#[test]
fn a_disk_in_use_stays_when_the_backend_wants_to_close() {
    let frontend = after_connecting(&[
        (InUse(true), &[]),
        (Backend(Closing), &[RefuseClosing]),
        (Backend(Closing), &[]),
        (InUse(false), &[StopDisk, Publish(Closed), StartTimer]),
        (Backend(Closed), &[ReleaseRing, StopTimer, Finish(Outcome::Closed)]),
    ]);
    assert_eq!(frontend.own, Closed, "the backend began it");
}

#[test]
fn a_disk_in_use_does_not_stay_when_the_system_goes_down() {
    after_connecting(&[
        (InUse(true), &[]),
        (Backend(Closing), &[RefuseClosing]),
        (Shutdown, &[StopDisk, Publish(Closed), StartTimer]),
    ]);
}

#[test]
fn a_new_kernel_undoes_what_the_old_one_has_left() {
    let (frontend, first) = Frontend::new(Connected, Connected);
    assert_eq!(first, [Publish(Closing), StartTimer]);
    go_on(
        frontend,
        &[
            (Backend(Closing), &[Publish(Closed), StartTimer]),
            (Backend(Closed), &[StopTimer, Publish(Initialising)]),
            (Backend(InitWait), &[MakeRing]),
        ],
    );
    let (frontend, first) = Frontend::new(Closing, Closing);
    assert_eq!(first, [StartTimer, Publish(Closed), StartTimer]);
    go_on(frontend, &[(Backend(Closed), &[StopTimer, Publish(Initialising)])]);
    let (frontend, first) = Frontend::new(Closed, Closed);
    assert_eq!(first, [StartTimer, StopTimer, Publish(Initialising)]);
    assert_eq!(frontend.phase, Phase::Waiting);
}

#[test]
fn a_backend_that_does_not_follow_a_new_kernel_is_waited_for_only_so_long() {
    let (frontend, _) = Frontend::new(Connected, Connected);
    go_on(frontend, &[(Timeout, &[StopTimer, Publish(Initialising)]), (Backend(InitWait), &[MakeRing])]);
}

#[test]
fn a_ring_that_cannot_be_made_ends_the_device() {
    story(&[
        (Backend(InitWait), &[MakeRing]),
        (RingMade(false), &[Publish(Closed), StopTimer, Finish(Outcome::Failed)]),
    ]);
}

#[test]
fn a_backend_that_vanishes_ends_the_device() {
    after_connecting(&[(
        Backend(Unknown),
        &[StopDisk, Publish(Closed), StartTimer, ReleaseRing, StopTimer, Finish(Outcome::Failed)],
    )]);
}
