//! The headers of an image as text. Whatever an image holds, only readable characters come out of here.

use std::{
    fmt::{self, Write as _},
    sync::Arc,
};

use block_core::{FileOffset, Result, SECTOR};
use image_format::vhd::{
    BATMAP_HEADER_BYTES, BatmapHeaderBytes, DiskGeometry, FOOTER_BYTES, FooterBytes, HEADER_BYTES, HeaderBytes,
    LocatorCode, ParentLocatorBytes, Timestamp, UncheckedBatmapHeader, UncheckedFooter, UncheckedHeader,
    batmap_checksum, checksummed_batmap_bytes, decode_parent_name,
};
use serde_json::{Value, json};
use storage_io::{Executor, Storage, StorageExt};
use uuid::Uuid;

use super::{opened::OpenedVhd, parents::path_in};

const DIFFERENCING: u32 = 4;
const DISK_TYPES: [&str; 7] = [
    "None",
    "Reserved (deprecated)",
    "Fixed hard disk",
    "Dynamic hard disk",
    "Differencing hard disk",
    "Reserved (deprecated)",
    "Reserved (deprecated)",
];
const HOST_WINDOWS: u32 = u32::from_be_bytes(*b"Wi2k");
const HOST_MACINTOSH: u32 = u32::from_be_bytes(*b"Mac ");
const FEATURE_TEMPORARY: u32 = 1;
const FEATURE_RESERVED: u32 = 2;

/// What there is of headers in an image, right or wrong.
#[derive(Default)]
pub(super) struct Headers {
    footer: Option<FooterBytes>,
    header: Option<HeaderBytes>,
    /// The used locators: slot, bytes, and the path if it can be read.
    locators: Vec<(usize, ParentLocatorBytes, Option<String>)>,
    /// With the sum that the map has.
    batmap: Option<(BatmapHeaderBytes, Option<u32>)>,
}

impl Headers {
    /// Those of an image that could be opened.
    pub(super) async fn of(executor: &Executor, vhd: &OpenedVhd) -> Result<Headers> {
        let mut headers = Headers { footer: Some(vhd.footer.bytes().clone()), ..Headers::default() };
        let Some(header) = &vhd.header else { return Ok(headers) };
        headers.header = Some(header.bytes().clone());
        if vhd.footer.bytes().disk_type.get() == DIFFERENCING {
            headers.locators = read_locators(executor, &vhd.storage, header.bytes()).await;
        }
        if let Some(batmap) = vhd.batmap_header(executor).await.ok().flatten() {
            let sum = map_sum(executor, vhd, batmap.map_range().start()).await;
            headers.batmap = Some((batmap.bytes().clone(), sum));
        }
        Ok(headers)
    }

    /// What lies where headers should be.
    pub(super) async fn of_broken(executor: &Executor, storage: &Arc<dyn Storage>) -> Headers {
        let read = async |offset: u64, length: usize| {
            let fits = offset.checked_add(length as u64).is_some_and(|end| end <= storage.length());
            if !fits || !offset.is_multiple_of(SECTOR) {
                return None;
            }
            storage.read_bytes(executor, FileOffset::new(offset), length).await.ok()
        };
        let mut headers = Headers::default();
        let Some(footer) = read(0, FOOTER_BYTES).await else { return headers };
        headers.footer = UncheckedFooter::parse(&footer).ok().map(|footer| footer.bytes().clone());
        let Some(header) = read(FOOTER_BYTES as u64, HEADER_BYTES).await else { return headers };
        headers.header = UncheckedHeader::parse(&header).ok().map(|header| header.bytes().clone());
        let Some(header) = &headers.header else { return headers };
        headers.locators = read_locators(executor, storage, header).await;
        let table_bytes = (u64::from(header.max_bat_size.get()) * 4).next_multiple_of(SECTOR).max(SECTOR);
        let Some(place) = header.table_offset.get().checked_add(table_bytes) else { return headers };
        if let Some(batmap) = read(place, BATMAP_HEADER_BYTES).await {
            let batmap = UncheckedBatmapHeader::parse(&batmap).ok().map(|batmap| batmap.bytes().clone());
            headers.batmap = batmap.filter(|batmap| batmap.cookie == *b"tdbatmap").map(|batmap| (batmap, None));
        }
        headers
    }

