//! Who may do what with a node: a list of a letter and a domain each. The first names the owner, who may do everything,
//! and what all domains may do that are not listed.

use std::{fmt, str::FromStr};

/// What a domain may do.
#[derive(Clone, Copy, Debug, PartialEq, Eq, Hash)]
pub enum Access {
    /// Nothing.
    None,
    /// Read.
    Read,
    /// Write.
    Write,
    /// Both.
    Both,
}

impl Access {
    const LETTERS: [(char, Access); 4] =
        [('n', Access::None), ('r', Access::Read), ('w', Access::Write), ('b', Access::Both)];

    /// Whether reading is among it.
    pub const fn may_read(self) -> bool {
        matches!(self, Access::Read | Access::Both)
    }

    /// Whether writing is among it.
    pub const fn may_write(self) -> bool {
        matches!(self, Access::Write | Access::Both)
    }
}

/// One entry of a list.
#[derive(Clone, Copy, Debug, PartialEq, Eq, Hash)]
pub struct Permission {
    /// What it may do.
    pub access: Access,
    /// The domain.
    pub domain: u16,
}

/// A text that is no permission.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct PermissionError;

impl fmt::Display for PermissionError {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.write_str("a permission is one of the letters n, r, w and b, and the number of a domain")
    }
}

impl std::error::Error for PermissionError {}

impl FromStr for Permission {
    type Err = PermissionError;

    fn from_str(text: &str) -> Result<Permission, PermissionError> {
        let letter = text.chars().next().ok_or(PermissionError)?;
        let known = Access::LETTERS.iter().find(|(known, _)| *known == letter);
        let (_, access) = known.ok_or(PermissionError)?;
        let digits = &text[1..];
        let is_number = !digits.is_empty() && digits.bytes().all(|byte| byte.is_ascii_digit());
        let domain = is_number.then(|| digits.parse().ok()).flatten().ok_or(PermissionError)?;
        Ok(Permission { access: *access, domain })
    }
}

impl fmt::Display for Permission {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        let letter = Access::LETTERS.iter().find(|(_, access)| *access == self.access);
        write!(f, "{}{}", letter.expect("every access has a letter").0, self.domain)
    }
}

/// Appends a list as strings.
pub fn put_permissions(out: &mut Vec<u8>, permissions: &[Permission]) {
    for permission in permissions {
        out.extend(permission.to_string().as_bytes());
        out.push(0);
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn permissions_read_as_they_are_written() {
        for text in ["n0", "r7", "w65535", "b32752"] {
            assert_eq!(text.parse::<Permission>().unwrap().to_string(), text);
        }
        for bad in ["", "n", "x0", "n-1", "n+1", "n65536", "\u{e9}0", "0", "n0 "] {
            assert_eq!(bad.parse::<Permission>(), Err(PermissionError), "{bad}");
        }
        let mut out = Vec::new();
        put_permissions(&mut out, &["n0".parse().unwrap(), "r1".parse().unwrap()]);
        assert_eq!(out, b"n0\0r1\0");
    }

    #[test]
    fn letters_say_who_may_read_and_write() {
        let rights = |access: Access| (access.may_read(), access.may_write());
        let all = Access::LETTERS.map(|(_, access)| rights(access));
        assert_eq!(all, [(false, false), (true, false), (false, true), (true, true)]);
    }
}
