//! Block devices, and devices that hang; loop devices need root.

#![allow(clippy::unwrap_used, reason = "a test fails where it cannot go on")]

mod common;

use std::{
    cell::Cell,
    env, fs,
    io::{BufRead, BufReader, Write},
    os::unix::fs::MetadataExt,
    path::{Path, PathBuf},
    process::{Command, Stdio},
    rc::Rc,
    sync::mpsc,
    thread,
    time::{Duration, Instant},
};

use block_core::{ErrorKind, Result};
use common::{at, directory, open, pattern, range};
use storage_io::{
    Buffer, EngineChoice, Executor, Files, Hold, LockPolicy, OpenOptions, Opener, Storage, StorageExt, StorageKind,
    StorageOperation, Wait,
};
use test_support::{LoopDevice, require_tool, skip};

const ENGINES: [EngineChoice; 3] = [EngineChoice::IoUring, EngineChoice::Libaio, EngineChoice::Threads];

/// Far longer than anything here takes.
const HANG: Duration = Duration::from_secs(60);

fn try_lock(executor: &Executor, path: &Path, deadline: Duration) -> Result<std::sync::Arc<dyn Storage>> {
    let options = OpenOptions { lock: LockPolicy::Exclusive { deadline }, ..OpenOptions::write() };
    executor.block_on(Files.open(executor, path, options))
}

#[test]
fn a_device_is_a_storage_of_fixed_length() {
    let directory = directory();
    let backing = directory.path().join("backing");
    fs::write(&backing, pattern(1 << 20, 1)).unwrap();
    let Some(device) = LoopDevice::attach("a_device_is_a_storage_of_fixed_length", &backing) else { return };
    for choice in ENGINES {
        let executor = &Executor::new(choice).unwrap();
        let storage = open(executor, device.path(), OpenOptions::write());
        let limits = storage.limits();
        assert_eq!((storage.length(), limits.kind, limits.alignment), (1 << 20, StorageKind::BlockDevice, 512));
        assert_eq!((limits.logical_block_size, limits.read_only), (512, false));
        let number = fs::metadata(device.path()).unwrap().rdev();
        assert_eq!(limits.identity, (number, number));
        executor.block_on(async {
            storage.write_bytes(executor, at(4096), &pattern(8192, 9)).await.unwrap();
            storage.sync(executor).await.unwrap();
            assert_eq!(storage.read_bytes(executor, at(4096), 8192).await.unwrap(), pattern(8192, 9));
            storage.allocate(executor, range(0, 1 << 20)).await.unwrap();
            let error = storage.allocate(executor, range(1 << 20, 512)).await.unwrap_err();
            assert_eq!(error.kind(), ErrorKind::NoSpace);
            assert_eq!(storage.set_length(executor, 512).await.unwrap_err().kind(), ErrorKind::Unsupported);
            assert!(storage.read_bytes(executor, at((1 << 20) - 512), 1024).await.is_err());
            assert!(storage.write_bytes(executor, at(1 << 20), &[1; 512]).await.is_err());
            assert_eq!(storage.length(), 1 << 20);
            let busy = Files.open(
                executor,
                device.path(),
                OpenOptions { lock: LockPolicy::Exclusive { deadline: Duration::ZERO }, ..OpenOptions::write() },
            );
            assert_eq!(busy.await.unwrap_err().kind(), ErrorKind::Busy);
        });
    }
}

