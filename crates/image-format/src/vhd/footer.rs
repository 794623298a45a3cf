//! The footer: what kind of disk, how large, who it is. It is stored twice in dynamic and differencing images, and
//! [`choose_footer`] decides which copy counts when they disagree.

use block_core::{Error, ErrorKind, FileOffset, Result, SECTOR};
use uuid::Uuid;
use zerocopy::{FromBytes, FromZeros, IntoBytes};

use super::layout::{
    CREATOR, CREATOR_VERSION, DISABLED_COOKIE, FEATURE_RESERVED, FEATURE_TEMPORARY, FOOTER_BYTES, FOOTER_COOKIE,
    FORMAT_VERSION, FooterBytes, HEADER_BYTES, NO_OFFSET,
};
use super::{DiskGeometry, Timestamp};

/// Disks grow in steps of a block, so sizes of new ones are multiples of it.
const SIZE_STEP: u64 = 2 << 20;
/// The newest version of the `tap` creator whose images we know.
const TAP_VERSION_MAX: u32 = 0x0001_0003;
/// A version that was never released properly; its parent names are encoded differently.
const TAP_VERSION_UNSUPPORTED: u32 = 0x0000_0001;
/// Clocks of hosts that share a storage may differ by this much.
pub(super) const CLOCK_SKEW_SECONDS: u32 = 1800;

const DISABLED: &str = "invalid cookie: disabled by an unfinished resize";

/// What a disk is.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum DiskType {
    /// The data, then a footer.
    Fixed,
    /// Blocks where something was written.
    Dynamic,
    /// Blocks where something was written since the parent.
    Differencing,
}

impl DiskType {
    fn from_bits(bits: u32) -> Option<Self> {
        match bits {
            2 => Some(DiskType::Fixed),
            3 => Some(DiskType::Dynamic),
            4 => Some(DiskType::Differencing),
            _ => None,
        }
    }

    fn to_bits(self) -> u32 {
        match self {
            DiskType::Fixed => 2,
            DiskType::Dynamic => 3,
            DiskType::Differencing => 4,
        }
    }
}

/// Whether a batmap follows the table.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum BatmapRule {
    /// There is none.
    Absent,
    /// There is one.
    Present,
    /// There is one if its header is valid.
    IfValid,
}

/// The bytes of a footer, from a stranger.
#[derive(Clone)]
pub struct UncheckedFooter(FooterBytes);

impl UncheckedFooter {
    /// From the bytes of a footer. Old tools wrote one byte less; that byte is zero.
    pub fn parse(bytes: &[u8]) -> Result<Self> {
        if bytes.len() < FOOTER_BYTES - 1 {
            return Err(corrupt("too short"));
        }
        let mut whole = [0; FOOTER_BYTES];
        let length = bytes.len().min(FOOTER_BYTES);
        whole[..length].copy_from_slice(&bytes[..length]);
        Ok(Self(FooterBytes::read_from_bytes(&whole).expect("the array is as long as a footer")))
    }

    /// Everything that using the image relies on.
    pub fn check(self) -> Result<Footer> {
        self.check_all_but_disabled()?.for_use()
    }

    /// Like [`Self::check`], for those who only look: a footer that a resize disabled passes.
    pub fn check_all_but_disabled(self) -> Result<Footer> {
        let problem = [
            self.cookie_problem().filter(|_| !self.is_disabled()),
            self.checksum_problem(),
            self.creator_version_problem(),
            self.type_problem(),
        ];
        match problem.into_iter().flatten().next() {
            Some(reason) => Err(corrupt(reason)),
            None => {
                let disk_type = DiskType::from_bits(self.0.disk_type.get()).expect("the type has just been checked");
                Ok(Footer { bytes: self.0, disk_type })
            }
        }
    }

    /// Whether a journalled resize was begun and not ended.
    pub fn is_disabled(&self) -> bool {
        self.0.cookie == DISABLED_COOKIE
    }

