//! What is done to a disk: `pause`, `resume`, `quiesce`, `resize`, `close`, `budget`, `faults`.

use block_core::{Error, ErrorKind, Result, ResultExt};
use control_api::{
    RunDir,
    native::{self, Client, Command, DiskStatistics, Grow, Quiet, ResultOf},
};
use storage_io::Signals;

use super::{
    arguments::{Budget, Close, Faults, Quiesce, Resize, Rest, Resume},
    host::{ANSWER_MAX, is_nobody},
    jobs, milliseconds,
    name::{self, DiskName, Place},
    size, text,
};

/// A disk, and a way to its tapdisk.
pub(super) struct Disk {
    pub(super) place: Place,
    client: Client,
}

impl Disk {
    /// Finds it by name and connects to its tapdisk.
    pub(super) fn find(name: &DiskName) -> Result<Disk> {
        let run = RunDir::from_environment();
        let place = name::find(&run, name)?;
        let client = Client::connect(&run, place.pid, Some(ANSWER_MAX)).map_err(|error| too_old(place.pid, error))?;
        Ok(Disk { place, client })
    }

    /// Asks for what is answered at once.
    pub(super) fn ask(&mut self, command: Command) -> Result<ResultOf> {
        self.client.ask(command)
    }

    /// Everything that is counted of it.
    pub(super) fn statistics(&mut self) -> Result<DiskStatistics> {
        let statistics = self.client.stats(Some(self.place.minor))?;
        let ours = statistics.disks.into_iter().find(|statistics| statistics.disk.minor == self.place.minor);
        ours.ok_or_else(|| Error::new(ErrorKind::NotFound, format!("{}: it is not there any more", self.place)))
    }
}

/// A tapdisk that answers `tap-ctl` and has no native socket is of another make or older.
fn too_old(pid: u32, error: Error) -> Error {
    if is_nobody(&error) {
        let words = format!("tapdisk {pid} speaks only the protocol of tap-ctl; use that");
        return Error::new(ErrorKind::Unsupported, words);
    }
    error
}

/// Something that is done to a disk as a job: found, followed, told.
struct Work {
    signals: Signals,
    run: RunDir,
    place: Place,
}

impl Work {
    fn on(name: &DiskName) -> Result<Work> {
        // Before any thread: looking for the disk starts some.
        let signals = jobs::take_interrupt()?;
        let run = RunDir::from_environment();
        let place = name::find(&run, name)?;
        Ok(Work { signals, run, place })
    }

    fn minor(&self) -> u16 {
        self.place.minor
    }

    fn perform(self, command: Command, json: bool) -> Result<()> {
        let Work { signals, run, place } = self;
        let result = jobs::follow(signals, &run, place.pid, command).map_err(|error| too_old(place.pid, error))?;
        if json { text::print_json(&inner(&result)) } else { text::print(&summary(&result)) }
    }
}

fn unnamed() -> Error {
    Error::new(ErrorKind::Invalid, "neither a disk nor a domain was named")
}

pub(super) fn pause(arguments: &Rest) -> Result<()> {
    let work = Work::on(&arguments.disk)?;
    let deadline_ms = arguments.deadline.map(milliseconds);
    let command = Command::Pause { minor: work.minor(), deadline_ms };
    work.perform(command, arguments.json)
}

pub(super) fn quiesce(arguments: &Quiesce) -> Result<()> {
    let work = Work::on(arguments.disk.as_ref().ok_or_else(unnamed)?)?;
    let deadline_ms = arguments.deadline.map(milliseconds);
    let command = Command::Quiesce { minor: work.minor(), deadline_ms };
    work.perform(command, arguments.json)
}

pub(super) fn resume(arguments: Resume) -> Result<()> {
    let work = Work::on(arguments.disk.as_ref().ok_or_else(unnamed)?)?;
    let image = arguments.image.map(|image| absolute_image(&image)).transpose()?;
    let command = Command::Resume { minor: work.minor(), image };
    work.perform(command, arguments.json)
}

pub(super) fn resize(arguments: &Resize) -> Result<()> {
    let work = Work::on(&arguments.disk)?;
    let command = Command::Grow(Grow { minor: work.minor(), bytes: arguments.size });
    work.perform(command, arguments.json)
}

pub(super) fn close(arguments: &Close) -> Result<()> {
    let work = Work::on(&arguments.disk)?;
    let deadline_ms = arguments.deadline.map(milliseconds);
    let command = Command::Close { minor: work.minor(), force: arguments.force, deadline_ms };
    work.perform(command, false)
}

