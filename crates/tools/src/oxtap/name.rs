//! How people name a disk: by minor, by process and minor, by image, or by the socket that it is served on.

use std::{fs, path::Path, str::FromStr};

use block_core::{Error, ErrorKind, Result};
use control_api::{Minor, RunDir};

use super::host::{self, Process};

/// What stands for DISK on the command line.
#[derive(Clone, Debug, PartialEq, Eq)]
pub enum DiskName {
    /// `4`
    Minor(u16),
    /// `4711:4`
    OfProcess(u32, u16),
    /// `/images/a.vhd`, `vhd:/images/a.vhd`, `/run/blktap-control/nbd4711.4`
    Path(String),
}

impl FromStr for DiskName {
    type Err = Error;

    fn from_str(text: &str) -> Result<DiskName> {
        if let Ok(minor) = text.parse() {
            return Ok(DiskName::Minor(minor));
        }
        let numbers = text.split_once(':').map(|(pid, minor)| (pid.parse(), minor.parse()));
        match numbers {
            Some((Ok(pid), Ok(minor))) => Ok(DiskName::OfProcess(pid, minor)),
            _ if text.is_empty() => Err(Error::new(ErrorKind::Invalid, "a disk is named by minor, pid:minor or path")),
            _ => Ok(DiskName::Path(text.to_owned())),
        }
    }
}

impl std::fmt::Display for DiskName {
    fn fmt(&self, f: &mut std::fmt::Formatter<'_>) -> std::fmt::Result {
        match self {
            DiskName::Minor(minor) => write!(f, "{minor}"),
            DiskName::OfProcess(pid, minor) => write!(f, "{pid}:{minor}"),
            DiskName::Path(path) => f.write_str(path),
        }
    }
}

/// A disk of this host.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(super) struct Place {
    pub(super) pid: u32,
    pub(super) minor: u16,
}

impl std::fmt::Display for Place {
    fn fmt(&self, f: &mut std::fmt::Formatter<'_>) -> std::fmt::Result {
        write!(f, "{}:{}", self.pid, self.minor)
    }
}

/// Finds the one disk that has this name. None and several are errors that say what there is.
pub(super) fn find(run: &RunDir, name: &DiskName) -> Result<Place> {
    choose(name, &host::processes(run)?, run)
}

fn choose(name: &DiskName, processes: &[Process], run: &RunDir) -> Result<Place> {
    let matching: Vec<Place> = processes
        .iter()
        .flat_map(|process| process.disks().iter().map(move |statistics| (process.pid, &statistics.disk)))
        .map(|(pid, disk)| (Place { pid, minor: disk.minor }, disk.image.as_deref()))
        .filter(|(place, image)| is_meant(name, *place, *image, run))
        .map(|(place, _)| place)
        .collect();
    match matching[..] {
        [place] => Ok(place),
        [] => Err(nobody(name, processes)),
        _ => {
            let names: Vec<String> = matching.iter().map(Place::to_string).collect();
            let words = format!("{name}: several disks have this name: say which of {}", names.join(", "));
            Err(Error::new(ErrorKind::Invalid, words))
        }
    }
}

/// There is no such disk; or it belongs to somebody who does not answer, which is worth knowing.
fn nobody(name: &DiskName, processes: &[Process]) -> Error {
    let silent: Vec<String> =
        processes.iter().filter(|process| process.is_silent()).map(|p| p.pid.to_string()).collect();
    let mut words = format!("{name}: no such disk (oxtap ls shows all)");
    if !silent.is_empty() {
        words += &format!("; no answer from tapdisk {}", silent.join(", "));
    }
    Error::new(ErrorKind::NotFound, words)
}

