//! What storage managers see from spawn to free, byte for byte.

use crate::host::{Host, Said, aio, names};

#[test]
fn every_step_says_what_it_always_said() {
    let host = Host::new();
    let path = host.raw_image("a b:c.img", 8 << 20);
    let image = aio(&path);
    let run = host.run.path().display().to_string();

    assert_eq!(host.ok(&["list"]), "");
    assert_eq!(host.ok(&["allocate"]), format!("{run}/tapdisk/tapdisk-0\n"));
    assert_eq!(host.ok(&["list"]), "minor=0\n");
    let pid = host.ok(&["spawn"]).strip_suffix('\n').unwrap().to_owned();
    assert_eq!(host.ok(&["list"]), format!("pid={pid}\nminor=0\n"));

    let slot = ["-p", &pid, "-m", "0"];
    let with = |words: &[&str]| [&words[..1], &slot[..], &words[1..]].concat().join("\u{1}");
    let ok = |words: &[&str]| host.ok(&with(words).split('\u{1}').collect::<Vec<_>>());
    let row = |rest: &str| format!("pid={pid} minor=0 {rest}\n");
    assert_eq!(ok(&["attach"]), "");
    assert_eq!(host.ok(&["list"]), row("state=0"));
    assert_eq!(ok(&["open", "-a", &image]), "");
    assert_eq!(host.ok(&["list"]), row(&format!("state=0 args={image}")));
    assert_eq!(ok(&["pause"]), "");
    assert_eq!(host.ok(&["list"]), row(&format!("state=0x2a args={image}")));
    assert_eq!(ok(&["pause", "-t", "30"]), "");
    assert_eq!(ok(&["unpause"]), "");
    assert_eq!(host.ok(&["list"]), row(&format!("state=0 args={image}")));
    assert_eq!(ok(&["close", "-t", "120"]), "");
    assert_eq!(host.ok(&["list"]), row("state=0x2"));
    assert_eq!(ok(&["close"]), "");
    assert_eq!(ok(&["detach"]), "");
    assert_eq!(host.ok(&["list"]), "minor=0\n");
    assert_eq!(host.ok(&["free", "-m", "0"]), "");
    assert_eq!(host.ok(&["list"]), "");
    host.place.assert_nothing_left();
    assert_eq!(names(host.run.path()), ["tapdisk"]);
    assert_eq!(names(&host.place.scratch().join("run.log")), [] as [&str; 0]);
}

#[test]
fn create_and_destroy_do_it_in_one_go() {
    let host = Host::new();
    let image = aio(&host.raw_image("a.img", 1 << 20));
    let marker = format!("{}/tapdisk/tapdisk-0\n", host.run.path().display());
    assert_eq!(host.ok(&["create", "-a", &image, "-d", "ignored", "-R"]), marker);
    let list = host.ok(&["list"]);
    let pid = list.split([' ', '=']).nth(1).unwrap();
    assert_eq!(list, format!("pid={pid} minor=0 state=0 args={image}\n"));
    assert_eq!(host.ok(&["destroy", "-p", pid, "-m", "0"]), "");
    host.place.assert_nothing_left();
}

#[test]
fn a_create_that_fails_leaves_nothing() {
    let host = Host::new();
    let (status, line) = host.fails(&["create", "-a", "aio:/nonexistent/a.img"]);
    assert_eq!(status, 2);
    assert!(line.contains("/nonexistent/a.img") && line.ends_with(": No such file or directory"), "{line}");
    host.place.assert_nothing_left();
}

#[test]
fn what_is_not_understood_is_told_as_ever() {
    let host = Host::new();
    let nothing = host.tap_ctl(&[]);
    assert_eq!((nothing.status, nothing.stdout.lines().count(), nothing.stderr.as_str()), (0, 2, ""));
    let commands = "COMMAND := { list | allocate | free | create | destroy | spawn | attach | detach | open | close | \
                    pause | unpause | stats }";
    assert_eq!(nothing.stdout.lines().nth(1), Some(commands));
    assert_eq!(host.tap_ctl(&["major"]).stdout, nothing.stdout);

    let Said { status, stdout, stderr } = host.tap_ctl(&["close", "-m", "3"]);
    assert_eq!((status, stdout.as_str()), (22, ""));
    assert!(stderr.starts_with("usage: close ") && stderr.ends_with("\nInvalid argument\n"), "{stderr}");
    assert!(host.ok(&["close", "-h"]).starts_with("usage: close "));
}

#[test]
fn a_path_need_not_be_text() {
    use std::{ffi::OsString, os::unix::ffi::OsStringExt};
    let host = Host::new();
    let path = host.place.scratch().join(OsString::from_vec(b"a\xff.img".to_vec()));
    std::fs::File::create(&path).unwrap().set_len(1 << 20).unwrap();
    let (pid, _) = host.attached(1);
    let image = [OsString::from("aio:"), path.into_os_string()].into_iter().collect::<OsString>();
    let mut open = host.command(&["open", "-p", &pid.to_string(), "-m", "0", "-a"]);
    let opened = open.arg(&image).output().unwrap();
    assert!(opened.status.success(), "{opened:?}");
    assert_eq!(*host.client(pid).list().unwrap()[0].path, *image.into_vec());
    // Where there is no way to say it, it is shown.
    let shown = host.native(pid).list().unwrap().remove(0).image.unwrap();
    assert!(shown.ends_with("a\u{fffd}.img"), "{shown}");
}
