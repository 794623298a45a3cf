//! One connection as a source of requests: the transmission phase.
//!
//! ```text
//!              +--------------------------- DISC, end of input, wrong magic ---> Ended
//!              |
//!   Header --28 bytes--> Held --within bounds--> (request)          what carries no data
//!     ^  |                   \--within bounds--> Data --all there--> (request)
//!     |  \--refused--> Skip --all gone--+
//!     +---------------------------------+
//! ```
//!
//! Replies go out when the disk publishes a batch. If the client does not fetch them, a task of the connection waits for
//! it; meanwhile replies gather up to the connection's bounds, and then nothing more is received. Bytes of requests and
//! replies count from the moment that there is a buffer for them until they are out.
//!
//! A disk that grows is larger for clients that come then: the size that this one was told stays what it is.

use std::{
    cell::{Cell, RefCell},
    pin::pin,
    rc::Rc,
    task::{Context, Poll, Waker, ready},
};

use block_core::{Extent, ExtentKind, GuestRange, Tag};
use futures_util::future::select;
use storage_io::{Buffer, BufferPool, Executor, Task};
use virtual_disk::{DiskQueue, Operation, Outcome, Request, RequestSource};
use wire::nbd::{
    BlockDescriptor, Command, CommandFlags, ErrorCode, REQUEST_BYTES, RequestHeader, StateFlags, put_block_status,
    put_data_chunk_header, put_error_chunk, put_none_chunk, put_simple_reply,
};

use super::{
    EXTENTS_MAX, Limits, REQUEST_BYTES_MAX,
    budget::Share,
    codes::code_of,
    input::Input,
    output::{Output, Sent},
    session::{BASE_ALLOCATION_NUMBER, Session},
    socket::Socket,
};

/// System calls that receive long data before others get their turn.
const RECEIVES_AT_ONCE_MAX: usize = 16;

/// As many bytes of replies are sent without waiting for the end of their batch: while they are sent, they are still in the
/// processor's cache, and so is their memory for the requests that follow.
const LONG_OUTPUT: usize = 128 << 10;

/// Bytes of one extent in an answer.
const DESCRIPTOR_BYTES: usize = 8;

pub(super) struct NbdSource {
    session: Session,
    limits: Limits,
    pool: BufferPool,
    executor: Executor,
    line: Rc<Line>,
    input: Input,
    receiving: Receiving,
    waiting: Waiting,
    /// A refusal was put into the output, which nobody else will publish.
    has_refused: bool,
    writer: Option<Task<()>>,
}

/// What is being received.
enum Receiving {
    Header,
    Held(RequestHeader),
    Data { header: RequestHeader, buffer: Buffer, filled: usize },
    Skip(usize),
    Ended { disconnected: bool },
}

/// What receiving needs next.
enum Next {
    Request(Request),
    Bytes,
    Room,
    Nothing,
}

/// The way out, shared with the task that waits for a slow client.
struct Line {
    socket: Socket,
    output: RefCell<Output>,
    /// What it may hold.
    share: RefCell<Share>,
    /// Bytes of requests: of those that wait for their answer, and of the one whose data is being received.
    asked: Cell<usize>,
    /// The client is slow, and a task waits for it.
    is_stalled: Cell<bool>,
    is_broken: Cell<bool>,
    /// Who waits for room.
    blocked: RefCell<Option<Waker>>,
}

/// Requests that wait for their answer.
#[derive(Default)]
struct Waiting {
    slots: Vec<Option<RequestHeader>>,
    free: Vec<usize>,
}

impl NbdSource {
    pub(super) fn new(
        queue: &DiskQueue,
        limits: Limits,
        share: Share,
        session: Session,
        (socket, input): (Socket, Input),
    ) -> Self {
        NbdSource {
            session,
            limits,
            pool: queue.pool().clone(),
            executor: queue.executor().clone(),
            line: Rc::new(Line {
                socket,
                output: RefCell::default(),
                share: RefCell::new(share),
                asked: Cell::new(0),
                is_stalled: Cell::new(false),
                is_broken: Cell::new(false),
                blocked: RefCell::default(),
            }),
            input,
            receiving: Receiving::Header,
            waiting: Waiting::default(),
            has_refused: false,
            writer: None,
        }
    }

