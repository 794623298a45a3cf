//! The jail, as seen from outside: what a tapdisk gives up before it serves, and where its images may be.

use std::{
    fs,
    os::unix::fs::symlink,
    path::{Path, PathBuf},
    process::Command,
    thread,
};

use export::nbd::{CommandFlags, client::Client};
use seccompiler::{SeccompAction, SeccompFilter, apply_filter};
use test_support::LoopDevice;

use crate::host::{Host, Said, aio, minor, names, said};

/// A tapdisk with one minor attached that may open images in some directories only.
struct Confined {
    host: Host,
    pid: String,
}

fn spawn_in(host: &Host, directories: &str) -> Said {
    said(host.command(&["spawn"]).env("OXTAP_IMAGE_DIRS", directories).output().unwrap())
}

impl Confined {
    /// In these directories, which are made.
    fn new(named: &[&str]) -> Confined {
        let host = Host::new();
        let paths = named.iter().map(|name| {
            let path = host.place.scratch().join(name);
            fs::create_dir_all(&path).unwrap();
            path
        });
        let directories = std::env::join_paths(paths.collect::<Vec<_>>()).unwrap();
        Confined::at(host, directories.to_str().unwrap())
    }

    fn at(host: Host, directories: &str) -> Confined {
        let spawned = spawn_in(&host, directories);
        assert_eq!((spawned.status, spawned.stderr.as_str()), (0, ""));
        let pid = spawned.stdout.trim().to_owned();
        host.attach(pid.parse().unwrap());
        Confined { host, pid }
    }

