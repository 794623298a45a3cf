//! The tables together, against hands and a tapdisk: every sequence of events, and what holds in all of them.

use std::collections::{HashMap, VecDeque};

use super::*;

/// What the tapdisk does with the disk, whatever the agent believes.
#[derive(Clone, Copy, Debug, PartialEq, Eq, Hash)]
enum Disk {
    None,
    Launching,
    Running,
    Paused,
}

/// An agent, and everything that its hands and others have done.
#[derive(Clone, Copy, Debug, PartialEq, Eq, Hash)]
struct World {
    agent: Agent,
    disk: Disk,
    /// What the tapdisk is at: its end will be an event.
    is_pausing: bool,
    is_resuming: bool,
    is_closing: bool,
    /// Guests may have the disk.
    is_served: bool,
    /// Nodes: what is wanted, what was answered.
    pause: bool,
    pause_done: bool,
    /// The directory that the agent began with is there.
    is_there: bool,
    reprobes: u8,
}

/// What may happen at any time.
const PROBE: [Event; 6] =
    [Event::Pause(false), Event::Pause(true), Event::Start, Event::Stop, Event::Removed, Event::Recycled];

impl World {
    fn new(pause: bool, pause_done: bool) -> World {
        World {
            agent: Agent::new(pause_done),
            disk: Disk::None,
            is_pausing: false,
            is_resuming: false,
            is_closing: false,
            is_served: false,
            pause,
            pause_done,
            is_there: true,
            reprobes: 0,
        }
    }

    fn apply(mut self, event: Event) -> World {
        let before = self;
        match event {
            Event::Pause(wanted) => self.pause = wanted,
            Event::Removed | Event::Recycled => self.is_there = false,
            _ => {}
        }
        let (agent, actions) = self.agent.apply(event);
        self.agent = agent;
        for action in actions {
            self.obey(action, event, &before);
        }
        self.check();
        self
    }

    fn obey(&mut self, action: Action, event: Event, before: &World) {
        let told = format!("{action:?} after {event:?} in {before:?}");
        assert!(!before.agent.is_forgotten, "{told}");
        match action {
            Action::Launch => {
                assert_eq!(self.disk, Disk::None, "there would be two channels: {told}");
                self.disk = Disk::Launching;
            }
            Action::Serve => {
                let is_at_rest = self.disk == Disk::Paused;
                assert!(is_at_rest || self.agent.vbd() == Vbd::Unpaused, "served before it is at rest: {told}");
                assert!(is_at_rest || self.disk == Disk::Running, "nobody serves it: {told}");
                self.is_served = true;
            }
            Action::Pause => {
                assert!(!self.is_pausing && !self.is_resuming, "{told}");
                self.is_pausing = true;
            }
            Action::TurnBack => assert!(self.is_pausing, "{told}"),
            Action::Resume => {
                assert!(!self.is_pausing && !self.is_resuming, "{told}");
                self.is_resuming = true;
            }
            Action::Close => {
                assert!(matches!(self.disk, Disk::Running | Disk::Paused) && !self.is_closing, "{told}");
                (self.is_pausing, self.is_resuming, self.is_closing) = (false, false, true);
                self.is_served = false;
            }
            Action::TellPaused => {
                assert_ne!(self.disk, Disk::Running, "its images may be open: {told}");
                assert!(self.is_there && self.pause, "nobody wants to know: {told}");
                self.pause_done = true;
            }
            Action::TellUnpaused => {
                assert_ne!(self.disk, Disk::Paused, "{told}");
                self.pause_done = false;
            }
            Action::Report => assert_eq!(event, Event::Resumed(false), "{told}"),
            Action::Reprobe => {
                assert_eq!(
                    before.agent.vbd(),
                    if event == Event::Recycled { before.agent.vbd() } else { Vbd::Recycled }
                );
                assert_eq!(self.disk, Disk::None, "the old one has not ended: {told}");
                self.reprobes += 1;
            }
            Action::Forget => assert_eq!(self.disk, Disk::None, "{told}"),
        }
    }

    fn check(&self) {
        let (channel, vbd) = (self.agent.channel(), self.agent.vbd());
        assert_eq!(channel.is_over(), self.disk == Disk::None, "{self:?}");
        if vbd == Vbd::Paused {
            assert!(self.pause_done, "whoever waits is not told: {self:?}");
            assert!(!self.is_served || self.disk != Disk::Running, "paused and served: {self:?}");
        }
        assert_eq!(self.agent.is_told, self.pause_done, "{self:?}");
        assert!(self.reprobes <= 1);
    }

