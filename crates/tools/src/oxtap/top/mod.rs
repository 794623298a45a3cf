//! `oxtap top`: the disks of this host at work, live on a terminal, or as one table.
//!
//! ```text
//!   gatherer thread: host, every interval --looks--> rates: what happened between two of them
//!                                                      |
//!   keys ----------------------------------------> model: order, filter, place ---> view: lines of a terminal
//! ```

mod model;
mod rates;
#[cfg(feature = "top")]
mod screen;
mod table;
#[cfg(feature = "top")]
mod view;

use std::{
    io::{IsTerminal, stdin, stdout},
    thread,
    time::{Duration, Instant},
};

use block_core::{Error, ErrorKind, Result};
use control_api::RunDir;

use model::Model;
pub(super) use model::Order;
use rates::Look;

use super::{arguments::Top, common, host, text};

/// More often would be work for its own sake.
const INTERVAL_MIN: Duration = Duration::from_millis(100);
/// A tapdisk that does not answer holds up the picture for so long, and no longer.
const PATIENCE: Duration = Duration::from_secs(2);

pub(super) fn run(arguments: Top) -> Result<()> {
    let Top { interval, sort, filter, guests, once } = arguments;
    if interval < INTERVAL_MIN {
        return Err(Error::new(ErrorKind::Invalid, "the shortest interval is 0.1 seconds"));
    }
    let model = Model::new(sort, filter).with_guests(guests);
    let run = RunDir::from_environment();
    if once || !stdout().is_terminal() || !stdin().is_terminal() {
        return print_once(&run, model, interval);
    }
    live(run, model, interval)
}

#[cfg(feature = "top")]
fn live(run: RunDir, model: Model, interval: Duration) -> Result<()> {
    screen::run(run, model, interval)
}

#[cfg(not(feature = "top"))]
fn live(run: RunDir, model: Model, interval: Duration) -> Result<()> {
    print_once(&run, model, interval)
}

fn print_once(run: &RunDir, mut model: Model, interval: Duration) -> Result<()> {
    model.take(look(run)?);
    thread::sleep(interval);
    model.take(look(run)?);
    text::print(&table::whole(&model))
}

/// What all tapdisks tell, now.
fn look(run: &RunDir) -> Result<Look> {
    let processes = host::processes_within(run, PATIENCE)?;
    Ok(Look { at: Instant::now(), processes, budget: common::budget(run) })
}