    /// The first rule of the format that the footer breaks, for `check`; `now` is left out to skip the clock's rule.
    pub fn first_problem(&self, now: Option<Timestamp>) -> Option<&'static str> {
        let bytes = &self.0;
        let features = bytes.features.get();
        let is_fixed = DiskType::from_bits(bytes.disk_type.get()) == Some(DiskType::Fixed);
        let latest = now.map_or(u32::MAX, |now| now.get().saturating_add(CLOCK_SKEW_SECONDS));
        let geometry = DiskGeometry::from_bits(bytes.geometry.get());
        let when = |broken: bool, reason: &'static str| broken.then_some(reason);
        self.cookie_problem()
            .or(self.checksum_problem())
            .or(when(features & FEATURE_RESERVED == 0, "invalid 'reserved' feature"))
            .or(when(features & !(FEATURE_RESERVED | FEATURE_TEMPORARY) != 0, "invalid extra features"))
            .or(when(bytes.file_format_version.get() != FORMAT_VERSION, "invalid file format version"))
            .or(when(is_fixed && bytes.data_offset.get() != NO_OFFSET, "invalid data offset"))
            .or(when(bytes.timestamp.get() > latest, "creation time in future"))
            .or(self.creator_version_problem())
            .or(when(geometry.bytes() > DiskGeometry::of(bytes.current_size.get()).bytes(), "geometry too large"))
            .or(self.type_problem())
            .or(when(bytes.saved > 1, "invalid 'saved' state"))
            .or(when(bytes.hidden > 1, "invalid 'hidden' state"))
            .or(when(bytes.reserved.iter().any(|&byte| byte != 0), "invalid 'reserved' bits"))
            .or(when(bytes.uuid == [0; 16], "invalid (NULL) uuid"))
    }

    /// The bytes, as they are.
    pub fn bytes(&self) -> &FooterBytes {
        &self.0
    }

    fn cookie_problem(&self) -> Option<&'static str> {
        (self.0.cookie != FOOTER_COOKIE).then_some("invalid cookie")
    }

    fn checksum_problem(&self) -> Option<&'static str> {
        let stored = self.0.checksum.get();
        if stored == self.0.computed_checksum() || (self.hid_without_checksum() && stored == self.visible_checksum()) {
            return None;
        }
        Some("invalid checksum")
    }

    /// Early versions of the `tap` creator hid an image without computing the checksum anew.
    fn hid_without_checksum(&self) -> bool {
        let version = self.0.creator_version.get();
        self.0.hidden != 0 && is_tap(&self.0) && (version == 0x0000_0001 || version == 0x0001_0001)
    }

    fn visible_checksum(&self) -> u32 {
        let mut visible = self.0.clone();
        visible.hidden = 0;
        visible.computed_checksum()
    }

    fn creator_version_problem(&self) -> Option<&'static str> {
        let version = self.0.creator_version.get();
        let is_known = version != TAP_VERSION_UNSUPPORTED && version <= TAP_VERSION_MAX;
        (is_tap(&self.0) && !is_known).then_some("unsupported tap creator version")
    }

    fn type_problem(&self) -> Option<&'static str> {
        DiskType::from_bits(self.0.disk_type.get()).is_none().then_some("invalid type")
    }
}

/// A footer that can be relied on.
#[derive(Clone)]
pub struct Footer {
    bytes: FooterBytes,
    disk_type: DiskType,
}

impl Footer {
    /// The footer of a new image.
    pub fn new(disk_type: DiskType, disk_bytes: u64, uuid: Uuid, timestamp: Timestamp) -> Self {
        let mut bytes = FooterBytes::new_zeroed();
        bytes.cookie = FOOTER_COOKIE;
        bytes.features = FEATURE_RESERVED.into();
        bytes.file_format_version = FORMAT_VERSION.into();
        bytes.data_offset = match disk_type {
            DiskType::Fixed => NO_OFFSET.into(),
            DiskType::Dynamic | DiskType::Differencing => (FOOTER_BYTES as u64).into(),
        };
        bytes.timestamp = timestamp.get().into();
        bytes.creator_application = CREATOR;
        bytes.creator_version = CREATOR_VERSION.into();
        bytes.original_size = disk_bytes.into();
        bytes.current_size = disk_bytes.into();
        bytes.geometry = DiskGeometry::of(disk_bytes).to_bits().into();
        bytes.disk_type = disk_type.to_bits().into();
        bytes.uuid = *uuid.as_bytes();
        Self { bytes, disk_type }.checksummed()
    }

    /// Fixed, dynamic or differencing.
    pub fn disk_type(&self) -> DiskType {
        self.disk_type
    }

    /// Bytes of the disk; a size that is not whole sectors loses its rest.
    pub fn disk_bytes(&self) -> u64 {
        self.bytes.current_size.get() / SECTOR * SECTOR
    }

    /// The identity that children record.
    pub fn uuid(&self) -> Uuid {
        Uuid::from_bytes(self.bytes.uuid)
    }

    /// When it was made.
    pub fn timestamp(&self) -> Timestamp {
        Timestamp::new(self.bytes.timestamp.get())
    }

