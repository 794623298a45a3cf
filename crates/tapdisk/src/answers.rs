//! Answers of the control protocol, as bytes.

use std::{sync::Arc, time::Duration};

use block_core::{Error, ErrorKind, Result};
use control_api::{
    errno,
    protocol::{
        Body, EncryptionKey, Errno, ImageInformation, ListEntry, Message, OpenFlags, OpenParameters, TEXT_BYTES, Text,
    },
    reason,
};
use image_chain::DiskKey;

use crate::{
    home::{Name, Open},
    slot::Slot,
};

/// One message.
pub(crate) fn message(cookie: u16, body: Body) -> Vec<u8> {
    Message::new(cookie, body).encode().to_vec()
}

/// A failure: its number, and its words as far as they fit.
pub(crate) fn failure(cookie: u16, error: &Error) -> Vec<u8> {
    let words = reason(error);
    let words = cut(&words, TEXT_BYTES - 1);
    message(cookie, Body::Error(Errno(errno(error)), Text::truncated(words.as_bytes())))
}

/// The beginning of a text that has at most so many bytes, cut between characters.
pub(crate) fn cut(text: &str, bytes_max: usize) -> &str {
    let ends = text.char_indices().map(|(start, character)| start + character.len_utf8());
    &text[..ends.take_while(|end| *end <= bytes_max).last().unwrap_or(0)]
}

/// The plain answer to a request that was carried out.
pub(crate) fn done(cookie: u16, result: Result<()>, body: fn(Errno) -> Body) -> Vec<u8> {
    match result {
        Ok(()) => message(cookie, body(Errno::NONE)),
        Err(error) => failure(cookie, &error),
    }
}

/// A size, of a disk that was opened or is asked about.
pub(crate) fn sized(cookie: u16, result: Result<ImageInformation>, body: fn(ImageInformation) -> Body) -> Vec<u8> {
    match result {
        Ok(size) => message(cookie, body(size)),
        Err(error) => failure(cookie, &error),
    }
}

/// Every slot with the number of those that follow, and the end of the list.
pub(crate) fn list<'a>(cookie: u16, slots: impl ExactSizeIterator<Item = &'a Slot>) -> Vec<u8> {
    let count = u32::try_from(slots.len()).unwrap_or(u32::MAX);
    let entries = slots.zip((1..=count).rev()).map(|(slot, left)| slot.list_entry(left));
    entries.chain([ListEntry::END]).flat_map(|entry| message(cookie, Body::ListResponse(entry))).collect()
}

/// Statistics: a message with their length, and the text.
pub(crate) fn statistics(cookie: u16, text: String) -> Vec<u8> {
    let mut bytes = message(cookie, Body::StatsResponse { length: text.len() as u64 });
    bytes.extend(text.into_bytes());
    bytes
}

/// What OPEN asks for, unless it asks for a layer that is not offered.
pub(crate) fn open(parameters: OpenParameters, has_log: bool, key: Option<EncryptionKey>) -> Result<Open> {
    let flags = parameters.flags;
    refuse_layers(&parameters, has_log)?;
    refuse(parameters.parent.is_some(), "the disk of another tapdisk as parent")?;
    refuse(flags.contains(OpenFlags::ADD_LOCAL_CACHE), "a local read cache")?;
    if flags.contains(OpenFlags::ADD_CACHE) {
        // Known and refused by every tapdisk that has images with parents.
        return Err(Error::new(ErrorKind::Invalid, "a cache in memory cannot be put on these images"));
    }
    Ok(Open {
        name: parameters.path.into(),
        is_read_only: flags.contains(OpenFlags::READ_ONLY),
        is_shared: flags.contains(OpenFlags::SHARED),
        // Scripts open a guest's disk here before it has left where it was.
        is_late: !flags.contains(OpenFlags::SHARED),
        is_buffered: flags.contains(OpenFlags::NO_O_DIRECT),
        key: key.map(|key| DiskKey::new(key.bytes())).transpose()?.map(Arc::new),
        timeout: Some(parameters.request_timeout).filter(|seconds| *seconds > 0).map(|s| Duration::from_secs(s.into())),
        ..Open::default()
    })
}

