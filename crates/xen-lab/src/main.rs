//! `cargo xtask xen-lab`: a script in the dom0 of a real Xen.

#![forbid(unsafe_code)]

use std::{path::PathBuf, process::ExitCode, time::Duration};

use anyhow::{Context, Result};
use clap::Parser;
use xen_lab::{Images, Machine, Packages, Processor, Verdict};

/// Runs a shell script in the dom0 of a real Xen, which QEMU emulates.
///
/// dom0 has busybox, bash, xl, the XenStore tools, Debian's hotplug scripts, GRUB for guests, LVM and nbd-client. `lab-guest`
/// boots a Linux guest with a script of its own, `lab-trace` notes all requests to XenStore. What the script leaves in /out
/// comes back. The exit status is the script's; 124 if it took too long, 125 if the machine died.
#[derive(Parser)]
#[command(name = "xen-lab", version)]
struct Arguments {
    /// The script.
    #[arg(required_unless_present = "prepare")]
    script: Option<PathBuf>,
    /// Put a file or a directory of this machine into dom0, such as lab/bin/tapdisk=./tapdisk; lab/bin is searched first.
    #[arg(long = "file", value_name = "NAME=PATH")]
    files: Vec<String>,
    /// A raw disk, found in dom0 by this serial number.
    #[arg(long = "disk", value_name = "SERIAL=PATH")]
    disks: Vec<String>,
    /// Where to put what comes back, and the console's log.
    #[arg(long, value_name = "DIRECTORY")]
    out: Option<PathBuf>,
    /// A processor that runs PVH guests, more slowly.
    #[arg(long)]
    svm: bool,
    /// Memory of dom0, in MiB.
    #[arg(long, default_value_t = 1024)]
    dom0_memory: u32,
    /// Give up after so many seconds.
    #[arg(long, default_value_t = 600, value_name = "SECONDS")]
    timeout: u64,
    /// Do not show the console.
    #[arg(long)]
    quiet: bool,
    /// Only fetch the packages and make the images.
    #[arg(long)]
    prepare: bool,
}

fn main() -> ExitCode {
    match run(&Arguments::parse()) {
        Ok(code) => code,
        Err(error) => {
            eprintln!("xen-lab: {error:#}");
            ExitCode::from(126)
        }
    }
}

fn run(arguments: &Arguments) -> Result<ExitCode> {
    let images = Images::prepare(&Packages::prepare()?)?;
    let Some(script) = &arguments.script else { return Ok(ExitCode::SUCCESS) };
    let machine = Machine {
        script: std::fs::read_to_string(script).with_context(|| script.display().to_string())?,
        files: pairs(&arguments.files)?,
        disks: pairs(&arguments.disks)?,
        processor: if arguments.svm { Processor::Svm } else { Processor::Plain },
        dom0_mebibytes: arguments.dom0_memory,
        patience: Duration::from_secs(arguments.timeout),
        is_shown: !arguments.quiet,
        ..Machine::default()
    };
    let outcome = machine.run(&images)?;
    if let Some(out) = &arguments.out {
        outcome.keep(out)?;
    }
    Ok(match outcome.verdict {
        Verdict::Ended(status) => ExitCode::from(u8::try_from(status).unwrap_or(1)),
        Verdict::TimedOut => ExitCode::from(124),
        Verdict::Died => ExitCode::from(125),
    })
}

fn pairs(words: &[String]) -> Result<Vec<(String, PathBuf)>> {
    let pair = |word: &String| {
        let (name, path) = word.split_once('=').with_context(|| format!("{word}: NAME=PATH is expected"))?;
        Ok((name.trim_start_matches('/').to_owned(), PathBuf::from(path)))
    };
    words.iter().map(pair).collect()
}
