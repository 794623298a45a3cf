//! Storage that fails by rules, as the product offers it: over real files, on every engine.

#![allow(clippy::unwrap_used, reason = "a test fails where it cannot go on")]

mod common;

use std::{fs, path::PathBuf, rc::Rc, sync::Arc, thread, time::Duration};

use block_core::{Error, ErrorKind, FileRange, Result};
use common::{at, directory, pattern, range};
use storage_io::{
    Buffer, Executor, FaultScript, FaultyFiles, Files, LockPolicy, OpenOptions, Opener, Storage, StorageExt,
    StorageOperation, Wait,
};

/// A file of 64 KiB, opened under a script.
struct Bench {
    _directory: tempfile::TempDir,
    path: PathBuf,
    files: FaultyFiles,
    script: FaultScript,
}

impl Bench {
    fn new(rules: &str) -> Bench {
        let directory = directory();
        let path = directory.path().join("image");
        fs::write(&path, pattern(64 << 10, 1)).unwrap();
        let script: FaultScript = rules.parse().unwrap();
        Bench { files: FaultyFiles::new(Rc::new(Files), script.clone()), _directory: directory, path, script }
    }

    fn try_open(&self, executor: &Executor) -> Result<Arc<dyn Storage>> {
        executor.block_on(self.files.open(executor, &self.path, OpenOptions::write()))
    }

    fn open(&self, executor: &Executor) -> Arc<dyn Storage> {
        self.try_open(executor).unwrap()
    }
}

fn errno(result: Result<()>) -> i32 {
    result.err().and_then(|error| error.os_error()).unwrap_or(0)
}

fn write(storage: &dyn Storage, executor: &Executor, offset: u64, byte: u8) -> storage_io::Pending {
    let buffer = Buffer::from_bytes(&[byte; 4096]);
    storage.submit(executor, StorageOperation::Write { offset: at(offset), buffer, durable: false }, None)
}

/// Turns the loop until `is_so`, for as long as a test may hang.
fn turn_until(executor: &Executor, mut is_so: impl FnMut() -> bool) {
    let deadline = executor.now() + Duration::from_secs(60);
    while !is_so() {
        assert!(executor.now() < deadline, "it does not come");
        executor.turn(Wait::For(Duration::from_millis(1))).unwrap();
    }
}

