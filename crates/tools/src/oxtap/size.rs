//! Sizes, counts and durations as people write them.

use std::time::Duration;

use block_core::{Error, ErrorKind, Result};

/// Bytes from `10G`, `512M`, `64KiB`, `4096`: powers of 1024.
pub(super) fn parse(text: &str) -> Result<u64> {
    let digits = text.trim_end_matches(|letter: char| letter.is_ascii_alphabetic());
    let unit: u64 = match text[digits.len()..].to_ascii_uppercase().as_str() {
        "" | "B" => 1,
        "K" | "KB" | "KIB" => 1 << 10,
        "M" | "MB" | "MIB" => 1 << 20,
        "G" | "GB" | "GIB" => 1 << 30,
        "T" | "TB" | "TIB" => 1 << 40,
        _ => return Err(not_a_size(text)),
    };
    let number: u64 = digits.parse().map_err(|_| not_a_size(text))?;
    number.checked_mul(unit).ok_or_else(|| not_a_size(text))
}

fn not_a_size(text: &str) -> Error {
    Error::new(ErrorKind::Invalid, format!("{text:?} is not a size; try 10G, 512M or 4096"))
}

/// Bytes in the largest unit that leaves at least one digit before the point: `1.5 GiB`.
pub(super) fn describe(bytes: u64) -> String {
    const UNITS: [&str; 5] = ["B", "KiB", "MiB", "GiB", "TiB"];
    let mut unit = 0;
    while unit + 1 < UNITS.len() && bytes >> (10 * (unit + 1)) > 0 {
        unit += 1;
    }
    let tenths = u128::from(bytes) * 10 / (1_u128 << (10 * unit));
    if tenths.is_multiple_of(10) {
        format!("{} {}", tenths / 10, UNITS[unit])
    } else {
        format!("{}.{} {}", tenths / 10, tenths % 10, UNITS[unit])
    }
}

/// A number from `500`, `20k`, `1M`: powers of 1000, since it counts things and not bytes.
pub(super) fn parse_count(text: &str) -> Result<u64> {
    let wrong = || Error::new(ErrorKind::Invalid, format!("{text:?} is not a number; try 500 or 20k"));
    let digits = text.trim_end_matches(|letter: char| letter.is_ascii_alphabetic());
    let unit: u64 = match &text[digits.len()..] {
        "" => 1,
        "k" | "K" => 1000,
        "m" | "M" => 1_000_000,
        _ => return Err(wrong()),
    };
    let number: u64 = digits.parse().map_err(|_| wrong())?;
    number.checked_mul(unit).ok_or_else(wrong)
}

/// Seconds, perhaps with a fraction: `5`, `0.25`.
pub(super) fn parse_seconds(text: &str) -> Result<Duration> {
    let seconds: Option<f64> = text.strip_suffix('s').unwrap_or(text).parse().ok();
    let duration = seconds.and_then(|seconds| Duration::try_from_secs_f64(seconds).ok());
    duration.ok_or_else(|| Error::new(ErrorKind::Invalid, format!("{text:?} is not a time in seconds; try 5 or 0.25")))
}

/// Microseconds, with three digits that matter: `870 us`, `1.87 ms`, `12.3 s`.
pub(super) fn describe_microseconds(microseconds: u64) -> String {
    if microseconds < 1000 {
        return format!("{microseconds} us");
    }
    let value = microseconds as f64;
    let (value, unit) = if microseconds < 1_000_000 { (value / 1e3, "ms") } else { (value / 1e6, "s") };
    let digits = if value < 10.0 { 2 } else { usize::from(value < 100.0) };
    format!("{value:.digits$} {unit}")
}

/// `1 request`, `2 requests`.
pub(super) fn count(number: u64, noun: &str) -> String {
    format!("{number} {noun}{}", if number == 1 { "" } else { "s" })
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn counts_are_powers_of_1000() {
        assert_eq!(["500", "20k", "3M"].map(|text| parse_count(text).unwrap()), [500, 20_000, 3_000_000]);
        for wrong in ["", "k", "1.5k", "-1", "10G", "99999999999999M"] {
            assert!(parse_count(wrong).is_err(), "{wrong:?}");
        }
    }

    #[test]
    fn times_are_seconds() {
        assert_eq!(parse_seconds("0.25").unwrap(), Duration::from_millis(250));
        assert_eq!(parse_seconds("5s").unwrap(), Duration::from_secs(5));
        for wrong in ["", "-1", "NaN", "inf", "5m", "1e300"] {
            assert!(parse_seconds(wrong).is_err(), "{wrong:?}");
        }
    }

    #[test]
    fn durations_have_three_digits() {
        let told = [0, 870, 1870, 18_700, 187_000, 1_870_000, 120_000_000].map(describe_microseconds);
        assert_eq!(told, ["0 us", "870 us", "1.87 ms", "18.7 ms", "187 ms", "1.87 s", "120 s"]);
    }

    #[test]
    fn sizes_are_powers_of_1024() {
        assert_eq!(parse("10G").unwrap(), 10 << 30);
        assert_eq!(parse("64kib").unwrap(), 64 << 10);
        assert_eq!(parse("4096").unwrap(), 4096);
        for wrong in ["", "G", "1.5G", "-1", "10X", "99999999999T"] {
            assert!(parse(wrong).is_err(), "{wrong:?}");
        }
    }

    #[test]
    fn sizes_are_told_with_one_digit_behind_the_point() {
        let told = [0, 512, 1536, 1 << 20, (3 << 30) + (1 << 29), 5 << 40].map(describe);
        assert_eq!(told, ["0 B", "512 B", "1.5 KiB", "1 MiB", "3.5 GiB", "5 TiB"]);
    }
}
