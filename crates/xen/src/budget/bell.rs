//! An opened table, and the thread that hears when other processes call. No thread of a disk ever waits here: those who
//! wait in line leave a waker.

use std::{
    collections::HashMap,
    io,
    path::Path,
    sync::{
        Arc, Mutex, MutexGuard, PoisonError,
        atomic::{AtomicBool, AtomicUsize, Ordering::SeqCst},
    },
    thread::{self, JoinHandle},
    time::{Duration, Instant},
};

use block_core::{Result, ResultExt};
use rustix::thread::futex::Timespec;

use super::{
    line::{CallFirst, First, Skip},
    share::Rings,
    table::Table,
    words::{Slot, Word, Words},
};

/// How often it is looked who has died, or does not come, while somebody here waits.
const PATROL: Duration = Duration::from_millis(100);
/// When at the latest somebody who waits has what the dead had.
const RETURNED_AFTER_MAX: Duration = Duration::from_secs(1);

// The next walk finds who has died since the last. The rest is for machines that are too busy to be on time.
const _: () = assert!(PATROL.as_millis() * 5 <= RETURNED_AFTER_MAX.as_millis());

/// A table that is open here. Dropping it ends its thread, and gives back what is left.
#[derive(Debug)]
pub(super) struct Opened {
    shared: Arc<Shared>,
    listening: Option<JoinHandle<()>>,
}

#[derive(Debug)]
struct Shared {
    table: Table,
    /// The disks of this process. Guards who is there, no more.
    disks: Mutex<HashMap<Slot, Arc<Mutex<Rings>>>>,
    /// How many of them stand in line.
    in_line: AtomicUsize,
    is_patrol_wanted: AtomicBool,
    is_ending: AtomicBool,
}

impl Opened {
    /// Opens the table, or makes it.
    pub(super) fn open(path: &Path) -> Result<Opened> {
        let shared = Arc::new(Shared::open(path)?);
        let heard = shared.clone();
        let listening: io::Result<_> = thread::Builder::new().name("grant budget".into()).spawn(move || heard.listen());
        Ok(Opened { shared, listening: Some(listening.context("the thread of the grant budget")?) })
    }

    pub(super) fn table(&self) -> &Table {
        &self.shared.table
    }

    /// A disk of this process.
    pub(super) fn register(&self, slot: Slot, rings: Arc<Mutex<Rings>>) {
        self.shared.disks().insert(slot, rings);
    }

    /// A disk of this process has gone, with everything.
    pub(super) fn forget(&self, slot: Slot) {
        self.shared.disks().remove(&slot);
        let called = self.table().clear_slot(slot);
        self.tell(called);
    }

    /// A disk has joined the line, or left it.
    pub(super) fn count_in_line(&self, has_joined: bool) {
        if !has_joined {
            self.shared.in_line.fetch_sub(1, SeqCst);
        } else if self.shared.in_line.fetch_add(1, SeqCst) == 0 {
            // From now on the thread looks after the line.
            self.table().ring_own();
        }
    }

    /// Tells a disk that was called, wherever it is.
    pub(super) fn tell(&self, called: Option<Slot>) {
        self.shared.tell(called);
    }

    /// Takes back what processes have left that have gone.
    pub(super) fn clear_dead(&self) -> usize {
        let (count, called) = self.table().clear_dead();
        self.tell(called);
        count
    }

    /// Has the thread do so.
    pub(super) fn clear_dead_soon(&self) {
        if !self.shared.is_patrol_wanted.swap(true, SeqCst) {
            self.table().ring_own();
        }
    }
}

impl Drop for Opened {
    fn drop(&mut self) {
        self.shared.is_ending.store(true, SeqCst);
        self.table().ring_own();
        if let Some(listening) = self.listening.take() {
            // If it has panicked, it has said so.
            let _ = listening.join();
        }
    }
}

impl Shared {
    fn open(path: &Path) -> Result<Shared> {
        Ok(Shared {
            table: Table::open(path)?,
            disks: Mutex::default(),
            in_line: AtomicUsize::new(0),
            is_patrol_wanted: AtomicBool::new(false),
            is_ending: AtomicBool::new(false),
        })
    }

    fn disks(&self) -> MutexGuard<'_, HashMap<Slot, Arc<Mutex<Rings>>>> {
        self.disks.lock().unwrap_or_else(PoisonError::into_inner)
    }

    fn tell(&self, called: Option<Slot>) {
        let Some(slot) = called else { return };
        let ours = self.disks().get(&slot).cloned();
        match ours {
            Some(rings) => wake(&rings),
            None => self.table.ring_owner(slot),
        }
    }

    fn listen(&self) {
        let mut patrol = Patrol { next: Instant::now(), suspect: None };
        loop {
            let rung = self.table.rung();
            if self.is_ending.load(SeqCst) {
                return;
            }
            let pause = self.turn(&mut patrol, Instant::now());
            let pause = pause.map(|pause| Timespec { tv_sec: 0, tv_nsec: pause.subsec_nanos().into() });
            self.table.listen(rung, pause.as_ref());
        }
    }

    /// Does what there is to do; says for how long there is nothing, if nobody rings.
    fn turn(&self, patrol: &mut Patrol, now: Instant) -> Option<Duration> {
        self.wake_called();
        if self.is_patrol_wanted.swap(false, SeqCst) {
            self.tell(self.table.clear_dead().1);
        }
        let somebody_waits = self.in_line.load(SeqCst) > 0;
        somebody_waits.then(|| patrol.walk(self, now))
    }

    /// Wakes those of our disks that were called.
    fn wake_called(&self) {
        let called: Vec<_> = {
            let disks = self.disks();
            let is_called = |slot: Slot| self.table.in_use().load(Word::Called(slot)) != 0;
            disks.iter().filter(|(slot, _)| is_called(**slot)).map(|(_, rings)| rings.clone()).collect()
        };
        called.iter().for_each(wake);
    }
}

