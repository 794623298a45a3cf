//! Slots of both layouts, byte for byte, and whatever else a guest may put into them.

#![allow(clippy::unwrap_used, reason = "a test that cannot go on fails")]

mod slot;

use proptest::prelude::*;
use wire::blkif::{
    Abi, DiscardFlags, INDIRECT_SEGMENTS_MAX, IndirectPages, Limits, OperationCode, RawRequest, Refusal, Request,
    RequestBody, Response, SLOT_BYTES_MAX, Segment, Status, Transfer, decode_segments,
};

const ALL: Limits = Limits { flush: true, barrier: true, discard: true, indirect_segments: INDIRECT_SEGMENTS_MAX };
const NOTHING: Limits = Limits { flush: false, barrier: false, discard: false, indirect_segments: 0 };

/// A slot from its parts in hexadecimal; what is not given is zero.
fn slot(parts: &[(usize, &str)]) -> [u8; SLOT_BYTES_MAX] {
    let mut slot = [0; SLOT_BYTES_MAX];
    for (at, hex) in parts {
        let digits: Vec<u8> = hex.split_whitespace().map(|byte| u8::from_str_radix(byte, 16).unwrap()).collect();
        slot[*at..*at + digits.len()].copy_from_slice(&digits);
    }
    slot
}

fn check(abi: Abi, slot: [u8; SLOT_BYTES_MAX]) -> Result<Request, Refusal> {
    RawRequest::new(abi, slot).check(&ALL)
}

fn two_segments() -> Vec<Segment> {
    vec![Segment::page(0x201), Segment::new(0x202, 0, 3).unwrap()]
}

#[test]
fn a_write_of_two_segments() {
    let body = RequestBody::Transfer { transfer: Transfer::Write, sector: 0x1234, segments: two_segments() };
    let request = Request { id: 0xa1a2_a3a4_a5a6_a7a8, operation: OperationCode::Write, body };
    let id = "a8 a7 a6 a5 a4 a3 a2 a1";
    let segments = "01 02 00 00 00 07 00 00 02 02 00 00 00 03 00 00";
    let wide = slot(&[(0, "01 02 00 ca"), (8, id), (16, "34 12"), (24, segments)]);
    let narrow = slot(&[(0, "01 02 00 ca"), (4, id), (12, "34 12"), (20, segments)]);
    for (abi, slot) in [(Abi::X86_64, wide), (Abi::X86_32, narrow)] {
        assert_eq!(request.encode(abi, 0xca00), slot, "{abi:?}");
        assert_eq!(check(abi, slot), Ok(request.clone()), "{abi:?}");
    }
}

#[test]
fn a_discard_has_a_length_instead_of_segments() {
    let body = RequestBody::Discard { sector: 8, sectors: 0x0001_0000_0000, flags: DiscardFlags::SECURE };
    let request = Request { id: 1, operation: OperationCode::Discard, body };
    let wide = slot(&[(0, "05 01"), (8, "01"), (16, "08"), (28, "01")]);
    let narrow = slot(&[(0, "05 01"), (4, "01"), (12, "08"), (24, "01")]);
    for (abi, slot) in [(Abi::X86_64, wide), (Abi::X86_32, narrow)] {
        assert_eq!(request.encode(abi, 0), slot, "{abi:?}");
        assert_eq!(check(abi, slot), Ok(request.clone()), "{abi:?}");
    }
}

#[test]
fn an_indirect_request_is_answered_as_what_it_carries() {
    let pages = IndirectPages::new([0x301, 0x302, 3, 4, 5, 6, 7, 8], 256);
    let body = RequestBody::Indirect { transfer: Transfer::Read, sector: 16, pages };
    let request = Request { id: 2, operation: OperationCode::Read, body };
    let grants = "01 03 00 00 02 03 00 00 03 00 00 00 04 00 00 00 05 00 00 00 06 00 00 00 07 00 00 00 08";
    let wide = slot(&[(0, "06 00 00 01"), (8, "02"), (16, "10"), (24, "00 ca"), (28, grants)]);
    let narrow = slot(&[(0, "06 00 00 01"), (4, "02"), (12, "10"), (20, "00 ca"), (24, grants)]);
    for (abi, slot) in [(Abi::X86_64, wide), (Abi::X86_32, narrow)] {
        assert_eq!(request.encode(abi, 0xca00), slot, "{abi:?}");
        assert_eq!(check(abi, slot), Ok(request.clone()), "{abi:?}");
    }
}

#[test]
fn the_pages_of_an_indirect_request_hold_what_it_counts() {
    let lengths = |segments| {
        let pages = IndirectPages::new([1, 2, 3, 4, 5, 6, 7, 8], segments);
        pages.pages().collect::<Vec<_>>()
    };
    assert_eq!(lengths(1), [(1, 8)]);
    assert_eq!(lengths(512), [(1, 4096)]);
    assert_eq!(lengths(513), [(1, 4096), (2, 8)]);
    assert_eq!(lengths(4096).len(), 8);
}

#[test]
fn counts_of_segments_that_make_no_sense_are_errors() {
    for count in 0..=255_u8 {
        let mut slot = slot(&[(0, "00"), (8, "09")]);
        slot[1] = count;
        let answer = check(Abi::X86_64, slot).map_err(|refusal| (refusal.id, refusal.status));
        match count {
            1..=11 => assert!(answer.is_ok(), "{count}"),
            _ => assert_eq!(answer, Err((9, Status::Error)), "{count}"),
        }
    }
}

