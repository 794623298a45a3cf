//! What storage managers, tools and daemons agree on outside the messages themselves: where sockets and markers lie, how
//! minors are handed out, how a tapdisk is started and asked, and which error number means what.
//!
//! ```text
//!   tap-ctl, oxtap, tapback --Client--> $OXTAP_RUN_DIR/ctl<pid> --> tapdisk
//!          |                                                           |
//!          +--allocate, free--> .../tapdisk/tapdisk-<minor> <--hold----+
//! ```
//!
//! The bytes of messages are `wire`'s. Nothing here waits for anybody without saying so, and nothing touches an image.

#![forbid(unsafe_code)]

mod client;
mod connection;
mod errno;
mod host_log;
mod minors;
pub mod native;
mod own_directory;
mod owner;
mod paths;
mod ring_records;
mod spawn;
pub mod stale;

pub use client::{Client, OpenRequest};
pub use errno::{describe, errno, errno_of, reason, symbol};
pub use host_log::{
    Facility, Field, HostLog, HostLogCounters, JOURNAL_VARIABLE, Receivers, Record, SYSLOG_VARIABLE, Severity,
    timestamp,
};
pub use minors::{HeldMinor, MINORS, Marker, Minor, make_directory};
pub use own_directory::OwnDirectory;
pub use owner::{HOTPLUG_VARIABLE, MinorRecord, Opened, Owner};
pub use paths::{LEASE_DIRECTORIES_VARIABLE, RUN_DIRECTORY_VARIABLE, RunDir, leased_directories};
pub use ring_records::{RingRecordFile, RingRecordName, RingRecords};
pub use spawn::{PROGRAM_VARIABLES, Spawned, UNUSED_VARIABLE, spawn, spawn_for_use, spawn_with};
/// The messages themselves.
pub use wire::control as protocol;
