//! Time as an argument: the machine's monotonic clock, or a clock that a simulation moves.

use std::{
    collections::BTreeMap,
    future::Future,
    ops::{Add, Sub},
    pin::Pin,
    sync::{
        Arc,
        atomic::{AtomicU64, Ordering},
    },
    task::{Context, Poll, Waker},
    time::Duration,
};

use rustix::time::{ClockId, clock_gettime};

use crate::executor::Executor;

/// A point in time on an executor's clock. All executors of a machine have the same clock, so that moments of different
/// threads compare; those of a simulation have the clock that it moves.
#[derive(Clone, Copy, Debug, PartialEq, Eq, PartialOrd, Ord, Hash)]
pub struct Moment(Duration);

impl Moment {
    /// Time since the clock began.
    pub fn since_start(self) -> Duration {
        self.0
    }

    pub(crate) fn nanoseconds(self) -> u64 {
        u64::try_from(self.0.as_nanos()).unwrap_or(u64::MAX)
    }

    pub(crate) fn from_nanoseconds(nanoseconds: u64) -> Self {
        Moment(Duration::from_nanos(nanoseconds))
    }
}

impl Add<Duration> for Moment {
    type Output = Moment;
    fn add(self, duration: Duration) -> Moment {
        Moment(self.0.saturating_add(duration))
    }
}

impl Sub for Moment {
    type Output = Duration;
    /// Zero when `earlier` is later.
    fn sub(self, earlier: Moment) -> Duration {
        self.0.saturating_sub(earlier.0)
    }
}

/// A clock that stands still until it is moved; its clones show the same time.
#[derive(Clone, Debug, Default)]
pub struct SimulatedClock(Arc<AtomicU64>);

impl SimulatedClock {
    /// A clock at zero.
    pub fn new() -> Self {
        Self::default()
    }

    /// The time it shows.
    pub fn now(&self) -> Moment {
        Moment(Duration::from_nanos(self.0.load(Ordering::Relaxed)))
    }

    /// Moves it to `moment`, never back.
    pub fn advance_to(&self, moment: Moment) {
        self.0.fetch_max(moment.nanoseconds(), Ordering::Relaxed);
    }
}

/// Where an executor's time comes from.
#[derive(Clone)]
pub(crate) enum Clock {
    Monotonic,
    Simulated(SimulatedClock),
}

impl Clock {
    pub(crate) fn now(&self) -> Moment {
        match self {
            Clock::Monotonic => {
                let time = Duration::try_from(clock_gettime(ClockId::Monotonic));
                Moment(time.expect("the machine started before it was asked"))
            }
            Clock::Simulated(clock) => clock.now(),
        }
    }
}

/// Who wants to be woken when; ordered by time, then by age.
#[derive(Default)]
pub(crate) struct Timers {
    waiting: BTreeMap<(Moment, u64), Waker>,
    next: u64,
}

impl Timers {
    fn add(&mut self, deadline: Moment, waker: Waker) -> (Moment, u64) {
        self.next += 1;
        let key = (deadline, self.next);
        self.waiting.insert(key, waker);
        key
    }

    /// The earliest deadline.
    pub(crate) fn next(&self) -> Option<Moment> {
        self.waiting.first_key_value().map(|((deadline, _), _)| *deadline)
    }

    /// Takes out one waiter whose time has come.
    pub(crate) fn take_due(&mut self, now: Moment) -> Option<Waker> {
        let entry = self.waiting.first_entry()?;
        (entry.key().0 <= now).then(|| entry.remove())
    }
}

/// Ends when the executor's clock reaches its moment.
pub struct Sleep {
    executor: Executor,
    deadline: Moment,
    registered: Option<(Moment, u64)>,
}

impl Sleep {
    pub(crate) fn new(executor: Executor, deadline: Moment) -> Self {
        Sleep { executor, deadline, registered: None }
    }

    fn unregister(&mut self) {
        if let Some(key) = self.registered.take() {
            self.executor.timers().waiting.remove(&key);
        }
    }
}

impl Future for Sleep {
    type Output = ();

    fn poll(mut self: Pin<&mut Self>, cx: &mut Context<'_>) -> Poll<()> {
        self.unregister();
        if self.executor.now() >= self.deadline {
            return Poll::Ready(());
        }
        let key = self.executor.timers().add(self.deadline, cx.waker().clone());
        self.registered = Some(key);
        Poll::Pending
    }
}

impl Drop for Sleep {
    fn drop(&mut self) {
        self.unregister();
    }
}
