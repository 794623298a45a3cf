//! Disks that are attached and detached, again and again: nothing grows, and no byte is lost.

use std::{fs, path::Path, process::Command};

use block_core::ErrorKind;
use control_api::Minor;
use guest::{
    Device, DeviceOptions,
    toolstack::DiskSpec,
    workload::{Pace, Workload},
};
use storage_io::Task;
use test_support::{cycles, require_tool};
use xenbus::Outcome;

use crate::{
    census::Census,
    host::{DISK_BYTES, Hosted, LONG, OTHER_DOMAIN, OUR_SCRIPT, disk},
};

/// Requests of each guest before its disk is taken away.
const REQUESTS: u64 = 32;
const PACE: Pace = Pace { depth: 16, blocks_max: 4, read_only: false };
/// Cycles before anything is counted: each way was gone twice.
const WARM_UP: usize = 2 * Way::ALL.len();

/// How a disk is taken away.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
enum Way {
    /// Its guest leaves it, then the toolstack removes it.
    Orderly,
    /// The toolstack asks while the guest is at work.
    AskedUnderLoad,
    /// The toolstack does not ask, while the guest is at work.
    ForcedUnderLoad,
    /// The guest is destroyed while it is at work.
    Destroyed,
}

impl Way {
    const ALL: [Way; 4] = [Way::Orderly, Way::AskedUnderLoad, Way::ForcedUnderLoad, Way::Destroyed];
}

/// A disk, and what it is known to hold.
struct Checked {
    /// For a device of this name, of whichever guest.
    name: &'static str,
    image: String,
    script: &'static str,
    /// Where the storage manager has it open.
    opened: Option<(u32, Minor)>,
    workload: Option<Workload>,
}

impl Checked {
    fn spec(&self, domain: xen::DomainId) -> DiskSpec {
        DiskSpec { domain, ..disk(self.name, &self.image, self.script) }
    }

    async fn attach(&self, host: &Hosted, domain: xen::DomainId) -> DiskSpec {
        let spec = self.spec(domain);
        let socket = self.opened.map(|(pid, minor)| host.run.nbd_socket(pid, minor).display().to_string());
        let nodes: Vec<(&str, &str)> = socket.iter().map(|socket| ("physical-device-path", socket.as_str())).collect();
        host.attach(&spec, &nodes).await;
        spec
    }

    /// Whoever has it now works on it, without an end.
    async fn begin_load(&mut self, host: &Hosted, device: &Device) -> Task<block_core::Result<()>> {
        let properties = device.connected().await.unwrap();
        let workload = self.workload.get_or_insert_with(|| Workload::new(7, &properties)).clone();
        let (work, device) = (workload.clone(), device.clone());
        let task = host.executor.spawn(async move { work.run(&device, u64::MAX, PACE).await });
        workload.until(workload.done().requests() + REQUESTS).await;
        task
    }

    /// What was answered is there, whoever wrote it.
    async fn verify(&self, device: &Device) {
        device.connected().await.unwrap();
        if let Some(workload) = &self.workload {
            workload.verify(device, Pace::default()).await.unwrap();
        }
    }
}

