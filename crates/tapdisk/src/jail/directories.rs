//! Directories: where images may be opened, and where the process keeps its own files. Everywhere else, the kernel
//! refuses to open, make or remove anything (landlock), with `EACCES`.
//!
//! | where | what |
//! | --- | --- |
//! | the directories named | open, read, write, shorten; requests to devices |
//! | of these, where writers have leases, or may need them for want of locks | make and remove files |
//! | `/proc`, the machine's number, if there are such | read: who has a lease, and whether that is still there |
//! | run directory, log directory, own statistics | files and sockets of its own |
//! | `/dev/xen/gntdev`, `/dev/xen/evtchn` | open, and requests to them |
//! | `/dev/null`, `/proc/self`, what the kernel tells about devices and processors | read |
//!
//! RESUME names new files: that is why it is directories that are named, and not files. A symbolic link counts where it
//! leads to: the volumes of `/dev/mapper` are devices in `/dev`. Connecting to a socket by its path is not limited.

use std::{
    fmt, io,
    path::{Path, PathBuf},
    rc::Rc,
    sync::Arc,
};

use block_core::{Error, ErrorKind, Result, ResultExt};
use control_api::{OwnDirectory, RunDir, make_directory};
use futures_util::{FutureExt, future::LocalBoxFuture};
use landlock::{
    ABI, Access as _, AccessFs, BitFlags, CompatLevel, Compatible, PathBeneath, PathFd, Ruleset, RulesetAttr,
    RulesetCreated, RulesetCreatedAttr, RulesetStatus, Scope, make_bitflags,
};
use rustix::io::Errno;
use storage_io::{Executor, OpenOptions, Opener, Storage, may_lack_locks};

use super::DIRECTORIES_VARIABLE;

/// What is refused unless it is granted: all that this version of the kernel's interface knows. Older kernels know the
/// first of them, which hold the door; devices and shortening came later.
const KNOWN: ABI = ABI::V5;

/// On images and devices.
const IMAGES: BitFlags<AccessFs> = make_bitflags!(AccessFs::{ReadFile | ReadDir | WriteFile | Truncate | IoctlDev});
/// Beside images whose writers have leases.
const RECORDS: BitFlags<AccessFs> = make_bitflags!(AccessFs::{MakeReg | RemoveFile});
/// In directories of our own.
const OWN: BitFlags<AccessFs> = make_bitflags!(AccessFs::{
    ReadFile | ReadDir | WriteFile | Truncate | MakeReg | MakeSock | MakeDir | RemoveFile | RemoveDir
});
/// What a single file, or a device, can be granted.
const OF_FILES: BitFlags<AccessFs> = make_bitflags!(AccessFs::{ReadFile | WriteFile | Truncate | IoctlDev});

/// Read to find out about devices and processors; on a host without them nothing is found.
const TOLD_BY_THE_KERNEL: [&str; 4] = ["/sys/dev/block", "/sys/devices", "/sys/fs/cgroup", "/proc/self"];

/// Read to know who holds a lease, and whether that process is still there. What processes have in memory is not seen there
/// from in here.
const TOLD_OF_HOLDERS: [&str; 2] = ["/proc", "/etc/machine-id"];

/// The directories that images are in.
#[derive(Clone, Debug)]
pub(super) struct Directories {
    named: Arc<[PathBuf]>,
    /// Where writers of images have leases, in these or not.
    leased: Arc<[PathBuf]>,
}

impl Directories {
    pub(super) fn new(named: Vec<PathBuf>, leased: Vec<PathBuf>) -> Directories {
        Directories { named: named.into(), leased: leased.into() }
    }

    /// The directories below those named, or they themselves, beside whose images there may be leases.
    fn with_leases(&self) -> Vec<&PathBuf> {
        let is_named = |path: &Path| self.named.iter().any(|named| path.starts_with(named));
        let is_leased = |path: &Path| self.leased.iter().any(|leased| path.starts_with(leased)) || may_lack_locks(path);
        let whole = self.named.iter().filter(|path| is_leased(path));
        whole.chain(self.leased.iter().filter(|path| is_named(path))).filter(|path| path.is_dir()).collect()
    }

