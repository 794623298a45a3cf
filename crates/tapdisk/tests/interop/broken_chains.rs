//! Chains that do not fit together are refused by name, with the right number, and left as they are.

use std::{fs, path::Path};

use crate::served::Host;

fn everything(host: &Host) -> Vec<(std::path::PathBuf, Vec<u8>)> {
    let entries = fs::read_dir(host.place.scratch()).unwrap().map(|entry| entry.unwrap().path());
    let mut files: Vec<_> =
        entries.filter(|path| path.is_file()).map(|path| (path.clone(), fs::read(path).unwrap())).collect();
    files.sort();
    files
}

fn refused(host: &Host, image: &str, number: i32, named: &Path) {
    let before = everything(host);
    let (status, line) = host.refuses(image);
    assert_eq!(status, number, "{line}");
    assert!(line.contains(named.to_str().unwrap()), "{line} does not name {}", named.display());
    assert_eq!(everything(host), before);
    host.place.assert_nothing_left();
}

fn chain(host: &Host) -> String {
    host.vhd_util("create -n a.vhd -s 16");
    host.vhd_util("snapshot -n b.vhd -p a.vhd");
    host.vhd_util("snapshot -n c.vhd -p b.vhd -e");
    host.image("vhd", "c.vhd")
}

#[test]
fn a_parent_that_is_missing() {
    let host = Host::new();
    let image = chain(&host);
    fs::remove_file(host.path("a.vhd")).unwrap();
    refused(&host, &image, 2, &host.path("a.vhd"));
}

#[test]
fn a_parent_that_is_no_vhd() {
    let host = Host::new();
    let image = chain(&host);
    fs::write(host.path("a.vhd"), vec![7; 8192]).unwrap();
    refused(&host, &image, 22, &host.path("a.vhd"));
}

#[test]
fn a_parent_that_is_another_disk() {
    let host = Host::new();
    let image = chain(&host);
    host.vhd_util("create -n a.vhd -s 16");
    refused(&host, &image, 22, &host.path("a.vhd"));
}

#[test]
fn a_parent_that_leads_back() {
    let host = Host::new();
    let image = chain(&host);
    // The base becomes a child of the leaf.
    host.vhd_util("snapshot -n new.vhd -p c.vhd -e");
    let identity = fs::read(host.path("a.vhd")).unwrap()[68..84].to_vec();
    fs::rename(host.path("new.vhd"), host.path("a.vhd")).unwrap();
    let mut forged = fs::read(host.path("a.vhd")).unwrap();
    let end = forged.len() - 512;
    for place in [0, end] {
        forged[place + 68..place + 84].copy_from_slice(&identity);
        forged[place + 64..place + 68].fill(0);
        let sum = !forged[place..place + 512].iter().map(|byte| u32::from(*byte)).sum::<u32>();
        forged[place + 64..place + 68].copy_from_slice(&sum.to_be_bytes());
    }
    fs::write(host.path("a.vhd"), forged).unwrap();
    let before = everything(&host);
    let (status, line) = host.refuses(&image);
    assert!([22, 40].contains(&status), "{status}: {line}");
    assert!(line.contains(".vhd"), "{line}");
    assert_eq!(everything(&host), before);
}

#[test]
fn an_image_without_its_last_bytes() {
    let host = Host::new();
    host.vhd_util("create -n a.vhd -s 16 -r");
    let file = fs::OpenOptions::new().write(true).open(host.path("a.vhd")).unwrap();
    file.set_len(16 << 20).unwrap();
    refused(&host, &host.image("vhd", "a.vhd"), 22, &host.path("a.vhd"));
}