    /// As values.
    pub(super) fn values(&self) -> Value {
        json!({
            "footer": self.footer.as_ref().map(footer_values),
            "header": self.header.as_ref().map(header_values),
            "parent_locators": self.locators.iter().map(locator_values).collect::<Value>(),
            "batmap": self.batmap.as_ref().map(|(batmap, sum)| batmap_values(batmap, *sum)),
        })
    }

    /// As text; numbers in hexadecimal if that is wanted.
    pub(super) fn render(&self, hex: bool) -> String {
        let mut text = String::new();
        if let Some(footer) = &self.footer {
            section(&mut text, "VHD Footer Summary:", &footer_lines(footer, hex));
        }
        if let Some(header) = &self.header {
            section(&mut text, "VHD Header Summary:", &header_lines(header, hex));
        }
        if !self.locators.is_empty() {
            title(&mut text, "VHD Parent Locators:");
            for (index, slot, path) in &self.locators {
                put_locator(&mut text, *index, slot, path.as_deref(), hex);
            }
        }
        if let Some((batmap, sum)) = &self.batmap {
            section(&mut text, "VHD Batmap Summary:", &batmap_lines(batmap, *sum, hex));
        }
        text.push('\n');
        text
    }
}

async fn read_locators(
    executor: &Executor,
    storage: &Arc<dyn Storage>,
    header: &HeaderBytes,
) -> Vec<(usize, ParentLocatorBytes, Option<String>)> {
    let mut locators = Vec::new();
    for (index, slot) in header.parent_locators.iter().enumerate() {
        if slot.platform_code.get() != 0 {
            let path = path_in(executor, storage, slot).await.ok();
            locators.push((index, *slot, path));
        }
    }
    locators
}

/// The sum of the batmap as it is stored; none if it cannot be read.
async fn map_sum(executor: &Executor, vhd: &OpenedVhd, start: FileOffset) -> Option<u32> {
    let disk_bytes = vhd.footer.disk_bytes();
    let length = checksummed_batmap_bytes(disk_bytes);
    if start.get().checked_add(length)? > vhd.storage.length() {
        return None;
    }
    let map = vhd.storage.read_bytes(executor, start, usize::try_from(length).ok()?).await.ok()?;
    Some(batmap_checksum(&map, disk_bytes))
}

