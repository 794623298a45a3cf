//! A host without Xen in which guests run: a broker on a thread of its own, a tapdisk that knows of it, and a disk.

use std::{
    path::{Path, PathBuf},
    process::Command,
    thread,
};

use block_core::Result;
use control_api::{
    native::{
        self, Client, ConnectRing, DiskSummary, OpenImages, Progress, ResultOf, RingAbi, RingConnected,
        RingDisconnected, RingQueue,
    },
    protocol::RingIdentity,
};
use guest::{Front, FrontOptions};
use storage_io::{EngineChoice, Executor, Sender, Task, Wait, mailbox};
use wire::blkif::Abi;
use xen::{
    DomainId,
    hosted::{Broker, BrokerLimits, Guest},
};

use crate::host::{Host, LONG, aio};

pub(crate) const DOMAIN: DomainId = DomainId(7);
/// A second guest, for those who need one.
pub(crate) const OTHER_DOMAIN: DomainId = DomainId(8);
/// What most tests call the guest's device.
pub(crate) const DEVICE: u32 = 51712;
pub(crate) const DISK_BYTES: u64 = 4 << 20;

pub(crate) struct Hosted {
    pub(crate) host: Host,
    pub(crate) pid: u32,
    /// As tap-ctl takes it.
    pub(crate) minor: String,
    pub(crate) image: PathBuf,
    pub(crate) executor: Executor,
    pub(crate) guest: Guest,
    end: Sender<()>,
    broker: Option<thread::JoinHandle<()>>,
}

impl Hosted {
    /// With a disk that is open.
    pub(crate) fn new() -> Hosted {
        Hosted::with(|open| open)
    }

    /// With a disk that is opened like this.
    pub(crate) fn with(how: impl FnOnce(OpenImages) -> OpenImages) -> Hosted {
        Hosted::build(how, |_, _| {})
    }

    /// With a tapdisk that may open images in one directory only.
    pub(crate) fn confined() -> Hosted {
        Hosted::build(
            |open| open,
            |command, directory| {
                command.env("OXTAP_IMAGE_DIRS", directory);
            },
        )
    }

    /// With a tapdisk that was told this of the grant budget.
    pub(crate) fn with_budget(words: &str) -> Hosted {
        Hosted::build(
            |open| open,
            |command, _| {
                command.env("OXTAP_GRANT_BUDGET", words);
            },
        )
    }

    fn build(how: impl FnOnce(OpenImages) -> OpenImages, spawned: impl FnOnce(&mut Command, &Path)) -> Hosted {
        let host = Host::new();
        let directory = host.place.scratch().to_owned();
        let (end, mut ended) = mailbox();
        let (up, mut is_up) = mailbox();
        let path = directory.clone();
        let broker = thread::spawn(move || {
            let executor = Executor::new(EngineChoice::Inline).unwrap();
            let broker = Broker::start(&executor, &path, BrokerLimits::default()).unwrap();
            broker.create_domain(DOMAIN, 1024).unwrap();
            broker.create_domain(OTHER_DOMAIN, 1024).unwrap();
            up.send(()).unwrap();
            executor.block_on(ended.recv());
        });
        let executor = Executor::new(EngineChoice::Inline).unwrap();
        executor.block_on(is_up.recv()).unwrap();
        let platform = format!("hosted:{}", directory.display());
        let mut command = host.command(&["spawn"]);
        spawned(command.env("OXTAP_XEN", platform).env_remove("OXTAP_GRANT_BUDGET"), &directory);
        let output = command.output().unwrap();
        let pid: u32 = String::from_utf8(output.stdout).unwrap().trim().parse().unwrap();
        let minor = host.attach(pid);
        let image = host.raw_image("disk", DISK_BYTES);
        let open = OpenImages { minor: minor.parse().unwrap(), image: aio(&image), ..OpenImages::default() };
        host.native(pid).ask(native::Command::Open(how(open))).unwrap();
        let guest = Guest::boot(&directory, DOMAIN).unwrap();
        Hosted { host, pid, minor, image, executor, guest, end, broker: Some(broker) }
    }

    pub(crate) fn number(&self) -> u16 {
        self.minor.parse().unwrap()
    }

    pub(crate) fn native(&self) -> Client {
        self.host.native(self.pid)
    }

    pub(crate) fn tap_ctl(&self, command: &str) {
        self.host.ok(&[command, "-p", &self.pid.to_string(), "-m", &self.minor]);
    }

    pub(crate) fn identity(&self) -> RingIdentity {
        RingIdentity { domid: u32::from(DOMAIN.0), devid: DEVICE }
    }

    /// A ring that nobody serves yet.
    pub(crate) fn front(&self, options: FrontOptions) -> Front {
        Front::new(&self.executor, &self.guest, options).unwrap()
    }

    /// What asks to serve these rings as one device.
    pub(crate) fn asking(&self, device: u32, fronts: &[&Front], abi: Abi) -> ConnectRing {
        let queue = |front: &&Front| RingQueue {
            pages: front.ring_grants().iter().map(|grant| grant.0).collect(),
            port: front.port().0,
        };
        ConnectRing {
            minor: self.number(),
            domain: DOMAIN.0,
            device,
            queues: fronts.iter().map(queue).collect(),
            abi: if abi == Abi::X86_32 { RingAbi::X86_32 } else { RingAbi::X86_64 },
            indirect_segments: 256,
            ..ConnectRing::default()
        }
    }

    pub(crate) fn connect(&self, asked: ConnectRing) -> Result<RingConnected> {
        match self.native().ask(native::Command::ConnectRing(asked))? {
            ResultOf::ConnectRing(connected) => Ok(connected),
            other => panic!("{other:?}"),
        }
    }

    pub(crate) fn disconnect(&self, device: u32, deadline_ms: Option<u64>) -> RingDisconnected {
        let (minor, domain) = (self.number(), DOMAIN.0);
        let asked = native::Command::DisconnectRing { minor, domain, device, deadline_ms, is_removed: false };
        // A job that goes on for ever tells so for ever.
        let goes_on = |made: &Progress| assert!(u128::from(made.age_ms) < LONG.as_millis(), "never: {made:?}");
        match self.native().ask_watching(asked, goes_on).unwrap() {
            ResultOf::DisconnectRing(ended) => ended,
            other => panic!("{other:?}"),
        }
    }

    /// Ends the tapdisk without a word.
    pub(crate) fn kill(&self) {
        let guards = self.host.place.processes().unwrap();
        drop(guards);
        let pid = rustix::process::Pid::from_raw(self.pid.cast_signed()).unwrap();
        let _ = rustix::process::kill_process(pid, rustix::process::Signal::KILL);
    }

    /// The disk in a few words.
    pub(crate) fn shown(&self) -> DiskSummary {
        self.native().list().unwrap().pop().unwrap()
    }

    /// Pages of the guest that somebody uses.
    pub(crate) fn used(&self) -> usize {
        self.guest.account().unwrap().used as usize
    }

    /// Has the guest write and go on with something else.
    pub(crate) fn begin_to_write(&self, front: &Front, sector: u64, bytes: [u8; 512]) -> Task<Result<()>> {
        let front = front.clone();
        let writing = self.executor.spawn(async move { front.write(sector, &bytes).await });
        self.executor.turn(Wait::No).unwrap();
        writing
    }
}

impl Drop for Hosted {
    fn drop(&mut self) {
        self.executor.end_tasks();
        let _ = self.end.send(());
        self.broker.take().unwrap().join().unwrap();
    }
}
