//! How far a command is, for people at a terminal.
//!
//! ```text
//!   coalesce [===============>                ] 1.92 GiB of 4.00 GiB, 1.10 GiB/s, 2s left
//! ```
//!
//! A command that moves bytes, or looks at many things, tells a [`Progress`] of each piece that is done:
//!
//! ```
//! use tools::progress::{Measure, Progress};
//!
//! # let pieces = [4096u64, 4096];
//! let progress = Progress::begin("coalesce", Measure::Bytes, pieces.iter().sum());
//! for piece in pieces {
//!     // Move it, then:
//!     progress.advance(piece);
//! }
//! // Dropping it takes the line away: before a failure is told, too.
//! drop(progress);
//! ```
//!
//! The line is on stderr, and only if that is a terminal: what programs read is the same with and without it. What ends
//! soon never shows one. There is no thread behind it: it changes when the command says so, at most twenty times a
//! second, so `advance` may be called for every piece.

use std::{
    fmt,
    sync::{Mutex, PoisonError},
    time::Duration,
};

use indicatif::{ProgressBar, ProgressDrawTarget, ProgressStyle};

/// What ends sooner is not worth a line.
const QUICK: Duration = Duration::from_millis(300);

/// What is counted.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Measure {
    /// Bytes.
    Bytes,
    /// Things, by the name of many: `images`.
    Things(&'static str),
}

impl Measure {
    fn style(self) -> ProgressStyle {
        let template = match self {
            Measure::Bytes => {
                "{prefix} [{bar:32}] {binary_bytes} of {binary_total_bytes}, {binary_bytes_per_sec}, {eta} left{msg}"
                    .to_owned()
            }
            Measure::Things(name) => {
                format!("{{prefix}} [{{bar:32}}] {{pos}} of {{len}} {name}, {{per_sec}}, {{eta}} left{{msg}}")
            }
        };
        ProgressStyle::with_template(&template).expect("the template is well-formed").progress_chars("=> ")
    }
}

/// How far a command is. It does nothing where nobody would see it.
pub struct Progress {
    shown: Option<Shown>,
}

/// A line that somebody sees, or will if this takes long enough.
struct Shown {
    bar: ProgressBar,
    /// Where it will be shown, until it is.
    later: Mutex<Option<ProgressDrawTarget>>,
}

impl fmt::Debug for Progress {
    fn fmt(&self, formatter: &mut fmt::Formatter<'_>) -> fmt::Result {
        let position = self.shown.as_ref().map(|shown| shown.bar.position());
        formatter.debug_struct("Progress").field("position", &position).finish_non_exhaustive()
    }
}

impl Progress {
    /// Begins with nothing done of `total`; `command` is what the line starts with.
    pub fn begin(command: &'static str, measure: Measure, total: u64) -> Progress {
        Progress::begin_on(ProgressDrawTarget::stderr(), command, measure, total)
    }

    fn begin_on(target: ProgressDrawTarget, command: &'static str, measure: Measure, total: u64) -> Progress {
        if target.is_hidden() {
            return Progress { shown: None };
        }
        let bar = ProgressBar::with_draw_target(Some(total), ProgressDrawTarget::hidden());
        let bar = bar.with_style(measure.style()).with_prefix(command);
        Progress { shown: Some(Shown { bar, later: Mutex::new(Some(target)) }) }
    }

    /// That much more is done.
    pub fn advance(&self, amount: u64) {
        let Some(shown) = &self.shown else { return };
        shown.appear();
        shown.bar.inc(amount);
    }

    /// There is more to do than was known, or less.
    pub fn set_total(&self, total: u64) {
        if let Some(shown) = &self.shown {
            shown.bar.set_length(total);
        }
    }

    /// What it is at, behind everything else in the line: the name of a file.
    pub fn say(&self, words: &str) {
        let Some(shown) = &self.shown else { return };
        shown.appear();
        shown.bar.set_message(format!(": {words}"));
    }
}

impl Drop for Progress {
    fn drop(&mut self) {
        if let Some(shown) = &self.shown {
            shown.bar.finish_and_clear();
        }
    }
}

