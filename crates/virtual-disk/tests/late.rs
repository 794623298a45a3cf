//! A disk that was opened without write access takes it with its first writer, and gives it up with its last.

#![allow(clippy::unwrap_used, reason = "a test that cannot go on fails")]

mod support;

use std::{sync::atomic::Ordering, time::Duration};

use block_core::ErrorKind;
use image_chain::Writing;
use support::{
    Script, bytes, failed, is_done,
    two_hosts::{PATIENCE, TwoHosts, open},
};
use virtual_disk::{DiskState, WriteAccess};

const MIB: u64 = 1 << 20;

/// Two hosts that have the image open; the first as its writer.
fn source_and_target(seed: u64) -> (TwoHosts, Script, Script) {
    let world = TwoHosts::new(seed, 8 * MIB);
    world.run(0, async |disk| open(disk, Writing::Later).await).unwrap();
    world.run(1, async |disk| open(disk, Writing::Later).await).unwrap();
    let (source, target) = (world.hosts[0].serve(), world.hosts[1].serve());
    (world, source, target)
}

fn access(world: &TwoHosts, host: usize) -> WriteAccess {
    world.hosts[host].disk.status().write_access()
}

fn write(world: &TwoHosts, script: &Script, start: u64, byte: u8) {
    let tag = script.write(start, byte, 4096);
    let mut answer = None;
    world.run_until(|| {
        answer = answer.take().or_else(|| script.answer(tag));
        answer.is_some()
    });
    assert!(is_done(answer));
}

#[test]
fn opening_writes_nothing_and_readers_need_no_lock() {
    let (world, source, target) = source_and_target(1);
    assert_eq!((access(&world, 0), access(&world, 1)), (WriteAccess::Later, WriteAccess::Later));
    assert!(!world.hosts[0].disk.status().geometry().unwrap().read_only, "it may be written");
    let reads = [source.read(0, 4096), target.read(MIB, 4096)];
    world.pass(Duration::from_millis(1));
    assert_eq!(bytes(source.answer(reads[0])), [0; 4096]);
    assert_eq!(bytes(target.answer(reads[1])), [0; 4096]);
    assert_eq!(world.hands(), []);
}

#[test]
fn the_first_write_takes_the_lock_and_the_last_writer_gives_it_up() {
    let (world, source, _) = source_and_target(2);
    write(&world, &source, 0, 7);
    assert_eq!(access(&world, 0), WriteAccess::Held);
    source.end();
    world.pass(Duration::from_millis(1));
    assert_eq!(access(&world, 0), WriteAccess::Later);
    assert_eq!(world.strays(), 0);
}

/// The other host has made a block since the image was opened here.
#[test]
fn whoever_takes_write_access_sees_what_the_writer_before_has_left() {
    let (world, source, target) = source_and_target(3);
    write(&world, &source, 2 * MIB, 7);
    source.end();
    write(&world, &target, 0, 9);
    let read = target.read(2 * MIB, 4096);
    world.pass(Duration::from_millis(1));
    assert_eq!(bytes(target.answer(read)), [7; 4096]);
    assert_eq!((world.hands(), world.strays()), (vec![0, 1], 0));
}

#[test]
fn a_write_that_gets_no_access_fails_and_readers_never_notice() {
    let (world, source, target) = source_and_target(4);
    write(&world, &source, 0, 7);
    let refused = target.write(0, 9, 4096);
    world.pass(PATIENCE / 2);
    assert!(target.answer(refused).is_none(), "the other may just be leaving");
    let read = target.read(MIB, 4096);
    world.pass(Duration::from_millis(1));
    assert!(target.answer(read).is_some(), "readers are served while the lock is waited for");
    world.pass(PATIENCE);
    assert_eq!(failed(target.answer(refused)), ErrorKind::NotPermitted);
    assert_eq!((access(&world, 1), world.hosts[1].disk.status().state()), (WriteAccess::Later, DiskState::Running));
    write(&world, &source, 4096, 8);
    assert_eq!((world.hands(), world.strays()), (vec![0], 0));
}

#[test]
fn a_writer_that_has_written_nothing_yet_has_the_access_too() {
    let (world, _, target) = source_and_target(5);
    let writer = world.hosts[0].disk.writer();
    world.run(0, async |disk| disk.begin_writing().await).unwrap();
    assert_eq!(access(&world, 0), WriteAccess::Held);
    let other = world.hosts[1].disk.writer();
    let error = world.run(1, async |disk| disk.begin_writing().await).unwrap_err();
    assert_eq!(error.to_string(), "no write access: in use by another");
    drop(writer);
    world.run(1, async |disk| disk.begin_writing().await).unwrap();
    write(&world, &target, 0, 9);
    drop(other);
    world.run(1, async |disk| disk.end_writing().await).unwrap();
    assert_eq!(access(&world, 1), WriteAccess::Held, "the client that wrote is still there");
}

/// Everything that was answered is in the image when the access has been given up.
#[test]
fn access_is_given_up_behind_the_last_write() {
    let (world, source, target) = source_and_target(6);
    write(&world, &source, 0, 1);
    world.hosts[0].slowness.store(50_000, Ordering::Relaxed);
    for block in 1..32 {
        source.write(block * 4096, 2, 4096);
    }
    source.end();
    write(&world, &target, 0, 9);
    let read = target.read(31 * 4096, 4096);
    world.pass(Duration::from_millis(1));
    assert_eq!(bytes(target.answer(read)), [2; 4096]);
    assert_eq!((world.hands(), world.strays()), (vec![0, 1], 0));
}

#[test]
fn a_disk_that_is_resumed_has_what_its_writers_need() {
    let (world, source, target) = source_and_target(7);
    write(&world, &source, 0, 7);
    world.run(0, async |disk| disk.quiesce(None).await).unwrap();
    assert_eq!(access(&world, 0), WriteAccess::None);
    write(&world, &target, 0, 9);
    let error = world.run(0, async |disk| disk.resume(None).await).unwrap_err();
    assert_eq!(error.kind(), ErrorKind::Busy, "its client may write at any time");
    target.end();
    world.pass(Duration::from_millis(1));
    world.run(0, async |disk| disk.resume(None).await).unwrap();
    assert_eq!(access(&world, 0), WriteAccess::Held);
    world.run(0, async |disk| disk.pause(None).await).unwrap();
    source.end();
    world.run(0, async |disk| disk.resume(None).await).unwrap();
    world.pass(Duration::from_millis(1));
    assert_eq!(access(&world, 0), WriteAccess::Later, "nobody writes any more");
}

#[test]
fn closing_ends_the_waiting_for_the_lock() {
    let (world, source, target) = source_and_target(8);
    write(&world, &source, 0, 7);
    let refused = target.write(0, 9, 4096);
    world.pass(Duration::from_millis(10));
    world.run(1, async |disk| disk.close().await).unwrap();
    world.pass(Duration::from_millis(1));
    assert_eq!(failed(target.answer(refused)), ErrorKind::Closed);
    assert_eq!(world.strays(), 0);
}
