//! Chains of 1, 2, 10 and 30 images with the same data in sum, spread over all levels: every block of 2 MiB is partly in
//! each of them.

use std::path::PathBuf;

use block_core::Result;

use super::{
    KIB, Peers, Work, fast_directory,
    servers::{Format, Server, create, snapshot},
    work,
};
use crate::{Effort, clients::Workload, figures::Report, pipeline, plot};

const LENGTHS: [u32; 4] = [1, 2, 10, 30];
const BYTES: u64 = 64 << 20;
/// What one level has in one piece.
const PIECE: u32 = 64 * KIB;
const WORKS: [Work; 2] = [
    work("4 KiB random read", 4 * KIB, 32, 10),
    Work { is_sequential: true, ..work("128 KiB sequential read", 128 * KIB, 8, 10) },
];

pub(crate) fn run(effort: &Effort) -> Result<Report> {
    let place = fast_directory(effort)?;
    let mut peers = Peers::new(effort, place.path(), BYTES);
    let leaves = LENGTHS.iter().map(|length| make(&peers, *length)).collect::<Result<Vec<_>>>()?;
    for _ in 0..effort.rounds {
        for work in &WORKS {
            let mut first = None;
            for (length, leaf) in LENGTHS.iter().zip(&leaves) {
                let measured = peers.measure(OURS, leaf, work)?;
                let name = format!("{}, chain of {length}", work.name);
                peers.report.add(&name, "requests/s", measured.requests);
                peers.report.add(format!("{name}: CPU"), "us/request", measured.cpu);
                let first = first.get_or_insert(measured);
                if *length > 1 {
                    let name = format!("{}, chain of {length} : 1", work.name);
                    peers.report.add(&name, "x", measured.requests / first.requests);
                    peers.report.add(format!("{name}: CPU"), "x", measured.cpu / first.cpu);
                }
            }
        }
    }
    let mut report = peers.report;
    for work in &WORKS {
        report.expect(&format!("{}, chain of 30 : 1", work.name), ">= 0.95 x");
        report.expect(&format!("{}, chain of 30 : 1: CPU", work.name), "<= 1.1 x");
    }
    for (what, suffix, unit) in [("throughput", "", "requests/s"), ("cpu", ": CPU", "us/request")] {
        let lines = WORKS.iter().map(|work| {
            let points = LENGTHS.iter().filter_map(|length| {
                let median = report.median(&format!("{}, chain of {length}{suffix}", work.name))?;
                Some((f64::from(*length), median))
            });
            plot::Line { name: work.name.to_owned(), points: points.collect() }
        });
        let svg = plot::lines(&format!("VHD chains, {unit}"), ("images", unit), &lines.collect::<Vec<_>>());
        report.draw(format!("chain-{what}"), svg);
    }
    report.note("every block of 2 MiB has pieces of 64 KiB in all levels of its chain");
    Ok(report)
}

const OURS: Server = Server::Oxtap(Format::Vhd, "io_uring");

/// A chain; level n has each piece whose number is n modulo its length.
fn make(peers: &Peers<'_>, length: u32) -> Result<PathBuf> {
    let bytes = peers.bytes;
    let mut leaf = create(&peers.directory, &format!("chain-{length}-0"), Format::Vhd, bytes)?;
    for level in 0..length {
        if level > 0 {
            let child = peers.directory.join(format!("chain-{length}-{level}.vhd"));
            snapshot(&leaf, &child)?;
            leaf = child;
        }
        let socket = peers.directory.join("chain.sock");
        let _server = OURS.start(&leaf, bytes, &socket)?;
        let workload = Workload { start: 0, bytes, block: PIECE, depth: 8, is_write: true, is_sequential: true };
        pipeline::write_every(&socket, workload, u64::from(length), u64::from(level))?;
    }
    Ok(leaf)
}
