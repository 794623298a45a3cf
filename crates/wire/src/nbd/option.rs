//! Options of the handshake, as a server sees them: what a client may ask, and the answers.
//!
//! ```text
//!   option   | IHAVEOPT 8 | option 4 | length 4 |                 data
//!   answer   | magic 8    | option 4 | kind 4   | length 4 |      data
//! ```

use super::constants::{
    GREETING_BYTES, HandshakeFlags, NBD_MAGIC, OLDSTYLE_GREETING_BYTES, OLDSTYLE_MAGIC, OPTION_MAGIC,
    OPTION_REPLY_MAGIC, RESERVED_ZEROES, STRING_BYTES_MAX, TransmissionFlags,
};
use super::reply::cut;
use crate::scan::Scan;

/// The number of an option, known or not.
#[derive(Clone, Copy, Debug, PartialEq, Eq, Hash)]
pub struct OptionCode(pub u32);

impl OptionCode {
    /// Take the export of this name and go on to transmission.
    pub const EXPORT_NAME: Self = Self(1);
    /// End the session.
    pub const ABORT: Self = Self(2);
    /// Name the exports.
    pub const LIST: Self = Self(3);
    /// Go on under TLS.
    pub const STARTTLS: Self = Self(5);
    /// Tell about an export.
    pub const INFO: Self = Self(6);
    /// Tell about an export and go on to transmission.
    pub const GO: Self = Self(7);
    /// Use structured replies.
    pub const STRUCTURED_REPLY: Self = Self(8);
    /// Name the metadata contexts.
    pub const LIST_META_CONTEXT: Self = Self(9);
    /// Choose metadata contexts.
    pub const SET_META_CONTEXT: Self = Self(10);
    /// Use 64-bit lengths.
    pub const EXTENDED_HEADERS: Self = Self(11);
}

/// The kind of an answer to an option. Bit 31 marks errors, also those that are not known here.
#[derive(Clone, Copy, Debug, PartialEq, Eq, Hash)]
pub(super) struct AnswerKind(pub(super) u32);

impl AnswerKind {
    pub(super) const ACK: Self = Self(1);
    pub(super) const SERVER: Self = Self(2);
    pub(super) const INFO: Self = Self(3);
    pub(super) const META_CONTEXT: Self = Self(4);
    pub(super) const ERROR: u32 = 1 << 31;
}

/// Why an option is refused.
#[derive(Clone, Copy, Debug, PartialEq, Eq, Hash)]
pub enum OptionError {
    /// Not known here.
    Unsupported,
    /// Known, but not allowed here.
    Policy,
    /// Makes no sense.
    Invalid,
    /// Not possible on this platform.
    Platform,
    /// Only under TLS.
    TlsRequired,
    /// No such export.
    UnknownExport,
    /// The server is going away.
    Shutdown,
    /// Only for clients that ask for block sizes.
    BlockSizeRequired,
    /// Too large to handle.
    TooBig,
    /// Only with extended headers.
    ExtendedHeadersRequired,
    /// A number that is not known here.
    Unknown(u32),
}

impl OptionError {
    const NUMBERED: [OptionError; 10] = [
        OptionError::Unsupported,
        OptionError::Policy,
        OptionError::Invalid,
        OptionError::Platform,
        OptionError::TlsRequired,
        OptionError::UnknownExport,
        OptionError::Shutdown,
        OptionError::BlockSizeRequired,
        OptionError::TooBig,
        OptionError::ExtendedHeadersRequired,
    ];

    /// The number on the wire, without the bit that marks errors.
    const fn number(self) -> u32 {
        match self {
            OptionError::Unsupported => 1,
            OptionError::Policy => 2,
            OptionError::Invalid => 3,
            OptionError::Platform => 4,
            OptionError::TlsRequired => 5,
            OptionError::UnknownExport => 6,
            OptionError::Shutdown => 7,
            OptionError::BlockSizeRequired => 8,
            OptionError::TooBig => 9,
            OptionError::ExtendedHeadersRequired => 10,
            OptionError::Unknown(number) => number & !AnswerKind::ERROR,
        }
    }

