//! Errors on the wire are names of errnos, so that both sides may number them as they like.

use std::fmt;

/// An error as XenStore names it.
#[derive(Clone, Copy, Debug, PartialEq, Eq, Hash)]
pub enum ErrorName {
    /// Not a request that makes sense.
    Einval,
    /// Not permitted by the node.
    Eacces,
    /// It is there already.
    Eexist,
    /// Is a directory.
    Eisdir,
    /// There is no such node.
    Enoent,
    /// The server has no memory left.
    Enomem,
    /// A quota is used up.
    Enospc,
    /// The server's storage has failed.
    Eio,
    /// There are nodes below.
    Enotempty,
    /// The server does not know the operation.
    Enosys,
    /// Nothing may be written.
    Erofs,
    /// Something of this kind is under way.
    Ebusy,
    /// Somebody else has changed what the transaction has seen: do all of it again.
    Eagain,
    /// Connected already.
    Eisconn,
    /// The answer is too long for one message.
    E2big,
    /// Not permitted to this domain.
    Eperm,
}

/// A name that is none of an error.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct UnknownErrorName;

/// Every error, its name and its number on Linux.
const ALL: [(ErrorName, &str, i32); 16] = [
    (ErrorName::Einval, "EINVAL", 22),
    (ErrorName::Eacces, "EACCES", 13),
    (ErrorName::Eexist, "EEXIST", 17),
    (ErrorName::Eisdir, "EISDIR", 21),
    (ErrorName::Enoent, "ENOENT", 2),
    (ErrorName::Enomem, "ENOMEM", 12),
    (ErrorName::Enospc, "ENOSPC", 28),
    (ErrorName::Eio, "EIO", 5),
    (ErrorName::Enotempty, "ENOTEMPTY", 39),
    (ErrorName::Enosys, "ENOSYS", 38),
    (ErrorName::Erofs, "EROFS", 30),
    (ErrorName::Ebusy, "EBUSY", 16),
    (ErrorName::Eagain, "EAGAIN", 11),
    (ErrorName::Eisconn, "EISCONN", 106),
    (ErrorName::E2big, "E2BIG", 7),
    (ErrorName::Eperm, "EPERM", 1),
];

impl ErrorName {
    fn row(self) -> &'static (ErrorName, &'static str, i32) {
        ALL.iter().find(|(error, ..)| *error == self).expect("all are in the table")
    }

    /// The name on the wire.
    pub fn name(self) -> &'static str {
        self.row().1
    }

    /// Its number on Linux.
    pub fn number(self) -> i32 {
        self.row().2
    }

    /// What the payload of an error means; the zero byte at its end may be missing.
    ///
    /// # Errors
    /// A name that nobody knows.
    pub fn from_payload(payload: &[u8]) -> Result<ErrorName, UnknownErrorName> {
        let name = payload.strip_suffix(b"\0").unwrap_or(payload);
        let found = ALL.iter().find(|(_, known, _)| known.as_bytes() == name);
        found.map(|(error, ..)| *error).ok_or(UnknownErrorName)
    }
}

impl fmt::Display for ErrorName {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.write_str(self.name())
    }
}

impl std::error::Error for ErrorName {}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn names_go_both_ways() {
        for (error, name, number) in ALL {
            assert_eq!((error.name(), error.number()), (name, number));
            assert_eq!(ErrorName::from_payload(name.as_bytes()), Ok(error));
            assert_eq!(ErrorName::from_payload(format!("{name}\0").as_bytes()), Ok(error));
        }
        assert_eq!(ErrorName::from_payload(b"EWHATEVER\0"), Err(UnknownErrorName));
        assert_eq!(ErrorName::from_payload(b"ENOENT\0\0"), Err(UnknownErrorName));
    }
}
