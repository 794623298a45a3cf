//! A host without Xen whose backend is the program.

use std::{
    cell::RefCell,
    collections::BTreeSet,
    ffi::OsStr,
    fs::{self, File},
    future::Future,
    io::{BufRead, BufReader},
    path::PathBuf,
    pin::pin,
    process::{Child, Command, ExitStatus, Stdio},
    time::Duration,
};

use control_api::{Client, Minor, OpenRequest, RunDir, native};
use futures_util::future::{Either, select};
use guest::{
    Device, DeviceOptions,
    toolstack::{DiskSpec, Toolstack},
};
use rustix::process::{Pid, Signal, kill_process};
use storage_io::{EngineChoice, Executor};
use test_support::{ProcessGuard, RunDirectory};
use wire::xenstore::Path;
use xen::{
    DomainId,
    hosted::{BrokerLimits, BrokerThread, Guest},
    store::{Address, Store},
};

pub(crate) const DOMAIN: DomainId = DomainId(7);
/// Another one, for stories in which domains come and go. XenStore has a door for it.
pub(crate) const OTHER_DOMAIN: DomainId = DomainId(8);
/// A hang limit, not a measure.
pub(crate) const LONG: Duration = Duration::from_secs(200);
/// The script that leaves a disk to the backend.
pub(crate) const OUR_SCRIPT: &str = "/etc/xen/scripts/block-oxtap";
/// Kernels that crash leave what they had under way granted, and there are stories with hundreds of them.
pub(crate) const PAGES: u32 = 16384;
pub(crate) const DISK_BYTES: u64 = 4 << 20;

pub(crate) struct Hosted {
    pub(crate) executor: Executor,
    pub(crate) run: RunDir,
    pub(crate) store: Store,
    pub(crate) toolstack: Toolstack,
    pub(crate) guest: Guest,
    pub(crate) place: RunDirectory,
    backend: RefCell<Option<Child>>,
    xenstored: Child,
    pub(crate) broker: BrokerThread,
}

impl Hosted {
    /// A host whose backend was started like this.
    pub(crate) fn new(arguments: &[&str]) -> Hosted {
        let host = Hosted::without_backend();
        host.start(arguments);
        host
    }

    pub(crate) fn without_backend() -> Hosted {
        let place = RunDirectory::new();
        let run = RunDir::at(place.path());
        let directory = place.scratch().to_owned();
        let broker = BrokerThread::start(&directory, BrokerLimits::default()).unwrap();
        broker.ask(|broker| broker.create_domain(DOMAIN, PAGES)).unwrap();
        let mut command = place.program("oxtap-xenstored");
        let command = command
            .arg(&directory)
            .args([DOMAIN, OTHER_DOMAIN].map(|domain| domain.to_string()))
            .stdin(Stdio::null())
            .stdout(Stdio::piped());
        let mut xenstored = command.spawn().unwrap();
        let mut line = String::new();
        BufReader::new(xenstored.stdout.take().unwrap()).read_line(&mut line).unwrap();
        let executor = Executor::new(EngineChoice::Inline).unwrap();
        let store = || Store::connect(&executor, Address::Socket(directory.join("socket"))).unwrap();
        let (toolstack, store) = (Toolstack::new(store()), store());
        let guest = Guest::boot(&directory, DOMAIN).unwrap();
        let backend = RefCell::default();
        let host = Hosted { executor, run, store, toolstack, guest, place, backend, xenstored, broker };
        host.run(host.toolstack.add_domain(DOMAIN, u64::from(PAGES) * 4)).unwrap();
        host
    }

    /// Runs a story; one that hangs fails.
    pub(crate) fn run<T>(&self, story: impl Future<Output = T>) -> T {
        self.executor.block_on(async {
            match select(pin!(story), pin!(self.executor.sleep(LONG))).await {
                Either::Left((told, _)) => told,
                Either::Right(_) => panic!("it hangs"),
            }
        })
    }

    /// The backend, and every process that it starts, act on this host.
    pub(crate) fn command(&self, program: &str) -> Command {
        let mut command = self.place.program(program);
        command.env("OXTAP_XEN", format!("hosted:{}", self.place.scratch().display())).stdin(Stdio::null());
        command
    }

    pub(crate) fn start(&self, arguments: &[&str]) {
        self.start_with(arguments, &[]);
    }

    /// With more in its environment.
    pub(crate) fn start_with(&self, arguments: &[&str], variables: &[(&str, &OsStr)]) {
        let mut command = self.command("tapback");
        command.arg("-d").args(arguments).envs(variables.iter().copied());
        let backend = command.spawn().unwrap();
        assert!(self.backend.replace(Some(backend)).is_none(), "one is enough");
    }

    /// Ends it as the system does when memory is short, or a person who is impatient.
    pub(crate) fn kill(&self) {
        let mut backend = self.backend.take().unwrap();
        backend.kill().unwrap();
        backend.wait().unwrap();
    }

