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

/// Chains of so many images, of which each has pieces of so many bytes.
const CHAINS: [(u32, u32); 5] = [(1, COARSE), (2, COARSE), (10, COARSE), (30, COARSE), (30, FINE)];
const COARSE: u32 = 64 * KIB;
const FINE: u32 = 4 * KIB;
const BYTES: u64 = 32 << 20;
const WORKS: [Work; 2] = [
    work("4 KiB random read", 4 * KIB, 32, 10),
    Work { is_sequential: true, ..work("128 KiB sequential read", 128 * KIB, 8, 10) },
];

pub(crate) fn run(effort: &Effort) -> Result<Report> {
    let place = fast_directory(effort)?;
    let mut peers = Peers::new(effort, place.path(), BYTES);
    let leaves = CHAINS.iter().map(|chain| make(&peers, *chain)).collect::<Result<Vec<_>>>()?;
    for _ in 0..effort.rounds {
        for work in &WORKS {
            let mut first = None;
            for (chain, leaf) in CHAINS.iter().zip(&leaves) {
                let measured = peers.measure_warm(OURS, leaf, work)?;
                let name = format!("{}, {}", work.name, words(*chain));
                peers.report.add(&name, "requests/s", measured.requests);
                peers.report.add(format!("{name}: CPU"), "us/request", measured.cpu);
                let first = first.get_or_insert(measured);
                if chain.0 > 1 {
                    peers.report.add(format!("{name} : 1"), "x", measured.requests / first.requests);
                    peers.report.add(format!("{name} : 1: CPU"), "x", measured.cpu / first.cpu);
                }
            }
        }
    }
    let mut report = peers.report;
    for name in
        WORKS.iter().flat_map(|work| [COARSE, FINE].map(|piece| format!("{}, {}", work.name, words((30, piece)))))
    {
        report.expect(&format!("{name} : 1"), ">= 0.95 x");
        report.expect(&format!("{name} : 1: CPU"), "<= 1.1 x");
    }
    for (what, suffix, unit) in [("throughput", "", "requests/s"), ("cpu", ": CPU", "us/request")] {
        let lines = WORKS.iter().map(|work| {
            let points = CHAINS.iter().filter(|(_, piece)| *piece == COARSE).filter_map(|chain| {
                let median = report.median(&format!("{}, {}{suffix}", work.name, words(*chain)))?;
                Some((f64::from(chain.0), median))
            });
            plot::Line { name: work.name.to_owned(), points: points.collect() }
        });
        let svg = plot::lines(&format!("VHD chains, {unit}"), ("images", unit), &lines.collect::<Vec<_>>());
        report.draw(format!("chain-{what}"), svg);
    }
    report.note(
        "every block of 2 MiB has pieces in all levels of its chain, of 64 KiB or 4 KiB; all was read once before",
    );
    Ok(report)
}

fn words((length, piece): (u32, u32)) -> String {
    let fine = if piece == FINE { " in pieces of 4 KiB" } else { "" };
    format!("chain of {length}{fine}")
}

const OURS: Server = Server::Oxtap(Format::Vhd, "io_uring");

/// A chain; level n has each piece whose number is n modulo its length.
fn make(peers: &Peers<'_>, (length, piece): (u32, u32)) -> Result<PathBuf> {
    let bytes = peers.bytes;
    let name = |level: u32| format!("chain-{length}-{piece}-{level}");
    let mut leaf = create(&peers.directory, &name(0), Format::Vhd, bytes)?;
    for level in 0..length {
        if level > 0 {
            let child = peers.directory.join(format!("{}.vhd", name(level)));
            snapshot(&leaf, &child)?;
            leaf = child;
        }
        let socket = peers.directory.join("chain.sock");
        let _server = OURS.start(&leaf, bytes, &socket)?;
        let workload = Workload { start: 0, bytes, block: piece, depth: 8, is_write: true, is_sequential: true };
        pipeline::each_once(&socket, workload, u64::from(length), u64::from(level))?;
    }
    Ok(leaf)
}
