//! A host without Xen: a broker in this process, one guest, and a tapdisk that knows of them.

use std::{
    path::{Path, PathBuf},
    process::Command,
    thread::{self, JoinHandle},
    time::Duration,
};

use block_core::{Error, ErrorKind, Result, ResultExt};
use control_api::{
    Client, Minor, RUN_DIRECTORY_VARIABLE, RunDir,
    native::{self, OpenImages},
    protocol::{Body, Message, Request, RingIdentity, RingParameters},
};
use storage_io::{EngineChoice, Executor, Sender, mailbox};
use xen::{
    DomainId,
    hosted::{Broker, BrokerLimits, Guest, HostedGrants},
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
    end: Option<Sender<()>>,
    broker: Option<JoinHandle<()>>,
}

impl Host {
    /// Starts the broker with its socket in `directory`, and the guest.
    pub(crate) fn start(directory: &Path) -> Result<Host> {
        let (end, mut ended) = mailbox();
        let (started, wait) = std::sync::mpsc::channel();
        let path = directory.to_owned();
        let broker = thread::spawn(move || {
            let start = || {
                let executor = Executor::new(EngineChoice::Inline)?;
                let broker = Broker::start(&executor, &path, BrokerLimits::default())?;
                broker.create_domain(GUEST, GUEST_PAGES)?;
                Ok((executor, broker))
            };
            match start() {
                Ok((executor, broker)) => {
                    let _ = started.send(Ok(()));
                    executor.block_on(ended.recv());
                    drop(broker);
                }
                Err(error) => {
                    let _ = started.send(Err(error));
                }
            }
        });
        wait.recv().unwrap_or_else(|_| Err(Error::new(ErrorKind::Closed, "the broker has gone")))?;
        let guest = Guest::boot(directory, GUEST)?;
        Ok(Host { directory: directory.to_owned(), guest, end: Some(end), broker: Some(broker) })
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
        let mut client = native::Client::connect(&run, process.pid(), Some(PATIENCE))?;
        client.ask(native::Command::Attach { minor: minor.number() })?;
        let image = format!("aio:{}", image.display());
        let open = OpenImages { minor: minor.number(), image, buffered, ..OpenImages::default() };
        client.ask(native::Command::Open(open))?;
        Ok(Tapdisk { run, minor, process })
    }
}

impl Drop for Host {
    fn drop(&mut self) {
        self.end.take();
        if let Some(broker) = self.broker.take() {
            let _ = broker.join();
        }
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

    /// Connects the rings of the guest's device.
    pub(crate) fn connect(&self, queues: &[FrontendQueue]) -> Result<()> {
        let [queue] = queues else {
            return Err(Error::new(ErrorKind::Unsupported, "one ring is connected"));
        };
        let mut references = [0; 8];
        references.iter_mut().zip(&queue.pages).for_each(|(place, grant)| *place = grant.0);
        let ring = RingParameters {
            identity: identity(),
            references,
            order: queue.pages.len().trailing_zeros(),
            protocol: 3,
            port: queue.port.0,
            ..RingParameters::default()
        };
        self.tell(self.minor.number(), Body::RingConnect(ring)).context("connecting a ring")
    }

    /// Waits until everything has been answered, and has the rings let go of.
    pub(crate) fn disconnect(&self) -> Result<()> {
        self.tell(0, Body::RingDisconnect(identity())).context("disconnecting a ring")
    }

    fn tell(&self, cookie: u16, body: Body) -> Result<()> {
        let client = Client::new(&self.run, self.pid()).timeout(PATIENCE);
        match client.exchange(&Request::new(Message::new(cookie, body)))?.body {
            Body::Error(number, words) => {
                let words = format!("{number:?}: {words:?}");
                Err(Error::new(ErrorKind::Invalid, words))
            }
            _ => Ok(()),
        }
    }
}

fn identity() -> RingIdentity {
    RingIdentity { domid: u32::from(GUEST.0), devid: DEVICE }
}
