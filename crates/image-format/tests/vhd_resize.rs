//! A resize that moves blocks: other tools read the result, and whatever a crash leaves of it, its journal brings the
//! image back, or the resize was done. The disk's bytes are the same at every instant.

#![allow(clippy::unwrap_used, reason = "a test")]

mod common;

use std::collections::BTreeMap;
use std::sync::Arc;

use block_core::{ErrorKind, Result};
use common::{Disk, MIB, Random, SPB, Seen, child_options, create, options, overwrite, read, simulated};
use image_format::Format;
use image_format::vhd::{CreateOptions, FoundJournal, Journal, Resize, ResizeStep, revert};
use storage_io::{Access, CrashStorage, Executor, MemoryStorage, Storage, StorageKind};

/// An image that is to become larger, and by how much.
struct Story {
    name: &'static str,
    options: CreateOptions,
    new_bytes: u64,
    is_device: bool,
    /// Blocks that have to move.
    moves: usize,
}

fn stories() -> Vec<Story> {
    let story = |name, options, new_mib: u64, is_device, moves| Story {
        name,
        options,
        new_bytes: new_mib * MIB,
        is_device,
        moves,
    };
    vec![
        story("within the padding of the tables", options(64 * MIB), 200, false, 0),
        story("a table that reaches the first block", options(64 * MIB), 600, false, 1),
        story("a child whose paths move", child_options(64 * MIB), 10 << 10, false, 1),
        story("a child on a device", child_options(64 * MIB), 10 << 10, true, 1),
        story("two blocks in the way", options(64 * MIB), 1100 << 10, false, 2),
    ]
}

type Contents = BTreeMap<u64, Seen>;

/// The image with some blocks, whole ones and others, and what its disk holds.
fn image_of(story: &Story) -> (Vec<u8>, Contents) {
    let executor = simulated(7);
    let memory = MemoryStorage::new(if story.is_device { 16 << 20 } else { 0 });
    let kind = if story.is_device { StorageKind::BlockDevice } else { StorageKind::File };
    let memory = memory.with_limits(|limits| limits.kind = kind);
    let storage = create(Arc::new(memory.clone()), &story.options);
    let disk = Disk::open(&executor, storage).unwrap();
    let contents = executor.block_on(async {
        // The first block of the file is not the first of the disk, and one is whole.
        disk.write(3 * SPB + 5, 3, 1).await.unwrap();
        disk.write(SPB, SPB, 2).await.unwrap();
        disk.write(0, 1, 3).await.unwrap();
        disk.write(20 * SPB + SPB - 1, 1, 4).await.unwrap();
        disk.close().await.unwrap();
        some_contents(&disk).await
    });
    drop(disk);
    (memory.to_vec(), contents)
}

/// All present sectors of the first blocks; of the whole block only some.
async fn some_contents(disk: &Disk) -> Contents {
    let mut contents = BTreeMap::new();
    let mut sector = 0;
    while sector < 32 * SPB {
        let (mapping, count) = disk.map(sector, 32 * SPB - sector).await.unwrap();
        if matches!(mapping, image_format::Mapping::Data { .. }) {
            let step = if count == SPB { 511 } else { 1 };
            for sector in (sector..sector + count).step_by(step) {
                contents.insert(sector, disk.see(sector).await.unwrap());
            }
        }
        sector += count;
    }
    contents
}

async fn resize_with(
    executor: &Executor,
    image: &Arc<dyn Storage>,
    journal: &Arc<dyn Storage>,
    bytes: u64,
    reached: &mut dyn FnMut(ResizeStep) -> Result<()>,
) -> Result<()> {
    let Some(resize) = Resize::plan(executor, image, bytes).await? else { return Ok(()) };
    resize.write_journal(executor, journal).await?;
    let moved = std::cell::Cell::new(0);
    let result = resize.carry_out(executor, journal, reached, &|bytes| moved.set(moved.get() + bytes)).await;
    assert!(result.is_err() || moved.get() == resize.bytes_to_move(), "each block that has moved is told");
    result
}

