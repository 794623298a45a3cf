//! One ring as a source of requests.
//!
//! ```text
//!   ring --take--> table --check--> [pages of segments copied] --> [data of writes copied] --> staged --> the disk
//!                                                                                                         |
//!   responses, one event <-- [data of reads copied] <-------------------------- collected answers <-------+
//! ```
//!
//! A barrier stops the taking until all before it has been answered; then it is a flush, its data, and a flush.

use std::{
    collections::VecDeque,
    rc::Rc,
    task::{Context, Poll},
};

use block_core::{Error, ErrorKind, GuestRange, SECTOR, Tag};
use storage_io::{Buffer, BufferPool};
use virtual_disk::{Geometry, Operation, Outcome, Request, RequestSource};
use wire::blkif::{
    DiscardFlags, IndirectPages, Limits, OperationCode, RawRequest, Refusal, Request as RingRequest, RequestBody,
    Response, Segment, Status, Transfer, decode_segments,
};

use super::{
    controls::{Controls, RingCounters},
    doorbell::Doorbell,
    ring::{BrokenRing, Ring},
    table::Table,
    transfers::{Pages, Way, length_of},
};

/// Requests taken from the ring at once: their data is copied in one call.
const TAKEN_AT_ONCE_MAX: usize = 64;
/// Bytes of a ring's requests in memory, above which no more are taken.
const BYTES_MAX: usize = 32 << 20;

/// A request that the disk has.
struct Job {
    place: usize,
    id: u64,
    operation: OperationCode,
    bytes: usize,
    /// Pages of the guest that it names.
    pages: u32,
    then: Then,
}

/// What comes when the disk has answered.
enum Then {
    Respond,
    /// The data goes to these.
    CopyTo(Vec<Segment>),
    /// A flush with data, or a barrier: what is still to be done.
    Next(Vec<Step>),
}

/// Part of a request that is more than one for the disk; the last comes first.
enum Step {
    Flush,
    Write { range: GuestRange, buffer: Buffer },
}

/// A barrier that waits until it is alone.
struct Barrier {
    job: Job,
    steps: Vec<Step>,
}

/// A request with data, before it is copied.
struct Writing {
    job: Job,
    range: GuestRange,
    buffer: Buffer,
    segments: Vec<Segment>,
}

pub(super) struct RingSource {
    ring: Ring,
    pages: Pages,
    pool: BufferPool,
    doorbell: Doorbell,
    geometry: Geometry,
    offer: Limits,
    controls: Rc<Controls>,
    /// Requests that are ready for the disk.
    staged: VecDeque<Request>,
    jobs: Vec<Option<Job>>,
    /// Bytes of all jobs.
    bytes: usize,
    /// Pages that requests without a response name.
    named: u32,
    barrier: Option<Barrier>,
    /// What the disk has is a barrier: nothing is taken before it has ended.
    is_in_barrier: bool,
    /// Reads whose data has come, and goes to the guest with the next batch.
    read: Vec<(Job, Buffer, Vec<Segment>)>,
    /// Requests that have ended and are to be told so.
    ended: Vec<(Job, Status)>,
}

impl RingSource {
    pub(super) fn new(
        ring: Ring,
        pages: Pages,
        pool: BufferPool,
        doorbell: Doorbell,
        geometry: Geometry,
        offer: Limits,
        controls: Rc<Controls>,
    ) -> RingSource {
        let slots = ring.slots();
        controls.table.replace(Table::new(slots));
        RingSource {
            ring,
            pages,
            pool,
            doorbell,
            geometry,
            offer,
            controls,
            staged: VecDeque::new(),
            jobs: (0..slots).map(|_| None).collect(),
            bytes: 0,
            named: 0,
            barrier: None,
            is_in_barrier: false,
            read: Vec::new(),
            ended: Vec::new(),
        }
    }

    /// Gives the event channel back, then the pages.
    pub(super) fn let_go(self) {
        let RingSource { ring, doorbell, .. } = self;
        drop(doorbell);
        drop(ring);
    }

    fn count(&self, change: impl FnOnce(&mut RingCounters)) {
        let mut counters = self.controls.counters.get();
        change(&mut counters);
        [counters.kicks_in, counters.kicks_out] = self.doorbell.kicks();
        self.controls.counters.set(counters);
    }

    fn has_ended(&self) -> bool {
        self.controls.is_stopping.get() || self.controls.broken().is_some() || self.doorbell.is_broken()
    }

