//! Ctrl-C and `kill`, for commands that have something to say or to tidy up before they end.

use std::{process::exit, thread};

use block_core::Result;
use rustix::process::Signal;
use storage_io::{EngineChoice, Executor, Signals};

/// The signals that end a program in the foreground: Ctrl-C, `kill`, a terminal that is gone.
pub(super) const ENDING: [Signal; 3] = [Signal::INT, Signal::TERM, Signal::HUP];

/// Waits for one of `signals` on a thread of its own; then does `last` and ends the process as the signal would have.
///
/// `signals` must have been taken before any thread was started.
pub(super) fn end_on(signals: Signals, last: impl FnOnce() + Send + 'static) -> Result<()> {
    thread::Builder::new().name("signals".into()).spawn(move || {
        let signal = wait(&signals);
        last();
        exit(128 + signal.map_or(Signal::TERM, |signal| signal).as_raw());
    })?;
    Ok(())
}

/// The next signal.
pub(super) fn wait(signals: &Signals) -> Result<Signal> {
    let executor = Executor::new(EngineChoice::Probe)?;
    executor.block_on(signals.next(&executor))
}
