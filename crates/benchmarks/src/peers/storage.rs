//! The storage's limit: ours over NBD past the page cache, beside fio on the bare file.

use block_core::Result;

use super::{
    BYTES, KIB, Peers, Work, fio,
    servers::{Format, Server},
    work,
};
use crate::{Effort, figures::Report};

const WORKS: [(Work, &str); 2] = [
    (work("4 KiB random read, depth 32", 4 * KIB, 32, 10), "randread"),
    (work("4 KiB random write, depth 32", 4 * KIB, 32, 0), "randwrite"),
];

pub(crate) fn run(effort: &Effort) -> Result<Report> {
    let mut peers = Peers::new(effort, &effort.directory, BYTES);
    if !super::servers::is_program("fio") {
        peers.report.note("fio is not on this machine: there is nothing to compare with");
    }
    let ours = Server::Oxtap(Format::Raw, "io_uring");
    let image = peers.filled(ours)?;
    for _ in 0..effort.rounds {
        for (work, kind) in &WORKS {
            let measured = peers.measure(ours, &image, work)?;
            peers.report.add(format!("oxtap raw, {}", work.name), "requests/s", measured.requests);
            peers.report.add(format!("oxtap raw, {}: CPU", work.name), "us/request", measured.cpu);
            if super::servers::is_program("fio") {
                let bare = fio::on_file(&image, kind, effort.duration)?;
                peers.report.add(format!("fio on the file, {}", work.name), "requests/s", bare.requests);
                let name = format!("oxtap raw : fio on the file, {}", work.name);
                peers.report.add(&name, "x", measured.requests / bare.requests);
            }
        }
    }
    let mut report = peers.report;
    for (work, _) in &WORKS {
        report.expect(&format!("oxtap raw : fio on the file, {}", work.name), ">= 0.95 x");
    }
    report.note(format!("files in {}, past the page cache", effort.directory.display()));
    Ok(report)
}
