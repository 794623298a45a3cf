//! The backend's half of a device.
//!
//! ```text
//!              offers made             image ready, ring of the frontend connected
//!   Initialising -----> InitWait -----------------------------------------> Connected
//!                        ^   |                                               |  |
//!                        |   | frontend Closed or gone       frontend Closing|  |
//!   frontend Initialising|   |                   or the toolstack says so    |  |
//!   (again), ring gone   |   v                                               v  |
//!                        Closed <--- ring drained and gone ------------ Closing |
//!                          ^                                                    |
//!                          +--- frontend Closed, gone, at its start again, -----+
//!                               or overdue when it has no ring any more
//! ```
//!
//! What is published follows what *is*: Closed is published only when the ring has been drained, unmapped and forgotten,
//! and a ring is connected only when there is none. A frontend that closes (5) is served until it is closed (6): it may
//! still wait for answers. Boot loaders skip steps: 3 for life, 6 without 5, straight from 1 to 4.

use crate::State;

/// The ring that a device shares with its frontend.
#[derive(Clone, Copy, Debug, PartialEq, Eq, Hash)]
pub enum Ring {
    /// None is shared.
    None,
    /// It is being connected; whether that works out comes as an event.
    Connecting,
    /// Requests are served.
    Connected,
    /// It is being drained and let go; the end of that comes as an event.
    Disconnecting,
}

/// Something that happened, or was seen.
#[derive(Clone, Copy, Debug, PartialEq, Eq, Hash)]
pub enum Event {
    /// The frontend shows this state; `Unknown` if its directory has gone.
    Frontend(State),
    /// The toolstack has put this into our own state node; it only ever says `Closing`.
    OwnState(State),
    /// Whether the toolstack keeps the device.
    Online(bool),
    /// The hotplug script has said which image it is, and it is open; or it is no more.
    Image(bool),
    /// Connecting the ring has ended; whether there is one now.
    RingConnected(bool),
    /// The ring that was connected makes no sense any more, or nobody serves it any more.
    RingBroken,
    /// The ring is drained, unmapped and forgotten.
    RingDisconnected,
    /// The frontend was told to close, and has had the time to. What it has lost, it will not get by waiting.
    Overdue,
    /// The directory of the device has gone.
    Removed,
    /// The directory has gone and a new one of its name has come, before anybody saw the gap.
    Recycled,
}

/// Something to do, in the order given.
#[derive(Clone, Copy, Debug, PartialEq, Eq, Hash)]
pub enum Action {
    /// Write what is offered to any frontend, then this state.
    Offer,
    /// Write this state, unless the node has gone.
    Publish(State),
    /// Read what the frontend has made, map its ring, bind its event channels.
    ConnectRing,
    /// Write what the disk is, and `Connected`, at once.
    PublishConnected,
    /// Take no more requests, let those that run end, answer them, let go of everything.
    DisconnectRing,
    /// Write why the ring of the frontend cannot be used.
    ReportBadRing,
    /// The device has ended: whoever holds its image for it alone may let go.
    Finish,
    /// The directory has gone and everything is let go: the device is no more.
    Forget,
}

/// What is known of a device, on the backend's side.
#[derive(Clone, Copy, Debug, PartialEq, Eq, Hash)]
pub struct Backend {
    own: State,
    frontend: State,
    ring: Ring,
    image: bool,
    online: bool,
    /// The directory is there.
    present: bool,
    /// The ring was refused or has broken: it is of no use before the frontend makes another.
    ring_is_bad: bool,
    /// The frontend has left its ring while it was being connected: whatever comes of that is of no use.
    ring_is_old: bool,
    /// The frontend does not close, and is not waited for.
    is_overdue: bool,
    /// `Finish` was said, and nothing has begun since.
    finished: bool,
    /// The directory was replaced: begin anew once the ring has gone.
    recycled: bool,
    /// `Forget` was said.
    forgotten: bool,
}

