//! epoll: readiness of descriptors, wake-ups from other threads, and timers, behind one pollable descriptor.

use std::{
    collections::HashMap,
    io,
    os::fd::{AsFd, BorrowedFd, OwnedFd, RawFd},
    sync::Arc,
    time::Duration,
};

use rustix::{
    event::epoll::{self, EventData, EventFlags},
    time::{Itimerspec, TimerfdClockId, TimerfdFlags, TimerfdTimerFlags, Timespec, timerfd_create, timerfd_settime},
};

use super::{Interest, Key, wait_limit};
use crate::{executor::Wait, shared::Shared};

/// Events that are not a watched descriptor's carry numbers that no descriptor has.
const WAKE: u64 = u64::MAX;
const TIMER: u64 = u64::MAX - 1;
const EXTRA: u64 = u64::MAX - 2;

pub(super) struct Poller {
    epoll: OwnedFd,
    timer: OwnedFd,
    shared: Arc<Shared>,
    watched: HashMap<RawFd, Watched>,
    by_key: HashMap<Key, (RawFd, Interest)>,
}

/// Who waits for one descriptor: at most one reader and one writer.
#[derive(Default)]
struct Watched {
    read: Option<Key>,
    write: Option<Key>,
    registered: bool,
}

impl Watched {
    fn flags(&self) -> EventFlags {
        let mut flags = EventFlags::ONESHOT;
        flags.set(EventFlags::IN | EventFlags::RDHUP, self.read.is_some());
        flags.set(EventFlags::OUT, self.write.is_some());
        flags
    }

    fn waiter(&mut self, interest: Interest) -> &mut Option<Key> {
        match interest {
            Interest::Read => &mut self.read,
            Interest::Write => &mut self.write,
        }
    }
}

impl Poller {
    pub(super) fn new(shared: &Arc<Shared>) -> io::Result<Self> {
        let epoll = epoll::create(epoll::CreateFlags::CLOEXEC)?;
        let timer = new_timer()?;
        epoll::add(&epoll, shared.wake_descriptor(), EventData::new_u64(WAKE), EventFlags::IN)?;
        epoll::add(&epoll, &timer, EventData::new_u64(TIMER), EventFlags::IN)?;
        let (watched, by_key) = (HashMap::new(), HashMap::new());
        Ok(Poller { epoll, timer, shared: shared.clone(), watched, by_key })
    }

    /// One more descriptor whose readability ends a wait, once each time that it is raised; its owner looks for itself
    /// what it means.
    pub(super) fn add_extra(&self, descriptor: BorrowedFd<'_>) -> io::Result<()> {
        let flags = EventFlags::IN | EventFlags::ET;
        Ok(epoll::add(&self.epoll, descriptor, EventData::new_u64(EXTRA), flags)?)
    }

    pub(super) fn watch(&mut self, key: Key, descriptor: RawFd, interest: Interest) -> io::Result<()> {
        let watched = self.watched.entry(descriptor).or_default();
        let waiter = watched.waiter(interest);
        assert!(waiter.is_none(), "one task waits for one direction of a descriptor");
        *waiter = Some(key);
        self.by_key.insert(key, (descriptor, interest));
        self.arm(descriptor).inspect_err(|_| {
            self.unwatch(key);
        })
    }

    fn arm(&mut self, descriptor: RawFd) -> io::Result<()> {
        let watched = self.watched.get_mut(&descriptor).expect("armed descriptors are watched");
        let data = EventData::new_u64(u64::try_from(descriptor).expect("descriptors are not negative"));
        // SAFETY: whoever watches borrows the descriptor until the watch ends.
        let borrowed = unsafe { BorrowedFd::borrow_raw(descriptor) };
        let flags = watched.flags();
        if watched.registered {
            match epoll::modify(&self.epoll, borrowed, data, flags) {
                // Closed and opened again under the same number since: the registration went with the old one.
                Err(rustix::io::Errno::NOENT) => epoll::add(&self.epoll, borrowed, data, flags)?,
                other => other?,
            }
        } else {
            match epoll::add(&self.epoll, borrowed, data, flags) {
                Err(rustix::io::Errno::EXIST) => epoll::modify(&self.epoll, borrowed, data, flags)?,
                other => other?,
            }
            watched.registered = true;
        }
        Ok(())
    }