    /// Waits until the last replies are out, but not too long. Gives back what was received beyond the end, if the client
    /// ended in an orderly way.
    pub(super) async fn finish(mut self) -> Option<Input> {
        self.publish();
        if let Some(writer) = self.writer.take() {
            select(writer, pin!(self.executor.sleep(self.limits.lingering))).await;
        }
        let in_order = matches!(self.receiving, Receiving::Ended { disconnected: true });
        (in_order && !self.line.is_stalled.get() && !self.line.is_broken.get()).then_some(self.input)
    }

    /// Looks at what has been received, until there is a request or something is missing.
    fn advance(&mut self, cx: &mut Context<'_>) -> Next {
        loop {
            match &mut self.receiving {
                // Refusals hold no request's room, but their replies take memory too.
                Receiving::Header if self.line.is_full() => return Next::Room,
                Receiving::Header => {
                    let Some(bytes) = self.input.staged().first_chunk::<REQUEST_BYTES>() else { return Next::Bytes };
                    let header = RequestHeader::decode(bytes);
                    self.input.consume(REQUEST_BYTES);
                    self.receiving = match header {
                        Err(_) => Receiving::Ended { disconnected: false },
                        Ok(header) => self.judge(header),
                    };
                }
                Receiving::Held(header) => {
                    let header = *header;
                    if !self.make_room(&header, cx) {
                        return Next::Room;
                    }
                    self.receiving = Receiving::Header;
                    if header.command != Command::Write {
                        return Next::Request(self.request(header, Buffer::empty()));
                    }
                    let buffer = self.pool.take(header.length as usize);
                    self.receiving = Receiving::Data { header, buffer, filled: 0 };
                }
                Receiving::Data { header, buffer, filled } => {
                    *filled += self.input.move_into(buffer, *filled);
                    if *filled < buffer.len() {
                        return Next::Bytes;
                    }
                    let (header, buffer) = (*header, std::mem::take(buffer));
                    self.receiving = Receiving::Header;
                    return Next::Request(self.request(header, buffer));
                }
                Receiving::Skip(left) => {
                    let count = self.input.staged().len().min(*left);
                    *left -= count;
                    let done = *left == 0;
                    self.input.consume(count);
                    if !done {
                        return Next::Bytes;
                    }
                    self.receiving = Receiving::Header;
                }
                Receiving::Ended { .. } => return Next::Nothing,
            }
        }
    }

    /// What follows a request's header. A refused request is answered here, and its data goes nowhere.
    fn judge(&mut self, header: RequestHeader) -> Receiving {
        if header.command == Command::Disconnect {
            return Receiving::Ended { disconnected: true };
        }
        match refusal(&header, self.session) {
            None => Receiving::Held(header),
            Some((code, words)) => {
                self.put_failure(&header, code, words);
                self.has_refused = true;
                Receiving::Skip(header.data_length() as usize)
            }
        }
    }

    /// Makes the request part of what the connection holds, if that is within all bounds now. One alone always comes to
    /// be, when others have given back what it needs.
    fn make_room(&self, header: &RequestHeader, cx: &mut Context<'_>) -> bool {
        let held = self.line.held();
        let wanted = held + bytes_of(header);
        let is_alone = self.waiting.count() == 0 && held == 0;
        let is_within = self.waiting.count() < self.limits.requests && wanted <= self.limits.bytes;
        let mut share = self.line.share.borrow_mut();
        if !(is_alone || is_within) {
            // Only its own client can help it: nobody waits behind it for that.
            share.leave_line();
            return false;
        }
        if share.poll_grow(wanted, cx).is_pending() {
            return false;
        }
        self.line.asked.set(self.line.asked.get() + bytes_of(header));
        true
    }

    fn request(&mut self, header: RequestHeader, buffer: Buffer) -> Request {
        let range = GuestRange::checked(header.offset, u64::from(header.length)).expect("refused if it wraps");
        let durable = header.flags.contains(CommandFlags::FUA);
        let operation = match header.command {
            Command::Read => Operation::Read { range, buffer: self.pool.take(header.length as usize) },
            Command::Write => Operation::Write { range, buffer, durable },
            Command::Flush => Operation::Flush,
            Command::Trim => Operation::Discard { range, durable },
            Command::Cache => Operation::Cache { range },
            Command::WriteZeroes => Operation::WriteZeroes {
                range,
                may_free: !header.flags.contains(CommandFlags::NO_HOLE),
                fast_only: header.flags.contains(CommandFlags::FAST_ZERO),
                durable,
            },
            Command::BlockStatus => {
                Operation::Extents { range, first_only: header.flags.contains(CommandFlags::REQ_ONE) }
            }
            Command::Disconnect | Command::Unknown(_) => unreachable!("judged before"),
        };
        Request { tag: self.waiting.insert(header), operation }
    }