impl Backend {
    /// A device whose directory was just found, kept by the toolstack, with nothing known of its frontend; and what to do
    /// first.
    pub fn new() -> (Backend, Vec<Action>) {
        let backend = Backend {
            own: State::InitWait,
            frontend: State::Unknown,
            ring: Ring::None,
            image: false,
            online: true,
            present: true,
            ring_is_bad: false,
            ring_is_old: false,
            is_overdue: false,
            finished: false,
            recycled: false,
            forgotten: false,
        };
        (backend, vec![Action::Offer])
    }

    /// A device that another process of ours has served until now: its state is published, and its ring may be connected.
    pub fn adopted(
        own: State,
        frontend: State,
        ring_is_connected: bool,
        image: bool,
        online: bool,
    ) -> (Backend, Vec<Action>) {
        let ring = if ring_is_connected { Ring::Connected } else { Ring::None };
        let mut backend = Backend { own, frontend, ring, image, online, ..Backend::new().0 };
        let mut actions = Vec::new();
        if own == State::Initialising || own == State::Unknown {
            backend.offer(&mut actions);
        }
        backend.decide(&mut actions);
        (backend, actions)
    }

    /// What it has published.
    pub fn own(&self) -> State {
        self.own
    }

    /// What the frontend was last seen to be.
    pub fn frontend(&self) -> State {
        self.frontend
    }

    /// Its ring.
    pub fn ring(&self) -> Ring {
        self.ring
    }

    /// Whether nothing is left of it.
    pub fn is_forgotten(&self) -> bool {
        self.forgotten
    }

    /// Takes note of an event; says what to do about it.
    #[must_use]
    pub fn apply(mut self, event: Event) -> (Backend, Vec<Action>) {
        let mut actions = Vec::new();
        if !self.forgotten {
            self.note(event);
            self.decide(&mut actions);
        }
        (self, actions)
    }

    fn note(&mut self, event: Event) {
        match event {
            Event::Frontend(state) => self.note_frontend(state),
            Event::OwnState(state) => {
                // Only the toolstack writes there besides us, and only to end the device.
                if state == State::Closing && self.own != State::Closed {
                    self.own = State::Closing;
                }
            }
            Event::Online(online) => self.online = online,
            Event::Image(image) => self.image = image,
            Event::RingConnected(worked) => {
                if self.ring == Ring::Connecting {
                    self.ring = if worked { Ring::Connected } else { Ring::None };
                    self.ring_is_bad = !worked && !self.ring_is_old;
                    self.ring_is_old &= worked;
                }
            }
            Event::RingBroken => self.ring_is_bad |= self.ring == Ring::Connected && self.own == State::Connected,
            Event::RingDisconnected => {
                if self.ring == Ring::Disconnecting {
                    self.ring = Ring::None;
                    self.ring_is_old = false;
                }
            }
            // With a ring somebody is still served, and is waited for.
            Event::Overdue => self.is_overdue = self.own == State::Closing && self.ring == Ring::None,
            Event::Removed => self.present = false,
            Event::Recycled => {
                self.present = true;
                self.recycled = true;
            }
        }
    }

    fn note_frontend(&mut self, state: State) {
        // A frontend that was closed or gone and has a ring now has been at its start in between, unseen.
        let came_back = state.has_ring() && matches!(self.frontend, State::Closed | State::Unknown);
        if came_back && self.own == State::Closed && self.ring == Ring::None && self.online && self.present {
            self.own = State::Initialising;
        }
        if state != self.frontend {
            self.ring_is_bad = false;
        }
        self.ring_is_old |= self.ring == Ring::Connecting && !state.has_ring();
        self.frontend = state;
    }

