//! Reading nodes that anybody may have written.

use block_core::{Error, Result};
use rustix::io::Errno;
use wire::xenstore::Path;
use xen::store::{Store, Transaction};
use xenbus::State;

/// So much of a value that makes no sense is shown.
const SHOWN_BYTES_MAX: usize = 32;

/// A node's value; what is too long to be told is told to be refused. One that may not be read is as good as none: where a domain without rights looks, that is what the
/// server says of nodes that have gone.
pub(crate) async fn read(store: &Store, path: &Path) -> Result<Option<Vec<u8>>> {
    match store.read(path).await {
        Err(error) if error.os_error() == Some(Errno::ACCESS.raw_os_error()) => Ok(None),
        Err(error) if error.os_error() == Some(Errno::TOOBIG.raw_os_error()) => {
            Err(refusal(Errno::TOOBIG, format!("reading {path}: its value fits into no message")))
        }
        asked => asked,
    }
}

/// Removes a device's directory, and its guest's if that is then empty. That of the kind and those of others stay.
pub(crate) async fn remove_below_guest(transaction: &Transaction, device: &Path) -> Result<()> {
    transaction.remove(device).await?;
    let guest = device.parent().expect("a device is below its guest");
    match transaction.directory(&guest).await? {
        Some(devices) if devices.is_empty() => transaction.remove(&guest).await,
        _ => Ok(()),
    }
}

/// A value in printable characters; none for other bytes, and for an empty one, which is how some say that there is none.
pub(crate) fn text(value: Option<Vec<u8>>) -> Option<String> {
    let text = String::from_utf8(value?).ok()?;
    let is_text = !text.is_empty() && text.bytes().all(|byte| byte == b' ' || byte.is_ascii_graphic());
    is_text.then_some(text)
}

/// A number as everybody writes it: digits and nothing else.
pub(crate) fn number(value: &[u8]) -> Option<u32> {
    let text = std::str::from_utf8(value).ok()?;
    text.bytes().all(|byte| byte.is_ascii_digit()).then(|| text.parse().ok())?
}

/// A `state` node. What is not there or makes no sense is `Unknown`, as it is to every kernel.
pub(crate) fn state(value: Option<&[u8]>) -> State {
    let number = value.and_then(number).and_then(|number| u8::try_from(number).ok());
    number.and_then(|number| State::from_number(number).ok()).unwrap_or(State::Unknown)
}

/// What is wrong with what a frontend has written, with the number that goes with it.
pub(crate) fn refusal(errno: Errno, words: impl Into<String>) -> Error {
    Error::from_os(words.into(), errno.into())
}

/// A value that makes no sense, fit to be shown to people.
pub(crate) fn shown(value: &[u8]) -> String {
    let (start, rest) = value.split_at(value.len().min(SHOWN_BYTES_MAX));
    let more = if rest.is_empty() { String::new() } else { format!("... ({} bytes)", value.len()) };
    format!("'{}'{more}", start.escape_ascii())
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn numbers_are_digits_and_nothing_else() {
        assert_eq!((number(b"0"), number(b"4294967295")), (Some(0), Some(u32::MAX)));
        for wrong in [b"".as_slice(), b"+1", b"-1", b" 1", b"1\n", b"4294967296", b"0x10", b"\xff", &[b'9'; 65536]] {
            assert_eq!(number(wrong), None, "{}", shown(wrong));
        }
    }

    #[test]
    fn what_is_no_state_is_unknown() {
        assert_eq!(
            (state(Some(b"4")), state(Some(b"9")), state(None)),
            (State::Connected, State::Unknown, State::Unknown)
        );
        assert_eq!((state(Some(b"256")), state(Some(b"4\0"))), (State::Unknown, State::Unknown));
    }

    #[test]
    fn long_values_are_shown_in_part() {
        assert_eq!(shown(b"a\n"), "'a\\n'");
        assert_eq!(shown(&[b'x'; 65536]), format!("'{}'... (65536 bytes)", "x".repeat(32)));
    }

    #[test]
    fn text_is_printable_and_not_empty() {
        assert_eq!(text(Some(b"vhd:/a b".to_vec())).as_deref(), Some("vhd:/a b"));
        for wrong in [b"".as_slice(), b"a\0", b"\xc3\xa4", b"a\n"] {
            assert_eq!(text(Some(wrong.to_vec())), None);
        }
        assert_eq!(text(None), None);
    }
}
