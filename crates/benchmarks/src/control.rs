//! What a host pays for having disks: until the first byte, beside a pause, for many of them, and for the tools that
//! storage managers start all day long.
//!
//! ```text
//!   spawn --> attach --> open --> connect --> first byte       a tapdisk for each disk, and all at once
//!   a client that asks every millisecond ---| pause, resume |--- the longest that it waited is the gap
//! ```

use std::{
    path::{Path, PathBuf},
    process::{Command, Stdio},
    thread,
    time::{Duration, Instant},
};

use block_core::{Result, ResultExt};
use control_api::{Client, Minor, OpenRequest, RunDir, spawn};
use wire::control::OpenFlags;

use crate::{
    Effort,
    clients::Workload,
    figures::Report,
    pipeline::{self, Paced},
    processes::{EndedWhenDropped, program},
    usage::memory,
};

/// In one tapdisk, for those who list them.
const LISTED: usize = 1000;
/// Each with a tapdisk of its own, all at once.
const AT_ONCE: usize = 200;
/// A disk with as many blocks as a host is likely to see.
const LARGE_MIB: &str = "1048576";
const SMALL_MIB: &str = "16";
const BLOCK: u32 = 4096;
/// How often a tool is started for one sample.
const STARTS: u32 = 10;
/// Long enough for anything here.
const PATIENCE: Duration = Duration::from_secs(120);

pub(crate) fn run(effort: &Effort) -> Result<Report> {
    let bench = Bench { effort, disks: make_disks(effort)? };
    let mut report = Report::default();
    for round in 0..effort.rounds {
        bench.one_disk(round, &mut report)?;
        bench.tools(&mut report)?;
    }
    bench.many(&mut report)?;
    report.expect("pause to resume, as a client sees it", "as short as opening takes");
    report.expect("tapdisk with a VHD of 1 TiB: resident", "<= 8 MiB and its tables, 2 MiB");
    Ok(report)
}

struct Bench<'a> {
    effort: &'a Effort,
    disks: Disks,
}

/// The images.
struct Disks {
    small: PathBuf,
    large: PathBuf,
}

fn make_disks(effort: &Effort) -> Result<Disks> {
    let make = |name: &str, mib: &str| {
        let path = effort.directory.join(name);
        let mut create = Command::new(program("vhd-util")?);
        // A disk of this size needs no room until it is written.
        let status = create.arg("create").arg("-n").arg(&path).args(["-s", mib]).status().context("vhd-util")?;
        assert!(status.success(), "vhd-util makes an image");
        Ok::<_, block_core::Error>(path)
    };
    Ok(Disks { small: make("small.vhd", SMALL_MIB)?, large: make("large.vhd", LARGE_MIB)? })
}

/// A tapdisk of its own, and how to talk to it.
struct Tapdisk {
    run: RunDir,
    pid: u32,
    client: Client,
    _ended: EndedWhenDropped,
}

impl Tapdisk {
    fn start(run: &RunDir) -> Result<Tapdisk> {
        let mut spawned = spawn(run)?;
        let ended = EndedWhenDropped(spawned.pid);
        // It has put the tapdisk into the background.
        let _ = spawned.child.wait();
        let client = Client::new(run, spawned.pid).timeout(PATIENCE);
        Ok(Tapdisk { run: run.clone(), pid: spawned.pid, client, _ended: ended })
    }

    /// Opens a disk, which several may read.
    fn open(&self, image: &Path) -> Result<(Minor, OpenRequest)> {
        let minor = self.run.allocate_minor()?;
        self.client.attach(minor)?;
        let mut open = OpenRequest::new(format!("vhd:{}", image.display()))?;
        open.parameters.flags = OpenFlags::READ_ONLY;
        self.client.open(minor, &open)?;
        Ok((minor, open))
    }

    fn socket(&self, minor: Minor) -> PathBuf {
        self.run.nbd_socket(self.pid, minor)
    }
}

fn workload(bytes: u64) -> Workload {
    Workload { start: 0, bytes, block: BLOCK, depth: 1, is_write: false, is_sequential: true }
}

