//! The NBD protocol ("Network Block Device", public document `doc/proto.md` of the NBD project).
//!
//! ```text
//!   server                                                        client
//!     put_greeting                 --- greeting --------------->   Greeting::decode
//!     Negotiation::feed -> Event   <-- client flags, options ---   put_client_flags, put_option, put_go ..
//!     OptionAnswer, put_export     --- answers ---------------->   OptionReply::decode, ExportAnswer::decode
//!   ............................. transmission .............................
//!     RequestHeader::decode        <-- request (+ data) --------   RequestHeader::encode
//!     put_simple_reply, put_..     --- reply, chunks ---------->   ReplyHeader::decode, ChunkPayload::decode
//! ```
//!
//! The server half is complete for fixed newstyle without TLS and without extended headers; oldstyle is only a greeting.
//! The client half is what our own tools and tests need. Neither holds guest data: a write's bytes follow its
//! [`RequestHeader`], a read's bytes follow [`put_simple_reply`] or [`put_data_chunk_header`], and the caller moves them.

mod client;
mod constants;
mod negotiation;
mod option;
mod reply;
mod request;

pub use client::{
    ChunkPayload, ExportAnswer, Greeting, Information, OptionReply, ReplyHeader, put_client_flags, put_export_name,
    put_go, put_info, put_meta_contexts, put_option,
};
pub use constants::*;
pub use negotiation::{Event, Negotiation};
pub use option::{
    BlockSizes, ExportQuery, InformationKind, MetaContextQuery, OptionAnswer, OptionCode, OptionError, OptionRequest,
    put_export, put_greeting, put_oldstyle_greeting,
};
pub use reply::{
    BlockDescriptor, ChunkKind, put_block_status, put_data_chunk_header, put_error_chunk, put_hole_chunk,
    put_none_chunk, put_simple_reply,
};
pub use request::{Command, RequestHeader};
