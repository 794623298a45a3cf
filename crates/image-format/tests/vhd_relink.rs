//! A child that gets another parent: whatever a crash leaves, its readers find the old parent or the new one, never
//! nothing and never another's bytes.

#![allow(clippy::unwrap_used, reason = "a test")]

mod common;

use std::path::{Path, PathBuf};
use std::sync::Arc;

use block_core::Result;
use common::{MIB, create, options, read, simulated};
use image_format::vhd::{
    CreateOptions, ParentLink, Relink, Timestamp, UncheckedFooter, UncheckedHeader, VhdImage, decode_parent_name,
};
use image_format::{Format, ImageKind};
use storage_io::{Access, CrashStorage, Executor, MemoryStorage, Storage};
use uuid::Uuid;

/// What lies at a path of the world: a raw image, or a VHD.
type World = Vec<(String, Option<Uuid>)>;

fn link(path: &str, uuid: Option<u128>) -> ParentLink {
    ParentLink {
        uuid: uuid.map(Uuid::from_u128),
        timestamp: Timestamp::new(90),
        name: Path::new(path).file_name().unwrap().to_str().unwrap().to_owned(),
        path: path.to_owned(),
    }
}

fn child_of(parent: &ParentLink) -> CreateOptions {
    CreateOptions { parent: Some(parent.clone()), ..options(64 * MIB) }
}

async fn relink(executor: &Executor, storage: &Arc<dyn Storage>, parent: &ParentLink) -> Result<()> {
    let footer = UncheckedFooter::parse(&storage_bytes(storage, 0, 512))?.check()?;
    let header = UncheckedHeader::parse(&storage_bytes(storage, 512, 1024))?.check()?;
    Relink::plan(storage, &footer, &header, parent)?.carry_out(executor, &mut || Ok(())).await
}

fn storage_bytes(storage: &Arc<dyn Storage>, offset: u64, length: usize) -> Vec<u8> {
    read(storage, offset, length)
}

/// The path of the image that a reader takes for the parent. One that has no identity to go by takes the first that there is.
fn parent_found(storage: &Arc<dyn Storage>, world: &World, what: &str) -> PathBuf {
    let executor = simulated(1);
    let opened = executor.block_on(VhdImage::open(&executor, storage.clone(), Path::new("/d/child.vhd"), Access::Read));
    let reference = opened.unwrap_or_else(|error| panic!("{what}: opens: {error}")).parent().unwrap();
    let at = |path: &Path| world.iter().find(|(there, _)| Path::new("/d").join(there) == *path);
    let found = reference.candidates.iter().find(|path| match (at(path), reference.kind) {
        (None, _) => false,
        (Some((_, uuid)), ImageKind::Vhd) => uuid.is_some() && *uuid == reference.uuid,
        (Some(_), ImageKind::Raw) => true,
    });
    let found = found.unwrap_or_else(|| panic!("{what}: no parent among {:?}", reference.candidates));
    let (_, uuid) = at(found).unwrap();
    assert_eq!(*uuid, reference.uuid, "{what}: {} is of another kind", found.display());
    found.clone()
}

/// Pairs of parents: of the same length, longer, shorter, with and without an identity.
fn stories() -> Vec<(&'static str, ParentLink, ParentLink)> {
    let long = format!("{}/{}.vhd", "d\u{e9}j\u{e0}".repeat(6), "x".repeat(90));
    vec![
        ("another VHD", link("a.vhd", Some(1)), link("b.vhd", Some(2))),
        ("a longer path", link("a.vhd", Some(1)), link("elsewhere/bb.vhd", Some(2))),
        ("a much longer path", link("a.vhd", Some(1)), link(&long, Some(2))),
        ("a shorter path", link(&long, Some(1)), link("b", Some(2))),
        ("a raw image", link("a.vhd", Some(1)), link("somewhere/raw", None)),
        ("a VHD for a raw image", link("raw", None), link("b.vhd", Some(2))),
        ("another raw image", link("raw", None), link("the/other", None)),
    ]
}

#[test]
fn every_crash_leaves_one_parent() {
    for (name, old, new) in stories() {
        let world: World = vec![(old.path.clone(), old.uuid), (new.path.clone(), new.uuid)];
        let memory = MemoryStorage::new(0);
        create(Arc::new(memory.clone()), &child_of(&old));
        let (mut states, mut seen) = (0, [false; 2]);
        for seed in 0..test_support::cycles(3, 200) {
            let crashing = CrashStorage::from_bytes(&memory.to_vec());
            let executor = simulated(seed);
            let (storage, ours, to): (Arc<dyn Storage>, _, _) =
                (Arc::new(crashing.clone()), executor.clone(), new.clone());
            let done = executor.spawn(async move { relink(&ours, &storage, &to).await.unwrap() });
            loop {
                let point = crashing.crash_point();
                let cuts = point.every_power_cut(64).expect("a few sectors at a time");
                for (index, survivor) in cuts.chain([point.killed(seed)]).enumerate() {
                    let what = format!("{name} seed {seed} state {index}");
                    let survivor: Arc<dyn Storage> = Arc::new(survivor);
                    let found = parent_found(&survivor, &world, &what);
                    seen[usize::from(found == Path::new("/d").join(&new.path))] = true;
                    states += 1;
                    // And it can be done again.
                    executor_run(&survivor, &new);
                    assert_eq!(parent_found(&survivor, &world, &what), Path::new("/d").join(&new.path), "{what}");
                }
                if !executor.step() {
                    break;
                }
            }
            executor.block_on(done);
        }
        assert!(states > 20 && seen == [true; 2], "{name}: {states} states, {seen:?}");
    }
}

fn executor_run(storage: &Arc<dyn Storage>, to: &ParentLink) {
    let executor = simulated(1);
    executor.block_on(relink(&executor, storage, to)).unwrap();
}

#[test]
fn all_places_name_the_new_parent_in_the_end() {
    for (name, old, new) in stories() {
        let memory = MemoryStorage::new(0);
        let storage = create(Arc::new(memory.clone()), &child_of(&old));
        let before = memory.to_vec();
        executor_run(&storage, &new);
        let header = UncheckedHeader::parse(&read(&storage, 512, 1024)).unwrap();
        assert_eq!(header.first_problem(before.len() as u64), None, "{name}");
        let header = header.check().unwrap();
        assert_eq!(header.parent_uuid(), new.uuid, "{name}");
        assert_eq!(decode_parent_name(&header.bytes().parent_name).unwrap(), new.name, "{name}");
        for locator in header.locators() {
            let locator = locator.unwrap();
            let length = usize::try_from(locator.encoded().length()).unwrap();
            let bytes = read(&storage, locator.encoded().start().get(), length);
            let path = locator.code().decode(&bytes).unwrap();
            assert_eq!(path.strip_prefix("./").unwrap_or(&path), new.path, "{name}");
        }
        // Nothing else has changed.
        let after = memory.to_vec();
        assert!(after[..512] == before[..512] && after[1536..3072] == before[1536..3072], "{name}");
        assert_eq!(after.len(), before.len());
    }
}
