//! What became of a mutant.

use std::fmt;

/// How a mutant ended.
#[derive(Debug, PartialEq, Eq)]
pub(crate) enum Verdict {
    /// Its test failed, as it must; so many tests had been started.
    Caught(u64),
    /// Its test, or tests, passed.
    Survived(u64),
    /// No test of that name.
    NoTest,
    /// The test noted that it cannot run here.
    Skipped(String),
    /// The defect, or the program it needs, does not compile.
    NotCompiled,
    /// The patch does not fit the tree any more.
    NotApplied(String),
    /// The test did not end: it must bound its own waiting.
    Hung,
}

impl Verdict {
    /// Whether nobody has to do anything about it.
    pub(crate) fn is_good(&self, is_ci: bool) -> bool {
        match self {
            Verdict::Caught(_) => true,
            Verdict::Skipped(_) => !is_ci,
            _ => false,
        }
    }

    /// Judges a test run that came to its end.
    pub(crate) fn of_run(output: &str, succeeded: bool, skip: Option<String>) -> Verdict {
        match (tests_started(output), succeeded, skip) {
            (0, _, _) => Verdict::NoTest,
            (started, false, _) => Verdict::Caught(started),
            (_, true, Some(reason)) => Verdict::Skipped(reason),
            (started, true, None) => Verdict::Survived(started),
        }
    }
}

/// The sum of all "running N tests".
fn tests_started(output: &str) -> u64 {
    let counts = output.lines().filter_map(|line| line.strip_prefix("running "));
    counts.filter_map(|rest| rest.split_once(" test")?.0.parse::<u64>().ok()).sum()
}

impl fmt::Display for Verdict {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        match self {
            Verdict::Caught(_) => write!(f, "caught"),
            Verdict::Survived(1) => write!(f, "SURVIVED: its test passes"),
            Verdict::Survived(count) => write!(f, "SURVIVED: its {count} tests pass"),
            Verdict::NoTest => write!(f, "NO TEST ran"),
            Verdict::Skipped(reason) => write!(f, "skipped: {reason}"),
            Verdict::NotCompiled => write!(f, "DOES NOT COMPILE"),
            Verdict::NotApplied(reason) => write!(f, "DOES NOT APPLY: {reason}"),
            Verdict::Hung => write!(f, "HUNG: its test did not end"),
        }
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn only_a_test_that_ran_and_failed_catches() {
        let one = "running 1 test\ntest a ... FAILED\n";
        assert_eq!(Verdict::of_run(one, false, None), Verdict::Caught(1));
        assert_eq!(Verdict::of_run(one, true, None), Verdict::Survived(1));
        assert_eq!(Verdict::of_run("running 0 tests\n", false, None), Verdict::NoTest);
        assert_eq!(Verdict::of_run("running 0 tests\nrunning 2 tests\n", false, None), Verdict::Caught(2));
        let skipped = Verdict::of_run(one, true, Some("needs root".to_owned()));
        assert!(skipped.is_good(false) && !skipped.is_good(true));
    }
}
