//! How long it takes to attach and to detach a disk when fifty come and go at once: alone, and beside one whose storage hangs
//! while its guest waits for an answer and its toolstack wants it back.

use std::{
    cell::RefCell,
    fs::{self, File},
    path::{Path, PathBuf},
    process::{Command, Stdio},
    time::Duration,
};

use block_core::{Error, ErrorKind, Result, ResultExt};
use control_api::{
    Minor, RUN_DIRECTORY_VARIABLE, RunDir,
    native::{self, OpenImages},
};
use futures_util::future::try_join_all;
use guest::{
    Device, DeviceOptions,
    toolstack::{DiskSpec, Toolstack},
};
use storage_io::{EngineChoice, Executor, Moment};
use xen::{
    DomainId,
    hosted::{BrokerLimits, BrokerThread, Guest},
    store::{Address, Store},
};

use crate::{
    Effort,
    figures::Report,
    load::percentile,
    processes::{EndedWhenDropped, Process, program},
};

/// Guests and the disks of each: XenStore lets a guest begin only so many transactions at a time.
const GUESTS: u16 = 10;
const DISKS_OF_EACH: u16 = 5;
const GUEST_PAGES: u32 = 1024;
const DISK_BYTES: u64 = 1 << 20;
/// The guest of the disk that hangs.
const STUCK: DomainId = DomainId(GUESTS + 1);
/// Long enough for anything here but a disk that hangs.
const PATIENCE: Duration = Duration::from_secs(60);
/// Until everybody has noticed that it hangs.
const WARM_UP: Duration = Duration::from_millis(500);

pub(crate) fn run(effort: &Effort) -> Result<Report> {
    let mut report = Report::default();
    for round in 0..effort.rounds {
        let mut medians = Vec::new();
        for (name, is_stuck) in [("alone", false), ("beside a stuck disk", true)] {
            let directory = effort.directory.join(format!("stuck-{round}-{is_stuck}"));
            fs::create_dir(&directory).context(directory.display())?;
            let mut times = measure(&directory, is_stuck, effort)?;
            for (what, samples) in [("attach", &mut times.attach), ("detach", &mut times.detach)] {
                let (median, late) = (percentile(samples, 500) / 1e3, percentile(samples, 990) / 1e3);
                report.add(format!("{what}, {name}: median"), "ms", median);
                report.add(format!("{what}, {name}: p99"), "ms", late);
                medians.push(median);
            }
            report.add(format!("disks that came and went, {name}"), "", times.cycles());
        }
        report.add("attach, beside a stuck disk : alone", "x", medians[2] / medians[0]);
        report.add("detach, beside a stuck disk : alone", "x", medians[3] / medians[1]);
    }
    let (guests, disks_of_each) = counts(effort);
    report.note(format!("{} disks of {guests} guests at a time, in one tapdisk", guests * disks_of_each));
    Ok(report)
}

/// How long it took, in nanoseconds.
#[derive(Default)]
struct Times {
    attach: Vec<u64>,
    detach: Vec<u64>,
}

impl Times {
    #[allow(clippy::cast_precision_loss, reason = "counts of some seconds")]
    fn cycles(&self) -> f64 {
        self.detach.len() as f64
    }
}

/// A host without Xen with all that belongs to it. Fields go in this order: whoever uses something goes before it.
struct World {
    executor: Executor,
    store: Store,
    toolstack: Toolstack,
    guests: Vec<(Guest, Store)>,
    _tapback: EndedWhenDropped,
    _xenstored: Process,
    _broker: BrokerThread,
    directory: PathBuf,
}

