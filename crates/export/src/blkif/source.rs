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
    future::poll_fn,
    rc::Rc,
    task::{Context, Poll, Waker},
};

use block_core::{Error, ErrorKind, GuestRange, SECTOR, Tag};
use storage_io::{Buffer, BufferPool, Executor, Moment};
use virtual_disk::{DiskQueue, Geometry, Operation, Outcome, Request, RequestSource};
use wire::blkif::{
    DiscardFlags, INDIRECT_SEGMENTS_MAX, Limits, OperationCode, RawRequest, Refusal, Request as RingRequest,
    RequestBody, Response, SEGMENT_BYTES, Segment, Status, Transfer, decode_segments,
};
use xen::PAGE_BYTES;

use super::{
    admission::{Admission, Admitted},
    controls::{Controls, RingCounters},
    device::RingOptions,
    device_account::HeldBytes,
    doorbell::Doorbell,
    features::Polling,
    record::Unanswered,
    ring::{BrokenRing, Ring},
    transfers::{Pages, Way, length_of},
};

/// Requests taken from the ring at once: their data is copied in one call.
const TAKEN_AT_ONCE_MAX: usize = 64;

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

/// A read whose data has come.
struct Reading {
    job: Job,
    buffer: Buffer,
    segments: Vec<Segment>,
}

/// Let go of by force, its fields are dropped in their order: the event channel first, pages of data, the ring's own last.
pub(super) struct RingSource {
    doorbell: Doorbell,
    pages: Pages,
    ring: Ring,
    /// Before pages are copied from the guest, and to it.
    from_guest: Admission,
    to_guest: Admission,
    /// Of the task that serves the ring.
    waker: Waker,
    executor: Executor,
    pool: BufferPool,
    geometry: Geometry,
    /// The guest may only read, whatever the disk permits.
    read_only: bool,
    offer: Limits,
    polling: Option<Polling>,
    /// Until then the ring is looked at, and the guest not asked to tell.
    look_until: Moment,
    controls: Rc<Controls>,
    /// Requests that make sense, as they came, before anything of theirs is copied. Nothing more is taken while there are.
    checked: Vec<(usize, RingRequest)>,
    /// Requests that somebody else had taken, and that nobody has looked at since.
    unrepeated: VecDeque<Unanswered>,
    /// Requests that are ready for the disk.
    staged: VecDeque<Request>,
    jobs: Vec<Option<Job>>,
    /// Bytes of all jobs, and of what was read and is not with the guest.
    held: HeldBytes,
    /// Pages that requests without a response name.
    named: u32,
    barrier: Option<Barrier>,
    /// What the disk has is a barrier: nothing is taken before it has ended.
    is_in_barrier: bool,
    /// Reads whose data goes to the guest with the next batch.
    read: Vec<Reading>,
    /// Requests that have ended and are to be told so.
    ended: Vec<(Job, Status)>,
    spare: Spare,
}

/// Lists of segments that are kept to be used again.
const SPARE_SEGMENTS_MAX: usize = TAKEN_AT_ONCE_MAX;

/// Empty vectors that keep their memory, for what lives as long as one batch or one request.
#[derive(Default)]
struct Spare {
    taken: Vec<RawRequest>,
    places: Vec<usize>,
    checked: Vec<(usize, RingRequest)>,
    writing: Vec<Writing>,
    segments: Vec<Vec<Segment>>,
    indirect: Vec<(u32, usize)>,
    indirect_bytes: Vec<u8>,
}

impl Spare {
    fn segments(&mut self) -> Vec<Segment> {
        self.segments.pop().unwrap_or_default()
    }

    fn keep(&mut self, segments: Vec<Segment>) {
        if self.segments.len() < SPARE_SEGMENTS_MAX {
            self.segments.push(segments);
        }
    }
}

