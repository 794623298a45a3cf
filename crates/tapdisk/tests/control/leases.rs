//! Leases of images whose locks other hosts do not see: taken by the first writer, given back at the end, left by the dead.

use std::{
    fs,
    path::{Path, PathBuf},
    process::Command,
};

use export::nbd::client::Client as NbdClient;
use test_support::ProcessGuard;

use crate::host::{Host, LONG, Said, aio, eventually, minor, names, said};

/// A host whose images are in a directory that others share, without their locks.
struct Shared {
    host: Host,
    directory: PathBuf,
    image: PathBuf,
}

impl Shared {
    fn new() -> Shared {
        let host = Host::new();
        let directory = host.place.scratch().join("shared");
        fs::create_dir(&directory).unwrap();
        let image = host.raw_image("shared/disk", 1 << 20);
        Shared { host, directory, image }
    }

    fn command(&self, program: &str, line: &[&str]) -> Command {
        let mut command = self.host.place.program(program);
        command.args(line).env("OXTAP_LEASE_DIRS", &self.directory);
        command
    }

    fn ok(&self, mut command: Command) -> String {
        let Said { status, stdout, stderr } = said(command.output().unwrap());
        assert_eq!((status, stderr.as_str()), (0, ""), "{command:?}");
        stdout
    }

    /// A tapdisk with the image, in a jail that leaves it that directory.
    fn disk(&self) -> Disk<'_> {
        let mut spawn = self.command("tap-ctl", &["spawn"]);
        let pid: u32 = self
            .ok({
                spawn.env("OXTAP_IMAGE_DIRS", &self.directory);
                spawn
            })
            .trim()
            .parse()
            .unwrap();
        let slot = self.host.attach(pid);
        let line = ["open", "-p", &pid.to_string(), "-m", &slot, "-a", &aio(&self.image), "-t", "1"];
        self.ok(self.command("tap-ctl", &line));
        Disk { shared: self, pid, slot }
    }

    fn lease(&self, options: &[&str]) -> String {
        let line = [&["lease"], options, &[self.image.to_str().unwrap()]].concat();
        self.ok(self.command("oxtap", &line))
    }
}

struct Disk<'a> {
    shared: &'a Shared,
    pid: u32,
    slot: String,
}

impl Disk<'_> {
    fn client(&self) -> NbdClient {
        NbdClient::connect_unix(&self.shared.host.run.nbd_socket(self.pid, minor(&self.slot)), "").unwrap()
    }

    fn tap_ctl(&self, command: &str) {
        self.shared.host.ok(&[command, "-p", &self.pid.to_string(), "-m", &self.slot]);
    }
}

fn records(directory: &Path) -> Vec<String> {
    names(directory).into_iter().filter(|name| name.contains(".lease.")).collect()
}

#[test]
fn the_first_writer_has_a_lease_and_the_last_gives_it_back() {
    let shared = Shared::new();
    let disk = shared.disk();
    assert_eq!(records(&shared.directory), [] as [&str; 0], "nobody writes yet");
    let mut client = disk.client();
    client.write(0, &[7; 512]).unwrap();
    assert_eq!(records(&shared.directory), ["disk.lease.1"]);
    let told = shared.lease(&[]);
    assert!(told.contains(&format!("process {} of host", disk.pid)), "{told}");
    // Storage managers change images of a disk at rest.
    disk.tap_ctl("pause");
    assert_eq!(records(&shared.directory), [] as [&str; 0]);
    disk.tap_ctl("unpause");
    client.write(0, &[8; 512]).unwrap();
    drop(client);
    eventually("the last writer has gone", || records(&shared.directory).is_empty());
    disk.tap_ctl("destroy");
    assert!(shared.lease(&[]).contains("nobody has a lease"));
    shared.host.place.assert_nothing_left();
}

#[test]
fn the_lease_of_a_tapdisk_that_was_killed_is_in_nobodys_way() {
    let shared = Shared::new();
    let disk = shared.disk();
    disk.client().write(0, &[7; 512]).unwrap();
    let mut client = disk.client();
    client.write(0, &[7; 512]).unwrap();
    let tapdisk = ProcessGuard::new(disk.pid).unwrap();
    tapdisk.kill().unwrap();
    assert!(tapdisk.wait_for_end(LONG).unwrap());
    assert_eq!(records(&shared.directory).len(), 1);
    assert!(shared.lease(&[]).contains("which is no more"));
    let line = ["destroy", "-p", &disk.pid.to_string(), "-m", &disk.slot];
    shared.host.ok(&line);
    let next = shared.disk();
    next.client().write(0, &[9; 512]).unwrap();
    next.tap_ctl("destroy");
    assert_eq!(records(&shared.directory), [] as [&str; 0]);
}

#[test]
fn the_lease_of_another_host_refuses_writers_until_it_is_broken() {
    let shared = Shared::new();
    let away = "oxtap lease 1\nhost beta\nmachine m\nboot b\nprocesses p\nprocess 7\nstarted 1\ntoken t\n";
    fs::write(shared.directory.join("disk.lease.3"), away).unwrap();
    let disk = shared.disk();
    let mut client = disk.client();
    let mut bytes = [1; 512];
    client.read(0, &mut bytes).unwrap();
    assert_eq!(bytes, [0; 512], "whoever reads is served");
    assert!(client.write(0, &[9; 512]).unwrap_err().to_string().contains("another writes"));
    // No client is told who: that is the host's business.
    let log = || fs::read_to_string(shared.host.run.log_file(disk.pid)).unwrap_or_default();
    eventually("the log says who", || {
        log().contains("process 7 of host beta") && log().contains("oxtap lease --force")
    });
    assert!(shared.lease(&["--force"]).contains("process 7 of host beta: broken"));
    client.write(0, &[9; 512]).unwrap();
    disk.tap_ctl("destroy");
    assert_eq!(records(&shared.directory), [] as [&str; 0]);
}
