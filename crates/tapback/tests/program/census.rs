//! What there is on a host: what its processes hold, and what stands in XenStore and on disk. What grows is a leak.

use std::{collections::BTreeSet, fs, path::Path as File, time::Duration};

use test_support::ProcessGuard;
use wire::xenstore::Path;

use crate::host::Hosted;

/// Memory of a process may grow by so much, however long it runs: what an allocator keeps is not lost.
const GROWTH_MAX_KIB: u64 = 4096;
/// Threads that wait for work come with the load, and go some seconds after it; that many more are no leak.
const THREADS_MORE_MAX: usize = 8;
/// Between two looks at what is about to go.
const LOOK_PAUSE: Duration = Duration::from_millis(50);
const LOOKS_MAX: usize = 200;

/// What one process holds.
#[derive(Clone, Debug, PartialEq, Eq)]
pub(crate) struct Holding {
    pub(crate) name: String,
    pub(crate) pid: u32,
    pub(crate) descriptors: usize,
    pub(crate) threads: usize,
    pub(crate) memory_kib: u64,
}

/// All of a host, at one moment.
#[derive(Clone, Debug, PartialEq, Eq)]
pub(crate) struct Census {
    pub(crate) processes: Vec<Holding>,
    /// Of the broker of pages and events.
    pub(crate) connections: usize,
    pub(crate) channels: usize,
    /// Pages of the guest that anybody else uses.
    pub(crate) used_pages: u32,
    pub(crate) nodes: BTreeSet<String>,
    /// Below the run directory, and the shared memory beside it.
    pub(crate) files: BTreeSet<String>,
}

impl Census {
    pub(crate) async fn take(host: &Hosted) -> Census {
        let mut nodes = BTreeSet::new();
        for top in ["/local", "/tool", "/vm", "/libxl"] {
            walk(host, top.parse().unwrap(), &mut nodes).await;
        }
        let running = host.place.processes().unwrap();
        let mut processes: Vec<Holding> = running.iter().filter_map(|process| Holding::of(process.pid())).collect();
        running.into_iter().for_each(ProcessGuard::release);
        processes.sort_by_key(|process| process.pid);
        let left = host.place.leftovers().unwrap();
        let files = left.into_iter().filter(|left| left.starts_with('/') && !left.contains("/tapdisk.log")).collect();
        let (connections, channels) = host.broker.ask(|broker| (broker.connections(), broker.channels()));
        let used_pages = host.guest.account().unwrap().used;
        Census { processes, connections, channels, used_pages, nodes, files }
    }

    /// What there is more of than before.
    fn growth_since(&self, before: &Census) -> Vec<String> {
        let mut growth = Vec::new();
        for now in &self.processes {
            match before.processes.iter().find(|process| process.pid == now.pid) {
                Some(then) => growth.extend(now.growth_since(then)),
                None => growth.push(format!("{now:?}")),
            }
        }
        growth.extend(self.nodes.difference(&before.nodes).chain(self.files.difference(&before.files)).cloned());
        for (name, then, now) in [
            ("connections to the broker", before.connections, self.connections),
            ("channels", before.channels, self.channels),
            ("pages in use", before.used_pages as usize, self.used_pages as usize),
        ] {
            if now > then {
                growth.push(format!("{now} {name} instead of {then}"));
            }
        }
        growth
    }

    /// What is about to go goes; then there is no more than before, and nothing is missing that should be there.
    pub(crate) async fn assert_no_growth(host: &Hosted, before: &Census) -> Census {
        let mut now = Census::take(host).await;
        for _ in 0..LOOKS_MAX {
            if now.growth_since(before).is_empty() {
                break;
            }
            host.executor.sleep(LOOK_PAUSE).await;
            now = Census::take(host).await;
        }
        assert_eq!(now.growth_since(before), Vec::<String>::new());
        let missing: Vec<&String> = before.nodes.difference(&now.nodes).collect();
        assert_eq!(missing, Vec::<&String>::new(), "removed though nobody wanted it");
        now
    }
}

impl Holding {
    /// None for one that has just ended.
    fn of(pid: u32) -> Option<Holding> {
        let place = format!("/proc/{pid}");
        let status = fs::read_to_string(format!("{place}/status")).ok()?;
        let field = |name: &str| {
            let line = status.lines().find_map(|line| line.strip_prefix(name))?;
            line.split_whitespace().next()?.parse::<u64>().ok()
        };
        let count = |below: &str| Some(fs::read_dir(File::new(&place).join(below)).ok()?.count());
        let name = fs::read_to_string(format!("{place}/comm")).ok()?.trim().to_owned();
        Some(Holding {
            name,
            pid,
            descriptors: count("fd")?,
            threads: count("task")?,
            // None for one that has ended and is not waited for yet.
            memory_kib: field("RssAnon:")?,
        })
    }

    fn growth_since(&self, before: &Holding) -> Option<String> {
        let is_more = self.descriptors > before.descriptors
            || self.threads > before.threads + THREADS_MORE_MAX
            || self.memory_kib > before.memory_kib + GROWTH_MAX_KIB;
        is_more.then(|| format!("{self:?} instead of {before:?}"))
    }
}

/// All nodes below one, and the one itself.
async fn walk(host: &Hosted, top: Path, nodes: &mut BTreeSet<String>) {
    let mut waiting = vec![top];
    while let Some(node) = waiting.pop() {
        let Some(names) = host.store.directory(&node).await.unwrap() else { continue };
        waiting.extend(names.iter().map(|name| node.join(name).unwrap()));
        nodes.insert(node.as_str().to_owned());
    }
}
