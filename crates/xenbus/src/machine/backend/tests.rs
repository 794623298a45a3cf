//! Stories, and what holds in every state that events can lead to.

use std::collections::{HashMap, VecDeque};

use super::*;

const EVENTS: [Event; 23] = [
    Event::Frontend(State::Unknown),
    Event::Frontend(State::Initialising),
    Event::Frontend(State::InitWait),
    Event::Frontend(State::Initialised),
    Event::Frontend(State::Connected),
    Event::Frontend(State::Closing),
    Event::Frontend(State::Closed),
    Event::Frontend(State::Reconfiguring),
    Event::Frontend(State::Reconfigured),
    Event::OwnState(State::Closing),
    Event::OwnState(State::InitWait),
    Event::OwnState(State::Unknown),
    Event::Online(false),
    Event::Online(true),
    Event::Image(true),
    Event::Image(false),
    Event::RingConnected(true),
    Event::RingConnected(false),
    Event::RingBroken,
    Event::RingDisconnected,
    Event::Overdue,
    Event::Removed,
    Event::Recycled,
];

/// Every state that any sequence of events leads to, with what led there first.
fn all_reachable() -> HashMap<Backend, Vec<Event>> {
    let start = Backend::new().0;
    let mut reached = HashMap::from([(start, Vec::new())]);
    let mut waiting = VecDeque::from([start]);
    while let Some(backend) = waiting.pop_front() {
        for event in EVENTS {
            let (next, _) = backend.apply(event);
            if !reached.contains_key(&next) {
                let path = [reached[&backend].as_slice(), &[event]].concat();
                reached.insert(next, path);
                waiting.push_back(next);
            }
        }
    }
    reached
}

/// Every step that can ever be taken.
fn every_step(mut check: impl FnMut(&Backend, Event, &Backend, &[Action], &[Event])) {
    for (backend, path) in all_reachable() {
        for event in EVENTS {
            let (next, actions) = backend.apply(event);
            check(&backend, event, &next, &actions, &path);
        }
    }
}

/// Goes through a story: events, and what is done about each.
fn story(steps: &[(Event, &[Action])]) -> Backend {
    let (mut backend, first) = Backend::new();
    assert_eq!(first, [Action::Offer]);
    for (index, (event, expected)) in steps.iter().enumerate() {
        let (next, actions) = backend.apply(*event);
        assert_eq!(actions, *expected, "step {index}: {event:?} in {backend:?}");
        backend = next;
    }
    backend
}

use Action::{ConnectRing, DisconnectRing, Finish, Forget, Offer, Publish, PublishConnected, ReportBadRing};
use Event::{Frontend, Image, Online, OwnState, Recycled, Removed, RingBroken, RingConnected, RingDisconnected};
use State::{Closed, Closing, Connected, InitWait, Initialised, Initialising, Unknown};

/// What leads from the start to a connected ring.
const CONNECT: [(Event, &[Action]); 5] = [
    (Frontend(Initialising), &[]),
    (Image(true), &[]),
    (Frontend(Initialised), &[ConnectRing]),
    (RingConnected(true), &[PublishConnected]),
    (Frontend(Connected), &[]),
];

fn after_connecting(steps: &[(Event, &[Action])]) -> Backend {
    story(&[&CONNECT, steps].concat())
}

#[test]
fn a_ring_is_connected_only_when_there_is_none_and_a_frontend_has_one() {
    every_step(|before, event, after, actions, path| {
        if actions.contains(&ConnectRing) {
            assert!(after.frontend.has_ring() && after.image && after.present, "{path:?} {event:?}");
            let one_has_just_ended = matches!(event, RingConnected(false) | RingDisconnected);
            assert!(before.ring == Ring::None || one_has_just_ended, "{path:?} {event:?}");
            assert_eq!(after.ring, Ring::Connecting);
        }
    });
}

#[test]
fn closed_is_never_published_while_there_is_a_ring() {
    every_step(|_, event, after, actions, path| {
        if actions.contains(&Publish(Closed)) {
            assert_eq!(after.ring, Ring::None, "{path:?} {event:?}");
        }
    });
}

#[test]
fn a_ring_ends_once_before_anything_ends_that_it_needs() {
    every_step(|before, event, after, actions, path| {
        let ends = actions.iter().filter(|action| **action == DisconnectRing).count();
        assert!(ends == 0 || (ends == 1 && after.ring == Ring::Disconnecting), "{path:?} {event:?}");
        if actions.contains(&Forget) {
            assert_eq!(after.ring, Ring::None, "{path:?} {event:?}");
            assert!(before.finished || actions.contains(&Finish), "{path:?} {event:?}");
        }
    });
}

#[test]
fn connected_is_published_only_with_a_ring() {
    every_step(|_, event, after, actions, path| {
        if actions.contains(&PublishConnected) {
            assert_eq!(after.ring, Ring::Connected, "{path:?} {event:?}");
        }
        assert!(after.own != Connected || after.ring != Ring::None || after.forgotten, "{path:?} {event:?}");
    });
}

