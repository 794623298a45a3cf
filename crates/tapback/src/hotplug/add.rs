//! A device has come: a disk for it.

use std::cell::Cell;

use block_core::{Error, ErrorKind, Result};
use control_api::{
    Minor,
    native::{Command, DiskSummary, OpenImages},
};
use rustix::io::Errno;

use super::{
    Script, TIDY_MAX, WORK_MAX,
    claim::{Claim, Wanted},
    within,
};
use crate::{
    DeviceName, Disk,
    finder::{Wish, begin, terminate},
};

/// How often a disk that was to be shared may end just then.
const ATTEMPTS_MAX: u32 = 10;

/// A disk that there is already.
struct Found {
    disk: Disk,
    /// The device whose disk it is, if it ends with its devices.
    shared_with: Option<DeviceName>,
}

impl Script {
    /// Makes the disk ready, or says why it is not.
    pub(super) async fn add(&self) -> Result<()> {
        let started = Cell::new(None);
        let added = within(&self.executor, WORK_MAX, self.try_add(&started)).await;
        let Err(error) = added else { return Ok(()) };
        if let Some(disk) = started.get() {
            // What is left then is known by its marker.
            let _ = within(&self.executor, TIDY_MAX, self.take_back(disk)).await;
        }
        // A device that has gone is not told anything.
        let _ = within(&self.executor, TIDY_MAX, self.tell(&error)).await;
        Err(error)
    }

    async fn try_add(&self, started: &Cell<Option<Disk>>) -> Result<()> {
        for _ in 0..ATTEMPTS_MAX {
            let wanted = self.wanted().await?;
            let found = match self.find(&wanted).await? {
                Some(found) => found,
                None => Found { disk: self.start(&wanted, started).await?, shared_with: None },
            };
            if self.claim(&wanted, found.disk, found.shared_with.as_ref()).await? == Claim::Made {
                return Ok(());
            }
        }
        Err(Error::new(ErrorKind::Busy, "the disk that it would share ends each time"))
    }

    /// The disk that it has already, or that others have and it may use.
    async fn find(&self, wanted: &Wanted) -> Result<Option<Found>> {
        let wish = Wish::Image { name: wanted.image.clone(), writable: !wanted.nodes.are_read_only() };
        let owned = self.owned().await?;
        let all: Vec<(u32, DiskSummary)> = self.search.disks().await?;
        let would_do = all.iter().filter(|(pid, disk)| wish.is_met_by(*pid, disk));
        let would_do: Vec<Disk> = would_do.map(|(pid, disk)| Disk { pid: *pid, minor: disk.minor }).collect();
        if let Some(disk) = wanted.disk().filter(|disk| would_do.contains(disk)) {
            // The same was asked for before.
            return Ok(Some(Found { disk, shared_with: None }));
        }
        for disk in would_do {
            let users = self.other_users(disk.minor, Some(disk.pid)).await?;
            let is_scripts = owned.iter().any(|(marker, _)| marker.minor().number() == disk.minor);
            if is_scripts && users.is_empty() {
                // It is being made ready, or it ends.
                continue;
            }
            self.check_sharing(wanted, &users).await?;
            let shared_with = users.into_iter().next().filter(|_| is_scripts);
            return Ok(Some(Found { disk, shared_with }));
        }
        for (marker, owner) in owned {
            if owner == self.device && self.other_users(marker.minor().number(), None).await?.is_empty() {
                // An attempt that did not come to its end, or a device of this name that was another one.
                self.end(marker).await?;
            }
        }
        Ok(None)
    }

    /// A disk that a guest may write to is no other's, unless that is asked for (`w!`). A guest that moves within a host is
    /// two domains for a while, and one machine.
    async fn check_sharing(&self, wanted: &Wanted, users: &[DeviceName]) -> Result<()> {
        if wanted.nodes.mode.as_deref().is_some_and(|mode| mode.contains('!')) {
            return Ok(());
        }
        for user in users.iter().filter(|user| user.domain != self.device.domain) {
            let is_written = !wanted.nodes.are_read_only() || self.may_write(user).await?;
            if is_written && self.machine(user).await? != self.machine(&self.device).await? {
                let words = format!("{} is in use by domain {}", wanted.image, user.domain);
                return Err(Error::from_os(words, Errno::BUSY.into()));
            }
        }
        Ok(())
    }

    async fn start(&self, wanted: &Wanted, started: &Cell<Option<Disk>>) -> Result<Disk> {
        let (run, owner) = (self.run.clone(), format!("hotplug:{}", self.device.directory(self.domain)));
        let disk = self.executor.blocking("starting a tapdisk", move || begin(&run, &owner)).await??;
        started.set(Some(disk));
        let Disk { pid, minor } = disk;
        let nodes = &wanted.nodes;
        let is_shared = nodes.mode.as_deref().is_some_and(|mode| mode.contains('!'));
        let open = OpenImages {
            minor,
            image: wanted.image.clone(),
            read_only: nodes.are_read_only(),
            shared: is_shared,
            // A guest that moves here still writes where it comes from.
            late: !nodes.are_read_only() && !is_shared,
            buffered: nodes.direct_io_safe.as_deref() == Some("0"),
            ..OpenImages::default()
        };
        for command in [Command::Attach { minor }, Command::Open(open)] {
            let gone = || Error::from_os(format!("tapdisk {pid} has gone"), Errno::NODEV.into());
            self.tapdisks.ask(pid, command).await?.ok_or_else(gone)?;
        }
        Ok(disk)
    }

    /// Ends what was started in vain.
    async fn take_back(&self, disk: Disk) -> Result<()> {
        let marker = Minor::new(disk.minor).map(|minor| self.run.open_marker(minor)).transpose()?.flatten();
        let ended = match marker {
            Some(marker) => self.end(marker).await,
            None => Ok(()),
        };
        if self.run.control_socket(disk.pid).exists() {
            // Nothing was attached to it, or it cannot let go.
            terminate(disk.pid);
        }
        ended
    }
}
