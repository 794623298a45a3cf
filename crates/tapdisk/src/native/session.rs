//! One connection: lines in, lines out, and the requests that are under way between them.
//!
//! It holds a bounded number of bytes and requests, whatever the client does: lines are taken only while answers are
//! fetched, and reports of progress are left out for whoever does not fetch them.

use std::{
    cell::{Cell, RefCell},
    collections::{BTreeSet, VecDeque},
    future::Future,
    io::{self, Read, Write},
    os::unix::net::UnixStream,
    pin::{Pin, pin},
    rc::Rc,
    time::Duration,
};

use block_core::{Error, ErrorKind, Result};
use control_api::{
    errno,
    native::{
        Answer, AnswerBody, Command, Done, Failure, Hello, LineReader, REQUEST_BYTES_MAX, Request, ResultOf, RingEvent,
    },
    reason,
};
use futures_util::future::{Either, select};
use rustix::io::Errno;
use serde::{Deserialize, Serialize};
use storage_io::{Executor, Receiver, Signal, reply};

use super::{
    commands::Begun,
    report::{progress, result_of},
};
use crate::{
    connections::gone,
    control::{Control, os},
    jobs::JobRecord,
    rings::FailingDevice,
};

/// What the greeting says.
const PROGRAM: &str = concat!("tapdisk ", env!("CARGO_PKG_VERSION"));
/// Requests of one connection that have not been answered.
const REQUESTS_MAX: usize = 32;
/// No more requests are read while so many bytes wait to be fetched.
const UNFETCHED_BYTES_MAX: usize = 256 << 10;
/// How long fetching may stand still.
const FETCH_MAX: Duration = Duration::from_secs(10);
/// How often a job that goes on is reported.
const REPORT_PERIOD: Duration = Duration::from_secs(1);

/// A connection.
pub(crate) struct Session {
    executor: Executor,
    control: Rc<Control>,
    /// What was not fetched yet.
    out: RefCell<VecDeque<u8>>,
    /// The requests that have not been answered.
    under_way: RefCell<BTreeSet<u64>>,
    /// Whether nothing was asked but of guests' devices, since it was last idle; none before the first request.
    asks_of_guests: Cell<Option<bool>>,
    /// Devices that are answered with errors as long as this lasts.
    failing: RefCell<Vec<FailingDevice>>,
    has_ended: Cell<bool>,
    changed: Signal,
    /// Tells the server that this may be idle now.
    maybe_idle: Rc<Signal>,
}

/// What of a line that is no request may still be understood.
#[derive(Deserialize)]
struct OnlyId {
    id: u64,
}

impl Session {
    pub(crate) fn new(executor: &Executor, control: Rc<Control>, maybe_idle: Rc<Signal>) -> Rc<Session> {
        Rc::new(Session {
            executor: executor.clone(),
            control,
            out: RefCell::default(),
            under_way: RefCell::default(),
            asks_of_guests: Cell::new(None),
            failing: RefCell::default(),
            has_ended: Cell::new(false),
            changed: Signal::new(),
            maybe_idle,
        })
    }

    /// Whether nobody waits for anything.
    pub(crate) fn is_idle(&self) -> bool {
        self.under_way.borrow().is_empty() && self.out.borrow().is_empty() && self.failing.borrow().is_empty()
    }

    /// Whether it waits, and for guests' devices only.
    pub(crate) fn is_for_guests_only(&self) -> bool {
        self.asks_of_guests.get() == Some(true) && !self.is_idle()
    }

    /// Nobody listens any more. What was begun goes on.
    pub(crate) fn end(&self) {
        self.has_ended.set(true);
        let failing = self.failing.take();
        drop(failing);
        self.notify();
    }

    fn notify(&self) {
        self.changed.notify();
        self.maybe_idle.notify();
    }