    fn poll_bytes(&mut self, cx: &mut Context<'_>) -> Poll<bool> {
        match &mut self.receiving {
            Receiving::Data { buffer, filled, .. } => {
                let received = ready!(self.input.poll_fill_buffer(&self.line.socket, buffer, *filled, cx));
                Poll::Ready(received.map(|count| *filled += count).is_some())
            }
            _ => self.input.poll_fill(&self.line.socket, cx),
        }
    }

    fn poll_request(&mut self, cx: &mut Context<'_>) -> Poll<Option<Request>> {
        for _ in 0..RECEIVES_AT_ONCE_MAX {
            if self.line.is_broken.get() {
                return Poll::Ready(None);
            }
            match self.advance(cx) {
                Next::Request(request) => return Poll::Ready(Some(request)),
                Next::Nothing => return Poll::Ready(None),
                Next::Room => {
                    self.line.blocked.replace(Some(cx.waker().clone()));
                    return Poll::Pending;
                }
                Next::Bytes => {
                    if !ready!(self.poll_bytes(cx)) {
                        self.receiving = Receiving::Ended { disconnected: false };
                    }
                }
            }
        }
        cx.waker().wake_by_ref();
        Poll::Pending
    }

    fn put_failure(&self, header: &RequestHeader, code: ErrorCode, words: &str) {
        self.line.output.borrow_mut().put(|out| match self.session.structured_replies {
            true => put_error_chunk(out, header.cookie, true, code, words, None),
            false => put_simple_reply(out, header.cookie, Some(code)),
        });
    }

    fn put_read(&self, header: &RequestHeader, buffer: Buffer) {
        let mut output = self.line.output.borrow_mut();
        output.put(|out| match (self.session.structured_replies, header.length) {
            (false, _) => put_simple_reply(out, header.cookie, None),
            (true, 0) => put_none_chunk(out, header.cookie),
            (true, length) => put_data_chunk_header(out, header.cookie, true, header.offset, length),
        });
        if !buffer.is_empty() {
            output.put_buffer(buffer);
        }
    }

    fn put_extents(&self, header: &RequestHeader, extents: &[Extent]) {
        let descriptors = describe(header, extents);
        let mut output = self.line.output.borrow_mut();
        output.put(|out| put_block_status(out, header.cookie, true, BASE_ALLOCATION_NUMBER, &descriptors));
    }
}

impl RequestSource for NbdSource {
    fn poll_next(&mut self, cx: &mut Context<'_>) -> Poll<Option<Request>> {
        let polled = self.poll_request(cx);
        if std::mem::take(&mut self.has_refused) {
            self.publish();
        }
        if let Poll::Ready(None) = polled {
            self.input.rest();
        }
        polled
    }

    fn poll_gone(&mut self, cx: &mut Context<'_>) -> Poll<()> {
        // Behind a request that is held nobody looks: it shall be carried out.
        let is_idle = matches!(self.receiving, Receiving::Header) && self.input.staged().is_empty();
        if !self.line.is_broken.get() {
            if !is_idle {
                return Poll::Pending;
            }
            ready!(self.input.poll_end(&self.line.socket, cx));
            self.receiving = Receiving::Ended { disconnected: false };
        }
        self.input.rest();
        Poll::Ready(())
    }

    fn answer(&mut self, tag: Tag, outcome: Outcome) {
        let header = self.waiting.remove(tag);
        self.line.asked.set(self.line.asked.get() - bytes_of(&header));
        if self.line.is_broken.get() {
            return;
        }
        match outcome {
            Outcome::Read(buffer) => self.put_read(&header, buffer),
            // A short form that the protocol allows for all that carries no data, also among structured replies.
            Outcome::Done => self.line.output.borrow_mut().put(|out| put_simple_reply(out, header.cookie, None)),
            Outcome::Extents(extents) => self.put_extents(&header, &extents),
            Outcome::Failed(error) => {
                let (code, words) = code_of(header.command, &error);
                self.put_failure(&header, code, words);
            }
        }
        if self.line.output.borrow().length() >= LONG_OUTPUT {
            self.publish();
        }
    }

    fn publish(&mut self) {
        if self.line.is_stalled.get() || self.line.send() != Sent::Some {
            return;
        }
        self.line.is_stalled.set(true);
        let line = self.line.clone();
        self.writer = Some(self.executor.spawn(async move { line.send_when_possible().await }));
    }
}

