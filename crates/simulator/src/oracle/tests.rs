//! What the oracle allows, in small stories.

use block_core::GuestOffset;

use super::*;

const SECTOR_1: GuestRange = GuestRange::new(GuestOffset::new(512), 512);
const WRITE: Change = Change::Write { durable: false };
const ZERO: Change = Change::Zero { durable: false };

/// What sector 1 may hold: the stamps, 0 for zeroes.
fn permitted(check: impl Fn(&[u8]) -> Result<(), String>, up_to: u64) -> Vec<u64> {
    let bytes = |stamp| if stamp == 0 { [0; 512] } else { Stamp(stamp).sector(1) };
    (0..=up_to).filter(|stamp| check(&bytes(*stamp)).is_ok()).collect()
}

fn now(oracle: &Oracle, up_to: u64) -> Vec<u64> {
    permitted(
        |bytes| {
            let mut copy = oracle.clone();
            let read = copy.begin_read();
            copy.end_read(read, SECTOR_1, bytes)
        },
        up_to,
    )
}

fn after(oracle: &Oracle, crash: Crash, up_to: u64) -> Vec<u64> {
    permitted(|bytes| oracle.after(crash).check(SECTOR_1, bytes), up_to)
}

fn done(oracle: &mut Oracle, change: Change) {
    let begun = oracle.begin(change, SECTOR_1);
    oracle.end(begun, true);
}

fn flush(oracle: &mut Oracle) {
    let begun = oracle.begin_flush();
    oracle.end_flush(begun);
}

#[test]
fn a_write_in_flight_may_be_seen_or_not_and_an_answered_one_is_there() {
    let mut oracle = Oracle::new();
    let one = oracle.begin(WRITE, SECTOR_1);
    assert_eq!(now(&oracle, 1), [0, 1]);
    oracle.end(one, true);
    assert_eq!(now(&oracle, 1), [1]);
}

#[test]
fn of_two_writes_at_once_either_may_win() {
    let mut oracle = Oracle::new();
    let one = oracle.begin(WRITE, SECTOR_1);
    let two = oracle.begin(WRITE, SECTOR_1);
    oracle.end(one, true);
    oracle.end(two, true);
    assert_eq!(now(&oracle, 2), [1, 2]);
    done(&mut oracle, WRITE);
    assert_eq!(now(&oracle, 3), [3]);
}

#[test]
fn a_read_may_see_what_was_there_when_it_began() {
    let mut oracle = Oracle::new();
    done(&mut oracle, WRITE);
    let read = oracle.begin_read();
    done(&mut oracle, WRITE);
    let seen = |stamp: u64| oracle.clone().end_read(read, SECTOR_1, &Stamp(stamp).sector(1)).is_ok();
    assert!(seen(1) && seen(2) && !seen(3));
}

#[test]
fn a_failed_write_may_be_there_until_it_is_written_over() {
    let mut oracle = Oracle::new();
    done(&mut oracle, WRITE);
    let two = oracle.begin(WRITE, SECTOR_1);
    oracle.end(two, false);
    assert_eq!(now(&oracle, 2), [1, 2]);
    done(&mut oracle, WRITE);
    assert_eq!(now(&oracle, 3), [3]);
}

#[test]
fn a_power_cut_shows_nothing_older_than_the_last_flush() {
    let mut oracle = Oracle::new();
    done(&mut oracle, WRITE);
    flush(&mut oracle);
    done(&mut oracle, WRITE);
    done(&mut oracle, WRITE);
    assert_eq!(after(&oracle, Crash::PowerCut, 3), [1, 2, 3]);
    assert_eq!(after(&oracle, Crash::Killed, 3), [3]);
    flush(&mut oracle);
    assert_eq!(after(&oracle, Crash::PowerCut, 3), [3]);
}

#[test]
fn a_flush_covers_what_was_answered_before_it_began() {
    let mut oracle = Oracle::new();
    done(&mut oracle, WRITE);
    flush(&mut oracle);
    let flush = oracle.begin_flush();
    done(&mut oracle, WRITE);
    oracle.end_flush(flush);
    assert_eq!(after(&oracle, Crash::PowerCut, 2), [1, 2]);
}

#[test]
fn a_durable_write_needs_no_flush() {
    let mut oracle = Oracle::new();
    done(&mut oracle, WRITE);
    done(&mut oracle, Change::Write { durable: true });
    assert_eq!(after(&oracle, Crash::PowerCut, 2), [2]);
}

