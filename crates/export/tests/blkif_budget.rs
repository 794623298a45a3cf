//! Two hundred disks of several processes ask for 352 pages each at once, on a host that can copy 300.

#![allow(clippy::unwrap_used, reason = "a test that cannot go on fails")]

use std::{
    cell::Cell,
    env,
    io::{BufRead, BufReader, Read, Write},
    path::{Path, PathBuf},
    process::{Child, ChildStdin, Command, Stdio},
    rc::Rc,
    sync::Arc,
    task::Waker,
    thread,
    time::Duration,
};

use export::blkif::{ConnectedRing, RingFeatures, RingOptions};
use guest::{Front, FrontOptions};
use image_chain::ChainSpec;
use storage_io::{Access, BufferPool, EngineChoice, Executor, LockPolicy, MemoryFiles, MemoryStorage, Sender, mailbox};
use virtual_disk::{Disk, Settings};
use wire::blkif::{Limits as Offer, OperationCode, RequestBody, Segment, Status, Transfer};
use xen::{
    DomainId, PAGE_BYTES,
    budget::{Budget, BudgetedGrants, Limits},
    hosted::{Broker, BrokerLimits, Guest, HostedChannels, HostedGrants},
};

const HOST: DomainId = DomainId(0);
const OFFER: Offer = Offer { flush: true, barrier: true, discard: false, indirect_segments: 256 };

const PROCESSES: u32 = 4;
const DISKS_PER_PROCESS: u32 = 50;
const DISKS: u32 = PROCESSES * DISKS_PER_PROCESS;
/// As many as a ring of one page holds, each of as many segments as a slot holds: 352 pages.
const REQUESTS: usize = 32;
const SEGMENTS: usize = 11;
/// Pages that the host can copy, and map, at one time.
const HOST_PAGES: u32 = 300;
/// The test ends when some disk has been served so often.
const ROUNDS: u64 = 4;

/// Says to a test program that it is one of the processes: its guest, whether it shares, takes or hoards, and where.
const PROCESS: &str = "OXTAP_TEST_BUDGET_PROCESS";

/// What became of one disk.
#[derive(Clone, Copy, Debug, Default)]
struct Served {
    okay: u64,
    failed: u64,
    throttled: u64,
    throttled_ns: u64,
}

// ---------------------------------------------------------------------------------------------------------------------
// One of the processes
// ---------------------------------------------------------------------------------------------------------------------

/// A disk, its ring, and its guest, who names the same pages again and again.
struct Seat {
    _disk: Disk,
    ring: ConnectedRing,
    front: Front,
    segments: Vec<Segment>,
}

struct Process {
    executor: Executor,
    directory: PathBuf,
    budget: Option<Budget>,
    guest: Guest,
    grants: Arc<HostedGrants>,
    channels: HostedChannels,
}

impl Process {
    fn new(directory: &Path, domain: DomainId, has_budget: bool) -> Process {
        let budget = has_budget.then(|| Budget::open(&directory.join("budget"), None).unwrap());
        Process {
            executor: Executor::new(EngineChoice::Inline).unwrap(),
            directory: directory.to_owned(),
            budget,
            guest: Guest::boot(directory, domain).unwrap(),
            grants: Arc::new(HostedGrants::connect(directory, HOST).unwrap()),
            channels: HostedChannels::connect(directory, HOST).unwrap(),
        }
    }

    fn seat(&self) -> Seat {
        let files = MemoryFiles::new();
        files.put("/a", Arc::new(MemoryStorage::new(SEGMENTS * PAGE_BYTES)));
        let disk = Disk::new(&self.executor, Rc::new(files), BufferPool::new(4 << 20), Arc::new(()));
        let image = "aio:/a".parse().unwrap();
        let spec = ChainSpec { direct: false, lock: LockPolicy::None, ..ChainSpec::new(image, Access::Write) };
        self.executor.block_on(disk.open(spec, Settings::default())).unwrap();
        let front = Front::new(&self.executor, &self.guest, FrontOptions::default()).unwrap();
        let grant = || {
            let page = self.guest.allocate_page().unwrap();
            self.guest.memory().copy_in(page as usize * PAGE_BYTES, &[7; PAGE_BYTES]);
            Segment::page(self.guest.grant(page, HOST, xen::Access::Write).unwrap().0)
        };
        let segments = (0..SEGMENTS).map(|_| grant()).collect();
        let ring = self.connect(&disk, &front);
        Seat { _disk: disk, ring, front, segments }
    }

