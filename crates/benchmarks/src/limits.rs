//! How exactly limits are kept over ten seconds, by one queue and by two that share them.

use std::time::Duration;

use block_core::Result;
use virtual_disk::{Limits, Rate, RateLimits};

use crate::{
    Effort,
    disk::{Place, open, saturate},
    figures::Report,
    load::Pattern,
};

const BYTES: u64 = 64 << 20;
const DURATION: Duration = Duration::from_secs(10);

struct Case {
    name: &'static str,
    limits: RateLimits,
    block: u32,
    queues: u64,
    /// Requests in a second.
    expected: f64,
}

pub(crate) fn run(effort: &Effort) -> Result<Report> {
    let requests = |per_second| RateLimits { requests: Rate::new(per_second), bytes: None };
    let bytes = |per_second| RateLimits { requests: None, bytes: Rate::new(per_second) };
    let case = |name, limits, block, queues, expected| Case { name, limits, block, queues, expected };
    let cases = [
        case("1000 requests/s of 4 KiB", requests(1000), 4 << 10, 1, 1e3),
        case("20000 requests/s of 4 KiB", requests(20_000), 4 << 10, 1, 2e4),
        case("20000 requests/s of 4 KiB, two queues", requests(20_000), 4 << 10, 2, 2e4),
        case("64 MiB/s of 64 KiB", bytes(64 << 20), 64 << 10, 1, 1024.0),
        case("64 MiB/s of 1 MiB", bytes(64 << 20), 1 << 20, 1, 64.0),
        case("64 MiB/s of 64 KiB, two queues", bytes(64 << 20), 64 << 10, 2, 1024.0),
    ];
    let duration = if effort.is_smoke { effort.duration } else { DURATION };
    let mut report = Report::default();
    for Case { name, limits, block, queues, expected } in cases {
        let disk = open(&Place::Memory(BYTES))?;
        disk.1.limiter().set(Limits { total: limits, ..Limits::NONE });
        let throughput = saturate(&disk, Pattern { bytes: BYTES, block, is_write: false }, queues, 32, duration)?;
        disk.1.limiter().set(Limits::NONE);
        disk.0.block_on(disk.1.close())?;
        disk.0.end_tasks();
        report.add(format!("{name}: deviation"), "%", (throughput.requests / expected - 1.0) * 100.0);
    }
    report.note("measured once for each; what came in the first 50 ms, the burst, does not count");
    Ok(report)
}
