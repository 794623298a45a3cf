//! Files as storages: every operation, on every engine, past the page cache and through it.

#![allow(clippy::unwrap_used, reason = "a test fails where it cannot go on")]

mod common;

use std::{fs, os::unix::fs::MetadataExt, path::Path, rc::Rc};

use block_core::ErrorKind;
use common::{Draw, at, directory, new_file, open, pattern, range};
use futures_util::{FutureExt, future::join_all};
use storage_io::{
    Access, Buffer, Completion, CreateMode, EngineKind, Executor, Hold, LockPolicy, OpenOptions, Storage, StorageExt,
    StorageKind, StorageOperation, Wait,
};

on_every_engine! {
    fn what_is_written_is_read(executor) {
        for direct in [true, false] {
            let directory = directory();
            let path = directory.path().join("image");
            let file = open(executor, &path, new_file(direct));
            let bytes = pattern(16 << 10, 7);
            executor.block_on(async {
                file.write_bytes(executor, at(4096), &bytes).await.unwrap();
                file.sync(executor).await.unwrap();
                assert_eq!(file.length(), 4096 + (16 << 10));
                assert_eq!(file.read_bytes(executor, at(4096), bytes.len()).await.unwrap(), bytes);
                assert_eq!(file.read_bytes(executor, at(0), 4096).await.unwrap(), [0; 4096]);
            });
            drop(file);
            let on_disk = fs::read(&path).unwrap();
            assert_eq!((&on_disk[..4096], &on_disk[4096..]), (&[0; 4096][..], &bytes[..]));
        }
    }

    fn what_lies_in_memory_is_moved_in_the_turn_that_asks(executor) {
        let directory = tempfile::tempdir_in("/dev/shm").unwrap();
        let path = directory.path().join("image");
        let file = open(executor, &path, new_file(true));
        // Somebody else would often be slower than the next turn.
        for index in 0..200_u8 {
            let (offset, bytes) = (at(u64::from(index % 7) * 4096), pattern(4096, index));
            let write = StorageOperation::Write { offset, buffer: Buffer::from_bytes(&bytes), durable: false };
            let mut written = file.submit(executor, write, None);
            executor.turn(Wait::No).unwrap();
            assert!((&mut written).now_or_never().unwrap().result.is_ok());
            let mut read = file.submit(executor, StorageOperation::Read { offset, buffer: Buffer::zeroed(4096) }, None);
            executor.turn(Wait::No).unwrap();
            assert!((&mut read).now_or_never().unwrap().buffer.unwrap().to_vec() == bytes);
        }
        assert_eq!(executor.in_flight(), 0);
        let error = executor.block_on(file.read_bytes(executor, at(1 << 30), 4096)).unwrap_err();
        assert_eq!(error.kind(), ErrorKind::Io, "its end is where it is");
    }

    fn a_durable_write_is_a_write(executor) {
        let directory = directory();
        let file = open(executor, &directory.path().join("image"), new_file(true));
        let operation = StorageOperation::Write {
            offset: at(0),
            buffer: Buffer::from_bytes(&pattern(4096, 1)),
            durable: true,
        };
        executor.block_on(async {
            file.submit(executor, operation, None).await.result.unwrap();
            assert_eq!(file.read_bytes(executor, at(0), 4096).await.unwrap(), pattern(4096, 1));
        });
    }

    fn a_read_behind_the_end_fails_and_gives_the_buffer_back(executor) {
        for direct in [true, false] {
            let directory = directory();
            let path = directory.path().join("image");
            let file = open(executor, &path, new_file(direct));
            executor.block_on(async {
                file.write_bytes(executor, at(0), &pattern(1024, 1)).await.unwrap();
                for offset in [0, 512, 1024, 1 << 40] {
                    let (buffer, result) = file.read(executor, at(offset), Buffer::zeroed(2048)).await;
                    let error = result.unwrap_err();
                    assert_eq!((error.kind(), error.os_error(), buffer.len()), (ErrorKind::Io, None, 2048));
                    let words = format!("{}: reading 2048 bytes at {offset:#x}: the storage ends before the range does", path.display());
                    assert_eq!(error.to_string(), words);
                }
            });
        }
    }

    fn a_file_that_ends_inside_a_unit_reads_as_if_zeroes_followed(executor) {
        let directory = directory();
        let path = directory.path().join("image");
        fs::write(&path, pattern(1000, 3)).unwrap();
        let file = open(executor, &path, OpenOptions::read());
        if file.limits().alignment != 512 {
            let test = "a_file_that_ends_inside_a_unit_reads_as_if_zeroes_followed";
            return test_support::skip(test, "the target directory is not on a disk of 512-byte sectors");
        }
        executor.block_on(async {
            let mut buffer = Buffer::zeroed(1024);
            buffer.fill(0, 1024, 0xff);
            let (buffer, result) = file.read(executor, at(0), buffer).await;
            result.unwrap();
            assert_eq!(buffer.to_vec(), [pattern(1000, 3), vec![0; 24]].concat());
            // A unit more is behind the end.
            let error = file.read_bytes(executor, at(0), 1536).await.unwrap_err();
            assert_eq!((error.kind(), error.os_error()), (ErrorKind::Io, None));
        });
    }

    fn the_length_follows_writes_allocations_and_orders(executor) {
        let directory = directory();
        let path = directory.path().join("image");
        let file = open(executor, &path, new_file(true));
        executor.block_on(async {
            file.allocate(executor, range(0, 8192)).await.unwrap();
            assert_eq!((file.length(), fs::metadata(&path).unwrap().len()), (8192, 8192));
            assert!(fs::metadata(&path).unwrap().blocks() >= 16, "the room is there");
            file.write_bytes(executor, at(8192), &pattern(512, 1)).await.unwrap();
            assert_eq!(file.length(), 8704);
            file.set_length(executor, 4096).await.unwrap();
            assert_eq!((file.length(), fs::metadata(&path).unwrap().len()), (4096, 4096));
            file.set_length(executor, 16384).await.unwrap();
            assert_eq!(file.read_bytes(executor, at(4096), 12288).await.unwrap(), [0; 12288]);
        });
    }

    fn discarded_room_goes_back_and_reads_as_zeroes(executor) {
        for direct in [true, false] {
            let directory = directory();
            let path = directory.path().join("image");
            let file = open(executor, &path, new_file(direct));
            assert!(file.limits().discards, "the test's directory is on a file system with holes");
            let bytes = pattern(1 << 20, 9);
            executor.block_on(async {
                file.write_bytes(executor, at(0), &bytes).await.unwrap();
                file.sync(executor).await.unwrap();
                let before = fs::metadata(&path).unwrap().blocks();
                file.discard(executor, range(64 << 10, 512 << 10)).await.unwrap();
                let after = fs::metadata(&path).unwrap().blocks();
                // The file system may need a block of its own to note the hole.
                assert!(before - after >= 992, "{before} blocks before, {after} after");
                let mut expected = bytes.clone();
                expected[64 << 10..576 << 10].fill(0);
                assert!(file.read_bytes(executor, at(0), 1 << 20).await.unwrap() == expected);
            });
        }
    }

    fn zeroes_keep_their_room_unless_they_may_free_it(executor) {
        let directory = directory();
        let path = directory.path().join("image");
        let file = open(executor, &path, new_file(true));
        executor.block_on(async {
            file.write_bytes(executor, at(0), &pattern(1 << 20, 9)).await.unwrap();
            file.sync(executor).await.unwrap();
            let before = fs::metadata(&path).unwrap().blocks();
            file.write_zeroes(executor, range(0, 512 << 10), false).await.unwrap();
            assert!(fs::metadata(&path).unwrap().blocks() >= before);
            file.write_zeroes(executor, range(512 << 10, 256 << 10), true).await.unwrap();
            assert!(before - fs::metadata(&path).unwrap().blocks() >= 480);
            // What lies behind the end is nobody's: the file does not grow.
            file.write_zeroes(executor, range(1 << 20, 1 << 20), false).await.unwrap();
            assert_eq!(file.length(), 1 << 20);
            let expected = [vec![0; 768 << 10], pattern(1 << 20, 9)[768 << 10..].to_vec()].concat();
            assert!(file.read_bytes(executor, at(0), 1 << 20).await.unwrap() == expected);
        });
    }

    fn buffers_of_many_segments_arrive_in_order(executor) {
        for direct in [true, false] {
            let directory = directory();
            let file = open(executor, &directory.path().join("image"), new_file(direct));
            // More segments than one call takes; every other sector of a memory each, so that none touches its neighbour.
            let bytes = pattern(1500 * 512, 5);
            let scattered = || {
                let mut whole = Buffer::empty();
                for _ in 0..1500 {
                    let mut sector = Buffer::zeroed(1024);
                    drop(sector.split_off(512));
                    whole.append(sector);
                }
                whole
            };
            let mut written = scattered();
            written.copy_in(0, &bytes);
            assert_eq!(written.segment_count(), 1500);
            executor.block_on(async {
                let (written, result) = file.write(executor, at(512), written).await;
                result.unwrap();
                assert_eq!(written.segment_count(), 1500);
                let (read, result) = file.read(executor, at(512), scattered()).await;
                result.unwrap();
                assert!(read.to_vec() == bytes);
                assert!(file.read_bytes(executor, at(512), bytes.len()).await.unwrap() == bytes);
            });
        }
    }

    fn a_failed_write_names_file_place_and_cause(executor) {
        let directory = directory();
        let path = directory.path().join("image");
        let file = open(executor, &path, new_file(true));
        let (buffer, result) = executor.block_on(file.write(executor, at(1 << 62), Buffer::zeroed(512)));
        let error = result.unwrap_err();
        assert_eq!((error.os_error(), buffer.len()), (Some(libc::EFBIG), 512));
        let words = format!("{}: writing 512 bytes at 0x4000000000000000: File too large (os error 27)", path.display());
        assert_eq!(error.to_string(), words);
        assert_eq!(file.length(), 0, "what failed makes nothing longer");
    }

    fn what_is_not_aligned_is_refused_past_the_page_cache_only(executor) {
        let directory = directory();
        for (name, direct) in [("direct", true), ("cached", false)] {
            let file = open(executor, &directory.path().join(name), new_file(direct));
            let mut shifted = Buffer::zeroed(1024).split_off(256);
            let _ = shifted.split_off(512);
            let attempts = [(at(1), Buffer::zeroed(512)), (at(0), Buffer::zeroed(100)), (at(0), shifted)];
            for (offset, buffer) in attempts {
                let (_, result) = executor.block_on(file.write(executor, offset, buffer));
                assert_eq!(result.map_err(|error| error.kind()), if direct { Err(ErrorKind::Invalid) } else { Ok(()) });
            }
        }
    }

    fn a_file_that_is_open_for_reading_refuses_changes(executor) {
        let directory = directory();
        let path = directory.path().join("image");
        fs::write(&path, pattern(4096, 1)).unwrap();
        let file = open(executor, &path, OpenOptions::read());
        assert!(file.limits().read_only);
        executor.block_on(async {
            let changes = [
                file.write_bytes(executor, at(0), &[0; 512]).await,
                file.allocate(executor, range(0, 8192)).await,
                file.discard(executor, range(0, 512)).await,
                file.write_zeroes(executor, range(0, 512), false).await,
                file.set_length(executor, 0).await,
            ];
            for result in changes {
                assert_eq!(result.unwrap_err().kind(), ErrorKind::ReadOnly);
            }
            assert_eq!(file.read_bytes(executor, at(0), 4096).await.unwrap(), pattern(4096, 1));
        });
    }

    fn ten_thousand_random_operations_leave_what_an_array_would_hold(executor) {
        let seed = test_support::seed();
        for direct in [true, false] {
            let directory = directory();
            let path = directory.path().join("image");
            let file = open(executor, &path, new_file(direct));
            let lanes = executor.block_on(async {
                file.set_length(executor, LANES * LANE).await.unwrap();
                join_all((0..LANES).map(|lane| random_operations(executor, &*file, lane, seed ^ lane))).await
            });
            drop(file);
            assert!(fs::read(&path).unwrap() == lanes.concat(), "the file differs from the arrays");
        }
    }

    fn a_dropped_request_is_carried_out_and_keeps_its_hold_until_then(executor) {
        let directory = directory();
        let file = open(executor, &directory.path().join("image"), new_file(true));
        let hold: Hold = Rc::new(());
        for index in 0..16 {
            let buffer = Buffer::from_bytes(&pattern(64 << 10, index));
            let operation = StorageOperation::Write { offset: at(u64::from(index) << 16), buffer, durable: true };
            drop(file.submit(executor, operation, Some(hold.clone())));
        }
        assert!(Rc::strong_count(&hold) > 1, "an operation that nobody waits for keeps its hold");
        executor.block_on(async {
            while Rc::strong_count(&hold) > 1 {
                executor.yield_now().await;
            }
            assert_eq!(executor.in_flight(), 0);
            for index in 0..16 {
                let read = file.read_bytes(executor, at(u64::from(index) << 16), 64 << 10).await.unwrap();
                assert!(read == pattern(64 << 10, index), "write {index} was lost");
            }
        });
    }
}

