//! A request of the transmission phase.
//!
//! ```text
//!   0        4        6        8                16               24       28
//!   | magic  | flags  | type   | cookie         | offset         | length |  (data of a write)
//! ```

use block_core::{Error, ErrorKind, Result};

use super::constants::{CommandFlags, REQUEST_BYTES, REQUEST_MAGIC};
use crate::scan::Scan;

/// What a request asks for.
#[derive(Clone, Copy, Debug, PartialEq, Eq, Hash)]
pub enum Command {
    /// Bytes of the export.
    Read,
    /// Put the bytes that follow the request on the export.
    Write,
    /// The client will send nothing more; there is no answer.
    Disconnect,
    /// Make what was answered survive a loss of power.
    Flush,
    /// The content of the range no longer matters.
    Trim,
    /// The range will be read soon.
    Cache,
    /// The range must read as zeroes.
    WriteZeroes,
    /// What the range consists of.
    BlockStatus,
    /// A number that is not known here; it is answered with `Inval`.
    Unknown(u16),
}

impl Command {
    /// What a number on the wire means.
    pub const fn from_number(number: u16) -> Self {
        match number {
            0 => Command::Read,
            1 => Command::Write,
            2 => Command::Disconnect,
            3 => Command::Flush,
            4 => Command::Trim,
            5 => Command::Cache,
            6 => Command::WriteZeroes,
            7 => Command::BlockStatus,
            unknown => Command::Unknown(unknown),
        }
    }

    /// The number on the wire.
    pub const fn number(self) -> u16 {
        match self {
            Command::Read => 0,
            Command::Write => 1,
            Command::Disconnect => 2,
            Command::Flush => 3,
            Command::Trim => 4,
            Command::Cache => 5,
            Command::WriteZeroes => 6,
            Command::BlockStatus => 7,
            Command::Unknown(number) => number,
        }
    }

    /// The flags that the protocol documents for this command. FUA is allowed everywhere, since clients are known to set
    /// it on commands that write nothing.
    pub const fn flags_allowed(self) -> CommandFlags {
        let of_its_own = match self {
            Command::Read => CommandFlags::DF,
            Command::WriteZeroes => CommandFlags::NO_HOLE.union(CommandFlags::FAST_ZERO),
            Command::BlockStatus => CommandFlags::REQ_ONE,
            _ => CommandFlags::EMPTY,
        };
        CommandFlags::FUA.union(of_its_own)
    }
}

/// The fixed part of a request.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct RequestHeader {
    /// How to carry it out.
    pub flags: CommandFlags,
    /// What is asked.
    pub command: Command,
    /// The client's name for it, repeated in the reply.
    pub cookie: u64,
    /// The first byte it is about.
    pub offset: u64,
    /// How many bytes it is about.
    pub length: u32,
}

impl RequestHeader {
    /// Reads a request. A wrong magic means that the two sides no longer agree where requests begin: the connection is
    /// of no more use.
    pub fn decode(bytes: &[u8; REQUEST_BYTES]) -> Result<Self> {
        let mut scan = Scan::new(bytes);
        let mut fields = || {
            let magic = scan.u32()?;
            let header = RequestHeader {
                flags: CommandFlags::from_bits(scan.u16()?),
                command: Command::from_number(scan.u16()?),
                cookie: scan.u64()?,
                offset: scan.u64()?,
                length: scan.u32()?,
            };
            Some((magic, header))
        };
        match fields().expect("28 bytes hold the six fields of a request") {
            (REQUEST_MAGIC, header) => Ok(header),
            (magic, _) => Err(Error::new(ErrorKind::Invalid, format!("nbd request: magic {magic:#010x}"))),
        }
    }

    /// The request as bytes.
    pub fn encode(&self) -> [u8; REQUEST_BYTES] {
        let mut bytes = [0; REQUEST_BYTES];
        bytes[0..4].copy_from_slice(&REQUEST_MAGIC.to_be_bytes());
        bytes[4..6].copy_from_slice(&self.flags.bits().to_be_bytes());
        bytes[6..8].copy_from_slice(&self.command.number().to_be_bytes());
        bytes[8..16].copy_from_slice(&self.cookie.to_be_bytes());
        bytes[16..24].copy_from_slice(&self.offset.to_be_bytes());
        bytes[24..28].copy_from_slice(&self.length.to_be_bytes());
        bytes
    }

    /// How many bytes of data follow the header. They must be taken off the stream even if the request is refused.
    pub const fn data_length(&self) -> u32 {
        match self.command {
            Command::Write => self.length,
            _ => 0,
        }
    }

    /// The flags that the command must not carry; if there are any, the request is answered with `Inval`.
    pub const fn flags_undue(&self) -> CommandFlags {
        self.flags.without(self.command.flags_allowed())
    }
}
