//! `oxtap serve`: one image over NBD, in the foreground. Ctrl-C flushes, closes and ends.

use std::{
    fs::File,
    io::{IsTerminal, Write, stdout},
    net::SocketAddr,
    path::{Path, PathBuf},
    pin::pin,
    rc::Rc,
    sync::Arc,
    thread,
    time::Duration,
};

use block_core::{Error, ErrorKind, Result, ResultExt};
use export::nbd::{Limits, Server, Worker};
use futures_util::future::{Either, select};
use image_chain::{ChainSpec, ImageKind, ImageName};
use rustix::process::Signal;
use storage_io::{Access, BufferPool, EngineChoice, Executor, LeasedFiles, Signals};
use virtual_disk::{Disk, Geometry, RequestKind, Settings};

use super::{
    arguments::{Format, Serve},
    size,
};
use crate::vhd_util::making;

/// Free buffers kept for each size.
const POOL_BYTES: usize = 16 << 20;
/// The most queues, each with a thread, over which connections are spread.
const QUEUES_MAX: usize = 4;
/// How often the throughput is shown.
const SHOW_EVERY: Duration = Duration::from_secs(1);

/// Where clients connect.
enum Address {
    Unix(PathBuf),
    Tcp(SocketAddr),
}

pub(super) fn run(arguments: &Serve) -> Result<()> {
    // Before any thread: all of them inherit who takes the signals.
    let signals = Signals::take(&[Signal::INT, Signal::TERM])?;
    let kind = kind_of(arguments.format, &arguments.image)?;
    create(arguments, kind)?;
    let access = if arguments.read_only { Access::Read } else { Access::Write };
    let spec = ChainSpec::new(ImageName::new(kind, &arguments.image), access);
    // The private directory of the socket goes when this ends.
    let (address, _directory) = address(arguments)?;
    let executor = Executor::new(EngineChoice::Probe)?;
    let result = executor.block_on(serve(&executor, spec, &address, &signals));
    executor.end_tasks();
    result
}

/// The format that was given, or the one that the name of the file says. Content is never looked at.
fn kind_of(format: Option<Format>, image: &Path) -> Result<ImageKind> {
    match (format, image.extension().and_then(|extension| extension.to_str())) {
        (Some(Format::Vhd), _) | (None, Some("vhd")) => Ok(ImageKind::Vhd),
        (Some(Format::Raw), _) | (None, Some("raw" | "img")) => Ok(ImageKind::Raw),
        (None, _) => {
            let words = format!("{}: its name does not tell the format; say --format vhd or raw", image.display());
            Err(Error::new(ErrorKind::Invalid, words))
        }
    }
}

/// Makes the image if that was asked for. One that exists is never replaced.
fn create(arguments: &Serve, kind: ImageKind) -> Result<()> {
    let image = &arguments.image;
    if arguments.parent.is_none() && arguments.create.is_none() {
        return Ok(());
    }
    if image.exists() {
        return Err(Error::new(ErrorKind::Invalid, format!("{}: exists already", image.display())));
    }
    match (&arguments.parent, arguments.create, kind) {
        (Some(parent), bytes, ImageKind::Vhd) => {
            let is_raw = kind_of(arguments.parent_format, parent)? == ImageKind::Raw;
            making::create_snapshot(image, parent, is_raw, bytes)
        }
        (Some(_), _, ImageKind::Raw) => Err(Error::new(ErrorKind::Invalid, "only VHD images can have a parent")),
        (None, bytes, ImageKind::Vhd) => making::create_dynamic(image, bytes.unwrap_or_default()),
        (None, bytes, ImageKind::Raw) => {
            let made = File::create_new(image).and_then(|file| file.set_len(bytes.unwrap_or_default()));
            made.context(image.display())
        }
    }
}

fn address(arguments: &Serve) -> Result<(Address, Option<tempfile::TempDir>)> {
    if let Some(address) = arguments.listen {
        return Ok((Address::Tcp(address), None));
    }
    if let Some(socket) = &arguments.socket {
        let socket = std::path::absolute(socket).context(socket.display())?;
        return Ok((Address::Unix(socket), None));
    }
    let directory = tempfile::Builder::new().prefix("oxtap-").tempdir().context("temporary directory")?;
    Ok((Address::Unix(directory.path().join("nbd")), Some(directory)))
}

async fn serve(executor: &Executor, spec: ChainSpec, address: &Address, signals: &Signals) -> Result<()> {
    let name = spec.leaf.to_string();
    let disk = Disk::new(
        executor,
        Rc::new(LeasedFiles::new(&control_api::leased_directories())),
        BufferPool::new(POOL_BYTES),
        Arc::new(()),
    );
    let geometry = disk.open(spec, Settings::default()).await?;
    let server = Server::on_threads(&disk, limits(), start_queue);
    let served = match listen(&server, address) {
        Ok(address) => {
            print!("{}", how_to_connect(&name, &geometry, &address));
            until_told(executor, &disk, signals).await
        }
        Err(error) => Err(error),
    };
    server.close().await;
    let closed = disk.close().await;
    served.and(closed)?;
    println!("closed, everything is on storage");
    Ok(())
}

