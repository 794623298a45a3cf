//! One line for each of many images.

use std::{fs, os::unix::fs::PermissionsExt};

use test_support::target_program;

use super::place::{Ended, Place, change_header};

/// A base, a hidden child of it, and two children of that one.
fn tree() -> Place {
    let place = Place::new();
    place.make("create -n base.vhd -s 64");
    place.make("snapshot -e -n hidden.vhd -p base.vhd");
    place.make("set -n hidden.vhd -f hidden -v 1");
    place.make("snapshot -e -n one.vhd -p hidden.vhd");
    place.make("snapshot -e -n two.vhd -p hidden.vhd");
    place
}

const BASE: &str = "vhd=base.vhd capacity=67108864 size=3584 hidden=0 parent=none\n";
const HIDDEN: &str = "vhd=hidden.vhd capacity=67108864 size=5120 hidden=1 parent=base.vhd\n";
const ONE: &str = "vhd=one.vhd capacity=67108864 size=5120 hidden=0 parent=hidden.vhd\n";
const TWO: &str = "vhd=two.vhd capacity=67108864 size=5120 hidden=0 parent=hidden.vhd\n";

fn sorted(lines: &str) -> Vec<&str> {
    let mut lines: Vec<&str> = lines.lines().collect();
    lines.sort_unstable();
    lines
}

#[test]
fn images_are_told_as_they_are_named_or_found() {
    let place = tree();
    assert_eq!(place.ask("scan two.vhd base.vhd"), [TWO, BASE].concat());
    assert_eq!(place.ask("scan -m *.vhd"), [BASE, HIDDEN, ONE, TWO].concat());
    assert_eq!(place.ask("scan -m {two,one,no*}.vhd"), [TWO, ONE].concat());
    let fast = place.ask("scan -f -m *.vhd");
    assert_eq!(sorted(&fast), sorted(&[BASE, HIDDEN, ONE, TWO].concat()));
    assert_eq!(place.ask("scan -m no*.vhd"), "");
    assert_eq!(place.run("scan").status, 22);
}

#[test]
fn parents_that_are_named_are_found_once() {
    let place = tree();
    assert_eq!(place.ask("scan -a one.vhd two.vhd"), [ONE, TWO, HIDDEN, BASE].concat());
    assert_eq!(place.ask("scan -a -f one.vhd"), [ONE, HIDDEN, BASE].concat());
    place.write("raw", &[0; 1 << 20]);
    place.make("snapshot -m -n c.vhd -p raw");
    let child = "vhd=c.vhd capacity=1048576 size=5120 hidden=0 parent=raw\n";
    let parent = "vhd=raw capacity=1048576 size=1048576 hidden=1 parent=none\n";
    assert_eq!(place.ask("scan -a c.vhd"), [child, parent].concat());
}

#[test]
fn a_tree_has_children_behind_parents_and_hidden_ones_last() {
    let place = tree();
    place.make("snapshot -e -n a-visible.vhd -p base.vhd");
    let visible = "vhd=a-visible.vhd capacity=67108864 size=5120 hidden=0 parent=base.vhd\n";
    let expected = format!("{BASE}   {visible}   {HIDDEN}      {ONE}      {TWO}");
    assert_eq!(place.ask("scan -p -m *.vhd"), expected);
    assert_eq!(place.ask("scan -p -f -m *.vhd"), expected);
    let expected = format!("{} (not found in scan)\n   {TWO}", HIDDEN.trim_end());
    assert_eq!(place.ask("scan -p hidden.vhd two.vhd"), expected);
}

#[test]
fn whole_paths_are_told_when_asked_for() {
    let place = tree();
    let [base, hidden] = ["base.vhd", "hidden.vhd"].map(|name| place.path(name).display().to_string());
    let facts = "capacity=67108864 size=5120 hidden=1";
    assert_eq!(place.ask("scan -v ./hidden.vhd"), format!("vhd=./hidden.vhd {facts} parent={base}\n"));
    assert_eq!(place.ask("scan -v -f ./hidden.vhd"), format!("vhd=./hidden.vhd {facts} parent=base.vhd\n"));
    let told = place.ask("scan -v -p ./hidden.vhd");
    assert_eq!(told, format!("vhd={hidden} {facts} parent={base} (not found in scan)\n"));
}

