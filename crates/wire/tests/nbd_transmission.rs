//! Requests and replies of NBD, byte for byte and there and back.

#![allow(clippy::unwrap_used, reason = "a test may panic")]

use block_core::ErrorKind;
use proptest::prelude::*;
use wire::nbd::*;

#[test]
fn a_request_has_the_bytes_of_the_protocol() {
    let header = RequestHeader {
        flags: CommandFlags::FUA,
        command: Command::Write,
        cookie: 0x0102_0304_0506_0708,
        offset: 0x1112_1314_1516_1718,
        length: 0x2122_2324,
    };
    let bytes = [
        0x25, 0x60, 0x95, 0x13, 0, 1, 0, 1, 1, 2, 3, 4, 5, 6, 7, 8, 0x11, 0x12, 0x13, 0x14, 0x15, 0x16, 0x17, 0x18,
        0x21, 0x22, 0x23, 0x24,
    ];
    assert_eq!(header.encode(), bytes);
    assert_eq!(RequestHeader::decode(&bytes).unwrap(), header);
}

#[test]
fn a_request_without_its_magic_is_refused() {
    assert_eq!(RequestHeader::decode(&[0; REQUEST_BYTES]).unwrap_err().kind(), ErrorKind::Invalid);
}

#[test]
fn commands_have_the_numbers_of_the_protocol() {
    let known = [
        Command::Read,
        Command::Write,
        Command::Disconnect,
        Command::Flush,
        Command::Trim,
        Command::Cache,
        Command::WriteZeroes,
        Command::BlockStatus,
    ];
    for (number, command) in (0..).zip(known) {
        assert_eq!((command.number(), Command::from_number(number)), (number, command));
    }
    assert_eq!(Command::from_number(8), Command::Unknown(8));
}

#[test]
fn command_flags_have_the_bits_of_the_protocol() {
    let flags = [
        CommandFlags::FUA,
        CommandFlags::NO_HOLE,
        CommandFlags::DF,
        CommandFlags::REQ_ONE,
        CommandFlags::FAST_ZERO,
        CommandFlags::PAYLOAD_LEN,
    ];
    assert!(flags.into_iter().enumerate().all(|(bit, flag)| flag.bits() == 1 << bit));
}

fn request(command: Command, flags: CommandFlags) -> RequestHeader {
    RequestHeader { flags, command, cookie: 1, offset: 0, length: 512 }
}

#[test]
fn only_a_write_is_followed_by_data() {
    let length = |command| request(command, CommandFlags::EMPTY).data_length();
    assert_eq!(length(Command::Write), 512);
    assert_eq!([Command::Read, Command::WriteZeroes, Command::Unknown(1000)].map(length), [0; 3]);
}

#[test]
fn flags_belong_to_commands() {
    let own = [
        (Command::Read, CommandFlags::DF),
        (Command::WriteZeroes, CommandFlags::NO_HOLE | CommandFlags::FAST_ZERO),
        (Command::BlockStatus, CommandFlags::REQ_ONE),
        (Command::Flush, CommandFlags::EMPTY),
    ];
    for (command, flags) in own {
        assert!(request(command, flags | CommandFlags::FUA).flags_undue().is_empty(), "{command:?}");
        let undue = CommandFlags::KNOWN.without(flags | CommandFlags::FUA);
        assert_eq!(request(command, CommandFlags::KNOWN).flags_undue(), undue, "{command:?}");
    }
    assert_eq!(request(Command::Write, CommandFlags::from_bits(0x8000)).flags_undue().bits(), 0x8000);
}

fn written(write: impl FnOnce(&mut Vec<u8>)) -> Vec<u8> {
    let mut out = Vec::new();
    write(&mut out);
    out
}

/// The header of a chunk for request 9, and its payload.
fn chunk_bytes(flags: u8, kind: [u8; 2], payload: &[u8]) -> Vec<u8> {
    let length = u8::try_from(payload.len()).unwrap();
    let header = [0x66, 0x8e, 0x33, 0xef, 0, flags, kind[0], kind[1], 0, 0, 0, 0, 0, 0, 0, 9, 0, 0, 0, length];
    [&header, payload].concat()
}

