//! Why requests fail, counted: failures of one disk, kind, error number and storage are one cause. Lines tell each of
//! them; this tells how often, since when and until when.

use std::{
    collections::BTreeMap,
    fmt,
    sync::Arc,
    time::{Duration, SystemTime},
};

use block_core::{Error, ErrorKind};
use control_api::{Minor, describe, errno, reason, timestamp};
use virtual_disk::{Failure, Report, RequestKind};

/// Causes that are known of a disk; beyond that its one that was seen longest ago is forgotten. A disk that meets many
/// costs others none of theirs.
const CAUSES_MAX: usize = 64;
/// Requests that make no sense are refused at the door and cost a client nothing: so many lines for each cause, in so
/// long a time, must do.
const REFUSALS_TOLD: u32 = 16;
const REFUSALS_TIME: Duration = Duration::from_secs(90);

/// What failures have in common.
#[derive(Clone, Debug, PartialEq, Eq)]
pub(crate) struct Cause {
    pub(crate) minor: Minor,
    pub(crate) kind: RequestKind,
    pub(crate) errno: i32,
    /// The storage that failed; none if none was reached.
    pub(crate) place: Option<Arc<str>>,
}

impl Cause {
    fn new(minor: Minor, kind: RequestKind, error: &Error) -> Cause {
        Cause { minor, kind, errno: errno(error), place: error.origin().map(|origin| origin.place.clone()) }
    }
}

/// A cause, and how often it was met.
#[derive(Clone, Debug)]
pub(crate) struct Counted {
    pub(crate) cause: Cause,
    pub(crate) first: SystemTime,
    pub(crate) last: SystemTime,
    /// Requests that failed for good.
    pub(crate) failures: u64,
    /// Requests that failed and were attempted again.
    pub(crate) retries: u64,
    /// Those of either that have no line.
    pub(crate) unlogged: u64,
    last_error: Error,
    refusals: Refusals,
}

impl Counted {
    /// The last of these failures, in words.
    pub(crate) fn reason(&self) -> String {
        reason(&self.last_error)
    }
}

impl fmt::Display for Counted {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        let Cause { minor, kind, errno, place } = &self.cause;
        let place = place.as_deref().map_or("never reached storage".to_owned(), |place| format!("at {place}"));
        write!(
            f,
            "cause: minor={minor} {}: {} (errno {errno}), {place}: {} failed, {} retried, {} not logged, first {}, last {}",
            kind.name(),
            describe(*errno),
            self.failures,
            self.retries,
            self.unlogged,
            timestamp(self.first),
            timestamp(self.last),
        )
    }
}

/// Lines about requests that were refused at the door.
#[derive(Clone, Copy, Debug, Default)]
struct Refusals {
    begun: Option<SystemTime>,
    told: u32,
    untold: u64,
}

/// Whether a report gets a line.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(super) enum Telling {
    /// It does; so many before it did not.
    Tell { suppressed: u64 },
    /// It does not.
    Suppress,
}

impl Refusals {
    fn telling(&mut self, time: SystemTime) -> Telling {
        let is_over = |begun| time.duration_since(begun).is_ok_and(|age| age >= REFUSALS_TIME);
        if self.begun.is_none_or(is_over) {
            *self = Refusals { begun: Some(time), told: 0, untold: self.untold };
        }
        if self.told == REFUSALS_TOLD {
            self.untold += 1;
            return Telling::Suppress;
        }
        self.told += 1;
        Telling::Tell { suppressed: std::mem::take(&mut self.untold) }
    }
}

/// Whether a request was refused since it makes no sense: the asker's mistake, nothing of ours has failed. One that waited
/// until its disk was closed is another matter: it made sense, and is lost.
pub(super) fn is_nonsense(failure: &Failure) -> bool {
    failure.attempts == 0 && failure.error.kind() != ErrorKind::Closed
}

/// All causes of the process.
#[derive(Debug, Default)]
pub(super) struct Causes {
    known: BTreeMap<Minor, Vec<Counted>>,
    forgotten: u64,
}

impl Causes {
    /// Counts a report, and says whether it gets a line.
    pub(super) fn note(&mut self, minor: Minor, time: SystemTime, report: &Report) -> Telling {
        let Some(counted) = self.count(minor, time, report) else { return Telling::Tell { suppressed: 0 } };
        let telling = match matches!(report, Report::Failed(failure) if is_nonsense(failure)) {
            true => counted.refusals.telling(time),
            false => Telling::Tell { suppressed: 0 },
        };
        counted.unlogged += u64::from(telling == Telling::Suppress);
        telling
    }

    /// Counts a report whose line is lost.
    pub(super) fn note_lost(&mut self, minor: Minor, time: SystemTime, report: &Report) {
        if let Some(counted) = self.count(minor, time, report) {
            counted.unlogged += 1;
        }
    }

    fn count(&mut self, minor: Minor, time: SystemTime, report: &Report) -> Option<&mut Counted> {
        let (kind, error, failures) = match report {
            Report::Failed(failure) => (failure.kind, &failure.error, 1),
            Report::Retrying(retrying) => (retrying.kind, &retrying.error, 0),
            Report::Stuck(_) | Report::Ended(_) => return None,
        };
        let counted = self.entry(Cause::new(minor, kind, error), error, time);
        counted.last = time;
        counted.last_error = error.clone();
        counted.failures += failures;
        counted.retries += 1 - failures;
        Some(counted)
    }

