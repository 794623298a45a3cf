//! What QEMU boots: the hypervisor, the kernel, and dom0's root, made of packages once and kept.

use std::{
    fs,
    hash::{DefaultHasher, Hash, Hasher},
    io::{BufWriter, Read},
    path::{Path, PathBuf},
    process::{Command, Stdio},
};

use anyhow::{Context, Result, ensure};
use rustix::fs::{FlockOperation, flock};

use crate::{
    kernel::{Modules, elf_kernel},
    packages::Packages,
    root::Root,
};

/// Where Xen's own programs are.
const XEN_PROGRAMS: &str = "usr/lib/xen-4.20/bin";
const INIT: &str = include_str!("../guest/init");
const LAB_GUEST: &str = include_str!("../guest/lab-guest");
const LAB_TRACE: &str = include_str!("../guest/lab-trace");

const DOM0_MODULES: &[&str] = &[
    "xen-gntdev",
    "xen-gntalloc",
    "xen-evtchn",
    "xen-privcmd",
    "xenfs",
    "xen-blkback",
    "xen-blkfront",
    "virtio_blk",
    "nbd",
    "loop",
    "dm-mod",
    "dm-snapshot",
    "brd",
    "ext4",
    "crc32c_generic",
    "ublk_drv",
    "fuse",
];
const GUEST_MODULES: &[&str] = &["xen-blkfront", "xenfs", "ext4", "crc32c_generic", "loop"];
/// Of Xen, besides those in the search path of an installed system.
const XEN_TOOLS: &[&str] = &[
    "xl",
    "xenstored",
    "xenconsoled",
    "xenconsole",
    "xen-init-dom0",
    "lsevtchn",
    "xenstore-control",
    "libxl-save-helper",
];
const DOM0_PROGRAMS: &[&str] = &[
    "usr/bin/xenstore",
    "usr/bin/xenstore-read",
    "usr/bin/xenstore-write",
    "usr/bin/xenstore-ls",
    "usr/bin/xenstore-list",
    "usr/bin/xenstore-rm",
    "usr/bin/xenstore-chmod",
    "usr/bin/xenstore-watch",
    "usr/bin/xenstore-exists",
    "sbin/mke2fs",
    "sbin/e2fsck",
    "sbin/nbd-client",
    "sbin/losetup",
    "sbin/blkdiscard",
    "sbin/dmsetup",
    "sbin/lvm",
    "usr/bin/flock",
    "bin/bash",
    "usr/sbin/kexec",
];
const GUEST_PROGRAMS: &[&str] = &[
    "usr/bin/xenstore",
    "usr/bin/xenstore-read",
    "usr/bin/xenstore-write",
    "usr/bin/xenstore-ls",
    "sbin/mke2fs",
    "sbin/e2fsck",
    "sbin/blkdiscard",
    "sbin/fstrim",
    "sbin/blockdev",
    "usr/sbin/kexec",
];

/// The images that machines boot from.
#[derive(Clone, Debug)]
pub struct Images {
    packages: Packages,
    directory: PathBuf,
}

impl Images {
    /// Makes them, unless they are there. Several processes may do so at once: one works, the others wait.
    ///
    /// # Errors
    /// In words that say which package or tool is not as it should be.
    pub fn prepare(packages: &Packages) -> Result<Images> {
        for tool in ["zstd", "xz"] {
            let is_there = Command::new(tool).arg("--version").stdout(Stdio::null()).status().is_ok();
            ensure!(is_there, "the real Xen needs {tool}, to unpack a kernel: cargo xtask setup");
        }
        let directory = packages.directory().join(format!("images-{:016x}", recipe(packages)));
        let lock = fs::File::create(packages.directory().join("images.lock")).context("lock")?;
        flock(&lock, FlockOperation::LockExclusive).context("lock")?;
        let images = Images { packages: packages.clone(), directory };
        if !images.directory.exists() {
            images.make()?;
        }
        Ok(images)
    }

    pub(crate) fn packages(&self) -> &Packages {
        &self.packages
    }

    pub(crate) fn file(&self, name: &str) -> PathBuf {
        self.directory.join(name)
    }

