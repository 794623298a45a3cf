//! The native socket and its connections.

use std::{rc::Rc, time::Duration};

use storage_io::{Executor, Task};

use super::session::Session;
use crate::{
    connections::{Connection, Connections, WhenFull},
    control::Control,
    listener::Listener,
};

/// Connections at once, but for those that wait for guests' devices only: whoever serves many guests by way of one
/// tapdisk has one for each. Their number is limited by that of watchers of a device, and of jobs.
const CONNECTIONS_MAX: usize = 64;
/// How long the end of the process waits for the last answers to be fetched.
const LAST_ANSWERS_MAX: Duration = Duration::from_secs(10);

/// All connections.
pub(crate) struct Server {
    executor: Executor,
    control: Rc<Control>,
    connections: Rc<Connections<Listened>>,
}

/// A session that ends when it is forgotten.
struct Listened(Rc<Session>);

impl Connection for Listened {
    fn is_idle(&self) -> bool {
        self.0.is_idle()
    }

    fn counts(&self) -> bool {
        !self.0.is_for_guests_only()
    }
}

impl Drop for Listened {
    fn drop(&mut self) {
        self.0.end();
    }
}

impl Server {
    pub(crate) fn new(executor: &Executor, control: Rc<Control>) -> Server {
        let connections = Connections::new(executor, CONNECTIONS_MAX, WhenFull::AnyMakeRoom);
        Server { executor: executor.clone(), control, connections }
    }

    /// Accepts connections until the task is dropped.
    pub(crate) fn listen(&self, listener: Listener) -> Task<()> {
        let (executor, control) = (self.executor.clone(), self.control.clone());
        let maybe_idle = self.connections.maybe_idle();
        self.connections.listen(listener, self.control.log.clone(), move |stream| {
            let session = Session::new(&executor, control.clone(), maybe_idle.clone());
            (Listened(session.clone()), async move { session.serve(stream).await })
        })
    }

    /// Ends when everybody who has asked has got an answer or has gone, in bounded time.
    pub(crate) async fn finish(&self) {
        self.connections.finish(LAST_ANSWERS_MAX).await;
    }
}
