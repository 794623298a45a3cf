//! Strings of the control protocol: bytes that fit a field of 256 with their terminator. They are names of files, hence
//! not necessarily UTF-8.

use std::{fmt, ops::Deref};

use block_core::{Error, ErrorKind, Result};

/// Bytes of a string's field, with the terminating NUL.
pub const TEXT_BYTES: usize = 256;

/// A string that fits a message: at most 255 bytes, none of them NUL.
#[derive(Clone, Default, PartialEq, Eq, Hash)]
pub struct Text(Vec<u8>);

impl Text {
    /// The empty string.
    pub const EMPTY: Self = Text(Vec::new());

    /// Checks that `bytes` fit. A name that does not is refused, since a shortened one would name another file.
    pub fn new(bytes: impl Into<Vec<u8>>) -> Result<Self> {
        let bytes = bytes.into();
        let shown = || String::from_utf8_lossy(&bytes).into_owned();
        if bytes.len() >= TEXT_BYTES {
            return Err(Error::new(ErrorKind::LimitReached, format!("{}: longer than 255 bytes", shown())));
        }
        if bytes.contains(&0) {
            return Err(Error::new(ErrorKind::Invalid, format!("{:?}: holds a NUL", shown())));
        }
        Ok(Text(bytes))
    }

    /// As much of `bytes` as fits, up to the first NUL. For what is only shown.
    pub fn truncated(bytes: &[u8]) -> Self {
        let bytes = &bytes[..bytes.len().min(TEXT_BYTES - 1)];
        Text(bytes.split(|byte| *byte == 0).next().unwrap_or_default().to_vec())
    }

    /// The bytes in front of the first NUL of a field; `None` if it is not terminated.
    pub(super) fn from_field(field: &[u8; TEXT_BYTES]) -> Option<Self> {
        let end = field.iter().position(|byte| *byte == 0)?;
        Some(Text(field[..end].to_vec()))
    }

    /// The field that holds this string.
    pub(super) fn to_field(&self) -> [u8; TEXT_BYTES] {
        let mut field = [0; TEXT_BYTES];
        field[..self.0.len()].copy_from_slice(&self.0);
        field
    }

    /// The bytes, to keep.
    pub fn into_bytes(self) -> Vec<u8> {
        self.0
    }
}

impl Deref for Text {
    type Target = [u8];
    fn deref(&self) -> &[u8] {
        &self.0
    }
}

impl fmt::Display for Text {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.write_str(&String::from_utf8_lossy(&self.0))
    }
}

impl fmt::Debug for Text {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        write!(f, "{:?}", String::from_utf8_lossy(&self.0))
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_name_that_does_not_fit_is_refused_not_cut() {
        assert_eq!(Text::new(vec![b'x'; 255]).unwrap().len(), 255);
        assert_eq!(Text::new(vec![b'x'; 256]).unwrap_err().kind(), ErrorKind::LimitReached);
        assert_eq!(Text::new(*b"a\0b").unwrap_err().kind(), ErrorKind::Invalid);
    }

    #[test]
    fn what_is_only_shown_is_cut() {
        assert_eq!(Text::truncated(&[b'x'; 300]).len(), 255);
        assert_eq!(&*Text::truncated(b"a\0b"), b"a");
    }

    #[test]
    fn a_field_without_terminator_is_no_string() {
        assert_eq!(Text::from_field(&[b'x'; 256]), None);
        let text = Text::new(*b"vhd:/\xff").unwrap();
        assert_eq!(Text::from_field(&text.to_field()), Some(text));
    }
}