impl Line {
    /// Bytes of requests and replies.
    fn held(&self) -> usize {
        self.asked.get() + self.output.borrow().length()
    }

    /// Whether there are so many replies that no more requests are looked at.
    fn is_full(&self) -> bool {
        self.output.borrow().length() > self.share.borrow().bytes()
    }

    /// Sends what it can, gives back the memory, and lets whoever waits for room look again.
    fn send(&self) -> Sent {
        let sent = self.output.borrow_mut().send(&self.socket);
        if sent == Sent::Broken {
            self.is_broken.set(true);
        }
        self.share.borrow_mut().shrink(self.held());
        self.blocked.take().into_iter().for_each(Waker::wake);
        sent
    }

    async fn send_when_possible(&self) {
        loop {
            // A socket that cannot be waited for shows what is wrong when it is written to.
            let ready = self.socket.writable().await;
            let sent = self.send();
            if sent != Sent::Some || ready.is_err() {
                break;
            }
        }
        self.is_stalled.set(false);
    }
}

impl Waiting {
    fn count(&self) -> usize {
        self.slots.len() - self.free.len()
    }

    fn insert(&mut self, header: RequestHeader) -> Tag {
        let slot = self.free.pop().unwrap_or_else(|| {
            self.slots.push(None);
            self.slots.len() - 1
        });
        self.slots[slot] = Some(header);
        Tag(slot as u64)
    }

    fn remove(&mut self, tag: Tag) -> RequestHeader {
        let slot = usize::try_from(tag.0).expect("tags are slots");
        let header = self.slots[slot].take().expect("a request is answered once");
        self.free.push(slot);
        header
    }
}

/// Bytes that a request and what is answered may hold in memory.
fn bytes_of(header: &RequestHeader) -> usize {
    match header.command {
        Command::Read | Command::Write => header.length as usize,
        Command::BlockStatus => EXTENTS_MAX * DESCRIPTOR_BYTES,
        _ => 0,
    }
}

/// Why a request goes no further than here.
fn refusal(header: &RequestHeader, session: Session) -> Option<(ErrorCode, &'static str)> {
    let is_status = header.command == Command::BlockStatus;
    if let Command::Unknown(_) = header.command {
        Some((ErrorCode::Inval, "unknown command"))
    } else if !header.flags_undue().is_empty() {
        Some((ErrorCode::Inval, "a flag that this command does not have"))
    } else if bytes_of(header) > REQUEST_BYTES_MAX as usize {
        Some((ErrorCode::Inval, "longer than the maximum block size"))
    } else if is_status && !session.base_allocation {
        Some((ErrorCode::Inval, "no metadata context was negotiated"))
    } else if is_status && header.length == 0 {
        Some((ErrorCode::Inval, "status of no byte"))
    } else if GuestRange::checked(header.offset, u64::from(header.length)).is_none() {
        match header.command {
            Command::Write | Command::WriteZeroes => Some((ErrorCode::Nospc, "beyond the end of the disk")),
            _ => Some((ErrorCode::Inval, "not a range of the disk")),
        }
    } else {
        None
    }
}

/// Extents as the protocol wants them: from the request's start, not beyond its end, neighbours different, at least one.
fn describe(header: &RequestHeader, extents: &[Extent]) -> Vec<BlockDescriptor> {
    let wanted = GuestRange::checked(header.offset, u64::from(header.length)).expect("refused if it wraps");
    let mut descriptors: Vec<BlockDescriptor> = Vec::new();
    for extent in extents {
        let Some(part) = extent.range.intersection(wanted) else { continue };
        let length = u32::try_from(part.length()).expect("a part of a request's range");
        let state = match extent.kind {
            ExtentKind::Data => StateFlags::EMPTY,
            ExtentKind::Zero => StateFlags::ZERO,
            ExtentKind::Hole => StateFlags::HOLE | StateFlags::ZERO,
        };
        let count = descriptors.len();
        match descriptors.last_mut() {
            Some(last) if last.state == state => last.length += length,
            _ if count == EXTENTS_MAX => break,
            _ => descriptors.push(BlockDescriptor { length, state }),
        }
    }
    if descriptors.is_empty() {
        // Nothing is known, which the protocol calls data.
        descriptors.push(BlockDescriptor { length: header.length, state: StateFlags::EMPTY });
    }
    if header.flags.contains(CommandFlags::REQ_ONE) {
        descriptors.truncate(1);
    }
    descriptors
}
