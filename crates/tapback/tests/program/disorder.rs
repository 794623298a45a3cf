//! Toolstacks and scripts that remove directories early, twice or in the wrong order, while a guest is at work and
//! processes are killed: nothing is made again, nothing stays, no byte is lost.

use std::time::Duration;

use guest::{
    Device, DeviceOptions,
    toolstack::DiskSpec,
    workload::{Pace, Workload},
};
use storage_io::Task;
use test_support::{cycles, seed};
use wire::xenstore::Path;

use crate::{
    census::Census,
    host::{DOMAIN, Hosted, LONG, OUR_SCRIPT, disk},
};

/// Requests of a guest before its disk is taken away.
const REQUESTS: u64 = 32;
const PACE: Pace = Pace { depth: 8, blocks_max: 4, read_only: false };

/// What somebody does to the directories of a disk.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
enum Removal {
    FrontendFirst,
    BackendFirst,
    /// By force, without the patience to wait for the end.
    Impatient,
    /// One after the other, and each again.
    Twice,
    /// With those of all disks of the guest.
    WithItsGuest,
    /// With those of all backends.
    WithAllBackends,
    /// And a script writes into what has gone, which makes it again; then that is removed, too.
    ScriptTooLate,
    /// It is made anew at once: nobody sees it gone.
    Replaced,
    /// It is made anew as soon as it has gone.
    MadeAgain,
}

/// Who is killed meanwhile.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
enum Victim {
    Nobody,
    Tapdisk,
    Tapback,
    Both,
}

/// When.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
enum Moment {
    Before,
    Between,
    After,
}

const REMOVALS: [Removal; 9] = [
    Removal::FrontendFirst,
    Removal::BackendFirst,
    Removal::Impatient,
    Removal::Twice,
    Removal::WithItsGuest,
    Removal::WithAllBackends,
    Removal::ScriptTooLate,
    Removal::Replaced,
    Removal::MadeAgain,
];
const VICTIMS: [Victim; 4] = [Victim::Nobody, Victim::Tapdisk, Victim::Tapback, Victim::Both];
const MOMENTS: [Moment; 3] = [Moment::Before, Moment::Between, Moment::After];

/// A host on which one disk is removed again and again.
struct Scene<'h> {
    host: &'h Hosted,
    spec: DiskSpec,
    front: Path,
    back: Path,
    workload: Option<Workload>,
}

impl Scene<'_> {
    async fn remove(&self, node: &Path) {
        // Gone already is as good.
        let _ = self.host.store.remove(node).await;
    }

    async fn remove_at_once(&self, nodes: &[&Path]) {
        let removed = self.host.store.transaction(async |transaction| {
            for node in nodes {
                let _ = transaction.remove(node).await;
            }
            Ok(())
        });
        removed.await.unwrap();
    }

    /// The guest opens its disk, finds in it what was written before, and goes on.
    async fn begin(&mut self) -> (Device, Task<block_core::Result<()>>) {
        let options = DeviceOptions { queues: 2, ..DeviceOptions::default() };
        let device = self.host.device_of(&self.host.guest, &self.spec, options).await;
        let properties = device.connected().await.unwrap();
        let workload = self.workload.get_or_insert_with(|| Workload::new(7, &properties)).clone();
        workload.verify(&device, Pace::default()).await.unwrap();
        let (work, user) = (workload.clone(), device.clone());
        let load = self.host.executor.spawn(async move { work.run(&user, u64::MAX, PACE).await });
        workload.until(workload.done().requests() + REQUESTS).await;
        (device, load)
    }

    async fn kill(&self, victim: Victim) {
        if matches!(victim, Victim::Tapdisk | Victim::Both) {
            self.host.kill_tapdisks();
        }
        if matches!(victim, Victim::Tapback | Victim::Both) {
            self.host.kill();
        }
    }

    async fn story(&mut self, removal: Removal, victim: Victim, moment: Moment) {
        self.host.attach(&self.spec, &[]).await;
        let (device, load) = self.begin().await;
        let at = |when: Moment| if when == moment { victim } else { Victim::Nobody };
        self.kill(at(Moment::Before)).await;
        self.first_step(removal).await;
        self.kill(at(Moment::Between)).await;
        self.second_step(removal).await;
        self.kill(at(Moment::After)).await;
        if matches!(victim, Victim::Tapback | Victim::Both) {
            self.host.start(&["--auto"]);
        }
        drop((device, load));
        if matches!(removal, Removal::Replaced | Removal::MadeAgain) {
            self.host.wait_for(&self.spec, "2").await;
            self.host.store.write(&self.host.node(&self.spec, "hotplug-status"), b"connected").await.unwrap();
            let (device, load) = self.begin().await;
            assert!(self.host.toolstack.remove_disk(&self.spec, true, LONG).await.unwrap());
            drop((device, load));
        }
        if matches!(victim, Victim::Nobody | Victim::Tapdisk) {
            self.host.until_no_tapdisk_runs().await;
        }
        // What nobody has seen the end of is found later by whoever starts; or the next one here comes upon it.
    }

    async fn first_step(&self, removal: Removal) {
        let (front, back) = (&self.front, &self.back);
        let online = back.join("online").unwrap();
        match removal {
            Removal::FrontendFirst | Removal::ScriptTooLate => self.remove(front).await,
            Removal::BackendFirst => self.remove(back).await,
            Removal::Impatient => {
                let state = back.join("state").unwrap();
                let forced = self.host.store.transaction(async |transaction| {
                    transaction.remove(front).await?;
                    transaction.write(&online, b"0").await?;
                    transaction.write(&state, b"5").await
                });
                forced.await.unwrap();
            }
            Removal::Twice => {
                self.remove(back).await;
                self.remove(back).await;
            }
            Removal::WithItsGuest => {
                let (devices, backends) = (front.parent().unwrap(), back.parent().unwrap());
                self.remove_at_once(&[&devices, &backends]).await;
            }
            Removal::WithAllBackends => {
                self.remove_at_once(&[&"/local/domain/0/backend".parse().unwrap()]).await;
            }
            Removal::Replaced => self.host.toolstack.replace_disk(&self.spec).await.unwrap(),
            Removal::MadeAgain => self.remove_at_once(&[front, back]).await,
        }
    }

    async fn second_step(&self, removal: Removal) {
        let (front, back) = (&self.front, &self.back);
        match removal {
            Removal::FrontendFirst | Removal::Impatient => self.remove(back).await,
            Removal::BackendFirst | Removal::WithAllBackends => self.remove(front).await,
            Removal::Twice => {
                self.remove(front).await;
                self.remove_at_once(&[front, back]).await;
            }
            Removal::ScriptTooLate => {
                self.remove(back).await;
                for (name, value) in [("hotplug-error", "there is no minor"), ("hotplug-status", "error")] {
                    self.host.store.write(&back.join(name).unwrap(), value.as_bytes()).await.unwrap();
                }
                self.host.executor.sleep(Duration::from_millis(20)).await;
                assert_eq!(self.host.store.directory(back).await.unwrap().unwrap().len(), 2, "nobody adds to it");
                self.remove(back).await;
            }
            Removal::MadeAgain => self.host.toolstack.add_disk(&self.spec).await.unwrap(),
            Removal::WithItsGuest | Removal::Replaced => {}
        }
    }
}

