//! What can be asked. Each command answers with the variant of [`ResultOf`](super::ResultOf) that has its name.

use serde::{Deserialize, Serialize};

use super::{ConnectRing, Version};

/// A command and what it needs. In JSON an object with one member: the command's name, and its arguments as an object.
#[derive(Clone, Debug, PartialEq, Serialize, Deserialize)]
#[serde(rename_all = "snake_case", deny_unknown_fields)]
pub enum Command {
    /// Every disk in a few words. Answered at once, whatever hangs.
    List {},
    /// Everything that is counted, of one disk or of all. Answered at once, whatever hangs.
    Stats {
        /// All if absent.
        #[serde(default)]
        minor: Option<u16>,
    },
    /// Makes a slot for a minor that was allocated.
    Attach {
        /// Which.
        minor: u16,
    },
    /// Removes a slot that has nothing open. With the last one the process ends.
    Detach {
        /// Which.
        minor: u16,
    },
    /// Opens images and serves them.
    Open(OpenImages),
    /// Drains, flushes and closes every file; requests are held.
    Pause {
        /// Which.
        minor: u16,
        /// Gives up after this time, and the disk runs on.
        #[serde(default)]
        deadline_ms: Option<u64>,
    },
    /// Undoes `pause` and `quiesce`.
    Resume {
        /// Which.
        minor: u16,
        /// Other images than before, `type:path`.
        #[serde(default)]
        image: Option<String>,
    },
    /// Drains, flushes and lets others write to the images, keeping them open; requests are held.
    Quiesce {
        /// Which.
        minor: u16,
        /// Gives up after this time, and the disk runs on.
        #[serde(default)]
        deadline_ms: Option<u64>,
    },
    /// Drains, flushes and closes everything; clients are cut off.
    Close {
        /// Which.
        minor: u16,
        /// Waits for nothing that cannot end.
        #[serde(default)]
        force: bool,
        /// Closes by force when so much time has passed.
        #[serde(default)]
        deadline_ms: Option<u64>,
    },
    /// Takes over the size of an image that has grown, or makes it grow.
    Grow(Grow),
    /// Replaces the limits of a disk.
    Limit {
        /// Which.
        minor: u16,
        /// All of them: what is absent is unlimited.
        limits: Limits,
    },
    /// Makes a disk share the budget of a `td-rated`, or no longer.
    Budget {
        /// Which.
        minor: u16,
        /// The socket of the service; absent: no shared budget.
        #[serde(default)]
        valve: Option<String>,
    },
    /// Replaces the rules by which storage fails, of a disk that was opened with `faults`.
    Faults(Faults),
    /// The jobs that run or wait, and the last that have ended. Answered at once, whatever hangs.
    Jobs {},
    /// Reports on a job as if it had been asked for here: its progress, and then its result.
    Watch {
        /// Its number.
        job: u64,
    },
    /// Turns a job back, where that is possible: the disk is then as before.
    Cancel {
        /// Its number.
        job: u64,
    },
    /// Serves the rings of a guest's device. Asked again with the same parameters, it says the same.
    ConnectRing(ConnectRing),
    /// Takes no more requests of a guest's device, answers those that were taken, and gives its pages back. Says so, too,
    /// when it is not connected.
    DisconnectRing {
        /// Which disk.
        minor: u16,
        /// The guest.
        domain: u16,
        /// Its device.
        device: u32,
        /// Then the pages are given back whatever storage still holds, and what it holds is not answered any more.
        #[serde(default)]
        deadline_ms: Option<u64>,
        /// The guest has been told that it has no such device: it may use its pages for something else already. None of
        /// their content is read or written any more. Understood since version 5.
        #[serde(default, skip_serializing_if = "std::ops::Not::not")]
        is_removed: bool,
    },
    /// Answers what a guest's device has asked, and does nothing more for it until it asks again; all is durable then, and
    /// the last writer has given up write access. For guests that stand still, and may go on.
    SettleRing {
        /// Which disk.
        minor: u16,
        /// The guest.
        domain: u16,
        /// Its device.
        device: u32,
    },
    /// Tells what happens to a guest's device until it is disconnected.
    WatchRing {
        /// Which disk.
        minor: u16,
        /// The guest.
        domain: u16,
        /// Its device.
        device: u32,
    },
    /// Answers everything that a guest has asked of a tapdisk that has gone, and asks from now on, with errors; ends when
    /// what was there is answered. Where its rings are, their records say. The rings are let go of when the connection ends,
    /// and with the last of them the process ends, unless it has disks.
    FailRing {
        /// The guest.
        domain: u16,
        /// Its device.
        device: u32,
    },
    /// What the event loops have done last, and what they wait for. Answered at once, whatever hangs.
    Dump {},
}

