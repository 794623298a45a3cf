//! Each operation on storage that a workload needs fails once, one after the other: whoever asked for what failed is
//! told, once; nobody else notices, and the disk works on.

use std::fs;

use test_support::cycles;

use crate::{
    host::aio,
    pipeline::{Answered, Asked, EIO, Pipeline},
    served::{Served, only_byte, read, with_each_engine, write},
};

const UNIT: u32 = 4096;
const OLD: u8 = 1;
const NEW: u8 = 2;

fn is_failure(answer: &(Asked, Answered)) -> bool {
    matches!(answer.1, Answered::Failed(_))
}

/// What of a burst failed; everything else was done, and every read saw what had been there.
fn failed(answers: Vec<(Asked, Answered)>) -> Vec<Asked> {
    for (asked, answered) in &answers {
        match (asked, answered) {
            (Asked::Read { .. }, Answered::Done(_)) => assert_eq!(only_byte(answered), Some(OLD), "{asked:?}"),
            (_, Answered::Done(_)) => {}
            (_, Answered::Failed(error)) => assert_eq!(*error, EIO, "{asked:?}"),
        }
    }
    answers.into_iter().filter(is_failure).map(|(asked, _)| asked).collect()
}

/// Which operations fail in this run. In a long one all of them do; else each engine takes its share.
fn strikes(engine: u64, count: u64) -> impl Iterator<Item = u64> {
    let (step, first) = (cycles(3, 1), cycles(engine, 0));
    (0..count).filter(move |strike| strike % step == first).chain([count])
}

/// More than a burst on a raw image needs.
const RAW_OPERATIONS: u64 = 20;

#[test]
fn on_a_raw_image_one_operation_is_one_request() {
    with_each_engine(|number, engine| {
        let disk = Served::new(engine);
        disk.open(&aio(&disk.host.raw_image("a.img", 1 << 20)));
        let mut client = disk.connect();
        for strike in strikes(number, RAW_OPERATIONS) {
            let places = || (0..8).map(|index| index * u64::from(UNIT) * 4);
            client.burst(places().map(|place| write(place, OLD, UNIT as usize)).collect());
            disk.strike(&format!("any/{strike}x1=EIO"));
            let writes = places().map(|place| write(place + (1 << 19), NEW, UNIT as usize));
            let burst = places().map(|place| read(place, UNIT)).chain(writes).chain([Asked::Flush]);
            let failed = failed(client.burst(burst.collect()));
            let expected = usize::from(strike < 17);
            assert_eq!(failed.len(), expected, "{engine}, operation {strike}: {failed:?}");
            disk.strike("");
            if failed.contains(&Asked::Flush) {
                // What a sync has lost it does not find again: the disk says so until it is opened anew.
                assert_eq!(client.one(Asked::Flush), Answered::Failed(EIO));
                disk.pause(None).unwrap_err();
                disk.close().unwrap_err();
                disk.open(&disk.image("aio", "a.img"));
                client = disk.connect();
            }
            for asked in failed {
                assert!(matches!(client.one(asked), Answered::Done(_)), "it can be done again");
            }
            assert!(matches!(client.one(Asked::Flush), Answered::Done(_)));
        }
        disk.destroy();
    });
}

/// More than the sequence on a VHD needs: tables and room besides the data.
const VHD_OPERATIONS: u64 = 48;
const BLOCK: u64 = 2 << 20;

/// In a block that is there, and into two that are not; each place once.
fn sequence() -> Vec<Asked> {
    let fresh = [BLOCK, BLOCK + (1 << 20), 3 * BLOCK].map(|place| write(place, NEW, 2 * UNIT as usize));
    let known = [read(0, UNIT), write(1 << 16, NEW, UNIT as usize), read(1 << 20, UNIT)];
    known.into_iter().chain(fresh).chain([Asked::Flush, read(0, UNIT)]).collect()
}

/// What the sequence has written is there.
fn holds_the_sequence(client: &mut Pipeline) {
    for asked in sequence() {
        if let Asked::Write { offset, bytes } = asked {
            let found = client.one(read(offset, u32::try_from(bytes.len()).unwrap()));
            assert_eq!(only_byte(&found), Some(NEW), "at {offset:#x}");
        }
    }
    assert_eq!(only_byte(&client.one(read(0, UNIT))), Some(OLD));
}

/// One operation fails; gives how many requests did.
fn strikes_a_vhd(disk: &Served, strike: u64, is_burst: bool) -> usize {
    let place = disk.host.place.scratch();
    fs::copy(place.join("model.vhd"), place.join("a.vhd")).unwrap();
    let image = disk.image("vhd", "a.vhd");
    disk.open(&image);
    let mut client = disk.connect();
    client.burst(vec![write(0, OLD, UNIT as usize), write(1 << 20, OLD, UNIT as usize), Asked::Flush]);
    disk.strike(&format!("any/{strike}x1=EIO"));
    let answers = if is_burst {
        client.burst(sequence())
    } else {
        sequence().into_iter().map(|asked| (asked.clone(), client.one(asked))).collect()
    };
    let failed = failed(answers);
    disk.strike("");
    let has_lost_a_sync = client.one(Asked::Flush) != Answered::Done(Vec::new());
    if has_lost_a_sync {
        disk.close().unwrap_err();
        disk.open(&image);
        client = disk.connect();
    }
    for asked in &failed {
        assert!(matches!(client.one(asked.clone()), Answered::Done(_)), "{asked:?} can be done again");
    }
    assert_eq!(client.one(Asked::Flush), Answered::Done(Vec::new()));
    disk.close().unwrap();
    disk.open(&image);
    holds_the_sequence(&mut disk.connect());
    disk.close().unwrap();
    failed.into_iter().filter(|asked| !(has_lost_a_sync && *asked == Asked::Flush)).count()
}

#[test]
fn on_a_vhd_whoever_fails_is_told_once() {
    with_each_engine(|number, engine| {
        let disk = Served::new(engine);
        disk.vhd_util("create -n model.vhd -s 16");
        let mut told = 0;
        for strike in strikes(number, VHD_OPERATIONS) {
            let failed = strikes_a_vhd(&disk, strike, false);
            assert!(failed <= 1, "{engine}, operation {strike}: {failed} requests failed");
            told += failed;
            // At once, several may wait for the same room; each of them has its answer, and the rest is done.
            strikes_a_vhd(&disk, strike, true);
            assert!(strike < VHD_OPERATIONS || failed == 0, "operations were left out");
        }
        assert!(told > 0, "{engine}: nothing was struck");
        disk.destroy();
    });
}
