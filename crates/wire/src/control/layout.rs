//! Where the fields of a message are.
//!
//! ```text
//!   pid          8 pid
//!   image        8 sectors (8)    16 sector size    20 information
//!   parameters   8 flags   12 devnum   16 domid   20 path (256)   276 parent   280 timeout (2)   282 secondary (256)
//!   minors       8 count   12 minor (4 each, 63 of them)
//!   response     8 error   12 text (256)
//!   list         8 count   12 minor   16 state   20 path (256)
//!   statistics  16 length (8)
//!   ring         8 domid   12 devid   16 grant reference (4 each, 8)   48 order   52 protocol   56 pool (256)
//!              312 port   316 poll microseconds   320 idle percent
//! ```

use super::message::MESSAGE_BYTES;
use super::text::{TEXT_BYTES, Text};

pub(super) const KIND: usize = 0;
pub(super) const COOKIE: usize = 2;

pub(super) const PID: usize = 8;

pub(super) mod image {
    pub(in super::super) const SECTORS: usize = 8;
    pub(in super::super) const SECTOR_SIZE: usize = 16;
    pub(in super::super) const INFORMATION: usize = 20;
}

pub(super) mod parameters {
    pub(in super::super) const FLAGS: usize = 8;
    pub(in super::super) const DEVNUM: usize = 12;
    pub(in super::super) const DOMID: usize = 16;
    pub(in super::super) const PATH: usize = 20;
    pub(in super::super) const PARENT: usize = 276;
    pub(in super::super) const TIMEOUT: usize = 280;
    pub(in super::super) const SECONDARY: usize = 282;
}

pub(super) mod minors {
    pub(in super::super) const COUNT: usize = 8;
    pub(in super::super) const LIST: usize = 12;
    pub(in super::super) const COUNT_MAX: usize = 63;
}

pub(super) const RESPONSE_ERROR: usize = 8;
pub(super) const RESPONSE_TEXT: usize = 12;

pub(super) mod list {
    pub(in super::super) const COUNT: usize = 8;
    pub(in super::super) const MINOR: usize = 12;
    pub(in super::super) const STATE: usize = 16;
    pub(in super::super) const PATH: usize = 20;
}

pub(super) const STATISTICS_LENGTH: usize = 16;

pub(super) mod ring {
    pub(in super::super) const DOMID: usize = 8;
    pub(in super::super) const DEVID: usize = 12;
    pub(in super::super) const REFERENCES: usize = 16;
    pub(in super::super) const ORDER: usize = 48;
    pub(in super::super) const PROTOCOL: usize = 52;
    pub(in super::super) const POOL: usize = 56;
    pub(in super::super) const PORT: usize = 312;
    pub(in super::super) const POLL_DURATION: usize = 316;
    pub(in super::super) const POLL_IDLE_THRESHOLD: usize = 320;
}

/// Where every message, of whatever type, must hold a NUL: where the path is, if there is one.
pub(super) const TERMINATED: usize = 20;

/// The bytes of one message, read and written by field.
pub(super) struct Fields(pub(super) [u8; MESSAGE_BYTES]);

impl Fields {
    fn array<const N: usize>(&self, at: usize) -> [u8; N] {
        *self.0[at..].first_chunk().expect("every field lies inside the message")
    }

    fn put(&mut self, at: usize, bytes: &[u8]) {
        self.0[at..at + bytes.len()].copy_from_slice(bytes);
    }

    pub(super) fn u16(&self, at: usize) -> u16 {
        u16::from_le_bytes(self.array(at))
    }

    pub(super) fn u32(&self, at: usize) -> u32 {
        u32::from_le_bytes(self.array(at))
    }

    pub(super) fn i32(&self, at: usize) -> i32 {
        i32::from_le_bytes(self.array(at))
    }

    pub(super) fn u64(&self, at: usize) -> u64 {
        u64::from_le_bytes(self.array(at))
    }

    /// The string at `at`, if it is terminated.
    pub(super) fn text(&self, at: usize) -> Option<Text> {
        Text::from_field(&self.array::<TEXT_BYTES>(at))
    }

    pub(super) fn put_u16(&mut self, at: usize, value: u16) {
        self.put(at, &value.to_le_bytes());
    }

    pub(super) fn put_u32(&mut self, at: usize, value: u32) {
        self.put(at, &value.to_le_bytes());
    }

    pub(super) fn put_i32(&mut self, at: usize, value: i32) {
        self.put(at, &value.to_le_bytes());
    }

    pub(super) fn put_u64(&mut self, at: usize, value: u64) {
        self.put(at, &value.to_le_bytes());
    }

    pub(super) fn put_text(&mut self, at: usize, text: &Text) {
        self.put(at, &text.to_field());
    }
}
