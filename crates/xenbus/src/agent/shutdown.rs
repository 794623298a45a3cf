//! Whether there shall be a channel at all.
//!
//! ```text
//!           stop
//!   Up -------------> Down
//!    ^                 |
//!    +----- start -----+
//! ```
//!
//! A start counts even if it changes nothing here: it revives a channel that has died.

/// Whether there shall be a channel.
#[derive(Clone, Copy, Debug, PartialEq, Eq, Hash)]
pub enum Shutdown {
    /// There shall be one.
    Up,
    /// There shall be none.
    Down,
}

/// Something that is wanted.
#[derive(Clone, Copy, Debug, PartialEq, Eq, Hash)]
pub enum Event {
    /// A channel, anew if there was one.
    Start,
    /// None.
    Stop,
}

/// Something to do.
#[derive(Clone, Copy, Debug, PartialEq, Eq, Hash)]
pub enum Action {
    /// A channel that has ended, or will, is begun anew.
    Revive,
    /// It ends, and is not begun anew.
    End,
}

impl Shutdown {
    /// Every state.
    pub const ALL: [Shutdown; 2] = [Shutdown::Up, Shutdown::Down];

    /// Takes note of an event; says what to do about it.
    #[must_use]
    pub fn apply(self, event: Event) -> (Shutdown, &'static [Action]) {
        match (self, event) {
            (_, Event::Start) => (Shutdown::Up, &[Action::Revive]),
            (Shutdown::Up, Event::Stop) => (Shutdown::Down, &[Action::End]),
            (Shutdown::Down, Event::Stop) => (Shutdown::Down, &[]),
        }
    }

    /// Whether `next` may come directly after this state.
    pub fn may_become(self, next: Shutdown) -> bool {
        self != next
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn all_pairs_of_the_shutdown_are_as_drawn() {
        use Shutdown::{Down, Up};
        let table = [
            (Up, Event::Start, Up, [Action::Revive].as_slice()),
            (Up, Event::Stop, Down, &[Action::End]),
            (Down, Event::Start, Up, &[Action::Revive]),
            (Down, Event::Stop, Down, &[]),
        ];
        for (state, event, next, actions) in table {
            assert_eq!(state.apply(event), (next, actions), "{event:?} in {state:?}");
            assert!(state == next || state.may_become(next));
        }
        assert!(Shutdown::ALL.iter().all(|state| !state.may_become(*state)));
    }
}
