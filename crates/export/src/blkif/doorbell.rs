//! The event channel of a ring, as its source needs it: something that wakes it, and that it answers.

use std::{
    cell::{Cell, RefCell},
    rc::Rc,
    task::{Context, Waker},
    time::Duration,
};

use storage_io::{Executor, Signal, Task};
use xen::EventChannel;

use super::{controls::Controls, ring::BrokenRing};

/// After two events without work the next is waited for this long, after three twice as long, and so on.
const DELAY_MIN: Duration = Duration::from_micros(100);
/// An event is never held back longer.
const DELAY_MAX: Duration = Duration::from_micros(3200);

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
    /// Something was in the ring since the last event.
    has_worked: Cell<bool>,
    /// Events from the guest, and to it.
    kicks: Cell<[u64; 2]>,
}

impl Doorbell {
    /// A channel that breaks, so that no event ever comes again, breaks the ring of `controls`.
    pub(super) fn new(executor: &Executor, channel: Box<dyn EventChannel>, controls: Rc<Controls>) -> Doorbell {
        let shared = Rc::new(Shared {
            channel,
            waker: RefCell::default(),
            is_armed: Cell::new(true),
            armed: Signal::new(),
            has_worked: Cell::new(false),
            kicks: Cell::new([0; 2]),
        });
        let listening = executor.spawn(listen(executor.clone(), shared.clone(), controls));
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

    /// Something was in the ring: its guest does not ring for nothing.
    pub(super) fn worked(&self) {
        self.shared.has_worked.set(true);
    }

    /// Events from the guest, and to it.
    pub(super) fn kicks(&self) -> [u64; 2] {
        self.shared.kicks.get()
    }
}

/// Events wait, masked, until the ring has been looked at for the last one: a guest that rings without end is heard as
/// often as there is time for it. One that rings for nothing, again and again, is heard less often: it takes time from
/// others.
async fn listen(executor: Executor, shared: Rc<Shared>, controls: Rc<Controls>) {
    let mut in_vain = 0;
    loop {
        let rang = shared.channel.wait().await;
        let [from, to] = shared.kicks.get();
        shared.kicks.set([from + 1, to]);
        shared.is_armed.set(false);
        if rang.is_err() {
            controls.breaks(BrokenRing::NoEvents);
            return controls.wake();
        }
        let waker = shared.waker.borrow_mut().take();
        if let Some(waker) = waker {
            waker.wake();
        }
        shared.armed.until(|| shared.is_armed.get()).await;
        in_vain = if shared.has_worked.take() { 0 } else { in_vain + 1 };
        if let Some(delay) = delay(in_vain) {
            executor.sleep(delay).await;
        }
        shared.channel.unmask();
    }
}

/// How long events are held back after so many without work. The first costs nothing: requests may have been found before
/// their event came.
fn delay(in_vain: u32) -> Option<Duration> {
    let doublings = in_vain.checked_sub(2)?;
    Some(DELAY_MIN.saturating_mul(1_u32.checked_shl(doublings).unwrap_or(u32::MAX)).min(DELAY_MAX))
}

#[cfg(test)]
mod tests {
    use std::{future::Future, pin::Pin, sync::Arc};

    use block_core::{Error, ErrorKind, Result};
    use storage_io::SimulatedClock;
    use virtual_disk::Geometry;
    use xen::{DomainId, Port};

    use super::*;

    /// A guest that rings whenever it may, or a channel that is broken.
    #[derive(Debug)]
    struct Storm {
        is_masked: Rc<Cell<bool>>,
        changed: Rc<Signal>,
        is_broken: bool,
    }

    impl EventChannel for Storm {
        fn port(&self) -> Port {
            Port(1)
        }

        fn wait(&self) -> Pin<Box<dyn Future<Output = Result<()>> + '_>> {
            Box::pin(async {
                self.changed.until(|| !self.is_masked.get()).await;
                self.is_masked.set(true);
                if self.is_broken { Err(Error::new(ErrorKind::Io, "it is broken")) } else { Ok(()) }
            })
        }

        fn unmask(&self) {
            self.is_masked.set(false);
            self.changed.notify();
        }

        fn notify(&self) {}
    }

    fn world(is_broken: bool) -> (Executor, Rc<Controls>, Doorbell) {
        let executor = Executor::simulated(1, SimulatedClock::new());
        let (sectors, logical_block_size, physical_block_size) = (8, 512, 512);
        let geometry =
            Geometry { sectors, logical_block_size, physical_block_size, read_only: false, can_discard: false };
        let controls = Rc::new(Controls::new(&executor, DomainId(1), geometry, Arc::default()));
        let channel = Storm { is_masked: Rc::default(), changed: Rc::default(), is_broken };
        let doorbell = Doorbell::new(&executor, Box::new(channel), controls.clone());
        (executor, controls, doorbell)
    }

    /// Looks after each event, and finds something or nothing; the microseconds until the next could come.
    fn look(executor: &Executor, doorbell: &Doorbell, has_work: bool) -> u128 {
        while executor.step() {}
        let (events, before) = (doorbell.kicks()[0], executor.now());
        if has_work {
            doorbell.worked();
        }
        doorbell.wait(&Context::from_waker(Waker::noop()));
        while executor.step() {}
        while doorbell.kicks()[0] == events {
            assert!(executor.advance_clock(), "no other event comes");
            while executor.step() {}
        }
        (executor.now() - before).as_micros()
    }

    #[test]
    fn who_rings_for_nothing_is_heard_less_and_less_until_there_is_work() {
        let (executor, _, doorbell) = world(false);
        let finds = |has_work| look(&executor, &doorbell, has_work);
        assert_eq!([false; 9].map(finds), [0, 100, 200, 400, 800, 1600, 3200, 3200, 3200]);
        assert_eq!([true, false, true, false, false].map(finds), [0, 0, 0, 0, 100]);
        executor.end_tasks();
    }

    #[test]
    fn however_often_it_was_for_nothing_the_delay_is_bounded() {
        assert_eq!([33, 34, u32::MAX].map(delay), [Some(DELAY_MAX); 3]);
    }

    #[test]
    fn a_broken_channel_breaks_its_ring_and_wakes_who_serves_it() {
        let (executor, controls, _doorbell) = world(true);
        let woken = Rc::new(Cell::new(false));
        let (told, theirs) = (woken.clone(), controls.clone());
        let serving = async move {
            std::future::poll_fn(|cx| {
                theirs.waker.replace(Some(cx.waker().clone()));
                if theirs.broken().is_some() { std::task::Poll::Ready(()) } else { std::task::Poll::Pending }
            })
            .await;
            told.set(true);
        };
        executor.spawn(serving).detach();
        while executor.step() {}
        assert_eq!((controls.broken(), woken.get()), (Some(BrokenRing::NoEvents), true));
    }
}