/// Something that asks the executor a question when it is dropped.
struct Curious(Executor);

impl Drop for Curious {
    fn drop(&mut self) {
        drop(self.0.blocking("a job", || ()));
        // The job of the hold before may still run.
        assert!(self.0.in_flight() <= 2);
    }
}

on_every_engine! {
    fn a_hold_may_call_the_executor_when_it_is_dropped(executor) {
        let directory = directory();
        let file = open(executor, &directory.path().join("image"), new_file(true));
        let hold = || Some(Rc::new(Curious(executor.clone())) as Hold);
        executor.block_on(file.submit(executor, StorageOperation::Sync, hold())).result.unwrap();
        drop(file.submit(executor, StorageOperation::Sync, hold()));
        while executor.in_flight() > 0 {
            executor.turn(storage_io::Wait::For(std::time::Duration::from_secs(60))).unwrap();
        }
    }
}

const LANES: u64 = 8;
const LANE: u64 = 128 << 10;
const OPERATIONS: u64 = 10_000;

/// Random operations on one lane of a file, each compared with the same on an array; the array.
async fn random_operations(executor: &Executor, file: &dyn Storage, lane: u64, seed: u64) -> Vec<u8> {
    let mut draw = Draw::new(seed.wrapping_mul(0x9e37_79b9_7f4a_7c15));
    let mut model = vec![0; usize::try_from(LANE).unwrap()];
    for step in 0..OPERATIONS / LANES / 2 {
        let from = draw.below(LANE / 512) * 512;
        let length = (1 + draw.below(64)).min(LANE / 512 - from / 512) * 512;
        let place = range(lane * LANE + from, length);
        let (first, end) = (usize::try_from(from).unwrap(), usize::try_from(from + length).unwrap());
        match draw.below(16) {
            0 => file.sync(executor).await.unwrap(),
            1 => file.allocate(executor, place).await.unwrap(),
            2 => {
                file.discard(executor, place).await.unwrap();
                model[first..end].fill(0);
            }
            3 => {
                file.write_zeroes(executor, place, draw.below(2) == 0).await.unwrap();
                model[first..end].fill(0);
            }
            4..10 => {
                let bytes = pattern(end - first, u8::try_from(step % 256).unwrap());
                file.write_bytes(executor, place.start(), &bytes).await.unwrap();
                model[first..end].copy_from_slice(&bytes);
            }
            _ => {
                let mut buffer = Buffer::zeroed(end - first);
                let half = buffer.split_off((end - first) / 1024 * 512);
                let mut scattered = Buffer::empty();
                scattered.append(half);
                scattered.append(buffer);
                let (read, result) = file.read(executor, place.start(), scattered).await;
                result.unwrap();
                assert!(read.to_vec() == model[first..end], "lane {lane}, step {step}: {place} differs");
            }
        }
    }
    model
}

