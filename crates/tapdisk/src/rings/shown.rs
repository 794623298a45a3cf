//! A guest's device as other threads see it: counters to read, and events for those who watch it.
//!
//! Whoever watches is told at first what holds already, so that nothing is missed between two watches.

use std::{
    sync::{
        Arc, Mutex, MutexGuard, OnceLock, PoisonError,
        atomic::{AtomicBool, Ordering},
    },
    time::Duration,
};

use block_core::Result;
use control_api::native::{RingEvent, RingOperation};
use export::blkif::{DeviceAccount, RingChange, RingCounters, RingPages, RingStatus, RingTraffic};
use rustix::io::Errno;
use storage_io::{Receiver, Sender, mailbox};
use virtual_disk::Geometry;
use wire::blkif::{Abi, OperationCode};

use super::device::{Device, RingName};
use crate::{control::os, native::report};

/// Who watches a device at once: one who serves it, and whoever looks over his shoulder.
const WATCHERS_MAX: usize = 4;

/// A device as other threads see it.
#[derive(Debug)]
pub(crate) struct ShownDevice {
    name: RingName,
    abi: Abi,
    is_read_only: bool,
    rings: Vec<ShownRing>,
    account: Arc<DeviceAccount>,
    is_held: AtomicBool,
    is_settled: AtomicBool,
    /// The guest whose place it has taken, and when that was answered last.
    before: OnceLock<(RingName, Option<Duration>)>,
    told: Mutex<Told>,
}

/// A ring as other threads see it.
#[derive(Clone, Debug)]
pub(crate) struct ShownRing {
    /// The queue that serves it.
    pub(crate) queue: u16,
    /// How many pages it has.
    pub(crate) pages: u16,
    /// Requests that another tapdisk had taken, and that were repeated.
    pub(crate) repeated: usize,
    pub(crate) status: Arc<RingStatus>,
}

/// What watchers have been told.
#[derive(Debug)]
struct Told {
    geometry: Geometry,
    unsupported: Vec<RingOperation>,
    broken: Option<String>,
    /// None: it is connected no more.
    watchers: Option<Vec<Sender<RingEvent>>>,
}

impl ShownDevice {
    pub(super) fn new(
        device: &Device,
        rings: Vec<ShownRing>,
        account: Arc<DeviceAccount>,
        geometry: Geometry,
    ) -> Arc<ShownDevice> {
        let watchers = Some(Vec::new());
        let told = Told { geometry: device.sees(geometry), unsupported: Vec::new(), broken: None, watchers };
        Arc::new(ShownDevice {
            name: device.name,
            abi: device.abi(),
            is_read_only: device.sees(geometry).read_only && !geometry.read_only,
            rings,
            account,
            is_held: AtomicBool::new(false),
            is_settled: AtomicBool::new(false),
            before: OnceLock::new(),
            told: Mutex::new(told),
        })
    }

    /// Whether none of its requests is taken.
    pub(crate) fn is_held(&self) -> bool {
        self.is_held.load(Ordering::Relaxed)
    }

    pub(super) fn set_held(&self, is_held: bool) {
        self.is_held.store(is_held, Ordering::Relaxed);
    }

    /// Whether nothing is done for it until its guest asks.
    pub(crate) fn is_settled(&self) -> bool {
        self.is_settled.load(Ordering::Relaxed)
    }

    pub(super) fn set_settled(&self, is_settled: bool) {
        self.is_settled.store(is_settled, Ordering::Relaxed);
    }

    /// It takes the place of another guest, which was answered last at this time.
    pub(super) fn comes_after(&self, before: (RingName, Option<Duration>)) {
        // It comes once.
        let _ = self.before.set(before);
    }

    /// When the last of its requests was answered; known once it is held or has gone.
    pub(crate) fn last_answer(&self) -> Option<Duration> {
        self.rings.iter().filter_map(|ring| ring.status.last_answer()).max()
    }

    /// The guest whose place it has taken, and how long neither was served.
    pub(crate) fn handover(&self) -> Option<(RingName, Option<Duration>)> {
        let (name, last_answer) = *self.before.get()?;
        let first_request = self.rings.iter().filter_map(|ring| ring.status.first_request()).min();
        let blackout = last_answer.zip(first_request).map(|(last, first)| first.saturating_sub(last));
        Some((name, blackout))
    }

    pub(crate) fn name(&self) -> RingName {
        self.name
    }

    pub(crate) fn abi(&self) -> Abi {
        self.abi
    }

    pub(crate) fn rings(&self) -> &[ShownRing] {
        &self.rings
    }

    /// What all its rings have done.
    pub(crate) fn counters(&self) -> RingCounters {
        self.rings.iter().map(|ring| ring.status.counters()).sum()
    }

    /// The pages of all its rings. The most of each ring were not there at the same time.
    pub(crate) fn pages(&self) -> RingPages {
        let all: RingPages = self.rings.iter().map(|ring| ring.status.pages()).sum();
        RingPages { peak: self.account.peak(), ..all }
    }

    /// What all its rings have moved.
    pub(crate) fn traffic(&self) -> RingTraffic {
        self.rings.iter().map(|ring| ring.status.traffic()).sum()
    }

    /// What is wrong with one of its rings, if anything.
    pub(crate) fn broken(&self) -> Option<String> {
        self.told().broken.clone()
    }

