//! PVH guests, which need a processor that is emulated more slowly, and which alone can be migrated live here; and the guide
//! for users, which has one.

use std::{path::Path, sync::LazyLock};

use xen_lab::{Machine, Processor};

use crate::{boot::Told, guide};

static TOLD: LazyLock<Told> = LazyLock::new(|| {
    let (loader, pvh) = (include_str!("boot_loader.sh"), include_str!("boot_loader_pvh.sh"));
    let stories = [loader, pvh, include_str!("kexec.sh"), include_str!("migration.sh"), &guide::script()];
    let tree = Path::new(env!("CARGO_MANIFEST_DIR")).join("../..");
    let files = ["packaging", "docs/man"].map(|part| (format!("lab/tree/{part}"), tree.join(part))).to_vec();
    let machine = Machine { processor: Processor::Svm, files, dom0_mebibytes: 1280, ..Machine::default() };
    Told::by("pvh", &stories.concat(), machine)
});

#[test]
fn the_layout_of_a_ring_changes_between_a_boot_loader_and_its_kernel() {
    TOLD.story("pvh_grub");
}

#[test]
fn a_kernel_hands_its_disk_back_before_kexec() {
    TOLD.story("kexec");
}

#[test]
fn a_guest_is_migrated_while_it_writes() {
    TOLD.story("live_migration");
}

#[test]
fn a_guest_that_was_restored_is_migrated() {
    TOLD.story("restored_and_migrated");
}

#[test]
fn the_guide_is_true() {
    TOLD.story("guide");
}
