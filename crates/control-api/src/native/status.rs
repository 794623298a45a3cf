//! What a tapdisk tells about its disks. All of it is read from what the disks publish, never asked of them.
//!
//! Names end in their unit: `_us` microseconds, `_ms` milliseconds, `bytes`. Times of day are milliseconds since 1970,
//! UTC. Counters only grow, also over pause and close, from attaching to detaching.

use std::collections::BTreeMap;

use serde::{Deserialize, Serialize};

use super::{Limits, RingPages, RingStatistics};

/// Where a disk is in its life.
#[derive(Clone, Copy, Debug, PartialEq, Eq, Hash, Serialize, Deserialize)]
#[serde(rename_all = "snake_case")]
pub enum State {
    /// It has no images yet.
    Attached,
    /// Images are being opened.
    Opening,
    /// It serves.
    Running,
    /// It comes to rest, and its images will be closed.
    Pausing,
    /// Its images are closed, requests are held.
    Paused,
    /// It comes to rest, and its images stay open.
    Quiescing,
    /// Its images are open, requests are held.
    Quiesced,
    /// Images are being opened again.
    Resuming,
    /// As paused, and the last attempt to resume it failed.
    ResumeFailed,
    /// It gets another size; requests are held.
    Growing,
    /// Write access is being taken or given up; requests are held.
    Switching,
    /// Images are being closed for good.
    Closing,
    /// It was closed by force, and storage has not let go yet.
    Stuck,
    /// It has no images any more.
    Closed,
}

/// Whether a disk may change its images.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq, Hash, Serialize, Deserialize)]
#[serde(rename_all = "snake_case")]
pub enum WriteAccess {
    /// No: it is closed, at rest, or only to be read.
    #[default]
    None,
    /// Not yet, or not any more: it comes with the next writer.
    Later,
    /// Yes.
    Held,
}

/// A disk in a few words.
#[derive(Clone, Debug, PartialEq, Serialize, Deserialize)]
pub struct DiskSummary {
    /// Its number on this host.
    pub minor: u16,
    /// `type:path` as it was given; none if nothing is open.
    pub image: Option<String>,
    /// Where it is in its life.
    pub state: State,
    /// What is being done or waited for, for people; none in a state that lasts.
    pub step: Option<String>,
    /// What went wrong, if something did.
    pub trouble: Option<String>,
    /// Its size and shape, when it is or was open.
    pub geometry: Option<Geometry>,
    /// Whether others write to its images, too.
    pub shared: bool,
    /// Whether it may change its images. Not told by those before version 3.
    #[serde(default)]
    pub write_access: WriteAccess,
    /// Whether the page cache is used.
    pub buffered: bool,
    /// Where it is served over NBD, while it is open.
    pub nbd: Option<String>,
    /// Requests that are being carried out.
    pub in_flight: u64,
    /// Requests that wait for their next attempt.
    pub waiting: u64,
    /// The job that is being done to it.
    pub job: Option<u64>,
    /// Guests' devices that are connected to it.
    #[serde(default)]
    pub rings: Vec<RingStatistics>,
    /// Pages of all guests that are or were connected to it, since it was attached.
    #[serde(default)]
    pub ring_pages: RingPages,
}

/// Size and shape of a disk.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq, Serialize, Deserialize)]
pub struct Geometry {
    /// Its size.
    pub bytes: u64,
    /// The smallest unit that storage moves.
    pub logical_block_bytes: u32,
    /// The unit that storage likes.
    pub physical_block_bytes: u32,
    /// Whether changes are refused.
    pub read_only: bool,
}

/// Everything that is counted of one disk.
#[derive(Clone, Debug, PartialEq, Serialize, Deserialize)]
pub struct DiskStatistics {
    /// The disk.
    #[serde(flatten)]
    pub disk: DiskSummary,
    /// Its images, leaf first; none while they are closed.
    pub chain: Vec<Layer>,
    /// The threads that serve it.
    pub queues: Vec<QueueStatistics>,
    /// By kind of request: `read`, `write`, `flush`, `discard`, `write-zeroes`, `cache`, `extents`.
    pub requests: BTreeMap<String, RequestCount>,
    /// How long requests took: `read`, `write`, `flush`, `other`.
    pub latency: BTreeMap<String, Latency>,
    /// Requests that failed in the end.
    pub errors: Vec<ErrorCount>,
    /// Why requests failed, each cause once.
    pub failures: Vec<FailureCause>,
    /// Attempts beyond the first of any request.
    pub retries: u64,
    /// Requests that have not ended, oldest first, up to a bound.
    pub running: Vec<InFlightRequest>,
    /// Requests that took so long that they were reported.
    pub stuck: u64,
    /// What is limited.
    pub limits: Limits,
    /// What limits have cost.
    pub throttled: Throttled,
    /// The socket of the service whose budget it shares.
    pub valve: Option<String>,
    /// How often it got another size.
    pub resized: u64,
}

/// One image of a chain.
#[derive(Clone, Debug, PartialEq, Serialize, Deserialize)]
pub struct Layer {
    /// Its path.
    pub path: String,
    /// Its format.
    pub format: String,
    /// Sectors read from it.
    pub read_sectors: u64,
    /// Sectors written to it.
    pub write_sectors: u64,
    /// Reads of it that failed.
    pub read_errors: u64,
    /// Writes to it that failed.
    pub write_errors: u64,
}

