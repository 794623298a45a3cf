//! Manual pages and shell completions say what the parsers understand: all of it is made from their own tables.
//!
//! `OXTAP_WRITE_MANUAL=1 cargo test -p tools --test documents` writes them anew. (The pages of tapback and of its script are
//! written by `-p tapback --test program manual`.)

#![allow(clippy::unwrap_used, reason = "a test that cannot go on fails")]

mod completions;
mod oxtap;
mod pages;
mod shells;

use std::{collections::BTreeMap, env, fs, path::Path};

use command_line::Program;

/// Compares what is stored in a directory of the tree with what there is to say, or writes it.
fn check(directory: &str, documents: &BTreeMap<String, String>) {
    let directory = Path::new(env!("CARGO_MANIFEST_DIR")).join("../..").join(directory);
    for (name, text) in documents {
        let path = directory.join(name);
        if env::var_os("OXTAP_WRITE_MANUAL").is_some() {
            fs::create_dir_all(path.parent().unwrap()).unwrap();
            fs::write(&path, text).unwrap();
        }
        let stored = fs::read_to_string(&path).unwrap_or_default();
        let path = path.display();
        assert!(stored == *text, "{path} is not current: OXTAP_WRITE_MANUAL=1 cargo test -p tools --test documents");
    }
}

/// The programs with a table of their own.
fn programs() -> Vec<Program> {
    tools::programs().into_iter().chain([tapdisk::program()]).collect()
}