    /// Brings what is closer to what should be, until something has to happen first.
    fn decide(&mut self, actions: &mut Vec<Action>) {
        match self.ring {
            // Both end by an event, and only then the next step is clear.
            Ring::Connecting | Ring::Disconnecting => {}
            Ring::Connected if self.must_let_go() => {
                self.ring = Ring::Disconnecting;
                actions.push(Action::DisconnectRing);
            }
            Ring::Connected => self.decide_with_ring(actions),
            Ring::None => self.decide_without_ring(actions),
        }
    }

    /// Whether the ring is of no use to the frontend any more.
    fn must_let_go(&self) -> bool {
        let frontend_left = matches!(self.frontend, State::Unknown | State::Initialising | State::Closed);
        frontend_left || self.ring_is_old || !self.present || self.recycled || !self.image
    }

    fn decide_with_ring(&mut self, actions: &mut Vec<Action>) {
        match (self.own, self.frontend) {
            (State::InitWait, _) => {
                self.own = State::Connected;
                actions.push(Action::PublishConnected);
                self.decide_with_ring(actions);
            }
            (State::Connected, _) if self.ring_is_bad => {
                actions.push(Action::ReportBadRing);
                self.ring_is_bad = false;
                self.publish(State::Closing, actions);
            }
            (State::Connected, State::Closing) => self.publish(State::Closing, actions),
            _ => {}
        }
    }

    fn decide_without_ring(&mut self, actions: &mut Vec<Action>) {
        if !self.present {
            self.finish(actions);
            self.forgotten = true;
            actions.push(Action::Forget);
            return;
        }
        if self.recycled {
            self.recycled = false;
            // All that was known is of the directory that has gone.
            *self = Backend { frontend: State::Unknown, online: true, image: false, ..*self };
            self.offer(actions);
            return;
        }
        match self.own {
            State::InitWait | State::Initialising if !self.online => self.close(actions),
            State::InitWait | State::Initialising => {
                if self.own == State::Initialising {
                    self.offer(actions);
                }
                self.decide_waiting(actions);
            }
            State::Connected | State::Closing => self.decide_after_ring(actions),
            _ => self.decide_closed(actions),
        }
    }

    /// Offers are made; there is no ring.
    fn decide_waiting(&mut self, actions: &mut Vec<Action>) {
        if self.ring_is_bad {
            actions.push(Action::ReportBadRing);
            self.publish(State::Closing, actions);
        } else if self.frontend.has_ring() && self.image {
            self.ring = Ring::Connecting;
            actions.push(Action::ConnectRing);
        } else if matches!(self.frontend, State::Closing | State::Closed) {
            self.close(actions);
        }
    }

    /// There was a ring, or the toolstack ends the device before there was one.
    fn decide_after_ring(&mut self, actions: &mut Vec<Action>) {
        // Somebody there will react to `Closing`, unless it was we who lost the image.
        let waits = self.frontend.is_alive() && !self.is_overdue;
        if waits && self.own == State::Closing {
            return;
        }
        if waits {
            self.publish(State::Closing, actions);
            return;
        }
        self.close(actions);
    }

    fn close(&mut self, actions: &mut Vec<Action>) {
        self.publish(State::Closed, actions);
        self.decide_closed(actions);
    }

    fn decide_closed(&mut self, actions: &mut Vec<Action>) {
        if !self.online {
            self.finish(actions);
        } else if self.frontend == State::Initialising {
            self.offer(actions);
        }
    }

    fn offer(&mut self, actions: &mut Vec<Action>) {
        self.own = State::InitWait;
        self.finished = false;
        self.ring_is_bad = false;
        self.is_overdue = false;
        actions.push(Action::Offer);
    }

    fn publish(&mut self, state: State, actions: &mut Vec<Action>) {
        self.own = state;
        self.is_overdue = false;
        actions.push(Action::Publish(state));
    }

    fn finish(&mut self, actions: &mut Vec<Action>) {
        if !self.finished {
            self.finished = true;
            actions.push(Action::Finish);
        }
    }
}

#[cfg(test)]
#[path = "backend/tests.rs"]
mod tests;
