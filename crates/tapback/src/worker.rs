//! Who serves rings, as far as devices know it.

use std::rc::Rc;

use block_core::Result;
use control_api::native::{ConnectRing, RingConnected};
use futures_util::future::{LocalBoxFuture, pending, ready};
use xenbus::State;

use crate::{DeviceName, Exit, Reports, TurnBack};

/// A disk that a tapdisk has.
#[derive(Clone, Copy, Debug, PartialEq, Eq, PartialOrd, Ord, Hash)]
pub struct Disk {
    /// The process.
    pub pid: u32,
    /// The disk's number on this host.
    pub minor: u16,
}

/// The image that a disk is resumed with.
#[derive(Clone, Debug, Default, PartialEq, Eq)]
pub struct NewImage {
    /// How the toolstack calls it, usually `type:path`.
    pub name: Option<String>,
    /// It was called otherwise when the disk came to rest.
    pub is_another: bool,
}

/// How a device was let go of.
#[derive(Clone, Debug, Default, PartialEq, Eq)]
pub struct LetGo {
    /// By somebody who has the disk. Nobody else knows what storage still holds.
    pub is_answered: bool,
    /// Why what the guest was answered is not all durable, if it is not.
    pub not_durable: Option<String>,
}

/// Whether a guest that is let go of wants the answers to what it has asked.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Guest {
    /// It does, and keeps its pages for them.
    Waits,
    /// Its device was removed, or a kernel begins anew: its pages may be used for something else by now. Some kernels do
    /// so as soon as the directory has gone, others wait for answers, whatever these say.
    MayHaveGone,
}

impl Guest {
    /// What the state of its frontend tells.
    pub(crate) fn showing(frontend: State) -> Guest {
        match frontend {
            State::Unknown | State::Initialising => Guest::MayHaveGone,
            _ => Guest::Waits,
        }
    }
}

/// Who serves rings. What is asked may take as long as storage takes.
pub trait Worker {
    /// Serves the rings of a guest's device. The same rings again are fine; others while there are some are refused with
    /// `EALREADY`.
    fn connect(&self, disk: Disk, ring: ConnectRing) -> LocalBoxFuture<'static, Result<RingConnected>>;

    /// Ends with all requests answered, all durable, and nothing of the guest's held; the last that could write has no
    /// write access any more. Rings that are not connected are as good, and so is a process that has gone. After an error
    /// nothing is known: whoever asked asks again. Of a process that has gone its guest is answered with errors before.
    /// The data of a guest that may have gone is not read or written any more,
    /// also if that is known only after it was asked for the first time.
    fn disconnect(&self, disk: Disk, device: DeviceName, guest: Guest) -> LocalBoxFuture<'static, Result<LetGo>>;

    /// Ends when the process of a disk has gone, whoever has started it.
    fn exit(&self, _: Disk) -> LocalBoxFuture<'static, Exit> {
        Box::pin(pending())
    }

    /// Answers what a guest has asked of a process that has gone with errors, and what it asks from then on, until its rings
    /// are disconnected. Says how many requests had no answer.
    fn fail(&self, _: DeviceName) -> LocalBoxFuture<'static, Result<u64>> {
        Box::pin(ready(Ok(0)))
    }

    /// Ends with all requests answered, all durable, and without write access if nobody else writes: the guest stands still.
    /// If it asks again, it is served again.
    fn settle(&self, _: Disk, _: DeviceName) -> LocalBoxFuture<'static, Result<LetGo>> {
        Box::pin(ready(Ok(LetGo::default())))
    }

    /// Tells what happens to a device's rings until they are not connected any more. After an error whoever asked asks
    /// again: what holds already is told at once.
    fn watch(&self, disk: Disk, device: DeviceName, reports: Rc<Reports>) -> LocalBoxFuture<'static, Result<()>>;

    /// Brings a disk to rest, if it is not: its images are closed and free to change, what guests ask is held. False if
    /// there is no such disk any more. If it is turned back, which may be too late, it ends soon; after an error the disk
    /// goes on.
    fn pause(&self, disk: Disk, turn_back: Rc<TurnBack>) -> LocalBoxFuture<'static, Result<bool>>;

    /// Has a disk served again, if it is not, with this image if that is another one or its own. False if there is no such
    /// disk any more. After an error it is at rest.
    fn resume(&self, disk: Disk, image: NewImage) -> LocalBoxFuture<'static, Result<bool>>;
}
