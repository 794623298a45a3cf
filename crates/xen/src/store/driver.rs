//! The connection: sends what is asked, gives out what comes back, and finds the server again when it is lost.

use std::{
    cell::{Cell, RefCell},
    collections::{BTreeMap, HashMap, VecDeque},
    os::fd::OwnedFd,
    pin::pin,
    rc::{Rc, Weak},
    sync::Arc,
    time::Duration,
};

use block_core::{Error, ErrorKind, Result};
use futures_util::future::select;
use rustix::{
    fs::{Mode, OFlags},
    io::Errno,
    net::{AddressFamily, SocketAddrUnix, SocketFlags, SocketType, connect, socket_with},
};
use storage_io::{Executor, Reply, ReplyTo, Signal, Task, reply};
use wire::xenstore::{ErrorName, Message, MessageReader, Operation, Path, WatchEvent, put_message};

use super::{client::Address, watch::Events};

/// Between two attempts to find the server again, at first.
const PAUSE_MIN: Duration = Duration::from_millis(10);
/// And at most.
const PAUSE_MAX: Duration = Duration::from_secs(1);

/// Before a watch that the server has refused is tried again, at first.
const REFUSED_PAUSE_MIN: Duration = Duration::from_millis(100);
/// And at most.
const REFUSED_PAUSE_MAX: Duration = Duration::from_secs(10);

/// What a question comes to.
type Asked = Result<Vec<u8>>;

/// What clients and the driver share.
pub(super) struct Shared {
    pub(super) executor: Executor,
    pub(super) address: Address,
    /// Messages, whole, that wait to be sent.
    outgoing: RefCell<VecDeque<Vec<u8>>>,
    has_outgoing: Signal,
    /// Questions that wait for their answer, by their number.
    waiting: RefCell<HashMap<u32, ReplyTo<Asked>>>,
    next_request: Cell<u32>,
    watches: RefCell<BTreeMap<String, Watched>>,
    next_watch: Cell<u64>,
    /// Counts connections.
    connection: Cell<u64>,
    is_suspended: Cell<bool>,
    /// Counts suspensions.
    suspensions: Cell<u64>,
    /// The driver has gone: nothing will be answered any more.
    is_over: Cell<bool>,
}

struct Watched {
    path: Path,
    events: Rc<Events>,
    /// Registers it, until the server has agreed.
    registering: Option<Task<()>>,
}

impl Shared {
    pub(super) fn new(executor: &Executor, address: Address) -> Rc<Shared> {
        Rc::new(Shared {
            executor: executor.clone(),
            address,
            outgoing: RefCell::default(),
            has_outgoing: Signal::new(),
            waiting: RefCell::default(),
            next_request: Cell::new(1),
            watches: RefCell::default(),
            next_watch: Cell::new(1),
            connection: Cell::new(0),
            is_suspended: Cell::new(false),
            suspensions: Cell::new(0),
            is_over: Cell::new(false),
        })
    }

    pub(super) fn connection_number(&self) -> u64 {
        self.connection.get()
    }

    pub(super) fn is_over(&self) -> bool {
        self.is_over.get()
    }

    pub(super) fn set_suspended(&self, suspended: bool) {
        if suspended && !self.is_suspended.get() {
            self.suspensions.set(self.suspensions.get() + 1);
        }
        self.is_suspended.set(suspended);
    }

    pub(super) fn suspensions(&self) -> u64 {
        self.suspensions.get()
    }

    /// Sends a question; its answer, unless the connection is lost before it comes.
    pub(super) fn ask(&self, transaction: u32, operation: Operation, parts: &[&[u8]]) -> Result<Reply<Asked>> {
        let length: usize = parts.iter().map(|part| part.len()).sum();
        if length > self.address.payload_bytes_max() {
            let words = format!("{length} bytes are too long for XenStore");
            return Err(Error::new(ErrorKind::LimitReached, words));
        }
        let (to, answer) = reply();
        let request = self.new_request();
        let mut bytes = Vec::new();
        put_message(&mut bytes, operation, request, transaction, parts);
        self.waiting.borrow_mut().insert(request, to);
        self.outgoing.borrow_mut().push_back(bytes);
        self.has_outgoing.notify();
        Ok(answer)
    }

    /// A number that no question has that waits.
    fn new_request(&self) -> u32 {
        let waiting = self.waiting.borrow();
        loop {
            let request = self.next_request.get();
            self.next_request.set(request.wrapping_add(1));
            if request != 0 && !waiting.contains_key(&request) {
                return request;
            }
        }
    }

