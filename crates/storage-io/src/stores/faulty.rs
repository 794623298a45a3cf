//! A storage that fails on purpose, by the rules of a script.
//!
//! It is part of the product: an image's name can put it under a disk, and rules can be changed while the disk is in use,
//! so that whoever runs it can see what it does when storage fails.

mod files;
mod script;
mod text;

use std::{io, sync::Arc};

use block_core::{Error, FileOffset, Origin, Result, SECTOR};

use self::script::{Then, Verdict};
use crate::{Buffer, Completion, Executor, Hold, Limits, Pending, Storage, StorageExt, StorageOperation};

pub use self::{
    files::FaultyFiles,
    script::{Effect, Fault, FaultRule, FaultScript, OperationKind},
};

/// Any storage, with faults as a [`FaultScript`] tells. For tests, and for products that want to be tested from outside:
/// without rules it costs one lock for each operation.
#[derive(Clone, Debug)]
pub struct FaultyStorage {
    inner: Arc<dyn Storage>,
    script: FaultScript,
}

impl FaultyStorage {
    /// `inner`, failing as `script` tells.
    pub fn new(inner: Arc<dyn Storage>, script: FaultScript) -> Self {
        FaultyStorage { inner, script }
    }

    /// Carries an operation out as `verdict` says, in a task of its own.
    fn as_told(
        &self,
        executor: &Executor,
        operation: StorageOperation,
        hold: Option<Hold>,
        verdict: Verdict,
    ) -> Pending {
        let (inner, on) = (self.inner.clone(), executor.clone());
        let hanging = (verdict.then == Then::Hang).then(|| self.script.hang());
        let note = executor.note(format!("{}: {operation}, held back by a fault rule", self.origin().place));
        let delay = (!verdict.delay.is_zero()).then(|| executor.sleep(verdict.delay));
        Pending::spawn(executor, hold, async move {
            if let Some(delay) = delay {
                delay.await;
            }
            if let Some(hanging) = hanging {
                hanging.released().await;
            }
            drop(note);
            match verdict.then {
                Then::Begin | Then::Hang => inner.submit(&on, operation, None).await,
                Then::Fail { errno, effect } => fail(&*inner, &on, operation, errno, effect).await,
            }
        })
    }
}

/// Fails, with what takes effect nevertheless.
async fn fail(
    inner: &dyn Storage,
    executor: &Executor,
    operation: StorageOperation,
    errno: i32,
    effect: Effect,
) -> Completion {
    let error = injected(errno, inner.origin());
    match (effect, operation) {
        (Effect::All, operation) => {
            let done = inner.submit(executor, operation, None).await;
            Completion { result: Err(error), ..done }
        }
        (Effect::Torn, StorageOperation::Write { offset, buffer, .. }) => {
            let (buffer, result) = write_some(inner, executor, offset, buffer).await;
            Completion { buffer: Some(buffer), result: result.and(Err(error)) }
        }
        (Effect::None | Effect::Torn, operation) => Completion { buffer: operation.into_buffer(), result: Err(error) },
    }
}

fn injected(errno: i32, origin: Origin) -> Error {
    Error::from_os("injected fault", io::Error::from_raw_os_error(errno)).with_origin(origin)
}

/// Writes about half of the sectors.
async fn write_some(
    storage: &dyn Storage,
    executor: &Executor,
    mut offset: FileOffset,
    mut rest: Buffer,
) -> (Buffer, Result<()>) {
    let unit = u64::from(storage.limits().alignment).max(SECTOR);
    let unit = usize::try_from(unit).expect("a storage's unit is at most a page");
    let mut done = Buffer::empty();
    let mut result = Ok(());
    while !rest.is_empty() {
        let behind = rest.split_off(rest.len().min(unit));
        let mut sector = std::mem::replace(&mut rest, behind);
        let length = sector.len() as u64;
        if executor.random() & 1 == 0 && result.is_ok() {
            (sector, result) = storage.write(executor, offset, sector).await;
        }
        done.append(sector);
        offset = offset + length;
    }
    (done, result)
}

impl Storage for FaultyStorage {
    fn submit(&self, executor: &Executor, operation: StorageOperation, hold: Option<Hold>) -> Pending {
        match self.script.judge(&operation) {
            Verdict { delay, then: Then::Begin } if delay.is_zero() => self.inner.submit(executor, operation, hold),
            Verdict { delay, then: Then::Fail { errno, effect: Effect::None } } if delay.is_zero() => {
                Pending::ready(operation, Err(injected(errno, self.origin())))
            }
            verdict => self.as_told(executor, operation, hold, verdict),
        }
    }

    fn length(&self) -> u64 {
        self.inner.length()
    }

    fn limits(&self) -> Limits {
        self.inner.limits()
    }

    fn origin(&self) -> Origin {
        self.inner.origin()
    }
}

#[cfg(test)]
mod tests {
    use std::{rc::Rc, time::Duration};

    use block_core::{ErrorKind, FileRange};

    use super::*;
    use crate::{MemoryStorage, SimulatedClock, Wait};

