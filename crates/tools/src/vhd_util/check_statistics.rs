//! How much of a chain is written, and how much of it only once: what `check -s` says.

use std::path::{Path, PathBuf};

use block_core::{GuestOffset, GuestRange, Result, ResultExt, SECTOR};
use image_format::{Bitmap, Format, Lookup, Mapping, vhd::VhdImage};
use storage_io::{Access, OpenOptions};

use super::Session;

/// Sectors of one image.
#[derive(Clone, Copy, Debug, Default)]
struct Count {
    allocated: u64,
    written: u64,
    not_in_parent: u64,
    not_in_ancestors: u64,
}

/// Says for the images of a chain, given leaf first, how much is written in each; the root comes first.
pub(super) async fn say(session: &Session, chain: &[PathBuf]) -> Result<()> {
    let mut images = Vec::new();
    for path in chain.iter().rev() {
        let storage = session.files.open(&session.executor, path, OpenOptions::read()).await?;
        let path = session.files.canonical(&session.executor, path).await?;
        images.push(
            VhdImage::open_as_stored(&session.executor, storage, &path, Access::Read).await.context(path.display())?,
        );
    }
    let counts = count(session, &images).await?;
    for (index, (path, count)) in chain.iter().rev().zip(counts).enumerate() {
        let mut line = format!("{}: secs allocated: {:#x}", base(path), count.allocated);
        line += &part("secs written", count.written, count.allocated);
        if index > 0 {
            line += &part("secs not in parent", count.not_in_parent, count.written);
            line += &part("secs not in ancestors", count.not_in_ancestors, count.written);
        }
        session.say(line);
    }
    Ok(())
}

fn base(path: &Path) -> String {
    path.file_name().unwrap_or(path.as_os_str()).to_string_lossy().into_owned()
}

fn part(label: &str, sectors: u64, whole: u64) -> String {
    // In hundredths of a percent.
    let share = (sectors * 10_000).checked_div(whole).unwrap_or(0);
    format!(" {label}: {sectors:#x} ({}.{:02}%)", share / 100, share % 100)
}

/// Goes through the disk once, block by block, in all images at the same time; root first.
async fn count(session: &Session, images: &[VhdImage]) -> Result<Vec<Count>> {
    let mut counts = vec![Count::default(); images.len()];
    let step = images.iter().map(Format::granule).max().unwrap_or(SECTOR);
    let end = images.iter().map(Format::size).max().unwrap_or(0);
    for start in (0..end).step_by(usize::try_from(step).expect("a block has at most 2 MiB")) {
        let mut parent: Option<Bitmap> = None;
        let mut ancestors = Bitmap::new(usize::try_from(step / SECTOR).expect("a block has at most 2 MiB"));
        for (image, count) in images.iter().zip(&mut counts) {
            let present = present(session, image, GuestRange::new(GuestOffset::new(start), step)).await?;
            count.written += present.count() as u64;
            count.not_in_parent += parent.map_or(0, |parent| missing(&present, &parent));
            count.not_in_ancestors += missing(&present, &ancestors);
            ancestors.merge(&present);
            parent = Some(present);
        }
    }
    for (image, count) in images.iter().zip(&mut counts) {
        count.allocated = image.allocated_blocks().unwrap_or(0) as u64 * image.granule() / SECTOR;
    }
    Ok(counts)
}

/// Which sectors of a range an image has.
async fn present(session: &Session, image: &VhdImage, range: GuestRange) -> Result<Bitmap> {
    let index = |bytes: u64| usize::try_from(bytes / SECTOR).expect("a block has at most 2 MiB");
    let mut present = Bitmap::new(index(range.length()));
    let mut rest = range.intersection(GuestRange::new(GuestOffset::new(0), image.size())).unwrap_or_default();
    while !rest.is_empty() {
        match image.map(rest) {
            Lookup::Miss(miss) => image.load(&session.executor, miss).await?,
            Lookup::Found(extent) => {
                if matches!(extent.mapping, Mapping::Data { .. }) {
                    let first = extent.range.start() - range.start();
                    present.set_range(index(first)..index(first + extent.range.length()));
                }
                rest = rest.split_at(extent.range.length()).1;
            }
        }
    }
    Ok(present)
}

/// How many of `ours` are not in `theirs`.
fn missing(ours: &Bitmap, theirs: &Bitmap) -> u64 {
    let mut both = theirs.clone();
    both.merge(ours);
    (both.count() - theirs.count()) as u64
}
