//! A format small enough to see through: tiny blocks, one table sector, room that is used again as soon as it may be.
//!
//! ```text
//!   file   | table: room and sectors of each block | room 0 | room 1 | ...
//! ```
//!
//! It keeps the rules of every format: a second writer joins the block in the making; a table write carries all changes
//! that wait for it; a change is visible when it is written; freed room is emptied when it is released, and the next
//! block takes it. Everything that could take time takes a random number of steps.

use std::{
    cell::{Cell, RefCell},
    collections::{BTreeSet, HashMap, VecDeque},
    rc::{Rc, Weak},
    sync::Arc,
};

use block_core::{FileOffset, FileRange, GuestOffset, GuestRange, Result, SECTOR};
use image_format::{Format, Freed, Lookup, MappedExtent, Mapping, Miss, ParentReference, WritePlan};
use storage_io::{Executor, Signal, Storage, StorageExt};
use uuid::Uuid;

/// Bytes of a block.
pub(crate) const BLOCK: u64 = SECTORS_PER_BLOCK * SECTOR;
const SECTORS_PER_BLOCK: u64 = 4;
/// Bytes in front of the first room.
pub(crate) const TABLE_BYTES: u64 = SECTOR;
/// How many blocks' entries are in memory at a time.
const LOADED_MAX: usize = 3;

/// Where a block is, and which of its sectors.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq)]
struct Entry {
    /// One more than the room's number; zero: no room.
    room: u32,
    sectors: u32,
}

type Table = Vec<Entry>;

/// A change of the table that waits to be written, and where its result goes.
struct Change {
    block: usize,
    entry: Box<dyn Fn(Entry) -> Entry>,
    result: Rc<RefCell<Option<Result<()>>>>,
}

/// A block that is not in the table yet. All its plans hold it; the last one gives the room back.
struct Making {
    room: u32,
    is_committed: Cell<bool>,
    free: Rc<RefCell<BTreeSet<u32>>>,
}

impl Drop for Making {
    fn drop(&mut self) {
        if !self.is_committed.get() {
            self.free.borrow_mut().insert(self.room);
        }
    }
}

/// An image of the toy format.
pub(crate) struct Toy {
    storage: Arc<dyn Storage>,
    table: RefCell<Table>,
    making: RefCell<HashMap<usize, Weak<Making>>>,
    free: Rc<RefCell<BTreeSet<u32>>>,
    loaded: RefCell<VecDeque<usize>>,
    changes: RefCell<Vec<Change>>,
    writes_table: Cell<bool>,
    table_written: Signal,
}

impl Toy {
    /// The image of `blocks` blocks in `storage`, which holds its table and as much room as it may ever use.
    pub(crate) async fn open(executor: &Executor, storage: Arc<dyn Storage>, blocks: usize) -> Toy {
        let bytes = storage.read_bytes(executor, FileOffset::new(0), 8 * blocks).await.unwrap();
        let word = |bytes: &[u8]| u32::from_be_bytes(bytes.try_into().unwrap());
        let entry = |bytes: &[u8]| Entry { room: word(&bytes[..4]), sectors: word(&bytes[4..]) };
        let table: Table = bytes.chunks(8).map(entry).collect();
        let rooms = u32::try_from((storage.length() - TABLE_BYTES) / BLOCK).unwrap();
        let used: BTreeSet<u32> = table.iter().filter_map(|entry| entry.room.checked_sub(1)).collect();
        assert_eq!(used.len(), table.iter().filter(|entry| entry.room > 0).count(), "two blocks in one room");
        let free: BTreeSet<u32> = (0..rooms).filter(|room| !used.contains(room)).collect();
        for room in &free {
            storage.write_zeroes(executor, room_range(*room), true).await.unwrap();
        }
        Toy {
            storage,
            table: RefCell::new(table),
            making: RefCell::default(),
            free: Rc::new(RefCell::new(free)),
            loaded: RefCell::default(),
            changes: RefCell::default(),
            writes_table: Cell::new(false),
            table_written: Signal::new(),
        }
    }

    fn entry(&self, block: usize) -> Entry {
        self.table.borrow()[block]
    }

    /// Changes an entry: returns when the table with the change is written, or has failed to be.
    async fn change(&self, executor: &Executor, block: usize, entry: impl Fn(Entry) -> Entry + 'static) -> Result<()> {
        let result = Rc::new(RefCell::new(None));
        self.changes.borrow_mut().push(Change { block, entry: Box::new(entry), result: result.clone() });
        loop {
            self.table_written.until(|| result.borrow().is_some() || !self.writes_table.get()).await;
            let ended = result.borrow_mut().take();
            if let Some(ended) = ended {
                return ended;
            }
            self.writes_table.set(true);
            self.write_table(executor).await;
            self.writes_table.set(false);
            self.table_written.notify();
        }
    }

    /// Writes the table with all changes that wait; they become visible together, or fail together.
    async fn write_table(&self, executor: &Executor) {
        let changes = std::mem::take(&mut *self.changes.borrow_mut());
        let mut table = self.table.borrow().clone();
        for change in &changes {
            table[change.block] = (change.entry)(table[change.block]);
        }
        let bytes: Vec<u8> =
            table.iter().flat_map(|entry| [entry.room, entry.sectors]).flat_map(u32::to_be_bytes).collect();
        let result = self.storage.write_bytes(executor, FileOffset::new(0), &bytes).await;
        if result.is_ok() {
            *self.table.borrow_mut() = table;
        }
        changes.into_iter().for_each(|change| *change.result.borrow_mut() = Some(result.clone()));
    }

