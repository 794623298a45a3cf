//! fio: as a client that many know, and as the limit of what storage can do.

use std::{path::Path, process::Command, time::Duration};

use block_core::{Error, ErrorKind, Result, ResultExt};
use serde_json::Value;

use super::servers::is_program;

/// What fio counted.
#[derive(Clone, Copy, Debug)]
pub(super) struct Answered {
    /// In a second.
    pub(super) requests: f64,
    pub(super) all: f64,
}

/// Whether it is there, and speaks NBD.
pub(super) fn has_nbd() -> bool {
    let engines = Command::new("fio").arg("--enghelp").output();
    is_program("fio") && engines.is_ok_and(|output| String::from_utf8_lossy(&output.stdout).contains("nbd"))
}

/// 4 KiB at random places, 32 under way.
pub(super) fn over_nbd(socket: &Path, kind: &str, duration: Duration) -> Result<Answered> {
    let uri = format!("--uri=nbd+unix:///bench?socket={}", socket.display());
    run(&["--ioengine=nbd", &uri], kind, duration)
}

/// The same on a bare file, past the page cache.
pub(super) fn on_file(file: &Path, kind: &str, duration: Duration) -> Result<Answered> {
    let name = format!("--filename={}", file.display());
    run(&["--ioengine=io_uring", "--direct=1", &name], kind, duration)
}

fn run(what: &[&str], kind: &str, duration: Duration) -> Result<Answered> {
    let mut command = Command::new("fio");
    command.args(["--name=bench", "--bs=4k", "--iodepth=32", "--time_based", "--output-format=json"]).args(what);
    command.arg(format!("--rw={kind}")).arg(format!("--runtime={}ms", duration.as_millis().max(100)));
    let output = command.output().context("fio")?;
    let words = || Error::new(ErrorKind::Invalid, format!("fio: {}", String::from_utf8_lossy(&output.stderr)));
    // It may have something to say in front.
    let text = String::from_utf8_lossy(&output.stdout);
    let json = text.find('{').and_then(|start| serde_json::from_str::<Value>(&text[start..]).ok()).ok_or_else(words)?;
    let side = &json["jobs"][0][if kind.ends_with("read") { "read" } else { "write" }];
    let (requests, all) = (side["iops"].as_f64(), side["total_ios"].as_f64());
    requests.zip(all).map(|(requests, all)| Answered { requests, all }).ok_or_else(words)
}