    /// Takes what is in the ring, and gets it ready for the disk.
    fn take(&mut self) -> Result<usize, BrokenRing> {
        let mut taken = Vec::new();
        // Nothing behind a barrier is looked at before it has ended.
        let count = self.ring.take(TAKEN_AT_ONCE_MAX, |raw| {
            taken.push(raw);
            raw.operation() != OperationCode::WriteBarrier
        })?;
        self.count(|counters| counters.requests += count as u64);
        let mut checked = Vec::with_capacity(count);
        for raw in taken {
            let place = self.controls.takes(raw);
            checked.extend(self.check(place, &raw).map(|request| (place, request)));
        }
        let checked = self.read_indirect(checked);
        let mut writing = Vec::new();
        for (place, request) in checked {
            self.prepare(place, request, &mut writing);
        }
        self.copy_and_stage(writing);
        self.controls.pages.named(self.named);
        Ok(count)
    }

    fn check(&mut self, place: usize, raw: &RawRequest) -> Option<RingRequest> {
        match raw.check(&self.offer) {
            Ok(request) => Some(request),
            Err(refusal) => {
                let Refusal { id, operation, status, .. } = refusal;
                self.refuse(Job { place, id, operation, bytes: 0, pages: 0, then: Then::Respond }, status);
                None
            }
        }
    }

    fn refuse(&mut self, job: Job, status: Status) {
        self.count(|counters| counters.refused += 1);
        self.ended.push((job, status));
    }

    /// Fetches the segments of indirect requests, in one call for all.
    fn read_indirect(&mut self, requests: Vec<(usize, RingRequest)>) -> Vec<(usize, RingRequest)> {
        let pages_of = |request: &RingRequest| match &request.body {
            RequestBody::Indirect { pages, .. } => pages.pages().collect(),
            _ => Vec::new(),
        };
        let wanted: Vec<(u32, usize)> = requests.iter().flat_map(|(_, request)| pages_of(request)).collect();
        let mut contents = self.pages.read_pages(&wanted).into_iter();
        let mut whole = Vec::with_capacity(requests.len());
        for (place, request) in requests {
            let RequestBody::Indirect { transfer, sector, pages } = request.body else {
                whole.push((place, request));
                continue;
            };
            let own: Vec<Option<Vec<u8>>> = contents.by_ref().take(pages.pages().count()).collect();
            let RingRequest { id, operation, .. } = request;
            match segments_of(&pages, &own) {
                Some(segments) => {
                    self.controls.table.borrow_mut().has_segments(place, &segments);
                    let body = RequestBody::Transfer { transfer, sector, segments };
                    whole.push((place, RingRequest { id, operation, body }));
                }
                None => {
                    let job = Job { place, id, operation, bytes: 0, pages: 0, then: Then::Respond };
                    self.refuse(job, Status::Error);
                }
            }
        }
        whole
    }

    /// A range of the disk in units of the disk; none if it cannot be one.
    fn range(&self, sector: u64, bytes: u64) -> Option<GuestRange> {
        let unit = u64::from(self.geometry.logical_block_size);
        let start = sector.checked_mul(SECTOR)?;
        let is_aligned = start.is_multiple_of(unit) && bytes.is_multiple_of(unit);
        GuestRange::checked(start, bytes).filter(|range| is_aligned && range.end().get() <= self.geometry.bytes())
    }

    fn prepare(&mut self, place: usize, request: RingRequest, writing: &mut Vec<Writing>) {
        let RingRequest { id, operation, body } = request;
        let pages = u32::try_from(segments_in(&body)).expect("few");
        self.named += pages;
        let job = |bytes, then| Job { place, id, operation, bytes, pages, then };
        match body {
            RequestBody::Transfer { transfer, sector, segments } => {
                let bytes = length_of(&segments);
                let Some(range) = self.range(sector, bytes as u64) else {
                    return self.refuse(job(0, Then::Respond), Status::Error);
                };
                match transfer {
                    Transfer::Read => {
                        let buffer = self.pool.take(bytes);
                        self.stage(job(bytes, Then::CopyTo(segments)), Operation::Read { range, buffer });
                    }
                    Transfer::Write => {
                        let buffer = self.pool.take(bytes);
                        writing.push(Writing { job: job(bytes, Then::Respond), range, buffer, segments });
                    }
                }
            }
            RequestBody::Flush { sector, segments } => {
                self.prepare_flush(job(0, Then::Respond), sector, segments, false, writing);
            }
            RequestBody::Barrier { sector, segments } => {
                self.prepare_flush(job(0, Then::Respond), sector, segments, true, writing);
            }
            RequestBody::Discard { sector, sectors, flags } => {
                if flags.contains(DiscardFlags::SECURE) {
                    // Honest: what is given back may stay where it was.
                    return self.refuse(job(0, Then::Respond), Status::Unsupported);
                }
                match sectors.checked_mul(SECTOR).and_then(|bytes| self.range(sector, bytes)) {
                    Some(range) => self.stage(job(0, Then::Respond), Operation::Discard { range, durable: false }),
                    None => self.refuse(job(0, Then::Respond), Status::Error),
                }
            }
            RequestBody::Indirect { .. } => unreachable!("its segments were fetched before"),
        }
    }

