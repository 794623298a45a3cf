//! The attachment: what the toolstack and the storage manager want of it.
//!
//! ```text
//!               pause                   at rest
//!   Unpaused ----------> Pausing -----------------> Paused         (any of these, and Broken)
//!     ^  ^  ^               |                          |              |          |
//!     |  |  +--- unpause ---+                          |              | removed  | removed and made again
//!     |  +----- unpause -------------------------------+              v          v
//!     |                                                             Dead ---> Recycled
//!     +--- start --- Broken <--- the disk cannot be resumed           ^  again  |
//!                                                                     +---------+
//!                                                          removed; or its channel has ended: look again
//! ```
//!
//! `Recycled`: the directory has gone and there is another of its name, before what belonged to the first one had ended.
//! Nothing is done for the second one before that. What is wanted of a pause is a level, not a step: it may be seen any
//! number of times. On what is broken, dead or recycled it does nothing.

/// Where an attachment is in its life.
#[derive(Clone, Copy, Debug, PartialEq, Eq, Hash)]
pub enum Vbd {
    /// Its disk shall be served.
    Unpaused,
    /// Its disk shall be at rest, and may not be yet.
    Pausing,
    /// Its disk is at rest, and whoever wanted that knows.
    Paused,
    /// Its disk was at rest and cannot be resumed.
    Broken,
    /// Its directory has gone.
    Dead,
    /// Its directory has gone, and there is another of its name.
    Recycled,
}

/// Something that is wanted of an attachment, or has happened to it.
#[derive(Clone, Copy, Debug, PartialEq, Eq, Hash)]
pub enum Event {
    /// The disk shall be at rest.
    Pause,
    /// It need not be.
    Unpause,
    /// Nothing of it is served.
    Rest,
    /// It cannot be resumed.
    Break,
    /// Somebody has mended it, or it begins anew.
    Start,
    /// Its directory has gone.
    Remove,
    /// There is another directory of its name.
    Recycle,
    /// Its channel has ended.
    End,
}

/// Something to do, in the order given.
#[derive(Clone, Copy, Debug, PartialEq, Eq, Hash)]
pub enum Action {
    /// Say that the disk is at rest.
    TellPaused,
    /// Say why it cannot be resumed.
    Report,
    /// Touch the directory if it is still there, so that whoever looks for devices looks at it.
    Reprobe,
    /// Nothing is left of it.
    Forget,
}

impl Vbd {
    /// Every state.
    pub const ALL: [Vbd; 6] = [Vbd::Unpaused, Vbd::Pausing, Vbd::Paused, Vbd::Broken, Vbd::Dead, Vbd::Recycled];

    /// Takes note of an event; says what to do about it. What makes no sense in a state changes nothing.
    #[must_use]
    pub fn apply(self, event: Event) -> (Vbd, &'static [Action]) {
        use Vbd::{Broken, Dead, Paused, Pausing, Recycled, Unpaused};
        match (self, event) {
            (Unpaused, Event::Pause) => (Pausing, &[]),
            (Pausing | Paused, Event::Unpause) => (Unpaused, &[]),
            (Pausing, Event::Rest) => (Paused, &[Action::TellPaused]),
            (Unpaused | Pausing | Paused, Event::Break) => (Broken, &[Action::Report]),
            (Broken, Event::Start) => (Unpaused, &[]),
            (_, Event::Remove) => (Dead, &[]),
            (_, Event::Recycle) => (Recycled, &[]),
            (Dead, Event::End) => (Dead, &[Action::Forget]),
            (Recycled, Event::End) => (Dead, &[Action::Reprobe, Action::Forget]),
            _ => (self, &[]),
        }
    }

    /// Whether `next` may come directly after this state.
    pub fn may_become(self, next: Vbd) -> bool {
        use Vbd::{Broken, Dead, Paused, Pausing, Recycled, Unpaused};
        match self {
            Unpaused => matches!(next, Pausing | Broken | Dead | Recycled),
            Pausing => matches!(next, Unpaused | Paused | Broken | Dead | Recycled),
            Paused => matches!(next, Unpaused | Broken | Dead | Recycled),
            Broken => matches!(next, Unpaused | Dead | Recycled),
            Dead => next == Recycled,
            Recycled => next == Dead,
        }
    }

    /// Whether its directory is not the one that it began with.
    pub fn has_lost_its_directory(self) -> bool {
        matches!(self, Vbd::Dead | Vbd::Recycled)
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    const EVENTS: [Event; 8] = [
        Event::Pause,
        Event::Unpause,
        Event::Rest,
        Event::Break,
        Event::Start,
        Event::Remove,
        Event::Recycle,
        Event::End,
    ];

    /// A row per state, a column per event: the state that follows, and how many things are done.
    const TABLE: [&str; 6] = [
        // Pause    Unpause    Rest       Break     Start      Remove  Recycle    End
        "Pausing:0  Unpaused:0 Unpaused:0 Broken:1   Unpaused:0 Dead:0 Recycled:0 Unpaused:0", // Unpaused
        "Pausing:0  Unpaused:0 Paused:1   Broken:1   Pausing:0  Dead:0 Recycled:0 Pausing:0",  // Pausing
        "Paused:0   Unpaused:0 Paused:0   Broken:1   Paused:0   Dead:0 Recycled:0 Paused:0",   // Paused
        "Broken:0   Broken:0   Broken:0   Broken:0   Unpaused:0 Dead:0 Recycled:0 Broken:0",   // Broken
        "Dead:0     Dead:0     Dead:0     Dead:0     Dead:0     Dead:0 Recycled:0 Dead:1",     // Dead
        "Recycled:0 Recycled:0 Recycled:0 Recycled:0 Recycled:0 Dead:0 Recycled:0 Dead:2",     // Recycled
    ];

    #[test]
    fn all_pairs_of_the_vbd_are_as_drawn() {
        for (state, row) in Vbd::ALL.into_iter().zip(TABLE) {
            let cells: Vec<&str> = row.split_whitespace().collect();
            assert_eq!(cells.len(), EVENTS.len());
            for (event, cell) in EVENTS.into_iter().zip(cells) {
                let (next, actions) = state.apply(event);
                assert_eq!(format!("{next:?}:{}", actions.len()), cell, "{event:?} in {state:?}");
            }
        }
        assert_eq!(Vbd::Pausing.apply(Event::Rest).1, [Action::TellPaused]);
        assert_eq!(Vbd::Paused.apply(Event::Break).1, [Action::Report]);
        assert_eq!(Vbd::Dead.apply(Event::End).1, [Action::Forget]);
        assert_eq!(Vbd::Recycled.apply(Event::End).1, [Action::Reprobe, Action::Forget]);
    }

    #[test]
    fn a_pause_of_what_is_broken_dead_or_recycled_does_nothing() {
        for state in [Vbd::Broken, Vbd::Dead, Vbd::Recycled] {
            for event in [Event::Pause, Event::Unpause] {
                assert_eq!(state.apply(event), (state, [].as_slice()), "{event:?} in {state:?}");
            }
        }
    }

    #[test]
    fn the_vbd_becomes_what_it_may_become_and_all_of_that() {
        for state in Vbd::ALL {
            for next in Vbd::ALL {
                let becomes = next != state && EVENTS.iter().any(|event| state.apply(*event).0 == next);
                assert_eq!(state.may_become(next), becomes, "{state:?} -> {next:?}");
            }
        }
    }
}
