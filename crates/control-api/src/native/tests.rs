//! Every message in full, against lines that were written down when the version was made.
//!
//! A message that changes fails here. What is right then is a new [`Version`] with a file of lines of its own; the old
//! files stay, and what they ask must still be understood.

use super::*;

const GOLDEN: &str = include_str!("golden/v5.jsonl");
/// Lines of older versions.
const OLDER: [&str; 4] = [
    include_str!("golden/v1.jsonl"),
    include_str!("golden/v2.jsonl"),
    include_str!("golden/v3.jsonl"),
    include_str!("golden/v4.jsonl"),
];

fn limits() -> Limits {
    let rate = |per_second, burst| Some(Rate { per_second, burst });
    Limits {
        total: Limit { requests: rate(1000, Some(2000)), bytes: None },
        read: Limit { requests: None, bytes: rate(1 << 20, None) },
        write: Limit::default(),
    }
}

/// One of each. The match is there so that a command that is added is added here, too.
fn commands() -> Vec<Command> {
    let open = OpenImages {
        minor: 4,
        image: "vhd:/a.vhd".into(),
        read_only: true,
        shared: true,
        late: true,
        buffered: true,
        request_timeout_seconds: Some(30),
        retry_eio: Some(true),
        stuck_after_seconds: Some(5),
        queues: Some(2),
        limits: Some(limits()),
        faults: Some("write=EIO".into()),
    };
    let all = vec![
        Command::List {},
        Command::Stats { minor: Some(4) },
        Command::Attach { minor: 4 },
        Command::Detach { minor: 4 },
        Command::Open(open),
        Command::Pause { minor: 4, deadline_ms: Some(5000) },
        Command::Resume { minor: 4, image: Some("vhd:/b.vhd".into()) },
        Command::Quiesce { minor: 4, deadline_ms: None },
        Command::Close { minor: 4, force: true, deadline_ms: Some(1) },
        Command::Grow(Grow { minor: 4, bytes: Some(1 << 30) }),
        Command::Limit { minor: 4, limits: limits() },
        Command::Budget { minor: 4, valve: Some("/run/valve".into()) },
        Command::Faults(Faults { minor: 4, rules: "read@0x1000=hang".into() }),
        Command::Jobs {},
        Command::Watch { job: 7 },
        Command::Cancel { job: 7 },
        Command::ConnectRing(ring()),
        Command::DisconnectRing { minor: 4, domain: 7, device: 51712, deadline_ms: Some(5000), is_removed: true },
        Command::SettleRing { minor: 4, domain: 7, device: 51712 },
        Command::WatchRing { minor: 4, domain: 7, device: 51712 },
        Command::FailRing { domain: 7, device: 51712 },
        Command::Dump {},
    ];
    let is_here = |command: &Command| match command {
        Command::List {} | Command::Stats { .. } | Command::Attach { .. } | Command::Detach { .. } => true,
        Command::Open(_) | Command::Pause { .. } | Command::Resume { .. } | Command::Quiesce { .. } => true,
        Command::Close { .. } | Command::Grow(_) | Command::Limit { .. } | Command::Budget { .. } => true,
        Command::Faults(_) | Command::Jobs {} | Command::Watch { .. } | Command::Cancel { .. } => true,
        Command::ConnectRing(_) | Command::DisconnectRing { .. } | Command::WatchRing { .. } => true,
        Command::SettleRing { .. } | Command::FailRing { .. } | Command::Dump {} => true,
    };
    assert!(all.iter().all(is_here));
    all
}

fn ring() -> ConnectRing {
    let queue = |first: u32, port| RingQueue { pages: (first..first + 4).collect(), port };
    ConnectRing {
        minor: 4,
        domain: 7,
        device: 51712,
        queues: vec![queue(8, 3), queue(12, 4)],
        abi: RingAbi::X86_32,
        persistent: true,
        polling_us: 50,
        indirect_segments: 64,
        read_only: true,
        no_discard: true,
        exclusive: true,
        hold_ms: 500,
        adopt: true,
    }
}

fn ring_counters() -> RingCounters {
    let throttled = Throttled { requests: 1, waited_us: 20 };
    RingCounters { requests: 9, refused: 1, kicks_in: 4, kicks_out: 3, grant_copies: 70, mapped_copies: 2, throttled }
}

fn ring_pages() -> RingPages {
    RingPages { granted: 4, mapped: 4, peak: 356, leaked: 0 }
}

fn ring_statistics(abi: RingAbi) -> RingStatistics {
    RingStatistics {
        domain: 7,
        device: 51712,
        abi,
        queues: vec![RingQueueStatistics { queue: 1, ring_pages: 4, counters: ring_counters() }],
        pages: ring_pages(),
        counters: ring_counters(),
        broken: Some("a ring of 1, 2, 4, 8 or 16 pages is needed".into()),
        held: true,
        settled: true,
        handover: Some(Handover { domain: 3, device: 51712, blackout_us: Some(4100) }),
    }
}