    /// A flush, perhaps with data behind it; alone, if it is a barrier.
    fn prepare_flush(
        &mut self,
        mut job: Job,
        sector: u64,
        segments: Vec<Segment>,
        is_barrier: bool,
        writing: &mut Vec<Writing>,
    ) {
        let mut steps = Vec::new();
        if !segments.is_empty() {
            let bytes = length_of(&segments);
            let Some(range) = self.range(sector, bytes as u64) else { return self.refuse(job, Status::Error) };
            let mut buffer = self.pool.take(bytes);
            if self.pages.copy(Way::FromGuest, [(&mut buffer, segments.as_slice())].into_iter()) != [true] {
                return self.refuse(job, Status::Error);
            }
            job.bytes = bytes;
            if is_barrier {
                steps.push(Step::Flush);
            }
            steps.push(Step::Write { range, buffer });
        }
        if is_barrier {
            // What was taken before it goes first, also what waits for its data.
            self.copy_and_stage(std::mem::take(writing));
            self.hold(job, steps);
        } else {
            job.then = Then::Next(steps);
            self.stage(job, Operation::Flush);
        }
    }

    fn hold(&mut self, job: Job, mut steps: Vec<Step>) {
        steps.push(Step::Flush);
        self.bytes += job.bytes;
        let earlier = self.barrier.replace(Barrier { job, steps });
        assert!(earlier.is_none(), "nothing is taken behind a barrier");
    }

    /// Copies the data of writes, in one call for all.
    fn copy_and_stage(&mut self, mut writing: Vec<Writing>) {
        if writing.is_empty() {
            return;
        }
        let parts = writing.iter_mut().map(|writing| (&mut writing.buffer, writing.segments.as_slice()));
        let whole = self.pages.copy(Way::FromGuest, parts);
        for (Writing { job, range, buffer, .. }, whole) in writing.into_iter().zip(whole) {
            match whole {
                true => self.stage(job, Operation::Write { range, buffer, durable: false }),
                false => self.refuse(job, Status::Error),
            }
        }
    }

    fn stage(&mut self, job: Job, operation: Operation) {
        self.bytes += job.bytes;
        let place = job.place;
        self.jobs[place] = Some(job);
        self.staged.push_back(Request { tag: Tag(place as u64), operation });
    }

    /// Begins a barrier once everything before it has ended.
    fn begin_barrier(&mut self) -> bool {
        let is_alone = self.staged.is_empty() && self.jobs.iter().all(Option::is_none);
        let Some(Barrier { job, steps }) = self.barrier.take_if(|_| is_alone) else { return false };
        self.bytes -= job.bytes;
        self.is_in_barrier = true;
        self.go_on(job, steps);
        true
    }

    /// The next step of a request that is more than one for the disk.
    fn go_on(&mut self, mut job: Job, mut steps: Vec<Step>) {
        let operation = match steps.pop() {
            None => {
                self.ended.push((job, Status::Okay));
                return;
            }
            Some(Step::Flush) => Operation::Flush,
            Some(Step::Write { range, buffer }) => Operation::Write { range, buffer, durable: false },
        };
        job.then = Then::Next(steps);
        self.stage(job, operation);
    }

    fn failed(&mut self, job: Job, error: &Error) {
        let status = match error.kind() {
            ErrorKind::Unsupported => {
                self.controls.lacks(job.operation);
                Status::Unsupported
            }
            _ => Status::Error,
        };
        self.ended.push((job, status));
    }

