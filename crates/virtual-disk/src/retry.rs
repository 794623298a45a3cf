//! Which failed requests are attempted again, when, and until when. One table decides.
//!
//! | class | errors | attempted again |
//! | --- | --- | --- |
//! | passing | EAGAIN EBUSY EINTR ENOMEM ENOBUFS | always |
//! | path | EIO, ETIMEDOUT, and what says that storage cannot be reached | on remote storage; elsewhere if the policy says so |
//! | lasting | all else: ENOSPC EROFS ESTALE EBADF EINVAL ..., and whatever we found ourselves | never |
//!
//! A flush, and a write that must be durable, is never attempted again: the kernel forgets what it could not write, so
//! that a second attempt would succeed without the bytes.

use std::time::Duration;

use block_core::Error;
use rustix::io::Errno;
use storage_io::Moment;

use crate::{Operation, RetryPolicy};

/// What a failed attempt means for its request.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Verdict {
    /// It may pass: attempt it again.
    Retry,
    /// It is the answer.
    Final,
}

/// What kind of trouble an error number stands for.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
enum Class {
    /// Gone in a moment.
    Passing,
    /// The way to the storage is broken: gone when it is mended.
    Path,
    /// There to stay.
    Lasting,
}

const CLASSES: [(Class, &[Errno]); 2] = [
    (Class::Passing, &[Errno::AGAIN, Errno::BUSY, Errno::INTR, Errno::NOMEM, Errno::NOBUFS]),
    (
        Class::Path,
        &[
            Errno::IO,
            Errno::TIMEDOUT,
            Errno::NOLINK,
            Errno::CONNABORTED,
            Errno::CONNREFUSED,
            Errno::CONNRESET,
            Errno::NOTCONN,
            Errno::PIPE,
            Errno::HOSTDOWN,
            Errno::HOSTUNREACH,
            Errno::NETDOWN,
            Errno::NETRESET,
            Errno::NETUNREACH,
        ],
    ),
];

fn class_of(error: &Error) -> Class {
    let Some(number) = error.os_error().map(Errno::from_raw_os_error) else { return Class::Lasting };
    CLASSES.iter().find(|(_, numbers)| numbers.contains(&number)).map_or(Class::Lasting, |(class, _)| *class)
}

/// What `error` means for a request.
pub fn verdict(error: &Error, policy: &RetryPolicy) -> Verdict {
    let may_pass = match class_of(error) {
        Class::Passing => true,
        Class::Path => error.origin().is_some_and(|origin| origin.is_remote) || policy.retry_eio,
        Class::Lasting => false,
    };
    if may_pass { Verdict::Retry } else { Verdict::Final }
}

/// Whether a failed request of this kind may be attempted again at all.
pub fn is_repeatable(operation: &Operation) -> bool {
    match operation {
        Operation::Flush => false,
        Operation::Write { durable, .. }
        | Operation::Discard { durable, .. }
        | Operation::WriteZeroes { durable, .. } => !durable,
        Operation::Read { .. } | Operation::Cache { .. } | Operation::Extents { .. } => true,
    }
}

/// The first wait between two attempts; each further one is twice as long.
const WAIT_MIN: Duration = Duration::from_millis(10);
/// The longest wait.
const WAIT_MAX: Duration = Duration::from_secs(1);

/// What one request remembers of its failed attempts.
#[derive(Clone, Copy, Debug, Default)]
pub struct Attempts {
    failed: u32,
    failed_first: Option<Moment>,
}

impl Attempts {
    /// How many have failed.
    pub fn failed(&self) -> u32 {
        self.failed
    }

    /// One more attempt has failed, in a way that may pass. Says when to begin the next; `None`: the deadline has passed.
    ///
    /// The last attempt begins at the deadline. `random` spreads requests that failed together: a wait is between half
    /// and all of its length.
    pub fn next(&mut self, now: Moment, policy: &RetryPolicy, random: u64) -> Option<Moment> {
        let deadline = *self.failed_first.get_or_insert(now) + policy.deadline;
        let wait = WAIT_MAX.min(WAIT_MIN * (1 << self.failed.min(7)));
        self.failed = self.failed.saturating_add(1);
        if now >= deadline {
            return None;
        }
        let half = wait / 2;
        let spread = random % u64::try_from(half.as_nanos()).expect("less than a second");
        Some(deadline.min(now + half + Duration::from_nanos(spread)))
    }
}

