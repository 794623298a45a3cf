//! The control protocol: golden bytes of every message, strings that are not strings, and streams cut anywhere.

#![allow(clippy::unwrap_used, reason = "a test may panic")]

mod stream;

use proptest::prelude::*;
use wire::control::*;

fn text(bytes: &str) -> Text {
    Text::new(bytes).unwrap()
}

/// Bytes and where they are.
type Patches = &'static [(usize, &'static [u8])];

/// A message of zeroes but for these bytes at these offsets.
fn golden(patches: &[(usize, &[u8])]) -> [u8; MESSAGE_BYTES] {
    let mut bytes = [0; MESSAGE_BYTES];
    for (at, patch) in patches {
        bytes[*at..at + patch.len()].copy_from_slice(patch);
    }
    bytes
}

fn parameters() -> OpenParameters {
    OpenParameters {
        flags: OpenFlags::READ_ONLY | OpenFlags::SECONDARY,
        devnum: 0x0102_0304,
        domid: 7,
        path: text("vhd:/a.vhd"),
        parent: Some(5),
        request_timeout: 0x0203,
        secondary: text("aio:/b"),
    }
}

fn ring() -> RingParameters {
    RingParameters {
        identity: RingIdentity { domid: 3, devid: 51712 },
        references: [8, 9, 10, 11, 12, 13, 14, 0x0102_0304],
        order: 3,
        protocol: 2,
        pool: text("td-xenio-default"),
        port: 17,
        poll_duration: 1000,
        poll_idle_threshold: 50,
    }
}

const SIZE: ImageInformation = ImageInformation { sectors: 0x0001_0203_0405, sector_size: 512, information: 4 };

/// What OPEN and RESUME with [`parameters`] hold behind type and cookie.
const PARAMETERS: Patches = &[
    (8, &[0x82, 0, 0, 0]),
    (12, &[4, 3, 2, 1]),
    (16, &[7]),
    (20, b"vhd:/a.vhd"),
    (276, &[5, 0, 0, 0]),
    (280, &[3, 2]),
    (282, b"aio:/b"),
];

const SIZE_BYTES: Patches = &[(8, &[5, 4, 3, 2, 1, 0, 0, 0]), (16, &[0, 2, 0, 0]), (20, &[4])];

const RING: Patches = &[
    (8, &[3]),
    (12, &[0, 0xca]),
    (16, &[8, 0, 0, 0, 9, 0, 0, 0, 10, 0, 0, 0, 11, 0, 0, 0, 12, 0, 0, 0, 13, 0, 0, 0, 14, 0, 0, 0, 4, 3, 2, 1]),
    (48, &[3]),
    (52, &[2]),
    (56, b"td-xenio-default"),
    (312, &[17]),
    (316, &[0xe8, 3]),
    (320, &[50]),
];

/// Every message with the bytes behind type and cookie.
fn every_message() -> Vec<(Body, Patches)> {
    const NOTHING: Patches = &[];
    const ERRNO_22: Patches = &[(8, &[22, 0, 0, 0])];
    let entry =
        ListEntry { count: 2, minor: 9, state: VbdState::PAUSED_NORMALLY, path: Text::new(*b"vhd:/\xff").unwrap() };
    vec![
        (Body::Error(Errno(22), text("/a.vhd")), &[(8, &[22]), (12, b"/a.vhd")]),
        (Body::RuntimeError(Errno(22)), ERRNO_22),
        (Body::Pid, NOTHING),
        (Body::PidResponse(0x0001_0203), &[(8, &[3, 2, 1, 0])]),
        (Body::Attach, NOTHING),
        (Body::AttachResponse(Errno::NONE), NOTHING),
        (Body::Open(parameters()), PARAMETERS),
        (Body::OpenResponse(SIZE), SIZE_BYTES),
        (Body::Pause, NOTHING),
        (Body::PauseResponse(Errno::NONE), NOTHING),
        (Body::Resume(parameters()), PARAMETERS),
        (Body::ResumeResponse(Errno(22)), ERRNO_22),
        (Body::Close, NOTHING),
        (Body::CloseResponse(Errno::NONE), NOTHING),
        (Body::Detach, NOTHING),
        (Body::DetachResponse(Errno::NONE), NOTHING),
        (Body::ListMinors, NOTHING),
        (Body::ListMinorsResponse(vec![1, -1]), &[(8, &[2]), (12, &[1, 0, 0, 0, 0xff, 0xff, 0xff, 0xff])]),
        (Body::List, NOTHING),
        (Body::ListResponse(entry), &[(8, &[2]), (12, &[9]), (16, &[0x2a]), (20, b"vhd:/\xff")]),
        (Body::Stats, NOTHING),
        (Body::StatsResponse { length: 0x139 }, &[(16, &[0x39, 1])]),
        (Body::ForceShutdown, NOTHING),
        (Body::RingConnect(ring()), RING),
        (Body::RingConnectResponse(Errno::NONE), NOTHING),
        (Body::RingDisconnect(RingIdentity { domid: 3, devid: 51712 }), &[(8, &[3]), (12, &[0, 0xca])]),
        (Body::RingDisconnectResponse(Errno::NONE), NOTHING),
        (Body::DiskInfo, NOTHING),
        (Body::DiskInfoResponse(SIZE), SIZE_BYTES),
        (Body::Exit, NOTHING),
    ]
}