on_every_engine! {
    fn what_is_no_file_or_device_is_refused_by_name(executor) {
        let directory = directory();
        let pipe = directory.path().join("pipe");
        rustix::fs::mknodat(rustix::fs::CWD, &pipe, rustix::fs::FileType::Fifo, 0o600.into(), 0).unwrap();
        let socket = directory.path().join("socket");
        let _listener = std::os::unix::net::UnixListener::bind(&socket).unwrap();
        let refuse = |path: &Path| {
            let opening = storage_io::Opener::open(&storage_io::Files, executor, path, OpenOptions::read());
            executor.block_on(opening).unwrap_err()
        };
        for (path, words) in [
            (directory.path(), "is a directory"),
            (&pipe, "is a pipe"),
            (&socket, "is a socket"),
            (Path::new("/dev/null"), "is a character device"),
        ] {
            let error = refuse(path);
            assert_eq!(error.kind(), ErrorKind::Invalid);
            assert_eq!(error.to_string(), format!("{}: {words}, not a file or a block device", path.display()));
        }
        let missing = directory.path().join("missing");
        let error = refuse(&missing);
        assert_eq!((error.kind(), error.os_error()), (ErrorKind::NotFound, Some(libc::ENOENT)));
        assert_eq!(error.to_string(), format!("{}: No such file or directory (os error 2)", missing.display()));
    }

    fn files_are_made_new_or_cut_only_when_asked(executor) {
        let directory = directory();
        let path = directory.path().join("image");
        fs::write(&path, pattern(4096, 1)).unwrap();
        let try_open = |create| {
            let options = OpenOptions { create, lock: LockPolicy::None, ..OpenOptions::write() };
            executor.block_on(storage_io::Opener::open(&storage_io::Files, executor, &path, options))
        };
        assert_eq!(try_open(CreateMode::New).unwrap_err().os_error(), Some(libc::EEXIST));
        assert_eq!(try_open(CreateMode::No).unwrap().length(), 4096);
        assert_eq!(try_open(CreateMode::Truncate).unwrap().length(), 0);
        fs::remove_file(&path).unwrap();
        assert_eq!(try_open(CreateMode::Truncate).unwrap().length(), 0);
    }

    fn the_same_file_is_the_same_under_any_name(executor) {
        let directory = directory();
        let (path, link) = (directory.path().join("image"), directory.path().join("link"));
        fs::write(&path, pattern(512, 1)).unwrap();
        std::os::unix::fs::symlink(&path, &link).unwrap();
        let identity = |path: &Path| open(executor, path, OpenOptions::read()).limits().identity;
        assert_eq!(identity(&path), identity(&link));
        let canonical = |path: &Path| executor.block_on(storage_io::Opener::canonical(&storage_io::Files, executor, path));
        assert_eq!(canonical(&link).unwrap(), canonical(&path).unwrap());
        assert_eq!(canonical(&directory.path().join("gone")).unwrap_err().kind(), ErrorKind::NotFound);
        assert_eq!(open(executor, &path, OpenOptions::read()).limits().kind, StorageKind::File);
    }

    fn a_locked_file_is_busy_until_its_last_user_has_gone(executor) {
        let directory = directory();
        let path = directory.path().join("image");
        fs::write(&path, pattern(4096, 1)).unwrap();
        let lock = |milliseconds| LockPolicy::Exclusive { deadline: std::time::Duration::from_millis(milliseconds) };
        let attempt = |lock| {
            let options = OpenOptions { lock, ..OpenOptions::write() };
            storage_io::Opener::open(&storage_io::Files, executor, &path, options)
        };
        let first = executor.block_on(attempt(lock(0))).unwrap();
        let error = executor.block_on(attempt(lock(20))).unwrap_err();
        assert_eq!(error.kind(), ErrorKind::Busy);
        assert_eq!(error.to_string(), format!("{}: is in use by another process", path.display()));
        // Nothing is cut before the lock is there.
        let cut = OpenOptions { lock: lock(0), create: CreateMode::Truncate, ..OpenOptions::write() };
        assert!(executor.block_on(storage_io::Opener::open(&storage_io::Files, executor, &path, cut)).is_err());
        assert_eq!(fs::read(&path).unwrap(), pattern(4096, 1));
        // Readers, and who wants no lock, are let in.
        assert_eq!(open(executor, &path, OpenOptions::read()).length(), 4096);
        assert!(executor.block_on(attempt(LockPolicy::None)).is_ok());
        let waiting = executor.spawn(attempt(lock(60_000)));
        executor.block_on(async {
            executor.sleep(std::time::Duration::from_millis(20)).await;
            drop(first);
            waiting.await.unwrap();
        });
    }
}

