//! `oxtap-xenstored DIRECTORY [DOMAIN ...]`: a XenStore for hosts without Xen, until it is told to end.
//!
//! It listens at `DIRECTORY/socket` for clients of the first domain, and at `DIRECTORY/socket.N` for those of each domain
//! named. Stock tools find it by `XENSTORED_PATH=DIRECTORY/socket`.

#![forbid(unsafe_code)]

use std::{
    io::Write,
    path::{Path, PathBuf},
    process::ExitCode,
};

use block_core::{Error, ErrorKind, Result, ResultExt};
use rustix::process::Signal;
use storage_io::{EngineChoice, Executor, Signals};
use xenbus::server::{Sockets, Store};

fn main() -> ExitCode {
    let arguments: Vec<String> = std::env::args().skip(1).collect();
    match arguments.split_first() {
        Some((directory, domains)) if !directory.starts_with('-') => match run(Path::new(directory), domains) {
            Ok(()) => ExitCode::SUCCESS,
            Err(error) => {
                let _ = writeln!(std::io::stderr(), "oxtap-xenstored: {error}");
                ExitCode::FAILURE
            }
        },
        _ => {
            let _ = writeln!(std::io::stderr(), "usage: oxtap-xenstored DIRECTORY [DOMAIN ...]");
            ExitCode::from(22)
        }
    }
}

fn run(directory: &Path, domains: &[String]) -> Result<()> {
    let signals = Signals::take(&[Signal::INT, Signal::TERM])?;
    let executor = Executor::new(EngineChoice::Inline)?;
    std::fs::create_dir_all(directory).context(directory.display())?;
    let sockets = Sockets::new(&executor, Store::default());
    let socket = directory.join("socket");
    sockets.listen(&socket, 0)?;
    for domain in domains {
        let words = || Error::new(ErrorKind::Invalid, format!("'{domain}' is not the number of a domain"));
        let number = domain.parse().map_err(|_| words())?;
        sockets.listen(&directory.join(format!("socket.{domain}")), number)?;
        sockets.with_store(|store| store.introduce(number)).map_err(|_| words())?;
    }
    // Whoever started it may go on now.
    println!("{}", PathBuf::from(&socket).display());
    executor.block_on(signals.next(&executor))?;
    Ok(())
}