impl Shown {
    /// Shows the line, if it took long enough by now.
    fn appear(&self) {
        if self.bar.elapsed() < QUICK {
            return;
        }
        // Nobody panics while holding it.
        let target = self.later.lock().unwrap_or_else(PoisonError::into_inner).take();
        if let Some(target) = target {
            self.bar.set_draw_target(target);
        }
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use std::{io, sync::Arc};

    use indicatif::TermLike;

    /// What was written to a terminal, and how often its line was cleared.
    #[derive(Clone, Debug, Default)]
    struct Screen(Arc<Mutex<Vec<String>>>);

    impl Screen {
        fn add(&self, words: &str) -> io::Result<()> {
            self.0.lock().unwrap().push(words.to_owned());
            Ok(())
        }

        fn target(&self) -> ProgressDrawTarget {
            ProgressDrawTarget::term_like(Box::new(self.clone()))
        }

        /// Everything that was written.
        fn text(&self) -> String {
            self.0.lock().unwrap().join("|")
        }
    }

    impl TermLike for Screen {
        fn width(&self) -> u16 {
            200
        }
        fn move_cursor_up(&self, _: usize) -> io::Result<()> {
            Ok(())
        }
        fn move_cursor_down(&self, _: usize) -> io::Result<()> {
            Ok(())
        }
        fn move_cursor_right(&self, _: usize) -> io::Result<()> {
            Ok(())
        }
        fn move_cursor_left(&self, _: usize) -> io::Result<()> {
            Ok(())
        }
        fn write_line(&self, words: &str) -> io::Result<()> {
            self.add(words)
        }
        fn write_str(&self, words: &str) -> io::Result<()> {
            self.add(words)
        }
        fn clear_line(&self) -> io::Result<()> {
            self.add("<clear>")
        }
        fn flush(&self) -> io::Result<()> {
            Ok(())
        }
    }

    /// One that began so long ago.
    fn begun(screen: &Screen, ago: Duration, measure: Measure, total: u64) -> Progress {
        let mut progress = Progress::begin_on(screen.target(), "coalesce", measure, total);
        let shown = progress.shown.as_mut().unwrap();
        shown.bar = shown.bar.clone().with_elapsed(ago);
        progress
    }

    const LONG: Duration = Duration::from_secs(3600);

    #[test]
    fn a_line_says_how_much_of_what_is_done() {
        let screen = Screen::default();
        let progress = begun(&screen, LONG, Measure::Bytes, 4 << 30);
        progress.advance(1 << 30);
        assert!(screen.text().contains("coalesce [========>"), "{}", screen.text());
        assert!(screen.text().contains("] 1.00 GiB of 4.00 GiB, "), "{}", screen.text());
        assert!(screen.text().contains("/s, "), "{}", screen.text());
    }

    #[test]
    fn things_are_counted_by_their_name() {
        let screen = Screen::default();
        let progress = begun(&screen, LONG, Measure::Things("images"), 2000);
        progress.set_total(2001);
        progress.advance(3);
        progress.say("base.vhd");
        assert!(screen.text().contains("3 of 2001 images, "), "{}", screen.text());
        assert!(screen.text().contains(" left: base.vhd"), "{}", screen.text());
    }

    #[test]
    fn what_ends_soon_shows_nothing() {
        let screen = Screen::default();
        let progress = begun(&screen, Duration::ZERO, Measure::Bytes, 10);
        // Not through the clock: a machine may stop for as long as it likes.
        progress.shown.as_ref().unwrap().bar.inc(10);
        drop(progress);
        assert_eq!(screen.text(), "");
    }

    #[test]
    fn the_line_goes_when_the_command_ends() {
        let screen = Screen::default();
        let progress = begun(&screen, LONG, Measure::Bytes, 10);
        progress.advance(10);
        drop(progress);
        assert!(screen.text().ends_with("<clear>") || screen.text().ends_with("<clear>|"), "{}", screen.text());
    }

    #[test]
    fn nobody_is_shown_anything_where_there_is_no_terminal() {
        let progress = Progress::begin_on(ProgressDrawTarget::hidden(), "coalesce", Measure::Bytes, 10);
        assert!(progress.shown.is_none());
        progress.advance(1);
    }
}
