//! Disks of PV guests come and go, by `xl` as Debian ships it: `backendtype=tap`, its own `block-tap` script calling our
//! `tap-ctl`.

use std::sync::LazyLock;

use xen_lab::Machine;

use crate::boot::Told;

static TOLD: LazyLock<Told> = LazyLock::new(|| {
    let stories = [include_str!("boot_loader.sh"), include_str!("boot_loader_pv.sh"), include_str!("life.sh")];
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
fn a_guest_without_indirect_requests() {
    TOLD.story("small_rings_without_indirect_requests");
}

#[test]
fn a_disk_that_is_only_read() {
    TOLD.story("read_only");
}

#[test]
fn a_guest_is_destroyed_under_load() {
    TOLD.story("destroy_under_load");
}

#[test]
fn a_disk_is_detached_under_load() {
    TOLD.story("detach_under_load");
}

#[test]
fn a_disk_is_detached_by_force_under_load() {
    TOLD.story("detach_under_load_by_force");
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
fn a_guest_is_saved_and_restored() {
    TOLD.story("save_and_restore");
}

#[test]
fn a_guest_is_paused_and_goes_on() {
    TOLD.story("pause_and_unpause");
}

#[test]
fn a_disk_is_attached_while_the_guest_runs() {
    TOLD.story("attached_while_it_runs");
}

#[test]
fn grub_boots_a_kernel_from_the_disk_and_linux_takes_it_over() {
    TOLD.story("pv_grub");
}
