//! The packages of one Debian release, fetched once and unpacked side by side: a root to take files from.

use std::{
    fs,
    path::{Path, PathBuf},
    process::{Command, Stdio},
};

use anyhow::{Context, Result, bail, ensure};
use rustix::fs::{FlockOperation, flock};

/// The release. It is the host's of nothing: what is unpacked here has its own libraries, and its own loader.
const RELEASE: &str = "trixie";
/// Where packages come from if nothing else is said.
const ARCHIVE: &str = "http://deb.debian.org/debian";
/// Another archive, such as one nearby.
const ARCHIVE_VARIABLE: &str = "OXTAP_DEBIAN_ARCHIVE";
/// Where they are kept.
const CACHE_VARIABLE: &str = "OXTAP_CACHE";
/// The keys of the archive, which every Debian has.
const KEYRING: &str = "/usr/share/keyrings/debian-archive-keyring.gpg";

/// Fetched with all that they need.
const WITH_DEPENDENCIES: &[&str] = &[
    // What runs the machine.
    "qemu-system-x86",
    // dom0's programs.
    "xen-utils-4.20",
    "xenstore-utils",
    "grub-xen-host",
    "bash",
    "busybox-static",
    "dmsetup",
    "e2fsprogs",
    "kexec-tools",
    "lvm2",
    "nbd-client",
    "util-linux",
];
/// Fetched alone: what they ask for is for machines that they are installed on.
const ALONE: &[&str] = &["xen-hypervisor-4.20-amd64"];
/// The kernel's package, with the version between.
const KERNEL: (&str, &str) = ("linux-image-6.", "+deb13-amd64-unsigned");

/// Unpacked packages.
#[derive(Clone, Debug)]
pub struct Packages {
    directory: PathBuf,
    kernel: String,
}

impl Packages {
    /// Makes sure that they are there. Several processes may do so at once: one fetches, the others wait.
    ///
    /// # Errors
    /// In words that say what is missing on this machine, or what could not be fetched.
    pub fn prepare() -> Result<Packages> {
        let directory = cache()?.join(RELEASE);
        fs::create_dir_all(&directory).with_context(|| directory.display().to_string())?;
        let lock = fs::File::create(directory.join("lock")).context("lock")?;
        flock(&lock, FlockOperation::LockExclusive).context("lock")?;
        let apt = Apt { directory: directory.join("apt") };
        let stamp = directory.join("unpacked");
        let wanted = [WITH_DEPENDENCIES, ALONE].concat().join(" ");
        if let Ok(kernel) = fs::read_to_string(&stamp).map(|text| text.lines().map(str::to_owned).collect::<Vec<_>>())
            && let [packages, kernel] = &kernel[..]
            && *packages == wanted
        {
            return Ok(Packages { directory, kernel: kernel.clone() });
        }
        for tool in ["apt-get", "apt-cache", "dpkg-deb"] {
            ensure!(is_there(tool), "the real Xen needs {tool}, to fetch Debian packages (none is installed)");
        }
        ensure!(Path::new(KEYRING).exists(), "there is no {KEYRING}: apt-get install debian-archive-keyring");
        apt.prepare()?;
        let kernel = apt.newest_kernel()?;
        println!("fetching Xen, Linux and QEMU of Debian {RELEASE} (none of it is installed)");
        let fetched = directory.join("fetched");
        let _ = fs::remove_dir_all(&fetched);
        fs::create_dir_all(&fetched).with_context(|| fetched.display().to_string())?;
        apt.fetch(&fetched, &kernel)?;
        let root = directory.join("root");
        let _ = fs::remove_dir_all(&root);
        unpack(&fetched, &root)?;
        let _ = fs::remove_dir_all(&fetched);
        fs::write(&stamp, format!("{wanted}\n{kernel}\n")).with_context(|| stamp.display().to_string())?;
        Ok(Packages { directory, kernel })
    }

