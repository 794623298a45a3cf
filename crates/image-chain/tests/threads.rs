//! Queues on threads of their own: what they ask of home and of each other crosses threads.

#![allow(clippy::unwrap_used, reason = "a test that panics has told its story")]

mod support;

use std::thread;

use image_chain::{Queue, QueueSeed};
use storage_io::{Buffer, EngineChoice, Executor, Reply, reply};
use support::{BLOCK, Host, range};

const THREADS: u64 = 3;
/// Less than a sector, so that every write must hold its sector alone.
const CELL: usize = 100;
const CELLS: u64 = 600;

/// Writes every third cell, from `number` on, then discards and rewrites a block of its own, and reads all of it back.
async fn work(queue: Queue, number: u64) {
    let byte = u8::try_from(number + 1).unwrap();
    for cell in (number..CELLS).step_by(usize::try_from(THREADS).unwrap()) {
        let write = queue.write(range(cell * CELL as u64, CELL as u64), Buffer::from_bytes(&[byte; CELL]), false);
        write.await.1.unwrap();
    }
    let own = range((1 + number) * BLOCK, BLOCK);
    for round in 0..5 {
        let bytes = vec![byte + 10 * round; usize::try_from(BLOCK).unwrap()];
        queue.write(own, Buffer::from_bytes(&bytes), false).await.1.unwrap();
        let (buffer, result) = queue.read(own, Buffer::zeroed(bytes.len())).await;
        result.unwrap();
        assert!(buffer.to_vec() == bytes, "thread {number}, round {round}");
        queue.discard(own).await.unwrap();
    }
    queue.flush().await.unwrap();
}

fn start(seed: QueueSeed, number: u64) -> (thread::JoinHandle<()>, Reply<()>) {
    let (done, answer) = reply();
    let run = move || {
        let executor = Executor::new(EngineChoice::Inline).unwrap();
        executor.block_on(work(seed.start(&executor), number));
        // Home forgets the queue while this thread still answers it.
        executor.end_tasks();
        done.answer(()).unwrap();
    };
    (thread::spawn(run), answer)
}

#[test]
fn queues_on_three_threads_lose_no_byte() {
    let host = Host::new();
    host.vhd("/base.vhd", 1);
    host.write("vhd:/base.vhd", 0, &vec![9; CELL * usize::try_from(CELLS).unwrap()]);
    host.child("/leaf.vhd", "/base.vhd", 1 + THREADS);
    let disk = host.open("vhd:/leaf.vhd").unwrap();
    let threads: Vec<_> = (0..THREADS).map(|number| start(disk.home.attach(), number)).collect();
    for (thread, done) in threads {
        assert_eq!(disk.run(done), Some(()), "a thread panicked");
        thread.join().unwrap();
    }
    let all = disk.read(0, CELL * usize::try_from(CELLS).unwrap());
    for (cell, bytes) in all.chunks(CELL).enumerate() {
        assert_eq!(bytes, [u8::try_from(cell % 3).unwrap() + 1; CELL], "cell {cell}");
    }
    disk.close();
}
