//! The second act: a guest works with its disk through a ring, and notices nothing of what is done around it.
//!
//! ```text
//!   host A: XenStore, tapback, tapdisk     guest.vhd <-- disk.vhd         snapshot: pause, new leaf, resume
//!      ^                                       ^                          tapback: killed, started again
//!      |  the guest, its blocks stamped        |
//!      v  and checked                          v
//!   host B: XenStore, tapback, tapdisk     disk.vhd                       migration: ready there before it leaves here
//! ```

use std::{
    pin::pin,
    time::{Duration, Instant},
};

use block_core::{Error, Result, ResultExt};
use control_api::OpenRequest;
use futures_util::future::{Either, select};
use guest::{
    Device, DeviceOptions, DiskProperties, Hold,
    toolstack::DiskSpec,
    workload::{Done, Pace, Workload},
};
use storage_io::{EngineChoice, Executor, Task};
use xen::{DomainId, hosted::Guest, store::Store};
use xenbus::Outcome;

use super::{
    super::{hosted, size},
    hosts::{DISK, DOMAIN, Host, Serving},
    place::{Place, failed, said_by},
    report::Report,
};

/// How long the guest works before something is done, and between two things.
const WORK_TIME: Duration = Duration::from_millis(1500);
/// How long tapback stays away.
const ABSENCE: Duration = Duration::from_millis(700);
/// How long anything may take that the guest waits for. A hang limit.
const PATIENCE: Duration = Duration::from_secs(30);
/// What the stamps are made from.
const SEED: u64 = 2010;
const BASE: &str = "guest.vhd";
const LEAF: &str = "disk.vhd";

/// What the whole act is about: two hosts, and a guest that is on one of them.
struct Act<'place> {
    place: &'place Place,
    executor: Executor,
    /// Where the guest is, and where it goes.
    here: Host,
    there: Host,
    serving: Serving,
    kernel: Kernel,
    workload: Workload,
    working: Option<Task<Result<()>>>,
}

/// A guest with its disk connected.
struct Kernel {
    guest: Guest,
    _store: Store,
    device: Device,
    _hold: Hold,
    disk: DiskProperties,
}

/// Plays it. What the disk must hold at its start afterwards; the rest is zero.
pub(super) fn play(place: &Place, disk_bytes: u64, report: &mut Report) -> Result<Vec<u8>> {
    let hosts = report.step(
        "two hosts",
        || Ok((Host::start(place, "host-a")?, Host::start(place, "host-b")?)),
        |_| "each with memory, event channels, XenStore and tapback of its own; no Xen, no root".to_owned(),
    )?;
    let mut act = report.step("guest", || Act::begin(place, disk_bytes, hosts), Act::describe)?;
    report.step("snapshot", || act.snapshot(), Snapshot::describe)?;
    report.step("tapback", || act.lose_tapback(), |answered| {
        format!("killed and started again; meanwhile {answered} requests were answered, and the guest has noticed nothing")
    })?;
    report.step("migration", || act.migrate(), Migration::describe)?;
    let content = report.step(
        "detach",
        || act.detach(),
        |_| "closed after the last write; of the guest's memory not one page is granted any more".to_owned(),
    )?;
    report.step("oxtap doctor", || act.end(), |()| "finds nothing on either host".to_owned())?;
    Ok(content)
}

/// A snapshot under load.
struct Snapshot {
    before: Done,
    paused: Duration,
}

impl Snapshot {
    fn describe(&self) -> String {
        let Done { read_bytes, written_bytes, .. } = self.before;
        format!(
            "after {} requests ({}), all as expected: pause, {LEAF} on {BASE}, resume; the guest waited {} ms",
            self.before.requests(),
            size::describe(read_bytes + written_bytes),
            self.paused.as_millis()
        )
    }
}

/// A move under load.
struct Migration {
    blackout: Duration,
    unanswered: u64,
    blocks: u64,
}