    /// Serves the connection to its end.
    pub(crate) async fn serve(self: &Rc<Self>, stream: UnixStream) {
        self.put(&Hello::new(PROGRAM, self.control.pid));
        let reading = pin!(async {
            self.read(&stream).await;
            // Who has said all still wants the answers; who has gone does not.
            select(pin!(self.changed.until(|| self.is_idle())), pin!(gone(&self.executor, &stream))).await;
        });
        select(reading, pin!(self.write(&stream))).await;
    }

    /// Takes requests until the client has said all, or nothing can be understood any more.
    async fn read(self: &Rc<Self>, mut stream: &UnixStream) {
        let mut reader = LineReader::new(REQUEST_BYTES_MAX);
        loop {
            let mut bytes = [0; 4096];
            match stream.read(&mut bytes) {
                Ok(0) => return,
                Ok(length) => {
                    if let Err(error) = self.take(&mut reader, &bytes[..length]).await {
                        self.answer(None, Err(error));
                        return;
                    }
                    // Others get their turn, whatever this client goes on to say.
                    self.executor.yield_now().await;
                }
                Err(error) if error.kind() == io::ErrorKind::Interrupted => {}
                Err(error) if error.kind() == io::ErrorKind::WouldBlock => {
                    if self.executor.readable(stream).await.is_err() {
                        return;
                    }
                }
                Err(_) => return,
            }
        }
    }

    /// Answers line by line, as long as the client fetches the answers.
    async fn take(self: &Rc<Self>, reader: &mut LineReader, mut bytes: &[u8]) -> Result<()> {
        while !bytes.is_empty() {
            let fed = reader.feed(bytes);
            let (taken, line) = fed.map_err(|error| os(error.to_string(), Errno::MSGSIZE))?;
            bytes = &bytes[taken..];
            if let Some(line) = line.filter(|line| !line.trim_ascii().is_empty()) {
                self.changed.until(|| self.out.borrow().len() <= UNFETCHED_BYTES_MAX).await;
                self.request(&line);
            }
        }
        Ok(())
    }

    fn request(self: &Rc<Self>, line: &[u8]) {
        let Request { id, command } = match serde_json::from_slice(line) {
            Ok(request) => request,
            Err(error) => {
                let id = serde_json::from_slice(line).ok().map(|OnlyId { id }| id);
                let id = id.filter(|id| !self.under_way.borrow().contains(id));
                self.answer(id, Err(Error::new(ErrorKind::Invalid, error.to_string())));
                return;
            }
        };
        let under_way = self.under_way.borrow().len();
        if self.under_way.borrow().contains(&id) {
            self.answer(None, Err(Error::new(ErrorKind::Invalid, format!("request {id} is under way already"))));
        } else if under_way >= REQUESTS_MAX {
            self.answer(Some(id), Err(os(format!("{under_way} requests are under way"), Errno::BUSY)));
        } else {
            let others_asked = self.asks_of_guests.get() == Some(false) && !self.is_idle();
            self.asks_of_guests.set(Some(!others_asked && is_of_a_guest(&command)));
            match self.control.begin_command(command) {
                Begun::Answered(result) => self.answer(Some(id), result),
                Begun::Job(job) => self.later(id, async move |session| session.report(id, &job).await),
                Begun::Failing(device) => {
                    let told = device.told();
                    self.failing.borrow_mut().push(device);
                    self.answer(Some(id), Ok(ResultOf::FailRing(told)));
                }
                Begun::Watching(events) => self.later(id, async move |session| session.tell(id, events).await),
                Begun::Asked(asked) => self.later(id, self.carried_out(asked)),
            }
        }
    }

    /// Waits for something that is carried out to its end, also when nobody waits for it any more.
    fn carried_out(
        &self,
        asked: Pin<Box<dyn Future<Output = Result<ResultOf>>>>,
    ) -> impl AsyncFnOnce(&Session) -> Result<ResultOf> + use<> {
        let (to, answer) = reply();
        let work = async move {
            // The client may have gone.
            let _ = to.answer(asked.await);
        };
        self.executor.spawn(work).detach();
        async move |_: &Session| answer.await.expect("a task that is detached ends")
    }

