//! The logical volumes of a group, as `vgs` and `lvs` tell them: where each begins on which device. So volumes that are not
//! active can be read.

use std::{
    collections::BTreeMap,
    ffi::OsStr,
    path::PathBuf,
    process::{Command, Stdio},
};

use block_core::{Error, ErrorKind, Result};

/// A volume, and where its first segment lies.
#[derive(Clone, Debug, PartialEq, Eq)]
pub(super) struct Volume {
    pub(super) name: String,
    pub(super) bytes: u64,
    /// None: its bytes are not in one piece on one device.
    pub(super) place: Option<(PathBuf, u64)>,
}

/// The volumes of a group, in the order in which they are told.
pub(super) fn of(group: &OsStr) -> Result<Vec<Volume>> {
    let devices = "vg_name,vg_extent_size,lv_count,pv_count,pv_name,pe_start";
    let volumes = "lv_name,lv_size,segtype,seg_count,seg_start,seg_size,devices";
    parse(&ask("vgs", devices, group)?, &ask("lvs", volumes, group)?)
}

fn ask(program: &str, options: &str, group: &OsStr) -> Result<String> {
    let mut command = Command::new(program);
    command.args(["--noheadings", "--nosuffix", "--units=b"]).arg(format!("--options={options}"));
    command.arg("--").arg(group).stdin(Stdio::null());
    let output = command.output().map_err(|error| Error::from_os(program.to_owned(), error))?;
    if !output.status.success() {
        let said = String::from_utf8_lossy(&output.stderr);
        let words = format!("{program} {}: {}", group.display(), said.trim());
        return Err(Error::new(ErrorKind::Invalid, words));
    }
    String::from_utf8(output.stdout).map_err(|_| Error::new(ErrorKind::Invalid, format!("{program} tells no text")))
}

fn parse(devices: &str, volumes: &str) -> Result<Vec<Volume>> {
    let odd = |line: &str| Error::new(ErrorKind::Invalid, format!("a line of vgs or lvs that makes no sense: {line}"));
    let mut extent_bytes = 0;
    let mut starts: BTreeMap<&str, u64> = BTreeMap::new();
    for line in devices.lines().filter(|line| !line.trim().is_empty()) {
        let [_, extent, _, _, device, start] = fields(line).ok_or_else(|| odd(line))?;
        extent_bytes = extent.parse().map_err(|_| odd(line))?;
        starts.insert(device, start.parse().map_err(|_| odd(line))?);
    }
    let mut all: Vec<Volume> = Vec::new();
    for line in volumes.lines().filter(|line| !line.trim().is_empty()) {
        let [name, bytes, kind, _, segment, _, device] = fields(line).ok_or_else(|| odd(line))?;
        // Segments are told one by one; only the first matters.
        if segment != "0" || all.iter().any(|volume| volume.name == name) {
            continue;
        }
        let place = || {
            let (device, extent) = device.strip_suffix(')')?.rsplit_once('(')?;
            let extent: u64 = extent.parse().ok()?;
            let offset = extent.checked_mul(extent_bytes)?.checked_add(*starts.get(device)?)?;
            Some((PathBuf::from(device), offset))
        };
        let place = if kind == "linear" { place() } else { None };
        all.push(Volume { name: name.to_owned(), bytes: bytes.parse().map_err(|_| odd(line))?, place });
    }
    Ok(all)
}

fn fields<const COUNT: usize>(line: &str) -> Option<[&str; COUNT]> {
    line.split_whitespace().collect::<Vec<_>>().try_into().ok()
}

/// The volume that a name of the device mapper, or a plain one, means: `group-volume` with dashes doubled within both.
pub(super) fn name_of(mapped: &str, group: &str) -> String {
    let escaped = group.replace('-', "--") + "-";
    if let Some(volume) = mapped.strip_prefix(&escaped) {
        return volume.replace("--", "-");
    }
    let slashed = mapped.replace("--", "\0").replace('-', "/").replace('\0', "-");
    slashed.rsplit('/').next().unwrap_or(mapped).to_owned()
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_volume_lies_where_its_first_segment_does() {
        let devices = "  vg 4194304 3 2 /dev/sdb 1048576\n  vg 4194304 3 2 /dev/sdc 2097152\n";
        let volumes = "  VHD-1 8388608 linear 1 0 8388608 /dev/sdb(0)\n  \
                       VHD-2 12582912 linear 2 0 4194304 /dev/sdc(3)\n  \
                       VHD-2 12582912 linear 2 4194304 8388608 /dev/sdb(7)\n  \
                       m 4194304 mirror 1 0 4194304 m_0(0),m_1(0)\n";
        let volume = |name: &str, bytes, place: Option<(&str, u64)>| Volume {
            name: name.into(),
            bytes,
            place: place.map(|(device, offset)| (device.into(), offset)),
        };
        let expected = [
            volume("VHD-1", 8 << 20, Some(("/dev/sdb", 1 << 20))),
            volume("VHD-2", 12 << 20, Some(("/dev/sdc", (2 << 20) + (12 << 20)))),
            volume("m", 4 << 20, None),
        ];
        assert_eq!(parse(devices, volumes).unwrap(), expected);
        assert!(parse("  vg x 1 1 /dev/sdb 0", "").is_err() && parse("", "  a b").is_err());
    }

    #[test]
    fn names_of_the_device_mapper_lead_to_volumes() {
        assert_eq!(name_of("VG_XenStorage--1--2-VHD--3--4", "VG_XenStorage-1-2"), "VHD-3-4");
        assert_eq!(name_of("other-VHD--3", "vg"), "VHD-3");
        assert_eq!(name_of("plain", "vg"), "plain");
    }
}