impl RingSource {
    pub(super) fn new(
        queue: &DiskQueue,
        ring: Ring,
        pages: Pages,
        doorbell: Doorbell,
        geometry: Geometry,
        options: &RingOptions,
        controls: Rc<Controls>,
    ) -> RingSource {
        let slots = ring.slots();
        let [from_guest, to_guest] = [(); 2].map(|()| Admission::new(pages.share()));
        RingSource {
            ring,
            pages,
            from_guest,
            to_guest,
            waker: Waker::noop().clone(),
            executor: queue.executor().clone(),
            pool: queue.pool().clone(),
            doorbell,
            geometry,
            read_only: options.read_only,
            offer: options.offer,
            polling: options.features.polling,
            look_until: queue.executor().now(),
            checked: Vec::new(),
            unrepeated: VecDeque::new(),
            staged: VecDeque::new(),
            jobs: (0..slots).map(|_| None).collect(),
            held: HeldBytes::new(controls.pages.device().clone()),
            controls,
            named: 0,
            barrier: None,
            is_in_barrier: false,
            read: Vec::new(),
            ended: Vec::new(),
            spare: Spare::default(),
        }
    }

    /// What somebody else had taken and has not answered is done again, before anything is taken.
    pub(super) fn repeat(&mut self, unanswered: Vec<Unanswered>) {
        self.count(|counters| counters.requests += unanswered.len() as u64);
        self.unrepeated = unanswered.into();
    }

    /// Looks at requests that are done again, in their order; as when they were taken, nothing behind a barrier before that
    /// has ended. It was within bounds to take them, so it is again. False: there are none.
    fn repeat_some(&mut self) -> bool {
        if self.unrepeated.is_empty() {
            return false;
        }
        while let Some(Unanswered { place, request, .. }) = self.unrepeated.pop_front() {
            self.held.ask(request.segments_claimed().min(INDIRECT_SEGMENTS_MAX.into()) * PAGE_BYTES);
            self.check(place, &request);
            if request.operation() == OperationCode::WriteBarrier {
                break;
            }
        }
        true
    }

    /// Gives the event channel back, then the pages of data, then those of the ring.
    pub(super) fn let_go(self) {
        let RingSource { ring, pages, doorbell, .. } = self;
        drop(doorbell);
        drop(pages);
        drop(ring);
    }

    fn count(&self, change: impl FnOnce(&mut RingCounters)) {
        let mut counters = self.controls.counters.get();
        change(&mut counters);
        [counters.kicks_in, counters.kicks_out] = self.doorbell.kicks();
        self.pages.count(&mut counters);
        [counters.throttled, counters.throttled_ns] = [0; 2];
        self.from_guest.count(&mut counters);
        self.to_guest.count(&mut counters);
        self.controls.counters.set(counters);
    }

    fn has_ended(&self) -> bool {
        self.controls.is_stopping.get() || self.controls.broken().is_some()
    }

    /// Takes what is in the ring.
    fn take(&mut self) -> Result<usize, BrokenRing> {
        let mut taken = std::mem::take(&mut self.spare.taken);
        let mut coming = 0;
        // Nothing behind a barrier is looked at before it has ended.
        let count = self.ring.take(TAKEN_AT_ONCE_MAX, |raw| {
            taken.push(raw);
            coming += raw.segments_claimed().min(INDIRECT_SEGMENTS_MAX.into()) * PAGE_BYTES;
            self.held.ask(coming) && raw.operation() != OperationCode::WriteBarrier
        });
        self.begin(&taken);
        taken.clear();
        self.spare.taken = taken;
        let count = count?;
        if count > 0 {
            self.doorbell.worked();
            if self.controls.counters.get().requests == 0 {
                self.controls.status.publish_first_request(self.executor.now());
            }
            self.count(|counters| counters.requests += count as u64);
            self.keep_looking();
        }
        Ok(count)
    }

    /// Writes down what was taken, then looks at it.
    fn begin(&mut self, taken: &[RawRequest]) {
        if taken.is_empty() {
            return;
        }
        let mut places = std::mem::take(&mut self.spare.places);
        self.controls.takes(taken, |place| places.push(place));
        for (place, raw) in places.drain(..).zip(taken) {
            self.check(place, raw);
        }
        self.spare.places = places;
    }

    fn check(&mut self, place: usize, raw: &RawRequest) {
        match raw.check_into(&self.offer, self.spare.segments()) {
            Ok(request) => self.checked.push((place, request)),
            Err(Refusal { id, operation, status, .. }) => {
                self.refuse(Job { place, id, operation, bytes: 0, pages: 0, then: Then::Respond }, status);
            }
        }
    }

