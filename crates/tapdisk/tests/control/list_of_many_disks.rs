//! A tapdisk may have any number of disks, and all of them are listed.

use crate::host::{Host, aio};

#[test]
fn twenty_disks_of_one_process_are_listed() {
    let host = Host::new();
    let (pid, minors) = host.attached(20);
    let image = aio(&host.raw_image("a.img", 1 << 20));
    host.ok(&["open", "-p", &pid.to_string(), "-m", "7", "-a", &image, "-R"]);

    let answers = host.client(pid).list().unwrap();
    assert_eq!(answers.iter().map(|entry| entry.count).collect::<Vec<_>>(), (1..=20).rev().collect::<Vec<_>>());
    let listed: Vec<String> = answers.iter().map(|entry| entry.minor.to_string()).collect();
    assert_eq!(listed, minors);

    // The tool shows them the other way round.
    let row = |minor: &String| match minor.as_str() {
        "7" => format!("pid={pid} minor=7 state=0 args={image}\n"),
        minor => format!("pid={pid} minor={minor} state=0\n"),
    };
    assert_eq!(host.ok(&["list"]), minors.iter().rev().map(row).collect::<String>());
    assert_eq!(host.ok(&["list", "-m", "3"]), row(&"3".into()));
    assert_eq!(host.ok(&["list", "-t", "aio"]), row(&"7".into()));
    assert_eq!(host.ok(&["list", "-f", image.strip_prefix("aio:").unwrap()]), row(&"7".into()));
    assert_eq!(host.ok(&["list", "-p", "1"]), "");
}

#[test]
fn the_process_ends_with_its_last_disk_only() {
    let host = Host::new();
    let (pid, minors) = host.attached(3);
    for minor in &minors {
        assert!(host.ok(&["list"]).contains(&format!("pid={pid} minor={minor} ")));
        host.ok(&["detach", "-p", &pid.to_string(), "-m", minor]);
        host.ok(&["free", "-m", minor]);
    }
    assert_eq!(host.ok(&["list"]), "");
    host.place.assert_nothing_left();
}
