//! Bytes that a client, or a tapdisk, may send: the same messages wherever they are cut, and the same bytes for them again.

use wire::control::{DecodeError, MESSAGE_BYTES, Message, MessageReader, Request, RequestReader};

/// The first byte says in what portions the others come.
pub(crate) fn receive_anything(bytes: &[u8]) {
    let Some((&portion, bytes)) = bytes.split_first() else { return };
    let portion = usize::from(portion) + 1;
    let found = requests(bytes, portion);
    assert_eq!(found, requests(bytes, bytes.len().max(1)), "wherever they are cut");
    for request in found.0 {
        let mut reader = RequestReader::new();
        let encoded = request.encode();
        assert_eq!(reader.feed(&encoded), (encoded.len(), Some(Ok(request))));
        assert!(!reader.is_inside());
    }
    let answers = answers(bytes, portion);
    assert_eq!(answers, self::answers(bytes, bytes.len().max(1)), "wherever they are cut");
    assert_eq!(answers.len(), bytes.len() / MESSAGE_BYTES);
    for message in answers.into_iter().flatten() {
        assert_eq!(Message::decode(&message.encode()), Ok(message));
    }
}

/// The requests of a stream, and how it ended if it made no sense.
fn requests(bytes: &[u8], portion: usize) -> (Vec<Request>, Option<DecodeError>) {
    let (mut reader, mut found) = (RequestReader::new(), Vec::new());
    for mut portion in bytes.chunks(portion) {
        while !portion.is_empty() {
            let (taken, request) = reader.feed(portion);
            assert!(taken > 0 && (request.is_some() || taken == portion.len()), "it goes on");
            portion = &portion[taken..];
            match request {
                Some(Ok(request)) => found.push(request),
                Some(Err(error)) => return (found, Some(error)),
                None => {}
            }
        }
    }
    (found, None)
}

/// The answers of a stream; each is as long as the others, so one that makes no sense is followed by others.
fn answers(bytes: &[u8], portion: usize) -> Vec<Result<Message, DecodeError>> {
    let (mut reader, mut found) = (MessageReader::new(), Vec::new());
    for mut portion in bytes.chunks(portion) {
        while !portion.is_empty() {
            let (taken, answer) = reader.feed(portion);
            assert!(taken > 0, "it goes on");
            portion = &portion[taken..];
            found.extend(answer);
        }
    }
    found
}
