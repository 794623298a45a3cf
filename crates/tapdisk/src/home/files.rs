//! How a disk's files are opened: plainly, or so that they fail by rules that somebody has given.

use std::{
    cell::RefCell,
    path::{Path, PathBuf},
    rc::Rc,
    sync::Arc,
};

use block_core::Result;
use futures_util::future::LocalBoxFuture;
use storage_io::{Executor, FaultScript, FaultyFiles, OpenOptions, Opener, Storage};

use super::{Home, Open};
use crate::layers::Layers;

/// Opens the files of one disk. Without rules nothing stands between the disk and them.
pub(super) struct DiskFiles {
    plain: Rc<dyn Opener>,
    now: RefCell<Rc<dyn Opener>>,
}

impl DiskFiles {
    /// Opens what `plain` opens.
    pub(super) fn new(plain: Rc<dyn Opener>) -> DiskFiles {
        DiskFiles { now: RefCell::new(plain.clone()), plain }
    }

    /// Files that are opened from now on fail by these rules, or plainly do not.
    pub(super) fn fail_by(&self, script: Option<FaultScript>) {
        self.now.replace(match script {
            Some(script) => Rc::new(FaultyFiles::new(self.plain.clone(), script)),
            None => self.plain.clone(),
        });
    }
}

impl Opener for DiskFiles {
    fn open(
        &self,
        executor: &Executor,
        path: &Path,
        options: OpenOptions,
    ) -> LocalBoxFuture<'static, Result<Arc<dyn Storage>>> {
        self.now.borrow().open(executor, path, options)
    }

    fn canonical(&self, executor: &Executor, path: &Path) -> LocalBoxFuture<'static, Result<PathBuf>> {
        self.now.borrow().canonical(executor, path)
    }
}

impl Home {
    /// Has files that are opened from now on fail by the rules of this disk: those that `open` brings, and those that
    /// stand in front of the image's name.
    pub(super) fn fail_by_rules(&self, open: &Open, layers: &Layers<'_>) -> Result<()> {
        let rules: Vec<&str> = [&open.faults, &layers.faults].into_iter().flatten().map(|rules| &**rules).collect();
        if rules.is_empty() {
            self.fail_by(None);
            return Ok(());
        }
        let script = FaultScript::new();
        rules.iter().filter(|rules| !rules.is_empty()).try_for_each(|rules| script.add_text(rules))?;
        self.fail_by(Some(script));
        Ok(())
    }

    fn fail_by(&self, script: Option<FaultScript>) {
        self.files.fail_by(script.clone());
        self.published.words().faults = script;
    }
}