fn ring_events() -> Vec<RingEvent> {
    use RingOperation::*;
    let unsupported = [Flush, Barrier, Discard].map(|operation| RingEvent::Unsupported { operation });
    let broken = RingEvent::Broken { reason: "99 requests are in a ring of 32".into() };
    [RingEvent::Resized { geometry: geometry() }, broken].into_iter().chain(unsupported).collect()
}

fn geometry() -> Geometry {
    Geometry { bytes: 1 << 30, logical_block_bytes: 512, physical_block_bytes: 4096, read_only: false }
}

fn summary(state: State) -> DiskSummary {
    DiskSummary {
        minor: 4,
        image: Some("vhd:/a.vhd".into()),
        state,
        step: Some("flushing the images".into()),
        trouble: Some("storage hangs".into()),
        geometry: Some(geometry()),
        shared: false,
        write_access: WriteAccess::Later,
        buffered: true,
        nbd: Some("/run/nbd1.4".into()),
        in_flight: 2,
        waiting: 1,
        job: Some(7),
        rings: [RingAbi::X86_64, RingAbi::X86_32, RingAbi::Arm].map(ring_statistics).into(),
        ring_pages: ring_pages(),
    }
}

/// A slot with nothing in it.
fn empty() -> DiskSummary {
    DiskSummary {
        image: None,
        step: None,
        trouble: None,
        geometry: None,
        nbd: None,
        job: None,
        rings: Vec::new(),
        ring_pages: RingPages::default(),
        ..summary(State::Attached)
    }
}

fn states() -> Vec<State> {
    use State::*;
    let all = [
        Attached,
        Opening,
        Running,
        Pausing,
        Paused,
        Quiescing,
        Quiesced,
        Resuming,
        ResumeFailed,
        Growing,
        Switching,
        Closing,
        Stuck,
        Closed,
    ];
    let is_here = |state: &State| match state {
        Attached | Opening | Running | Pausing | Paused | Quiescing | Quiesced | Resuming => true,
        ResumeFailed | Growing | Switching | Closing | Stuck | Closed => true,
    };
    assert!(all.iter().all(is_here));
    all.into()
}

fn histogram() -> Histogram {
    let buckets = vec![Bucket { to_us: 10, count: 2 }, Bucket { to_us: 99, count: 1 }];
    Histogram { count: 3, sum_us: 107, max_us: 90, p50_us: 10, p90_us: 90, p99_us: 90, p999_us: 90, buckets }
}

fn statistics() -> DiskStatistics {
    let queue =
        QueueStatistics { queue: 1, in_flight: 2, waiting: 1, throttled: 1, requests: 40, kicks_in: 9, kicks_out: 8 };
    let layer = Layer {
        path: "/a.vhd".into(),
        format: "vhd".into(),
        read_sectors: 8,
        write_sectors: 9,
        read_errors: 0,
        write_errors: 1,
    };
    let count = RequestCount { requests: 9, completed: 8, errors: 1, sectors: 72, queued_us: 5, served_us: 900 };
    let failure = FailureCause {
        errno: 5,
        kind: "write".into(),
        place: Some("/a.vhd".into()),
        reason: "/a.vhd: write 0x1000+0x1000".into(),
        first_ms: 1_700_000_000_000,
        last_ms: 1_700_000_000_001,
        count: 2,
    };
    let running = |phase| InFlightRequest {
        queue: 1,
        kind: "write".into(),
        offset: 4096,
        length: 8192,
        age_us: 1500,
        phase,
        attempts: 3,
    };
    DiskStatistics {
        disk: summary(State::Running),
        chain: vec![layer],
        queues: vec![queue],
        requests: [("write".to_owned(), count)].into(),
        latency: [("write".to_owned(), Latency { queued: histogram(), served: histogram() })].into(),
        errors: vec![ErrorCount { errno: 5, name: "EIO".into(), count: 1 }],
        failures: vec![failure],
        retries: 2,
        running: vec![running(RequestPhase::Running), running(RequestPhase::Waiting)],
        stuck: 1,
        limits: limits(),
        throttled: Throttled { requests: 4, waited_us: 5000 },
        valve: Some("/run/valve".into()),
        resized: 1,
    }
}

fn process() -> ProcessStatistics {
    let log = LogStatistics { produced: 9, written: 8, lost: 1, sent: 7, dropped: 2 };
    ProcessStatistics { pid: 4711, uptime_ms: 60_000, engine: "io_uring".into(), log }
}

