//! What disks and jobs publish, in the protocol's words.

use std::time::{Duration, SystemTime, UNIX_EPOCH};

use block_core::{Error, Result};
use control_api::{
    Minor, errno_of,
    native::{
        self, Bucket, DiskStatistics, DiskSummary, Done, Dump, ErrorCount, FailureCause, Histogram, InFlightRequest,
        JobState, JobStatus, Latency, Layer, LogStatistics, LoopDump, LoopTurn, Opened, OutcomeOfJob,
        ProcessStatistics, Progress, QueueStatistics, RequestCount, RequestPhase, Resized, ResultOf, RingSettled,
        RunningOperation, State, Throttled,
    },
    symbol,
};
use image_chain::LayerStatus;
use image_format::ImageKind;
use storage_io::{Moment, Turn};
use virtual_disk::{
    Count, DiskState, FailureCount, Geometry, Latencies, LatencyClass, QueueStatus, Quiet, RequestKind, RunningRequest,
    Status, Totals, WriteAccess,
};

use super::{limits, rings, session::failure};
use crate::{
    control::Control,
    home::{self, Gave, JobKind},
    jobs::JobRecord,
    log::{Cause, Counted, Counters},
    loops::{LoopState, Purpose},
    slot::Slot,
};

/// Requests that are named; more of them tell no more.
const RUNNING_TOLD_MAX: usize = 256;

/// A disk in a few words.
pub(super) fn summary(control: &Control, slot: &Slot) -> DiskSummary {
    let minor = slot.minor();
    let status = slot.status();
    let is_open = !slot.name().is_empty();
    let words = |error: Error| error.to_string();
    DiskSummary {
        minor: minor.number(),
        image: Some(slot.name().to_string()).filter(|_| is_open),
        state: slot.life(),
        step: status.and_then(Status::step).map(str::to_owned),
        trouble: status.and_then(Status::trouble).map(words),
        geometry: status.and_then(Status::geometry).map(geometry),
        shared: slot.is_shared(),
        write_access: status.map(Status::write_access).map(write_access).unwrap_or_default(),
        buffered: slot.is_buffered(),
        nbd: is_open.then(|| control.run.nbd_socket(control.pid, minor).display().to_string()),
        in_flight: status.map_or(0, Status::in_flight),
        waiting: status.map_or(0, Status::waiting),
        job: control.jobs.current(minor),
        ring_pages: rings::all_pages(slot),
        rings: slot.rings().0.iter().map(|device| rings::statistics(device)).collect(),
    }
}

/// Everything that is counted of a disk.
pub(super) fn statistics(control: &Control, slot: &Slot) -> DiskStatistics {
    let now = control.now();
    let status = slot.status();
    let totals = status.map(Status::totals).unwrap_or_default();
    let (requests, latency) = (RequestKind::ALL.map(|kind| of_kind(&totals, kind)), LatencyClass::ALL);
    let latency = latency.map(|class| of_class(&totals, class));
    DiskStatistics {
        disk: summary(control, slot),
        chain: status.map(Status::layers).unwrap_or_default().into_iter().map(layer).collect(),
        queues: status.map(Status::queues).unwrap_or_default().iter().map(|status| queue(status)).collect(),
        requests: requests.into(),
        latency: latency.into(),
        errors: errors(&status.map(Status::failures).unwrap_or_default()),
        failures: control.log.causes().iter().filter_map(|counted| failure_cause(slot.minor(), counted)).collect(),
        retries: totals.retries,
        running: status.map(|status| running(status, now)).unwrap_or_default(),
        stuck: totals.stuck,
        limits: slot.limiter().map(|limiter| limits::told(&limiter.limits())).unwrap_or_default(),
        throttled: Throttled { requests: totals.throttled, waited_us: totals.throttled_microseconds },
        valve: slot.valve().map(|valve| valve.name.to_string()),
        resized: status.map_or(0, Status::resized),
    }
}

fn write_access(access: WriteAccess) -> native::WriteAccess {
    match access {
        WriteAccess::None => native::WriteAccess::None,
        WriteAccess::Later => native::WriteAccess::Later,
        WriteAccess::Held => native::WriteAccess::Held,
    }
}

fn layer(layer: LayerStatus) -> Layer {
    let LayerStatus { name, kind, hits: [read_sectors, write_sectors], fails: [read_errors, write_errors] } = layer;
    let format = match kind {
        ImageKind::Raw => "raw",
        ImageKind::Vhd => "vhd",
    };
    let (path, format) = (name, format.into());
    Layer { path, format, read_sectors, write_sectors, read_errors, write_errors }
}

fn queue(status: &QueueStatus) -> QueueStatistics {
    QueueStatistics {
        queue: status.number(),
        in_flight: status.in_flight(),
        waiting: status.waiting(),
        throttled: status.held(),
        requests: status.requests(),
        kicks_in: status.kicks_in(),
        kicks_out: status.kicks_out(),
    }
}