    /// Gets requests ready for the disk, as many as may be copied together. False: the host has no room for them now.
    fn admit_checked(&mut self) -> bool {
        let needs = self.checked.iter().map(|(_, request)| self.pages_to_fetch(&request.body));
        let (count, pages) = self.from_guest.batch(needs);
        match self.from_guest.poll(pages, &self.executor, &self.waker) {
            Poll::Ready(admitted) => {
                let later = self.checked.split_off(count);
                self.copy_checked(&admitted);
                if !later.is_empty() {
                    self.checked = later;
                }
                true
            }
            Poll::Pending => {
                self.count(|_| {});
                false
            }
        }
    }

    /// Pages that are copied before the disk is asked: data to be written, and what names segments.
    fn pages_to_fetch(&self, body: &RequestBody) -> u32 {
        match body {
            RequestBody::Transfer { transfer: Transfer::Read, .. } | RequestBody::Discard { .. } => 0,
            RequestBody::Indirect { transfer, pages, .. } => {
                let segments = if *transfer == Transfer::Write { u32::from(pages.segments()) } else { 0 };
                segments + u32::try_from(pages.pages().count()).expect("few")
            }
            _ => self.pages.to_copy(segments_of(body)),
        }
    }

    /// Fetches what the checked requests bring along, in one call for each kind, and hands them on.
    fn copy_checked(&mut self, admitted: &Admitted) {
        self.pages.copy_at_once(admitted.at_once());
        self.read_indirect();
        let mut checked = std::mem::take(&mut self.checked);
        let mut writing = std::mem::take(&mut self.spare.writing);
        for (place, request) in checked.drain(..) {
            self.prepare(place, request, &mut writing);
        }
        self.copy_and_stage(&mut writing);
        self.checked = checked;
        self.spare.writing = writing;
        self.controls.pages.named(self.named);
    }

    fn refuse(&mut self, job: Job, status: Status) {
        self.count(|counters| counters.refused += 1);
        self.ended.push((job, status));
    }

    /// Fetches the segments of indirect requests, in one call for all.
    fn read_indirect(&mut self) {
        let mut wanted = std::mem::take(&mut self.spare.indirect);
        for (_, request) in &self.checked {
            if let RequestBody::Indirect { pages, .. } = &request.body {
                wanted.extend(pages.pages());
            }
        }
        if !wanted.is_empty() {
            let mut bytes = std::mem::take(&mut self.spare.indirect_bytes);
            bytes.resize(wanted.iter().map(|(_, length)| length).sum(), 0);
            self.pages.read_pages(self.executor.now(), &wanted, &mut bytes);
            self.replace_indirect(&bytes);
            self.spare.indirect_bytes = bytes;
        }
        wanted.clear();
        self.spare.indirect = wanted;
    }

    /// Indirect requests become plain ones with the segments that their pages hold, or are refused if a page could not be
    /// read or holds something else.
    fn replace_indirect(&mut self, mut bytes: &[u8]) {
        let mut place_of_page = 0;
        let mut checked = std::mem::take(&mut self.spare.checked);
        std::mem::swap(&mut checked, &mut self.checked);
        for (place, RingRequest { id, operation, body }) in checked.drain(..) {
            let RequestBody::Indirect { transfer, sector, pages } = body else {
                self.checked.push((place, RingRequest { id, operation, body }));
                continue;
            };
            let behind = place_of_page + pages.pages().count();
            let is_whole = (place_of_page..behind).all(|page| self.pages.is_whole(page));
            place_of_page = behind;
            // Pages are full but for the last, so their segments lie one behind the other.
            let count = usize::from(pages.segments());
            let (own, rest) = bytes.split_at(count * SEGMENT_BYTES);
            bytes = rest;
            let mut segments = self.spare.segments();
            segments.clear();
            if is_whole && decode_segments(own, count, &mut segments).is_ok() {
                self.controls.table.borrow_mut().has_segments(place, &segments);
                let body = RequestBody::Transfer { transfer, sector, segments };
                self.checked.push((place, RingRequest { id, operation, body }));
            } else {
                self.refuse(Job { place, id, operation, bytes: 0, pages: 0, then: Then::Respond }, Status::Error);
            }
        }
        self.spare.checked = checked;
    }

