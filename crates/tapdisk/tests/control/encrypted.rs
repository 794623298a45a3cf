//! Encrypted disks: served with their key, refused without it or with another, and never plain on disk.

use std::{
    fs::{self, File},
    path::PathBuf,
    process::Stdio,
};

use control_api::Minor;
use export::nbd::client::Client;
use image_chain::DiskKey;
use test_support::ProcessGuard;
use wire::nbd::CommandFlags;

use crate::host::{Host, LONG, Said, said};

const KEY: [u8; 64] = [7; 64];
const OTHER: [u8; 32] = [8; 32];
const MIB: u64 = 1 << 20;

/// A tapdisk with one minor, and images beside it.
struct Place {
    host: Host,
    pid: u32,
    minor: Minor,
}

impl Place {
    fn new() -> Place {
        let host = Host::new();
        let (pid, minors) = host.attached(1);
        let place = Place { host, pid, minor: crate::host::minor(&minors[0]) };
        fs::write(place.path("k,aes-xts-plain,512.key"), KEY).unwrap();
        fs::write(place.path("o,aes-xts-plain,256.key"), OTHER).unwrap();
        place
    }

    fn path(&self, name: &str) -> PathBuf {
        self.host.place.scratch().join(name)
    }

    fn vhd_util(&self, line: &str) -> String {
        let mut command = self.host.place.program("vhd-util");
        let ended = command.args(line.split(' ')).current_dir(self.host.place.scratch()).output().unwrap();
        assert!(ended.status.success(), "vhd-util {line}: {ended:?}");
        String::from_utf8(ended.stdout).unwrap()
    }

    /// An encrypted image of 8 MiB.
    fn encrypted(&self, name: &str) {
        self.vhd_util(&format!("create -n {name} -s 8"));
        self.vhd_util(&format!("key -s -n {name} -k k,aes-xts-plain,512.key"));
    }

    /// `open` or another command about the disk, with a key on standard input or without one.
    fn tap_ctl(&self, words: &[&str], key: Option<&[u8]>) -> Said {
        let (pid, minor) = (self.pid.to_string(), self.minor.to_string());
        let line = [&words[..1], &["-p", &pid, "-m", &minor], &words[1..]].concat();
        let mut command = self.host.command(&line);
        if let Some(key) = key {
            fs::write(self.path("given"), key).unwrap();
            command.arg("-E").stdin(File::open(self.path("given")).unwrap());
        }
        said(command.stderr(Stdio::piped()).output().unwrap())
    }

    fn open(&self, name: &str, key: Option<&[u8]>) -> Said {
        self.tap_ctl(&["open", "-a", &format!("vhd:{}", self.path(name).display())], key)
    }

    fn ok(&self, words: &[&str]) {
        assert_eq!(self.tap_ctl(words, None), Said { status: 0, stdout: String::new(), stderr: String::new() });
    }

    fn serve(&self, name: &str, key: Option<&[u8]>) -> Client {
        assert_eq!(self.open(name, key), Said { status: 0, stdout: String::new(), stderr: String::new() });
        self.client()
    }

    fn client(&self) -> Client {
        Client::connect_unix(&self.host.run.nbd_socket(self.pid, self.minor), "").unwrap()
    }
}

fn read(client: &mut Client, offset: u64, length: usize) -> Vec<u8> {
    let mut bytes = vec![0; length];
    client.read(offset, &mut bytes).unwrap();
    bytes
}

/// Where the data of the first block begins: behind the sector of its bitmap.
fn first_block(image: &[u8]) -> usize {
    let entry = u32::from_be_bytes(image[1536..1540].try_into().unwrap());
    usize::try_from(entry).unwrap() * 512 + 512
}