    fn line<'a>(&'a self, words: &[&'a str]) -> Vec<&'a str> {
        [&words[..1], &["-p", &self.pid, "-m", "0"], &words[1..]].concat()
    }

    fn ok(&self, words: &[&str]) {
        self.host.ok(&self.line(words));
    }

    fn fails(&self, words: &[&str]) -> (i32, String) {
        self.host.fails(&self.line(words))
    }

    fn image(&self, name: &str) -> PathBuf {
        self.host.raw_image(name, 1 << 20)
    }

    fn write_and_read(&self) {
        let mut client =
            Client::connect_unix(&self.host.run.nbd_socket(self.pid.parse().unwrap(), minor("0")), "").unwrap();
        client.write(4096, &[7; 8192]).unwrap();
        let mut bytes = [0; 8192];
        client.read(4096, &mut bytes).unwrap();
        assert_eq!(bytes, [7; 8192]);
    }
}

/// What the kernel says about every thread of a process behind this field of `status`.
fn threads(pid: &str, field: &str) -> Vec<String> {
    let tasks = PathBuf::from(format!("/proc/{pid}/task"));
    let lines = names(&tasks).into_iter().map(|task| {
        let status = fs::read_to_string(tasks.join(task).join("status")).unwrap();
        let line = status.lines().find_map(|line| line.strip_prefix(field)).unwrap();
        line.trim().to_owned()
    });
    lines.collect()
}

/// Every thread is in the same place: what all of them say.
fn all_threads(pid: &str, field: &str) -> String {
    let mut all = threads(pid, field);
    assert!(all.len() >= 3, "control, log and disk: {all:?}");
    all.dedup();
    assert_eq!(all.len(), 1, "{field} {all:?}");
    all.remove(0)
}

#[test]
fn every_thread_is_locked_in_with_every_engine() {
    for engine in ["io_uring", "libaio", "threads"] {
        let host = Host::new();
        let image = host.raw_image("a.img", 1 << 20);
        let created = host.command(&["create", "-a", &aio(&image)]).env("OXTAP_ENGINE", engine).output().unwrap();
        assert!(created.status.success(), "{engine}: {created:?}");
        let disk = Confined { pid: host.run.tapdisks().unwrap()[0].to_string(), host };
        disk.write_and_read();
        assert_eq!(all_threads(&disk.pid, "Seccomp:"), "2", "{engine}");
        assert_eq!(all_threads(&disk.pid, "NoNewPrivs:"), "1", "{engine}");
        // Root keeps the one that lets it open the images of others; nobody gets more than that.
        let kept = if rustix::process::geteuid().is_root() { "0000000000000002" } else { "0000000000000000" };
        assert_eq!(all_threads(&disk.pid, "CapEff:"), kept);
        assert_eq!(all_threads(&disk.pid, "CapPrm:"), kept);
        for field in ["CapInh:", "CapAmb:"] {
            assert_eq!(all_threads(&disk.pid, field), "0000000000000000", "{field}");
        }
        if rustix::process::geteuid().is_root() {
            assert_eq!(all_threads(&disk.pid, "CapBnd:"), "0000000000000000");
        }
        disk.ok(&["destroy"]);
        disk.host.place.assert_nothing_left();
    }
}

#[test]
fn without_a_jail_nothing_is_given_up_and_the_log_says_so() {
    let host = Host::new();
    let started = said(host.place.program("tapdisk").arg("--no-jail").output().unwrap());
    let pid = started.stdout.trim().rsplit_once("/ctl").unwrap().1.to_owned();
    assert!(threads(&pid, "Seccomp:").iter().all(|line| line == "0"));
    assert!(threads(&pid, "NoNewPrivs:").iter().all(|line| line == "0"));
    let log = host.run.log_file(pid.parse().unwrap());
    crate::host::eventually("the log says so", || fs::read_to_string(&log).unwrap().contains("no jail, as told"));
}

#[test]
fn images_are_opened_in_the_named_directories_only() {
    let disk = Confined::new(&["first", "second"]);
    let [first, second, outside] = ["first/a.img", "second/a.img", "a.img"].map(|name| aio(&disk.image(name)));
    disk.ok(&["open", "-a", &first]);
    disk.write_and_read();
    disk.ok(&["pause"]);

    // RESUME names another file: in the other directory it is opened, outside it is refused, and why is told.
    let (status, line) = disk.fails(&["unpause", "-a", &outside]);
    assert_eq!(status, 13, "{line}");
    let scratch = disk.host.place.scratch().display().to_string();
    let said = format!("this tapdisk may open images in {scratch}/first:{scratch}/second only");
    assert!(line.contains(&said) && line.contains(&format!("{scratch}/a.img")), "{line}");
    disk.ok(&["unpause", "-a", &second]);
    disk.write_and_read();
    disk.ok(&["close"]);

    // A link in there that leads out is no way out.
    symlink(disk.host.place.scratch().join("a.img"), disk.host.place.scratch().join("first/link.img")).unwrap();
    let link = format!("aio:{scratch}/first/link.img");
    assert_eq!(disk.fails(&["open", "-a", &link]).0, 13);
    disk.ok(&["destroy"]);
    disk.host.place.assert_nothing_left();
}

#[test]
fn a_parent_outside_is_refused_by_its_name() {
    let disk = Confined::new(&["in"]);
    let scratch = disk.host.place.scratch();
    let vhd_util = |words: &[&str]| {
        assert!(disk.host.place.program("vhd-util").args(words).current_dir(scratch).status().unwrap().success());
    };
    let leaf = |parent: &str, leaf: &str| {
        vhd_util(&["create", "-n", parent, "-s", "4"]);
        vhd_util(&["snapshot", "-n", leaf, "-p", parent]);
        format!("vhd:{}", scratch.join(leaf).display())
    };
    let (status, line) = disk.fails(&["open", "-a", &leaf("base.vhd", "in/leaf.vhd")]);
    assert_eq!(status, 13, "{line}");
    assert!(line.contains(&format!("{}: Permission denied", scratch.join("base.vhd").display())), "{line}");

    disk.ok(&["open", "-a", &leaf("in/base.vhd", "in/second.vhd")]);
    disk.write_and_read();
    disk.ok(&["destroy"]);
}

#[test]
fn a_device_may_be_named_by_itself() {
    let host = Host::new();
    let file = host.raw_image("disk.img", 4 << 20);
    let Some(device) = LoopDevice::attach("jail::a_device_may_be_named_by_itself", &file) else { return };
    let (device, other) = (device.path().display().to_string(), aio(&file));
    let disk = Confined::at(host, &device);
    assert_eq!(disk.fails(&["open", "-a", &other]).0, 13);
    disk.ok(&["open", "-a", &format!("aio:{device}")]);
    disk.write_and_read();
    // Discard and zero-out are requests to the device.
    let mut client =
        Client::connect_unix(&disk.host.run.nbd_socket(disk.pid.parse().unwrap(), minor("0")), "").unwrap();
    client.trim(0, 1 << 20).unwrap();
    client.write_zeroes(CommandFlags::default(), 0, 1 << 20).unwrap();
    let mut bytes = vec![1; 1 << 20];
    client.read(0, &mut bytes).unwrap();
    assert!(bytes.iter().all(|byte| *byte == 0));
    disk.ok(&["destroy"]);
}

#[test]
fn directories_that_are_not_there_keep_it_from_starting() {
    let host = Host::new();
    let nowhere = host.place.scratch().join("nowhere").display().to_string();
    let told = spawn_in(&host, &nowhere);
    assert_eq!(told.status, 2, "{told:?}");
    assert!(told.stderr.contains(&format!("jail: OXTAP_IMAGE_DIRS: {nowhere}: No such file")), "{told:?}");
    let told = spawn_in(&host, "/tmp::/tmp");
    assert_eq!(told.status, 22, "{told:?}");
    assert!(told.stderr.contains("OXTAP_IMAGE_DIRS: a directory without a name"), "{told:?}");
    host.place.assert_nothing_left();
}

#[test]
fn directories_without_a_jail_are_a_contradiction() {
    let host = Host::new();
    let mut command = host.place.program("tapdisk");
    let told = said(command.arg("--no-jail").env("OXTAP_IMAGE_DIRS", host.place.scratch()).output().unwrap());
    assert_eq!((told.status, told.stdout.as_str()), (22, ""), "{told:?}");
    assert!(told.stderr.contains("OXTAP_IMAGE_DIRS and --no-jail contradict each other"), "{told:?}");
    host.place.assert_nothing_left();
}

/// Runs a command as if the kernel did not know one of its calls.
fn without(call: i64, mut command: Command) -> Said {
    thread::scope(|scope| {
        let thread = scope.spawn(|| {
            let unknown = SeccompAction::Errno(38);
            let filter = SeccompFilter::new(
                [(call, Vec::new())].into(),
                SeccompAction::Allow,
                unknown,
                std::env::consts::ARCH.try_into().unwrap(),
            );
            let program: seccompiler::BpfProgram = filter.unwrap().try_into().unwrap();
            apply_filter(&program).unwrap();
            said(command.output().unwrap())
        });
        thread.join().unwrap()
    })
}

fn asking_for(host: &Host, directories: Option<&Path>) -> Command {
    let mut command = host.command(&["spawn"]);
    if let Some(directories) = directories {
        command.env("OXTAP_IMAGE_DIRS", directories);
    }
    command
}

#[test]
fn what_the_kernel_lacks_matters_when_it_was_asked_for() {
    let host = Host::new();
    let scratch = Some(host.place.scratch());
    let (seccomp, landlock) = (libc::SYS_seccomp, libc::SYS_landlock_create_ruleset);
    for (call, words) in [(landlock, "no landlock"), (seccomp, "jail: seccomp: Function not implemented")] {
        let told = without(call, asking_for(&host, scratch));
        assert_ne!(told.status, 0);
        assert_eq!(told.stdout, "", "no line says that it is ready");
        assert!(told.stderr.contains(words), "{told:?}");
    }
    host.place.assert_nothing_left();

    let started = without(seccomp, asking_for(&host, None));
    assert_eq!((started.status, started.stderr.as_str()), (0, ""));
    let log = host.run.log_file(started.stdout.trim().parse().unwrap());
    let said = "jail: seccomp: Function not implemented";
    crate::host::eventually("the log says so", || fs::read_to_string(&log).unwrap().contains(said));
}
