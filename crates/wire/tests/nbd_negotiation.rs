//! The handshake of NBD: what a server makes of a client's bytes, and what a client makes of the server's.

#![allow(clippy::unwrap_used, reason = "a test may panic")]

use block_core::{ErrorKind, Result};
use proptest::prelude::*;
use wire::nbd::*;

/// An option as any client would send it.
fn option(code: u32, data: &[u8]) -> Vec<u8> {
    let mut bytes = b"IHAVEOPT".to_vec();
    bytes.extend(code.to_be_bytes());
    bytes.extend(u32::try_from(data.len()).unwrap().to_be_bytes());
    bytes.extend(data);
    bytes
}

/// Feeds portions one after another; the events, or the error that ended it.
fn events(portions: &[&[u8]]) -> Result<Vec<Event>> {
    let mut negotiation = Negotiation::new();
    let mut events = Vec::new();
    for portion in portions {
        let mut rest = *portion;
        while !rest.is_empty() {
            let (taken, event) = negotiation.feed(rest)?;
            assert!(event.is_some() || taken == rest.len(), "without an event everything is taken");
            assert!(taken > 0, "there is progress");
            rest = &rest[taken..];
            events.extend(event);
        }
    }
    Ok(events)
}

/// The one request that an option makes after client flags.
fn request(bytes: &[u8]) -> OptionRequest {
    let events = events(&[&[0, 0, 0, 3], bytes]).unwrap();
    match &events[..] {
        [Event::ClientFlags(_), Event::Option(request)] => request.clone(),
        other => panic!("flags and one option expected: {other:?}"),
    }
}

fn refusal(bytes: &[u8]) -> OptionError {
    match request(bytes) {
        OptionRequest::Refused { error, .. } => error,
        other => panic!("a refusal expected: {other:?}"),
    }
}

fn failure(bytes: &[u8]) -> ErrorKind {
    events(&[&[0, 0, 0, 3], bytes]).unwrap_err().kind()
}

/// A client that tries everything before it goes on.
fn long_handshake() -> (Vec<u8>, Vec<Event>) {
    let go = b"\0\0\0\x04disk\0\x02\0\x03\0\x01";
    let contexts = b"\0\0\0\x04disk\0\0\0\x02\0\0\0\x0fbase:allocation\0\0\0\x05qemu:";
    let mut bytes = vec![0, 0, 0, 3];
    let sent =
        [option(8, &[]), option(3, &[]), option(99, &[7; 300]), option(10, contexts), option(5, &[]), option(7, go)];
    bytes.extend(sent.concat());
    let query =
        MetaContextQuery { export: b"disk".to_vec(), queries: vec![b"base:allocation".to_vec(), b"qemu:".to_vec()] };
    let export =
        ExportQuery { name: b"disk".to_vec(), wanted: vec![InformationKind::BLOCK_SIZE, InformationKind::NAME] };
    let unknown =
        OptionRequest::Refused { option: OptionCode(99), error: OptionError::Unsupported, words: "unknown option" };
    let requests = [
        OptionRequest::StructuredReply,
        OptionRequest::List,
        unknown,
        OptionRequest::SetMetaContext(query),
        OptionRequest::StartTls,
        OptionRequest::Go(export),
    ];
    let flags = Event::ClientFlags(ClientFlags::KNOWN);
    (bytes, std::iter::once(flags).chain(requests.map(Event::Option)).collect())
}

#[test]
fn a_handshake_cut_anywhere_makes_the_same_events() {
    let (bytes, expected) = long_handshake();
    for cut in 0..=bytes.len() {
        let (front, back) = bytes.split_at(cut);
        assert_eq!(events(&[front, back]).unwrap(), expected, "cut at {cut}");
    }
    let single: Vec<&[u8]> = bytes.chunks(1).collect();
    assert_eq!(events(&single).unwrap(), expected);
}