    pub(super) const fn kind(self) -> AnswerKind {
        AnswerKind(AnswerKind::ERROR | self.number())
    }

    /// The error that an answer of this kind reports, if it reports one.
    pub(super) fn from_kind(kind: AnswerKind) -> Option<Self> {
        let known = || Self::NUMBERED.into_iter().find(|error| error.kind() == kind);
        (kind.0 & AnswerKind::ERROR != 0).then(|| known().unwrap_or(OptionError::Unknown(kind.0 & !AnswerKind::ERROR)))
    }
}

/// What a client may want to know of an export; numbers that are not known here are kept.
#[derive(Clone, Copy, Debug, PartialEq, Eq, Hash)]
pub struct InformationKind(pub u16);

impl InformationKind {
    /// Size and transmission flags; always told.
    pub const EXPORT: Self = Self(0);
    /// The name that the server prefers.
    pub const NAME: Self = Self(1);
    /// Words for people.
    pub const DESCRIPTION: Self = Self(2);
    /// Alignment and length limits.
    pub const BLOCK_SIZE: Self = Self(3);
}

/// Alignment and length limits of an export.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct BlockSizes {
    /// Offsets and lengths are multiples of it; a power of two, at most 65536.
    pub minimum: u32,
    /// What is done without reading and writing more than asked; a power of two, at least 512 and the minimum.
    pub preferred: u32,
    /// The longest data of a request; a multiple of the minimum, or `u32::MAX` for no limit.
    pub maximum: u32,
}

/// The data of INFO and GO.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct ExportQuery {
    /// The export's name; empty for the default export.
    pub name: Vec<u8>,
    /// What the client wants to know.
    pub wanted: Vec<InformationKind>,
}

impl ExportQuery {
    /// Whether the client asked for this.
    pub fn wants(&self, kind: InformationKind) -> bool {
        self.wanted.contains(&kind)
    }

    fn parse(data: &[u8]) -> Option<Self> {
        let mut scan = Scan::new(data);
        let name = string(scan.counted_bytes()?)?;
        let count = scan.u16()?;
        let wanted = (0..count).map(|_| scan.u16().map(InformationKind)).collect::<Option<_>>()?;
        scan.end().map(|()| ExportQuery { name, wanted })
    }
}

/// The data of LIST_META_CONTEXT and SET_META_CONTEXT.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct MetaContextQuery {
    /// The export that it is about.
    pub export: Vec<u8>,
    /// What is asked for; each begins with a namespace and a colon if the client is sane.
    pub queries: Vec<Vec<u8>>,
}

impl MetaContextQuery {
    /// Whether SET_META_CONTEXT with this data chooses the context called `name`: only if it is spelled out.
    pub fn selects(&self, name: &str) -> bool {
        self.queries.iter().any(|query| query == name.as_bytes())
    }

    /// Whether LIST_META_CONTEXT with this data asks for the context called `name`: by no query at all, by its name, or
    /// by its namespace and colon alone.
    pub fn lists(&self, name: &str) -> bool {
        let namespace = name.split_inclusive(':').next().unwrap_or(name);
        self.queries.is_empty() || self.selects(name) || self.selects(namespace)
    }

    /// Each query takes at least four bytes, so the count is bounded by what has arrived, not by what is announced.
    fn parse(data: &[u8]) -> Option<Self> {
        let mut scan = Scan::new(data);
        let export = string(scan.counted_bytes()?)?;
        let count = scan.u32()?;
        let mut queries = Vec::new();
        for _ in 0..count {
            queries.push(string(scan.counted_bytes()?)?);
        }
        scan.end().map(|()| MetaContextQuery { export, queries })
    }
}

/// A string of the protocol: no NUL, and not longer than its limit.
fn string(bytes: &[u8]) -> Option<Vec<u8>> {
    (bytes.len() <= STRING_BYTES_MAX && !bytes.contains(&0)).then(|| bytes.to_vec())
}

