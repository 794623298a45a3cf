//! Clients that are wrong, slow, gone or malicious: they are told or cut off, and others are served meanwhile.

#![allow(clippy::unwrap_used, reason = "a test that cannot go on fails")]

mod support;

use std::{
    io::{Read, Write},
    time::Duration,
};

use export::nbd::Limits;
use support::{Options, Raw, Served};
use wire::nbd::{
    ClientFlags, Command, CommandFlags, OptionCode, OptionError, OptionReply, RequestHeader, put_client_flags,
    put_option,
};

fn assert_others_are_served(served: &Served) {
    let mut client = served.client();
    client.write(0, b"still here").unwrap();
    let mut bytes = [0; 10];
    client.read(0, &mut bytes).unwrap();
    assert_eq!(&bytes, b"still here");
}

/// A connection in negotiation, the greeting and our flags behind it.
fn negotiating(served: &Served) -> Raw {
    let mut raw = Raw(served.stream());
    raw.bytes(18);
    let mut flags = Vec::new();
    put_client_flags(&mut flags, ClientFlags::FIXED_NEWSTYLE);
    raw.0.write_all(&flags).unwrap();
    raw
}

fn option_reply(raw: &mut Raw, option: OptionCode) -> OptionReply {
    let mut bytes = Vec::new();
    loop {
        if let Some((reply, _)) = OptionReply::decode(&bytes, option).unwrap() {
            return reply;
        }
        bytes.extend(raw.bytes(1));
    }
}

#[test]
fn a_client_that_goes_away_at_any_byte_harms_nobody() {
    let served = Served::new();
    let mut exchange = Vec::new();
    put_client_flags(&mut exchange, ClientFlags::FIXED_NEWSTYLE | ClientFlags::NO_ZEROES);
    put_option(&mut exchange, OptionCode::STRUCTURED_REPLY, &[]);
    wire::nbd::put_go(&mut exchange, "name", &[]);
    let header = |command, length| RequestHeader { flags: CommandFlags::EMPTY, command, cookie: 1, offset: 0, length };
    exchange.extend(header(Command::Write, 16).encode());
    exchange.extend([7; 16]);
    exchange.extend(header(Command::Read, 4096).encode());
    for cut in 0..exchange.len() {
        served.stream().write_all(&exchange[..cut]).unwrap();
    }
    served.await_connections(0);
    assert_eq!(served.in_flight(), 0);
    assert_others_are_served(&served);
}

#[test]
fn unknown_and_malformed_options_are_refused_and_skipped() {
    let served = Served::new();
    let mut raw = negotiating(&served);
    let unknown = OptionCode(0x1234);
    let mut out = Vec::new();
    put_option(&mut out, unknown, &[1; 5000]);
    put_option(&mut out, OptionCode::INFO, &[0xff; 7]);
    put_option(&mut out, OptionCode::STARTTLS, &[]);
    put_option(&mut out, OptionCode::LIST_META_CONTEXT, &[0; 8]);
    put_option(&mut out, OptionCode::GO, &[0; 6]);
    raw.0.write_all(&out).unwrap();
    for (option, expected) in [
        (unknown, OptionError::Unsupported),
        (OptionCode::INFO, OptionError::Invalid),
        (OptionCode::STARTTLS, OptionError::Unsupported),
        (OptionCode::LIST_META_CONTEXT, OptionError::Invalid),
    ] {
        match option_reply(&mut raw, option) {
            OptionReply::Failed { error, .. } => assert_eq!(error, expected, "{option:?}"),
            other => panic!("{option:?} was answered with {other:?}"),
        }
    }
    assert!(matches!(option_reply(&mut raw, OptionCode::GO), OptionReply::Information(_)));
}

#[test]
fn an_option_that_is_far_too_long_ends_the_connection() {
    let served = Served::new();
    let mut raw = negotiating(&served);
    raw.0.write_all(b"IHAVEOPT\0\0\0\x07\xff\xff\xff\xff").unwrap();
    assert!(raw.has_ended());
    assert_others_are_served(&served);
}

#[test]
fn a_client_that_never_stops_negotiating_is_cut_off() {
    let served = Served::new();
    let mut raw = negotiating(&served);
    let mut list = Vec::new();
    put_option(&mut list, OptionCode::STRUCTURED_REPLY, &[]);
    for _ in 0..1000 {
        if raw.0.write_all(&list).is_err() {
            break;
        }
    }
    let mut answers = Vec::new();
    // The end, or a reset because some options were never read.
    let _ = raw.0.read_to_end(&mut answers);
    assert!(answers.len() <= 32 * 20, "{} answers", answers.len() / 20);
    assert_others_are_served(&served);
}

#[test]
fn bytes_that_are_no_request_end_the_connection() {
    let served = Served::new();
    let mut raw = served.raw();
    raw.0.write_all(&[0x5a; 4096]).unwrap();
    assert!(raw.has_ended());
    assert_others_are_served(&served);
}

#[test]
fn an_unknown_command_is_refused_and_the_next_one_served() {
    let served = Served::new();
    let mut raw = served.raw();
    raw.send(Command::Unknown(999), CommandFlags::EMPTY, 1, 0, 4096);
    raw.send(Command::Read, CommandFlags::PAYLOAD_LEN, 2, 0, 512);
    raw.read(3, 0, 512);
    assert_eq!([raw.reply(), raw.reply(), raw.reply()], [(1, 22), (2, 22), (3, 0)]);
    assert_eq!(raw.bytes(512), [0; 512]);
}