    fn connect(&self, disk: &Disk, front: &Front) -> ConnectedRing {
        let options = RingOptions {
            domain: self.guest.domain(),
            pages: front.ring_grants(),
            port: front.port(),
            abi: FrontOptions::default().abi,
            offer: OFFER,
            features: RingFeatures::default(),
            read_only: false,
            adopted: false,
            repeats_changes: true,
        };
        let grants: Arc<dyn xen::Grants> = match &self.budget {
            Some(budget) => Arc::new(BudgetedGrants::new(self.grants.clone(), budget.share().unwrap())),
            None => self.grants.clone(),
        };
        ConnectedRing::connect(&disk.queue(), grants, &self.channels, &options).unwrap()
    }

    /// Whether some disk of the host has been served often enough.
    fn is_over(&self) -> bool {
        self.directory.join("over").exists()
    }
}

impl Seat {
    /// A full ring of requests.
    async fn round(&self, executor: &Executor, number: u64) -> u64 {
        let transfer = if number.is_multiple_of(2) { Transfer::Write } else { Transfer::Read };
        let ask = || {
            let (front, segments) = (self.front.clone(), self.segments.clone());
            let operation: OperationCode = transfer.operation();
            let body = RequestBody::Transfer { transfer, sector: 0, segments };
            executor.spawn(async move { front.request(operation, body).await.unwrap() })
        };
        let asked: Vec<_> = (0..REQUESTS).map(|_| ask()).collect();
        let mut failed = 0;
        for answer in asked {
            failed += u64::from(answer.await != Status::Okay);
        }
        failed
    }

    async fn work(&self, process: &Process) -> Served {
        let mut served = Served::default();
        while !process.is_over() {
            let failed = self.round(&process.executor, served.okay + served.failed).await;
            served.failed += u64::from(failed > 0);
            served.okay += u64::from(failed == 0);
            if served.okay + served.failed == ROUNDS {
                std::fs::write(process.directory.join("over"), b"").unwrap();
            }
        }
        let counters = self.ring.counters();
        Served { throttled: counters.throttled, throttled_ns: counters.throttled_ns, ..served }
    }
}

/// Takes most of what there is, until it is killed.
fn hoard(directory: &Path) {
    let budget = Budget::open(&directory.join("budget"), None).unwrap();
    let held = budget.share().unwrap().waiter().poll(200, Waker::noop());
    assert!(held.is_ready());
    println!("\nready");
    let _ = std::io::stdin().read(&mut [0]);
}

/// Does nothing, unless the other test has started it.
#[test]
fn one_of_the_processes() {
    let Ok(told) = env::var(PROCESS) else { return };
    let (domain, told) = told.split_once(' ').unwrap();
    let (role, directory) = told.split_once(' ').unwrap();
    if role == "hoard" {
        return hoard(Path::new(directory));
    }
    let process = Process::new(Path::new(directory), DomainId(domain.parse().unwrap()), role == "share");
    let seats: Vec<Seat> = (0..DISKS_PER_PROCESS).map(|_| process.seat()).collect();
    println!("\nready");
    std::io::stdin().read_exact(&mut [0]).unwrap();
    let all = Rc::new(Cell::new(0));
    process.executor.block_on(async {
        let mut working = futures_util::stream::FuturesUnordered::new();
        seats.iter().for_each(|seat| working.push(seat.work(&process)));
        while let Some(Served { okay, failed, throttled, throttled_ns }) =
            futures_util::StreamExt::next(&mut working).await
        {
            println!("served {okay} {failed} {throttled} {throttled_ns}");
            all.set(all.get() + 1);
        }
    });
    assert_eq!(all.get(), DISKS_PER_PROCESS);
    process.executor.end_tasks();
}

// ---------------------------------------------------------------------------------------------------------------------
// The host
// ---------------------------------------------------------------------------------------------------------------------

/// Each process has a guest with 50 disks.
fn domains() -> impl Iterator<Item = DomainId> {
    (1..=PROCESSES).map(|number| DomainId(u16::try_from(number).unwrap()))
}

struct Host {
    directory: tempfile::TempDir,
    end: Sender<()>,
    broker: Option<thread::JoinHandle<()>>,
}

