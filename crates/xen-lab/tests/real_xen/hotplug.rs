//! Many disks at once, by our own script in the place of `xl`'s; devices of the kind that the kernel's backend has where it
//! is loaded.

use std::sync::LazyLock;

use xen_lab::Machine;

use crate::boot::Told;

static TOLD: LazyLock<Told> = LazyLock::new(|| {
    let stories = include_str!("hotplug.sh").to_owned() + "over\n";
    Told::by("hotplug", &stories, Machine { dom0_mebibytes: 1280, ..Machine::default() })
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
fn what_a_script_leaves_that_was_killed_is_taken_up_or_away() {
    TOLD.story("script_killed");
}