    /// A watch, with a token that no other of this process ever had.
    pub(super) fn add_watch(self: &Rc<Self>, path: &Path, events: &Rc<Events>) -> String {
        let number = self.next_watch.get();
        self.next_watch.set(number + 1);
        let token = format!("oxtap-{}-{number}", std::process::id());
        let watched = Watched { path: path.clone(), events: events.clone(), registering: None };
        self.watches.borrow_mut().insert(token.clone(), watched);
        if !self.is_suspended.get() {
            self.register(path, &token);
        }
        token
    }

    pub(super) fn remove_watch(&self, token: &str) {
        let gone = self.watches.borrow_mut().remove(token);
        drop(gone);
    }

    /// Every watch and its token.
    pub(super) fn watches(&self) -> Vec<(Path, String)> {
        self.watches.borrow().iter().map(|(token, watched)| (watched.path.clone(), token.clone())).collect()
    }

    /// Asks for a watch at once, and as often as the server refuses it: a quota or a right may change. Another connection
    /// registers it anew.
    pub(super) fn register(self: &Rc<Self>, path: &Path, token: &str) {
        let first = self.ask_to_watch(path, token);
        let task = self.executor.spawn(keep_registering(Rc::downgrade(self), first, path.clone(), token.to_owned()));
        let before = self.watches.borrow_mut().get_mut(token).and_then(|watched| watched.registering.replace(task));
        drop(before);
    }

    fn ask_to_watch(&self, path: &Path, token: &str) -> Result<Reply<Asked>> {
        self.ask(0, Operation::Watch, &[path.as_str().as_bytes(), b"\0", token.as_bytes(), b"\0"])
    }

    fn set_refusal(&self, token: &str, refusal: Option<String>) {
        if let Some(watched) = self.watches.borrow().get(token) {
            watched.events.set_refusal(refusal);
        }
    }

    /// Why watches that are refused now are refused.
    pub(super) fn refusals(&self) -> Vec<(Path, String)> {
        let watches = self.watches.borrow();
        watches.values().filter_map(|watched| Some((watched.path.clone(), watched.events.refusal()?))).collect()
    }

    fn tell(&self, token: &str, path: &str) {
        let found = self.watches.borrow().get(token).map(|watched| (watched.path.clone(), watched.events.clone()));
        if let Some((watched, events)) = found {
            events.put(path, &watched);
        }
    }

    /// Gives a message to whom it is for.
    fn take(&self, message: Message) {
        if message.operation == Operation::WatchEvent {
            if let Ok(event) = WatchEvent::decode(&message.payload) {
                let [path, token] = [event.path, event.token].map(String::from_utf8_lossy);
                // Whoever reads it may run before the one who waits for the answer that came with it.
                self.set_refusal(&token, None);
                self.tell(&token, &path);
            }
            return;
        }
        let waiting = self.waiting.borrow_mut().remove(&message.request);
        let Some(waiting) = waiting else { return };
        let answer = match message.operation {
            Operation::Error => Err(error_of(&message.payload)),
            _ => Ok(message.payload),
        };
        // Whoever asked may have gone.
        let _ = waiting.answer(answer);
    }

    /// The connection is lost: what was asked on it will not be answered.
    fn lose(&self) {
        self.outgoing.borrow_mut().clear();
        let waiting = self.waiting.take();
        drop(waiting);
    }
}

/// Waits for the answer to a watch. Whoever watches one that is refused is told to look whenever that is said, for nobody
/// tells what changes meanwhile; when it is agreed to, the server tells to look again.
async fn keep_registering(shared: Weak<Shared>, first: Result<Reply<Asked>>, path: Path, token: String) {
    let mut asked = first;
    let mut pause = REFUSED_PAUSE_MIN;
    loop {
        let answer = match asked {
            Ok(reply) => reply.await,
            Err(error) => Some(Err(error)),
        };
        // Lost with its connection: the next one registers it.
        let Some(answer) = answer else { return };
        let Some(now) = shared.upgrade() else { return };
        let error = match answer {
            Err(error) if error.os_error() != Some(ErrorName::Eexist.number()) => error,
            _ => return now.set_refusal(&token, None),
        };
        now.set_refusal(&token, Some(error.to_string()));
        now.tell(&token, path.as_str());
        let executor = now.executor.clone();
        drop(now);
        executor.sleep(pause).await;
        pause = (pause * 2).min(REFUSED_PAUSE_MAX);
        let Some(now) = shared.upgrade().filter(|now| !now.is_suspended.get()) else { return };
        asked = now.ask_to_watch(&path, &token);
    }
}

fn error_of(payload: &[u8]) -> Error {
    match ErrorName::from_payload(payload) {
        Ok(name) => Error::from_os("XenStore", std::io::Error::from_raw_os_error(name.number())),
        Err(_) => Error::new(ErrorKind::Io, format!("XenStore: {}", String::from_utf8_lossy(payload))),
    }
}

