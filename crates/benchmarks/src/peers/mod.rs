//! oxtap beside what a user would pick instead: the same work, the same client, in turns.
//!
//! ```text
//!   each round: each work: each server --start--> client for a while --> requests/s, CPU time of the server
//!                                                       |
//!                     ratios of neighbours in time <----+
//! ```
//!
//! Files are in memory (`/dev/shm`) if that is there, so that the servers are measured and not the storage. What survives a
//! noisy machine is the CPU time of the server for a request, user and system.

mod chains;
mod fio;
mod servers;
mod storage;

use std::path::{Path, PathBuf};

use block_core::{Result, ResultExt};

use crate::{
    Effort,
    clients::Workload,
    figures::Report,
    pipeline, plot,
    processes::Process,
    usage::{process_cpu, process_cpu_with_the_ended},
};

pub(crate) use chains::run as run_chains;
pub(crate) use storage::run as run_storage;

use servers::{Format, SERVERS, Server, create};

/// Of the disk.
const BYTES: u64 = 256 << 20;
const SMOKE_BYTES: u64 = 16 << 20;
const KIB: u32 = 1 << 10;

/// What is done.
#[derive(Clone, Copy, Debug)]
struct Work {
    name: &'static str,
    block: u32,
    /// Of each connection.
    depth: usize,
    /// Each has a queue of its own.
    connections: u64,
    /// Of ten requests.
    reads: u64,
    is_sequential: bool,
    /// To an image that has nothing yet.
    is_fresh: bool,
}

const fn work(name: &'static str, block: u32, depth: usize, reads: u64) -> Work {
    Work { name, block, depth, connections: 1, reads, is_sequential: false, is_fresh: false }
}

impl Work {
    /// To see that everything works, one depth is enough.
    fn is_one_of_its_kind(&self) -> bool {
        self.depth == 32 || self.is_sequential
    }
}

const WORKS: &[Work] = &[
    work("4 KiB random read, depth 1", 4 * KIB, 1, 10),
    work("4 KiB random read, depth 8", 4 * KIB, 8, 10),
    work("4 KiB random read, depth 32", 4 * KIB, 32, 10),
    work("4 KiB random read, depth 128", 4 * KIB, 128, 10),
    work("4 KiB random write, depth 1", 4 * KIB, 1, 0),
    work("4 KiB random write, depth 8", 4 * KIB, 8, 0),
    work("4 KiB random write, depth 32", 4 * KIB, 32, 0),
    work("4 KiB random write, depth 128", 4 * KIB, 128, 0),
    work("4 KiB mixed 70:30, depth 32", 4 * KIB, 32, 7),
    Work { connections: 2, ..work("4 KiB random read, 2 queues of depth 32", 4 * KIB, 32, 10) },
    Work { connections: 2, ..work("4 KiB random write, 2 queues of depth 32", 4 * KIB, 32, 0) },
    Work { is_sequential: true, ..work("128 KiB sequential read, depth 8", 128 * KIB, 8, 10) },
    Work { is_sequential: true, ..work("128 KiB sequential write, depth 8", 128 * KIB, 8, 0) },
    Work { is_fresh: true, ..work("4 KiB fresh allocation, depth 32", 4 * KIB, 32, 0) },
    Work { is_fresh: true, is_sequential: true, ..work("2 MiB fresh allocation, depth 4", 2048 * KIB, 4, 0) },
];

/// CPU time of a request that ours is to stay within.
const GOALS: &[(&str, &str, &str)] = &[
    ("oxtap raw", "4 KiB random read, depth 32", "<= 5 us"),
    ("oxtap vhd", "4 KiB random read, depth 32", "<= 5 us"),
    ("oxtap vhd", "4 KiB random write, depth 32", "<= 5 us"),
    ("oxtap vhd", "128 KiB sequential read, depth 8", "<= 25 us"),
    ("oxtap vhd", "128 KiB sequential write, depth 8", "<= 25 us"),
];

