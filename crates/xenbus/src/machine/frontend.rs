//! The frontend's half of a device.
//!
//! ```text
//!    our node, as another kernel left it: Connected, Closing, Closed
//!       |  Closing --backend Closing or Closed--> Closed --backend Closed--+
//!       v                                                                  v
//!   Resetting ---------------------------------------------------------> Waiting (Initialising)
//!                                                                          | backend InitWait: make a ring
//!     Left (Initialising or Closed)                                        v
//!       ^                                                                Making --> Made (Initialised)
//!       | backend Closed                                                   |              | backend Connected
//!     Leaving <--- Connected <--- disk read ------------------------------ | -------------+
//!       ^                                                                  v
//!       +------------------------- shutdown, backend Closing ---------- refused: Closing, Closed
//! ```
//!
//! A shutdown that we begin ends in Initialising, so that whoever comes next finds the device at its start; one that the
//! backend begins ends in Closed. A disk that is in use is not given up because the backend says so. Every wait for the
//! backend has an end: a timer, which is started and comes back as an event.

use crate::State;

/// Where a device is in its life.
#[derive(Clone, Copy, Debug, PartialEq, Eq, Hash)]
pub enum Phase {
    /// The state that another kernel has left is being undone.
    Resetting,
    /// There is no ring; the backend has not made its offers.
    Waiting,
    /// A ring is being made.
    Making,
    /// There is a ring; the backend has not connected to it.
    Made,
    /// It is being read what the disk is.
    Reading,
    /// In use.
    Connected,
    /// No more requests; the backend shall let go of the ring.
    Leaving,
    /// The end; for a new beginning take a new machine.
    Left,
}

/// Something that happened, or was seen.
#[derive(Clone, Copy, Debug, PartialEq, Eq, Hash)]
pub enum Event {
    /// The backend shows this state; `Unknown` if its directory has gone.
    Backend(State),
    /// Making a ring has ended; whether there is one, and our node says so.
    RingMade(bool),
    /// Reading what the disk is has ended; whether it makes sense.
    DiskRead(bool),
    /// Somebody has the disk open, or nobody any more.
    InUse(bool),
    /// The system goes down, or hands over to another kernel.
    Shutdown,
    /// The timer has run out.
    Timeout,
}

/// How a device was left.
#[derive(Clone, Copy, Debug, PartialEq, Eq, Hash)]
pub enum Outcome {
    /// By us: whoever comes next may begin at once.
    AtItsStart,
    /// By the backend.
    Closed,
    /// The backend did not react in time: it may still have the ring.
    TimedOut,
    /// There is no backend any more, or its disk cannot be used.
    Failed,
}

/// Something to do, in the order given.
#[derive(Clone, Copy, Debug, PartialEq, Eq, Hash)]
pub enum Action {
    /// Write this state.
    Publish(State),
    /// Grant pages, bind event channels, write where they are, and `Initialised`, at once.
    MakeRing,
    /// Read what the disk is.
    ReadDisk,
    /// The disk may be used.
    StartDisk,
    /// Begin no request any more.
    StopDisk,
    /// Take the pages and event channels back.
    ReleaseRing,
    /// Say that the disk is in use and stays (`EBUSY`).
    RefuseClosing,
    /// Wait so long at most for what comes next; a timer that runs begins anew.
    StartTimer,
    /// Nothing is waited for any more.
    StopTimer,
    /// The device is left.
    Finish(Outcome),
}

/// What is known of a device, on the frontend's side.
#[derive(Clone, Copy, Debug, PartialEq, Eq, Hash)]
pub struct Frontend {
    own: State,
    backend: State,
    phase: Phase,
    in_use: bool,
    has_ring: bool,
    /// We began to leave.
    is_shutdown: bool,
    /// The backend was told that the disk stays.
    has_refused: bool,
}

impl Frontend {
    /// A device whose node shows `own`, which may be what another kernel has left there; and what to do first.
    pub fn new(own: State, backend: State) -> (Frontend, Vec<Action>) {
        let mut frontend = Frontend {
            own,
            backend,
            phase: Phase::Resetting,
            in_use: false,
            has_ring: false,
            is_shutdown: false,
            has_refused: false,
        };
        let mut actions = Vec::new();
        match own {
            State::Initialising => frontend.phase = Phase::Waiting,
            State::Unknown => frontend.wait_for_offers(&mut actions),
            State::Closing | State::Closed => actions.push(Action::StartTimer),
            _ => frontend.publish(State::Closing, true, &mut actions),
        }
        frontend.decide(&mut actions);
        (frontend, actions)
    }

    /// What it has published.
    pub fn own(&self) -> State {
        self.own
    }

    /// Where it is in its life.
    pub fn phase(&self) -> Phase {
        self.phase
    }

    /// Whether there is a ring that the backend may have.
    pub fn has_ring(&self) -> bool {
        self.has_ring
    }

    /// Takes note of an event; says what to do about it.
    #[must_use]
    pub fn apply(mut self, event: Event) -> (Frontend, Vec<Action>) {
        let mut actions = Vec::new();
        if self.phase == Phase::Left {
            return (self, actions);
        }
        match event {
            Event::Backend(state) => {
                self.backend = state;
                self.has_refused &= state == State::Closing;
            }
            Event::InUse(in_use) => self.in_use = in_use,
            Event::RingMade(worked) => self.ring_made(worked, &mut actions),
            Event::DiskRead(worked) => self.disk_read(worked, &mut actions),
            Event::Shutdown => self.shut_down(&mut actions),
            Event::Timeout => self.time_out(&mut actions),
        }
        self.decide(&mut actions);
        (self, actions)
    }