type Lines = Vec<(&'static str, String)>;

fn title(text: &mut String, title: &str) {
    let _ = writeln!(text, "{title}\n{}", "-".repeat(title.len()));
}

fn section(text: &mut String, name: &str, lines: &Lines) {
    title(text, name);
    for (label, value) in lines {
        let _ = writeln!(text, "{label:<20}: {value}");
    }
    text.push('\n');
}

fn put_locator(text: &mut String, index: usize, slot: &ParentLocatorBytes, path: Option<&str>, hex: bool) {
    let _ = writeln!(text, "{:<20}: {index}", "locator:");
    let mut put = |label: &str, value: &dyn fmt::Display| {
        let _ = writeln!(text, "       {label:<13}: {value}");
    };
    put("code", &code_name(slot.platform_code.get()));
    put("data_space", &number(slot.data_space.get(), hex));
    put("data_length", &number(slot.data_length.get(), hex));
    put("data_offset", &number(slot.data_offset.get(), hex));
    put("decoded name", &path.map_or_else(|| "[failed to read name]".to_owned(), readable));
    text.push('\n');
}

fn footer_values(footer: &FooterBytes) -> Value {
    let geometry = DiskGeometry::from_bits(footer.geometry.get());
    json!({
        "cookie": readable_bytes(&footer.cookie),
        "features": footer.features.get(),
        "file_format_version": version_number(footer.file_format_version.get()),
        "data_offset": footer.data_offset.get(),
        "unix_time": Timestamp::new(footer.timestamp.get()).to_unix(),
        "creator": readable_bytes(&footer.creator_application),
        "creator_version": version_number(footer.creator_version.get()),
        "creator_os": host(footer.creator_host_os.get()),
        "original_bytes": footer.original_size.get(),
        "current_bytes": footer.current_size.get(),
        "geometry": {"cylinders": geometry.cylinders, "heads": geometry.heads, "sectors": geometry.sectors},
        "disk_type": disk_type(footer.disk_type.get()),
        "checksum_valid": footer.checksum.get() == footer.computed_checksum(),
        "uuid": Uuid::from_bytes(footer.uuid).to_string(),
        "saved": footer.saved != 0,
        "hidden": footer.hidden,
    })
}

fn header_values(header: &HeaderBytes) -> Value {
    json!({
        "cookie": readable_bytes(&header.cookie),
        "data_offset": header.data_offset.get(),
        "table_offset": header.table_offset.get(),
        "header_version": version_number(header.header_version.get()),
        "table_entries": header.max_bat_size.get(),
        "block_bytes": header.block_size.get(),
        "parent_name": decode_parent_name(&header.parent_name).ok().map(|name| readable(&name)),
        "parent_uuid": Uuid::from_bytes(header.parent_uuid).to_string(),
        "parent_unix_time": Timestamp::new(header.parent_timestamp.get()).to_unix(),
        "checksum_valid": header.checksum.get() == header.computed_checksum(),
    })
}

fn locator_values((index, slot, path): &(usize, ParentLocatorBytes, Option<String>)) -> Value {
    json!({
        "locator": index,
        "code": code_name(slot.platform_code.get()),
        "data_space": slot.data_space.get(),
        "data_length": slot.data_length.get(),
        "data_offset": slot.data_offset.get(),
        "path": path.as_deref().map(readable),
    })
}

/// The sum of the map is not known of what is no image.
fn batmap_values(batmap: &BatmapHeaderBytes, sum: Option<u32>) -> Value {
    let key = (batmap.key_cookie != 0)
        .then(|| json!({"nonce": hex_digits(&batmap.key_nonce), "hash": hex_digits(&batmap.key_hash)}));
    json!({
        "batmap_offset": batmap.batmap_offset.get(),
        "batmap_sectors": batmap.batmap_size.get(),
        "batmap_version": version_number(batmap.batmap_version.get()),
        "marker": batmap.marker,
        "key": key,
        "checksum_valid": sum.map(|sum| sum == batmap.checksum.get()),
    })
}

fn version_number(bits: u32) -> String {
    format!("{}.{}", bits >> 16, bits & 0xffff)
}

fn footer_lines(footer: &FooterBytes, hex: bool) -> Lines {
    let features = footer.features.get();
    let mut flags = String::new();
    for (bit, name) in [(FEATURE_TEMPORARY, "<TEMP>"), (FEATURE_RESERVED, "<RESV>")] {
        flags.push_str(if features & bit != 0 { name } else { "" });
    }
    let geometry = DiskGeometry::from_bits(footer.geometry.get());
    let shape = format!("Cyl: {}, Hds: {}, Sctrs: {}", geometry.cylinders, geometry.heads, geometry.sectors);
    vec![
        ("Cookie", readable_bytes(&footer.cookie)),
        ("Features", format!("(0x{features:08x}) {flags}")),
        ("File format version", version(footer.file_format_version.get())),
        ("Data offset", number(footer.data_offset.get(), hex)),
        ("Timestamp", date(Timestamp::new(footer.timestamp.get()))),
        ("Creator Application", format!("'{}'", readable_bytes(&footer.creator_application))),
        ("Creator version", version(footer.creator_version.get())),
        ("Creator OS", host(footer.creator_host_os.get()).to_owned()),
        ("Original disk size", size(footer.original_size.get(), hex)),
        ("Current disk size", size(footer.current_size.get(), hex)),
        ("Geometry", shape),
        ("", format!("= {}", size(geometry.bytes(), hex))),
        ("Disk type", disk_type(footer.disk_type.get()).to_owned()),
        ("Checksum", sums(footer.checksum.get(), Some(footer.computed_checksum()))),
        ("UUID", Uuid::from_bytes(footer.uuid).to_string()),
        ("Saved state", (if footer.saved == 0 { "No" } else { "Yes" }).to_owned()),
        ("Hidden", footer.hidden.to_string()),
    ]
}

fn header_lines(header: &HeaderBytes, hex: bool) -> Lines {
    let block = u64::from(header.block_size.get());
    let name = decode_parent_name(&header.parent_name).map_or_else(|_| String::new(), |name| readable(&name));
    vec![
        ("Cookie", readable_bytes(&header.cookie)),
        ("Data offset (unusd)", number(header.data_offset.get(), hex)),
        ("Table offset", number(header.table_offset.get(), hex)),
        ("Header version", format!("0x{:08x}", header.header_version.get())),
        ("Max BAT size", number(header.max_bat_size.get(), hex)),
        ("Block size", format!("{} ({} MB)", number(block, hex), number(block >> 20, hex))),
        ("Parent name", name),
        ("Parent UUID", Uuid::from_bytes(header.parent_uuid).to_string()),
        ("Parent timestamp", date(Timestamp::new(header.parent_timestamp.get()))),
        ("Checksum", sums(header.checksum.get(), Some(header.computed_checksum()))),
    ]
}

fn batmap_lines(batmap: &BatmapHeaderBytes, sum: Option<u32>, hex: bool) -> Lines {
    let mut lines = vec![
        ("Batmap offset", number(batmap.batmap_offset.get(), hex)),
        ("Batmap size (secs)", number(batmap.batmap_size.get(), hex)),
        ("Batmap version", format!("0x{:08x}", batmap.batmap_version.get())),
    ];
    if batmap.key_cookie != 0 {
        lines.push(("Batmap keyhash nonce", hex_digits(&batmap.key_nonce)));
        lines.push(("Batmap keyhash hash", hex_digits(&batmap.key_hash)));
    }
    lines.push(("Checksum", sums(batmap.checksum.get(), sum)));
    lines
}

/// A number as C's `%llu` or `%#llx` has it.
pub(super) fn number(value: impl Into<u64>, hex: bool) -> String {
    match value.into() {
        0 => "0".to_owned(),
        value if hex => format!("{value:#x}"),
        value => value.to_string(),
    }
}

fn hex_digits(bytes: &[u8]) -> String {
    bytes.iter().map(|byte| format!("{byte:02x}")).collect()
}

fn version(bits: u32) -> String {
    format!("Major: {}, Minor: {}", bits >> 16, bits & 0xffff)
}

fn size(bytes: u64, hex: bool) -> String {
    format!("{} MB ({} Bytes)", number(bytes >> 20, hex), number(bytes, hex))
}

fn host(bits: u32) -> &'static str {
    match bits {
        HOST_WINDOWS => "Windows",
        HOST_MACINTOSH => "Macintosh",
        _ => "Unknown!",
    }
}

