//! Images that are changed in place: another parent, another end, no data.

use std::fs;

use test_support::{LoopDevice, require_tool, target_program};

use super::place::{Place, fill_blocks};

/// A grandparent with a block of 5, an empty parent, and a child.
fn chain(place: &Place) {
    place.make("create -n g.vhd -s 64");
    fill_blocks(place, "g.vhd", 1, 5);
    place.make("snapshot -n parent.vhd -p g.vhd");
    place.make("snapshot -n child.vhd -p parent.vhd -e");
}

fn parent(place: &Place, name: &str) -> String {
    let path = place.ask(&format!("query -n {name} -p"));
    let place = place.path("");
    path.trim_end().strip_prefix(place.to_str().unwrap()).unwrap_or(&path).to_owned()
}

/// The first sector of the disk, through the chain.
fn first_sector(place: &Place, name: &str) -> Vec<u8> {
    let ended = place.command(target_program("vhd-util")).args(["read", "-n", name, "-r", "0"]).output().unwrap();
    assert!(ended.status.success(), "{name}: {}", String::from_utf8_lossy(&ended.stderr));
    ended.stdout
}

#[test]
fn a_child_is_linked_to_another_parent() {
    let place = Place::new();
    chain(&place);
    assert_eq!((parent(&place, "child.vhd"), first_sector(&place, "child.vhd")), ("parent.vhd".into(), vec![5; 512]));
    place.make("modify --debug -p g.vhd -n child.vhd");
    assert_eq!((parent(&place, "child.vhd"), first_sector(&place, "child.vhd")), ("g.vhd".into(), vec![5; 512]));
    fs::remove_file(place.path("parent.vhd")).unwrap();
    assert_eq!(place.ask("query -n child.vhd -du"), "chain depth: 2\n");
    let told = place.command(require_tool("vhdiinfo")).arg("child.vhd").output().unwrap();
    let told = String::from_utf8_lossy(&told.stdout).into_owned();
    assert!(told.contains("g.vhd"), "{told}");
    assert!(place.run("check -n child.vhd -p").status == 0);
}

/// Longer and shorter paths, and such as no other tool could write, in the places of the old ones.
#[test]
fn paths_of_all_lengths_take_the_place_of_the_old_ones() {
    let place = Place::new();
    chain(&place);
    let long = format!("{}/{}", "d\u{e9}j\u{e0}".repeat(8), "x".repeat(60));
    fs::create_dir_all(place.path(&long)).unwrap();
    let names = [format!("{long}/other.vhd"), "p".to_owned(), format!("{long}/g.vhd"), "../sibling.vhd".to_owned()];
    let home = place.path("home");
    fs::create_dir(&home).unwrap();
    fs::rename(place.path("child.vhd"), home.join("child.vhd")).unwrap();
    for name in names {
        let target = place.path(&name.replace("../", "home/../"));
        fs::copy(place.path("g.vhd"), &target).unwrap();
        place.make(&format!("modify -n home/child.vhd -p {}", target.to_str().unwrap()));
        let found = place.ask("query -n home/child.vhd -p");
        assert_eq!(found.trim_end(), target.canonicalize().unwrap().to_str().unwrap());
        assert_eq!(first_sector(&place, "home/child.vhd"), [5; 512]);
        assert_eq!(place.run("check -n home/child.vhd").status, 0, "{name}");
    }
}

#[test]
fn a_raw_parent_takes_over_and_gives_back() {
    let place = Place::new();
    chain(&place);
    place.write("raw", &vec![7; 64 << 20]);
    place.make("modify -n child.vhd -p raw -m");
    assert_eq!((parent(&place, "child.vhd"), first_sector(&place, "child.vhd")), ("raw".into(), vec![7; 512]));
    place.make("modify -n child.vhd -p parent.vhd");
    assert_eq!((parent(&place, "child.vhd"), first_sector(&place, "child.vhd")), ("parent.vhd".into(), vec![5; 512]));
}

#[test]
fn parents_that_cannot_be_change_nothing() {
    let place = Place::new();
    chain(&place);
    place.write("text", &[b'x'; 4096]);
    let far = format!("{0}/{0}/g.vhd", "d".repeat(200));
    fs::create_dir_all(place.path(&format!("{0}/{0}", "d".repeat(200)))).unwrap();
    fs::copy(place.path("g.vhd"), place.path(&far)).unwrap();
    let everything = place.everything();
    let stories = [
        ("child.vhd", "none.vhd".to_owned(), 2),
        ("child.vhd", "text".to_owned(), 22),
        ("child.vhd", "child.vhd".to_owned(), 40),
        ("parent.vhd", "child.vhd".to_owned(), 40),
        ("g.vhd", "parent.vhd".to_owned(), 22),
        ("child.vhd", far, 36),
    ];
    for (name, parent, status) in stories {
        // A fresh image without a parent has no loop through another.
        let name = if name == "g.vhd" { "lone.vhd" } else { name };
        if name == "lone.vhd" {
            place.make("create -n lone.vhd -s 64");
        }
        let (ended, stdout, _) = place.fail(&format!("modify -n {name} -p {parent}"));
        assert_eq!((ended, stdout), (status, format!("failed to set parent to '{parent}': -{status}\n")), "{name}");
    }
    fs::remove_file(place.path("lone.vhd")).unwrap();
    assert!(place.everything() == everything);
    let (status, stdout, _) = place.fail("modify -n none.vhd -p g.vhd");
    assert_eq!((status, stdout.as_str()), (2, "error opening none.vhd: -2\n"));
    place.make("modify -n none.vhd");
}