    /// Ends it orderly.
    pub(crate) fn end(&self) -> ExitStatus {
        let mut backend = self.backend.take().unwrap();
        let pid = Pid::from_child(&backend);
        kill_process(pid, Signal::TERM).unwrap();
        backend.wait().unwrap()
    }

    /// It ends by itself.
    pub(crate) fn ended(&self) -> ExitStatus {
        self.backend.take().unwrap().wait().unwrap()
    }

    /// A raw image.
    pub(crate) fn image(&self, name: &str) -> PathBuf {
        let image = self.place.scratch().join(name);
        File::create(&image).unwrap().set_len(DISK_BYTES).unwrap();
        image
    }

    /// A toolstack attaches a disk, waits, and has the script run; what that writes besides is given.
    pub(crate) async fn attach(&self, spec: &DiskSpec, nodes: &[(&str, &str)]) {
        self.toolstack.add_disk(spec).await.unwrap();
        self.wait_for(spec, "2").await;
        for (name, value) in nodes.iter().chain(&[("hotplug-status", "connected")]) {
            self.store.write(&self.node(spec, name), value.as_bytes()).await.unwrap();
        }
    }

    pub(crate) fn node(&self, spec: &DiskSpec, name: &str) -> Path {
        spec.backend_path().unwrap().join(name).unwrap()
    }

    pub(crate) async fn text(&self, spec: &DiskSpec, name: &str) -> Option<String> {
        let value = self.store.read(&self.node(spec, name)).await.unwrap();
        value.map(|value| String::from_utf8(value).unwrap())
    }

    pub(crate) async fn wait_for(&self, spec: &DiskSpec, state: &str) {
        let watch = self.store.watch(&self.node(spec, "state"));
        while self.text(spec, "state").await.as_deref() != Some(state) {
            watch.next().await;
        }
    }

    /// What the backend says went wrong, once it does.
    pub(crate) async fn error(&self, spec: &DiskSpec) -> String {
        let name = spec.backend_path().unwrap().as_str().replace("/local/domain/0/", "/local/domain/0/error/");
        let node: Path = format!("{name}/error").parse().unwrap();
        let watch = self.store.watch(&node);
        loop {
            if let Some(words) = self.store.read(&node).await.unwrap() {
                return String::from_utf8(words).unwrap();
            }
            watch.next().await;
        }
    }

    /// Ends when nothing is told to be wrong.
    pub(crate) async fn until_no_error(&self, spec: &DiskSpec) {
        let name = spec.backend_path().unwrap().as_str().replace("/local/domain/0/", "/local/domain/0/error/");
        let node: Path = format!("{name}/error").parse().unwrap();
        let watch = self.store.watch(&node);
        while self.store.read(&node).await.unwrap().is_some() {
            watch.next().await;
        }
    }

    /// A kernel of the guest takes care of the disk.
    pub(crate) async fn device(&self, spec: &DiskSpec) -> Device {
        self.device_of(&self.guest, spec, DeviceOptions::default()).await
    }

    /// The same of any guest, as it likes it.
    pub(crate) async fn device_of(&self, guest: &Guest, spec: &DiskSpec, options: DeviceOptions) -> Device {
        let (store, own) = (self.guest_store(guest.domain()), spec.frontend_path().unwrap());
        Device::open(&self.executor, guest, &store, own, options).await.unwrap()
    }

    /// A connection of a guest's own.
    pub(crate) fn guest_store(&self, domain: DomainId) -> Store {
        let socket = self.place.scratch().join(format!("socket.{domain}"));
        Store::connect(&self.executor, Address::Socket(socket)).unwrap()
    }

    /// Another connection of the toolstack's.
    pub(crate) fn another_store(&self) -> Store {
        Store::connect(&self.executor, Address::Socket(self.place.scratch().join("socket"))).unwrap()
    }

    /// No device has a directory: neither one of its own, nor one that somebody has made again by mistake.
    pub(crate) async fn no_backend_directory_is_left(&self, kind: &str) {
        let kind: Path = format!("/local/domain/0/backend/{kind}").parse().unwrap();
        for guest in self.store.directory(&kind).await.unwrap().unwrap_or_default() {
            let devices = self.store.directory(&kind.join(&guest).unwrap()).await.unwrap();
            assert_eq!(devices.unwrap_or_default(), Vec::<String>::new(), "of guest {guest}");
        }
    }

    /// A domain comes up, with memory of its own.
    pub(crate) async fn boot(&self, domain: DomainId) -> Guest {
        self.broker.ask(move |broker| broker.create_domain(domain, PAGES)).unwrap();
        self.toolstack.add_domain(domain, u64::from(PAGES) * 4).await.unwrap();
        Guest::boot(self.place.scratch(), domain).unwrap()
    }

    /// A storage manager opens an image in a tapdisk of its own.
    pub(crate) fn open(&self, image: &str) -> (u32, Minor) {
        let spawned = self.command("tap-ctl").arg("spawn").output().unwrap();
        let pid: u32 = String::from_utf8(spawned.stdout).unwrap().trim().parse().unwrap();
        let (client, minor) = (Client::new(&self.run, pid), self.run.allocate_minor().unwrap());
        client.attach(minor).unwrap();
        client.open(minor, &OpenRequest::new(image).unwrap()).unwrap();
        (pid, minor)
    }

