//! Where everything lies: control sockets, markers, shared memory and logs.

use std::{
    env, fs, io,
    path::{Path, PathBuf},
};

use crate::Minor;

/// The variable that replaces the run directory for every program, so that tests need no root and never meet.
pub const RUN_DIRECTORY_VARIABLE: &str = "OXTAP_RUN_DIR";

/// The variable that names directories whose images several hosts share without seeing each other's locks.
pub const LEASE_DIRECTORIES_VARIABLE: &str = "OXTAP_LEASE_DIRS";

/// The directories in which writers of images have leases besides locks.
pub fn leased_directories() -> Vec<PathBuf> {
    let named = env::var_os(LEASE_DIRECTORIES_VARIABLE).unwrap_or_default();
    let paths = env::split_paths(&named).filter(|path| !path.as_os_str().is_empty());
    paths.map(|path| std::path::absolute(&path).unwrap_or(path)).collect()
}

const RUN_DIRECTORY: &str = "/run/blktap-control";
const SHARED_MEMORY: &str = "/dev/shm";
const LOGS: &str = "/var/log/blktap";
const RATE_LIMITERS: &str = "/var/run/blktap/ratelimit";

/// The directories that storage managers, tools and daemons agree on.
///
/// ```text
///   /run/blktap-control/           $OXTAP_RUN_DIR/          control sockets, NBD sockets
///   /run/blktap-control/tapdisk/   $OXTAP_RUN_DIR/tapdisk/  one marker per allocated minor
///   /dev/shm/                      $OXTAP_RUN_DIR.shm/      td3-<pid>/: statistics; oxtap-rings/: records of rings
///   /var/log/blktap/               $OXTAP_RUN_DIR.log/      tapdisk.<pid>.log
///   /var/run/blktap/ratelimit/     $OXTAP_RUN_DIR.rate/     sockets of rate limiters
/// ```
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct RunDir {
    path: PathBuf,
    shared_memory: PathBuf,
    logs: PathBuf,
    rate_limiters: PathBuf,
}

impl RunDir {
    /// The directories of this host, or those that `OXTAP_RUN_DIR` puts in their place.
    pub fn from_environment() -> RunDir {
        match env::var_os(RUN_DIRECTORY_VARIABLE) {
            Some(path) if !path.is_empty() => RunDir::at(path),
            _ => RunDir {
                path: RUN_DIRECTORY.into(),
                shared_memory: SHARED_MEMORY.into(),
                logs: LOGS.into(),
                rate_limiters: RATE_LIMITERS.into(),
            },
        }
    }

    /// The directories that `OXTAP_RUN_DIR=path` would give. A relative path is meant from here: a daemon moves to `/`.
    pub fn at(path: impl Into<PathBuf>) -> RunDir {
        let path = path.into();
        // Fails only if there is no current directory; then nothing relative can be meant.
        let path = std::path::absolute(&path).unwrap_or(path);
        // Without a slash at the end, behind which the suffixes would name something inside.
        let path: PathBuf = path.components().collect();
        let beside = |suffix: &str| {
            let mut name = path.clone().into_os_string();
            name.push(suffix);
            PathBuf::from(name)
        };
        RunDir { shared_memory: beside(".shm"), logs: beside(".log"), rate_limiters: beside(".rate"), path }
    }

    /// The run directory itself: control and NBD sockets.
    pub fn path(&self) -> &Path {
        &self.path
    }

    /// What all processes of this host use of guests' pages.
    pub fn grant_budget(&self) -> PathBuf {
        self.path.join("grant-budget")
    }

    /// The control socket of a tapdisk.
    pub fn control_socket(&self, pid: u32) -> PathBuf {
        self.path.join(format!("ctl{pid}"))
    }

    /// The socket of a tapdisk's native protocol.
    pub fn native_socket(&self, pid: u32) -> PathBuf {
        self.path.join(format!("oxtap{pid}"))
    }

    /// Where a tapdisk takes descriptors that its images may use by name.
    pub fn nbd_client_socket(&self, pid: u32) -> PathBuf {
        self.path.join(format!("nbdclient{pid}"))
    }

    /// Where a disk is served over NBD.
    pub fn nbd_socket(&self, pid: u32, minor: Minor) -> PathBuf {
        self.path.join(format!("nbd{pid}.{minor}"))
    }

    /// The second NBD socket of a disk, kept for those who know it by name.
    pub fn nbd_old_socket(&self, pid: u32, minor: Minor) -> PathBuf {
        self.path.join(format!("nbd-old{pid}.{minor}"))
    }

    /// Where a disk takes connections that are served with the oldstyle greeting.
    pub fn nbd_server_socket(&self, pid: u32, minor: Minor) -> PathBuf {
        self.path.join(format!("nbdserver{pid}.{minor}"))
    }