async fn resize(executor: &Executor, image: &Arc<dyn Storage>, journal: &Arc<dyn Storage>, bytes: u64) -> Result<()> {
    resize_with(executor, image, journal, bytes, &mut |_| Ok(())).await
}

/// The disk of an image that opens, and whose footers and length are in order.
fn opened(image: &Arc<dyn Storage>, is_device: bool, what: &str) -> (u64, Contents) {
    let executor = simulated(1);
    let disk = Disk::open(&executor, image.clone()).unwrap_or_else(|error| panic!("{what}: opens: {error}"));
    let length = image.length();
    assert_eq!(read(image, 0, 512), read(image, length - 512, 512), "{what}: its footers are the same");
    assert!(is_device || disk.image.physical_bytes() == length, "{what}: it ends behind its last block");
    assert!(!disk.image.has_lost_batmap(), "{what}: its batmap is believed");
    (disk.image.size(), executor.block_on(some_contents(&disk)))
}

/// What a user does after a crash: undo the journal, if there is one.
fn recover(image: &Arc<dyn Storage>, journal: &Arc<dyn Storage>, what: &str) {
    let executor = simulated(1);
    match executor.block_on(Journal::read(&executor, journal)) {
        Ok(FoundJournal::Whole(journal)) => {
            let reverted = executor.block_on(revert(&executor, image, &journal));
            reverted.unwrap_or_else(|error| panic!("{what}: revert: {error}"));
        }
        // It was never whole, so nothing was changed.
        Ok(FoundJournal::Empty) | Err(_) => {}
    }
}

#[test]
fn the_disk_is_the_same_and_longer() {
    for story in stories() {
        let (bytes, contents) = image_of(&story);
        let image = MemoryStorage::from_bytes(bytes.clone());
        let kind = if story.is_device { StorageKind::BlockDevice } else { StorageKind::File };
        let image: Arc<dyn Storage> = Arc::new(image.with_limits(|limits| limits.kind = kind));
        let journal: Arc<dyn Storage> = Arc::new(MemoryStorage::new(0));
        let executor = simulated(3);
        executor.block_on(resize(&executor, &image, &journal, story.new_bytes)).unwrap();
        assert_eq!(opened(&image, story.is_device, story.name), (story.new_bytes, contents.clone()), "{}", story.name);
        let after = read(&image, 0, usize::try_from(image.length()).unwrap());
        let moved = |table: &[u8], block: usize| table[1536 + block * 4..1540 + block * 4].to_vec();
        let moves = (0..32).filter(|&block| moved(&after, block) != moved(&bytes, block)).count();
        assert_eq!(moves, story.moves, "{}", story.name);
        // The new room can be written, to the last sector.
        let disk = Disk::open(&executor, image.clone()).unwrap();
        if !story.is_device {
            executor.block_on(disk.write(story.new_bytes / 512 - 1, 1, 9)).unwrap();
            let last = executor.block_on(disk.see(story.new_bytes / 512 - 1)).unwrap();
            assert_eq!(last, Seen::Tag(9));
        }
        assert_eq!(executor.block_on(some_contents(&disk)), contents, "{}", story.name);
    }
}

