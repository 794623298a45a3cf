//! Bytes that a client, or what it takes for a tapdisk, may send: lines wherever they are cut, bounded, and what is
//! understood means the same when it is said again.

use std::fmt::Debug;

use control_api::native::{Answer, Hello, LineReader, LineTooLong, Request};
use serde::{Serialize, de::DeserializeOwned};

/// As long as a line may be here: long enough for every message, short enough to be exceeded.
const LINE_BYTES_MAX: usize = 1500;

/// The first byte says in what portions the others come.
pub(crate) fn hear_anything(bytes: &[u8]) {
    let Some((&portion, bytes)) = bytes.split_first() else { return };
    let (found, end) = lines(bytes, usize::from(portion) + 1);
    let (whole, whole_end) = lines(bytes, bytes.len().max(1));
    assert_eq!((&found, end.is_some()), (&whole, whole_end.is_some()), "wherever they are cut");
    for line in found {
        assert!(line.len() <= LINE_BYTES_MAX && !line.contains(&b'\n'));
        if let Some(request) = means_the_same_again::<Request>(&line) {
            assert!(!request.command.name().is_empty());
        }
        means_the_same_again::<Answer>(&line);
        means_the_same_again::<Hello>(&line);
    }
}

/// The lines, and why there are no more.
fn lines(bytes: &[u8], portion: usize) -> (Vec<Vec<u8>>, Option<LineTooLong>) {
    let (mut reader, mut found) = (LineReader::new(LINE_BYTES_MAX), Vec::new());
    for mut portion in bytes.chunks(portion) {
        while !portion.is_empty() {
            let (taken, line) = match reader.feed(portion) {
                Ok(fed) => fed,
                Err(too_long) => return (found, Some(too_long)),
            };
            assert!(taken > 0, "it goes on");
            portion = &portion[taken..];
            found.extend(line);
        }
    }
    (found, None)
}

fn means_the_same_again<T: Serialize + DeserializeOwned + PartialEq + Debug>(line: &[u8]) -> Option<T> {
    let message: T = serde_json::from_slice(line).ok()?;
    let again = serde_json::to_vec(&message).unwrap();
    assert!(!again.contains(&b'\n'), "a message is one line");
    assert_eq!(serde_json::from_slice::<T>(&again).unwrap(), message);
    Some(message)
}