#[test]
fn an_encrypted_disk_is_as_any_other_and_is_never_plain_on_disk() {
    let place = Place::new();
    place.encrypted("a.vhd");
    let mut client = place.serve("a.vhd", Some(&KEY));
    assert_eq!(read(&mut client, 0, 8 << 20), vec![0; 8 << 20]);
    let mut expected = vec![0; 8 << 20];
    let secret = |length: usize| b"this is the secret of the guest ".repeat(length / 32 + 1)[..length].to_vec();
    // New, in place, across blocks, and not of whole sectors.
    for (offset, length) in [(0, 4096), (0, 512), (2 * MIB - 512, 1024), (3 * MIB + 100, 1000), (5 * MIB, 300_000)] {
        client.write(offset, &secret(length)).unwrap();
        let from = usize::try_from(offset).unwrap();
        expected[from..from + length].copy_from_slice(&secret(length));
    }
    // Zeroes are data here; a block that nobody needs goes.
    client.write_zeroes(CommandFlags::NO_HOLE, 5 * MIB + 4096, 8192).unwrap();
    expected[5 * (1 << 20) + 4096..][..8192].fill(0);
    client.write_zeroes(CommandFlags::EMPTY, 2 * MIB, 2 << 20).unwrap();
    expected[2 << 20..4 << 20].fill(0);
    client.flush().unwrap();
    assert_eq!(read(&mut client, 0, 8 << 20), expected);
    client.disconnect().unwrap();
    place.ok(&["close"]);

    let image = fs::read(place.path("a.vhd")).unwrap();
    assert!(image.windows(16).all(|bytes| bytes != b"secret of the gu"), "the image holds what the guest wrote");
    let mut first = image[first_block(&image)..][..4096].to_vec();
    DiskKey::new(&KEY).unwrap().decrypt(0, &mut first);
    assert_eq!(first, secret(4096));
    // What was zeroed as data can be read by whoever decrypts every sector that is there.
    let entry = u32::from_be_bytes(image[1536 + 8..][..4].try_into().unwrap());
    let zeroed = &image[usize::try_from(entry).unwrap() * 512 + 512 + (1 << 20) + 4096..][..8192];
    assert!(zeroed.chunks(512).all(|sector| sector.iter().any(|byte| *byte != 0)));

    let mut client = place.serve("a.vhd", Some(&KEY));
    assert_eq!(read(&mut client, 0, 8 << 20), expected);
    place.vhd_util("check -n a.vhd -i");
}

#[test]
fn a_wrong_key_and_a_missing_one_are_refused_in_one_line_and_change_nothing() {
    let place = Place::new();
    place.encrypted("a.vhd");
    place.vhd_util("create -n plain.vhd -s 8");
    // Children: one that says nothing of a key, of an encrypted parent, and the other way round.
    place.vhd_util("snapshot -n plain-child.vhd -p plain.vhd -e");
    place.vhd_util("snapshot -n mixed.vhd -p plain.vhd -e");
    place.vhd_util("key -s -n mixed.vhd -k k,aes-xts-plain,512.key");
    let names = ["a.vhd", "plain.vhd", "plain-child.vhd", "mixed.vhd"];
    let before = names.map(|name| fs::read(place.path(name)).unwrap());
    let table: [(&str, Option<&[u8]>, i32, &str); 6] = [
        ("a.vhd", Some(&OTHER), 126, "a.vhd: the key is not that of the image"),
        ("a.vhd", None, 22, "a.vhd: the disk is encrypted, and there is no key"),
        ("plain.vhd", Some(&KEY), 22, "plain.vhd: there is a key, and the disk is not encrypted"),
        ("plain-child.vhd", Some(&KEY), 22, "plain-child.vhd: there is a key, and the disk is not encrypted"),
        ("mixed.vhd", Some(&KEY), 22, "plain.vhd: there is a key, and the disk is not encrypted"),
        ("mixed.vhd", None, 22, "mixed.vhd: the disk is encrypted, and there is no key"),
    ];
    for (name, key, status, words) in table {
        let said = place.open(name, key);
        assert_eq!((said.status, said.stderr.lines().count()), (status, 1), "{name}: {said:?}");
        assert!(said.stderr.contains(words), "{name}: {said:?}");
    }
    assert!(before == names.map(|name| fs::read(place.path(name)).unwrap()), "an image was changed");
    place.serve("a.vhd", Some(&KEY)).flush().unwrap();
}

