//! CPU time that the server needs for a request over NBD, with one connection and with two. (The client needs more than
//! the server: on two cores it would only measure itself to count requests per second.)

use std::{path::Path, process::Command};

use block_core::Result;

use crate::{
    Effort,
    clients::Workload,
    disk::make_file,
    figures::Report,
    pipeline,
    processes::{Process, program},
    usage::process_cpu,
};

/// Of the disk.
const BYTES: u64 = 64 << 20;
const BLOCK: u32 = 4096;
const DEPTH: usize = 32;

pub(crate) fn run(effort: &Effort) -> Result<Report> {
    let image = effort.directory.join("nbd.raw");
    make_file(&image, BYTES)?;
    let mut report = Report::default();
    for _ in 0..effort.rounds {
        for (kind, is_write) in [("read", false), ("write", true)] {
            let mut costs = [0.0; 2];
            for (connections, cost) in (1..).zip(&mut costs) {
                let measured = measure(effort, &image, connections, is_write)?;
                *cost = measured.cpu;
                let plural = if connections == 1 { "" } else { "s" };
                report.add(format!("{kind}, {connections} connection{plural}: CPU"), "us/request", measured.cpu);
                report.add(format!("{kind}, {connections} connection{plural}"), "requests/s", measured.requests);
            }
            report.add(format!("{kind}: CPU, 2 : 1 connections"), "x", costs[1] / costs[0]);
        }
    }
    report
        .note(format!("{BLOCK} bytes at random places of a raw file past the page cache, {DEPTH} requests under way"));
    Ok(report)
}

struct Measured {
    requests: f64,
    /// Microseconds of the server for one request.
    cpu: f64,
}

fn measure(effort: &Effort, image: &Path, connections: u64, is_write: bool) -> Result<Measured> {
    let socket = effort.directory.join("nbd.sock");
    let mut command = Command::new(program("oxtap")?);
    let server = Process::start(command.arg("serve").arg("--socket").arg(&socket).arg(image))?;
    let workload = Workload { start: 0, bytes: BYTES, block: BLOCK, depth: DEPTH, is_write, is_sequential: false };
    let load = pipeline::start(&socket, connections, workload)?;
    let before = process_cpu(server.pid())?;
    let answers = load.count(effort.duration);
    let used = process_cpu(server.pid())? - before;
    load.end()?;
    let requests = answers.all / effort.duration.as_secs_f64();
    Ok(Measured { requests, cpu: used.as_secs_f64() * 1e6 / answers.all })
}