fn is_meant(name: &DiskName, place: Place, image: Option<&str>, run: &RunDir) -> bool {
    match name {
        DiskName::Minor(minor) => place.minor == *minor,
        DiskName::OfProcess(pid, minor) => place == Place { pid: *pid, minor: *minor },
        DiskName::Path(path) => {
            let is_image =
                image.is_some_and(|image| image == path || paths_of(image).any(|leaf| is_same_file(leaf, path)));
            is_image || sockets(run, place).iter().any(|socket| is_same_file(socket, path))
        }
    }
}

/// What may be the path in `type:path`: there may be layers in front (`fault:RULES:type:path`), and colons in a path.
fn paths_of(image: &str) -> impl Iterator<Item = &str> {
    image.match_indices(':').map(|(colon, _)| &image[colon + 1..])
}

/// Every socket that a disk may be served on.
fn sockets(run: &RunDir, Place { pid, minor }: Place) -> Vec<String> {
    let Some(minor) = Minor::new(minor) else { return Vec::new() };
    let paths = [
        run.nbd_socket(pid, minor),
        run.nbd_old_socket(pid, minor),
        run.nbd_server_socket(pid, minor),
        run.nbd_server_new_socket(pid, minor),
    ];
    paths.iter().map(|path| path.display().to_string()).collect()
}

/// Whether two names lead to the same file, over links and from different directories.
fn is_same_file(one: impl AsRef<Path>, other: impl AsRef<Path>) -> bool {
    let (one, other) = (one.as_ref(), other.as_ref());
    one == other || matches!((fs::canonicalize(one), fs::canonicalize(other)), (Ok(one), Ok(other)) if one == other)
}

#[cfg(test)]
mod tests {
    use super::{super::host::tests::process, *};

    fn found(name: &str, processes: &[Process]) -> std::result::Result<String, String> {
        let run = RunDir::at("/run/x");
        let place = choose(&name.parse().unwrap(), processes, &run);
        place.map(|place| place.to_string()).map_err(|error| error.to_string())
    }

    #[test]
    fn a_disk_has_many_names() {
        let processes = [process(70, &[(3, "fault:read=EIO:vhd:/a.vhd")]), process(71, &[(4, "aio:/b:c")])];
        for name in ["3", "70:3", "/a.vhd", "fault:read=EIO:vhd:/a.vhd", "/run/x/nbd70.3", "/run/x/nbd-old70.3"] {
            assert_eq!(found(name, &processes), Ok("70:3".to_owned()), "{name}");
        }
        assert_eq!(found("/b:c", &processes), Ok("71:4".to_owned()));
        for name in ["5", "71:3", "a.vhd", "aio:/a.vhd", "/run/x/nbd71.3"] {
            assert!(found(name, &processes).unwrap_err().contains("no such disk"), "{name}");
        }
    }

    #[test]
    fn links_and_relative_names_lead_to_the_image() {
        let directory = tempfile::tempdir().unwrap();
        let image = directory.path().join("a.vhd");
        fs::write(&image, "").unwrap();
        std::os::unix::fs::symlink(&image, directory.path().join("link")).unwrap();
        let processes = [process(70, &[(3, &format!("vhd:{}", image.display()))])];
        let link = directory.path().join("link").display().to_string();
        assert_eq!(found(&link, &processes), Ok("70:3".to_owned()));
    }

    #[test]
    fn one_name_for_several_disks_is_not_guessed() {
        let processes = [process(70, &[(3, "vhd:/a.vhd")]), process(71, &[(4, "vhd:/a.vhd")])];
        let expected = "/a.vhd: several disks have this name: say which of 70:3, 71:4";
        assert_eq!(found("/a.vhd", &processes), Err(expected.to_owned()));
    }

    #[test]
    fn who_does_not_answer_is_told_when_a_disk_is_missing() {
        let silent = Process { pid: 72, is_native: true, statistics: None };
        let expected = "3: no such disk (oxtap ls shows all); no answer from tapdisk 72";
        assert_eq!(found("3", &[silent]), Err(expected.to_owned()));
    }

    #[test]
    fn an_empty_name_is_none() {
        assert!("".parse::<DiskName>().is_err());
    }
}
