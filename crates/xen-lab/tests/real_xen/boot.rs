//! A boot for many stories.

use std::{
    path::PathBuf,
    sync::{LazyLock, Mutex, PoisonError},
    time::Duration,
};

use test_support::{find_tool, program_directory, skip};
use xen_lab::{Images, Machine, Outcome, Packages, Verdict, static_programs};

const COMMON: &str = include_str!("common.sh");
/// Ten times what it takes where nothing else runs.
const PATIENCE: Duration = Duration::from_secs(1800);
const PACKAGES: [&str; 4] = ["tapback", "tapdisk", "tools", "xen-lab"];
#[rustfmt::skip]
const PROGRAMS: [&str; 10] = [
    "block-tapdisk", "tapback", "tapdisk", "tap-ctl", "td-rated", "vhd-util", "td-util", "cbt-util", "oxtap", "lab-load",
];

/// One machine after the other: each takes the processors that there are, and the toolstack waits for ten seconds only.
static TURN: Mutex<()> = Mutex::new(());

/// What dom0 runs.
static OURS: LazyLock<PathBuf> = LazyLock::new(|| {
    let directory = program_directory().parent().unwrap().join("xen-lab");
    std::fs::create_dir_all(&directory).unwrap();
    static_programs(&PACKAGES, &PROGRAMS, &directory).unwrap();
    directory
});

/// What has come of a boot.
pub(crate) struct Told {
    /// The script's own words.
    log: String,
    outcome: Option<Outcome>,
}

impl Told {
    /// Boots a machine for these stories, unless none can be booted here.
    pub(crate) fn by(name: &str, stories: &str, machine: Machine) -> Told {
        if find_tool("apt-get").is_none() {
            skip(name, "the real Xen is made of Debian packages, and there is no apt-get");
            return Told { log: String::new(), outcome: None };
        }
        let _turn = TURN.lock().unwrap_or_else(PoisonError::into_inner);
        let images = Images::prepare(&Packages::prepare().unwrap()).unwrap();
        let programs = PROGRAMS.map(|program| (format!("lab/bin/{program}"), OURS.join(program)));
        let files = programs.into_iter().chain(machine.files).collect();
        let script = format!("#!/bin/bash\n{COMMON}\n{stories}");
        let outcome = Machine { script, files, patience: PATIENCE, ..machine }.run(&images).unwrap();
        let log = outcome.text("script.log").unwrap_or_default();
        Told { log, outcome: Some(outcome) }
    }

    /// How a story has ended: as it should, or this panics with what there is to know.
    pub(crate) fn story(&self, name: &str) {
        let Some(outcome) = &self.outcome else { return };
        let is_told =
            |words: &str| self.log.lines().any(|line| line == words || line.starts_with(&format!("{words}:")));
        if is_told(&format!("ok {name}")) && !is_told(&format!("failed {name}")) {
            print!("{}", words_of(&self.log, name));
            return;
        }
        let kept = program_directory().parent().unwrap().join("xen-lab-failed");
        let _ = std::fs::remove_dir_all(&kept);
        let where_it_is = match outcome.keep(&kept) {
            Ok(()) => format!("all logs are in {}", kept.display()),
            Err(error) => format!("the logs could not be kept: {error}"),
        };
        let verdict = match outcome.verdict {
            Verdict::Ended(status) => format!("the script ended with {status}"),
            other => format!("{other:?}\n{}", outcome.console),
        };
        panic!("{name}: {verdict}; {where_it_is}\n{}\n{}", self.log, outcome.text("tapback.log").unwrap_or_default());
    }
}

/// What a story has told that has ended well: the lines up to its end, from the end of the one before.
fn words_of(log: &str, name: &str) -> String {
    let is_end = |line: &str| line.starts_with("ok ") || line.starts_with("failed ");
    let mut words = String::new();
    for line in log.lines() {
        words += line;
        words.push('\n');
        if is_end(line) {
            if line.trim_start_matches("ok ").split(':').next() == Some(name) {
                return words;
            }
            words.clear();
        }
    }
    words
}

#[test]
fn a_story_is_told_in_its_own_words() {
    let log = "ok one: 3 s\na\nb\nok two: 4 s\nc\nfailed three: 1\nok four\n";
    assert_eq!(words_of(log, "two"), "a\nb\nok two: 4 s\n");
    assert_eq!(words_of(log, "four"), "ok four\n");
}
