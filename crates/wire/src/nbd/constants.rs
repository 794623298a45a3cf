//! Numbers of the NBD protocol, and the limits that we set where the protocol leaves them open.

use crate::flags::flags;

/// `NBDMAGIC`, the first bytes of every greeting.
pub const NBD_MAGIC: u64 = 0x4e42_444d_4147_4943;
/// `IHAVEOPT`, the second word of a newstyle greeting, and the first of every option.
pub const OPTION_MAGIC: u64 = 0x4948_4156_454f_5054;
/// The second word of an oldstyle greeting.
pub const OLDSTYLE_MAGIC: u64 = 0x0000_4202_8186_1253;
/// The first word of an answer to an option.
pub const OPTION_REPLY_MAGIC: u64 = 0x0003_e889_0455_65a9;
/// The first word of a request.
pub const REQUEST_MAGIC: u32 = 0x2560_9513;
/// The first word of a simple reply.
pub const SIMPLE_REPLY_MAGIC: u32 = 0x6744_6698;
/// The first word of a chunk of a structured reply.
pub const STRUCTURED_REPLY_MAGIC: u32 = 0x668e_33ef;

/// Bytes of a newstyle greeting.
pub const GREETING_BYTES: usize = 18;
/// Bytes of an oldstyle greeting.
pub const OLDSTYLE_GREETING_BYTES: usize = 152;
/// Reserved bytes behind an oldstyle greeting, and behind the answer to EXPORT_NAME unless the client waived them.
pub const RESERVED_ZEROES: usize = 124;
/// Bytes in front of an option's data.
pub const OPTION_HEADER_BYTES: usize = 16;
/// Bytes in front of the data of an answer to an option.
pub const OPTION_REPLY_HEADER_BYTES: usize = 20;
/// Bytes of a request, without the data of a write.
pub const REQUEST_BYTES: usize = 28;
/// Bytes of a simple reply, without the data of a read.
pub const SIMPLE_REPLY_BYTES: usize = 16;
/// Bytes in front of the payload of a chunk.
pub const CHUNK_HEADER_BYTES: usize = 20;
/// Bytes in front of the data of an `OFFSET_DATA` chunk: its header and the offset.
pub const DATA_CHUNK_HEADER_BYTES: usize = CHUNK_HEADER_BYTES + 8;

/// The longest string of the protocol: names, queries, messages.
pub const STRING_BYTES_MAX: usize = 4096;
/// The longest option data that is looked into; longer ones are skipped and refused.
pub const OPTION_BYTES_PARSED_MAX: usize = 8192;
/// The longest option data that is skipped; a client that announces more is cut off.
pub const OPTION_BYTES_SKIPPED_MAX: u32 = 64 << 20;
/// How many options a client may send before it is cut off.
pub const OPTIONS_MAX: u32 = 32;

/// The name of the one metadata context that the protocol itself defines.
pub const BASE_ALLOCATION: &str = "base:allocation";

/// The smallest preferred block size that the protocol lets a server announce.
pub const PREFERRED_BLOCK_SIZE_MIN: u32 = 512;

flags! {
    /// What a server says about itself in a newstyle greeting.
    HandshakeFlags: u16 {
        /// Options other than EXPORT_NAME are understood and answered.
        FIXED_NEWSTYLE = 1 << 0,
        /// The reserved zeroes may be waived.
        NO_ZEROES = 1 << 1,
    }
}

flags! {
    /// A client's answer to the greeting.
    ClientFlags: u32 {
        /// The client understands answers to options.
        FIXED_NEWSTYLE = 1 << 0,
        /// The client waives the reserved zeroes.
        NO_ZEROES = 1 << 1,
    }
}