    fn ring_made(&mut self, worked: bool, actions: &mut Vec<Action>) {
        if self.phase != Phase::Making {
            return;
        }
        self.has_ring = worked;
        if worked {
            self.own = State::Initialised;
            self.phase = Phase::Made;
            if self.is_shutdown {
                self.leave(actions);
            }
        } else {
            self.fail(actions);
        }
    }

    fn disk_read(&mut self, worked: bool, actions: &mut Vec<Action>) {
        if self.phase != Phase::Reading {
            return;
        }
        if !worked {
            self.leave(actions);
            return;
        }
        self.phase = Phase::Connected;
        self.publish(State::Connected, false, actions);
        actions.push(Action::StartDisk);
        if self.is_shutdown {
            self.leave(actions);
        }
    }

    fn shut_down(&mut self, actions: &mut Vec<Action>) {
        if self.is_shutdown {
            return;
        }
        self.is_shutdown = true;
        match self.phase {
            Phase::Connected | Phase::Made => self.leave(actions),
            // What is not connected holds nothing that another kernel would miss.
            Phase::Waiting => self.finish(Outcome::AtItsStart, actions),
            _ => {}
        }
    }

    fn time_out(&mut self, actions: &mut Vec<Action>) {
        match self.phase {
            // The backend does not follow; a new one may still make its offers.
            Phase::Resetting => self.wait_for_offers(actions),
            Phase::Leaving => {
                let outcome = if self.has_ring { Outcome::TimedOut } else { Outcome::Failed };
                self.finish(outcome, actions);
            }
            _ => {}
        }
    }

    /// Goes on as far as what the backend shows allows.
    fn decide(&mut self, actions: &mut Vec<Action>) {
        match self.phase {
            Phase::Resetting => self.decide_resetting(actions),
            Phase::Waiting if self.backend == State::InitWait && !self.is_shutdown => {
                self.phase = Phase::Making;
                actions.push(Action::MakeRing);
            }
            Phase::Made => self.decide_made(actions),
            Phase::Connected => self.decide_connected(actions),
            Phase::Leaving => self.decide_leaving(actions),
            _ => {}
        }
    }

    /// Each step waits until the backend has seen the one before.
    fn decide_resetting(&mut self, actions: &mut Vec<Action>) {
        let backend_left =
            matches!(self.backend, State::Closed | State::Unknown | State::Initialising | State::InitWait);
        if self.own == State::Closing && (backend_left || self.backend == State::Closing) {
            self.publish(State::Closed, true, actions);
        }
        if self.own == State::Closed && backend_left {
            self.wait_for_offers(actions);
        }
        if self.phase == Phase::Waiting {
            self.decide(actions);
        }
    }

    fn decide_made(&mut self, actions: &mut Vec<Action>) {
        match self.backend {
            State::Connected => {
                self.phase = Phase::Reading;
                actions.push(Action::ReadDisk);
            }
            State::Closing | State::Closed | State::Unknown => self.leave(actions),
            _ => {}
        }
    }

    fn decide_connected(&mut self, actions: &mut Vec<Action>) {
        match self.backend {
            State::Closed | State::Unknown => self.leave(actions),
            State::Closing if !self.in_use => self.leave(actions),
            State::Closing if !self.has_refused => {
                self.has_refused = true;
                actions.push(Action::RefuseClosing);
            }
            _ => {}
        }
    }

    /// No more requests. If the backend is about to close already, it need not be told that we are, too.
    fn leave(&mut self, actions: &mut Vec<Action>) {
        if self.phase == Phase::Connected {
            actions.push(Action::StopDisk);
        }
        self.phase = Phase::Leaving;
        let told = matches!(self.backend, State::Closing | State::Closed | State::Unknown);
        self.publish(if told { State::Closed } else { State::Closing }, true, actions);
        self.decide_leaving(actions);
    }

    fn decide_leaving(&mut self, actions: &mut Vec<Action>) {
        if self.own == State::Closing && matches!(self.backend, State::Closing | State::Closed | State::Unknown) {
            self.publish(State::Closed, true, actions);
        }
        if self.own != State::Closed || !matches!(self.backend, State::Closed | State::Unknown) {
            return;
        }
        if std::mem::take(&mut self.has_ring) {
            actions.push(Action::ReleaseRing);
        }
        match (self.backend, self.is_shutdown) {
            (State::Unknown, _) => self.finish(Outcome::Failed, actions),
            (_, false) => self.finish(Outcome::Closed, actions),
            (_, true) => {
                self.publish(State::Initialising, false, actions);
                self.finish(Outcome::AtItsStart, actions);
            }
        }
    }

    fn wait_for_offers(&mut self, actions: &mut Vec<Action>) {
        actions.push(Action::StopTimer);
        self.phase = Phase::Waiting;
        self.publish(State::Initialising, false, actions);
        if self.is_shutdown {
            self.finish(Outcome::AtItsStart, actions);
        }
    }

    fn fail(&mut self, actions: &mut Vec<Action>) {
        self.publish(State::Closed, false, actions);
        self.finish(Outcome::Failed, actions);
    }

    fn finish(&mut self, outcome: Outcome, actions: &mut Vec<Action>) {
        self.phase = Phase::Left;
        actions.extend([Action::StopTimer, Action::Finish(outcome)]);
    }

    fn publish(&mut self, state: State, and_wait: bool, actions: &mut Vec<Action>) {
        self.own = state;
        actions.push(Action::Publish(state));
        if and_wait {
            actions.push(Action::StartTimer);
        }
    }
}

#[cfg(test)]
#[path = "frontend/tests.rs"]
mod tests;
