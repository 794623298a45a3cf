//! The one absolute name of an image.
//!
//! For most paths it is where all links lead. A logical volume is different: its links lead to `/dev/dm-7`, a number that
//! the next start of the host gives to another volume, and an image stores the name of its parent for years. So names
//! that stay with their volume are kept.
//!
//! ```text
//!   /dev/mapper/vg-lv            stays
//!   /dev/vg/lv                   /dev/mapper/vg-lv, with each dash in a name doubled, if that is there
//!   /dev/drbd/by-res/name/0      stays, if it leads to /dev/drbd<number>
//!   anything else                where all links lead
//! ```

use std::{
    ffi::{OsStr, OsString},
    io,
    os::unix::ffi::{OsStrExt, OsStringExt},
    path::{Component, Path, PathBuf},
};

const DEVICES: &str = "/dev";

/// The one absolute name of what `path` names.
pub(super) fn canonical(path: &Path) -> io::Result<PathBuf> {
    match lasting_name(path, Path::new(DEVICES)) {
        Some(name) => Ok(name),
        None => path.canonicalize(),
    }
}

/// The name of a volume that stays with it, if `path` is one of a volume below `devices`.
fn lasting_name(path: &Path, devices: &Path) -> Option<PathBuf> {
    let below = path.strip_prefix(devices).ok()?;
    let parts: Option<Vec<&OsStr>> = below.components().map(plain).collect();
    match parts?.as_slice() {
        [mapper, volume] if *mapper == "mapper" => Some(devices.join(mapper).join(volume)).filter(|name| name.exists()),
        [group, volume] => {
            let name = [escaped(group), escaped(volume)].join(&b'-');
            Some(devices.join("mapper").join(OsString::from_vec(name))).filter(|name| name.exists())
        }
        [drbd, by, resource, number] if *drbd == "drbd" && *by == "by-res" => {
            let name: PathBuf = [devices.as_os_str(), drbd, by, resource, number].iter().collect();
            let device = name.canonicalize().ok()?;
            let minor = device.strip_prefix(devices).ok()?.to_str()?.strip_prefix("drbd")?;
            let is_device = !minor.is_empty() && minor.bytes().all(|byte| byte.is_ascii_digit());
            is_device.then_some(name)
        }
        _ => None,
    }
}

fn plain(component: Component<'_>) -> Option<&OsStr> {
    match component {
        Component::Normal(name) => Some(name),
        _ => None,
    }
}

/// The device mapper joins two names with a dash, so it doubles those that are in them.
fn escaped(name: &OsStr) -> Vec<u8> {
    name.as_bytes().iter().flat_map(|byte| std::iter::repeat_n(*byte, if *byte == b'-' { 2 } else { 1 })).collect()
}

#[cfg(test)]
mod tests {
    use super::*;
    use std::{fs, os::unix::fs::symlink};

    /// A directory that looks like that of devices, with one volume and one replicated device.
    fn devices() -> tempfile::TempDir {
        let devices = tempfile::tempdir().unwrap();
        let at = |name: &str| devices.path().join(name);
        for directory in ["mapper", "vg-1", "drbd/by-res/r0"] {
            fs::create_dir_all(at(directory)).unwrap();
        }
        for device in ["dm-7", "drbd1000", "sda"] {
            fs::write(at(device), "").unwrap();
        }
        symlink("../dm-7", at("mapper/vg--1-lv--a")).unwrap();
        symlink("../dm-7", at("vg-1/lv-a")).unwrap();
        symlink("../dm-7", at("vg-1/lost")).unwrap();
        symlink("../../../drbd1000", at("drbd/by-res/r0/0")).unwrap();
        symlink("../../../sda", at("drbd/by-res/r0/1")).unwrap();
        devices
    }

    #[test]
    fn a_volume_has_the_name_that_stays_with_it() {
        let devices = devices();
        let lasting = |path: &str| {
            let name = lasting_name(&devices.path().join(path), devices.path())?;
            Some(name.strip_prefix(devices.path()).unwrap().to_str().unwrap().to_owned())
        };
        assert_eq!(lasting("vg-1/lv-a").as_deref(), Some("mapper/vg--1-lv--a"));
        assert_eq!(lasting("mapper/vg--1-lv--a").as_deref(), Some("mapper/vg--1-lv--a"));
        assert_eq!(lasting("mapper/./vg--1-lv--a").as_deref(), Some("mapper/vg--1-lv--a"));
        assert_eq!(lasting("drbd/by-res/r0/0").as_deref(), Some("drbd/by-res/r0/0"));
    }

    #[test]
    fn all_other_paths_are_followed() {
        let devices = devices();
        for path in ["vg-1/lost", "mapper/none", "dm-7", "drbd/by-res/r0/1", "drbd/by-res/r0/2", "mapper/../dm-7", ""] {
            assert_eq!(lasting_name(&devices.path().join(path), devices.path()), None, "{path}");
        }
        assert_eq!(lasting_name(Path::new("/tmp/a"), devices.path()), None);
        assert_eq!(canonical(Path::new("/proc/self/../..")).unwrap(), Path::new("/"));
    }
}