    /// Cylinders, heads, sectors.
    pub fn geometry(&self) -> DiskGeometry {
        DiskGeometry::from_bits(self.bytes.geometry.get())
    }

    /// Zero unless a storage manager hid the image.
    pub fn hidden(&self) -> u8 {
        self.bytes.hidden
    }

    /// Whether the image was made by Xen's tools (or us).
    pub fn is_tap(&self) -> bool {
        is_tap(&self.bytes)
    }

    /// Where the header is; a fixed image has none.
    pub fn header_offset(&self) -> Option<FileOffset> {
        (self.disk_type != DiskType::Fixed).then(|| FileOffset::new(self.bytes.data_offset.get()))
    }

    /// Whether a batmap follows the table.
    pub fn batmap_rule(&self) -> BatmapRule {
        if self.disk_type == DiskType::Fixed || !self.is_tap() {
            return BatmapRule::Absent;
        }
        match self.bytes.creator_version.get() {
            0x0001_0001 => BatmapRule::IfValid,
            version if version > 0x0001_0001 => BatmapRule::Present,
            _ => BatmapRule::Absent,
        }
    }

    /// The same, hidden or not.
    #[must_use]
    pub fn with_hidden(mut self, hidden: u8) -> Self {
        self.bytes.hidden = hidden;
        self.checksummed()
    }

    /// The same of another identity.
    #[must_use]
    pub fn with_uuid(mut self, uuid: Uuid) -> Self {
        self.bytes.uuid = uuid.into_bytes();
        self.checksummed()
    }

    /// The same, of a disk that was made this long.
    #[must_use]
    pub fn with_disk_bytes(&self, disk_bytes: u64) -> Self {
        let mut larger = self.clone();
        larger.bytes.current_size = disk_bytes.into();
        larger.bytes.geometry = DiskGeometry::of(disk_bytes).to_bits().into();
        larger.checksummed()
    }

    /// Whether a journalled resize was begun and not ended.
    pub fn is_disabled(&self) -> bool {
        self.bytes.cookie == DISABLED_COOKIE
    }

    /// The same while a resize is under way: nobody opens such an image.
    #[must_use]
    pub fn disabled(mut self) -> Self {
        self.bytes.cookie = DISABLED_COOKIE;
        self.checksummed()
    }

    /// The same when no resize is under way.
    #[must_use]
    pub fn enabled(mut self) -> Self {
        self.bytes.cookie = FOOTER_COOKIE;
        self.checksummed()
    }

    /// Refuses one that is disabled.
    pub fn for_use(self) -> Result<Self> {
        if self.is_disabled() { Err(corrupt(DISABLED)) } else { Ok(self) }
    }

    /// The bytes to store.
    pub fn as_bytes(&self) -> &[u8] {
        self.bytes.as_bytes()
    }

    /// The fields, as stored.
    pub fn bytes(&self) -> &FooterBytes {
        &self.bytes
    }

    fn checksummed(mut self) -> Self {
        self.bytes.checksum = self.bytes.computed_checksum().into();
        self
    }
}

impl std::fmt::Debug for Footer {
    fn fmt(&self, f: &mut std::fmt::Formatter<'_>) -> std::fmt::Result {
        write!(f, "Footer({:?}, {} bytes, {})", self.disk_type, self.disk_bytes(), self.uuid())
    }
}

/// Which footer counts, of the copy at offset 0 and the one at the end.
///
/// A guest can write both places in some images: the end of a dynamic image whose writer died may be the last sector
/// of a block, and the first sector of a fixed image is the disk's. So the copy at 0 wins, since a dynamic image never
/// gives that place to a guest. Only an end that says "fixed" contradicts it: then one of the two is forged and it is
/// not for us to guess which.
///
/// A copy that is disabled counts too, whatever the end says: while a resize moves blocks, the end of a file is whatever a
/// guest has written there. So footers come here by [`UncheckedFooter::check_all_but_disabled`], and go on by
/// [`Footer::for_use`].
pub fn choose_footer(at_start: Result<Footer>, at_end: Result<Footer>) -> Result<Footer> {
    // Fixed images keep no copy, so a "fixed" footer at 0 is just what a disk holds in its first sector.
    let at_start = at_start.and_then(|footer| match footer.disk_type() {
        DiskType::Fixed => Err(corrupt("the footer at offset 0 says fixed, which has no copy there")),
        DiskType::Dynamic | DiskType::Differencing => Ok(footer),
    });
    match (at_start, at_end) {
        (Ok(start), _) if start.is_disabled() => Ok(start),
        (Ok(start), Ok(end)) if end.disk_type() == DiskType::Fixed => {
            let (start, end) = (start.uuid(), end.uuid());
            let words = format!(
                "the footer at the end says fixed ({end}), its copy at offset 0 does not ({start}): \
                 one of them is forged; `repair` decides"
            );
            Err(Error::new(ErrorKind::Corrupt, words))
        }
        (Ok(start), _) => Ok(start),
        (Err(_), Ok(end)) => Ok(end),
        (Err(_), Err(end)) => Err(end),
    }
}