impl World {
    fn start(directory: &Path) -> Result<World> {
        let broker = BrokerThread::start(directory, BrokerLimits::default())?;
        let domains: Vec<DomainId> = (1..=STUCK.0).map(DomainId).collect();
        for domain in domains.clone() {
            broker.ask(move |broker| broker.create_domain(domain, GUEST_PAGES))?;
        }
        let mut command = Command::new(program("oxtap-xenstored")?);
        let xenstored = Process::start(command.arg(directory).args(domains.iter().map(|domain| domain.to_string())))?;
        let executor = Executor::new(EngineChoice::Inline)?;
        let connect = |name: &str| Store::connect(&executor, Address::Socket(directory.join(name)));
        let guests =
            domains.iter().map(|domain| Ok((Guest::boot(directory, *domain)?, connect(&format!("socket.{domain}"))?)));
        let guests = guests.collect::<Result<Vec<_>>>()?;
        let (store, toolstack) = (connect("socket")?, Toolstack::new(connect("socket")?));
        executor.block_on(async {
            for domain in domains {
                toolstack.add_domain(domain, u64::from(GUEST_PAGES) * 4).await?;
            }
            Ok::<(), Error>(())
        })?;
        let tapback = tapback(directory)?;
        let directory = directory.to_owned();
        Ok(World {
            executor,
            store,
            toolstack,
            guests,
            _tapback: tapback,
            _xenstored: xenstored,
            _broker: broker,
            directory,
        })
    }

    fn guest(&self, domain: DomainId) -> &(Guest, Store) {
        &self.guests[usize::from(domain.0 - 1)]
    }

    /// A toolstack attaches a disk, its script names the tapdisk, and its guest has it.
    async fn attach(&self, spec: &DiskSpec, socket: &str) -> Result<Device> {
        self.toolstack.add_disk(spec).await?;
        let backend = spec.backend_path()?;
        let node = |name: &str| backend.join(name).expect("a plain name");
        let watch = self.store.watch(&node("state"));
        while self.store.read(&node("state")).await?.as_deref() != Some(b"2") {
            watch.next().await;
        }
        for (name, value) in [("physical-device-path", socket), ("hotplug-status", "connected")] {
            self.store.write(&node(name), value.as_bytes()).await?;
        }
        let (guest, store) = self.guest(spec.domain);
        let own = spec.frontend_path()?;
        let device = Device::open(&self.executor, guest, store, own, DeviceOptions::default()).await?;
        device.connected().await?;
        Ok(device)
    }

    /// A disk comes and goes until it is time to end.
    async fn come_and_go(&self, spec: DiskSpec, socket: &str, end: Moment, times: &RefCell<Times>) -> Result<()> {
        while self.executor.now() < end {
            let begun = self.executor.now();
            let device = self.attach(&spec, socket).await?;
            let attached = self.executor.now() - begun;
            device.write(0, &[1; 4096]).await?;
            let begun = self.executor.now();
            let _ = device.shutdown(PATIENCE).await;
            if !self.toolstack.remove_disk(&spec, false, PATIENCE).await? {
                return Err(Error::new(ErrorKind::TimedOut, format!("{} was not let go of", spec.name)));
            }
            let mut times = times.borrow_mut();
            times.attach.push(nanoseconds(attached));
            times.detach.push(nanoseconds(self.executor.now() - begun));
        }
        Ok(())
    }
}

impl Drop for World {
    fn drop(&mut self) {
        self.executor.end_tasks();
    }
}

fn nanoseconds(time: Duration) -> u64 {
    u64::try_from(time.as_nanos()).unwrap_or(u64::MAX)
}

/// A daemon; it serves when it returns.
fn tapback(directory: &Path) -> Result<EndedWhenDropped> {
    let pid_file = directory.join("tapback.pid");
    let mut command = Command::new(program("tapback")?);
    on_this_host(&mut command, directory).arg("-p").arg(&pid_file).stdin(Stdio::null());
    let status = command.status().context("tapback")?;
    let pid = fs::read_to_string(&pid_file).ok().and_then(|text| text.trim().parse().ok());
    let failed = || Error::new(ErrorKind::Invalid, format!("tapback: {status}"));
    pid.filter(|_| status.success()).map(EndedWhenDropped).ok_or_else(failed)
}

