//! The block ring between a Xen guest and its backend, as bytes: slots, requests, responses.
//!
//! ```text
//!   page 0 of the ring          64                64 + slot           64 + 2 slot
//!   | req_prod req_event rsp_prod rsp_event ... | slot 0            | slot 1         | ...
//!
//!   slot --copied once--> RawRequest --check(limits)--> Request        the answer: Response --put--> the slot
//! ```
//!
//! The layout of a slot depends on what the guest was compiled for ([`Abi`]), not on this machine: all integers are
//! little-endian. A slot is memory that the guest may change at any time, so it is copied whole before anybody looks at
//! it; everything here works on the copy. Source: Xen's public headers `io/blkif.h` and `io/ring.h`.

mod abi;
mod request;
mod response;
mod segment;

pub use abi::{Abi, RING_HEADER_BYTES, RING_ORDER_MAX, RING_PAGE_BYTES, SLOT_BYTES_MAX, UnknownAbi};
pub use request::{
    DiscardFlags, INDIRECT_PAGES_MAX, INDIRECT_SEGMENTS_MAX, IndirectPages, Limits, OperationCode, RawRequest, Refusal,
    Request, RequestBody, SEGMENTS_MAX, Transfer,
};
pub use response::{Response, Status};
pub use segment::{PAGE_SECTORS, SEGMENT_BYTES, SEGMENTS_PER_PAGE, Segment, SegmentError, decode_segments};