#[test]
fn a_frontend_that_does_not_close_a_ring_that_has_gone_is_not_waited_for() {
    let lost = [
        (RingBroken, &[ReportBadRing, Publish(Closing)][..]),
        (Event::Overdue, &[]),
        (Image(false), &[DisconnectRing]),
        (RingDisconnected, &[]),
    ];
    let closed = after_connecting(&[&lost[..], &[(Event::Overdue, &[Publish(Closed)])]].concat());
    assert_eq!((closed.own(), closed.frontend()), (Closed, Connected));
    let (_, actions) = closed.apply(Frontend(Initialising));
    assert_eq!(actions, [Offer], "it may come back");
}

#[test]
fn what_was_seen_already_changes_nothing() {
    every_step(|_, event, after, _, path| {
        // These are no levels: what the toolstack puts into our state is overwritten by what we publish.
        if matches!(event, OwnState(_) | RingConnected(_) | RingDisconnected | Recycled) {
            return;
        }
        let (again, actions) = after.apply(event);
        assert!(actions.is_empty() && again == *after, "{path:?} {event:?} twice: {actions:?}");
    });
}

#[test]
fn from_everywhere_a_vanished_device_is_forgotten_when_its_ring_has_ended() {
    for (backend, path) in all_reachable() {
        let (mut backend, mut actions) = backend.apply(Removed);
        for event in [RingConnected(true), RingDisconnected] {
            let (next, more) = backend.apply(event);
            actions.extend(more);
            backend = next;
        }
        assert!(backend.is_forgotten(), "{path:?}: {backend:?} {actions:?}");
    }
}

#[test]
fn from_everywhere_a_frontend_that_starts_anew_gets_a_ring() {
    for (backend, path) in all_reachable() {
        if backend.is_forgotten() || !backend.present {
            continue;
        }
        // The toolstack keeps the device, the image is there, and the frontend is at its start.
        let mut backend = backend;
        let hands = [RingConnected(true), RingDisconnected, RingConnected(true), RingDisconnected];
        for event in [Online(true), Frontend(Initialising)].into_iter().chain(hands).chain([Image(true)]) {
            backend = backend.apply(event).0;
        }
        assert_eq!((backend.own, backend.ring), (InitWait, Ring::None), "{path:?}");
        let (backend, actions) = backend.apply(Frontend(Initialised));
        assert_eq!(actions, [ConnectRing], "{path:?}");
        let (backend, actions) = backend.apply(RingConnected(true));
        assert_eq!((backend.own, actions), (Connected, vec![PublishConnected]), "{path:?}");
    }
}

#[test]
fn there_are_only_so_many_states() {
    let count = all_reachable().len();
    assert!(count < 5000, "{count} states: something is remembered that does not matter");
}

#[test]
fn a_guest_connects_uses_and_closes_its_disk() {
    let backend = after_connecting(&[
        (Frontend(Closing), &[Publish(Closing)]),
        (Frontend(Closed), &[DisconnectRing]),
        (RingDisconnected, &[Publish(Closed)]),
        (Online(false), &[Finish]),
        (Removed, &[Forget]),
    ]);
    assert!(backend.is_forgotten());
}

#[test]
fn the_image_may_come_after_the_ring() {
    story(&[
        (Frontend(Initialised), &[]),
        (Frontend(Connected), &[]),
        (Image(true), &[ConnectRing]),
        (RingConnected(true), &[PublishConnected]),
    ]);
}

#[test]
fn a_boot_loader_stays_in_initialised_and_closes_without_closing() {
    after_connecting(&[
        (Frontend(Initialised), &[]),
        (Frontend(Closed), &[DisconnectRing]),
        (RingDisconnected, &[Publish(Closed)]),
        (Frontend(Initialising), &[Offer]),
        (Frontend(Initialised), &[ConnectRing]),
        (RingConnected(true), &[PublishConnected]),
    ]);
}

#[test]
fn mini_os_jumps_from_its_start_to_connected() {
    story(&[
        (Image(true), &[]),
        (Frontend(Initialising), &[]),
        (Frontend(Connected), &[ConnectRing]),
        (RingConnected(true), &[PublishConnected]),
    ]);
}

#[test]
fn a_crash_kernel_starts_anew_from_connected() {
    after_connecting(&[
        (Frontend(Initialising), &[DisconnectRing]),
        (RingDisconnected, &[Publish(Closed), Offer]),
        (Frontend(Initialised), &[ConnectRing]),
    ]);
}

#[test]
fn an_old_kernel_goes_from_closing_to_its_start() {
    after_connecting(&[
        (Frontend(Closing), &[Publish(Closing)]),
        (Frontend(Initialising), &[DisconnectRing]),
        (RingDisconnected, &[Publish(Closed), Offer]),
    ]);
}

#[test]
fn a_toolstack_detaches_a_disk() {
    after_connecting(&[
        (Online(false), &[]),
        (OwnState(Closing), &[]),
        (Frontend(Closed), &[DisconnectRing]),
        (RingDisconnected, &[Publish(Closed), Finish]),
        (Removed, &[Forget]),
    ]);
}