#[test]
fn a_discard_reaches_the_device() {
    let directory = directory();
    let backing = directory.path().join("backing");
    fs::write(&backing, vec![1; 4 << 20]).unwrap();
    fs::File::open(&backing).unwrap().sync_all().unwrap();
    let Some(device) = LoopDevice::attach("a_discard_reaches_the_device", &backing) else { return };
    for (index, choice) in ENGINES.into_iter().enumerate() {
        let executor = &Executor::new(choice).unwrap();
        let start = index as u64 * (1 << 20);
        for (step, direct) in [true, false].into_iter().enumerate() {
            let storage = open(executor, device.path(), OpenOptions { direct, ..OpenOptions::write() });
            assert!(storage.limits().discards);
            let part = range(start + step as u64 * (256 << 10), 256 << 10);
            executor.block_on(async {
                let before = fs::metadata(&backing).unwrap().blocks();
                storage.discard(executor, part).await.unwrap();
                let after = fs::metadata(&backing).unwrap().blocks();
                // The file system may need a block of its own to note the hole.
                assert!(before - after >= 480, "{choice:?}: {before} blocks before, {after} after");
                let zeroes = storage.read_bytes(executor, part.start(), 256 << 10).await.unwrap();
                assert!(zeroes.iter().all(|byte| *byte == 0));

                let part = range(start + (512 << 10) + step as u64 * (256 << 10), 200_192);
                let before = fs::metadata(&backing).unwrap().blocks();
                storage.write_zeroes(executor, part, step == 1).await.unwrap();
                let zeroes = storage.read_bytes(executor, part.start(), 200_192).await.unwrap();
                assert!(zeroes.iter().all(|byte| *byte == 0));
                assert_eq!(storage.read_bytes(executor, part.end(), 512).await.unwrap(), [1; 512]);
                if step == 1 {
                    assert!(before - fs::metadata(&backing).unwrap().blocks() >= 300, "{choice:?}");
                }
            });
        }
    }
}

#[test]
fn through_the_page_cache_any_range_of_a_device_can_be_zeroed() {
    let directory = directory();
    let backing = directory.path().join("backing");
    fs::write(&backing, vec![1; 1 << 20]).unwrap();
    let test = "through_the_page_cache_any_range_of_a_device_can_be_zeroed";
    let Some(device) = LoopDevice::attach(test, &backing) else { return };
    let executor = &Executor::new(EngineChoice::Probe).unwrap();
    let storage = open(executor, device.path(), OpenOptions { direct: false, ..OpenOptions::write() });
    executor.block_on(async {
        storage.write_zeroes(executor, range(700, 5000), false).await.unwrap();
        storage.write_zeroes(executor, range(8200, 100), true).await.unwrap();
        // The bytes of a unit that a discard covers in part stay.
        storage.discard(executor, range(10_000, 200)).await.unwrap();
        let mut expected = vec![1; 12_000];
        expected[700..5700].fill(0);
        expected[8200..8300].fill(0);
        assert!(storage.read_bytes(executor, at(0), 12_000).await.unwrap() == expected);
    });
}

#[test]
fn a_device_of_large_sectors_serves_any_bytes() {
    let directory = directory();
    let backing = directory.path().join("backing");
    let mut model = pattern(1 << 20, 1);
    fs::write(&backing, &model).unwrap();
    let test = "a_device_of_large_sectors_serves_any_bytes";
    let Some(device) = LoopDevice::attach_with(test, &backing, &["--sector-size=4096"]) else { return };
    for (salt, choice) in ENGINES.into_iter().enumerate() {
        let executor = &Executor::new(choice).unwrap();
        let storage = open(executor, device.path(), OpenOptions::write());
        assert_eq!((storage.limits().alignment, storage.limits().logical_block_size), (1, 4096));
        executor.block_on(async {
            let bytes = pattern(20_000, u8::try_from(salt).unwrap());
            let write = |from| storage.write_bytes(executor, at(from), &bytes[..512]);
            // All in one unit, at once.
            let writes = futures_util::future::join_all([8192, 9216, 8704, 10_240].map(write)).await;
            writes.into_iter().for_each(|result| result.unwrap());
            storage.write_bytes(executor, at(40_000), &bytes).await.unwrap();
            for from in [8192, 9216, 8704, 10_240] {
                model[from..from + 512].copy_from_slice(&bytes[..512]);
            }
            model[40_000..60_000].copy_from_slice(&bytes);
            assert!(storage.read_bytes(executor, at(0), 1 << 20).await.unwrap() == model, "{choice:?}");
            assert!(storage.read_bytes(executor, at(39_999), 20_002).await.unwrap() == model[39_999..60_001]);
        });
    }
}