#[test]
fn a_change_of_the_parent_that_is_stopped_leaves_one_parent() {
    let place = Place::new();
    chain(&place);
    let before = place.everything();
    for (hook, left) in [("BEGIN", "parent.vhd"), ("LOCATOR", "parent.vhd"), ("END", "g.vhd")] {
        before.iter().for_each(|(path, bytes)| fs::write(path, bytes).unwrap());
        let variable = format!("VHD_UTIL_TEST_FAIL_REPARENT_{hook}");
        let mut command = place.command(target_program("vhd-util"));
        let ended = command.args(["modify", "-n", "child.vhd", "-p", "g.vhd"]).env(&variable, "1").output().unwrap();
        assert_eq!(ended.status.code(), Some(22), "{hook}");
        assert_eq!(String::from_utf8(ended.stdout).unwrap(), format!("Failing at {variable}\n"));
        assert_eq!((parent(&place, "child.vhd").as_str(), first_sector(&place, "child.vhd")), (left, vec![5; 512]));
        place.make("modify -n child.vhd -p g.vhd");
        assert_eq!(parent(&place, "child.vhd"), "g.vhd");
    }
}

/// The instant at which the header means the new parent, and the first path still leads to the old one.
#[test]
fn a_path_that_leads_to_another_image_is_passed_over() {
    let place = Place::new();
    chain(&place);
    let before = place.read("child.vhd");
    place.make("modify -n child.vhd -p g.vhd");
    place.patch("child.vhd", 3072, &before[3072..3584]);
    assert_eq!((parent(&place, "child.vhd").as_str(), first_sector(&place, "child.vhd")), ("g.vhd", vec![5; 512]));
    assert_eq!(place.ask("query -n child.vhd -d"), "chain depth: 2\n");
    assert_eq!(place.run("check -n child.vhd").status, 22);
    place.make("repair -n child.vhd");
    assert_eq!(place.run("check -n child.vhd -p").status, 0);
    fs::remove_file(place.path("parent.vhd")).unwrap();
    assert_eq!(first_sector(&place, "child.vhd"), [5; 512]);
}

/// The footer moves within a volume, as storage managers shrink and grow volumes around an image.
#[test]
fn the_footer_at_the_end_moves() {
    let place = Place::new();
    place.make("create -n a.vhd -s 64");
    fill_blocks(&place, "a.vhd", 1, 9);
    let before = place.read("a.vhd");
    let size = before.len();
    for (wrong, status) in [(size - 512, 22), (size + 511, 22), (0, 22)] {
        let (ended, stdout, _) = place.fail(&format!("modify -n a.vhd -s {wrong}"));
        assert_eq!((ended, stdout), (status, format!("failed to set physical size to {wrong}: -22\n")));
        assert!(place.read("a.vhd") == before);
    }
    place.make(&format!("modify --debug -s {} -n a.vhd", size + 4096));
    let longer = place.read("a.vhd");
    assert!(longer.len() == size + 4096 && longer[size + 4096 - 512..] == before[..512]);
    assert_eq!(place.ask("query -n a.vhd -s"), format!("{size}\n"));
    place.make(&format!("modify -s {size} -n a.vhd"));
    assert!(place.read("a.vhd") == before);
    let mut disk = before[..size - 512].to_vec();
    disk.resize(4 << 20, 0xaa);
    place.write("disk", &disk);
    let Some(device) = LoopDevice::attach("the_footer_at_the_end_moves", &place.path("disk")) else { return };
    let name = device.path().to_str().unwrap();
    assert_eq!(place.fail(&format!("modify -s {} -n {name}", (4 << 20) + 512)).0, 22);
    place.make(&format!("modify -s {} -n {name}", 3 << 20));
    let after = place.read("disk");
    let end = (3 << 20) - 512;
    assert!(after[end..3 << 20] == before[..512]);
    assert!(after[..end] == disk[..end] && after[3 << 20..] == disk[3 << 20..], "nothing else is written");
}

#[test]
fn an_image_without_its_data_reads_as_its_parent() {
    let place = Place::new();
    chain(&place);
    place.make("set -n child.vhd -f marker -v 3");
    let empty = place.read("child.vhd");
    fill_blocks(&place, "child.vhd", 2, 8);
    place.patch("child.vhd", 2560, &[0xc0]);
    place.patch("child.vhd", 2048 + 24, &(!0xc0_u32).to_be_bytes());
    assert_eq!(first_sector(&place, "child.vhd"), [8; 512]);
    place.make("modify --debug -z -n child.vhd");
    assert!(place.read("child.vhd") == empty);
    assert_eq!(first_sector(&place, "child.vhd"), [5; 512]);
    assert_eq!(place.run("check -n child.vhd").status, 0);
    place.make("create -n f.vhd -s 2 -r");
    assert_eq!(place.fail("modify -z -n f.vhd").0, 22);
}