/// What was measured of a server at some work.
#[derive(Clone, Copy, Debug)]
struct Measured {
    /// In a second.
    requests: f64,
    /// Microseconds of the server for a request.
    cpu: f64,
}

pub(crate) fn run(effort: &Effort) -> Result<Report> {
    let place = fast_directory(effort)?;
    let mut peers = Peers::new(effort, place.path(), BYTES);
    let servers: Vec<Server> = SERVERS.iter().copied().filter(|server| server.is_there()).collect();
    for missing in SERVERS.iter().filter(|server| !server.is_there()) {
        peers.report.note(format!("{} is not on this machine", missing.name()));
    }
    let images = servers.iter().map(|server| peers.filled(*server)).collect::<Result<Vec<_>>>()?;
    for _ in 0..effort.rounds {
        for work in WORKS.iter().filter(|work| !effort.is_smoke || work.is_one_of_its_kind()) {
            peers.round(work, &servers, &images)?;
        }
        for (server, image) in servers.iter().zip(&images).filter(|(server, _)| !effort.is_smoke || server.is_ours()) {
            peers.with_fio(*server, image)?;
        }
    }
    peers.conclude(&servers);
    Ok(peers.report)
}

/// A directory in memory, if there is one.
fn fast_directory(effort: &Effort) -> Result<tempfile::TempDir> {
    let memory = Path::new("/dev/shm");
    let parent = if memory.is_dir() { memory } else { &effort.directory };
    tempfile::Builder::new().prefix("oxtap-bench-").tempdir_in(parent).context(parent.display())
}

struct Peers<'a> {
    effort: &'a Effort,
    directory: PathBuf,
    /// Of each disk.
    bytes: u64,
    report: Report,
}