    /// Answers when `work` has ended, unless the session ends before.
    fn later(self: &Rc<Self>, id: u64, work: impl AsyncFnOnce(&Session) -> Result<ResultOf> + 'static) {
        self.under_way.borrow_mut().insert(id);
        // There may be room for another connection.
        self.maybe_idle.notify();
        let session = self.clone();
        let task = async move {
            let ended = pin!(session.changed.until(|| session.has_ended.get()));
            let done = match select(pin!(work(&session)), ended).await {
                Either::Left((result, _)) => Some(result),
                Either::Right(_) => None,
            };
            session.under_way.borrow_mut().remove(&id);
            if let Some(result) = done {
                session.answer(Some(id), result);
            }
            session.notify();
        };
        self.executor.spawn(task).detach();
    }

    /// Tells how a job goes on until it has ended.
    async fn report(&self, id: u64, job: &JobRecord) -> Result<ResultOf> {
        loop {
            let state = job.state();
            if let Some(done) = job.outcome().filter(|_| job.has_ended()) {
                return result_of(job.kind, done);
            }
            let is_first_or_fetched = self.out.borrow().len() <= UNFETCHED_BYTES_MAX;
            if is_first_or_fetched {
                let made = progress(&self.control, job, self.executor.now());
                self.put(&Answer { id: Some(id), body: AnswerBody::Progress(made) });
            }
            let changed = pin!(job.changed.until(|| job.state() != state));
            select(changed, pin!(self.executor.sleep(REPORT_PERIOD))).await;
        }
    }

    /// Tells what happens to a guest's device until it is disconnected.
    async fn tell(&self, id: u64, mut events: Receiver<RingEvent>) -> Result<ResultOf> {
        while let Some(event) = events.recv().await {
            self.put(&Answer { id: Some(id), body: AnswerBody::Event(event) });
        }
        Ok(ResultOf::WatchRing(Done {}))
    }

    fn answer(&self, id: Option<u64>, result: Result<ResultOf>) {
        let body = match result {
            Ok(result) => AnswerBody::Result(Box::new(result)),
            Err(error) => AnswerBody::Error(failure(&error)),
        };
        self.put(&Answer { id, body });
    }

    fn put(&self, message: &impl Serialize) {
        if self.has_ended.get() {
            return;
        }
        let mut out = self.out.borrow_mut();
        serde_json::to_writer(&mut *out, message).expect("messages have text for keys, and memory takes everything");
        out.push_back(b'\n');
        drop(out);
        self.notify();
    }

    /// Hands out what there is to say until the client has gone, or has fetched nothing for too long.
    async fn write(&self, mut stream: &UnixStream) {
        loop {
            self.changed.until(|| !self.out.borrow().is_empty()).await;
            let written = stream.write(self.out.borrow().as_slices().0);
            match written {
                Ok(count) => {
                    self.out.borrow_mut().drain(..count);
                    self.notify();
                }
                Err(error) if error.kind() == io::ErrorKind::Interrupted => {}
                Err(error) if error.kind() == io::ErrorKind::WouldBlock => {
                    let writable = pin!(self.executor.writable(stream));
                    match select(writable, pin!(self.executor.sleep(FETCH_MAX))).await {
                        Either::Left((Ok(()), _)) => {}
                        _ => return,
                    }
                }
                Err(_) => return,
            }
        }
    }
}

/// Whoever serves guests asks this, and on a connection for each device.
fn is_of_a_guest(command: &Command) -> bool {
    matches!(
        command,
        Command::ConnectRing(_)
            | Command::DisconnectRing { .. }
            | Command::SettleRing { .. }
            | Command::WatchRing { .. }
            | Command::FailRing { .. }
    )
}

/// An error as clients get it.
pub(super) fn failure(error: &Error) -> Failure {
    Failure { errno: errno(error), reason: reason(error) }
}