#[test]
fn markers_and_key_hashes_are_told_when_asked_for() {
    let place = tree();
    place.make("set -n base.vhd -f marker -v 7");
    place.patch("one.vhd", 2048 + 29, &[&[1][..], &[0; 32], &[0xab; 32]].concat());
    let hash = "ab".repeat(32);
    for fast in ["", "-f "] {
        let told = place.ask(&format!("scan -M {fast}base.vhd one.vhd"));
        let expected = format!(
            "vhd=base.vhd capacity=67108864 size=3584 hidden=0 marker=7 keyhash= parent=none\n\
             vhd=one.vhd capacity=67108864 size=5120 hidden=0 marker=0 keyhash={hash} parent=hidden.vhd\n"
        );
        assert_eq!(told, expected);
    }
}

#[test]
fn what_cannot_be_read_ends_a_scan_unless_it_shall_go_on() {
    let place = tree();
    place.write("junk.vhd", &[7; 8192]);
    let junk = "vhd=junk.vhd scan-error=-22 error-message='invalid footer'\n";
    let missing = "vhd=./no.vhd scan-error=-2 error-message='failure scanning target'\n";
    for fast in ["", "-f "] {
        let ended = place.run(&format!("scan {fast}base.vhd junk.vhd one.vhd"));
        assert_eq!((ended.status, ended.stdout), (22, [BASE, junk].concat()));
        let told = place.ask(&format!("scan -c {fast}base.vhd junk.vhd ./no.vhd one.vhd"));
        assert_eq!(told, [BASE, junk, missing, ONE].concat());
    }
    let ended = place.run("scan ./no.vhd");
    assert_eq!((ended.status, ended.stdout.as_str()), (2, missing));
    assert!(ended.stderr.starts_with("scan failed: -2. Check syslog for details\n"), "{}", ended.stderr);
    // A parent that has gone is no error.
    fs::remove_file(place.path("base.vhd")).unwrap();
    assert_eq!(place.ask("scan hidden.vhd"), HIDDEN);
}

#[test]
fn fixed_and_disabled_images_are_told_too() {
    let place = Place::new();
    place.make("create -n f.vhd -s 4 -r");
    let fixed = "vhd=f.vhd capacity=4194304 size=4194816 hidden=0 parent=none\n";
    assert_eq!(place.ask("scan f.vhd"), fixed);
    assert_eq!(place.ask("scan -f f.vhd"), fixed);
    place.make("create -n d.vhd -s 64");
    super::place::change_footers(&place, "d.vhd", |footer| footer[..8].copy_from_slice(b"v_poison"));
    assert_eq!(place.ask("scan -f d.vhd"), "vhd=d.vhd capacity=67108864 size=3584 hidden=0 parent=none\n");
}

#[test]
fn a_chain_that_leads_back_to_itself_ends() {
    let place = Place::new();
    place.make("create -n two.vhd -s 64");
    place.make("snapshot -n one.vhd -p two.vhd");
    place.make("snapshot -e -n next.vhd -p one.vhd");
    fs::rename(place.path("next.vhd"), place.path("two.vhd")).unwrap();
    let uuid = place.read("two.vhd")[68..84].to_vec();
    change_header(&place, "one.vhd", |header| header[40..56].copy_from_slice(&uuid));
    let [one, two] = ["one", "two"].map(|name| {
        let parent = if name == "one" { "two" } else { "one" };
        format!("vhd={name}.vhd capacity=67108864 size=5120 hidden=0 parent={parent}.vhd")
    });
    assert_eq!(place.ask("scan -a one.vhd"), format!("{one}\n{two}\n"));
    assert_eq!(place.ask("scan -p one.vhd two.vhd"), format!("{one} (the chain leads back to it)\n   {two}\n"));
}

