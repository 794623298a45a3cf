//! Messages as values, and their bytes.

use std::fmt;

use block_core::{Error, ErrorKind};

use super::bits::{OpenFlags, VbdState};
use super::kind::Kind;
use super::layout::{
    COOKIE, Fields, KIND, PID, RESPONSE_ERROR, RESPONSE_TEXT, STATISTICS_LENGTH, TERMINATED, image, list, minors,
    parameters, ring,
};
use super::text::Text;

/// Bytes of every message.
pub const MESSAGE_BYTES: usize = 544;

/// The cookie that asks STATS for all disks of the process.
pub const ALL_MINORS: u16 = 0xffff;

/// `parent` when there is none; every value with the highest bit set means the same.
const NO_PARENT: u32 = u32::MAX;

/// One message.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct Message {
    /// The minor that it is about.
    pub cookie: u16,
    /// What it says.
    pub body: Body,
}

/// An error number of Linux, positive; 0 for none. What an answer reports.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq, Hash)]
pub struct Errno(pub i32);

impl Errno {
    /// Success.
    pub const NONE: Self = Self(0);
}

/// What a message says. The `..Response` kinds without a field of their own carry an error number that is 0 from every
/// known tapdisk, since failures are sent as [`Body::Error`]; a reader should look at it all the same.
#[derive(Clone, Debug, PartialEq, Eq)]
#[expect(missing_docs, reason = "each variant is documented where its type is: at `Kind`")]
pub enum Body {
    /// The number, and perhaps words: what failed and why. Older tapdisks send none.
    Error(Errno, Text),
    RuntimeError(Errno),
    Pid,
    PidResponse(i32),
    Attach,
    AttachResponse(Errno),
    Open(OpenParameters),
    OpenResponse(ImageInformation),
    Pause,
    PauseResponse(Errno),
    Resume(OpenParameters),
    ResumeResponse(Errno),
    Close,
    CloseResponse(Errno),
    Detach,
    DetachResponse(Errno),
    ListMinors,
    ListMinorsResponse(Vec<i32>),
    List,
    ListResponse(ListEntry),
    Stats,
    StatsResponse {
        length: u64,
    },
    ForceShutdown,
    RingConnect(RingParameters),
    RingConnectResponse(Errno),
    RingDisconnect(RingIdentity),
    RingDisconnectResponse(Errno),
    DiskInfo,
    DiskInfoResponse(ImageInformation),
    Exit,
}

/// What OPEN and RESUME ask for.
#[derive(Clone, Debug, Default, PartialEq, Eq)]
pub struct OpenParameters {
    /// How to open.
    pub flags: OpenFlags,
    /// A device number, without use.
    pub devnum: u32,
    /// A domain, without use.
    pub domid: u32,
    /// `type:path`; empty in a RESUME that keeps the images.
    pub path: Text,
    /// The minor whose tapdisk serves the parent, if the parent is not opened here.
    pub parent: Option<u32>,
    /// Seconds until a request is given up; 0 for the default.
    pub request_timeout: u16,
    /// `type:path` of the secondary; valid with [`OpenFlags::SECONDARY`].
    pub secondary: Text,
}

/// How large a disk is.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq)]
pub struct ImageInformation {
    /// Sectors of `sector_size` bytes.
    pub sectors: u64,
    /// Bytes.
    pub sector_size: u32,
    /// Bits of the block interface's `info` node.
    pub information: u32,
}

/// One line of a list.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct ListEntry {
    /// How many entries are left, with this one; 0 ends the list.
    pub count: u32,
    /// The minor; -1 in the end of the list.
    pub minor: i32,
    /// Its state.
    pub state: VbdState,
    /// `type:path` as it was given, or empty.
    pub path: Text,
}

impl ListEntry {
    /// What follows the last entry.
    pub const END: Self = ListEntry { count: 0, minor: -1, state: VbdState::EMPTY, path: Text::EMPTY };

    /// Whether this is no entry but the end of the list. Its path may hold anything.
    pub const fn is_end(&self) -> bool {
        self.count == 0
    }
}

/// Names a guest's ring.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq, Hash)]
pub struct RingIdentity {
    /// The guest.
    pub domid: u32,
    /// Its device.
    pub devid: u32,
}

/// How to connect to a guest's ring.
#[derive(Clone, Debug, Default, PartialEq, Eq)]
pub struct RingParameters {
    /// Which ring.
    pub identity: RingIdentity,
    /// Grant references of its pages; those beyond [`RingParameters::pages`] mean nothing.
    pub references: [u32; 8],
    /// Its pages as a power of two.
    pub order: u32,
    /// The layout of its slots, as a number of the block interface.
    pub protocol: u32,
    /// The name of the pool of grant frames.
    pub pool: Text,
    /// The event channel.
    pub port: u32,
    /// Microseconds of polling after the last request; 0 for none.
    pub poll_duration: u32,
    /// Percentage of idle CPU below which there is no polling.
    pub poll_idle_threshold: u32,
}

