//! The words that every other crate speaks: positions, ranges, requests, outcomes and errors.
//!
//! ```text
//!   Request { tag, operation } --> virtual disk --> Outcome
//!                  |                                  |
//!             GuestRange                            Error { kind, context, source, origin }
//! ```
//!
//! No I/O, no memory management, no protocol code and no errno is decided here: a position on the disk
//! ([`GuestOffset`]) and a position in an image file ([`FileOffset`]) are different types, and an [`Error`] says what
//! went wrong in words while it keeps the operating system's own number as its source.

#![forbid(unsafe_code)]

mod error;
mod extent;
mod offset;
mod request;

pub use error::{Error, ErrorKind, Origin, Result, ResultExt};
pub use extent::{Extent, ExtentKind};
pub use offset::{FileOffset, FileRange, GuestOffset, GuestRange, SECTOR};
pub use request::{Operation, Outcome, Request, Tag};
