//! The statistics of one disk in shared memory: which pages are there, and when.
//!
//! | page | from | to |
//! | --- | --- | --- |
//! | `vdi-<minor>` | open, resume | pause, close |
//! | `nbd-<minor>`, `nbd-old-<minor>` | open | close |
//! | `metrics/tap-<pid>-<minor>`, beside the process's directory: empty, for those who look for it | open, resume | pause, close |

use std::{
    cell::RefCell,
    path::{Path, PathBuf},
    rc::Rc,
    time::Duration,
};

use block_core::{Result, ResultExt};
use control_api::{Minor, RunDir};
use storage_io::Task;
use virtual_disk::Disk;

use crate::{own_directory::OwnDirectory, shared_memory::StatisticsFile};

/// How old they may be.
const AGE_MAX: Duration = Duration::from_secs(1);

/// The pages of one disk.
pub(crate) struct Pages {
    directory: PathBuf,
    metrics: PathBuf,
    pid: u32,
    minor: Minor,
    files: Rc<RefCell<Files>>,
    writer: RefCell<Option<Task<()>>>,
}

#[derive(Default)]
struct Files {
    vdi: Option<StatisticsFile>,
    _metrics: Option<StatisticsFile>,
    nbd: Option<StatisticsFile>,
    /// Whoever connects there is counted with the others; the page is for those who expect it.
    _nbd_old: Option<StatisticsFile>,
}

impl Pages {
    /// Pages of this process, none of which are there yet.
    pub(crate) fn new(run: &RunDir, pid: u32, minor: Minor) -> Pages {
        Pages {
            directory: run.shared_memory(pid),
            metrics: run.metrics(),
            pid,
            minor,
            files: Rc::default(),
            writer: RefCell::default(),
        }
    }

    /// Makes all pages, and keeps them up to date.
    pub(crate) fn open(&self, disk: &Disk) -> Result<()> {
        let [nbd, nbd_old] = ["nbd", "nbd-old"].map(|name| self.create(name).map(Some));
        *self.files.borrow_mut() = Files { nbd: nbd?, _nbd_old: nbd_old?, ..Files::default() };
        let writer = disk.executor().spawn(write(disk.clone(), self.files.clone()));
        self.writer.replace(Some(writer));
        self.resume()
    }

    /// The images are closed.
    pub(crate) fn pause(&self) {
        let mut files = self.files.borrow_mut();
        (files.vdi, files._metrics) = (None, None);
    }

    /// The images are open again.
    pub(crate) fn resume(&self) -> Result<()> {
        self.files.borrow_mut().vdi = Some(self.create("vdi")?);
        self.files.borrow_mut()._metrics = Some(create(&self.metrics, format!("tap-{}-{}", self.pid, self.minor))?);
        Ok(())
    }

    /// Removes all pages.
    pub(crate) fn close(&self) {
        self.writer.take();
        self.files.take();
    }

    fn create(&self, name: &str) -> Result<StatisticsFile> {
        create(&self.directory, format!("{name}-{}", self.minor))
    }
}

fn create(directory: &Path, name: String) -> Result<StatisticsFile> {
    let path = directory.join(&name);
    StatisticsFile::create(Rc::new(OwnDirectory::open(directory)?), name).context(path.display())
}

async fn write(disk: Disk, files: Rc<RefCell<Files>>) {
    let status = disk.status();
    loop {
        {
            // As long as blocks come in by NBD alone, what the disk has done is what NBD clients have asked.
            let Files { vdi, nbd, .. } = &mut *files.borrow_mut();
            vdi.iter_mut().chain(nbd).for_each(|page| page.update(&status));
        }
        disk.executor().sleep(AGE_MAX).await;
    }
}