/// A file system on a loop device.
struct Mount {
    directory: PathBuf,
    _device: LoopDevice,
    _scratch: tempfile::TempDir,
}

impl Mount {
    fn new(test: &str, options: &[&str]) -> Option<Mount> {
        let scratch = directory();
        let (image, directory) = (scratch.path().join("image"), scratch.path().join("mount"));
        fs::File::create(&image).unwrap().set_len(64 << 20).unwrap();
        let device = LoopDevice::attach_with(test, &image, options)?;
        run(Command::new(require_tool("mke2fs")).args(["-q", "-F", "-t", "ext4"]).arg(device.path())).unwrap();
        fs::create_dir(&directory).unwrap();
        if let Err(reason) = run(Command::new("mount").arg(device.path()).arg(&directory)) {
            skip(test, &format!("cannot mount: {reason}"));
            return None;
        }
        Some(Mount { directory, _device: device, _scratch: scratch })
    }
}

impl Drop for Mount {
    fn drop(&mut self) {
        // What a failed test has left open does not keep it.
        let _ = run(Command::new("umount").arg("--lazy").arg(&self.directory));
    }
}

/// A file past the page cache on 4 KiB sectors: written in any units, it is as long as it was made.
#[test]
fn a_file_on_large_sectors_keeps_its_exact_length() {
    let test = "a_file_on_large_sectors_keeps_its_exact_length";
    let Some(mount) = Mount::new(test, &["--sector-size=4096"]) else { return };
    for choice in ENGINES {
        let executor = &Executor::new(choice).unwrap();
        let path = mount.directory.join(format!("{choice:?}"));
        let file = open(executor, &path, common::new_file(true));
        assert_eq!((file.limits().alignment, file.limits().kind), (1, StorageKind::File));
        assert!(format!("{file:?}").contains("AlignedStorage"), "the file system asks for whole sectors of 4 KiB");
        let on_disk = || fs::read(&path).unwrap();
        executor.block_on(async {
            let mut model = pattern(1536, 1);
            file.write_bytes(executor, at(0), &model).await.unwrap();
            assert!(on_disk() == model);
            file.write_bytes(executor, at(1536), &pattern(10_000, 2)).await.unwrap();
            model.extend(pattern(10_000, 2));
            assert!(on_disk() == model);
            file.write_bytes(executor, at(4000), &pattern(200, 3)).await.unwrap();
            model[4000..4200].copy_from_slice(&pattern(200, 3));
            assert!(on_disk() == model);
            file.allocate(executor, range(0, 20_000)).await.unwrap();
            model.resize(20_000, 0);
            assert!(on_disk() == model);
            file.discard(executor, range(1000, 15_000)).await.unwrap();
            model[1000..16_000].fill(0);
            assert!(on_disk() == model);
            file.set_length(executor, 777).await.unwrap();
            model.truncate(777);
            assert!(on_disk() == model);
            assert!(file.read_bytes(executor, at(0), 777).await.unwrap() == model);
            assert!(file.read_bytes(executor, at(700), 78).await.is_err());
        });
        drop(file);
        let reader = open(executor, &path, OpenOptions::read());
        assert!(executor.block_on(reader.read_bytes(executor, at(1), 776)).unwrap() == on_disk()[1..]);
    }
}

/// A loop device whose file lies on a file system that can be frozen: then its writes hang until it thaws.
///
/// ```text
///   device --> inner file --> ext4 (frozen) --> another loop device --> outer file
/// ```
struct Freezer {
    device: Option<LoopDevice>,
    mount: Mount,
    /// Thaws after a while, should the test itself hang; dropping it ends that.
    watchdog: Cell<Option<mpsc::Sender<()>>>,
}