    /// Where images are kept that were made of them.
    pub(crate) fn directory(&self) -> &Path {
        &self.directory
    }

    /// The version of the kernel, as its modules are filed.
    pub(crate) fn kernel_version(&self) -> &str {
        self.kernel.trim_start_matches("linux-image-").trim_end_matches("-unsigned")
    }

    pub(crate) fn root(&self) -> PathBuf {
        self.directory.join("root")
    }

    /// A file by the name that it has on an installed system: `/sbin/x` may be in `/usr/sbin/x`, and the other way round.
    pub(crate) fn find(&self, path: &str) -> Result<PathBuf> {
        let path = path.trim_start_matches('/');
        let names = [path.to_owned(), format!("usr/{path}"), path.trim_start_matches("usr/").to_owned()];
        let found = names.iter().map(|name| self.root().join(name)).find(|file| file.exists());
        found.with_context(|| format!("the packages of {RELEASE} have no {path}"))
    }

    /// The libraries that a program is linked with, as its own loader finds them.
    pub(crate) fn libraries(&self, program: &Path) -> Result<Vec<PathBuf>> {
        let mut command = self.loader()?;
        let output = command.arg("--list").arg(program).stderr(Stdio::null()).output().context("the loader")?;
        let text = String::from_utf8_lossy(&output.stdout).into_owned();
        let found = text.lines().filter_map(|line| line.split_once(" => ")?.1.split(' ').next().map(PathBuf::from));
        let libraries: Vec<PathBuf> = found.filter(|path| path.is_absolute()).collect();
        if let Some(stranger) = libraries.iter().find(|library| !library.starts_with(self.root())) {
            bail!("{} wants {} of this machine", program.display(), stranger.display());
        }
        Ok(libraries)
    }

    /// A program of the packages, to be run on this machine with its own libraries.
    pub(crate) fn command(&self, program: &str) -> Result<Command> {
        let mut command = self.loader()?;
        command.arg(self.find(program)?);
        Ok(command)
    }

    fn loader(&self) -> Result<Command> {
        let mut command = Command::new(self.find("lib64/ld-linux-x86-64.so.2")?);
        let places = ["usr/lib/x86_64-linux-gnu", "lib/x86_64-linux-gnu"].map(|place| self.root().join(place));
        let places = places.map(|place| place.display().to_string()).join(":");
        command.args(["--library-path", &places]);
        Ok(command)
    }
}

/// Where things are kept from one run to the next.
fn cache() -> Result<PathBuf> {
    let cache = std::env::var_os(CACHE_VARIABLE).map(PathBuf::from);
    let xdg = || std::env::var_os("XDG_CACHE_HOME").map(|cache| PathBuf::from(cache).join("oxtap"));
    let home = || std::env::var_os("HOME").map(|home| PathBuf::from(home).join(".cache/oxtap"));
    let cache = cache.or_else(xdg).or_else(home).context("neither OXTAP_CACHE nor HOME is set")?;
    Ok(cache.join("xen-lab"))
}

fn is_there(tool: &str) -> bool {
    Command::new(tool).arg("--version").stdout(Stdio::null()).stderr(Stdio::null()).status().is_ok()
}

/// apt with a state of its own: what this machine has installed does not count, and is not touched.
struct Apt {
    directory: PathBuf,
}

impl Apt {
    fn prepare(&self) -> Result<()> {
        for name in ["lists/partial", "cache/archives/partial"] {
            let directory = self.directory.join(name);
            fs::create_dir_all(&directory).with_context(|| directory.display().to_string())?;
        }
        let archive = std::env::var(ARCHIVE_VARIABLE).unwrap_or_else(|_| ARCHIVE.to_owned());
        let unreached = format!("{archive} cannot be reached ({ARCHIVE_VARIABLE} may name another archive)");
        let source = format!("deb [signed-by={KEYRING}] {archive} {RELEASE} main\n");
        fs::write(self.directory.join("sources.list"), source).context("sources.list")?;
        fs::write(self.directory.join("status"), "").context("status")?;
        // Without this, a list that could not be fetched is a warning, and later no package is known.
        let all_or_nothing = ["-o", "APT::Update::Error-Mode=any"];
        run(self.command("apt-get").args(all_or_nothing).args(["-qq", "update"])).context(unreached)
    }

