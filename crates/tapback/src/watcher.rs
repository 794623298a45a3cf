//! All devices of a kind: made when their directories come, forgotten when they have gone.

use std::{
    cell::RefCell,
    collections::{BTreeMap, BTreeSet},
    pin::pin,
    rc::Rc,
};

use block_core::Result;
use futures_util::future::{Either, select};
use storage_io::{Signal, Task};
use wire::xenstore::Path;
use xen::{DomainId, store::Watch};

use crate::{Device, DeviceName, Host, Summary, device::REFUSED_PAUSE, name::kind_directory, refused::Refused};

/// Serves every device below `backend/<kind>`. Dropping it leaves all of them as they are.
///
/// The watch stays when the directory goes, and `backend` with it: both come back with the next device.
pub struct Watcher {
    devices: Rc<Devices>,
    _task: Task<()>,
}

struct Devices {
    host: Rc<Host>,
    kind: Rc<str>,
    root: Path,
    /// Devices of other guests are not ours.
    only: Option<String>,
    known: RefCell<BTreeMap<DeviceName, Device>>,
    /// Whose devices could not be listed: of all guests, or of one. They are asked for again.
    unlisted: RefCell<BTreeSet<Option<String>>>,
    refused: Refused,
    /// One of them is over.
    over: Rc<Signal>,
}

/// What an event is about.
enum Place {
    /// All devices, of one guest if it is named.
    Many(Option<String>),
    One(DeviceName),
    Nothing,
}

impl Watcher {
    /// Serves devices of this kind from now on.
    ///
    /// # Panics
    /// When the kind is no name of a node.
    pub fn start(host: &Rc<Host>, kind: &str) -> Watcher {
        Watcher::start_for(host, kind, None)
    }

    /// As [`start`](Self::start), for the devices of one guest if it is named.
    ///
    /// # Panics
    /// When the kind is no name of a node.
    pub fn start_for(host: &Rc<Host>, kind: &str, only: Option<DomainId>) -> Watcher {
        let root = kind_directory(host.domain, kind);
        let devices = Rc::new(Devices {
            host: host.clone(),
            kind: kind.into(),
            root,
            only: only.map(|guest| guest.to_string()),
            known: RefCell::default(),
            unlisted: RefCell::default(),
            refused: Refused::default(),
            over: Rc::default(),
        });
        let task = host.executor.spawn(devices.clone().run());
        Watcher { devices, _task: task }
    }

    /// What is known of each device.
    pub fn devices(&self) -> Vec<(DeviceName, Summary)> {
        let known = self.devices.known.borrow();
        known.iter().map(|(name, device)| (name.clone(), device.summary())).collect()
    }

    /// Ends when the directory of devices, of the one guest if only one is served, has been there and has gone, and every
    /// device has let go of what it had.
    pub async fn until_nothing_is_left(&self) {
        let Devices { host, root, only, .. } = &*self.devices;
        let directory = only.as_ref().and_then(|guest| root.join(guest).ok());
        let directory = directory.unwrap_or_else(|| root.clone());
        let watch = host.store.watch(&directory);
        let mut was_there = false;
        loop {
            watch.next().await;
            drop(watch.take());
            match host.store.directory(&directory).await {
                Ok(Some(_)) => was_there = true,
                Ok(None) if was_there => break,
                // What cannot be read is there as far as we know; its next change is told.
                Ok(None) | Err(_) => {}
            }
        }
        self.until_none_is_served().await;
    }

    /// Ends when every device has let go of what it had.
    pub async fn until_none_is_served(&self) {
        self.devices.over.until(|| self.devices.known.borrow().values().all(Device::is_over)).await;
    }

    /// Tells, for as long as this serves, whether any of its devices has a disk of this number.
    pub fn users(&self) -> impl Fn(u16) -> bool + 'static {
        let devices = Rc::downgrade(&self.devices);
        move |minor| {
            let Some(devices) = devices.upgrade() else { return false };
            let known = devices.known.borrow();
            known.values().any(|device| device.summary().disk.is_some_and(|disk| disk.minor == minor))
        }
    }

    /// Tells, for as long as this serves, whether this device of a guest is one of its devices.
    pub fn servers(&self) -> impl Fn(DomainId, u32) -> bool + 'static {
        let devices = Rc::downgrade(&self.devices);
        move |domain, device| {
            let Some(devices) = devices.upgrade() else { return false };
            let known = devices.known.borrow();
            known.iter().any(|(name, served)| name.domain == domain && name.device == device && !served.is_over())
        }
    }
}

