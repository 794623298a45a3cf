//! The table in a file that processes share, and who they are: each holds a lock on a byte of the file as long as it
//! lives, however it ends.

use std::{
    cell::Cell,
    fs::{File, OpenOptions},
    io,
    os::{fd::AsRawFd, unix::fs::OpenOptionsExt},
    path::Path,
    sync::atomic::{
        AtomicU32, AtomicU64,
        Ordering::{Relaxed, SeqCst},
    },
    time::Duration,
};

use block_core::{Error, ErrorKind, Result, ResultExt};
use rustix::thread::futex;

use super::{
    BudgetAccount, Limits,
    layout::{self, BYTES, LIMITS_AT, MAGIC, MAGIC_AT, WAITED_NS_AT, WAITING_WORDS, WAITS_AT},
    line::Clear,
    words::{OWNERS, Share, Slot, Total, Use, Word, Words},
};
use crate::SharedMemory;

/// A table, as one process has it.
#[derive(Debug)]
pub(super) struct Table {
    memory: SharedMemory,
    /// Carries our lock.
    file: File,
    /// Who we are.
    owner: u16,
}

impl Table {
    /// Opens the table, or makes it.
    ///
    /// # Errors
    /// `Invalid` if the file is something else, `LimitReached` if too many processes have it open.
    pub(super) fn open(path: &Path) -> Result<Table> {
        let mut options = OpenOptions::new();
        options.read(true).write(true).create(true).truncate(false).mode(0o600);
        let file = options.custom_flags(libc::O_NOFOLLOW | libc::O_CLOEXEC).open(path).context(path.display())?;
        let found = file.metadata().context(path.display())?;
        let invalid = || Error::new(ErrorKind::Invalid, format!("{} is no grant budget", path.display()));
        if !found.is_file() || found.len() > BYTES as u64 {
            return Err(invalid());
        }
        // What is missing is zeroes, whoever is first.
        file.set_len(BYTES as u64).context(path.display())?;
        let memory = SharedMemory::map(&file, 0, BYTES)?;
        let magic = memory.long_word(MAGIC_AT);
        if magic.compare_exchange(0, MAGIC, SeqCst, SeqCst).is_err_and(|found| found != MAGIC) {
            return Err(invalid());
        }
        let numbers = 0..u16::try_from(OWNERS).expect("ten bits");
        for owner in numbers {
            if lock(&file, owner, true).context(path.display())? {
                let table = Table { memory, file, owner };
                // What somebody has left who had this number.
                let called = table.clear(owner);
                called.into_iter().for_each(|slot| table.ring_owner(slot));
                return Ok(table);
            }
        }
        Err(Error::new(ErrorKind::LimitReached, format!("{}: too many processes", path.display())))
    }

    /// The limits, unless somebody has set others.
    pub(super) fn offer_limits(&self, limits: Limits) {
        let word = self.memory.long_word(LIMITS_AT);
        // Others were first: so be it.
        let _ = word.compare_exchange(0, limits.encode(), SeqCst, SeqCst);
    }

    /// From now on, these limits hold for all.
    pub(super) fn set_limits(&self, limits: Limits) {
        self.memory.long_word(LIMITS_AT).store(limits.encode(), SeqCst);
    }

    /// What all may use together.
    pub(super) fn limits(&self) -> Limits {
        Limits::decode(self.memory.long_word(LIMITS_AT).load(Relaxed))
    }

    /// Pages that all use together.
    pub(super) fn used(&self, what: Use) -> u32 {
        Total::decode(self.load(Word::Total(what))).pages
    }

    /// Pages that one disk uses.
    pub(super) fn used_by(&self, what: Use, slot: Slot) -> u32 {
        Share::decode(self.load(Word::Share(what, slot))).pages
    }

    /// What all use together.
    pub(super) fn account(&self) -> BudgetAccount {
        BudgetAccount::of(|at| self.memory.long_word(at).load(SeqCst))
    }

    /// Somebody has waited for so long.
    pub(super) fn count_wait(&self, waited: Duration) {
        self.memory.long_word(WAITS_AT).fetch_add(1, Relaxed);
        let waited = u64::try_from(waited.as_nanos()).unwrap_or(u64::MAX);
        self.memory.long_word(WAITED_NS_AT).fetch_add(waited, Relaxed);
    }

    /// An entry for a disk of ours.
    ///
    /// # Errors
    /// `LimitReached` if there is none left.
    pub(super) fn claim(&self) -> Result<Slot> {
        let ours = u64::from(self.owner) + 1;
        let free = layout::slots().find(|slot| {
            let owner = Word::Owner(*slot);
            self.load(owner) == 0 && self.in_use().exchange(owner, 0, ours)
        });
        let slot = free.ok_or_else(|| Error::new(ErrorKind::LimitReached, "too many disks share the grant budget"))?;
        self.word(Word::Called(slot)).store(0, SeqCst);
        Ok(slot)
    }