/// What RESUME asks for: other images, or (nothing said) the same.
pub(crate) fn resume(parameters: OpenParameters, has_log: bool) -> Result<Option<Name>> {
    refuse_layers(&parameters, has_log)?;
    Ok(Some(parameters.path.into()).filter(|name: &Name| !name.is_empty()))
}

fn refuse_layers(parameters: &OpenParameters, has_log: bool) -> Result<()> {
    // The word takes a secondary away, which there is none of.
    let has_secondary = parameters.flags.contains(OpenFlags::SECONDARY) && &*parameters.secondary != b"null";
    refuse(has_secondary, "a secondary image")?;
    refuse(has_log, "a log of changed blocks")
}

fn refuse(is_asked_for: bool, what: &str) -> Result<()> {
    match is_asked_for {
        true => Err(Error::new(ErrorKind::Unsupported, format!("{what} is not offered"))),
        false => Ok(()),
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    fn asked(flags: OpenFlags) -> OpenParameters {
        OpenParameters { flags, path: Text::new("vhd:/a.vhd").unwrap(), ..OpenParameters::default() }
    }

    fn refusal(parameters: OpenParameters) -> i32 {
        errno(&open(parameters, false, None).unwrap_err())
    }

    #[test]
    fn layers_that_are_not_offered_are_refused_not_forgotten() {
        assert_eq!(refusal(asked(OpenFlags::SECONDARY)), 38);
        assert_eq!(refusal(asked(OpenFlags::ADD_LOCAL_CACHE)), 38);
        assert_eq!(refusal(asked(OpenFlags::ADD_CACHE)), 22);
        assert_eq!(refusal(OpenParameters { parent: Some(3), ..asked(OpenFlags::EMPTY) }), 38);
        assert_eq!(errno(&open(asked(OpenFlags::EMPTY), true, None).unwrap_err()), 38);
        assert_eq!(errno(&resume(asked(OpenFlags::EMPTY), true).unwrap_err()), 38);
    }

    #[test]
    fn a_key_has_32_or_64_bytes() {
        let key = |length: usize| open(asked(OpenFlags::ENCRYPTED), false, EncryptionKey::new(vec![7; length]));
        assert_eq!([1, 31, 33, 128].map(|length| errno(&key(length).unwrap_err())), [22; 4]);
        assert_eq!(key(64).unwrap().key, Some(Arc::new(DiskKey::new(&[7; 64]).unwrap())));
        assert_eq!(key(32).unwrap().key, Some(Arc::new(DiskKey::new(&[7; 32]).unwrap())));
    }

    #[test]
    fn no_secondary_may_be_taken_away() {
        let parameters = OpenParameters { secondary: Text::new("null").unwrap(), ..asked(OpenFlags::SECONDARY) };
        assert!(resume(parameters.clone(), false).unwrap().is_some());
        assert!(!open(parameters, false, None).unwrap().is_read_only);
    }

    #[test]
    fn no_seconds_mean_the_usual_time() {
        let timeout = |request_timeout| {
            let parameters = OpenParameters { request_timeout, ..asked(OpenFlags::EMPTY) };
            open(parameters, false, None).unwrap().settings(false).retry.deadline.as_secs()
        };
        assert_eq!([0, 1, u16::MAX].map(timeout), [120, 1, 65535]);
    }

    #[test]
    fn an_empty_name_means_the_same_images() {
        assert_eq!(resume(OpenParameters::default(), false).unwrap(), None);
    }

    #[test]
    fn a_long_reason_is_cut_between_characters() {
        let error = Error::new(ErrorKind::Invalid, "\u{e9}".repeat(200));
        let bytes = failure(3, &error);
        assert_eq!(&bytes[12..14], "\u{e9}".as_bytes());
        assert_eq!((bytes[12 + 253], bytes[12 + 254]), (0xa9, 0));
    }
}
