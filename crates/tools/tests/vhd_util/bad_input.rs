//! Images that are not what they should be: the number that storage managers know, one line for people, and nothing
//! changed.

use std::fs;

use super::place::{Place, change_footers, change_header, fill_blocks, summed};

/// Opens an image in every way; the number, and the line that says why.
fn refusals(place: &Place, name: &str) -> (i32, String) {
    let before = place.everything();
    let (status, stdout, stderr) = place.fail(&format!("query -n {name} -vspfmdaS"));
    assert_eq!(stdout, format!("error opening {name}: -{status}\n"));
    let words = stderr.strip_prefix("vhd-util query: ").unwrap().to_owned();
    for field in ["hidden", "marker"] {
        let (also, stdout, stderr) = place.fail(&format!("set -n {name} -f {field} -v 1"));
        assert_eq!((also, stdout), (status, format!("error opening {name}: -{status}\n")));
        assert_eq!(stderr, format!("vhd-util set: {words}"));
    }
    let (also, stdout, _) = place.fail(&format!("snapshot -n child.vhd -p {name}"));
    assert_eq!((also, stdout.as_str()), (status, ""));
    assert_eq!(place.everything(), before, "{name}");
    (status, words)
}

#[test]
fn a_missing_file() {
    let place = Place::new();
    assert_eq!(refusals(&place, "none.vhd"), (2, "none.vhd: No such file or directory".to_owned()));
}

#[test]
fn a_directory() {
    let place = Place::new();
    fs::create_dir(place.path("d")).unwrap();
    assert_eq!(refusals(&place, "d"), (22, "d: is a directory, not a file or a block device".to_owned()));
}

#[test]
fn what_is_no_vhd() {
    let place = Place::new();
    for (name, length) in [("empty", 0), ("short", 100), ("text", 512), ("odd", 5000), ("long", 1 << 20)] {
        place.write(name, &vec![b'x'; length]);
        let (status, words) = refusals(&place, name);
        assert_eq!(status, 22, "{name}");
        assert!(words.starts_with(&format!("{name}: ")), "{words}");
    }
}

#[test]
fn footers_that_are_broken() {
    let place = Place::new();
    let stories = [
        ("cookie", 0, "invalid cookie"),
        ("sum", 70, "invalid checksum"),
        ("type", 63, "invalid checksum"),
        ("version", 35, "invalid checksum"),
    ];
    for (name, offset, reason) in stories {
        place.make(&format!("create -n {name} -s 2"));
        let end = place.size(name) - 512;
        let byte = !place.read(name)[offset];
        place.patch(name, offset as u64, &[byte]);
        place.patch(name, end + offset as u64, &[byte]);
        assert_eq!(refusals(&place, name), (22, format!("{name}: footer: {reason}")));
    }
    place.make("create -n new -s 2");
    change_footers(&place, "new", |footer| footer[35] = 4);
    assert_eq!(refusals(&place, "new"), (22, "new: footer: unsupported tap creator version".to_owned()));
}

#[test]
fn an_image_that_was_cut_off() {
    let place = Place::new();
    place.make("create -n a.vhd -s 64");
    place.make("create -n f.vhd -s 2 -r");
    // Within the footer of a fixed image there is nothing else to go by.
    place.truncate("f.vhd", (2 << 20) + 100);
    assert_eq!(refusals(&place, "f.vhd").0, 22);
    place.truncate("a.vhd", 1024);
    let (status, words) = refusals(&place, "a.vhd");
    assert_eq!((status, words.as_str()), (22, "a.vhd: header: ends behind the end of the file"));
    // The copy at the start is enough to look at an image, not to read a table that is gone.
    place.make("create -n b.vhd -s 64");
    place.truncate("b.vhd", 1536);
    let (status, stdout, _) = place.fail("query -n b.vhd -vsfa");
    assert_eq!(status, 22);
    assert_eq!(stdout, "64\nfailed to get physical size: -22\nhidden: 0\nerror reading bat: -22\n");
}

#[test]
fn headers_that_are_broken() {
    let place = Place::new();
    place.make("create -n sum -s 2");
    place.patch("sum", 512 + 800, &[1]);
    assert_eq!(refusals(&place, "sum"), (22, "sum: header: invalid checksum".to_owned()));
    type Story = (&'static str, fn(&mut Vec<u8>), &'static str);
    let stories: [Story; 4] = [
        ("cookie", |header| header[0] = b'x', "invalid cookie"),
        ("version", |header| header[26] = 9, "invalid header version"),
        ("table", |header| header[23] = 1, "invalid table offset"),
        ("block", |header| header[33] = 0x30, "invalid block size"),
    ];
    for (name, change, reason) in stories {
        place.make(&format!("create -n {name} -s 2"));
        change_header(&place, name, change);
        assert_eq!(refusals(&place, name), (22, format!("{name}: header: {reason}")));
    }
}

#[test]
fn a_guest_that_writes_a_footer_into_its_disk_changes_nothing() {
    let place = Place::new();
    place.make("create -n a.vhd -s 64");
    fill_blocks(&place, "a.vhd", 1, 0);
    // The writer was killed; the last sector of the last block holds what the guest wrote there.
    let end = place.size("a.vhd") - 512;
    let mut forged = place.read("a.vhd")[..512].to_vec();
    place.truncate("a.vhd", end);
    forged[68..84].fill(0x66);
    place.patch("a.vhd", end - 512, &summed(forged.clone(), super::place::FOOTER_SUM));
    assert_eq!(place.ask("query -n a.vhd -v"), "64\n");
    // One that says "fixed" contradicts the copy; nobody can tell which of the two is forged.
    forged[60..64].copy_from_slice(&[0, 0, 0, 2]);
    place.patch("a.vhd", end - 512, &summed(forged, super::place::FOOTER_SUM));
    let (status, words) = refusals(&place, "a.vhd");
    assert!(status == 22 && words.contains("one of them is forged"), "{words}");
}