#[test]
fn directories_are_removed_in_any_order_and_nothing_is_made_again() {
    let host = Hosted::new(&["--auto"]);
    let spec = disk("xvda", &format!("aio:{}", host.image("disk").display()), OUR_SCRIPT);
    let (front, back) = (spec.frontend_path().unwrap(), spec.backend_path().unwrap());
    let mut scene = Scene { host: &host, spec, front, back, workload: None };
    host.run(scene.story(Removal::FrontendFirst, Victim::Nobody, Moment::Before));
    host.run(host.until_no_tapdisk_is_left());
    let before = host.run(Census::take(&host));
    let first = usize::try_from(seed() % 1000).unwrap();
    // Each removal meets each victim; the moments take turns, and all of them come in a long run.
    for round in 0..usize::try_from(cycles(1, 9)).unwrap() {
        for (index, removal) in REMOVALS.into_iter().enumerate() {
            for (other, victim) in VICTIMS.into_iter().enumerate() {
                let moment = MOMENTS[(first + round + index + other) % MOMENTS.len()];
                println!("{removal:?}, {victim:?} {moment:?}");
                host.run(scene.story(removal, victim, moment));
            }
        }
    }
    host.run(async {
        // The next tapdisk clears up behind those that were killed.
        scene.story(Removal::FrontendFirst, Victim::Nobody, Moment::Before).await;
        host.until_no_tapdisk_is_left().await;
        host.no_backend_directory_is_left("vbd3").await;
        let errors = format!("/local/domain/0/error/backend/vbd3/{DOMAIN}").parse().unwrap();
        assert_eq!(host.store.directory(&errors).await.unwrap(), None, "what was told is taken back");
        // The broker hears of the end of a process a moment after everybody else.
        while host.guest.account().unwrap().used > 0
            || host.broker.ask(|broker| broker.connections()) > before.connections
        {
            host.executor.sleep(Duration::from_millis(5)).await;
        }
        let after = Census::take(&host).await;
        // Where errors of all devices are told stays, as Linux leaves it.
        let mut nodes: Vec<&String> = after.nodes.difference(&before.nodes).collect();
        nodes.retain(|node| !"/local/domain/0/error/backend/vbd3".starts_with(node.as_str()));
        assert_eq!((nodes, after.files, after.connections), (Vec::new(), before.files, before.connections));
    });
    host.doctor_finds_nothing();
    assert_eq!(host.end().code(), Some(0));
    host.place_is_clean();
}
