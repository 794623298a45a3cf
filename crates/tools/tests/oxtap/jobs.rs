//! What takes time: followed, left, found again, turned back.

use std::{
    io::{BufRead, BufReader},
    process::{Child, ChildStderr, Stdio},
    thread,
    time::{Duration, Instant},
};

use rustix::process::Signal;
use test_support::{ProcessGuard, RunDirectory, require_tool};

use crate::tapdisk::{Tapdisk, json, oxtap, refused};

/// A hang limit.
const LIMIT: Duration = Duration::from_secs(60);

/// A disk with one write that hangs until the rules change.
struct Hung<'a> {
    place: &'a RunDirectory,
    disk: Tapdisk<'a>,
    writing: Child,
}

impl<'a> Hung<'a> {
    fn new(place: &'a RunDirectory) -> Hung<'a> {
        let disk = Tapdisk::with_faults(place, "a.vhd");
        let writing = {
            oxtap(place, &["faults", &disk.name(), "write=hang"]);
            disk.qemu_io(&["write 0 4k"]).stdout(Stdio::null()).spawn().unwrap()
        };
        let hung = Hung { place, disk, writing };
        hung.wait_until("the write hangs", |hung| json(hung.place, &["ls"])[0]["in_flight"] == 1);
        hung
    }

    fn wait_until(&self, what: &str, condition: impl Fn(&Self) -> bool) {
        let begun = Instant::now();
        while !condition(self) {
            assert!(begun.elapsed() < LIMIT, "not so: {what}");
            thread::sleep(Duration::from_millis(10));
        }
    }

    /// The job that runs, as people name it.
    fn job(&self) -> String {
        let jobs = json(self.place, &["jobs"]);
        let job = jobs.as_array().unwrap().iter().find(|job| job["state"] == "running").unwrap().clone();
        format!("{}:{}", job["pid"], job["job"])
    }

    fn state(&self) -> String {
        json(self.place, &["ls"])[0]["state"].as_str().unwrap().to_owned()
    }

    /// Lets the write go on; it must have been done.
    fn heal(mut self) {
        oxtap(self.place, &["faults", &self.disk.name(), "--none"]);
        self.wait_until("the disk runs or rests", |hung| ["running", "paused"].contains(&hung.state().as_str()));
        if self.state() == "paused" {
            oxtap(self.place, &["resume", &self.disk.name()]);
        }
        assert!(self.writing.wait().unwrap().success(), "the write was answered with an error");
        self.disk.destroy();
        self.place.assert_nothing_left();
    }
}

/// `oxtap pause` that has begun to wait, and what it says.
struct Pausing {
    child: Child,
    said: BufReader<ChildStderr>,
}

impl Pausing {
    fn start(place: &RunDirectory, disk: &str) -> Pausing {
        let mut command = place.program("oxtap");
        command.args(["pause", disk]).stdout(Stdio::null()).stderr(Stdio::piped());
        let mut child = command.spawn().unwrap();
        let said = BufReader::new(child.stderr.take().unwrap());
        let mut pausing = Pausing { child, said };
        let line = pausing.line();
        assert_eq!(line, "pause of minor 0: waiting for requests to end, 1 request in flight");
        pausing
    }

    fn line(&mut self) -> String {
        let mut line = String::new();
        self.said.read_line(&mut line).unwrap();
        line.trim_end().to_owned()
    }

    fn end(mut self) -> Option<i32> {
        self.child.wait().unwrap().code()
    }
}

#[test]
fn ctrl_c_leaves_the_job_alone_and_says_how_to_find_it() {
    let place = RunDirectory::new();
    let hung = Hung::new(&place);
    let mut pausing = Pausing::start(&place, "0");
    let job = hung.job();
    let guard = ProcessGuard::new(pausing.child.id()).unwrap();
    guard.signal(Signal::INT).unwrap();
    assert_eq!(pausing.line(), "", "on a line of its own, behind the ^C");
    let expected = format!(
        "oxtap: left job {job} alone, it goes on: oxtap watch {job} follows it, oxtap cancel {job} turns it back"
    );
    assert_eq!(pausing.line(), expected);
    assert_eq!(pausing.end(), Some(130));
    assert_eq!((hung.state().as_str(), hung.job()), ("pausing", job.clone()), "the job goes on");
    oxtap(&place, &["faults", "0", "--none"]);
    let said = oxtap(&place, &["watch", &job]);
    assert!(said.starts_with("paused: "), "{said}");
    hung.heal();
}

#[test]
fn a_job_is_turned_back_by_somebody_else() {
    let place = RunDirectory::new();
    let hung = Hung::new(&place);
    let mut pausing = Pausing::start(&place, "0");
    let number = hung.job().rsplit(':').next().unwrap().to_owned();
    assert_eq!(oxtap(&place, &["cancel", &number]), "turning back\n");
    let line = pausing.line();
    assert!(line.starts_with("oxtap: turned back"), "{line}");
    assert_eq!(pausing.end(), Some(125), "ECANCELED");
    hung.wait_until("the disk runs again", |hung| hung.state() == "running");
    let (status, said) = refused(&place, &["cancel", &number]);
    assert_eq!(status, 16, "it has ended: {said}");
    hung.heal();
}

#[test]
fn a_deadline_says_what_did_not_end() {
    let place = RunDirectory::new();
    let hung = Hung::new(&place);
    let (status, said) = refused(&place, &["pause", "0", "--deadline", "0.2"]);
    assert_eq!(status, 110, "ETIMEDOUT");
    assert!(said.contains("1 request in flight: write 0x0+0x1000"), "{said}");
    assert_eq!(hung.state(), "running");
    hung.heal();
}

#[test]
fn a_terminal_shows_one_line_that_changes_and_goes() {
    let place = RunDirectory::new();
    let hung = Hung::new(&place);
    let line = format!("{} pause 0 --deadline 1.5", test_support::target_program("oxtap").display());
    let mut script = place.command(require_tool("script"));
    script.args(["-q", "-e", "-c", &line, "/dev/null"]).env("TERM", "xterm").stdin(Stdio::null());
    let output = script.output().unwrap();
    assert_eq!(output.status.code(), Some(110));
    let shown = String::from_utf8_lossy(&output.stdout);
    let at = shown.find("pause of minor 0: waiting for requests to end, 1 request in flight (").expect("the line");
    let cleared = shown[at..].find("\u{1b}[2K").expect("it is cleared");
    assert!(shown[at + cleared..].contains("oxtap: 1 request in flight: write "), "{shown:?}");
    hung.heal();
}

#[test]
fn a_dump_names_the_operation_that_hangs() {
    let place = RunDirectory::new();
    let hung = Hung::new(&place);
    let dump = oxtap(&place, &["dump", "0", "--turns", "2"]);
    let operation = dump.lines().find(|line| line.starts_with("  under way for ")).expect("an operation");
    assert!(operation.contains("a.vhd: writing"), "{dump}");
    let stats = oxtap(&place, &["stats", "0"]);
    assert!(stats.contains("write    0x0+0x1000 ") && stats.contains("being carried out"), "{stats}");
    hung.heal();
}

#[test]
fn unknown_jobs_are_refused() {
    let place = RunDirectory::new();
    assert_eq!(oxtap(&place, &["jobs"]), "no jobs\n");
    let expected = (2, "oxtap: 7: no such job (oxtap jobs shows all)\n".to_owned());
    assert_eq!(refused(&place, &["watch", "7"]), expected);
}
