//! A response, which takes the place of a request in the ring.
//!
//! ```text
//!   0            8           9     10       12 (16 in the 64-bit layout)
//!   | id         | operation | pad | status | pad |
//! ```

use super::{Abi, OperationCode};

/// How a request ended.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Status {
    /// It was done.
    Okay,
    /// It failed.
    Error,
    /// It is not offered: the guest does not ask again.
    Unsupported,
}

impl Status {
    /// The number in the ring.
    pub const fn number(self) -> i16 {
        match self {
            Status::Okay => 0,
            Status::Error => -1,
            Status::Unsupported => -2,
        }
    }

    /// What a number in the ring means; a frontend takes all others for an error.
    pub const fn from_number(number: i16) -> Status {
        match number {
            0 => Status::Okay,
            -2 => Status::Unsupported,
            _ => Status::Error,
        }
    }
}

/// The answer to a request.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct Response {
    /// The name that the guest gave the request.
    pub id: u64,
    /// What was asked; of an indirect request what it carried. Guests disable a disk that answers something else.
    pub operation: OperationCode,
    /// How it ended.
    pub status: Status,
}

impl Response {
    /// Its bytes and how many of them there are. Padding is zero: nothing of ours leaks to the guest.
    pub fn encode(self, abi: Abi) -> ([u8; 16], usize) {
        let mut bytes = [0; 16];
        bytes[..8].copy_from_slice(&self.id.to_le_bytes());
        bytes[8] = self.operation.number();
        bytes[10..12].copy_from_slice(&self.status.number().to_le_bytes());
        (bytes, abi.response_bytes())
    }

    /// What a frontend finds in a slot.
    ///
    /// # Panics
    /// When there are fewer than twelve bytes.
    pub fn decode(bytes: &[u8]) -> Response {
        let id = u64::from_le_bytes(*bytes.first_chunk().expect("a response has at least twelve bytes"));
        let operation = OperationCode::from_number(bytes[8]);
        let status = Status::from_number(i16::from_le_bytes([bytes[10], bytes[11]]));
        Response { id, operation, status }
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn bytes_of_a_response() {
        let response =
            Response { id: 0x1122_3344_5566_7788, operation: OperationCode::Write, status: Status::Unsupported };
        let (bytes, length) = response.encode(Abi::X86_64);
        let expected = [0x88, 0x77, 0x66, 0x55, 0x44, 0x33, 0x22, 0x11, 1, 0, 0xfe, 0xff, 0, 0, 0, 0];
        assert_eq!((bytes, length), (expected, 16));
        assert_eq!(response.encode(Abi::X86_32).1, 12);
        assert_eq!(Response::decode(&bytes[..12]), response);
    }

    #[test]
    fn what_is_no_known_status_is_an_error() {
        let statuses = [0, -1, -2, -3, 1, i16::MIN].map(Status::from_number);
        use Status::*;
        assert_eq!(statuses, [Okay, Error, Unsupported, Error, Error, Error]);
    }
}