/// Memory that the kernel still writes to is given to nobody: reads of `0xaa` are dropped in mid-flight, their memory
/// would be next in the pool, and what is put into the next buffers stays as it was put.
#[test]
fn the_memory_of_a_dropped_read_is_not_reused_before_its_completion() {
    use storage_io::{BufferPool, EngineChoice, Wait};
    const LENGTH: usize = 1 << 20;
    for choice in [EngineChoice::IoUring, EngineChoice::Libaio, EngineChoice::Threads] {
        let executor = &Executor::new(choice).unwrap();
        let directory = directory();
        let path = directory.path().join("image");
        fs::write(&path, vec![0xaa; 32 * LENGTH]).unwrap();
        let options = OpenOptions { access: Access::Read, ..OpenOptions::read() };
        let file = open(executor, &path, options);
        let pool = BufferPool::new(64 * LENGTH);
        let mut seen_in_flight = 0;
        for _ in 0..8 {
            let reads: Vec<_> = (0..32)
                .map(|index| {
                    let (offset, buffer) = (at(index << 20), pool.take(LENGTH));
                    file.submit(executor, StorageOperation::Read { offset, buffer }, None)
                })
                .collect();
            // Hands them over and comes back while they are on their way.
            executor.turn(Wait::No).unwrap();
            drop(reads);
            seen_in_flight += executor.in_flight();
            let mut next: Vec<_> = (0..64).map(|_| pool.take(LENGTH)).collect();
            next.iter_mut().for_each(|buffer| buffer.fill(0, LENGTH, 0x55));
            while executor.in_flight() > 0 {
                executor.turn(Wait::Forever).unwrap();
            }
            assert!(next.iter().all(|buffer| buffer.to_vec() == [0x55; LENGTH]), "{choice:?}: foreign bytes arrived");
        }
        assert!(seen_in_flight > 0, "{choice:?}: every read was too fast for this test");
        assert_ne!(executor.engine(), EngineKind::Inline);
    }
}

