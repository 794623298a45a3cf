//! The native socket and its connections.

use std::{
    cell::{Cell, RefCell},
    collections::BTreeMap,
    os::unix::net::UnixStream,
    pin::pin,
    rc::Rc,
    time::Duration,
};

use futures_util::future::select;
use storage_io::{Executor, Signal, Task};

use super::session::Session;
use crate::{control::Control, listener::Listener};

/// Connections at once. At the limit, the oldest that nobody waits at makes room, or else the oldest.
const CONNECTIONS_MAX: usize = 64;
/// How long the end of the process waits for the last answers to be fetched.
const LAST_ANSWERS_MAX: Duration = Duration::from_secs(10);

/// All connections.
pub(crate) struct Server {
    executor: Executor,
    control: Rc<Control>,
    /// By age.
    connections: RefCell<BTreeMap<u64, Connection>>,
    next: Cell<u64>,
    changed: Rc<Signal>,
}

struct Connection {
    session: Rc<Session>,
    _task: Task<()>,
}

impl Server {
    pub(crate) fn new(executor: &Executor, control: Rc<Control>) -> Rc<Server> {
        Rc::new(Server {
            executor: executor.clone(),
            control,
            connections: RefCell::default(),
            next: Cell::new(0),
            changed: Rc::default(),
        })
    }

    /// Accepts connections until the task is dropped.
    pub(crate) fn listen(self: &Rc<Self>, listener: Listener) -> Task<()> {
        let server = self.clone();
        self.executor.spawn(async move {
            while let Ok(stream) = listener.accept(&server.executor).await {
                server.make_room();
                server.begin(stream);
            }
            server.control.log.error("the native control socket is broken");
        })
    }

    /// Whoever has to go loses answers, and nothing that was begun.
    fn make_room(&self) {
        let connections = self.connections.borrow();
        if connections.len() < CONNECTIONS_MAX {
            return;
        }
        let idle = connections.iter().find(|(_, connection)| connection.session.is_idle());
        let oldest = idle.or(connections.iter().next()).map(|(number, _)| *number);
        drop(connections);
        oldest.into_iter().for_each(|number| self.forget(number));
    }

    fn begin(self: &Rc<Self>, stream: UnixStream) {
        let number = self.next.get();
        self.next.set(number + 1);
        let session = Session::new(&self.executor, self.control.clone(), self.changed.clone());
        let (server, serving) = (self.clone(), session.clone());
        let task = self.executor.spawn(async move {
            serving.serve(stream).await;
            server.forget(number);
        });
        self.connections.borrow_mut().insert(number, Connection { session, _task: task });
    }

    /// A task may forget itself: it then runs to its end.
    fn forget(&self, number: u64) {
        let forgotten = self.connections.borrow_mut().remove(&number);
        if let Some(connection) = forgotten {
            connection.session.end();
        }
        self.changed.notify();
    }

    /// Ends when everybody who has asked has got an answer or has gone, in bounded time.
    pub(crate) async fn finish(&self) {
        let is_done = || self.connections.borrow().values().all(|connection| connection.session.is_idle());
        let done = pin!(self.changed.until(is_done));
        select(done, pin!(self.executor.sleep(LAST_ANSWERS_MAX))).await;
    }
}
