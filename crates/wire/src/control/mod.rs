//! The control protocol of tapdisk, version "blktap": how `tap-ctl`, `tapback` and toolstacks talk to a tapdisk.
//!
//! One request per connection on a Unix stream socket: a message of [`MESSAGE_BYTES`] bytes, perhaps a log path and a key
//! behind it, then one message or (LIST) a row of messages back, STATS with text behind it.
//!
//! ```text
//!   0      2        4         8                                               544
//!   | type | cookie | padding | one of several layouts, by type               |   (log path 256) (key 1 + n)
//! ```
//!
//! The protocol is in the byte order of the host, and every host that runs it is little-endian, so that is what is
//! written here. What is asked for is not judged: a decoded [`Message`] has terminated strings and a known type, no more.

mod bits;
mod kind;
mod layout;
mod message;
mod reader;
mod text;

pub use bits::{OpenFlags, VbdState};
pub use kind::Kind;
pub use message::{
    ALL_MINORS, Body, DecodeError, Errno, ImageInformation, ListEntry, MESSAGE_BYTES, Message, OpenParameters, Reason,
    RingIdentity, RingParameters,
};
pub use reader::{EncryptionKey, KEY_BYTES_MAX, LOG_PATH_BYTES, MessageReader, Request, RequestReader};
pub use text::{TEXT_BYTES, Text};
