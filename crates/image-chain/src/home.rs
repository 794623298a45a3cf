//! Home: the one executor that opens a chain, changes its tables and closes it. Queues send it what they cannot do.

use std::{rc::Rc, sync::Arc};

use block_core::{Error, ErrorKind, Result, SECTOR};
use image_format::{Format, Image, ImageKind};
use storage_io::{Access, Executor, Receiver, Sender, Storage, Task, mailbox};
use uuid::Uuid;

use crate::{
    chain::Chain,
    messages::ToHome,
    open::Writing,
    owners::OwnerWriter,
    queue::QueueSeed,
    resting::Resting,
    shared::{Shared, TableClock},
    statistics::{ChainStatistics, LayerStatus},
};

/// One image of a chain, opened.
#[derive(Debug)]
pub struct Layer<F> {
    /// How it was named.
    pub name: String,
    /// Its format.
    pub kind: ImageKind,
    /// The image.
    pub format: F,
}

/// How a chain is run.
#[derive(Clone, Copy, Debug)]
pub struct HomeOptions {
    /// Bytes that the owner map may take; zero works, slowly.
    pub owner_bytes_max: usize,
    /// Refuse to write, even if the leaf could.
    pub read_only: bool,
}

/// 32 MiB hold the words of a 4 TiB disk whose blocks are all mixed of sixteen runs.
pub const OWNER_BYTES_DEFAULT: usize = 32 << 20;

impl Default for HomeOptions {
    fn default() -> Self {
        HomeOptions { owner_bytes_max: OWNER_BYTES_DEFAULT, read_only: false }
    }
}

/// An open chain. It stays on the executor that opened it; [`Home::attach`] makes queues for this thread and others.
pub struct Home<F: Format + 'static = Image> {
    chain: Rc<Chain<F>>,
    logical_block_size: u32,
    gives_room_back: bool,
    mail: Sender<ToHome>,
    /// What is left when it rests, if its files are known.
    resting: Option<Resting>,
    /// Takes what the queues send, while the chain is open.
    taking: Task<()>,
}