    pub(super) fn unwatch(&mut self, key: Key) -> bool {
        let Some((descriptor, interest)) = self.by_key.remove(&key) else {
            return true;
        };
        let watched = self.watched.get_mut(&descriptor).expect("every key names a watched descriptor");
        *watched.waiter(interest) = None;
        if watched.read.is_none() && watched.write.is_none() {
            // SAFETY: as in `arm`; the watch that ends now still borrows it.
            let borrowed = unsafe { BorrowedFd::borrow_raw(descriptor) };
            // A descriptor that its owner closed has left the set by itself.
            let _ = epoll::delete(&self.epoll, borrowed);
            self.watched.remove(&descriptor);
        }
        true
    }

    pub(super) fn collect(
        &mut self,
        wait: Wait,
        timer: Option<Duration>,
        done: &mut Vec<(Key, i32)>,
    ) -> io::Result<()> {
        let timeout = wait_limit(wait, timer).map(to_timespec);
        let mut events = [const { std::mem::MaybeUninit::<epoll::Event>::uninit() }; 64];
        let ready = match epoll::wait(&self.epoll, &mut events, timeout.as_ref()) {
            Ok((ready, _)) => ready,
            Err(rustix::io::Errno::INTR) => return Ok(()),
            Err(error) => return Err(error.into()),
        };
        let ready: Vec<_> = ready.iter().map(|event| (event.data.u64(), event.flags)).collect();
        for (data, flags) in ready {
            match data {
                WAKE => self.shared.clear_wake(),
                TIMER | EXTRA => {}
                descriptor => self.dispatch(RawFd::try_from(descriptor).unwrap_or(-1), flags, done),
            }
        }
        Ok(())
    }

    /// Reports who waited for what a descriptor is ready for; arms it again for who waits on.
    fn dispatch(&mut self, descriptor: RawFd, flags: EventFlags, done: &mut Vec<(Key, i32)>) {
        let Some(watched) = self.watched.get_mut(&descriptor) else {
            return;
        };
        let broken = flags.intersects(EventFlags::ERR | EventFlags::HUP);
        let mut ready = Vec::with_capacity(2);
        if broken || flags.intersects(EventFlags::IN | EventFlags::RDHUP) {
            ready.extend(watched.read.take());
        }
        if broken || flags.intersects(EventFlags::OUT) {
            ready.extend(watched.write.take());
        }
        let again = watched.read.is_some() || watched.write.is_some();
        for key in ready {
            self.by_key.remove(&key);
            done.push((key, 0));
        }
        if again {
            // A descriptor that can no longer be armed has been closed by its owner, whose watch ends with it.
            let _ = self.arm(descriptor);
        }
    }

    pub(super) fn descriptor(&self) -> BorrowedFd<'_> {
        self.epoll.as_fd()
    }

    /// Our own waits have a timeout; who polls our descriptor needs the timer.
    pub(super) fn leave(&self, timer: Option<Duration>) -> io::Result<()> {
        set_timer(&self.timer, timer)
    }
}

/// A timer as a descriptor, stopped.
pub(super) fn new_timer() -> io::Result<OwnedFd> {
    Ok(timerfd_create(TimerfdClockId::Monotonic, TimerfdFlags::CLOEXEC | TimerfdFlags::NONBLOCK)?)
}

/// Makes a timer's descriptor readable after `timer`, never for none; until then it is not.
pub(super) fn set_timer(descriptor: &OwnedFd, timer: Option<Duration>) -> io::Result<()> {
    // Zero would stop the timer; a due timer is one that runs out at once.
    let value = timer.map_or(Duration::ZERO, |timer| timer.max(Duration::from_nanos(1)));
    let interval = Timespec { tv_sec: 0, tv_nsec: 0 };
    let setting = Itimerspec { it_interval: interval, it_value: to_timespec(value) };
    timerfd_settime(descriptor, TimerfdTimerFlags::empty(), &setting)?;
    Ok(())
}

fn to_timespec(duration: Duration) -> Timespec {
    let seconds = i64::try_from(duration.as_secs()).unwrap_or(i64::MAX);
    Timespec { tv_sec: seconds, tv_nsec: duration.subsec_nanos().into() }
}
