//! What Xen says of the memory of the domain that this runs in: mapped pages of guests are to be seen beside it.

use std::{fs, path::Path};

/// Where the kernel tells it.
const DIRECTORY: &str = "/sys/devices/system/xen_memory/xen_memory0";

/// The memory of a domain, in bytes.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(super) struct XenMemory {
    /// What it has.
    pub(super) current: u64,
    /// What it shall have.
    pub(super) target: Option<u64>,
    /// Of what it has, pages that it could give away, below and above what the kernel can always reach.
    low: Option<u64>,
    high: Option<u64>,
}

impl XenMemory {
    /// None on a host without Xen.
    pub(super) fn read() -> Option<XenMemory> {
        XenMemory::read_in(Path::new(DIRECTORY))
    }

    /// As a directory tells it that stands for the kernel's.
    pub(super) fn read_in(directory: &Path) -> Option<XenMemory> {
        let bytes = |name: &str| {
            let text = fs::read_to_string(directory.join(name)).ok()?;
            text.trim().parse::<u64>().ok()?.checked_mul(1024)
        };
        Some(XenMemory {
            current: bytes("info/current_kb")?,
            target: bytes("target_kb"),
            low: bytes("info/low_kb"),
            high: bytes("info/high_kb"),
        })
    }

    /// What is known, by name.
    pub(super) fn parts(&self) -> impl Iterator<Item = (&'static str, u64)> {
        let XenMemory { current, target, low, high } = *self;
        let all = [("current", Some(current)), ("target", target), ("low", low), ("high", high)];
        all.into_iter().filter_map(|(name, bytes)| Some((name, bytes?)))
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn memory_is_read_as_the_kernel_tells_it() {
        let place = tempfile::tempdir().unwrap();
        assert_eq!(XenMemory::read_in(place.path()), None);
        fs::create_dir(place.path().join("info")).unwrap();
        for (name, text) in [("info/current_kb", "2048\n"), ("target_kb", "4096\n"), ("info/low_kb", "junk\n")] {
            fs::write(place.path().join(name), text).unwrap();
        }
        let memory = XenMemory::read_in(place.path()).unwrap();
        assert_eq!(memory.parts().collect::<Vec<_>>(), [("current", 2 << 20), ("target", 4 << 20)]);
    }
}