impl Freezer {
    const LENGTH: usize = 4 << 20;

    fn new(test: &str) -> Option<Freezer> {
        let mount = Mount::new(test, &[])?;
        let inner = mount.directory.join("inner");
        fs::write(&inner, vec![0; Self::LENGTH]).unwrap();
        fs::File::open(&inner).unwrap().sync_all().unwrap();
        let device = LoopDevice::attach(test, &inner)?;
        Some(Freezer { device: Some(device), mount, watchdog: Cell::new(None) })
    }

    fn path(&self) -> &Path {
        self.device.as_ref().unwrap().path()
    }

    fn freeze(&self) {
        run(Command::new("fsfreeze").arg("--freeze").arg(&self.mount.directory)).unwrap();
        let (watchdog, test) = mpsc::channel();
        self.watchdog.set(Some(watchdog));
        let mount = self.mount.directory.clone();
        thread::spawn(move || {
            if test.recv_timeout(HANG) == Err(mpsc::RecvTimeoutError::Timeout) {
                run(Command::new("fsfreeze").arg("--unfreeze").arg(&mount)).unwrap();
            }
        });
    }

    fn thaw(&self) {
        run(Command::new("fsfreeze").arg("--unfreeze").arg(&self.mount.directory)).unwrap();
        self.watchdog.set(None);
    }
}

impl Drop for Freezer {
    fn drop(&mut self) {
        // Frozen only if the test has failed.
        let _ = run(Command::new("fsfreeze").arg("--unfreeze").arg(&self.mount.directory));
        drop(self.device.take());
    }
}

fn run(command: &mut Command) -> std::result::Result<(), String> {
    let output = command.output().unwrap();
    if output.status.success() { Ok(()) } else { Err(String::from_utf8_lossy(&output.stderr).trim().to_string()) }
}

fn write(storage: &dyn Storage, executor: &Executor, hold: Option<Hold>) -> storage_io::Pending {
    let buffer = Buffer::from_bytes(&pattern(64 << 10, 3));
    storage.submit(executor, StorageOperation::Write { offset: at(0), buffer, durable: false }, hold)
}

#[test]
fn a_hung_device_keeps_its_lock_and_its_memory_and_nobody_else() {
    let Some(freezer) = Freezer::new("a_hung_device_keeps_its_lock_and_its_memory_and_nobody_else") else { return };
    for choice in ENGINES {
        let executor = &Executor::new(choice).unwrap();
        let storage = try_lock(executor, freezer.path(), HANG).unwrap();
        freezer.freeze();
        let hold: Hold = Rc::new(());
        let pending = write(&*storage, executor, Some(hold.clone()));
        executor.block_on(executor.sleep(Duration::from_millis(100)));
        assert_eq!(executor.in_flight(), 1, "{choice:?}: the write hangs");

        // Forced close: nobody waits for the answer, nobody uses the storage.
        let start = Instant::now();
        drop((pending, storage));
        executor.end_tasks();
        assert!(start.elapsed() < HANG / 2);
        assert_eq!((executor.in_flight(), Rc::strong_count(&hold)), (1, 2), "{choice:?}");
        let error = try_lock(executor, freezer.path(), Duration::from_millis(100)).unwrap_err();
        assert_eq!(error.kind(), ErrorKind::Busy, "{choice:?}: a successor waits");
        // The executor serves others meanwhile.
        let elsewhere = directory();
        let file = open(executor, &elsewhere.path().join("image"), common::new_file(true));
        executor.block_on(file.write_bytes(executor, at(0), &[1; 512])).unwrap();

        freezer.thaw();
        let storage = try_lock(executor, freezer.path(), HANG).unwrap();
        while executor.in_flight() > 0 {
            executor.turn(Wait::For(HANG)).unwrap();
        }
        assert_eq!(Rc::strong_count(&hold), 1, "{choice:?}");
        let read = executor.block_on(storage.read_bytes(executor, at(0), 64 << 10)).unwrap();
        assert!(read == pattern(64 << 10, 3), "{choice:?}: the write was carried out");
        executor.block_on(storage.write_zeroes(executor, range(0, 64 << 10), false)).unwrap();
    }
}

