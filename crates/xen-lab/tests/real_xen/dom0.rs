//! What dom0 does itself: it is the guest of a disk, changes the storage below one, uses one without any guest, and serves
//! the kernel's backend and ours side by side.

use std::sync::LazyLock;

use test_support::{cycles, long};
use xen_lab::Machine;

use crate::boot::Told;

/// Once and quickly, to see that it works, at the end of the boot for all; what is to be believed has one of its own.
static TOLD: LazyLock<Told> = LazyLock::new(|| {
    let cycles = format!("cycles={}\n", cycles(12, 100));
    let figures = if long() { String::new() } else { figures(1, 1) };
    let stories = [&cycles, include_str!("dom0.sh"), include_str!("storage.sh"), &figures, "\nover\n"];
    Told::by("dom0", &stories.concat(), Machine::default())
});

static FIGURES: LazyLock<Told> =
    LazyLock::new(|| Told::by("figures", &(figures(7, 32) + "\nover\n"), Machine::default()));

fn figures(rounds: u32, mebibytes: u32) -> String {
    format!("rounds={rounds}\nmebibytes={mebibytes}\n{}", include_str!("figures.sh"))
}

#[test]
fn a_ring_that_is_there_first_waits_for_the_script() {
    TOLD.story("ring_before_the_script");
}

#[test]
fn kernels_of_dom0_come_and_go_and_nothing_is_left() {
    TOLD.story("kernels_of_dom0");
}

#[test]
fn kernels_of_dom0_that_keep_pages() {
    TOLD.story("kernels_of_dom0_that_keep_pages");
}

#[test]
fn a_frontend_jumps_from_its_start_to_connected() {
    TOLD.story("jump_from_1_to_4");
    TOLD.story("the_states_of_a_jump");
}

#[test]
fn a_kernel_that_fell_over_leaves_its_disk_to_the_next() {
    TOLD.story("kernels_of_dom0_that_fall_over");
}

#[test]
fn a_disk_is_taken_from_dom0() {
    TOLD.story("dom0_as_a_guest");
}

#[test]
fn a_volume_grows_under_a_paused_disk() {
    TOLD.story("volume_grows_under_a_paused_disk");
}

#[test]
fn a_file_system_in_dom0_without_a_guest() {
    TOLD.story("file_system_without_a_guest");
}

#[test]
fn a_footer_that_a_volume_has_lost() {
    TOLD.story("footer_lost_on_a_volume");
}

#[test]
fn a_vhd_on_a_volume_is_repaired() {
    TOLD.story("repair_on_a_volume");
}

#[test]
fn nobody_waits_without_limit_for_a_suspended_device() {
    TOLD.story("suspended_device");
}

#[test]
fn figures_beside_the_kernels_backend() {
    let told = if long() { &FIGURES } else { &TOLD };
    told.story("figures_of_a_file");
    told.story("figures_of_a_block_device");
}
