//! What the user reads: a line for each step, when it has ended.

use std::{
    io::{IsTerminal, Write, stdout},
    time::Instant,
};

use block_core::Result;

/// Prints steps as they end.
pub(super) struct Report;

impl Report {
    /// Runs a step and tells how it ended and how long it took. On a terminal its name is there while it runs.
    pub(super) fn step<T>(
        &mut self,
        name: &str,
        step: impl FnOnce() -> Result<T>,
        describe: impl FnOnce(&T) -> String,
    ) -> Result<T> {
        let started = Instant::now();
        let is_terminal = stdout().is_terminal();
        if is_terminal {
            print!("  .. {name:<14}");
            // A line that cannot be shown is no reason to stop.
            let _ = stdout().flush();
        }
        let result = step();
        let (mark, text) = match &result {
            Ok(value) => ("ok", describe(value)),
            Err(error) => ("NO", error.to_string()),
        };
        let back = if is_terminal { "\r" } else { "" };
        println!("{back}  {mark} {name:<14} {text} ({:.1} s)", started.elapsed().as_secs_f64());
        result
    }
}
