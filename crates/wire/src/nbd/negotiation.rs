//! The server's side of fixed newstyle negotiation: bytes in, what the client wants out.
//!
//! ```text
//!   ClientFlags --4--> Header --16--> Data --length--> Header     short data that is looked into
//!                        |  \--------> Skip --length--> Header     what is refused or ignored, in any length
//!                        \-- length 0 --> Header
//!   every way back to Header is one Event; a wrong magic, an unknown client flag or a limit ends the connection
//! ```

use block_core::{Error, ErrorKind, Result};

use super::constants::{
    ClientFlags, OPTION_BYTES_PARSED_MAX, OPTION_BYTES_SKIPPED_MAX, OPTION_HEADER_BYTES, OPTION_MAGIC, OPTIONS_MAX,
    STRING_BYTES_MAX,
};
use super::option::{OptionCode, OptionError, OptionRequest};
use crate::scan::Scan;

const CLIENT_FLAGS_BYTES: usize = 4;

/// What a client sent.
#[derive(Clone, Debug, PartialEq, Eq)]
pub enum Event {
    /// The answer to the greeting; it needs none itself.
    ClientFlags(ClientFlags),
    /// An option, which waits for an answer.
    Option(OptionRequest),
}

/// Reads a client's part of the negotiation. After an event that begins transmission, do not feed it any more: it has
/// taken no byte of what follows.
#[derive(Debug)]
pub struct Negotiation {
    state: State,
    /// The beginning of what `state` waits for; at most [`OPTION_BYTES_PARSED_MAX`] bytes.
    collected: Vec<u8>,
    options: u32,
}

#[derive(Debug)]
enum State {
    ClientFlags,
    Header,
    Data { option: OptionCode, length: usize },
    Skip { left: u32, then: OptionRequest },
}

/// What is done with an option's data, decided when only its header is known.
enum Plan {
    Collect,
    Skip(OptionRequest),
}

impl Default for Negotiation {
    fn default() -> Self {
        Self::new()
    }
}

impl Negotiation {
    /// A negotiation whose greeting has just been sent.
    pub fn new() -> Self {
        Negotiation { state: State::ClientFlags, collected: Vec::new(), options: 0 }
    }

    /// Takes bytes off the front of `input`: how many, and the event that they complete. Without an event all of `input`
    /// has been taken. An error means that the connection must be closed without an answer.
    pub fn feed(&mut self, input: &[u8]) -> Result<(usize, Option<Event>)> {
        let mut rest = input;
        while !rest.is_empty() {
            let (taken, event) = self.step(rest)?;
            rest = &rest[taken..];
            if event.is_some() {
                return Ok((input.len() - rest.len(), event));
            }
        }
        Ok((input.len(), None))
    }

    /// Takes what the current state waits for, or all there is of it, from a non-empty input.
    fn step(&mut self, input: &[u8]) -> Result<(usize, Option<Event>)> {
        let wanted = match &mut self.state {
            State::ClientFlags => CLIENT_FLAGS_BYTES,
            State::Header => OPTION_HEADER_BYTES,
            State::Data { length, .. } => *length,
            State::Skip { left, .. } => {
                let taken = u32::try_from(input.len()).map_or(*left, |length| length.min(*left));
                *left -= taken;
                let event = if *left == 0 { self.advance()? } else { None };
                return Ok((taken as usize, event));
            }
        };
        let taken = input.len().min(wanted - self.collected.len());
        self.collected.extend_from_slice(&input[..taken]);
        let event = if self.collected.len() == wanted { self.advance()? } else { None };
        Ok((taken, event))
    }

    /// All that the current state waits for is there: goes to the next state.
    fn advance(&mut self) -> Result<Option<Event>> {
        let collected = std::mem::take(&mut self.collected);
        match std::mem::replace(&mut self.state, State::Header) {
            State::ClientFlags => client_flags(&collected).map(|flags| Some(Event::ClientFlags(flags))),
            State::Header => self.begin_option(&collected),
            State::Data { option: OptionCode::EXPORT_NAME, .. } => export_name(&collected).map(Some),
            State::Data { option, .. } => Ok(Some(Event::Option(OptionRequest::parse(option, &collected)))),
            State::Skip { then, .. } => Ok(Some(Event::Option(then))),
        }
    }

