//! A device that grows under a paused disk: its new end holds whatever was there before. The disk comes back as it was,
//! or says what it found.

use std::{
    fs::{self, File},
    os::unix::fs::FileExt,
    path::PathBuf,
};

use export::nbd::client::Client;
use test_support::LoopDevice;

use crate::host::{Host, minor};

const SMALL: u64 = 16 << 20;
const LARGE: u64 = 24 << 20;

/// A disk whose image lies on a device, with some bytes written.
struct Disk {
    host: Host,
    pid: String,
    backing: PathBuf,
    device: LoopDevice,
}

impl Disk {
    fn new(test: &str, options: &[&str]) -> Option<Disk> {
        let host = Host::new();
        let backing = host.raw_image("device", SMALL);
        let device = LoopDevice::attach(test, &backing)?;
        vhd_util(&host, &[&["create", "-n", device.path().to_str().unwrap(), "-s", "8"], options].concat());
        let (pid, _) = host.attached(1);
        let disk = Disk { host, pid: pid.to_string(), backing, device };
        disk.ok(&["open", "-a", &disk.image()]);
        disk.client().write(1 << 20, &[7; 65536]).unwrap();
        disk.ok(&["pause"]);
        Some(disk)
    }

    fn image(&self) -> String {
        format!("vhd:{}", self.device.path().display())
    }

    fn client(&self) -> Client {
        Client::connect_unix(&self.host.run.nbd_socket(self.pid.parse().unwrap(), minor("0")), "").unwrap()
    }

    fn line<'a>(&'a self, words: &[&'a str]) -> Vec<&'a str> {
        [&words[..1], &["-p", &self.pid, "-m", "0"], &words[1..]].concat()
    }

    fn ok(&self, words: &[&str]) {
        self.host.ok(&self.line(words));
    }

    /// The device grows, and its new last sector holds this.
    fn grow(&self, last: &[u8; 512]) {
        let file = File::options().write(true).open(&self.backing).unwrap();
        file.write_all_at(last, LARGE - 512).unwrap();
        file.sync_all().unwrap();
        self.device.take_size_of_file();
    }

    /// What was written is there, and more can be written; also when it is opened the next time.
    fn is_as_it_was(&self) {
        let mut bytes = vec![0; 65536];
        self.client().read(1 << 20, &mut bytes).unwrap();
        assert!(bytes.iter().all(|byte| *byte == 7));
        self.client().write(6 << 20, &[8; 65536]).unwrap();
        self.ok(&["close"]);
        self.ok(&["open", "-a", &self.image()]);
        self.client().read(6 << 20, &mut bytes).unwrap();
        assert!(bytes.iter().all(|byte| *byte == 8));
        self.ok(&["close"]);
    }

    /// The identity in a footer.
    fn uuid(&self) -> String {
        let mut footer = [0; 512];
        File::open(&self.backing).unwrap().read_exact_at(&mut footer, SMALL - 512).unwrap();
        uuid(&footer)
    }

    fn fails_to_resume(&self) -> String {
        let (status, line) = self.host.fails(&self.line(&["unpause"]));
        assert_ne!(status, 0);
        assert!(self.host.ok(&["list"]).contains(" state=0x22a "), "it stays paused");
        line
    }
}

fn vhd_util(host: &Host, line: &[&str]) {
    let output = host.place.program("vhd-util").args(line).current_dir(host.place.scratch()).output().unwrap();
    assert!(output.status.success(), "{line:?}: {output:?}");
}

/// The end of another image: what an earlier volume has left there.
fn stranger(host: &Host, options: &[&str]) -> [u8; 512] {
    vhd_util(host, &[&["create", "-n", "stranger.vhd", "-s", "8"], options].concat());
    let bytes = fs::read(host.place.scratch().join("stranger.vhd")).unwrap();
    *bytes.last_chunk().unwrap()
}

/// The identity in a footer, as people write it.
fn uuid(footer: &[u8; 512]) -> String {
    assert!(footer.starts_with(b"conectix"));
    let digits: String = footer[68..84].iter().map(|byte| format!("{byte:02x}")).collect();
    [&digits[..8], &digits[8..12], &digits[12..16], &digits[16..20], &digits[20..]].join("-")
}

#[test]
fn garbage_in_the_new_last_sector_is_not_believed() {
    let test = "grown_device::garbage_in_the_new_last_sector_is_not_believed";
    let Some(disk) = Disk::new(test, &[]) else { return };
    disk.grow(&[0xa5; 512]);
    disk.ok(&["unpause"]);
    disk.is_as_it_was();
    disk.ok(&["destroy"]);
    disk.host.place.assert_nothing_left();
}

#[test]
fn the_footer_of_another_image_in_the_new_last_sector_is_not_believed() {
    let test = "grown_device::the_footer_of_another_image_in_the_new_last_sector_is_not_believed";
    let Some(disk) = Disk::new(test, &[]) else { return };
    disk.grow(&stranger(&disk.host, &[]));
    disk.ok(&["unpause"]);
    disk.is_as_it_was();
}

#[test]
fn a_footer_that_contradicts_the_image_is_refused_with_both_identities() {
    let test = "grown_device::a_footer_that_contradicts_the_image_is_refused_with_both_identities";
    let Some(disk) = Disk::new(test, &[]) else { return };
    let stranger = stranger(&disk.host, &["-r"]);
    disk.grow(&stranger);
    let line = disk.fails_to_resume();
    assert!(line.contains(&disk.uuid()) && line.contains(&uuid(&stranger)), "{line}");

    // Who knows what it is removes it.
    File::options().write(true).open(disk.device.path()).unwrap().write_all_at(&[0; 512], LARGE - 512).unwrap();
    disk.ok(&["unpause"]);
    disk.is_as_it_was();
}

#[test]
fn a_fixed_image_whose_end_is_another_images_is_refused_with_both_identities() {
    let test = "grown_device::a_fixed_image_whose_end_is_another_images_is_refused_with_both_identities";
    let Some(disk) = Disk::new(test, &["-r"]) else { return };
    let stranger = stranger(&disk.host, &["-r"]);
    disk.grow(&stranger);
    let line = disk.fails_to_resume();
    assert!(line.contains(&disk.uuid()) && line.contains(&uuid(&stranger)), "{line}");

    // Its own footer at the new end makes it itself again.
    let mut footer = [0; 512];
    let device = File::options().read(true).write(true).open(disk.device.path()).unwrap();
    device.read_exact_at(&mut footer, SMALL - 512).unwrap();
    device.write_all_at(&footer, LARGE - 512).unwrap();
    disk.ok(&["unpause"]);
    disk.is_as_it_was();
}
