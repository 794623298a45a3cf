//! What jobs do to the disk of a home.

use std::{pin::pin, rc::Rc, time::Duration};

use block_core::{Error, ErrorKind, Result, ResultExt};
use control_api::Opened;
use futures_util::future::{Either, select};
use image_chain::{ChainSpec, ImageName, Writing};
use rustix::io::Errno;
use storage_io::{Access, LockPolicy, Moment};
use virtual_disk::{DiskState, Geometry, Quiet};

use super::{Done, Gave, Home, Name, Open};
use crate::{
    exports::Exports,
    layers::{Layers, ValveName, split_layers},
    queues::{self, QueueThreads},
    rings::{Adoption, Device, Parting, RingName},
    slot::EmptyPause,
    valve::Valve,
};

/// How often, and how far apart, the images of a paused disk are tried: what storage has just moved may show up late.
const RESUME_ATTEMPTS: u32 = 10;
const RESUME_PAUSE: Duration = Duration::from_secs(1);
/// How long a first writer waits for the writer before, who may just be leaving on another host.
const LATE_LOCK_DEADLINE: Duration = Duration::from_secs(30);
/// How long closing waits for what guests have asked before it is answered with an error.
const GUESTS_GRACE: Duration = Duration::from_secs(2);

impl Home {
    fn state(&self) -> DiskState {
        self.disk.status().state()
    }

    pub(super) async fn open(&self, open: Open) -> Result<Geometry> {
        match self.state() {
            DiskState::Attached | DiskState::Closed => {}
            DiskState::Stuck => return Err(self.stuck()),
            _ => return Err(os(format!("minor {} is open already", self.minor), Errno::ALREADY)),
        }
        let layers = split_layers(open.name.as_bytes())?;
        let spec = spec(&open, &layers)?;
        {
            let mut words = self.published.words();
            words.name = open.name.clone();
            words.is_buffered = open.is_buffered;
            words.is_shared = open.is_shared;
            words.empty_pause = None;
        }
        self.is_forced.set(false);
        self.fail_by_rules(&open, &layers)?;
        if let Some(limits) = open.limits {
            self.disk.limiter().set(limits);
        }
        // Before the first request, and whether or not the limiter is there.
        self.is_valve_told.set(false);
        self.limit_by(layers.valve.as_ref());
        let opened = self.disk.open(spec, open.settings(self.retry_eio)).await;
        let geometry = opened.inspect_err(|_| self.limit_by(None))?;
        if let Err(error) = self.start_serving(&open) {
            self.limit_by(None);
            // The first error is the one that matters; nobody has written anything yet.
            let _ = self.disk.close().await;
            return Err(error);
        }
        self.keep(Some(&open));
        self.opened.replace(Some(open));
        Ok(geometry)
    }

    /// What is open is kept where it is found when this process has gone. Nothing is from the moment on at which others may
    /// put another image in its place; nor of a disk with a key, which is kept nowhere and without which nobody can open it.
    fn keep(&self, open: Option<&Open>) {
        let opened = open.filter(|open| open.key.is_none()).and_then(|open| {
            let image = std::str::from_utf8(open.name.as_bytes()).ok()?.to_owned();
            let Open { is_read_only: read_only, is_shared: shared, is_buffered: buffered, is_late: late, .. } = *open;
            Some(Opened { pid: self.pid, image, read_only, shared, buffered, late })
        });
        // It is a service, not a duty: without it the disk is not opened again by itself.
        self.count(self.run.change_minor_record(self.minor, |record| record.opened = opened));
    }

    /// Makes the disk ask this rate limiter from now on, or none.
    pub(super) fn limit_by(&self, valve: Option<&ValveName>) {
        // The old one first: what it does when it goes would undo what the new one has done.
        self.valve.take();
        let valve = valve.map(|name| Valve::open(&self.disk, name, &self.run, self.minor, &self.log));
        self.published.words().valve = valve.as_ref().map(Valve::shown);
        self.valve.replace(valve);
    }

    fn start_serving(&self, open: &Open) -> Result<()> {
        if self.is_forced.get() {
            return Err(Error::new(ErrorKind::Closed, "the disk was closed by force"));
        }
        let queues = open.queues.map_or_else(queues::usual, usize::from);
        let threads = QueueThreads {
            engine: self.engine,
            minor: self.minor,
            count: queues,
            log: self.log.clone(),
            loops: self.loops.clone(),
        };
        let exports = Exports::start(&self.disk, &self.run, self.pid, threads)?;
        self.exports.replace(Some(Rc::new(exports)));
        self.count(self.pages.open(&self.disk));
        Ok(())
    }

    /// Statistics in shared memory are a service, not a duty.
    fn count(&self, made: Result<()>) {
        if let Err(error) = made {
            self.log.warning(format!("minor={}: {error}", self.minor));
        }
    }

    pub(super) async fn pause(&self, deadline: Option<Duration>) -> Result<Quiet> {
        if matches!(self.state(), DiskState::Attached | DiskState::Closed) {
            self.published.words().empty_pause.get_or_insert(EmptyPause::Paused);
            return Ok(Quiet::default());
        }
        let quiet = self.disk.pause(deadline).await?;
        self.keep(None);
        self.pages.pause();
        Ok(quiet)
    }