#[test]
fn what_was_submitted_is_carried_out_although_its_executor_goes() {
    use storage_io::EngineChoice;
    for choice in [EngineChoice::IoUring, EngineChoice::Libaio, EngineChoice::Threads, EngineChoice::Inline] {
        let directory = directory();
        let path = directory.path().join("image");
        let executor = Executor::new(choice).unwrap();
        let file = open(&executor, &path, new_file(true));
        for index in 0..40 {
            let buffer = Buffer::from_bytes(&pattern(4096, 1));
            let operation = StorageOperation::Write { offset: at(index * 4096), buffer, durable: false };
            drop(file.submit(&executor, operation, None));
        }
        drop((file, executor));
        let deadline = std::time::Instant::now() + std::time::Duration::from_secs(60);
        while fs::read(&path).unwrap() != pattern(4096, 1).repeat(40) {
            assert!(std::time::Instant::now() < deadline, "{choice:?}: a write was lost");
            std::thread::sleep(std::time::Duration::from_millis(5));
        }
    }
}

#[test]
fn an_answer_taken_by_hand_has_the_buffer() {
    let executor = Executor::new(storage_io::EngineChoice::Probe).unwrap();
    let directory = directory();
    let file = open(&executor, &directory.path().join("image"), new_file(true));
    let empty = StorageOperation::Write { offset: at(0), buffer: Buffer::empty(), durable: false };
    let Completion { buffer, result } = executor.block_on(file.submit(&executor, empty, None));
    assert_eq!((buffer.unwrap().len(), result.is_ok()), (0, true));
}
