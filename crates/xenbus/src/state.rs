//! The states of a device, as both sides publish them.

use std::{fmt, str::FromStr};

/// The state that one side of a device has published.
#[derive(Clone, Copy, Debug, PartialEq, Eq, Hash, PartialOrd, Ord)]
#[repr(u8)]
pub enum State {
    /// Nothing is known: the node is missing or unreadable.
    Unknown = 0,
    /// Nothing has been offered yet.
    Initialising = 1,
    /// The backend has made its offers and waits for a ring.
    InitWait = 2,
    /// The frontend has made its ring.
    Initialised = 3,
    /// In use.
    Connected = 4,
    /// About to end: requests are still answered.
    Closing = 5,
    /// Ended: nothing is shared any more.
    Closed = 6,
    /// Devices that change while they are in use; no block device does.
    Reconfiguring = 7,
    /// See `Reconfiguring`.
    Reconfigured = 8,
}

/// A text or number that is no state.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct UnknownState;

impl fmt::Display for UnknownState {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.write_str("not a state of a device: they are numbered from 0 to 8")
    }
}

impl std::error::Error for UnknownState {}

impl State {
    /// Every state.
    pub const ALL: [State; 9] = [
        State::Unknown,
        State::Initialising,
        State::InitWait,
        State::Initialised,
        State::Connected,
        State::Closing,
        State::Closed,
        State::Reconfiguring,
        State::Reconfigured,
    ];

    /// The number in a `state` node.
    pub const fn number(self) -> u8 {
        self as u8
    }

    /// What a number in a `state` node means.
    ///
    /// # Errors
    /// A number that no state has.
    pub fn from_number(number: u8) -> Result<State, UnknownState> {
        State::ALL.get(usize::from(number)).copied().ok_or(UnknownState)
    }

    /// Its name, spelled as Xen does.
    pub const fn name(self) -> &'static str {
        match self {
            State::Unknown => "Unknown",
            State::Initialising => "Initialising",
            State::InitWait => "InitWait",
            State::Initialised => "Initialised",
            State::Connected => "Connected",
            State::Closing => "Closing",
            State::Closed => "Closed",
            State::Reconfiguring => "Reconfiguring",
            State::Reconfigured => "Reconfigured",
        }
    }

    /// Whether somebody on that side will still react to what the other publishes.
    pub const fn is_alive(self) -> bool {
        matches!(self, State::InitWait | State::Initialised | State::Connected | State::Closing)
    }

    /// Whether that side, a frontend, has a ring to be connected to.
    pub const fn has_ring(self) -> bool {
        matches!(self, State::Initialised | State::Connected)
    }
}

impl fmt::Display for State {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.write_str(self.name())
    }
}

impl FromStr for State {
    type Err = UnknownState;

    /// Reads the value of a `state` node.
    fn from_str(text: &str) -> Result<State, UnknownState> {
        text.parse().map_err(|_| UnknownState).and_then(State::from_number)
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn states_are_numbered_as_xen_numbers_them() {
        for (number, state) in State::ALL.into_iter().enumerate() {
            assert_eq!(usize::from(state.number()), number);
            assert_eq!(number.to_string().parse(), Ok(state));
        }
        for bad in ["9", "-1", "", "4 ", "255", "256", "four"] {
            assert_eq!(bad.parse::<State>(), Err(UnknownState), "{bad}");
        }
    }
}
