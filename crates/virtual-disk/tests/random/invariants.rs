//! What holds after every step, whatever was done.

use std::{
    collections::{BTreeMap, HashSet},
    sync::Arc,
};

use storage_io::{FaultScript, OperationKind, Storage};
use virtual_disk::DiskState;

use crate::support::Host;

/// What was seen in the step before.
pub(crate) struct Watch {
    state: DiskState,
    /// Operations that storages were asked for.
    asked: u64,
    bytes: u64,
    /// The image: how many have it open shows in its count.
    image: Arc<dyn Storage>,
    /// How often each state was entered.
    pub(crate) states: BTreeMap<u8, u64>,
    pub(crate) retries: u64,
    /// What a fault has struck.
    pub(crate) struck: HashSet<OperationKind>,
}

/// The holders of an image that nobody has open: the file system and us.
const HOLDERS: usize = 2;

impl Watch {
    pub(crate) fn new(host: &Host) -> Watch {
        Watch {
            state: host.disk.status().state(),
            asked: host.faults.seen(),
            bytes: 0,
            image: host.files.get("/image0").unwrap(),
            states: BTreeMap::new(),
            retries: 0,
            struck: HashSet::new(),
        }
    }

    pub(crate) fn look(&mut self, host: &Host) {
        use DiskState::*;
        let status = host.disk.status();
        let (before, now) = (self.state, status.state());
        if before != now {
            *self.states.entry(now as u8).or_default() += 1;
        }
        self.struck.extend([&host.faults, &host.open_faults].into_iter().filter_map(FaultScript::last_struck));
        let is_at_rest = matches!(now, Attached | Paused | ResumeFailed | Quiesced | Closed);
        if is_at_rest {
            assert_eq!(status.in_flight(), 0, "{now:?}: something runs");
        }
        if is_at_rest && now == before {
            assert_eq!(host.faults.seen(), self.asked, "{now:?}: storage was asked for something");
        }
        if is_at_rest && now != Quiesced {
            assert_eq!(Arc::strong_count(&self.image), HOLDERS, "{now:?}: the image is open");
            assert!(status.layers().is_empty());
        }
        if matches!(now, Running | Quiesced | Growing | Quiescing) {
            assert!(Arc::strong_count(&self.image) > HOLDERS, "{now:?}: the image is closed");
        }
        self.check_name(host);
        let bytes = status.geometry().map_or(0, |geometry| geometry.bytes());
        assert!(bytes >= self.bytes, "the disk has shrunk from {} to {bytes}", self.bytes);
        let has_reason = !matches!(now, ResumeFailed | Stuck) || status.trouble().is_some();
        assert!(has_reason, "{now:?}, and nobody knows why");
        (self.state, self.asked, self.bytes) = (now, host.faults.seen(), bytes);
    }

    /// The image that is shown is the one that is open. (It may have got another name since.)
    fn check_name(&self, host: &Host) {
        let status = host.disk.status();
        let Some(image) = status.image() else { return };
        let named = host.files.get(&image.path);
        if matches!(
            status.state(),
            DiskState::Running | DiskState::Quiesced | DiskState::Quiescing | DiskState::Growing
        ) {
            let is_open = named.is_none_or(|named| Arc::ptr_eq(&named, &self.image));
            assert!(is_open, "{:?}: {image} is shown, and another image is open", status.state());
        }
    }

    /// The disk is closed, and everybody has said what he had to say.
    pub(crate) fn check_end(&mut self, host: &Host, queues: usize) {
        let status = host.disk.status();
        assert_eq!((status.waiting(), status.held()), (0, 0), "requests wait, and nobody for them");
        assert_eq!(status.queues().len(), queues, "queues that have died are not counted");
        let totals = status.totals();
        let completed: u64 = virtual_disk::RequestKind::ALL.iter().map(|kind| totals.count(*kind).completed).sum();
        assert!(completed <= totals.requests(), "more was answered than was asked");
        self.retries = totals.retries;
    }
}
