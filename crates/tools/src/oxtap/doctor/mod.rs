//! `oxtap doctor`: what others have left behind, in XenStore and of disks, told and cleared away.

mod disks;
mod ghosts;

use std::{fmt::Write, pin::pin, process::ExitCode, time::Duration};

use block_core::{Error, Result};
use control_api::RunDir;
use futures_util::future::{Either, select};
use rustix::io::Errno;
use serde_json::{Value, json};
use storage_io::{EngineChoice, Executor};
use xen::store::{Address, Store};

use self::{
    disks::Leftover,
    ghosts::{Fate, Ghost},
};
use super::{arguments::Doctor, size, text};

/// What a host without XenStore answers to a connection: nothing there, nobody listens, a device without a hypervisor.
const NO_STORE: [Errno; 4] = [Errno::NOENT, Errno::CONNREFUSED, Errno::NODEV, Errno::NXIO];

/// One that was found, and what has become of it if it was to be repaired.
type Finding = (Ghost, Option<Fate>);

pub(super) fn run(arguments: &Doctor) -> Result<ExitCode> {
    let executor = Executor::new(EngineChoice::Inline)?;
    let address = Address::from_environment();
    let store = match Store::connect(&executor, address.clone()) {
        Ok(store) => store,
        Err(error) if NO_STORE.iter().any(|errno| error.os_error() == Some(errno.raw_os_error())) => {
            return no_store(arguments, &error);
        }
        Err(error) => return Err(error),
    };
    let run = RunDir::from_environment();
    let (findings, leftovers) = executor.block_on(async {
        let findings = examine(&executor, &store, arguments).await?;
        let found = patiently(&executor, arguments.patience, disks::find(&executor, &store, &run)).await?;
        // Each step of a disk's end has its own time.
        Ok::<_, Error>((findings, disks::examine(&executor, &run, found, arguments.repair).await))
    })?;
    let are_gone = findings.iter().all(|(_, fate)| fate.as_ref().is_some_and(Fate::is_well));
    let is_well = are_gone && leftovers.iter().all(Leftover::is_well);
    if arguments.json {
        let mut told = to_json(&findings, Some(&address));
        told["disks"] = leftovers.iter().map(Leftover::to_json).collect();
        text::print_json(&told)?;
    } else {
        let disks: String = leftovers.iter().map(Leftover::to_text).collect();
        let ghosts = if findings.is_empty() && !disks.is_empty() { String::new() } else { to_text(&findings) };
        text::print(&(disks + &ghosts))?;
    }
    Ok(if is_well { ExitCode::SUCCESS } else { ExitCode::FAILURE })
}

fn no_store(arguments: &Doctor, error: &Error) -> Result<ExitCode> {
    if arguments.json {
        text::print_json(&to_json(&[], None))?;
    } else {
        text::print(&format!("no XenStore here ({error}): nothing to repair\n"))?;
    }
    Ok(ExitCode::SUCCESS)
}

async fn examine(executor: &Executor, store: &Store, arguments: &Doctor) -> Result<Vec<Finding>> {
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

/// A server that has gone is waited for by whoever asks it: here not for ever.
async fn patiently<T>(executor: &Executor, patience: Duration, asked: impl Future<Output = Result<T>>) -> Result<T> {
    let (asked, late) = (pin!(asked), pin!(executor.sleep(patience)));
    let first = select(asked, late).await;
    match first {
        Either::Left((result, _)) => result,
        Either::Right(_) => Err(Error::from_os("XenStore does not answer", Errno::TIMEDOUT.into())),
    }
}

fn to_text(findings: &[Finding]) -> String {
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
        [] => "nothing to repair\n".to_owned(),
        _ if unasked => format!("{told}{count}; oxtap doctor --repair removes what still is so\n"),
        _ => told,
    }
}

fn to_json(findings: &[Finding], address: Option<&Address>) -> Value {
    let store = address.map(|(Address::Socket(path) | Address::Device(path))| path.display().to_string());
    let ghosts: Vec<Value> = findings
        .iter()
        .map(|(ghost, fate)| {
            let nodes: serde_json::Map<String, Value> = ghost
                .nodes
                .iter()
                .map(|(node, value)| (node.clone(), String::from_utf8_lossy(value).into_owned().into()))
                .collect();
            json!({ "directory": ghost.directory.as_str(), "nodes": nodes, "fate": fate.as_ref().map(Fate::name),
                    "error": fate.as_ref().and_then(Fate::error).map(ToString::to_string) })
        })
        .collect();
    json!({ "xenstore": store, "ghosts": ghosts, "disks": [] })
}

#[cfg(test)]
mod tests {
    use super::*;

    fn ghost() -> Ghost {
        let directory = "/local/domain/0/backend/vbd3/7/51712".parse().unwrap();
        Ghost { directory, nodes: [("hotplug-status".to_owned(), b"\x1b[2J\xff".to_vec())].into() }
    }

    #[test]
    fn what_a_node_holds_does_nothing_to_a_terminal() {
        let told = to_text(&[(ghost(), None)]);
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
            let told = to_text(&[(ghost(), Some(fate))]);
            assert!(told.starts_with(&first), "{told}");
        }
        assert_eq!(to_text(&[]), "nothing to repair\n");
    }
}
