//! Slots and pages of segments as a guest may have left them, against the words of the public header.

use test_support::Choices;
use wire::blkif::{
    Abi, Limits, RawRequest, Request, RequestBody, Response, SLOT_BYTES_MAX, Segment, Status, decode_segments,
};

/// Bytes of a guest: what it was offered, what it was compiled for, a slot and what is behind it.
pub(crate) fn anything(bytes: &[u8]) {
    let mut choices = Choices::new(bytes);
    let bits = choices.byte();
    let limits = Limits {
        flush: bits & 1 != 0,
        barrier: bits & 2 != 0,
        discard: bits & 4 != 0,
        indirect_segments: u16::from_le_bytes(choices.array()) % 4097,
    };
    let wide = match choices.index(4) {
        0 => false,
        1 => true,
        _ => is_known(choices.clone().take(10)),
    };
    is_read_as_the_header_says(wide, choices.array(), &limits);
    are_segments_up_to_the_first_that_is_none(choices.rest());
}

/// The name of an ABI is known or refused, and says which layout it is.
fn is_known(name: &[u8]) -> bool {
    let name = std::str::from_utf8(name).ok();
    let expected = match name {
        Some("x86_64-abi") => Some(true),
        Some("x86_32-abi") => Some(false),
        None => Some(!cfg!(any(target_arch = "x86", target_arch = "x86_64"))),
        Some(name) => name.starts_with("arm-abi").then_some(true).filter(|_| name.len() == 7),
    };
    assert_eq!(Abi::from_protocol(name).ok().map(|abi| abi == Abi::X86_64), expected, "{name:?}");
    expected.unwrap_or(true)
}

/// A slot is what the header says that it is, goes back with its own name, and says the same when it is written anew.
pub(crate) fn is_read_as_the_header_says(wide: bool, bytes: [u8; SLOT_BYTES_MAX], limits: &Limits) {
    let abi = if wide { Abi::X86_64 } else { Abi::X86_32 };
    let raw = RawRequest::new(abi, bytes);
    let mut expected = read_as_the_header_says(wide, &bytes, limits);
    // Padding means nothing.
    if let Ok((0..=3, _, segments)) = &mut expected {
        segments.iter_mut().for_each(|segment| segment[6..].fill(0));
    }
    let found = raw.check(limits);
    assert_eq!(found.as_ref().map(told).map_err(|refusal| refusal.status), expected);
    match found {
        Ok(request) => {
            assert_eq!(request.id, raw.id());
            let again = RawRequest::new(abi, request.encode(abi, 0)).check(limits);
            assert_eq!(again, Ok(request));
        }
        Err(refusal) => {
            assert_eq!(refusal.id, raw.id());
            let response = Response { id: refusal.id, operation: refusal.operation, status: refusal.status };
            let (answer, length) = response.encode(abi);
            assert_eq!(Response::decode(&answer[..length]), response);
        }
    }
}

fn are_segments_up_to_the_first_that_is_none(bytes: &[u8]) {
    let (all, _) = bytes.as_chunks::<8>();
    let good = all.iter().take_while(|segment| segment[4] <= segment[5] && segment[5] <= 7).count();
    for count in [0, good, all.len()] {
        let mut segments = Vec::new();
        let decoded = decode_segments(bytes, count, &mut segments);
        assert_eq!((decoded.is_ok(), segments.len()), (count <= good, count.min(good)));
    }
}

/// A slot as the public header describes it, field by field: what is asked, or how it is refused.
fn read_as_the_header_says(wide: bool, slot: &[u8], limits: &Limits) -> Result<(u8, u64, Vec<[u8; 8]>), Status> {
    let id = if wide { 8 } else { 4 };
    let number = |at: usize| u64::from_le_bytes(*slot[at..].first_chunk().unwrap());
    let (sector, body) = (number(id + 8), id + 16);
    let segments =
        |count: usize| -> Vec<[u8; 8]> { (0..count).map(|index| number(body + 8 * index).to_le_bytes()).collect() };
    let makes_sense = |segment: &[u8; 8]| segment[4] <= segment[5] && segment[5] <= 7;
    let with_segments = |least: u8| match slot[1] {
        count if (least..=11).contains(&count) => Some(segments(usize::from(count))),
        _ => None,
    };
    let all = |found: Option<Vec<[u8; 8]>>| {
        let found = found.filter(|segments| segments.iter().all(makes_sense)).ok_or(Status::Error)?;
        Ok((slot[0], sector, found))
    };
    let offered = |offered: bool| if offered { Ok(()) } else { Err(Status::Unsupported) };
    match slot[0] {
        0 | 1 => all(with_segments(1)),
        2 => offered(limits.barrier).and_then(|()| all(with_segments(0))),
        3 => offered(limits.flush).and_then(|()| all(with_segments(0))),
        5 => offered(limits.discard).map(|()| (5, sector, vec![number(body).to_le_bytes()])),
        6 => {
            offered(limits.indirect_segments > 0)?;
            let count = u16::from_le_bytes([slot[2], slot[3]]);
            if slot[1] > 1 || count == 0 || count > limits.indirect_segments {
                return Err(Status::Error);
            }
            let pages = usize::from(count.div_ceil(512));
            let page = |index: usize| number(body + 4 + 4 * index) & 0xffff_ffff;
            Ok((6, sector, (0..pages).map(|index| page(index).to_le_bytes()).collect()))
        }
        _ => Err(Status::Unsupported),
    }
}

/// What was made of a slot, in the same terms.
fn told(request: &Request) -> (u8, u64, Vec<[u8; 8]>) {
    let bytes = |segments: &[Segment]| segments.iter().map(|segment| segment.encode()).collect();
    match &request.body {
        RequestBody::Transfer { transfer, sector, segments } => {
            (transfer.operation().number(), *sector, bytes(segments))
        }
        RequestBody::Barrier { sector, segments } => (2, *sector, bytes(segments)),
        RequestBody::Flush { sector, segments } => (3, *sector, bytes(segments)),
        RequestBody::Discard { sector, sectors, .. } => (5, *sector, vec![sectors.to_le_bytes()]),
        RequestBody::Indirect { sector, pages, .. } => {
            (6, *sector, pages.pages().map(|(grant, _)| u64::from(grant).to_le_bytes()).collect())
        }
    }
}