#[test]
fn nothing_behind_the_last_option_is_taken() {
    let mut bytes = [&[0, 0, 0, 1][..], &option(1, b"disk")].concat();
    let handshake = bytes.len();
    bytes.extend([0x25, 0x60, 0x95, 0x13]);
    let mut negotiation = Negotiation::new();
    assert_eq!(negotiation.feed(&bytes).unwrap(), (4, Some(Event::ClientFlags(ClientFlags::FIXED_NEWSTYLE))));
    let name = Event::Option(OptionRequest::ExportName(b"disk".to_vec()));
    assert_eq!(negotiation.feed(&bytes[4..]).unwrap(), (handshake - 4, Some(name)));
}

#[test]
fn unknown_client_flags_end_the_connection() {
    assert_eq!(events(&[&[0, 0, 0, 4]]).unwrap_err().kind(), ErrorKind::Unsupported);
    assert_eq!(events(&[&[0, 0, 0, 0]]).unwrap(), [Event::ClientFlags(ClientFlags::EMPTY)]);
}

#[test]
fn what_cannot_be_answered_ends_the_connection() {
    assert_eq!(failure(b"NBDMAGIC\0\0\0\x03\0\0\0\0"), ErrorKind::Invalid, "no option");
    assert_eq!(failure(&option(1, &[b'x'; 4097])), ErrorKind::LimitReached, "an endless export name");
    assert_eq!(failure(&option(1, b"di\0k")), ErrorKind::Invalid, "an export name with a NUL");
    assert_eq!(request(&option(1, &[b'x'; 4096])), OptionRequest::ExportName(vec![b'x'; 4096]));
}

#[test]
fn malformed_options_are_refused() {
    let invalid: [(&str, Vec<u8>); 13] = [
        ("list with data", option(3, b"x")),
        ("starttls with data", option(5, b"x")),
        ("structured reply with data", option(8, b"x")),
        ("go without anything", option(7, b"")),
        ("go whose name ends behind the data", option(7, b"\0\0\0\x05disk\0\0")),
        ("go whose name is as long as can be said", option(7, b"\xff\xff\xff\xffdisk\0\0")),
        ("go without a count", option(7, b"\0\0\0\x04disk")),
        ("go with too few kinds", option(7, b"\0\0\0\x04disk\0\x02\0\x03")),
        ("info with bytes behind it", option(6, b"\0\0\0\x04disk\0\0x")),
        ("info with a NUL in the name", option(6, b"\0\0\0\x04di\0k\0\0")),
        ("contexts with fewer queries than announced", option(10, b"\0\0\0\0\0\0\0\x02\0\0\0\x01a")),
        ("contexts with 2^32 - 1 queries", option(10, b"\0\0\0\0\xff\xff\xff\xff")),
        ("contexts with bytes behind them", option(9, b"\0\0\0\0\0\0\0\0x")),
    ];
    for (story, bytes) in invalid {
        assert_eq!(refusal(&bytes), OptionError::Invalid, "{story}");
    }
    let long_name = [&4097_u32.to_be_bytes()[..], &[b'x'; 4097], &[0, 0]].concat();
    assert_eq!(refusal(&option(7, &long_name)), OptionError::Invalid);
    assert_eq!(refusal(&option(7, &[0; 8193])), OptionError::TooBig);
}

#[test]
fn options_that_are_not_offered_are_refused() {
    assert_eq!(refusal(&option(11, &[])), OptionError::Unsupported);
    assert_eq!(refusal(&option(4, b"peek")), OptionError::Unsupported);
    assert_eq!(refusal(&option(0, &[])), OptionError::Unsupported);
    assert_eq!(refusal(&option(u32::MAX, &[1; 9000])), OptionError::Unsupported);
}

#[test]
fn abort_may_carry_anything() {
    assert_eq!(request(&option(2, b"")), OptionRequest::Abort);
    assert_eq!(request(&option(2, &[9; 10_000])), OptionRequest::Abort);
}

