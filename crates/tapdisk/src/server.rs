//! The control socket: connections with one request each. Whoever connects and says nothing, says nonsense or says it
//! slowly holds up nobody else.

use std::{
    cell::{Cell, RefCell},
    collections::BTreeMap,
    io::{self, Read, Write},
    os::unix::net::UnixStream,
    pin::pin,
    rc::Rc,
    time::Duration,
};

use control_api::protocol::{DecodeError, Request, RequestReader};
use futures_util::future::{Either, select};
use rustix::event::{PollFd, PollFlags, Timespec, poll};
use storage_io::{Executor, Signal, Task, reply};

use crate::{control::Control, listener::Listener};

/// Connections at once. At the limit, the oldest that has not said anything makes room.
const CONNECTIONS_MAX: usize = 256;
/// How long a request may take from its first byte to its last.
const REQUEST_MAX: Duration = Duration::from_secs(2);
/// How long an answer may take to be fetched.
const ANSWER_MAX: Duration = Duration::from_secs(10);

/// How often to look whether a client has gone that has ended its requests.
const LOOK_PERIOD: Duration = Duration::from_secs(1);

/// All control connections.
pub(crate) struct Server {
    executor: Executor,
    control: Rc<Control>,
    /// By age.
    connections: RefCell<BTreeMap<u64, Connection>>,
    next: Cell<u64>,
    changed: Signal,
}

struct Connection {
    has_spoken: Rc<Cell<bool>>,
    _task: Task<()>,
}

impl Server {
    pub(crate) fn new(executor: &Executor, control: Rc<Control>) -> Rc<Server> {
        Rc::new(Server {
            executor: executor.clone(),
            control,
            connections: RefCell::default(),
            next: Cell::new(0),
            changed: Signal::new(),
        })
    }

    /// Accepts connections until the task is dropped.
    pub(crate) fn listen(self: &Rc<Self>, listener: Listener) -> Task<()> {
        let server = self.clone();
        self.executor.spawn(async move {
            while let Ok(stream) = listener.accept(&server.executor).await {
                server.make_room().await;
                server.begin(stream);
            }
            server.control.log.error("the control socket is broken");
        })
    }

    async fn make_room(&self) {
        let is_full = || self.connections.borrow().len() >= CONNECTIONS_MAX;
        if is_full() {
            let silent = |(number, connection): (&u64, &Connection)| (!connection.has_spoken.get()).then_some(*number);
            let oldest = self.connections.borrow().iter().find_map(silent);
            if let Some(oldest) = oldest {
                self.forget(oldest);
            }
        }
        self.changed.until(|| !is_full()).await;
    }

    fn begin(self: &Rc<Self>, stream: UnixStream) {
        let number = self.next.get();
        self.next.set(number + 1);
        let has_spoken = Rc::new(Cell::new(false));
        let (server, spoken) = (self.clone(), has_spoken.clone());
        let task = self.executor.spawn(async move {
            server.serve(stream, &spoken).await;
            server.forget(number);
        });
        self.connections.borrow_mut().insert(number, Connection { has_spoken, _task: task });
    }

    /// A task may forget itself: it then runs to its end.
    fn forget(&self, number: u64) {
        let forgotten = self.connections.borrow_mut().remove(&number);
        drop(forgotten);
        self.changed.notify();
    }

    async fn serve(&self, mut stream: UnixStream, has_spoken: &Cell<bool>) {
        let answer = match self.read_request(&mut stream, has_spoken).await {
            None => return,
            Some(Err(error)) => Some(self.control.refuse(error)),
            Some(Ok(request)) => self.carry_out(&stream, request).await,
        };
        if let Some(answer) = answer {
            self.write(&mut stream, &answer).await;
        }
    }

    /// Reads one request; none if the client goes away, or begins one and does not end it in time.
    async fn read_request(
        &self,
        stream: &mut UnixStream,
        has_spoken: &Cell<bool>,
    ) -> Option<Result<Request, DecodeError>> {
        let mut reader = RequestReader::new();
        let mut deadline = None;
        loop {
            let mut bytes = [0; 1024];
            match stream.read(&mut bytes) {
                Ok(0) => return None,
                Ok(length) => {
                    has_spoken.set(true);
                    deadline.get_or_insert_with(|| self.executor.now() + REQUEST_MAX);
                    if let (_, Some(request)) = reader.feed(&bytes[..length]) {
                        return Some(request);
                    }
                }
                Err(error) if error.kind() == io::ErrorKind::Interrupted => {}
                Err(error) if error.kind() == io::ErrorKind::WouldBlock => {
                    let readable = pin!(self.executor.readable(stream));
                    match deadline {
                        None => readable.await.ok()?,
                        Some(deadline) => match select(readable, pin!(self.executor.sleep_until(deadline))).await {
                            Either::Left((ready, _)) => ready.ok()?,
                            Either::Right(_) => return None,
                        },
                    }
                }
                Err(_) => return None,
            }
        }
    }

    /// The answer to a request, or none if the client does not wait for it. What has begun is done all the same.
    async fn carry_out(&self, stream: &UnixStream, request: Request) -> Option<Vec<u8>> {
        let (to, answer) = reply();
        let control = self.control.clone();
        let job = async move {
            // The client may have gone.
            let _ = to.answer(control.answer(request).await);
        };
        self.executor.spawn(job).detach();
        match select(answer, pin!(self.gone(stream))).await {
            Either::Left((answer, _)) => answer,
            Either::Right(_) => None,
        }
    }

    /// Ends when the client has closed its end. One that has only ended its requests, or sends more than it may, still
    /// waits for its answer: that keeps the socket readable, so it is looked at now and then.
    async fn gone(&self, stream: &UnixStream) {
        // Whatever readiness comes to, the socket itself knows better.
        let _ = self.executor.readable(stream).await;
        loop {
            let mut state = [PollFd::new(stream, PollFlags::empty())];
            let polled = poll(&mut state, Some(&Timespec::default()));
            if polled.is_err() || state[0].revents().contains(PollFlags::HUP) {
                return;
            }
            self.executor.sleep(LOOK_PERIOD).await;
        }
    }

    async fn write(&self, stream: &mut UnixStream, mut bytes: &[u8]) {
        let deadline = self.executor.now() + ANSWER_MAX;
        while !bytes.is_empty() {
            match stream.write(bytes) {
                Ok(count) => bytes = &bytes[count..],
                Err(error) if error.kind() == io::ErrorKind::Interrupted => {}
                Err(error) if error.kind() == io::ErrorKind::WouldBlock => {
                    let writable = pin!(self.executor.writable(stream));
                    match select(writable, pin!(self.executor.sleep_until(deadline))).await {
                        Either::Left((Ok(()), _)) => {}
                        _ => return,
                    }
                }
                Err(_) => return,
            }
        }
    }

    /// Ends when everybody who has asked has got an answer or has gone, in bounded time.
    pub(crate) async fn finish(&self) {
        let is_done = || !self.connections.borrow().values().any(|connection| connection.has_spoken.get());
        let done = pin!(self.changed.until(is_done));
        select(done, pin!(self.executor.sleep(ANSWER_MAX))).await;
    }
}
