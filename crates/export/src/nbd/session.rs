//! Negotiation: what a client and this server agree on before the first request. Pure: bytes in, bytes out.
//!
//! ```text
//!   greeting --> options and answers --EXPORT_NAME or GO--> transmission (a Session)
//!                      |
//!                      +--ABORT--> the end
//! ```

use block_core::Result;
use virtual_disk::Geometry;
use wire::nbd::{
    BASE_ALLOCATION, BlockSizes, ClientFlags, Event, ExportQuery, InformationKind, Negotiation, OptionCode,
    OptionError, OptionRequest, TransmissionFlags, put_export, put_greeting, put_oldstyle_greeting,
};

use super::{EXPORT_NAME, PREFERRED_BLOCK_BYTES, REQUEST_BYTES_MAX};

/// The number of `base:allocation` in answers to BLOCK_STATUS.
pub(super) const BASE_ALLOCATION_NUMBER: u32 = 1;

/// How a connection begins.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Style {
    /// Fixed newstyle: options, then transmission.
    New,
    /// Oldstyle: a greeting, then transmission. Only for connections that were handed over.
    Old,
}

/// What is offered: a disk as NBD describes it.
#[derive(Clone, Copy, Debug)]
pub(super) struct Offer {
    size: u64,
    read_only: bool,
}

impl Offer {
    pub(super) fn new(geometry: &Geometry) -> Self {
        Offer { size: geometry.bytes(), read_only: geometry.read_only }
    }

    fn flags(&self, session: Session) -> TransmissionFlags {
        let always = TransmissionFlags::HAS_FLAGS
            | TransmissionFlags::SEND_FLUSH
            | TransmissionFlags::SEND_FUA
            | TransmissionFlags::CAN_MULTI_CONN
            | TransmissionFlags::SEND_CACHE;
        let changes =
            TransmissionFlags::SEND_TRIM | TransmissionFlags::SEND_WRITE_ZEROES | TransmissionFlags::SEND_FAST_ZERO;
        always
            .with_if(changes, !self.read_only)
            .with_if(TransmissionFlags::READ_ONLY, self.read_only)
            .with_if(TransmissionFlags::SEND_DF, session.structured_replies)
    }
}

/// What was agreed on.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq)]
pub(super) struct Session {
    /// Replies are chunks, and failures have words.
    pub(super) structured_replies: bool,
    /// BLOCK_STATUS may be asked.
    pub(super) base_allocation: bool,
}

/// Where a negotiation stands.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(super) enum Step {
    /// It goes on.
    More,
    /// It has ended; requests follow.
    Transmission(Session),
    /// It has ended, and so has the connection once the answers are out.
    Ended,
}

/// The server's part of a newstyle negotiation.
#[derive(Debug)]
pub(super) struct Handshake {
    offer: Offer,
    negotiation: Negotiation,
    session: Session,
    zeroes_waived: bool,
}

impl Handshake {
    /// Begins: the greeting goes to `out`.
    pub(super) fn new(offer: Offer, out: &mut Vec<u8>) -> Self {
        put_greeting(out);
        Handshake { offer, negotiation: Negotiation::new(), session: Session::default(), zeroes_waived: false }
    }

    /// Takes bytes off the front of `input`, and says how many and where that leads. Answers go to `out`. With
    /// [`Step::More`], all of `input` was taken. An error ends the connection without an answer.
    pub(super) fn receive(&mut self, input: &[u8], out: &mut Vec<u8>) -> Result<(usize, Step)> {
        let mut taken = 0;
        while taken < input.len() {
            let (count, event) = self.negotiation.feed(&input[taken..])?;
            taken += count;
            let step = match event {
                None => Step::More,
                Some(Event::ClientFlags(flags)) => {
                    self.zeroes_waived = flags.contains(ClientFlags::NO_ZEROES);
                    Step::More
                }
                Some(Event::Option(option)) => self.answer(&option, out),
            };
            if step != Step::More {
                return Ok((taken, step));
            }
        }
        Ok((taken, Step::More))
    }

    fn answer(&mut self, option: &OptionRequest, out: &mut Vec<u8>) -> Step {
        match option {
            OptionRequest::ExportName(_) => {
                put_export(out, self.offer.size, self.offer.flags(self.session), !self.zeroes_waived);
                return Step::Transmission(self.session);
            }
            OptionRequest::Abort => {
                option.answer(out).ack();
                return Step::Ended;
            }
            OptionRequest::List => {
                option.answer(out).export_name(EXPORT_NAME, "");
                option.answer(out).ack();
            }
            OptionRequest::StartTls => option.answer(out).error(OptionError::Unsupported, "TLS is not offered"),
            OptionRequest::Info(query) => self.describe(option, query, out),
            OptionRequest::Go(query) => {
                self.describe(option, query, out);
                return Step::Transmission(self.session);
            }
            OptionRequest::StructuredReply => {
                self.session.structured_replies = true;
                option.answer(out).ack();
            }
            OptionRequest::ListMetaContext(query) => {
                self.answer_contexts(option, query.lists(BASE_ALLOCATION), 0, out);
            }
            OptionRequest::SetMetaContext(query) => {
                let selected = query.selects(BASE_ALLOCATION);
                self.session.base_allocation = selected && self.session.structured_replies;
                self.answer_contexts(option, selected, BASE_ALLOCATION_NUMBER, out);
            }
            OptionRequest::Refused { option: code, error, words } => {
                if *code == OptionCode::SET_META_CONTEXT {
                    self.session.base_allocation = false;
                }
                option.answer(out).error(*error, words);
            }
        }
        Step::More
    }