/// The size that a new disk of `bytes` gets: whole blocks of 2 MiB.
pub fn disk_bytes_rounded(bytes: u64) -> Result<u64> {
    bytes
        .checked_next_multiple_of(SIZE_STEP)
        .ok_or_else(|| Error::new(ErrorKind::LimitReached, "the size does not fit 64 bits"))
}

/// The header's range must not wrap and must not lie on the copy of the footer.
pub(super) fn header_range(footer: &Footer) -> Result<Option<block_core::FileRange>> {
    let Some(offset) = footer.header_offset() else {
        return Ok(None);
    };
    block_core::FileRange::checked(offset.get(), HEADER_BYTES as u64)
        .filter(|range| range.start().get() >= FOOTER_BYTES as u64 && range.start().is_aligned(SECTOR))
        .map(Some)
        .ok_or_else(|| corrupt("invalid data offset"))
}

fn is_tap(bytes: &FooterBytes) -> bool {
    bytes.creator_application.starts_with(b"tap")
}

fn corrupt(reason: &'static str) -> Error {
    Error::new(ErrorKind::Corrupt, reason)
}

#[cfg(test)]
mod tests {
    use super::*;

    type Change = fn(&mut FooterBytes);

    const MIB: u64 = 1 << 20;

    fn footer(disk_type: DiskType) -> Footer {
        Footer::new(disk_type, 64 * MIB, Uuid::from_u128(7), Timestamp::new(1000))
    }

    fn changed(change: impl FnOnce(&mut FooterBytes)) -> UncheckedFooter {
        let mut footer = footer(DiskType::Dynamic);
        change(&mut footer.bytes);
        UncheckedFooter(footer.checksummed().bytes)
    }

    fn reparsed(footer: &Footer) -> Result<Footer> {
        UncheckedFooter::parse(footer.as_bytes())?.check()
    }

    #[test]
    fn the_golden_bytes_of_a_64_mebibyte_dynamic_disk() {
        let mut expected = Vec::new();
        expected.extend_from_slice(b"conectix\0\0\0\x02\0\x01\0\0");
        expected.extend_from_slice(&[0, 0, 0, 0, 0, 0, 2, 0]);
        expected.extend_from_slice(&[0, 0, 0x03, 0xe8]);
        expected.extend_from_slice(b"tap\0\0\x01\0\x03\0\0\0\0");
        expected.extend_from_slice(&[0, 0, 0, 0, 4, 0, 0, 0, 0, 0, 0, 0, 4, 0, 0, 0]);
        expected.extend_from_slice(&[0x03, 0xc3, 8, 17, 0, 0, 0, 3]);
        let sum: u32 = expected.iter().map(|&byte| u32::from(byte)).sum::<u32>() + 7;
        expected.extend_from_slice(&(!sum).to_be_bytes());
        expected.extend_from_slice(&[0, 0, 0, 0, 0, 0, 0, 0, 0, 0, 0, 0, 0, 0, 0, 7]);
        expected.resize(512, 0);
        assert_eq!(footer(DiskType::Dynamic).as_bytes(), expected);
    }

    #[test]
    fn what_we_write_we_accept_and_find_nothing_wrong_with() {
        for disk_type in [DiskType::Fixed, DiskType::Dynamic, DiskType::Differencing] {
            let written = footer(disk_type).with_hidden(1);
            let read = reparsed(&written).unwrap();
            assert_eq!((read.disk_type(), read.hidden(), read.disk_bytes()), (disk_type, 1, 64 * MIB));
            assert_eq!(UncheckedFooter::parse(written.as_bytes()).unwrap().first_problem(None), None);
        }
    }

