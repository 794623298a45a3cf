//! The channel: the tapdisk that serves a device's disk, as far as the device may speak to it.
//!
//! ```text
//!             launch             known            serve             pause, paused
//!    Dead -------------> Launched -----> Pid ------------> Running ---------------> Paused
//!    ^ ^                  |               |                 |  ^      resume, resumed  |
//!    | +-- not launched --+               |                 |  +-----------------------+
//!    |                                    |                 |                          |
//!    |                                    +---------- close, closed -------------------+
//!    |                                                      |
//!    +--- the process has died: from Pid, Running, Paused   +---> Closed --- launch ---> Launched
//!         and Closed
//! ```
//!
//! What takes time stays in its state until its end is an event. A disk that is found in `Pid` may be paused before it
//! is ever served, or resumed if it was paused before anybody found it.

/// Where a channel is in its life.
#[derive(Clone, Copy, Debug, PartialEq, Eq, Hash)]
pub enum Channel {
    /// There is no tapdisk, or it has died.
    Dead,
    /// A tapdisk is being started, or looked for.
    Launched,
    /// It is known which one it is, and nothing is asked of its disk yet.
    Pid,
    /// Its disk is served.
    Running,
    /// Its disk is at rest: the images are closed and free to change, requests are held.
    Paused,
    /// The disk is let go of; the process may live on.
    Closed,
}

/// Something that is wanted of a channel, or has happened to it.
#[derive(Clone, Copy, Debug, PartialEq, Eq, Hash)]
pub enum Event {
    /// There shall be a tapdisk.
    Launch,
    /// It is known which one.
    Known,
    /// There is none after all.
    NotLaunched,
    /// Its disk shall be served as it is found.
    Serve,
    /// Its disk shall come to rest.
    Pause,
    /// It has.
    Paused,
    /// Its disk shall be served again.
    Resume,
    /// It is.
    Resumed,
    /// The disk shall be let go of.
    Close,
    /// It is.
    Closed,
    /// The process has died.
    Died,
}

/// Something to do.
#[derive(Clone, Copy, Debug, PartialEq, Eq, Hash)]
pub enum Action {
    /// Start a tapdisk, or find the one that is meant.
    Launch,
    /// Have the tapdisk bring its disk to rest.
    Pause,
    /// Have the tapdisk open its images again.
    Resume,
    /// Let go of the disk.
    Close,
}

impl Channel {
    /// Every state.
    pub const ALL: [Channel; 6] =
        [Channel::Dead, Channel::Launched, Channel::Pid, Channel::Running, Channel::Paused, Channel::Closed];

    /// Takes note of an event; says what to do about it. What makes no sense in a state changes nothing.
    #[must_use]
    pub fn apply(self, event: Event) -> (Channel, &'static [Action]) {
        use Channel::{Closed, Dead, Launched, Paused, Pid, Running};
        match (self, event) {
            (Dead | Closed, Event::Launch) => (Launched, &[Action::Launch]),
            (Launched, Event::Known) => (Pid, &[]),
            (Launched, Event::NotLaunched) => (Dead, &[]),
            (Pid, Event::Serve) => (Running, &[]),
            (Pid | Running, Event::Pause) => (self, &[Action::Pause]),
            (Pid | Running, Event::Paused) => (Paused, &[]),
            (Pid | Paused, Event::Resume) => (self, &[Action::Resume]),
            (Pid | Paused, Event::Resumed) => (Running, &[]),
            (Pid | Running | Paused, Event::Close) => (self, &[Action::Close]),
            (Pid | Running | Paused, Event::Closed) => (Closed, &[]),
            (Pid | Running | Paused | Closed, Event::Died) => (Dead, &[]),
            _ => (self, &[]),
        }
    }

    /// Whether `next` may come directly after this state.
    pub fn may_become(self, next: Channel) -> bool {
        use Channel::{Closed, Dead, Launched, Paused, Pid, Running};
        match self {
            Dead => next == Launched,
            Launched => matches!(next, Pid | Dead),
            Pid => matches!(next, Running | Paused | Closed | Dead),
            Running => matches!(next, Paused | Closed | Dead),
            Paused => matches!(next, Running | Closed | Dead),
            Closed => matches!(next, Launched | Dead),
        }
    }

    /// Whether there is nothing that could be let go of, nor will be.
    pub fn is_over(self) -> bool {
        matches!(self, Channel::Dead | Channel::Closed)
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    const EVENTS: [Event; 11] = [
        Event::Launch,
        Event::Known,
        Event::NotLaunched,
        Event::Serve,
        Event::Pause,
        Event::Paused,
        Event::Resume,
        Event::Resumed,
        Event::Close,
        Event::Closed,
        Event::Died,
    ];

    /// A row per state, a column per event: the state that follows, by its letter, and what is done, by the letter of
    /// the action.
    const TABLE: [&str; 6] = [
        // Launch Known NotL Serve Pause Paused Resume Resumed Close Closed Died
        "L:L   D:   D:   D:   D:   D:   D:   D:   D:   D:   D: ", // Dead
        "L:    I:   D:   L:   L:   L:   L:   L:   L:   L:   L: ", // Launched
        "I:    I:   I:   R:   I:P  P:   I:R  R:   I:C  C:   D: ", // Pid
        "R:    R:   R:   R:   R:P  P:   R:   R:   R:C  C:   D: ", // Running
        "P:    P:   P:   P:   P:   P:   P:R  R:   P:C  C:   D: ", // Paused
        "L:L   C:   C:   C:   C:   C:   C:   C:   C:   C:   D: ", // Closed
    ];

    fn letter(state: Channel) -> char {
        match state {
            Channel::Dead => 'D',
            Channel::Launched => 'L',
            Channel::Pid => 'I',
            Channel::Running => 'R',
            Channel::Paused => 'P',
            Channel::Closed => 'C',
        }
    }

    #[test]
    fn all_pairs_of_the_channel_are_as_drawn() {
        for (state, row) in Channel::ALL.into_iter().zip(TABLE) {
            let cells: Vec<&str> = row.split_whitespace().collect();
            assert_eq!(cells.len(), EVENTS.len());
            for (event, cell) in EVENTS.into_iter().zip(cells) {
                let (next, actions) = state.apply(event);
                let done: String = actions.iter().filter_map(|action| format!("{action:?}").chars().next()).collect();
                assert_eq!(format!("{}:{done}", letter(next)), cell, "{event:?} in {state:?}");
            }
        }
    }

    #[test]
    fn the_channel_becomes_what_it_may_become_and_all_of_that() {
        for state in Channel::ALL {
            for next in Channel::ALL {
                let becomes = next != state && EVENTS.iter().any(|event| state.apply(*event).0 == next);
                assert_eq!(state.may_become(next), becomes, "{state:?} -> {next:?}");
            }
        }
    }
}
