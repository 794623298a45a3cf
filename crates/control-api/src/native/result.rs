//! What a command gives.

use serde::{Deserialize, Serialize};

use super::{
    DiskStatistics, DiskSummary, Failure, Geometry, JobState, Limits, ProcessStatistics, RingConnected,
    RingDisconnected, RingFailed, RingSettled,
};

/// What a command gave. In JSON an object with one member, which has the command's name.
#[derive(Clone, Debug, PartialEq, Serialize, Deserialize)]
#[serde(rename_all = "snake_case")]
pub enum ResultOf {
    /// Of `list`.
    List(Disks),
    /// Of `stats`.
    Stats(Statistics),
    /// Of `attach`.
    Attach(Done),
    /// Of `detach`.
    Detach(Done),
    /// Of `open`.
    Open(Opened),
    /// Of `pause`.
    Pause(Quiet),
    /// Of `resume`.
    Resume(Opened),
    /// Of `quiesce`.
    Quiesce(Quiet),
    /// Of `close`.
    Close(Done),
    /// Of `grow`.
    Grow(Resized),
    /// Of `limit`.
    Limit(LimitsInForce),
    /// Of `budget`.
    Budget(Done),
    /// Of `faults`.
    Faults(Done),
    /// Of `jobs`.
    Jobs(JobList),
    /// Of `cancel`.
    Cancel(Cancelled),
    /// Of `connect_ring`.
    ConnectRing(RingConnected),
    /// Of `disconnect_ring`.
    DisconnectRing(RingDisconnected),
    /// Of `settle_ring`.
    SettleRing(RingSettled),
    /// Of `watch_ring`: it is not connected any more.
    WatchRing(Done),
    /// Of `fail_ring`.
    FailRing(RingFailed),
    /// Of `dump`.
    Dump(Dump),
}

/// It was done, and that is all.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq, Serialize, Deserialize)]
pub struct Done {}

/// Every disk of a process.
#[derive(Clone, Debug, Default, PartialEq, Serialize, Deserialize)]
pub struct Disks {
    /// In the order of their attachment.
    pub disks: Vec<DiskSummary>,
}

/// Everything that is counted.
#[derive(Clone, Debug, PartialEq, Serialize, Deserialize)]
pub struct Statistics {
    /// Of the process.
    pub process: ProcessStatistics,
    /// Of the disks that were asked for.
    pub disks: Vec<DiskStatistics>,
}

/// Images were opened.
#[derive(Clone, Copy, Debug, PartialEq, Eq, Serialize, Deserialize)]
pub struct Opened {
    /// What the disk is like now.
    pub geometry: Geometry,
}

/// A disk came to rest.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq, Serialize, Deserialize)]
pub struct Quiet {
    /// Requests that had to end first.
    pub requests: u64,
    /// How long that took.
    pub drained_us: u64,
    /// How long making it all durable took.
    pub flushed_us: u64,
}

/// A disk has perhaps another size.
#[derive(Clone, Copy, Debug, PartialEq, Eq, Serialize, Deserialize)]
pub struct Resized {
    /// Its size before.
    pub before_bytes: u64,
    /// What the disk is like now.
    pub geometry: Geometry,
}

/// What is limited now.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq, Serialize, Deserialize)]
pub struct LimitsInForce {
    /// With the bursts that were chosen.
    pub limits: Limits,
}

/// Jobs, by number.
#[derive(Clone, Debug, Default, PartialEq, Serialize, Deserialize)]
pub struct JobList {
    /// Those that have ended are forgotten after a while.
    pub jobs: Vec<JobStatus>,
}

/// A job.
#[derive(Clone, Debug, PartialEq, Serialize, Deserialize)]
pub struct JobStatus {
    /// Its number.
    pub job: u64,
    /// The disk.
    pub minor: u16,
    /// The name of the command.
    pub command: String,
    /// Whether it has begun or ended.
    pub state: JobState,
    /// What it does or waits for, for people.
    pub step: String,
    /// Since it was asked for.
    pub age_ms: u64,
    /// How it ended, if it has.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub outcome: Option<OutcomeOfJob>,
}

/// How a job ended.
#[derive(Clone, Debug, PartialEq, Serialize, Deserialize)]
#[serde(rename_all = "snake_case")]
pub enum OutcomeOfJob {
    /// It was done.
    Result(Box<ResultOf>),
    /// It was not.
    Error(Failure),
}

/// Whether a job was turned back.
#[derive(Clone, Copy, Debug, PartialEq, Eq, Serialize, Deserialize)]
pub struct Cancelled {
    /// False: it cannot be turned back any more, or has ended.
    pub cancelled: bool,
}

/// What the process does, in detail.
#[derive(Clone, Debug, Default, PartialEq, Serialize, Deserialize)]
pub struct Dump {
    /// Every event loop.
    pub loops: Vec<LoopDump>,
}

/// One event loop.
#[derive(Clone, Debug, Default, PartialEq, Serialize, Deserialize)]
pub struct LoopDump {
    /// The name of its thread.
    pub thread: String,
    /// The disk that it works for; none for the control thread.
    pub minor: Option<u16>,
    /// The queue; 0 is home.
    pub queue: Option<u16>,
    /// How long its last turn is ago, or has lasted until now.
    pub idle_us: u64,
    /// Its last turns, oldest first.
    pub turns: Vec<LoopTurn>,
    /// What it has under way in the kernel and with its helpers, oldest first.
    pub operations: Vec<RunningOperation>,
}

/// One turn of an event loop.
#[derive(Clone, Debug, Default, PartialEq, Serialize, Deserialize)]
pub struct LoopTurn {
    /// Between the turn before and this one.
    pub slept_us: u64,
    /// How long it took.
    pub lasted_us: u64,
    /// What woke it.
    pub woken_by: String,
    /// Tasks that ran in it.
    pub tasks: u64,
}

/// Something that storage has under way.
#[derive(Clone, Debug, Default, PartialEq, Serialize, Deserialize)]
pub struct RunningOperation {
    /// In words, with the path.
    pub what: String,
    /// For how long.
    pub age_us: u64,
}
