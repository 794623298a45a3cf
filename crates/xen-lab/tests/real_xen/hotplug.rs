//! Many disks at once, by our own script in the place of `xl`'s; devices of the kind that the kernel's backend has where it
//! is loaded.

use std::{path::Path, sync::LazyLock};

use xen_lab::Machine;

use crate::{boot::Told, guide};

static TOLD: LazyLock<Told> = LazyLock::new(|| {
    let tree = Path::new(env!("CARGO_MANIFEST_DIR")).join("../..");
    let parts = ["packaging", "docs/man"].map(|part| (format!("lab/tree/{part}"), tree.join(part)));
    let stories = include_str!("hotplug.sh").to_owned() + &guide::script();
    Told::by("hotplug", &stories, Machine { files: parts.to_vec(), dom0_mebibytes: 1280, ..Machine::default() })
});

#[test]
fn twenty_disks_in_one_create() {
    TOLD.story("twenty_disks_in_one_create");
    TOLD.story("what_was_written_is_there");
}

#[test]
fn twenty_attaches_and_detaches_at_the_same_time() {
    TOLD.story("twenty_attaches_at_the_same_time");
    TOLD.story("twenty_detaches_at_the_same_time");
}

#[test]
fn a_guest_has_disks_of_the_kernels_kind() {
    TOLD.story("kind_vbd");
}

#[test]
fn the_guide_is_true() {
    TOLD.story("guide");
}
