//! The demo, as CI sees it.

use std::fs::OpenOptions;

use test_support::{RunDirectory, skip};

use crate::served::text;

#[test]
fn the_demo_holds() {
    if let Err(error) = OpenOptions::new().read(true).write(true).open("/dev/fuse") {
        return skip("the_demo_holds", &format!("needs /dev/fuse: {error}"));
    }
    let place = RunDirectory::new();
    let output = place.program("oxtap").arg("demo").output().unwrap();
    let said = text(&output);
    assert!(output.status.success(), "{said}");
    assert_eq!(said.lines().filter(|line| line.starts_with("  ok ")).count(), 15, "{said}");
    assert!(said.ends_with("all of it held\n"), "{said}");
}