    /// The room for a block that has none: a second writer joins the block in the making.
    fn make(&self, block: usize) -> Rc<Making> {
        let made = self.making.borrow().get(&block).and_then(Weak::upgrade);
        made.unwrap_or_else(|| {
            let room = self.free.borrow_mut().pop_first().expect("the storage has room for every block and a few more");
            let making = Rc::new(Making { room, is_committed: Cell::new(false), free: self.free.clone() });
            self.making.borrow_mut().insert(block, Rc::downgrade(&making));
            making
        })
    }
}

fn room_range(room: u32) -> FileRange {
    FileRange::new(FileOffset::new(TABLE_BYTES + u64::from(room) * BLOCK), BLOCK)
}

fn block_of(position: GuestOffset) -> usize {
    usize::try_from(position.get() / BLOCK).unwrap()
}

/// The sectors of its block that a range covers, as bits.
fn sectors_of(range: GuestRange) -> u32 {
    let first = range.start().get() % BLOCK / SECTOR;
    let count = range.length() / SECTOR;
    assert!(range.is_aligned(SECTOR) && first + count <= SECTORS_PER_BLOCK, "whole sectors of one block");
    ((1 << count) - 1) << first
}

fn offset_in(room: u32, position: GuestOffset) -> FileOffset {
    room_range(room).start() + position.get() % BLOCK
}

async fn pause(executor: &Executor) {
    for _ in 0..executor.random() % 4 {
        executor.yield_now().await;
    }
}

impl Format for Toy {
    fn size(&self) -> u64 {
        self.table.borrow().len() as u64 * BLOCK
    }

    fn granule(&self) -> u64 {
        BLOCK
    }

    fn storage(&self) -> &Arc<dyn Storage> {
        &self.storage
    }

    fn parent(&self) -> Option<ParentReference> {
        None
    }

    fn identity(&self) -> Option<Uuid> {
        None
    }

    fn map(&self, range: GuestRange) -> Lookup {
        let block = block_of(range.start());
        if !self.loaded.borrow().contains(&block) {
            return Lookup::Miss(Miss { range });
        }
        let entry = self.entry(block);
        let in_block = range.granules(BLOCK).next().expect("an asked range is not empty");
        let is_here = |sector: GuestRange| entry.sectors & sectors_of(sector) != 0;
        let first = is_here(in_block.split_at(SECTOR).0);
        let same = in_block.granules(SECTOR).take_while(|sector| is_here(*sector) == first).count() as u64;
        let range = in_block.split_at(same * SECTOR).0;
        let mapping = match entry.room.checked_sub(1) {
            Some(room) if first => Mapping::Data { offset: offset_in(room, range.start()) },
            _ => Mapping::Parent,
        };
        Lookup::Found(MappedExtent { range, mapping })
    }

    async fn load(&self, executor: &Executor, miss: Miss) -> Result<()> {
        pause(executor).await;
        let mut loaded = self.loaded.borrow_mut();
        loaded.push_back(block_of(miss.range.start()));
        if loaded.len() > LOADED_MAX {
            loaded.pop_front();
        }
        Ok(())
    }

    async fn plan_write(&self, executor: &Executor, range: GuestRange) -> Result<WritePlan> {
        pause(executor).await;
        let block = block_of(range.start());
        let room = self.entry(block).room.checked_sub(1);
        let (room, hold) = match room {
            Some(room) => (room, None),
            None => {
                let making = self.make(block);
                (making.room, Some(making as Rc<dyn std::any::Any>))
            }
        };
        Ok(WritePlan { range, offset: offset_in(room, range.start()), lead: None, hold })
    }

    async fn commit(&self, executor: &Executor, plan: WritePlan) -> Result<()> {
        let block = block_of(plan.range.start());
        let sectors = sectors_of(plan.range);
        let making = plan.hold.map(|hold| hold.downcast::<Making>().expect("a plan's hold is the block in the making"));
        let room = (plan.offset.get() - TABLE_BYTES) / BLOCK;
        let room = u32::try_from(room).unwrap() + 1;
        let change = move |old: Entry| {
            assert!(making_or_there(old, room), "a block in room {old:?} is committed in room {room}");
            Entry { room, sectors: old.sectors | sectors }
        };
        self.change(executor, block, change).await?;
        making.inspect(|making| making.is_committed.set(true));
        Ok(())
    }

    async fn free(&self, executor: &Executor, granule: GuestRange) -> Result<Option<Freed>> {
        let block = block_of(granule.start());
        pause(executor).await;
        let Some(room) = self.entry(block).room.checked_sub(1) else { return Ok(None) };
        self.change(executor, block, |_| Entry::default()).await?;
        self.storage.sync(executor).await?;
        Ok(Some(Freed { granule, room: room_range(room) }))
    }

    async fn release(&self, executor: &Executor, freed: Freed) -> Result<()> {
        self.storage.write_zeroes(executor, freed.room, true).await?;
        let room = (freed.room.start().get() - TABLE_BYTES) / BLOCK;
        self.free.borrow_mut().insert(u32::try_from(room).unwrap());
        Ok(())
    }

    async fn flush(&self, executor: &Executor) -> Result<()> {
        self.storage.sync(executor).await
    }

    async fn close(&self, executor: &Executor) -> Result<()> {
        self.write_table(executor).await;
        self.storage.sync(executor).await
    }
}

/// A block keeps its room from its first commit to its release.
fn making_or_there(old: Entry, room: u32) -> bool {
    old.room == 0 || old.room == room
}