    /// A range of the disk in units of the disk; none if it cannot be one.
    fn range(&self, sector: u64, bytes: u64) -> Option<GuestRange> {
        let unit = u64::from(self.geometry.logical_block_size);
        let start = sector.checked_mul(SECTOR)?;
        let is_aligned = start.is_multiple_of(unit) && bytes.is_multiple_of(unit);
        GuestRange::checked(start, bytes).filter(|range| is_aligned && range.end().get() <= self.geometry.bytes())
    }

    /// Whether it would change what may only be read, or has a segment that is no multiple of the disk's unit.
    fn is_forbidden(&self, body: &RequestBody) -> bool {
        let segments = segments_of(body);
        let changes = match body {
            RequestBody::Transfer { transfer, .. } | RequestBody::Indirect { transfer, .. } => {
                *transfer == Transfer::Write
            }
            RequestBody::Flush { .. } | RequestBody::Barrier { .. } => !segments.is_empty(),
            RequestBody::Discard { .. } => true,
        };
        let unit = self.geometry.logical_block_size;
        let is_whole = |segment: &Segment| u32::from(segment.length()).is_multiple_of(unit);
        changes && (self.read_only || self.geometry.read_only) || !segments.iter().all(is_whole)
    }

    fn prepare(&mut self, place: usize, request: RingRequest, writing: &mut Vec<Writing>) {
        let RingRequest { id, operation, body } = request;
        let pages = u32::try_from(segments_of(&body).len()).expect("few");
        self.named += pages;
        let job = |bytes, then| Job { place, id, operation, bytes, pages, then };
        if self.is_forbidden(&body) {
            return self.refuse(job(0, Then::Respond), Status::Error);
        }
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
            self.pages.copy(Way::FromGuest, self.executor.now(), [(&mut buffer, segments.as_slice())].into_iter());
            if !self.pages.is_whole(0) {
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
            self.copy_and_stage(writing);
            self.hold(job, steps);
        } else {
            job.then = Then::Next(steps);
            self.stage(job, Operation::Flush);
        }
    }

    fn hold(&mut self, job: Job, mut steps: Vec<Step>) {
        steps.push(Step::Flush);
        self.held.add(job.bytes);
        let earlier = self.barrier.replace(Barrier { job, steps });
        assert!(earlier.is_none(), "nothing is taken behind a barrier");
    }

    /// Copies the data of writes, in one call for all.
    fn copy_and_stage(&mut self, writing: &mut Vec<Writing>) {
        if writing.is_empty() {
            return;
        }
        let parts = writing.iter_mut().map(|writing| (&mut writing.buffer, writing.segments.as_slice()));
        self.pages.copy(Way::FromGuest, self.executor.now(), parts);
        for (place, Writing { job, range, buffer, segments }) in writing.drain(..).enumerate() {
            self.spare.keep(segments);
            match self.pages.is_whole(place) {
                true => self.stage(job, Operation::Write { range, buffer, durable: false }),
                false => self.refuse(job, Status::Error),
            }
        }
    }

    fn stage(&mut self, job: Job, operation: Operation) {
        self.held.add(job.bytes);
        let place = job.place;
        self.jobs[place] = Some(job);
        self.staged.push_back(Request { tag: Tag(place as u64), operation });
    }

    /// Begins a barrier once everything before it has ended.
    fn begin_barrier(&mut self) -> bool {
        let is_alone = self.staged.is_empty() && self.jobs.iter().all(Option::is_none);
        let Some(Barrier { job, steps }) = self.barrier.take_if(|_| is_alone) else { return false };
        self.held.remove(job.bytes);
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
        let is_lacking = error.kind() == ErrorKind::Unsupported && self.turn_off(job.operation);
        self.ended.push((job, if is_lacking { Status::Unsupported } else { Status::Error }));
    }

    /// An operation turned out not to be possible: it is not offered any more, if it is one that a guest can do without.
    fn turn_off(&mut self, operation: OperationCode) -> bool {
        let offered = match operation {
            OperationCode::FlushDiskCache => &mut self.offer.flush,
            OperationCode::WriteBarrier => &mut self.offer.barrier,
            OperationCode::Discard => &mut self.offer.discard,
            OperationCode::Read | OperationCode::Write | OperationCode::Indirect | OperationCode::Unknown(_) => {
                return false;
            }
        };
        *offered = false;
        self.controls.lacks(operation);
        true
    }

