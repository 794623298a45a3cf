//! A host of one test, and the disks that it serves.

use std::{
    ffi::OsStr,
    fs::File,
    path::{Path, PathBuf},
    process::{Command, Output, Stdio},
    time::Duration,
};

use test_support::{ProcessGuard, RunDirectory, require_tool};

/// A hang limit, not a measure.
pub(crate) const LONG: Duration = Duration::from_secs(60);

/// Tools and daemons in a place of their own.
pub(crate) struct Host {
    pub(crate) place: RunDirectory,
}

/// One disk, served by a tapdisk of its own.
pub(crate) struct Served<'a> {
    host: &'a Host,
    pub(crate) pid: u32,
    minor: String,
}

impl Host {
    pub(crate) fn new() -> Host {
        Host { place: RunDirectory::new() }
    }

    pub(crate) fn path(&self, name: &str) -> PathBuf {
        self.place.scratch().join(name)
    }

    /// `type:path` of an image in this place.
    pub(crate) fn image(&self, kind: &str, name: &str) -> String {
        format!("{kind}:{}", self.path(name).display())
    }

    /// Runs one of our programs, which must succeed; what it says.
    pub(crate) fn ours(&self, program: &str, line: &[&str]) -> String {
        stdout(self.place.program(program).args(line).current_dir(self.place.scratch()))
    }

    pub(crate) fn vhd_util(&self, line: &str) -> String {
        self.ours("vhd-util", &line.split_whitespace().collect::<Vec<_>>())
    }

    /// A tool of the system, to be run among the images.
    pub(crate) fn tool(&self, name: &str) -> Command {
        let mut command = Command::new(require_tool(name));
        command.current_dir(self.place.scratch()).stdin(Stdio::null());
        command
    }

    /// A file of this many zeroes that takes no room.
    pub(crate) fn raw(&self, name: &str, bytes: u64) {
        File::create(self.path(name)).unwrap().set_len(bytes).unwrap();
    }

    /// Serves an image with the engine that works.
    pub(crate) fn serve(&self, image: &str) -> Served<'_> {
        self.serve_with("probe", image)
    }

    /// Serves an image with one engine.
    pub(crate) fn serve_with(&self, engine: &str, image: &str) -> Served<'_> {
        let mut create = self.place.program("tap-ctl");
        let marker = stdout(create.args(["create", "-a", image]).env("OXTAP_ENGINE", engine));
        let (_, minor) = marker.trim().rsplit_once("tapdisk-").unwrap();
        let listed = self.ours("tap-ctl", &["list", "-m", minor]);
        let pid = listed.split_whitespace().find_map(|field| field.strip_prefix("pid=")).unwrap();
        Served { host: self, pid: pid.parse().unwrap(), minor: minor.to_owned() }
    }

    /// Why an image is not served: the status of `tap-ctl create`, and its line.
    pub(crate) fn refuses(&self, image: &str) -> (i32, String) {
        let output = self.place.program("tap-ctl").args(["create", "-a", image]).output().unwrap();
        let line = String::from_utf8(output.stderr).unwrap();
        assert!(!output.status.success() && line.lines().count() == 1, "{image}: {}: {line}", output.status);
        (output.status.code().unwrap(), line.trim_end().to_owned())
    }
}

impl Served<'_> {
    pub(crate) fn socket(&self) -> PathBuf {
        self.host.place.path().join(format!("nbd{}.{}", self.pid, self.minor))
    }

    pub(crate) fn uri(&self) -> String {
        format!("nbd+unix:///?socket={}", self.socket().display())
    }

    /// Runs commands of qemu-io, one after the other; each must succeed.
    pub(crate) fn io(&self, commands: &[impl AsRef<OsStr>]) -> String {
        // Command lines have a longest length.
        let parts = commands.chunks(500).map(|part| {
            let mut command = self.host.tool("qemu-io");
            command.args(["-f", "raw"]).arg(self.uri());
            let told = stdout(part.iter().fold(&mut command, |command, words| command.arg("-c").arg(words)));
            // Its exit status is 0 also when a comparison failed.
            assert!(!told.contains("failed") && !told.contains("error"), "{told}");
            told
        });
        parts.collect()
    }

    /// The whole disk, as nbdcopy reads it.
    pub(crate) fn contents(&self) -> Vec<u8> {
        let copy = self.host.path("contents");
        run(self.host.tool("nbdcopy").arg(self.uri()).arg(&copy));
        let bytes = std::fs::read(&copy).unwrap();
        std::fs::remove_file(copy).unwrap();
        bytes
    }

    pub(crate) fn tap_ctl(&self, command: &str) -> String {
        self.host.ours("tap-ctl", &[command, "-p", &self.pid.to_string(), "-m", &self.minor])
    }

    /// Lets a paused disk go on with another image.
    pub(crate) fn resume(&self, image: &str) {
        self.host.ours("tap-ctl", &["unpause", "-p", &self.pid.to_string(), "-m", &self.minor, "-a", image]);
    }

    /// Closes the disk; its tapdisk goes.
    pub(crate) fn close(self) {
        self.tap_ctl("destroy");
    }

    /// The process, to be killed.
    pub(crate) fn process(&self) -> ProcessGuard {
        ProcessGuard::new(self.pid).unwrap()
    }
}

/// Runs what must succeed.
pub(crate) fn run(command: &mut Command) -> Output {
    let output = command.output().unwrap();
    let text = |bytes: &[u8]| String::from_utf8_lossy(bytes).into_owned();
    let (said, complained) = (text(&output.stdout), text(&output.stderr));
    assert!(output.status.success(), "{command:?}: {}\n{said}\n{complained}", output.status);
    output
}

pub(crate) fn stdout(command: &mut Command) -> String {
    String::from_utf8(run(command).stdout).unwrap()
}

/// The contents of a VHD without a parent, as qemu reads them.
pub(crate) fn as_qemu_reads(host: &Host, name: &str) -> Vec<u8> {
    let raw = host.path("as-qemu-reads.raw");
    run(host.tool("qemu-img").args(["convert", "-f", "vpc", "-O", "raw", name]).arg(&raw));
    std::fs::read(raw).unwrap()
}

/// Fails at the first byte that differs; the whole is too much to print.
pub(crate) fn assert_same(found: &[u8], expected: &[u8], story: &str) {
    let differs = found.iter().zip(expected).position(|(one, other)| one != other);
    if let Some(place) = differs {
        panic!("{story}: at {place:#x} there is {:#x}, not {:#x}", found[place], expected[place]);
    }
    assert_eq!(found.len(), expected.len(), "{story}");
}

/// Bytes that a file occupies.
pub(crate) fn occupied(path: &Path) -> u64 {
    use std::os::unix::fs::MetadataExt;
    path.metadata().unwrap().blocks() * 512
}
