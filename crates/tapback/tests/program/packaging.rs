//! What a package puts where: everything is there, and those who name something find it.

use std::{
    collections::BTreeSet,
    fs,
    os::unix::fs::PermissionsExt,
    path::{Path, PathBuf},
    process::Command,
};

const PROGRAMS: [&str; 9] =
    ["tap-ctl", "tapback", "vhd-util", "td-util", "cbt-util", "td-rated", "oxtap", "block-tapdisk", "tapdisk"];

fn tree() -> PathBuf {
    Path::new(env!("CARGO_MANIFEST_DIR")).join("../..")
}

/// A host on which it was installed, twice: the second time over the first.
fn installed() -> tempfile::TempDir {
    let host = tempfile::tempdir().unwrap();
    let built = host.path().join("built");
    fs::create_dir(&built).unwrap();
    for program in PROGRAMS.into_iter().chain(["oxtap-bench"]) {
        fs::write(built.join(program), program).unwrap();
    }
    for _ in 0..2 {
        let mut install = Command::new(tree().join("packaging/install"));
        let output = install.arg(&built).env("DESTDIR", host.path().join("root")).output().unwrap();
        assert!(output.status.success(), "{}", String::from_utf8_lossy(&output.stderr));
    }
    host
}

fn names(directory: &Path) -> BTreeSet<String> {
    fs::read_dir(directory).unwrap().map(|entry| entry.unwrap().file_name().into_string().unwrap()).collect()
}

#[test]
fn programs_and_scripts_are_where_others_look_for_them() {
    let host = installed();
    let root = host.path().join("root");
    let places =
        PROGRAMS.map(|name| if name == "tapdisk" { "usr/libexec/tapdisk".into() } else { format!("usr/bin/{name}") });
    for (name, place) in PROGRAMS.iter().zip(&places) {
        assert_eq!(fs::read_to_string(root.join(place)).unwrap(), *name);
        assert_eq!(fs::metadata(root.join(place)).unwrap().permissions().mode() & 0o777, 0o755, "{place}");
    }
    assert_eq!(names(&root.join("usr/bin")).len() + names(&root.join("usr/libexec")).len(), PROGRAMS.len() + 1);
    assert!(root.join("usr/libexec/oxtap-bench").is_file());
    for script in ["block-tapdisk", "block-oxtap"] {
        let link = fs::read_link(root.join("etc/xen/scripts").join(script)).unwrap();
        assert_eq!(link, Path::new("/usr/bin/block-tapdisk"));
    }
    let unit = fs::read_to_string(root.join("usr/lib/systemd/system/tapback.service")).unwrap();
    let started: Vec<&str> = unit.lines().filter_map(|line| line.strip_prefix("ExecStart=/")).collect();
    assert_eq!(started.len(), 1);
    let program = started[0].split(' ').next().unwrap();
    assert!(places.iter().any(|place| place == program), "{program} is started, and not installed");
}

#[test]
fn manual_pages_are_in_their_sections() {
    let host = installed();
    let manual = host.path().join("root/usr/share/man");
    let pages: BTreeSet<String> = ["man1", "man8"].iter().flat_map(|section| names(&manual.join(section))).collect();
    assert_eq!(pages, names(&tree().join("docs/man")));
    for program in PROGRAMS {
        let is_page = |page: &String| page.rsplit_once('.').is_some_and(|(name, _)| name == program);
        assert!(pages.iter().any(is_page), "{program} has no manual page");
    }
}

#[test]
fn completions_are_where_shells_look_for_them() {
    let share = installed();
    let share = share.path().join("root/usr/share");
    for program in PROGRAMS {
        for place in [
            format!("bash-completion/completions/{program}"),
            format!("zsh/vendor-completions/_{program}"),
            format!("fish/vendor_completions.d/{program}.fish"),
        ] {
            assert!(share.join(&place).is_file(), "{place}");
        }
    }
}
