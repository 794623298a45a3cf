//! Hashes of keys, and copies that are encrypted.

use std::io::Write;
use std::process::Stdio;

use super::{
    disks::{disk, give},
    place::{Ended, Place},
};
use test_support::target_program;

const KEY: &str = "a,aes-xts-plain,512.key";
/// SHA-256 of 32 zero bytes and 64 bytes of 7.
fn hash(place: &Place) -> String {
    place.run(&format!("key -C -k {KEY}")).stdout.trim_end().to_owned()
}

fn place() -> Place {
    let place = Place::new();
    place.write(KEY, &[7; 64]);
    place.make("create -n a.vhd -s 16");
    place
}

#[test]
fn a_key_file_is_told_by_its_name() {
    let place = place();
    let ended = place.run(&format!("key -C -k {KEY}"));
    assert_eq!(ended.stderr, format!("using keyfile {KEY} with keysize 512\n"));
    assert!(ended.status == 0 && ended.stdout.len() == 65, "{}", ended.stdout);
    place.write("b,aes-xts-plain,256.key", &[0; 32]);
    // SHA-256 of 64 zero bytes.
    let expected = "f5a5fd42d16a20302798ef6ed309979b43003d2320d9f0e8ea9831a92759fb4b\n";
    assert_eq!(place.run("key -C -k b,aes-xts-plain,256.key").stdout, expected);
    place.write("other.key", &[7; 64]);
    assert_eq!(place.run("key -C -k other.key").status, 1);
    place.write(KEY, &[7; 63]);
    assert_eq!(place.run(&format!("key -C -k {KEY}")).status, 22);
}

#[test]
fn an_image_without_blocks_gets_a_hash_and_knows_its_key() {
    let place = place();
    assert_eq!(place.ask("key -p -n a.vhd"), "none\n");
    let hash = hash(&place);
    place.make(&format!("key -s -n a.vhd -H {hash}"));
    assert_eq!(place.ask("key -p -n a.vhd"), format!("{} {hash}\n", "0".repeat(64)));
    assert_eq!(place.run(&format!("key -c -n a.vhd -k {KEY}")).status, 0);
    let nonce = "ab".repeat(32);
    assert_eq!(place.run(&format!("key -s -n a.vhd -k {KEY} -N {nonce}")).status, 0);
    assert!(place.ask("key -p -n a.vhd").starts_with(&nonce));
    assert_eq!(place.run(&format!("key -c -n a.vhd -k {KEY}")).status, 0);
    place.write(KEY, &[8; 64]);
    assert_eq!(place.run(&format!("key -c -n a.vhd -k {KEY}")).status, 126);
    assert_eq!(place.ask("check -n a.vhd"), "a.vhd is valid\n");
}

#[test]
fn a_hash_is_refused_where_it_would_lie() {
    let place = place();
    let hash = hash(&place);
    give(&place, "a.vhd", &[(3, 1, 1)]);
    let before = place.everything();
    assert_eq!(place.run(&format!("key -s -n a.vhd -H {hash}")).status, 22);
    place.make("create -n f.vhd -s 4 -r");
    assert_eq!(place.run(&format!("key -s -n f.vhd -H {hash}")).status, 22);
    assert!(place.everything().into_iter().filter(|(path, _)| !path.ends_with("f.vhd")).eq(before));
    let ended = place.run("key -p -n no.vhd");
    assert!(ended.status == 2 && ended.stderr.starts_with("failed to open no.vhd\n"), "{}", ended.stderr);
    for line in ["key", "key -p -s -n a.vhd", "key -s -n a.vhd -H 12", "key -s -n a.vhd"] {
        let ended = place.run(line);
        assert!(ended.status == 22 && ended.stdout.is_empty() && ended.stderr.starts_with("options: "), "{line}");
    }
}

#[test]
fn a_copy_holds_the_same() {
    let place = place();
    give(&place, "a.vhd", &[(0, 9, 1), (4096, 4096, 2), (4 * 4096 - 2, 3, 3)]);
    place.make("copy -n a.vhd -N b.vhd");
    assert!(disk(&place, &["b.vhd"]) == disk(&place, &["a.vhd"]));
    assert_eq!(place.ask("check -b -n b.vhd"), "b.vhd is valid\n");
    assert_ne!(place.read("a.vhd")[68..84], place.read("b.vhd")[68..84]);
    // A child of the same parent, and an empty one.
    place.make("snapshot -e -n c.vhd -p a.vhd");
    place.make("copy -n c.vhd -N empty.vhd");
    give(&place, "c.vhd", &[(7, 5, 9)]);
    place.make("copy -n c.vhd -N d.vhd");
    for copy in ["empty.vhd", "d.vhd"] {
        assert_eq!(place.ask(&format!("check -b -n {copy}")), format!("{copy} is valid\n"));
    }
    assert!(disk(&place, &["d.vhd", "a.vhd"]) == disk(&place, &["c.vhd", "a.vhd"]));
    assert_eq!(place.fail("copy -n a.vhd -N b.vhd").0, 17);
    let (status, stdout, _) = place.fail("copy -n no.vhd -N e.vhd");
    assert_eq!((status, stdout.as_str()), (2, "error opening no.vhd: -2\n"));
    let ended = place.run("copy -n a.vhd");
    assert!(
        ended.status == 22 && ended.stderr.starts_with("Must supply both existing and new VHD names"),
        "{}",
        ended.stderr
    );
}

