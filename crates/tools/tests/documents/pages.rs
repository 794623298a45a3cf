//! The manual pages of the programs with a table.

use std::{collections::BTreeMap, fs, path::Path, process::Command};

use test_support::require_tool;

use super::{check, programs};

#[test]
fn manual_pages_are_made_from_the_tables() {
    let pages: BTreeMap<String, String> =
        programs().iter().map(|program| (program.manual_name(), program.manual())).collect();
    assert_eq!(pages.len(), 6);
    check("docs/man", &pages);
}

#[test]
fn a_page_has_every_command_and_every_flag() {
    for program in programs() {
        let page = program.manual();
        for command in &program.commands {
            let section = match command.name {
                "" => page.as_str(),
                name => {
                    let (_, section) = page.split_once(&format!(".SS {name}\n")).expect(name);
                    section.split("\n.S").next().unwrap()
                }
            };
            for flag in command.flags {
                let head = format!(".TP\n\\fB{}\\fR", flag.name().replace('-', "\\-"));
                assert!(section.contains(&head), "{} {} {}", program.name, command.name, flag.name());
            }
        }
    }
}

/// What groff has to complain about, it says on stderr.
#[test]
fn groff_has_nothing_to_complain_about() {
    let directory = Path::new(env!("CARGO_MANIFEST_DIR")).join("../../docs/man");
    let pages: Vec<_> = fs::read_dir(directory).unwrap().map(|entry| entry.unwrap().path()).collect();
    let mut groff = Command::new(require_tool("groff"));
    let output = groff.args(["-man", "-Tascii", "-ww", "-z"]).args(pages).output().unwrap();
    assert_eq!(String::from_utf8_lossy(&output.stderr), "");
}