#[cfg(test)]
mod tests {
    use std::io;

    use block_core::{ErrorKind, GuestRange, Origin};
    use storage_io::SimulatedClock;

    use super::*;

    const PASSING: [i32; 5] = [11, 16, 4, 12, 105];
    const PATH: [i32; 13] = [5, 110, 67, 103, 111, 104, 107, 32, 112, 113, 100, 102, 101];

    fn os(number: i32, is_remote: bool) -> Error {
        let error = Error::from_os("write", io::Error::from_raw_os_error(number));
        error.with_origin(Origin { place: "/a.vhd".into(), is_remote })
    }

    #[test]
    fn every_error_number_has_its_verdict() {
        for number in 1..134 {
            for (is_remote, retry_eio) in [(false, false), (false, true), (true, false), (true, true)] {
                let policy = RetryPolicy { retry_eio, ..RetryPolicy::default() };
                let expected = if PASSING.contains(&number) || (PATH.contains(&number) && (is_remote || retry_eio)) {
                    Verdict::Retry
                } else {
                    Verdict::Final
                };
                let error = os(number, is_remote);
                assert_eq!(verdict(&error, &policy), expected, "{error}, remote: {is_remote}, retry_eio: {retry_eio}");
            }
        }
    }

    #[test]
    fn what_must_fail_at_once_does() {
        let policy = RetryPolicy { retry_eio: true, ..RetryPolicy::default() };
        for errno in [Errno::STALE, Errno::NOSPC, Errno::ROFS, Errno::BADF, Errno::INVAL, Errno::DQUOT, Errno::NODEV] {
            assert_eq!(verdict(&os(errno.raw_os_error(), true), &policy), Verdict::Final, "{errno}");
        }
    }

    #[test]
    fn what_we_found_ourselves_is_final() {
        let policy = RetryPolicy { retry_eio: true, ..RetryPolicy::default() };
        for kind in [ErrorKind::Corrupt, ErrorKind::Io, ErrorKind::Busy, ErrorKind::TimedOut, ErrorKind::Closed] {
            assert_eq!(verdict(&Error::new(kind, "words"), &policy), Verdict::Final, "{kind:?}");
        }
    }

    #[test]
    fn a_failed_sync_is_never_repeated() {
        let range = GuestRange::checked(0, 512).unwrap();
        let zeroes = |durable| Operation::WriteZeroes { range, may_free: true, fast_only: false, durable };
        assert!(!is_repeatable(&Operation::Flush));
        assert!(!is_repeatable(&zeroes(true)));
        assert!(is_repeatable(&zeroes(false)));
        assert!(is_repeatable(&Operation::Discard { range, durable: false }));
    }

    #[test]
    fn waits_double_up_to_a_second() {
        let policy = RetryPolicy { deadline: Duration::from_secs(1000), retry_eio: false };
        let now = SimulatedClock::new().now();
        let mut attempts = Attempts::default();
        let waits: Vec<u128> = (0..10).map(|_| (attempts.next(now, &policy, 0).unwrap() - now).as_millis()).collect();
        assert_eq!(waits, [5, 10, 20, 40, 80, 160, 320, 500, 500, 500]);
        assert_eq!(attempts.failed(), 10);
        let longest = attempts.next(now, &policy, 499_999_999).unwrap() - now;
        assert_eq!(longest, Duration::from_nanos(999_999_999));
    }

    #[test]
    fn the_last_attempt_begins_at_the_deadline() {
        let policy = RetryPolicy { deadline: Duration::from_secs(2), retry_eio: false };
        let start = SimulatedClock::new().now();
        let (mut attempts, mut now) = (Attempts::default(), start);
        while let Some(next) = attempts.next(now, &policy, u64::MAX) {
            assert!(next > now && next <= start + policy.deadline, "{next:?}");
            now = next;
        }
        assert_eq!(now, start + policy.deadline);
    }

    #[test]
    fn without_a_deadline_nothing_is_repeated() {
        let policy = RetryPolicy { deadline: Duration::ZERO, retry_eio: false };
        assert_eq!(Attempts::default().next(SimulatedClock::new().now(), &policy, 0), None);
    }
}