#[test]
fn every_message_has_its_golden_bytes() {
    let messages = every_message();
    assert_eq!(messages.len(), Kind::ALL.len());
    for (number, (body, patches)) in (1_u8..).zip(messages) {
        let mut bytes = golden(patches);
        bytes[..4].copy_from_slice(&[number, 0, 0x34, 0x12]);
        let message = Message::new(0x1234, body);
        assert_eq!(message.encode(), bytes, "{:?}", message.kind());
        assert_eq!(Message::decode(&bytes), Ok(message));
    }
}

#[test]
fn exchanges_seen_on_a_host_are_understood() {
    let decoded = |patches: &[(usize, &[u8])]| Message::decode(&golden(patches)).unwrap();
    assert_eq!(decoded(&[(0, &[3])]), Message::new(0, Body::Pid));
    assert_eq!(decoded(&[(0, &[4]), (8, &[0xcb, 0x4b])]), Message::new(0, Body::PidResponse(19403)));
    let size = ImageInformation { sectors: 16384, sector_size: 512, information: 0 };
    let answer = decoded(&[(0, &[0x1d, 0]), (8, &[0, 0x40]), (16, &[0, 2])]);
    assert_eq!(answer, Message::new(0, Body::DiskInfoResponse(size)));
    assert_eq!(decoded(&[(0, &[1, 0, 9, 0]), (8, &[0x13])]), Message::new(9, Body::Error(Errno(19), Text::EMPTY)));
    let statistics = decoded(&[(0, &[0x16, 0, 0xff, 0xff]), (16, &[0x39, 1])]);
    assert_eq!(statistics, Message::new(ALL_MINORS, Body::StatsResponse { length: 0x139 }));
}

#[test]
fn no_parent_is_minus_one_and_anything_negative_is_no_parent() {
    let open = Message::new(0, Body::Open(OpenParameters { path: text("aio:/x"), ..OpenParameters::default() }));
    let mut bytes = open.encode();
    assert_eq!(bytes[276..280], [0xff; 4]);
    bytes[276..280].copy_from_slice(&[0, 0, 0, 0x80]);
    assert_eq!(Message::decode(&bytes), Ok(open));
}

#[test]
fn the_end_of_a_list_may_hold_stale_bytes() {
    let end = golden(&[(0, &[20]), (12, &[0xff; 4]), (20, b"\0stale")]);
    let Ok(Message { body: Body::ListResponse(entry), .. }) = Message::decode(&end) else { panic!("a list entry") };
    assert!(entry.is_end());
    assert_eq!(entry, ListEntry::END);
}

#[test]
fn every_message_must_hold_a_nul_where_a_path_would_be() {
    for kind in Kind::ALL {
        let mut bytes = golden(&[(0, &kind.number().to_le_bytes()), (2, &[5]), (20, &[b'x'; 256])]);
        let error = Message::decode(&bytes).unwrap_err();
        assert_eq!(error, DecodeError { cookie: 5, reason: Reason::Unterminated("the path") }, "{kind:?}");
        bytes[275] = 0;
        assert!(Message::decode(&bytes).is_ok(), "{kind:?}");
    }
}

#[test]
fn a_pool_must_be_terminated() {
    let bytes = golden(&[(0, &[24]), (56, &[b'x'; 256])]);
    assert_eq!(Message::decode(&bytes).unwrap_err().reason, Reason::Unterminated("the pool"));
}

#[test]
fn a_secondary_must_be_terminated_if_it_is_one() {
    let mut bytes = golden(&[(0, &[7]), (282, &[b'x'; 256])]);
    let Ok(Message { body: Body::Open(parameters), .. }) = Message::decode(&bytes) else { panic!("an open") };
    assert!(parameters.secondary.is_empty());
    bytes[8] = 0x80;
    assert_eq!(Message::decode(&bytes).unwrap_err().reason, Reason::Unterminated("the secondary"));
}