    fn begin_option(&mut self, header: &[u8]) -> Result<Option<Event>> {
        let (option, length) = option_header(header)?;
        self.options += 1;
        if self.options > OPTIONS_MAX {
            return Err(Error::new(ErrorKind::LimitReached, format!("nbd option: more than {OPTIONS_MAX}")));
        }
        if length > OPTION_BYTES_SKIPPED_MAX {
            return Err(Error::new(ErrorKind::LimitReached, format!("nbd option {}: {length} bytes", option.0)));
        }
        self.state = match plan(option, length)? {
            Plan::Collect => State::Data { option, length: length as usize },
            Plan::Skip(then) => State::Skip { left: length, then },
        };
        // Nothing will arrive for an option without data.
        if length == 0 { self.advance() } else { Ok(None) }
    }
}

fn client_flags(bytes: &[u8]) -> Result<ClientFlags> {
    let flags = ClientFlags::from_bits(Scan::new(bytes).u32().expect("client flags are four bytes"));
    if flags.unknown().is_empty() {
        Ok(flags)
    } else {
        Err(Error::new(ErrorKind::Unsupported, format!("nbd client flags: {:#x}", flags.bits())))
    }
}

fn option_header(bytes: &[u8]) -> Result<(OptionCode, u32)> {
    let mut scan = Scan::new(bytes);
    let mut fields = || Some((scan.u64()?, OptionCode(scan.u32()?), scan.u32()?));
    match fields().expect("an option header is sixteen bytes") {
        (OPTION_MAGIC, option, length) => Ok((option, length)),
        (magic, ..) => Err(Error::new(ErrorKind::Invalid, format!("nbd option: magic {magic:#018x}"))),
    }
}

fn export_name(bytes: &[u8]) -> Result<Event> {
    let request = OptionRequest::parse_export_name(bytes);
    request.map(Event::Option).ok_or_else(|| Error::new(ErrorKind::Invalid, "nbd export name: holds a NUL"))
}

/// EXPORT_NAME cannot be answered with an error, so a bad one ends the connection. ABORT may carry anything.
fn plan(option: OptionCode, length: u32) -> Result<Plan> {
    let refuse = |error, words| Ok(Plan::Skip(OptionRequest::Refused { option, error, words }));
    let accept_empty = |request| match length {
        0 => Ok(Plan::Skip(request)),
        _ => refuse(OptionError::Invalid, "this option carries no data"),
    };
    match option {
        OptionCode::EXPORT_NAME if length as usize > STRING_BYTES_MAX => {
            Err(Error::new(ErrorKind::LimitReached, format!("nbd export name: {length} bytes")))
        }
        OptionCode::EXPORT_NAME => Ok(Plan::Collect),
        OptionCode::ABORT => Ok(Plan::Skip(OptionRequest::Abort)),
        OptionCode::LIST => accept_empty(OptionRequest::List),
        OptionCode::STARTTLS => accept_empty(OptionRequest::StartTls),
        OptionCode::STRUCTURED_REPLY => accept_empty(OptionRequest::StructuredReply),
        OptionCode::INFO | OptionCode::GO | OptionCode::LIST_META_CONTEXT | OptionCode::SET_META_CONTEXT => {
            if length as usize > OPTION_BYTES_PARSED_MAX {
                refuse(OptionError::TooBig, "too much option data")
            } else {
                Ok(Plan::Collect)
            }
        }
        OptionCode::EXTENDED_HEADERS => refuse(OptionError::Unsupported, "extended headers are not offered"),
        _ => refuse(OptionError::Unsupported, "unknown option"),
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn skipped_data_is_not_kept() {
        let mut negotiation = Negotiation::new();
        negotiation.feed(&[0, 0, 0, 3]).unwrap();
        negotiation.feed(b"IHAVEOPT\0\0\0\x63\x00\x10\0\0").unwrap();
        for _ in 0..100 {
            assert!(matches!(negotiation.feed(&[1; 10_000]).unwrap(), (10_000, None)));
            assert_eq!(negotiation.collected.capacity(), 0);
        }
    }

    #[test]
    fn no_more_is_kept_than_is_parsed() {
        let mut negotiation = Negotiation::new();
        negotiation.feed(&[0, 0, 0, 3]).unwrap();
        let mut trickle = b"IHAVEOPT\0\0\0\x07\0\0\x20\0".to_vec();
        trickle.extend([1; OPTION_BYTES_PARSED_MAX]);
        for byte in trickle {
            negotiation.feed(&[byte]).unwrap();
            assert!(negotiation.collected.capacity() <= OPTION_BYTES_PARSED_MAX);
        }
        assert!(negotiation.collected.is_empty(), "the option is complete");
    }
}