fn disk_type(bits: u32) -> &'static str {
    usize::try_from(bits).ok().and_then(|index| DISK_TYPES.get(index)).copied().unwrap_or("Unknown type!")
}

fn sums(stored: u32, computed: Option<u32>) -> String {
    match computed {
        Some(computed) => {
            let verdict = if stored == computed { "Good!" } else { "Bad!" };
            format!("{stored:#x}|{computed:#x} ({verdict})")
        }
        None => format!("{stored:#x}"),
    }
}

fn code_name(bits: u32) -> &'static str {
    match (LocatorCode::from_bits(bits), &bits.to_be_bytes()) {
        (Ok(None), _) => "PLAT_CODE_NONE",
        (Ok(Some(LocatorCode::MacX)), _) => "PLAT_CODE_MACX",
        (Ok(Some(LocatorCode::W2ku)), _) => "PLAT_CODE_W2KU",
        (Ok(Some(LocatorCode::W2ru)), _) => "PLAT_CODE_W2RU",
        (Ok(Some(LocatorCode::Obsolete)), b"Wi2r") => "PLAT_CODE_WI2R",
        (Ok(Some(LocatorCode::Obsolete)), b"Wi2k") => "PLAT_CODE_WI2K",
        (Ok(Some(LocatorCode::Obsolete)), _) => "PLAT_CODE_MAC",
        (Err(_), _) => "(unknown)",
    }
}

