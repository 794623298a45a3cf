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

pub(crate) fn run(effort: &Effort) -> Result<Report> {
    let image = effort.directory.join("logging.raw");
    make_file(&image, BYTES)?;
    let mut report = Report::default();
    for round in 0..effort.rounds {
        let mut rates = Vec::new();
        let kinds = [(Daemon::Reads, "reads"), (Daemon::Sleeps, "sleeps"), (Daemon::Lacks, "lacks")];
        for (daemon, name) in kinds {
            let measured = measure(effort, &format!("{round}{name}"), &image, daemon)?;
            report.add(format!("log daemon {name}"), "requests/s", measured.requests);
            report.add(format!("log daemon {name}: lines"), "lines/s", measured.lines);
            report.add(format!("log daemon {name}: missing in the file"), "lines", measured.missing);
            rates.push(measured.requests);
        }
        report.add("log daemon sleeps : reads", "x", rates[1] / rates[0]);
        report.add("log daemon lacks : reads", "x", rates[2] / rates[0]);
    }
    report.expect("log daemon sleeps : reads", "not less than 1");
    report.note("reads of 4 KiB by one connection from the page cache; those from the first half of the disk fail");
    report.note("a log daemon that reads takes its share of the machine");
    Ok(report)
}

struct Measured {
    /// In a second.
    requests: f64,
    lines: f64,
    missing: f64,
}

fn measure(effort: &Effort, name: &str, image: &Path, daemon: Daemon) -> Result<Measured> {
    let directory = effort.directory.join(name);
    std::fs::create_dir(&directory).context(directory.display())?;
    let (run, socket) = (RunDir::at(&directory), directory.join("syslog"));
    let receiver = (daemon != Daemon::Lacks).then(|| UnixDatagram::bind(&socket)).transpose().context("log daemon")?;
    let reader = receiver.as_ref().filter(|_| daemon == Daemon::Reads).map(Reader::start).transpose()?;
    let mut command = Command::new(program("tapdisk")?);
    command.arg("-D").env(RUN_DIRECTORY_VARIABLE, &directory).env(SYSLOG_VARIABLE, &socket);
    let tapdisk = Process::start(&mut command)?;
    let minor = open(&run, tapdisk.pid(), image)?;

    let workload = Workload { bytes: BYTES, block: 4096, depth: 32, is_write: false, is_sequential: false };
    let load = pipeline::start(&run.nbd_socket(tapdisk.pid(), minor), 1, workload)?;
    let answers = load.count(effort.duration);
    let log = settled(&run, tapdisk.pid(), load.end()?)?;
    drop((tapdisk, reader));
    let seconds = effort.duration.as_secs_f64();
    let missing = u32::try_from(log.lost).unwrap_or(u32::MAX);
    Ok(Measured { requests: answers.all / seconds, lines: answers.failed / seconds, missing: missing.into() })
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

/// What became of the lines, when all of them are in the file or lost.
fn settled(run: &RunDir, pid: u32, failed: u64) -> Result<LogStatistics> {
    let mut client = native::Client::connect(run, pid, Some(PATIENCE))?;
    for _ in 0..PATIENCE.as_millis() / LOOK_EVERY.as_millis() {
        let log = client.stats(None)?.process.log;
        if log.written + log.lost >= failed {
            return Ok(log);
        }
        thread::sleep(LOOK_EVERY);
    }
    Err(block_core::Error::new(block_core::ErrorKind::TimedOut, "the log has not come to rest"))
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