/// One option that a client sent.
#[derive(Clone, Debug, PartialEq, Eq)]
pub enum OptionRequest {
    /// Take this export and go on: answer with [`put_export`], or close the connection.
    ExportName(Vec<u8>),
    /// Acknowledge, then close.
    Abort,
    /// Answer with the names of the exports and an acknowledgement.
    List,
    /// Answer with an error: TLS is not offered.
    StartTls,
    /// Answer with information and an acknowledgement, or an error.
    Info(ExportQuery),
    /// As [`OptionRequest::Info`]; after an acknowledgement transmission begins.
    Go(ExportQuery),
    /// Acknowledge and use structured replies from transmission on.
    StructuredReply,
    /// Answer with metadata contexts (number 0) and an acknowledgement.
    ListMetaContext(MetaContextQuery),
    /// Forget the contexts chosen before; answer with the chosen ones, numbered, and an acknowledgement.
    SetMetaContext(MetaContextQuery),
    /// Not known here, malformed or too long: answer with this error. The data has been taken off the stream. A refused
    /// SET_META_CONTEXT also forgets the contexts chosen before.
    Refused {
        /// Which option.
        option: OptionCode,
        /// Why.
        error: OptionError,
        /// Why, for people.
        words: &'static str,
    },
}

impl OptionRequest {
    /// The number of the option, which every answer repeats.
    pub const fn code(&self) -> OptionCode {
        match self {
            OptionRequest::ExportName(_) => OptionCode::EXPORT_NAME,
            OptionRequest::Abort => OptionCode::ABORT,
            OptionRequest::List => OptionCode::LIST,
            OptionRequest::StartTls => OptionCode::STARTTLS,
            OptionRequest::Info(_) => OptionCode::INFO,
            OptionRequest::Go(_) => OptionCode::GO,
            OptionRequest::StructuredReply => OptionCode::STRUCTURED_REPLY,
            OptionRequest::ListMetaContext(_) => OptionCode::LIST_META_CONTEXT,
            OptionRequest::SetMetaContext(_) => OptionCode::SET_META_CONTEXT,
            OptionRequest::Refused { option, .. } => *option,
        }
    }

    /// A writer of answers to this option.
    pub const fn answer<'a>(&self, out: &'a mut Vec<u8>) -> OptionAnswer<'a> {
        OptionAnswer { option: self.code(), out }
    }

    /// What the data of INFO, GO, LIST_META_CONTEXT or SET_META_CONTEXT asks for.
    pub(super) fn parse(option: OptionCode, data: &[u8]) -> Self {
        let parsed = match option {
            OptionCode::INFO => ExportQuery::parse(data).map(OptionRequest::Info),
            OptionCode::GO => ExportQuery::parse(data).map(OptionRequest::Go),
            OptionCode::LIST_META_CONTEXT => MetaContextQuery::parse(data).map(OptionRequest::ListMetaContext),
            OptionCode::SET_META_CONTEXT => MetaContextQuery::parse(data).map(OptionRequest::SetMetaContext),
            _ => None,
        };
        parsed.unwrap_or(OptionRequest::Refused { option, error: OptionError::Invalid, words: "malformed option data" })
    }

    /// The request for a name that EXPORT_NAME carried; `None` if it is no string of the protocol, which cannot be
    /// answered.
    pub(super) fn parse_export_name(data: &[u8]) -> Option<Self> {
        string(data).map(OptionRequest::ExportName)
    }
}

/// Writes answers to one option. An option other than EXPORT_NAME gets any number of details, then one [`ack`] or one
/// [`error`].
///
/// [`ack`]: OptionAnswer::ack
/// [`error`]: OptionAnswer::error
#[derive(Debug)]
pub struct OptionAnswer<'a> {
    option: OptionCode,
    out: &'a mut Vec<u8>,
}

