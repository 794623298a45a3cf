//! What can go wrong, in words. Codes of protocols (errno on the control socket, NBD, blkif) are chosen where the
//! protocol is spoken, from [`ErrorKind`] and the operating system's own error.

use std::{borrow::Cow, fmt, io, sync::Arc};

/// A result with our [`Error`].
pub type Result<T> = std::result::Result<T, Error>;

/// The class of an error: what a caller may decide on.
#[derive(Clone, Copy, Debug, PartialEq, Eq, Hash)]
pub enum ErrorKind {
    /// A file, a disk or a name does not exist.
    NotFound,
    /// The caller asked for something that makes no sense: a range outside the disk, a malformed name.
    Invalid,
    /// An image's bytes break the rules of its format.
    Corrupt,
    /// A parent's identity differs from what was recorded.
    Mismatch,
    /// The key of an encrypted disk is another than the one that was given.
    WrongKey,
    /// The size of a disk, which must not change while it is paused, has changed.
    SizeChanged,
    /// Known, but not offered here.
    Unsupported,
    /// A write to something that may only be read.
    ReadOnly,
    /// A write to something that another may write, and nobody else meanwhile.
    NotPermitted,
    /// Somebody else holds it.
    Busy,
    /// The storage is full, or a format's own limit of space is reached.
    NoSpace,
    /// A count, a depth or a length is beyond its limit.
    LimitReached,
    /// A deadline passed.
    TimedOut,
    /// Somebody asked to stop what was being done.
    Cancelled,
    /// The disk, the connection or the task that should answer has gone.
    Closed,
    /// The storage failed; the operating system's number is the source.
    Io,
}

/// An error: its class, what was being done, and the operating system's error underneath, if there was one.
/// Cloning is cheap, since one failed write may answer many requests.
#[derive(Clone)]
pub struct Error(Arc<Inner>);

struct Inner {
    kind: ErrorKind,
    context: Cow<'static, str>,
    source: Option<io::Error>,
    origin: Option<Origin>,
}

/// The storage that an error comes from. An error without one never reached storage: it was found on the way there.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct Origin {
    /// The storage's name, such as its path.
    pub place: Arc<str>,
    /// Whether a network lies between it and us, whose failures may pass.
    pub is_remote: bool,
}

impl Error {
    /// An error of our own finding.
    pub fn new(kind: ErrorKind, context: impl Into<Cow<'static, str>>) -> Self {
        Error(Arc::new(Inner { kind, context: context.into(), source: None, origin: None }))
    }

    /// An error of the operating system, its class derived from its own.
    pub fn from_os(context: impl Into<Cow<'static, str>>, source: io::Error) -> Self {
        let kind = kind_of(&source);
        Error(Arc::new(Inner { kind, context: context.into(), source: Some(source), origin: None }))
    }

    /// The same error, with what was being done put in front. Give it once, where it is known.
    #[must_use]
    pub fn context(self, words: impl fmt::Display) -> Self {
        let context =
            if self.0.context.is_empty() { words.to_string() } else { format!("{words}: {}", self.0.context) };
        Error(Arc::new(Inner { context: context.into(), ..self.into_inner() }))
    }

    /// The same error, coming from a storage. The first storage stays: it is the one that failed.
    #[must_use]
    pub fn with_origin(self, origin: Origin) -> Self {
        if self.0.origin.is_some() {
            return self;
        }
        Error(Arc::new(Inner { origin: Some(origin), ..self.into_inner() }))
    }

    /// Takes the inside out, or copies it where other clones need it.
    fn into_inner(self) -> Inner {
        Arc::try_unwrap(self.0).unwrap_or_else(|shared| Inner {
            kind: shared.kind,
            context: shared.context.clone(),
            source: shared.source.as_ref().map(copy_of),
            origin: shared.origin.clone(),
        })
    }

    /// The class of the error.
    pub fn kind(&self) -> ErrorKind {
        self.0.kind
    }

    /// The storage that failed; none if the error was found before any was asked.
    pub fn origin(&self) -> Option<&Origin> {
        self.0.origin.as_ref()
    }

    /// The operating system's error number, if it was the operating system that failed.
    pub fn os_error(&self) -> Option<i32> {
        self.0.source.as_ref().and_then(io::Error::raw_os_error)
    }
}

/// `io::Error` is not `Clone`; its number is what matters, its text the fallback.
fn copy_of(error: &io::Error) -> io::Error {
    match error.raw_os_error() {
        Some(number) => io::Error::from_raw_os_error(number),
        None => io::Error::new(error.kind(), error.to_string()),
    }
}

fn kind_of(error: &io::Error) -> ErrorKind {
    use io::ErrorKind as Os;
    match error.kind() {
        Os::NotFound => ErrorKind::NotFound,
        Os::InvalidInput => ErrorKind::Invalid,
        Os::Unsupported => ErrorKind::Unsupported,
        Os::ReadOnlyFilesystem => ErrorKind::ReadOnly,
        Os::StorageFull | Os::QuotaExceeded => ErrorKind::NoSpace,
        _ => ErrorKind::Io,
    }
}

impl fmt::Display for Error {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        match (&self.0.source, self.0.context.is_empty()) {
            (None, _) => f.write_str(&self.0.context),
            (Some(source), true) => write!(f, "{source}"),
            (Some(source), false) => write!(f, "{}: {source}", self.0.context),
        }
    }
}

impl fmt::Debug for Error {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        write!(f, "{:?}({self})", self.0.kind)
    }
}

impl std::error::Error for Error {
    fn source(&self) -> Option<&(dyn std::error::Error + 'static)> {
        self.0.source.as_ref().map(|source| source as _)
    }
}

impl From<io::Error> for Error {
    fn from(source: io::Error) -> Self {
        Error::from_os("", source)
    }
}

/// Puts context in front of an error, where it is known.
pub trait ResultExt<T> {
    /// The same result; an error gets `words` in front.
    fn context(self, words: impl fmt::Display) -> Result<T>;
}

impl<T, E: Into<Error>> ResultExt<T> for std::result::Result<T, E> {
    fn context(self, words: impl fmt::Display) -> Result<T> {
        self.map_err(|error| error.into().context(words))
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn context_is_put_in_front_and_the_os_error_stays() {
        let error = Error::from(io::Error::from_raw_os_error(2)).context("/a.vhd").context("disk 4");
        assert_eq!(error.to_string(), "disk 4: /a.vhd: No such file or directory (os error 2)");
        assert_eq!((error.kind(), error.os_error()), (ErrorKind::NotFound, Some(2)));
    }

    #[test]
    fn an_error_of_our_own_has_no_os_error() {
        let error = Error::new(ErrorKind::Corrupt, "footer: bad checksum");
        assert_eq!((error.to_string().as_str(), error.os_error()), ("footer: bad checksum", None));
    }

    #[test]
    fn the_storage_that_failed_first_stays_whatever_is_put_in_front() {
        let origin = |place: &str| Origin { place: place.into(), is_remote: place.starts_with("/nfs") };
        let error = Error::new(ErrorKind::Io, "reading");
        assert_eq!(error.origin(), None);
        let error = error.with_origin(origin("/nfs/a.vhd")).context("disk 4").with_origin(origin("/b.vhd"));
        let clone = error.clone();
        assert_eq!(error.context("again").origin(), Some(&origin("/nfs/a.vhd")));
        assert_eq!((clone.origin(), clone.to_string()), (Some(&origin("/nfs/a.vhd")), "disk 4: reading".into()));
    }
}
