//! What can be done to a disk: both protocols are read into these words.

use std::{fmt, sync::Arc, time::Duration};

use block_core::Result;
use control_api::protocol::Text;
use image_chain::DiskKey;
use virtual_disk::{Geometry, Limits, Quiet, RetryPolicy, Settings};

use crate::rings::{Connected, Device, Disconnected, Parting, RingName};

/// What can be done to a disk.
#[derive(Clone, Debug)]
pub(crate) enum Job {
    /// Open images.
    Open(Box<Open>),
    /// Drain, and close the images; requests are held.
    Pause {
        /// How long that may take before the disk runs on.
        deadline: Option<Duration>,
    },
    /// Open the images again, or others.
    Resume(Option<Name>),
    /// Drain, and let others change the images; requests are held.
    Quiesce {
        /// How long that may take before the disk runs on.
        deadline: Option<Duration>,
    },
    /// Take over a larger size, or make the image so large first.
    Grow(Option<u64>),
    /// Drain, and close everything.
    Close {
        /// How long that may take before it is done by force.
        deadline: Option<Duration>,
    },
    /// Close in bounded time, whatever hangs.
    ForceClose,
    /// Serve the rings of a guest's device.
    ConnectRing {
        /// Which, and how.
        device: Box<Device>,
        /// Only if they are served already.
        adopt: bool,
    },
    /// Drain the rings of a guest's device, and let go of them.
    DisconnectRing {
        /// Whose.
        name: RingName,
        /// How.
        parting: Parting,
    },
    /// Do nothing more for a guest's device until its guest asks.
    SettleRing(RingName),
    /// Forget the disk: the thread ends.
    Detach,
}

/// A job without what it was told.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(crate) enum JobKind {
    Open,
    Pause,
    Resume,
    Quiesce,
    Grow,
    Close,
    ForceClose,
    ConnectRing,
    DisconnectRing,
    SettleRing,
    Detach,
}

impl Job {
    pub(crate) fn kind(&self) -> JobKind {
        match self {
            Job::Open(_) => JobKind::Open,
            Job::Pause { .. } => JobKind::Pause,
            Job::Resume(_) => JobKind::Resume,
            Job::Quiesce { .. } => JobKind::Quiesce,
            Job::Grow(_) => JobKind::Grow,
            Job::Close { .. } => JobKind::Close,
            Job::ForceClose => JobKind::ForceClose,
            Job::ConnectRing { .. } => JobKind::ConnectRing,
            Job::DisconnectRing { .. } => JobKind::DisconnectRing,
            Job::SettleRing(_) => JobKind::SettleRing,
            Job::Detach => JobKind::Detach,
        }
    }

    /// The device that it connects.
    pub(crate) fn connects(&self) -> Option<RingName> {
        match self {
            Job::ConnectRing { device, .. } => Some(device.name),
            _ => None,
        }
    }

    /// How long it may take, waiting for its turn included.
    pub(crate) fn deadline(&self) -> Option<Duration> {
        match self {
            Job::Pause { deadline } | Job::Quiesce { deadline } | Job::Close { deadline } => *deadline,
            Job::DisconnectRing { parting, .. } => parting.deadline,
            _ => None,
        }
    }

    /// The same with another deadline, if it can have one.
    pub(crate) fn with_deadline(mut self, new: Option<Duration>) -> Job {
        if let Job::Pause { deadline } | Job::Quiesce { deadline } | Job::Close { deadline } = &mut self {
            *deadline = new;
        }
        self
    }
}

impl JobKind {
    /// Whether it is done when those before it have been; what must be possible while others hang does not wait.
    pub(crate) fn waits_for_its_turn(self) -> bool {
        !matches!(self, JobKind::ForceClose | JobKind::DisconnectRing | JobKind::SettleRing)
    }

    /// Its name in logs.
    pub(crate) fn name(self) -> &'static str {
        match self {
            JobKind::ForceClose => "close by force",
            other => other.command(),
        }
    }

    /// The name of the command that asks for it.
    pub(crate) fn command(self) -> &'static str {
        match self {
            JobKind::Open => "open",
            JobKind::Pause => "pause",
            JobKind::Resume => "resume",
            JobKind::Quiesce => "quiesce",
            JobKind::Grow => "grow",
            JobKind::Close | JobKind::ForceClose => "close",
            JobKind::ConnectRing => "connect_ring",
            JobKind::DisconnectRing => "disconnect_ring",
            JobKind::SettleRing => "settle_ring",
            JobKind::Detach => "detach",
        }
    }
}

/// `type:path` as it was given: bytes, since a path need not be text.
#[derive(Clone, Debug, Default, PartialEq, Eq)]
pub(crate) struct Name(Vec<u8>);

impl Name {
    pub(crate) fn as_bytes(&self) -> &[u8] {
        &self.0
    }

    pub(crate) fn is_empty(&self) -> bool {
        self.0.is_empty()
    }
}

impl From<Text> for Name {
    fn from(text: Text) -> Name {
        Name(text.into_bytes())
    }
}

impl From<String> for Name {
    fn from(text: String) -> Name {
        Name(text.into_bytes())
    }
}

impl fmt::Display for Name {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.write_str(&String::from_utf8_lossy(&self.0))
    }
}

/// What to open, and how.
#[derive(Clone, Debug, Default)]
pub(crate) struct Open {
    pub(crate) name: Name,
    pub(crate) is_read_only: bool,
    /// Several disks write to the image: nobody locks it.
    pub(crate) is_shared: bool,
    /// Write access comes with the first writer.
    pub(crate) is_late: bool,
    /// Go through the page cache.
    pub(crate) is_buffered: bool,
    /// What the images are encrypted with.
    pub(crate) key: Option<Arc<DiskKey>>,
    /// How long a request is tried again; none: as usual.
    pub(crate) timeout: Option<Duration>,
    /// Whether EIO may pass on local storage, too; none: as the process was told.
    pub(crate) retry_eio: Option<bool>,
    /// After how long a request is reported that has not ended; none: as usual.
    pub(crate) stuck_after: Option<Duration>,
    /// How many threads may serve the disk; none: as many as is usual here.
    pub(crate) queues: Option<u16>,
    /// None: as they are.
    pub(crate) limits: Option<Limits>,
    /// Rules by which storage fails.
    pub(crate) faults: Option<String>,
}

impl Open {
    /// How requests are treated; `retry_eio` where nothing is said about it.
    pub(crate) fn settings(&self, retry_eio: bool) -> Settings {
        let usual = Settings::default();
        let deadline = self.timeout.unwrap_or(usual.retry.deadline);
        let retry = RetryPolicy { deadline, retry_eio: self.retry_eio.unwrap_or(retry_eio) };
        Settings { retry, stuck_after: self.stuck_after.unwrap_or(usual.stuck_after) }
    }
}

/// What a job gives when it was done.
#[derive(Clone, Debug, PartialEq, Eq)]
pub(crate) enum Gave {
    /// Nothing but its end.
    Nothing,
    /// Images are open.
    Opened(Geometry),
    /// The disk is at rest.
    Quiet(Quiet),
    /// The disk has another size, perhaps; the size before in bytes.
    Resized(u64, Geometry),
    /// A guest is served.
    RingConnected(Connected),
    /// A guest is served no more.
    RingDisconnected(Disconnected),
    /// Nothing is done for a guest until it asks.
    RingSettled {
        /// Whether its device is connected at all.
        was_connected: bool,
        /// Why what it was answered is not all durable, if it is not.
        not_durable: Option<String>,
    },
}

/// How a job ended.
pub(crate) type Done = Result<Gave>;
