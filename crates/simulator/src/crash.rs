//! Crashes: what is left is opened for writing, read, and held against the model.

use std::sync::Arc;

use block_core::{GuestRange, Operation, Outcome, SECTOR};
use image_chain::HomeOptions;
use storage_io::{CrashStorage, EngineChoice, Executor};

use crate::{
    content::Stamp,
    disk::{Disk, carry_out, zeroed},
    images::Images,
    oracle::{Crash, Permitted},
    random::Random,
    simulation::{Simulation, pieces},
    structure::check_structure,
};

/// Looks at what crashes leave. It has an executor of its own, so that it can look while a simulation stands still.
pub struct Inspector {
    executor: Executor,
    random: Random,
    states: u64,
}

/// One in so many states is not only read but written to, closed and opened once more.
const USED_ONE_IN: u64 = 16;

impl Inspector {
    /// An inspector that draws crashes from `seed`.
    ///
    /// # Panics
    /// When the process has no descriptor left.
    pub fn new(seed: u64) -> Self {
        let executor = Executor::new(EngineChoice::Inline).expect("an inline executor needs one descriptor");
        Inspector { executor, random: Random::new(seed), states: 0 }
    }

    /// How many states were looked at.
    pub fn states(&self) -> u64 {
        self.states
    }

    /// Takes so many power cuts at this instant, and some kills.
    ///
    /// # Panics
    /// When one leaves what it must not.
    pub fn look(&mut self, simulation: &Simulation, count: u64) {
        let point = simulation.images().leaf().storage.crash_point();
        let killed = simulation.oracle().after(Crash::Killed);
        let cut = simulation.oracle().after(Crash::PowerCut);
        for number in 0..count {
            let seed = self.random.draw();
            let (permitted, state) = match number % 4 {
                0 => (&killed, point.killed(seed)),
                _ => (&cut, point.power_cut(seed)),
            };
            let crash = if number % 4 == 0 { "a kill" } else { "a power cut" };
            let looked = self.inspect(simulation.images(), permitted, state);
            looked.unwrap_or_else(|complaint| panic!("after {crash}: {complaint}"));
        }
    }

    /// Holds one state of the leaf against the model.
    ///
    /// # Errors
    /// What is wrong, in words.
    pub fn inspect(&mut self, images: &Images, permitted: &Permitted, state: CrashStorage) -> Result<(), String> {
        self.states += 1;
        let images = images.with_leaf(state);
        let used = self.random.once_in(USED_ONE_IN);
        let executor = self.executor.clone();
        let random = &mut self.random;
        let checked = executor.block_on(async {
            let disk = open(&executor, &images).await?;
            check(&disk, permitted).await?;
            if images.leaf().is_sparse_vhd() {
                check_structure(&executor, &images.leaf().storage).await?;
            }
            if used { use_it(&executor, &images, disk, random).await } else { Ok(()) }
        });
        self.executor.end_tasks();
        checked
    }
}

impl Drop for Inspector {
    fn drop(&mut self) {
        self.executor.end_tasks();
    }
}

async fn open(executor: &Executor, images: &Images) -> Result<Disk, String> {
    let opened = Disk::open(executor, images, |storage| Arc::new(storage), HomeOptions::default(), 1).await;
    opened.map_err(|error| format!("the image does not open for writing: {error}"))
}

async fn check(disk: &Disk, permitted: &Permitted) -> Result<(), String> {
    for range in pieces(disk.size()) {
        let bytes = disk.read(range).await.map_err(|error| format!("{range} cannot be read: {error}"))?;
        permitted.check(range, &bytes)?;
    }
    Ok(())
}

/// Writes to a disk that a crash has left: it must work as any other.
async fn use_it(executor: &Executor, images: &Images, disk: Disk, random: &mut Random) -> Result<(), String> {
    let size = disk.size();
    let mut expected = Vec::new();
    for range in pieces(size) {
        expected.extend(disk.read(range).await.map_err(|error| error.to_string())?);
    }
    for number in 0..8 {
        let start = random.below(size / SECTOR) * SECTOR;
        let length = ((1 + random.below(8)) * SECTOR).min(size - start);
        let range = GuestRange::checked(start, length).expect("inside the disk");
        let mut buffer = zeroed(range);
        let mut bytes = vec![0; buffer.len()];
        Stamp(u64::MAX - number).fill(start, &mut bytes);
        buffer.copy_in(0, &bytes);
        let from = usize::try_from(start).expect("the disk fits memory");
        expected[from..from + bytes.len()].copy_from_slice(&bytes);
        let write = Operation::Write { range, buffer, durable: false };
        if let Outcome::Failed(error) = carry_out(&disk.queue(0), write).await {
            return Err(format!("a write failed: {error}"));
        }
    }
    disk.close().await.map_err(|error| format!("closing failed: {error}"))?;
    let disk = open(executor, images).await?;
    for range in pieces(size) {
        let bytes = disk.read(range).await.map_err(|error| error.to_string())?;
        let from = usize::try_from(range.start().get()).expect("the disk fits memory");
        if bytes != expected[from..from + bytes.len()] {
            return Err(format!("after writing to it and closing it, {range} is not what it was"));
        }
    }
    Ok(())
}
