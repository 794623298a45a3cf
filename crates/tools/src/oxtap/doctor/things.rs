//! Everything that there is of disks on this host: processes, what the dead have left, minors, devices, and rings without any.

use std::{
    collections::{BTreeMap, BTreeSet},
    fs, io,
    path::{Path, PathBuf},
    time::{Duration, SystemTime},
};

use block_core::Result;
use control_api::{Minor, MinorRecord, Owner, RingRecords, RunDir, native::State, stale};
use serde_json::{Value, json};
use tapback::{DeviceName, owners::StrayRing, survey::Shown};

use super::super::{
    host::{self, Process},
    size, words,
};

/// What there is, as it was found.
#[derive(Debug, Default)]
pub(super) struct Things {
    pub(super) processes: Vec<Process>,
    /// How long each process has been listening.
    pub(super) process_ages: BTreeMap<u32, Duration>,
    /// The sockets of each, by their names.
    pub(super) sockets: BTreeMap<u32, Vec<String>>,
    /// Backends: what they serve, and their process if it is there.
    pub(super) backends: Vec<(String, Option<u32>)>,
    /// Processes that are no more, and how many sockets they have left.
    pub(super) dead: BTreeMap<u32, usize>,
    pub(super) minors: Vec<FoundMinor>,
    pub(super) devices: Vec<Shown>,
    pub(super) strays: Vec<StrayRing>,
    /// Devices of guests that tapdisks have served which are no more, and how many of their rings are still known.
    pub(super) records: BTreeMap<(u32, u32), usize>,
    /// What was told of devices that are no more.
    pub(super) errors: Vec<(DeviceName, String)>,
}

/// A minor that is allocated.
#[derive(Clone, Debug)]
pub(super) struct FoundMinor {
    pub(super) minor: Minor,
    pub(super) record: MinorRecord,
    /// Since its marker was changed.
    pub(super) age: Duration,
    /// The process that has it, and the state of the disk.
    pub(super) holder: Option<(u32, State)>,
}

impl Things {
    /// What there is without XenStore.
    pub(super) fn of_tapdisks(run: &RunDir) -> Result<Things> {
        // Markers first: what is attached in between is then found at its tapdisk.
        let markers = run.minors()?;
        let processes = host::processes(run)?;
        let age = |pid| (pid, age(&run.control_socket(pid)));
        let process_ages = processes.iter().map(|process| age(process.pid)).collect();
        let holder = |minor: Minor| {
            let mut disks = processes.iter().flat_map(|process| process.disks().iter().map(|disk| (process.pid, disk)));
            let found = disks.find(|(_, disk)| disk.disk.minor == minor.number())?;
            Some((found.0, found.1.disk.state))
        };
        let found = |minor| FoundMinor {
            minor,
            record: run.minor_record(minor),
            age: self::age(&run.marker(minor)),
            holder: holder(minor),
        };
        let minors = markers.into_iter().map(found).collect();
        let dead = stale::left_by_the_dead(run);
        let (sockets, backends) = (sockets(run), backends(run));
        Ok(Things { processes, process_ages, sockets, backends, dead, minors, ..Things::default() })
    }

    /// Minors that belong to scripts.
    pub(super) fn minors_of_scripts(&self) -> BTreeSet<Minor> {
        let of_scripts = self.minors.iter().filter(|found| found.record.owner != Owner::Storage);
        of_scripts.map(|found| found.minor).collect()
    }

    /// Whether one process says nothing: then nobody knows what it has.
    pub(super) fn is_somebody_silent(&self) -> bool {
        self.processes.iter().any(Process::is_silent)
    }

    /// Each of them with its state, a line each.
    pub(super) fn to_text(&self) -> String {
        let backends = self.backends.iter().map(|(kind, pid)| match pid {
            Some(pid) => format!("tapback {pid}: serves {kind}"),
            None => format!("tapback: that of {kind} is no more"),
        });
        let processes = self.processes.iter().map(|process| {
            let sockets = self.sockets.get(&process.pid).map_or(0, Vec::len);
            format!("{}, {}", process_words(process), size::count(sockets as u64, "socket"))
        });
        let minors = self.minors.iter().map(FoundMinor::words);
        let devices = self.devices.iter().map(device_words);
        backends.chain(processes).chain(minors).chain(devices).map(|line| line + "\n").collect()
    }