/// Crashes of all kinds at many instants of a resize. In every state that is left nobody opens the image by mistake, its
/// journal brings it back, and the resize can be done again.
fn crashes(story: &Story, seed: u64, cuts: u64) {
    let (bytes, contents) = image_of(story);
    let kind = if story.is_device { StorageKind::BlockDevice } else { StorageKind::File };
    let image = CrashStorage::from_bytes(&bytes).with_limits(|limits| limits.kind = kind);
    let journal = CrashStorage::new(0);
    let executor = simulated(seed);
    let (to_resize, to_journal): (Arc<dyn Storage>, Arc<dyn Storage>) =
        (Arc::new(image.clone()), Arc::new(journal.clone()));
    let (ours, new_bytes) = (executor.clone(), story.new_bytes);
    let done = executor.spawn(async move { resize(&ours, &to_resize, &to_journal, new_bytes).await.unwrap() });
    let mut random = Random(seed);
    let mut seen = (false, false);
    let mut step = 0;
    let mut last = None;
    loop {
        // Only what has changed since can leave something new.
        let now = [&image, &journal].map(|storage| (storage.crash_point().steps(), storage.length()));
        let is_news = last.replace(now) != Some(now);
        for cut in if is_news { 0..cuts + 1 } else { 0..0 } {
            let (image, journal) = (image.crash_point(), journal.crash_point());
            let (image_seed, journal_seed) = (random.next(), random.next());
            let what = format!("{} seed {seed} step {step} cut {cut}", story.name);
            let (image, journal) = match cut {
                0 => (image.killed(image_seed), journal.killed(journal_seed)),
                _ => (image.power_cut(image_seed), journal.power_cut(journal_seed)),
            };
            let size = check_survivor(story, &contents, &image, &journal, seed ^ step, &what);
            seen = (seen.0 || size < new_bytes, seen.1 || size == new_bytes);
        }
        step += 1;
        if !executor.step() {
            break;
        }
    }
    executor.block_on(done);
    assert_eq!(seen, (true, true), "{}: crashes before and after the resize was done", story.name);
}

/// The size that the disk has after its recovery.
fn check_survivor(
    story: &Story,
    contents: &Contents,
    image: &CrashStorage,
    journal: &CrashStorage,
    seed: u64,
    what: &str,
) -> u64 {
    let executor = simulated(1);
    let (storage, undo): (Arc<dyn Storage>, Arc<dyn Storage>) = (Arc::new(image.clone()), Arc::new(journal.clone()));
    // Whoever does not know of the journal finds the right bytes, or nothing.
    if let Ok(disk) = Disk::open_for(&executor, storage.clone(), Access::Read) {
        assert_eq!(executor.block_on(some_contents(&disk)), *contents, "{what}: before it is recovered");
    }
    // The recovery crashes too, now and then.
    if seed.is_multiple_of(5) {
        crash_recovery(image, &undo, seed);
        let again: Arc<dyn Storage> = Arc::new(image.clone());
        recover(&again, &undo, what);
    }
    recover(&storage, &undo, what);
    let (size, now) = opened(&storage, story.is_device, what);
    assert!(size == story.options.disk_bytes || size == story.new_bytes, "{what}: {size} bytes");
    assert_eq!(now, *contents, "{what}");
    if !seed.is_multiple_of(4) {
        return size;
    }
    let fresh: Arc<dyn Storage> = Arc::new(MemoryStorage::new(0));
    executor.block_on(resize(&executor, &storage, &fresh, story.new_bytes)).unwrap();
    assert_eq!(opened(&storage, story.is_device, what), (story.new_bytes, contents.clone()), "{what}: again");
    size
}

/// Cuts the power somewhere in a recovery; the image is what that leaves.
fn crash_recovery(image: &CrashStorage, journal: &Arc<dyn Storage>, seed: u64) {
    let executor = simulated(seed);
    let Ok(FoundJournal::Whole(found)) = executor.block_on(Journal::read(&executor, journal)) else { return };
    let copy = image.clone();
    let (storage, ours): (Arc<dyn Storage>, _) = (Arc::new(copy), executor.clone());
    let task = executor.spawn(async move {
        // Crashed on purpose: whether it ends does not matter.
        let _ = revert(&ours, &storage, &found).await;
    });
    for _ in 0..seed % 60 {
        if !executor.step() {
            break;
        }
    }
    drop(task);
    executor.end_tasks();
}

#[test]
fn every_crash_of_a_resize_is_recovered_from() {
    for (index, story) in stories().iter().enumerate() {
        let rounds = test_support::cycles(1, 40);
        for round in 0..rounds {
            crashes(story, test_support::seed() ^ (index as u64) ^ (round << 8), 1);
        }
    }
}