    /// Takes everything from a disk, and its entry; says who was called.
    pub(super) fn clear_slot(&self, slot: Slot) -> Option<Slot> {
        let (in_use, mut clear) = (self.in_use(), Clear::new(slot));
        while clear.step(&in_use).is_none() {}
        in_use.called()
    }

    fn clear(&self, owner: u16) -> Option<Slot> {
        let owned = layout::slots().filter(|slot| self.owner_of(*slot) == Some(owner));
        // Who was called first may have been one of them.
        owned.filter_map(|slot| self.clear_slot(slot)).last()
    }

    /// Takes everything from processes that have gone; says how many there were, and who was called.
    pub(super) fn clear_dead(&self) -> (usize, Option<Slot>) {
        let mut owners: Vec<u16> = layout::slots().filter_map(|slot| self.owner_of(slot)).collect();
        owners.sort_unstable();
        owners.dedup();
        let (mut count, mut called) = (0, None);
        for owner in owners.into_iter().filter(|owner| *owner != self.owner) {
            // Whoever has the lock of somebody who has gone is the only one who clears up there.
            if lock(&self.file, owner, true).unwrap_or(false) {
                called = self.clear(owner).or(called);
                count += 1;
                let _ = lock(&self.file, owner, false);
            }
        }
        (count, called)
    }

    /// The process that a disk belongs to.
    fn owner_of(&self, slot: Slot) -> Option<u16> {
        let owner = u16::try_from(self.load(Word::Owner(slot)).checked_sub(1)?).ok()?;
        // A number that is none was written by nobody of us.
        (usize::from(owner) < OWNERS).then_some(owner)
    }

    fn word(&self, word: Word) -> &AtomicU64 {
        self.memory.long_word(layout::place(word))
    }

    fn load(&self, word: Word) -> u64 {
        self.word(word).load(SeqCst)
    }

    /// For the machines.
    pub(super) fn in_use(&self) -> InUse<'_> {
        InUse { table: self, called: Cell::new(None) }
    }

    fn doorbell(&self, owner: u16) -> &AtomicU32 {
        self.memory.word(layout::doorbell(owner))
    }

    /// Rings the bell of a process.
    fn ring(&self, owner: u16) {
        let bell = self.doorbell(owner);
        bell.fetch_add(1, SeqCst);
        // Nobody need listen.
        let _ = futex::wake(bell, futex::Flags::empty(), u32::MAX >> 1);
    }

    /// Rings our own bell.
    pub(super) fn ring_own(&self) {
        self.ring(self.owner);
    }

    /// How often our bell has rung.
    pub(super) fn rung(&self) -> u32 {
        self.doorbell(self.owner).load(SeqCst)
    }

    /// Waits until our bell has rung more often than `rung`, or for so long; ends early at any time.
    pub(super) fn listen(&self, rung: u32, timeout: Option<&futex::Timespec>) {
        let _ = futex::wait(self.doorbell(self.owner), futex::Flags::empty(), rung, timeout);
    }

    /// Tells who owns a disk to look at it.
    pub(super) fn ring_owner(&self, slot: Slot) {
        if let Some(owner) = self.owner_of(slot) {
            self.ring(owner);
        }
    }
}

/// Takes the lock of a process, or gives it back. False: somebody else has it.
fn lock(file: &File, owner: u16, take: bool) -> io::Result<bool> {
    let kind = if take { libc::F_WRLCK } else { libc::F_UNLCK };
    let wanted = libc::flock {
        l_type: i16::try_from(kind).expect("a small number"),
        l_whence: i16::try_from(libc::SEEK_SET).expect("a small number"),
        l_start: libc::off_t::from(owner),
        l_len: 1,
        l_pid: 0,
    };
    // SAFETY: the argument is what the command demands. The lock belongs to the open file, not to the process: several
    // in one process exclude each other, and it ends when the last descriptor of the open file is closed.
    let done = unsafe { libc::fcntl(file.as_raw_fd(), libc::F_OFD_SETLK, &raw const wanted) };
    match (done, io::Error::last_os_error()) {
        (0, _) => Ok(true),
        (_, error) if matches!(error.raw_os_error(), Some(libc::EAGAIN | libc::EACCES)) => Ok(false),
        (_, error) => Err(error),
    }
}

/// A table in use: who was called meanwhile is told at the end, when no lock is held.
pub(super) struct InUse<'a> {
    table: &'a Table,
    called: Cell<Option<Slot>>,
}

impl InUse<'_> {
    /// Who was called.
    pub(super) fn called(self) -> Option<Slot> {
        self.called.get()
    }
}

impl Words for InUse<'_> {
    fn word(&self, word: Word) -> &AtomicU64 {
        self.table.word(word)
    }

    fn waiting_words(&self) -> usize {
        WAITING_WORDS
    }

    fn call(&self, slot: Slot) {
        self.store(Word::Called(slot), 1);
        self.called.set(Some(slot));
    }
}