#[test]
fn a_toolstack_detaches_by_force_or_destroys_the_domain() {
    after_connecting(&[
        (Frontend(Unknown), &[DisconnectRing]),
        (Online(false), &[]),
        (OwnState(Closing), &[]),
        (RingDisconnected, &[Publish(Closed), Finish]),
    ]);
}

#[test]
fn a_disk_that_nobody_used_closes_at_once() {
    story(&[
        (Frontend(Initialising), &[]),
        (Online(false), &[Publish(Closed), Finish]),
        (OwnState(Closing), &[]),
        (Removed, &[Forget]),
    ]);
    story(&[(OwnState(Closing), &[Publish(Closed)]), (Online(false), &[Finish])]);
}

#[test]
fn a_frontend_that_closes_early_is_answered() {
    story(&[(Frontend(Closing), &[Publish(Closed)]), (Frontend(Closed), &[]), (Frontend(Initialising), &[Offer])]);
}

#[test]
fn a_frontend_that_was_closed_and_is_seen_with_a_ring_has_been_at_its_start() {
    after_connecting(&[
        (Frontend(Closed), &[DisconnectRing]),
        (RingDisconnected, &[Publish(Closed)]),
        (Frontend(Initialised), &[Offer, ConnectRing]),
    ]);
}

#[test]
fn a_closed_disk_is_not_connected_to_a_frontend_that_never_left() {
    // The toolstack closes, the frontend does not react, and its old ring is still there.
    let closed = after_connecting(&[
        (Image(false), &[DisconnectRing]),
        (OwnState(Closing), &[]),
        (RingDisconnected, &[]),
        (Image(true), &[]),
        (Frontend(Connected), &[]),
    ]);
    assert_eq!((closed.own, closed.ring), (Closing, Ring::None));
}

#[test]
fn a_ring_that_cannot_be_used_is_reported_and_not_tried_again() {
    story(&[
        (Image(true), &[]),
        (Frontend(Initialised), &[ConnectRing]),
        (RingConnected(false), &[ReportBadRing, Publish(Closing)]),
        (Frontend(Initialised), &[]),
        (Frontend(Closed), &[Publish(Closed)]),
        (Frontend(Initialising), &[Offer]),
        (Frontend(Initialised), &[ConnectRing]),
    ]);
}

#[test]
fn a_ring_that_breaks_is_reported_and_held_until_its_frontend_has_left() {
    after_connecting(&[
        (RingBroken, &[ReportBadRing, Publish(Closing)]),
        (RingBroken, &[]),
        (Frontend(Closed), &[DisconnectRing]),
        (RingBroken, &[]),
        (RingDisconnected, &[Publish(Closed)]),
        (Frontend(Initialising), &[Offer]),
        (Frontend(Initialised), &[ConnectRing]),
    ]);
    // One that its frontend closes already breaks nothing any more.
    after_connecting(&[
        (Frontend(Closing), &[Publish(Closing)]),
        (RingBroken, &[]),
        (Frontend(Closed), &[DisconnectRing]),
    ]);
}

#[test]
fn a_frontend_that_leaves_while_its_ring_is_being_connected() {
    story(&[
        (Image(true), &[]),
        (Frontend(Initialised), &[ConnectRing]),
        (Frontend(Unknown), &[]),
        (RingConnected(true), &[DisconnectRing]),
        (RingDisconnected, &[]),
        (Removed, &[Finish, Forget]),
    ]);
}

#[test]
fn a_frontend_that_makes_another_ring_while_the_first_is_being_connected() {
    let another = [(Frontend(Initialising), [].as_slice()), (Frontend(Initialised), &[])];
    let first = [(Image(true), [].as_slice()), (Frontend(Initialised), &[ConnectRing])];
    let too_late = [(RingConnected(true), [DisconnectRing].as_slice()), (RingDisconnected, &[ConnectRing])];
    story(&[first, another, too_late].concat());
    story(&[first.as_slice(), &another, &[(RingConnected(false), &[ConnectRing])]].concat());
}

#[test]
fn a_directory_that_was_replaced_begins_anew_when_the_old_ring_has_ended() {
    let backend = after_connecting(&[
        (Recycled, &[DisconnectRing]),
        (RingDisconnected, &[Offer]),
        (Frontend(Initialising), &[]),
        (Frontend(Initialised), &[]),
        (Image(true), &[ConnectRing]),
    ]);
    assert_eq!(backend.own, InitWait);
}

#[test]
fn a_device_is_adopted_as_it_is_found() {
    let (backend, actions) = Backend::adopted(Connected, Connected, true, true, true);
    assert_eq!((backend.ring, actions), (Ring::Connected, vec![]));
    let (_, actions) = Backend::adopted(Connected, Closed, true, true, true);
    assert_eq!(actions, [DisconnectRing]);
    let (_, actions) = Backend::adopted(Initialising, Initialising, false, false, true);
    assert_eq!(actions, [Offer]);
    let (_, actions) = Backend::adopted(InitWait, Initialised, false, true, true);
    assert_eq!(actions, [ConnectRing]);
}