impl RingParameters {
    /// The references of the ring's pages, unless there are more pages than a message can name.
    pub fn pages(&self) -> Option<&[u32]> {
        let count = 1_usize.checked_shl(self.order)?;
        self.references.get(..count)
    }
}

/// Why bytes are not a message, and the cookie that the answer to them carries.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct DecodeError {
    /// The cookie of the answer: the request's own, or 0 if its type is unknown.
    pub cookie: u16,
    /// What is wrong.
    pub reason: Reason,
}

/// What is wrong with a message.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Reason {
    /// No message has this type.
    UnknownKind(u16),
    /// A string (or what would be one in another message) is not terminated.
    Unterminated(&'static str),
    /// A key of this length is not possible.
    KeyLength(u8),
}

impl fmt::Display for DecodeError {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        match self.reason {
            Reason::UnknownKind(number) => write!(f, "control message: unknown type {number}"),
            Reason::Unterminated(field) => write!(f, "control message: {field} is not terminated"),
            Reason::KeyLength(length) => write!(f, "control message: a key of {length} bytes"),
        }
    }
}

impl std::error::Error for DecodeError {}

impl From<DecodeError> for Error {
    fn from(error: DecodeError) -> Self {
        Error::new(ErrorKind::Invalid, error.to_string())
    }
}

impl Message {
    /// A message about a minor.
    pub const fn new(cookie: u16, body: Body) -> Self {
        Message { cookie, body }
    }

    /// Its type.
    pub const fn kind(&self) -> Kind {
        self.body.kind()
    }

    /// Reads a message.
    pub fn decode(bytes: &[u8; MESSAGE_BYTES]) -> Result<Self, DecodeError> {
        let fields = Fields(*bytes);
        let number = fields.u16(KIND);
        let Some(kind) = Kind::from_number(number) else {
            return Err(DecodeError { cookie: 0, reason: Reason::UnknownKind(number) });
        };
        let cookie = fields.u16(COOKIE);
        let unterminated = |field| DecodeError { cookie, reason: Reason::Unterminated(field) };
        fields.text(TERMINATED).ok_or(unterminated("the path"))?;
        Body::decode(kind, &fields).map(|body| Message { cookie, body }).map_err(unterminated)
    }

    /// The message as bytes; what no field covers is zero.
    pub fn encode(&self) -> [u8; MESSAGE_BYTES] {
        let mut fields = Fields([0; MESSAGE_BYTES]);
        fields.put_u16(KIND, self.kind().number());
        fields.put_u16(COOKIE, self.cookie);
        self.body.encode(&mut fields);
        fields.0
    }
}

impl Body {
    /// Its type.
    pub const fn kind(&self) -> Kind {
        match self {
            Body::Error(..) => Kind::Error,
            Body::RuntimeError(_) => Kind::RuntimeError,
            Body::Pid => Kind::Pid,
            Body::PidResponse(_) => Kind::PidResponse,
            Body::Attach => Kind::Attach,
            Body::AttachResponse(_) => Kind::AttachResponse,
            Body::Open(_) => Kind::Open,
            Body::OpenResponse(_) => Kind::OpenResponse,
            Body::Pause => Kind::Pause,
            Body::PauseResponse(_) => Kind::PauseResponse,
            Body::Resume(_) => Kind::Resume,
            Body::ResumeResponse(_) => Kind::ResumeResponse,
            Body::Close => Kind::Close,
            Body::CloseResponse(_) => Kind::CloseResponse,
            Body::Detach => Kind::Detach,
            Body::DetachResponse(_) => Kind::DetachResponse,
            Body::ListMinors => Kind::ListMinors,
            Body::ListMinorsResponse(_) => Kind::ListMinorsResponse,
            Body::List => Kind::List,
            Body::ListResponse(_) => Kind::ListResponse,
            Body::Stats => Kind::Stats,
            Body::StatsResponse { .. } => Kind::StatsResponse,
            Body::ForceShutdown => Kind::ForceShutdown,
            Body::RingConnect(_) => Kind::RingConnect,
            Body::RingConnectResponse(_) => Kind::RingConnectResponse,
            Body::RingDisconnect(_) => Kind::RingDisconnect,
            Body::RingDisconnectResponse(_) => Kind::RingDisconnectResponse,
            Body::DiskInfo => Kind::DiskInfo,
            Body::DiskInfoResponse(_) => Kind::DiskInfoResponse,
            Body::Exit => Kind::Exit,
        }
    }

