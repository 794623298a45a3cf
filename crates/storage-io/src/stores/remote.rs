//! Which file systems are remote: those whose server may be away for a while, so that an error may pass.
//!
//! | file system | remote | why |
//! | --- | --- | --- |
//! | nfs, cifs and smb, ceph, afs, coda, lustre, beegfs, orangefs, gpfs, panfs | yes | their bytes are on another machine |
//! | 9p | yes | its server is another machine or the hypervisor; both may be restarted |
//! | gfs2, ocfs2 | no | the network carries their locks; the bytes are on a block device, whose errors are final |
//! | fuse | by subtype | many local file systems are made of it (ntfs-3g, overlays, virtiofs); `statfs` cannot tell them from `sshfs`, the list of mounts can |
//!
//! A FUSE file system that is not on the list counts as local: its errors are then final at once, which hides nothing.

use std::{
    fs::{self, File},
    io,
    os::unix::{ffi::OsStringExt, fs::MetadataExt},
    path::{Path, PathBuf},
};

use rustix::fs::{fstatfs, major, minor};

/// Numbers of remote file systems, as `statfs` tells them.
const MAGIC: [u64; 14] = [
    0x6969,      // nfs
    0xff53_4d42, // cifs
    0x517b,      // smb
    0xfe53_4d42, // smb2 and later
    0x00c3_6400, // ceph
    0x5346_414f, // afs
    0x6b41_4653, // afs of the kernel
    0x7375_7245, // coda
    0x0bd0_0bd0, // lustre
    0x1983_0326, // beegfs
    0x2003_0528, // orangefs
    0x4750_4653, // gpfs
    0xaad7_aaea, // panfs
    0x0102_1997, // 9p
];

/// All of FUSE has one number.
const FUSE: u64 = 0x6573_5546;

/// The same file systems, as the list of mounts calls them.
const TYPES: [&str; 15] = [
    "nfs", "nfs4", "cifs", "smb3", "smbfs", "ceph", "afs", "coda", "lustre", "beegfs", "orangefs", "pvfs2", "gpfs",
    "panfs", "9p",
];

/// What stands behind `fuse.` for those whose bytes come over a network.
const FUSE_TYPES: [&str; 22] = [
    "sshfs",
    "glusterfs",
    "ceph",
    "ceph-fuse",
    "mfs",
    "moosefs",
    "lizardfs",
    "saunafs",
    "juicefs",
    "seaweedfs",
    "s3fs",
    "s3ql",
    "goofys",
    "gcsfuse",
    "rclone",
    "davfs",
    "curlftpfs",
    "quobyte",
    "xtreemfs",
    "fuse_dfs",
    "nfs",
    "smbnetfs",
];

/// The number of a file's file system.
pub(crate) fn magic(file: &File) -> io::Result<u64> {
    // The number has 32 bits; where the type is signed, some are negative.
    Ok(fstatfs(file)?.f_type as u64 & 0xffff_ffff)
}

/// Whether a file system may know no locks, or only those of this host: its server decides that, for each file. What cannot be
/// looked at does not count.
pub fn may_lack_locks(path: &Path) -> bool {
    File::open(path).and_then(|file| magic(&file)).is_ok_and(has_server)
}

/// Whether another machine or another program has the bytes: then the list of what local file systems can do says nothing.
pub(crate) fn has_server(magic: u64) -> bool {
    magic == FUSE || MAGIC.contains(&magic)
}

/// Whether an open file is on a remote file system.
pub(super) fn is_remote(file: &File) -> io::Result<bool> {
    let magic = magic(file)?;
    if magic != FUSE {
        return Ok(MAGIC.contains(&magic));
    }
    let device = file.metadata()?.dev();
    let device = format!("{}:{}", major(device), minor(device));
    Ok(mounts().iter().any(|mount| mount.device == device && is_remote_type(&mount.kind)))
}

/// Whether a path leads to a remote file system, as far as its name tells. For a path that could not be opened: a server
/// that has just failed to answer is not asked again.
pub(super) fn is_remote_path(path: &Path) -> bool {
    let Ok(path) = std::path::absolute(path) else { return false };
    is_below_remote(&path, &mounts())
}

