//! `oxtap doctor`: everything of disks that there is on this host, and what was left behind, told and cleared away.

mod disks;
mod ghosts;
mod orphans;
pub(super) mod things;

use std::{collections::BTreeSet, fmt::Write, process::ExitCode};

use block_core::{Error, Result};
use control_api::RunDir;
use serde_json::{Value, json};
use storage_io::{EngineChoice, Executor};
use tapback::owners::stray_rings;
use xen::{
    DomainId,
    store::{Address, Store},
};

use self::{
    disks::Leftover,
    ghosts::{Fate, Ghost},
    orphans::{Orphan, Place},
    things::Things,
};
use super::{
    arguments::Doctor,
    size, text,
    xenstore::{self, own_domain, patiently},
};

/// One that was found, and what has become of it if it was to be repaired.
type Finding = (Ghost, Option<Fate>);
/// The same of what nobody will ever end.
type Found = (Orphan, Option<Result<()>>);

/// What was found.
#[derive(Default)]
struct Report {
    things: Things,
    ghosts: Vec<Finding>,
    leftovers: Vec<Leftover>,
    orphans: Vec<Found>,
}

pub(super) fn run(arguments: &Doctor) -> Result<ExitCode> {
    let executor = Executor::new(EngineChoice::Inline)?;
    let (address, run) = (xenstore::address(), RunDir::from_environment());
    let things = Things::of_tapdisks(&run)?;
    let store = xenstore::connect(&executor, &address)?;
    let report = executor.block_on(async {
        match &store {
            Ok(store) => examine(&executor, store, &run, things, arguments).await,
            Err(_) => Ok(examine_tapdisks(&executor, &run, things, arguments).await),
        }
    })?;
    let is_well = report.is_well();
    if arguments.json {
        text::print_json(&report.to_json(store.is_ok().then_some(&address)))?;
    } else {
        text::print(&report.to_text(store.err().as_ref()))?;
    }
    Ok(if is_well { ExitCode::SUCCESS } else { ExitCode::FAILURE })
}

/// All that there is on a host without XenStore.
async fn examine_tapdisks(executor: &Executor, run: &RunDir, things: Things, arguments: &Doctor) -> Report {
    let place = Place { executor, run, store: None };
    // Whose devices are there, nobody knows.
    let owned = things.minors_of_scripts();
    let orphans = treat(&place, orphans::find(&things, &owned), arguments).await;
    Report { things, orphans, ..Report::default() }
}

async fn examine(
    executor: &Executor,
    store: &Store,
    run: &RunDir,
    mut things: Things,
    arguments: &Doctor,
) -> Result<Report> {
    let looked = patiently(executor, arguments.patience, look(executor, store, run, &mut things, arguments)).await?;
    let (own, ownerless) = looked;
    let ghosts = examine_ghosts(executor, store, arguments).await?;
    let owned: BTreeSet<_> = ownerless.iter().map(|disk| disk.minor).collect();
    let found = orphans::find(&things, &owned);
    // Each step of what follows has its own time. Rings go first: what they are connected to may be one of the others.
    let orphans = treat(&Place { executor, run, store: Some((store, own)) }, found, arguments).await;
    let leftovers = disks::examine(executor, run, ownerless, arguments.repair).await;
    Ok(Report { things, ghosts, leftovers, orphans })
}

/// Looks at what only XenStore tells.
async fn look(
    executor: &Executor,
    store: &Store,
    run: &RunDir,
    things: &mut Things,
    arguments: &Doctor,
) -> Result<(DomainId, Vec<tapback::owners::Ownerless>)> {
    let own = own_domain(store).await?;
    things.devices = xenstore::devices(store, &arguments.kinds).await?;
    things.errors = xenstore::errors_of_the_gone(store, &arguments.kinds).await?;
    things.records = things::records_of_the_dead(run);
    things.records.retain(|(domain, device), _| {
        let mut devices = things.devices.iter().map(|shown| &shown.device);
        !devices.any(|shown| (u32::from(shown.domain.0), shown.device) == (*domain, *device))
    });
    things.strays = stray_rings(executor, store, own, run).await?.into_iter().collect();
    Ok((own, disks::find(executor, store, run).await?))
}

async fn treat(place: &Place<'_>, orphans: Vec<Orphan>, arguments: &Doctor) -> Vec<Found> {
    let mut found = Vec::new();
    for orphan in orphans {
        let cleared = match arguments.repair {
            true => Some(orphan.clear(place).await),
            false => None,
        };
        found.push((orphan, cleared));
    }
    found
}

async fn examine_ghosts(executor: &Executor, store: &Store, arguments: &Doctor) -> Result<Vec<Finding>> {
    let ghosts = patiently(executor, arguments.patience, ghosts::find(store, &arguments.kinds)).await?;
    let mut findings = Vec::new();
    for ghost in ghosts {
        let fate = match arguments.repair {
            true => {
                let removed = patiently(executor, arguments.patience, ghosts::remove(store, &ghost)).await;
                // What has become of the others is told all the same.
                Some(removed.unwrap_or_else(Fate::Failed))
            }
            false => None,
        };
        findings.push((ghost, fate));
    }
    Ok(findings)
}

