//! A slot: a minor that this process holds, with its home thread, as the control thread sees it.

use std::{
    cell::OnceCell,
    sync::{Arc, Mutex, MutexGuard, PoisonError},
};

use block_core::{Error, ErrorKind, Result};
use control_api::{
    HeldMinor, Minor,
    protocol::{ImageInformation, ListEntry, Text, VbdState},
};
use storage_io::{Reply, ReplyTo, Sender, reply};
use virtual_disk::{DiskState, Geometry, Status};

use crate::{home::Job, statistics};

/// What a job gives when it is done.
pub(crate) type Done = Result<Option<Geometry>>;

/// One thing to do, and where the result goes.
pub(crate) struct Order {
    pub(crate) job: Job,
    pub(crate) done: ReplyTo<Done>,
}

/// A slot of this process.
#[derive(Debug)]
pub(crate) struct Slot {
    held: HeldMinor,
    published: Arc<Published>,
    /// Known as soon as the home thread is up.
    status: OnceCell<Arc<Status>>,
    /// Jobs, one after the other.
    orders: Sender<Order>,
    /// Closing by force, which waits for nothing.
    urgent: Sender<Order>,
}

impl Slot {
    pub(crate) fn new(
        held: HeldMinor,
        published: Arc<Published>,
        orders: Sender<Order>,
        urgent: Sender<Order>,
    ) -> Slot {
        Slot { held, published, status: OnceCell::new(), orders, urgent }
    }

    pub(crate) fn minor(&self) -> Minor {
        self.held.minor()
    }

    /// The home thread is up.
    pub(crate) fn is_up(&self, status: Arc<Status>) {
        // It comes up once.
        let _ = self.status.set(status);
    }

    /// Does `job` when those before it have been done.
    pub(crate) async fn order(&self, job: Job) -> Done {
        self.wait(&self.orders, job).await
    }

    /// Closes by force, whatever else is being done.
    pub(crate) async fn force(&self) -> Done {
        self.wait(&self.urgent, Job::ForceClose).await
    }

    async fn wait(&self, orders: &Sender<Order>, job: Job) -> Done {
        let gone = || Error::new(ErrorKind::Closed, format!("minor {}: its thread has ended", self.minor()));
        let (done, result): (_, Reply<Done>) = reply();
        if orders.send(Order { job, done }).is_err() {
            return Err(gone());
        }
        result.await.unwrap_or_else(|| Err(gone()))
    }

    /// The line in the list of slots; `count` slots are left with this one.
    pub(crate) fn list_entry(&self, count: u32) -> ListEntry {
        let minor = i32::from(self.minor().number());
        ListEntry { count, minor, state: self.state(), path: self.name() }
    }

    fn disk_state(&self) -> DiskState {
        self.status.get().map_or(DiskState::Attached, |status| status.state())
    }

    pub(crate) fn state(&self) -> VbdState {
        match self.published.words().empty_pause {
            Some(EmptyPause::Paused) => VbdState::PAUSED_NORMALLY,
            Some(EmptyPause::ResumeFailed) => VbdState::PAUSED_NORMALLY | VbdState::RESUME_FAILED,
            None => state_bits(self.disk_state()),
        }
    }

    /// `type:path` as it was given; empty if nothing is open.
    pub(crate) fn name(&self) -> Text {
        match self.disk_state() {
            DiskState::Attached | DiskState::Closed => Text::EMPTY,
            _ => self.published.words().name.clone(),
        }
    }

    pub(crate) fn statistics(&self) -> String {
        let is_buffered = self.published.words().is_buffered;
        statistics::json(&self.name(), self.status.get().map(|status| &**status), is_buffered)
    }

    /// The size when it was last opened; zeroes before that.
    pub(crate) fn information(&self) -> ImageInformation {
        self.status.get().and_then(|status| status.geometry()).map(information).unwrap_or_default()
    }

    /// All that is known, for people.
    pub(crate) fn describe(&self) -> String {
        let status = self.status.get();
        let in_flight = status.map_or(0, |status| status.in_flight());
        let step = status.and_then(|status| status.step()).map(|step| format!(" doing: {step}"));
        let trouble = status.and_then(|status| status.trouble()).map(|error| format!(" trouble: {error}"));
        format!(
            "minor={} image={} state={} ({:?}) in flight: {in_flight}{}{}\n{}",
            self.minor(),
            self.name(),
            self.state(),
            self.disk_state(),
            step.unwrap_or_default(),
            trouble.unwrap_or_default(),
            self.statistics(),
        )
    }
}

/// Sizes as the protocol tells them: always in sectors of 512 bytes.
pub(crate) fn information(geometry: Geometry) -> ImageInformation {
    ImageInformation { sectors: geometry.sectors, sector_size: geometry.logical_block_size, information: 0 }
}

/// A disk's state as storage managers know it.
///
/// A disk that is stuck (closed by force while storage hangs) shows two bits that no other state has together.
fn state_bits(state: DiskState) -> VbdState {
    match state {
        DiskState::Attached | DiskState::Opening | DiskState::Running => VbdState::EMPTY,
        DiskState::Pausing => VbdState::PAUSING,
        DiskState::Paused | DiskState::Resuming => VbdState::PAUSED_NORMALLY,
        DiskState::ResumeFailed => VbdState::PAUSED_NORMALLY | VbdState::RESUME_FAILED,
        DiskState::Quiescing | DiskState::Growing => VbdState::QUIESCE_REQUESTED,
        DiskState::Quiesced => VbdState::QUIESCED,
        DiskState::Closing => VbdState::SHUTDOWN_REQUESTED,
        DiskState::Stuck => VbdState::SHUTDOWN_REQUESTED | VbdState::DEAD,
        DiskState::Closed => VbdState::CLOSED,
    }
}

/// A slot without images may be paused; it can only be closed again.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(crate) enum EmptyPause {
    Paused,
    ResumeFailed,
}

/// What home says about a slot beyond what the disk itself publishes.
#[derive(Debug, Default)]
pub(crate) struct Published(Mutex<Words>);

/// See [`Published`].
#[derive(Debug, Default)]
pub(crate) struct Words {
    /// `type:path` as it was given last.
    pub(crate) name: Text,
    /// Whether a slot without images is paused.
    pub(crate) empty_pause: Option<EmptyPause>,
    /// Whether the page cache is used.
    pub(crate) is_buffered: bool,
}

impl Published {
    /// Guards a few words; nothing waits while they are locked.
    pub(crate) fn words(&self) -> MutexGuard<'_, Words> {
        self.0.lock().unwrap_or_else(PoisonError::into_inner)
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn states_are_told_as_storage_managers_know_them() {
        let shown = |state| state_bits(state).to_string();
        let all = DiskState::ALL.map(shown);
        assert_eq!(all, ["0", "0", "0", "0x14", "0x2a", "0x2a", "0x22a", "0x4", "0x8", "0x4", "0x40", "0x41", "0x2"]);
    }
}