#[test]
fn simple_replies_have_the_bytes_of_the_protocol() {
    assert_eq!(written(|out| put_simple_reply(out, 9, None)), b"\x67\x44\x66\x98\0\0\0\0\0\0\0\0\0\0\0\x09");
    assert_eq!(
        written(|out| put_simple_reply(out, 9, Some(ErrorCode::Shutdown))),
        b"\x67\x44\x66\x98\0\0\0\x6c\0\0\0\0\0\0\0\x09"
    );
}

#[test]
fn chunks_have_the_bytes_of_the_protocol() {
    assert_eq!(written(|out| put_none_chunk(out, 9)), chunk_bytes(1, [0, 0], b""));
    let mut data = written(|out| put_data_chunk_header(out, 9, false, 0x200, 4));
    data.extend(b"data");
    assert_eq!(data, chunk_bytes(0, [0, 1], b"\0\0\0\0\0\0\x02\0data"));
    assert_eq!(
        written(|out| put_hole_chunk(out, 9, true, 0x200, 0x1000)),
        chunk_bytes(1, [0, 2], b"\0\0\0\0\0\0\x02\0\0\0\x10\0")
    );
    let extents = [
        BlockDescriptor { length: 0x200, state: StateFlags::EMPTY },
        BlockDescriptor { length: 0x1000, state: StateFlags::HOLE | StateFlags::ZERO },
    ];
    assert_eq!(
        written(|out| put_block_status(out, 9, true, 1, &extents)),
        chunk_bytes(1, [0, 5], b"\0\0\0\x01\0\0\x02\0\0\0\0\0\0\0\x10\0\0\0\0\x03")
    );
    assert_eq!(
        written(|out| put_error_chunk(out, 9, true, ErrorCode::Inval, "no", None)),
        chunk_bytes(1, [0x80, 1], b"\0\0\0\x16\0\x02no")
    );
    assert_eq!(
        written(|out| put_error_chunk(out, 9, false, ErrorCode::Io, "", Some(0x300))),
        chunk_bytes(0, [0x80, 2], b"\0\0\0\x05\0\0\0\0\0\0\0\0\x03\0")
    );
}

#[test]
fn words_are_cut_at_the_limit_and_not_inside_a_character() {
    let words = "\u{e9}".repeat(3000).replacen('\u{e9}', "x", 1);
    let bytes = written(|out| put_error_chunk(out, 9, true, ErrorCode::Io, &words, None));
    let payload = ChunkPayload::decode(ChunkKind::ERROR, &bytes[CHUNK_HEADER_BYTES..]).unwrap();
    let ChunkPayload::Failed { words, .. } = payload else { panic!("an error expected: {payload:?}") };
    assert_eq!(words.len(), 4095);
    assert!(std::str::from_utf8(words).is_ok());
}

#[test]
fn a_client_reads_headers_from_their_last_byte_on() {
    let simple = written(|out| put_simple_reply(out, 9, Some(ErrorCode::Nospc)));
    let chunk = written(|out| put_hole_chunk(out, 9, true, 0, 512));
    let cases = [
        (simple, ReplyHeader::Simple { cookie: 9, error: Some(ErrorCode::Nospc) }, SIMPLE_REPLY_BYTES),
        (
            chunk,
            ReplyHeader::Chunk { cookie: 9, done: true, kind: ChunkKind::OFFSET_HOLE, length: 12 },
            CHUNK_HEADER_BYTES,
        ),
    ];
    for (bytes, header, length) in cases {
        for cut in 0..length {
            assert_eq!(ReplyHeader::decode(&bytes[..cut]).unwrap(), None, "cut at {cut}");
        }
        assert_eq!(ReplyHeader::decode(&bytes).unwrap(), Some((header, length)));
    }
    assert_eq!(ReplyHeader::decode(&[0; 4]).unwrap_err().kind(), ErrorKind::Invalid);
}