impl Bench<'_> {
    fn run_directory(&self, name: &str) -> Result<RunDir> {
        let directory = self.effort.directory.join(name);
        std::fs::create_dir(&directory).context(directory.display())?;
        Ok(RunDir::at(&directory))
    }

    fn one_disk(&self, round: usize, report: &mut Report) -> Result<()> {
        let run = self.run_directory(&format!("one{round}"))?;
        let began = Instant::now();
        let tapdisk = Tapdisk::start(&run)?;
        let (minor, open) = tapdisk.open(&self.disks.small)?;
        pipeline::read_all(&tapdisk.socket(minor), workload(u64::from(BLOCK)))?;
        report.add("spawn to first byte", "ms", milliseconds(began.elapsed()));

        let paced = Paced::start(&tapdisk.socket(minor), workload(1 << 20), Duration::from_millis(1))?;
        thread::sleep(Duration::from_millis(50));
        let began = Instant::now();
        tapdisk.client.pause(minor)?;
        tapdisk.client.resume(minor, &open)?;
        let took = began.elapsed();
        thread::sleep(Duration::from_millis(50));
        let longest = paced.end()?.into_iter().max().unwrap_or_default();
        report.add("pause and resume", "ms", milliseconds(took));
        report.add("pause to resume, as a client sees it", "ms", milliseconds(Duration::from_nanos(longest)));

        let large = Tapdisk::start(&run)?;
        let before = memory(large.pid)?;
        let (minor, _) = large.open(&self.disks.large)?;
        pipeline::read_all(&large.socket(minor), workload(1 << 20))?;
        let after = memory(large.pid)?;
        report.add("tapdisk with a VHD of 1 TiB: resident", "MiB", after.resident / 1024.0);
        report.add("tapdisk with a VHD of 1 TiB: own", "MiB", after.own / 1024.0);
        report.add("what the VHD of 1 TiB adds: own", "MiB", (after.own - before.own) / 1024.0);
        Ok(())
    }

    /// Tools that do next to nothing: what they take is to be started.
    fn tools(&self, report: &mut Report) -> Result<()> {
        let image = self.disks.small.display().to_string();
        let lines: [(&str, &[&str]); 3] = [
            ("vhd-util", &["query", "-n", &image, "-v"]),
            ("tap-ctl", &["list", "-p", "1"]),
            ("td-util", &["query", "vhd", "-v", &image]),
        ];
        for (name, arguments) in lines {
            let program = program(name)?;
            let began = Instant::now();
            for _ in 0..STARTS {
                let mut command = Command::new(&program);
                command.args(arguments).stdout(Stdio::null()).stderr(Stdio::null());
                command.status().context(name)?;
            }
            report.add(format!("{name}: start to end"), "ms", milliseconds(began.elapsed() / STARTS));
        }
        Ok(())
    }

    /// Once is enough: they are many.
    fn many(&self, report: &mut Report) -> Result<()> {
        let share = if self.effort.is_smoke { 50 } else { 1 };
        let run = self.run_directory("listed")?;
        let tapdisk = Tapdisk::start(&run)?;
        let count = LISTED / share;
        let began = Instant::now();
        for _ in 0..count {
            tapdisk.open(&self.disks.small)?;
        }
        report.add("opening a disk beside many", "ms", milliseconds(began.elapsed()) / part(count));
        let began = Instant::now();
        let listed = tapdisk.client.list()?.len();
        assert!(listed >= count, "all disks are listed");
        report.add("listing 1,000 disks of a tapdisk", "ms", milliseconds(began.elapsed()));
        drop(tapdisk);

        let run = self.run_directory("at-once")?;
        let count = AT_ONCE / share;
        let began = Instant::now();
        let tapdisks = (0..count).map(|_| Tapdisk::start(&run)).collect::<Result<Vec<_>>>()?;
        let minors = tapdisks.iter().map(|tapdisk| tapdisk.open(&self.disks.small).map(|(minor, _)| minor));
        let minors = minors.collect::<Result<Vec<_>>>()?;
        for (tapdisk, minor) in tapdisks.iter().zip(minors) {
            pipeline::read_all(&tapdisk.socket(minor), workload(u64::from(BLOCK)))?;
        }
        report.add(
            "200 disks, each in a tapdisk of its own: to the last first byte",
            "ms",
            milliseconds(began.elapsed()),
        );
        let own = tapdisks.iter().map(|tapdisk| memory(tapdisk.pid).map(|memory| memory.own)).sum::<Result<f64>>()?;
        report.add("each of the 200: own", "MiB", own / part(count) / 1024.0);
        Ok(())
    }
}

fn milliseconds(duration: Duration) -> f64 {
    duration.as_secs_f64() * 1e3
}

/// As a divisor.
fn part(count: usize) -> f64 {
    f64::from(u32::try_from(count).expect("a thousand at most"))
}
