//! The server behind Unix sockets, one for each domain whose clients it takes for what the socket says.

use std::{
    cell::{Cell, RefCell},
    fs, io,
    io::{Read, Write},
    os::unix::net::{UnixListener, UnixStream},
    path::{Path, PathBuf},
    pin::pin,
    rc::Rc,
    time::Duration,
};

use block_core::{Result, ResultExt};
use futures_util::future::select;
use storage_io::{Executor, Signal, Task};
use wire::xenstore::MessageReader;

use super::{ConnectionId, Faults, Store};

/// How long to wait when the system has no descriptor left for a connection.
const NO_DESCRIPTOR_PAUSE: Duration = Duration::from_millis(100);
/// Requests carried out for one client before others get their turn.
const REQUESTS_AT_ONCE_MAX: usize = 64;

/// How the sockets misbehave, as sockets may.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq)]
pub struct SocketFaults {
    /// Bytes that are received or sent at a time, at most; 0: as many as there are.
    pub portion_bytes: usize,
    /// A connection ends after so many requests; 0: never.
    pub requests_max: u64,
    /// Events come late, by this much at most; zero: at once.
    pub event_delay: Duration,
    /// Those that come late come in the opposite order.
    pub reverse_events: bool,
}

/// A server and its sockets. Dropping it ends all of them.
pub struct Sockets {
    shared: Rc<Shared>,
    listeners: RefCell<Vec<Listener>>,
    /// Lets events go that come late.
    delaying: RefCell<Option<Task<()>>>,
}

struct Listener {
    path: PathBuf,
    _task: Task<()>,
}

struct Shared {
    executor: Executor,
    store: RefCell<Store>,
    faults: Cell<SocketFaults>,
    /// There may be something to send to somebody.
    changed: Signal,
    connections: RefCell<Vec<(ConnectionId, Task<()>)>>,
}

impl Sockets {
    /// A server that nobody can reach yet.
    pub fn new(executor: &Executor, store: Store) -> Sockets {
        let shared = Shared {
            executor: executor.clone(),
            store: RefCell::new(store),
            faults: Cell::default(),
            changed: Signal::new(),
            connections: RefCell::default(),
        };
        Sockets { shared: Rc::new(shared), listeners: RefCell::default(), delaying: RefCell::default() }
    }

    /// Takes clients of `domain` at this socket; whatever was there before is replaced.
    ///
    /// # Errors
    /// What the operating system says.
    pub fn listen(&self, path: &Path, domain: u16) -> Result<()> {
        match fs::remove_file(path) {
            Err(error) if error.kind() != io::ErrorKind::NotFound => return Err(error).context(path.display()),
            _ => {}
        }
        let listener = UnixListener::bind(path).context(path.display())?;
        listener.set_nonblocking(true).context(path.display())?;
        let shared = self.shared.clone();
        let task = self.shared.executor.spawn(async move { shared.accept(listener, domain).await });
        self.listeners.borrow_mut().push(Listener { path: path.to_owned(), _task: task });
        Ok(())
    }

    /// Does something to the server directly; whoever watches is told.
    pub fn with_store<T>(&self, action: impl FnOnce(&mut Store) -> T) -> T {
        let result = action(&mut self.shared.store.borrow_mut());
        self.shared.changed.notify();
        result
    }

    /// From now on the sockets misbehave like this.
    pub fn set_faults(&self, faults: SocketFaults) {
        self.shared.faults.set(faults);
        let (hold_events, reverse_events) = (!faults.event_delay.is_zero(), faults.reverse_events);
        self.with_store(|store| {
            store.set_faults(Faults { hold_events, reverse_events, ..store.faults() });
            store.let_go_of_events();
        });
        let shared = self.shared.clone();
        let delaying = hold_events.then(|| self.shared.executor.spawn(async move { shared.delay_events().await }));
        self.delaying.replace(delaying);
    }

    /// Ends all connections, as a server that is restarted does.
    pub fn drop_connections(&self) {
        let connections = self.shared.connections.take();
        let mut store = self.shared.store.borrow_mut();
        connections.iter().for_each(|(id, _)| store.disconnect(*id));
    }

    /// How many clients are connected.
    pub fn connections(&self) -> usize {
        self.shared.connections.borrow().len()
    }
}

impl Drop for Sockets {
    fn drop(&mut self) {
        for listener in self.listeners.take() {
            // Gone already is as good.
            let _ = fs::remove_file(&listener.path);
        }
        // Tasks hold `shared`: ending them breaks the circle.
        self.delaying.take();
        let connections = self.shared.connections.take();
        drop(connections);
    }
}

impl Shared {
    async fn delay_events(&self) {
        loop {
            self.executor.sleep(self.faults.get().event_delay).await;
            self.store.borrow_mut().let_go_of_events();
            self.changed.notify();
        }
    }

