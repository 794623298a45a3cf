//! Whose disks are, and what they are: kept in the markers of their minors.
//!
//! ```text
//!   tapdisk-4   (empty)                                            the storage side has allocated it, and looks after it
//!   tapdisk-5   {"owner":"hotplug:/local/domain/0/backend/vbd3/7/51712",
//!                "opened":{"pid":4711,"image":"vhd:/sr/a.vhd",...}}  a script has; its device is gone if that directory is
//! ```
//!
//! What is kept there goes with the marker, so it never tells of another disk that has got the number since. What makes no
//! sense says nothing: such a disk is the storage side's, which nobody takes away.

use std::{
    fmt,
    fs::{File, OpenOptions},
    io::{self, Read, Write},
    os::unix::fs::OpenOptionsExt,
    str::FromStr,
};

use block_core::{Error, ErrorKind, Result, ResultExt};
use serde::{Deserialize, Serialize};

use crate::{Minor, RunDir};

/// Nobody says more.
const RECORD_BYTES_MAX: u64 = 16384;
/// The variable by which toolstacks tell their scripts the directory of the device, below that of its domain or from the
/// root on.
pub const HOTPLUG_VARIABLE: &str = "XENBUS_PATH";

/// Who looks after a disk, and ends it.
#[derive(Clone, Debug, Default, PartialEq, Eq, Serialize, Deserialize)]
#[serde(into = "String", try_from = "String")]
pub enum Owner {
    /// The storage side, by its own commands.
    #[default]
    Storage,
    /// The hotplug script of the device with this directory in XenStore.
    Hotplug(String),
}

impl Owner {
    /// Whose a disk is that a script makes which is told this by its toolstack; one that is told nothing is no script.
    pub fn of_script(directory: Option<&str>) -> Owner {
        let directory = directory.map(|directory| directory.trim_end_matches('/')).filter(|path| !path.is_empty());
        directory.map_or(Owner::Storage, |directory| Owner::Hotplug(directory.to_owned()))
    }

    /// Whose a disk is that this process makes.
    pub fn from_environment() -> Owner {
        Owner::of_script(std::env::var(HOTPLUG_VARIABLE).ok().as_deref())
    }

    /// The directory of the device whose script made it; below that of domain `own` if it was not said from the root on.
    pub fn directory(&self, own: u16) -> Option<String> {
        match self {
            Owner::Storage => None,
            Owner::Hotplug(path) if path.starts_with('/') => Some(path.clone()),
            Owner::Hotplug(path) => Some(format!("/local/domain/{own}/{path}")),
        }
    }
}

impl fmt::Display for Owner {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        match self {
            Owner::Storage => f.write_str("storage"),
            Owner::Hotplug(path) => write!(f, "hotplug:{path}"),
        }
    }
}

impl FromStr for Owner {
    type Err = Error;

    fn from_str(text: &str) -> Result<Owner> {
        match text.split_once(':') {
            None if text == "storage" => Ok(Owner::Storage),
            Some(("hotplug", path)) if !path.is_empty() => Ok(Owner::Hotplug(path.to_owned())),
            _ => Err(Error::new(ErrorKind::Invalid, format!("'{text}' is no owner: storage, or hotplug:DIRECTORY"))),
        }
    }
}

impl From<Owner> for String {
    fn from(owner: Owner) -> String {
        owner.to_string()
    }
}

impl TryFrom<String> for Owner {
    type Error = Error;

    fn try_from(text: String) -> Result<Owner> {
        text.parse()
    }
}

/// What is open under a minor, so that it can be told, and opened again, when its tapdisk has gone. Nothing is while a disk is
/// paused or quiesced: others may put another image there then.
#[derive(Clone, Debug, Default, PartialEq, Eq, Serialize, Deserialize)]
pub struct Opened {
    /// The process.
    pub pid: u32,
    /// `type:path`.
    pub image: String,
    /// Whether changes are refused.
    pub read_only: bool,
    /// Whether others write to its images, too.
    pub shared: bool,
    /// Whether the page cache is used.
    pub buffered: bool,
    /// Whether write access comes with the first writer.
    #[serde(default)]
    pub late: bool,
}

/// What a marker says.
#[derive(Clone, Debug, Default, PartialEq, Eq, Serialize, Deserialize)]
pub struct MinorRecord {
    /// Who looks after the disk.
    #[serde(default)]
    pub owner: Owner,
    /// What its tapdisk has opened and serves.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub opened: Option<Opened>,
}

impl RunDir {
    /// What the marker of a minor says; one that is not allocated, or says nothing, is the storage side's.
    pub fn minor_record(&self, minor: Minor) -> MinorRecord {
        self.read_record(minor).unwrap_or_default()
    }