fn jobs() -> Vec<JobStatus> {
    let job = |state, outcome| JobStatus {
        job: 7,
        minor: 4,
        command: "close".into(),
        state,
        step: "closing the images".into(),
        age_ms: 12,
        outcome,
    };
    let failure = Failure { errno: 5, reason: "/a.vhd".into() };
    vec![
        job(JobState::Waiting, None),
        job(JobState::Running, None),
        job(JobState::Ended, Some(OutcomeOfJob::Result(Box::new(ResultOf::Close(Done {}))))),
        job(JobState::Ended, Some(OutcomeOfJob::Error(failure))),
    ]
}

fn dump() -> Dump {
    let turn = LoopTurn { slept_us: 100, lasted_us: 20, woken_by: "2 completions".into(), tasks: 3 };
    let operation = RunningOperation { what: "write /a.vhd 0x1000+0x1000".into(), age_us: 900 };
    Dump {
        loops: vec![LoopDump {
            thread: "disk 4".into(),
            minor: Some(4),
            queue: Some(0),
            idle_us: 5,
            turns: vec![turn],
            operations: vec![operation],
        }],
    }
}

fn offer() -> RingOffer {
    RingOffer {
        flush: true,
        barrier: true,
        discard: true,
        discard_granularity: 4096,
        discard_alignment: 0,
        discard_secure: false,
        persistent: true,
        indirect_segments: 256,
    }
}

/// One of each, likewise.
fn results() -> Vec<ResultOf> {
    let quiet = Quiet { requests: 3, drained_us: 1870, flushed_us: 412 };
    let opened = Opened { geometry: geometry() };
    let all = vec![
        ResultOf::List(Disks { disks: vec![summary(State::Running), empty()] }),
        ResultOf::Stats(Statistics { process: process(), disks: vec![statistics()] }),
        ResultOf::Attach(Done {}),
        ResultOf::Detach(Done {}),
        ResultOf::Open(opened),
        ResultOf::Pause(quiet),
        ResultOf::Resume(opened),
        ResultOf::Quiesce(quiet),
        ResultOf::Close(Done {}),
        ResultOf::Grow(Resized { before_bytes: 1 << 29, geometry: geometry() }),
        ResultOf::Limit(LimitsInForce { limits: limits() }),
        ResultOf::Budget(Done {}),
        ResultOf::Faults(Done {}),
        ResultOf::Jobs(JobList { jobs: jobs() }),
        ResultOf::Cancel(Cancelled { cancelled: true }),
        ResultOf::ConnectRing(RingConnected { already: true, geometry: geometry(), offer: offer() }),
        ResultOf::DisconnectRing(RingDisconnected {
            connected: true,
            counters: ring_counters(),
            pages: ring_pages(),
            broken: None,
            not_durable: Some("flushing the images has not ended".into()),
        }),
        ResultOf::SettleRing(RingSettled { connected: true, not_durable: Some("flushing has not ended".into()) }),
        ResultOf::WatchRing(Done {}),
        ResultOf::FailRing(RingFailed { rings: 2, answered: 5 }),
        ResultOf::Dump(dump()),
    ];
    let is_here = |result: &ResultOf| match result {
        ResultOf::List(_) | ResultOf::Stats(_) | ResultOf::Attach(_) | ResultOf::Detach(_) => true,
        ResultOf::Open(_) | ResultOf::Pause(_) | ResultOf::Resume(_) | ResultOf::Quiesce(_) => true,
        ResultOf::Close(_) | ResultOf::Grow(_) | ResultOf::Limit(_) | ResultOf::Budget(_) => true,
        ResultOf::Faults(_) | ResultOf::Jobs(_) | ResultOf::Cancel(_) | ResultOf::Dump(_) => true,
        ResultOf::ConnectRing(_) | ResultOf::DisconnectRing(_) | ResultOf::WatchRing(_) => true,
        ResultOf::SettleRing(_) | ResultOf::FailRing(_) => true,
    };
    assert!(all.iter().all(is_here));
    all
}

fn answers() -> Vec<Answer> {
    let progress = Progress {
        job: 7,
        minor: 4,
        command: "pause".into(),
        state: JobState::Running,
        step: "waiting for requests to end".into(),
        age_ms: 1200,
        in_flight: 3,
        waiting: 1,
    };
    let failure = |errno, reason: &str| AnswerBody::Error(Failure { errno, reason: reason.into() });
    let mut answers = vec![
        Answer { id: Some(1), body: AnswerBody::Progress(progress) },
        Answer { id: Some(1), body: failure(110, "1 request in flight: write 0x1000+0x1000") },
        Answer { id: None, body: failure(22, "not a request") },
    ];
    answers.extend(ring_events().into_iter().map(|event| Answer { id: Some(1), body: AnswerBody::Event(event) }));
    let done = results().into_iter().zip(2..);
    answers.extend(done.map(|(result, id)| Answer { id: Some(id), body: AnswerBody::Result(Box::new(result)) }));
    answers
}

