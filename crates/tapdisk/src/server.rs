//! The control socket: connections with one request each. Whoever connects and says nothing, says nonsense or says it
//! slowly holds up nobody else.

use std::{
    cell::Cell,
    io::{self, Read, Write},
    os::unix::net::UnixStream,
    pin::pin,
    rc::Rc,
    time::Duration,
};

use control_api::protocol::{DecodeError, Request, RequestReader};
use futures_util::future::{Either, select};
use storage_io::{Executor, Task, reply};
use zeroize::Zeroizing;

use crate::{
    connections::{Connection, Connections, WhenFull, gone},
    control::Control,
    listener::Listener,
};

/// Connections at once.
const CONNECTIONS_MAX: usize = 256;
/// How long a request may take from its first byte to its last.
const REQUEST_MAX: Duration = Duration::from_secs(2);
/// How long an answer may take to be fetched.
const ANSWER_MAX: Duration = Duration::from_secs(10);

/// All control connections.
pub(crate) struct Server {
    executor: Executor,
    control: Rc<Control>,
    connections: Rc<Connections<HasSpoken>>,
}

/// Whoever has said something waits for an answer.
#[derive(Clone, Default)]
struct HasSpoken(Rc<Cell<bool>>);

impl Connection for HasSpoken {
    fn is_idle(&self) -> bool {
        !self.0.get()
    }
}

impl Server {
    pub(crate) fn new(executor: &Executor, control: Rc<Control>) -> Rc<Server> {
        let connections = Connections::new(executor, CONNECTIONS_MAX, WhenFull::IdleMakeRoom);
        Rc::new(Server { executor: executor.clone(), control, connections })
    }

    /// Accepts connections until the task is dropped.
    pub(crate) fn listen(self: &Rc<Self>, listener: Listener) -> Task<()> {
        let server = self.clone();
        self.connections.listen(listener, self.control.log.clone(), move |stream| {
            let (server, has_spoken) = (server.clone(), HasSpoken::default());
            (has_spoken.clone(), async move { server.serve(stream, &has_spoken).await })
        })
    }

    async fn serve(&self, mut stream: UnixStream, has_spoken: &HasSpoken) {
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
        has_spoken: &HasSpoken,
    ) -> Option<Result<Request, DecodeError>> {
        let mut reader = RequestReader::new();
        let mut deadline = None;
        // There may be a key in it.
        let mut bytes = Zeroizing::new([0; 1024]);
        loop {
            match stream.read(&mut *bytes) {
                Ok(0) => return None,
                Ok(length) => {
                    has_spoken.0.set(true);
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
        match select(answer, pin!(gone(&self.executor, stream))).await {
            Either::Left((answer, _)) => answer,
            Either::Right(_) => None,
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
        self.connections.finish(ANSWER_MAX).await;
    }
}