    /// Changes what the marker of an allocated minor says. Whoever has allocated it does that before it is attached, and the
    /// tapdisk that it is attached to after that: so nobody waits for anybody.
    pub fn change_minor_record(&self, minor: Minor, change: impl FnOnce(&mut MinorRecord)) -> Result<()> {
        let path = self.marker(minor);
        let mut record = self.read_record(minor).context(path.display())?;
        let before = record.clone();
        change(&mut record);
        if record == before {
            return Ok(());
        }
        let mut text = serde_json::to_vec(&record).expect("records have text for keys and nothing that may fail");
        text.push(b'\n');
        // Nobody but us makes one: it would stand for a minor that nobody has allocated.
        let mut marker = OpenOptions::new().write(true).custom_flags(nofollow()).open(&path).context(path.display())?;
        marker.write_all(&text).and_then(|()| marker.set_len(text.len() as u64)).context(path.display())
    }

    fn read_record(&self, minor: Minor) -> io::Result<MinorRecord> {
        let mut text = Vec::new();
        File::open(self.marker(minor))?.take(RECORD_BYTES_MAX).read_to_end(&mut text)?;
        Ok(serde_json::from_slice(&text).unwrap_or_default())
    }
}

fn nofollow() -> i32 {
    rustix::fs::OFlags::NOFOLLOW.bits().cast_signed()
}

#[cfg(test)]
mod tests {
    use super::*;

    fn host() -> (tempfile::TempDir, RunDir) {
        let directory = tempfile::tempdir().unwrap();
        let run = RunDir::at(directory.path().join("run"));
        (directory, run)
    }

    #[test]
    fn what_is_kept_goes_with_the_marker() {
        let (_directory, run) = host();
        let minor = run.allocate_minor().unwrap();
        assert_eq!(run.minor_record(minor), MinorRecord::default());
        let opened = Opened { pid: 7, image: "vhd:/a".into(), ..Opened::default() };
        run.change_minor_record(minor, |record| record.owner = Owner::Hotplug("backend/vbd3/7/51712".into())).unwrap();
        run.change_minor_record(minor, |record| record.opened = Some(opened.clone())).unwrap();
        let owner = Owner::Hotplug("backend/vbd3/7/51712".into());
        assert_eq!(run.minor_record(minor), MinorRecord { owner, opened: Some(opened) });
        run.change_minor_record(minor, |record| record.opened = None).unwrap();
        assert_eq!(run.minor_record(minor).opened, None, "a shorter text leaves nothing of the longer one");
        run.free_minor(minor).unwrap();
        assert_eq!(run.allocate_minor().unwrap(), minor);
        assert_eq!(run.minor_record(minor), MinorRecord::default(), "it is another disk");
    }

    #[test]
    fn a_minor_that_is_not_allocated_gets_no_marker() {
        let (_directory, run) = host();
        let minor = Minor::new(3).unwrap();
        assert!(run.change_minor_record(minor, |record| record.owner = Owner::Hotplug("x".into())).is_err());
        assert_eq!((run.minors().unwrap(), run.minor_record(minor)), (vec![], MinorRecord::default()));
    }

    #[test]
    fn what_makes_no_sense_is_the_storage_sides() {
        let (_directory, run) = host();
        let minor = run.allocate_minor().unwrap();
        for text in ["{", "{\"owner\":\"hotplug:\"}", "{\"owner\":7}", "\u{0}"] {
            std::fs::write(run.marker(minor), text).unwrap();
            assert_eq!(run.minor_record(minor).owner, Owner::Storage, "{text}");
        }
    }

    #[test]
    fn a_disk_of_a_held_minor_can_be_told_of() {
        let (_directory, run) = host();
        let minor = run.allocate_minor().unwrap();
        let held = run.hold_minor(minor).unwrap();
        run.change_minor_record(held.minor(), |record| record.owner = Owner::Hotplug("x".into())).unwrap();
        assert_eq!(run.minor_record(minor).owner.to_string(), "hotplug:x");
    }

    #[test]
    fn scripts_are_told_their_device_below_the_domain_or_from_the_root() {
        let directory = |text: &str| Owner::of_script(Some(text)).directory(3);
        let expected = Some("/local/domain/3/backend/vbd3/7/51712".to_owned());
        assert_eq!(directory("backend/vbd3/7/51712"), expected);
        assert_eq!(directory("/local/domain/3/backend/vbd3/7/51712/"), expected);
        assert_eq!((Owner::of_script(Some("")), Owner::of_script(None)), (Owner::Storage, Owner::Storage));
    }

    #[test]
    fn owners_are_read_as_they_are_told() {
        for owner in [Owner::Storage, Owner::Hotplug("/local/domain/0/backend/vbd3/7/1".into())] {
            assert_eq!(owner.to_string().parse::<Owner>().unwrap(), owner);
        }
        for wrong in ["", "hotplug", "hotplug:", "toolstack:x", "Storage"] {
            assert!(wrong.parse::<Owner>().is_err(), "{wrong}");
        }
    }
}
