//! An image that cannot be opened: the right number, and one line that names the file and the cause.

use std::fs;

use export::nbd::client::Client;

use crate::host::{Host, aio, minor};

#[test]
fn each_mistake_has_its_number_and_names_the_image() {
    let host = Host::new();
    let (pid, minors) = host.attached(1);
    let pid = pid.to_string();
    let open = |image: &str| host.fails(&["open", "-p", &pid, "-m", &minors[0], "-a", image]);

    let garbage = host.place.scratch().join("garbage.vhd");
    fs::write(&garbage, vec![7; 8192]).unwrap();
    let truncated = host.place.scratch().join("truncated.vhd");
    fs::write(&truncated, b"conectix").unwrap();
    let (garbage, truncated) = (format!("vhd:{}", garbage.display()), format!("vhd:{}", truncated.display()));
    let directory = aio(host.place.scratch());
    let table: [(&str, i32, &str); 12] = [
        ("aio:/nonexistent/a.img", 2, "/nonexistent/a.img"),
        ("vhd:/nonexistent/a.vhd", 2, "/nonexistent/a.vhd"),
        ("nonsense:/a", 2, "nonsense:/a"),
        ("/a.vhd", 22, "/a.vhd"),
        ("sync:/a", 38, "sync:/a"),
        ("vmdk:/a", 38, "vmdk:/a"),
        ("vhdsync:/a", 38, "vhdsync:/a"),
        ("qcow:/a", 38, "qcow:/a"),
        ("vhd:", 22, "vhd:"),
        (&garbage, 22, "garbage.vhd"),
        (&truncated, 22, "truncated.vhd"),
        (&directory, 22, host.place.scratch().to_str().unwrap()),
    ];
    for (image, status, named) in table {
        let (found, line) = open(image);
        assert_eq!(found, status, "{image}: {line}");
        assert!(line.contains(named), "{image}: {line}");
    }
    // The slot is as good as before.
    assert_eq!(host.ok(&["list"]), format!("pid={pid} minor=0 state=0\n"));
    let image = aio(&host.raw_image("a.img", 1 << 20));
    host.ok(&["open", "-p", &pid, "-m", "0", "-a", &image]);
    assert_eq!(open(&image).0, 114, "it is open already");
    assert_eq!(host.fails(&["open", "-p", &pid, "-m", "9", "-a", &image]).0, 22, "not attached");
}

#[test]
fn layers_that_are_not_offered_are_refused() {
    let host = Host::new();
    let (pid, minors) = host.attached(1);
    let image = aio(&host.raw_image("a.img", 1 << 20));
    let pid = pid.to_string();
    let layers: [&[&str]; 4] = [&["-C", "/tmp/log"], &["-r"], &["-2", "nbd:x"], &["-e", "3"]];
    for layer in layers {
        let line = [&["open", "-p", &pid, "-m", &minors[0], "-a", &image][..], layer].concat();
        let (status, said) = host.fails(&line);
        assert_eq!(status, 38, "{layer:?}");
        assert!(said.contains("is not offered"), "{said}");
    }
}

#[test]
fn an_image_that_another_tapdisk_writes_is_refused_to_the_next_writer_and_to_no_reader() {
    let host = Host::new();
    let image = aio(&host.raw_image("a.img", 1 << 20));
    let serve = || {
        let (pid, minors) = host.attached(1);
        host.ok(&["open", "-p", &pid.to_string(), "-m", &minors[0], "-a", &image, "-t", "1"]);
        Client::connect_unix(&host.run.nbd_socket(pid, minor(&minors[0])), "").unwrap()
    };
    let (mut one, mut other) = (serve(), serve());
    one.write(0, &[7; 512]).unwrap();
    let error = other.write(0, &[9; 512]).unwrap_err();
    assert!(error.to_string().contains("another writes"), "{error}");
    let mut bytes = [0; 512];
    other.read(4096, &mut bytes).unwrap();
    drop(one);
    other.write(0, &[9; 512]).unwrap();
}

#[test]
fn a_key_has_one_of_two_lengths() {
    let host = Host::new();
    let (pid, minors) = host.attached(1);
    let image = aio(&host.raw_image("a.img", 1 << 20));
    let line = ["open", "-p", &pid.to_string(), "-m", &minors[0], "-a", &image, "-E"].map(str::to_owned);
    let words: Vec<&str> = line.iter().map(String::as_str).collect();
    let status = |key: &[u8], words: &[&str]| {
        let path = host.place.scratch().join("key");
        fs::write(&path, key).unwrap();
        let output = host.command(words).stdin(fs::File::open(path).unwrap()).output().unwrap();
        output.status.code().unwrap()
    };
    assert_eq!(status(&[1; 31], &words), 1);
    assert_eq!(status(&[1; 32], &words), 22, "a raw image is not encrypted");
    assert_eq!(status(&[1; 64], &words), 22);
    assert_eq!(status(&[1; 32], &[&words[..], &["-E"]].concat()), 1, "twice");
}