    /// What holds already, what happens from now on, and the end when it is disconnected.
    ///
    /// # Errors
    /// `EBUSY` if too many watch it.
    pub(crate) fn watch(&self) -> Result<Receiver<RingEvent>> {
        let (to, events) = mailbox();
        let mut told = self.told();
        if let Some(watchers) = &mut told.watchers {
            watchers.retain(Sender::is_heard);
            if watchers.len() >= WATCHERS_MAX {
                return Err(os(format!("{} watch ring {} already", watchers.len(), self.name), Errno::BUSY));
            }
        }
        let geometry = RingEvent::Resized { geometry: report::geometry(told.geometry) };
        let unsupported = told.unsupported.iter().map(|operation| RingEvent::Unsupported { operation: *operation });
        let broken = told.broken.iter().map(|reason| RingEvent::Broken { reason: reason.clone() });
        for event in [geometry].into_iter().chain(unsupported).chain(broken) {
            to.send(event).expect("the receiver is here");
        }
        told.watchers.iter_mut().for_each(|watchers| watchers.push(to.clone()));
        Ok(events)
    }

    /// Tells watchers what has happened to one of its rings, unless another has said it before.
    pub(super) fn tell(&self, change: RingChange) {
        let mut told = self.told();
        let event = match change {
            RingChange::Resized(geometry) => {
                let read_only = geometry.read_only || self.is_read_only;
                let seen = Geometry { read_only, ..geometry };
                if std::mem::replace(&mut told.geometry, seen) == seen {
                    return;
                }
                RingEvent::Resized { geometry: report::geometry(seen) }
            }
            RingChange::Unsupported(code) => {
                let Some(operation) = operation(code).filter(|operation| !told.unsupported.contains(operation)) else {
                    return;
                };
                told.unsupported.push(operation);
                RingEvent::Unsupported { operation }
            }
            RingChange::Broken(broken) => {
                if told.broken.is_some() {
                    return;
                }
                let reason = broken.to_string();
                told.broken = Some(reason.clone());
                RingEvent::Broken { reason }
            }
            // Whoever talks to XenStore has nothing to do with it.
            RingChange::Asks => return,
        };
        // Those who have gone are forgotten.
        told.watchers.iter_mut().for_each(|watchers| watchers.retain(|watcher| watcher.send(event.clone()).is_ok()));
    }

    /// It is connected no more: whoever watches has seen all.
    pub(super) fn end(&self) {
        let watchers = self.told().watchers.take();
        drop(watchers);
    }

    /// Guards a few words; nothing waits while they are locked.
    fn told(&self) -> MutexGuard<'_, Told> {
        self.told.lock().unwrap_or_else(PoisonError::into_inner)
    }
}

/// The operation that a guest can be told not to ask for any more. Reads and writes cannot be taken back.
fn operation(code: OperationCode) -> Option<RingOperation> {
    match code {
        OperationCode::FlushDiskCache => Some(RingOperation::Flush),
        OperationCode::WriteBarrier => Some(RingOperation::Barrier),
        OperationCode::Discard => Some(RingOperation::Discard),
        OperationCode::Read | OperationCode::Write | OperationCode::Indirect | OperationCode::Unknown(_) => None,
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use control_api::native::{ConnectRing, RingQueue};
    use export::blkif::BrokenRing;

    const GEOMETRY: Geometry =
        Geometry { sectors: 8, logical_block_size: 512, physical_block_size: 512, read_only: false, can_discard: true };

    fn device(read_only: bool) -> Arc<ShownDevice> {
        let queues = vec![RingQueue { pages: vec![8], port: 1 }];
        let asked = ConnectRing { queues, read_only, ..ConnectRing::default() };
        ShownDevice::new(&Device::from_command(&asked).unwrap(), Vec::new(), Arc::default(), GEOMETRY)
    }

    fn all(events: &mut Receiver<RingEvent>) -> Vec<RingEvent> {
        std::iter::from_fn(|| events.try_recv()).collect()
    }

    #[test]
    fn what_several_rings_say_is_told_once_and_again_to_who_comes_late() {
        let device = device(false);
        let mut early = device.watch().unwrap();
        let larger = Geometry { sectors: 16, ..GEOMETRY };
        for _ in 0..2 {
            device.tell(RingChange::Resized(larger));
            device.tell(RingChange::Unsupported(OperationCode::Discard));
            device.tell(RingChange::Unsupported(OperationCode::Read));
            device.tell(RingChange::Broken(BrokenRing::WrongLength));
        }
        let resized = |geometry| RingEvent::Resized { geometry: report::geometry(geometry) };
        let lasting = [
            RingEvent::Unsupported { operation: RingOperation::Discard },
            RingEvent::Broken { reason: BrokenRing::WrongLength.to_string() },
        ];
        let told = all(&mut early);
        assert_eq!((&told[..2], &told[2..]), (&[resized(GEOMETRY), resized(larger)][..], &lasting[..]));
        let told = all(&mut device.watch().unwrap());
        assert_eq!((&told[..1], &told[1..]), (&[resized(larger)][..], &lasting[..]));
    }

    #[test]
    fn as_many_watch_as_there_may_be_and_those_who_have_gone_do_not_count() {
        let device = device(false);
        for _ in 0..3 * WATCHERS_MAX {
            device.watch().unwrap();
        }
        let watching: Vec<_> = (0..WATCHERS_MAX).map(|_| device.watch().unwrap()).collect();
        assert_eq!(device.watch().err().map(|error| control_api::errno(&error)), Some(16));
        drop(watching);
        device.watch().unwrap();
    }

    #[test]
    fn a_guest_that_may_only_read_never_hears_otherwise() {
        let device = device(true);
        let mut events = device.watch().unwrap();
        device.tell(RingChange::Resized(Geometry { sectors: 16, ..GEOMETRY }));
        let read_only = |event: &RingEvent| match event {
            RingEvent::Resized { geometry } => geometry.read_only,
            other => panic!("{other:?}"),
        };
        assert_eq!(all(&mut events).iter().map(read_only).collect::<Vec<_>>(), [true, true]);
    }
}
