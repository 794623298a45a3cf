//! A ring's life: connected, served, disconnected.

use std::{
    cell::RefCell,
    fmt,
    rc::{Rc, Weak},
    sync::Arc,
};

use block_core::{Error, ErrorKind, Result, ResultExt};
use rustix::io::Errno;
use storage_io::{Executor, Task};
use virtual_disk::{DiskQueue, Geometry};
use wire::blkif::{Abi, Limits, RawRequest, RequestBody, Transfer};
use xen::{DomainId, EventChannels, GrantRef, Grants, Port, SharedMemory};

use super::{
    account::MappedPages,
    controls::{Controls, Presence, RingChanges, RingCounters},
    device_account::DeviceAccount,
    doorbell::Doorbell,
    features::{RingFeatures, RingPages},
    kept::{KeptPages, LOOK_EVERY},
    metered::MeteredRing,
    record::{Record, RingPlace, Unanswered},
    ring::{BrokenRing, Ring},
    source::RingSource,
    status::RingStatus,
    table::{ANYTHING, Table, ring_index},
    transfers::Pages,
};

/// What a guest has said of its ring, and what it is offered.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct RingOptions {
    /// The guest.
    pub domain: DomainId,
    /// The pages of the ring, in order: 1, 2, 4, 8 or 16.
    pub pages: Vec<GrantRef>,
    /// The guest's end of the event channel.
    pub port: Port,
    /// How it is laid out.
    pub abi: Abi,
    /// What was offered; anything else is answered as unsupported.
    pub offer: Limits,
    /// What both sides have agreed on besides.
    pub features: RingFeatures,
    /// The guest may only read, whatever the disk permits: what would change it fails.
    pub read_only: bool,
    /// Somebody has served it before and has gone: what he has left unanswered is repeated, as the ring's record says. Without
    /// one it is served only if everything in it has been answered.
    pub adopted: bool,
    /// What would change the disk may be repeated: nothing of whoever has gone can reach it any more.
    pub repeats_changes: bool,
}

/// A ring that is served, on the thread of its queue. Dropping it lets go of the ring at once; what storage still holds
/// is not answered any more.
pub struct ConnectedRing {
    controls: Rc<Controls>,
    geometry: Geometry,
    repeated: usize,
    serving: Task<MeteredRing>,
    /// Gives back pages that are not used any more.
    _looking: Option<Task<()>>,
    presence: Presence,
}

/// How a ring ended.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct RingEnd {
    /// What it had done.
    pub counters: RingCounters,
    /// Its pages, after they were given back.
    pub pages: RingPages,
    /// What was wrong with it, if anything.
    pub broken: Option<BrokenRing>,
}

impl ConnectedRing {
    /// Maps the ring of a device that has one, binds its event channel, and serves it. Requests may be in it already.
    ///
    /// # Errors
    /// `Invalid` if the ring makes no sense or its pages are not granted, or what the platform says.
    pub fn connect(
        queue: &DiskQueue,
        grants: Arc<dyn Grants>,
        channels: &dyn EventChannels,
        options: &RingOptions,
    ) -> Result<ConnectedRing> {
        ConnectedRing::connect_one_of(&Arc::default(), queue, grants, channels, options, None)
    }

