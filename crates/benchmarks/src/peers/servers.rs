//! Servers that are measured beside each other: ours, and what a user would pick instead.

use std::{
    path::{Path, PathBuf},
    process::Command,
};

use block_core::{Error, ErrorKind, Result, ResultExt};

use crate::processes::{Process, program};

/// Who serves what.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(crate) enum Server {
    /// Ours, with an engine.
    Oxtap(Format, &'static str),
    /// QEMU's, with its own kind of I/O.
    Qemu(Format, &'static str),
    /// nbdkit with a file.
    NbdkitFile,
    /// nbdkit with nothing but memory: what the protocol and its client can do.
    NbdkitMemory,
}

/// What is in the file.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(crate) enum Format {
    Raw,
    Vhd,
    Qcow2,
}

impl Format {
    fn ours(self) -> &'static str {
        match self {
            Format::Raw => "raw",
            Format::Vhd => "vhd",
            Format::Qcow2 => "qcow2",
        }
    }

    fn of_qemu(self) -> &'static str {
        if self == Format::Vhd { "vpc" } else { self.ours() }
    }
}

/// All that are measured; ours first.
pub(crate) const SERVERS: &[Server] = &[
    Server::Oxtap(Format::Raw, "io_uring"),
    Server::Oxtap(Format::Vhd, "io_uring"),
    Server::Oxtap(Format::Vhd, "threads"),
    Server::Qemu(Format::Raw, "io_uring"),
    Server::Qemu(Format::Raw, "native"),
    Server::Qemu(Format::Vhd, "io_uring"),
    Server::Qemu(Format::Qcow2, "native"),
    Server::NbdkitFile,
    Server::NbdkitMemory,
];

impl Server {
    pub(crate) fn name(self) -> String {
        match self {
            Server::Oxtap(format, "io_uring") => format!("oxtap {}", format.ours()),
            Server::Oxtap(format, engine) => format!("oxtap {} {engine}", format.ours()),
            Server::Qemu(format, aio) => format!("qemu-nbd {} {aio}", format.of_qemu()),
            Server::NbdkitFile => "nbdkit file".to_owned(),
            Server::NbdkitMemory => "nbdkit memory".to_owned(),
        }
    }

    /// What is in its file; none if it has none.
    pub(crate) fn format(self) -> Option<Format> {
        match self {
            Server::Oxtap(format, _) | Server::Qemu(format, _) => Some(format),
            Server::NbdkitFile => Some(Format::Raw),
            Server::NbdkitMemory => None,
        }
    }

    pub(crate) fn is_ours(self) -> bool {
        matches!(self, Server::Oxtap(..))
    }

    /// Whether its program is on this machine.
    pub(crate) fn is_there(self) -> bool {
        let name = match self {
            Server::Oxtap(..) => return true,
            Server::Qemu(..) => "qemu-nbd",
            Server::NbdkitFile | Server::NbdkitMemory => "nbdkit",
        };
        is_program(name)
    }

    /// Serves an image on a socket.
    pub(crate) fn start(self, image: &Path, bytes: u64, socket: &Path) -> Result<Process> {
        let mut command = match self {
            Server::Oxtap(_, engine) => {
                let mut command = Command::new(program("oxtap")?);
                command.env("OXTAP_ENGINE", engine).arg("serve").arg("--socket").arg(socket).arg(image);
                command
            }
            Server::Qemu(format, aio) => {
                let mut command = Command::new("qemu-nbd");
                command.args(["--persistent", "--shared=8", "--export-name=bench", "--cache=none"]);
                command.arg(format!("--aio={aio}")).args(["-f", format.of_qemu(), "-k"]).arg(socket).arg(image);
                command
            }
            Server::NbdkitFile | Server::NbdkitMemory => {
                let mut command = Command::new("nbdkit");
                command.args(["--foreground", "--unix"]).arg(socket);
                match self {
                    Server::NbdkitFile => command.arg("file").arg(image),
                    _ => command.args(["memory", &bytes.to_string()]),
                };
                command
            }
        };
        Process::start_listening(&mut command, socket).context(self.name())
    }
}

/// Whether a program is in the search path.
pub(crate) fn is_program(name: &str) -> bool {
    let path = std::env::var_os("PATH").unwrap_or_default();
    std::env::split_paths(&path).any(|directory| directory.join(name).is_file())
}

/// Makes an empty image of so many bytes, in the place of another.
pub(crate) fn create(directory: &Path, name: &str, format: Format, bytes: u64) -> Result<PathBuf> {
    let path = directory.join(format!("{name}.{}", format.ours()));
    // It may not be there.
    let _ = std::fs::remove_file(&path);
    match format {
        Format::Raw => {
            let file = std::fs::File::create(&path).context(path.display())?;
            file.set_len(bytes).context(path.display())?;
        }
        Format::Vhd => {
            let mut command = Command::new(program("vhd-util")?);
            run(command.arg("create").arg("-n").arg(&path).arg("-s").arg((bytes >> 20).to_string()))?;
        }
        Format::Qcow2 => {
            let mut command = Command::new("qemu-img");
            run(command.args(["create", "-q", "-f", "qcow2"]).arg(&path).arg(bytes.to_string()))?;
        }
    }
    Ok(path)
}

/// Makes an image that continues another.
pub(crate) fn snapshot(parent: &Path, child: &Path) -> Result<()> {
    let mut command = Command::new(program("vhd-util")?);
    run(command.arg("snapshot").arg("-e").arg("-n").arg(child).arg("-p").arg(parent))
}

fn run(command: &mut Command) -> Result<()> {
    let name = command.get_program().to_string_lossy().into_owned();
    let output = command.output().context(&name)?;
    let errors = String::from_utf8_lossy(&output.stderr).into_owned();
    if output.status.success() { Ok(()) } else { Err(Error::new(ErrorKind::Invalid, format!("{name}: {errors}"))) }
}