    /// Where a disk takes connections that are served with the newstyle greeting.
    pub fn nbd_server_new_socket(&self, pid: u32, minor: Minor) -> PathBuf {
        self.path.join(format!("nbdserver-new{pid}.{minor}"))
    }

    /// The directory of markers.
    pub fn markers(&self) -> PathBuf {
        self.path.join("tapdisk")
    }

    /// The marker of a minor.
    pub fn marker(&self, minor: Minor) -> PathBuf {
        self.markers().join(format!("tapdisk-{minor}"))
    }

    /// The directory that holds everybody's shared memory.
    pub fn shared_memory_root(&self) -> &Path {
        &self.shared_memory
    }

    /// The directory of a tapdisk's statistics.
    pub fn shared_memory(&self, pid: u32) -> PathBuf {
        self.shared_memory.join(format!("td3-{pid}"))
    }

    /// The directory of the pages that exist for those who look for them.
    pub fn metrics(&self) -> PathBuf {
        self.shared_memory.join("metrics")
    }

    /// The directory of the records of guests' rings.
    pub fn ring_records(&self) -> PathBuf {
        self.shared_memory.join("oxtap-rings")
    }

    /// The page of a disk in that directory.
    pub fn metrics_page(&self, pid: u32, minor: Minor) -> PathBuf {
        self.metrics().join(format!("tap-{pid}-{minor}"))
    }

    /// The socket of a rate limiter: its name is a path, or a name in their directory.
    pub fn rate_limiter(&self, name: impl AsRef<Path>) -> PathBuf {
        self.rate_limiters.join(name)
    }

    /// The log file of a tapdisk.
    pub fn log_file(&self, pid: u32) -> PathBuf {
        self.logs.join(format!("tapdisk.{pid}.log"))
    }

    /// The pids whose control sockets exist, ascending. Whether anybody still listens there is another question.
    pub fn tapdisks(&self) -> io::Result<Vec<u32>> {
        numbers_behind(&self.path, "ctl")
    }
}

/// The numbers of the files `<prefix><number>` in a directory, ascending; none if there is no directory.
pub(crate) fn numbers_behind(directory: &Path, prefix: &str) -> io::Result<Vec<u32>> {
    let entries = match fs::read_dir(directory) {
        Err(error) if error.kind() == io::ErrorKind::NotFound => return Ok(Vec::new()),
        entries => entries?,
    };
    let mut numbers = Vec::new();
    for entry in entries {
        let name = entry?.file_name();
        let number = name.to_str().and_then(|name| name.strip_prefix(prefix)).and_then(decimal);
        numbers.extend(number);
    }
    numbers.sort_unstable();
    Ok(numbers)
}

/// A number in the one way that we write it: digits only, no leading zero, so that it names exactly one file.
pub(crate) fn decimal(text: &str) -> Option<u32> {
    let number = text.parse::<u32>().ok()?;
    (number.to_string() == text).then_some(number)
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_replaced_run_directory_takes_shared_memory_and_logs_along() {
        let run = RunDir::at("/tmp/x");
        let minor = Minor::new(7).unwrap();
        assert_eq!(run.control_socket(12), Path::new("/tmp/x/ctl12"));
        assert_eq!(run.native_socket(12), Path::new("/tmp/x/oxtap12"));
        assert_eq!(run.nbd_server_new_socket(12, minor), Path::new("/tmp/x/nbdserver-new12.7"));
        assert_eq!(run.marker(minor), Path::new("/tmp/x/tapdisk/tapdisk-7"));
        assert_eq!(run.shared_memory(12), Path::new("/tmp/x.shm/td3-12"));
        assert_eq!(run.log_file(12), Path::new("/tmp/x.log/tapdisk.12.log"));
        assert_eq!(run.metrics_page(12, minor), Path::new("/tmp/x.shm/metrics/tap-12-7"));
        assert_eq!(run.rate_limiter("gold"), Path::new("/tmp/x.rate/gold"));
        assert_eq!(run.rate_limiter("/tmp/y"), Path::new("/tmp/y"));
    }

    #[test]
    fn a_relative_run_directory_is_meant_from_here() {
        let here = env::current_dir().unwrap();
        assert_eq!(RunDir::at("x/").shared_memory_root(), here.join("x.shm"));
    }

    #[test]
    fn only_plain_numbers_name_a_tapdisk() {
        let directory = tempfile::tempdir().unwrap();
        for name in ["ctl20", "ctl3", "ctl", "ctl07", "ctl+7", "ctl9x", "nbd4", "ctl99999999999"] {
            fs::write(directory.path().join(name), "").unwrap();
        }
        assert_eq!(RunDir::at(directory.path()).tapdisks().unwrap(), [3, 20]);
        assert_eq!(RunDir::at(directory.path().join("none")).tapdisks().unwrap(), [] as [u32; 0]);
    }
}
