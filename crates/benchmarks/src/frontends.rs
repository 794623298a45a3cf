//! Frontends of a guest that keep rings full with as little effort as they can: pages are granted once, slots are made
//! once, and nobody looks at the data. What a guest does for itself is not what is measured.

use std::sync::mpsc::{self, Receiver, Sender};

use block_core::{Error, ErrorKind, Result};
use guest::FrontRing;
use storage_io::{EngineChoice, Executor};
use wire::blkif::{
    Abi, INDIRECT_PAGES_MAX, IndirectPages, Request, RequestBody, SEGMENT_BYTES, SEGMENTS_MAX, SEGMENTS_PER_PAGE,
    Segment, Status, Transfer,
};
use xen::{
    Access, DomainId, GrantRef, PAGE_BYTES, Port,
    hosted::{EndAccess, Guest, GuestChannel},
};

use crate::clients::{Load, Offsets, Shared, Workload};

/// The backend's domain.
pub(crate) const HOST: DomainId = DomainId(0);
/// Rings of one page: 32 slots.
const RING_ORDER: u32 = 0;

/// A ring that a backend can be told of.
#[derive(Clone, Debug)]
pub(crate) struct FrontendQueue {
    pub(crate) pages: Vec<GrantRef>,
    pub(crate) port: Port,
}

/// Frontends at work, one for each queue.
pub(crate) struct Frontends {
    pub(crate) load: Load,
    pub(crate) queues: Vec<FrontendQueue>,
    /// Hears of each frontend that has all its answers.
    drained: Receiver<()>,
    /// The backend has let go of the rings when these are dropped.
    let_go: Vec<Sender<()>>,
}

impl Frontends {
    /// Lets so many frontends fill their rings: a backend that connects finds requests in them.
    pub(crate) fn start(guest: &Guest, queues: u64, workload: Workload) -> Result<Frontends> {
        let (made, rings) = mpsc::channel();
        let (drain, drained) = mpsc::channel();
        let mut let_go = Vec::new();
        let clients: Vec<_> = (0..queues)
            .map(|number| {
                let (sender, released) = mpsc::channel();
                let_go.push(sender);
                let (guest, made, drain) = (guest.clone(), made.clone(), drain.clone());
                move |shared: &Shared| {
                    let mut frontend = Frontend::new(&guest, number, workload)?;
                    let _ = made.send((number, frontend.queue()));
                    frontend.run(shared)?;
                    let _ = drain.send(());
                    // An error: the other side has gone, which is what this waits for.
                    let _ = released.recv();
                    frontend.release()
                }
            })
            .collect();
        drop((made, drain));
        let load = Load::start(clients);
        let mut queues: Vec<_> = rings.iter().take(let_go.len()).collect();
        queues.sort_by_key(|(number, _)| *number);
        let queues = queues.into_iter().map(|(_, queue)| queue).collect();
        Ok(Frontends { load, queues, drained, let_go })
    }

    /// Lets the frontends fetch their last answers, has the backend let go of their rings, and takes all pages back.
    /// How many answers have been errors, and what the backend says.
    pub(crate) fn end<T>(self, disconnect: impl FnOnce() -> Result<T>) -> Result<(u64, T)> {
        let Frontends { load, queues, drained, let_go } = self;
        load.stop();
        let drained = drained.iter().take(queues.len()).count();
        let disconnected = disconnect();
        drop(let_go);
        let failed = load.end()?;
        let disconnected = disconnected?;
        if drained < queues.len() {
            return Err(Error::new(ErrorKind::Closed, "a frontend has ended early"));
        }
        Ok((failed, disconnected))
    }
}

/// One ring, and the requests that go round in it.
struct Frontend {
    executor: Executor,
    guest: Guest,
    ring: FrontRing,
    channel: GuestChannel,
    /// All pages that are granted, but for those of the ring.
    pages: Vec<(u32, GrantRef)>,
    /// One for each that is under way at a time; its index is its name.
    requests: Vec<Request>,
    offsets: Offsets,
}

impl Frontend {
    fn new(guest: &Guest, number: u64, workload: Workload) -> Result<Frontend> {
        let executor = Executor::new(EngineChoice::Probe)?;
        let ring = FrontRing::new(guest, HOST, Abi::X86_64, RING_ORDER)?;
        let channel = guest.allocate_unbound(&executor, HOST)?;
        let mut frontend = Frontend {
            executor,
            guest: guest.clone(),
            ring,
            channel,
            pages: Vec::new(),
            requests: Vec::new(),
            offsets: workload.offsets(number),
        };
        for id in 0..workload.depth as u64 {
            let request = frontend.make(id, workload)?;
            frontend.requests.push(request);
        }
        Ok(frontend)
    }

