//! What an image's name may have in front of its type: layers between the disk and its images.
//!
//! ```text
//!   valve:NAME[,reads]:   the disk draws on the budget of the rate limiter NAME
//!   fault:RULES:          storage fails by these rules
//!   delay:TIME:           storage takes this much longer
//!   type:path             the image
//! ```
//!
//! They may be combined in any order. This takes names apart and nothing else: whether rules make sense is said by those
//! who follow them.

use std::{borrow::Cow, fmt};

use block_core::{Error, ErrorKind, Result};

/// The name of an image, taken apart.
#[derive(Clone, Debug, Default, PartialEq, Eq)]
pub(crate) struct Layers<'a> {
    /// Rules by which storage fails, separated by commas.
    pub(crate) faults: Option<String>,
    /// The rate limiter that the disk asks.
    pub(crate) valve: Option<ValveName>,
    /// What remains: `type:path`. A path need not be text.
    pub(crate) image: &'a [u8],
}

/// Which rate limiter a disk asks, and for what.
#[derive(Clone, Debug, PartialEq, Eq)]
pub(crate) struct ValveName {
    /// Its socket: a path, or a name in the directory of rate limiters.
    pub(crate) bridge: String,
    /// Whether reads are limited, too.
    pub(crate) reads: bool,
}

impl ValveName {
    /// `NAME`, or `NAME,reads`.
    pub(crate) fn parse(text: &str) -> Result<ValveName> {
        let (bridge, reads) = match text.split_once(',') {
            None => (text, false),
            Some((bridge, "reads")) => (bridge, true),
            Some((_, other)) => return Err(invalid(format!("valve: {other}: only \"reads\" may follow the name"))),
        };
        if bridge.is_empty() || bridge.contains('\0') {
            return Err(invalid("valve: the name of a rate limiter is missing"));
        }
        Ok(ValveName { bridge: bridge.to_owned(), reads })
    }
}

impl fmt::Display for ValveName {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        write!(f, "{}{}", self.bridge, if self.reads { ",reads" } else { "" })
    }
}

/// Takes the layers off a name; what is left is the image.
pub(crate) fn split_layers(name: &[u8]) -> Result<Layers<'_>> {
    let mut layers = Layers { image: name, ..Layers::default() };
    while let Some((kind @ (b"valve" | b"fault" | b"delay"), rest)) = split_once(layers.image) {
        let kind = String::from_utf8_lossy(kind);
        let Some((argument, image)) = split_once(rest) else {
            return Err(invalid(format!("{kind}: expected {kind}:...:type:path")));
        };
        let argument = std::str::from_utf8(argument).map_err(|_| invalid(format!("{kind}: not UTF-8")))?;
        layers.image = image;
        match &*kind {
            "valve" if layers.valve.is_some() => return Err(invalid("valve: a disk asks one rate limiter")),
            "valve" => layers.valve = Some(ValveName::parse(argument)?),
            "delay" => layers.add_faults(&format!("any=delay({argument})")),
            _ => layers.add_faults(argument),
        }
    }
    Ok(layers)
}

/// What is in front of the first colon, and what is behind it.
fn split_once(text: &[u8]) -> Option<(&[u8], &[u8])> {
    let colon = text.iter().position(|byte| *byte == b':')?;
    Some((&text[..colon], &text[colon + 1..]))
}

impl Layers<'_> {
    fn add_faults(&mut self, rules: &str) {
        let all = self.faults.get_or_insert_default();
        if !all.is_empty() && !rules.is_empty() {
            all.push(',');
        }
        all.push_str(rules);
    }
}

fn invalid(words: impl Into<Cow<'static, str>>) -> Error {
    Error::new(ErrorKind::Invalid, words)
}

#[cfg(test)]
mod tests {
    use super::*;

    fn valve(bridge: &str, reads: bool) -> Option<ValveName> {
        Some(ValveName { bridge: bridge.into(), reads })
    }

    #[test]
    fn a_name_without_layers_is_an_image() {
        for name in ["vhd:/a.vhd", "aio:/a:b:c", "aio:/valve:x:y", "", "vhd"] {
            assert_eq!(split_layers(name.as_bytes()).unwrap(), Layers { image: name.as_bytes(), ..Layers::default() });
        }
    }

    #[test]
    fn layers_are_taken_off_from_outside() {
        let expected = Layers { valve: valve("group", false), image: b"vhd:/a.vhd", faults: None };
        assert_eq!(split_layers(b"valve:group:vhd:/a.vhd").unwrap(), expected);
        let both = Layers { valve: valve("/run/x", true), image: b"aio:/a", faults: Some("read@0+512=EIO".into()) };
        assert_eq!(split_layers(b"valve:/run/x,reads:fault:read@0+512=EIO:aio:/a").unwrap(), both);
        assert_eq!(split_layers(b"fault:read@0+512=EIO:valve:/run/x,reads:aio:/a").unwrap(), both);
    }

    #[test]
    fn a_delay_is_a_rule_for_everything() {
        let layers = split_layers(b"delay:200ms:fault:sync=EIO:vhd:/a").unwrap();
        assert_eq!((layers.faults.as_deref(), layers.image), (Some("any=delay(200ms),sync=EIO"), &b"vhd:/a"[..]));
    }

    #[test]
    fn a_path_need_not_be_text() {
        assert_eq!(split_layers(b"valve:x:aio:/\xff").unwrap().image, b"aio:/\xff");
        assert!(split_layers(b"valve:\xff:aio:/a").is_err());
    }

    #[test]
    fn rules_may_be_empty() {
        let layers = split_layers(b"fault::vhd:/a").unwrap();
        assert_eq!((layers.faults.as_deref(), layers.image), (Some(""), &b"vhd:/a"[..]));
    }

    #[test]
    fn what_makes_no_sense_is_refused() {
        for name in ["valve:x", "fault:EIO", "valve::vhd:/a", "valve:x,writes:vhd:/a", "valve:a:valve:b:vhd:/a"] {
            assert_eq!(split_layers(name.as_bytes()).unwrap_err().kind(), ErrorKind::Invalid, "{name}");
        }
    }
}