/// The task of a connection. It ends when nobody has the store any more.
pub(super) struct Driver {
    shared: Weak<Shared>,
    executor: Executor,
    descriptor: Arc<OwnedFd>,
}

impl Driver {
    pub(super) fn open(shared: &Rc<Shared>) -> Result<Driver> {
        let descriptor = Arc::new(open(&shared.address)?);
        Ok(Driver { shared: Rc::downgrade(shared), executor: shared.executor.clone(), descriptor })
    }

    pub(super) async fn run(mut self) {
        let _over = Over(self.shared.clone());
        loop {
            self.serve().await;
            let Some(shared) = self.shared.upgrade() else { return };
            shared.lose();
            shared.connection.set(shared.connection.get() + 1);
            let address = shared.address.clone();
            drop(shared);
            let mut pause = PAUSE_MIN;
            self.descriptor = loop {
                self.executor.sleep(pause).await;
                match open(&address) {
                    Ok(descriptor) => break Arc::new(descriptor),
                    Err(_) if self.shared.strong_count() == 0 => return,
                    Err(_) => pause = (pause * 2).min(PAUSE_MAX),
                }
            };
            let Some(shared) = self.shared.upgrade() else { return };
            // What was asked in vain meanwhile is asked again by those who asked.
            shared.lose();
            if !shared.is_suspended.get() {
                shared.watches().iter().for_each(|(path, token)| shared.register(path, token));
            }
        }
    }

    /// Serves a connection to its end.
    async fn serve(&self) {
        let mut reader = MessageReader::new();
        let mut unsent: Vec<u8> = Vec::new();
        while let Some(shared) = self.shared.upgrade() {
            let has_sent = self.send(&shared, &mut unsent);
            if has_sent.is_none() || self.receive(&shared, &mut reader).is_none() {
                return;
            }
            let is_stuck = !unsent.is_empty();
            let readable = pin!(self.executor.readable_owned(self.descriptor.clone()));
            if is_stuck {
                let writable = pin!(self.executor.writable_owned(self.descriptor.clone()));
                select(readable, writable).await;
            } else {
                let asked = pin!(shared.has_outgoing.until(|| !shared.outgoing.borrow().is_empty()));
                select(readable, asked).await;
            }
        }
    }

    /// Sends what waits, as far as the server takes it; none if the connection is broken.
    fn send(&self, shared: &Shared, unsent: &mut Vec<u8>) -> Option<()> {
        loop {
            if unsent.is_empty() {
                match shared.outgoing.borrow_mut().pop_front() {
                    Some(message) => *unsent = message,
                    None => return Some(()),
                }
            }
            match rustix::io::write(&*self.descriptor, unsent) {
                Ok(count) => drop(unsent.drain(..count)),
                Err(Errno::AGAIN) => return Some(()),
                Err(Errno::INTR) => {}
                Err(_) => return None,
            }
        }
    }

    /// Receives what is there; none if the connection has ended.
    fn receive(&self, shared: &Shared, reader: &mut MessageReader) -> Option<()> {
        let mut bytes = [0; 4096];
        loop {
            let count = match rustix::io::read(&*self.descriptor, &mut bytes) {
                Ok(0) => return None,
                Ok(count) => count,
                Err(Errno::AGAIN) => return Some(()),
                Err(Errno::INTR) => continue,
                Err(_) => return None,
            };
            let mut rest = &bytes[..count];
            while !rest.is_empty() {
                let (taken, message) = reader.feed(rest).ok()?;
                rest = &rest[taken..];
                if let Some(message) = message {
                    shared.take(message);
                }
            }
        }
    }
}

/// Says, however the driver ends, that nothing will be answered any more.
struct Over(Weak<Shared>);

impl Drop for Over {
    fn drop(&mut self) {
        if let Some(shared) = self.0.upgrade() {
            shared.is_over.set(true);
            shared.lose();
        }
    }
}

fn open(address: &Address) -> Result<OwnedFd> {
    let (path, opened) = match address {
        Address::Socket(path) => (path, open_socket(path)),
        Address::Device(path) => {
            let flags = OFlags::RDWR | OFlags::CLOEXEC | OFlags::NONBLOCK;
            (path, rustix::io::retry_on_intr(|| rustix::fs::open(path, flags, Mode::empty())))
        }
    };
    opened.map_err(|error| Error::from_os(path.display().to_string(), error.into()))
}

fn open_socket(path: &std::path::Path) -> rustix::io::Result<OwnedFd> {
    let socket = socket_with(AddressFamily::UNIX, SocketType::STREAM, SocketFlags::CLOEXEC, None)?;
    connect(&socket, &SocketAddrUnix::new(path)?)?;
    rustix::io::ioctl_fionbio(&socket, true)?;
    Ok(socket)
}
