//! Who serves whom: the connections of a server, the rings of guests, and the workers of the queues, as home sees them.
//!
//! ```text
//!   place --> the worker with the fewest --Handover--> ... --Ended--> forgotten
//!                        |
//!                        +-- a worker has died --> what it had not begun is placed again, the rest is cut off
//! ```

use std::{
    cell::{Cell, RefCell},
    os::fd::OwnedFd,
    pin::pin,
    rc::{Rc, Weak},
    sync::Arc,
};

use block_core::Result;
use futures_util::future::{Either, select};
use storage_io::{Executor, Receiver, Sender, Signal, Task, mailbox};
use virtual_disk::Disk;

use super::{
    device::{Origin, Terms},
    socket,
    worker::{Errand, Handover, Post, Report, Work, Worker},
};

/// The number of home's worker.
const HOME: u64 = 0;

/// Starts a thread that runs a worker.
pub(super) type StartThread = Box<dyn Fn(Worker) -> Result<()>>;

/// The connections of one server. Its tasks hold it, until [`Roster::clear`].
pub(super) struct Roster {
    disk: Disk,
    terms: Terms,
    start_thread: Option<StartThread>,
    connections: RefCell<Vec<Connection>>,
    /// Home's is the first.
    posts: RefCell<Vec<WorkerPost>>,
    /// Tells connections and workers apart.
    next: Cell<u64>,
    /// The number of connections or of workers has changed.
    changed: Signal,
}

struct Connection {
    number: u64,
    worker: u64,
    /// None: work of another export, which is lost with its worker.
    socket: Option<(Arc<OwnedFd>, Origin)>,
    has_begun: bool,
}

impl Connection {
    fn descriptor(&self) -> Option<&Arc<OwnedFd>> {
        self.socket.as_ref().map(|(descriptor, _)| descriptor)
    }
}

/// A worker, as home sees it.
struct WorkerPost {
    number: u64,
    /// None: it has been told to end.
    orders: Option<Sender<Handover>>,
    _tasks: Vec<Task<()>>,
}

impl Roster {
    pub(super) fn new(disk: &Disk, terms: Terms, start_thread: Option<StartThread>) -> Rc<Roster> {
        let roster = Rc::new(Roster {
            disk: disk.clone(),
            terms,
            start_thread,
            connections: RefCell::default(),
            posts: RefCell::default(),
            next: Cell::new(HOME),
            changed: Signal::new(),
        });
        let (number, post, orders, reports) = roster.new_post();
        let home = roster.executor().spawn(post.serve(disk.queue()));
        roster.add(number, orders, vec![home, roster.watch(number, reports)]);
        roster
    }

    pub(super) fn executor(&self) -> &Executor {
        self.disk.executor()
    }

    /// How many connections there are.
    pub(super) fn count(&self) -> usize {
        self.connections.borrow().iter().filter(|connection| connection.socket.is_some()).count()
    }

    /// How many connections each queue has, home's first.
    pub(super) fn spread(&self) -> Vec<usize> {
        self.posts.borrow().iter().map(|post| self.count_of(post.number)).collect()
    }

    /// Ends when there are fewer connections than `count`.
    pub(super) async fn fewer_than(&self, count: usize) {
        self.changed.until(|| self.count() < count).await;
    }

    /// Ends when no worker is left but home's.
    pub(super) async fn alone(&self) {
        self.changed.until(|| self.posts.borrow().len() <= 1).await;
    }

    /// Gives a connection to a queue.
    pub(super) fn begin(self: &Rc<Self>, descriptor: OwnedFd, origin: Origin) {
        let (number, socket) = (self.number(), (Arc::new(descriptor), origin));
        let worker = self.choose();
        self.place(Connection { number, worker, socket: Some(socket), has_begun: false });
    }

    /// Gives other work to a queue.
    pub(super) fn begin_work(self: &Rc<Self>, work: Work) {
        let (number, worker) = (self.number(), self.choose());
        self.send(worker, Handover { number, errand: Errand::Other(work) });
        self.add_connection(Connection { number, worker, socket: None, has_begun: false });
    }

    /// Ends all clients' requests; what they have sent is still answered.
    pub(super) fn end_input(&self) {
        self.connections
            .borrow()
            .iter()
            .filter_map(Connection::descriptor)
            .for_each(|socket| socket::end_input(socket));
    }

    /// Tells all workers but home's to end, and with them what is left of their connections.
    pub(super) fn dismiss_all(&self) {
        self.posts.borrow_mut().iter_mut().skip(1).for_each(|post| post.orders = None);
    }

    /// Ends everything. What a task's end drops may look at the tables.
    pub(super) fn clear(&self) {
        let connections = self.connections.take();
        connections.iter().filter_map(Connection::descriptor).for_each(|socket| socket::end(socket));
        drop(self.posts.take());
    }

    fn number(&self) -> u64 {
        let number = self.next.get();
        self.next.set(number + 1);
        number
    }

    fn count_of(&self, worker: u64) -> usize {
        self.connections.borrow().iter().filter(|connection| connection.worker == worker).count()
    }

    fn place(&self, connection: Connection) {
        let Some((descriptor, origin)) = connection.socket.clone() else { return };
        let errand = Errand::Connection { descriptor, origin };
        self.send(connection.worker, Handover { number: connection.number, errand });
        self.add_connection(connection);
    }