impl Migration {
    fn describe(&self) -> String {
        let Migration { blackout, unanswered, blocks } = self;
        let stopped = blackout.as_millis();
        format!(
            "the guest stood still for {stopped} ms, {unanswered} requests under way; all {blocks} blocks are right there"
        )
    }
}

impl<'place> Act<'place> {
    /// The toolstack gives the guest a disk, and the guest begins to work with it.
    fn begin(place: &'place Place, disk_bytes: u64, (here, there): (Host, Host)) -> Result<Act<'place>> {
        place.vhd_util(&["create", "-n", BASE, "-s", &(disk_bytes >> 20).to_string()])?;
        let serving = here.add_disk(&place.file(BASE))?;
        let executor = Executor::new(EngineChoice::Probe)?;
        let kernel = executor.block_on(boot(&executor, &here))?;
        let workload = Workload::new(SEED, &kernel.disk);
        let mut act = Act { place, executor, here, there, serving, kernel, workload, working: None };
        act.set_to_work();
        Ok(act)
    }

    fn describe(&self) -> String {
        let (queues, order) = self.kernel.device.rings();
        let bytes = size::describe(self.kernel.disk.sectors * 512);
        let (queues, pages) = (size::count(queues as u64, "ring"), size::count(1 << order, "page"));
        format!("has {DISK}, {bytes}, {queues} of {pages}, and works")
    }

    fn set_to_work(&mut self) {
        let (device, workload) = (self.kernel.device.clone(), self.workload.clone());
        let work = async move { workload.run(&device, u64::MAX, Pace::default()).await };
        self.working = Some(self.executor.spawn(work));
    }

    /// Goes on with the guest while `event` happens around it.
    fn meanwhile<T>(&mut self, event: impl Future<Output = Result<T>>) -> Result<T> {
        let executor = self.executor.clone();
        let working = self.working.as_mut().ok_or_else(|| failed("the guest does not work"))?;
        executor.block_on(async {
            match select(pin!(event), working).await {
                Either::Left((told, _)) => told,
                Either::Right((ended, _)) => ended.and(Err(failed("the guest has lost its disk"))),
            }
        })
    }

    /// The storage manager makes a new leaf while the disk stands still.
    fn snapshot(&mut self) -> Result<Snapshot> {
        let (executor, workload) = (self.executor.clone(), self.workload.clone());
        let (client, minor) = (self.here.client(self.serving), self.serving.minor);
        let directory = self.place.path().to_owned();
        let leaf = OpenRequest::new(format!("vhd:{}", self.place.file(LEAF).display()))?;
        self.meanwhile(async {
            executor.sleep(WORK_TIME).await;
            let before = workload.done();
            let change = move || {
                let begun = Instant::now();
                client.pause(minor).context("pause")?;
                let words = ["snapshot", "-n", LEAF, "-p", BASE];
                said_by(std::process::Command::new(super::place::ours("vhd-util")).args(words).current_dir(directory))?;
                client.resume(minor, &leaf).context("resume")?;
                Ok::<_, Error>(begun.elapsed())
            };
            let paused = executor.blocking("a snapshot", change).await??;
            workload.until(before.requests() + 1).await;
            Ok(Snapshot { before, paused })
        })
    }

    /// How many requests were answered while there was no tapback.
    fn lose_tapback(&mut self) -> Result<u64> {
        let (executor, workload) = (self.executor.clone(), self.workload.clone());
        self.here.kill_tapback()?;
        let before = workload.done().requests();
        let answered = self.meanwhile(async {
            executor.sleep(ABSENCE).await;
            Ok(workload.done().requests() - before)
        })?;
        self.here.start_tapback()?;
        self.meanwhile(async {
            executor.sleep(WORK_TIME).await;
            Ok(())
        })?;
        match answered {
            0 => Err(failed("nothing was answered while there was no tapback")),
            answered => Ok(answered),
        }
    }

    /// The guest goes on at the other host, with everything that it has written.
    fn migrate(&mut self) -> Result<Migration> {
        let executor = self.executor.clone();
        // The target is made ready while the source works.
        let (mut add, leaf) = (self.there.adding(&self.place.file(LEAF))?, self.place.file(LEAF));
        let serving = self.meanwhile(async {
            let told = executor.blocking("adding a disk", move || said_by(&mut add)).await??;
            Host::serving(&told).context(leaf.display())
        })?;
        let mut remove = self.here.oxtap(&["hosted", "remove-domain", &self.here.name(), &DOMAIN.to_string()])?;
        // From here on the guest stands still: what it has asked and has no answer for, it asks again there.
        let done = self.workload.done();
        drop(self.working.take());
        let stopped = Instant::now();
        let (executor, there) = (self.executor.clone(), &self.there);
        let moved = executor.block_on(async {
            let removed = executor.blocking("ending a domain", move || said_by(&mut remove));
            let kernel = boot(&executor, there).await?;
            self.workload.run(&kernel.device, 1, Pace::default()).await?;
            let blackout = stopped.elapsed();
            removed.await??;
            let blocks = self.workload.verify(&kernel.device, Pace::default()).await?;
            Ok::<_, Error>((kernel, blackout, blocks))
        });
        let (kernel, blackout, blocks) = moved?;
        (self.kernel, self.serving) = (kernel, serving);
        self.set_to_work();
        self.meanwhile(async {
            executor.sleep(WORK_TIME).await;
            Ok(())
        })?;
        Ok(Migration { blackout, unanswered: self.workload.done().unanswered - done.unanswered, blocks })
    }

    /// The guest shuts down, and its disk is taken away.
    fn detach(&mut self) -> Result<Vec<u8>> {
        let (executor, workload) = (self.executor.clone(), self.workload.clone());
        workload.stop();
        let working = self.working.take().ok_or_else(|| failed("the guest does not work"))?;
        let Kernel { guest, device, .. } = &self.kernel;
        executor.block_on(async {
            working.await?;
            workload.verify(device, Pace::default()).await?;
            match device.shutdown(PATIENCE).await {
                Outcome::AtItsStart => Ok(()),
                other => Err(failed(format!("the disk could not be left: {other:?}"))),
            }
        })?;
        let account = guest.account()?;
        if (account.granted, account.used) != (0, 0) {
            return Err(failed(format!("pages are left: {account:?}")));
        }
        let words = ["hosted", "remove-disk", &self.there.name(), &DOMAIN.to_string(), DISK];
        said_by(&mut self.there.oxtap(&words)?)?;
        said_by(&mut self.there.oxtap(&["hosted", "remove-domain", &self.there.name(), &DOMAIN.to_string()])?)?;
        workload.content().ok_or_else(|| failed("of some blocks it is not known what they hold"))
    }

    fn end(self) -> Result<()> {
        let Act { executor, here, there, kernel, .. } = self;
        drop(kernel);
        executor.end_tasks();
        here.check()?;
        there.check()?;
        here.end()?;
        there.end()
    }
}

/// A kernel that knows nothing but the tree finds its disk.
async fn boot(executor: &Executor, host: &Host) -> Result<Kernel> {
    let guest = Guest::boot(&host.directory, DomainId(DOMAIN))?;
    let store = hosted::connect(executor, &host.directory, DOMAIN)?;
    let path = DiskSpec::new(DomainId(DOMAIN), DISK, "").frontend_path()?;
    let options = DeviceOptions { order: 2, queues: 2, patience: PATIENCE, ..DeviceOptions::default() };
    let device = Device::open(executor, &guest, &store, path, options).await?;
    let late = executor.sleep(PATIENCE);
    let disk = match select(pin!(device.connected()), pin!(late)).await {
        Either::Left((disk, _)) => disk?,
        Either::Right(_) => return Err(failed("the backend does not connect")),
    };
    let hold = device.hold();
    Ok(Kernel { guest, _store: store, device, _hold: hold, disk })
}
