//! Sockets, signals and time around the bridge.

use std::{
    cell::{Cell, RefCell},
    collections::BTreeMap,
    io,
    net::Shutdown,
    os::unix::net::UnixStream,
    pin::pin,
    rc::Rc,
    time::Duration,
};

use block_core::Result;
use futures_util::future::select;
use rustix::process::Signal as ProcessSignal;
use storage_io::{EngineChoice, Executor, Signal, Signals};
use wire::rate_limit::{DEMAND_BYTES, DEMANDS_AT_ONCE_MAX, DemandReader, GRANT_BYTES, encode_grant};

use super::{
    bridge::{Bridge, ClientNumber},
    limiter::Limiter,
    log::Log,
    socket::Socket,
};

/// How long to wait when the system has no descriptor left for a client.
const NO_DESCRIPTOR_PAUSE: Duration = Duration::from_millis(100);

/// Serves until a signal ends it.
pub(super) fn serve(socket: Socket, limiter: Limiter, log: Log, in_foreground: bool) -> Result<()> {
    let signals = Signals::take(&[ProcessSignal::INT, ProcessSignal::TERM, ProcessSignal::USR1])?;
    let executor = Executor::new(EngineChoice::Inline)?;
    let server = Rc::new(Server {
        executor: executor.clone(),
        bridge: RefCell::new(Bridge::new(limiter)),
        streams: RefCell::default(),
        has_changed: Cell::new(false),
        change: Signal::new(),
        log: RefCell::new(log),
    });
    server.log.borrow_mut().info(&format!("listening on {}", socket.path()));
    let socket = Rc::new(socket);
    executor.spawn(accept(server.clone(), socket.clone())).detach();
    executor.spawn(dispatch(server.clone())).detach();
    if in_foreground {
        executor.spawn(watch_stdin(server.clone())).detach();
    }
    let ended = executor.block_on(async {
        loop {
            match signals.next(&executor).await? {
                ProcessSignal::USR1 => server.tell_status(),
                signal => return Ok(signal),
            }
        }
    });
    // Nobody connects any more, and those who are there go on without us.
    executor.end_tasks();
    drop(socket);
    let mut log = server.log.borrow_mut();
    if let Ok(signal) = &ended {
        log.info(&format!("ended by signal {}", signal.as_raw()));
    }
    log.finish();
    ended.map(drop)
}

struct Server {
    executor: Executor,
    bridge: RefCell<Bridge>,
    streams: RefCell<BTreeMap<ClientNumber, Rc<UnixStream>>>,
    /// Somebody wants something new.
    has_changed: Cell<bool>,
    change: Signal,
    log: RefCell<Log>,
}

impl Server {
    fn tell_status(&self) {
        let status = self.bridge.borrow().status();
        self.log.borrow_mut().info(&status);
    }

    fn changed(&self) {
        self.has_changed.set(true);
        self.change.notify();
    }

    /// A client that does not read what it asked for is of no use to anybody: its own task ends it.
    fn grant(&self, number: ClientNumber, bytes: u64) {
        let Some(stream) = self.streams.borrow().get(&number).cloned() else { return };
        self.log.borrow_mut().detail(|| format!("client={number} granted={bytes}"));
        let sent = rustix::io::write(&*stream, &encode_grant(bytes));
        if sent != Ok(GRANT_BYTES) {
            let _ = stream.shutdown(Shutdown::Both);
        }
    }
}

async fn accept(server: Rc<Server>, socket: Rc<Socket>) {
    loop {
        match socket.listener().accept() {
            Ok((stream, _)) => server.clone().welcome(stream),
            Err(error) if error.kind() == io::ErrorKind::WouldBlock => {
                if server.executor.readable(socket.listener()).await.is_err() {
                    server.executor.sleep(NO_DESCRIPTOR_PAUSE).await;
                }
            }
            Err(error) if error.kind() == io::ErrorKind::ConnectionAborted => {}
            Err(_) => server.executor.sleep(NO_DESCRIPTOR_PAUSE).await,
        }
    }
}

impl Server {
    fn welcome(self: Rc<Self>, stream: UnixStream) {
        if stream.set_nonblocking(true).is_err() {
            return;
        }
        let Some(number) = self.bridge.borrow_mut().connect() else {
            self.log.borrow_mut().warning("a client was turned away: there are too many");
            return;
        };
        self.log.borrow_mut().info(&format!("client={number} has come"));
        let stream = Rc::new(stream);
        self.streams.borrow_mut().insert(number, stream.clone());
        let executor = self.executor.clone();
        executor.spawn(async move { self.attend(number, &stream).await }).detach();
    }

    async fn attend(&self, number: ClientNumber, stream: &UnixStream) {
        match self.listen(number, stream).await {
            Ok(()) => self.log.borrow_mut().info(&format!("client={number} has gone")),
            Err(words) => self.log.borrow_mut().warning(&format!("client={number} is cut off: {words}")),
        }
        self.streams.borrow_mut().remove(&number);
        self.bridge.borrow_mut().disconnect(number);
    }

    /// Takes demands until the client goes, or breaks the rules.
    async fn listen(&self, number: ClientNumber, stream: &UnixStream) -> std::result::Result<(), String> {
        let mut reader = DemandReader::new();
        loop {
            let mut bytes = [0; DEMANDS_AT_ONCE_MAX * DEMAND_BYTES];
            let count = match rustix::io::read(stream, &mut bytes) {
                Ok(0) => return Ok(()),
                Ok(count) => count,
                Err(rustix::io::Errno::AGAIN) => {
                    self.executor.readable(stream).await.map_err(|error| error.to_string())?;
                    continue;
                }
                Err(rustix::io::Errno::INTR) => continue,
                Err(error) => return Err(error.to_string()),
            };
            let mut rest = &bytes[..count];
            while !rest.is_empty() {
                let (taken, demand) = reader.feed(rest);
                rest = &rest[taken..];
                if let Some(demand) = demand {
                    self.bridge.borrow_mut().demand(number, demand)?;
                }
            }
            self.changed();
            // One client that never stops asking must not keep the others from being heard.
            self.executor.yield_now().await;
        }
    }
}

/// Grants whenever somebody wants something, and whenever there is something to grant again.
async fn dispatch(server: Rc<Server>) {
    loop {
        server.has_changed.set(false);
        let grants = server.bridge.borrow_mut().dispatch(server.executor.now());
        for (number, bytes) in grants {
            server.grant(number, bytes);
        }
        let next = server.bridge.borrow().next_dispatch();
        let changed = pin!(server.change.until(|| server.has_changed.get()));
        match next {
            Some(wait) => drop(select(changed, server.executor.sleep(wait)).await),
            None => changed.await,
        }
    }
}

/// Whoever types anything wants to see the status.
async fn watch_stdin(server: Rc<Server>) {
    let stdin = io::stdin();
    // Until the end, or from the start if it is nothing that one can wait for.
    while server.executor.readable(&stdin).await.is_ok() {
        match rustix::io::read(&stdin, &mut [0; 256]) {
            Ok(0) | Err(_) => return,
            Ok(_) => server.tell_status(),
        }
    }
}