/// Bytes up to the first zero; what nobody can read is a question mark.
fn readable_bytes(bytes: &[u8]) -> String {
    let text = bytes.iter().take_while(|byte| **byte != 0);
    text.map(|byte| if byte.is_ascii_graphic() || *byte == b' ' { char::from(*byte) } else { '?' }).collect()
}

fn readable(text: &str) -> String {
    text.chars().map(|character| if character.is_control() { '?' } else { character }).collect()
}

/// A moment as `ctime` writes it, in UTC: `Sat Jan  1 00:00:00 2000`.
fn date(moment: Timestamp) -> String {
    const DAYS: [&str; 7] = ["Thu", "Fri", "Sat", "Sun", "Mon", "Tue", "Wed"];
    const MONTHS: [&str; 12] = ["Jan", "Feb", "Mar", "Apr", "May", "Jun", "Jul", "Aug", "Sep", "Oct", "Nov", "Dec"];
    let (days, seconds) = (moment.to_unix() / 86_400, moment.to_unix() % 86_400);
    let day_name = DAYS[usize::try_from(days % 7).expect("less than 7")];
    let (mut year, mut day) = (1970, days);
    while day >= days_of_year(year) {
        day -= days_of_year(year);
        year += 1;
    }
    let mut month = 0;
    while day >= days_of_month(year, month) {
        day -= days_of_month(year, month);
        month += 1;
    }
    let (hour, minute, second) = (seconds / 3600, seconds / 60 % 60, seconds % 60);
    format!("{day_name} {} {:2} {hour:02}:{minute:02}:{second:02} {year}", MONTHS[month], day + 1)
}

fn is_leap(year: u64) -> bool {
    year.is_multiple_of(4) && (!year.is_multiple_of(100) || year.is_multiple_of(400))
}

fn days_of_year(year: u64) -> u64 {
    if is_leap(year) { 366 } else { 365 }
}

fn days_of_month(year: u64, month: usize) -> u64 {
    const DAYS: [u64; 12] = [31, 28, 31, 30, 31, 30, 31, 31, 30, 31, 30, 31];
    DAYS[month] + u64::from(month == 1 && is_leap(year))
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn moments_are_told_as_ctime_does() {
        assert_eq!(date(Timestamp::new(0)), "Sat Jan  1 00:00:00 2000");
        assert_eq!(date(Timestamp::from_unix(951_827_696)), "Tue Feb 29 12:34:56 2000");
        assert_eq!(date(Timestamp::from_unix(1_735_689_599)), "Tue Dec 31 23:59:59 2024");
        assert_eq!(date(Timestamp::new(u32::MAX)), "Tue Feb  7 06:28:15 2136");
    }

    #[test]
    fn numbers_are_told_as_printf_does() {
        assert_eq!([number(0_u32, true), number(10_u32, true), number(10_u32, false)], ["0", "0xa", "10"]);
    }

    #[test]
    fn what_nobody_can_read_does_not_come_out() {
        assert_eq!(readable_bytes(b"a\x80\x1b c\0d"), "a?? c");
        assert_eq!(readable("a\u{9b}\n\u{e4}"), "a??\u{e4}");
        assert_eq!((disk_type(4), disk_type(7), host(0)), ("Differencing hard disk", "Unknown type!", "Unknown!"));
    }
}
