//! PVH guests, which need a processor that is emulated more slowly, and which alone can be migrated live here.

use std::sync::LazyLock;

use xen_lab::{Machine, Processor};

use crate::boot::Told;

static TOLD: LazyLock<Told> = LazyLock::new(|| {
    let (loader, pvh) = (include_str!("boot_loader.sh"), include_str!("boot_loader_pvh.sh"));
    let stories = [loader, pvh, include_str!("kexec.sh"), include_str!("migration.sh"), "over"];
    Told::by("pvh", &stories.concat(), Machine { processor: Processor::Svm, ..Machine::default() })
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