fn wake(rings: &Arc<Mutex<Rings>>) {
    let first = {
        let rings = rings.lock().unwrap_or_else(PoisonError::into_inner);
        rings.first().filter(|_| rings.is_in_line())
    };
    if let Some(first) = first {
        first.wake();
    }
}

/// Looks after the line: whoever has died leaves nothing behind, and whoever does not come when called lets others pass.
struct Patrol {
    next: Instant,
    /// Who was first in line, called, at the last walk.
    suspect: Option<Slot>,
}

impl Patrol {
    /// Walks if it is time; says how long it is until the next time. Whoever rings in between does not put it off.
    fn walk(&mut self, shared: &Shared, now: Instant) -> Duration {
        if now >= self.next {
            self.next = now + PATROL;
            self.look(shared);
        }
        self.next - now
    }

    fn look(&mut self, shared: &Shared) {
        let (_, called) = shared.table.clear_dead();
        shared.tell(called);
        let first = shared.first_in_line();
        let is_deaf = first.is_some_and(|slot| shared.table.in_use().load(Word::Called(slot)) != 0);
        match first.filter(|_| is_deaf) {
            Some(slot) if self.suspect == first => shared.skip(slot),
            suspect => self.suspect = suspect,
        }
        shared.call_first();
    }
}

impl Shared {
    fn first_in_line(&self) -> Option<Slot> {
        let (in_use, mut first) = (self.table.in_use(), First::default());
        loop {
            if let Some(found) = first.step(&in_use) {
                return found;
            }
        }
    }

    /// Also when nobody has given anything back: the limits may have changed.
    fn call_first(&self) {
        let (in_use, mut call) = (self.table.in_use(), CallFirst::new());
        while call.step(&in_use).is_none() {}
        self.tell(in_use.called());
    }

    fn skip(&self, slot: Slot) {
        let (in_use, mut skip) = (self.table.in_use(), Skip::Leave(slot));
        while skip.step(&in_use).is_none() {}
        self.table.ring_owner(slot);
        self.tell(in_use.called());
    }
}

#[cfg(test)]
mod tests {
    use super::{
        super::{
            Limits,
            line::{Step, Take},
            words::Use,
        },
        *,
    };

    const PAGES: u32 = 264;

    /// A process that has all pages; dropping it is its death.
    fn someone_with_all(path: &Path) -> Table {
        let table = Table::open(path).unwrap();
        let mut take = Take::new(table.claim().unwrap(), PAGES, PAGES);
        let taken = (0..99).map(|_| take.step(&table.in_use())).find(|step| *step != Step::GoOn);
        assert_eq!(taken, Some(Step::Taken));
        table
    }

    #[test]
    fn what_the_dead_had_is_back_after_one_period_however_often_somebody_rings() {
        let place = tempfile::tempdir().unwrap();
        let path = place.path().join("budget");
        let shared = Shared::open(&path).unwrap();
        shared.table.set_limits(Limits::new(PAGES).unwrap());
        shared.in_line.store(1, SeqCst);
        for bells_every in [1, 7, 60, 99, 100, 1000].map(Duration::from_millis) {
            let mut now = Instant::now();
            let mut patrol = Patrol { next: now, suspect: None };
            let mut dead = Some(someone_with_all(&path));
            let mut died = now;
            while shared.table.used(Use::Copies) > 0 {
                assert!(now - died <= PATROL, "bells every {bells_every:?}");
                let pause = shared.turn(&mut patrol, now).expect("somebody waits");
                // As late as can be: right after a look.
                if dead.take().is_some() {
                    died = now;
                }
                now += pause.min(bells_every);
            }
        }
    }

    #[test]
    fn whoever_waits_for_nobody_sleeps_until_somebody_rings() {
        let place = tempfile::tempdir().unwrap();
        let shared = Shared::open(&place.path().join("budget")).unwrap();
        let now = Instant::now();
        assert_eq!(shared.turn(&mut Patrol { next: now, suspect: None }, now), None);
    }

    #[test]
    fn what_the_dead_had_is_back_at_once_if_that_is_asked_for() {
        let place = tempfile::tempdir().unwrap();
        let path = place.path().join("budget");
        let shared = Shared::open(&path).unwrap();
        shared.table.set_limits(Limits::new(PAGES).unwrap());
        drop(someone_with_all(&path));
        shared.is_patrol_wanted.store(true, SeqCst);
        let now = Instant::now();
        shared.turn(&mut Patrol { next: now + PATROL, suspect: None }, now);
        assert_eq!(shared.table.used(Use::Copies), 0);
    }
}
