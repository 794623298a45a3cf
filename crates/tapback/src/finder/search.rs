//! Asking all tapdisks of a host what they have.

use std::{pin::pin, time::Duration};

use block_core::{Error, ErrorKind, Result, ResultExt};
use control_api::{
    RunDir,
    native::{Command, DiskSummary, ResultOf},
};
use futures_util::{
    StreamExt,
    future::{Either, select},
    stream::FuturesUnordered,
};
use storage_io::Executor;

use super::names::Wish;
use crate::{Disk, Tapdisks};

/// A tapdisk tells what it has at once, whatever its storage does. One that says nothing for so long was stopped.
const ANSWER_MAX: Duration = Duration::from_secs(5);

/// What there was to be found.
#[derive(Debug, Default)]
pub(super) struct Found {
    /// A disk that would do, the one that meets the first wish that any meets.
    pub(super) disk: Option<Disk>,
    /// Those who have not answered.
    silent: Vec<u32>,
}

impl Found {
    /// Why there is none.
    pub(super) fn complaint(&self, wishes: &[Wish]) -> Error {
        if wishes.is_empty() {
            return Error::new(ErrorKind::NotFound, "its nodes name no disk");
        }
        let words = wishes.iter().map(Wish::to_string).collect::<Vec<_>>().join(", nor ");
        let silent = match self.silent.as_slice() {
            [] => String::new(),
            silent => format!("; no answer from {silent:?}"),
        };
        Error::new(ErrorKind::NotFound, format!("no tapdisk has {words}{silent}"))
    }
}

/// The tapdisks of a host, to be asked what they have.
pub(crate) struct Search {
    executor: Executor,
    run: RunDir,
    tapdisks: Tapdisks,
}

impl Search {
    pub(crate) fn new(executor: &Executor, run: &RunDir) -> Search {
        Search { executor: executor.clone(), run: run.clone(), tapdisks: Tapdisks::new(executor, run.clone()) }
    }

    /// Looks for a disk that meets a wish; the first that does will do, if the wish is the first.
    pub(super) async fn find(&self, wishes: &[Wish]) -> Result<Found> {
        let mut found = Found::default();
        if wishes.is_empty() {
            return Ok(found);
        }
        let run = self.run.clone();
        let pids = self.executor.blocking("looking for tapdisks", move || run.tapdisks()).await?;
        found.silent = pids.context(self.run.path().display())?;
        let mut asked: FuturesUnordered<_> =
            found.silent.iter().map(|pid| async move { (*pid, self.list(*pid).await) }).collect();
        let mut answered = Vec::new();
        let mut best: Option<(usize, Disk)> = None;
        let mut patience = pin!(self.executor.sleep(ANSWER_MAX));
        while best.is_none_or(|(wish, _)| wish > 0) {
            let Either::Left((Some((pid, disks)), _)) = select(asked.next(), patience.as_mut()).await else { break };
            answered.push(pid);
            for disk in disks {
                let met = wishes.iter().position(|wish| wish.is_met_by(pid, &disk));
                if let Some(met) = met.filter(|met| best.is_none_or(|(wish, _)| *met < wish)) {
                    best = Some((met, Disk { pid, minor: disk.minor }));
                }
            }
        }
        drop(asked);
        found.silent.retain(|pid| !answered.contains(pid));
        found.disk = best.map(|(_, disk)| disk);
        Ok(found)
    }

    /// All disks of those who answer.
    pub(crate) async fn disks(&self) -> Result<Vec<(u32, DiskSummary)>> {
        let run = self.run.clone();
        let pids = self.executor.blocking("looking for tapdisks", move || run.tapdisks()).await?;
        let pids = pids.context(self.run.path().display())?;
        let mut asked: FuturesUnordered<_> =
            pids.into_iter().map(|pid| async move { (pid, self.list(pid).await) }).collect();
        let mut patience = pin!(self.executor.sleep(ANSWER_MAX));
        let mut all = Vec::new();
        while let Either::Left((Some((pid, disks)), _)) = select(asked.next(), patience.as_mut()).await {
            all.extend(disks.into_iter().map(|disk| (pid, disk)));
        }
        Ok(all)
    }

    /// What a tapdisk has. One that has gone, or cannot be understood, has nothing.
    async fn list(&self, pid: u32) -> Vec<DiskSummary> {
        match self.tapdisks.ask(pid, Command::List {}).await {
            Ok(Some(ResultOf::List(disks))) => disks.disks,
            _ => Vec::new(),
        }
    }
}

impl std::fmt::Debug for Search {
    fn fmt(&self, f: &mut std::fmt::Formatter<'_>) -> std::fmt::Result {
        write!(f, "{}", self.run.path().display())
    }
}