    /// As [`connect`](Self::connect), for one of the rings of a device. What must be known to go on with it if this process
    /// is killed is written into the record, [`RECORD_BYTES`](super::RECORD_BYTES) of memory that nobody else uses.
    ///
    /// # Errors
    /// As [`connect`](Self::connect).
    pub fn connect_one_of(
        device: &Arc<DeviceAccount>,
        queue: &DiskQueue,
        grants: Arc<dyn Grants>,
        channels: &dyn EventChannels,
        options: &RingOptions,
        record: Option<SharedMemory>,
    ) -> Result<ConnectedRing> {
        let RingOptions { domain, pages, port, .. } = options;
        if pages.is_empty() || pages.len() > 16 {
            return Err(Error::new(ErrorKind::Invalid, BrokenRing::WrongLength.to_string()));
        }
        let geometry = queue.status().geometry();
        let geometry = geometry.ok_or_else(|| Error::new(ErrorKind::Closed, "the disk is not open"))?;
        let memory = grants.map_ring(*domain, pages).context("the ring")?;
        let controls = Rc::new(Controls::new(queue.executor(), *domain, geometry, device.clone()));
        let memory = MappedPages::new(memory, &controls.pages);
        let Found { ring, table, unanswered } = attach(memory, options, record, queue.executor())?;
        controls.table.replace(table);
        let channel = channels.bind(queue.executor(), *domain, *port)?;
        let kept = options.features.persistent.then(|| {
            let kept = KeptPages::new(grants.clone(), *domain, controls.pages.clone());
            Rc::new(RefCell::new(kept))
        });
        let looking = kept.as_ref().map(|kept| {
            let unused = give_back_unused(queue.executor().clone(), Rc::downgrade(kept));
            queue.executor().spawn(unused)
        });
        if options.adopted {
            // Of the last answers the guest may not have been told.
            channel.notify();
        }
        let pages = Pages::new(grants, *domain, kept);
        let doorbell = Doorbell::new(queue.executor(), channel, controls.clone());
        let repeated = unanswered.len();
        let mut source = RingSource::new(queue, ring, pages, doorbell, geometry, options, controls.clone());
        source.repeat(unanswered);
        queue.executor().list(&controls);
        let presence = Presence(controls.clone());
        controls.show();
        let metered = MeteredRing::new(source, controls.clone(), queue.executor());
        let serving = queue.serve(metered);
        Ok(ConnectedRing { controls, geometry, repeated, serving, _looking: looking, presence })
    }

    /// What it has done until now.
    pub fn counters(&self) -> RingCounters {
        self.controls.counters.get()
    }

    /// How many requests were repeated that somebody else had taken and had not answered.
    pub fn repeated(&self) -> usize {
        self.repeated
    }

    /// What is wrong with it, if anything.
    pub fn broken(&self) -> Option<BrokenRing> {
        self.controls.broken()
    }

    /// What it has done and holds, for other threads. It stays when the ring has gone.
    pub fn status(&self) -> Arc<RingStatus> {
        self.controls.status.clone()
    }

    /// The pages of the guest that it makes use of.
    pub fn pages(&self) -> RingPages {
        self.controls.pages.get()
    }

    /// What changes while it is connected, from the beginning.
    pub fn changes(&self) -> RingChanges {
        RingChanges::new(self.controls.clone(), self.geometry)
    }

    /// Takes no more requests until it is told to [`go_on`](Self::go_on). What is returned ends when those that were taken
    /// have been answered, and need not be waited for.
    pub fn hold(&self) -> impl Future<Output = ()> + 'static + use<> {
        self.controls.hold(true);
        let controls = self.controls.clone();
        async move { controls.at_rest().await }
    }

    /// Does nothing more until its guest asks, and then not before it is told to [`go_on`](Self::go_on); it is not a writer
    /// of the disk meanwhile. What is returned ends when all that the guest has asked is answered, and need not be waited
    /// for. For guests that stand still.
    pub fn settle(&self) -> impl Future<Output = ()> + 'static + use<> {
        self.controls.settle();
        let controls = self.controls.clone();
        async move { controls.settled().await }
    }

    /// Takes requests again.
    pub fn go_on(&self) {
        self.controls.hold(false);
    }

    /// Reads and writes none of the guest's data any more, and takes no more requests. For a guest that was told that it has
    /// no such device, and may use its pages for something else. What was taken from it goes on to storage.
    pub fn cut(&self) {
        self.controls.is_cut.set(true);
        self.controls.is_stopping.set(true);
        self.controls.wake();
    }

    /// Takes no more requests, waits until those that were taken have been answered, and lets go: event channel first,
    /// pages second.
    pub async fn disconnect(self) -> RingEnd {
        let ConnectedRing { controls, serving, presence, .. } = self;
        controls.is_stopping.set(true);
        controls.wake();
        let mut source = serving.await.into_source();
        source.finish().await;
        source.let_go();
        drop(presence);
        RingEnd { counters: controls.counters.get(), pages: controls.pages.get(), broken: controls.broken() }
    }
}