#[test]
fn a_write_that_is_too_long_is_refused_and_its_data_skipped() {
    let served = Served::new();
    let mut raw = served.raw();
    raw.write(1, 0, &vec![9; (40 << 20) + 7]);
    raw.read(2, 0, 4);
    assert_eq!([raw.reply(), raw.reply()], [(1, 22), (2, 0)]);
    assert_eq!(raw.bytes(4), [0; 4]);
}

#[test]
fn a_client_that_fetches_no_replies_stalls_only_itself() {
    let limits = Limits { bytes: 32 << 20, ..Limits::default() };
    let served = Served::with(Options { limits, ..Options::default() });
    let stalled = served.raw();
    let mut sender = stalled.0.try_clone().unwrap();
    // 4 GiB of replies; sending blocks when the server takes no more requests.
    let sending = std::thread::spawn(move || {
        for cookie in 0..4096 {
            let header = RequestHeader {
                flags: CommandFlags::EMPTY,
                command: Command::Read,
                cookie,
                offset: 0,
                length: 1 << 20,
            };
            if sender.write_all(&header.encode()).is_err() {
                return;
            }
        }
    });
    let mut other = served.client();
    for round in 0..200_u64 {
        other.write(round * 512, &[3; 512]).unwrap();
        other.read(round * 512, &mut [0; 512]).unwrap();
    }
    assert!(served.in_flight() <= 128);
    stalled.0.shutdown(std::net::Shutdown::Both).unwrap();
    sending.join().unwrap();
    served.await_connections(1);
}

#[test]
fn a_slow_client_gets_every_byte_in_the_end() {
    let served = Served::new();
    let mut raw = served.raw();
    raw.write(0, 0, &(0..4_u32 << 20).map(|index| u8::try_from(index % 239).unwrap()).collect::<Vec<_>>());
    assert_eq!(raw.reply(), (0, 0));
    let mut sender = raw.0.try_clone().unwrap();
    let sending = std::thread::spawn(move || {
        for cookie in 1..=100 {
            let header = RequestHeader {
                flags: CommandFlags::EMPTY,
                command: Command::Read,
                cookie,
                offset: 0,
                length: 4 << 20,
            };
            sender.write_all(&header.encode()).unwrap();
        }
    });
    std::thread::sleep(Duration::from_millis(100));
    for _ in 1..=100 {
        assert_eq!(raw.reply().1, 0);
        let bytes = raw.bytes(4 << 20);
        assert!(bytes.iter().zip(0..).all(|(&byte, index): (_, u32)| u32::from(byte) == index % 239));
    }
    sending.join().unwrap();
}

#[test]
fn a_silent_client_does_not_keep_its_place() {
    let limits = Limits { connections: 1, negotiation: Duration::from_secs(2), ..Limits::default() };
    let served = Served::with(Options { limits, ..Options::default() });
    let mut silent = served.stream();
    assert_others_are_served(&served);
    let mut rest = Vec::new();
    silent.read_to_end(&mut rest).unwrap();
    assert_eq!(rest.len(), 18, "only the greeting");
}

#[test]
fn more_clients_than_there_are_places_wait_for_one() {
    let limits = Limits { connections: 2, ..Limits::default() };
    let served = Served::with(Options { limits, ..Options::default() });
    let (first, _second) = (served.client(), served.client());
    let third = std::thread::scope(|scope| {
        let third = scope.spawn(|| served.client());
        std::thread::sleep(Duration::from_millis(50));
        assert_eq!(served.connections(), 2);
        drop(first);
        third.join().unwrap()
    });
    assert_eq!(third.size(), 4 << 20);
}

#[test]
fn a_client_that_leaves_with_requests_running_leaves_nothing_behind() {
    let served = Served::new();
    for _ in 0..20 {
        let mut raw = served.raw();
        for cookie in 0..100 {
            raw.read(cookie, 0, 1 << 20);
        }
    }
    served.await_connections(0);
    assert_eq!(served.in_flight(), 0);
    assert_others_are_served(&served);
}

#[test]
fn noise_of_any_kind_ends_only_its_own_connection() {
    let served = Served::new();
    let mut state = test_support::seed();
    let mut random = move || {
        state = state.wrapping_mul(6_364_136_223_846_793_005).wrapping_add(1_442_695_040_888_963_407);
        u8::try_from(state >> 56).unwrap()
    };
    for round in 0..test_support::cycles(200, 5000) {
        let noise: Vec<u8> = (0..300).map(|_| random()).collect();
        let mut connection = if round % 2 == 0 { negotiating(&served) } else { served.raw() };
        if round % 4 == 1 {
            // A request that looks right, but for everything in it.
            connection.0.write_all(b"\x25\x60\x95\x13").unwrap();
        }
        // The server may have cut us off in the middle.
        let _ = connection.0.write_all(&noise);
    }
    served.await_connections(0);
    assert_others_are_served(&served);
}

#[test]
fn a_client_that_fetches_no_refusals_is_not_listened_to_any_more() {
    let limits = Limits { bytes: 64 << 10, ..Limits::default() };
    let served = Served::with(Options { limits, ..Options::default() });
    let mut raw = served.raw();
    let refused =
        RequestHeader { flags: CommandFlags::EMPTY, command: Command::Unknown(99), cookie: 1, offset: 0, length: 0 };
    let many = refused.encode().repeat(1000);
    raw.0.set_write_timeout(Some(Duration::from_millis(500))).unwrap();
    let sent = (0..1000).take_while(|_| raw.0.write_all(&many).is_ok()).count();
    assert!(sent < 1000, "28 MB of nonsense were read, and as many replies kept");
    assert_others_are_served(&served);
}