    /// And closes it.
    pub(crate) fn close(&self, (pid, minor): (u32, Minor)) {
        let client = Client::new(&self.run, pid);
        client.close(minor).unwrap();
        client.detach(minor).unwrap();
        self.run.free_minor(minor).unwrap();
    }

    /// What a tapdisk says that it has.
    pub(crate) fn disks(&self, pid: u32) -> Vec<native::DiskSummary> {
        native::Client::connect(&self.run, pid, Some(LONG)).unwrap().list().unwrap()
    }

    /// A process of this host.
    pub(crate) fn process(&self, pid: u32) -> ProcessGuard {
        self.process_if_any(pid).unwrap()
    }

    /// A process of this host, if it has not ended.
    fn process_if_any(&self, pid: u32) -> Option<ProcessGuard> {
        let (ours, others): (Vec<_>, Vec<_>) =
            self.place.processes().unwrap().into_iter().partition(|process| process.pid() == pid);
        others.into_iter().for_each(ProcessGuard::release);
        ours.into_iter().next()
    }

    /// Kills all tapdisks that there are.
    pub(crate) fn kill_tapdisks(&self) {
        for pid in self.run.tapdisks().unwrap() {
            // One that ends by itself meanwhile is as dead, and leaves its socket for a moment.
            if let Some(process) = self.process_if_any(pid) {
                let _ = process.kill();
            }
        }
    }

    /// Ends when no tapdisk is left.
    pub(crate) async fn until_no_tapdisk_is_left(&self) {
        self.until_only_these_are_left(&[]).await;
    }

    /// Ends when there are these disks and no others.
    pub(crate) async fn until_only_these_are_left(&self, disks: &[(u32, Minor)]) {
        let wanted: BTreeSet<u32> = disks.iter().map(|(pid, _)| *pid).collect();
        let minors: BTreeSet<u16> = disks.iter().map(|(_, minor)| minor.number()).collect();
        while self.run.tapdisks().unwrap().into_iter().collect::<BTreeSet<_>>() != wanted
            || self.run.minors().unwrap().iter().map(|minor| minor.number()).collect::<BTreeSet<_>>() != minors
        {
            self.executor.sleep(Duration::from_millis(5)).await;
        }
    }

    /// Ends when no tapdisk runs. What those leave that were killed is cleared away by the next one.
    pub(crate) async fn until_no_tapdisk_runs(&self) {
        loop {
            let tapdisks = self.run.tapdisks().unwrap();
            let running = self.place.processes().unwrap();
            let is_one = running.iter().any(|process| tapdisks.contains(&process.pid()));
            running.into_iter().for_each(ProcessGuard::release);
            if !is_one {
                return;
            }
            self.executor.sleep(Duration::from_millis(5)).await;
        }
    }

    /// Ends when a toolstack's script may begin.
    pub(crate) async fn wait_until_offered(&self, spec: &DiskSpec) {
        let watch = self.store.watch(&self.node(spec, "state"));
        while matches!(self.text(spec, "state").await.as_deref(), None | Some("1")) {
            watch.next().await;
        }
    }

    /// Nor does whoever is asked whether anything is left.
    pub(crate) fn doctor_finds_nothing(&self) {
        let mut doctor = self.command("oxtap");
        let output = doctor.arg("doctor").env("XENSTORED_PATH", self.place.scratch().join("socket")).output().unwrap();
        assert!(output.status.success(), "{output:?}");
        let told = String::from_utf8(output.stdout).unwrap();
        assert!(!told.contains("no XenStore"), "{told}");
    }

    /// Nothing of anybody is left.
    pub(crate) fn place_is_clean(mut self) {
        self.xenstored.kill().unwrap();
        self.xenstored.wait().unwrap();
        // All processes of a host share it, and none of them is the last.
        fs::remove_file(self.run.grant_budget()).unwrap();
        self.place.assert_nothing_left();
    }

    /// Files of the backend in the run directory.
    pub(crate) fn seats(&self) -> Vec<String> {
        let names = fs::read_dir(self.run.path()).unwrap().map(|entry| entry.unwrap().file_name());
        names.filter_map(|name| name.into_string().ok()).filter(|name| name.starts_with("tapback.")).collect()
    }
}

impl Drop for Hosted {
    fn drop(&mut self) {
        self.executor.end_tasks();
        for mut child in self.backend.take().into_iter() {
            let _ = child.kill();
            let _ = child.wait();
        }
        let _ = self.xenstored.kill();
        let _ = self.xenstored.wait();
    }
}

/// A disk that can be written, and that the script leaves to whoever it belongs to.
pub(crate) fn disk(name: &str, image: &str, script: &str) -> DiskSpec {
    DiskSpec { script: Some(script.to_owned()), ..DiskSpec::new(DOMAIN, name, image) }
}
