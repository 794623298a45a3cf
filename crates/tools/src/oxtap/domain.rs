//! All disks of a guest at once: `quiesce`, `resume` and `release` with `--domain`. Each device is seen to on its own: one
//! that hangs or fails stops none of the others, and is named with what it was waiting for.

use std::{
    process::ExitCode,
    sync::{Arc, Mutex, PoisonError},
    time::Duration,
};

use block_core::{Error, ErrorKind, Result};
use control_api::{
    RunDir,
    native::{Client, Command, Progress, ResultOf, RingDisconnected, WriteAccess},
};
use serde_json::{Value, json};

use super::{
    arguments::Release,
    control,
    host::{self, Process, ask_all},
    jobs, milliseconds,
    name::Place,
    text,
};

/// A tapdisk tells of a job at least every second; one that says nothing for this long does not answer.
const SILENCE_MAX: Duration = Duration::from_secs(30);
/// How much longer than its deadline a tapdisk may take to say that it has passed.
const GRACE: Duration = Duration::from_secs(5);
/// Longer than anybody waits.
const FOR_EVER: Duration = Duration::from_secs(365 * 24 * 3600);

/// Something of a guest: one of its devices, or a disk of them.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
struct Unit {
    place: Place,
    /// None: the disk, for all devices of the guest that it has.
    device: Option<u32>,
}

impl std::fmt::Display for Unit {
    fn fmt(&self, f: &mut std::fmt::Formatter<'_>) -> std::fmt::Result {
        match self.device {
            Some(device) => write!(f, "{} device {device}", self.place),
            None => write!(f, "{}", self.place),
        }
    }
}

/// What became of it.
#[derive(Debug)]
struct Done {
    unit: Unit,
    result: Result<ResultOf>,
    /// What it waited for last.
    step: String,
}

/// `oxtap quiesce --domain`.
pub(super) fn quiesce(domain: u16, deadline: Option<Duration>, json: bool) -> Result<ExitCode> {
    let (disks, silent) = disks_of(domain)?;
    let deadline_ms = deadline.map(milliseconds);
    let patience = deadline.map_or(FOR_EVER, |deadline| deadline + GRACE);
    let done = each(&disks, patience, move |unit| Command::Quiesce { minor: unit.place.minor, deadline_ms });
    report(domain, &done, &silent, json)
}

/// `oxtap resume --domain`.
pub(super) fn resume(domain: u16, json: bool) -> Result<ExitCode> {
    let (disks, silent) = disks_of(domain)?;
    let done = each(&disks, FOR_EVER, |unit| Command::Resume { minor: unit.place.minor, image: None });
    report(domain, &done, &silent, json)
}

/// `oxtap release`: every device is let go of, and then every disk that still has the lock of its image gives it up.
pub(super) fn release(arguments: &Release) -> Result<ExitCode> {
    let Release { domain, force, deadline, json } = *arguments;
    let (devices, silent) = devices_of(domain)?;
    let deadline_ms = force.then(|| milliseconds(deadline));
    let patience = if force { deadline + GRACE } else { deadline };
    let disconnect = move |unit: Unit| Command::DisconnectRing {
        minor: unit.place.minor,
        domain,
        device: unit.device.expect("a device is let go of"),
        deadline_ms,
        is_removed: false,
    };
    let mut done = each(&devices, patience, disconnect);
    done.iter_mut().for_each(insist_on_durability);
    let deadline_ms = Some(milliseconds(deadline));
    let quiesce = move |unit: Unit| Command::Quiesce { minor: unit.place.minor, deadline_ms };
    let locked = locked_disks(&done)?;
    done.extend(each(&locked, deadline + GRACE, quiesce));
    report(domain, &done, &silent, json)
}

/// A device that was let go of, but whose data may be lost, was not released.
fn insist_on_durability(done: &mut Done) {
    if let Ok(ResultOf::DisconnectRing(RingDisconnected { not_durable: Some(reason), .. })) = &done.result {
        done.result = Err(Error::new(ErrorKind::TimedOut, format!("not all is durable: {reason}")));
    }
}

