//! A disk that a tapdisk of its own serves, and `oxtap` commands about it.

use std::{
    path::PathBuf,
    process::{Command, Output},
};

use test_support::{RunDirectory, require_tool};

use crate::served::text;

/// A disk over a new dynamic VHD of 64 MiB.
pub(crate) struct Tapdisk<'a> {
    place: &'a RunDirectory,
    /// The process.
    pub(crate) pid: u32,
    /// Its only disk.
    pub(crate) minor: u16,
    /// The image, without its type.
    pub(crate) image: PathBuf,
}

impl<'a> Tapdisk<'a> {
    /// Makes an image of this name and serves it.
    pub(crate) fn start(place: &'a RunDirectory, name: &str) -> Tapdisk<'a> {
        let image = new_image(place, name);
        Tapdisk::over(place, image.clone(), &format!("vhd:{}", image.display()))
    }

    /// The same, over a layer that can be made to fail; it does not yet.
    pub(crate) fn with_faults(place: &'a RunDirectory, name: &str) -> Tapdisk<'a> {
        let image = new_image(place, name);
        Tapdisk::over(place, image.clone(), &format!("fault::vhd:{}", image.display()))
    }

    /// Serves an image that is there, by its whole name with type and layers.
    pub(crate) fn over(place: &'a RunDirectory, image: PathBuf, name: &str) -> Tapdisk<'a> {
        let marker = succeed(place.program("tap-ctl").args(["create", "-a", name]));
        let minor = marker.trim().rsplit('-').next().unwrap().parse().unwrap();
        let listed = succeed(place.program("tap-ctl").arg("list"));
        let line = listed.lines().find(|line| line.contains(&format!(" minor={minor} "))).unwrap();
        let pid = line.strip_prefix("pid=").and_then(|rest| rest.split(' ').next()).unwrap().parse().unwrap();
        Tapdisk { place, pid, minor, image }
    }

    /// `pid:minor`.
    pub(crate) fn name(&self) -> String {
        format!("{}:{}", self.pid, self.minor)
    }

    /// Where it is served.
    pub(crate) fn socket(&self) -> PathBuf {
        self.place.path().join(format!("nbd{}.{}", self.pid, self.minor))
    }

    /// Runs `qemu-io` commands on the disk.
    pub(crate) fn qemu_io(&self, commands: &[&str]) -> Command {
        let mut command = Command::new(require_tool("qemu-io"));
        command.args(["-f", "raw"]);
        commands.iter().for_each(|line| _ = command.args(["-c", line]));
        command.arg(format!("nbd+unix:///?socket={}", self.socket().display()));
        command
    }

    /// Closes everything and lets the process end.
    pub(crate) fn destroy(self) {
        let (pid, minor) = (self.pid.to_string(), self.minor.to_string());
        succeed(self.place.program("tap-ctl").args(["destroy", "-p", &pid, "-m", &minor]));
    }
}

fn new_image(place: &RunDirectory, name: &str) -> PathBuf {
    let image = place.scratch().join(name);
    succeed(place.program("vhd-util").args(["create", "-s", "64", "-n"]).arg(&image));
    image
}

/// Runs `oxtap` with these words.
pub(crate) fn run(place: &RunDirectory, words: &[&str]) -> Output {
    place.program("oxtap").args(words).current_dir(place.scratch()).output().unwrap()
}

/// Runs `oxtap` where it must succeed; what it printed.
pub(crate) fn oxtap(place: &RunDirectory, words: &[&str]) -> String {
    let output = run(place, words);
    assert!(output.status.success(), "oxtap {words:?}: {}", text(&output));
    String::from_utf8(output.stdout).unwrap()
}

/// Runs `oxtap --json` where it must succeed; what it printed.
pub(crate) fn json(place: &RunDirectory, words: &[&str]) -> serde_json::Value {
    serde_json::from_str(&oxtap(place, &[words, &["--json"]].concat())).unwrap()
}

/// Runs `oxtap` where it must fail: its exit status, which is the error's number, and what it said.
pub(crate) fn refused(place: &RunDirectory, words: &[&str]) -> (i32, String) {
    let output = run(place, words);
    assert!(!output.status.success(), "oxtap {words:?}: {}", text(&output));
    (output.status.code().unwrap(), String::from_utf8(output.stderr).unwrap())
}

/// Runs a program that must succeed; what it printed.
pub(crate) fn succeed(command: &mut Command) -> String {
    let output = command.output().unwrap();
    assert!(output.status.success(), "{command:?}: {}", text(&output));
    String::from_utf8(output.stdout).unwrap()
}