on_every_engine! {
    fn each_kind_of_operation_fails_when_it_is_told_and_only_then(executor) {
        let bench = Bench::new("");
        let file = bench.open(executor);
        let all = |file: &Arc<dyn Storage>| executor.block_on(async {
            [
                errno(file.read_bytes(executor, at(0), 4096).await.map(drop)),
                errno(file.write_bytes(executor, at(0), &[1; 4096]).await),
                errno(file.sync(executor).await),
                errno(file.allocate(executor, range(0, 4096)).await),
                errno(file.discard(executor, range(4096, 4096)).await),
                errno(file.write_zeroes(executor, range(8192, 4096), false).await),
                errno(file.set_length(executor, 64 << 10).await),
                errno(file.unlock(executor).await),
                errno(file.lock(executor).await),
            ]
        });
        assert_eq!(all(&file), [0; 9]);
        let kinds =
            ["read", "write", "sync", "allocate", "discard", "write-zeroes", "set-length", "unlock", "lock"];
        for (index, kind) in kinds.into_iter().enumerate() {
            bench.script.replace(&format!("{kind}x1=ETIMEDOUT")).unwrap();
            let mut expected = [0; 9];
            expected[index] = libc::ETIMEDOUT;
            assert_eq!(all(&file), expected, "{kind}");
            assert_eq!(all(&file), [0; 9], "{kind}: once");
        }
        bench.script.replace("any=EIO").unwrap();
        assert_eq!(all(&file), [libc::EIO; 9]);
    }

    fn a_range_fails_while_the_rules_are_changed_under_the_file(executor) {
        let bench = Bench::new("write@4K+4K=ENOSPC");
        let file = bench.open(executor);
        let write = |offset| errno(executor.block_on(file.write_bytes(executor, at(offset), &[9; 4096])));
        assert_eq!([write(0), write(4096), write(8192)], [0, libc::ENOSPC, 0]);
        bench.script.add_text("write@8K/1=EIO").unwrap();
        assert_eq!([write(8192), write(8192), write(4096)], [0, libc::EIO, libc::ENOSPC]);
        // What is not understood changes nothing.
        assert_eq!(bench.script.replace("write=EIO,what").unwrap_err().kind(), ErrorKind::Invalid);
        assert_eq!([write(0), write(4096), write(8192)], [0, libc::ENOSPC, libc::EIO]);
        bench.script.replace("").unwrap();
        assert_eq!([write(0), write(4096), write(8192)], [0, 0, 0]);
    }

    fn what_hangs_holds_up_nobody_else_and_ends_when_its_rule_goes(executor) {
        let bench = Bench::new("write@0x1=hang");
        let file = bench.open(executor);
        let hung = write(&*file, executor, 0, 7);
        executor.block_on(async {
            file.write_bytes(executor, at(4096), &[8; 4096]).await.unwrap();
            assert_eq!(file.read_bytes(executor, at(0), 4096).await.unwrap(), pattern(4096, 1));
        });
        assert_eq!(bench.script.hanging(), 1);
        let operations = executor.operations();
        let expected = format!("{}: writing 4096 bytes at 0x0, held back by a fault rule", bench.path.display());
        assert_eq!(operations.iter().map(|operation| operation.what.as_str()).collect::<Vec<_>>(), [&expected]);
        // As another thread does it: a control command, say.
        let script = bench.script.clone();
        let helper = thread::spawn(move || script.replace("").unwrap());
        executor.block_on(hung).result.unwrap();
        helper.join().unwrap();
        assert_eq!((bench.script.hanging(), executor.operations()), (0, Vec::new()));
        assert!(fs::read(&bench.path).unwrap()[..8192] == [[7; 4096], [8; 4096]].concat());
    }

    fn a_hung_write_that_nobody_waits_for_lands_when_it_is_released(executor) {
        let bench = Bench::new("write=hang");
        let file = bench.open(executor);
        drop(write(&*file, executor, 0, 7));
        drop(file);
        turn_until(executor, || bench.script.hanging() == 1);
        // The file is kept open by what hangs, and its lock with it.
        let lock = LockPolicy::Exclusive { deadline: Duration::ZERO };
        let next = Files.open(executor, &bench.path, OpenOptions { lock, ..OpenOptions::write() });
        assert_eq!(executor.block_on(next).unwrap_err().kind(), ErrorKind::Busy);
        bench.script.replace("").unwrap();
        turn_until(executor, || fs::read(&bench.path).unwrap()[..4096] == [7; 4096]);
    }

    fn delays_add_up_and_what_is_delayed_may_fail(executor) {
        let bench = Bench::new("any=delay(20ms),read=delay(10ms),sync=EIO");
        let began = executor.now();
        let file = bench.open(executor);
        assert!(executor.now() - began >= Duration::from_millis(20));
        let began = executor.now();
        executor.block_on(file.read_bytes(executor, at(0), 4096)).unwrap();
        assert!(executor.now() - began >= Duration::from_millis(30));
        let began = executor.now();
        assert_eq!(errno(executor.block_on(file.sync(executor))), libc::EIO);
        assert!(executor.now() - began >= Duration::from_millis(20));
    }

    fn half_a_write_and_a_write_with_a_wrong_answer(executor) {
        let bench = Bench::new("writex1=done(EIO),writex1=torn(EIO)");
        let file = bench.open(executor);
        assert_eq!(errno(executor.block_on(file.write_bytes(executor, at(0), &[5; 4096]))), libc::EIO);
        assert!(fs::read(&bench.path).unwrap()[..4096] == [5; 4096]);
        let (_, result) = executor.block_on(file.write(executor, at(0), Buffer::from_bytes(&[6; 64 << 10])));
        assert_eq!(errno(result), libc::EIO);
        let left = fs::read(&bench.path).unwrap();
        let arrived = left.chunks(512).filter(|sector| **sector == [6; 512]).count();
        assert!((1..128).contains(&arrived), "{arrived} sectors of 128");
    }

    fn opening_fails_and_hangs_by_rules_too(executor) {
        let bench = Bench::new("openx1=ESTALE,openx2=hang");
        let error: Error = bench.try_open(executor).unwrap_err();
        assert_eq!((error.os_error(), &*error.origin().unwrap().place), (Some(libc::ESTALE), bench.path.to_str().unwrap()));
        let hung = executor.spawn(bench.files.open(executor, &bench.path, OpenOptions::read()));
        let given_up = executor.spawn(bench.files.open(executor, &bench.path, OpenOptions::read()));
        turn_until(executor, || bench.script.hanging() == 2);
        drop(given_up);
        assert_eq!(bench.script.hanging(), 1);
        assert!(executor.operations()[0].what.ends_with("opening, held back by a fault rule"));
        bench.script.release();
        assert_eq!(executor.block_on(hung).unwrap().length(), 64 << 10);
        // The rule has struck as often as it may.
        bench.open(executor);
    }

    fn one_path_only_is_struck_if_that_is_wanted(executor) {
        let bench = Bench::new("any=EIO");
        let other = bench.path.with_file_name("other");
        fs::write(&other, pattern(4096, 2)).unwrap();
        let files = FaultyFiles::new(Rc::new(Files), bench.script.clone()).only(&other);
        executor.block_on(async {
            let spared = files.open(executor, &bench.path, OpenOptions::read()).await.unwrap();
            assert_eq!(spared.read_bytes(executor, at(0), 512).await.unwrap(), pattern(512, 1));
            assert!(files.open(executor, &other, OpenOptions::read()).await.is_err());
            bench.script.replace("read=EIO").unwrap();
            let struck = files.open(executor, &other, OpenOptions::read()).await.unwrap();
            assert_eq!(errno(struck.read_bytes(executor, at(0), 512).await.map(drop)), libc::EIO);
            assert_eq!(files.canonical(executor, &other).await.unwrap(), fs::canonicalize(&other).unwrap());
        });
    }

    /// Of many at once, each is answered once, and just those fail that a rule strikes.
    fn of_two_hundred_operations_in_flight_exactly_those_fail_that_are_struck(executor) {
        let bench = Bench::new("read/50x7=EIO,read/50x3=delay(2ms)");
        let file = bench.open(executor);
        let reads = (0..200).map(|index| file.read_bytes(executor, at(index % 16 * 4096), 4096));
        let answers = executor.block_on(futures_util::future::join_all(reads));
        let failed: Vec<_> = answers.iter().enumerate().filter(|(_, answer)| answer.is_err()).map(|(at, _)| at).collect();
        assert_eq!(failed, (50..57).collect::<Vec<_>>());
        for (index, answer) in answers.into_iter().enumerate().filter(|(_, answer)| answer.is_ok()) {
            let start = index % 16 * 4096;
            assert!(answer.unwrap() == pattern(64 << 10, 1)[start..start + 4096], "read {index}");
        }
        // One for each read, and the one that opened it.
        assert_eq!((bench.script.seen(), bench.script.struck()), (201, 10));
    }
}

#[test]
fn a_rule_tells_what_is_left_of_it() {
    let script: FaultScript = "write@4K+512/2x3=EIO".parse().unwrap();
    let rules = script.rules();
    assert_eq!(rules[0].range, Some(FileRange::new(at(4096), 512)));
    assert_eq!(rules[0].to_string(), "write@0x1000+0x200/2x3=EIO");
}