fn of_kind(totals: &Totals, kind: RequestKind) -> (String, RequestCount) {
    let Count { requests, completed, sectors, errors, queued_microseconds, served_microseconds } = *totals.count(kind);
    let (queued_us, served_us) = (queued_microseconds, served_microseconds);
    (kind.name().into(), RequestCount { requests, completed, errors, sectors, queued_us, served_us })
}

fn of_class(totals: &Totals, class: LatencyClass) -> (String, Latency) {
    let (queued, served) = (histogram(totals.queued(class)), histogram(totals.served(class)));
    (class.name().into(), Latency { queued, served })
}

fn histogram(latencies: &Latencies) -> Histogram {
    let percentile = |of_a_thousand| microseconds(latencies.percentile(of_a_thousand, 1000));
    let bucket = |(to, count)| Bucket { to_us: microseconds(to), count };
    Histogram {
        count: latencies.count(),
        sum_us: microseconds(latencies.total()),
        max_us: microseconds(latencies.longest()),
        p50_us: percentile(500),
        p90_us: percentile(900),
        p99_us: percentile(990),
        p999_us: percentile(999),
        buckets: latencies.steps().filter(|(_, count)| *count > 0).map(bucket).collect(),
    }
}

/// By number: what we found ourselves has one, too, and may share it with the operating system.
fn errors(failures: &[FailureCount]) -> Vec<ErrorCount> {
    let mut errors: Vec<ErrorCount> = Vec::new();
    for failure in failures {
        let errno = failure.os_error.unwrap_or_else(|| errno_of(failure.kind));
        match errors.iter_mut().find(|known| known.errno == errno) {
            Some(known) => known.count += failure.count,
            None => errors.push(ErrorCount { errno, name: symbol(errno), count: failure.count }),
        }
    }
    errors
}

/// The requests that have not ended, oldest first.
fn running(status: &Status, now: Moment) -> Vec<InFlightRequest> {
    let mut all = Vec::new();
    for queue in &status.queues() {
        let told = |phase| move |request| in_flight(queue.number(), request, phase, now);
        all.extend(queue.in_flight_requests().into_iter().map(told(RequestPhase::Running)));
        all.extend(queue.waiting_requests().into_iter().map(told(RequestPhase::Waiting)));
    }
    all.sort_by_key(|request| std::cmp::Reverse(request.age_us));
    all.truncate(RUNNING_TOLD_MAX);
    all
}

fn in_flight(queue: u16, request: RunningRequest, phase: RequestPhase, now: Moment) -> InFlightRequest {
    InFlightRequest {
        queue,
        kind: request.kind.name().into(),
        offset: request.range.map_or(0, |range| range.start().get()),
        length: request.range.map_or(0, |range| range.length()),
        age_us: microseconds(now - request.since),
        phase,
        attempts: request.attempts,
    }
}

/// A cause of failures, if it is this disk's.
fn failure_cause(minor: Minor, counted: &Counted) -> Option<FailureCause> {
    let Cause { minor: theirs, kind, errno, place } = &counted.cause;
    let since_1970 = |time: SystemTime| milliseconds(time.duration_since(UNIX_EPOCH).unwrap_or_default());
    let cause = || FailureCause {
        errno: *errno,
        kind: kind.name().into(),
        place: place.as_deref().map(str::to_owned),
        reason: counted.reason(),
        first_ms: since_1970(counted.first),
        last_ms: since_1970(counted.last),
        count: counted.failures,
    };
    (*theirs == minor && counted.failures > 0).then(cause)
}

/// What is counted of the process.
pub(super) fn process(control: &Control) -> ProcessStatistics {
    ProcessStatistics {
        pid: control.pid,
        uptime_ms: milliseconds(control.uptime()),
        engine: control.engine_found().to_string(),
        log: log(control.log.counters()),
    }
}

fn log(counters: &Counters) -> LogStatistics {
    LogStatistics {
        produced: counters.produced(),
        written: counters.written(),
        lost: counters.lost(),
        sent: counters.delivered(),
        dropped: counters.dropped(),
    }
}

/// What every event loop does.
pub(super) fn dump(loops: Vec<LoopState>) -> Dump {
    Dump { loops: loops.into_iter().map(event_loop).collect() }
}

fn event_loop(state: LoopState) -> LoopDump {
    let (minor, queue) = match state.purpose {
        Purpose::Control => (None, None),
        Purpose::Queue(minor, queue) => (Some(minor.number()), Some(queue)),
    };
    let operations = state.operations.unwrap_or_default().into_iter();
    LoopDump {
        thread: state.purpose.to_string(),
        minor,
        queue,
        idle_us: microseconds(state.running.unwrap_or(state.idle)),
        turns: state.turns.iter().map(turn).collect(),
        operations: operations
            .map(|running| RunningOperation { what: running.what, age_us: microseconds(running.age) })
            .collect(),
    }
}

fn turn(turn: &Turn) -> LoopTurn {
    LoopTurn {
        slept_us: microseconds(turn.idle),
        lasted_us: microseconds(turn.took),
        woken_by: turn.woken.to_string(),
        tasks: turn.polled.into(),
    }
}

