//! A host without Xen: a broker in this process, one guest, and a tapdisk that knows of them.

use std::{
    path::{Path, PathBuf},
    process::Command,
    time::Duration,
};

use block_core::{Error, ErrorKind, Result, ResultExt};
use control_api::{
    Minor, RUN_DIRECTORY_VARIABLE, RunDir,
    native::{self, ConnectRing, OpenImages, RingAbi, RingDisconnected, RingQueue},
};
use wire::blkif::INDIRECT_SEGMENTS_MAX;
use xen::{
    DomainId,
    hosted::{BrokerLimits, BrokerThread, Guest, HostedGrants},
};

use crate::{
    frontends::{FrontendQueue, HOST},
    processes::{Process, program},
};

const GUEST: DomainId = DomainId(1);
const GUEST_PAGES: u32 = 8192;
/// The guest's disk.
const DEVICE: u32 = 51712;
/// Says which platform a tapdisk works on.
const PLATFORM_VARIABLE: &str = "OXTAP_XEN";
/// Long enough for anything here.
const PATIENCE: Duration = Duration::from_secs(60);

/// A host with one guest.
pub(crate) struct Host {
    directory: PathBuf,
    pub(crate) guest: Guest,
    _broker: BrokerThread,
}

impl Host {
    /// Starts the broker with its socket in `directory`, and the guest.
    pub(crate) fn start(directory: &Path) -> Result<Host> {
        let broker = BrokerThread::start(directory, BrokerLimits::default())?;
        broker.ask(|broker| broker.create_domain(GUEST, GUEST_PAGES))?;
        let guest = Guest::boot(directory, GUEST)?;
        Ok(Host { directory: directory.to_owned(), guest, _broker: broker })
    }

    /// The guest's pages, as a backend in this process uses them.
    pub(crate) fn grants(&self) -> Result<HostedGrants> {
        HostedGrants::connect(&self.directory, HOST)
    }

    /// A tapdisk with an image open: for reads through the page cache, for writes past it.
    pub(crate) fn tapdisk(&self, image: &Path, buffered: bool) -> Result<Tapdisk> {
        let run = RunDir::at(&self.directory);
        let mut command = Command::new(program("tapdisk")?);
        command.arg("-D").env(RUN_DIRECTORY_VARIABLE, &self.directory);
        command.env(PLATFORM_VARIABLE, format!("hosted:{}", self.directory.display()));
        let process = Process::start(&mut command)?;
        let minor = run.allocate_minor()?;
        let tapdisk = Tapdisk { run, minor, process };
        tapdisk.ask(native::Command::Attach { minor: minor.number() })?;
        let image = format!("aio:{}", image.display());
        let open = OpenImages { minor: minor.number(), image, buffered, ..OpenImages::default() };
        tapdisk.ask(native::Command::Open(open))?;
        Ok(tapdisk)
    }
}

/// A tapdisk that serves one disk.
pub(crate) struct Tapdisk {
    run: RunDir,
    minor: Minor,
    process: Process,
}

impl Tapdisk {
    pub(crate) fn pid(&self) -> u32 {
        self.process.pid()
    }

    pub(crate) fn nbd_socket(&self) -> PathBuf {
        self.run.nbd_socket(self.pid(), self.minor)
    }

    /// Connects the rings of the guest's device, whose pages stay mapped or are copied.
    pub(crate) fn connect(&self, queues: &[FrontendQueue], persistent: bool) -> Result<()> {
        let ring = |queue: &FrontendQueue| RingQueue {
            pages: queue.pages.iter().map(|grant| grant.0).collect(),
            port: queue.port.0,
        };
        let command = native::Command::ConnectRing(ConnectRing {
            minor: self.minor.number(),
            domain: GUEST.0,
            device: DEVICE,
            queues: queues.iter().map(ring).collect(),
            abi: RingAbi::X86_64,
            persistent,
            indirect_segments: INDIRECT_SEGMENTS_MAX,
            ..ConnectRing::default()
        });
        self.ask(command).map(drop).context("connecting rings")
    }

    /// Waits until everything has been answered, and has the rings let go of; how many events there were for a request.
    pub(crate) fn disconnect(&self) -> Result<f64> {
        let (minor, domain, device) = (self.minor.number(), GUEST.0, DEVICE);
        let command = native::Command::DisconnectRing { minor, domain, device, deadline_ms: None, is_removed: false };
        let answer = self.ask(command).context("disconnecting rings")?;
        let native::ResultOf::DisconnectRing(RingDisconnected { counters, pages, broken, .. }) = answer else {
            return Err(Error::new(ErrorKind::Invalid, "an answer to something else"));
        };
        if broken.is_some() || pages.leaked > 0 {
            let words = format!("broken: {broken:?}, {} pages leaked", pages.leaked);
            return Err(Error::new(ErrorKind::Invalid, words));
        }
        #[allow(clippy::cast_precision_loss, reason = "counts of some seconds")]
        let events = (counters.kicks_in + counters.kicks_out) as f64 / counters.requests.max(1) as f64;
        Ok(events)
    }

    fn ask(&self, command: native::Command) -> Result<native::ResultOf> {
        native::Client::connect(&self.run, self.pid(), Some(PATIENCE))?.ask(command)
    }
}