#[test]
fn counts_of_indirect_segments_that_make_no_sense_are_errors() {
    for count in [0, 257, 4096, 4097, u16::MAX] {
        let mut slot = slot(&[(0, "06 01")]);
        slot[2..4].copy_from_slice(&count.to_le_bytes());
        let refusal = check(Abi::X86_64, slot).unwrap_err();
        assert_eq!((refusal.operation, refusal.status), (OperationCode::Write, Status::Error), "{count}");
    }
}

#[test]
fn an_indirect_request_carries_a_read_or_a_write_and_nothing_else() {
    for inner in 2..=255_u8 {
        let mut slot = slot(&[(0, "06 00 01")]);
        slot[1] = inner;
        assert_eq!(check(Abi::X86_64, slot).unwrap_err().status, Status::Error, "{inner}");
    }
}

#[test]
fn flushes_and_barriers_may_be_empty_or_carry_data() {
    for code in [2, 3] {
        for count in 0..=11 {
            let mut slot = slot(&[]);
            (slot[0], slot[1]) = (code, count);
            let request = check(Abi::X86_64, slot).unwrap();
            let (RequestBody::Flush { segments, .. } | RequestBody::Barrier { segments, .. }) = request.body else {
                panic!("neither a flush nor a barrier");
            };
            assert_eq!(segments.len(), usize::from(count));
        }
    }
}

#[test]
fn what_is_not_offered_is_unsupported_and_what_nobody_knows_too() {
    for code in (2..=6).chain([4, 7, 255]) {
        let mut slot = slot(&[(2, "01"), (8, "05")]);
        slot[0] = code;
        let refusal = RawRequest::new(Abi::X86_64, slot).check(&NOTHING).unwrap_err();
        assert_eq!((refusal.id, refusal.status), (5, Status::Unsupported), "{code}");
    }
}

prop_compose! {
    /// A slot whose first bytes often make sense, and whose segments do.
    fn near_slot()(mut bytes in prop::array::uniform(any::<u8>()), head in (0..8_u8, 0..14_u8, 0..600_u16), near: bool,
                   sane in any::<u16>()) -> [u8; SLOT_BYTES_MAX] {
        if near {
            (bytes[0], bytes[1]) = (head.0, head.1);
            bytes[2..4].copy_from_slice(&head.2.to_le_bytes());
            for at in (20..SLOT_BYTES_MAX - 4).step_by(4).filter(|at| sane >> (at / 8) & 1 == 1) {
                (bytes[at], bytes[at + 1]) = (bytes[at] & 3, bytes[at + 1] & 7 | 3);
            }
        }
        bytes
    }
}

proptest! {
    #![proptest_config(ProptestConfig::with_cases(u32::try_from(test_support::cycles(2000, 1_000_000)).unwrap()))]

    #[test]
    fn any_slot_is_understood_as_the_header_says(
        bytes in near_slot(), wide: bool, offered in prop::array::uniform3(any::<bool>()), indirect in 0..4097_u16,
    ) {
        let [flush, barrier, discard] = offered;
        let limits = Limits { flush, barrier, discard, indirect_segments: indirect };
        slot::is_read_as_the_header_says(wide, bytes, &limits);
    }

    #[test]
    fn any_page_is_segments_up_to_the_first_that_is_none(bytes in prop::collection::vec(any::<u8>(), 0..4096), mask: bool) {
        let mut bytes = bytes;
        if mask {
            bytes.chunks_mut(8).filter(|chunk| chunk.len() == 8).for_each(|chunk| (chunk[4], chunk[5]) = (chunk[4] & 3, chunk[5] & 7 | 3));
        }
        let (all, _) = bytes.as_chunks::<8>();
        let good = all.iter().take_while(|segment| segment[4] <= segment[5] && segment[5] <= 7).count();
        for count in [0, good, all.len()] {
            let mut segments = Vec::new();
            let decoded = decode_segments(&bytes, count, &mut segments);
            prop_assert_eq!((decoded.is_ok(), segments.len()), (count <= good, count.min(good)));
        }
    }

    #[test]
    fn any_answer_of_a_backend_is_read(bytes in prop::collection::vec(any::<u8>(), 12..17), wide: bool) {
        let response = Response::decode(&bytes);
        prop_assert_eq!(&response.id.to_le_bytes()[..], &bytes[..8]);
        prop_assert_eq!(response.operation.number(), bytes[8]);
        let (again, length) = response.encode(if wide { Abi::X86_64 } else { Abi::X86_32 });
        prop_assert_eq!(Response::decode(&again[..length]), response);
    }
}

proptest! {
    #[test]
    fn any_slot_is_a_request_or_refused_by_its_own_name(bytes in prop::array::uniform(any::<u8>()), wide: bool) {
        let bytes: [u8; SLOT_BYTES_MAX] = bytes;
        let abi = if wide { Abi::X86_64 } else { Abi::X86_32 };
        let raw = RawRequest::new(abi, bytes);
        match raw.check(&ALL) {
            Ok(request) => {
                prop_assert_eq!(request.id, raw.id());
                let again = RawRequest::new(abi, request.encode(abi, 0)).check(&ALL);
                prop_assert_eq!(again, Ok(request));
            }
            Err(refusal) => prop_assert_eq!(refusal.id, raw.id()),
        }
    }
}

#[test]
fn whatever_is_in_a_slot_is_read_as_the_header_says() {
    test_support::feed("slot", 160, (4000, 1_000_000), slot::anything);
}