    pub(super) async fn quiesce(&self, deadline: Option<Duration>) -> Result<Quiet> {
        let quiet = self.disk.quiesce(deadline).await?;
        self.keep(None);
        Ok(quiet)
    }

    pub(super) async fn grow(&self, bytes: Option<u64>) -> Done {
        let before = self.disk.status().geometry().map_or(0, |geometry| geometry.bytes());
        Ok(Gave::Resized(before, self.disk.grow(bytes).await?))
    }

    pub(super) async fn resume(&self, name: Option<Name>) -> Result<Geometry> {
        if let Some(empty) = &mut self.published.words().empty_pause {
            *empty = EmptyPause::ResumeFailed;
            return Err(Error::new(ErrorKind::SizeChanged, format!("minor {} was never opened", self.minor)));
        }
        if !matches!(self.state(), DiskState::Paused | DiskState::ResumeFailed | DiskState::Quiesced) {
            return Err(Error::new(ErrorKind::Invalid, format!("minor {} is not paused", self.minor)));
        }
        let mut open = self.opened.borrow().clone().expect("a disk that is paused was opened");
        // One that nobody names must be the image that it was.
        let is_named = name.is_some();
        open.name = name.unwrap_or(open.name);
        let layers = split_layers(open.name.as_bytes())?;
        let spec = is_named.then(|| spec(&open, &layers)).transpose()?;
        if is_named {
            self.fail_by_rules(&open, &layers)?;
        }
        let valve = layers.valve;
        let result = self.try_to_resume(spec.as_ref()).await;
        let is_another_disk = result.as_ref().is_err_and(|error| error.kind() == ErrorKind::SizeChanged);
        if result.is_ok() || is_another_disk {
            self.published.words().name = open.name.clone();
            self.opened.replace(Some(open));
            if is_named && !self.is_valve_told.get() {
                self.limit_by(valve.as_ref());
            }
        }
        let geometry = result?;
        self.keep(self.opened.borrow().as_ref());
        self.count(self.pages.resume());
        Ok(geometry)
    }

    /// Opens the images, several times if the system says that they cannot be opened.
    async fn try_to_resume(&self, spec: Option<&ChainSpec>) -> Result<Geometry> {
        let mut attempt = 1;
        loop {
            let error = match self.disk.resume(spec.cloned()).await {
                Ok(geometry) => return Ok(geometry),
                Err(error) => error,
            };
            let is_refused = error.os_error() == Some(Errno::ACCESS.raw_os_error());
            let may_pass = error.os_error().is_some() && error.kind() != ErrorKind::Busy && !is_refused;
            if !may_pass || attempt == RESUME_ATTEMPTS || self.is_forced.get() {
                return Err(error);
            }
            self.log.warning(format!("minor={}: resume, attempt {attempt}: {error}", self.minor));
            if self.is_turned_back_within(RESUME_PAUSE).await {
                return Err(error);
            }
            attempt += 1;
        }
    }

    /// Lets time pass in which the job may be given up; says whether it was.
    async fn is_turned_back_within(&self, time: Duration) -> bool {
        let turning = &self.turning_back;
        turning.is_wanted.set(false);
        turning.is_possible.set(true);
        let wanted = pin!(turning.changed.until(|| turning.is_wanted.get()));
        select(wanted, pin!(self.executor.sleep(time))).await;
        turning.is_possible.set(false);
        turning.is_wanted.get()
    }

    /// Gives up the job that is being done, if it can be. Says whether it could.
    pub(super) fn turn_back(&self) -> bool {
        let turning = &self.turning_back;
        if turning.is_possible.get() {
            turning.is_wanted.set(true);
            turning.changed.notify();
            return true;
        }
        self.disk.cancel()
    }

    pub(super) async fn close(&self) -> Result<()> {
        self.published.words().empty_pause = None;
        self.keep(None);
        if let Some(exports) = &*self.exports.borrow() {
            exports.stop_listening();
        }
        // Guests first: what they have asked is answered before the images are closed. What is tried again and again, or
        // held by a disk that is paused, is answered with an error by its closing.
        if self.state() == DiskState::Running {
            self.rings.drain_all(GUESTS_GRACE).await;
        }
        let result = self.disk.close().await;
        let hanging = self.rings.disconnect_all(self.executor.now() + GUESTS_GRACE).await;
        hanging.into_iter().for_each(|error| self.count(Err(error)));
        self.stop_serving().await;
        result
    }

    pub(super) async fn force_close(&self) -> Result<()> {
        self.is_forced.set(true);
        self.has_abandoned.set(true);
        self.published.words().empty_pause = None;
        self.keep(None);
        let result = self.disk.force_close().await;
        let hanging = self.rings.let_all_go().await;
        hanging.into_iter().for_each(|error| self.count(Err(error)));
        self.stop_serving().await;
        result
    }

