//! What a log daemon costs that does not read: every second request fails, each failure is a line, and no request waits
//! for it.

use std::{
    os::unix::net::UnixDatagram,
    path::Path,
    process::Command,
    sync::{
        Arc,
        atomic::{AtomicBool, Ordering},
    },
    thread::{self, JoinHandle},
    time::Duration,
};

use block_core::{Result, ResultExt};
use control_api::{
    Minor, RUN_DIRECTORY_VARIABLE, RunDir, SYSLOG_VARIABLE,
    native::{self, LogStatistics, OpenImages},
};

use crate::{
    Effort,
    clients::Workload,
    disk::make_file,
    figures::Report,
    load::percentile,
    pipeline,
    processes::{Process, program},
};

const BYTES: u64 = 64 << 20;
/// Long enough for anything here.
const PATIENCE: Duration = Duration::from_secs(60);
const LOOK_EVERY: Duration = Duration::from_millis(10);

/// What a log daemon does.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
enum Daemon {
    Reads,
    /// It is stopped, or busy with something else: its socket is full.
    Sleeps,
    Lacks,
}

/// What the lines of the first variants cost nobody can compare who loses different numbers of them; these come at a pace
/// that every log daemon that reads can keep up with.
const GROUPS_PER_SECOND: u32 = 1000;
const LINES_PER_GROUP: usize = 10;

pub(crate) fn run(effort: &Effort) -> Result<Report> {
    let image = effort.directory.join("logging.raw");
    make_file(&image, BYTES)?;
    let mut report = Report::default();
    let kinds = [(Daemon::Reads, "reads"), (Daemon::Sleeps, "sleeps"), (Daemon::Lacks, "is not there")];
    for round in 0..effort.rounds {
        let (mut paced, mut flooded) = (Vec::new(), Vec::new());
        for (daemon, name) in kinds {
            let scene = Scene::set(effort, &format!("paced-{round}-{daemon:?}"), &image, daemon)?;
            let measured = scene.paced(effort)?;
            report.add(format!("10000 lines/s, log daemon {name}: other requests"), "requests/s", measured.others);
            report.add(format!("10000 lines/s, log daemon {name}: failing, median"), "us", measured.median);
            report.add(format!("10000 lines/s, log daemon {name}: failing, 99 %"), "us", measured.slowest);
            report.add(format!("10000 lines/s, log daemon {name}: missing in the file"), "lines", measured.missing);
            paced.push(measured.others);

            let scene = Scene::set(effort, &format!("flood-{round}-{daemon:?}"), &image, daemon)?;
            let measured = scene.flooded(effort)?;
            report.add(format!("all that fail, log daemon {name}"), "requests/s", measured.requests);
            report.add(format!("all that fail, log daemon {name}: lines"), "lines/s", measured.lines);
            report.add(format!("all that fail, log daemon {name}: missing in the file"), "lines", measured.missing);
            flooded.push(measured.requests);
        }
        for (other, name) in [(1, "sleeps"), (2, "is not there")] {
            report.add(format!("10000 lines/s, log daemon {name} : reads"), "x", paced[other] / paced[0]);
            report.add(format!("all that fail, log daemon {name} : reads"), "x", flooded[other] / flooded[0]);
        }
    }
    report.expect("10000 lines/s, log daemon sleeps : reads", "not less than 1");
    report.note(
        "reads of 4 KiB over NBD from the page cache; those from the first half of the disk fail, each with a line",
    );
    report.note(
        "10000 lines/s: one client gets 10 errors each millisecond, another reads all it can from the second half",
    );
    report.note("all that fail: one client reads all it can at random places");
    report.note("a log daemon that reads takes its share of the machine");
    Ok(report)
}

/// While so many requests fail in a second as somebody likes, not as many as can.
struct Paced {
    /// Of a client that gets no errors, in a second.
    others: f64,
    /// Of a group of failing requests, in microseconds.
    median: f64,
    slowest: f64,
    missing: f64,
}

struct Flooded {
    /// In a second.
    requests: f64,
    lines: f64,
    missing: f64,
}

/// A tapdisk with a disk whose first half cannot be read, and its log daemon.
struct Scene {
    run: RunDir,
    tapdisk: Process,
    minor: Minor,
    _receiver: Option<UnixDatagram>,
    _reader: Option<Reader>,
}

