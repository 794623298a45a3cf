//! A guest's ring beside an NBD connection: the same image, the same requests, in turns. The guest is software on a host
//! without Xen; what a hypercall costs is not in it, and its copies are made by the tapdisk itself.

use std::path::Path;

use block_core::{Error, ErrorKind, Result};

use crate::{
    Effort,
    clients::{Load, Workload},
    disk::make_file,
    figures::Report,
    frontends::Frontends,
    grants,
    hosted::{Host, Tapdisk},
    pipeline,
    usage::process_cpu,
};

/// Of the disk.
const BYTES: u64 = 64 << 20;

/// One line of work, on so many queues.
struct Work {
    name: &'static str,
    queues: u64,
    load: Workload,
}

/// How requests reach the disk.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
enum Way {
    /// A ring for each queue; data is copied by the platform.
    Copied,
    /// The same; pages of data stay mapped.
    Persistent,
    /// A connection for each queue.
    Nbd,
}

impl Way {
    const ALL: [Way; 3] = [Way::Copied, Way::Persistent, Way::Nbd];

    fn name(self) -> &'static str {
        match self {
            Way::Copied => "ring, copied",
            Way::Persistent => "ring, persistent",
            Way::Nbd => "NBD",
        }
    }
}

pub(crate) fn run(effort: &Effort) -> Result<Report> {
    let image = effort.directory.join("ring.raw");
    make_file(&image, BYTES)?;
    let host = Host::start(&effort.directory)?;
    let mut report = Report::default();
    for round in 0..effort.rounds {
        for work in works() {
            // Nobody is always the first behind something else.
            let turns = (round..round + Way::ALL.len()).map(|turn| turn % Way::ALL.len());
            let mut all = [Measured::default(); 3];
            for turn in turns {
                all[turn] = measure(effort, &host, &image, &work, Way::ALL[turn])?;
            }
            add(&mut report, &work, all);
        }
        grants::measure(effort, &host, &mut report)?;
    }
    report.note("reads come from the page cache, writes go past it");
    Ok(report)
}

fn add(report: &mut Report, work: &Work, all: [Measured; 3]) {
    for (way, measured) in Way::ALL.into_iter().zip(all) {
        let what = format!("{}, {}", work.name, way.name());
        report.add(&what, "requests/s", measured.requests);
        report.add(format!("{what}: CPU"), "us/request", measured.cpu);
        if way != Way::Nbd {
            report.add(format!("{what}: events"), "1/request", measured.events);
        }
    }
    let [copied, persistent, nbd] = all;
    report.add(format!("{}: persistent : copied by CPU", work.name), "x", copied.cpu / persistent.cpu);
    report.add(format!("{}: ring : NBD", work.name), "x", copied.requests / nbd.requests);
    report.add(format!("{}: ring : NBD by CPU", work.name), "x", nbd.cpu / copied.cpu);
}

fn works() -> Vec<Work> {
    let random = |name, queues, depth, is_write| {
        let load = Workload { start: 0, bytes: BYTES, block: 4096, depth, is_write, is_sequential: false };
        Work { name, queues, load }
    };
    let sequential = |name, is_write| {
        let load = Workload { start: 0, bytes: BYTES, block: 128 << 10, depth: 8, is_write, is_sequential: true };
        Work { name, queues: 1, load }
    };
    vec![
        random("read 4 KiB, QD 1", 1, 1, false),
        random("read 4 KiB, QD 32", 1, 32, false),
        random("read 4 KiB, 2 queues of QD 1", 2, 1, false),
        random("read 4 KiB, 2 queues of QD 32", 2, 32, false),
        random("write 4 KiB, QD 1", 1, 1, true),
        random("write 4 KiB, QD 32", 1, 32, true),
        random("write 4 KiB, 2 queues of QD 1", 2, 1, true),
        random("write 4 KiB, 2 queues of QD 32", 2, 32, true),
        sequential("read 128 KiB, QD 8", false),
        sequential("write 128 KiB, QD 8", true),
    ]
}

#[derive(Clone, Copy, Debug, Default)]
struct Measured {
    requests: f64,
    /// Microseconds of the tapdisk for one request.
    cpu: f64,
    /// From the guest and to it, for one request.
    events: f64,
}

/// Each in a tapdisk of its own: no thread of an earlier one ends while CPU time is counted.
fn measure(effort: &Effort, host: &Host, image: &Path, work: &Work, way: Way) -> Result<Measured> {
    let tapdisk = host.tapdisk(image, !work.load.is_write)?;
    let (measured, failed) = match way {
        Way::Copied | Way::Persistent => {
            let frontends = Frontends::start(&host.guest, work.queues, work.load)?;
            tapdisk.connect(&frontends.queues, way == Way::Persistent)?;
            frontends.load.warm_up();
            let measured = count(effort, &tapdisk, &frontends.load)?;
            let (failed, events) = frontends.end(|| tapdisk.disconnect())?;
            (Measured { events, ..measured }, failed)
        }
        Way::Nbd => {
            let load = pipeline::start(&tapdisk.nbd_socket(), work.queues, work.load)?;
            (count(effort, &tapdisk, &load)?, load.end()?)
        }
    };
    match failed {
        0 => Ok(measured),
        failed => Err(Error::new(ErrorKind::Io, format!("{}: {failed} requests failed", work.name))),
    }
}

fn count(effort: &Effort, tapdisk: &Tapdisk, load: &Load) -> Result<Measured> {
    let before = process_cpu(tapdisk.pid())?;
    let answers = load.count(effort.duration);
    let used = process_cpu(tapdisk.pid())? - before;
    let requests = answers.all / effort.duration.as_secs_f64();
    Ok(Measured { requests, cpu: used.as_secs_f64() * 1e6 / answers.all, events: 0.0 })
}