    /// Reads what a message of this type says, or names the string that is not terminated.
    fn decode(kind: Kind, fields: &Fields) -> Result<Self, &'static str> {
        let errno = Errno(fields.i32(RESPONSE_ERROR));
        Ok(match kind {
            Kind::Error => Body::Error(errno, fields.text(RESPONSE_TEXT).unwrap_or_default()),
            Kind::RuntimeError => Body::RuntimeError(errno),
            Kind::Pid => Body::Pid,
            Kind::PidResponse => Body::PidResponse(fields.i32(PID)),
            Kind::Attach => Body::Attach,
            Kind::AttachResponse => Body::AttachResponse(errno),
            Kind::Open => Body::Open(OpenParameters::decode(fields)?),
            Kind::OpenResponse => Body::OpenResponse(ImageInformation::decode(fields)),
            Kind::Pause => Body::Pause,
            Kind::PauseResponse => Body::PauseResponse(errno),
            Kind::Resume => Body::Resume(OpenParameters::decode(fields)?),
            Kind::ResumeResponse => Body::ResumeResponse(errno),
            Kind::Close => Body::Close,
            Kind::CloseResponse => Body::CloseResponse(errno),
            Kind::Detach => Body::Detach,
            Kind::DetachResponse => Body::DetachResponse(errno),
            Kind::ListMinors => Body::ListMinors,
            Kind::ListMinorsResponse => Body::ListMinorsResponse(decode_minors(fields)),
            Kind::List => Body::List,
            Kind::ListResponse => Body::ListResponse(ListEntry::decode(fields)?),
            Kind::Stats => Body::Stats,
            Kind::StatsResponse => Body::StatsResponse { length: fields.u64(STATISTICS_LENGTH) },
            Kind::ForceShutdown => Body::ForceShutdown,
            Kind::RingConnect => Body::RingConnect(RingParameters::decode(fields)?),
            Kind::RingConnectResponse => Body::RingConnectResponse(errno),
            Kind::RingDisconnect => Body::RingDisconnect(RingIdentity::decode(fields)),
            Kind::RingDisconnectResponse => Body::RingDisconnectResponse(errno),
            Kind::DiskInfo => Body::DiskInfo,
            Kind::DiskInfoResponse => Body::DiskInfoResponse(ImageInformation::decode(fields)),
            Kind::Exit => Body::Exit,
        })
    }

    fn encode(&self, fields: &mut Fields) {
        match self {
            Body::Pid
            | Body::Attach
            | Body::Pause
            | Body::Close
            | Body::Detach
            | Body::ListMinors
            | Body::List
            | Body::Stats
            | Body::ForceShutdown
            | Body::DiskInfo
            | Body::Exit => {}
            Body::Error(errno, text) => {
                fields.put_i32(RESPONSE_ERROR, errno.0);
                fields.put_text(RESPONSE_TEXT, text);
            }
            Body::RuntimeError(errno)
            | Body::AttachResponse(errno)
            | Body::PauseResponse(errno)
            | Body::ResumeResponse(errno)
            | Body::CloseResponse(errno)
            | Body::DetachResponse(errno)
            | Body::RingConnectResponse(errno)
            | Body::RingDisconnectResponse(errno) => fields.put_i32(RESPONSE_ERROR, errno.0),
            Body::PidResponse(pid) => fields.put_i32(PID, *pid),
            Body::Open(parameters) | Body::Resume(parameters) => parameters.encode(fields),
            Body::OpenResponse(image) | Body::DiskInfoResponse(image) => image.encode(fields),
            Body::ListMinorsResponse(minors) => encode_minors(minors, fields),
            Body::ListResponse(entry) => entry.encode(fields),
            Body::StatsResponse { length } => fields.put_u64(STATISTICS_LENGTH, *length),
            Body::RingConnect(parameters) => parameters.encode(fields),
            Body::RingDisconnect(identity) => identity.encode(fields),
        }
    }
}

impl OpenParameters {
    /// The secondary is looked at only when the flags say that it is one.
    fn decode(fields: &Fields) -> Result<Self, &'static str> {
        let flags = OpenFlags::from_bits(fields.u32(parameters::FLAGS));
        let secondary = match fields.text(parameters::SECONDARY) {
            None if flags.contains(OpenFlags::SECONDARY) => return Err("the secondary"),
            secondary => secondary.unwrap_or_default(),
        };
        Ok(OpenParameters {
            flags,
            devnum: fields.u32(parameters::DEVNUM),
            domid: fields.u32(parameters::DOMID),
            path: fields.text(parameters::PATH).ok_or("the path")?,
            parent: Some(fields.u32(parameters::PARENT)).filter(|parent| parent.leading_zeros() > 0),
            request_timeout: fields.u16(parameters::TIMEOUT),
            secondary,
        })
    }

    fn encode(&self, fields: &mut Fields) {
        fields.put_u32(parameters::FLAGS, self.flags.bits());
        fields.put_u32(parameters::DEVNUM, self.devnum);
        fields.put_u32(parameters::DOMID, self.domid);
        fields.put_text(parameters::PATH, &self.path);
        fields.put_u32(parameters::PARENT, self.parent.unwrap_or(NO_PARENT));
        fields.put_u16(parameters::TIMEOUT, self.request_timeout);
        fields.put_text(parameters::SECONDARY, &self.secondary);
    }
}