    /// Size, flags and block sizes are told whether they were asked for or not, as clients of tapdisk are used to.
    fn describe(&self, option: &OptionRequest, query: &ExportQuery, out: &mut Vec<u8>) {
        option.answer(out).export(self.offer.size, self.offer.flags(self.session));
        option.answer(out).block_sizes(BlockSizes {
            minimum: 1,
            preferred: PREFERRED_BLOCK_BYTES,
            maximum: REQUEST_BYTES_MAX,
        });
        if query.wants(InformationKind::NAME) {
            option.answer(out).name(EXPORT_NAME);
        }
        option.answer(out).ack();
    }

    fn answer_contexts(&self, option: &OptionRequest, selected: bool, number: u32, out: &mut Vec<u8>) {
        if !self.session.structured_replies {
            return option.answer(out).error(OptionError::Invalid, "structured replies come first");
        }
        if selected {
            option.answer(out).meta_context(number, BASE_ALLOCATION);
        }
        option.answer(out).ack();
    }
}

/// All of an oldstyle negotiation. The flags are 0, as the clients that use it expect.
pub(super) fn greet_oldstyle(offer: Offer, out: &mut Vec<u8>) -> Session {
    put_oldstyle_greeting(out, offer.size, TransmissionFlags::EMPTY);
    Session::default()
}

#[cfg(test)]
mod tests {
    use super::*;

    const OFFER: Offer = Offer { size: 0x1122_3344_5566, read_only: false };

    /// What one option is answered with, and where that leads. The flags before it waive the zeroes.
    fn negotiate(options: &[&[u8]]) -> (Vec<u8>, Step) {
        let input = [&[b"\0\0\0\x03".as_slice()], options].concat().concat();
        let whole = feed(&input, input.len());
        for size in 1..input.len() {
            assert_eq!(feed(&input, size), whole, "in pieces of {size} bytes");
        }
        whole
    }

    fn feed(input: &[u8], size: usize) -> (Vec<u8>, Step) {
        let mut out = Vec::new();
        let mut handshake = Handshake::new(OFFER, &mut out);
        assert_eq!(out, b"NBDMAGICIHAVEOPT\0\x03");
        out.clear();
        let mut last = Step::More;
        for part in input.chunks(size) {
            assert_eq!(last, Step::More);
            let (taken, step) = handshake.receive(part, &mut out).unwrap();
            assert_eq!(taken, part.len());
            last = step;
        }
        (out, last)
    }

    fn answer(option: u8, kind: &[u8], data: &[u8]) -> Vec<u8> {
        let length = u32::try_from(data.len()).unwrap().to_be_bytes();
        [b"\0\x03\xe8\x89\x04\x55\x65\xa9\0\0\0", [option].as_slice(), kind, &length, data].concat()
    }

    const ACK: &[u8] = b"\0\0\0\x01";
    const INFO: &[u8] = b"\0\0\0\x03";
    const STRUCTURED: &[u8] = b"IHAVEOPT\0\0\0\x08\0\0\0\0";
    const EXPORT_NAME_X: &[u8] = b"IHAVEOPT\0\0\0\x01\0\0\0\x01x";
    const SET_CONTEXT: &[u8] = b"IHAVEOPT\0\0\0\x0a\0\0\0\x1b\0\0\0\0\0\0\0\x01\0\0\0\x0fbase:allocation";

    #[test]
    fn export_name_tells_size_and_flags_and_begins_transmission() {
        let (out, step) = negotiate(&[EXPORT_NAME_X]);
        assert_eq!(out, b"\0\0\x11\x22\x33\x44\x55\x66\x0d\x6d");
        assert_eq!(step, Step::Transmission(Session::default()));
    }

    #[test]
    fn zeroes_that_are_not_waived_are_sent() {
        let mut out = Vec::new();
        let mut handshake = Handshake::new(OFFER, &mut out);
        out.clear();
        let input = [b"\0\0\0\x01", EXPORT_NAME_X].concat();
        handshake.receive(&input, &mut out).unwrap();
        assert_eq!((out.len(), &out[10..]), (134, [0; 124].as_slice()));
    }

