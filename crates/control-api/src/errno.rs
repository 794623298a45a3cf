//! The error numbers of the control protocol, which are also the exit statuses of the tools.

use std::{error::Error as _, io};

use block_core::{Error, ErrorKind};
use rustix::io::Errno;

/// The number for an error: the operating system's own, if it was the operating system that failed.
pub fn errno(error: &Error) -> i32 {
    error.os_error().unwrap_or_else(|| of_kind(error.kind()).raw_os_error())
}

/// The number of what we found ourselves.
pub fn errno_of(kind: ErrorKind) -> i32 {
    of_kind(kind).raw_os_error()
}

fn of_kind(kind: ErrorKind) -> Errno {
    match kind {
        ErrorKind::NotFound => Errno::NOENT,
        ErrorKind::Invalid | ErrorKind::Corrupt | ErrorKind::Mismatch => Errno::INVAL,
        ErrorKind::WrongKey => Errno::NOKEY,
        ErrorKind::SizeChanged => Errno::MEDIUMTYPE,
        ErrorKind::Unsupported => Errno::NOSYS,
        ErrorKind::ReadOnly => Errno::ROFS,
        ErrorKind::NotPermitted => Errno::PERM,
        ErrorKind::Busy => Errno::BUSY,
        ErrorKind::NoSpace => Errno::NOSPC,
        ErrorKind::LimitReached => Errno::TOOBIG,
        ErrorKind::TimedOut => Errno::TIMEDOUT,
        ErrorKind::Cancelled => Errno::CANCELED,
        ErrorKind::Closed => Errno::SHUTDOWN,
        ErrorKind::Io => Errno::IO,
    }
}

/// What happened, without the operating system's own words: those follow from the number that goes with it.
pub fn reason(error: &Error) -> String {
    let whole = error.to_string();
    let tail = error.source().map(ToString::to_string).unwrap_or_default();
    match whole.strip_suffix(&tail) {
        Some(words) => words.strip_suffix(": ").unwrap_or(words).to_owned(),
        None => whole,
    }
}

/// The operating system's words for an error number, as `strerror` has them.
pub fn describe(number: i32) -> String {
    let text = io::Error::from_raw_os_error(number).to_string();
    let suffix = format!(" (os error {number})");
    text.strip_suffix(&suffix).unwrap_or(&text).to_owned()
}

/// The symbol of an error number, as in `EIO`; its digits for one that storage does not give.
pub fn symbol(number: i32) -> String {
    const SYMBOLS: [(Errno, &str); 41] = [
        (Errno::PERM, "EPERM"),
        (Errno::NOENT, "ENOENT"),
        (Errno::INTR, "EINTR"),
        (Errno::IO, "EIO"),
        (Errno::NXIO, "ENXIO"),
        (Errno::TOOBIG, "E2BIG"),
        (Errno::BADF, "EBADF"),
        (Errno::AGAIN, "EAGAIN"),
        (Errno::NOMEM, "ENOMEM"),
        (Errno::ACCESS, "EACCES"),
        (Errno::FAULT, "EFAULT"),
        (Errno::BUSY, "EBUSY"),
        (Errno::NODEV, "ENODEV"),
        (Errno::INVAL, "EINVAL"),
        (Errno::FBIG, "EFBIG"),
        (Errno::NOSPC, "ENOSPC"),
        (Errno::ROFS, "EROFS"),
        (Errno::PIPE, "EPIPE"),
        (Errno::RANGE, "ERANGE"),
        (Errno::NOSYS, "ENOSYS"),
        (Errno::LOOP, "ELOOP"),
        (Errno::NODATA, "ENODATA"),
        (Errno::NOLINK, "ENOLINK"),
        (Errno::PROTO, "EPROTO"),
        (Errno::BADMSG, "EBADMSG"),
        (Errno::OVERFLOW, "EOVERFLOW"),
        (Errno::OPNOTSUPP, "EOPNOTSUPP"),
        (Errno::NETDOWN, "ENETDOWN"),
        (Errno::NETUNREACH, "ENETUNREACH"),
        (Errno::CONNRESET, "ECONNRESET"),
        (Errno::NOBUFS, "ENOBUFS"),
        (Errno::NOTCONN, "ENOTCONN"),
        (Errno::SHUTDOWN, "ESHUTDOWN"),
        (Errno::TIMEDOUT, "ETIMEDOUT"),
        (Errno::CONNREFUSED, "ECONNREFUSED"),
        (Errno::HOSTDOWN, "EHOSTDOWN"),
        (Errno::HOSTUNREACH, "EHOSTUNREACH"),
        (Errno::STALE, "ESTALE"),
        (Errno::REMOTEIO, "EREMOTEIO"),
        (Errno::DQUOT, "EDQUOT"),
        (Errno::NOKEY, "ENOKEY"),
    ];
    let known = SYMBOLS.iter().find(|(errno, _)| errno.raw_os_error() == number);
    known.map_or_else(|| number.to_string(), |(_, symbol)| (*symbol).to_owned())
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn the_operating_systems_number_wins() {
        let error = Error::from_os("/a.vhd", io::Error::from_raw_os_error(13));
        assert_eq!((errno(&error), reason(&error), describe(13)), (13, "/a.vhd".into(), "Permission denied".into()));
    }

    #[test]
    fn our_own_findings_have_a_number_too() {
        let error = Error::new(ErrorKind::Corrupt, "/a.vhd: footer: bad checksum");
        assert_eq!((errno(&error), reason(&error)), (22, "/a.vhd: footer: bad checksum".into()));
        assert_eq!(errno(&Error::new(ErrorKind::Unsupported, "qcow")), 38);
        assert_eq!(errno(&Error::new(ErrorKind::SizeChanged, "another disk")), 124);
        assert_eq!(errno(&Error::new(ErrorKind::WrongKey, "not the key")), 126);
    }

    #[test]
    fn numbers_have_symbols() {
        assert_eq!([5, 28, 116, 9999].map(symbol), ["EIO", "ENOSPC", "ESTALE", "9999"]);
    }

    #[test]
    fn a_bare_error_of_the_system_has_no_words_of_ours() {
        assert_eq!(reason(&Error::from(io::Error::from_raw_os_error(5))), "");
    }
}
