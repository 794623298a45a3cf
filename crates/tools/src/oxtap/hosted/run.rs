//! `oxtap hosted run`.

use std::{collections::BTreeSet, path::Path, pin::pin, rc::Rc, time::Duration};

use block_core::{Result, ResultExt};
use futures_util::future::{Either, select};
use guest::toolstack::Toolstack;
use storage_io::{Executor, Signals};
use xen::{
    DomainId, PAGE_BYTES,
    hosted::{Broker, BrokerLimits},
    store::Store as StoreClient,
};
use xenbus::server::{Sockets, Store};

use super::{backend, connect, disks, domain_socket, executor, lines::Lines, run_directory};
use crate::oxtap::{arguments::HostedRun, interrupt};

/// Until what XenStore says of domains is looked at again, when it could not be done.
const LOOK_PAUSE: Duration = Duration::from_millis(500);

pub(super) fn run(arguments: &HostedRun) -> Result<()> {
    let signals = Signals::take(&interrupt::ENDING)?;
    let directory = backend::absolute(&arguments.directory)?;
    let run = run_directory(&directory);
    for made in [&directory, run.path()] {
        control_api::make_directory(made, 0o700).context(made.display())?;
    }
    let executor = executor()?;
    let log = Rc::new(Lines::to_stderr()?);
    let domains = Domains::start(&executor, &directory, &log)?;
    let client = connect(&executor, &directory, 0)?;
    let backend = match arguments.no_backend {
        true => None,
        false => Some(backend::start(&executor, &client, &directory, &arguments.options, &log)),
    };
    print!("{}", how_to_go_on(&directory, run.path()));
    let served = executor.block_on(async {
        let (ended, served) = (pin!(signals.next(&executor)), pin!(domains.follow(&client)));
        match select(ended, served).await {
            Either::Left((signal, _)) => signal.map(drop),
            Either::Right((never, _)) => never,
        }
    });
    drop((backend, client));
    executor.end_tasks();
    // Nobody can reach them any more through a host that has gone.
    disks::end_all(&run)?;
    served
}

fn how_to_go_on(directory: &Path, run: &Path) -> String {
    let (directory, run) = (directory.display(), run.display());
    format!(
        "a host without Xen in {directory}; Ctrl-C ends it

  a disk for domain 1   oxtap hosted add-disk {directory} 1 xvda vhd:/IMAGE
  a guest that uses it  oxtap guest {directory} 1 xvda
  its tapdisks          OXTAP_RUN_DIR={run} oxtap ls
  what XenStore holds   XENSTORED_PATH={directory}/socket xenstore-ls

"
    )
}

/// The domains of the host: what XenStore says of them, and what the broker and the server know.
struct Domains<'a> {
    broker: Broker,
    sockets: Sockets,
    directory: &'a Path,
    executor: Executor,
    log: Rc<Lines>,
}

impl<'a> Domains<'a> {
    fn start(executor: &Executor, directory: &'a Path, log: &Rc<Lines>) -> Result<Domains<'a>> {
        let broker = Broker::start(executor, directory, BrokerLimits::default())?;
        let sockets = Sockets::new(executor, Store::default());
        sockets.listen(&domain_socket(directory, 0), 0)?;
        Ok(Domains { broker, sockets, directory, executor: executor.clone(), log: log.clone() })
    }

    /// Makes domains that come in XenStore, and ends those that go there.
    async fn follow(&self, client: &StoreClient) -> Result<()> {
        let toolstack = Toolstack::new(client.clone());
        let watch = client.watch(&wire::xenstore::Path::new("/local/domain").expect("a good name"));
        let mut known = BTreeSet::new();
        loop {
            watch.next().await;
            watch.take();
            while let Err(error) = self.look(&toolstack, &mut known).await {
                self.log.put(&format!("oxtap: {error}"));
                self.executor.sleep(LOOK_PAUSE).await;
            }
        }
    }

    async fn look(&self, toolstack: &Toolstack, known: &mut BTreeSet<DomainId>) -> Result<()> {
        let named: BTreeSet<DomainId> = toolstack.domains().await?.into_iter().collect();
        for gone in known.difference(&named).copied().collect::<Vec<_>>() {
            known.remove(&gone);
            self.broker.destroy_domain(gone);
            // Its nodes have gone already.
            let _ = self.sockets.with_store(|store| store.release(gone.0));
            let _ = std::fs::remove_file(domain_socket(self.directory, gone.0));
        }
        for domain in named {
            if known.contains(&domain) {
                continue;
            }
            // Half of a domain is there: the rest is told.
            let Some(memory) = toolstack.memory_kib(domain).await? else { continue };
            let pages = u32::try_from(memory / (PAGE_BYTES as u64 / 1024)).unwrap_or(u32::MAX);
            known.insert(domain);
            self.broker.create_domain(domain, pages)?;
            let _ = self.sockets.with_store(|store| store.introduce(domain.0));
            // The socket comes last: whoever waits for it finds the rest.
            self.sockets.listen(&domain_socket(self.directory, domain.0), domain.0)?;
        }
        Ok(())
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn what_to_type_next_is_told() {
        let text = how_to_go_on(Path::new("/tmp/host"), Path::new("/tmp/host/run"));
        assert!(text.contains("oxtap hosted add-disk /tmp/host 1 xvda vhd:/IMAGE\n"), "{text}");
        assert!(text.contains("oxtap guest /tmp/host 1 xvda\n"), "{text}");
        assert!(text.contains("OXTAP_RUN_DIR=/tmp/host/run oxtap ls\n"), "{text}");
    }
}