#[test]
fn an_encrypted_copy_has_the_hash_and_the_sectors_that_the_cipher_gives() {
    let place = place();
    give(&place, "a.vhd", &[(0, 2, 1), (4096, 4096, 0)]);
    let ended = place.run(&format!("copy -n a.vhd -N b.vhd -k {KEY}"));
    assert_eq!((ended.status, ended.stdout.as_str()), (0, ""), "{}", ended.stderr);
    let hash = hash(&place);
    assert_eq!(place.ask("key -p -n b.vhd"), format!("{} {hash}\n", "0".repeat(64)));
    let (plain, mut secret) = (disk(&place, &["a.vhd"]), disk(&place, &["b.vhd"]));
    // What was never written has no ciphertext; what was written as zeroes has one.
    assert!(secret[..1024] != plain[..1024] && secret[2 << 20..4 << 20].iter().any(|byte| *byte != 0));
    assert!(secret[1024..2 << 20].iter().chain(&secret[4 << 20..]).all(|byte| *byte == 0));
    let key = image_format::vhd::DiskKey::new(&[7; 64]).unwrap();
    key.decrypt(0, &mut secret[..1024]);
    key.decrypt(4096, &mut secret[2 << 20..4 << 20]);
    assert!(secret == plain);
    // As it is stored, with its hash, it can be copied; encrypted once more it cannot.
    place.make("copy -n b.vhd -N c.vhd");
    assert!(disk(&place, &["c.vhd"]) == disk(&place, &["b.vhd"]));
    assert!(place.ask("key -p -n c.vhd").ends_with(&format!("{hash}\n")));
    assert_eq!(place.run(&format!("copy -n b.vhd -N d.vhd -k {KEY}")).status, 22);
    assert!(!super::place::exists(&place.path("d.vhd")));
}

#[test]
fn a_key_may_come_from_standard_input() {
    let place = place();
    give(&place, "a.vhd", &[(0, 2, 1)]);
    let mut command = place.command(target_program("vhd-util"));
    command.args(["copy", "-n", "a.vhd", "-N", "b.vhd", "-E"]).stdin(Stdio::piped());
    let mut running = command.stdout(Stdio::piped()).stderr(Stdio::piped()).spawn().unwrap();
    running.stdin.take().unwrap().write_all(&[7; 64]).unwrap();
    let ended: Ended = running.wait_with_output().unwrap().into();
    assert_eq!(ended, Ended { status: 0, stdout: String::new(), stderr: String::new() });
    assert_eq!(place.run(&format!("key -c -n b.vhd -k {KEY}")).status, 0);
}

/// An encrypted chain of two images, and what its disk holds: read plain, before it was encrypted.
fn encrypted_chain(place: &Place) -> Vec<u8> {
    give(place, "a.vhd", &[(0, 2, 1), (4096, 4096, 0), (20_000, 9, 3)]);
    let plain = through(place, "a.vhd", "");
    place.run(&format!("copy -n a.vhd -N b.vhd -k {KEY}"));
    place.make("snapshot -n c.vhd -p b.vhd -e");
    assert!(place.ask("key -p -n c.vhd").ends_with(&format!("{}\n", hash(place))));
    plain
}

/// The whole disk, read through the chain.
fn through(place: &Place, name: &str, options: &str) -> Vec<u8> {
    let line = format!("read -n {name} -r 0 -c 32768 {options}");
    let read = place.command(target_program("vhd-util")).args(line.split_whitespace()).output().unwrap();
    assert!(read.status.success(), "{line}: {read:?}");
    read.stdout
}

#[test]
fn an_encrypted_disk_is_read_through_its_chain_with_its_key_only() {
    let place = place();
    let plain = encrypted_chain(&place);
    let with_key = format!("-k {KEY}");
    assert!(through(&place, "c.vhd", &with_key) == plain);
    place.write("b,aes-xts-plain,256.key", &[0; 32]);
    let refusals = [
        ("c.vhd -r 0", 22, "the disk is encrypted, and there is no key"),
        ("c.vhd -r 0 -k b,aes-xts-plain,256.key", 126, "the key is not that of the image"),
        ("a.vhd -r 0 -k b,aes-xts-plain,256.key", 22, "there is a key, and the disk is not encrypted"),
    ];
    for (rest, status, words) in refusals {
        let ended = place.run(&format!("read -n {rest}"));
        assert!(ended.status == status && ended.stdout.is_empty() && ended.stderr.contains(words), "{rest}: {ended:?}");
    }
}

#[test]
fn an_encrypted_image_is_filled_with_what_its_parents_hold() {
    for line in ["fill -n c.vhd", "fill -b -n c.vhd"] {
        let place = place();
        let plain = encrypted_chain(&place);
        let before = place.read("c.vhd");
        assert_eq!(place.run(line).status, 22);
        assert!(place.read("c.vhd") == before, "{line}: nothing was written without a key");
        assert_eq!(place.run(&format!("{line} -k {KEY}")).status, 0);
        assert_eq!(place.ask("query -n c.vhd -a"), "8\n");
        assert!(through(&place, "c.vhd", &format!("-k {KEY}")) == plain, "{line}");
        // Also where the disk is zero, whoever decrypts every sector that is there reads that.
        let mut stored = disk(&place, &["c.vhd"]);
        assert!(stored.chunks(512).all(|sector| sector.iter().any(|byte| *byte != 0)));
        image_format::vhd::DiskKey::new(&[7; 64]).unwrap().decrypt(0, &mut stored);
        assert!(stored == plain, "{line}");
        assert_eq!(place.run("check -n c.vhd -p").status, 0);
    }
}
