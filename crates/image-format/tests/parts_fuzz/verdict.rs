//! A file that may be anything, checked: it has a verdict, nothing is written, and what is said is text.

use std::sync::Arc;

use image_format::vhd::{CheckOptions, Timestamp, check};
use storage_io::{CrashStorage, Storage};
use test_support::Choices;

use crate::common::simulated;

const FILE_BYTES_MAX: usize = 8192;

/// The first bytes say how the others become a file, and what is looked at.
pub(crate) fn check_anything(bytes: &[u8]) {
    let mut choices = Choices::new(bytes);
    let (how, sectors) = (choices.byte(), usize::from(choices.byte()));
    let head = choices.rest();
    let mut file = head[..head.len().min(FILE_BYTES_MAX)].to_vec();
    file.resize(file.len().max(sectors * 512), 0);
    if how & 1 != 0 {
        fix_checksums(&mut file);
    }
    if how & 2 != 0 && file.len() >= 1024 {
        let end = file.len() - 512;
        file.copy_within(..512, end);
    }
    let executor = simulated(1);
    let found = CrashStorage::from_bytes(&file);
    let storage: Arc<dyn Storage> = Arc::new(found.clone());
    let options = CheckOptions {
        lost_footer: how & 4 != 0,
        now: (how & 8 != 0).then(|| Timestamp::new(1 << 30)),
        no_table: how & 16 != 0,
        bitmaps: how & 32 != 0,
    };
    if let Ok(verdict) = executor.block_on(check(&executor, &storage, options, &|_, _| ())) {
        let said = verdict.problem.iter().chain(&verdict.remarks);
        assert!(verdict.problem.is_some() || verdict.footer.is_some(), "what is valid has a footer");
        said.for_each(|words| assert!(words.chars().all(|letter| !letter.is_control()), "{words:?}"));
    }
    assert!(found.length() == file.len() as u64 && found.to_vec() == file, "what is checked is not changed");
}

fn fix_checksums(image: &mut [u8]) {
    for (range, field) in [(0..512, 64), (512..1536, 36)] {
        let Some(bytes) = image.get_mut(range) else { continue };
        bytes[field..field + 4].fill(0);
        let sum: u32 = bytes.iter().map(|&byte| u32::from(byte)).sum();
        bytes[field..field + 4].copy_from_slice(&(!sum).to_be_bytes());
    }
}
