//! Disks that are there because a device needs them: a tapdisk is started for the first, and ended after the last.
//!
//! ```text
//!   minor reserved in the device's name --> tapdisk started --> attached --> opened: named in the device's directory
//!        ^                                                                                         |
//!        +---- freed <---- detached: the process ends <---- closed <---- no device needs it <------+
//! ```
//!
//! What is done to the disks of one image is done one after the other; what hangs holds up that image and no other. The
//! marker of the minor says whose disk it is, so that whoever comes after us knows as well.

use std::{
    cell::RefCell,
    collections::{BTreeSet, HashMap},
    rc::Rc,
    time::Duration,
};

use block_core::{Error, ErrorKind, Result, ResultExt};
use control_api::{
    Minor, RunDir,
    native::{Command, OpenImages},
    spawn_for_use,
};
use rustix::{
    io::Errno,
    process::{Pid, Signal, kill_process},
};
use storage_io::Executor;
use xen::{DomainId, store::Store};

use super::{names::Wish, search::Search};
use crate::{DeviceName, Disk, ImageNodes, Log, Tapdisks, name::domain_directory};

/// What a marker says of a disk that was started for a device: this, and the device's directory.
const OWNER: &str = "hotplug:";
/// A process that has detached its last disk holds the marker for a moment longer.
const LET_GO_PAUSE: Duration = Duration::from_millis(10);
/// Looks at it.
const LET_GO_LOOKS_MAX: u32 = 500;

pub(super) struct OwnDisks {
    executor: Executor,
    run: RunDir,
    tapdisks: Tapdisks,
    search: Rc<Search>,
    store: Store,
    domain: DomainId,
    log: Rc<dyn Log>,
    books: RefCell<HashMap<Disk, Entry>>,
    /// Images to whose disks something is being done.
    busy: RefCell<BTreeSet<String>>,
    freed: storage_io::Signal,
}

/// A disk of ours.
struct Entry {
    image: String,
    /// Devices that need it, each as often as it has opened it.
    users: Vec<DeviceName>,
}

/// The turn to do something to the disks of an image.
struct Turn {
    disks: Rc<OwnDisks>,
    image: String,
}

impl Drop for Turn {
    fn drop(&mut self) {
        self.disks.busy.borrow_mut().remove(&self.image);
        self.disks.freed.notify();
    }
}

impl OwnDisks {
    pub(super) fn new(store: &Store, run: &RunDir, search: Rc<Search>, domain: DomainId, log: Rc<dyn Log>) -> OwnDisks {
        let (store, run, executor) = (store.clone(), run.clone(), store.executor().clone());
        let tapdisks = Tapdisks::new(&executor, run.clone());
        let (books, busy, freed) = (RefCell::default(), RefCell::default(), storage_io::Signal::new());
        OwnDisks { executor, run, tapdisks, search, store, domain, log, books, busy, freed }
    }

    /// The disk that has the device's image open; one is started if there is none and we may.
    pub(super) async fn open(
        self: &Rc<Self>,
        device: &DeviceName,
        image: &ImageNodes,
        may_start: bool,
    ) -> Result<Disk> {
        let name = image.params.clone().filter(|params| params.contains(':'));
        let name = name.ok_or_else(|| Error::new(ErrorKind::Invalid, "params is not type:path"))?;
        let _turn = self.turn(&name).await;
        let wishes = [Wish::Image { name: name.clone(), writable: !image.are_read_only() }];
        let found = self.search.find(&wishes).await?;
        let disk = match found.disk {
            Some(disk) => {
                if may_start {
                    self.check_sharing(device, image, disk).await?;
                }
                disk
            }
            None if may_start => self.start(device, image, &name).await?,
            None => return Err(found.complaint(&wishes)),
        };
        if self.is_own(disk).await? {
            let mut books = self.books.borrow_mut();
            books.entry(disk).or_insert(Entry { image: name, users: Vec::new() }).users.push(device.clone());
        }
        Ok(disk)
    }

    /// What a script would have written of a disk of ours.
    pub(super) fn nodes(&self, disk: Disk) -> Vec<(&'static str, String)> {
        let Some(minor) = Minor::new(disk.minor).filter(|_| self.books.borrow().contains_key(&disk)) else {
            return Vec::new();
        };
        let socket = self.run.nbd_socket(disk.pid, minor).display().to_string();
        vec![("pid", disk.pid.to_string()), ("minor", minor.to_string()), ("physical-device-path", socket)]
    }

    /// A device needs it no more. The disk ends with the last one.
    pub(super) fn close(self: &Rc<Self>, device: &DeviceName, disk: Disk) {
        let mut books = self.books.borrow_mut();
        let Some(entry) = books.get_mut(&disk) else { return };
        if let Some(place) = entry.users.iter().position(|user| user == device) {
            entry.users.swap_remove(place);
        }
        if entry.users.is_empty() {
            let ended = self.clone().end(device.clone(), disk, entry.image.clone());
            self.executor.spawn(ended).detach();
        }
    }

    /// A disk that a guest may write to is no other's, unless that is asked for (`w!`). A guest that moves within a host is
    /// two domains for a while, and one machine.
    async fn check_sharing(&self, device: &DeviceName, image: &ImageNodes, disk: Disk) -> Result<()> {
        let users = self.books.borrow().get(&disk).map(|entry| entry.users.clone()).unwrap_or_default();
        if image.is_shared() {
            return Ok(());
        }
        for user in users.iter().filter(|user| user.domain != device.domain) {
            let is_written = !image.are_read_only() || self.may_write(user).await?;
            if is_written && self.machine(user).await? != self.machine(device).await? {
                let words = format!("its image is in use by domain {}", user.domain);
                return Err(Error::from_os(words, Errno::BUSY.into()));
            }
        }
        Ok(())
    }

