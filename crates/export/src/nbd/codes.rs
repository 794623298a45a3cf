//! What the protocol calls our errors.

use block_core::{Error, ErrorKind};
use rustix::io::Errno;
use wire::nbd::{Command, ErrorCode};

/// The code for `error` as the end of `command`, and words for people. The words are ours: an error's own may name
/// files of this host, which are none of a client's business.
pub(super) fn code_of(command: Command, error: &Error) -> (ErrorCode, &'static str) {
    if let Some(found) = error.os_error().and_then(|number| of_errno(Errno::from_raw_os_error(number))) {
        return found;
    }
    match (error.kind(), command) {
        (ErrorKind::Invalid, Command::Write | Command::WriteZeroes) => (ErrorCode::Nospc, "beyond the end of the disk"),
        (ErrorKind::Invalid, _) => (ErrorCode::Inval, "not a range of the disk"),
        (ErrorKind::ReadOnly, _) => (ErrorCode::Perm, "the disk is read-only"),
        (ErrorKind::NotPermitted, _) => (ErrorCode::Perm, "another writes to the disk"),
        (ErrorKind::NoSpace, _) => (ErrorCode::Nospc, "the storage is full"),
        (ErrorKind::Unsupported, _) => (ErrorCode::Notsup, "not possible here, or not fast"),
        (ErrorKind::LimitReached, _) => (ErrorCode::Overflow, "too much at once"),
        (ErrorKind::Closed | ErrorKind::Cancelled, _) => (ErrorCode::Shutdown, "the disk is closed"),
        (ErrorKind::Corrupt | ErrorKind::Mismatch | ErrorKind::SizeChanged | ErrorKind::NotFound, _) => {
            (ErrorCode::Io, "the image is damaged")
        }
        (ErrorKind::WrongKey, _) => (ErrorCode::Io, "the image is encrypted with another key"),
        (ErrorKind::Busy | ErrorKind::TimedOut, _) => (ErrorCode::Io, "the storage did not answer in time"),
        (ErrorKind::Io, _) => (ErrorCode::Io, "the storage failed"),
    }
}

/// Errors of the operating system that the protocol has a word for.
fn of_errno(errno: Errno) -> Option<(ErrorCode, &'static str)> {
    match errno {
        Errno::NOSPC | Errno::DQUOT | Errno::FBIG => Some((ErrorCode::Nospc, "the storage is full")),
        Errno::NOMEM => Some((ErrorCode::Nomem, "out of memory")),
        Errno::PERM | Errno::ACCESS | Errno::ROFS => Some((ErrorCode::Perm, "the storage refuses writes")),
        _ => None,
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    fn code(command: Command, kind: ErrorKind) -> ErrorCode {
        code_of(command, &Error::new(kind, "/secret.vhd")).0
    }

    #[test]
    fn a_write_beyond_the_end_has_no_space_and_a_read_makes_no_sense() {
        assert_eq!(code(Command::Write, ErrorKind::Invalid), ErrorCode::Nospc);
        assert_eq!(code(Command::WriteZeroes, ErrorKind::Invalid), ErrorCode::Nospc);
        assert_eq!(code(Command::Read, ErrorKind::Invalid), ErrorCode::Inval);
        assert_eq!(code(Command::Trim, ErrorKind::Invalid), ErrorCode::Inval);
    }

    #[test]
    fn what_the_operating_system_said_wins() {
        let error = |errno: Errno| Error::from_os("/secret.vhd", errno.into());
        assert_eq!(code_of(Command::Write, &error(Errno::DQUOT)).0, ErrorCode::Nospc);
        assert_eq!(code_of(Command::Read, &error(Errno::NOMEM)).0, ErrorCode::Nomem);
        assert_eq!(code_of(Command::Write, &error(Errno::ROFS)).0, ErrorCode::Perm);
        assert_eq!(code_of(Command::Read, &error(Errno::STALE)).0, ErrorCode::Io);
    }

    #[test]
    fn a_disk_that_is_closed_shuts_down() {
        assert_eq!(code(Command::Flush, ErrorKind::Closed), ErrorCode::Shutdown);
    }

    #[test]
    fn no_file_name_of_ours_reaches_a_client() {
        let error = Error::from_os("/secret.vhd", Errno::NOSPC.into());
        assert!(!code_of(Command::Write, &error).1.contains("secret"));
    }
}
