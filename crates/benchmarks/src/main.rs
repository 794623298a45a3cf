//! `oxtap-bench`: what the data path costs, measured where it runs. `cargo xtask bench` builds and runs it.
//!
//! ```text
//!   benchmark --rounds, each variant once per round--> samples --> median and spread --> table or JSON
//! ```
//!
//! Machines differ and are never quiet: what counts are ratios of variants that were measured in turns in one run. Each
//! benchmark is one module; `docs/performance.md` says what they showed.

#![forbid(unsafe_code)]

mod budget;
mod clients;
mod disk;
mod figures;
mod frontends;
mod grants;
mod hosted;
mod limits;
mod load;
mod logging;
mod memory;
mod nbd;
mod neighbour;
mod pipeline;
mod processes;
mod queues;
mod ring;
mod stripes;
mod stuck;
mod usage;

use std::{path::PathBuf, process::ExitCode, time::Duration};

use block_core::{Result, ResultExt};
use clap::{Parser, Subcommand};

use figures::Report;

/// Measures oxtap on this machine.
#[derive(Debug, Parser)]
#[command(name = "oxtap-bench", version, about)]
struct Arguments {
    /// Which benchmarks; all, if none is named.
    names: Vec<String>,
    /// How often each variant is measured.
    #[arg(long, default_value_t = 5)]
    rounds: usize,
    /// How long each variant is measured in each round, in seconds. (Limits are always measured for 10 seconds.)
    #[arg(long, default_value_t = 2.0)]
    seconds: f64,
    /// See that everything works, in a moment; the figures mean nothing.
    #[arg(long)]
    smoke: bool,
    /// Machine-readable figures, one object.
    #[arg(long)]
    json: bool,
    /// Where files are made; on the storage that is to be measured.
    #[arg(long)]
    directory: Option<PathBuf>,
    #[command(subcommand)]
    part: Option<Part>,
}

/// What this program does for itself in other processes.
#[derive(Debug, Subcommand)]
enum Part {
    /// Saturates a disk until it is ended.
    #[command(hide = true)]
    Saturate(neighbour::Saturate),
    /// Has all pages of a budget until it is ended.
    #[command(hide = true)]
    Hold(budget::Hold),
}

/// How long and how often to measure.
struct Effort {
    rounds: usize,
    duration: Duration,
    is_smoke: bool,
    directory: PathBuf,
}

/// One benchmark.
struct Benchmark {
    name: &'static str,
    summary: &'static str,
    run: fn(&Effort) -> Result<Report>,
}

const BENCHMARKS: &[Benchmark] = &[
    Benchmark { name: "queues", summary: "one queue against two, no export", run: queues::run },
    Benchmark { name: "nbd", summary: "CPU time of a request over NBD", run: nbd::run },
    Benchmark { name: "ring", summary: "a guest's ring beside NBD", run: ring::run },
    Benchmark { name: "budget", summary: "grants of a killed process", run: budget::run },
    Benchmark { name: "limits", summary: "how exactly limits are kept", run: limits::run },
    Benchmark { name: "neighbour", summary: "latency beside a disk that saturates the machine", run: neighbour::run },
    Benchmark {
        name: "logging",
        summary: "failing requests while log daemons read, sleep and lack",
        run: logging::run,
    },
    Benchmark { name: "stuck", summary: "disks that come and go beside one that hangs", run: stuck::run },
    Benchmark { name: "memory", summary: "memory of what is idle", run: memory::run },
];

fn main() -> ExitCode {
    let arguments = Arguments::parse();
    let result = match &arguments.part {
        Some(Part::Saturate(saturate)) => neighbour::saturate(saturate),
        Some(Part::Hold(hold)) => budget::hold(hold),
        None => run(&arguments),
    };
    match result {
        Ok(()) => ExitCode::SUCCESS,
        Err(error) => {
            eprintln!("oxtap-bench: {error}");
            ExitCode::FAILURE
        }
    }
}

fn run(arguments: &Arguments) -> Result<()> {
    let parent = arguments.directory.clone().unwrap_or_else(std::env::temp_dir);
    let directory = tempfile::Builder::new().prefix("oxtap-bench-").tempdir_in(&parent).context(parent.display())?;
    let effort = Effort {
        rounds: if arguments.smoke { 1 } else { arguments.rounds.max(1) },
        duration: if arguments.smoke { Duration::from_millis(100) } else { Duration::from_secs_f64(arguments.seconds) },
        is_smoke: arguments.smoke,
        directory: directory.path().to_owned(),
    };
    let mut reports = Vec::new();
    for benchmark in chosen(&arguments.names)? {
        if !arguments.json {
            println!("{}: {}", benchmark.name, benchmark.summary);
        }
        let report = (benchmark.run)(&effort).context(benchmark.name)?;
        if !arguments.json {
            println!("{}", report.table());
        }
        reports.push((benchmark.name, report));
    }
    if arguments.json {
        println!("{:#}", figures::json(&reports));
    }
    Ok(())
}

fn chosen(names: &[String]) -> Result<Vec<&'static Benchmark>> {
    if names.is_empty() {
        return Ok(BENCHMARKS.iter().collect());
    }
    let find = |name: &String| {
        let known = || BENCHMARKS.iter().map(|benchmark| benchmark.name).collect::<Vec<_>>().join(", ");
        let found = BENCHMARKS.iter().find(|benchmark| benchmark.name == name);
        let unknown = || format!("no benchmark is called {name:?}; there are {}", known());
        found.ok_or_else(|| block_core::Error::new(block_core::ErrorKind::NotFound, unknown()))
    };
    names.iter().map(find).collect()
}