impl OptionAnswer<'_> {
    /// The last answer of an option that succeeded.
    pub fn ack(self) {
        put_answer(self.out, self.option, AnswerKind::ACK, &[]);
    }

    /// The last answer of an option that failed, with words for people.
    pub fn error(self, error: OptionError, words: &str) {
        put_answer(self.out, self.option, error.kind(), &[cut(words).as_bytes()]);
    }

    /// One export, for LIST.
    pub fn export_name(&mut self, name: &str, description: &str) {
        let name = cut(name);
        let length = u32::try_from(name.len()).expect("names are cut at 4096 bytes");
        let parts = [&length.to_be_bytes(), name.as_bytes(), cut(description).as_bytes()];
        put_answer(self.out, self.option, AnswerKind::SERVER, &parts);
    }

    /// Size and flags, for INFO and GO; always told.
    pub fn export(&mut self, size: u64, flags: TransmissionFlags) {
        self.information(InformationKind::EXPORT, &[&size.to_be_bytes(), &flags.bits().to_be_bytes()]);
    }

    /// Alignment and length limits, for INFO and GO.
    pub fn block_sizes(&mut self, sizes: BlockSizes) {
        let [minimum, preferred, maximum] = [sizes.minimum, sizes.preferred, sizes.maximum].map(u32::to_be_bytes);
        self.information(InformationKind::BLOCK_SIZE, &[&minimum, &preferred, &maximum]);
    }

    /// The name that the server prefers, for INFO and GO.
    pub fn name(&mut self, name: &str) {
        self.information(InformationKind::NAME, &[cut(name).as_bytes()]);
    }

    /// Words for people, for INFO and GO.
    pub fn description(&mut self, words: &str) {
        self.information(InformationKind::DESCRIPTION, &[cut(words).as_bytes()]);
    }

    /// One metadata context: its number (0 in a listing) and its name.
    pub fn meta_context(&mut self, number: u32, name: &str) {
        let parts = [&number.to_be_bytes(), cut(name).as_bytes()];
        put_answer(self.out, self.option, AnswerKind::META_CONTEXT, &parts);
    }

    fn information(&mut self, kind: InformationKind, parts: &[&[u8]]) {
        let kind = kind.0.to_be_bytes();
        let all: Vec<&[u8]> = std::iter::once(&kind[..]).chain(parts.iter().copied()).collect();
        put_answer(self.out, self.option, AnswerKind::INFO, &all);
    }
}

fn put_answer(out: &mut Vec<u8>, option: OptionCode, kind: AnswerKind, parts: &[&[u8]]) {
    let length: usize = parts.iter().map(|part| part.len()).sum();
    out.extend_from_slice(&OPTION_REPLY_MAGIC.to_be_bytes());
    out.extend_from_slice(&option.0.to_be_bytes());
    out.extend_from_slice(&kind.0.to_be_bytes());
    out.extend_from_slice(&u32::try_from(length).expect("answers hold a few cut strings").to_be_bytes());
    for part in parts {
        out.extend_from_slice(part);
    }
}

/// Appends the greeting that begins fixed newstyle negotiation.
pub fn put_greeting(out: &mut Vec<u8>) {
    out.reserve(GREETING_BYTES);
    out.extend_from_slice(&NBD_MAGIC.to_be_bytes());
    out.extend_from_slice(&OPTION_MAGIC.to_be_bytes());
    out.extend_from_slice(&(HandshakeFlags::FIXED_NEWSTYLE | HandshakeFlags::NO_ZEROES).bits().to_be_bytes());
}

/// Appends the greeting that is the whole oldstyle negotiation: transmission begins behind it.
pub fn put_oldstyle_greeting(out: &mut Vec<u8>, size: u64, flags: TransmissionFlags) {
    out.reserve(OLDSTYLE_GREETING_BYTES);
    out.extend_from_slice(&NBD_MAGIC.to_be_bytes());
    out.extend_from_slice(&OLDSTYLE_MAGIC.to_be_bytes());
    out.extend_from_slice(&size.to_be_bytes());
    out.extend_from_slice(&u32::from(flags.bits()).to_be_bytes());
    out.extend_from_slice(&[0; RESERVED_ZEROES]);
}

/// Appends the answer to EXPORT_NAME; transmission begins behind it. `zeroes` unless the client waived them.
pub fn put_export(out: &mut Vec<u8>, size: u64, flags: TransmissionFlags, zeroes: bool) {
    out.extend_from_slice(&size.to_be_bytes());
    out.extend_from_slice(&flags.bits().to_be_bytes());
    out.extend_from_slice(if zeroes { &[0; RESERVED_ZEROES] } else { &[] });
}
