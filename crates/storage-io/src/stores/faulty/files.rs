//! Opens storages that fail by rules.

use std::{
    io,
    path::{Path, PathBuf},
    rc::Rc,
    sync::Arc,
};

use block_core::{Error, Result};
use futures_util::future::LocalBoxFuture;

use super::{
    FaultScript, FaultyStorage, OperationKind,
    script::{Then, Verdict},
};
use crate::{Executor, OpenOptions, Opener, Storage, stores::files::failed};

/// Puts what another opener opens under a script of faults; opening itself is one of the operations that rules strike.
pub struct FaultyFiles {
    inner: Rc<dyn Opener>,
    script: FaultScript,
    /// None: every path.
    only: Option<PathBuf>,
}

impl FaultyFiles {
    /// Everything that is opened fails as `script` tells.
    pub fn new(inner: Rc<dyn Opener>, script: FaultScript) -> Self {
        FaultyFiles { inner, script, only: None }
    }

    /// The same for one path only, such as a chain's leaf; all others are left alone. It must be written as whoever opens
    /// writes it.
    #[must_use]
    pub fn only(self, path: impl Into<PathBuf>) -> Self {
        FaultyFiles { only: Some(path.into()), ..self }
    }
}

impl Opener for FaultyFiles {
    fn open(
        &self,
        executor: &Executor,
        path: &Path,
        options: OpenOptions,
    ) -> LocalBoxFuture<'static, Result<Arc<dyn Storage>>> {
        if self.only.as_ref().is_some_and(|only| only != path) {
            return self.inner.open(executor, path, options);
        }
        let (inner, script) = (self.inner.clone(), self.script.clone());
        let (executor, path) = (executor.clone(), path.to_path_buf());
        Box::pin(async move {
            wait(&script, &executor, &path).await?;
            let storage = inner.open(&executor, &path, options).await?;
            Ok(Arc::new(FaultyStorage::new(storage, script)) as Arc<dyn Storage>)
        })
    }

    fn canonical(&self, executor: &Executor, path: &Path) -> LocalBoxFuture<'static, Result<PathBuf>> {
        self.inner.canonical(executor, path)
    }
}

/// Does to the opening of a path what the script says.
async fn wait(script: &FaultScript, executor: &Executor, path: &Path) -> Result<()> {
    let Verdict { delay, then } = script.judge_kind(OperationKind::Open, None);
    if delay.is_zero() && then == Then::Begin {
        return Ok(());
    }
    let note = executor.note(format!("{}: opening, held back by a fault rule", path.display()));
    let hanging = (then == Then::Hang).then(|| script.hang());
    executor.sleep(delay).await;
    if let Some(hanging) = hanging {
        hanging.released().await;
    }
    drop(note);
    match then {
        Then::Begin | Then::Hang => Ok(()),
        Then::Fail { errno, .. } => {
            let error = Error::from_os("injected fault", io::Error::from_raw_os_error(errno));
            Err(failed(executor, path.to_path_buf(), error).await)
        }
    }
}