#[test]
fn dropping_an_executor_leaves_what_hangs_to_the_kernel() {
    let Some(freezer) = Freezer::new("dropping_an_executor_leaves_what_hangs_to_the_kernel") else { return };
    for choice in ENGINES {
        let executor = Executor::new(choice).unwrap();
        let options = OpenOptions { lock: LockPolicy::None, ..OpenOptions::write() };
        let storage = open(&executor, freezer.path(), options);
        freezer.freeze();
        let pending = write(&*storage, &executor, None);
        executor.block_on(executor.sleep(Duration::from_millis(50)));
        let start = Instant::now();
        drop((pending, storage, executor));
        assert!(start.elapsed() < HANG / 2, "{choice:?}: dropping waited");
        freezer.thaw();

        let executor = &Executor::new(choice).unwrap();
        let storage = open(executor, freezer.path(), options);
        let deadline = Instant::now() + HANG;
        executor.block_on(async {
            while storage.read_bytes(executor, at(0), 64 << 10).await.unwrap() != pattern(64 << 10, 3) {
                assert!(Instant::now() < deadline, "{choice:?}: the write was lost");
                executor.sleep(Duration::from_millis(10)).await;
            }
            storage.write_zeroes(executor, range(0, 64 << 10), false).await.unwrap();
        });
    }
}

const CHILD: &str = "OXTAP_TEST_HUNG_CHILD";
const CHILD_TEST: &str = "the_lock_outlives_a_killed_process_whose_write_hangs";

#[test]
fn the_lock_outlives_a_killed_process_whose_write_hangs() {
    if let Some(path) = env::var_os(CHILD) {
        let executor = Executor::new(EngineChoice::IoUring).unwrap();
        let storage = try_lock(&executor, Path::new(&path), HANG).unwrap();
        println!("locked");
        std::io::stdout().flush().unwrap();
        std::io::stdin().read_line(&mut String::new()).unwrap();
        let _pending = write(&*storage, &executor, None);
        executor.turn(Wait::No).unwrap();
        println!("queued");
        std::io::stdout().flush().unwrap();
        loop {
            thread::park();
        }
    }
    let Some(freezer) = Freezer::new(CHILD_TEST) else { return };
    let executor = &Executor::new(EngineChoice::IoUring).unwrap();
    let mut child = Command::new(env::current_exe().unwrap())
        .args(["--exact", CHILD_TEST, "--nocapture"])
        .env(CHILD, freezer.path())
        .stdin(Stdio::piped())
        .stdout(Stdio::piped())
        .spawn()
        .unwrap();
    let mut lines = BufReader::new(child.stdout.take().unwrap()).lines().map(|line| line.unwrap());
    lines.find(|line| line.contains("locked")).unwrap();
    freezer.freeze();
    child.stdin.take().unwrap().write_all(b"go\n").unwrap();
    lines.find(|line| line.contains("queued")).unwrap();
    child.kill().unwrap();
    let error = try_lock(executor, freezer.path(), Duration::from_millis(300)).unwrap_err();
    assert_eq!(error.kind(), ErrorKind::Busy, "the write of the killed process has not ended");
    let gone = child.try_wait().unwrap().is_some();
    freezer.thaw();
    let storage = try_lock(executor, freezer.path(), HANG).unwrap();
    let read = executor.block_on(storage.read_bytes(executor, at(0), 64 << 10)).unwrap();
    assert!(read == pattern(64 << 10, 3), "its write landed");
    child.wait().unwrap();
    println!("the process was {} before its write ended", if gone { "gone" } else { "still dying" });
}