    /// Hands the data of reads to the guest, in one call for all.
    fn copy_reads(&mut self) {
        let mut read = std::mem::take(&mut self.read);
        if read.is_empty() {
            return;
        }
        let parts = read.iter_mut().map(|(_, buffer, segments)| (buffer, segments.as_slice()));
        let whole = self.pages.copy(Way::ToGuest, parts);
        for ((job, ..), whole) in read.into_iter().zip(whole) {
            self.ended.push((job, if whole { Status::Okay } else { Status::Error }));
        }
    }

    fn respond(&mut self) {
        let mut table = self.controls.table.borrow_mut();
        for (job, status) in std::mem::take(&mut self.ended) {
            let response = Response { id: job.id, operation: job.operation, status };
            table.answering(job.place, self.ring.next_response(), response);
            self.ring.put(response);
            table.answered(job.place);
            self.named -= job.pages;
        }
        self.controls.pages.named(self.named);
    }
}

/// How many segments a request names directly.
fn segments_in(body: &RequestBody) -> usize {
    match body {
        RequestBody::Transfer { segments, .. }
        | RequestBody::Flush { segments, .. }
        | RequestBody::Barrier { segments, .. } => segments.len(),
        RequestBody::Indirect { .. } | RequestBody::Discard { .. } => 0,
    }
}

/// The segments that pages of the guest hold; none if a page could not be read or holds something else.
fn segments_of(pages: &IndirectPages, contents: &[Option<Vec<u8>>]) -> Option<Vec<Segment>> {
    let mut segments = Vec::with_capacity(usize::from(pages.segments()));
    for ((_, length), bytes) in pages.pages().zip(contents) {
        let count = length / wire::blkif::SEGMENT_BYTES;
        decode_segments(bytes.as_ref()?, count, &mut segments).ok()?;
    }
    Some(segments)
}

impl RequestSource for RingSource {
    fn poll_next(&mut self, cx: &mut Context<'_>) -> Poll<Option<Request>> {
        self.controls.waker.replace(Some(cx.waker().clone()));
        loop {
            if let Some(request) = self.staged.pop_front() {
                return Poll::Ready(Some(request));
            }
            if self.barrier.is_some() {
                if self.begin_barrier() {
                    continue;
                }
                return Poll::Pending;
            }
            self.is_in_barrier &= self.jobs.iter().any(Option::is_some);
            if self.is_in_barrier {
                return Poll::Pending;
            }
            if self.has_ended() {
                return Poll::Ready(None);
            }
            if self.bytes >= BYTES_MAX {
                return Poll::Pending;
            }
            let looked = match self.take() {
                Ok(0) => self.ring.arm().map(|more| more || !self.staged.is_empty()),
                Ok(_) => Ok(true),
                Err(broken) => Err(broken),
            };
            if !self.ended.is_empty() {
                self.publish();
            }
            match looked {
                Ok(true) => {}
                Ok(false) => {
                    self.doorbell.wait(cx);
                    return Poll::Pending;
                }
                Err(broken) => self.controls.breaks(broken),
            }
        }
    }

    fn poll_gone(&mut self, cx: &mut Context<'_>) -> Poll<()> {
        self.controls.waker.replace(Some(cx.waker().clone()));
        if self.has_ended() { Poll::Ready(()) } else { Poll::Pending }
    }

    fn answer(&mut self, tag: Tag, outcome: Outcome) {
        let place = usize::try_from(tag.0).expect("tags are places of the table");
        let mut job = self.jobs[place].take().expect("an answer is for a request that waits for one");
        self.bytes -= job.bytes;
        match (std::mem::replace(&mut job.then, Then::Respond), outcome) {
            (_, Outcome::Failed(error)) => self.failed(job, &error),
            (Then::CopyTo(segments), Outcome::Read(buffer)) => self.read.push((job, buffer, segments)),
            (Then::Next(steps), _) => self.go_on(job, steps),
            _ => self.ended.push((job, Status::Okay)),
        }
    }

    fn publish(&mut self) {
        self.copy_reads();
        if self.ended.is_empty() {
            return;
        }
        self.respond();
        if self.ring.push() {
            self.doorbell.ring();
        }
        self.count(|_| {});
    }

    fn resized(&mut self, geometry: &Geometry) {
        self.geometry = *geometry;
        self.controls.resizes(*geometry);
    }
}