impl Command {
    /// The same, for a tapdisk that speaks no newer version of the protocol: without what it would refuse and can be done
    /// without.
    #[must_use]
    pub fn for_version(mut self, version: u32) -> Command {
        if let Command::DisconnectRing { is_removed, .. } = &mut self {
            *is_removed &= version >= Version::V5.number();
        }
        self
    }

    /// Its name in messages.
    pub const fn name(&self) -> &'static str {
        match self {
            Command::List {} => "list",
            Command::Stats { .. } => "stats",
            Command::Attach { .. } => "attach",
            Command::Detach { .. } => "detach",
            Command::Open(_) => "open",
            Command::Pause { .. } => "pause",
            Command::Resume { .. } => "resume",
            Command::Quiesce { .. } => "quiesce",
            Command::Close { .. } => "close",
            Command::Grow(_) => "grow",
            Command::Limit { .. } => "limit",
            Command::Budget { .. } => "budget",
            Command::Faults(_) => "faults",
            Command::Jobs {} => "jobs",
            Command::Watch { .. } => "watch",
            Command::Cancel { .. } => "cancel",
            Command::ConnectRing(_) => "connect_ring",
            Command::DisconnectRing { .. } => "disconnect_ring",
            Command::SettleRing { .. } => "settle_ring",
            Command::WatchRing { .. } => "watch_ring",
            Command::FailRing { .. } => "fail_ring",
            Command::Dump {} => "dump",
        }
    }
}

/// What to open, and how. Only `minor` and `image` must be there.
#[derive(Clone, Debug, Default, PartialEq, Serialize, Deserialize)]
#[serde(deny_unknown_fields)]
pub struct OpenImages {
    /// Which slot.
    pub minor: u16,
    /// `type:path` of the leaf.
    pub image: String,
    /// Changes are refused.
    #[serde(default)]
    pub read_only: bool,
    /// Several disks write to the image: nobody locks it.
    #[serde(default)]
    pub shared: bool,
    /// Write access, with the writer's lock, is taken when the first ring is connected for writing or the first client
    /// writes, and given up when the last of them has gone. Until then the images are read as they were when they were
    /// opened, whoever writes them.
    #[serde(default)]
    pub late: bool,
    /// Go through the page cache.
    #[serde(default)]
    pub buffered: bool,
    /// How long a request is tried again when it failed with what may pass; 120 if absent or 0.
    #[serde(default)]
    pub request_timeout_seconds: Option<u64>,
    /// Whether EIO and ETIMEDOUT may pass on files and block devices, too (as under multipath); the default is what the
    /// process was started with.
    #[serde(default)]
    pub retry_eio: Option<bool>,
    /// After how long a request that has not ended is reported; 10 if absent or 0.
    #[serde(default)]
    pub stuck_after_seconds: Option<u64>,
    /// How many threads may serve the disk, 1 to 64; by default as many as there are processors, at most 4.
    #[serde(default)]
    pub queues: Option<u16>,
    /// None if absent.
    #[serde(default)]
    pub limits: Option<Limits>,
    /// Storage fails by these rules; `faults` may change them later. No rules (an empty text) is not the same as absent.
    #[serde(default)]
    pub faults: Option<String>,
}

/// How large a disk becomes.
#[derive(Clone, Debug, Default, PartialEq, Serialize, Deserialize)]
#[serde(deny_unknown_fields)]
pub struct Grow {
    /// Which.
    pub minor: u16,
    /// Makes the image this large first; absent: takes over the size that it has.
    #[serde(default)]
    pub bytes: Option<u64>,
}

/// How storage fails.
#[derive(Clone, Debug, Default, PartialEq, Serialize, Deserialize)]
#[serde(deny_unknown_fields)]
pub struct Faults {
    /// Which disk.
    pub minor: u16,
    /// The rules, all of them: nothing fails any more by an empty text.
    pub rules: String,
}

/// How much a disk may do. A request must keep all that apply to it; reads and writes are also counted together.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq, Serialize, Deserialize)]
#[serde(deny_unknown_fields)]
pub struct Limits {
    /// Reads and writes together.
    #[serde(default)]
    pub total: Limit,
    /// Reads.
    #[serde(default)]
    pub read: Limit,
    /// Writes.
    #[serde(default)]
    pub write: Limit,
}

/// One limit: of requests, of bytes, of both, or of neither.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq, Serialize, Deserialize)]
#[serde(deny_unknown_fields)]
pub struct Limit {
    /// Requests; unlimited if absent.
    #[serde(default)]
    pub requests: Option<Rate>,
    /// Bytes; unlimited if absent.
    #[serde(default)]
    pub bytes: Option<Rate>,
}

/// So much each second.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq, Serialize, Deserialize)]
#[serde(deny_unknown_fields)]
pub struct Rate {
    /// For each second, on average.
    pub per_second: u64,
    /// How much may be saved up while less is used; what a tapdisk thinks right if absent.
    #[serde(default)]
    pub burst: Option<u64>,
}