impl Report {
    fn is_well(&self) -> bool {
        let are_gone = self.ghosts.iter().all(|(_, fate)| fate.as_ref().is_some_and(Fate::is_well));
        let are_cleared = self.orphans.iter().all(|(_, cleared)| matches!(cleared, Some(Ok(()))));
        are_gone && are_cleared && self.leftovers.iter().all(Leftover::is_well)
    }

    /// First what there is, then what was left. `no_store`: why there is no XenStore.
    fn to_text(&self, no_store: Option<&Error>) -> String {
        let mut told = self.things.to_text();
        told.extend(self.orphans.iter().map(orphan_to_text));
        told.extend(self.leftovers.iter().map(Leftover::to_text));
        told += &ghosts_to_text(&self.ghosts);
        let is_empty = self.orphans.is_empty() && self.leftovers.is_empty() && self.ghosts.is_empty();
        match no_store {
            Some(error) if is_empty => told + &format!("no XenStore here ({error}): nothing to repair\n"),
            Some(error) => told + &format!("no XenStore here ({error})\n"),
            None if is_empty => told + "nothing to repair\n",
            None => told,
        }
    }

    fn to_json(&self, address: Option<&Address>) -> Value {
        let store = address.map(|(Address::Socket(path) | Address::Device(path))| path.display().to_string());
        let ghosts: Vec<Value> = self.ghosts.iter().map(ghost_to_json).collect();
        let disks: Vec<Value> = self.leftovers.iter().map(Leftover::to_json).collect();
        let orphans: Vec<Value> = self.orphans.iter().map(orphan_to_json).collect();
        let mut told = json!({ "xenstore": store, "ghosts": ghosts, "disks": disks, "orphans": orphans });
        for (name, value) in self.things.to_json() {
            told[name] = value;
        }
        told
    }
}

fn orphan_to_text((orphan, cleared): &Found) -> String {
    let fate = match cleared {
        None if orphan.is_the_toolstacks() => "; its toolstack must detach it".to_owned(),
        None => "; oxtap doctor --repair clears it away".to_owned(),
        Some(Ok(())) => ": cleared away".to_owned(),
        Some(Err(error)) => format!(": not cleared away: {error}"),
    };
    format!("{}{fate}\n", orphan.words())
}

fn orphan_to_json((orphan, cleared): &Found) -> Value {
    let (fate, error) = match cleared {
        None => (None, None),
        Some(Ok(())) => (Some("removed"), None),
        Some(Err(error)) => (Some("failed"), Some(error.to_string())),
    };
    let mut told = orphan.to_json();
    (told["fate"], told["error"]) = (fate.into(), error.into());
    told
}

fn ghosts_to_text(findings: &[Finding]) -> String {
    let mut told = String::new();
    for (ghost, fate) in findings {
        let fate = fate.as_ref().map(|fate| format!(": {}", fate.words())).unwrap_or_default();
        // Nothing fails that is written to memory.
        let _ = writeln!(told, "{}: a ghost, no frontend belongs to it{fate}", ghost.directory.as_str());
        for (node, value) in &ghost.nodes {
            let _ = writeln!(told, "     {node} = \"{}\"", String::from_utf8_lossy(value).escape_debug());
        }
    }
    let count = size::count(findings.len() as u64, "ghost");
    let unasked = findings.iter().any(|(_, fate)| fate.is_none());
    match findings {
        [] => told,
        _ if unasked => format!("{told}{count}; oxtap doctor --repair removes what still is so\n"),
        _ => told,
    }
}

fn ghost_to_json((ghost, fate): &Finding) -> Value {
    let nodes: serde_json::Map<String, Value> = ghost
        .nodes
        .iter()
        .map(|(node, value)| (node.clone(), String::from_utf8_lossy(value).into_owned().into()))
        .collect();
    json!({ "directory": ghost.directory.as_str(), "nodes": nodes, "fate": fate.as_ref().map(Fate::name),
            "error": fate.as_ref().and_then(Fate::error).map(ToString::to_string) })
}

#[cfg(test)]
mod tests {
    use rustix::io::Errno;

    use super::*;

    fn ghost() -> Ghost {
        let directory = "/local/domain/0/backend/vbd3/7/51712".parse().unwrap();
        Ghost { directory, nodes: [("hotplug-status".to_owned(), b"\x1b[2J\xff".to_vec())].into() }
    }

    #[test]
    fn what_a_node_holds_does_nothing_to_a_terminal() {
        let told = ghosts_to_text(&[(ghost(), None)]);
        assert_eq!(
            told,
            "/local/domain/0/backend/vbd3/7/51712: a ghost, no frontend belongs to it\n     \
             hotplug-status = \"\\u{1b}[2J\u{fffd}\"\n1 ghost; oxtap doctor --repair removes what still is so\n"
        );
    }

    #[test]
    fn what_became_of_it_is_told() {
        let failed = Fate::Failed(Error::from_os("XenStore", Errno::ACCESS.into()));
        let fates = [Fate::Removed, Fate::Gone, Fate::HasFrontend, Fate::Changed, failed];
        assert_eq!(fates.each_ref().map(Fate::is_well), [true, true, true, false, false]);
        for fate in fates {
            let first = format!("{}: a ghost, no frontend belongs to it: {}\n", ghost().directory, fate.words());
            let told = ghosts_to_text(&[(ghost(), Some(fate))]);
            assert!(told.starts_with(&first), "{told}");
        }
        assert_eq!(Report::default().to_text(None), "nothing to repair\n");
    }
}
