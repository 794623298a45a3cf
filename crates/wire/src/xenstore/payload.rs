//! What payloads are made of: strings that are ended by a zero byte.

use std::fmt;

/// A payload that does not have the form that its operation demands.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct Malformed;

impl fmt::Display for Malformed {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.write_str("a payload that its operation does not have")
    }
}

impl std::error::Error for Malformed {}

/// The strings of a payload, in order; see [`strings`].
#[derive(Clone, Debug)]
pub struct Strings<'a>(&'a [u8]);

impl<'a> Iterator for Strings<'a> {
    type Item = &'a [u8];

    fn next(&mut self) -> Option<&'a [u8]> {
        let end = self.0.iter().position(|byte| *byte == 0)?;
        let (string, rest) = self.0.split_at(end);
        self.0 = &rest[1..];
        Some(string)
    }
}

/// A payload as strings, each ended by a zero byte.
///
/// # Errors
/// Bytes behind the last zero byte.
pub fn strings(payload: &[u8]) -> Result<Strings<'_>, Malformed> {
    match payload.last() {
        None | Some(0) => Ok(Strings(payload)),
        Some(_) => Err(Malformed),
    }
}

/// A path and what follows it as it is: a value has no zero byte at its end.
///
/// # Errors
/// No zero byte.
pub fn path_and_rest(payload: &[u8]) -> Result<(&[u8], &[u8]), Malformed> {
    let end = payload.iter().position(|byte| *byte == 0).ok_or(Malformed)?;
    Ok((&payload[..end], &payload[end + 1..]))
}

/// The number of a transaction that was started; never 0.
///
/// # Errors
/// Anything else.
pub fn transaction_id(payload: &[u8]) -> Result<u32, Malformed> {
    let digits = payload.strip_suffix(b"\0").unwrap_or(payload);
    let is_number = !digits.is_empty() && digits.iter().all(u8::is_ascii_digit);
    let number = std::str::from_utf8(digits).ok().filter(|_| is_number).and_then(|digits| digits.parse().ok());
    number.filter(|number| *number != 0).ok_or(Malformed)
}

/// Something has changed at a node, or below it.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct WatchEvent<'a> {
    /// Which: relative if the watch was.
    pub path: &'a [u8],
    /// What whoever watches has called the watch.
    pub token: &'a [u8],
}

impl<'a> WatchEvent<'a> {
    /// What the payload of an event means. A server that counts depths may say more behind the token.
    ///
    /// # Errors
    /// Fewer than two strings.
    pub fn decode(payload: &'a [u8]) -> Result<WatchEvent<'a>, Malformed> {
        let mut strings = strings(payload)?;
        match (strings.next(), strings.next()) {
            (Some(path), Some(token)) => Ok(WatchEvent { path, token }),
            _ => Err(Malformed),
        }
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn strings_end_with_a_zero_byte_each() {
        let all = |payload| strings(payload).map(Iterator::collect::<Vec<_>>);
        assert_eq!(all(b""), Ok(vec![]));
        assert_eq!(all(b"\0"), Ok(vec![b"".as_slice()]));
        assert_eq!(all(b"a\0\0bc\0"), Ok(vec![b"a".as_slice(), b"", b"bc"]));
        assert_eq!(all(b"a\0b"), Err(Malformed));
    }

    #[test]
    fn a_value_is_all_that_follows_its_path() {
        assert_eq!(path_and_rest(b"/a\0x\0y"), Ok((b"/a".as_slice(), b"x\0y".as_slice())));
        assert_eq!(path_and_rest(b"/a\0"), Ok((b"/a".as_slice(), b"".as_slice())));
        assert_eq!(path_and_rest(b"/a"), Err(Malformed));
    }

    #[test]
    fn transactions_are_numbered_from_one() {
        assert_eq!((transaction_id(b"17\0"), transaction_id(b"4294967295")), (Ok(17), Ok(u32::MAX)));
        for bad in [b"0\0".as_slice(), b"\0", b"", b"+1\0", b"4294967296\0", b"1 \0", b"x\0"] {
            assert_eq!(transaction_id(bad), Err(Malformed), "{bad:?}");
        }
    }

    #[test]
    fn an_event_has_a_path_and_a_token() {
        let event = WatchEvent::decode(b"state\0t:1\0").unwrap();
        assert_eq!((event.path, event.token), (b"state".as_slice(), b"t:1".as_slice()));
        assert_eq!(WatchEvent::decode(b"state\0"), Err(Malformed));
    }
}