fn text(message: &impl serde::Serialize) -> String {
    serde_json::to_string(message).unwrap()
}

#[test]
fn a_message_does_not_change_without_a_new_version() {
    let hello = Hello::new("tapdisk 0.1.0", 4711);
    let requests = commands().into_iter().zip(1..).map(|(command, id)| text(&Request { id, command }));
    let lines: Vec<String> =
        [text(&hello)].into_iter().chain(requests).chain(answers().iter().map(text)).chain([text(&states())]).collect();
    for (line, golden) in lines.iter().zip(GOLDEN.lines()) {
        assert_eq!(line, golden);
    }
    assert_eq!(lines.len(), GOLDEN.lines().count(), "all of them:\n{}", lines.join("\n"));
}

#[test]
fn an_older_tapdisk_is_not_told_what_it_would_refuse() {
    let command = Command::DisconnectRing { minor: 4, domain: 7, device: 51712, deadline_ms: None, is_removed: true };
    assert!(text(&command.clone().for_version(5)).contains("is_removed"));
    assert!(!text(&command.for_version(4)).contains("is_removed"));
}

#[test]
fn what_older_programs_say_is_understood() {
    for line in OLDER.into_iter().flat_map(str::lines).filter(|line| line.starts_with(r#"{"id""#)) {
        match line.contains(r#""command":{"#) {
            true => drop(serde_json::from_str::<Request>(line).unwrap()),
            false => drop(serde_json::from_str::<Answer>(line).unwrap()),
        }
    }
}

#[test]
fn what_was_written_is_read_back() {
    for (command, id) in commands().into_iter().zip(1..) {
        let request = Request { id, command };
        assert_eq!(serde_json::from_str::<Request>(&text(&request)).unwrap(), request);
    }
    for answer in answers() {
        assert_eq!(serde_json::from_str::<Answer>(&text(&answer)).unwrap(), answer);
    }
}

#[test]
fn commands_are_named_as_they_are_written() {
    for command in commands() {
        let json: serde_json::Value = serde_json::to_value(&command).unwrap();
        assert_eq!(json.as_object().unwrap().keys().collect::<Vec<_>>(), [command.name()]);
    }
    for (result, command) in
        results().into_iter().zip(commands().into_iter().filter(|command| command.name() != "watch"))
    {
        let json: serde_json::Value = serde_json::to_value(&result).unwrap();
        assert_eq!(json.as_object().unwrap().keys().collect::<Vec<_>>(), [command.name()]);
    }
}

#[test]
fn what_is_not_said_has_its_usual_value() {
    let command = |json| serde_json::from_str::<Command>(json).unwrap();
    let open = OpenImages { minor: 4, image: "aio:/a".into(), ..OpenImages::default() };
    assert_eq!(command(r#"{"open":{"minor":4,"image":"aio:/a"}}"#), Command::Open(open));
    assert_eq!(command(r#"{"stats":{}}"#), Command::Stats { minor: None });
    assert_eq!(command(r#"{"pause":{"minor":4}}"#), Command::Pause { minor: 4, deadline_ms: None });
    let ring =
        r#"{"connect_ring":{"minor":4,"domain":7,"device":1,"queues":[{"pages":[8],"port":3}],"abi":"arm-abi"}}"#;
    let queues = vec![RingQueue { pages: vec![8], port: 3 }];
    let usual = ConnectRing { minor: 4, domain: 7, device: 1, queues, abi: RingAbi::Arm, ..ConnectRing::default() };
    assert_eq!(command(ring), Command::ConnectRing(ConnectRing { indirect_segments: 256, ..usual }));
    let limits = Limits::default();
    assert_eq!(command(r#"{"limit":{"minor":4,"limits":{}}}"#), Command::Limit { minor: 4, limits });
}

#[test]
fn what_is_not_known_is_refused_not_ignored() {
    for line in [
        r#"{"id":1,"command":{"explode":{}}}"#,
        r#"{"id":1,"command":{"list":{"minor":4}}}"#,
        r#"{"id":1,"command":{"pause":{"minor":4,"deadline":5}}}"#,
        r#"{"id":1,"command":{"open":{"minor":4,"image":"aio:/a","encrypted":true}}}"#,
        r#"{"id":1,"command":{"limit":{"minor":4,"limits":{"read":{"bytes":{"per_second":1,"per_hour":1}}}}}}"#,
        r#"{"id":1,"command":{"list":{},"jobs":{}}}"#,
        r#"{"id":1,"command":{"list":{}},"urgent":true}"#,
        r#"{"id":-1,"command":{"list":{}}}"#,
        r#"{"id":1,"command":{"pause":{"minor":70000}}}"#,
        r#"{"command":{"list":{}}}"#,
    ] {
        assert!(serde_json::from_str::<Request>(line).is_err(), "{line}");
    }
}
