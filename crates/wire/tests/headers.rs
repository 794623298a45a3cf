//! Block rings and XenStore messages against Xen's public headers, as a compiler lays them out for 64-bit and 32-bit guests.

#![cfg(target_arch = "x86_64")]

use test_support::{Facts, XEN_HEADERS};
use wire::{
    blkif::{
        Abi, DiscardFlags, INDIRECT_PAGES_MAX, IndirectPages, OperationCode, RING_HEADER_BYTES, RING_ORDER_MAX,
        RING_PAGE_BYTES, Request, RequestBody, Response, SEGMENT_BYTES, SEGMENTS_MAX, Segment, Status, Transfer,
    },
    xenstore::{ABSOLUTE_PATH_BYTES_MAX, HEADER_BYTES, Operation, PAYLOAD_BYTES_MAX, RELATIVE_PATH_BYTES_MAX},
};

const HEAD: &str = "#include <stdint.h>
#include <stddef.h>
#define memset __builtin_memset
#include <xen/io/blkif.h>
#include <xen/io/protocols.h>
#include <xen/io/xs_wire.h>
";

/// Values that are nowhere else in a slot.
const ID: u64 = 0x1111_2222_3333_4444;
const SECTOR: u64 = 0x5555_6666_7777_8888;
const SECTORS: u64 = 0x9999_aaaa_bbbb_cccc;
const GRANT: u32 = 0xdddd_eeee;
const HANDLE: u16 = 0x1234;
const COUNT: u16 = 0x0765;

/// Where bytes are in a slot.
fn find(slot: &[u8], bytes: &[u8]) -> usize {
    slot.windows(bytes.len()).position(|window| window == bytes).unwrap_or(usize::MAX)
}

/// What has the same place in all kinds of requests.
fn common(facts: &mut Facts, kind: &str, slot: &[u8]) {
    facts.is(&format!("offsetof({kind}, operation)"), 0);
    facts.is(&format!("offsetof({kind}, id)"), find(slot, &ID.to_le_bytes()));
    facts.is(&format!("offsetof({kind}, sector_number)"), find(slot, &SECTOR.to_le_bytes()));
}

fn requests(facts: &mut Facts, abi: Abi) {
    let slot = |operation, body| Request { id: ID, operation, body }.encode(abi, HANDLE);
    let segments = vec![Segment::new(GRANT, 3, 5).expect("sectors of a page"); 2];
    let transfer = RequestBody::Transfer { transfer: Transfer::Write, sector: SECTOR, segments };
    let transfer = slot(OperationCode::Write, transfer);
    common(facts, "blkif_request_t", &transfer);
    facts.is("offsetof(blkif_request_t, nr_segments)", find(&transfer, &[2]));
    facts.is("offsetof(blkif_request_t, handle)", find(&transfer, &HANDLE.to_le_bytes()));
    facts.is("offsetof(blkif_request_t, seg[0].gref)", find(&transfer, &GRANT.to_le_bytes()));
    facts.is("offsetof(blkif_request_t, seg[0].first_sect)", find(&transfer, &[3]));
    facts.is("offsetof(blkif_request_t, seg[0].last_sect)", find(&transfer, &[5]));
    facts.is("sizeof(struct blkif_request_segment)", SEGMENT_BYTES);

    let flags = DiscardFlags::SECURE;
    let discard = slot(OperationCode::Discard, RequestBody::Discard { sector: SECTOR, sectors: SECTORS, flags });
    common(facts, "blkif_request_discard_t", &discard);
    facts.is("offsetof(blkif_request_discard_t, flag)", find(&discard, &[flags.bits()]));
    facts.is("offsetof(blkif_request_discard_t, nr_sectors)", find(&discard, &SECTORS.to_le_bytes()));

    let pages = IndirectPages::new([GRANT; INDIRECT_PAGES_MAX], COUNT);
    let indirect =
        slot(OperationCode::Write, RequestBody::Indirect { transfer: Transfer::Write, sector: SECTOR, pages });
    let kind = "blkif_request_indirect_t";
    common(facts, kind, &indirect);
    facts.is(&format!("offsetof({kind}, indirect_op)"), find(&indirect, &[OperationCode::Write.number()]));
    facts.is(&format!("offsetof({kind}, nr_segments)"), find(&indirect, &COUNT.to_le_bytes()));
    facts.is(&format!("offsetof({kind}, handle)"), find(&indirect, &HANDLE.to_le_bytes()));
    facts.is(&format!("offsetof({kind}, indirect_grefs)"), find(&indirect, &GRANT.to_le_bytes()));
}

fn responses(facts: &mut Facts, abi: Abi) {
    let response = Response { id: ID, operation: OperationCode::Discard, status: Status::Unsupported };
    let (bytes, length) = response.encode(abi);
    facts.is("sizeof(blkif_response_t)", length);
    facts.is("offsetof(blkif_response_t, id)", find(&bytes, &ID.to_le_bytes()));
    facts.is("offsetof(blkif_response_t, operation)", find(&bytes, &[OperationCode::Discard.number()]));
    facts.is("offsetof(blkif_response_t, status)", find(&bytes, &Status::Unsupported.number().to_le_bytes()));
}

