//! The manual page says what the help says: both come from one definition.

use std::{fs, path::Path};

/// `OXTAP_WRITE_MANUAL=1 cargo test -p tapback --test program manual` writes the page anew.
#[test]
fn the_manual_page_is_that_of_its_arguments() {
    let path = Path::new(env!("CARGO_MANIFEST_DIR")).join("../../docs/man/tapback.8");
    let mut page = Vec::new();
    clap_mangen::Man::new(tapback::Arguments::command()).section("8").render(&mut page).unwrap();
    if std::env::var_os("OXTAP_WRITE_MANUAL").is_some() {
        fs::write(&path, &page).unwrap();
    }
    assert_eq!(fs::read(&path).unwrap_or_default(), page, "docs/man/tapback.8 is not current");
}