fn on_this_host<'c>(command: &'c mut Command, directory: &Path) -> &'c mut Command {
    let platform = format!("hosted:{}", directory.display());
    command.env(RUN_DIRECTORY_VARIABLE, directory).env("OXTAP_XEN", platform);
    command.env("OXTAP_SYSLOG", directory.join("no-syslog"))
}

/// A tapdisk with some images open, and where each is served.
struct Disks {
    process: Process,
    sockets: Vec<String>,
}

impl Disks {
    /// The images' names begin with `prefix`, which may be a layer of faults.
    fn open(directory: &Path, prefix: &str, count: u16) -> Result<Disks> {
        let run = RunDir::at(directory);
        let mut command = Command::new(program("tapdisk")?);
        let process = Process::start(on_this_host(&mut command, directory).arg("-D"))?;
        let mut sockets = Vec::new();
        for _ in 0..count {
            let minor: Minor = run.allocate_minor()?;
            let path = directory.join(format!("disk-{minor}"));
            File::create(&path).and_then(|file| file.set_len(DISK_BYTES)).context(path.display())?;
            let (minor_number, image) = (minor.number(), format!("{prefix}aio:{}", path.display()));
            let open = OpenImages { minor: minor_number, image, ..OpenImages::default() };
            for command in [native::Command::Attach { minor: minor_number }, native::Command::Open(open)] {
                native::Client::connect(&run, process.pid(), Some(PATIENCE))?.ask(command)?;
            }
            sockets.push(run.nbd_socket(process.pid(), minor).display().to_string());
        }
        Ok(Disks { process, sockets })
    }
}

fn spec(domain: DomainId, index: u16) -> DiskSpec {
    let letter = char::from(b'a' + u8::try_from(index % 26).expect("a letter"));
    DiskSpec { script: Some("block".to_owned()), ..DiskSpec::new(domain, &format!("xvd{letter}"), "aio:/disk") }
}

/// Guests, and the disks of each.
fn counts(effort: &Effort) -> (u16, u16) {
    if effort.is_smoke { (2, 2) } else { (GUESTS, DISKS_OF_EACH) }
}

fn measure(directory: &Path, is_stuck: bool, effort: &Effort) -> Result<Times> {
    let world = World::start(directory)?;
    let (guests, disks_of_each) = counts(effort);
    let mut stuck = is_stuck.then(|| Disks::open(&world.directory, "fault:write=hang:", 1)).transpose()?;
    let disks = Disks::open(&world.directory, "", guests * disks_of_each)?;
    let times = RefCell::<Times>::default();
    world.executor.block_on(async {
        let _hung = match &stuck {
            Some(stuck) => Some(hang(&world, &stuck.sockets[0]).await?),
            None => None,
        };
        let end = world.executor.now() + effort.duration;
        let names = (1..=guests).flat_map(|guest| (0..disks_of_each).map(move |disk| (DomainId(guest), disk)));
        let all = names
            .zip(&disks.sockets)
            .map(|((guest, disk), socket)| world.come_and_go(spec(guest, disk), socket, end, &times));
        try_join_all(all).await.map(drop)
    })?;
    if let Some(stuck) = &mut stuck {
        // It would wait for what hangs.
        stuck.process.kill();
    }
    Ok(times.into_inner())
}

/// A guest waits for its write, and its toolstack for the disk.
async fn hang(world: &World, socket: &str) -> Result<[storage_io::Task<()>; 2]> {
    let spec = spec(STUCK, 0);
    let device = world.attach(&spec, socket).await?;
    let write = world.executor.spawn(async move { drop(device.write(0, &[1; 4096]).await) });
    world.executor.sleep(WARM_UP).await;
    let toolstack = world.toolstack.clone();
    let detach = world.executor.spawn(async move { drop(toolstack.remove_disk(&spec, false, 60 * PATIENCE).await) });
    world.executor.sleep(WARM_UP).await;
    Ok([write, detach])
}