flags! {
    /// What an export offers.
    TransmissionFlags: u16 {
        /// Always set: the field holds flags.
        HAS_FLAGS = 1 << 0,
        /// Writes are refused.
        READ_ONLY = 1 << 1,
        /// FLUSH is offered.
        SEND_FLUSH = 1 << 2,
        /// The command flag FUA is offered.
        SEND_FUA = 1 << 3,
        /// The medium rotates.
        ROTATIONAL = 1 << 4,
        /// TRIM is offered.
        SEND_TRIM = 1 << 5,
        /// WRITE_ZEROES and the command flag NO_HOLE are offered.
        SEND_WRITE_ZEROES = 1 << 6,
        /// The command flag DF is offered; only with structured replies.
        SEND_DF = 1 << 7,
        /// All connections see one cache: what one has flushed is flushed for all.
        CAN_MULTI_CONN = 1 << 8,
        /// RESIZE is offered (experimental).
        SEND_RESIZE = 1 << 9,
        /// CACHE is offered.
        SEND_CACHE = 1 << 10,
        /// The command flag FAST_ZERO is offered.
        SEND_FAST_ZERO = 1 << 11,
    }
}

flags! {
    /// How a command is to be carried out.
    CommandFlags: u16 {
        /// Answer only when what was written would survive a loss of power.
        FUA = 1 << 0,
        /// WRITE_ZEROES must leave room behind it, not a hole.
        NO_HOLE = 1 << 1,
        /// READ is to be answered with one content chunk.
        DF = 1 << 2,
        /// BLOCK_STATUS is to be answered with one extent.
        REQ_ONE = 1 << 3,
        /// WRITE_ZEROES must fail at once if it is not faster than a write.
        FAST_ZERO = 1 << 4,
        /// The length counts bytes that follow the request (extended headers only).
        PAYLOAD_LEN = 1 << 5,
    }
}

flags! {
    /// What `base:allocation` says of an extent.
    StateFlags: u32 {
        /// No room is given to it.
        HOLE = 1 << 0,
        /// It reads as zeroes.
        ZERO = 1 << 1,
    }
}

flags! {
    /// Flags of a chunk of a structured reply.
    ChunkFlags: u16 {
        /// No more chunks answer this request.
        DONE = 1 << 0,
    }
}

/// Why a request failed. Other numbers are not part of the protocol.
#[derive(Clone, Copy, Debug, PartialEq, Eq, Hash)]
#[repr(u32)]
pub enum ErrorCode {
    /// Not permitted: a write to a read-only export.
    Perm = 1,
    /// The storage failed.
    Io = 5,
    /// Out of memory.
    Nomem = 12,
    /// The request makes no sense.
    Inval = 22,
    /// No space left, or a write beyond the end of the export.
    Nospc = 28,
    /// A read that must not be fragmented is too long.
    Overflow = 75,
    /// Zeroing is not fast here.
    Notsup = 95,
    /// The server is going away.
    Shutdown = 108,
}

impl ErrorCode {
    /// Every code, in order.
    pub const ALL: [ErrorCode; 8] = [
        ErrorCode::Perm,
        ErrorCode::Io,
        ErrorCode::Nomem,
        ErrorCode::Inval,
        ErrorCode::Nospc,
        ErrorCode::Overflow,
        ErrorCode::Notsup,
        ErrorCode::Shutdown,
    ];

    /// The number on the wire.
    pub const fn number(self) -> u32 {
        self as u32
    }

    /// What a number on the wire means. The protocol asks a client to take a stranger for `Inval`.
    pub fn from_number(number: u32) -> Self {
        Self::ALL.into_iter().find(|code| code.number() == number).unwrap_or(ErrorCode::Inval)
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn magics_spell_what_the_protocol_says() {
        assert_eq!(&NBD_MAGIC.to_be_bytes(), b"NBDMAGIC");
        assert_eq!(&OPTION_MAGIC.to_be_bytes(), b"IHAVEOPT");
    }

    #[test]
    fn error_codes_have_the_numbers_of_the_protocol() {
        assert_eq!(ErrorCode::ALL.map(ErrorCode::number), [1, 5, 12, 22, 28, 75, 95, 108]);
        assert!(ErrorCode::ALL.into_iter().all(|code| ErrorCode::from_number(code.number()) == code));
        assert_eq!(ErrorCode::from_number(116), ErrorCode::Inval);
    }
}