    async fn accept(self: Rc<Self>, listener: UnixListener, domain: u16) {
        loop {
            match listener.accept() {
                Ok((stream, _)) => {
                    if stream.set_nonblocking(true).is_ok() {
                        self.begin(stream, domain);
                    }
                }
                Err(error) if error.kind() == io::ErrorKind::WouldBlock => {
                    if self.executor.readable(&listener).await.is_err() {
                        return;
                    }
                }
                Err(error) if matches!(error.kind(), io::ErrorKind::Interrupted | io::ErrorKind::ConnectionAborted) => {
                }
                Err(_) => self.executor.sleep(NO_DESCRIPTOR_PAUSE).await,
            }
        }
    }

    fn begin(self: &Rc<Self>, stream: UnixStream, domain: u16) {
        let id = self.store.borrow_mut().connect(domain);
        let shared = self.clone();
        let task = self.executor.spawn(async move {
            let client = Client { shared: &shared, stream, id };
            client.serve().await;
            shared.store.borrow_mut().disconnect(id);
            let ended = {
                let mut connections = shared.connections.borrow_mut();
                let index = connections.iter().position(|(other, _)| *other == id);
                index.map(|index| connections.swap_remove(index))
            };
            drop(ended);
        });
        self.connections.borrow_mut().push((id, task));
    }
}

struct Client<'a> {
    shared: &'a Shared,
    stream: UnixStream,
    id: ConnectionId,
}

impl Client<'_> {
    /// Serves one client to its end.
    async fn serve(&self) {
        let mut reader = MessageReader::new();
        let mut unsent: Vec<u8> = Vec::new();
        let mut requests = 0;
        loop {
            if !self.send(&mut unsent) || self.shared.store.borrow().is_overdue(self.id) {
                return;
            }
            match self.receive(&mut reader, &mut requests) {
                Received::Something => continue,
                Received::Nothing => {}
                Received::End => return,
            }
            if self.send(&mut unsent) && !self.wait(&mut unsent).await {
                return;
            }
        }
    }

    /// Sends what waits, as far as the client takes it; false if it has gone.
    fn send(&self, unsent: &mut Vec<u8>) -> bool {
        let portion = self.portion();
        loop {
            if unsent.is_empty() {
                match self.shared.store.borrow_mut().pop(self.id) {
                    Some(message) => *unsent = message,
                    None => return true,
                }
            }
            let end = unsent.len().min(portion);
            match (&self.stream).write(&unsent[..end]) {
                Ok(count) => drop(unsent.drain(..count)),
                Err(error) if error.kind() == io::ErrorKind::WouldBlock => return true,
                Err(error) if error.kind() == io::ErrorKind::Interrupted => {}
                Err(_) => return false,
            }
        }
    }

    fn receive(&self, reader: &mut MessageReader, requests: &mut u64) -> Received {
        let mut bytes = [0; 4096];
        let portion = self.portion().min(bytes.len());
        let count = match (&self.stream).read(&mut bytes[..portion]) {
            Ok(0) => return Received::End,
            Ok(count) => count,
            Err(error) if error.kind() == io::ErrorKind::WouldBlock => return Received::Nothing,
            Err(error) if error.kind() == io::ErrorKind::Interrupted => return Received::Something,
            Err(_) => return Received::End,
        };
        let mut rest = &bytes[..count];
        while !rest.is_empty() {
            // A message that is too long ends the connection.
            let Ok((taken, message)) = reader.feed(rest) else { return Received::End };
            rest = &rest[taken..];
            let Some(message) = message else { continue };
            self.shared.store.borrow_mut().handle(self.id, &message);
            self.shared.changed.notify();
            *requests += 1;
            let requests_max = self.shared.faults.get().requests_max;
            if requests_max != 0 && *requests >= requests_max {
                return Received::End;
            }
        }
        Received::Something
    }

    /// Ends when there may be something to receive or to send; false if the connection is broken.
    async fn wait(&self, unsent: &mut Vec<u8>) -> bool {
        let executor = &self.shared.executor;
        for _ in 0..REQUESTS_AT_ONCE_MAX {
            if !unsent.is_empty() {
                let readable = pin!(executor.readable(&self.stream));
                let writable = pin!(executor.writable(&self.stream));
                return select(readable, writable).await.factor_first().0.is_ok();
            }
            let readable = pin!(executor.readable(&self.stream));
            let told = pin!(self.shared.changed.find(|| self.shared.store.borrow_mut().pop(self.id)));
            match select(readable, told).await {
                futures_util::future::Either::Left((ready, _)) => return ready.is_ok(),
                futures_util::future::Either::Right((message, _)) => *unsent = message,
            }
            if !self.send(unsent) {
                return false;
            }
        }
        executor.yield_now().await;
        true
    }

    fn portion(&self) -> usize {
        match self.shared.faults.get().portion_bytes {
            0 => usize::MAX,
            bytes => bytes,
        }
    }
}

enum Received {
    Something,
    Nothing,
    End,
}