    struct Bench {
        executor: Executor,
        memory: MemoryStorage,
        script: FaultScript,
        storage: FaultyStorage,
    }

    fn bench() -> Bench {
        let memory = MemoryStorage::new(8192);
        let script = FaultScript::new();
        Bench {
            executor: Executor::simulated(1, SimulatedClock::new()),
            storage: FaultyStorage::new(Arc::new(memory.clone()), script.clone()),
            memory,
            script,
        }
    }

    impl Bench {
        fn write(&self, offset: u64, bytes: &[u8]) -> Result<()> {
            let write = self.storage.write_bytes(&self.executor, FileOffset::new(offset), bytes);
            self.executor.block_on(write)
        }

        fn read(&self, offset: u64) -> Result<Vec<u8>> {
            let read = self.storage.read_bytes(&self.executor, FileOffset::new(offset), 512);
            self.executor.block_on(read)
        }

        fn sync(&self) -> Result<()> {
            self.executor.block_on(self.storage.sync(&self.executor))
        }
    }

    #[test]
    fn exactly_the_operation_after_those_skipped_fails_with_the_chosen_number() {
        let bench = bench();
        bench.script.add(FaultRule::once_after(2, Fault::error(libc::ENOSPC)).of(OperationKind::Write));
        let results: Vec<_> = (0..4)
            .map(|_| {
                bench.sync().unwrap();
                bench.write(0, &[7; 512]).map_err(|error| (error.kind(), error.os_error()))
            })
            .collect();
        assert_eq!(results, [Ok(()), Ok(()), Err((ErrorKind::NoSpace, Some(libc::ENOSPC))), Ok(())]);
        assert_eq!((bench.script.seen(), bench.script.struck()), (8, 1));
        assert_eq!(bench.script.last_struck(), Some(OperationKind::Write));
    }

    #[test]
    fn every_operation_on_a_range_fails_and_no_other() {
        let bench = bench();
        let range = FileRange::new(FileOffset::new(1024), 512);
        bench.script.add(FaultRule::every(Fault::error(libc::EIO)).touching(range));
        assert!(bench.write(512, &[1; 512]).is_ok());
        assert!(bench.write(512, &[1; 513]).is_err());
        assert!(bench.read(1535).is_err());
        assert!(bench.read(1536).is_ok());
        assert!(bench.sync().is_ok());
        bench.script.clear();
        assert!(bench.read(1024).is_ok());
    }

    #[test]
    fn a_failed_write_leaves_nothing_all_or_some_of_its_sectors() {
        let bench = bench();
        let zeroes = |bytes: &[u8]| bytes.iter().filter(|byte| **byte == 0).count();
        for (effect, least, most) in [(Effect::None, 8192, 8192), (Effect::Torn, 512, 8192 - 512), (Effect::All, 0, 0)]
        {
            let errno = libc::EIO;
            bench.script.add(FaultRule::once_after(0, Fault::Fail { errno, effect }));
            let (buffer, result) = bench.executor.block_on(bench.storage.write(
                &bench.executor,
                FileOffset::new(0),
                Buffer::from_bytes(&[1; 8192]),
            ));
            assert_eq!((buffer.to_vec(), result.is_err()), (vec![1; 8192], true));
            let left = bench.memory.to_vec();
            assert!((least..=most).contains(&zeroes(&left)), "{effect:?}");
            assert!(left.chunks(512).all(|sector| matches!(zeroes(sector), 0 | 512)));
            bench.memory.apply(StorageOperation::SetLength(0));
            bench.memory.apply(StorageOperation::SetLength(8192));
        }
    }

    #[test]
    fn a_delayed_operation_begins_when_its_time_has_come() {
        let clock = SimulatedClock::new();
        let executor = Executor::simulated(1, clock.clone());
        let script = FaultScript::new();
        let storage = FaultyStorage::new(Arc::new(MemoryStorage::new(512)), script.clone());
        script.add(FaultRule::once_after(0, Fault::Delay(Duration::from_secs(60))));
        executor.block_on(storage.sync(&executor)).unwrap();
        assert_eq!(clock.now().since_start(), Duration::from_secs(60));
    }

    #[test]
    fn what_hangs_keeps_its_hold_and_begins_when_released() {
        let bench = bench();
        bench.script.add(FaultRule::once_after(0, Fault::Hang));
        let hold: Hold = Rc::new(());
        let buffer = Buffer::from_bytes(&[5; 512]);
        let write = StorageOperation::Write { offset: FileOffset::new(0), buffer, durable: false };
        // The answer is given up, the write is not.
        drop(bench.storage.submit(&bench.executor, write, Some(hold.clone())));
        while bench.executor.turn(Wait::No).unwrap() {}
        assert_eq!((bench.script.hanging(), Rc::strong_count(&hold)), (1, 2));
        assert_eq!(bench.memory.to_vec()[0], 0);
        bench.script.release();
        while bench.executor.turn(Wait::No).unwrap() {}
        assert_eq!((bench.script.hanging(), Rc::strong_count(&hold)), (0, 1));
        assert_eq!(bench.memory.to_vec()[0], 5);
    }
}