impl Host {
    fn new() -> Host {
        let directory = tempfile::tempdir().unwrap();
        let (end, mut ended) = mailbox();
        let (up, mut is_up) = mailbox();
        let path = directory.path().to_owned();
        let broker = thread::spawn(move || {
            let executor = Executor::new(EngineChoice::Inline).unwrap();
            let limits = BrokerLimits { mapped_pages: HOST_PAGES, copies: HOST_PAGES };
            let broker = Broker::start(&executor, &path, limits).unwrap();
            domains().for_each(|domain| broker.create_domain(domain, 1024).unwrap());
            up.send(()).unwrap();
            executor.block_on(ended.recv());
        });
        Executor::new(EngineChoice::Inline).unwrap().block_on(is_up.recv()).unwrap();
        Host { directory, end, broker: Some(broker) }
    }

    fn path(&self) -> &Path {
        self.directory.path()
    }
}

impl Drop for Host {
    fn drop(&mut self) {
        let _ = self.end.send(());
        self.broker.take().unwrap().join().unwrap();
    }
}

/// A process as the host sees it; killed if the test ends early.
struct Started {
    child: Child,
    lines: std::io::Lines<BufReader<std::process::ChildStdout>>,
    go: ChildStdin,
}

impl Started {
    fn new(directory: &Path, domain: DomainId, role: &str) -> Started {
        let mut command = Command::new(env::current_exe().unwrap());
        let told = format!("{domain} {role} {}", directory.display());
        command.args(["--exact", "one_of_the_processes", "--nocapture"]).env(PROCESS, told);
        let mut child = command.stdin(Stdio::piped()).stdout(Stdio::piped()).spawn().unwrap();
        let mut lines = BufReader::new(child.stdout.take().unwrap()).lines();
        assert!(lines.by_ref().map_while(Result::ok).any(|line| line == "ready"), "it begins");
        let go = child.stdin.take().unwrap();
        Started { child, lines, go }
    }

    fn results(&mut self) -> Vec<Served> {
        let lines = self.lines.by_ref().map_while(Result::ok);
        let served = lines.filter_map(|line| {
            let figures: Vec<u64> =
                line.strip_prefix("served ")?.split(' ').map(|word| word.parse().unwrap()).collect();
            let [okay, failed, throttled, throttled_ns] = figures.try_into().unwrap();
            Some(Served { okay, failed, throttled, throttled_ns })
        });
        let served = served.collect();
        assert!(self.child.wait().unwrap().success());
        served
    }
}

impl Drop for Started {
    fn drop(&mut self) {
        let _ = self.child.kill();
        let _ = self.child.wait();
    }
}

/// The load, on a host of its own. With a budget, all of them stand in line before the first of them gets a page, since
/// somebody else has most of them.
fn load(has_budget: bool) -> Vec<Served> {
    let host = Host::new();
    let limits = Limits::new(HOST_PAGES).unwrap();
    let budget = has_budget.then(|| Budget::open(&host.path().join("budget"), Some(limits)).unwrap());
    let hoarder = has_budget.then(|| Started::new(host.path(), HOST, "hoard"));
    let role = if has_budget { "share" } else { "take" };
    let mut processes: Vec<Started> = domains().map(|domain| Started::new(host.path(), domain, role)).collect();
    processes.iter_mut().for_each(|process| process.go.write_all(b"!").unwrap());
    while budget.as_ref().is_some_and(|budget| budget.account().waiting < DISKS) {
        assert!(!host.path().join("over").exists(), "somebody has copied what was not there");
        thread::sleep(Duration::from_millis(5));
    }
    // It is killed with most of the host's pages in its hands.
    drop(hoarder);
    let served: Vec<Served> = processes.iter_mut().flat_map(Started::results).collect();
    assert_eq!(served.len(), DISKS as usize);
    if let Some(account) = budget.map(|budget| budget.account()) {
        assert_eq!((account.copied, account.waiting), (0, 0), "{account:?}");
    }
    served
}

#[test]
fn two_hundred_disks_share_what_the_host_can_copy() {
    let unlimited = load(false);
    let failed: u64 = unlimited.iter().map(|served| served.failed).sum();
    assert!(failed > 0, "the host's limits are not tight enough to show anything");

    let shared = load(true);
    println!("{shared:?}");
    assert!(shared.iter().all(|served| served.failed == 0), "a guest has seen an error: {shared:?}");
    let counts = shared.iter().map(|served| served.okay);
    let (least, most) = (counts.clone().min().unwrap(), counts.max().unwrap());
    assert!(most <= 2 * least, "{least} to {most} rounds: {shared:?}");
    assert!(shared.iter().all(|served| served.throttled > 0 && served.throttled_ns > 0), "{shared:?}");
}
