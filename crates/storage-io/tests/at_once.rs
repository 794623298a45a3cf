//! What is at hand is done at once: no other thread and no other turn is needed for bytes that are in memory.

#![allow(clippy::unwrap_used, reason = "a test fails where it cannot go on")]

mod common;

use std::{cell::Cell, future::poll_fn, rc::Rc, task::Poll};

use common::{at, new_file, open, pattern};
use futures_util::FutureExt;
use storage_io::{Buffer, Executor, StorageExt, StorageOperation};
use tempfile::TempDir;

/// A private directory in memory.
fn memory() -> TempDir {
    TempDir::new_in("/dev/shm").unwrap()
}

on_every_engine! {
    fn bytes_in_memory_are_there_when_they_were_asked_for(executor) {
        let directory = memory();
        let file = open(executor, &directory.path().join("file"), new_file(false));
        let bytes = pattern(64 << 10, 3);
        let buffer = Buffer::from_bytes(&bytes);
        let written = file.submit(executor, StorageOperation::Write { offset: at(512), buffer, durable: false }, None);
        assert!(written.now_or_never().expect("it was done at once").result.is_ok());
        assert_eq!(file.length(), 512 + (64 << 10));
        let buffer = Buffer::zeroed(bytes.len());
        let read = file.submit(executor, StorageOperation::Read { offset: at(512), buffer }, None);
        let read = read.now_or_never().expect("it was done at once");
        assert!(read.result.is_ok());
        assert_eq!(read.buffer.unwrap().to_vec(), bytes);
    }

    fn what_fails_at_once_says_what_and_where(executor) {
        let directory = memory();
        let path = directory.path().join("file");
        let file = open(executor, &path, new_file(false));
        let read = StorageOperation::Read { offset: at(4096), buffer: Buffer::zeroed(512) };
        let done = file.submit(executor, read, None).now_or_never().expect("it was done at once");
        let words = done.result.unwrap_err().to_string();
        assert!(words.contains(path.to_str().unwrap()) && words.contains("reading 512 bytes at 0x1000"), "{words}");
        assert!(words.contains("ends before"), "{words}");
        assert_eq!(done.buffer.map(|buffer| buffer.len()), Some(512));
    }

    fn a_task_that_moves_bytes_without_end_holds_up_no_other(executor) {
        let directory = memory();
        let file = open(executor, &directory.path().join("file"), new_file(false));
        executor.block_on(file.write_bytes(executor, at(0), &pattern(64 << 10, 1))).unwrap();
        let (is_over, moved) = (Rc::new(Cell::new(false)), Rc::new(Cell::new(0)));
        let (told, count, reader) = (is_over.clone(), moved.clone(), executor.clone());
        let moving = executor.spawn(async move {
            let mut buffer = Buffer::zeroed(64 << 10);
            while !told.get() && count.get() < 10_000 {
                let (read, result) = file.read(&reader, at(0), buffer).await;
                result.unwrap();
                buffer = read;
                count.set(count.get() + 1);
            }
        });
        executor.spawn(async move { is_over.set(true) }).detach();
        executor.block_on(moving);
        assert!(moved.get() > 1, "what is at hand takes no turn");
        assert!(moved.get() < 100, "the other task was held up for {} reads", moved.get());
    }

    fn what_ends_without_waiting_ends_before_it_is_left_alone(executor) {
        let steps = Rc::new(Cell::new(0));
        let own = steps.clone();
        executor.begin(async move { own.set(1) });
        assert_eq!(steps.get(), 1);
        let (own, later) = (steps.clone(), executor.clone());
        executor.begin(async move {
            own.set(2);
            later.yield_now().await;
            own.set(3);
        });
        assert_eq!(steps.get(), 2);
        executor.block_on(until(executor, || steps.get() == 3));
    }

    fn who_is_begun_by_a_task_may_begin_others_and_wake_it(executor) {
        let log = Rc::new(Cell::new(0));
        let (outer, own) = (executor.clone(), log.clone());
        let task = executor.spawn(async move {
            let (inner, deeper) = (outer.clone(), own.clone());
            let mut begun = false;
            poll_fn(move |cx| {
                if std::mem::replace(&mut begun, true) {
                    return Poll::Ready(());
                }
                let (waker, nested, count) = (cx.waker().clone(), inner.clone(), deeper.clone());
                inner.begin(async move {
                    let last = count.clone();
                    nested.begin(async move { last.set(last.get() + 1) });
                    count.set(count.get() + 10);
                    waker.wake();
                });
                Poll::Pending
            })
            .await;
            own.get()
        });
        assert_eq!(executor.block_on(task), 11);
    }
}

/// Lets others run until something is so.
async fn until(executor: &Executor, is_so: impl Fn() -> bool) {
    for _ in 0..1000 {
        if is_so() {
            return;
        }
        executor.yield_now().await;
    }
    panic!("it never became so");
}