    /// How what is under way may end, well or not, and what may befall a tapdisk.
    fn ends(self) -> Vec<(Event, World)> {
        let mut ends = Vec::new();
        if self.disk == Disk::Launching {
            // A disk that is found may be at rest already.
            for disk in [Disk::Running, Disk::Paused] {
                ends.push((Event::Launched(true), World { disk, ..self }));
            }
            ends.push((Event::Launched(false), World { disk: Disk::None, ..self }));
            return ends;
        }
        if self.is_pausing {
            ends.push((Event::Paused(true), World { is_pausing: false, disk: Disk::Paused, ..self }));
            if self.disk == Disk::Running {
                ends.push((Event::Paused(false), World { is_pausing: false, ..self }));
            }
        }
        if self.is_resuming {
            ends.push((Event::Resumed(true), World { is_resuming: false, disk: Disk::Running, ..self }));
            if self.disk == Disk::Paused {
                ends.push((Event::Resumed(false), World { is_resuming: false, ..self }));
            }
        }
        if self.is_closing {
            ends.push((Event::Closed, World { is_closing: false, disk: Disk::None, ..self }));
        }
        if self.disk != Disk::None {
            let (is_pausing, is_resuming, is_closing) = (false, false, false);
            let dead = World { disk: Disk::None, is_served: false, is_pausing, is_resuming, is_closing, ..self };
            ends.push((Event::Died, dead));
        }
        ends
    }

    fn after_all_ends_well(mut self) -> World {
        for _ in 0..20 {
            let is_good = |event: &Event| !matches!(event, Event::Died | Event::Launched(false) | Event::Paused(false));
            let mut ends = self.ends().into_iter().filter(|(event, _)| is_good(event));
            match ends.find(|(event, _)| *event != Event::Resumed(false)) {
                Some((event, next)) => self = next.apply(event),
                None => return self,
            }
        }
        panic!("never comes to rest: {self:?}");
    }
}

/// Every world that any sequence of events leads to, with what led there first.
fn all_worlds() -> HashMap<World, Vec<Event>> {
    let beginnings = [(false, false), (true, false), (true, true), (false, true)].map(|(a, b)| World::new(a, b));
    let mut reached: HashMap<World, Vec<Event>> = beginnings.map(|world| (world, Vec::new())).into();
    let mut waiting = VecDeque::from(beginnings);
    while let Some(world) = waiting.pop_front() {
        let path = reached[&world].clone();
        let wishes = PROBE.into_iter().map(|event| (event, world));
        for (event, next) in wishes.chain(world.ends()) {
            let next = next.apply(event);
            reached.entry(next).or_insert_with(|| {
                waiting.push_back(next);
                [path.as_slice(), &[event]].concat()
            });
        }
    }
    reached
}

#[test]
fn in_every_sequence_of_events_there_is_one_channel_and_a_pause_is_kept() {
    // What holds is asserted by the world itself, at every step.
    let worlds = all_worlds();
    assert!((100..20_000).contains(&worlds.len()), "{} worlds", worlds.len());
    for vbd in Vbd::ALL {
        assert!(worlds.keys().any(|world| world.agent.vbd() == vbd), "{vbd:?} is never reached");
    }
    for channel in Channel::ALL {
        assert!(worlds.keys().any(|world| world.agent.channel() == channel), "{channel:?} is never reached");
    }
}

#[test]
fn whatever_happened_all_comes_to_what_is_wanted() {
    for (world, path) in all_worlds() {
        if world.agent.is_forgotten() {
            continue;
        }
        let end = world.after_all_ends_well();
        let (vbd, channel, agent) = (end.agent.vbd(), end.agent.channel(), end.agent);
        assert_eq!(agent.is_forgotten(), !end.is_there, "{path:?}: {end:?}");
        if agent.is_forgotten() || vbd == Vbd::Broken {
            continue;
        }
        assert!(!agent.is_revived, "{path:?}: {end:?}");
        let expected = match (agent.shutdown(), vbd) {
            (Shutdown::Down, _) => vec![Channel::Dead, Channel::Closed],
            (_, Vbd::Paused) => vec![Channel::Paused, Channel::Dead, Channel::Closed],
            _ => vec![Channel::Running, Channel::Dead, Channel::Closed],
        };
        assert!(expected.contains(&channel) && vbd != Vbd::Pausing, "{path:?}: {end:?}");
        assert_eq!(end.pause_done, vbd == Vbd::Paused, "{path:?}: {end:?}");
    }
}

#[test]
fn whatever_happened_a_start_brings_it_up_and_a_removal_ends_it() {
    for (world, path) in all_worlds() {
        if world.agent.is_forgotten() {
            continue;
        }
        let up = world.apply(Event::Pause(world.pause)).apply(Event::Start).after_all_ends_well();
        if world.is_there {
            let wanted = if up.pause { Channel::Paused } else { Channel::Running };
            assert_eq!(up.agent.channel(), wanted, "{path:?}: {up:?}");
        }
        let gone = world.apply(Event::Removed).after_all_ends_well();
        assert!(gone.agent.is_forgotten() && gone.disk == Disk::None, "{path:?}: {gone:?}");
        assert_eq!(gone.reprobes, 0, "there is nothing to be looked at: {path:?}");
        let again = world.apply(Event::Recycled).after_all_ends_well();
        assert!(again.agent.is_forgotten() && again.reprobes == 1, "{path:?}: {again:?}");
    }
}

