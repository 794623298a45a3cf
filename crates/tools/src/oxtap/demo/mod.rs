//! `oxtap demo`: the whole system at work, checked by tools that others wrote.
//!
//! ```text
//!   mke2fs --> base.raw --NBD--> base.vhd --snapshot--> leaf.vhd
//!                 |                 |                      ^  verified I/O through NBD, pausing and resuming
//!                 +---- qemu-img: equal?                   |
//!   model (an array) <--- vhdimount (libvhdi): equal? -----+--> e2fsck: clean?
//! ```
//!
//! Then the same for a guest: two hosts without Xen, their tapbacks and tapdisks, and a guest that works through a ring
//! while a snapshot is taken, tapback is killed, and it moves from one to the other ([`guest`]).
//!
//! Everything lies in a private directory, nothing needs root, and nothing is left at the end. It fails unless all of
//! it held.

mod content;
mod guest;
mod hosts;
mod load;
mod place;
mod reader;
mod report;

use std::time::Duration;

use block_core::{Result, ResultExt};

use self::{
    content::Content,
    load::{Copied, Load},
    place::{Place, Served},
    report::Report,
};
use super::arguments::Demo;

/// The disk: half file system, half playground for the verified I/O.
const DISK_BYTES: u64 = 256 << 20;
const FILE_SYSTEM_BYTES: u64 = DISK_BYTES / 2;
/// How long the verified I/O over NBD goes on.
const LOAD_TIME: Duration = Duration::from_secs(4);
/// The guest's disk.
const GUEST_DISK_BYTES: u64 = 128 << 20;

pub(super) fn run(arguments: &Demo) -> Result<()> {
    let place = Place::new()?;
    println!("oxtap demo, in {}\n\nA VHD chain with an ext4 file system, served over NBD:", place.path().display());
    let result = all_steps(&place, &mut Report);
    if arguments.keep {
        println!("\nthe images are in {}", place.keep().display());
    }
    result?;
    println!("\nall of it held");
    Ok(())
}

fn all_steps(place: &Place, report: &mut Report) -> Result<()> {
    let content =
        report.step("file system", || Content::make(place, FILE_SYSTEM_BYTES, DISK_BYTES), Content::describe)?;
    report.step("base image", || make_base(place, &content), Copied::describe)?;
    report.step(
        "qemu-img",
        || reader::compare_standalone(place, "base.vhd", content.bytes()),
        |()| "reads base.vhd byte for byte as it was written".to_owned(),
    )?;
    report.step(
        "snapshot",
        || place.vhd_util(&["snapshot", "-n", "leaf.vhd", "-p", "base.vhd"]),
        |_| "leaf.vhd on base.vhd".to_owned(),
    )?;
    let model = report.step("verified I/O", || load_the_leaf(place, &content), |(_, summary)| summary.clone())?.0;
    report.step(
        "libvhdi",
        || reader::compare_and_check_chain(place, "leaf.vhd", &model),
        |file_system| format!("reads the chain byte for byte as the model; e2fsck: {file_system}"),
    )?;
    println!("\nA guest of Xen, without Xen:");
    let mut content = guest::play(place, GUEST_DISK_BYTES, report)?;
    content.resize(usize::try_from(GUEST_DISK_BYTES).expect("the demo's disk fits into memory"), 0);
    report.step(
        "libvhdi",
        || reader::compare_chain(place, "disk.vhd", &content),
        |()| "reads the chain byte for byte as the guest has left it".to_owned(),
    )?;
    report.step(
        "left behind",
        || place.nothing_left(),
        |()| "no process, minor, socket, marker or shared memory".to_owned(),
    )
}

/// Makes the base through the programs and the protocol that a storage manager would use.
fn make_base(place: &Place, content: &Content) -> Result<Copied> {
    let megabytes = (DISK_BYTES >> 20).to_string();
    place.vhd_util(&["create", "-n", "base.vhd", "-s", &megabytes])?;
    let served = Served::start(place, "base.vhd")?;
    let written = load::copy_in(&served, content.bytes());
    served.end()?;
    written.context("writing the base image")
}

/// Works on the leaf under a pausing and resuming control client; gives what the disk must now hold.
fn load_the_leaf(place: &Place, content: &Content) -> Result<(Vec<u8>, String)> {
    let served = Served::start(place, "leaf.vhd")?;
    let load = Load { served: &served, playground: FILE_SYSTEM_BYTES..DISK_BYTES, time: LOAD_TIME };
    let outcome = load.run(content.bytes().to_vec());
    served.end()?;
    let (model, summary) = outcome.context("verified I/O")?;
    Ok((model, summary.describe()))
}
