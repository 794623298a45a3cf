//! How long and how random a test works: chosen outside, by the environment.

use std::env;
use std::hash::{BuildHasher, RandomState};

/// Whether the long forms of the tests were asked for (`cargo xtask test --long`, or `OXTAP_LONG=1`).
pub fn long() -> bool {
    env::var_os("OXTAP_LONG").is_some_and(|value| !value.is_empty() && value != "0")
}

/// How often to repeat: `usual` times, or `thorough` times in a long run.
pub fn cycles(usual: u64, thorough: u64) -> u64 {
    if long() { thorough } else { usual }
}

/// The seed of a random test: `OXTAP_SEED` (decimal or `0x` hexadecimal), else a fresh one. `OXTAP_FRESH_SEED` says
/// which is fresh, for runs that can be repeated as a whole.
///
/// It is printed, so that the output of a failed test says how to repeat it.
pub fn seed() -> u64 {
    let seed = given("OXTAP_SEED").or_else(|| given("OXTAP_FRESH_SEED"));
    let seed = seed.unwrap_or_else(|| RandomState::new().hash_one("oxtap"));
    println!("seed {seed:#x} (repeat with OXTAP_SEED={seed:#x})");
    seed
}

fn given(variable: &str) -> Option<u64> {
    let text = env::var(variable).ok()?;
    Some(parse_seed(&text).unwrap_or_else(|| panic!("{variable}={text} is not a 64-bit number")))
}

fn parse_seed(text: &str) -> Option<u64> {
    match text.strip_prefix("0x") {
        Some(digits) => u64::from_str_radix(digits, 16).ok(),
        None => text.parse().ok(),
    }
}

#[cfg(test)]
mod tests {
    use super::parse_seed;

    #[test]
    fn a_seed_is_read_as_it_was_printed() {
        assert_eq!(parse_seed(&format!("{:#x}", u64::MAX)), Some(u64::MAX));
        assert_eq!(parse_seed("17"), Some(17));
        assert_eq!(parse_seed("seventeen"), None);
    }
}