    /// Hands something over to a worker that was just chosen. One that has died will be noticed, and a connection placed
    /// again.
    fn send(&self, worker: u64, handover: Handover) {
        let posts = self.posts.borrow();
        let post = posts.iter().find(|post| post.number == worker).expect("it was just chosen");
        let _ = post.orders.as_ref().expect("only those are chosen that take orders").send(handover);
    }

    fn add_connection(&self, connection: Connection) {
        self.connections.borrow_mut().push(connection);
        self.changed.notify();
    }

    /// The worker with the fewest connections; a new one, if all have some and there may be more.
    fn choose(self: &Rc<Self>) -> u64 {
        let (count, number) = self.least();
        let may_start = self.posts.borrow().len() < self.terms.limits.queues;
        match count > 0 && may_start {
            true => self.start_worker().unwrap_or(number),
            false => number,
        }
    }

    /// The fewest connections, and the worker that has them.
    fn least(&self) -> (usize, u64) {
        let posts = self.posts.borrow();
        let taking = posts.iter().filter(|post| post.orders.is_some());
        let least = taking.map(|post| (self.count_of(post.number), post.number)).min();
        least.expect("home's worker stays")
    }

    /// A worker on a thread of its own, if one can be had.
    fn start_worker(self: &Rc<Self>) -> Option<u64> {
        let start = self.start_thread.as_ref()?;
        let (number, post, orders, reports) = self.new_post();
        start(Worker { seed: self.disk.add_queue(), post }).ok()?;
        self.add(number, orders, vec![self.watch(number, reports)]);
        Some(number)
    }

    fn new_post(&self) -> (u64, Post, Sender<Handover>, Receiver<Report>) {
        let (orders, inbox) = mailbox();
        let (reports, reported) = mailbox();
        (self.number(), Post { inbox, reports, terms: self.terms.clone() }, orders, reported)
    }

    fn add(&self, number: u64, orders: Sender<Handover>, tasks: Vec<Task<()>>) {
        self.posts.borrow_mut().push(WorkerPost { number, orders: Some(orders), _tasks: tasks });
    }

    /// Listens to a worker until it has ended.
    fn watch(self: &Rc<Self>, worker: u64, mut reports: Receiver<Report>) -> Task<()> {
        let roster = Rc::downgrade(self);
        self.executor().spawn(async move {
            while let Some(report) = next_report(&roster, worker, &mut reports).await {
                let Some(roster) = roster.upgrade() else { return };
                roster.take(report);
            }
            if let Some(roster) = roster.upgrade() {
                roster.lose(worker);
            }
        })
    }

    fn take(&self, report: Report) {
        let mut connections = self.connections.borrow_mut();
        match report {
            Report::Began(number) => {
                let begun = connections.iter_mut().find(|connection| connection.number == number);
                begun.into_iter().for_each(|connection| connection.has_begun = true);
            }
            Report::Ended(number) => connections.retain(|connection| connection.number != number),
        }
        drop(connections);
        self.changed.notify();
    }

    /// A worker has ended, in order or not. Its task may be the one that this runs in.
    fn lose(&self, worker: u64) {
        let mut posts = self.posts.borrow_mut();
        let index = posts.iter().position(|post| post.number == worker);
        let lost = index.map(|index| posts.remove(index));
        drop(posts);
        let orphans: Vec<_> =
            self.connections.borrow_mut().extract_if(.., |connection| connection.worker == worker).collect();
        for orphan in orphans {
            match (orphan.descriptor(), orphan.has_begun) {
                (Some(descriptor), true) => socket::end(descriptor),
                // Nobody new is started for it: he might die of the same.
                (Some(_), false) => self.place(Connection { worker: self.least().1, ..orphan }),
                // Whoever gave the work hears that it has gone.
                (None, _) => {}
            }
        }
        self.changed.notify();
        drop(lost);
    }

    /// Tells a worker that has had no connection for a while to end. Home's stays. One that has been given a connection
    /// in this moment stays too, though it has not reported anything of it: it would cut it off.
    fn dismiss(&self, worker: u64) {
        if self.count_of(worker) > 0 {
            return;
        }
        let mut posts = self.posts.borrow_mut();
        let post = posts.iter_mut().find(|post| post.number == worker);
        post.into_iter().for_each(|post| post.orders = None);
    }
}

/// What a worker reports next; `None` when it has ended. One that has been idle for long is told to end meanwhile.
async fn next_report(roster: &Weak<Roster>, worker: u64, reports: &mut Receiver<Report>) -> Option<Report> {
    loop {
        let (executor, idle_queue) = {
            let roster = roster.upgrade()?;
            let is_idle = worker != HOME && roster.count_of(worker) == 0;
            (roster.executor().clone(), is_idle.then_some(roster.terms.limits.idle_queue))
        };
        let Some(idle_queue) = idle_queue else { return reports.recv().await };
        match select(pin!(reports.recv()), pin!(executor.sleep(idle_queue))).await {
            Either::Left((report, _)) => return report,
            Either::Right(_) => roster.upgrade()?.dismiss(worker),
        }
    }
}
