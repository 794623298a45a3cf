//! What nobody will ever end: left by those who were killed in the middle of something, by toolstacks that forget, and by
//! backends that were not there when a device went.
//!
//! ```text
//!   tap-ctl killed after:  allocate        spawn              attach             open
//!   leaves:                a minor         a process          an empty disk      a disk of its owner
//! ```
//!
//! Whoever makes a disk does these steps one after the other, in less time than a script has. What is as old as that and
//! has got no further, will not. Disks that are open are the storage side's, or have an owner that can be asked for: they
//! are none of these.

use std::{collections::BTreeSet, time::Duration};

use block_core::{Error, Result, ResultExt};
use control_api::{Minor, RingRecords, RunDir, native::State, stale};
use rustix::{
    io::Errno,
    process::{Pid, PidfdFlags, Signal, pidfd_open, pidfd_send_signal},
};
use serde_json::{Value, json};
use storage_io::Executor;
use tapback::{
    DeviceName, Disk,
    owners::{SCRIPT_TIME, StrayRing, end_disk, let_go_of},
    survey::{remove_ended, remove_error},
};
use xen::{DomainId, store::Store};

use super::{
    super::host,
    things::{Things, age},
};

/// So long a process may take to end that has no disk.
const END_MAX: Duration = Duration::from_secs(10);

/// One of them.
#[derive(Clone, Debug, PartialEq, Eq)]
pub(super) enum Orphan {
    /// A process that has been given no disk.
    Process { pid: u32 },
    /// Sockets of a process that is no more.
    Sockets { pid: u32, count: usize },
    /// A number that no process has; what a process that has gone had open under it.
    Minor { minor: Minor, was: Option<(u32, String)> },
    /// A disk that was never opened, or is closed.
    Empty { minor: Minor, pid: u32 },
    /// A ring without a device.
    Ring(StrayRing),
    /// The directory of a device that has ended, of a guest that is no more.
    Directory(DeviceName),
    /// A device that was served by a process which is no more.
    Device { device: DeviceName, disk: Disk },
    /// What a process that has gone knew of the rings of a device that is no more.
    Records { domain: u32, device: u32, count: usize },
    /// What was told of a device that is no more.
    Error { device: DeviceName, error: String },
}

/// All of them. `owned`: minors that are told of already.
pub(super) fn find(things: &Things, owned: &BTreeSet<Minor>) -> Vec<Orphan> {
    let mut orphans = Vec::new();
    orphans.extend(things.dead.iter().map(|(pid, count)| Orphan::Sockets { pid: *pid, count: *count }));
    for process in things.processes.iter().filter(|process| !process.is_silent() && process.disks().is_empty()) {
        let is_old = things.process_ages.get(&process.pid).is_some_and(|age| *age >= SCRIPT_TIME);
        orphans.extend(is_old.then_some(Orphan::Process { pid: process.pid }));
    }
    let devices: Vec<Orphan> = things.devices.iter().filter_map(|shown| lost_device(things, shown)).collect();
    let is_needed = |minor: Minor| {
        devices.iter().any(|orphan| matches!(orphan, Orphan::Device { disk, .. } if disk.minor == minor.number()))
    };
    for found in things.minors.iter().filter(|found| !owned.contains(&found.minor) && !is_needed(found.minor)) {
        let minor = found.minor;
        let was = found.record.opened.as_ref().map(|opened| (opened.pid, opened.image.clone()));
        let is_old = found.age >= SCRIPT_TIME;
        match found.holder {
            // Who says nothing may have it.
            None if things.is_somebody_silent() => {}
            None if is_old || was.is_some() => orphans.push(Orphan::Minor { minor, was }),
            Some((pid, State::Attached | State::Closed)) if is_old => orphans.push(Orphan::Empty { minor, pid }),
            _ => {}
        }
    }
    orphans.extend(things.strays.iter().map(|ring| Orphan::Ring(*ring)));
    orphans.extend(devices);
    let records =
        |(place, count): (&(u32, u32), &usize)| Orphan::Records { domain: place.0, device: place.1, count: *count };
    orphans.extend(things.records.iter().map(records));
    let error = |(device, error): &(DeviceName, String)| Orphan::Error { device: device.clone(), error: error.clone() };
    orphans.extend(things.errors.iter().map(error));
    orphans
}

/// A device that has come to its end without its toolstack, or whose process has.
fn lost_device(things: &Things, shown: &tapback::survey::Shown) -> Option<Orphan> {
    let device = shown.device.clone();
    if shown.own == xenbus::State::Closed && !shown.has_guest {
        return Some(Orphan::Directory(device));
    }
    let disk = shown.disk?;
    let process = things.processes.iter().find(|process| process.pid == disk.pid);
    let has_it = process.is_some_and(|process| {
        process.is_silent() || process.disks().iter().any(|served| served.disk.minor == disk.minor)
    });
    (!has_it).then_some(Orphan::Device { device, disk })
}

