//! Disks of PV guests come and go, by `xl` as Debian ships it: `backendtype=tap`, its own `block-tap` script calling our
//! `tap-ctl`. After each story all is as it was before: tapdisks, numbers, nodes, event channels, grants, descriptors, and what
//! `oxtap doctor` finds.

use std::sync::LazyLock;

use xen_lab::Machine;

use crate::boot::Told;

static TOLD: LazyLock<Told> = LazyLock::new(|| {
    let stories = [
        include_str!("boot_loader.sh"),
        include_str!("boot_loader_pv.sh"),
        include_str!("life.sh"),
        include_str!("agreed.sh"),
        include_str!("leaving.sh"),
        include_str!("supervision.sh"),
        "over",
    ];
    Told::by("life", &stories.concat(), Machine::default())
});

#[test]
fn a_file_system_is_made_trimmed_and_sound() {
    TOLD.story("file_system");
}

#[test]
fn three_disks_with_two_large_rings_each() {
    TOLD.story("three_disks_with_two_large_rings_each");
}

#[test]
fn a_guest_without_indirect_requests_and_pages_that_stay_mapped() {
    TOLD.story("small_rings_without_indirect_requests");
}

#[test]
fn a_guest_that_is_offered_barriers_only() {
    TOLD.story("barriers");
}

#[test]
fn a_disk_and_a_disc_that_are_only_read() {
    TOLD.story("read_only");
}

#[test]
fn a_guest_is_destroyed_under_load() {
    TOLD.story("destroy_under_load");
}

#[test]
fn disks_are_attached_and_detached_under_load_by_force_too() {
    TOLD.story("attach_and_detach_under_load");
}

#[test]
fn a_guest_reboots_and_is_shut_down_under_load() {
    TOLD.story("reboot_and_shutdown_under_load");
}

#[test]
fn a_guest_is_destroyed_beside_another() {
    TOLD.story("two_guests");
}

#[test]
fn no_guest_notices_that_the_backend_was_killed() {
    TOLD.story("backend_killed_under_load");
}

#[test]
fn a_guest_whose_tapdisk_is_killed_under_load_gets_errors() {
    TOLD.story("tapdisk_killed_under_load");
}

#[test]
fn a_tapdisk_that_was_killed_is_replaced_if_that_is_wanted() {
    TOLD.story("tapdisk_killed_and_replaced");
}

#[test]
fn a_guest_is_saved_and_restored_under_load() {
    TOLD.story("save_and_restore");
}

#[test]
fn a_guest_is_paused_and_goes_on() {
    TOLD.story("pause_and_unpause");
}

#[test]
fn grub_boots_a_kernel_from_the_disk_and_linux_takes_it_over() {
    TOLD.story("pv_grub");
}