#[test]
fn pauses_of_what_is_broken_dead_or_recycled_change_nothing() {
    let worlds = all_worlds();
    let is_beyond = |world: &&World| matches!(world.agent.vbd(), Vbd::Broken | Vbd::Dead | Vbd::Recycled);
    for world in worlds.keys().filter(is_beyond) {
        for wanted in [false, true] {
            let (agent, actions) = world.agent.apply(Event::Pause(wanted));
            assert_eq!(agent.vbd(), world.agent.vbd(), "{world:?}");
            assert_eq!((agent.channel(), actions.as_slice()), (world.agent.channel(), [].as_slice()), "{world:?}");
        }
    }
}

#[test]
fn what_was_seen_already_changes_nothing() {
    for (world, path) in all_worlds() {
        for event in [Event::Pause(false), Event::Pause(true), Event::Start, Event::Stop, Event::Removed] {
            let (once, _) = world.agent.apply(event);
            let (twice, actions) = once.apply(event);
            assert_eq!((twice, actions.as_slice()), (once, [].as_slice()), "{path:?}: {event:?} twice");
        }
    }
}

#[test]
fn a_paused_disk_stays_paused_when_its_tapdisk_dies_and_another_comes() {
    let paused = World::new(true, false).apply(Event::Start).apply(Event::Pause(true)).after_all_ends_well();
    assert_eq!((paused.agent.vbd(), paused.agent.channel()), (Vbd::Paused, Channel::Paused));
    let (agent, actions) = paused.agent.apply(Event::Died);
    assert_eq!((agent.vbd(), agent.channel(), actions.len()), (Vbd::Paused, Channel::Dead, 0));
    let (agent, actions) = agent.apply(Event::Start);
    assert_eq!(actions, [Action::Launch]);
    let (agent, actions) = agent.apply(Event::Launched(true));
    assert_eq!(actions, [Action::Pause], "before anybody is served");
    let (agent, actions) = agent.apply(Event::Paused(true));
    assert_eq!((agent.vbd(), actions), (Vbd::Paused, vec![Action::Serve]));
    let (agent, actions) = agent.apply(Event::Pause(false));
    assert_eq!(actions, [Action::Resume]);
    assert_eq!(agent.apply(Event::Resumed(true)).1, [Action::TellUnpaused]);
}

#[test]
fn a_pause_that_nobody_wants_any_more_is_turned_back_or_undone() {
    let running = World::new(false, false).apply(Event::Start).after_all_ends_well();
    for is_at_rest in [false, true] {
        let (agent, actions) = running.agent.apply(Event::Pause(true));
        assert_eq!(actions, [Action::Pause]);
        let (agent, actions) = agent.apply(Event::Pause(false));
        assert_eq!(actions, [Action::TurnBack]);
        let (agent, actions) = agent.apply(Event::Paused(is_at_rest));
        assert_eq!(agent.vbd(), Vbd::Unpaused);
        assert_eq!(actions.last(), is_at_rest.then_some(&Action::Resume), "nobody is told of a pause that was not");
    }
}

#[test]
fn nobody_waits_for_a_tapdisk_that_is_to_be_let_go_of() {
    for (world, path) in all_worlds() {
        let is_open = matches!(world.disk, Disk::Running | Disk::Paused) && !world.is_closing;
        if is_open && world.is_there {
            for event in [Event::Stop, Event::Removed, Event::Recycled] {
                assert!(world.agent.apply(event).1.contains(&Action::Close), "{path:?}: {event:?} in {world:?}");
            }
        }
    }
}

#[test]
fn random_sequences_hold_what_all_short_ones_do() {
    let seed = test_support::seed();
    println!("seed {seed}");
    let mut state = seed | 1;
    let mut random = move |count: usize| {
        state ^= state << 13;
        state ^= state >> 7;
        state ^= state << 17;
        usize::try_from(state % count as u64).expect("less than count")
    };
    for _ in 0..test_support::cycles(5_000, 200_000) {
        let mut world = World::new(random(2) == 0, false);
        for _ in 0..60 {
            let ends = world.ends();
            world = if !ends.is_empty() && random(2) == 0 {
                let (event, next) = ends[random(ends.len())];
                next.apply(event)
            } else {
                world.apply(PROBE[random(PROBE.len())])
            };
            if world.agent.is_forgotten() {
                // The directory was made again: another agent begins where this one has ended.
                world = World::new(random(2) == 0, false);
            }
        }
        if world.agent.vbd() != Vbd::Broken {
            let end = world.apply(Event::Start).after_all_ends_well();
            assert!(end.agent.is_forgotten() || !end.agent.channel().is_over(), "seed {seed}: {end:?}");
        }
    }
}