    #[test]
    fn go_takes_any_name_and_tells_block_sizes_also_to_those_who_did_not_ask() {
        let (out, step) = negotiate(&[b"IHAVEOPT\0\0\0\x07\0\0\0\x09\0\0\0\x03any\0\0"]);
        let expected = [
            answer(7, INFO, b"\0\0\0\0\x11\x22\x33\x44\x55\x66\x0d\x6d"),
            answer(7, INFO, b"\0\x03\0\0\0\x01\0\0\x10\0\x02\0\0\0"),
            answer(7, ACK, b""),
        ];
        assert_eq!(out, expected.concat());
        assert_eq!(step, Step::Transmission(Session::default()));
    }

    #[test]
    fn info_tells_the_name_to_those_who_ask_and_goes_on() {
        let (out, step) = negotiate(&[b"IHAVEOPT\0\0\0\x06\0\0\0\x08\0\0\0\0\0\x01\0\x01"]);
        let name = answer(6, INFO, b"\0\x01tapdisk_client");
        assert!(out.windows(name.len()).any(|part| part == name));
        assert_eq!(step, Step::More);
    }

    #[test]
    fn list_names_one_export() {
        let (out, step) = negotiate(&[b"IHAVEOPT\0\0\0\x03\0\0\0\0"]);
        let expected = [answer(3, b"\0\0\0\x02", b"\0\0\0\x0etapdisk_client"), answer(3, ACK, b"")];
        assert_eq!((out, step), (expected.concat(), Step::More));
    }

    #[test]
    fn abort_is_acknowledged_and_ends() {
        assert_eq!(negotiate(&[b"IHAVEOPT\0\0\0\x02\0\0\0\0"]), (answer(2, ACK, b""), Step::Ended));
    }

    #[test]
    fn tls_is_not_offered() {
        let (out, step) = negotiate(&[b"IHAVEOPT\0\0\0\x05\0\0\0\0"]);
        assert_eq!((&out[12..16], step), (b"\x80\0\0\x01".as_slice(), Step::More));
    }

    #[test]
    fn contexts_are_chosen_after_structured_replies() {
        let (out, step) = negotiate(&[STRUCTURED, SET_CONTEXT, EXPORT_NAME_X]);
        let chosen = answer(10, b"\0\0\0\x04", b"\0\0\0\x01base:allocation");
        let export = b"\0\0\x11\x22\x33\x44\x55\x66\x0d\xed".to_vec();
        assert_eq!(out, [answer(8, ACK, b""), chosen, answer(10, ACK, b""), export].concat());
        assert_eq!(step, Step::Transmission(Session { structured_replies: true, base_allocation: true }));
    }

    #[test]
    fn contexts_without_structured_replies_are_refused() {
        let (out, step) = negotiate(&[SET_CONTEXT, STRUCTURED, EXPORT_NAME_X]);
        assert_eq!(&out[12..16], b"\x80\0\0\x03");
        assert_eq!(step, Step::Transmission(Session { structured_replies: true, base_allocation: false }));
    }

    #[test]
    fn choosing_again_forgets_what_was_chosen_before() {
        let nothing = b"IHAVEOPT\0\0\0\x0a\0\0\0\x08\0\0\0\0\0\0\0\0".as_slice();
        let malformed = b"IHAVEOPT\0\0\0\x0a\0\0\0\x01\0".as_slice();
        for second in [nothing, malformed] {
            let (_, step) = negotiate(&[STRUCTURED, SET_CONTEXT, second, EXPORT_NAME_X]);
            assert_eq!(step, Step::Transmission(Session { structured_replies: true, base_allocation: false }));
        }
    }

    #[test]
    fn bytes_behind_the_last_option_are_left_for_transmission() {
        let mut out = Vec::new();
        let mut handshake = Handshake::new(OFFER, &mut out);
        let input = [b"\0\0\0\x03", EXPORT_NAME_X, b"\x25\x60\x95\x13"].concat();
        let (taken, step) = handshake.receive(&input, &mut out).unwrap();
        assert_eq!((taken, step), (input.len() - 4, Step::Transmission(Session::default())));
    }

    #[test]
    fn a_read_only_disk_offers_no_changes() {
        let flags = Offer { read_only: true, ..OFFER }.flags(Session::default());
        let changes =
            TransmissionFlags::SEND_TRIM | TransmissionFlags::SEND_WRITE_ZEROES | TransmissionFlags::SEND_FAST_ZERO;
        assert_eq!(flags, flags.union(TransmissionFlags::READ_ONLY).without(changes));
    }

    #[test]
    fn oldstyle_flags_are_zero() {
        let mut out = Vec::new();
        greet_oldstyle(OFFER, &mut out);
        assert_eq!(out.len(), 152);
        assert_eq!(&out[..28], b"NBDMAGIC\0\0\x42\x02\x81\x86\x12\x53\0\0\x11\x22\x33\x44\x55\x66\0\0\0\0");
    }
}