/// Disks of devices that were released, which have no guest any more and keep others from writing nevertheless.
fn locked_disks(done: &[Done]) -> Result<Vec<Unit>> {
    let places: Vec<Place> = done.iter().filter(|done| done.result.is_ok()).map(|done| done.unit.place).collect();
    let processes = host::processes(&RunDir::from_environment())?;
    let is_locked = |process: &&Process, place: &Place| {
        process.pid == place.pid
            && process.disks().iter().map(|statistics| &statistics.disk).any(|disk| {
                disk.minor == place.minor
                    && disk.write_access == WriteAccess::Held
                    && !disk.shared
                    && disk.rings.is_empty()
            })
    };
    let mut units: Vec<Unit> = Vec::new();
    for place in places {
        let unit = Unit { place, device: None };
        if !units.contains(&unit) && processes.iter().any(|process| is_locked(&process, &place)) {
            units.push(unit);
        }
    }
    Ok(units)
}

/// Every device of a guest that a tapdisk has connected, and the tapdisks that do not tell.
fn devices_of(domain: u16) -> Result<(Vec<Unit>, Vec<u32>)> {
    let processes = host::processes(&RunDir::from_environment())?;
    Ok((devices(domain, &processes), silent(&processes)))
}

fn disks_of(domain: u16) -> Result<(Vec<Unit>, Vec<u32>)> {
    let (devices, silent) = devices_of(domain)?;
    let mut disks: Vec<Unit> = devices.into_iter().map(|unit| Unit { device: None, ..unit }).collect();
    disks.dedup();
    Ok((disks, silent))
}

fn devices(domain: u16, processes: &[Process]) -> Vec<Unit> {
    let disks = processes.iter().flat_map(|process| process.disks().iter().map(move |disk| (process.pid, &disk.disk)));
    disks
        .flat_map(|(pid, disk)| disk.rings.iter().map(move |ring| (Place { pid, minor: disk.minor }, ring)))
        .filter(|(_, ring)| ring.domain == domain)
        .map(|(place, ring)| Unit { place, device: Some(ring.device) })
        .collect()
}

fn silent(processes: &[Process]) -> Vec<u32> {
    processes.iter().filter(|process| process.is_silent()).map(|process| process.pid).collect()
}

/// Has something done to each of `units`, to all at the same time.
fn each(units: &[Unit], patience: Duration, command: impl Fn(Unit) -> Command + Send + Sync + 'static) -> Vec<Done> {
    let run = RunDir::from_environment();
    let steps: Arc<Vec<Mutex<String>>> = Arc::new(units.iter().map(|_| Mutex::default()).collect());
    let (all, told) = (units.to_vec(), steps.clone());
    let indices: Vec<u32> = (0..).take(units.len()).collect();
    let ask = move |index: u32| {
        let index = index as usize;
        let unit = all[index];
        follow(&run, unit, command(unit), &told[index])
    };
    let answers = ask_all(&indices, patience, ask);
    let ends = answers.into_iter().zip(units).zip(&*steps);
    ends.map(|(((_, answer), unit), step)| {
        let step = locked(step).clone();
        let late = || Err(Error::new(ErrorKind::TimedOut, "not done in time"));
        Done { unit: *unit, result: answer.unwrap_or_else(late), step }
    })
    .collect()
}

fn follow(run: &RunDir, unit: Unit, command: Command, step: &Mutex<String>) -> Result<ResultOf> {
    let note = |words: String| {
        *locked(step) = words;
    };
    note(format!("asking tapdisk {}", unit.place.pid));
    let mut client = Client::connect(run, unit.place.pid, Some(SILENCE_MAX))?;
    client.ask_watching(command, |progress: &Progress| {
        let words = jobs::words(progress);
        if progress.age_ms >= jobs::QUICK_MS && *locked(step) != words {
            eprintln!("{unit}: {words}");
        }
        note(words);
    })
}

fn locked(step: &Mutex<String>) -> std::sync::MutexGuard<'_, String> {
    step.lock().unwrap_or_else(PoisonError::into_inner)
}

