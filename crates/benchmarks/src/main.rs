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
mod callgrind;
mod clients;
mod control;
mod disk;
mod figures;
mod frontends;
mod grants;
mod hosted;
mod images;
mod instructions;
mod limits;
mod load;
mod logging;
mod memory;
mod nbd;
mod neighbour;
mod peers;
mod pipeline;
mod plot;
mod processes;
mod queues;
mod ring;
mod stripes;
mod stuck;
mod usage;

use std::{
    fs,
    path::{Path, PathBuf},
    process::ExitCode,
    time::Duration,
};

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
    /// Three rounds of a third of a second: five minutes for everything. Figures that vary little are as good.
    #[arg(long, conflicts_with_all = ["rounds", "seconds", "smoke"])]
    quick: bool,
    /// See that everything works, in a moment; the figures mean nothing.
    #[arg(long)]
    smoke: bool,
    /// Machine-readable figures, one object.
    #[arg(long)]
    json: bool,
    /// Draw what was measured, as SVG files in this directory.
    #[arg(long, value_name = "DIRECTORY")]
    plots: Option<PathBuf>,
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
    /// Does a fixed amount of work, for those who count instructions.
    #[command(hide = true)]
    Count(instructions::Count),
}

/// What `--quick` stands for.
const QUICK_ROUNDS: usize = 3;
const QUICK_DURATION: Duration = Duration::from_millis(330);

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
    Benchmark { name: "peers", summary: "beside qemu-nbd and nbdkit, over NBD", run: peers::run },
    Benchmark { name: "chains", summary: "long chains beside one image", run: peers::run_chains },
    Benchmark { name: "storage", summary: "past the page cache, beside fio on the file", run: peers::run_storage },
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
    Benchmark { name: "images", summary: "the tools for images that nobody serves", run: images::run },
    Benchmark { name: "memory", summary: "memory of what is idle", run: memory::run },
    Benchmark { name: "control", summary: "first bytes, pauses, many disks, tools", run: control::run },
];

fn main() -> ExitCode {
    let arguments = Arguments::parse();
    let result = match &arguments.part {
        Some(Part::Saturate(saturate)) => neighbour::saturate(saturate),
        Some(Part::Hold(hold)) => budget::hold(hold),
        Some(Part::Count(count)) => instructions::count(count),
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
    let (rounds, duration) = match (arguments.smoke, arguments.quick) {
        (true, _) => (1, Duration::from_millis(100)),
        (_, true) => (QUICK_ROUNDS, QUICK_DURATION),
        _ => (arguments.rounds.max(1), Duration::from_secs_f64(arguments.seconds)),
    };
    let effort = Effort { rounds, duration, is_smoke: arguments.smoke, directory: directory.path().to_owned() };
    let mut reports = Vec::new();
    for benchmark in chosen(&arguments.names)? {
        if !arguments.json {
            println!("{}: {}", benchmark.name, benchmark.summary);
        }
        let report = (benchmark.run)(&effort).context(benchmark.name)?;
        if !arguments.json {
            println!("{}", report.table());
        }
        if let Some(directory) = &arguments.plots {
            save_plots(directory, &report)?;
        }
        reports.push((benchmark.name, report));
    }
    if arguments.json {
        println!("{:#}", figures::json(&reports));
    }
    Ok(())
}

fn save_plots(directory: &Path, report: &figures::Report) -> Result<()> {
    fs::create_dir_all(directory).context(directory.display())?;
    for (name, svg) in report.plots() {
        let path = directory.join(format!("{name}.svg"));
        fs::write(&path, svg).context(path.display())?;
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