/// A ring as it is found: what of it is to be done again, and the table of its requests.
struct Found {
    ring: Ring,
    table: Table,
    unanswered: Vec<Unanswered>,
}

/// The ring as somebody else has left it, or as its guest has made it.
fn attach(
    memory: MappedPages,
    options: &RingOptions,
    record: Option<SharedMemory>,
    executor: &Executor,
) -> Result<Found> {
    let RingOptions { domain, port, abi, adopted, .. } = *options;
    let place = RingPlace { domain, port, abi, pages: options.pages.clone() };
    let is_known = adopted && record.as_ref().and_then(Record::place).as_ref() == Some(&place);
    let (record, remembered) = match record.map(Record::adopt) {
        Some(Ok(known)) if is_known => known,
        Some(Ok((other, _))) => return attach_at_rest(memory, options, Some(other.into_memory()), &place),
        Some(Err(none)) => return attach_at_rest(memory, options, Some(none), &place),
        None => return attach_at_rest(memory, options, None, &place),
    };
    let only_reads = remembered.unanswered.iter().all(|unanswered| only_reads(&unanswered.request));
    if !options.repeats_changes && !only_reads {
        return Err(lost("others may write to the disk, and what was under way may still come"));
    }
    let [taken, given] = [remembered.taken, remembered.given].map(ring_index);
    let ring = Ring::adopt(memory, abi, taken, given).map_err(makes_no_sense)?;
    let table = Table::adopted(ring.slots(), record, &remembered, executor.turn_began());
    Ok(Found { ring, table, unanswered: remembered.unanswered })
}

/// A ring of which nothing is known: if somebody has served it, everything in it must have been answered.
fn attach_at_rest(
    memory: MappedPages,
    options: &RingOptions,
    record: Option<SharedMemory>,
    place: &RingPlace,
) -> Result<Found> {
    let ring = Ring::attach(memory, options.abi).map_err(makes_no_sense)?;
    if options.adopted && !ring.is_answered() {
        return Err(lost("nobody knows which requests in it were taken"));
    }
    let given = u64::from(ring.answered());
    let record = record.and_then(|record| Record::begin(record, place, given));
    let table = Table::new(ring.slots(), given, record);
    Ok(Found { ring, table, unanswered: Vec::new() })
}

fn makes_no_sense(broken: BrokenRing) -> Error {
    Error::new(ErrorKind::Invalid, broken.to_string())
}

fn lost(words: &str) -> Error {
    Error::from_os(format!("it was lost: {words}"), Errno::NOTCONN.into())
}

fn only_reads(request: &RawRequest) -> bool {
    matches!(
        request.check(&ANYTHING).map(|request| request.body),
        Err(_)
            | Ok(RequestBody::Transfer { transfer: Transfer::Read, .. })
            | Ok(RequestBody::Indirect { transfer: Transfer::Read, .. })
    )
}

/// Gives back pages that a guest has not used for long, also when it asks nothing any more.
async fn give_back_unused(executor: Executor, kept: Weak<RefCell<KeptPages>>) {
    loop {
        executor.sleep(LOOK_EVERY).await;
        let Some(kept) = kept.upgrade() else { return };
        kept.borrow_mut().give_back_unused(executor.now());
    }
}

impl fmt::Debug for ConnectedRing {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        write!(f, "ConnectedRing({:?})", self.counters())
    }
}