    fn make(&self) -> Result<()> {
        println!("making the images of the real Xen");
        let building = self.directory.with_extension("building");
        let _ = fs::remove_dir_all(&building);
        fs::create_dir_all(&building).with_context(|| building.display().to_string())?;
        let version = self.packages.kernel_version();
        let hypervisor = unzipped(&self.packages.find("boot/xen-4.20-amd64.gz")?)?;
        fs::write(building.join("xen"), hypervisor)?;
        let packed = fs::read(self.packages.find(&format!("boot/vmlinuz-{version}"))?).context("the kernel")?;
        let kernel = elf_kernel(&packed)?;
        fs::write(building.join("vmlinux"), &kernel)?;
        let mut guest = Vec::new();
        self.guest()?.write(&mut guest)?;
        let mut dom0 = self.dom0()?;
        dom0.file("boot/guest.cpio", 0o644, guest);
        dom0.file("boot/vmlinux", 0o644, kernel);
        dom0.file("boot/vmlinuz", 0o644, packed);
        dom0.write(BufWriter::new(fs::File::create(building.join("dom0.cpio"))?))?;
        fs::rename(&building, &self.directory).context("the images")
    }

    fn guest(&self) -> Result<Root> {
        let packages = &self.packages;
        let mut root = Root::skeleton(packages)?;
        GUEST_PROGRAMS.iter().try_for_each(|program| root.program(packages, program))?;
        for applet in ["fstrim", "blockdev", "blkdiscard"] {
            root.remove(&format!("bin/{applet}"));
        }
        root.link("bin/mkfs.ext4", "../sbin/mke2fs");
        let mut modules = Modules::new(packages)?;
        GUEST_MODULES.iter().try_for_each(|module| modules.take(module))?;
        modules.put(&mut root);
        root.file("init", 0o755, INIT);
        Ok(root)
    }

    fn dom0(&self) -> Result<Root> {
        let packages = &self.packages;
        let mut root = Root::skeleton(packages)?;
        for program in XEN_TOOLS {
            root.program(packages, &format!("{XEN_PROGRAMS}/{program}"))?;
            root.link(&format!("usr/sbin/{program}"), &format!("../../{XEN_PROGRAMS}/{program}"));
        }
        DOM0_PROGRAMS.iter().try_for_each(|program| root.program(packages, program))?;
        for applet in ["nbd-client", "losetup", "flock", "blkdiscard", "mkfs.ext4"] {
            root.remove(&format!("bin/{applet}"));
        }
        root.link("bin/mkfs.ext4", "../sbin/mke2fs");
        // Debian's own hotplug scripts, unchanged.
        root.copy_all("etc/xen/scripts", &packages.find("etc/xen/scripts")?)?;
        root.copy_all("usr/lib/grub-xen", &packages.find("usr/lib/grub-xen")?)?;
        for directory in ["var/lib/xen", "var/lib/xenstored", "var/log/xen/console", "usr/lib/xen-4.20/boot"] {
            root.directory(directory);
        }
        root.file("etc/xen/xl.conf", 0o644, "autoballoon=\"off\"\n");
        root.file("usr/bin/lab-guest", 0o755, LAB_GUEST);
        root.file("usr/bin/lab-trace", 0o755, LAB_TRACE);
        let mut modules = Modules::new(packages)?;
        DOM0_MODULES.iter().try_for_each(|module| modules.take(module))?;
        modules.put(&mut root);
        root.file("init", 0o755, INIT);
        Ok(root)
    }
}

/// A number that differs when the images would.
fn recipe(packages: &Packages) -> u64 {
    let mut hasher = DefaultHasher::new();
    let parts =
        [INIT, LAB_GUEST, LAB_TRACE, include_str!("images.rs"), include_str!("root.rs"), include_str!("kernel.rs")];
    (parts, packages.kernel_version()).hash(&mut hasher);
    hasher.finish()
}

fn unzipped(path: &Path) -> Result<Vec<u8>> {
    let mut child = Command::new("gzip").arg("-dc").arg(path).stdout(Stdio::piped()).spawn().context("gzip")?;
    let mut bytes = Vec::new();
    child.stdout.take().expect("it has a pipe").read_to_end(&mut bytes)?;
    ensure!(child.wait()?.success(), "{} cannot be unpacked", path.display());
    Ok(bytes)
}
