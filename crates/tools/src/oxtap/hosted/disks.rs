//! `oxtap hosted add-disk`, `remove-disk` and `remove-domain`: what libxl and its script do on a host with Xen.

use std::{ffi::OsString, path::Path, time::Duration};

use block_core::{Error, ErrorKind, Result, ResultExt};
use control_api::{
    Client, Minor, OpenRequest, Owner, RunDir,
    native::{self, Command, OpenImages},
    spawn_with,
};
use guest::toolstack::{DiskSpec, Toolstack};
use serde_json::json;
use storage_io::Executor;
use wire::xenstore::Path as StorePath;
use xen::{DomainId, store::Store};
use xenbus::State;

use super::{connect, domain_socket, executor, run_directory};
use crate::oxtap::{
    arguments::{AddDisk, RemoveDisk, RemoveDomain},
    text,
};

/// How long a toolstack waits for a backend. libxl takes the same.
const BACKEND_MAX: Duration = Duration::from_secs(10);
/// Between two looks at what has no event.
const LOOK_PAUSE: Duration = Duration::from_millis(5);
/// What the disk's nodes name as the one that prepares it.
const SCRIPT: &str = "oxtap-hosted";

pub(super) fn add(arguments: &AddDisk) -> Result<()> {
    let directory = std::path::absolute(&arguments.directory).context(arguments.directory.display())?;
    let mut disk = DiskSpec::new(DomainId(arguments.domain), &arguments.name, &arguments.image);
    disk.read_only = arguments.read_only;
    disk.persistent = arguments.persistent.then_some(true);
    disk.polling_us = arguments.polling;
    disk.script = Some(SCRIPT.to_owned());
    // Before anything is written: a name that is none, an image without a type.
    let device = disk.device()?;
    let open = images(arguments)?;
    let executor = executor()?;
    let store = connect(&executor, &directory, 0)?;
    let toolstack = Toolstack::new(store.clone());
    let run = run_directory(&directory);
    let (pid, minor) = executor.block_on(async {
        if toolstack.memory_kib(disk.domain).await?.is_none() {
            toolstack.add_domain(disk.domain, arguments.memory / 1024).await?;
        }
        until_there(&executor, &domain_socket(&directory, arguments.domain)).await?;
        toolstack.add_disk(&disk).await?;
        let added = prepare(&executor, &store, &directory, &run, &disk, &open).await;
        if added.is_err() {
            // The image could not be had: what was begun goes again, whatever comes of that.
            let _ = toolstack.remove_disk(&disk, true, BACKEND_MAX).await;
        }
        added
    })?;
    if arguments.json {
        return text::print_json(&json!({
            "domain": arguments.domain,
            "device": device,
            "name": arguments.name,
            "pid": pid,
            "minor": minor.number(),
            "nbd": run.nbd_socket(pid, minor),
        }));
    }
    let (domain, name) = (arguments.domain, &arguments.name);
    text::print(&format!("domain {domain} has {name}: tapdisk {pid}, minor {}\n", minor.number()))
}

/// As a guest's disk: whoever writes first takes the image's lock, so a guest may come while it still leaves another host.
fn images(arguments: &AddDisk) -> Result<OpenImages> {
    OpenRequest::new(arguments.image.as_str())?;
    Ok(OpenImages {
        image: arguments.image.clone(),
        read_only: arguments.read_only,
        late: !arguments.read_only,
        ..OpenImages::default()
    })
}

/// What the script of a disk does: the backend has made its offers, and now learns which disk it is.
async fn prepare(
    executor: &Executor,
    store: &Store,
    directory: &Path,
    run: &RunDir,
    disk: &DiskSpec,
    open: &OpenImages,
) -> Result<(u32, Minor)> {
    let backend = disk.backend_path()?;
    until_state(executor, store, &backend, State::InitWait).await?;
    let platform = OsString::from(format!("hosted:{}", directory.display()));
    let (pid, minor) = match start(run, platform, open, &Owner::Hotplug(backend.as_str().to_owned())) {
        Ok(started) => started,
        Err(error) => {
            write(store, &backend, "hotplug-error", &error.to_string()).await?;
            write(store, &backend, "hotplug-status", "error").await?;
            return Err(error);
        }
    };
    write(store, &backend, "pid", &pid.to_string()).await?;
    write(store, &backend, "minor", &minor.number().to_string()).await?;
    let socket = run.nbd_socket(pid, minor).display().to_string();
    write(store, &backend, "physical-device-path", &socket).await?;
    write(store, &backend, "hotplug-status", "connected").await?;
    Ok((pid, minor))
}

/// Starts a tapdisk with the image; what was taken for it is given back if that fails.
fn start(run: &RunDir, platform: OsString, open: &OpenImages, owner: &Owner) -> Result<(u32, Minor)> {
    let minor = run.allocate_minor_for(&owner.to_string()).context("allocating a minor")?;
    let started = spawn_with(run, &[("OXTAP_XEN", platform)]).context("starting tapdisk").and_then(|mut spawned| {
        if spawned.child.id() != spawned.pid {
            // It has put the tapdisk into the background and ended.
            let _ = spawned.child.wait();
        }
        let open = Command::Open(OpenImages { minor: minor.number(), ..open.clone() });
        let opened = native::Client::connect(run, spawned.pid, None).and_then(|mut client| {
            client.ask(Command::Attach { minor: minor.number() })?;
            client.ask(open)
        });
        match opened {
            Ok(_) => Ok((spawned.pid, minor)),
            Err(error) => {
                spawned.terminate();
                Err(error)
            }
        }
    });
    if started.is_err() {
        let _ = run.free_minor(minor);
    }
    started
}