    fn queue(&self) -> FrontendQueue {
        FrontendQueue { pages: self.ring.grants().to_vec(), port: self.channel.port() }
    }

    fn granted_page(&mut self) -> Result<(u32, GrantRef)> {
        let page = self.guest.allocate_page()?;
        self.pages.push((page, self.guest.grant(page, HOST, Access::Write)?));
        Ok(self.pages[self.pages.len() - 1])
    }

    /// A request with pages of its own.
    fn make(&mut self, id: u64, workload: Workload) -> Result<Request> {
        let transfer = if workload.is_write { Transfer::Write } else { Transfer::Read };
        let count = workload.block as usize / PAGE_BYTES;
        let segments = (0..count).map(|_| self.granted_page().map(|(_, grant)| Segment::page(grant.0)));
        let segments = segments.collect::<Result<Vec<_>>>()?;
        let body = if count <= SEGMENTS_MAX {
            RequestBody::Transfer { transfer, sector: 0, segments }
        } else {
            let pages = self.segment_pages(&segments)?;
            RequestBody::Indirect { transfer, sector: 0, pages }
        };
        Ok(Request { id, operation: transfer.operation(), body })
    }

    /// Pages that name the segments of an indirect request.
    fn segment_pages(&mut self, segments: &[Segment]) -> Result<IndirectPages> {
        let mut grants = [0; INDIRECT_PAGES_MAX];
        for (place, part) in grants.iter_mut().zip(segments.chunks(SEGMENTS_PER_PAGE)) {
            let (page, grant) = self.granted_page()?;
            let at = page as usize * PAGE_BYTES;
            for (index, segment) in part.iter().enumerate() {
                self.guest.memory().copy_in(at + index * SEGMENT_BYTES, &segment.encode());
            }
            *place = grant.0;
        }
        Ok(IndirectPages::new(grants, u16::try_from(segments.len()).expect("few")))
    }

    /// Asks and takes answers until it is over and all answers have come.
    fn run(&mut self, shared: &Shared) -> Result<()> {
        let executor = self.executor.clone();
        executor.block_on(async {
            for id in 0..self.requests.len() {
                self.ask(id);
            }
            self.push();
            let mut running = self.requests.len();
            while running > 0 {
                running -= self.take_answers(shared)?;
                if running > 0 && !self.ring.arm() {
                    self.channel.wait().await?;
                }
            }
            Ok(())
        })
    }

    fn ask(&mut self, id: usize) {
        let to = self.offsets.next() / 512;
        let request = &mut self.requests[id];
        match &mut request.body {
            RequestBody::Transfer { sector, .. } | RequestBody::Indirect { sector, .. } => *sector = to,
            _ => unreachable!("reads and writes are asked for"),
        }
        self.ring.put(&request.encode(Abi::X86_64, 0));
    }

    fn push(&self) {
        if self.ring.push() {
            self.channel.notify();
        }
    }

    /// Takes what has been answered, and asks again unless it is over; how many it has not asked again.
    fn take_answers(&mut self, shared: &Shared) -> Result<usize> {
        let (mut all, mut failed) = (0, 0);
        let is_over = shared.is_over();
        while let Some(response) = self.ring.take() {
            all += 1;
            failed += u64::from(response.status != Status::Okay);
            let id = usize::try_from(response.id).ok().filter(|id| *id < self.requests.len());
            let id = id.ok_or_else(|| Error::new(ErrorKind::Invalid, "an answer to nothing that was asked"))?;
            if !is_over {
                self.ask(id);
            }
        }
        shared.answered(all, failed);
        if is_over {
            return Ok(usize::try_from(all).expect("as many as a ring has slots"));
        }
        self.push();
        Ok(0)
    }

    /// Takes all pages back; the backend has none of them.
    fn release(self) -> Result<()> {
        let mut in_use = self.ring.release()?;
        for (page, grant) in self.pages {
            match self.guest.end_access(grant)? {
                EndAccess::Ended => self.guest.free_page(page),
                EndAccess::InUse => in_use += 1,
            }
        }
        let left = || Error::new(ErrorKind::Invalid, format!("the backend has kept {in_use} pages"));
        (in_use == 0).then_some(()).ok_or_else(left)
    }
}
