//! Sizes as people write them.

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

#[cfg(test)]
mod tests {
    use super::*;

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