#[test]
fn an_option_of_64_mib_is_skipped_and_a_longer_one_is_not() {
    let mut negotiation = Negotiation::new();
    negotiation.feed(&[0, 0, 0, 3]).unwrap();
    let header = |length: u32| [b"IHAVEOPT\0\0\0\x63".as_slice(), &length.to_be_bytes()].concat();
    assert_eq!(negotiation.feed(&header(64 << 20)).unwrap(), (16, None));
    let portion = vec![0; 1 << 20];
    for _ in 0..63 {
        assert_eq!(negotiation.feed(&portion).unwrap(), (1 << 20, None));
    }
    let (_, event) = negotiation.feed(&portion).unwrap();
    assert!(matches!(event, Some(Event::Option(OptionRequest::Refused { option: OptionCode(99), .. }))));
    assert_eq!(negotiation.feed(&header((64 << 20) + 1)).unwrap_err().kind(), ErrorKind::LimitReached);
}

#[test]
fn a_client_cannot_send_options_for_ever() {
    let bytes: Vec<u8> = option(3, &[]).repeat(32);
    assert_eq!(events(&[&[0, 0, 0, 3], &bytes]).unwrap().len(), 33);
    assert_eq!(failure(&[bytes, option(3, &[])].concat()), ErrorKind::LimitReached);
}

#[test]
fn contexts_are_selected_by_name_and_listed_by_namespace() {
    let query = |queries: &[&str]| MetaContextQuery {
        export: vec![],
        queries: queries.iter().map(|query| query.as_bytes().to_vec()).collect(),
    };
    let [none, name, namespace, other] =
        [query(&[]), query(&["x-a:b", "base:allocation"]), query(&["base:"]), query(&["base:alloc", "base", "qemu:"])];
    let selects = [&none, &name, &namespace, &other].map(|query| query.selects(BASE_ALLOCATION));
    let lists = [&none, &name, &namespace, &other].map(|query| query.lists(BASE_ALLOCATION));
    assert_eq!(selects, [false, true, false, false]);
    assert_eq!(lists, [true, true, true, false]);
}

#[test]
fn greetings_have_the_bytes_of_the_protocol() {
    let mut newstyle = Vec::new();
    put_greeting(&mut newstyle);
    assert_eq!(newstyle, b"NBDMAGICIHAVEOPT\0\x03");

    let mut oldstyle = Vec::new();
    put_oldstyle_greeting(&mut oldstyle, 0x0102_0304_0506_0700, TransmissionFlags::EMPTY);
    let expected =
        [b"NBDMAGIC\0\0\x42\x02\x81\x86\x12\x53\x01\x02\x03\x04\x05\x06\x07\0\0\0\0\0".as_slice(), &[0; 124]].concat();
    assert_eq!((oldstyle.len(), oldstyle), (152, expected));
}

#[test]
fn the_answer_to_export_name_ends_with_zeroes_unless_waived() {
    let flags = TransmissionFlags::HAS_FLAGS | TransmissionFlags::SEND_FLUSH;
    let (mut short, mut long) = (Vec::new(), Vec::new());
    put_export(&mut short, 1 << 20, flags, false);
    put_export(&mut long, 1 << 20, flags, true);
    assert_eq!(short, b"\0\0\0\0\0\x10\0\0\0\x05");
    assert_eq!(long, [&short[..], &[0; 124]].concat());
    let answer = ExportAnswer { size: 1 << 20, flags };
    assert_eq!(ExportAnswer::decode(&short, false), Some((answer, 10)));
    assert_eq!(ExportAnswer::decode(&long, true), Some((answer, 134)));
    assert_eq!(ExportAnswer::decode(&short, true), None);
}

/// Magic, option and kind of an answer, then its length and data.
fn answer_bytes(option: u8, kind: [u8; 4], data: &[u8]) -> Vec<u8> {
    let length = u8::try_from(data.len()).unwrap();
    let header = [0, 3, 0xe8, 0x89, 4, 0x55, 0x65, 0xa9, 0, 0, 0, option];
    [&header[..], &kind, &[0, 0, 0, length], data].concat()
}