/// Tells what became of each, and whether all is done.
fn report(domain: u16, done: &[Done], silent: &[u32], json: bool) -> Result<ExitCode> {
    if json {
        let devices: Vec<Value> = done.iter().map(to_json).collect();
        text::print_json(&json!({ "domain": domain, "devices": devices, "silent": silent }))?;
    } else {
        text::print(&lines(domain, done, silent))?;
    }
    let is_all = silent.is_empty() && done.iter().all(|done| done.result.is_ok());
    Ok(if is_all { ExitCode::SUCCESS } else { ExitCode::FAILURE })
}

fn lines(domain: u16, done: &[Done], silent: &[u32]) -> String {
    let mut lines: String = done.iter().map(line).collect();
    for pid in silent {
        lines += &format!("tapdisk {pid} does not answer: it may have devices of domain {domain}\n");
    }
    if lines.is_empty() {
        lines = format!("domain {domain} has no devices here\n");
    }
    lines
}

fn line(Done { unit, result, step }: &Done) -> String {
    match result {
        Ok(ResultOf::DisconnectRing(ended)) => {
            format!("{unit}: released after {} requests\n", ended.counters.requests)
        }
        Ok(result) => format!("{unit}: {}", control::summary(result)),
        Err(error) => format!("{unit}: FAILED: {error}; last step: {step}\n"),
    }
}

fn to_json(Done { unit, result, step }: &Done) -> Value {
    let mut value = json!({
        "pid": unit.place.pid,
        "minor": unit.place.minor,
        "device": unit.device,
        "done": result.is_ok(),
        "step": step,
    });
    match result {
        Ok(result) => value["result"] = serde_json::to_value(result).unwrap_or_default(),
        Err(error) => value["error"] = error.to_string().into(),
    }
    value
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::oxtap::host::tests::process;
    use control_api::native::RingStatistics;

    fn with_rings(mut process: Process, minor: u16, rings: &[(u16, u32)]) -> Process {
        let statistics = process.statistics.as_mut().unwrap();
        let disk = statistics.disks.iter_mut().find(|disk| disk.disk.minor == minor).unwrap();
        let ring = |&(domain, device)| RingStatistics { domain, device, ..RingStatistics::default() };
        disk.disk.rings = rings.iter().map(ring).collect();
        process
    }

    #[test]
    fn the_devices_of_a_guest_are_found_wherever_they_are() {
        let one = with_rings(process(1, &[(4, "aio:/a"), (5, "aio:/b")]), 4, &[(7, 51712), (8, 51712)]);
        let two = with_rings(process(2, &[(6, "aio:/c")]), 6, &[(7, 51728)]);
        let unit = |pid, minor, device| Unit { place: Place { pid, minor }, device: Some(device) };
        assert_eq!(devices(7, &[one, two]), [unit(1, 4, 51712), unit(2, 6, 51728)]);
    }

    #[test]
    fn what_is_not_done_is_named_with_its_step() {
        let unit = Unit { place: Place { pid: 1, minor: 4 }, device: Some(51712) };
        let result = Err(Error::new(ErrorKind::TimedOut, "not done in time"));
        let done = [Done { unit, result, step: "disconnect_ring of minor 4: working, 3 requests in flight".into() }];
        let expected = "1:4 device 51712: FAILED: not done in time; \
                        last step: disconnect_ring of minor 4: working, 3 requests in flight\n\
                        tapdisk 9 does not answer: it may have devices of domain 7\n";
        assert_eq!(lines(7, &done, &[9]), expected);
        assert_eq!(lines(7, &[], &[]), "domain 7 has no devices here\n");
        assert_eq!(to_json(&done[0])["done"], false);
    }

    #[test]
    fn a_device_whose_data_may_be_lost_was_not_released() {
        let unit = Unit { place: Place { pid: 1, minor: 4 }, device: Some(51712) };
        let ended = RingDisconnected { not_durable: Some("EIO".into()), ..RingDisconnected::default() };
        let mut done = Done { unit, result: Ok(ResultOf::DisconnectRing(ended)), step: String::new() };
        insist_on_durability(&mut done);
        assert!(done.result.is_err());
    }
}