impl ImageInformation {
    fn decode(fields: &Fields) -> Self {
        ImageInformation {
            sectors: fields.u64(image::SECTORS),
            sector_size: fields.u32(image::SECTOR_SIZE),
            information: fields.u32(image::INFORMATION),
        }
    }

    fn encode(self, fields: &mut Fields) {
        fields.put_u64(image::SECTORS, self.sectors);
        fields.put_u32(image::SECTOR_SIZE, self.sector_size);
        fields.put_u32(image::INFORMATION, self.information);
    }
}

impl ListEntry {
    fn decode(fields: &Fields) -> Result<Self, &'static str> {
        Ok(ListEntry {
            count: fields.u32(list::COUNT),
            minor: fields.i32(list::MINOR),
            state: VbdState::from_bits(fields.u32(list::STATE)),
            path: fields.text(list::PATH).ok_or("the path")?,
        })
    }

    fn encode(&self, fields: &mut Fields) {
        fields.put_u32(list::COUNT, self.count);
        fields.put_i32(list::MINOR, self.minor);
        fields.put_u32(list::STATE, self.state.bits());
        fields.put_text(list::PATH, &self.path);
    }
}

impl RingIdentity {
    fn decode(fields: &Fields) -> Self {
        RingIdentity { domid: fields.u32(ring::DOMID), devid: fields.u32(ring::DEVID) }
    }

    fn encode(self, fields: &mut Fields) {
        fields.put_u32(ring::DOMID, self.domid);
        fields.put_u32(ring::DEVID, self.devid);
    }
}

impl RingParameters {
    fn decode(fields: &Fields) -> Result<Self, &'static str> {
        Ok(RingParameters {
            identity: RingIdentity::decode(fields),
            references: std::array::from_fn(|index| fields.u32(ring::REFERENCES + 4 * index)),
            order: fields.u32(ring::ORDER),
            protocol: fields.u32(ring::PROTOCOL),
            pool: fields.text(ring::POOL).ok_or("the pool")?,
            port: fields.u32(ring::PORT),
            poll_duration: fields.u32(ring::POLL_DURATION),
            poll_idle_threshold: fields.u32(ring::POLL_IDLE_THRESHOLD),
        })
    }

    fn encode(&self, fields: &mut Fields) {
        self.identity.encode(fields);
        for (index, reference) in self.references.iter().enumerate() {
            fields.put_u32(ring::REFERENCES + 4 * index, *reference);
        }
        fields.put_u32(ring::ORDER, self.order);
        fields.put_u32(ring::PROTOCOL, self.protocol);
        fields.put_text(ring::POOL, &self.pool);
        fields.put_u32(ring::PORT, self.port);
        fields.put_u32(ring::POLL_DURATION, self.poll_duration);
        fields.put_u32(ring::POLL_IDLE_THRESHOLD, self.poll_idle_threshold);
    }
}

/// As many minors as the count says and the message holds.
fn decode_minors(fields: &Fields) -> Vec<i32> {
    let count = (fields.u32(minors::COUNT) as usize).min(minors::COUNT_MAX);
    (0..count).map(|index| fields.i32(minors::LIST + 4 * index)).collect()
}

/// The first 63 minors: a message holds no more.
fn encode_minors(list: &[i32], fields: &mut Fields) {
    let list = &list[..list.len().min(minors::COUNT_MAX)];
    fields.put_u32(minors::COUNT, u32::try_from(list.len()).expect("at most 63"));
    for (index, minor) in list.iter().enumerate() {
        fields.put_i32(minors::LIST + 4 * index, *minor);
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_failure_carries_its_reason_behind_the_number() {
        let failure = Message::new(7, Body::Error(Errno(2), Text::truncated(b"/a.vhd")));
        let bytes = failure.encode();
        assert_eq!((&bytes[8..12], &bytes[12..19]), (&[2, 0, 0, 0][..], &b"/a.vhd\0"[..]));
        assert_eq!(Message::decode(&bytes), Ok(failure));
    }

    #[test]
    fn a_failure_without_words_or_with_garbage_for_words_is_read() {
        let mut bytes = Message::new(7, Body::Error(Errno(2), Text::EMPTY)).encode();
        bytes[12..268].fill(b'x');
        assert_eq!(Message::decode(&bytes), Ok(Message::new(7, Body::Error(Errno(2), Text::EMPTY))));
    }
}
