//! Which disk is meant: what toolstack and scripts write of the image, and who makes a disk of it.

use block_core::{Error, ErrorKind, Result};
use futures_util::future::{LocalBoxFuture, ready};

use crate::{DeviceName, Disk, Offer, nodes::number, offer::Node};

const IS_CDROM: u32 = 1;
const IS_REMOVABLE: u32 = 2;
const IS_READ_ONLY: u32 = 4;

/// What the nodes of a device say of its image.
#[derive(Clone, Debug, Default, PartialEq, Eq)]
pub struct ImageNodes {
    /// `params`: usually `type:path`.
    pub params: Option<String>,
    /// `script`: who makes the disk ready; none: nobody does.
    pub script: Option<String>,
    /// `mode`: writable with a `w`.
    pub mode: Option<String>,
    /// `physical-device`: numbers of a block device.
    pub physical_device: Option<String>,
    /// `physical-device-path`: what the script has made.
    pub physical_device_path: Option<String>,
    /// `hotplug-status`: what the script says of itself.
    pub hotplug_status: Option<String>,
    /// `pid`: the process that has the disk.
    pub pid: Option<String>,
    /// `minor`: the disk's number on this host.
    pub minor: Option<String>,
    /// `discard-enable`: `0` if guests must not discard.
    pub discard_enable: Option<String>,
    /// `device-type`: `disk` or `cdrom`.
    pub device_type: Option<String>,
    /// `removable`.
    pub removable: Option<String>,
    /// `persistent-enable`: `1` if pages of guests may stay mapped between requests, `0` if not.
    pub persistent_enable: Option<String>,
    /// `polling-duration`: microseconds for which a ring is looked at after the last request.
    pub polling_duration: Option<String>,
    /// `polling-idle-threshold`: percentage of idle processors below which no ring is looked at.
    pub polling_idle_threshold: Option<String>,
    /// `direct-io-safe`: `0` if storage must not be given memory that the image is read into or written from.
    pub direct_io_safe: Option<String>,
}

impl ImageNodes {
    /// Names of the nodes, in the order of [`from_values`](Self::from_values).
    pub(crate) const NAMES: [&'static str; 15] = [
        "params",
        "script",
        "mode",
        "physical-device",
        "physical-device-path",
        "hotplug-status",
        "pid",
        "minor",
        "discard-enable",
        "device-type",
        "removable",
        "persistent-enable",
        "polling-duration",
        "polling-idle-threshold",
        "direct-io-safe",
    ];

    pub(crate) fn from_values(values: [Option<String>; 15]) -> ImageNodes {
        let [
            params,
            script,
            mode,
            physical_device,
            physical_device_path,
            hotplug_status,
            pid,
            minor,
            discard_enable,
            device_type,
            removable,
            persistent_enable,
            polling_duration,
            polling_idle_threshold,
            direct_io_safe,
        ] = values;
        ImageNodes {
            params,
            script,
            mode,
            physical_device,
            physical_device_path,
            hotplug_status,
            pid,
            minor,
            discard_enable,
            device_type,
            removable,
            persistent_enable,
            polling_duration,
            polling_idle_threshold,
            direct_io_safe,
        }
    }

    /// Whether the script has done its work. A toolstack waits for `InitWait` before it runs the script, so a ring must not
    /// be connected before this holds.
    pub fn are_ready(&self) -> bool {
        match self.hotplug_status.as_deref() {
            Some("connected") => true,
            Some("error" | "busy") => false,
            _ if self.script.is_none() => self.params.is_some(),
            _ => self.physical_device.is_some() || self.physical_device_path.is_some(),
        }
    }

    /// Whether both mean the same image. How far the script has come since does not matter.
    pub(crate) fn mean_the_same(&self, other: &ImageNodes) -> bool {
        let image = |nodes: &ImageNodes| {
            let ImageNodes { params, mode, physical_device, physical_device_path, pid, minor, .. } = nodes.clone();
            (params, mode, physical_device, physical_device_path, pid, minor)
        };
        image(self) == image(other)
    }