fn is_below_remote(path: &Path, mounts: &[Mount]) -> bool {
    let above = mounts.iter().filter(|mount| path.starts_with(&mount.point));
    // Of two mounts on one point, the later hides the earlier; so does the last of the longest.
    let nearest = above.max_by_key(|mount| mount.point.components().count());
    nearest.is_some_and(|mount| is_remote_type(&mount.kind))
}

fn is_remote_type(kind: &str) -> bool {
    match kind.strip_prefix("fuse.") {
        Some(kind) => FUSE_TYPES.contains(&kind),
        None => TYPES.contains(&kind),
    }
}

/// One line of the list of mounts.
struct Mount {
    /// Major and minor number, with a colon between.
    device: String,
    point: PathBuf,
    kind: String,
}

/// All mounts that this process sees; none where it may not see them, and then nothing is known to be remote by name.
fn mounts() -> Vec<Mount> {
    fs::read("/proc/self/mountinfo").map(|text| parse(&text)).unwrap_or_default()
}

fn parse(text: &[u8]) -> Vec<Mount> {
    text.split(|byte| *byte == b'\n').filter_map(parse_line).collect()
}

/// `36 35 98:0 /mnt1 /mnt2 rw,noatime master:1 - ext3 /dev/root rw`: between options and dash there are any number of
/// fields.
fn parse_line(line: &[u8]) -> Option<Mount> {
    let mut fields = line.split(|byte| *byte == b' ');
    let device = String::from_utf8(fields.nth(2)?.to_vec()).ok()?;
    let point = PathBuf::from(std::ffi::OsString::from_vec(unescaped(fields.nth(1)?)));
    let kind = fields.skip_while(|field| *field != b"-").nth(1)?;
    Some(Mount { device, point, kind: String::from_utf8(kind.to_vec()).ok()? })
}

/// Spaces and the like are written as a backslash and three octal digits.
fn unescaped(field: &[u8]) -> Vec<u8> {
    let mut plain = Vec::with_capacity(field.len());
    let mut rest = field;
    while let [first, behind @ ..] = rest {
        let escaped = (*first == b'\\').then(|| behind.get(..3).and_then(octal)).flatten();
        plain.push(escaped.unwrap_or(*first));
        rest = if escaped.is_some() { &behind[3..] } else { behind };
    }
    plain
}

fn octal(digits: &[u8]) -> Option<u8> {
    let digits = std::str::from_utf8(digits).ok()?;
    u8::from_str_radix(digits, 8).ok()
}

#[cfg(test)]
mod tests {
    use super::*;

    const MOUNTS: &[u8] = br"24 1 8:1 / / rw,relatime - ext4 /dev/root rw
36 24 0:40 / /run/sr-mount/one rw shared:5 master:1 - nfs4 server:/export rw
37 24 0:41 / /mnt/my\040disks rw - fuse.sshfs user@host: rw
38 24 0:42 / /mnt/local rw - fuse.overlay none rw
39 36 0:43 / /run/sr-mount/one/cache rw - tmpfs none rw
40 38 0:44 / /mnt/local rw - cifs //server/share rw
a line that is none
";

    #[test]
    fn the_nearest_mount_above_a_path_decides_and_the_later_hides_the_earlier() {
        let mounts = parse(MOUNTS);
        let is_remote = |path: &str| is_below_remote(Path::new(path), &mounts);
        assert!(is_remote("/run/sr-mount/one/a.vhd"));
        assert!(is_remote("/mnt/my disks/a.vhd"));
        assert!(is_remote("/mnt/local/a.vhd"));
        assert!(!is_remote("/run/sr-mount/one/cache/a.vhd"));
        assert!(!is_remote("/run/sr-mount/onetwo/a.vhd"));
        assert!(!is_below_remote(Path::new("/a.vhd"), &[]));
    }

    #[test]
    fn of_fuse_only_what_is_known_to_use_a_network_is_remote() {
        assert!(["fuse.sshfs", "fuse.glusterfs", "nfs", "9p"].into_iter().all(is_remote_type));
        assert!(
            !["fuse.ntfs-3g", "fuse", "fuseblk", "virtiofs", "gfs2", "ocfs2", "ext4"].into_iter().any(is_remote_type)
        );
    }

    #[test]
    fn a_file_of_this_machine_is_local_and_its_mount_is_found() {
        let file = tempfile::tempfile().unwrap();
        assert!(!is_remote(&file).unwrap());
        assert!(!mounts().is_empty());
        assert!(!is_remote_path(Path::new("/proc/self/none")));
    }
}
