//! Messages, out of bytes that come in any portions.

use std::fmt;

use super::{ErrorName, Operation};

/// Bytes in front of a payload.
pub const HEADER_BYTES: usize = 16;
/// The longest payload, both ways; whoever sends more is cut off.
pub const PAYLOAD_BYTES_MAX: usize = 4096;

/// What stands in front of a payload.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct Header {
    /// What it is about.
    pub operation: Operation,
    /// Names the request among those of the connection; comes back with its reply.
    pub request: u32,
    /// The transaction that it is part of; 0: none.
    pub transaction: u32,
    /// Bytes that follow.
    pub length: u32,
}

impl Header {
    /// Its bytes.
    pub fn encode(self) -> [u8; HEADER_BYTES] {
        let mut bytes = [0; HEADER_BYTES];
        let fields = [self.operation.number(), self.request, self.transaction, self.length];
        bytes.as_chunks_mut().0.iter_mut().zip(fields).for_each(|(bytes, field)| *bytes = field.to_le_bytes());
        bytes
    }

    /// What its bytes mean.
    pub fn decode(bytes: &[u8; HEADER_BYTES]) -> Header {
        let field = |index: usize| u32::from_le_bytes(bytes.as_chunks().0[index]);
        Header {
            operation: Operation::from_number(field(0)),
            request: field(1),
            transaction: field(2),
            length: field(3),
        }
    }
}

/// A message: a request, a reply or an event.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct Message {
    /// What it is about.
    pub operation: Operation,
    /// Names the request; events have whatever was in memory.
    pub request: u32,
    /// The transaction that it is part of; 0: none.
    pub transaction: u32,
    /// The rest.
    pub payload: Vec<u8>,
}

/// A message that is longer than the protocol allows: nothing that follows can be understood.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct TooLong {
    /// As the message says.
    pub length: u32,
}

impl fmt::Display for TooLong {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        write!(f, "a message with {} bytes of payload; {PAYLOAD_BYTES_MAX} are allowed", self.length)
    }
}

impl std::error::Error for TooLong {}

/// Puts bytes together until a message is whole. Holds one message at most.
#[derive(Debug, Default)]
pub struct MessageReader {
    received: Vec<u8>,
}

impl MessageReader {
    /// Nothing received yet.
    pub fn new() -> MessageReader {
        MessageReader::default()
    }

    /// Takes bytes up to the end of a message; says how many it took. None is left over unless there is a message.
    ///
    /// # Errors
    /// A message that is too long: the connection is of no use any more.
    pub fn feed(&mut self, bytes: &[u8]) -> Result<(usize, Option<Message>), TooLong> {
        let mut taken = self.fill(bytes, HEADER_BYTES);
        let Some(header) = self.received.first_chunk().map(Header::decode) else { return Ok((taken, None)) };
        let length = usize::try_from(header.length).unwrap_or(usize::MAX);
        if length > PAYLOAD_BYTES_MAX {
            return Err(TooLong { length: header.length });
        }
        taken += self.fill(&bytes[taken..], HEADER_BYTES + length);
        if self.received.len() < HEADER_BYTES + length {
            return Ok((taken, None));
        }
        let payload = self.received.split_off(HEADER_BYTES);
        self.received.clear();
        let Header { operation, request, transaction, .. } = header;
        Ok((taken, Some(Message { operation, request, transaction, payload })))
    }

    /// Whether a message has begun and not ended.
    pub fn is_within_a_message(&self) -> bool {
        !self.received.is_empty()
    }

    fn fill(&mut self, bytes: &[u8], up_to: usize) -> usize {
        let count = bytes.len().min(up_to.saturating_sub(self.received.len()));
        self.received.extend_from_slice(&bytes[..count]);
        count
    }
}

/// Appends a message with these parts as its payload, as they are.
///
/// # Panics
/// When they are longer than a payload may be: whoever makes them has checked.
pub fn put_message(out: &mut Vec<u8>, operation: Operation, request: u32, transaction: u32, parts: &[&[u8]]) {
    let length: usize = parts.iter().map(|part| part.len()).sum();
    assert!(length <= PAYLOAD_BYTES_MAX, "a payload has at most {PAYLOAD_BYTES_MAX} bytes");
    let length = u32::try_from(length).expect("short");
    out.extend(Header { operation, request, transaction, length }.encode());
    parts.iter().for_each(|part| out.extend_from_slice(part));
}

/// Appends the reply to a request that failed.
pub fn put_error(out: &mut Vec<u8>, request: u32, transaction: u32, error: ErrorName) {
    put_message(out, Operation::Error, request, transaction, &[error.name().as_bytes(), b"\0"]);
}

#[cfg(test)]
mod tests {
    use super::*;

    fn two_messages() -> (Vec<u8>, [Message; 2]) {
        let mut bytes = Vec::new();
        put_message(&mut bytes, Operation::Write, 7, 0x0102_0304, &[b"/a\0", b"value"]);
        put_error(&mut bytes, 7, 0, ErrorName::Eagain);
        let first =
            Message { operation: Operation::Write, request: 7, transaction: 0x0102_0304, payload: b"/a\0value".into() };
        let second = Message { operation: Operation::Error, request: 7, transaction: 0, payload: b"EAGAIN\0".into() };
        (bytes, [first, second])
    }

    #[test]
    fn bytes_of_messages() {
        let (bytes, _) = two_messages();
        let first = b"\x0b\0\0\0\x07\0\0\0\x04\x03\x02\x01\x08\0\0\0/a\0value";
        let second = b"\x10\0\0\0\x07\0\0\0\0\0\0\0\x07\0\0\0EAGAIN\0";
        assert_eq!(bytes, [first.as_slice(), second].concat());
    }

    #[test]
    fn messages_are_read_however_they_are_cut() {
        let (bytes, expected) = two_messages();
        for size in 1..=bytes.len() {
            let (mut reader, mut found) = (MessageReader::new(), Vec::new());
            for mut portion in bytes.chunks(size) {
                while !portion.is_empty() {
                    let (taken, message) = reader.feed(portion).unwrap();
                    found.extend(message);
                    portion = &portion[taken..];
                }
            }
            assert_eq!(found, expected, "in portions of {size} bytes");
            assert!(!reader.is_within_a_message());
        }
    }

    #[test]
    fn a_message_without_payload_is_whole_with_its_header() {
        let mut bytes = Vec::new();
        put_message(&mut bytes, Operation::ResetWatches, 1, 0, &[]);
        let (taken, message) = MessageReader::new().feed(&bytes).unwrap();
        assert_eq!((taken, message.unwrap().payload), (16, vec![]));
    }

    #[test]
    fn a_payload_is_long_or_too_long() {
        let mut bytes = Vec::new();
        put_message(&mut bytes, Operation::Read, 1, 0, &[&[b'x'; PAYLOAD_BYTES_MAX]]);
        assert!(MessageReader::new().feed(&bytes).unwrap().1.is_some());
        bytes[12..16].copy_from_slice(&4097_u32.to_le_bytes());
        assert_eq!(MessageReader::new().feed(&bytes), Err(TooLong { length: 4097 }));
        bytes[12..16].copy_from_slice(&u32::MAX.to_le_bytes());
        assert_eq!(MessageReader::new().feed(&bytes[..16]), Err(TooLong { length: u32::MAX }));
    }
}
