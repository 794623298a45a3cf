//! How much each image of a chain did. Each queue counts for itself, in cache lines of its own: two queues never write
//! one line. Who asks gets the sums, with what queues have done that have gone.

use std::{
    cell::Cell,
    marker::PhantomData,
    sync::{
        Arc, Mutex, MutexGuard, PoisonError,
        atomic::{AtomicU64, Ordering::Relaxed},
    },
};

use block_core::SECTOR;
use image_format::ImageKind;

use crate::piece::LayerId;

/// What a transfer does; the index of its counters.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(crate) enum Direction {
    Read = 0,
    Write = 1,
}

/// A snapshot of one image's counters.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct LayerStatus {
    /// The image, as it was named when it was opened.
    pub name: String,
    /// Its format.
    pub kind: ImageKind,
    /// Sectors that this image read and wrote, failures included.
    pub hits: [u64; 2],
    /// Sectors of reads and writes that failed.
    pub fails: [u64; 2],
}

/// Live counters of a chain. A handle: any thread reads them, and it keeps no image open.
#[derive(Clone, Debug)]
pub struct ChainStatistics(Arc<Counters>);

#[derive(Debug)]
struct Counters {
    /// Base first.
    images: Vec<(String, ImageKind)>,
    /// Guards the list, not the counters in it.
    queues: Mutex<Queues>,
    gaps_written: AtomicU64,
    gaps_skipped: AtomicU64,
}

#[derive(Debug)]
struct Queues {
    present: Vec<Arc<[LayerCounters]>>,
    /// What those have done that have gone, by image.
    gone: Vec<Sectors>,
}

/// What one queue did with one image, in sectors.
#[derive(Debug, Default)]
#[repr(align(128))]
struct LayerCounters {
    hits: [AtomicU64; 2],
    fails: [AtomicU64; 2],
}

#[derive(Clone, Copy, Debug, Default)]
struct Sectors {
    hits: [u64; 2],
    fails: [u64; 2],
}

impl LayerCounters {
    fn add_to(&self, sum: &mut Sectors) {
        for direction in 0..2 {
            sum.hits[direction] += self.hits[direction].load(Relaxed);
            sum.fails[direction] += self.fails[direction].load(Relaxed);
        }
    }
}

impl ChainStatistics {
    pub(crate) fn new(images: impl IntoIterator<Item = (String, ImageKind)>) -> ChainStatistics {
        let images: Vec<_> = images.into_iter().collect();
        let queues = Queues { present: Vec::new(), gone: vec![Sectors::default(); images.len()] };
        let [gaps_written, gaps_skipped] = [0, 0].map(AtomicU64::new);
        ChainStatistics(Arc::new(Counters { images, queues: Mutex::new(queues), gaps_written, gaps_skipped }))
    }

    fn queues(&self) -> MutexGuard<'_, Queues> {
        self.0.queues.lock().unwrap_or_else(PoisonError::into_inner)
    }

    /// The images' counters, leaf first.
    pub fn layers(&self) -> Vec<LayerStatus> {
        let queues = self.queues();
        let mut sums = queues.gone.clone();
        queues.present.iter().for_each(|queue| add_all(queue, &mut sums));
        let status = |((name, kind), sum): (&(String, ImageKind), Sectors)| LayerStatus {
            name: name.clone(),
            kind: *kind,
            hits: sum.hits,
            fails: sum.fails,
        };
        self.0.images.iter().zip(sums).rev().map(status).collect()
    }

    /// Gaps between blocks that were written with the data behind them to keep a sequential write sequential, and those
    /// that were skipped over.
    pub fn gaps(&self) -> [u64; 2] {
        [&self.0.gaps_written, &self.0.gaps_skipped].map(|counter| counter.load(Relaxed))
    }

    /// Only home counts gaps.
    pub(crate) fn count_gap(&self, written: bool) {
        let counter = if written { &self.0.gaps_written } else { &self.0.gaps_skipped };
        counter.fetch_add(1, Relaxed);
    }

    /// Counters for one more queue.
    pub(crate) fn add_queue(&self) -> Recorder {
        let own: Arc<[LayerCounters]> = self.0.images.iter().map(|_| LayerCounters::default()).collect();
        self.queues().present.push(own.clone());
        Recorder { chain: self.clone(), own, _one_thread: PhantomData }
    }
}

fn add_all(queue: &[LayerCounters], sums: &mut [Sectors]) {
    queue.iter().zip(sums).for_each(|(counters, sum)| counters.add_to(sum));
}

/// The one who writes a queue's counters: it may move to the queue's thread, but never be shared.
#[derive(Debug)]
pub(crate) struct Recorder {
    chain: ChainStatistics,
    own: Arc<[LayerCounters]>,
    /// Not `Sync`: counters have one writer.
    _one_thread: PhantomData<Cell<()>>,
}

impl Recorder {
    pub(crate) fn count(&self, layer: LayerId, direction: Direction, bytes: u64, succeeded: bool) {
        let counters = &self.own[layer.index()];
        let sectors = bytes / SECTOR;
        add(&counters.hits[direction as usize], sectors);
        if !succeeded {
            add(&counters.fails[direction as usize], sectors);
        }
    }
}

/// Adds to a counter that nobody else writes.
fn add(counter: &AtomicU64, count: u64) {
    counter.store(counter.load(Relaxed) + count, Relaxed);
}

impl Drop for Recorder {
    fn drop(&mut self) {
        let mut queues = self.chain.queues();
        queues.present.retain(|queue| !Arc::ptr_eq(queue, &self.own));
        add_all(&self.own, &mut queues.gone);
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn what_queues_have_done_adds_up_and_stays_when_they_go() {
        let statistics = ChainStatistics::new([("base", ImageKind::Raw), ("leaf", ImageKind::Vhd)].map(named));
        let (first, second) = (statistics.add_queue(), statistics.add_queue());
        first.count(LayerId(1), Direction::Write, 4096, true);
        second.count(LayerId(1), Direction::Write, 512, false);
        second.count(LayerId(0), Direction::Read, 1024, true);
        let expected = [([0, 9], [0, 1]), ([2, 0], [0, 0])];
        let found = || statistics.layers().iter().map(|layer| (layer.hits, layer.fails)).collect::<Vec<_>>();
        assert_eq!(found(), expected);
        drop(second);
        assert_eq!((found(), statistics.queues().present.len()), (expected.to_vec(), 1));
    }

    fn named((name, kind): (&str, ImageKind)) -> (String, ImageKind) {
        (name.to_owned(), kind)
    }

    #[test]
    fn queues_have_cache_lines_of_their_own() {
        assert_eq!((align_of::<LayerCounters>() % 128, size_of::<LayerCounters>() % 128), (0, 0));
    }
}