#[test]
fn answers_have_the_bytes_of_the_protocol() {
    let go = OptionRequest::Go(ExportQuery { name: vec![], wanted: vec![] });
    let list = OptionRequest::List;
    let written = |request: &OptionRequest, write: &dyn Fn(OptionAnswer<'_>)| {
        let mut out = Vec::new();
        write(request.answer(&mut out));
        out
    };
    let info = [0, 0, 0, 3];
    assert_eq!(written(&go, &|answer| answer.ack()), answer_bytes(7, [0, 0, 0, 1], b""));
    assert_eq!(
        written(&list, &|mut answer| answer.export_name("disk", "a disk")),
        answer_bytes(3, [0, 0, 0, 2], b"\0\0\0\x04diska disk")
    );
    assert_eq!(
        written(&go, &|mut answer| answer.export(513, TransmissionFlags::HAS_FLAGS)),
        answer_bytes(7, info, b"\0\0\0\0\0\0\0\0\x02\x01\0\x01")
    );
    assert_eq!(
        written(&go, &|mut answer| answer.block_sizes(BlockSizes { minimum: 1, preferred: 4096, maximum: 1 << 25 })),
        answer_bytes(7, info, b"\0\x03\0\0\0\x01\0\0\x10\0\x02\0\0\0")
    );
    assert_eq!(written(&go, &|mut answer| answer.name("n")), answer_bytes(7, info, b"\0\x01n"));
    assert_eq!(written(&go, &|mut answer| answer.description("d")), answer_bytes(7, info, b"\0\x02d"));
    let set = OptionRequest::SetMetaContext(MetaContextQuery { export: vec![], queries: vec![] });
    assert_eq!(
        written(&set, &|mut answer| answer.meta_context(1, BASE_ALLOCATION)),
        answer_bytes(10, [0, 0, 0, 4], b"\0\0\0\x01base:allocation")
    );
    assert_eq!(
        written(&go, &|answer| answer.error(OptionError::UnknownExport, "none")),
        answer_bytes(7, [0x80, 0, 0, 6], b"none")
    );
}

#[test]
fn errors_of_options_have_the_numbers_of_the_protocol() {
    let errors = [
        OptionError::Unsupported,
        OptionError::Policy,
        OptionError::Invalid,
        OptionError::Platform,
        OptionError::TlsRequired,
        OptionError::UnknownExport,
        OptionError::Shutdown,
        OptionError::BlockSizeRequired,
        OptionError::TooBig,
        OptionError::ExtendedHeadersRequired,
    ];
    for (number, error) in (1_u8..).zip(errors) {
        let mut out = Vec::new();
        OptionRequest::List.answer(&mut out).error(error, "");
        assert_eq!(out, answer_bytes(3, [0x80, 0, 0, number], b""), "{error:?}");
        let failed = OptionReply::Failed { error, words: vec![] };
        assert_eq!(OptionReply::decode(&out, OptionCode::LIST).unwrap(), Some((failed, out.len())));
    }
}

#[test]
fn transmission_flags_have_the_bits_of_the_protocol() {
    let flags = [
        TransmissionFlags::HAS_FLAGS,
        TransmissionFlags::READ_ONLY,
        TransmissionFlags::SEND_FLUSH,
        TransmissionFlags::SEND_FUA,
        TransmissionFlags::ROTATIONAL,
        TransmissionFlags::SEND_TRIM,
        TransmissionFlags::SEND_WRITE_ZEROES,
        TransmissionFlags::SEND_DF,
        TransmissionFlags::CAN_MULTI_CONN,
        TransmissionFlags::SEND_RESIZE,
        TransmissionFlags::SEND_CACHE,
        TransmissionFlags::SEND_FAST_ZERO,
    ];
    assert!(flags.into_iter().enumerate().all(|(bit, flag)| flag.bits() == 1 << bit));
}

/// Everything a server answers to one request, as its client reads it with the answers cut at `cut`.
fn read_answers(bytes: &[u8], code: OptionCode, cut: usize) -> Vec<OptionReply> {
    let mut replies = Vec::new();
    let (mut buffer, mut later) = (bytes[..cut].to_vec(), Some(&bytes[cut..]));
    loop {
        match OptionReply::decode(&buffer, code).unwrap() {
            Some((reply, used)) => {
                buffer.drain(..used);
                replies.push(reply);
            }
            None => match later.take() {
                Some(more) => buffer.extend(more),
                None => break,
            },
        }
    }
    assert!(buffer.is_empty(), "no byte is left");
    replies
}