    #[test]
    fn every_rule_is_told_by_its_own_words_and_in_order() {
        let stories: [(Change, &str); 12] = [
            (|f| f.cookie[0] = b'C', "invalid cookie"),
            (|f| f.features = 0.into(), "invalid 'reserved' feature"),
            (|f| f.features = 6.into(), "invalid extra features"),
            (|f| f.file_format_version = 1.into(), "invalid file format version"),
            (|f| (f.disk_type, f.data_offset) = (2.into(), 512.into()), "invalid data offset"),
            (|f| f.timestamp = 1_000_000.into(), "creation time in future"),
            (|f| f.creator_version = 0x0001_0004.into(), "unsupported tap creator version"),
            (|f| f.geometry = 0xffff_10ff.into(), "geometry too large"),
            (|f| f.disk_type = 5.into(), "invalid type"),
            (|f| f.saved = 2, "invalid 'saved' state"),
            (|f| f.reserved[425] = 1, "invalid 'reserved' bits"),
            (|f| f.uuid = [0; 16], "invalid (NULL) uuid"),
        ];
        for (change, words) in stories {
            assert_eq!(changed(change).first_problem(Some(Timestamp::new(2000))), Some(words));
        }
        let mut torn = footer(DiskType::Dynamic).bytes;
        torn.checksum = 1.into();
        assert_eq!(UncheckedFooter(torn).first_problem(None), Some("invalid checksum"));
    }

    #[test]
    fn a_disabled_image_is_refused_but_may_be_looked_at() {
        let disabled = changed(|f| f.cookie = DISABLED_COOKIE);
        assert!(disabled.clone().check().unwrap_err().to_string().contains("unfinished resize"));
        assert!(disabled.check_all_but_disabled().is_ok());
    }

    #[test]
    fn early_tap_versions_hid_images_without_a_new_checksum() {
        let mut early = changed(|f| f.creator_version = 0x0001_0001.into());
        early.0.hidden = 1;
        assert!(early.clone().check().is_ok());
        early.0.creator_version = 0x0001_0003.into();
        assert!(early.check().is_err());
    }

    #[test]
    fn foreign_creators_are_accepted_and_have_no_batmap() {
        let foreign = changed(|f| (f.creator_application, f.creator_version) = (*b"qem2", 0x0005_0003.into()));
        assert_eq!(foreign.check().unwrap().batmap_rule(), BatmapRule::Absent);
        assert_eq!(footer(DiskType::Dynamic).batmap_rule(), BatmapRule::Present);
        assert_eq!(footer(DiskType::Fixed).batmap_rule(), BatmapRule::Absent);
        let old = changed(|f| f.creator_version = 0x0001_0001.into());
        assert_eq!(old.check().unwrap().batmap_rule(), BatmapRule::IfValid);
    }

    #[test]
    fn a_footer_of_511_bytes_is_whole() {
        assert!(UncheckedFooter::parse(&footer(DiskType::Fixed).as_bytes()[..511]).unwrap().check().is_ok());
        assert!(UncheckedFooter::parse(&footer(DiskType::Fixed).as_bytes()[..510]).is_err());
    }

    #[test]
    fn the_copy_at_the_start_wins_unless_the_end_says_fixed() {
        let broken = || Err(corrupt("invalid cookie"));
        let chosen = |start: Result<Footer>, end: Result<Footer>| choose_footer(start, end).map(|f| f.disk_type());
        let (fixed, dynamic, child) =
            (footer(DiskType::Fixed), footer(DiskType::Dynamic), footer(DiskType::Differencing));
        assert_eq!(chosen(Ok(dynamic.clone()), Ok(child.clone())).unwrap(), DiskType::Dynamic);
        assert_eq!(chosen(Ok(dynamic.clone()), broken()).unwrap(), DiskType::Dynamic);
        assert_eq!(chosen(broken(), Ok(child.clone())).unwrap(), DiskType::Differencing);
        assert_eq!(chosen(broken(), Ok(fixed.clone())).unwrap(), DiskType::Fixed);
        assert_eq!(chosen(Ok(fixed.clone()), Ok(fixed.clone())).unwrap(), DiskType::Fixed);
        assert!(chosen(Ok(dynamic), Ok(fixed.clone())).unwrap_err().to_string().contains("repair"));
        assert!(chosen(Ok(fixed), broken()).is_err());
        assert!(chosen(broken(), broken()).is_err());
    }

    #[test]
    fn sizes_are_rounded_up_to_two_mebibytes() {
        assert_eq!(disk_bytes_rounded(7 * MIB).unwrap(), 8 * MIB);
        assert_eq!(disk_bytes_rounded(0).unwrap(), 0);
        assert!(disk_bytes_rounded(u64::MAX).is_err());
    }
}
