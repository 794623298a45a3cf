//! A killed process still writes: what it gave to io_uring lands after it is gone. Its lock tells when that has ended.

#![allow(clippy::unwrap_used, reason = "a test fails where it cannot go on")]

mod common;

use std::{
    env, fs,
    io::{BufRead, BufReader, Write},
    path::Path,
    process::{Child, Command, Stdio},
    thread,
    time::Duration,
};

use common::{at, directory, open};
use storage_io::{
    Buffer, EngineChoice, Executor, LockPolicy, OpenOptions, Storage, StorageExt, StorageOperation, Wait,
};

const NAME: &str = "a_successor_waits_for_the_last_write_of_a_killed_process";
const CHILD: &str = "OXTAP_TEST_KILL_NINE";

const PIECE: usize = 1 << 20;
const PIECES: u64 = 256;

/// The child's part: takes the lock, hands 256 MiB of writes to the kernel, says so, waits for its death.
fn be_killed(path: &Path) -> ! {
    let executor = Executor::new(EngineChoice::IoUring).unwrap();
    let file = open(&executor, path, OpenOptions::write());
    let writes: Vec<_> = (0..PIECES)
        .map(|index| {
            let mut buffer = Buffer::zeroed(PIECE);
            buffer.fill(0, PIECE, 0xaa);
            file.submit(&executor, StorageOperation::Write { offset: at(index << 20), buffer, durable: false }, None)
        })
        .collect();
    executor.turn(Wait::No).unwrap();
    println!("queued {}", executor.in_flight());
    std::io::stdout().flush().unwrap();
    loop {
        thread::park();
        assert_eq!(writes.len() as u64, PIECES);
    }
}

fn start_child(path: &Path) -> Child {
    Command::new(env::current_exe().unwrap())
        .args(["--exact", NAME, "--nocapture"])
        .env(CHILD, path)
        .stdout(Stdio::piped())
        .spawn()
        .unwrap()
}

/// Waits until the child has queued its writes, kills it and sees it gone.
fn kill(mut child: Child) {
    let lines = BufReader::new(child.stdout.take().unwrap()).lines();
    let queued = lines.map(Result::unwrap).find(|line| line.contains("queued"));
    child.kill().unwrap();
    child.wait().unwrap();
    queued.expect("the child queued its writes");
}

/// How many of the pieces that were queued last have arrived, told by their last sectors. Quick: it has to look before
/// the disk is done.
fn arrived(executor: &Executor, file: &dyn Storage) -> usize {
    executor.block_on(async {
        let mut count = 0;
        for index in PIECES - 8..PIECES {
            let last = file.read_bytes(executor, at(((index + 1) << 20) - 512), 512).await.unwrap();
            count += usize::from(last != [0; 512]);
        }
        count
    })
}

fn content(executor: &Executor, file: &dyn Storage) -> Vec<Vec<u8>> {
    executor.block_on(async {
        let mut pieces = Vec::new();
        for index in 0..PIECES {
            pieces.push(file.read_bytes(executor, at(index << 20), PIECE).await.unwrap());
        }
        pieces
    })
}

#[test]
fn a_successor_waits_for_the_last_write_of_a_killed_process() {
    if let Some(path) = env::var_os(CHILD) {
        be_killed(Path::new(&path));
    }
    let executor = &Executor::new(EngineChoice::IoUring).unwrap();
    for _ in 0..10 {
        let directory = directory();
        let path = directory.path().join("image");
        fs::write(&path, vec![0; PIECE * usize::try_from(PIECES).unwrap()]).unwrap();
        fs::File::open(&path).unwrap().sync_all().unwrap();
        let unlocked = open(executor, &path, OpenOptions::read());
        kill(start_child(&path));

        // The process is gone. Without the lock, this is where a successor would begin.
        let without_lock = arrived(executor, &*unlocked);
        let lock = LockPolicy::Exclusive { deadline: Duration::from_secs(120) };
        let locked = open(executor, &path, OpenOptions { lock, ..OpenOptions::write() });
        let with_lock = arrived(executor, &*locked);
        let before = content(executor, &*locked);
        thread::sleep(Duration::from_secs(1));
        assert!(content(executor, &*locked) == before, "the content changed after the lock was taken");
        println!("{without_lock} of 8 pieces when the process was gone, {with_lock} when the lock was free");
        if with_lock > without_lock {
            return;
        }
    }
    test_support::skip(NAME, "this disk is so fast that nothing landed after the process was gone");
}