/// Where they are cleared away.
pub(super) struct Place<'a> {
    pub(super) executor: &'a Executor,
    pub(super) run: &'a RunDir,
    /// None on a host without.
    pub(super) store: Option<(&'a Store, DomainId)>,
}

impl Orphan {
    /// Clears it away.
    pub(super) async fn clear(&self, place: &Place<'_>) -> Result<()> {
        let Place { executor, run, store } = place;
        match self {
            Orphan::Process { pid } => end_process(executor, run, *pid).await,
            Orphan::Sockets { .. } => {
                stale::Turn::wait(run).context(run.path().display())?.clean(run, None);
                Ok(())
            }
            Orphan::Minor { minor, was } => free(run, *minor, was.as_ref().map(|was| was.0)),
            Orphan::Empty { minor, .. } => end_disk(executor, run, *minor, &|_| {}).await.map(drop),
            Orphan::Ring(ring) => let_go_of(executor, run, *ring).await,
            Orphan::Records { domain, device, .. } => {
                RingRecords::new(run).remove(*domain, *device);
                Ok(())
            }
            Orphan::Directory(_) | Orphan::Error { .. } => self.clear_nodes(*store).await,
            Orphan::Device { .. } => {
                Err(Error::from_os("its toolstack must detach it, or name another disk", Errno::NODEV.into()))
            }
        }
    }

    async fn clear_nodes(&self, store: Option<(&Store, DomainId)>) -> Result<()> {
        let (store, own) = store.expect("it was found in XenStore");
        let is_cleared = match self {
            Orphan::Directory(device) => remove_ended(store, own, device).await?,
            // Told of a device that is there by now, it is news.
            Orphan::Error { device, .. } => remove_error(store, own, device).await.map(|_| true)?,
            _ => true,
        };
        if is_cleared {
            return Ok(());
        }
        Err(Error::from_os("somebody has changed it meanwhile", Errno::BUSY.into()))
    }

    /// Whether nobody but its toolstack can clear it away.
    pub(super) fn is_the_toolstacks(&self) -> bool {
        matches!(self, Orphan::Device { .. })
    }

    pub(super) fn words(&self) -> String {
        match self {
            Orphan::Process { pid } => format!("tapdisk {pid}: it was given no disk, by somebody who is gone"),
            Orphan::Sockets { pid, count } => format!("tapdisk {pid}: it is no more, and has left its {count} sockets"),
            Orphan::Minor { minor, was: None } => format!("minor {minor}: no tapdisk has it"),
            Orphan::Minor { minor, was: Some((pid, image)) } => {
                format!("minor {minor}: tapdisk {pid}, which had {} open, is no more", image.escape_debug())
            }
            Orphan::Empty { minor, pid } => format!("minor {minor}: nothing is open there, tapdisk {pid} waits for it"),
            Orphan::Ring(StrayRing { disk, domain, device }) => {
                format!("ring {domain}-{device} at minor {} of tapdisk {}: its device has gone", disk.minor, disk.pid)
            }
            Orphan::Records { domain, device, count } => {
                format!(
                    "ring {domain}-{device}: its device and its tapdisk have gone, what was under way is known of {count}"
                )
            }
            Orphan::Directory(device) => format!("vbd {device}: it has ended, and its guest has gone"),
            Orphan::Device { device, disk } => {
                format!("vbd {device}: minor {} of tapdisk {} is no more", disk.minor, disk.pid)
            }
            Orphan::Error { device, error } => {
                format!("vbd {device}: it is no more, and its error is still told: {}", error.escape_debug())
            }
        }
    }

    pub(super) fn to_json(&self) -> Value {
        let disk_of = |disk: &Disk| (disk.pid, disk.minor);
        let (kind, pid, minor, device) = match self {
            Orphan::Process { pid } => ("process", Some(*pid), None, None),
            Orphan::Sockets { pid, .. } => ("sockets", Some(*pid), None, None),
            Orphan::Minor { minor, was } => ("minor", was.as_ref().map(|was| was.0), Some(minor.number()), None),
            Orphan::Empty { minor, pid } => ("empty-disk", Some(*pid), Some(minor.number()), None),
            Orphan::Ring(ring) => {
                let (pid, minor) = disk_of(&ring.disk);
                ("ring", Some(pid), Some(minor), Some(format!("{}-{}", ring.domain, ring.device)))
            }
            Orphan::Records { domain, device, .. } => ("records", None, None, Some(format!("{domain}-{device}"))),
            Orphan::Directory(device) => ("directory", None, None, Some(device.to_string())),
            Orphan::Device { device, disk } => {
                let (pid, minor) = disk_of(disk);
                ("device", Some(pid), Some(minor), Some(device.to_string()))
            }
            Orphan::Error { device, .. } => ("error", None, None, Some(device.to_string())),
        };
        json!({ "kind": kind, "pid": pid, "minor": minor, "device": device, "words": self.words() })
    }
}