    async fn may_write(&self, device: &DeviceName) -> Result<bool> {
        let mode = device.directory(self.domain).join("mode").expect("a plain name");
        Ok(self.store.read(&mode).await?.is_some_and(|mode| mode.contains(&b'w')))
    }

    /// What stays the same of a domain that becomes another.
    async fn machine(&self, device: &DeviceName) -> Result<Option<Vec<u8>>> {
        self.store.read(&domain_directory(device.domain).join("vm").expect("a plain name")).await
    }

    async fn turn(self: &Rc<Self>, image: &str) -> Turn {
        self.freed.until(|| !self.busy.borrow().contains(image)).await;
        self.busy.borrow_mut().insert(image.to_owned());
        Turn { disks: self.clone(), image: image.to_owned() }
    }

    /// Whether a disk was started for a device, by us or by whoever was here before.
    async fn is_own(&self, disk: Disk) -> Result<bool> {
        let Some(minor) = Minor::new(disk.minor) else { return Ok(false) };
        let run = self.run.clone();
        let owner = self.executor.blocking("looking at a marker", move || run.minor_owner(minor)).await??;
        Ok(owner.is_some_and(|owner| owner.starts_with(OWNER)))
    }

    async fn start(&self, device: &DeviceName, image: &ImageNodes, name: &str) -> Result<Disk> {
        let owner = format!("{OWNER}{}", device.directory(self.domain));
        let run = self.run.clone();
        let disk = self.executor.blocking("starting a tapdisk", move || begin(&run, &owner)).await??;
        let Disk { pid, minor } = disk;
        self.log.note(device, &format!("tapdisk {pid} was started, minor {minor}"));
        let open = OpenImages {
            minor,
            image: name.to_owned(),
            read_only: image.are_read_only(),
            shared: image.is_shared(),
            // Its guest may be somewhere else yet.
            late: true,
            buffered: image.direct_io_safe.as_deref() == Some("0"),
            ..OpenImages::default()
        };
        let opened = async {
            self.ask(pid, Command::Attach { minor }).await?;
            self.ask(pid, Command::Open(open)).await
        };
        if let Err(error) = opened.await {
            if let Err(untidy) = self.try_end(disk).await {
                self.complain(device, disk, &untidy);
                terminate(pid);
            }
            return Err(error);
        }
        Ok(disk)
    }

    /// Has something done by a tapdisk that must be there.
    async fn ask(&self, pid: u32, command: Command) -> Result<()> {
        let gone = || Error::from_os(format!("tapdisk {pid} has gone"), Errno::NODEV.into());
        self.tapdisks.ask(pid, command).await?.ok_or_else(gone).map(drop)
    }

    async fn end(self: Rc<Self>, device: DeviceName, disk: Disk, image: String) {
        let _turn = self.turn(&image).await;
        if self.books.borrow().get(&disk).is_none_or(|entry| !entry.users.is_empty()) {
            // Somebody has come back to it meanwhile, or it has been ended already.
            return;
        }
        self.books.borrow_mut().remove(&disk);
        match self.try_end(disk).await {
            Ok(()) => self.log.note(&device, &format!("tapdisk {} has ended", disk.pid)),
            Err(error) => self.complain(&device, disk, &error),
        }
    }

    /// Closes a disk, which ends its process; what has been done already is as good.
    async fn try_end(&self, disk: Disk) -> Result<()> {
        let Disk { pid, minor } = disk;
        let close = |force| Command::Close { minor, force, deadline_ms: None };
        if self.tapdisks.ask(pid, close(false)).await.is_err() {
            self.tapdisks.ask(pid, close(true)).await.context("close")?;
        }
        self.tapdisks.ask(pid, Command::Detach { minor }).await.context("detach")?;
        let Some(minor) = Minor::new(minor) else { return Ok(()) };
        for _ in 0..LET_GO_LOOKS_MAX {
            let run = self.run.clone();
            let freeing = move || match run.minor_record(minor).opened {
                // Another process has it by now, which has taken the place of one that went.
                Some(opened) if opened.pid != pid => Ok(()),
                _ => run.free_minor(minor),
            };
            match self.executor.blocking("freeing a minor", freeing).await? {
                Err(error) if error.os_error() == Some(Errno::AGAIN.raw_os_error()) => {
                    self.executor.sleep(LET_GO_PAUSE).await;
                }
                freed => return freed,
            }
        }
        Err(Error::from_os(format!("its process does not let go of minor {minor}"), Errno::TIMEDOUT.into()))
    }

    fn complain(&self, device: &DeviceName, disk: Disk, error: &Error) {
        self.log.note(device, &format!("tapdisk {} cannot be ended: {error}", disk.pid));
    }
}

/// Asks a process of ours to end with which nothing can be done.
pub(crate) fn terminate(pid: u32) {
    if let Some(pid) = i32::try_from(pid).ok().and_then(Pid::from_raw) {
        let _ = kill_process(pid, Signal::TERM);
    }
}

/// Reserves a minor and starts a process; the minor is free again if that fails.
pub(crate) fn begin(run: &RunDir, owner: &str) -> Result<Disk> {
    let minor = run.allocate_minor_for(owner).context("allocating a minor")?;
    match spawn_for_use(run, &[]).context("starting tapdisk") {
        Ok(mut spawned) => {
            if spawned.child.id() != spawned.pid {
                // It has put the tapdisk into the background and ended.
                let _ = spawned.child.wait();
            }
            Ok(Disk { pid: spawned.pid, minor: minor.number() })
        }
        Err(error) => {
            let _ = run.free_minor(minor);
            Err(error)
        }
    }
}