    /// Limits this thread, and those that it will start. Gives what this kernel does not know, in words.
    pub(super) fn enter(&self, run: &RunDir, pid: u32) -> Result<Vec<String>> {
        let mut rules = ruleset().map_err(refused)?;
        for path in &*self.named {
            let place = PathFd::new(path).map_err(|error| not_there(path, &error))?;
            let access = if path.is_dir() { IMAGES } else { IMAGES & OF_FILES };
            rules = rules.add_rule(PathBeneath::new(place, access)).map_err(refused)?;
        }
        let with_leases = self.with_leases();
        for path in &with_leases {
            let place = PathFd::new(path).map_err(|error| not_there(path, &error))?;
            rules = rules.add_rule(PathBeneath::new(place, RECORDS)).map_err(refused)?;
        }
        let told = TOLD_OF_HOLDERS.map(|path| (path.into(), AccessFs::ReadFile.into()));
        for (path, access) in own(run, pid).into_iter().chain(told.into_iter().filter(|_| !with_leases.is_empty())) {
            // What is not there on this host needs no rule.
            if let Ok(place) = PathFd::new(&path) {
                rules = rules.add_rule(PathBeneath::new(place, access)).map_err(refused)?;
            }
        }
        let status = rules.restrict_self().map_err(refused)?;
        match status.ruleset {
            RulesetStatus::FullyEnforced => Ok(Vec::new()),
            RulesetStatus::PartiallyEnforced => {
                Ok(vec![format!("{DIRECTORIES_VARIABLE}: this kernel cannot limit all of it ({:?})", status.landlock)])
            }
            RulesetStatus::NotEnforced => {
                Err(os("the kernel has no landlock, or it is not enabled (lsm=landlock,...)", Errno::OPNOTSUPP))
            }
        }
    }
}

impl fmt::Display for Directories {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        for (index, path) in self.named.iter().enumerate() {
            write!(f, "{}{}", if index == 0 { "" } else { ":" }, path.display())?;
        }
        Ok(())
    }
}

/// What every kernel with landlock knows must hold; signals and abstract sockets as far as they can be limited.
fn ruleset() -> std::result::Result<RulesetCreated, landlock::RulesetError> {
    Ruleset::default()
        .set_compatibility(CompatLevel::BestEffort)
        .handle_access(AccessFs::from_all(KNOWN))?
        .scope(Scope::AbstractUnixSocket | Scope::Signal)?
        .create()
}

/// What the process needs besides its images.
fn own(run: &RunDir, pid: u32) -> Vec<(PathBuf, BitFlags<AccessFs>)> {
    let mut all = vec![
        (run.path().to_owned(), OWN),
        (run.shared_memory(pid), OWN),
        // Its own directory in there is removed at the end; one with something in it cannot be.
        (run.shared_memory_root().to_owned(), AccessFs::RemoveDir.into()),
        ("/dev/null".into(), AccessFs::ReadFile | AccessFs::WriteFile),
    ];
    let to_devices = AccessFs::ReadFile | AccessFs::WriteFile | AccessFs::IoctlDev;
    all.extend(xen::linux::DEVICES.map(|device| (device.into(), to_devices)));
    // What others have put in its place is not opened to us.
    for shared in [run.metrics(), run.ring_records()] {
        if OwnDirectory::open(&shared).is_ok() {
            all.push((shared, OWN));
        }
    }
    if let Some(logs) = run.log_file(pid).parent() {
        // It is made here, since out there nothing can be made any more. Without a log, the process works all the same.
        let _ = make_directory(logs, 0o755);
        all.push((logs.to_owned(), OWN));
    }
    all.extend(TOLD_BY_THE_KERNEL.map(|path| (path.into(), AccessFs::ReadFile | AccessFs::ReadDir)));
    all
}

fn refused(error: landlock::RulesetError) -> Error {
    Error::new(ErrorKind::Unsupported, format!("{DIRECTORIES_VARIABLE}: landlock: {error}"))
}

fn not_there(path: &Path, error: &landlock::PathFdError) -> Error {
    let landlock::PathFdError::OpenCall { source, .. } = error else {
        return Error::new(ErrorKind::NotFound, format!("{DIRECTORIES_VARIABLE}: {error}"));
    };
    let source = source.raw_os_error().map_or_else(|| source.kind().into(), io::Error::from_raw_os_error);
    Error::from_os(format!("{DIRECTORIES_VARIABLE}: {}", path.display()), source)
}

fn os(words: &str, error: Errno) -> Error {
    Error::from_os(format!("{DIRECTORIES_VARIABLE}: {words}"), error.into())
}

/// Says, when a file may not be opened, where files may be.
pub(super) struct Confined {
    inner: Rc<dyn Opener>,
    directories: Directories,
}

impl Confined {
    pub(super) fn new(inner: Rc<dyn Opener>, directories: &Directories) -> Confined {
        Confined { inner, directories: directories.clone() }
    }
}

impl Opener for Confined {
    fn open(
        &self,
        executor: &Executor,
        path: &Path,
        options: OpenOptions,
    ) -> LocalBoxFuture<'static, Result<Arc<dyn Storage>>> {
        let (opening, directories) = (self.inner.open(executor, path, options), self.directories.clone());
        let opening = async move {
            match opening.await {
                Err(error) if error.os_error() == Some(Errno::ACCESS.raw_os_error()) => {
                    Err(error).context(format!("this tapdisk may open images in {directories} only"))
                }
                opened => opened,
            }
        };
        opening.boxed_local()
    }

    fn canonical(&self, executor: &Executor, path: &Path) -> LocalBoxFuture<'static, Result<PathBuf>> {
        self.inner.canonical(executor, path)
    }
}
