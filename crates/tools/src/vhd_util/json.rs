//! `--json`: what a command says, for programs that would rather not take lines apart.
//!
//! One value on stdout, whatever happens; the exit status is that without it. Sizes are in bytes. A name that is not UTF-8
//! has its other bytes replaced.
//!
//! ```text
//!   query   {"image": PATH, "virtual_bytes": N, "physical_bytes": N, "parent": PATH | null, "hidden": N, "marker": N,
//!            "depth": N, "allocated_blocks": N | null, "largest_bytes": N}, or of these what the letters ask for;
//!            what cannot be said is null, and has its reason in "errors": {NAME: FAILURE}
//!   scan    [{"image": PATH, "capacity_bytes": N, "size_bytes": N, "hidden": N, "parent": PATH | null,
//!             "marker": N, "key_hash": TEXT} | {"image": PATH, "error": FAILURE}, ...]
//!   read    {"image": PATH} and of these what the letters ask for, and "error": FAILURE of the first that failed:
//!           "headers": {"footer": {...} | null, "header": {...} | null, "parent_locators": [...], "batmap": {...} | null},
//!           "sectors": [{"sector": N, "block": N, "sector_in_block": N, "file_offset": N | null}, ...],
//!           "blocks": [{"block": N, "file_offset": N | null}, ...], "allocated": RUNS, "bitmaps": [{"block": N, "present":
//!           RUNS | null}, ...], "present": [{"sector": N, "present": true | false}, ...], "extents": RUNS, "batmap": RUNS,
//!           "in_batmap": [{"block": N, "full": true | false}, ...]
//!   RUNS    [{"first": N, "count": N}, ...]
//!   check   {"image": PATH, "valid": true | false, "messages": [TEXT, ...], "problems": [PROBLEM, ...]}, and
//!           "error": FAILURE if it is not valid
//!   PROBLEM {"image": PATH, "kind": WORD, "text": TEXT, "repairable": true | false}; of a valid image those that readers pass over
//!   FAILURE {"errno": 2, "name": "ENOENT", "reason": TEXT}; of a command that could not begin: {"image": PATH, "error": FAILURE}
//! ```

use std::{ffi::OsStr, path::Path};

use block_core::Error;
use command_line::Flag;
use control_api::{errno, symbol};
use serde_json::{Map, Value, json};

use super::{Session, words};

/// Says so.
pub(super) const JSON: Flag =
    Flag::long("json", "as JSON").explained("One JSON value instead of lines; sizes in it are in bytes.");

/// A name.
pub(super) fn name(name: impl AsRef<OsStr>) -> Value {
    name.as_ref().to_string_lossy().into()
}

/// What went wrong.
pub(super) fn failure(error: &Error) -> Value {
    let number = errno(error);
    json!({"errno": number, "name": symbol(number), "reason": words(error)})
}

/// What a command says that could not begin.
pub(super) fn unopened(image: &OsStr, error: &Error) -> Value {
    json!({"image": name(image), "error": failure(error)})
}

/// What `check` found.
pub(super) fn verdict(
    image: &Path,
    messages: Vec<String>,
    problems: Vec<Value>,
    result: &block_core::Result<()>,
) -> Value {
    let mut verdict =
        json!({"image": name(image), "valid": result.is_ok(), "messages": messages, "problems": problems});
    if let Err(error) = result {
        verdict["error"] = failure(error);
    }
    verdict
}

/// One thing that is wrong; `repairable` if `repair` puts it right.
pub(super) fn problem(image: &Path, kind: &str, text: &str, repairable: bool) -> Value {
    json!({"image": name(image), "kind": kind, "text": text, "repairable": repairable})
}

/// The part of an image that a broken rule is about, by the words in which it is told.
pub(super) fn kind_of(words: &str) -> &'static str {
    const KINDS: [(&str, &str); 12] = [
        ("primary footer", "primary_footer"),
        ("backup footer", "backup_footer"),
        ("primary and backup footers", "footers"),
        ("header", "header"),
        ("differencing header", "header"),
        ("the disk is larger", "size"),
        ("block", "table"),
        ("sector", "bitmap"),
        ("no parent locator", "parent_locators"),
        ("parent locator", "parent_locators"),
        ("invalid parent locator", "parent_locators"),
        ("duplicate platform code", "parent_locators"),
    ];
    KINDS.iter().find(|(start, _)| words.starts_with(start)).map_or("image", |(_, kind)| kind)
}

/// Facts of an image by their names, and why some of them are missing.
pub(super) struct Facts {
    facts: Map<String, Value>,
    errors: Map<String, Value>,
}

impl Facts {
    pub(super) fn of(image: &OsStr) -> Facts {
        Facts { facts: Map::from_iter([("image".to_owned(), name(image))]), errors: Map::new() }
    }

    /// Adds a fact; what went wrong is handed on.
    pub(super) fn add(&mut self, fact: &str, value: block_core::Result<impl Into<Value>>) -> block_core::Result<()> {
        let (value, result) = match value {
            Ok(value) => (value.into(), Ok(())),
            Err(error) => {
                self.errors.insert(fact.to_owned(), failure(&error));
                (Value::Null, Err(error))
            }
        };
        self.facts.insert(fact.to_owned(), value);
        result
    }

    pub(super) fn value(mut self) -> Value {
        if !self.errors.is_empty() {
            self.facts.insert("errors".to_owned(), self.errors.into());
        }
        self.facts.into()
    }
}

impl Session {
    /// Says a value, and nothing else.
    pub(super) fn say_json(&self, value: &Value) {
        self.said.borrow_mut().clear();
        self.say(format!("{value:#}"));
    }

    /// What was said until now, as lines, and no more said.
    pub(super) fn take_back(&self) -> Vec<String> {
        String::from_utf8_lossy(&self.said.take()).lines().map(str::to_owned).collect()
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use block_core::ErrorKind;

    #[test]
    fn what_is_missing_is_null_and_has_its_reason() {
        let mut facts = Facts::of(OsStr::new("a.vhd"));
        facts.add("depth", Ok(3u64)).unwrap();
        facts.add("parent", Err::<u64, _>(Error::new(ErrorKind::NotFound, "b.vhd"))).unwrap_err();
        assert_eq!(
            facts.value(),
            json!({"image": "a.vhd", "depth": 3, "parent": null,
                   "errors": {"parent": {"errno": 2, "name": "ENOENT", "reason": "b.vhd"}}})
        );
    }
}