/// While a resize moves blocks, the end of the file is what a guest has written there.
#[test]
fn a_guest_that_wrote_a_footer_is_not_believed_while_its_image_is_resized() {
    let story = &stories()[1];
    let (bytes, _) = image_of(story);
    let memory = MemoryStorage::from_bytes(bytes);
    let image: Arc<dyn Storage> = Arc::new(memory.clone());
    let journal: Arc<dyn Storage> = Arc::new(MemoryStorage::new(0));
    let executor = simulated(3);
    let mut forged = read(&image, 0, 512);
    forged[68..84].fill(0x66);
    forged[64..68].fill(0);
    let sum = !forged.iter().map(|&byte| u32::from(byte)).sum::<u32>();
    forged[64..68].copy_from_slice(&sum.to_be_bytes());
    // The last sector of the block that will be the last of the file.
    overwrite(&image, 3584 + 512 + 2 * MIB - 512, &forged);
    let stop = &mut |step| match step {
        ResizeStep::DataMoved => Err(block_core::Error::new(ErrorKind::Cancelled, "stopped")),
        _ => Ok(()),
    };
    executor.block_on(resize_with(&executor, &image, &journal, story.new_bytes, stop)).unwrap_err();
    let end = read(&image, image.length() - 512, 512);
    assert!(end == forged, "the guest's footer is where a footer is looked for");
    let error = Disk::open_for(&executor, image.clone(), Access::Read).err().unwrap();
    assert!(error.to_string().contains("disabled by an unfinished resize"), "{error}");
    recover(&image, &journal, "forged");
    opened(&image, false, "forged");
}

#[test]
fn a_resize_that_cannot_be_done_changes_nothing() {
    let executor = simulated(3);
    let plan = |image: &Arc<dyn Storage>, bytes: u64| {
        executor.block_on(Resize::plan(&executor, image, bytes)).map(|plan| plan.is_some())
    };
    let story = &stories()[3];
    let (bytes, _) = image_of(story);
    // As long as it must be for its blocks, and no longer.
    let last = [3, 1, 0, 20].map(|block: usize| u32::from_be_bytes(bytes[1536 + block * 4..][..4].try_into().unwrap()));
    let end = usize::try_from(*last.iter().max().unwrap()).unwrap() * 512 + 512 + (2 << 20);
    let mut short = bytes[..end].to_vec();
    short.extend(&bytes[..512]);
    let memory = MemoryStorage::from_bytes(short.clone()).with_limits(|limits| limits.kind = StorageKind::BlockDevice);
    let image: Arc<dyn Storage> = Arc::new(memory.clone());
    assert_eq!(plan(&image, story.new_bytes).unwrap_err().kind(), ErrorKind::NoSpace);
    assert_eq!(plan(&image, 32 * MIB).unwrap_err().kind(), ErrorKind::Unsupported);
    assert!(!plan(&image, 64 * MIB).unwrap());
    assert!(memory.to_vec() == short);
    let fixed = create(Arc::new(MemoryStorage::new(0)), &CreateOptions { fixed: true, ..options(2 * MIB) });
    assert_eq!(plan(&fixed, 4 * MIB).unwrap_err().kind(), ErrorKind::Invalid);
}

#[test]
fn a_journal_of_another_image_undoes_nothing() {
    let executor = simulated(3);
    let story = &stories()[1];
    let (bytes, _) = image_of(story);
    let image: Arc<dyn Storage> = Arc::new(MemoryStorage::from_bytes(bytes));
    let journal: Arc<dyn Storage> = Arc::new(MemoryStorage::new(0));
    let stop = &mut |_| Err(block_core::Error::new(ErrorKind::Cancelled, "stopped"));
    executor.block_on(resize_with(&executor, &image, &journal, story.new_bytes, stop)).unwrap_err();
    let found = executor.block_on(Journal::read(&executor, &journal)).unwrap();
    let FoundJournal::Whole(found) = found else { panic!("a whole journal") };
    let other = CreateOptions { uuid: uuid::Uuid::from_u128(77), ..options(64 * MIB) };
    let memory = MemoryStorage::new(0);
    let other = create(Arc::new(memory.clone()), &other);
    let before = memory.to_vec();
    let error = executor.block_on(revert(&executor, &other, &found)).unwrap_err();
    assert_eq!(error.kind(), ErrorKind::Mismatch);
    assert_eq!(memory.to_vec(), before);
}