    /// As they are after these have been written, which name the disk.
    pub(crate) fn with(mut self, written: &[Node]) -> ImageNodes {
        for (name, value) in written {
            let node = match *name {
                "pid" => &mut self.pid,
                "minor" => &mut self.minor,
                "physical-device-path" => &mut self.physical_device_path,
                _ => continue,
            };
            *node = Some(value.clone());
        }
        self
    }

    /// Whether guests may not write.
    pub fn are_read_only(&self) -> bool {
        !self.mode.as_deref().is_some_and(|mode| mode.contains('w'))
    }

    /// Whether several guests may write at the same time, and know what they do (`w!`).
    pub fn is_shared(&self) -> bool {
        self.mode.as_deref().is_some_and(|mode| mode.contains('!'))
    }

    /// Whether one guest may write, and no other meanwhile: one that moves within this host is here twice for a while.
    pub fn are_for_one(&self) -> bool {
        !self.are_read_only() && !self.is_shared()
    }

    /// Whether guests may discard.
    pub fn may_discard(&self) -> bool {
        self.discard_enable.as_deref() != Some("0")
    }

    /// What the guest of this device is offered, where all are offered this.
    pub(crate) fn offer(&self, usual: &Offer) -> Offer {
        let persistent = match self.persistent_enable.as_deref() {
            Some("1") => true,
            Some("0") => false,
            _ => usual.persistent,
        };
        let polling_us = self.polling_us().unwrap_or(usual.polling_us);
        Offer { persistent, polling_us, ..*usual }
    }

    /// How long the nodes say that a ring is looked at. Nobody measures how idle processors are, so they never are idle
    /// enough where that is asked for.
    fn polling_us(&self) -> Option<u32> {
        let of = |node: &Option<String>| number(node.as_deref()?.as_bytes());
        let duration = of(&self.polling_duration)?;
        let is_never_idle_enough = of(&self.polling_idle_threshold).is_some_and(|percentage| percentage > 0);
        Some(if is_never_idle_enough { 0 } else { duration })
    }

    /// The value of `info`.
    pub(crate) fn information(&self, read_only: bool) -> u32 {
        let mut bits = 0;
        if self.device_type.as_deref() == Some("cdrom") {
            bits |= IS_CDROM;
        }
        if self.removable.as_deref() == Some("1") {
            bits |= IS_REMOVABLE;
        }
        if read_only {
            bits |= IS_READ_ONLY;
        }
        bits
    }
}

/// Who makes a disk of what nodes say.
pub trait Opener {
    /// The disk that is meant, ready to be connected to. After an error it is asked again when the nodes have changed.
    fn open(&self, device: &DeviceName, image: ImageNodes) -> LocalBoxFuture<'static, Result<Disk>>;

    /// As [`open`](Self::open), for a device that somebody has served before us: what is not there any more is not made
    /// anew.
    fn adopt(&self, device: &DeviceName, image: ImageNodes) -> LocalBoxFuture<'static, Result<Disk>> {
        self.open(device, image)
    }

    /// What the device's directory is to say of a disk that was opened: which one it is, if no script does so.
    fn nodes(&self, _: Disk) -> Vec<(&'static str, String)> {
        Vec::new()
    }

    /// The device needs the disk no more.
    fn close(&self, device: &DeviceName, disk: Disk);
}

/// Disks that scripts have made ready, and have named: by `pid` and `minor`, or by the name of the disk's NBD socket.
#[derive(Clone, Copy, Debug, Default)]
pub struct NamedDisks;

impl Opener for NamedDisks {
    fn open(&self, _: &DeviceName, image: ImageNodes) -> LocalBoxFuture<'static, Result<Disk>> {
        Box::pin(ready(named_disk(&image).ok_or_else(|| {
            Error::new(ErrorKind::NotFound, "neither pid and minor nor physical-device-path name a disk of a tapdisk")
        })))
    }

    fn close(&self, _: &DeviceName, _: Disk) {}
}