impl<'a> Peers<'a> {
    fn new(effort: &'a Effort, directory: &Path, bytes: u64) -> Peers<'a> {
        let bytes = if effort.is_smoke { SMOKE_BYTES } else { bytes };
        Peers { effort, directory: directory.to_owned(), bytes, report: Report::default() }
    }

    fn image_name(server: Server) -> String {
        server.name().replace(' ', "-")
    }

    /// An image of the server's format with data everywhere, written by the server itself.
    fn filled(&self, server: Server) -> Result<PathBuf> {
        let Some(format) = server.format() else { return Ok(PathBuf::new()) };
        let image = create(&self.directory, &Self::image_name(server), format, self.bytes)?;
        self.fill(server, &image)?;
        Ok(image)
    }

    fn fill(&self, server: Server, image: &Path) -> Result<()> {
        let socket = self.directory.join("fill.sock");
        let _server = server.start(image, self.bytes, &socket)?;
        let block = 1024 * KIB;
        let workload = Workload { start: 0, bytes: self.bytes, block, depth: 4, is_write: true, is_sequential: true };
        pipeline::write_all(&socket, workload)
    }

    /// All servers at one work, one after the other.
    fn round(&mut self, work: &Work, servers: &[Server], images: &[PathBuf]) -> Result<()> {
        let mut measured = Vec::new();
        for (server, image) in servers.iter().zip(images) {
            let image = match server.format() {
                Some(format) if work.is_fresh => create(&self.directory, "fresh", format, self.bytes)?,
                _ => image.clone(),
            };
            let figures = self.measure(*server, &image, work)?;
            let name = format!("{}, {}", server.name(), work.name);
            self.report.add(&name, "requests/s", figures.requests);
            self.report.add(format!("{name}: CPU"), "us/request", figures.cpu);
            measured.push((*server, figures));
        }
        self.compare(work, &measured);
        Ok(())
    }

    fn measure(&self, server: Server, image: &Path, work: &Work) -> Result<Measured> {
        let socket = self.directory.join("bench.sock");
        let process = server.start(image, self.bytes, &socket)?;
        self.measure_process(&process, &socket, work)
    }

    /// As [`measure`](Self::measure), when everything has been read once: what is learnt of an image is known by then.
    fn measure_warm(&self, server: Server, image: &Path, work: &Work) -> Result<Measured> {
        let socket = self.directory.join("bench.sock");
        let process = server.start(image, self.bytes, &socket)?;
        let block = 128 * KIB;
        pipeline::read_all(
            &socket,
            Workload { start: 0, bytes: self.bytes, block, depth: 1, is_write: false, is_sequential: true },
        )?;
        self.measure_process(&process, &socket, work)
    }

    fn measure_process(&self, process: &Process, socket: &Path, work: &Work) -> Result<Measured> {
        let workload = Workload {
            start: 0,
            bytes: self.bytes,
            block: work.block,
            depth: work.depth,
            is_write: work.reads == 0,
            is_sequential: work.is_sequential,
        };
        let before = process_cpu(process.pid())?;
        // Fresh room is there only once: warming up would use it.
        let load = pipeline::start_mixed(socket, work.connections, workload, work.reads)?;
        let (before, answers) = if work.is_fresh {
            (before, load.count_from_start(self.effort.duration))
        } else {
            (process_cpu(process.pid())?, load.count(self.effort.duration))
        };
        let used = process_cpu(process.pid())? - before;
        load.end()?;
        let requests = answers.all / self.effort.duration.as_secs_f64();
        Ok(Measured { requests, cpu: used.as_secs_f64() * 1e6 / answers.all.max(1.0) })
    }

    /// Ratios of this round: of ours to each other that does the same.
    fn compare(&mut self, work: &Work, measured: &[(Server, Measured)]) {
        for (ours, figures) in measured.iter().filter(|(server, _)| server.is_ours()) {
            // One that answered nothing in so short a time is no measure.
            let is_measure = |theirs: &Measured| theirs.requests > 0.0 && theirs.cpu > 0.0;
            for (other, theirs) in
                measured.iter().filter(|(server, theirs)| is_rival(*ours, *server) && is_measure(theirs))
            {
                let name = format!("{} : {}, {}", ours.name(), other.name(), work.name);
                self.report.add(&name, "x", figures.requests / theirs.requests);
                self.report.add(format!("{name}: CPU"), "x", figures.cpu / theirs.cpu);
            }
        }
    }

    /// Another client, which many know: its figures are its own, the server's CPU time is comparable.
    fn with_fio(&mut self, server: Server, image: &Path) -> Result<()> {
        if !fio::has_nbd() {
            return Ok(());
        }
        let socket = self.directory.join("fio.sock");
        for (kind, words) in [("randread", "random read"), ("randwrite", "random write")] {
            let process = server.start(image, self.bytes, &socket)?;
            let before = process_cpu_with_the_ended(process.pid())?;
            let answered = fio::over_nbd(&socket, kind, self.effort.duration)?;
            let used = process_cpu_with_the_ended(process.pid())? - before;
            let name = format!("{}, fio: 4 KiB {words}, depth 32", server.name());
            self.report.add(&name, "requests/s", answered.requests);
            self.report.add(format!("{name}: CPU"), "us/request", used.as_secs_f64() * 1e6 / answered.all.max(1.0));
        }
        Ok(())
    }

    fn conclude(&mut self, servers: &[Server]) {
        for (server, work, goal) in GOALS {
            self.report.expect(&format!("{server}, {work}: CPU"), goal);
        }
        for format in ["raw", "vhd"] {
            let name = format!("oxtap {format} : nbdkit memory, 4 KiB random read, depth 32");
            self.report.expect(&name, ">= 0.95 x");
        }
        self.report.expect("oxtap vhd : qemu-nbd vpc io_uring, 4 KiB fresh allocation, depth 32", ">= 3 x");
        let behind = behind(&self.report, servers);
        self.report.note(match behind.is_empty() {
            true => "the floor holds: ahead of qemu-nbd (same format) and nbdkit file in every row".to_owned(),
            false => format!("the floor does not hold; behind in: {}", behind.join("; ")),
        });
        self.report.note(format!("disks of {} MiB in {}", self.bytes >> 20, self.directory.display()));
        for (kind, words) in [("read", "random read"), ("write", "random write")] {
            for (what, suffix, unit) in [("throughput", "", "requests/s"), ("cpu", ": CPU", "us/request")] {
                let svg = plot::lines(
                    &format!("4 KiB {words} over NBD, {unit}"),
                    ("requests under way", unit),
                    &self.by_depth(servers, words, suffix),
                );
                self.report.draw(format!("depth-{kind}-{what}"), svg);
            }
        }
    }

    /// The medians by depth, of each server.
    fn by_depth(&self, servers: &[Server], words: &str, suffix: &str) -> Vec<plot::Line> {
        let line = |server: &Server| {
            let points = [1u32, 8, 32, 128].into_iter().filter_map(|depth| {
                let name = format!("{}, 4 KiB {words}, depth {depth}{suffix}", server.name());
                Some((f64::from(depth), self.report.median(&name)?))
            });
            plot::Line { name: server.name(), points: points.collect() }
        };
        servers.iter().map(line).collect()
    }
}

/// Whether a server is one that ours has to be compared with: of the same format, or without any.
fn is_rival(ours: Server, other: Server) -> bool {
    let is_same = other.format() == ours.format();
    !other.is_ours() && (is_same || matches!(other, Server::NbdkitFile | Server::NbdkitMemory))
}

/// The rows in which ours (with its usual engine) is behind another of the same format, or behind nbdkit with a file, by
/// throughput and by CPU time alike: one that is bound by its client can only win by one of them.
fn behind(report: &Report, servers: &[Server]) -> Vec<String> {
    let ours = [Server::Oxtap(Format::Raw, "io_uring"), Server::Oxtap(Format::Vhd, "io_uring")];
    let mut rows = Vec::new();
    for ours in ours {
        let rivals = servers.iter().filter(|server| is_rival(ours, **server) && **server != Server::NbdkitMemory);
        for (rival, work) in rivals.flat_map(|rival| WORKS.iter().map(move |work| (rival, work))) {
            let name = format!("{} : {}, {}", ours.name(), rival.name(), work.name);
            let (speed, cpu) = (report.median(&name), report.median(&format!("{name}: CPU")));
            if speed.is_some_and(|speed| speed < 1.0) || cpu.is_some_and(|cpu| cpu > 1.0) {
                let [speed, cpu] = [speed, cpu].map(|ratio| ratio.unwrap_or(f64::NAN));
                rows.push(format!("{name} ({speed:.2} x speed, {cpu:.2} x CPU)"));
            }
        }
    }
    rows
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn rivals_have_the_same_format_or_none() {
        let vhd = Server::Oxtap(Format::Vhd, "io_uring");
        let rivals: Vec<String> =
            SERVERS.iter().filter(|server| is_rival(vhd, **server)).map(|server| server.name()).collect();
        assert_eq!(rivals, ["qemu-nbd vpc io_uring", "nbdkit file", "nbdkit memory"]);
    }

    #[test]
    fn a_row_is_behind_by_either_measure() {
        let mut report = Report::default();
        let name = |work: &str| format!("oxtap vhd : nbdkit file, {work}");
        for (index, (speed, cpu)) in [(1.2, 0.8), (0.9, 0.8), (1.2, 1.1)].into_iter().enumerate() {
            report.add(name(WORKS[index].name), "x", speed);
            report.add(format!("{}: CPU", name(WORKS[index].name)), "x", cpu);
        }
        let rows = behind(&report, SERVERS);
        assert_eq!(rows.len(), 2);
        assert!(rows[0].starts_with(&name(WORKS[1].name)) && rows[1].starts_with(&name(WORKS[2].name)), "{rows:?}");
    }
}
