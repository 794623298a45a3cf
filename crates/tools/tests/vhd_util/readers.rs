//! Other implementations read what this one makes.

use std::process::Command;

use test_support::require_tool;

use super::place::Place;

fn said(command: &mut Command) -> String {
    let output = command.output().unwrap();
    let text = String::from_utf8_lossy(&output.stdout).into_owned();
    assert!(output.status.success(), "{text}{}", String::from_utf8_lossy(&output.stderr));
    text
}

#[test]
fn qemu_reads_dynamic_and_fixed_images() {
    let place = Place::new();
    place.make("create -n d.vhd -s 64");
    place.make("create -n f.vhd -s 4 -r");
    for (name, size) in [("d.vhd", 64), ("f.vhd", 4)] {
        let told = said(place.command(require_tool("qemu-img")).args(["info", "-f", "vpc", "--output=json", name]));
        assert!(told.contains(&format!("\"virtual-size\": {}", size << 20)), "{told}");
        let mut map = place.command(require_tool("qemu-img"));
        let told = said(map.args(["map", "-f", "vpc", "--output=json", name]));
        assert!(name == "f.vhd" || told.contains("\"zero\": true"), "{told}");
    }
}

#[test]
fn libvhdi_reads_the_links_of_a_chain() {
    let place = Place::new();
    place.make("create -n a.vhd -s 64");
    place.make("snapshot -n b.vhd -p a.vhd");
    let child = said(place.command(require_tool("vhdiinfo")).arg("b.vhd"));
    let parent = said(place.command(require_tool("vhdiinfo")).arg("a.vhd"));
    let field = |told: &str, label: &str| {
        let line = told.lines().find(|line| line.trim_start().starts_with(label)).unwrap_or_default();
        line.split_once(": ").unwrap_or_default().1.trim().to_owned()
    };
    assert_eq!(field(&child, "Disk type"), "Differential");
    assert_eq!(field(&child, "Media size"), "64 MiB (67108864 bytes)");
    assert_eq!(field(&child, "Parent identifier"), field(&parent, "Identifier"));
    assert_eq!(field(&child, "Parent filename"), "a.vhd");
    assert_eq!(field(&parent, "Disk type"), "Dynamic");
}