#[test]
fn unknown_types_are_answered_with_cookie_0() {
    for number in [0_u16, 31, 0x0103, 0xffff] {
        let bytes = golden(&[(0, &number.to_le_bytes()), (2, &[9])]);
        let error = Message::decode(&bytes).unwrap_err();
        assert_eq!(error, DecodeError { cookie: 0, reason: Reason::UnknownKind(number) });
    }
}

#[test]
fn a_list_of_minors_is_as_long_as_the_message_allows() {
    let bytes = golden(&[(0, &[18]), (8, &[0xff; 4])]);
    let Ok(Message { body: Body::ListMinorsResponse(minors), .. }) = Message::decode(&bytes) else { panic!("minors") };
    assert_eq!(minors, [0; 63]);
    assert_eq!(Message::new(0, Body::ListMinorsResponse(vec![0; 100])).encode()[8..12], [63, 0, 0, 0]);
}

#[test]
fn a_ring_has_at_most_eight_pages() {
    let pages = |order| RingParameters { order, ..ring() }.pages().map(<[u32]>::len);
    assert_eq!(
        [0, 1, 2, 3, 4, 31, 64, u32::MAX].map(pages),
        [Some(1), Some(2), Some(4), Some(8), None, None, None, None]
    );
}

/// An OPEN with everything that may follow it.
fn open_with_payloads() -> Request {
    let flags = OpenFlags::ADD_LOG | OpenFlags::ENCRYPTED;
    Request {
        message: Message::new(
            3,
            Body::Open(OpenParameters { flags, path: text("vhd:/a"), ..OpenParameters::default() }),
        ),
        log_path: Some(text("/var/cbt.log")),
        key: EncryptionKey::new(vec![7; 32]),
    }
}

fn requests(portions: &[&[u8]]) -> Vec<Result<Request, DecodeError>> {
    let mut reader = RequestReader::new();
    let mut requests = Vec::new();
    for portion in portions {
        let mut rest = *portion;
        while !rest.is_empty() {
            let (taken, request) = reader.feed(rest);
            assert!(request.is_some() || taken == rest.len(), "without a request everything is taken");
            assert!(taken > 0, "there is progress");
            rest = &rest[taken..];
            requests.extend(request);
        }
    }
    assert!(!reader.is_inside(), "the stream ends between requests");
    requests
}

#[test]
fn payloads_follow_the_message() {
    let bytes = open_with_payloads().encode();
    assert_eq!(bytes.len(), 544 + 256 + 1 + 32);
    assert_eq!(bytes[8..12], [0x10, 4, 0, 0]);
    assert_eq!(&bytes[544..557], b"/var/cbt.log\0");
    assert_eq!(bytes[800..], [&[32][..], &[7; 32]].concat());
}

#[test]
fn requests_cut_anywhere_are_the_same() {
    let pid = Request::new(Message::new(0, Body::Pid));
    let bytes = [open_with_payloads().encode(), pid.encode(), open_with_payloads().encode()].concat();
    let expected = [Ok(open_with_payloads()), Ok(pid), Ok(open_with_payloads())];
    for cut in 0..=bytes.len() {
        let (front, back) = bytes.split_at(cut);
        assert_eq!(requests(&[front, back]), expected, "cut at {cut}");
    }
    assert_eq!(requests(&bytes.chunks(1).collect::<Vec<_>>()), expected);
}

#[test]
fn answers_cut_anywhere_are_the_same() {
    let answer = Message::new(9, Body::StatsResponse { length: 2 });
    let bytes = [&answer.encode()[..], b"{}"].concat();
    for cut in 0..=MESSAGE_BYTES {
        let mut reader = MessageReader::new();
        let (front, back) = bytes.split_at(cut);
        let mut messages = Vec::new();
        let (taken, message) = reader.feed(front);
        assert_eq!(taken, cut);
        assert_eq!(reader.is_inside(), (1..MESSAGE_BYTES).contains(&cut));
        messages.extend(message);
        if messages.is_empty() {
            let (taken, message) = reader.feed(back);
            assert_eq!(taken, MESSAGE_BYTES - cut, "the text behind the message is not taken");
            messages.extend(message);
        }
        assert_eq!(messages, [Ok(answer.clone())], "cut at {cut}");
    }
}

#[test]
fn a_resume_has_a_log_but_never_a_key() {
    let flags = OpenFlags::ADD_LOG | OpenFlags::ENCRYPTED;
    let message = Message::new(3, Body::Resume(OpenParameters { flags, ..OpenParameters::default() }));
    let bytes = [&message.encode()[..], &[0; 256]].concat();
    assert_eq!(requests(&[&bytes]), [Ok(Request { message, log_path: Some(Text::EMPTY), key: None })]);
}

