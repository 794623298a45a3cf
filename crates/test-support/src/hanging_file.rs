//! A file whose I/O can be stopped for as long as a test likes, by stopping the server behind it.

use std::{
    fs::{self, OpenOptions},
    path::{Path, PathBuf},
    process::{Child, Command, Stdio},
    thread,
    time::{Duration, Instant},
};

use rustix::process::Signal;

use crate::{process::ProcessGuard, skip::skip, tool::require_tool};

/// A hang limit, not a measure.
const LONG: Duration = Duration::from_secs(60);

/// A file of zeroes on FUSE, kept in the memory of its server. Unmounted when it goes out of scope.
#[derive(Debug)]
pub struct HangingFile {
    file: PathBuf,
    server: Child,
    process: ProcessGuard,
}

impl HangingFile {
    /// Makes a file of `size` (as nbdkit writes it: `16M`) below `scratch`, or records that `test` is skipped because
    /// FUSE is not available here.
    ///
    /// # Panics
    ///
    /// If the server does not come up.
    #[must_use]
    pub fn new(test: &str, scratch: &Path, size: &str) -> Option<HangingFile> {
        if let Err(error) = OpenOptions::new().read(true).write(true).open("/dev/fuse") {
            skip(test, &format!("needs /dev/fuse: {error}"));
            return None;
        }
        let directory = scratch.join("mount");
        fs::create_dir(&directory).expect("the scratch directory is ours");
        let file = directory.join("disk");
        let mut command = Command::new(require_tool("nbdfuse"));
        command.arg(&file).arg("--command").arg(require_tool("nbdkit")).args(["-s", "memory", size]);
        let server = command.stdin(Stdio::null()).stdout(Stdio::null()).stderr(Stdio::null()).spawn();
        let server = server.expect("nbdfuse is executable");
        let process = ProcessGuard::new(server.id()).expect("a child that nobody has waited for is there");
        wait_until("the mount", || file.exists());
        Some(HangingFile { file, server, process })
    }

    /// Where it is.
    pub fn path(&self) -> &Path {
        &self.file
    }

    /// From now on nothing is answered.
    ///
    /// # Panics
    ///
    /// If the server does not stand still.
    pub fn stop(&self) {
        self.process.stop().expect("our own child can be stopped");
    }

    /// All that has waited is answered.
    ///
    /// # Panics
    ///
    /// Never, as far as we know: our own child can be told to go on.
    pub fn go_on(&self) {
        self.process.signal(Signal::CONT).expect("our own child can be told to go on");
    }
}

fn wait_until(what: &str, mut holds: impl FnMut() -> bool) {
    let deadline = Instant::now() + LONG;
    while !holds() {
        assert!(Instant::now() < deadline, "never: {what}");
        thread::sleep(Duration::from_millis(5));
    }
}

impl Drop for HangingFile {
    fn drop(&mut self) {
        self.go_on();
        let directory = self.file.parent().expect("it lies in a directory");
        // Lazily: when a test fails, its programs may still have the file open.
        let _ = Command::new(require_tool("fusermount3")).args(["-u", "-z"]).arg(directory).status();
        let _ = self.process.kill();
        let _ = self.server.wait();
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use std::sync::mpsc;

    #[test]
    fn a_stopped_file_answers_when_it_goes_on() {
        let scratch = tempfile::tempdir().unwrap();
        let test = "hanging_file::a_stopped_file_answers_when_it_goes_on";
        let Some(file) = HangingFile::new(test, scratch.path(), "1M") else { return };
        file.stop();
        let (path, (done, wait)) = (file.path().to_owned(), mpsc::channel());
        let reading = thread::spawn(move || done.send(fs::read(path).map(|bytes| bytes.len())));
        assert!(wait.recv_timeout(Duration::from_millis(50)).is_err());
        file.go_on();
        assert_eq!(wait.recv_timeout(LONG).unwrap().unwrap(), 1 << 20);
        reading.join().unwrap().unwrap();
    }
}
