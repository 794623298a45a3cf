//! A host without Xen: the programs are processes, the backend and the guest are on this test's executor.

use std::{
    cell::RefCell,
    ffi::OsString,
    fs::File,
    future::Future,
    io::{BufRead, BufReader},
    pin::pin,
    process::{Child, Stdio},
    rc::Rc,
    time::Duration,
};

use control_api::{Minor, Owner, RingRecordName, RingRecords, RunDir, native};
use futures_util::future::{Either, select};
use guest::{
    Device, DeviceOptions,
    toolstack::{DiskSpec, Toolstack},
};
use storage_io::{EngineChoice, Executor};
use tapback::{DeviceName, Host, Log, NamedDisks, Offer, OnDeath, SameImage, Tapdisks, Watcher, owners::Keeper};
use test_support::{ProcessGuard, RunDirectory, target_program};
use wire::xenstore::Path;
use xen::{
    DomainId,
    hosted::{BrokerLimits, BrokerThread, Guest},
    store::{Address, Store},
};

pub(crate) const DOMAIN: DomainId = DomainId(7);
/// What the guest becomes when it moves within the host.
pub(crate) const NEXT_DOMAIN: DomainId = DomainId(8);
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
    lines: Rc<Lines>,
    place: RunDirectory,
    xenstored: Child,
    _broker: BrokerThread,
}

/// What was logged.
#[derive(Default)]
struct Lines(RefCell<Vec<String>>);

impl Log for Lines {
    fn note(&self, device: &DeviceName, words: &str) {
        println!("{device}: {words}");
        self.0.borrow_mut().push(words.to_owned());
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
        Whole::with(|_, _, _| OnDeath::Fail)
    }

    /// Tapdisks that have gone are replaced.
    pub(crate) fn that_restarts() -> Whole {
        Whole::with(|executor, run, variables| {
            OnDeath::Help(Rc::new(SameImage::new(executor, run.clone(), variables).without_end()))
        })
    }