#[test]
fn zeroes_may_show_only_where_the_leaf_had_no_place_at_the_last_flush() {
    let mut oracle = Oracle::new();
    done(&mut oracle, WRITE);
    flush(&mut oracle);
    oracle.snapshot();
    assert_eq!(after(&oracle, Crash::PowerCut, 1), [1]);
    done(&mut oracle, WRITE);
    assert_eq!(after(&oracle, Crash::PowerCut, 2), [0, 1, 2]);
    assert_eq!(after(&oracle, Crash::Killed, 2), [2]);
    flush(&mut oracle);
    done(&mut oracle, WRITE);
    assert_eq!(after(&oracle, Crash::PowerCut, 3), [2, 3]);
}

#[test]
fn what_is_discarded_reads_as_before_or_as_zeroes_but_not_as_a_parents() {
    let mut oracle = Oracle::new();
    done(&mut oracle, WRITE);
    oracle.snapshot();
    done(&mut oracle, WRITE);
    flush(&mut oracle);
    done(&mut oracle, Change::Discard);
    assert_eq!(now(&oracle, 2), [0, 2]);
    assert_eq!(after(&oracle, Crash::PowerCut, 2), [0, 2]);
    done(&mut oracle, ZERO);
    assert_eq!(now(&oracle, 2), [0]);
}

#[test]
fn a_write_that_a_crash_took_back_never_comes_back() {
    let mut oracle = Oracle::new();
    done(&mut oracle, WRITE);
    assert_eq!(after(&oracle, Crash::PowerCut, 1), [0, 1]);
    oracle.crashed(SECTOR_1, &[0; 512]);
    assert_eq!(after(&oracle, Crash::PowerCut, 1), [0]);
    done(&mut oracle, WRITE);
    assert_eq!(after(&oracle, Crash::PowerCut, 2), [0, 2]);
    assert_eq!(after(&oracle, Crash::Killed, 2), [2]);
    flush(&mut oracle);
    oracle.crashed(SECTOR_1, &Stamp(2).sector(1));
    done(&mut oracle, WRITE);
    assert_eq!(after(&oracle, Crash::PowerCut, 3), [2, 3]);
}

#[test]
fn bytes_that_were_not_written_stay() {
    let mut oracle = Oracle::new();
    done(&mut oracle, WRITE);
    let part = GuestRange::new(GuestOffset::new(612), 100);
    let two = oracle.begin(WRITE, part);
    oracle.end(two, true);
    let mut expected = Stamp(1).sector(1);
    Stamp(2).fill(612, &mut expected[100..200]);
    let check = |bytes: &[u8]| {
        let mut copy = oracle.clone();
        let read = copy.begin_read();
        copy.end_read(read, SECTOR_1, bytes)
    };
    assert!(check(&expected).is_ok());
    expected[99] ^= 1;
    assert!(check(&expected).is_err());
    expected[99] ^= 1;
    expected[100] = Stamp(1).sector(1)[100];
    assert!(check(&expected).is_err());
}

#[test]
fn what_nobody_wrote_is_zero() {
    let mut oracle = Oracle::new();
    let read = oracle.begin_read();
    let complaint = oracle.end_read(read, SECTOR_1, &Stamp(5).sector(1)).unwrap_err();
    assert!(complaint.contains("never written") && complaint.contains("write 5"), "{complaint}");
}

#[test]
fn a_disk_at_rest_settles_on_what_is_found() {
    let mut oracle = Oracle::new();
    let one = oracle.begin(WRITE, SECTOR_1);
    let two = oracle.begin(WRITE, SECTOR_1);
    oracle.end(one, true);
    oracle.end(two, true);
    oracle.settle(SECTOR_1, &Stamp(1).sector(1)).unwrap();
    assert_eq!(now(&oracle, 2), [1]);
    assert!(oracle.settle(SECTOR_1, &Stamp(2).sector(1)).is_err());
}

#[test]
fn many_versions_are_forgotten_only_when_they_are_over() {
    let mut oracle = Oracle::new();
    for _ in 0..40 {
        done(&mut oracle, WRITE);
    }
    assert_eq!(after(&oracle, Crash::PowerCut, 40).len(), 41);
    flush(&mut oracle);
    for _ in 0..40 {
        done(&mut oracle, WRITE);
    }
    assert_eq!(after(&oracle, Crash::PowerCut, 80), (40..=80).collect::<Vec<_>>());
    assert!(oracle.sectors[&1].versions.len() <= 42);
}
