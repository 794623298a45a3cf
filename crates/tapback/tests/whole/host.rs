//! A host without Xen: the programs are processes, the backend and the guest are on this test's executor.

use std::{
    cell::RefCell,
    fs::File,
    future::Future,
    io::{BufRead, BufReader},
    pin::pin,
    process::{Child, Stdio},
    rc::Rc,
    time::Duration,
};

use control_api::{RunDir, native};
use futures_util::future::{Either, select};
use guest::{
    Device, DeviceOptions,
    toolstack::{DiskSpec, Toolstack},
};
use storage_io::{EngineChoice, Executor};
use tapback::{DeviceName, Host, Log, NamedDisks, Offer, Tapdisks, Watcher};
use test_support::RunDirectory;
use wire::xenstore::Path;
use xen::{
    DomainId,
    hosted::{BrokerLimits, BrokerThread, Guest},
    store::{Address, Store},
};

pub(crate) const DOMAIN: DomainId = DomainId(7);
/// A hang limit, not a measure.
pub(crate) const LONG: Duration = Duration::from_secs(120);
const PAGES: u32 = 2048;
/// Bytes of a disk.
pub(crate) const DISK_BYTES: u64 = 4 << 20;

pub(crate) struct Whole {
    pub(crate) executor: Executor,
    pub(crate) run: RunDir,
    pub(crate) store: Store,
    pub(crate) toolstack: Toolstack,
    pub(crate) guest: Guest,
    host: Rc<Host>,
    backend: RefCell<Backend>,
    place: RunDirectory,
    xenstored: Child,
    _broker: BrokerThread,
}

struct Lines;

impl Log for Lines {
    fn note(&self, device: &DeviceName, words: &str) {
        println!("{device}: {words}");
    }

    fn note_all(&self, kind: &str, words: &str) {
        println!("{kind}: {words}");
    }
}

/// Who serves guests' devices.
#[derive(Debug)]
pub(crate) enum Backend {
    /// Nobody at present.
    Nobody,
    /// It runs on this executor.
    Here { watcher: Watcher },
    /// It is a process of its own.
    Process(Child),
}

/// A disk and the tapdisk behind it.
pub(crate) struct Disk {
    pub(crate) spec: DiskSpec,
    pub(crate) pid: u32,
    pub(crate) minor: u16,
}

impl Disk {
    pub(crate) fn node(&self, name: &str) -> Path {
        self.spec.backend_path().unwrap().join(name).unwrap()
    }

    pub(crate) fn error_node(&self) -> Path {
        let device = self.spec.device().unwrap();
        format!("/local/domain/0/error/backend/vbd3/{DOMAIN}/{device}/error").parse().unwrap()
    }
}

impl Whole {
    /// With a backend on this executor.
    pub(crate) fn new() -> Whole {
        let whole = Whole::without_backend();
        whole.restart_backend();
        whole
    }

    pub(crate) fn without_backend() -> Whole {
        let place = RunDirectory::new();
        let run = RunDir::at(place.path());
        let directory = place.scratch().to_owned();
        let broker = BrokerThread::start(&directory, BrokerLimits::default()).unwrap();
        broker.ask(|broker| broker.create_domain(DOMAIN, PAGES)).unwrap();
        let mut command = place.program("oxtap-xenstored");
        let mut xenstored = command
            .arg(&directory)
            .arg(DOMAIN.to_string())
            .stdin(Stdio::null())
            .stdout(Stdio::piped())
            .spawn()
            .unwrap();
        let mut line = String::new();
        BufReader::new(xenstored.stdout.take().unwrap()).read_line(&mut line).unwrap();
        let executor = Executor::new(EngineChoice::Inline).unwrap();
        let store = || Store::connect(&executor, Address::Socket(directory.join("socket"))).unwrap();
        let host = Rc::new(Host {
            executor: executor.clone(),
            store: store(),
            domain: DomainId(0),
            worker: Rc::new(Tapdisks::new(&executor, run.clone())),
            opener: Rc::new(NamedDisks),
            log: Rc::new(Lines),
            offer: Offer::default(),
        });
        let backend = RefCell::new(Backend::Nobody);
        let toolstack = Toolstack::new(store());
        let guest = Guest::boot(&directory, DOMAIN).unwrap();
        let store = store();
        let whole = Whole { executor, run, store, toolstack, guest, host, backend, place, xenstored, _broker: broker };
        whole.run(whole.toolstack.add_domain(DOMAIN, 8192)).unwrap();
        whole
    }

    /// Runs a story; one that hangs fails.
    pub(crate) fn run<T>(&self, story: impl Future<Output = T>) -> T {
        self.executor.block_on(async {
            match select(pin!(story), pin!(self.executor.sleep(LONG))).await {
                Either::Left((told, _)) => told,
                Either::Right(_) => panic!("it hangs: {:?}", self.backend),
            }
        })
    }

    /// What programs must know of this host.
    fn platform(&self) -> String {
        format!("hosted:{}", self.place.scratch().display())
    }

    fn tap_ctl(&self, line: &[&str]) -> String {
        let mut command = self.place.program("tap-ctl");
        let output = command.args(line).env("OXTAP_XEN", self.platform()).stdin(Stdio::null()).output().unwrap();
        assert!(output.status.success(), "tap-ctl {line:?}: {output:?}");
        String::from_utf8(output.stdout).unwrap()
    }

