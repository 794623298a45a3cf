//! The manual pages say what the help says: both come from one definition.

use std::{fs, path::Path};

/// `OXTAP_WRITE_MANUAL=1 cargo test -p tapback --test program manual` writes the pages anew.
fn check(name: &str, command: clap::Command) {
    let path = Path::new(env!("CARGO_MANIFEST_DIR")).join("../../docs/man").join(name);
    let mut page = Vec::new();
    clap_mangen::Man::new(command).section("8").render(&mut page).unwrap();
    if std::env::var_os("OXTAP_WRITE_MANUAL").is_some() {
        fs::write(&path, &page).unwrap();
    }
    assert_eq!(fs::read(&path).unwrap_or_default(), page, "docs/man/{name} is not current");
}

#[test]
fn the_manual_page_is_that_of_its_arguments() {
    check("tapback.8", tapback::Arguments::command());
}

#[test]
fn the_scripts_manual_page_is_that_of_its_arguments() {
    check("block-tapdisk.8", tapback::ScriptArguments::command());
}