impl<F: Format + 'static> Home<F> {
    /// A chain of images, leaf first.
    ///
    /// # Panics
    /// Without an image, or with more than 65536.
    pub fn new(executor: &Executor, layers: Vec<Layer<F>>, options: HomeOptions) -> Home<F> {
        let mut layers = layers;
        assert!(!layers.is_empty() && layers.len() <= 1 << 16, "a chain has one to 65536 images");
        layers.reverse();
        let statistics = ChainStatistics::new(layers.iter().map(|layer| (layer.name.clone(), layer.kind)));
        let leaf = layers.last().expect("a chain has at least one image");
        let leaf_limits = leaf.format.storage().limits();
        let logical_block_size = match leaf.kind {
            ImageKind::Raw => leaf_limits.logical_block_size,
            ImageKind::Vhd => u32::try_from(SECTOR).expect("a sector is small"),
        };
        let gives_room_back = match leaf.kind {
            ImageKind::Raw => leaf_limits.discards,
            // The room of a block goes to another one.
            ImageKind::Vhd => true,
        };
        let size = leaf.format.size() / SECTOR * SECTOR;
        let granule = leaf.format.granule();
        let owners = OwnerWriter::new(size, granule, options.owner_bytes_max);
        let shared = Arc::new(Shared {
            size,
            granule,
            read_only: options.read_only || leaf_limits.read_only,
            owners: owners.map().clone(),
            storages: layers.iter().map(|layer| layer.format.storage().clone()).collect(),
            keys: layers.iter().map(|layer| layer.format.key().cloned()).collect(),
            leaf_limits,
            statistics,
            tables: TableClock::new(),
        });
        let formats = layers.into_iter().map(|layer| layer.format).collect();
        let chain = Chain::new(executor, formats, shared, owners);
        let (mail, received) = mailbox();
        let taking = executor.spawn(take_mail(chain.clone(), received));
        Home { chain, logical_block_size, gives_room_back, mail, resting: None, taking }
    }

    pub(crate) fn resting_as(self, resting: Resting) -> Home<F> {
        Home { resting: Some(resting), ..self }
    }

    /// Bytes of the disk.
    pub fn size(&self) -> u64 {
        self.chain.shared.size
    }

    /// Bytes in the unit in which the disk likes to be used.
    pub fn logical_block_size(&self) -> u32 {
        self.logical_block_size
    }

    /// Whether writes are refused.
    pub fn is_read_only(&self) -> bool {
        self.chain.shared.read_only
    }

    /// Whether writes are refused only until write access is taken.
    pub fn writes_later(&self) -> bool {
        let spec = self.resting.as_ref().map(Resting::spec);
        spec.is_some_and(|spec| spec.access == Access::Write && spec.writing == Writing::Later)
    }

    /// Its open files, if it was opened by name.
    pub fn files(&self) -> Option<&Resting> {
        self.resting.as_ref()
    }

    /// Whether a discard gives room back, to the file system or to other blocks of the image.
    pub fn gives_room_back(&self) -> bool {
        self.gives_room_back && (!self.is_read_only() || self.writes_later())
    }

    /// The images, leaf first, with their counters.
    pub fn layers(&self) -> Vec<LayerStatus> {
        self.statistics().layers()
    }

    /// The counters, to be read by any thread while the chain is open and after.
    pub fn statistics(&self) -> ChainStatistics {
        self.chain.shared.statistics.clone()
    }

    /// What a child of the leaf would record of it, if images of its kind have an identity.
    pub fn identity(&self) -> Option<Uuid> {
        self.chain.leaf().identity()
    }

    /// The storage of the leaf: what the disk can do is up to it.
    pub fn leaf_storage(&self) -> &Arc<dyn Storage> {
        self.chain.leaf().storage()
    }

    /// A new queue, to be sent to the thread that shall run it.
    pub fn attach(&self) -> QueueSeed {
        let (to_queue, mail) = mailbox();
        let (id, claims) = self.chain.claiming.add_queue(to_queue);
        let shared = self.chain.shared.clone();
        let recorder = shared.statistics.add_queue();
        QueueSeed { id, shared, recorder, home: self.mail.clone(), mail, claims }
    }

    /// Makes what any queue has answered durable. It is done whether or not the answer is waited for.
    pub fn begin_flush(&self) -> impl Future<Output = Result<()>> + 'static + use<F> {
        let (to, answer) = storage_io::reply();
        if self.is_read_only() {
            let _ = to.answer(Ok(()));
        } else {
            self.chain.take(ToHome::Flush { reply: to });
        }
        async {
            answer.await.unwrap_or_else(|| Err(Error::new(ErrorKind::Closed, "the executor ended before the flush")))
        }
    }

    /// As [`begin_flush`](Self::begin_flush), and waits for the answer.
    pub async fn flush(&self) -> Result<()> {
        self.begin_flush().await
    }

    /// Ends the chain: waits for its jobs, flushes, leaves the leaf as a reader expects it, lets go of files and lock.
    /// Nothing may be running on the queues, and they keep the files open as long as they exist. What fails is told, and
    /// does not keep the rest from being closed.
    pub async fn close(self) -> Result<()> {
        let Home { chain, taking, .. } = self;
        drop(taking);
        chain.jobs.all_ended().await;
        let mut result = if chain.shared.read_only { Ok(()) } else { chain.flush().await };
        for format in chain.layers.iter().rev() {
            result = result.and(format.close(&chain.executor).await);
        }
        result
    }
}

impl Home<Image> {
    /// As [`close`](Self::close), but the files stay open. They are kept also if not all could be left as it should be.
    ///
    /// # Panics
    /// When the chain was not opened by name.
    pub async fn rest(self) -> (Resting, Result<()>) {
        let resting = self.resting.clone().expect("a chain that was opened by name knows its files");
        (resting, self.close().await)
    }
}

impl<F: Format + 'static> std::fmt::Debug for Home<F> {
    fn fmt(&self, f: &mut std::fmt::Formatter<'_>) -> std::fmt::Result {
        write!(f, "Home({} images, {} bytes)", self.chain.layers.len(), self.size())
    }
}

/// Each message becomes a job of its own: one that waits holds up no other.
async fn take_mail<F: Format + 'static>(chain: Rc<Chain<F>>, mut mail: Receiver<ToHome>) {
    while let Some(message) = mail.recv().await {
        chain.take(message);
    }
}
