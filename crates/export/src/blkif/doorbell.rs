//! The event channel of a ring, as its source needs it: something that wakes it, and that it answers.

use std::{
    cell::{Cell, RefCell},
    rc::Rc,
    task::{Context, Waker},
};

use storage_io::{Executor, Signal, Task};
use xen::EventChannel;

/// A bell with a task that listens to it.
pub(super) struct Doorbell {
    shared: Rc<Shared>,
    _listening: Task<()>,
}

struct Shared {
    channel: Box<dyn EventChannel>,
    waker: RefCell<Option<Waker>>,
    /// The ring has been looked at since the last event, and asks for the next.
    is_armed: Cell<bool>,
    armed: Signal,
    /// Events from the guest, and to it.
    kicks: Cell<[u64; 2]>,
    is_broken: Cell<bool>,
}

impl Doorbell {
    pub(super) fn new(executor: &Executor, channel: Box<dyn EventChannel>) -> Doorbell {
        let shared = Rc::new(Shared {
            channel,
            waker: RefCell::default(),
            is_armed: Cell::new(true),
            armed: Signal::new(),
            kicks: Cell::new([0; 2]),
            is_broken: Cell::new(false),
        });
        let listening = executor.spawn(listen(shared.clone()));
        Doorbell { shared, _listening: listening }
    }

    /// The ring has been looked at and asks to be told: whoever waits is woken by the next event.
    pub(super) fn wait(&self, cx: &Context<'_>) {
        self.shared.waker.replace(Some(cx.waker().clone()));
        self.shared.is_armed.set(true);
        self.shared.armed.notify();
    }

    /// Tells the guest.
    pub(super) fn ring(&self) {
        let [from, to] = self.shared.kicks.get();
        self.shared.kicks.set([from, to + 1]);
        self.shared.channel.notify();
    }

    /// Events from the guest, and to it.
    pub(super) fn kicks(&self) -> [u64; 2] {
        self.shared.kicks.get()
    }

    /// Whether no event will ever come again.
    pub(super) fn is_broken(&self) -> bool {
        self.shared.is_broken.get()
    }
}

/// Events wait, masked, until the ring has been looked at for the last one: a guest that rings without end is heard as
/// often as there is time for it.
async fn listen(shared: Rc<Shared>) {
    loop {
        let rang = shared.channel.wait().await;
        shared.is_broken.set(rang.is_err());
        let [from, to] = shared.kicks.get();
        shared.kicks.set([from + 1, to]);
        shared.is_armed.set(false);
        let waker = shared.waker.borrow_mut().take();
        if let Some(waker) = waker {
            waker.wake();
        }
        if rang.is_err() {
            return;
        }
        shared.armed.until(|| shared.is_armed.get()).await;
        shared.channel.unmask();
    }
}
