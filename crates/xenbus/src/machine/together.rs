//! Both machines against each other: every order in which their hands may be done and each may look at the other.
//! Whoever looks sees what is there then; what was there in between is never seen.

use std::collections::{HashMap, VecDeque};

use super::{
    backend::{self, Backend},
    frontend::{self, Frontend, Phase},
};
use crate::State;

/// Both sides and what their hands are at.
#[derive(Clone, Copy, Debug, PartialEq, Eq, Hash)]
struct World {
    backend: Backend,
    frontend: Frontend,
    /// A ring is being made, the disk is being read.
    is_making: bool,
    is_reading: bool,
    timer_runs: bool,
    /// Kernels that came after the first.
    kernels: u8,
}

impl World {
    fn new() -> World {
        let (backend, _) = Backend::new();
        let (frontend, _) = Frontend::new(State::Initialising, State::Initialising);
        let backend = backend.apply(backend::Event::Image(true)).0;
        World { backend, frontend, is_making: false, is_reading: false, timer_runs: false, kernels: 0 }
    }

    fn backend(mut self, event: backend::Event) -> World {
        let (next, _) = self.backend.apply(event);
        self.backend = next;
        self
    }

    fn frontend(mut self, event: frontend::Event) -> World {
        let (next, actions) = self.frontend.apply(event);
        self.frontend = next;
        self.obey(&actions);
        self
    }

    fn obey(&mut self, actions: &[frontend::Action]) {
        for action in actions {
            match action {
                frontend::Action::MakeRing => self.is_making = true,
                frontend::Action::ReadDisk => self.is_reading = true,
                frontend::Action::StartTimer => self.timer_runs = true,
                frontend::Action::StopTimer => self.timer_runs = false,
                frontend::Action::ReleaseRing => {
                    assert_eq!(self.backend.ring(), backend::Ring::None, "pages are taken back while they are mapped");
                }
                _ => {}
            }
        }
    }

    /// What can happen without anybody deciding anything. Timers run out only when nothing else can happen.
    fn steps(self) -> Vec<World> {
        use backend::Ring;
        let mut steps = Vec::new();
        if self.backend.frontend() != self.frontend.own() {
            steps.push(self.backend(backend::Event::Frontend(self.frontend.own())));
        }
        let looked = self.frontend(frontend::Event::Backend(self.backend.own()));
        if looked != self {
            steps.push(looked);
        }
        match self.backend.ring() {
            Ring::Connecting => steps.push(self.backend(backend::Event::RingConnected(true))),
            Ring::Disconnecting => steps.push(self.backend(backend::Event::RingDisconnected)),
            _ => {}
        }
        if self.is_making {
            steps.push(World { is_making: false, ..self }.frontend(frontend::Event::RingMade(true)));
        }
        if self.is_reading {
            steps.push(World { is_reading: false, ..self }.frontend(frontend::Event::DiskRead(true)));
        }
        steps
    }

    /// What somebody may decide: to shut down, to jump into another kernel with or without having shut down.
    fn wishes(self) -> Vec<World> {
        let mut wishes = vec![self.frontend(frontend::Event::Shutdown)];
        if self.kernels < 2 {
            let (frontend, actions) = Frontend::new(self.frontend.own(), self.backend.own());
            let mut next = World {
                frontend,
                is_making: false,
                is_reading: false,
                timer_runs: false,
                kernels: self.kernels + 1,
                ..self
            };
            next.obey(&actions);
            wishes.push(next);
        }
        wishes
    }
}

fn all_worlds() -> HashMap<World, usize> {
    let mut reached = HashMap::from([(World::new(), 0)]);
    let mut waiting = VecDeque::from([World::new()]);
    while let Some(world) = waiting.pop_front() {
        let distance = reached[&world] + 1;
        for next in world.steps().into_iter().chain(world.wishes()) {
            reached.entry(next).or_insert_with(|| {
                waiting.push_back(next);
                distance
            });
        }
    }
    reached
}

/// Where a world ends up if it is left alone, in one fair order.
fn settle(mut world: World, pick: usize) -> World {
    for _ in 0..1000 {
        let steps = world.steps();
        if let Some(next) = steps.get(pick % steps.len().max(1)).or(steps.first()) {
            world = *next;
        } else if world.timer_runs {
            world = World { timer_runs: false, ..world }.frontend(frontend::Event::Timeout);
        } else {
            return world;
        }
    }
    panic!("never comes to rest: {world:?}");
}

#[test]
fn left_alone_every_pair_ends_connected_or_left() {
    let worlds = all_worlds();
    assert!(worlds.len() > 100, "only {} pairs", worlds.len());
    for world in worlds.keys() {
        for pick in 0..3 {
            let end = settle(*world, pick);
            let is_connected = end.frontend.phase() == Phase::Connected
                && (end.frontend.own(), end.backend.own()) == (State::Connected, State::Connected)
                && end.backend.ring() == backend::Ring::Connected;
            let is_left = end.frontend.phase() == Phase::Left;
            assert!(is_connected || is_left, "{world:?} ends as {end:?}");
        }
    }
}

#[test]
fn whatever_one_kernel_has_left_the_next_gets_its_disk() {
    for world in all_worlds().keys().filter(|world| world.frontend.phase() == Phase::Left) {
        let left = settle(*world, 0);
        let (frontend, actions) = Frontend::new(left.frontend.own(), left.backend.own());
        let mut next = World { frontend, is_making: false, is_reading: false, timer_runs: false, ..left };
        next.obey(&actions);
        for pick in 0..3 {
            let end = settle(next, pick);
            assert_eq!(end.frontend.phase(), Phase::Connected, "{world:?} ends as {end:?}");
        }
    }
}