pub(super) fn budget(arguments: &Budget) -> Result<()> {
    let work = Work::on(&arguments.disk)?;
    let named = arguments.service.as_ref().map(|service| match service.components().count() {
        // A name without a directory is looked for among the services of the host, by the tapdisk.
        1 => Ok(service.clone()),
        _ => std::path::absolute(service).context(service.display()),
    });
    let valve = named.transpose()?.map(|service| service.display().to_string());
    let command = Command::Budget { minor: work.minor(), valve };
    work.perform(command, false)
}

pub(super) fn faults(arguments: Faults) -> Result<()> {
    let work = Work::on(&arguments.disk)?;
    let rules = arguments.rules.unwrap_or_default();
    let command = Command::Faults(native::Faults { minor: work.minor(), rules });
    work.perform(command, false)
}

/// `type:path` as the tapdisk, which is somewhere else, will understand it.
fn absolute_image(image: &str) -> Result<String> {
    let Some((kind, path)) = image.split_once(':') else {
        let words = format!("{image}: an image is given as TYPE:PATH, such as vhd:/images/a.vhd");
        return Err(Error::new(ErrorKind::Invalid, words));
    };
    // Behind some types come further arguments and then the name: only a plain path is ours to complete.
    let is_plain = std::path::Path::new(path).exists();
    if !is_plain {
        return Ok(image.to_owned());
    }
    let path = std::path::absolute(path).context(path)?;
    Ok(format!("{kind}:{}", path.display()))
}

/// What was done, in a line for people.
pub(super) fn summary(result: &ResultOf) -> String {
    let geometry = |geometry: &native::Geometry| {
        let access = if geometry.read_only { ", read-only" } else { "" };
        format!("{}{access}", size::describe(geometry.bytes))
    };
    match result {
        ResultOf::Pause(quiet) => format!("paused: {}, images closed\n", rest(quiet)),
        ResultOf::Quiesce(quiet) => format!("quiesced: {}, images open for others\n", rest(quiet)),
        ResultOf::Open(opened) => format!("open: {}\n", geometry(&opened.geometry)),
        ResultOf::Resume(opened) => format!("running: {}\n", geometry(&opened.geometry)),
        ResultOf::Grow(resized) if resized.before_bytes == resized.geometry.bytes => {
            format!("unchanged: {}\n", geometry(&resized.geometry))
        }
        ResultOf::Grow(resized) => {
            format!("resized: {} -> {}\n", size::describe(resized.before_bytes), geometry(&resized.geometry))
        }
        ResultOf::Close(_) => "closed\n".to_owned(),
        _ => "done\n".to_owned(),
    }
}

fn rest(quiet: &Quiet) -> String {
    let requests = size::count(quiet.requests, "request");
    let [drained, flushed] = [quiet.drained_us, quiet.flushed_us].map(size::describe_microseconds);
    format!("{requests} ended in {drained}, flushed in {flushed}")
}

/// The result without its name.
fn inner(result: &ResultOf) -> serde_json::Value {
    let value = serde_json::to_value(result).expect("a result has text for keys");
    match value {
        serde_json::Value::Object(members) => members.into_iter().next().map(|(_, inner)| inner).unwrap_or_default(),
        other => other,
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use native::{Geometry, Opened, Resized};

    #[test]
    fn what_was_done_is_one_line() {
        let geometry = Geometry { bytes: 96 << 20, ..Geometry::default() };
        let quiet = Quiet { requests: 3, drained_us: 1870, flushed_us: 412 };
        let told = |result| summary(&result);
        assert_eq!(
            told(ResultOf::Pause(quiet)),
            "paused: 3 requests ended in 1.87 ms, flushed in 412 us, images closed\n"
        );
        assert_eq!(told(ResultOf::Resume(Opened { geometry })), "running: 96 MiB\n");
        assert_eq!(told(ResultOf::Grow(Resized { before_bytes: 64 << 20, geometry })), "resized: 64 MiB -> 96 MiB\n");
        assert_eq!(told(ResultOf::Grow(Resized { before_bytes: 96 << 20, geometry })), "unchanged: 96 MiB\n");
    }

    #[test]
    fn json_is_the_result_without_its_name() {
        let quiet = Quiet { requests: 3, drained_us: 1870, flushed_us: 412 };
        let expected = serde_json::json!({ "requests": 3, "drained_us": 1870, "flushed_us": 412 });
        assert_eq!(inner(&ResultOf::Pause(quiet)), expected);
    }

    #[test]
    fn an_image_without_its_type_is_refused() {
        assert!(absolute_image("/a.vhd").unwrap_err().to_string().contains("TYPE:PATH"));
        assert_eq!(absolute_image("vhd:/none/a.vhd").unwrap(), "vhd:/none/a.vhd");
    }
}
