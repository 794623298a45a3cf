//! What an executor's loop has done lately: its last 256 turns, which any thread can read while the loop itself hangs.
//!
//! ```text
//!   loop:    collect ... | began | dispatch ......... | ended | collect ...
//!                          store                        a few stores
//!   reader:  running()  -> how long the turn lasts that has not ended
//!            turns()    -> those that have
//! ```
//!
//! One thread writes, so no lock is needed: each slot carries the number of its turn, which is taken away while the rest is
//! written. Who reads meanwhile finds another number afterwards, and leaves the slot out.

use std::{
    fmt,
    sync::atomic::{AtomicU64, Ordering, fence},
    time::Duration,
};

use crate::time::{Clock, Moment};

/// Turns that are remembered.
const TURNS: usize = 256;

/// The last turns of an executor's loop.
pub struct LoopTrace {
    slots: Box<[Slot]>,
    clock: Clock,
    /// How many turns have ended.
    ended: AtomicU64,
    /// When the turn began that has not ended, in nanoseconds; zero while the loop waits.
    running_since: AtomicU64,
}

/// One turn, written by the loop's thread.
#[derive(Default)]
struct Slot {
    /// Counted from one; zero while it is written.
    number: AtomicU64,
    /// All in nanoseconds.
    began: AtomicU64,
    idle: AtomicU64,
    took: AtomicU64,
    /// Completions, readiness, jobs and timers, 16 bits each.
    woken: AtomicU64,
    /// Wakes and polls, 32 bits each.
    polled: AtomicU64,
}

/// One turn of the loop: what had become ready was collected, then dispatched.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct Turn {
    /// Counted from one.
    pub number: u64,
    /// When it had collected and began to dispatch.
    pub began: Moment,
    /// How long nothing was done before it: the loop waited, or was not called.
    pub idle: Duration,
    /// How long it dispatched.
    pub took: Duration,
    /// What it found.
    pub woken: Woken,
    /// How many times it polled a task.
    pub polled: u32,
}

/// What ended a wait, or was there already. The counts stop at 65535.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq)]
pub struct Woken {
    /// I/O that has ended.
    pub completions: u16,
    /// Descriptors that have become ready.
    pub readiness: u16,
    /// Jobs that worker threads have done.
    pub jobs: u16,
    /// Timers that were due.
    pub timers: u16,
    /// Tasks that were ready before: woken by other threads (messages), or by tasks of the turn before.
    pub wakes: u32,
}

impl LoopTrace {
    pub(crate) fn new(clock: Clock) -> Self {
        LoopTrace {
            slots: (0..TURNS).map(|_| Slot::default()).collect(),
            clock,
            ended: AtomicU64::new(0),
            running_since: AtomicU64::new(0),
        }
    }

    /// The last turns that have ended, oldest first.
    pub fn turns(&self) -> Vec<Turn> {
        let mut turns: Vec<Turn> = self.slots.iter().filter_map(Slot::read).collect();
        turns.sort_by_key(|turn| turn.number);
        turns
    }

    /// How long the turn lasts that has not ended; none while the loop waits. What is long here hangs inside a task.
    pub fn running(&self) -> Option<Duration> {
        let since = self.running_since.load(Ordering::Relaxed);
        (since > 0).then(|| self.clock.now() - Moment::from_nanoseconds(since))
    }

    /// How many turns there have been.
    pub fn count(&self) -> u64 {
        self.ended.load(Ordering::Relaxed)
    }

    /// A turn begins to dispatch. The turn that it is nested in, to be given to [`LoopTrace::end`]. Called by the loop's
    /// thread only.
    pub(crate) fn begin(&self, now: Moment) -> u64 {
        let outer = self.running_since.load(Ordering::Relaxed);
        self.running_since.store(now.nanoseconds().max(1), Ordering::Relaxed);
        outer
    }

    /// A turn has ended. Called by the loop's thread only.
    pub(crate) fn end(&self, mut turn: Turn, outer: u64) {
        turn.number = self.ended.load(Ordering::Relaxed) + 1;
        let index = usize::try_from(turn.number % TURNS as u64).expect("an index of the ring");
        self.slots[index].write(&turn);
        self.ended.store(turn.number, Ordering::Relaxed);
        self.running_since.store(outer, Ordering::Relaxed);
    }
}

impl Slot {
    fn write(&self, turn: &Turn) {
        let woken = [turn.woken.completions, turn.woken.readiness, turn.woken.jobs, turn.woken.timers];
        let woken = woken.iter().fold(0, |all, count| all << 16 | u64::from(*count));
        let nanoseconds = |duration: Duration| u64::try_from(duration.as_nanos()).unwrap_or(u64::MAX);
        self.number.store(0, Ordering::Relaxed);
        // Whoever sees one of the new words sees that the number has gone.
        fence(Ordering::Release);
        self.began.store(turn.began.nanoseconds(), Ordering::Relaxed);
        self.idle.store(nanoseconds(turn.idle), Ordering::Relaxed);
        self.took.store(nanoseconds(turn.took), Ordering::Relaxed);
        self.woken.store(woken, Ordering::Relaxed);
        self.polled.store(u64::from(turn.woken.wakes) << 32 | u64::from(turn.polled), Ordering::Relaxed);
        self.number.store(turn.number, Ordering::Release);
    }