#[test]
fn a_client_reads_what_a_server_answers_cut_anywhere() {
    let flags = TransmissionFlags::HAS_FLAGS | TransmissionFlags::SEND_DF;
    let sizes = BlockSizes { minimum: 512, preferred: 4096, maximum: u32::MAX };
    let request = OptionRequest::Info(ExportQuery { name: vec![], wanted: vec![] });
    let mut bytes = Vec::new();
    let mut answer = request.answer(&mut bytes);
    answer.export(1 << 40, flags);
    answer.block_sizes(sizes);
    answer.name("disk");
    answer.description("words");
    answer.export_name("one", "first");
    answer.meta_context(7, BASE_ALLOCATION);
    request.answer(&mut bytes).error(OptionError::Policy, "no");
    request.answer(&mut bytes).ack();

    let expected = [
        OptionReply::Information(Information::Export(ExportAnswer { size: 1 << 40, flags })),
        OptionReply::Information(Information::BlockSizes(sizes)),
        OptionReply::Information(Information::Name(b"disk".to_vec())),
        OptionReply::Information(Information::Description(b"words".to_vec())),
        OptionReply::Server { name: b"one".to_vec(), description: b"first".to_vec() },
        OptionReply::MetaContext { number: 7, name: BASE_ALLOCATION.as_bytes().to_vec() },
        OptionReply::Failed { error: OptionError::Policy, words: b"no".to_vec() },
        OptionReply::Ack,
    ];
    for cut in 0..=bytes.len() {
        assert_eq!(read_answers(&bytes, OptionCode::INFO, cut), expected, "cut at {cut}");
    }
}

#[test]
fn a_server_reads_what_our_client_sends() {
    let sent = |write: &dyn Fn(&mut Vec<u8>)| {
        let mut bytes = Vec::new();
        write(&mut bytes);
        request(&bytes)
    };
    let wanted = vec![InformationKind::BLOCK_SIZE];
    let query = ExportQuery { name: b"disk".to_vec(), wanted: wanted.clone() };
    let contexts = MetaContextQuery { export: b"disk".to_vec(), queries: vec![b"base:".to_vec()] };
    assert_eq!(sent(&|out| put_export_name(out, "disk")), OptionRequest::ExportName(b"disk".to_vec()));
    assert_eq!(sent(&|out| put_info(out, "disk", &wanted)), OptionRequest::Info(query.clone()));
    assert_eq!(sent(&|out| put_go(out, "disk", &wanted)), OptionRequest::Go(query));
    let list = OptionCode::LIST_META_CONTEXT;
    assert_eq!(
        sent(&|out| put_meta_contexts(out, list, "disk", &["base:"])),
        OptionRequest::ListMetaContext(contexts.clone())
    );
    let set = OptionCode::SET_META_CONTEXT;
    assert_eq!(sent(&|out| put_meta_contexts(out, set, "disk", &["base:"])), OptionRequest::SetMetaContext(contexts));
    assert_eq!(sent(&|out| put_option(out, OptionCode::LIST, &[])), OptionRequest::List);

    let mut flags = Vec::new();
    put_client_flags(&mut flags, ClientFlags::KNOWN);
    assert_eq!(events(&[&flags]).unwrap(), [Event::ClientFlags(ClientFlags::KNOWN)]);
}

