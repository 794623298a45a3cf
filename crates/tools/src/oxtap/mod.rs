//! `oxtap`: the one program for people.
//!
//! ```text
//!   arguments   what may be asked, help and completions from one source
//!   host        every tapdisk of this host, asked at the same time; older: those without the native protocol
//!   name        how people name a disk
//!   list stats dump   what there is to know, for people and as JSON
//!   limit control     what can be done to a disk; jobs: following, turning back, and leaving what takes time
//!   common      what all guests have in common; xen_memory: what Xen says of the memory of this domain
//!   domain      what can be done to all disks of a guest
//!   lease       oxtap lease: who writes to an image on storage without locks
//!   metrics     the numbers of all disks for scrapers; top: for people, live
//!   xenstore    guests' devices, for those who only look
//!   doctor      oxtap doctor: everything that there is, and what others have left behind
//!   serve       oxtap serve: one image over NBD, in the foreground
//!   demo        oxtap demo: the whole system at work on a chain with a real file system, checked by others' tools
//!   bench       oxtap bench: hands on to the program that measures
//!   hosted      oxtap hosted: a host without Xen; guest: a guest of it that checks every byte
//! ```

pub mod arguments;
mod bench;
mod common;
mod control;
mod demo;
mod doctor;
mod domain;
mod dump;
mod guest;
mod host;
mod hosted;
mod interrupt;
mod jobs;
mod lease;
mod limit;
mod list;
mod metrics;
mod name;
mod older;
mod serve;
mod size;
mod stats;
mod text;
#[cfg_attr(not(feature = "top"), allow(dead_code, reason = "keys and colours are for a terminal"))]
mod top;
mod words;
mod xen_memory;
mod xenstore;

use std::{process::ExitCode, time::Duration};

use arguments::{Arguments, Command, Quiesce, Resume};
use block_core::Result;

/// Does what the command line says. An error is one line on stderr, and its number the exit status.
pub fn run(arguments: Arguments) -> ExitCode {
    match perform(arguments.command) {
        Ok(status) => status,
        Err(error) => {
            eprintln!("oxtap: {error}");
            u8::try_from(control_api::errno(&error)).map_or(ExitCode::FAILURE, ExitCode::from)
        }
    }
}

fn perform(command: Command) -> Result<ExitCode> {
    let performed = match command {
        Command::Serve(serve) => serve::run(&serve),
        Command::Ls(list) => list::run(&list),
        Command::Top(top) => top::run(top),
        Command::Stats(stats) => stats::run(&stats),
        Command::Limit(limit) => limit::run(&limit),
        Command::Budget(budget) => control::budget(&budget),
        Command::Pause(rest) => control::pause(&rest),
        Command::Resume(Resume { domain: Some(domain), json, .. }) => return domain::resume(domain, json),
        Command::Resume(resume) => control::resume(resume),
        Command::Quiesce(Quiesce { domain: Some(domain), deadline, json, .. }) => {
            return domain::quiesce(domain, deadline, json);
        }
        Command::Quiesce(quiesce) => control::quiesce(&quiesce),
        Command::Release(release) => return domain::release(&release),
        Command::Resize(resize) => control::resize(&resize),
        Command::Close(close) => control::close(&close),
        Command::Jobs(jobs) => jobs::list(&jobs),
        Command::Watch(job) => jobs::watch(&job.job),
        Command::Cancel(job) => jobs::cancel(&job.job),
        Command::Metrics(metrics) => metrics::run(metrics),
        Command::Dump(dump) => dump::run(&dump),
        Command::Faults(faults) => control::faults(faults),
        Command::Lease(lease) => lease::run(&lease),
        Command::Doctor(doctor) => return doctor::run(&doctor),
        Command::Demo(demo) => demo::run(&demo),
        Command::Hosted(hosted) => hosted::run(&hosted),
        Command::Guest(guest) => guest::run(&guest),
        Command::Bench(bench) => bench::run(&bench),
        Command::Completions(completions) => completions.print(),
    };
    performed.map(|()| ExitCode::SUCCESS)
}

/// Whole milliseconds, as the protocol has them.
fn milliseconds(duration: Duration) -> u64 {
    u64::try_from(duration.as_millis()).unwrap_or(u64::MAX)
}
