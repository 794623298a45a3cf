//! Which disk is meant, on a host with tapdisks: scripts name it, or it is looked for among those that are open, or a
//! tapdisk is started for it.
//!
//! ```text
//!   pid and minor, or physical-device-path = .../nbd<pid>.<minor> ---------------> that disk
//!   physical-device = 0:<minor>, or a path that ends in a minor --\
//!   params = type:path, as it was opened ---------------------------> every tapdisk is asked what it has
//!   script = .../block-oxtap, if we may: params --> asked for, else started, and ended when nobody needs it any more
//! ```
//!
//! Tapdisks are asked at the same time. One that does not answer holds up nobody but those whose disk no other has.

mod names;
mod own;
mod search;

use std::rc::Rc;

use block_core::{Error, ErrorKind, Result};
use control_api::RunDir;
use futures_util::future::LocalBoxFuture;
use storage_io::Executor;
use xen::{DomainId, store::Store};

use crate::{DeviceName, Disk, ImageNodes, Log, Opener, image::named_disk};

use names::{is_our_script, wishes};
use own::OwnDisks;

pub(crate) use names::Wish;
pub(crate) use own::{begin, terminate};
pub(crate) use search::Search;

/// Finds the disks that devices mean. See the [module](self).
#[derive(Clone)]
pub struct Finder {
    inner: Rc<Inner>,
}

struct Inner {
    search: Rc<Search>,
    /// Those that are started by us, if we may.
    own: Option<Rc<OwnDisks>>,
    /// Who wants to know how a disk was found.
    told: Option<Rc<dyn Log>>,
}

impl Finder {
    /// Finds disks of the tapdisks whose sockets are here; starts none.
    pub fn new(executor: &Executor, run: &RunDir) -> Finder {
        let search = Rc::new(Search::new(executor, run));
        Finder { inner: Rc::new(Inner { search, own: None, told: None }) }
    }

    /// As [`new`](Self::new), and starts tapdisks for devices whose script leaves that to us. The backend is this domain.
    pub fn starting(store: &Store, run: &RunDir, domain: DomainId, log: &Rc<dyn Log>) -> Finder {
        let search = Rc::new(Search::new(store.executor(), run));
        let own = OwnDisks::new(store, run, search.clone(), domain, log.clone());
        Finder { inner: Rc::new(Inner { search, own: Some(Rc::new(own)), told: None }) }
    }

    /// The same, and tells of each disk that is found.
    #[must_use]
    pub fn telling(self, log: &Rc<dyn Log>) -> Finder {
        let Inner { search, own, .. } = &*self.inner;
        Finder { inner: Rc::new(Inner { search: search.clone(), own: own.clone(), told: Some(log.clone()) }) }
    }
}

impl Inner {
    async fn open(self: Rc<Self>, device: DeviceName, image: ImageNodes, may_start: bool) -> Result<Disk> {
        let found = self.find(&device, image, may_start).await;
        if let (Some(log), Ok(Disk { pid, minor })) = (&self.told, &found) {
            log.note(&device, &format!("its disk is minor {minor} of tapdisk {pid}"));
        }
        found
    }

    async fn find(&self, device: &DeviceName, image: ImageNodes, may_start: bool) -> Result<Disk> {
        if is_our_script(&image) {
            let refused = || Error::new(ErrorKind::Unsupported, "no tapdisk is started for it: --auto was not given");
            return self.own.as_ref().ok_or_else(refused)?.open(device, &image, may_start).await;
        }
        if let Some(disk) = named_disk(&image) {
            return Ok(disk);
        }
        let wishes = wishes(&image);
        let found = self.search.find(&wishes).await?;
        found.disk.ok_or_else(|| found.complaint(&wishes))
    }
}

impl Opener for Finder {
    fn open(&self, device: &DeviceName, image: ImageNodes) -> LocalBoxFuture<'static, Result<Disk>> {
        Box::pin(self.inner.clone().open(device.clone(), image, true))
    }

    fn adopt(&self, device: &DeviceName, image: ImageNodes) -> LocalBoxFuture<'static, Result<Disk>> {
        Box::pin(self.inner.clone().open(device.clone(), image, false))
    }

    fn nodes(&self, disk: Disk) -> Vec<(&'static str, String)> {
        self.inner.own.as_ref().map_or_else(Vec::new, |own| own.nodes(disk))
    }

    fn close(&self, device: &DeviceName, disk: Disk) {
        if let Some(own) = &self.inner.own {
            own.close(device, disk);
        }
    }
}

impl std::fmt::Debug for Finder {
    fn fmt(&self, f: &mut std::fmt::Formatter<'_>) -> std::fmt::Result {
        let Inner { search, own, .. } = &*self.inner;
        write!(f, "Finder({search:?}, starts tapdisks: {})", own.is_some())
    }
}