pub(super) fn remove(arguments: &RemoveDisk) -> Result<()> {
    let directory = std::path::absolute(&arguments.directory).context(arguments.directory.display())?;
    let disk = DiskSpec::new(DomainId(arguments.domain), &arguments.name, "");
    let backend = disk.backend_path()?;
    let executor = executor()?;
    let store = connect(&executor, &directory, 0)?;
    let run = run_directory(&directory);
    executor.block_on(async {
        // Afterwards nobody says any more which tapdisk it was.
        let tapdisk = tapdisk_of(&store, &backend).await?;
        let toolstack = Toolstack::new(store.clone());
        if !toolstack.remove_disk(&disk, arguments.force, arguments.patience).await? && !arguments.force {
            let told = read(&store, &backend, "state").await?;
            let words = format!("the disk is still in use (its backend is in state {told}); --force does not ask");
            return Err(Error::from_os(words, rustix::io::Errno::BUSY.into()));
        }
        tapdisk.map_or(Ok(()), |(pid, minor)| end(&run, pid, minor))
    })
}

pub(super) fn remove_domain(arguments: &RemoveDomain) -> Result<()> {
    let directory = std::path::absolute(&arguments.directory).context(arguments.directory.display())?;
    let domain = DomainId(arguments.domain);
    let executor = executor()?;
    let store = connect(&executor, &directory, 0)?;
    let run = run_directory(&directory);
    executor.block_on(async {
        let toolstack = Toolstack::new(store.clone());
        if toolstack.memory_kib(domain).await?.is_none() {
            return Err(Error::new(ErrorKind::NotFound, format!("there is no domain {domain}")));
        }
        let mut tapdisks = Vec::new();
        for backend in toolstack.backends(domain).await? {
            tapdisks.extend(tapdisk_of(&store, &backend).await?);
        }
        toolstack.remove_domain(domain, arguments.patience).await?;
        tapdisks.into_iter().try_for_each(|(pid, minor)| end(&run, pid, minor))?;
        // The host learns of it by a watch; whoever makes a domain of this number next must not meet the old one.
        until_gone(&executor, &domain_socket(&directory, domain.0)).await
    })
}

/// Closes the disk; its tapdisk ends with its last one.
fn end(run: &RunDir, pid: u32, minor: Minor) -> Result<()> {
    let client = Client::new(run, pid);
    client.close(minor).context("close")?;
    client.detach(minor).context("detach")?;
    run.free_minor(minor).context("free")
}

/// Ends all tapdisks of a host.
pub(super) fn end_all(run: &RunDir) -> Result<()> {
    for pid in run.tapdisks().context(run.path().display())? {
        let client = Client::new(run, pid);
        // One that does not answer has gone, or is stuck: others are not.
        for disk in client.list().unwrap_or_default() {
            if let Some(minor) = u16::try_from(disk.minor).ok().and_then(Minor::new) {
                let _ = end(run, pid, minor);
            }
        }
    }
    Ok(())
}

async fn tapdisk_of(store: &Store, backend: &StorePath) -> Result<Option<(u32, Minor)>> {
    let pid = read(store, backend, "pid").await?.parse().ok();
    let minor = read(store, backend, "minor").await?.parse().ok().and_then(Minor::new);
    Ok(pid.zip(minor))
}

async fn until_there(executor: &Executor, socket: &Path) -> Result<()> {
    let deadline = executor.now() + BACKEND_MAX;
    while !socket.exists() {
        if executor.now() > deadline {
            let words = format!("{} does not come: does `oxtap hosted run` run there?", socket.display());
            return Err(Error::new(ErrorKind::NotFound, words));
        }
        executor.sleep(LOOK_PAUSE).await;
    }
    Ok(())
}

async fn until_gone(executor: &Executor, socket: &Path) -> Result<()> {
    let deadline = executor.now() + BACKEND_MAX;
    while socket.exists() {
        if executor.now() > deadline {
            let words = format!("{} does not go, although its domain has gone", socket.display());
            return Err(Error::from_os(words, rustix::io::Errno::TIMEDOUT.into()));
        }
        executor.sleep(LOOK_PAUSE).await;
    }
    Ok(())
}

async fn until_state(executor: &Executor, store: &Store, backend: &StorePath, wanted: State) -> Result<()> {
    let deadline = executor.now() + BACKEND_MAX;
    loop {
        let state = read(store, backend, "state").await?.parse().unwrap_or(State::Unknown);
        if state == wanted {
            return Ok(());
        }
        if executor.now() > deadline {
            let words = format!("{}: the backend is {state}, not {wanted}", backend.as_str());
            return Err(Error::from_os(words, rustix::io::Errno::TIMEDOUT.into()));
        }
        executor.sleep(LOOK_PAUSE).await;
    }
}

async fn read(store: &Store, directory: &StorePath, name: &str) -> Result<String> {
    let value = store.read(&node(directory, name)?).await?;
    Ok(String::from_utf8_lossy(&value.unwrap_or_default()).into_owned())
}

async fn write(store: &Store, directory: &StorePath, name: &str, value: &str) -> Result<()> {
    store.write(&node(directory, name)?, value.as_bytes()).await
}

fn node(directory: &StorePath, name: &str) -> Result<StorePath> {
    directory.join(name).map_err(|error| Error::new(ErrorKind::Invalid, error.to_string()))
}
