//! What a tapdisk is asked for, until it is done or nobody wants it any more.

use std::{cell::Cell, pin::pin, rc::Rc, time::Duration};

use block_core::Error;
use futures_util::future::select;
use rustix::io::Errno;
use storage_io::Signal;

use crate::{DeviceName, Disk, Host, NewImage};

/// Between two attempts, at first.
const PAUSE_MIN: Duration = Duration::from_millis(10);
/// And at most.
const PAUSE_MAX: Duration = Duration::from_secs(10);

/// Tells whoever brings a disk to rest that nobody wants that any more.
#[derive(Debug, Default)]
pub struct TurnBack {
    is_wanted: Cell<bool>,
    changed: Signal,
}

impl TurnBack {
    /// From now on nobody wants it.
    pub fn want(&self) {
        self.is_wanted.set(true);
        self.changed.notify();
    }

    /// Whether nobody wants it.
    pub fn is_wanted(&self) -> bool {
        self.is_wanted.get()
    }

    /// Ends when nobody wants it.
    pub async fn wanted(&self) {
        self.changed.until(|| self.is_wanted()).await;
    }
}

/// What has come of it.
pub(crate) enum RestEnd {
    /// Whether the disk is at rest.
    Paused(bool),
    /// It is refused, and asked for again.
    Refused(Error),
    /// Why the disk is not served, if it is not.
    Resumed(Result<(), Error>),
    /// There is no such disk any more.
    Gone,
}

/// Brings a disk to rest; what refuses is asked again until nobody wants it.
pub(crate) async fn bring_to_rest(
    host: &Host,
    name: &DeviceName,
    disk: Disk,
    turn_back: &Rc<TurnBack>,
    refused: impl Fn(RestEnd),
) -> RestEnd {
    let mut pause = PAUSE_MIN;
    loop {
        match host.worker.pause(disk, turn_back.clone()).await {
            Ok(true) => return RestEnd::Paused(true),
            Ok(false) => return RestEnd::Gone,
            Err(_) if turn_back.is_wanted() => return RestEnd::Paused(false),
            Err(error) => {
                host.log.note(name, &format!("its disk is not paused: {error}"));
                refused(RestEnd::Refused(error));
            }
        }
        select(pin!(host.executor.sleep(pause)), pin!(turn_back.wanted())).await;
        pause = (pause * 2).min(PAUSE_MAX);
    }
}

/// Has a disk served again. What its tapdisk refuses is refused: it has made its attempts.
pub(crate) async fn bring_back(host: &Host, disk: Disk, image: NewImage) -> RestEnd {
    let mut pause = PAUSE_MIN;
    loop {
        match host.worker.resume(disk, image.clone()).await {
            Ok(true) => return RestEnd::Resumed(Ok(())),
            Ok(false) => return RestEnd::Gone,
            // It has been cut off: if the process has gone, the next attempt finds none.
            Err(error) if is_cut_off(&error) => host.executor.sleep(pause).await,
            Err(error) => return RestEnd::Resumed(Err(error)),
        }
        pause = (pause * 2).min(PAUSE_MAX);
    }
}

fn is_cut_off(error: &Error) -> bool {
    let number = error.os_error();
    [Errno::CONNRESET, Errno::PIPE].iter().any(|errno| number == Some(errno.raw_os_error()))
}
