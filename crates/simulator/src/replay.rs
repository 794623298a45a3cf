//! How to see a failure again.

use std::cell::RefCell;

use crate::random::Random;

/// Says, when the test that holds it panics, how to repeat what it was doing.
#[derive(Debug)]
pub struct Replay {
    test: &'static str,
    seed: u64,
    note: RefCell<String>,
}

impl Replay {
    /// While this is held, a panic is one of `test` (its file and its name, as cargo wants them) with `seed`.
    #[must_use = "it speaks when it is dropped by a panic"]
    pub fn of(test: &'static str, seed: u64) -> Self {
        Replay { test, seed, note: RefCell::default() }
    }

    /// What it is doing now, to be told with a failure.
    pub fn note(&self, words: impl Into<String>) {
        *self.note.borrow_mut() = words.into();
    }
}

impl Drop for Replay {
    fn drop(&mut self) {
        if std::thread::panicking() {
            let note = self.note.borrow();
            if !note.is_empty() {
                println!("while {note}");
            }
            println!("repeat with: OXTAP_SEED={:#x} cargo test -p simulator --test {}", self.seed, self.test);
        }
    }
}

/// The seeds of so many runs of a test: the first is the one that was given, so that a failure is repeated by its own.
pub fn seeds(first: u64, runs: u64) -> impl Iterator<Item = u64> {
    let mut random = Random::new(first);
    (0..runs).map(move |run| if run == 0 { first } else { random.draw() })
}
