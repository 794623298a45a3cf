//! What nodes say of a disk that has no name yet: which words could mean which disk.

use std::fmt;

use control_api::native::{DiskSummary, State};

use crate::{Disk, ImageNodes, image::disk_of_socket};

/// The script that leaves a disk to us is called so, wherever it lies.
const OUR_SCRIPT: &str = "block-oxtap";
/// What numbers of block devices are written in.
const HEXADECIMAL: u32 = 16;

/// A disk that would do.
#[derive(Clone, Debug, PartialEq, Eq)]
pub(crate) enum Wish {
    /// That of this process and number.
    Named(Disk),
    /// The one with this number.
    Minor(u16),
    /// The one that has this open.
    Image {
        /// `type:path`.
        name: String,
        /// Guests may write to it.
        writable: bool,
    },
}

impl Wish {
    /// Whether a disk of this process would do.
    pub(crate) fn is_met_by(&self, pid: u32, disk: &DiskSummary) -> bool {
        match self {
            Wish::Named(named) => *named == Disk { pid, minor: disk.minor },
            Wish::Minor(minor) => disk.minor == *minor,
            Wish::Image { name, writable } => {
                let is_going = matches!(disk.state, State::Closing | State::Stuck | State::Closed);
                let is_read_only = disk.geometry.is_none_or(|geometry| geometry.read_only);
                disk.image.as_deref() == Some(name) && !is_going && !(*writable && is_read_only)
            }
        }
    }
}

impl fmt::Display for Wish {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        match self {
            Wish::Named(Disk { pid, minor }) => write!(f, "minor {minor} of tapdisk {pid}"),
            Wish::Minor(minor) => write!(f, "minor {minor}"),
            Wish::Image { name, writable: true } => write!(f, "{name}, open for writing"),
            Wish::Image { name, writable: false } => write!(f, "{name}"),
        }
    }
}

/// Whether the script of a device leaves it to us to have a disk.
pub(super) fn is_our_script(image: &ImageNodes) -> bool {
    image.script.as_deref().and_then(|script| script.rsplit('/').next()) == Some(OUR_SCRIPT)
}

/// Disks that would do, the surest first.
pub(super) fn wishes(image: &ImageNodes) -> Vec<Wish> {
    let ImageNodes { params, physical_device, physical_device_path, .. } = image;
    let mut wishes = Vec::new();
    wishes.extend(physical_device_path.as_deref().and_then(minor_of_path).map(Wish::Minor));
    wishes.extend(physical_device.as_deref().and_then(minor_of_device).map(Wish::Minor));
    if let Some(params) = params {
        wishes.extend(params.strip_prefix("nbd:unix:").and_then(disk_of_export).map(Wish::Named));
        wishes.push(Wish::Image { name: params.clone(), writable: !image.are_read_only() });
    }
    wishes
}

/// What `tap-ctl allocate` prints: `.../tapdisk-<minor>`. The devices that there were once ended so, too.
fn minor_of_path(path: &str) -> Option<u16> {
    let name = path.rsplit('/').next()?;
    let digits = name.strip_prefix("tapdisk-").or_else(|| name.strip_prefix("tapdev"))?;
    digits.parse().ok()
}

/// `0:<minor>`: a disk of a tapdisk is no device of the kernel, so its major number is none.
fn minor_of_device(device: &str) -> Option<u16> {
    let (major, minor) = device.split_once(':')?;
    let is_none = u32::from_str_radix(major, HEXADECIMAL) == Ok(0);
    is_none.then(|| u16::from_str_radix(minor, HEXADECIMAL).ok())?
}

/// `<path of a socket>:exportname=...`.
fn disk_of_export(rest: &str) -> Option<Disk> {
    disk_of_socket(rest.split(':').next()?)
}

#[cfg(test)]
mod tests {
    use control_api::native::{Geometry, RingPages};

    use super::*;

    fn some(text: &str) -> Option<String> {
        Some(text.to_owned())
    }

    fn disk(image: &str, state: State, read_only: bool) -> DiskSummary {
        DiskSummary {
            minor: 3,
            image: some(image),
            state,
            step: None,
            trouble: None,
            geometry: Some(Geometry { read_only, ..Geometry::default() }),
            shared: false,
            write_access: control_api::native::WriteAccess::default(),
            buffered: false,
            nbd: None,
            in_flight: 0,
            waiting: 0,
            job: None,
            rings: Vec::new(),
            ring_pages: RingPages::default(),
        }
    }

    #[test]
    fn nodes_name_numbers_sockets_and_images() {
        let nodes = ImageNodes {
            physical_device_path: some("/run/blktap-control/tapdisk/tapdisk-17"),
            physical_device: some("0:1f"),
            params: some("nbd:unix:/run/blktap-control/nbd71.4:exportname=qemu"),
            mode: some("w"),
            ..ImageNodes::default()
        };
        let image = Wish::Image { name: nodes.params.clone().unwrap(), writable: true };
        let named = Wish::Named(Disk { pid: 71, minor: 4 });
        assert_eq!(wishes(&nodes), [Wish::Minor(17), Wish::Minor(31), named, image]);
        for other in ["8:1", "0", ":", "0:10000", "x:1", "0:x"] {
            assert_eq!(minor_of_device(other), None, "{other}");
        }
        assert_eq!(minor_of_path("/dev/xen/blktap-2/tapdev9"), Some(9));
        assert_eq!(minor_of_path("/dev/sda"), None);
    }

    #[test]
    fn a_disk_that_is_going_or_may_not_be_written_is_not_meant() {
        let writable = Wish::Image { name: "vhd:/a".into(), writable: true };
        let readable = Wish::Image { name: "vhd:/a".into(), writable: false };
        let meets = |wish: &Wish, image, state, read_only| wish.is_met_by(71, &disk(image, state, read_only));
        assert!(meets(&writable, "vhd:/a", State::Running, false) && meets(&writable, "vhd:/a", State::Paused, false));
        assert!(!meets(&writable, "vhd:/b", State::Running, false));
        assert!(!meets(&writable, "vhd:/a", State::Running, true) && meets(&readable, "vhd:/a", State::Running, true));
        for state in [State::Closing, State::Stuck, State::Closed] {
            assert!(!meets(&writable, "vhd:/a", state, false), "{state:?}");
        }
    }

    #[test]
    fn only_our_own_script_leaves_a_disk_to_us() {
        let with = |script| is_our_script(&ImageNodes { script, ..ImageNodes::default() });
        assert!(with(some("/etc/xen/scripts/block-oxtap")) && with(some("block-oxtap")));
        assert!(!with(some("/etc/xen/scripts/block-tap")) && !with(some("/block-oxtap/block")) && !with(None));
    }
}
