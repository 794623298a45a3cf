//! Cylinders, heads and sectors: a fiction that old BIOSes need and every footer carries.

use block_core::SECTOR;

/// The largest disk that the fiction can describe, in sectors.
const SECTORS_MAX: u64 = 65535 * 16 * 255;
/// From here on a track has 255 sectors.
const LONG_TRACKS_FROM: u64 = 65535 * 16 * 63;

/// A disk geometry.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct DiskGeometry {
    /// How many cylinders.
    pub cylinders: u16,
    /// Tracks of a cylinder.
    pub heads: u8,
    /// Sectors of a track.
    pub sectors: u8,
}

impl DiskGeometry {
    /// The geometry that the specification computes for a disk of that many bytes; it may describe slightly fewer.
    pub fn of(disk_bytes: u64) -> Self {
        let total = (disk_bytes / SECTOR).clamp(1, SECTORS_MAX);
        let (tracks, heads, sectors) = Self::tracks_heads_sectors(total);
        Self {
            cylinders: u16::try_from(tracks / heads).expect("at most 65535 cylinders after the cap"),
            heads: u8::try_from(heads).expect("at most 16 heads"),
            sectors: u8::try_from(sectors).expect("at most 255 sectors"),
        }
    }

    fn tracks_heads_sectors(total: u64) -> (u64, u64, u64) {
        if total >= LONG_TRACKS_FROM {
            return (total / 255, 16, 255);
        }
        let tracks = total / 17;
        let heads = tracks.div_ceil(1024).max(4);
        if tracks < heads * 1024 && heads <= 16 {
            return (tracks, heads, 17);
        }
        let tracks = total / 31;
        if tracks < 16 * 1024 {
            return (tracks, 16, 31);
        }
        (total / 63, 16, 63)
    }

    /// From the footer's number.
    pub fn from_bits(bits: u32) -> Self {
        let [high, low, heads, sectors] = bits.to_be_bytes();
        Self { cylinders: u16::from_be_bytes([high, low]), heads, sectors }
    }

    /// The footer's number.
    pub fn to_bits(self) -> u32 {
        u32::from(self.cylinders) << 16 | u32::from(self.heads) << 8 | u32::from(self.sectors)
    }

    /// How many bytes it describes.
    pub fn bytes(self) -> u64 {
        u64::from(self.cylinders) * u64::from(self.heads) * u64::from(self.sectors) * SECTOR
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    fn of(disk_bytes: u64) -> (u16, u8, u8) {
        let geometry = DiskGeometry::of(disk_bytes);
        assert_eq!(DiskGeometry::from_bits(geometry.to_bits()), geometry);
        (geometry.cylinders, geometry.heads, geometry.sectors)
    }

    #[test]
    fn known_sizes_have_the_geometry_that_other_tools_write() {
        const MIB: u64 = 1 << 20;
        assert_eq!(of(64 * MIB), (963, 8, 17));
        assert_eq!(DiskGeometry::of(64 * MIB).bytes(), 67_055_616);
        assert_eq!(of(2 * MIB), (60, 4, 17));
        assert_eq!(of(1024 * MIB), (2080, 16, 63));
        assert_eq!(of(200 * MIB), (825, 16, 31));
        assert_eq!(of(127 * 1024 * MIB), (65278, 16, 255));
        assert_eq!(of(0), (0, 4, 17));
    }

    #[test]
    fn huge_disks_stop_at_the_largest_geometry_and_do_not_wrap_at_two_tebibytes() {
        assert_eq!(of(2 << 40), (65535, 16, 255));
        assert_eq!(of((2 << 40) + (2 << 20)), (65535, 16, 255));
        assert_eq!(of(u64::MAX), (65535, 16, 255));
    }

    #[test]
    fn it_never_describes_more_than_the_disk_has() {
        for megabytes in (2..200_000).step_by(2) {
            let disk_bytes = megabytes << 20;
            assert!(DiskGeometry::of(disk_bytes).bytes() <= disk_bytes, "{megabytes} MiB");
        }
    }
}