#[test]
fn the_key_is_kept_while_the_disk_is_paused_and_forgotten_when_it_is_closed() {
    let place = Place::new();
    place.encrypted("a.vhd");
    let mut client = place.serve("a.vhd", Some(&KEY));
    client.write(0, &[9; 4096]).unwrap();
    place.ok(&["pause"]);
    place.vhd_util("snapshot -n b.vhd -p a.vhd -e");
    place.ok(&["unpause", "-a", &format!("vhd:{}", place.path("b.vhd").display())]);
    assert_eq!(read(&mut client, 0, 4096), [9; 4096]);
    client.write(512, &[3; 512]).unwrap();
    drop(client);
    // Nobody else could open it: it is not kept what it was.
    let record = fs::read_to_string(place.host.run.path().join("tapdisk/tapdisk-0")).unwrap();
    assert!(!record.contains("b.vhd"), "{record}");
    place.ok(&["close"]);
    let said = place.open("b.vhd", None);
    assert_eq!(said.status, 22, "{said:?}");
    let mut client = place.serve("b.vhd", Some(&KEY));
    assert_eq!([read(&mut client, 0, 512), read(&mut client, 512, 512)], [vec![9; 512], vec![3; 512]]);
    // What the child has goes into the parent as it is.
    drop(client);
    place.ok(&["close"]);
    place.vhd_util("coalesce -n b.vhd");
    let mut client = place.serve("a.vhd", Some(&KEY));
    assert_eq!([read(&mut client, 0, 512), read(&mut client, 512, 512)], [vec![9; 512], vec![3; 512]]);
}

#[test]
fn a_copy_that_is_encrypted_is_served_as_what_it_was_copied_from_over_a_raw_parent_too() {
    let place = Place::new();
    // The raw parent of an encrypted child is as it is.
    fs::write(place.path("base.raw"), [vec![1; 4096], vec![0; (8 << 20) - 4096]].concat()).unwrap();
    place.vhd_util("snapshot -n plain.vhd -p base.raw -m");
    let mut client = place.serve("plain.vhd", None);
    for (offset, length) in [(2048, 512), (3 * MIB + 512, 70_000), (7 * MIB, 1 << 20)] {
        client.write(offset, &vec![5; length]).unwrap();
    }
    let expected = read(&mut client, 0, 8 << 20);
    drop(client);
    place.ok(&["close"]);
    place.vhd_util("copy -n plain.vhd -N secret.vhd -k k,aes-xts-plain,512.key");
    let mut client = place.serve("secret.vhd", Some(&KEY));
    assert!(read(&mut client, 0, 8 << 20) == expected);
    // Copy on write over the parent.
    client.write(1024, &[6; 512]).unwrap();
    assert_eq!(read(&mut client, 0, 4096), [&[1; 1024][..], &[6; 512], &[1; 512], &[5; 512], &[1; 1536]].concat());
}

#[test]
fn what_was_flushed_survives_a_tapdisk_that_is_killed() {
    let place = Place::new();
    place.encrypted("a.vhd");
    let mut client = place.serve("a.vhd", Some(&KEY));
    client.write(MIB, &vec![4; 3 << 20]).unwrap();
    client.flush().unwrap();
    client.write(6 * MIB, &vec![5; 1 << 20]).unwrap();
    let process = ProcessGuard::new(place.pid).unwrap();
    process.kill().unwrap();
    assert!(process.wait_for_end(LONG).unwrap());
    place.host.ok(&["free", "-m", &place.minor.to_string()]);
    let (pid, minors) = place.host.attached(1);
    let place = Place { pid, minor: crate::host::minor(&minors[0]), ..place };
    let mut client = place.serve("a.vhd", Some(&KEY));
    assert_eq!(read(&mut client, 0, 4 << 20), [vec![0; 1 << 20], vec![4; 3 << 20]].concat());
    assert_eq!(read(&mut client, 6 * MIB, 1 << 20), vec![5; 1 << 20], "it was answered, and the machine lives");
}
