//! The grant budget: how many pages of guests all processes of a host use together, shared fairly.
//!
//! ```text
//!   process: Budget -- Share (a disk) -- Waiter (a ring) --> Permit: so many pages may be copied now
//!               |
//!   table in a file that all map: what each uses, what all use, who waits in line      <-- other processes
//! ```
//!
//! What a host can map and copy at one time is limited, and whoever finds the limit first gets an error, which a guest
//! takes for a broken disk. So everybody takes his pages here before, all that he needs or none, and waits in line if
//! there is no room: first come, first served, and nobody has more than one batch under way.
//!
//! There is no daemon, and nobody is asked: without a line, taking and giving back are some atomic accesses to shared
//! memory each, and no lock. Those who wait sleep, and are called. A process that dies gives back what it had: it held a
//! lock on the file, and whoever waits looks ten times a second whether somebody has lost his. One that is stopped while
//! it is first in line is passed over until it goes on.
//!
//! The steps are in [`line`] and [`change`], as machines that touch one word of the table at a time; the model in the tests
//! plays them in every order, with a death between any two steps.

mod account;
mod bell;
mod change;
mod grants;
mod layout;
mod line;
#[cfg(test)]
mod model_tests;
mod share;
mod table;
mod words;

use std::{fmt, fs, path::Path, sync::Arc};

use block_core::{Error, ErrorKind, Result};

pub use account::BudgetAccount;
use bell::Opened;
pub use grants::BudgetedGrants;
pub use share::{MapPurpose, Permit, Share, Waiter};
use words::PAGES_MAX;

/// Pages that the largest request can need at one time: 256 segments, and the pages that name them.
pub const REQUEST_PAGES_MAX: u32 = 256 + 8;

/// Where Linux says how many pages may be mapped; not on a host without Xen.
const LIMIT_OF_LINUX: &str = "/sys/module/xen_gntdev/parameters/limit";
/// What it says if nobody has changed it.
const LIMIT_USUAL: u32 = 65536;

/// What all processes of a host may use together.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct Limits {
    /// Pages that are being copied.
    pub copies: u32,
    /// Pages that are mapped.
    pub mapped: u32,
}

impl Limits {
    /// The same for both.
    ///
    /// # Errors
    /// `Invalid` if the largest request has no room, or the table cannot count so many.
    pub fn new(pages: u32) -> Result<Limits> {
        let limits = Limits { copies: pages, mapped: pages };
        limits.check().map(|()| limits)
    }

    /// # Errors
    /// As for [`new`](Self::new).
    fn check(self) -> Result<()> {
        let fits = |pages| (REQUEST_PAGES_MAX..=PAGES_MAX).contains(&pages);
        if fits(self.copies) && fits(self.mapped) {
            return Ok(());
        }
        let words = format!("a grant budget has {REQUEST_PAGES_MAX} to {PAGES_MAX} pages");
        Err(Error::new(ErrorKind::Invalid, words))
    }

    /// Pages that one disk may have under way: room for several, and always for the largest request.
    fn batch(self) -> u32 {
        (self.copies / 16).max(REQUEST_PAGES_MAX)
    }

    /// Pages that one disk may have mapped of its data.
    fn mapped_by_one(self) -> u32 {
        (self.mapped / 16).max(REQUEST_PAGES_MAX)
    }

    fn encode(self) -> u64 {
        u64::from(self.copies) | u64::from(self.mapped) << 32
    }

    fn decode(word: u64) -> Limits {
        let half = |bits: u64| u32::try_from(bits & u64::from(u32::MAX)).expect("32 bits");
        Limits { copies: half(word), mapped: half(word >> 32) }
    }

    /// What holds if nobody says anything: as much as Linux says that one process may map.
    fn usual() -> Limits {
        let told = fs::read_to_string(LIMIT_OF_LINUX).ok().and_then(|text| text.trim().parse().ok());
        let pages = told.unwrap_or(LIMIT_USUAL).clamp(REQUEST_PAGES_MAX, PAGES_MAX);
        Limits { copies: pages, mapped: pages }
    }
}

/// The budget of a host, as one process has it open. Clones are the same.
#[derive(Clone)]
pub struct Budget(Arc<Opened>);

impl Budget {
    /// Opens the budget in this file, or makes it. Given limits hold for all from now on; without, those that hold
    /// already, or the usual ones.
    ///
    /// # Errors
    /// `Invalid` if the file is something else or the limits make no sense, `LimitReached` if too many processes have it
    /// open, or what the operating system says.
    pub fn open(path: &Path, limits: Option<Limits>) -> Result<Budget> {
        if let Some(limits) = limits {
            limits.check()?;
        }
        let opened = Opened::open(path)?;
        match limits {
            Some(limits) => opened.table().set_limits(limits),
            None => opened.table().offer_limits(Limits::usual()),
        }
        Ok(Budget(Arc::new(opened)))
    }

    /// A share for one disk.
    ///
    /// # Errors
    /// `LimitReached` if there are too many.
    pub fn share(&self) -> Result<Share> {
        Share::new(self.0.clone())
    }

    /// Takes back what processes had that have gone; says of how many. Whoever waits does so of itself.
    pub fn clear_dead(&self) -> usize {
        self.0.clear_dead()
    }

    /// What is used now, by all.
    pub fn account(&self) -> BudgetAccount {
        self.0.table().account()
    }
}

impl fmt::Debug for Budget {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        write!(f, "Budget({:?})", self.account())
    }
}
