//! One queue against two, each on a thread of its own, with nothing in front of them: what the data path shares.

use block_core::Result;

use crate::{
    Effort,
    disk::{Place, make_file, open, saturate},
    figures::Report,
    load::Pattern,
};

const BLOCK: u32 = 4096;
const DEPTH: u64 = 32;
const BYTES: u64 = 64 << 20;

pub(crate) fn run(effort: &Effort) -> Result<Report> {
    let path = effort.directory.join("queues.raw");
    make_file(&path, BYTES)?;
    let cached = Place::File { path, is_direct: false };
    let variants = [
        ("page cache, read", cached.clone(), false),
        ("page cache, write", cached, true),
        ("memory, read", Place::Memory(BYTES), false),
        ("memory, write", Place::Memory(BYTES), true),
    ];
    let mut report = Report::default();
    for _ in 0..effort.rounds {
        for (name, place, is_write) in &variants {
            let disk = open(place)?;
            let pattern = Pattern { bytes: BYTES, block: BLOCK, is_write: *is_write };
            let [one, two] = [1, 2].map(|queues| saturate(&disk, pattern, queues, DEPTH, effort.duration));
            let (one, two) = (one?, two?);
            disk.0.block_on(disk.1.close())?;
            disk.0.end_tasks();
            report.add(format!("{name}: one queue"), "requests/s", one.requests);
            report.add(format!("{name}: two queues"), "requests/s", two.requests);
            report.add(format!("{name}: two : one"), "x", two.requests / one.requests);
            report.add(format!("{name}: CPU, one queue"), "us/request", one.cpu);
            report.add(format!("{name}: CPU, two queues"), "us/request", two.cpu);
            report.add(format!("{name}: two : one by CPU"), "x", 2.0 * one.cpu / two.cpu);
        }
    }
    for (name, ..) in &variants {
        report.expect(&format!("{name}: two : one"), "at least 1.6 x");
    }
    report.note("by CPU: what two cores would give that nobody else uses: twice the ratio of CPU times of a request");
    Ok(report)
}