    /// Hands the data of reads to the guest, in one call for as many as may be copied together.
    fn copy_reads(&mut self) {
        if self.controls.is_cut.get() {
            for Reading { job, .. } in std::mem::take(&mut self.read) {
                self.held.remove(job.bytes);
                self.ended.push((job, Status::Error));
            }
            return;
        }
        while !self.read.is_empty() {
            let needs = self.read.iter().map(|reading| self.pages.to_copy(&reading.segments));
            let (count, pages) = self.to_guest.batch(needs);
            let Poll::Ready(admitted) = self.to_guest.poll(pages, &self.executor, &self.waker) else {
                self.count(|_| {});
                return;
            };
            self.pages.copy_at_once(admitted.at_once());
            let parts = self.read[..count].iter_mut();
            let parts = parts.map(|reading| (&mut reading.buffer, reading.segments.as_slice()));
            self.pages.copy(Way::ToGuest, self.executor.now(), parts);
            for (place, Reading { job, segments, .. }) in self.read.drain(..count).enumerate() {
                self.spare.keep(segments);
                self.held.remove(job.bytes);
                self.ended.push((job, if self.pages.is_whole(place) { Status::Okay } else { Status::Error }));
            }
        }
    }

    /// Waits until what the disk has answered is with the guest: after the source has ended, nobody else asks it to. What
    /// the disk was never asked has failed.
    pub(super) async fn finish(&mut self) {
        self.from_guest.leave(&self.executor);
        self.fail_untold();
        poll_fn(|cx| {
            self.wake_later(cx);
            self.publish();
            if self.read.is_empty() { Poll::Ready(()) } else { Poll::Pending }
        })
        .await;
    }

    /// Requests that were taken, and that the disk does not take any more.
    fn fail_untold(&mut self) {
        self.refuse_checked();
        let mut jobs = Vec::new();
        for Request { tag, .. } in std::mem::take(&mut self.staged) {
            let place = usize::try_from(tag.0).expect("tags are places of the table");
            jobs.push(self.jobs[place].take().expect("what is staged waits for an answer"));
        }
        jobs.extend(self.barrier.take().map(|Barrier { job, .. }| job));
        for job in jobs {
            self.held.remove(job.bytes);
            self.refuse(job, Status::Error);
        }
    }

    /// Requests whose data was not copied.
    fn refuse_checked(&mut self) {
        while self.repeat_some() {}
        for (place, RingRequest { id, operation, .. }) in std::mem::take(&mut self.checked) {
            self.refuse(Job { place, id, operation, bytes: 0, pages: 0, then: Then::Respond }, Status::Error);
        }
    }

    /// Where to say that there is something to do, and what could not be done before.
    fn wake_later(&mut self, cx: &Context<'_>) {
        self.controls.waker.replace(Some(cx.waker().clone()));
        self.waker.clone_from(cx.waker());
    }

    /// As when the task is woken: reads that wait for room may have it now.
    fn woken(&mut self, cx: &Context<'_>) {
        self.wake_later(cx);
        if self.to_guest.is_waiting() {
            self.publish();
        }
    }

    /// The ring is looked at for a while from now on, if that was agreed on.
    fn keep_looking(&mut self) {
        if let Some(Polling { window }) = self.polling {
            self.look_until = self.executor.now() + window;
        }
    }

    /// Nothing is in the ring. Whether it is looked at again without being told; if not, the guest is asked to tell, which
    /// fails if it has put something there meanwhile.
    fn looks_again(&mut self, cx: &Context<'_>) -> bool {
        let looks = self.polling.is_some() && self.executor.now() < self.look_until;
        if looks {
            cx.waker().wake_by_ref();
        }
        looks
    }

    /// Nothing is taken: whether there is something is told to whoever can have it taken.
    fn waits_to_be_asked(&mut self, cx: &mut Context<'_>) -> Result<(), BrokenRing> {
        match self.ring.arm()? {
            false => self.doorbell.wait(cx),
            true => self.controls.asks(),
        }
        Ok(())
    }