    /// What is done about tapdisks that have gone is made of this: the executor, where tapdisks are, and what they need to
    /// find in their environment.
    pub(crate) fn with(on_death: impl FnOnce(&Executor, &RunDir, &[(&'static str, OsString)]) -> OnDeath) -> Whole {
        let whole = Whole::without_backend_with(on_death);
        whole.restart_backend();
        whole
    }

    pub(crate) fn without_backend() -> Whole {
        Whole::without_backend_with(|_, _, _| OnDeath::Fail)
    }

    fn without_backend_with(
        on_death: impl FnOnce(&Executor, &RunDir, &[(&'static str, OsString)]) -> OnDeath,
    ) -> Whole {
        let place = RunDirectory::new();
        let run = RunDir::at(place.path());
        let directory = place.scratch().to_owned();
        let broker = BrokerThread::start(&directory, BrokerLimits::default()).unwrap();
        for domain in [DOMAIN, NEXT_DOMAIN] {
            broker.ask(move |broker| broker.create_domain(domain, PAGES)).unwrap();
        }
        let mut command = place.program("oxtap-xenstored");
        let mut xenstored = command
            .arg(&directory)
            .args([DOMAIN, NEXT_DOMAIN].map(|domain| domain.to_string()))
            .stdin(Stdio::null())
            .stdout(Stdio::piped())
            .spawn()
            .unwrap();
        let mut line = String::new();
        BufReader::new(xenstored.stdout.take().unwrap()).read_line(&mut line).unwrap();
        let executor = Executor::new(EngineChoice::Inline).unwrap();
        let store = || Store::connect(&executor, Address::Socket(directory.join("socket"))).unwrap();
        let lines = Rc::<Lines>::default();
        let variables = [
            ("OXTAP_XEN", format!("hosted:{}", directory.display()).into()),
            ("TAPDISK", target_program("tapdisk").into_os_string()),
        ];
        let host = Rc::new(Host {
            executor: executor.clone(),
            store: store(),
            domain: DomainId(0),
            worker: Rc::new(Tapdisks::with_variables(&executor, run.clone(), &variables)),
            opener: Rc::new(NamedDisks),
            log: lines.clone(),
            offer: Offer::default(),
            on_death: on_death(&executor, &run, &variables),
        });
        let backend = RefCell::new(Backend::Nobody);
        let toolstack = Toolstack::new(store());
        let guest = Guest::boot(&directory, DOMAIN).unwrap();
        let store = store();
        let whole =
            Whole { executor, run, store, toolstack, guest, host, backend, lines, place, xenstored, _broker: broker };
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

    /// Runs `oxtap` for this host; while it runs, everything else here stands still.
    pub(crate) fn oxtap(&self, line: &[&str]) -> std::process::Output {
        self.place.program("oxtap").args(line).stdin(Stdio::null()).output().unwrap()
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
        disk.minor = self.run.allocate_minor().unwrap().number();
        self.serve(disk).await;
    }

    /// Another device gets the same disk, as scripts do it that find a tapdisk with the image.
    pub(crate) async fn share(&self, disk: &Disk, name: &str) -> Disk {
        self.share_with(DOMAIN, disk, name).await
    }

    /// The same, for a device of this domain.
    pub(crate) async fn share_with(&self, domain: DomainId, disk: &Disk, name: &str) -> Disk {
        let script = Some("block-tap".to_owned());
        let spec = DiskSpec { script, ..DiskSpec::new(domain, name, &disk.spec.image) };
        self.toolstack.add_disk(&spec).await.unwrap();
        let other = Disk { spec, ..*disk };
        self.wait_for(&other, "2").await;
        self.name(&other).await;
        other
    }

    /// Somebody starts another tapdisk for the disk.
    pub(crate) async fn replace(&self, disk: &Disk) {
        self.serve(&mut Disk { spec: disk.spec.clone(), ..*disk }).await;
    }

    async fn serve(&self, disk: &mut Disk) {
        let (pid, minor) = (self.tap_ctl(&["spawn"]).trim().to_owned(), disk.minor.to_string());
        self.tap_ctl(&["attach", "-p", &pid, "-m", &minor]);
        self.tap_ctl(&["open", "-p", &pid, "-m", &minor, "-a", &disk.spec.image]);
        disk.pid = pid.parse().unwrap();
        self.name(disk).await;
    }

    /// What a script writes when it has a disk.
    async fn name(&self, disk: &Disk) {
        let (pid, minor) = (disk.pid, disk.minor);
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

    /// The guest as the domain that it becomes when it moves.
    pub(crate) fn next_guest(&self) -> Guest {
        Guest::boot(self.place.scratch(), NEXT_DOMAIN).unwrap()
    }

    /// Its disk there.
    pub(crate) async fn next_device(&self, guest: &Guest, disk: &Disk) -> Device {
        let (own, store) = (disk.spec.frontend_path().unwrap(), self.store_of(NEXT_DOMAIN));
        Device::open(&self.executor, guest, &store, own, DeviceOptions::default()).await.unwrap()
    }

    pub(crate) fn guest_store(&self) -> Store {
        self.store_of(DOMAIN)
    }

    fn store_of(&self, domain: DomainId) -> Store {
        let socket = self.place.scratch().join(format!("socket.{domain}"));
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
        assert_eq!(self.kill_if_there(disk), 1);
    }

    /// As [`kill`](Self::kill), if it has not ended by itself.
    pub(crate) fn kill_if_there(&self, disk: &Disk) -> u32 {
        let mut found = 0;
        for process in self.place.processes().unwrap() {
            if process.pid() == disk.pid {
                found += 1;
                process.kill().unwrap();
            }
            process.release();
        }
        found
    }

    /// The backend on this executor ends.
    pub(crate) fn stop_backend(&self) {
        drop(self.backend.replace(Backend::Nobody));
    }

    /// It ends, and another one starts.
    pub(crate) fn restart_backend(&self) {
        self.stop_backend();
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

    /// The disk is its script's, as when tap-ctl is called by one.
    pub(crate) fn own(&self, disk: &Disk) {
        let owner = Owner::Hotplug(disk.spec.backend_path().unwrap().as_str().to_owned());
        self.run.change_minor_record(Minor::new(disk.minor).unwrap(), |record| record.owner = owner).unwrap();
    }

    /// Looks after disks whose scripts do not.
    pub(crate) fn keeper(&self, script_time: Duration) -> Keeper {
        let backend = self.backend.borrow();
        let Backend::Here { watcher } = &*backend else { panic!("it is not here") };
        Keeper::start(&self.host, &self.run, script_time, std::slice::from_ref(watcher))
    }

    /// Everything of disks that is left on the host: minors and processes.
    pub(crate) fn left(&self) -> (usize, usize) {
        let processes = self.place.processes().unwrap();
        let count = processes.len();
        processes.into_iter().for_each(ProcessGuard::release);
        // One of them is XenStore's.
        (self.run.minors().unwrap().len(), count - 1)
    }

    /// Lets time pass until nothing is left of any disk.
    pub(crate) async fn until_nothing_is_left(&self) {
        while self.left() != (0, 0) {
            self.executor.sleep(Duration::from_millis(20)).await;
        }
    }

    /// How often something was logged that begins like this.
    pub(crate) fn told(&self, words: &str) -> usize {
        self.lines.0.borrow().iter().filter(|line| line.starts_with(words)).count()
    }

    /// How many requests a tapdisk has repeated that another had taken.
    pub(crate) fn repeated(&self, disk: &Disk) -> u64 {
        let log = std::fs::read_to_string(self.run.log_file(disk.pid)).unwrap();
        let count = |line: &str| line.rsplit_once(" requests are repeated")?.0.rsplit(' ').next()?.parse::<u64>().ok();
        log.lines().filter_map(count).sum()
    }

    /// Rings of which something is known besides what their guests can see.
    pub(crate) fn ring_records(&self) -> Vec<RingRecordName> {
        RingRecords::new(&self.run).all()
    }

    /// All that was logged here.
    pub(crate) fn log(&self) -> String {
        self.lines.0.borrow().join("\n")
    }

    /// How many lines of those that tell of the end of a disk come before the first that has these words.
    pub(crate) fn order_of(&self, words: &str) -> Option<usize> {
        let lines = self.lines.0.borrow();
        lines.iter().filter(|line| line.starts_with("minor ")).position(|line| line.contains(words))
    }

    /// The tapdisk that has a disk by now, as its nodes say.
    pub(crate) async fn pid(&self, disk: &Disk) -> Option<u32> {
        self.text(&disk.node("pid")).await.and_then(|pid| pid.parse().ok())
    }

    /// Ends when another tapdisk has the disk, by the nodes; gives it.
    pub(crate) async fn successor(&self, disk: &Disk) -> Disk {
        let watch = self.store.watch(&disk.node("pid"));
        loop {
            watch.next().await;
            if let Some(pid) = self.pid(disk).await.filter(|pid| *pid != disk.pid) {
                return Disk { spec: disk.spec.clone(), pid, minor: disk.minor };
            }
        }
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