fn ring(facts: &mut Facts, abi: Abi) {
    facts.is("sizeof(union blkif_sring_entry)", abi.slot_bytes());
    facts.is("offsetof(struct blkif_sring, ring)", RING_HEADER_BYTES);
    for (word, at) in [("req_prod", 0), ("req_event", 4), ("rsp_prod", 8), ("rsp_event", 12)] {
        facts.is(&format!("offsetof(struct blkif_sring, {word})"), at);
    }
    for order in 0..=RING_ORDER_MAX {
        let slots = abi.slots(order).expect("rings may be so large");
        facts.is(&format!("__CONST_RING_SIZE(blkif, {})", RING_PAGE_BYTES << order), slots);
    }
}

fn numbers(facts: &mut Facts) {
    for (name, code) in [
        ("READ", OperationCode::Read),
        ("WRITE", OperationCode::Write),
        ("WRITE_BARRIER", OperationCode::WriteBarrier),
        ("FLUSH_DISKCACHE", OperationCode::FlushDiskCache),
        ("DISCARD", OperationCode::Discard),
        ("INDIRECT", OperationCode::Indirect),
    ] {
        facts.is(&format!("BLKIF_OP_{name}"), code.number());
    }
    for (name, status) in [("OKAY", Status::Okay), ("ERROR", Status::Error), ("EOPNOTSUPP", Status::Unsupported)] {
        facts.is(&format!("BLKIF_RSP_{name}"), status.number());
    }
    facts.is("BLKIF_DISCARD_SECURE", DiscardFlags::SECURE.bits());
    facts.is("BLKIF_MAX_SEGMENTS_PER_REQUEST", SEGMENTS_MAX);
    facts.is("BLKIF_MAX_INDIRECT_PAGES_PER_REQUEST", INDIRECT_PAGES_MAX);
    for (name, abi) in [("X86_32", Abi::X86_32), ("X86_64", Abi::X86_64)] {
        // Behind the text there is a zero.
        facts.is(&format!("sizeof(XEN_IO_PROTO_ABI_{name})"), abi.protocol().len() + 1);
    }
}

#[test]
fn block_rings_are_laid_out_as_guests_of_both_kinds_have_them() {
    let Some(root) = XEN_HEADERS.root("headers of Xen: block rings") else { return };
    for (abi, machine) in [(Abi::X86_64, "-m64"), (Abi::X86_32, "-m32")] {
        let mut facts = Facts::default();
        ring(&mut facts, abi);
        requests(&mut facts, abi);
        responses(&mut facts, abi);
        numbers(&mut facts);
        facts.hold(HEAD, &root.join("usr/include"), &[machine, "-ffreestanding"]);
    }
}

#[test]
fn messages_of_xenstore_have_the_numbers_of_the_header() {
    let Some(root) = XEN_HEADERS.root("headers of Xen: XenStore") else { return };
    let mut facts = Facts::default();
    for (name, operation) in [
        ("CONTROL", Operation::Control),
        ("DIRECTORY", Operation::Directory),
        ("READ", Operation::Read),
        ("GET_PERMS", Operation::GetPermissions),
        ("WATCH", Operation::Watch),
        ("UNWATCH", Operation::Unwatch),
        ("TRANSACTION_START", Operation::TransactionStart),
        ("TRANSACTION_END", Operation::TransactionEnd),
        ("INTRODUCE", Operation::Introduce),
        ("RELEASE", Operation::Release),
        ("GET_DOMAIN_PATH", Operation::GetDomainPath),
        ("WRITE", Operation::Write),
        ("MKDIR", Operation::MakeDirectory),
        ("RM", Operation::Remove),
        ("SET_PERMS", Operation::SetPermissions),
        ("WATCH_EVENT", Operation::WatchEvent),
        ("ERROR", Operation::Error),
        ("IS_DOMAIN_INTRODUCED", Operation::IsDomainIntroduced),
        ("RESUME", Operation::Resume),
        ("SET_TARGET", Operation::SetTarget),
        ("RESET_WATCHES", Operation::ResetWatches),
        ("DIRECTORY_PART", Operation::DirectoryPart),
    ] {
        facts.is(&format!("XS_{name}"), operation.number());
    }
    facts.is("sizeof(struct xsd_sockmsg)", HEADER_BYTES);
    facts.is("XENSTORE_PAYLOAD_MAX", PAYLOAD_BYTES_MAX);
    facts.is("XENSTORE_ABS_PATH_MAX", ABSOLUTE_PATH_BYTES_MAX);
    facts.is("XENSTORE_REL_PATH_MAX", RELATIVE_PATH_BYTES_MAX);
    facts.hold(HEAD, &root.join("usr/include"), &["-ffreestanding"]);
}