pub(crate) fn named_disk(image: &ImageNodes) -> Option<Disk> {
    let (pid, minor) = match (&image.pid, &image.minor) {
        (Some(pid), Some(minor)) => (pid.as_str(), minor.as_str()),
        _ => return disk_of_socket(image.physical_device_path.as_deref()?),
    };
    disk_of(pid, minor)
}

/// The disk that is served over NBD at a path: `.../nbd<pid>.<minor>`.
pub(crate) fn disk_of_socket(path: &str) -> Option<Disk> {
    let (pid, minor) = path.rsplit('/').next()?.strip_prefix("nbd")?.split_once('.')?;
    disk_of(pid, minor)
}

fn disk_of(pid: &str, minor: &str) -> Option<Disk> {
    let pid = pid.parse().ok().filter(|pid| *pid > 0)?;
    Some(Disk { pid, minor: minor.parse().ok()? })
}

#[cfg(test)]
mod tests {
    use super::*;

    fn some(text: &str) -> Option<String> {
        Some(text.to_owned())
    }

    #[test]
    fn a_script_has_done_its_work_when_it_says_so_or_names_what_it_made() {
        let made = ImageNodes { script: some("block-tap"), params: some("aio:/a"), ..ImageNodes::default() };
        assert!(!made.are_ready());
        assert!(ImageNodes { hotplug_status: some("connected"), ..made.clone() }.are_ready());
        let named = ImageNodes { physical_device_path: some("/run/nbd1.2"), ..made.clone() };
        assert!(named.are_ready());
        assert!(!ImageNodes { hotplug_status: some("error"), ..named }.are_ready());
        assert!(ImageNodes { script: None, ..made }.are_ready(), "there is nobody to wait for");
        assert!(!ImageNodes::default().are_ready());
    }

    #[test]
    fn disks_are_named_by_numbers_or_by_their_socket() {
        let numbers = ImageNodes { pid: some("221"), minor: some("7"), ..ImageNodes::default() };
        assert_eq!(named_disk(&numbers), Some(Disk { pid: 221, minor: 7 }));
        let socket = |path| named_disk(&ImageNodes { physical_device_path: some(path), ..ImageNodes::default() });
        assert_eq!(socket("/run/blktap-control/nbd221.7"), Some(Disk { pid: 221, minor: 7 }));
        for wrong in ["/dev/sda", "/run/nbd221", "/run/nbd.7", "/run/nbd0.7", "/run/nbd1.99999", ""] {
            assert_eq!(socket(wrong), None, "{wrong}");
        }
    }

    #[test]
    fn the_toolstack_may_ask_for_other_than_is_usual() {
        let offer = |persistent: Option<&str>, polling: Option<&str>, threshold: Option<&str>| {
            let [persistent_enable, polling_duration, polling_idle_threshold] =
                [persistent, polling, threshold].map(|value| value.map(str::to_owned));
            let nodes =
                ImageNodes { persistent_enable, polling_duration, polling_idle_threshold, ..ImageNodes::default() };
            let usual = Offer { persistent: true, polling_us: 7, ..Offer::default() };
            let Offer { persistent, polling_us, .. } = nodes.offer(&usual);
            (persistent, polling_us)
        };
        assert_eq!(offer(None, None, None), (true, 7));
        assert_eq!(offer(Some("0"), Some("0"), None), (false, 0));
        assert_eq!(offer(Some("1"), Some("1000"), Some("0")), (true, 1000));
        assert_eq!(offer(None, Some("1000"), Some("50")), (true, 0), "nobody knows how idle the host is");
        assert_eq!(offer(Some("yes"), Some("-1"), Some("x")), (true, 7), "what makes no sense says nothing");
    }

    #[test]
    fn information_tells_cdrom_removable_and_read_only() {
        let nodes = ImageNodes { device_type: some("cdrom"), removable: some("1"), ..ImageNodes::default() };
        assert_eq!((nodes.information(true), ImageNodes::default().information(false)), (7, 0));
        assert!(nodes.are_read_only(), "only what is said to be writable is");
        assert!(!ImageNodes { mode: some("w!"), ..nodes }.are_read_only());
    }
}