    pub(super) async fn connect_ring(&self, device: Device, adopt: bool) -> Done {
        let exports = self.exports.borrow().clone();
        let geometry = self.disk.status().geometry();
        let writer = geometry.filter(|geometry| !device.sees(*geometry).read_only).map(|_| self.disk.writer());
        if writer.is_some() && !(adopt && self.rings.are_connected(device.name)) {
            self.disk.begin_writing().await.context(format!("ring {}", device.name))?;
        }
        // Only the lock tells that nothing comes any more of whoever had it.
        let is_locked = self.opened.borrow().as_ref().is_some_and(|opened| !opened.is_shared);
        let adoption = Adoption { is_wanted: adopt, repeats_changes: is_locked && writer.is_some() };
        self.rings.connect(exports, geometry, device, adoption, writer).await.map(Gave::RingConnected)
    }

    pub(super) async fn disconnect_ring(&self, name: RingName, parting: Parting) -> Done {
        let deadline = parting.deadline.map(|deadline| self.executor.now() + deadline);
        if parting.is_removed {
            self.rings.cut(name);
        }
        let mut ended = self.rings.disconnect(name, deadline).await?;
        if ended.is_abandoned {
            self.has_abandoned.set(true);
        }
        let settled = self.settle_writes(deadline).await.and_then(|()| self.holds_nothing_abandoned());
        ended.not_durable = settled.err().map(|error| error.to_string());
        if ended.was_connected {
            let durable = ended
                .not_durable
                .as_ref()
                .map_or_else(|| "is durable".to_owned(), |why| format!("is not durable: {why}"));
            self.log.info(format!("minor={}: ring {name} has gone; what it was answered {durable}", self.minor));
        }
        Ok(Gave::RingDisconnected(ended))
    }

    /// What storage holds of a guest that was let go of without its answers may still be written.
    fn holds_nothing_abandoned(&self) -> Result<()> {
        let is_held = self.has_abandoned.get() && self.disk.status().in_flight() > 0;
        self.has_abandoned.set(is_held);
        let words = "storage still holds requests of a guest that was let go of";
        if is_held { Err(Error::new(ErrorKind::TimedOut, words)) } else { Ok(()) }
    }

    /// A guest stands still. A disk at rest has neither write access nor requests that run.
    pub(super) async fn settle_ring(&self, name: RingName) -> Done {
        let is_at_rest = !matches!(self.state(), DiskState::Running | DiskState::Switching | DiskState::Growing);
        let was_connected = is_at_rest || self.rings.settle(name).await;
        let not_durable = self.settle_writes(None).await.err().map(|error| error.to_string());
        Ok(Gave::RingSettled { was_connected, not_durable })
    }

    /// Makes durable what guests were answered, and gives up write access if the last writer has gone: whoever asked tells
    /// others then that nothing more will be written.
    async fn settle_writes(&self, deadline: Option<Moment>) -> Result<()> {
        let settling = pin!(async {
            let flushed = self.disk.flush().await;
            flushed.and(self.disk.end_writing().await)
        });
        let Some(deadline) = deadline else { return settling.await };
        match select(settling, pin!(self.executor.sleep_until(deadline))).await {
            Either::Left((settled, _)) => settled,
            Either::Right(_) => Err(Error::new(ErrorKind::TimedOut, "flushing the images has not ended")),
        }
    }

    /// Ends all connections and removes their sockets.
    async fn stop_serving(&self) {
        self.pages.close();
        self.limit_by(None);
        let exports = self.exports.take();
        if let Some(exports) = exports {
            exports.close().await;
        }
        if self.state() == DiskState::Closed {
            // With it goes the key.
            self.opened.take();
        }
    }

    pub(super) fn detach(&self) -> Result<()> {
        match self.state() {
            DiskState::Attached | DiskState::Closed => Ok(()),
            DiskState::Stuck => Err(self.stuck()),
            _ => Err(os(format!("minor {} is open", self.minor), Errno::BUSY)),
        }
    }

    fn stuck(&self) -> Error {
        let trouble = self.disk.status().trouble().map(|error| format!(": {error}")).unwrap_or_default();
        os(format!("minor {} is stuck{trouble}", self.minor), Errno::BUSY)
    }
}

/// What to open, as the chain wants it told.
fn spec(open: &Open, layers: &Layers<'_>) -> Result<ChainSpec> {
    let leaf = ImageName::from_bytes(layers.image)?;
    let access = if open.is_read_only { Access::Read } else { Access::Write };
    let mut spec = ChainSpec::new(leaf, access);
    spec.direct = !open.is_buffered;
    spec.key = open.key.clone();
    if open.is_late {
        spec.writing = Writing::Later;
        // Nobody waits longer than a request would be tried.
        let deadline = open.timeout.unwrap_or(LATE_LOCK_DEADLINE).min(LATE_LOCK_DEADLINE);
        spec.lock = LockPolicy::Exclusive { deadline };
    }
    if open.is_shared {
        spec.lock = LockPolicy::None;
    }
    Ok(spec)
}

fn os(words: String, error: Errno) -> Error {
    Error::from_os(words, error.into())
}