impl std::fmt::Debug for Watcher {
    fn fmt(&self, f: &mut std::fmt::Formatter<'_>) -> std::fmt::Result {
        f.debug_map().entries(self.devices()).finish()
    }
}

impl Devices {
    async fn run(self: Rc<Self>) {
        let watch = self.host.store.watch(&self.root);
        loop {
            let paths = self.changes_or_due(&watch).await;
            if let Some(words) = self.refused.news(&watch) {
                self.host.log.note_all(&self.kind, &words);
            }
            for path in paths {
                match self.place(&path) {
                    Place::Many(guest) => self.look_at_all(guest.as_deref()).await,
                    Place::One(name) => self.look_at(name),
                    Place::Nothing => {}
                }
            }
        }
    }

    /// What has changed; if something could not be listed, not later than when it is due again.
    async fn changes_or_due(&self, watch: &Watch) -> Vec<String> {
        if self.unlisted.borrow().is_empty() {
            return self.changes(watch).await;
        }
        let due = pin!(self.host.executor.sleep(REFUSED_PAUSE));
        match select(pin!(self.changes(watch)), due).await {
            Either::Left((paths, _)) => paths,
            Either::Right(_) => {
                let unlisted = self.unlisted.take();
                for guest in unlisted {
                    self.list(guest.as_deref()).await;
                }
                Vec::new()
            }
        }
    }

    /// Where something has changed. Devices that are over are forgotten meanwhile.
    async fn changes(&self, watch: &Watch) -> Vec<String> {
        let first = {
            let forgetting = pin!(async {
                loop {
                    self.over.until(|| self.known.borrow().values().any(Device::is_over)).await;
                    self.forget();
                }
            });
            let changed = pin!(watch.next());
            let future = select(changed, forgetting).await;
            match future {
                Either::Left((path, _)) => path,
                Either::Right((never, _)) => never,
            }
        };
        let mut paths = watch.take();
        paths.push(first);
        paths
    }

    fn forget(&self) {
        let known = self.known.take();
        self.known.replace(known.into_iter().filter(|(_, device)| !device.is_over()).collect());
    }

    fn place(&self, path: &str) -> Place {
        let Some(below) = path.strip_prefix(self.root.as_str()) else { return Place::Nothing };
        let mut names = below.split('/').skip(1);
        match (names.next(), names.next()) {
            (None, _) => Place::Many(None),
            (Some(guest), _) if self.only.as_deref().is_some_and(|only| only != guest) => Place::Nothing,
            (Some(guest), None) => Place::Many(Some(guest.to_owned())),
            (Some(guest), Some(device)) => {
                DeviceName::parse(&self.kind, guest, device).map_or(Place::Nothing, Place::One)
            }
        }
    }

    /// Looks at all that are there, and at all that were.
    async fn look_at_all(&self, guest: Option<&str>) {
        for (name, device) in &*self.known.borrow() {
            if guest.is_none_or(|guest| name.domain.to_string() == guest) {
                device.look();
            }
        }
        self.list(guest).await;
    }

    /// Looks at all that are there. A guest that cannot be listed holds up no other.
    async fn list(&self, guest: Option<&str>) {
        let guests = match guest.or(self.only.as_deref()) {
            Some(guest) => vec![guest.to_owned()],
            None => match self.host.store.directory(&self.root).await {
                Ok(guests) => guests.unwrap_or_default(),
                Err(_) => {
                    self.unlisted.borrow_mut().insert(None);
                    return;
                }
            },
        };
        for guest in guests {
            match self.names(&guest).await {
                Ok(names) => names.into_iter().for_each(|name| self.look_at(name)),
                Err(_) => drop(self.unlisted.borrow_mut().insert(Some(guest))),
            }
        }
    }

    async fn names(&self, guest: &str) -> Result<Vec<DeviceName>> {
        let Ok(directory) = self.root.join(guest) else { return Ok(Vec::new()) };
        let devices = self.host.store.directory(&directory).await?.unwrap_or_default();
        Ok(devices.iter().filter_map(|device| DeviceName::parse(&self.kind, guest, device)).collect())
    }

    fn look_at(&self, name: DeviceName) {
        let mut known = self.known.borrow_mut();
        match known.get(&name).filter(|device| !device.is_over()) {
            Some(device) => device.look(),
            None => {
                let device = Device::start(&self.host, &name, &self.over);
                drop(known.insert(name, device));
            }
        }
    }
}