/// As many queues as there are cores, but few; further connections share them.
fn limits() -> Limits {
    let cores = thread::available_parallelism().map_or(1, usize::from);
    Limits { queues: cores.min(QUEUES_MAX), ..Limits::default() }
}

fn start_queue(worker: Worker) -> Result<()> {
    let run = move || worker.run(EngineChoice::Probe, BufferPool::new(POOL_BYTES));
    thread::Builder::new().name("queue".into()).spawn(run).map(drop).context("queue")
}

/// Listens; the address with the port that was really taken.
fn listen(server: &Server, address: &Address) -> Result<Address> {
    match address {
        Address::Unix(path) => server.listen_unix(path).map(|()| Address::Unix(path.clone())),
        Address::Tcp(address) => server.listen_tcp(*address).map(Address::Tcp),
    }
}

/// Shows the throughput on a terminal until Ctrl-C or `kill`.
async fn until_told(executor: &Executor, disk: &Disk, signals: &Signals) -> Result<()> {
    let mut meter = Meter::new(disk);
    loop {
        match select(pin!(signals.next(executor)), pin!(executor.sleep(SHOW_EVERY))).await {
            Either::Left((signal, _)) => {
                meter.end();
                return signal.map(|_| ());
            }
            Either::Right(_) => meter.show(disk),
        }
    }
}

fn how_to_connect(name: &str, geometry: &Geometry, address: &Address) -> String {
    let access = if geometry.read_only { ", read-only" } else { "" };
    let (uri, client) = match address {
        Address::Unix(path) => {
            let path = path.display();
            (format!("nbd+unix:///?socket={path}"), format!("nbd-client -unix {path} /dev/nbd0"))
        }
        Address::Tcp(address) => {
            let (ip, port) = (address.ip(), address.port());
            (format!("nbd://{address}"), format!("nbd-client {ip} {port} /dev/nbd0"))
        }
    };
    format!(
        "serving {name}, {}{access}; Ctrl-C flushes and ends

  NBD URI      {uri}
  look at it   nbdinfo '{uri}'
  Linux        {client}
  qemu         qemu-system-x86_64 -drive file='{uri}',format=raw,if=virtio

",
        size::describe(geometry.bytes())
    )
}

/// Shows what was read and written since the last look, on one line of a terminal.
struct Meter {
    is_terminal: bool,
    shown: [u64; 2],
}

impl Meter {
    fn new(disk: &Disk) -> Meter {
        Meter { is_terminal: stdout().is_terminal(), shown: bytes(disk) }
    }

    fn show(&mut self, disk: &Disk) {
        if !self.is_terminal {
            return;
        }
        let now = bytes(disk);
        let [read, written] = [0, 1].map(|index| size::describe(now[index] - self.shown[index]));
        self.shown = now;
        let in_flight = disk.status().in_flight();
        print!("\r\x1b[K  reading {read}/s, writing {written}/s, {in_flight} requests in flight");
        // A line that cannot be shown is no reason to stop serving.
        let _ = stdout().flush();
    }

    fn end(&self) {
        if self.is_terminal {
            println!();
        }
    }
}

/// Bytes read and written since the disk was made.
fn bytes(disk: &Disk) -> [u64; 2] {
    let status = disk.status();
    let kinds = [RequestKind::Read, RequestKind::Write];
    kinds.map(|kind| status.count(kind).sectors * block_core::SECTOR)
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn the_name_tells_the_format_and_nothing_else_does() {
        let kind = |name: &str| kind_of(None, Path::new(name));
        assert_eq!(kind("/a/b.vhd").unwrap(), ImageKind::Vhd);
        assert_eq!(kind("b.img").unwrap(), ImageKind::Raw);
        let error = kind("/dev/vg/lv").unwrap_err();
        assert_eq!(error.to_string(), "/dev/vg/lv: its name does not tell the format; say --format vhd or raw");
        assert_eq!(kind_of(Some(Format::Raw), Path::new("b.vhd")).unwrap(), ImageKind::Raw);
    }

    #[test]
    fn what_to_type_is_told() {
        let geometry = Geometry {
            sectors: 2048,
            logical_block_size: 512,
            physical_block_size: 4096,
            read_only: true,
            can_discard: false,
        };
        let text = how_to_connect("vhd:/a.vhd", &geometry, &Address::Unix("/run/s".into()));
        assert!(text.starts_with("serving vhd:/a.vhd, 1 MiB, read-only;"), "{text}");
        assert!(text.contains("nbdinfo 'nbd+unix:///?socket=/run/s'"), "{text}");
        assert!(text.contains("nbd-client -unix /run/s /dev/nbd0"), "{text}");
    }
}