    fn respond(&mut self) {
        let mut table = self.controls.table.borrow_mut();
        for (job, status) in &self.ended {
            let response = Response { id: job.id, operation: job.operation, status: *status };
            table.answering(job.place, response);
            self.ring.put(response);
            self.named -= job.pages;
        }
        table.answered(self.ended.drain(..).map(|(job, _)| job.place));
        self.controls.pages.named(self.named);
    }
}

/// The segments that a request names directly.
fn segments_of(body: &RequestBody) -> &[Segment] {
    match body {
        RequestBody::Transfer { segments, .. }
        | RequestBody::Flush { segments, .. }
        | RequestBody::Barrier { segments, .. } => segments,
        RequestBody::Indirect { .. } | RequestBody::Discard { .. } => &[],
    }
}

impl RequestSource for RingSource {
    fn poll_next(&mut self, cx: &mut Context<'_>) -> Poll<Option<Request>> {
        self.woken(cx);
        if self.controls.is_cut.get() {
            self.refuse_checked();
        }
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
            if !self.checked.is_empty() {
                if !self.admit_checked() {
                    return Poll::Pending;
                }
                self.publish();
                continue;
            }
            if self.repeat_some() {
                continue;
            }
            if self.has_ended() {
                // A flush whose data is still to be written comes again.
                let comes_again = |job: &Job| matches!(&job.then, Then::Next(steps) if !steps.is_empty());
                let goes_on = self.jobs.iter().flatten().any(comes_again);
                return if goes_on { Poll::Pending } else { Poll::Ready(None) };
            }
            if self.controls.is_held.get() {
                return Poll::Pending;
            }
            if self.controls.is_settled() {
                match self.waits_to_be_asked(cx) {
                    Ok(()) => return Poll::Pending,
                    Err(broken) => self.controls.breaks(broken),
                }
                continue;
            }
            // What was read and waits for room to be copied makes none.
            if !self.held.has_room() || self.to_guest.is_waiting() {
                return Poll::Pending;
            }
            let looked = match self.take() {
                Ok(0) if !self.controls.wants_to_settle() && self.looks_again(cx) => return Poll::Pending,
                Ok(0) => self.ring.arm(),
                Ok(_) => Ok(true),
                Err(broken) => Err(broken),
            };
            if !self.ended.is_empty() {
                self.publish();
            }
            match looked {
                Ok(true) => {}
                Ok(false) => {
                    self.controls.finds_nothing();
                    self.doorbell.wait(cx);
                    return Poll::Pending;
                }
                Err(broken) => self.controls.breaks(broken),
            }
        }
    }

    fn poll_gone(&mut self, cx: &mut Context<'_>) -> Poll<()> {
        // The disk takes nothing, so this ring needs no room for what it would ask: answers to read behind it do.
        self.from_guest.leave(&self.executor);
        self.woken(cx);
        if self.has_ended() { Poll::Ready(()) } else { Poll::Pending }
    }

    fn answer(&mut self, tag: Tag, outcome: Outcome) {
        let place = usize::try_from(tag.0).expect("tags are places of the table");
        let mut job = self.jobs[place].take().expect("an answer is for a request that waits for one");
        let then = match (std::mem::replace(&mut job.then, Then::Respond), outcome) {
            (Then::CopyTo(segments), Outcome::Read(buffer)) => {
                return self.read.push(Reading { job, buffer, segments });
            }
            other => other,
        };
        self.held.remove(job.bytes);
        match then {
            (_, Outcome::Failed(error)) => self.failed(job, &error),
            (Then::Next(steps), _) => self.go_on(job, steps),
            _ => self.ended.push((job, Status::Okay)),
        }
    }

    fn publish(&mut self) {
        self.copy_reads();
        if self.ended.is_empty() {
            return;
        }
        if self.checked.is_empty() {
            self.held.settle();
        }
        self.respond();
        if self.ring.push() {
            self.doorbell.ring();
        }
        self.controls.answers();
        self.count(|_| {});
        if self.polling.is_some() {
            // Whoever waited for this has something to ask next.
            self.keep_looking();
            self.ring.disarm();
            self.controls.wake();
        }
    }

    fn rests(&self) -> bool {
        self.controls.rests()
    }

    fn resized(&mut self, geometry: &Geometry) {
        self.geometry = *geometry;
        self.controls.resizes(*geometry);
    }
}