/// One thread that serves a disk.
#[derive(Clone, Debug, Default, PartialEq, Eq, Serialize, Deserialize)]
pub struct QueueStatistics {
    /// Its number; 0 is the disk's home.
    pub queue: u16,
    /// Requests that are being carried out.
    pub in_flight: u64,
    /// Requests that wait for their next attempt.
    pub waiting: u64,
    /// Requests that wait for a limit.
    pub throttled: u64,
    /// Requests that were taken.
    pub requests: u64,
    /// How often clients' requests were fetched, several at a time if they came together.
    pub kicks_in: u64,
    /// How often answers were handed out, several at a time.
    pub kicks_out: u64,
}

/// How much of one kind was done.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq, Serialize, Deserialize)]
pub struct RequestCount {
    /// Requests that came, refused ones included.
    pub requests: u64,
    /// Requests that ended.
    pub completed: u64,
    /// Requests that ended with an error.
    pub errors: u64,
    /// Sectors that they touched, counted when they came.
    pub sectors: u64,
    /// Time between coming and beginning, all together.
    pub queued_us: u64,
    /// Time between beginning and end, all together.
    pub served_us: u64,
}

/// How long requests took.
#[derive(Clone, Debug, Default, PartialEq, Eq, Serialize, Deserialize)]
pub struct Latency {
    /// From coming to beginning.
    pub queued: Histogram,
    /// From beginning to end.
    pub served: Histogram,
}

/// Durations, sorted into buckets.
#[derive(Clone, Debug, Default, PartialEq, Eq, Serialize, Deserialize)]
pub struct Histogram {
    /// How many.
    pub count: u64,
    /// All together.
    pub sum_us: u64,
    /// The longest, exactly.
    pub max_us: u64,
    /// Half of them took no longer, to the precision of the buckets.
    pub p50_us: u64,
    /// 90 of 100 took no longer.
    pub p90_us: u64,
    /// 99 of 100 took no longer.
    pub p99_us: u64,
    /// 999 of 1000 took no longer.
    pub p999_us: u64,
    /// Those that have something in them, ascending.
    pub buckets: Vec<Bucket>,
}

/// One bucket of a histogram.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq, Serialize, Deserialize)]
pub struct Bucket {
    /// The longest duration that it holds.
    pub to_us: u64,
    /// How many it holds, shorter buckets not included.
    pub count: u64,
}

/// Requests that failed with one number.
#[derive(Clone, Debug, Default, PartialEq, Eq, Serialize, Deserialize)]
pub struct ErrorCount {
    /// The number, of Linux.
    pub errno: i32,
    /// Its name.
    pub name: String,
    /// How many.
    pub count: u64,
}

/// One cause of failures.
#[derive(Clone, Debug, Default, PartialEq, Eq, Serialize, Deserialize)]
pub struct FailureCause {
    /// The number, of Linux.
    pub errno: i32,
    /// The kind of request.
    pub kind: String,
    /// Which storage failed; none: the request never reached storage.
    pub place: Option<String>,
    /// The last of these failures, in words.
    pub reason: String,
    /// When it was first seen.
    pub first_ms: u64,
    /// When it was last seen.
    pub last_ms: u64,
    /// How often.
    pub count: u64,
}

/// What a request that has not ended does.
#[derive(Clone, Copy, Debug, PartialEq, Eq, Serialize, Deserialize)]
#[serde(rename_all = "snake_case")]
pub enum RequestPhase {
    /// It is being carried out.
    Running,
    /// It waits for its next attempt.
    Waiting,
}

/// A request that has not ended.
#[derive(Clone, Debug, PartialEq, Serialize, Deserialize)]
pub struct InFlightRequest {
    /// The queue that took it.
    pub queue: u16,
    /// Its kind.
    pub kind: String,
    /// Where it begins, in bytes; 0 for requests without a range.
    pub offset: u64,
    /// How long it is, in bytes.
    pub length: u64,
    /// For how long it has been carried out in this attempt, or waits for the next.
    pub age_us: u64,
    /// What it does.
    pub phase: RequestPhase,
    /// How many attempts have begun.
    pub attempts: u32,
}

/// What limits have cost.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq, Serialize, Deserialize)]
pub struct Throttled {
    /// Requests that had to wait for a limit.
    pub requests: u64,
    /// How long, all together.
    pub waited_us: u64,
}

/// Where a job is in its life.
#[derive(Clone, Copy, Debug, PartialEq, Eq, Serialize, Deserialize)]
#[serde(rename_all = "snake_case")]
pub enum JobState {
    /// Others are done to the same disk first.
    Waiting,
    /// It is being done.
    Running,
    /// It has ended.
    Ended,
}

/// What is counted of the process.
#[derive(Clone, Debug, Default, PartialEq, Eq, Serialize, Deserialize)]
pub struct ProcessStatistics {
    /// Its process id, in its own namespace.
    pub pid: u32,
    /// Since it was ready.
    pub uptime_ms: u64,
    /// How it does I/O: the name of the engine that was chosen at the start.
    pub engine: String,
    /// What became of the lines of its log.
    pub log: LogStatistics,
}

/// What became of lines of the log: all are either delivered or dropped, or wait.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq, Serialize, Deserialize)]
pub struct LogStatistics {
    /// Lines that were to be logged.
    pub produced: u64,
    /// Lines that are in the file.
    pub written: u64,
    /// Lines that never reached the file.
    pub lost: u64,
    /// Lines that the host's log has taken.
    pub sent: u64,
    /// Lines that the host's log did not take in time.
    pub dropped: u64,
}
