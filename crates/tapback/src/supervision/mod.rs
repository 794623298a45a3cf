//! What becomes of a guest's disk when its tapdisk has gone.
//!
//! ```text
//!   tapdisk runs --its process ends--> told: log --fail--> another answers with errors --> error node, 5, 6
//!        ^                                    |
//!        |                                    +-------restart, command--> somebody makes another tapdisk, and names it
//!        |                                                                     in the device's nodes
//!        +--- what was not answered is done again <------------------------------------+---- else: as fail
//! ```
//!
//! A process is watched by a descriptor of its own, whoever has started it: its end is told at once, and a number that is
//! given to another process is not mistaken. What a guest has asked of a tapdisk that has gone cannot be taken up from its
//! ring, since answers take the places of requests there: it is in the ring's record, which outlives the process.

mod command;
mod exit;
mod failing;
mod restart;

use std::{fmt, path::PathBuf, rc::Rc, time::Duration};

use block_core::Result;
use futures_util::future::LocalBoxFuture;

pub use command::RunCommand;
pub use exit::Exit;
pub(crate) use exit::exit;
pub(crate) use failing::Failing;
pub use restart::SameImage;

use crate::{DeviceName, Disk};

/// What is done when the tapdisk of a device has gone.
#[derive(Clone, Default)]
pub enum OnDeath {
    /// What the guest has asked is answered with errors, and its disk closes.
    #[default]
    Fail,
    /// Somebody tries to help first; until that has failed the guest waits.
    Help(Rc<dyn Rescue>),
}

impl fmt::Debug for OnDeath {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        match self {
            OnDeath::Fail => f.write_str("Fail"),
            OnDeath::Help(_) => f.write_str("Help"),
        }
    }
}

/// A device whose tapdisk has gone.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct Casualty {
    /// The device.
    pub device: DeviceName,
    /// Its directory in XenStore.
    pub directory: String,
    /// The disk that it had.
    pub disk: Disk,
}

/// What somebody has done about it.
#[derive(Clone, Debug, PartialEq, Eq)]
pub enum Rescued {
    /// The disk is there again; the device's nodes shall name this one.
    Disk {
        /// The new one.
        disk: Disk,
        /// Where it is served over NBD.
        socket: PathBuf,
    },
    /// It is taken care of: nothing is told to the guest before the nodes name another disk, or it goes by itself.
    Waiting,
}

/// Somebody who helps.
pub trait Rescue {
    /// Does something about it, in bounded time. After an error the guest is told that its disk has gone.
    fn help(&self, casualty: Casualty) -> LocalBoxFuture<'static, Result<Rescued>>;
}

/// How long a guest may take to close a disk whose tapdisk has gone, before it is closed without it.
pub(crate) const CLOSING_MAX: Duration = Duration::from_secs(5);