#[test]
fn a_client_refuses_payloads_that_make_no_sense() {
    let cases: [(&str, ChunkKind, &[u8]); 9] = [
        ("none with data", ChunkKind::NONE, b"x"),
        ("data without bytes", ChunkKind::OFFSET_DATA, &[0; 8]),
        ("a hole of no length", ChunkKind::OFFSET_HOLE, &[0; 12]),
        ("a hole that is too long", ChunkKind::OFFSET_HOLE, &[1; 13]),
        ("no extents", ChunkKind::BLOCK_STATUS, &[0; 4]),
        ("an extent of no length", ChunkKind::BLOCK_STATUS, &[0; 12]),
        ("half an extent", ChunkKind::BLOCK_STATUS, &[1; 14]),
        ("an error that is none", ChunkKind::ERROR, &[0; 6]),
        ("words beyond the payload", ChunkKind::ERROR, b"\0\0\0\x05\0\x09word"),
    ];
    for (story, kind, payload) in cases {
        assert_eq!(ChunkPayload::decode(kind, payload).unwrap_err().kind(), ErrorKind::Invalid, "{story}");
    }
    assert!(ChunkPayload::decode(ChunkKind(3), &[]).is_err(), "a content chunk that is not known");
}

#[test]
fn an_error_chunk_that_is_not_known_is_still_an_error() {
    let payload = ChunkPayload::decode(ChunkKind(0x8099), b"\0\0\0\x05\0\x01xmore").unwrap();
    assert_eq!(payload, ChunkPayload::Failed { error: ErrorCode::Io, words: b"x", offset: None });
}

fn any_header() -> impl Strategy<Value = RequestHeader> {
    let numbers = (any::<u16>(), prop_oneof![0_u16..10, any::<u16>()]);
    (numbers, any::<u64>(), any::<u64>(), any::<u32>()).prop_map(|((flags, command), cookie, offset, length)| {
        let flags = CommandFlags::from_bits(flags);
        RequestHeader { flags, command: Command::from_number(command), cookie, offset, length }
    })
}

/// The payload of the one chunk in `bytes`, and whether it is the last.
fn read_chunk(bytes: &[u8]) -> (ChunkPayload<'_>, bool) {
    let (header, used) = ReplyHeader::decode(bytes).unwrap().unwrap();
    let ReplyHeader::Chunk { cookie: 9, done, kind, length } = header else { panic!("a chunk expected: {header:?}") };
    assert_eq!(bytes.len(), used + length as usize);
    (ChunkPayload::decode(kind, &bytes[used..]).unwrap(), done)
}

proptest! {
    #[test]
    fn requests_go_there_and_back(header in any_header()) {
        prop_assert_eq!(RequestHeader::decode(&header.encode()).unwrap(), header);
    }

    #[test]
    fn chunks_go_there_and_back(
        offset in any::<u64>(), data in proptest::collection::vec(any::<u8>(), 1..64), done in any::<bool>(),
        lengths in proptest::collection::vec((1_u32.., 0_u32..4), 1..20), words in "[a-z]{0,9}", at in any::<Option<u64>>(),
    ) {
        let mut bytes = written(|out| put_data_chunk_header(out, 9, done, offset, u32::try_from(data.len()).unwrap()));
        bytes.extend(&data);
        prop_assert_eq!(read_chunk(&bytes), (ChunkPayload::Data { offset, bytes: &data }, done));

        let extents: Vec<_> = lengths
            .iter()
            .map(|(length, state)| BlockDescriptor { length: *length, state: StateFlags::from_bits(*state) })
            .collect();
        let bytes = written(|out| put_block_status(out, 9, done, 3, &extents));
        prop_assert_eq!(read_chunk(&bytes), (ChunkPayload::BlockStatus { context: 3, extents }, done));

        let bytes = written(|out| put_error_chunk(out, 9, done, ErrorCode::Notsup, &words, at));
        let failed = ChunkPayload::Failed { error: ErrorCode::Notsup, words: words.as_bytes(), offset: at };
        prop_assert_eq!(read_chunk(&bytes), (failed, done));
    }

    #[test]
    fn garbage_never_panics(bytes in proptest::collection::vec(any::<u8>(), 0..64), kind in prop_oneof![0_u16..7, 0x8000_u16..0x8004]) {
        let _ = ReplyHeader::decode(&bytes);
        let _ = ChunkPayload::decode(ChunkKind(kind), &bytes);
        if let Some(bytes) = bytes.first_chunk() {
            let _ = RequestHeader::decode(bytes);
        }
    }
}
