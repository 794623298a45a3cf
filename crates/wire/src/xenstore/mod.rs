//! The XenStore protocol, as bytes: one message format for requests, replies and events, both ways.
//!
//! ```text
//!   0      4            8             12       16
//!   | type | request id | transaction | length | payload: strings, each ended by a zero byte, or a value ... |
//! ```
//!
//! Integers are those of the machine, which is little-endian wherever Xen runs. A reply carries the type, request id and
//! transaction of its request, or the type ERROR and the name of an errno. Source: Xen's `docs/misc/xenstore.txt` and
//! public header `io/xs_wire.h`.

mod error;
mod message;
mod operation;
mod path;
mod payload;
mod permission;

pub use error::{ErrorName, UnknownErrorName};
pub use message::{HEADER_BYTES, Header, Message, MessageReader, PAYLOAD_BYTES_MAX, TooLong, put_error, put_message};
pub use operation::Operation;
pub use path::{ABSOLUTE_PATH_BYTES_MAX, Path, PathError, RELATIVE_PATH_BYTES_MAX};
pub use payload::{Malformed, Strings, WatchEvent, path_and_rest, strings, transaction_id};
pub use permission::{Access, Permission, PermissionError, put_permissions};