    pub(super) fn to_json(&self) -> [(&'static str, Value); 4] {
        let process = |process: &Process| {
            let minors: Vec<u16> = process.disks().iter().map(|disk| disk.disk.minor).collect();
            json!({ "pid": process.pid, "answers": !process.is_silent(), "minors": minors,
                    "sockets": self.sockets.get(&process.pid) })
        };
        let backend = |(kind, pid): &(String, Option<u32>)| json!({ "kind": kind, "pid": pid });
        let minor = |found: &FoundMinor| {
            let FoundMinor { minor, record, holder, .. } = found;
            json!({ "minor": minor.number(), "state": found.state(), "pid": holder.map(|holder| holder.0),
                    "owner": record.owner, "image": record.opened.as_ref().map(|opened| &opened.image) })
        };
        [
            ("backends", self.backends.iter().map(backend).collect()),
            ("processes", self.processes.iter().map(process).collect()),
            ("minors", self.minors.iter().map(minor).collect()),
            ("devices", self.devices.iter().map(device_json).collect()),
        ]
    }
}

impl FoundMinor {
    fn state(&self) -> &'static str {
        match (&self.holder, &self.record.opened) {
            (Some((_, state)), _) => words::state(*state),
            (None, Some(_)) => "lost",
            (None, None) => "unattached",
        }
    }

    fn words(&self) -> String {
        let holder = self.holder.map(|(pid, _)| format!(", tapdisk {pid}")).unwrap_or_default();
        let image = self.record.opened.as_ref().map(|opened| format!(", {}", opened.image)).unwrap_or_default();
        format!("minor {}: {}{holder}{image}, owner {}", self.minor, self.state(), self.record.owner)
    }
}

fn process_words(process: &Process) -> String {
    let minors: Vec<String> = process.disks().iter().map(|disk| disk.disk.minor.to_string()).collect();
    match &minors[..] {
        _ if process.is_silent() => format!("tapdisk {}: does not answer", process.pid),
        [] => format!("tapdisk {}: has no disk", process.pid),
        minors => format!("tapdisk {}: minor {}", process.pid, minors.join(", ")),
    }
}

/// A device in a line: what both sides have published, its disk, what is wrong.
pub(in super::super) fn device_words(shown: &Shown) -> String {
    let Shown { device, own, frontend, error, .. } = shown;
    let disk = match (&shown.disk, &shown.params) {
        (Some(disk), _) => format!("minor {} of tapdisk {}", disk.minor, disk.pid),
        (None, Some(params)) => params.escape_debug().to_string(),
        (None, None) => "no disk named".to_owned(),
    };
    let guest = if shown.has_guest { "" } else { ", its guest has gone" };
    let error = error.as_ref().map(|error| format!(", error {}", error.escape_debug())).unwrap_or_default();
    format!("vbd {device}: {own}, frontend {frontend}{guest}, {disk}{error}")
}

/// The same for programs.
pub(in super::super) fn device_json(shown: &Shown) -> Value {
    let Shown { device, own, frontend, online, has_guest, disk, params, error } = shown;
    json!({ "device": device.to_string(), "domain": device.domain.0, "number": device.device,
            "state": own.name(), "frontend_state": frontend.name(), "online": online, "guest": has_guest,
            "pid": disk.map(|disk| disk.pid), "minor": disk.map(|disk| disk.minor), "params": params, "error": error })
}

/// What the dead have left of guests' rings.
pub(super) fn records_of_the_dead(run: &RunDir) -> BTreeMap<(u32, u32), usize> {
    let mut all = BTreeMap::new();
    for name in RingRecords::new(run).left() {
        *all.entry((name.domain, name.device)).or_default() += 1;
    }
    all
}

fn sockets(run: &RunDir) -> BTreeMap<u32, Vec<String>> {
    let name = |path: PathBuf| path.file_name().map(|name| name.to_string_lossy().into_owned());
    let all = stale::sockets(run.path()).into_iter();
    all.map(|(pid, paths)| (pid, paths.into_iter().filter_map(name).collect())).collect()
}

/// Who serves devices writes that into a file, which stays if the process is killed.
fn backends(run: &RunDir) -> Vec<(String, Option<u32>)> {
    let files = fs::read_dir(run.path()).into_iter().flatten().flatten();
    let mut backends: Vec<_> = files
        .filter_map(|file| {
            let kind = file.file_name().to_str()?.strip_prefix("tapback.")?.to_owned();
            let pid: Option<u32> = fs::read_to_string(file.path()).ok()?.trim().parse().ok();
            Some((kind, pid.filter(|pid| stale::exists(*pid))))
        })
        .collect();
    backends.sort();
    backends
}

/// How long ago a file was changed; what cannot be told is new.
pub(super) fn age(path: &Path) -> Duration {
    let changed = || -> io::Result<SystemTime> { fs::symlink_metadata(path)?.modified() };
    changed().ok().and_then(|changed| changed.elapsed().ok()).unwrap_or_default()
}