    fn command(&self, program: &str) -> Command {
        let mut command = Command::new(program);
        let own = |name: &str| self.directory.join(name).display().to_string();
        let options = [
            ("Dir::Etc::sourcelist", own("sources.list")),
            ("Dir::Etc::sourceparts", "/dev/null".to_owned()),
            ("Dir::Etc::preferencesparts", "/dev/null".to_owned()),
            ("Dir::State::status", own("status")),
            ("Dir::State::Lists", own("lists")),
            ("Dir::Cache", own("cache")),
            ("APT::Architecture", "amd64".to_owned()),
            ("APT::Sandbox::User", String::new()),
            ("Acquire::Languages", "none".to_owned()),
            ("Debug::NoLocking", "1".to_owned()),
        ];
        for (name, value) in options {
            command.arg("-o").arg(format!("{name}={value}"));
        }
        command
    }

    fn newest_kernel(&self) -> Result<String> {
        let known = output(self.command("apt-cache").args(["pkgnames", KERNEL.0]))?;
        let fits = |name: &&str| {
            let version = name.strip_suffix(KERNEL.1).and_then(|name| name.strip_prefix(KERNEL.0));
            version.is_some_and(|version| version.chars().all(|c| c.is_ascii_digit() || c == '.'))
        };
        let newest = known.lines().filter(fits).max_by_key(|name| numbers(name));
        newest.map(str::to_owned).with_context(|| format!("apt knows no kernel {}*{}", KERNEL.0, KERNEL.1))
    }

    /// Fetches all packages into a directory.
    fn fetch(&self, directory: &Path, kernel: &str) -> Result<()> {
        let archives = format!("Dir::Cache::archives={}", directory.display());
        fs::create_dir_all(directory.join("partial")).context("partial")?;
        let mut command = self.command("apt-get");
        command.args(["-o", &archives, "-qq", "--yes", "--no-install-recommends", "--download-only", "install"]);
        run(command.args(WITH_DEPENDENCIES))?;
        let mut command = self.command("apt-get");
        run(command.args(["-qq", "download"]).args(ALONE).arg(kernel).current_dir(directory))
    }
}

fn numbers(name: &str) -> Vec<u32> {
    name.split(|c: char| !c.is_ascii_digit()).filter_map(|part| part.parse().ok()).collect()
}

fn unpack(fetched: &Path, root: &Path) -> Result<()> {
    for entry in fs::read_dir(fetched).context("the fetched packages")? {
        let path = entry?.path();
        if path.extension().is_some_and(|extension| extension == "deb") {
            run(Command::new("dpkg-deb").arg("--extract").arg(&path).arg(root))?;
        }
    }
    Ok(())
}

pub(crate) fn run(command: &mut Command) -> Result<()> {
    let status = command.stdin(Stdio::null()).status().with_context(|| format!("cannot start {command:?}"))?;
    ensure!(status.success(), "failed ({status}): {command:?}");
    Ok(())
}

pub(crate) fn output(command: &mut Command) -> Result<String> {
    let output = command.stdin(Stdio::null()).stderr(Stdio::inherit()).output();
    let output = output.with_context(|| format!("cannot start {command:?}"))?;
    ensure!(output.status.success(), "failed ({}): {command:?}", output.status);
    Ok(String::from_utf8_lossy(&output.stdout).into_owned())
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn versions_are_compared_as_numbers() {
        assert!(numbers("linux-image-6.12.107+deb13") > numbers("linux-image-6.12.94+deb13"));
    }
}