/// A guest of this host attaches both disks, works, and loses them.
async fn cycle(host: &Hosted, disks: &mut [Checked; 2], way: Way, is_checked: bool) {
    let guest = match way {
        Way::Destroyed => host.boot(OTHER_DOMAIN).await,
        _ => host.guest.clone(),
    };
    let mut attached = Vec::new();
    for disk in disks.iter_mut() {
        let spec = disk.attach(host, guest.domain()).await;
        let options = DeviceOptions { queues: 2, ..DeviceOptions::default() };
        let device = host.device_of(&guest, &spec, options).await;
        if is_checked {
            disk.verify(&device).await;
        }
        let load = disk.begin_load(host, &device).await;
        attached.push((spec, device, load));
    }
    if way == Way::Destroyed {
        // The hypervisor is quicker than the toolstack.
        host.broker.ask(|broker| broker.destroy_domain(OTHER_DOMAIN));
        drop(attached);
        host.toolstack.remove_domain(OTHER_DOMAIN, LONG).await.unwrap();
        return;
    }
    for (spec, device, load) in attached {
        if way == Way::Orderly {
            assert_eq!(device.shutdown(LONG).await, Outcome::AtItsStart);
        }
        let by_force = way == Way::ForcedUnderLoad;
        assert!(host.toolstack.remove_disk(&spec, by_force, LONG).await.unwrap(), "{way:?}: it had ended in time");
        match load.await {
            // What it was reading when its device was taken away nobody gives to it any more.
            Err(error) if by_force && error.kind() == ErrorKind::Io => {}
            ended => ended.unwrap(),
        }
        assert_eq!(device.account().stray_pages, 0, "{way:?}");
    }
    assert_eq!(host.guest.account().unwrap().used, 0, "{way:?}");
}

fn succeed(command: &mut Command) -> String {
    let output = command.output().unwrap();
    assert!(output.status.success(), "{command:?}: {output:?}");
    String::from_utf8(output.stdout).unwrap()
}

/// Other programs find in an image what a guest has read.
fn compare(host: &Hosted, image: &Path, read: &[u8]) {
    succeed(host.command("vhd-util").args(["check", "-n"]).arg(image));
    let qemu_img = require_tool("qemu-img");
    let raw = host.place.scratch().join("as-read");
    fs::write(&raw, read).unwrap();
    succeed(Command::new(qemu_img).args(["compare", "-f", "vpc", "-F", "raw"]).args([image, &raw]));
}

#[test]
fn disks_come_and_go_and_nothing_grows() {
    let host = Hosted::new(&["--auto"]);
    let vhd = host.place.scratch().join("own.vhd");
    let megabytes = (DISK_BYTES >> 20).to_string();
    succeed(host.command("vhd-util").args(["create", "-s", &megabytes, "-n"]).arg(&vhd));
    let raw = format!("aio:{}", host.image("stored").display());
    let stored = host.open(&raw);
    let mut disks = [
        Checked {
            name: "xvda",
            image: format!("vhd:{}", vhd.display()),
            script: OUR_SCRIPT,
            opened: None,
            workload: None,
        },
        Checked { name: "xvdb", image: raw, script: "block-tap", opened: Some(stored), workload: None },
    ];
    let mut ways = Way::ALL.into_iter().cycle();
    for way in ways.by_ref().take(WARM_UP) {
        host.run(cycle(&host, &mut disks, way, true));
    }
    host.run(host.until_only_these_are_left(&[stored]));
    let before = host.run(Census::take(&host));
    for (index, way) in (0..cycles(100, 1000)).zip(ways) {
        host.run(cycle(&host, &mut disks, way, index.is_multiple_of(10)));
    }
    host.run(async {
        host.until_only_these_are_left(&[stored]).await;
        let after = Census::assert_no_growth(&host, &before).await;
        println!("before: {:#?}\nafter: {:#?}", before.processes, after.processes);
        // A last guest reads everything.
        let spec = disks[0].attach(&host, host.guest.domain()).await;
        let device = host.device(&spec).await;
        disks[0].verify(&device).await;
        let mut read = Vec::new();
        for sector in (0..DISK_BYTES / 512).step_by(2048) {
            read.extend(device.read(sector, 2048).await.unwrap());
        }
        assert_eq!(device.shutdown(LONG).await, Outcome::AtItsStart);
        assert!(host.toolstack.remove_disk(&spec, false, LONG).await.unwrap());
        host.until_only_these_are_left(&[stored]).await;
        compare(&host, &vhd, &read);
    });
    host.doctor_finds_nothing();
    host.close(stored);
    assert_eq!(host.end().code(), Some(0));
    host.place_is_clean();
}