    fn entry(&mut self, cause: Cause, error: &Error, time: SystemTime) -> &mut Counted {
        let of_disk = self.known.entry(cause.minor).or_default();
        let known = of_disk.iter().position(|counted| counted.cause == cause);
        let index = known.unwrap_or_else(|| {
            if of_disk.len() == CAUSES_MAX {
                self.forgotten += forget_one(of_disk);
            }
            of_disk.push(Counted {
                cause,
                first: time,
                last: time,
                failures: 0,
                retries: 0,
                unlogged: 0,
                last_error: error.clone(),
                refusals: Refusals::default(),
            });
            of_disk.len() - 1
        });
        &mut of_disk[index]
    }

    /// All that are known, by disk, in the order in which they came up.
    pub(super) fn all(&self) -> Vec<Counted> {
        self.known.values().flatten().cloned().collect()
    }

    /// A line for each, for people.
    pub(super) fn lines(&self) -> Vec<String> {
        let forgotten = (self.forgotten > 0).then(|| format!("cause: others, forgotten: {} times", self.forgotten));
        self.known.values().flatten().map(Counted::to_string).chain(forgotten).collect()
    }
}

/// Gives how often that was met which is not known any more.
fn forget_one(causes: &mut Vec<Counted>) -> u64 {
    let oldest = (0..causes.len()).min_by_key(|index| causes[*index].last);
    let oldest = causes.remove(oldest.expect("it is full"));
    oldest.failures + oldest.retries
}

#[cfg(test)]
mod tests {
    use std::time::UNIX_EPOCH;

    use super::{super::samples::failure, *};

    fn at(seconds: u64) -> SystemTime {
        UNIX_EPOCH + Duration::from_secs(seconds)
    }

    fn minor(number: u16) -> Minor {
        Minor::new(number).unwrap()
    }

    #[test]
    fn what_has_one_cause_is_one_line_with_its_first_and_last_time() {
        let mut causes = Causes::default();
        causes.note(minor(4), at(1), &Report::Failed(failure(5, "/a.vhd")));
        causes.note(minor(4), at(2), &Report::Failed(failure(28, "/a.vhd")));
        causes.note_lost(minor(4), at(61), &Report::Failed(failure(5, "/a.vhd")));
        assert_eq!(
            causes.lines(),
            [
                "cause: minor=4 write: Input/output error (errno 5), at /a.vhd: 2 failed, 0 retried, 1 not logged, \
                 first Jan  1 00:00:01, last Jan  1 00:01:01",
                "cause: minor=4 write: No space left on device (errno 28), at /a.vhd: 1 failed, 0 retried, 0 not logged, \
                 first Jan  1 00:00:02, last Jan  1 00:00:02",
            ]
        );
    }

    #[test]
    fn the_table_is_bounded_and_forgets_what_was_seen_longest_ago() {
        let mut causes = Causes::default();
        let errors = CAUSES_MAX as u64 + 5;
        for second in 0..errors {
            // One comes up again and again.
            causes.note(minor(0), at(second), &Report::Failed(failure(5, "/often")));
            causes.note(minor(0), at(second), &Report::Failed(failure(5, &format!("/{second}"))));
        }
        let lines = causes.lines();
        assert_eq!(lines.len(), CAUSES_MAX + 1);
        assert!(lines[0].contains(&format!("at /often: {errors} failed")), "{}", lines[0]);
        assert_eq!(lines.last().unwrap(), "cause: others, forgotten: 6 times");
    }

    #[test]
    fn a_disk_with_many_causes_costs_others_none_of_theirs() {
        let mut causes = Causes::default();
        causes.note(minor(1), at(0), &Report::Failed(failure(5, "/quiet")));
        for second in 1..3 * CAUSES_MAX as u64 {
            causes.note(minor(0), at(second), &Report::Failed(failure(5, &format!("/{second}"))));
        }
        let quiet = causes.all().into_iter().filter(|counted| counted.cause.minor == minor(1));
        assert_eq!(quiet.map(|counted| counted.failures).collect::<Vec<_>>(), [1]);
        assert_eq!(causes.all().len(), CAUSES_MAX + 1);
    }

    #[test]
    fn failures_are_all_told_but_a_client_that_asks_nonsense_fills_no_log() {
        let mut causes = Causes::default();
        let failed = Report::Failed(failure(5, "/a.vhd"));
        let refused = Report::Failed(Failure { attempts: 0, ..failure(22, "") });
        let mut told = |report: &Report, second| {
            let tellings = (0..1000).map(|_| causes.note(minor(4), at(second), report));
            tellings.filter(|telling| *telling != Telling::Suppress).collect::<Vec<_>>()
        };
        assert_eq!(told(&failed, 1).len(), 1000);
        assert_eq!(told(&refused, 1).len(), 16);
        assert_eq!(told(&refused, 90).len(), 0);
        let later = told(&refused, 91);
        assert_eq!((later.len(), later[0]), (16, Telling::Tell { suppressed: 1984 }));
        // What a disk held when it was closed made sense.
        let error = Error::new(ErrorKind::Closed, "the disk is closed");
        let closed = Report::Failed(Failure { attempts: 0, error, ..failure(0, "") });
        assert_eq!(told(&closed, 92).len(), 1000);
    }
}
