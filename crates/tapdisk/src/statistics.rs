//! Statistics as JSON, spaced as readers have always seen it: a blank inside every bracket.

use std::fmt::Write as _;

use image_chain::LayerStatus;
use image_format::ImageKind;
use virtual_disk::{RequestKind, Status};

use crate::valve::Shown;

/// What the C tapdisk's queue for raw images holds; readers see it as the driver's bound.
const RAW_REQUESTS_MAX: u32 = 352;

/// One disk. `name` is as it was given, and empty if nothing is open; there is no status yet while a disk is attached.
pub(crate) fn json(name: &[u8], status: Option<&Status>, is_buffered: bool, asks: Option<&Shown>) -> String {
    let sectors = |kind| status.map_or(0, |status| status.count(kind).sectors);
    let secs = [RequestKind::Read, RequestKind::Write].map(sectors);
    let pending = status.map_or(0, Status::in_flight);
    let outstanding = status.map_or(0, |status| pending + status.waiting() + status.held());
    let layers = status.map(Status::layers).unwrap_or_default();
    let images: Vec<String> = layers.iter().enumerate().map(|(depth, layer)| image(layer, depth, pending)).collect();
    // Only while something is being done that may hang: then somebody wants to know.
    let doing = status.and_then(Status::step).map(|step| format!(", \"doing\": {}", quoted(step))).unwrap_or_default();
    let asks = asks.map(valve).unwrap_or_default();
    let name = if name.is_empty() { "(null)".into() } else { String::from_utf8_lossy(name) };
    format!(
        "{{ \"name\": {}, \"secs\": {}, \"images\": [ {} ], \"FIXME_enospc_redirect_count\": 0, \
         \"nbd_mirror_failed\": 0, \"reqs_outstanding\": {outstanding}, \"read_caching\": \"{is_buffered}\"{doing}{asks} }}",
        quoted(&name),
        pair(secs),
        images.join(", "),
    )
}

/// How a disk stands with its rate limiter; the words are those of the driver of this name.
fn valve(Shown { name, budget }: &Shown) -> String {
    let status = budget.status();
    format!(
        ", \"valve\": {{ \"bridge\": {}, \"flags\": {}, \"cred\": {}, \"need\": {}, \"done\": {}, \"stor\": {}, \"forw\": {} }}",
        quoted(&name.to_string()),
        u8::from(status.is_connected),
        status.credit,
        status.asked,
        status.done,
        status.waiting,
        status.passed,
    )
}

/// All disks of a process.
pub(crate) fn json_of_all(disks: &[String]) -> String {
    format!("[ {} ]", disks.join(", "))
}

fn image(layer: &LayerStatus, depth: usize, pending: u64) -> String {
    let (number, name, status) = match layer.kind {
        ImageKind::Vhd => (4, "vhd", "null".into()),
        ImageKind::Raw => {
            let pending = if depth == 0 { pending } else { 0 };
            (0, "aio", format!("{{ \"reqs\": {{ \"max\": {RAW_REQUESTS_MAX}, \"pending\": {pending} }} }}"))
        }
    };
    format!(
        "{{ \"name\": {}, \"hits\": {}, \"fail\": {}, \
         \"driver\": {{ \"type\": {number}, \"name\": \"{name}\", \"status\": {status} }} }}",
        quoted(&layer.name),
        pair(layer.hits),
        pair(layer.fails),
    )
}

fn pair([read, write]: [u64; 2]) -> String {
    format!("[ {read}, {write} ]")
}

/// A string with its quotes; what would end it or is not printable is escaped.
fn quoted(text: &str) -> String {
    let mut quoted = String::with_capacity(text.len() + 2);
    quoted.push('"');
    for character in text.chars() {
        match character {
            '"' | '\\' => quoted.extend(['\\', character]),
            '\n' => quoted.push_str("\\n"),
            '\t' => quoted.push_str("\\t"),
            control if control.is_ascii_control() => {
                let _ = write!(quoted, "\\u{:04x}", u32::from(control));
            }
            other => quoted.push(other),
        }
    }
    quoted.push('"');
    quoted
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::layers::ValveName;
    use virtual_disk::Budget;

    fn layer(kind: ImageKind, name: &str) -> LayerStatus {
        LayerStatus { name: name.into(), kind, hits: [8, 1], fails: [0, 2] }
    }

    #[test]
    fn an_image_reads_as_ever() {
        assert_eq!(
            image(&layer(ImageKind::Vhd, "/t/b.vhd"), 0, 3),
            "{ \"name\": \"/t/b.vhd\", \"hits\": [ 8, 1 ], \"fail\": [ 0, 2 ], \
             \"driver\": { \"type\": 4, \"name\": \"vhd\", \"status\": null } }"
        );
        let raw = image(&layer(ImageKind::Raw, "/t/a"), 0, 3);
        assert!(
            raw.ends_with("\"name\": \"aio\", \"status\": { \"reqs\": { \"max\": 352, \"pending\": 3 } } } }"),
            "{raw}"
        );
    }

    #[test]
    fn a_slot_with_nothing_open_says_so() {
        assert_eq!(
            json(b"", None, true, None),
            "{ \"name\": \"(null)\", \"secs\": [ 0, 0 ], \"images\": [  ], \"FIXME_enospc_redirect_count\": 0, \
             \"nbd_mirror_failed\": 0, \"reqs_outstanding\": 0, \"read_caching\": \"true\" }"
        );
    }

    #[test]
    fn a_disk_that_asks_a_rate_limiter_says_how_it_stands() {
        let name = ValveName { bridge: "gold".into(), reads: true };
        let all = json(b"valve:gold,reads:aio:/a", None, false, Some(&Shown { name, budget: Budget::new(true) }));
        assert!(
            all.ends_with(
                "\"read_caching\": \"false\", \"valve\": { \"bridge\": \"gold,reads\", \"flags\": 0, \"cred\": 0, \
                 \"need\": 0, \"done\": 0, \"stor\": 0, \"forw\": 0 } }"
            ),
            "{all}"
        );
    }

    #[test]
    fn names_are_escaped() {
        assert_eq!(quoted("a\"b\\c\n\u{1}\u{e9}"), "\"a\\\"b\\\\c\\n\\u0001\u{e9}\"");
    }

    #[test]
    fn all_disks_are_a_list() {
        assert_eq!(json_of_all(&["{  }".into(), "{  }".into()]), "[ {  }, {  } ]");
        assert_eq!(json_of_all(&[]), "[  ]");
    }
}
