//! What tapdisks tell, in words for people.

use control_api::native::{Limits, Rate, State};

use super::size;

/// A state in one or two words.
pub(super) const fn state(state: State) -> &'static str {
    match state {
        State::Attached => "attached",
        State::Opening => "opening",
        State::Running => "running",
        State::Pausing => "pausing",
        State::Paused => "paused",
        State::Quiescing => "quiescing",
        State::Quiesced => "quiesced",
        State::Resuming => "resuming",
        State::ResumeFailed => "resume failed",
        State::Growing => "growing",
        State::Closing => "closing",
        State::Stuck => "stuck",
        State::Closed => "closed",
    }
}

/// Every state, for those who tell of all of them.
pub(super) const STATES: [State; 13] = [
    State::Attached,
    State::Opening,
    State::Running,
    State::Pausing,
    State::Paused,
    State::Quiescing,
    State::Quiesced,
    State::Resuming,
    State::ResumeFailed,
    State::Growing,
    State::Closing,
    State::Stuck,
    State::Closed,
];

/// What is limited: `500 IOPS, 50 MiB/s, writes 10 MiB/s`; nothing if nothing is.
pub(super) fn limits(limits: &Limits) -> Option<String> {
    let told = |rate: Option<Rate>, describe: fn(Rate) -> String, whose: &str| {
        rate.map(|rate| format!("{whose}{}", describe(rate)))
    };
    let scopes = [(limits.total, ""), (limits.read, "reads "), (limits.write, "writes ")];
    let words: Vec<String> = scopes
        .into_iter()
        .flat_map(|(limit, whose)| [told(limit.requests, requests, whose), told(limit.bytes, bytes, whose)])
        .flatten()
        .collect();
    (!words.is_empty()).then(|| words.join(", "))
}

fn requests(rate: Rate) -> String {
    format!("{} IOPS", rate.per_second)
}

fn bytes(rate: Rate) -> String {
    format!("{}/s", size::describe(rate.per_second))
}

#[cfg(test)]
mod tests {
    use super::*;
    use control_api::native::Limit;

    #[test]
    fn only_what_is_limited_is_told() {
        let rate = |per_second| Some(Rate { per_second, burst: None });
        let total = Limit { requests: rate(500), bytes: rate(50 << 20) };
        let write = Limit { requests: None, bytes: rate(10 << 20) };
        let all = Limits { total, write, ..Limits::default() };
        assert_eq!(limits(&all).unwrap(), "500 IOPS, 50 MiB/s, writes 10 MiB/s");
        assert_eq!(limits(&Limits::default()), None);
    }

    #[test]
    fn every_state_stands_once_among_all() {
        let words: std::collections::BTreeSet<&str> = STATES.map(state).into_iter().collect();
        assert_eq!(words.len(), STATES.len());
    }
}
