//! Tapdisks that speak only the protocol of `tap-ctl`, and what can be learned from them.

use std::{collections::BTreeMap, time::Duration};

use block_core::{ErrorKind, SECTOR};
use control_api::{
    Client, Minor, RunDir,
    native::{
        DiskStatistics, DiskSummary, Geometry, Limits, ProcessStatistics, RequestCount, RingPages, State, Statistics,
        Throttled, WriteAccess,
    },
    protocol::{ListEntry, VbdState},
};
use serde_json::Value;

use super::host::Process;

/// What a tapdisk tells that does not speak the native protocol; nothing if nobody is there.
pub(super) fn process(run: &RunDir, pid: u32, patience: Duration) -> Option<Process> {
    let client = Client::new(run, pid).timeout(patience);
    let statistics = match client.list() {
        Ok(entries) => {
            let disks = entries.iter().rev().filter_map(|entry| told(run, pid, &client, entry)).collect();
            Some(Statistics { process: ProcessStatistics { pid, ..ProcessStatistics::default() }, disks })
        }
        Err(error) if error.kind() == ErrorKind::TimedOut => None,
        // It has ended.
        Err(_) => return None,
    };
    Some(Process { pid, is_native: false, statistics })
}

fn told(run: &RunDir, pid: u32, client: &Client, entry: &ListEntry) -> Option<DiskStatistics> {
    let minor = u16::try_from(entry.minor).ok().and_then(Minor::new)?;
    let image = Some(entry.path.to_string()).filter(|image| !image.is_empty());
    let has_image = image.is_some();
    let mut statistics = disk(minor.number(), image);
    statistics.disk.state = state(entry.state, has_image);
    if has_image {
        let size = client.disk_info(minor).ok();
        statistics.disk.geometry = size.map(|size| Geometry {
            bytes: size.sectors.saturating_mul(SECTOR),
            logical_block_bytes: size.sector_size,
            physical_block_bytes: size.sector_size,
            read_only: false,
        });
    }
    let socket = run.nbd_socket(pid, minor);
    statistics.disk.nbd = socket.exists().then(|| socket.display().to_string());
    let json = client.stats(Some(minor)).ok().and_then(|json| serde_json::from_slice::<Value>(&json).ok());
    count(&mut statistics, &json.unwrap_or_default());
    Some(statistics)
}

/// Takes over what there is in the statistics as the protocol of `tap-ctl` gives them.
fn count(statistics: &mut DiskStatistics, json: &Value) {
    statistics.disk.in_flight = json["reqs_outstanding"].as_u64().unwrap_or_default();
    for (index, kind) in ["read", "write"].into_iter().enumerate() {
        if let Some(sectors) = json["secs"][index].as_u64() {
            statistics.requests.insert(kind.to_owned(), RequestCount { sectors, ..RequestCount::default() });
        }
    }
}

/// The state that the bits mean, the most urgent first.
fn state(bits: VbdState, has_image: bool) -> State {
    let states = [
        (VbdState::DEAD, State::Stuck),
        (VbdState::SHUTDOWN_REQUESTED, State::Closing),
        (VbdState::RESUME_FAILED, State::ResumeFailed),
        (VbdState::PAUSED, State::Paused),
        (VbdState::PAUSE_REQUESTED, State::Pausing),
        (VbdState::CLOSED, State::Closed),
    ];
    let state = states.into_iter().find(|(bit, _)| bits.contains(*bit)).map(|(_, state)| state);
    state.unwrap_or(if has_image { State::Running } else { State::Attached })
}

/// A running disk of which nothing else is known.
pub(super) fn disk(minor: u16, image: Option<String>) -> DiskStatistics {
    let disk = DiskSummary {
        minor,
        image,
        state: State::Running,
        step: None,
        trouble: None,
        geometry: None,
        shared: false,
        write_access: WriteAccess::default(),
        buffered: false,
        nbd: None,
        in_flight: 0,
        waiting: 0,
        job: None,
        rings: Vec::new(),
        ring_pages: RingPages::default(),
    };
    DiskStatistics {
        disk,
        chain: Vec::new(),
        queues: Vec::new(),
        requests: BTreeMap::new(),
        latency: BTreeMap::new(),
        errors: Vec::new(),
        failures: Vec::new(),
        retries: 0,
        running: Vec::new(),
        stuck: 0,
        limits: Limits::default(),
        throttled: Throttled::default(),
        valve: None,
        resized: 0,
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn what_is_most_urgent_is_told() {
        assert_eq!(state(VbdState::EMPTY, true), State::Running);
        assert_eq!(state(VbdState::EMPTY, false), State::Attached);
        assert_eq!(state(VbdState::CLOSED, false), State::Closed);
        assert_eq!(state(VbdState::PAUSED | VbdState::CLOSED | VbdState::QUIESCED, true), State::Paused);
        assert_eq!(state(VbdState::PAUSED | VbdState::RESUME_FAILED, true), State::ResumeFailed);
    }

    #[test]
    fn what_the_old_statistics_have_is_taken_over() {
        let mut statistics = disk(3, None);
        let json = r#"{ "name": "vhd:/a", "secs": [ 8, 3 ], "images": [  ], "reqs_outstanding": 2 }"#;
        count(&mut statistics, &serde_json::from_str(json).unwrap());
        assert_eq!((statistics.requests["read"].sectors, statistics.requests["write"].sectors), (8, 3));
        assert_eq!(statistics.disk.in_flight, 2);
    }
}
