//! Pausing: what it shows, what it allows, what it refuses.

use std::fs;

use crate::host::{Host, aio};

struct Disk {
    host: Host,
    pid: String,
}

impl Disk {
    fn new() -> Disk {
        let host = Host::new();
        let (pid, _) = host.attached(1);
        Disk { host, pid: pid.to_string() }
    }

    fn line<'a>(&'a self, words: &[&'a str]) -> Vec<&'a str> {
        [&words[..1], &["-p", &self.pid, "-m", "0"], &words[1..]].concat()
    }

    fn ok(&self, words: &[&str]) -> String {
        self.host.ok(&self.line(words))
    }

    fn fails(&self, words: &[&str]) -> (i32, String) {
        self.host.fails(&self.line(words))
    }

    /// What the list shows behind pid and minor.
    fn shown(&self) -> String {
        let list = self.host.ok(&["list"]);
        list.trim_end().strip_prefix(&format!("pid={} minor=0 ", self.pid)).unwrap().to_owned()
    }
}

#[test]
fn a_paused_disk_may_come_back_with_another_image_that_is_not_smaller() {
    let disk = Disk::new();
    let [first, second, smaller, larger] = [("a", 1 << 20), ("b", 1 << 20), ("c", 1 << 19), ("d", 2 << 20)]
        .map(|(name, size)| aio(&disk.host.raw_image(name, size)));
    disk.ok(&["open", "-a", &first]);
    disk.ok(&["pause"]);
    disk.ok(&["unpause", "-a", &second]);
    assert_eq!(disk.shown(), format!("state=0 args={second}"));

    disk.ok(&["pause"]);
    let (status, line) = disk.fails(&["unpause", "-a", &smaller]);
    assert_eq!(status, 124, "{line}");
    assert_eq!(disk.shown(), format!("state=0x22a args={smaller}"));
    disk.ok(&["unpause", "-a", &first]);
    assert_eq!(disk.shown(), format!("state=0 args={first}"));

    // A disk may grow, and never shrink.
    disk.ok(&["pause"]);
    disk.ok(&["unpause", "-a", &larger]);
    assert_eq!(disk.shown(), format!("state=0 args={larger}"));
}

#[test]
fn a_parent_that_was_swapped_under_a_paused_disk_is_noticed() {
    let disk = Disk::new();
    let image = |name: &str| disk.host.place.scratch().join(name);
    let vhd_util = |words: &[&str]| {
        let output = disk.host.place.program("vhd-util").args(words).current_dir(disk.host.place.scratch()).output();
        assert!(output.unwrap().status.success(), "{words:?}");
    };
    vhd_util(&["create", "-n", "base.vhd", "-s", "8"]);
    vhd_util(&["create", "-n", "other.vhd", "-s", "8"]);
    vhd_util(&["snapshot", "-n", "leaf.vhd", "-p", "base.vhd", "-e"]);
    let leaf = format!("vhd:{}", image("leaf.vhd").display());
    disk.ok(&["open", "-a", &leaf]);
    disk.ok(&["pause"]);
    fs::rename(image("base.vhd"), image("base.away")).unwrap();
    fs::rename(image("other.vhd"), image("base.vhd")).unwrap();
    let (status, line) = disk.fails(&["unpause"]);
    assert_eq!(status, 22, "{line}");
    assert!(line.contains("leaf.vhd") && line.contains("base.vhd"), "both files are named: {line}");
    assert_eq!(disk.shown(), format!("state=0x22a args={leaf}"));
    fs::rename(image("base.away"), image("base.vhd")).unwrap();
    disk.ok(&["unpause"]);
    assert_eq!(disk.shown(), format!("state=0 args={leaf}"));
}

#[test]
fn the_images_of_a_paused_disk_may_be_moved() {
    let disk = Disk::new();
    let path = disk.host.raw_image("a.img", 1 << 20);
    disk.ok(&["open", "-a", &aio(&path)]);
    disk.ok(&["pause"]);
    let links = fs::read_dir(format!("/proc/{}/fd", disk.pid)).unwrap();
    let open: Vec<_> = links.filter_map(|link| fs::read_link(link.unwrap().path()).ok()).collect();
    assert!(!open.contains(&path), "{open:?}");
    let moved = path.with_extension("moved");
    fs::rename(&path, &moved).unwrap();
    disk.ok(&["unpause", "-a", &aio(&moved)]);
}

#[test]
fn an_image_that_shows_up_late_is_waited_for() {
    let disk = Disk::new();
    let path = disk.host.raw_image("a.img", 1 << 20);
    disk.ok(&["open", "-a", &aio(&path)]);
    disk.ok(&["pause"]);
    let away = path.with_extension("away");
    fs::rename(&path, &away).unwrap();
    let words: Vec<String> = disk.line(&["unpause"]).into_iter().map(str::to_owned).collect();
    let words: Vec<&str> = words.iter().map(String::as_str).collect();
    let mut unpause = disk.host.command(&words).spawn().unwrap();
    std::thread::sleep(std::time::Duration::from_millis(200));
    fs::rename(&away, &path).unwrap();
    assert!(unpause.wait().unwrap().success());
    assert_eq!(disk.shown(), format!("state=0 args={}", aio(&path)));
}

#[test]
fn a_paused_disk_can_be_closed_and_opened_again() {
    let disk = Disk::new();
    let image = aio(&disk.host.raw_image("a.img", 1 << 20));
    disk.ok(&["open", "-a", &image]);
    disk.ok(&["pause"]);
    assert_eq!(disk.fails(&["detach"]).0, 22, "it still has an image");
    disk.ok(&["close"]);
    assert_eq!(disk.shown(), "state=0x2");
    disk.ok(&["open", "-a", &image]);
    assert_eq!(disk.shown(), format!("state=0 args={image}"));
}

#[test]
fn what_was_never_opened_can_be_paused_but_not_resumed() {
    let disk = Disk::new();
    let image = aio(&disk.host.raw_image("a.img", 1 << 20));
    disk.ok(&["pause"]);
    assert_eq!(disk.shown(), "state=0x2a");
    assert_eq!(disk.fails(&["unpause", "-a", &image]).0, 124);
    assert_eq!(disk.shown(), "state=0x22a");
    disk.ok(&["close"]);
    assert_eq!(disk.shown(), "state=0x2");
}

#[test]
fn what_is_not_paused_cannot_be_resumed() {
    let disk = Disk::new();
    assert_eq!(disk.fails(&["unpause"]).0, 22);
    disk.ok(&["open", "-a", &aio(&disk.host.raw_image("a.img", 1 << 20))]);
    assert_eq!(disk.fails(&["unpause"]).0, 22);
    assert_eq!(disk.host.fails(&["pause", "-p", &disk.pid, "-m", "9"]).0, 19);
    assert_eq!(disk.host.fails(&["unpause", "-p", &disk.pid, "-m", "9"]).0, 19);
    assert_eq!(disk.host.fails(&["close", "-p", &disk.pid, "-m", "9"]).0, 19);
}