#[test]
fn a_client_knows_both_greetings_from_their_last_byte_on() {
    let (mut newstyle, mut oldstyle) = (Vec::new(), Vec::new());
    put_greeting(&mut newstyle);
    put_oldstyle_greeting(&mut oldstyle, 4096, TransmissionFlags::READ_ONLY);
    let flags = HandshakeFlags::FIXED_NEWSTYLE | HandshakeFlags::NO_ZEROES;
    let old = Greeting::Oldstyle { size: 4096, flags: TransmissionFlags::READ_ONLY };
    for (bytes, greeting) in [(newstyle, Greeting::Newstyle(flags)), (oldstyle, old)] {
        for cut in 0..bytes.len() {
            assert_eq!(Greeting::decode(&bytes[..cut]).unwrap(), None, "cut at {cut}");
        }
        assert_eq!(Greeting::decode(&bytes).unwrap(), Some((greeting, bytes.len())));
    }
    assert_eq!(Greeting::decode(b"SSH-2.0-OpenSSH_9.2p1").unwrap_err().kind(), ErrorKind::Invalid);
}

#[test]
fn a_client_refuses_answers_that_make_no_sense() {
    let kind = |bytes: &[u8]| OptionReply::decode(bytes, OptionCode::GO).unwrap_err().kind();
    assert_eq!(kind(&answer_bytes(6, [0, 0, 0, 1], b"")), ErrorKind::Invalid, "another option");
    assert_eq!(kind(&answer_bytes(7, [0, 0, 0, 1], b"x")), ErrorKind::Invalid, "an ack with data");
    assert_eq!(kind(&answer_bytes(7, [0, 0, 0, 3], b"\0\0\0")), ErrorKind::Invalid, "a short size");
    assert_eq!(kind(&answer_bytes(7, [0, 0, 0, 9], b"")), ErrorKind::Invalid, "an unknown kind");
    let mut long = answer_bytes(7, [0x80, 0, 0, 1], b"");
    long[16..20].copy_from_slice(&[0xff; 4]);
    assert_eq!(kind(&long), ErrorKind::LimitReached, "a message of 4 GiB");
}

#[test]
fn a_client_keeps_errors_it_does_not_know() {
    let bytes = answer_bytes(7, [0x80, 0, 1, 0], b"new");
    let failed = OptionReply::Failed { error: OptionError::Unknown(256), words: b"new".to_vec() };
    assert_eq!(OptionReply::decode(&bytes, OptionCode::GO).unwrap(), Some((failed, bytes.len())));
}

/// Options whose headers are mostly right and whose data is anything.
fn hostile_option() -> impl Strategy<Value = Vec<u8>> {
    let data = prop_oneof![
        proptest::collection::vec(any::<u8>(), 0..64),
        proptest::collection::vec(prop_oneof![Just(0_u8), Just(1), any::<u8>()], 0..64),
    ];
    (0_u32..14, data, any::<Option<u8>>()).prop_map(|(code, data, broken)| {
        let mut bytes = option(code, &data);
        if let Some(at) = broken.map(usize::from).filter(|at| at % 8 == 0 && *at < bytes.len()) {
            bytes[at] ^= 0x81;
        }
        bytes
    })
}

proptest! {
    #[test]
    fn hostile_handshakes_never_panic_and_cuts_do_not_matter(
        options in proptest::collection::vec(hostile_option(), 0..8),
        portion in 1_usize..40,
    ) {
        let bytes = [&[0, 0, 0, 3][..], &options.concat()].concat();
        let portions: Vec<&[u8]> = bytes.chunks(portion).collect();
        match (events(&[&bytes]), events(&portions)) {
            (Ok(whole), Ok(cut)) => prop_assert_eq!(whole, cut),
            (Err(whole), Err(cut)) => prop_assert_eq!(whole.to_string(), cut.to_string()),
            (whole, cut) => prop_assert!(false, "{:?} and {:?}", whole, cut),
        }
    }

    #[test]
    fn garbage_never_panics_a_client(mut bytes in proptest::collection::vec(any::<u8>(), 0..200), repair in any::<bool>()) {
        let _ = Greeting::decode(&bytes);
        let _ = ExportAnswer::decode(&bytes, true);
        if repair && bytes.len() > 20 {
            let length = u8::try_from(bytes.len() - 20).unwrap();
            let kind = [0, 0, 0, bytes[15] % 6];
            bytes[..20].copy_from_slice(&answer_bytes(7, kind, &vec![0; usize::from(length)])[..20]);
        }
        let _ = OptionReply::decode(&bytes, OptionCode::GO);
    }
}
