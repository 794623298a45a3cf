//! The latency of a light client: alone, beside another process whose disk saturates storage and a core, and beside the
//! same process when its disk is limited.

use std::{
    path::{Path, PathBuf},
    process::{Child, Command, Stdio},
    sync::{
        Arc,
        atomic::{AtomicBool, Ordering},
    },
    time::Duration,
};

use block_core::{Result, ResultExt};
use clap::Args;
use virtual_disk::{Limits, Rate, RateLimits};

use crate::{
    Effort, disk,
    disk::{Place, make_file, open, pool},
    figures::Report,
    load::{Paced, Pattern, percentile},
};

const BYTES: u64 = 64 << 20;
const BLOCK: u32 = 4096;
const EVERY: Duration = Duration::from_millis(1);
/// What the neighbour is limited to, in requests per second.
const LIMIT: u64 = 2000;
/// Until the neighbour is at it.
const WARM_UP: Duration = Duration::from_millis(300);

/// What the neighbour does.
#[derive(Debug, Args)]
pub(crate) struct Saturate {
    /// A raw image.
    #[arg(long)]
    image: PathBuf,
    /// How long, at most.
    #[arg(long)]
    seconds: f64,
    /// Requests in a second.
    #[arg(long)]
    limit: Option<u64>,
}

/// The neighbour's part.
pub(crate) fn saturate(arguments: &Saturate) -> Result<()> {
    let disk = open(&Place::File { path: arguments.image.clone(), is_direct: true })?;
    let requests = arguments.limit.and_then(Rate::new);
    disk.1.limiter().set(Limits { total: RateLimits { requests, bytes: None }, ..Limits::NONE });
    let pattern = Pattern { bytes: BYTES, block: BLOCK, is_write: false };
    disk::saturate(&disk, pattern, 1, 64, Duration::from_secs_f64(arguments.seconds)).map(drop)
}

pub(crate) fn run(effort: &Effort) -> Result<Report> {
    let [ours, theirs] = ["light.raw", "neighbour.raw"].map(|name| effort.directory.join(name));
    make_file(&ours, BYTES)?;
    make_file(&theirs, BYTES)?;
    let mut report = Report::default();
    for _ in 0..effort.rounds {
        let mut medians = [0.0; 3];
        for (index, (name, neighbour)) in
            [("alone", None), ("beside a neighbour", Some(None)), ("beside a limited neighbour", Some(Some(LIMIT)))]
                .into_iter()
                .enumerate()
        {
            let _neighbour = neighbour.map(|limit| Neighbour::start(&theirs, limit, effort)).transpose()?;
            let mut latencies = light_client(&ours, effort.duration)?;
            report.add(format!("{name}: median"), "us", percentile(&mut latencies, 500));
            medians[index] = percentile(&mut latencies, 990);
            report.add(format!("{name}: p99"), "us", medians[index]);
        }
        report.add("p99, beside a neighbour : alone", "x", medians[1] / medians[0]);
        report.add("p99, beside a limited neighbour : alone", "x", medians[2] / medians[0]);
    }
    report.note(format!("the light client reads 4 KiB each millisecond; the limit is {LIMIT} requests/s"));
    Ok(report)
}

fn light_client(image: &Path, duration: Duration) -> Result<Vec<u64>> {
    let (executor, disk) = open(&Place::File { path: image.to_owned(), is_direct: true })?;
    let stop = Arc::new(AtomicBool::new(false));
    let pattern = Pattern { bytes: BYTES, block: BLOCK, is_write: false };
    let source = Paced::new(pattern, EVERY, &executor, pool(), &stop);
    let latencies = executor.block_on(async {
        let timer = executor.clone();
        let _timer = executor.spawn(async move {
            timer.sleep(duration).await;
            stop.store(true, Ordering::Relaxed);
        });
        let source = disk.queue().serve(source).await;
        disk.close().await.map(|()| source.latencies)
    });
    executor.end_tasks();
    latencies
}

/// Another process that saturates its disk, until this is dropped.
struct Neighbour(Child);

impl Neighbour {
    fn start(image: &Path, limit: Option<u64>, effort: &Effort) -> Result<Neighbour> {
        let program = std::env::current_exe().context("this program")?;
        let mut command = Command::new(program);
        let seconds = (effort.duration + WARM_UP).as_secs_f64() * 2.0 + 10.0;
        command.arg("saturate").arg("--image").arg(image).args(["--seconds", &seconds.to_string()]);
        limit.into_iter().for_each(|limit| _ = command.args(["--limit", &limit.to_string()]));
        let neighbour = Neighbour(command.stdin(Stdio::null()).spawn().context("neighbour")?);
        std::thread::sleep(WARM_UP);
        Ok(neighbour)
    }
}

impl Drop for Neighbour {
    fn drop(&mut self) {
        // It has ended already if this fails.
        let _ = self.0.kill();
        let _ = self.0.wait();
    }
}
