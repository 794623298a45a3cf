//! What tapdisks tell, in words for people.

use control_api::native::{Handover, Limits, Rate, RingPages, RingStatistics, State};

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
        State::Switching => "switching",
        State::Closing => "closing",
        State::Stuck => "stuck",
        State::Closed => "closed",
    }
}

/// Every state, for those who tell of all of them.
pub(super) const STATES: [State; 14] = [
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
    State::Switching,
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

/// Pages of guests: granted, mapped, the most that were, and what was not given back: `22/4/356/0`.
pub(super) fn pages_short(pages: &RingPages) -> String {
    let RingPages { granted, mapped, peak, leaked } = pages;
    format!("{granted}/{mapped}/{peak}/{leaked}")
}

/// The same in words: `22 granted, 4 mapped, 356 at most, 0 lost`.
pub(super) fn pages(pages: &RingPages) -> String {
    let RingPages { granted, mapped, peak, leaked } = pages;
    format!("{granted} granted, {mapped} mapped, {peak} at most, {leaked} lost")
}

/// A guest's device: `7-51712: 2 rings, 9 requests, pages: 0 granted, 2 mapped, 2 at most, 0 lost`.
pub(super) fn guest(guest: &RingStatistics) -> String {
    let RingStatistics { domain, device, queues, pages, counters, broken, handover, .. } = guest;
    let rings = size::count(queues.len() as u64, "ring");
    let requests = size::count(counters.requests, "request");
    let pages = self::pages(pages);
    let throttled = match counters.throttled.requests {
        0 => String::new(),
        held => format!(", {held} held back for {}", size::describe_microseconds(counters.throttled.waited_us)),
    };
    let broken = broken.as_ref().map(|reason| format!(", broken: {reason}")).unwrap_or_default();
    let handover = handover.as_ref().map(handover_words).unwrap_or_default();
    format!("{domain}-{device}: {rings}, {requests}{throttled}, pages: {pages}{handover}{broken}")
}

/// Whose place a guest has taken, and for how long nobody was served meanwhile.
fn handover_words(handover: &Handover) -> String {
    let Handover { domain, device, blackout_us } = handover;
    let blackout = match blackout_us {
        Some(time) => format!("nobody was served for {}", size::describe_microseconds(*time)),
        None => "it has asked for nothing yet".to_owned(),
    };
    format!(", in the place of {domain}-{device}: {blackout}")
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