/// A volume group of one device, with an image, its child, and one that is raw.
struct Group {
    place: Place,
}

impl Group {
    fn new() -> Group {
        let place = Place::new();
        place.make("create -n VHD-a-1 -s 64");
        place.make("snapshot -e -n VHD-b -p VHD-a-1");
        // Other tools name the parent as the device mapper does.
        change_header(&place, "VHD-b", |header| {
            header[64..576].fill(0);
            for (pair, letter) in header[64..].chunks_mut(2).zip("v--g-VHD--a--1".bytes()) {
                pair[1] = letter;
            }
        });
        let mut device = vec![0; 16 << 20];
        for (offset, name) in [(1 << 20, "VHD-a-1"), ((1 << 20) + (4 << 20), "VHD-b")] {
            let bytes = place.read(name);
            device[offset..offset + bytes.len()].copy_from_slice(&bytes);
            fs::remove_file(place.path(name)).unwrap();
        }
        place.write("device", &device);
        let device = place.path("device").display().to_string();
        let group = Group { place };
        group.program(
            "vgs",
            "vg_name,vg_extent_size,lv_count,pv_count,pv_name,pe_start",
            &[format!("v-g 4194304 3 1 {device} 1048576")],
        );
        group.program(
            "lvs",
            "lv_name,lv_size,segtype,seg_count,seg_start,seg_size,devices",
            &[
                format!("VHD-a-1 4194304 linear 1 0 4194304 {device}(0)"),
                format!("VHD-b 8388608 linear 2 0 4194304 {device}(1)"),
                format!("VHD-b 8388608 linear 2 4194304 4194304 {device}(0)"),
                format!("LV-raw 4194304 linear 1 0 4194304 {device}(2)"),
            ],
        );
        group
    }

    /// A program that answers one question.
    fn program(&self, name: &str, options: &str, lines: &[String]) {
        let expected = format!("--noheadings --nosuffix --units=b --options={options} -- v-g");
        let script = format!(
            "#!/bin/sh\nif [ \"$*\" != '{expected}' ]; then echo \"what is $*\" >&2; exit 5; fi\ncat <<END\n  {}\nEND\n",
            lines.join("\n  ")
        );
        self.place.write(name, script.as_bytes());
        fs::set_permissions(self.place.path(name), fs::Permissions::from_mode(0o755)).unwrap();
    }

    fn run(&self, line: &str) -> Ended {
        let path = format!("{}:{}", self.place.path("").display(), std::env::var("PATH").unwrap_or_default());
        let mut command = self.place.command(target_program("vhd-util"));
        command.args(line.split_whitespace()).env("PATH", path).output().unwrap().into()
    }
}

#[test]
fn volumes_are_read_where_they_lie_also_when_they_are_not_active() {
    let group = Group::new();
    let parent = "vhd=VHD-a-1 capacity=67108864 size=4194304 hidden=0 parent=none\n";
    let child = "vhd=VHD-b capacity=67108864 size=8388608 hidden=0 parent=VHD-a-1\n";
    for (line, expected) in [
        ("scan -f -l v-g -m VHD-*", [parent, child].concat()),
        ("scan -l v-g -m VHD-@(b|c)", child.to_owned()),
        ("scan -l v-g /dev/v-g/VHD-a-1", parent.to_owned()),
        ("scan -a -l v-g VHD-b", [child, parent].concat()),
        ("scan -p -l v-g -m VHD-*", format!("{parent}   {child}")),
        ("scan -l v-g -m no*", String::new()),
    ] {
        let ended = group.run(line);
        assert_eq!(ended, Ended { status: 0, stdout: expected, stderr: String::new() }, "{line}");
    }
    let ended = group.run("scan -c -l v-g -m LV-*");
    assert_eq!(ended.stdout, "vhd=LV-raw scan-error=-22 error-message='invalid footer'\n");
    let ended = group.run("scan -l other -m *");
    assert!(ended.status == 22 && ended.stderr.starts_with("scan failed: -22. Check syslog"), "{}", ended.stderr);
}