    /// The turn, unless there was none yet or another is written over it right now.
    fn read(&self) -> Option<Turn> {
        let number = self.number.load(Ordering::Acquire);
        let woken = self.woken.load(Ordering::Relaxed);
        let polled = self.polled.load(Ordering::Relaxed);
        let turn = Turn {
            number,
            began: Moment::from_nanoseconds(self.began.load(Ordering::Relaxed)),
            idle: Duration::from_nanos(self.idle.load(Ordering::Relaxed)),
            took: Duration::from_nanos(self.took.load(Ordering::Relaxed)),
            woken: Woken {
                completions: quarter(woken, 3),
                readiness: quarter(woken, 2),
                jobs: quarter(woken, 1),
                timers: quarter(woken, 0),
                wakes: half(polled, 1),
            },
            polled: half(polled, 0),
        };
        fence(Ordering::Acquire);
        (number > 0 && self.number.load(Ordering::Relaxed) == number).then_some(turn)
    }
}

fn quarter(word: u64, index: u32) -> u16 {
    u16::try_from(word >> (16 * index) & 0xffff).expect("16 bits")
}

fn half(word: u64, index: u32) -> u32 {
    u32::try_from(word >> (32 * index) & 0xffff_ffff).expect("32 bits")
}

impl fmt::Display for Turn {
    /// One line, the number first; times in microseconds.
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        let (idle, took, polled) = (self.idle.as_micros(), self.took.as_micros(), self.polled);
        write!(f, "turn {}: idle {idle} us, took {took} us, {polled} polled; {}", self.number, self.woken)
    }
}

impl fmt::Display for Woken {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        let Woken { completions, readiness, jobs, timers, wakes } = self;
        write!(f, "completions {completions}, readiness {readiness}, jobs {jobs}, timers {timers}, wakes {wakes}")
    }
}

impl fmt::Debug for LoopTrace {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        write!(f, "LoopTrace({} turns, running for {:?})", self.count(), self.running())
    }
}

#[cfg(test)]
mod tests {
    use std::{sync::atomic::AtomicBool, thread};

    use super::*;
    use crate::SimulatedClock;

    /// A turn all of whose words tell its number.
    fn turn(number: u64) -> Turn {
        let small = u16::try_from(number % 60_000).unwrap();
        let time = Duration::from_nanos(number);
        Turn {
            number,
            began: Moment::from_nanoseconds(number),
            idle: time,
            took: time,
            woken: Woken { completions: small, readiness: small, jobs: small, timers: small, wakes: small.into() },
            polled: small.into(),
        }
    }

    fn trace() -> (LoopTrace, SimulatedClock) {
        let clock = SimulatedClock::new();
        (LoopTrace::new(Clock::Simulated(clock.clone())), clock)
    }

    #[test]
    fn the_last_256_turns_are_there_in_order() {
        let (trace, _) = trace();
        assert_eq!(trace.turns(), []);
        for number in 1..=1000 {
            trace.end(turn(number), 0);
        }
        assert_eq!(trace.turns(), (745..=1000).map(turn).collect::<Vec<_>>());
        assert_eq!(trace.count(), 1000);
    }

    #[test]
    fn a_turn_that_lasts_is_seen_and_so_is_the_one_that_it_is_nested_in() {
        let (trace, clock) = trace();
        let after = |seconds: u64| clock.advance_to(Moment::from_nanoseconds(seconds * 1_000_000_000));
        assert_eq!(trace.running(), None);
        after(10);
        let outer = trace.begin(clock.now());
        after(12);
        assert_eq!(trace.running(), Some(Duration::from_secs(2)));
        let inner = trace.begin(clock.now());
        after(15);
        assert_eq!(trace.running(), Some(Duration::from_secs(3)));
        trace.end(turn(1), inner);
        assert_eq!(trace.running(), Some(Duration::from_secs(5)));
        trace.end(turn(2), outer);
        assert_eq!(trace.running(), None);
    }

    /// One slot, written over and over: the worst case for who reads it.
    #[test]
    fn a_reader_on_another_thread_sees_whole_turns_only() {
        let (slot, done) = (Slot::default(), AtomicBool::new(false));
        thread::scope(|scope| {
            let reader = scope.spawn(|| {
                // So many different turns show that both run at once; with one processor only, that takes too long.
                let (mut last, mut different) = (0, 0);
                for _ in 0..50_000_000 {
                    let Some(seen) = slot.read() else { continue };
                    assert_eq!(seen, turn(seen.number));
                    different += u64::from(seen.number != std::mem::replace(&mut last, seen.number));
                    if different == test_support::cycles(20_000, 2_000_000) {
                        break;
                    }
                }
            });
            scope.spawn(|| {
                (1..).take_while(|_| !done.load(Ordering::Relaxed)).for_each(|number| slot.write(&turn(number)));
            });
            let verdict = reader.join();
            done.store(true, Ordering::Relaxed);
            verdict.unwrap();
        });
    }

    #[test]
    fn a_turn_is_one_line() {
        let words = "turn 7: idle 0 us, took 0 us, 7 polled; completions 7, readiness 7, jobs 7, timers 7, wakes 7";
        assert_eq!(turn(7).to_string(), words);
    }
}