impl Scene {
    fn set(effort: &Effort, name: &str, image: &Path, daemon: Daemon) -> Result<Scene> {
        let directory = effort.directory.join(name);
        std::fs::create_dir(&directory).context(directory.display())?;
        let (run, socket) = (RunDir::at(&directory), directory.join("syslog"));
        let receiver =
            (daemon != Daemon::Lacks).then(|| UnixDatagram::bind(&socket)).transpose().context("log daemon")?;
        let reader = receiver.as_ref().filter(|_| daemon == Daemon::Reads).map(Reader::start).transpose()?;
        let mut command = Command::new(program("tapdisk")?);
        command.arg("-D").env(RUN_DIRECTORY_VARIABLE, &directory).env(SYSLOG_VARIABLE, &socket);
        let tapdisk = Process::start(&mut command)?;
        let minor = open(&run, tapdisk.pid(), image)?;
        Ok(Scene { run, tapdisk, minor, _receiver: receiver, _reader: reader })
    }

    fn paced(self, effort: &Effort) -> Result<Paced> {
        let socket = self.run.nbd_socket(self.tapdisk.pid(), self.minor);
        let half = BYTES / 2;
        let good = Workload { start: half, bytes: half, block: 4096, depth: 32, is_write: false, is_sequential: false };
        let bad = Workload { start: 0, depth: LINES_PER_GROUP, ..good };
        let failing = pipeline::Paced::start(&socket, bad, Duration::from_secs(1) / GROUPS_PER_SECOND)?;
        let others = pipeline::start(&socket, 1, good)?;
        let answers = others.count(effort.duration);
        others.end()?;
        let mut latencies = failing.end()?;
        let log = self.settled((latencies.len() * LINES_PER_GROUP) as u64)?;
        Ok(Paced {
            others: answers.all / effort.duration.as_secs_f64(),
            median: percentile(&mut latencies, 500),
            slowest: percentile(&mut latencies, 990),
            missing: lines_lost(&log),
        })
    }

    fn flooded(self, effort: &Effort) -> Result<Flooded> {
        let socket = self.run.nbd_socket(self.tapdisk.pid(), self.minor);
        let all = Workload { start: 0, bytes: BYTES, block: 4096, depth: 32, is_write: false, is_sequential: false };
        let load = pipeline::start(&socket, 1, all)?;
        let answers = load.count(effort.duration);
        let log = self.settled(load.end()?)?;
        let seconds = effort.duration.as_secs_f64();
        let (requests, lines) = (answers.all / seconds, answers.failed / seconds);
        Ok(Flooded { requests, lines, missing: lines_lost(&log) })
    }

    /// What became of the lines, when all of them are in the file or lost.
    fn settled(&self, failed: u64) -> Result<LogStatistics> {
        let mut client = native::Client::connect(&self.run, self.tapdisk.pid(), Some(PATIENCE))?;
        for _ in 0..PATIENCE.as_millis() / LOOK_EVERY.as_millis() {
            let log = client.stats(None)?.process.log;
            if log.written + log.lost >= failed {
                return Ok(log);
            }
            thread::sleep(LOOK_EVERY);
        }
        Err(block_core::Error::new(block_core::ErrorKind::TimedOut, "the log has not come to rest"))
    }
}

fn lines_lost(log: &LogStatistics) -> f64 {
    u32::try_from(log.lost).unwrap_or(u32::MAX).into()
}

/// A disk whose first half cannot be read.
fn open(run: &RunDir, pid: u32, image: &Path) -> Result<Minor> {
    let minor = run.allocate_minor()?;
    let mut client = native::Client::connect(run, pid, Some(PATIENCE))?;
    client.ask(native::Command::Attach { minor: minor.number() })?;
    let image = format!("fault:read@0+{}=EIO:aio:{}", BYTES / 2, image.display());
    client.ask(native::Command::Open(OpenImages {
        minor: minor.number(),
        image,
        buffered: true,
        ..OpenImages::default()
    }))?;
    Ok(minor)
}

/// A log daemon that throws away what it reads.
struct Reader {
    is_over: Arc<AtomicBool>,
    thread: Option<JoinHandle<()>>,
}

impl Reader {
    fn start(receiver: &UnixDatagram) -> Result<Reader> {
        let receiver = receiver.try_clone().context("log daemon")?;
        receiver.set_read_timeout(Some(LOOK_EVERY)).context("log daemon")?;
        let is_over = Arc::new(AtomicBool::new(false));
        let told = is_over.clone();
        let read = move || {
            let mut line = [0; 4096];
            while !told.load(Ordering::Relaxed) {
                // Nothing may have come for a while.
                let _ = receiver.recv(&mut line);
            }
        };
        Ok(Reader { is_over, thread: Some(thread::spawn(read)) })
    }
}

impl Drop for Reader {
    fn drop(&mut self) {
        self.is_over.store(true, Ordering::Relaxed);
        if let Some(thread) = self.thread.take() {
            let _ = thread.join();
        }
    }
}