    /// A toolstack attaches a disk and waits; its script makes a tapdisk and names it.
    pub(crate) async fn attach(&self, name: &str) -> Disk {
        self.attach_with(name, |spec| spec).await
    }

    /// A disk for which the toolstack asks for more than is usual.
    pub(crate) async fn attach_with(&self, name: &str, asked: impl FnOnce(DiskSpec) -> DiskSpec) -> Disk {
        let image = self.place.scratch().join(name);
        File::create(&image).unwrap().set_len(DISK_BYTES).unwrap();
        let image = format!("aio:{}", image.display());
        let script = Some("block-tap".to_owned());
        let spec = asked(DiskSpec { script, ..DiskSpec::new(DOMAIN, name, &image) });
        self.toolstack.add_disk(&spec).await.unwrap();
        let mut disk = Disk { spec, pid: 0, minor: 0 };
        self.wait_for(&disk, "2").await;
        self.run_script(&mut disk).await;
        disk
    }

    /// What a script does: it makes a tapdisk, has it open the image, and names it.
    pub(crate) async fn run_script(&self, disk: &mut Disk) {
        let image = disk.spec.image.clone();
        let pid = self.tap_ctl(&["spawn"]).trim().to_owned();
        let minor = self.run.allocate_minor().unwrap().to_string();
        self.tap_ctl(&["attach", "-p", &pid, "-m", &minor]);
        self.tap_ctl(&["open", "-p", &pid, "-m", &minor, "-a", &image]);
        (disk.pid, disk.minor) = (pid.parse().unwrap(), minor.parse().unwrap());
        let socket = format!("/run/blktap-control/nbd{pid}.{minor}");
        for (name, value) in [("physical-device-path", socket.as_str()), ("hotplug-status", "connected")] {
            self.store.write(&disk.node(name), value.as_bytes()).await.unwrap();
        }
    }

    /// Waits until a node is there, or has gone.
    pub(crate) async fn wait_for_node(&self, node: &Path, is_there: bool) {
        let watch = self.store.watch(node);
        while self.text(node).await.is_some() != is_there {
            watch.next().await;
        }
    }

    pub(crate) async fn text(&self, node: &Path) -> Option<String> {
        self.store.read(node).await.unwrap().map(|value| String::from_utf8(value).unwrap())
    }

    pub(crate) async fn wait_for(&self, disk: &Disk, state: &str) {
        let watch = self.store.watch(&disk.node("state"));
        while self.text(&disk.node("state")).await.as_deref() != Some(state) {
            watch.next().await;
        }
    }

    /// A kernel of the guest, with a connection of its own, takes care of the disk.
    pub(crate) async fn device(&self, disk: &Disk, options: DeviceOptions) -> Device {
        let own = disk.spec.frontend_path().unwrap();
        Device::open(&self.executor, &self.guest, &self.guest_store(), own, options).await.unwrap()
    }

    pub(crate) fn guest_store(&self) -> Store {
        let socket = self.place.scratch().join(format!("socket.{DOMAIN}"));
        Store::connect(&self.executor, Address::Socket(socket)).unwrap()
    }

    pub(crate) fn client(&self, disk: &Disk) -> native::Client {
        native::Client::connect(&self.run, disk.pid, Some(LONG)).unwrap()
    }

    /// What a tapdisk tells of its disk.
    pub(crate) fn shown(&self, disk: &Disk) -> native::DiskSummary {
        self.client(disk).list().unwrap().pop().unwrap()
    }

    /// Kills a tapdisk as a bug or an impatient person does.
    pub(crate) fn kill(&self, disk: &Disk) {
        let mut found = 0;
        for process in self.place.processes().unwrap() {
            if process.pid() == disk.pid {
                found += 1;
                process.kill().unwrap();
            }
            process.release();
        }
        assert_eq!(found, 1);
    }

    /// The backend on this executor ends, and another one starts.
    pub(crate) fn restart_backend(&self) {
        drop(self.backend.replace(Backend::Nobody));
        self.backend.replace(Backend::Here { watcher: Watcher::start(&self.host, "vbd3") });
    }

    /// A backend starts as a process of its own.
    pub(crate) fn start_backend_process(&self) {
        let mut command = self.place.program("tapback");
        command.arg("-d").env("OXTAP_XEN", self.platform()).stdin(Stdio::null());
        self.backend.replace(Backend::Process(command.spawn().unwrap()));
    }

    /// It is killed, and has gone.
    pub(crate) fn kill_backend_process(&self) {
        let Backend::Process(mut child) = self.backend.replace(Backend::Nobody) else { panic!("there is none") };
        child.kill().unwrap();
        child.wait().unwrap();
    }

    pub(crate) async fn until_all_is_forgotten(&self) {
        let has_devices = || match &*self.backend.borrow() {
            Backend::Here { watcher } => !watcher.devices().is_empty(),
            backend => panic!("nobody here knows of devices: {backend:?}"),
        };
        while has_devices() {
            self.text(&"/local".parse().unwrap()).await;
        }
    }

    /// Pages of the guest that anybody still uses.
    pub(crate) fn used_pages(&self) -> u32 {
        self.guest.account().unwrap().used
    }
}

impl Drop for Whole {
    fn drop(&mut self) {
        self.executor.end_tasks();
        if let Backend::Process(child) = self.backend.get_mut() {
            let _ = child.kill();
            let _ = child.wait();
        }
        let _ = self.xenstored.kill();
        let _ = self.xenstored.wait();
    }
}