#[test]
fn keys_of_impossible_length_and_endless_log_paths_are_refused() {
    let bytes = open_with_payloads().encode();
    for length in [0_u8, 129, 255] {
        let bytes = [&bytes[..800], &[length]].concat();
        assert_eq!(requests(&[&bytes]), [Err(DecodeError { cookie: 3, reason: Reason::KeyLength(length) })]);
    }
    let bytes = [&bytes[..544], &[b'x'; 256]].concat();
    assert_eq!(requests(&[&bytes]), [Err(DecodeError { cookie: 3, reason: Reason::Unterminated("the log path") })]);
}

#[test]
fn flags_say_what_follows_whatever_they_said_before() {
    let mut request = open_with_payloads();
    (request.log_path, request.key) = (None, None);
    let bytes = request.encode();
    assert_eq!((bytes.len(), &bytes[8..12]), (544, &[0_u8; 4][..]));
}

#[test]
fn a_key_is_not_shown_in_traces() {
    let shown = format!("{:?}", open_with_payloads());
    assert!(shown.contains("EncryptionKey(32 bytes)") && !shown.contains("7, 7"), "{shown}");
}

fn any_text() -> impl Strategy<Value = Text> {
    proptest::collection::vec(1_u8.., 0..256).prop_map(|bytes| Text::new(bytes).unwrap())
}

fn any_parameters() -> impl Strategy<Value = OpenParameters> {
    let numbers = (0_u32..0x800, any::<u32>(), any::<u32>(), any::<u16>(), proptest::option::of(0..=i32::MAX as u32));
    (numbers, any_text(), any_text()).prop_map(|((flags, devnum, domid, request_timeout, parent), path, secondary)| {
        let flags = OpenFlags::from_bits(flags);
        OpenParameters { flags, devnum, domid, path, parent, request_timeout, secondary }
    })
}

fn any_body() -> impl Strategy<Value = Body> {
    let entry = (any::<u32>(), any::<i32>(), any::<u32>(), any_text()).prop_map(|(count, minor, state, path)| {
        Body::ListResponse(ListEntry { count, minor, state: VbdState::from_bits(state), path })
    });
    let numbers = (any::<[u32; 8]>(), any::<[u32; 7]>(), any_text());
    let ring = numbers.prop_map(|(references, [domid, devid, order, protocol, port, duration, threshold], pool)| {
        Body::RingConnect(RingParameters {
            identity: RingIdentity { domid, devid },
            references,
            order,
            protocol,
            pool,
            port,
            poll_duration: duration,
            poll_idle_threshold: threshold,
        })
    });
    prop_oneof![
        any_parameters().prop_map(Body::Open),
        any_parameters().prop_map(Body::Resume),
        entry,
        ring.prop_filter("every message holds a NUL there", |body| {
            Message::new(0, body.clone()).encode()[20..276].contains(&0)
        }),
        proptest::collection::vec(any::<i32>(), 0..=63)
            .prop_map(Body::ListMinorsResponse)
            .prop_filter("every message holds a NUL there", |body| {
                Message::new(0, body.clone()).encode()[20..276].contains(&0)
            }),
        (any::<i32>(), any_text()).prop_map(|(errno, words)| Body::Error(Errno(errno), words)),
        any::<u64>().prop_map(|length| Body::StatsResponse { length }),
    ]
}

proptest! {
    #[test]
    fn messages_go_there_and_back(cookie in any::<u16>(), body in any_body()) {
        let message = Message::new(cookie, body);
        prop_assert_eq!(Message::decode(&message.encode()), Ok(message));
    }

    #[test]
    fn garbage_is_refused_or_understood_but_never_panics(
        kind in prop_oneof![0_u16..32, any::<u16>()],
        body in proptest::collection::vec(prop_oneof![Just(0_u8), any::<u8>()], 542),
        portion in 1_usize..600,
    ) {
        let bytes: Vec<u8> = [&kind.to_le_bytes()[..], &body].concat();
        let decoded = Message::decode(bytes.first_chunk().unwrap());
        if let Ok(message) = &decoded {
            // What no field covers is dropped; what is left means the same.
            prop_assert_eq!(&Message::decode(&message.encode()), &decoded);
        }
        let mut reader = RequestReader::new();
        for portion in bytes.repeat(3).chunks(portion) {
            let (taken, request) = reader.feed(portion);
            if matches!(request, Some(Err(_))) {
                break;
            }
            prop_assert!(taken == portion.len() || request.is_some());
        }
    }
}

#[test]
fn whatever_comes_in_a_stream_is_messages_or_its_end() {
    test_support::feed("control", 2048, (2000, 200_000), stream::receive_anything);
}
