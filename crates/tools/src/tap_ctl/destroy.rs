//! `destroy`: close, detach, free; also when the tapdisk has died, so that nothing is left of a disk whose process has gone.
//!
//! ```text
//!   close --> detach --> free --------------------------------------------> done
//!     |         |          |
//!     +---------+----------+-- nobody listens any more --> the minor --free, or gone already----> done
//!                                                             |
//!                                                             +-- another tapdisk has it: is it the same device's?
//!                                                                     yes: destroyed there;  no: the first failure
//! ```
//!
//! Toolstacks run this from a script whose failure they show as theirs, also after a tapdisk has been killed; by then the
//! daemon may have given the device another tapdisk, or taken the disk away.

use std::{thread, time::Duration};

use block_core::{Error, Result, ResultExt};
use control_api::{Client, Minor, Owner, stale::Turn};
use rustix::io::Errno;

use super::{Failure, Options, Session, disk::ANSWER_MAX, minor, patience::Patience, pid, timeout};

/// The kernel may still be ending what a process had under way when it was killed: so often its minor is asked for,
const RELEASE_LOOKS: u32 = 250;
/// with so much time in between.
const RELEASE_PAUSE: Duration = Duration::from_millis(20);

pub(super) fn destroy(session: &Session, options: &Options) -> std::result::Result<(), Failure> {
    let destroying =
        Destroying { session, minor: minor(options)?, timeout: timeout(options), is_forced: options.has(b'f') };
    let pid = pid(options)?;
    match destroying.by_tapdisk(pid) {
        Err(error) if destroying.has_gone(pid) => Ok(destroying.without_tapdisk(error)?),
        result => Ok(result?),
    }
}

/// The end of one disk.
struct Destroying<'a> {
    session: &'a Session,
    minor: Minor,
    timeout: Option<Duration>,
    is_forced: bool,
}

impl Destroying<'_> {
    /// The three steps, up to the first that fails.
    fn by_tapdisk(&self, pid: u32) -> Result<()> {
        let Destroying { session, minor, timeout, is_forced } = *self;
        let client = session.client(pid, timeout);
        let patience = Patience { session, pid, minor, timeout };
        let closed = if is_forced { client.force_close(minor) } else { client.close(minor) };
        patience.explain("close", closed).context("close")?;
        patience.explain("detach", client.detach(minor)).context("detach")?;
        session.run.free_minor(minor).context("free")
    }

    /// Whether nobody listens under this number. A tapdisk listens as long as it lives.
    fn has_gone(&self, pid: u32) -> bool {
        self.asking(pid).pid().is_err_and(|error| is(&error, Errno::CONNREFUSED) || is(&error, Errno::NOENT))
    }

    /// Gives back what is left of a disk whose tapdisk has gone; `first` is what failed.
    fn without_tapdisk(&self, first: Error) -> Result<()> {
        for look in 0..RELEASE_LOOKS {
            match self.session.run.free_minor(self.minor) {
                Err(error) if is(&error, Errno::AGAIN) => {}
                Err(error) if !is(&error, Errno::NOENT) => return Err(error).context("free"),
                _ => {
                    self.clean();
                    return Ok(());
                }
            }
            if look % 10 == 0
                && let Some(other) = self.holder()
            {
                return if self.is_our_device() { self.by_tapdisk(other) } else { Err(first) };
            }
            thread::sleep(RELEASE_PAUSE);
        }
        Err(first)
    }

    /// Removes the sockets of the dead, which the next tapdisk would do.
    fn clean(&self) {
        if let Ok(turn) = Turn::wait(&self.session.run) {
            turn.clean(&self.session.run, None);
        }
    }

    /// Another tapdisk that has the minor.
    fn holder(&self) -> Option<u32> {
        let number = i32::from(self.minor.number());
        let has_it =
            |pid: &u32| self.asking(*pid).list().is_ok_and(|entries| entries.iter().any(|entry| entry.minor == number));
        self.session.run.tapdisks().ok()?.into_iter().find(has_it)
    }

    /// Whether the minor belongs to the device whose script this runs in.
    fn is_our_device(&self) -> bool {
        let ours = Owner::from_environment();
        ours != Owner::Storage && self.session.run.minor_record(self.minor).owner == ours
    }

    fn asking(&self, pid: u32) -> Client {
        self.session.client(pid, Some(ANSWER_MAX))
    }
}

fn is(error: &Error, number: Errno) -> bool {
    error.os_error() == Some(number.raw_os_error())
}
