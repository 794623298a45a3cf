//! How a device is called, and where its nodes are.

use std::{fmt, rc::Rc};

use wire::xenstore::Path;
use xen::DomainId;

/// A device of a guest: the names of its directory.
#[derive(Clone, Debug, PartialEq, Eq, PartialOrd, Ord, Hash)]
pub struct DeviceName {
    kind: Rc<str>,
    /// The guest.
    pub domain: DomainId,
    /// Its number for the device.
    pub device: u32,
}

impl DeviceName {
    /// A device below `backend/<kind>`.
    ///
    /// # Panics
    /// When the kind is no name of a node.
    pub fn new(kind: &Rc<str>, domain: DomainId, device: u32) -> DeviceName {
        assert!(!kind.contains('/') && Path::new(&**kind).is_ok(), "'{kind}' names no kind of device");
        DeviceName { kind: kind.clone(), domain, device }
    }

    /// What directories of a guest and of its device below `backend/<kind>` are called, read back; none for other names,
    /// also for numbers that nobody would write like this.
    ///
    /// # Panics
    /// When the kind is no name of a node.
    pub fn parse(kind: &Rc<str>, domain: &str, device: &str) -> Option<DeviceName> {
        let name = DeviceName::new(kind, DomainId(domain.parse().ok()?), device.parse().ok()?);
        let is_as_written = name.domain.to_string() == domain && name.device.to_string() == device;
        is_as_written.then_some(name)
    }

    /// Its directory, if the backend is this domain.
    pub fn directory(&self, backend: DomainId) -> Path {
        path(format!("/local/domain/{backend}/backend/{self}"))
    }

    /// The directory in which errors are told.
    pub fn error_directory(&self, backend: DomainId) -> Path {
        path(format!("/local/domain/{backend}/error/backend/{self}"))
    }
}

impl fmt::Display for DeviceName {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        write!(f, "{}/{}/{}", self.kind, self.domain, self.device)
    }
}

/// The directory of all devices of a kind.
pub(crate) fn kind_directory(backend: DomainId, kind: &str) -> Path {
    path(format!("/local/domain/{backend}/backend/{kind}"))
}

/// The directory of what was told of devices of a kind.
pub(crate) fn error_root(backend: DomainId, kind: &str) -> Path {
    path(format!("/local/domain/{backend}/error/backend/{kind}"))
}

/// The directory of all kinds of devices.
pub(crate) fn backend_directory(backend: DomainId) -> Path {
    path(format!("/local/domain/{backend}/backend"))
}

/// The directory of a domain.
pub(crate) fn domain_directory(domain: DomainId) -> Path {
    path(format!("/local/domain/{domain}"))
}

fn path(text: String) -> Path {
    Path::new(text).expect("a kind and numbers make a path")
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn directories_are_named_by_guest_and_device() {
        let kind: Rc<str> = "vbd3".into();
        let name = DeviceName::parse(&kind, "7", "51712").unwrap();
        assert_eq!(name.directory(DomainId(0)).as_str(), "/local/domain/0/backend/vbd3/7/51712");
        assert_eq!(name.error_directory(DomainId(3)).as_str(), "/local/domain/3/error/backend/vbd3/7/51712");
        for (domain, device) in [("07", "1"), ("7", "+1"), ("65536", "1"), ("7", "x"), ("", "1"), ("7", "")] {
            assert_eq!(DeviceName::parse(&kind, domain, device), None, "{domain}/{device}");
        }
    }
}
