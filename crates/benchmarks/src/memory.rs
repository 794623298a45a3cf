//! Memory of what does nothing: a tapdisk, and each disk that is open in it.

use std::time::Duration;

use block_core::{Result, ResultExt};
use control_api::{Client, OpenRequest, RunDir, spawn};

use crate::{Effort, disk::make_file, figures::Report, processes, usage::memory};

const DISKS: u16 = 20;
const BYTES: u64 = 1 << 20;
/// Long enough for anything here.
const PATIENCE: Duration = Duration::from_secs(60);

pub(crate) fn run(effort: &Effort) -> Result<Report> {
    let mut report = Report::default();
    for round in 0..effort.rounds {
        measure(effort, round, &mut report)?;
    }
    report.note(format!("the part of a disk is what {DISKS} add to a tapdisk, divided by their number"));
    Ok(report)
}

fn measure(effort: &Effort, round: usize, report: &mut Report) -> Result<()> {
    let directory = effort.directory.join(format!("run{round}"));
    std::fs::create_dir(&directory).context(directory.display())?;
    let run = RunDir::at(&directory);
    let mut spawned = spawn(&run)?;
    let ended = processes::EndedWhenDropped(spawned.pid);
    // It has put the tapdisk into the background.
    let _ = spawned.child.wait();
    let empty = memory(spawned.pid)?;
    let client = Client::new(&run, spawned.pid).timeout(PATIENCE);
    for number in 0..DISKS {
        let image = effort.directory.join(format!("idle{number}.raw"));
        make_file(&image, BYTES)?;
        let minor = run.allocate_minor()?;
        client.attach(minor)?;
        client.open(minor, &OpenRequest::new(format!("aio:{}", image.display()))?)?;
    }
    let full = memory(spawned.pid)?;
    let part = |empty: f64, full: f64| (full - empty) / f64::from(DISKS);
    report.add("tapdisk without a disk: resident", "KiB", empty.resident);
    report.add("tapdisk without a disk: own", "KiB", empty.own);
    report.add("each open disk: resident", "KiB", part(empty.resident, full.resident));
    report.add("each open disk: own", "KiB", part(empty.own, full.own));
    drop(ended);
    Ok(())
}
