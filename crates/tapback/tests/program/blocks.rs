//! Blocks of a disk that any ring may be worked on with: what was answered must be there afterwards.

use std::cell::{Cell, RefCell};

use block_core::ErrorKind;
use futures_util::future::join_all;
use guest::Front;
use storage_io::Signal;

const BLOCKS: usize = 64;
const SECTORS: usize = 8;
/// Requests that are under way at a time.
const LANES: usize = 4;

/// What each block holds, as far as anybody knows.
#[derive(Default)]
pub(crate) struct Blocks {
    /// The last write that was answered, and the one after it if that was not.
    known: RefCell<Vec<(u64, Option<u64>)>>,
    generation: Cell<u64>,
    answered: Cell<u64>,
    must_stop: Cell<bool>,
    progress: Signal,
}

impl Blocks {
    pub(crate) fn answered(&self) -> u64 {
        self.answered.get()
    }

    /// Ends when so many requests have an answer.
    pub(crate) async fn until(&self, requests: u64) {
        self.progress.until(|| self.answered.get() >= requests).await;
    }

    /// Whoever works ends when what it has asked is answered.
    pub(crate) fn stop(&self) {
        self.must_stop.set(true);
    }

    /// What was answered is there; what was not may be.
    pub(crate) async fn verify(&self, front: &Front) {
        if self.known.borrow().is_empty() {
            self.known.replace(vec![(0, None); BLOCKS]);
        }
        for index in 0..BLOCKS {
            let found = front.read((index * SECTORS) as u64, SECTORS).await.unwrap();
            let words = found.as_chunks::<8>().0;
            assert!(words.iter().all(|word| word == &words[0]), "block {index} is half of one and half of another");
            let (found, (settled, perhaps)) = (u64::from_be_bytes(words[0]), self.known.borrow()[index]);
            assert!(found == settled || Some(found) == perhaps, "block {index}: {found}, not {settled} or {perhaps:?}");
            self.known.borrow_mut()[index] = (found, None);
        }
    }

    /// Writes and reads until told to stop, or the ring has gone.
    pub(crate) async fn work(&self, front: &Front) {
        self.must_stop.set(false);
        join_all((0..LANES).map(|lane| self.lane(front, lane))).await;
    }

    async fn lane(&self, front: &Front, lane: usize) {
        for index in (lane..BLOCKS).step_by(LANES).cycle() {
            if self.must_stop.get() {
                return;
            }
            let generation = self.generation.get() + 1;
            self.generation.set(generation);
            self.known.borrow_mut()[index].1 = Some(generation);
            let bytes = generation.to_be_bytes().repeat(SECTORS * 512 / 8);
            match front.write((index * SECTORS) as u64, &bytes).await {
                Ok(()) => self.known.borrow_mut()[index] = (generation, None),
                Err(error) if error.kind() == ErrorKind::Closed => return,
                Err(error) => panic!("block {index}: {error}"),
            }
            self.answered.set(self.answered.get() + 1);
            self.progress.notify();
        }
    }
}
