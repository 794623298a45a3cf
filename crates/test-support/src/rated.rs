//! `td-rated` in the foreground.

use std::{
    io::{BufRead, BufReader, Write},
    process::{Child, ChildStderr, ExitStatus, Stdio},
};

use rustix::process::{Pid, Signal, kill_process};

use crate::RunDirectory;

/// A rate limiter of the name "gold", and what it says. It ends with this.
#[derive(Debug)]
pub struct Rated {
    child: Child,
    lines: BufReader<ChildStderr>,
}

impl Rated {
    /// Starts one that listens, with these words behind its name.
    ///
    /// # Panics
    /// When it does not start.
    pub fn start(place: &RunDirectory, words: &[&str]) -> Rated {
        let mut command = place.program("td-rated");
        command.args(["gold", "-D", "1"]).args(words);
        let mut child = command.stdin(Stdio::piped()).stderr(Stdio::piped()).spawn().expect("td-rated starts");
        let lines = BufReader::new(child.stderr.take().expect("it is a pipe"));
        let mut rated = Rated { child, lines };
        rated.line("listening on ");
        rated
    }

    /// The next line that has these words in it.
    ///
    /// # Panics
    /// When it ends without having said so.
    pub fn line(&mut self, words: &str) -> String {
        loop {
            let mut line = String::new();
            let length = self.lines.read_line(&mut line).expect("what it says is text");
            assert!(length > 0, "it ended before it said {words:?}");
            if line.contains(words) {
                return line.trim_end().to_owned();
            }
        }
    }

    /// Types a line.
    ///
    /// # Panics
    /// When it does not listen to its terminal any more.
    pub fn type_line(&mut self) {
        self.child.stdin.as_mut().expect("it is a pipe").write_all(b"\n").expect("it reads");
    }

    /// Sends a signal.
    ///
    /// # Panics
    /// When it may not.
    pub fn signal(&self, signal: Signal) {
        kill_process(Pid::from_child(&self.child), signal).expect("it is ours, and not waited for");
    }

    /// Asks it to end, and waits for that.
    ///
    /// # Panics
    /// When it is gone already.
    pub fn end(mut self) -> ExitStatus {
        self.signal(Signal::TERM);
        self.child.wait().expect("it is waited for once")
    }
}

impl Drop for Rated {
    fn drop(&mut self) {
        // Neither fails when it has ended before.
        let _ = self.child.kill();
        let _ = self.child.wait();
    }
}