/// Frees a minor that is still as it was found; one that was given out again meanwhile is another disk's.
fn free(run: &RunDir, minor: Minor, was: Option<u32>) -> Result<()> {
    let Some(marker) = run.open_marker(minor)? else { return Ok(()) };
    let is_same = run.minor_record(minor).opened.map(|opened| opened.pid) == was;
    match is_same && (was.is_some() || age(&run.marker(minor)) >= SCRIPT_TIME) {
        true => run.free_marker(&marker),
        false => Err(Error::from_os("somebody has taken it meanwhile", Errno::BUSY.into())),
    }
}

/// Has a process end that has no disk, and waits for that.
async fn end_process(executor: &Executor, run: &RunDir, pid: u32) -> Result<()> {
    let number = i32::try_from(pid).ok().and_then(Pid::from_raw);
    let process = number.ok_or(Errno::SRCH).and_then(|pid| pidfd_open(pid, PidfdFlags::empty()));
    let process = match process {
        Err(Errno::SRCH) => return Ok(()),
        process => process.map_err(std::io::Error::from).context("its process")?,
    };
    // After that descriptor is there: whoever says so is the one that it stands for, and has got no disk meanwhile.
    let asked = host::processes(run)?.into_iter().find(|process| process.pid == pid);
    let Some(asked) = asked else { return Ok(()) };
    if asked.is_silent() || !asked.disks().is_empty() {
        return Err(Error::from_os("it has got a disk meanwhile", Errno::BUSY.into()));
    }
    pidfd_send_signal(&process, Signal::TERM).map_err(std::io::Error::from).context("ending it")?;
    let ended = executor.readable(&process);
    super::super::xenstore::within(executor, END_MAX, ended, || {
        Error::from_os(format!("it has not ended after {} s", END_MAX.as_secs()), Errno::TIMEDOUT.into())
    })
    .await
}

#[cfg(test)]
mod tests {
    use std::time::Duration;

    use control_api::{MinorRecord, Opened};
    use xenbus::State as Published;

    use super::{
        super::super::host::{Process, tests::process},
        super::things::FoundMinor,
        *,
    };

    fn minor(number: u16, opened: Option<Opened>) -> FoundMinor {
        let record = MinorRecord { opened, ..MinorRecord::default() };
        FoundMinor { minor: Minor::new(number).unwrap(), record, age: SCRIPT_TIME, holder: None }
    }

    fn opened() -> Option<Opened> {
        Some(Opened { pid: 70, image: "vhd:/a".into(), ..Opened::default() })
    }

    fn found(things: &Things) -> Vec<Orphan> {
        find(things, &BTreeSet::new())
    }

    #[test]
    fn nobody_knows_what_a_process_has_that_does_not_answer() {
        let mut things = Things { minors: vec![minor(3, None), minor(4, opened())], ..Things::default() };
        assert_eq!(found(&things).len(), 2);
        things.processes.push(Process { pid: 72, is_native: true, statistics: None });
        things.process_ages.insert(72, 10 * SCRIPT_TIME);
        assert_eq!(found(&things), []);
    }

    #[test]
    fn what_is_told_of_elsewhere_is_not_told_twice() {
        let things = Things { minors: vec![minor(3, None)], ..Things::default() };
        assert_eq!(find(&things, &[Minor::new(3).unwrap()].into()), []);
    }

    #[test]
    fn a_minor_stays_as_long_as_a_device_means_it() {
        let shown = tapback::survey::Shown {
            device: DeviceName::new(&"vbd3".into(), DomainId(7), 51712),
            own: Published::Connected,
            frontend: Published::Connected,
            online: true,
            has_guest: true,
            disk: Some(Disk { pid: 70, minor: 4 }),
            params: None,
            error: None,
        };
        let things = Things { minors: vec![minor(4, opened())], devices: vec![shown], ..Things::default() };
        assert!(matches!(found(&things)[..], [Orphan::Device { .. }]), "another process may be given it");
    }

    #[test]
    fn a_disk_that_is_open_is_nobodys_orphan_however_old() {
        let mut things = Things { processes: vec![process(70, &[(4, "vhd:/a")])], ..Things::default() };
        things.process_ages.insert(70, 10 * SCRIPT_TIME);
        for (state, is_orphan) in [
            (State::Attached, true),
            (State::Closed, true),
            (State::Running, false),
            (State::Paused, false),
            (State::Stuck, false),
        ] {
            things.minors = vec![FoundMinor { holder: Some((70, state)), ..minor(4, None) }];
            assert_eq!(!found(&things).is_empty(), is_orphan, "{state:?}");
        }
        things.minors[0].age = SCRIPT_TIME - Duration::from_millis(1);
        things.minors[0].holder = None;
        assert_eq!(found(&things), [], "somebody may still be at work");
    }
}