/// How far a job is.
pub(super) fn progress(control: &Control, job: &JobRecord, now: Moment) -> Progress {
    let JobStatus { job: number, minor, command, state, step, age_ms, .. } = self::job(control, job, now);
    let slot = control.find(minor);
    let status = slot.as_ref().and_then(|slot| slot.status());
    let (in_flight, waiting) = (status.map_or(0, Status::in_flight), status.map_or(0, Status::waiting));
    Progress { job: number, minor, command, state, step, age_ms, in_flight, waiting }
}

/// All that is known of a job.
pub(super) fn job(control: &Control, job: &JobRecord, now: Moment) -> JobStatus {
    let slot = control.find(job.minor.number());
    let step = match job.state() {
        JobState::Waiting => Some("waiting for its turn"),
        JobState::Running if matches!(job.kind, JobKind::DisconnectRing | JobKind::SettleRing) => {
            Some("waiting for the guest's requests to end")
        }
        JobState::Running => slot.as_ref().and_then(|slot| slot.status()).and_then(Status::step),
        JobState::Ended => None,
    };
    JobStatus {
        job: job.number,
        minor: job.minor.number(),
        command: job.kind.command().into(),
        state: job.state(),
        step: step.unwrap_or_default().into(),
        age_ms: milliseconds(now - job.asked),
        outcome: job.outcome().map(|done| outcome(job.kind, done)),
    }
}

fn outcome(kind: JobKind, done: home::Done) -> OutcomeOfJob {
    match result_of(kind, done) {
        Ok(result) => OutcomeOfJob::Result(Box::new(result)),
        Err(error) => OutcomeOfJob::Error(failure(&error)),
    }
}

/// The result of a job, as the command that asked for it gets it.
pub(super) fn result_of(kind: JobKind, done: home::Done) -> Result<ResultOf> {
    Ok(match (kind, done?) {
        (JobKind::Open, Gave::Opened(opened)) => ResultOf::Open(Opened { geometry: geometry(opened) }),
        (JobKind::Resume, Gave::Opened(opened)) => ResultOf::Resume(Opened { geometry: geometry(opened) }),
        (JobKind::Pause, Gave::Quiet(quiet)) => ResultOf::Pause(self::quiet(quiet)),
        (JobKind::Quiesce, Gave::Quiet(quiet)) => ResultOf::Quiesce(self::quiet(quiet)),
        (JobKind::Grow, Gave::Resized(before_bytes, now)) => {
            ResultOf::Grow(Resized { before_bytes, geometry: geometry(now) })
        }
        (JobKind::ConnectRing, Gave::RingConnected(connected)) => ResultOf::ConnectRing(rings::connected(&connected)),
        (JobKind::DisconnectRing, Gave::RingDisconnected(ended)) => {
            ResultOf::DisconnectRing(rings::disconnected(ended))
        }
        (JobKind::SettleRing, Gave::RingSettled { was_connected, not_durable }) => {
            ResultOf::SettleRing(RingSettled { connected: was_connected, not_durable })
        }
        (JobKind::Close | JobKind::ForceClose, Gave::Nothing) => ResultOf::Close(Done {}),
        (JobKind::Detach, Gave::Nothing) => ResultOf::Detach(Done {}),
        (kind, gave) => unreachable!("{kind:?} does not give {gave:?}"),
    })
}

fn quiet(Quiet { drained, flushed, requests }: Quiet) -> native::Quiet {
    native::Quiet { requests, drained_us: microseconds(drained), flushed_us: microseconds(flushed) }
}

pub(crate) fn geometry(geometry: Geometry) -> native::Geometry {
    native::Geometry {
        bytes: geometry.bytes(),
        logical_block_bytes: geometry.logical_block_size,
        physical_block_bytes: geometry.physical_block_size,
        read_only: geometry.read_only,
    }
}

fn microseconds(duration: Duration) -> u64 {
    u64::try_from(duration.as_micros()).unwrap_or(u64::MAX)
}

fn milliseconds(duration: Duration) -> u64 {
    u64::try_from(duration.as_millis()).unwrap_or(u64::MAX)
}

/// A disk's state in the protocol's words.
pub(crate) fn state(state: DiskState) -> State {
    match state {
        DiskState::Attached => State::Attached,
        DiskState::Opening => State::Opening,
        DiskState::Running => State::Running,
        DiskState::Pausing => State::Pausing,
        DiskState::Quiescing => State::Quiescing,
        DiskState::Quiesced => State::Quiesced,
        DiskState::Growing => State::Growing,
        DiskState::Switching => State::Switching,
        DiskState::Paused => State::Paused,
        DiskState::Resuming => State::Resuming,
        DiskState::ResumeFailed => State::ResumeFailed,
        DiskState::Closing => State::Closing,
        DiskState::Stuck => State::Stuck,
        DiskState::Closed => State::Closed,
    }
}
