//! The statistics of one disk in shared memory: which pages are there, and when.
//!
//! | page | from | to |
//! | --- | --- | --- |
//! | `vdi-<minor>` | open, resume | pause, close |
//! | `nbd-<minor>`, `nbd-old-<minor>` | open | close |
//! | `vbd-<domain>-<device>` | a guest is connected | it is disconnected |
//! | `metrics/tap-<pid>-<minor>`, beside the process's directory: empty, for those who look for it | open, resume | pause, close |

use std::{
    cell::RefCell,
    path::{Path, PathBuf},
    rc::Rc,
    sync::Arc,
    time::Duration,
};

use block_core::{Result, ResultExt};
use control_api::{Minor, OwnDirectory, RunDir};
use export::blkif::RingTraffic;
use storage_io::Task;
use virtual_disk::Disk;

use crate::{
    rings::ShownDevice,
    shared_memory::{Record, StatisticsFile},
};

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
    /// Guests that are connected, if their pages could be made.
    vbds: Vec<(Arc<ShownDevice>, Option<StatisticsFile>)>,
    /// What guests had done that have gone.
    past: RingTraffic,
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
        {
            let mut files = self.files.borrow_mut();
            (files.nbd, files._nbd_old) = (nbd?, nbd_old?);
        }
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

    /// Removes all pages but those of guests, which go with them.
    pub(crate) fn close(&self) {
        self.writer.take();
        let mut files = self.files.borrow_mut();
        (files.vdi, files._metrics, files.nbd, files._nbd_old) = (None, None, None, None);
    }

    /// A guest is connected.
    pub(crate) fn add_device(&self, device: Arc<ShownDevice>) -> Result<()> {
        let made = create(&self.directory, format!("vbd-{}", device.name()));
        let (file, result) = match made {
            Ok(file) => (Some(file), Ok(())),
            Err(error) => (None, Err(error)),
        };
        self.files.borrow_mut().vbds.push((device, file));
        result
    }

    /// A guest has gone.
    pub(crate) fn remove_device(&self, device: &Arc<ShownDevice>) {
        let files = &mut *self.files.borrow_mut();
        files.vbds.retain(|(other, _)| !Arc::ptr_eq(other, device));
        files.past = files.past + device.traffic();
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
            let Files { vdi, nbd, vbds, past, .. } = &mut *files.borrow_mut();
            let all = Record::of_disk(&status);
            // What guests have not asked, NBD clients have.
            let guests = vbds.iter().map(|(device, _)| device.traffic()).fold(*past, |sum, traffic| sum + traffic);
            vdi.iter_mut().for_each(|page| page.update(&all));
            nbd.iter_mut().for_each(|page| page.update(&all.without(&guests)));
            for (device, page) in vbds {
                page.iter_mut().for_each(|page| page.update(&Record::of_guest(&device.traffic())));
            }
        }
        disk.executor().sleep(AGE_MAX).await;
    }
}
