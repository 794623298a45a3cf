//! Random stories of one disk on the running system: whatever is wanted of it and befalls it, in whatever order, what the
//! agent's tables promise holds.

use std::time::Duration;

use control_api::{
    Client, Minor, OpenRequest,
    native::{DiskSummary, State},
};
use guest::{Device, DeviceOptions, toolstack::DiskSpec};
use test_support::{cycles, seed};
use wire::xenstore::Path;

use crate::host::{DOMAIN, Hosted, LONG, disk};

/// Steps of a story.
const STEPS: usize = 14;

#[derive(Clone, Copy, Debug, PartialEq, Eq)]
enum Step {
    /// Somebody makes the backend look.
    Probe,
    Pause,
    Unpause,
    /// The tapdisk is killed.
    Crash,
    /// The directories are removed, and nobody waits for anything.
    Remove,
    /// They are made; those that are there are replaced, which nobody sees.
    Add,
    /// A script names a tapdisk that runs, and a kernel opens the disk.
    Start,
    /// The toolstack takes the disk away by force, and waits.
    DomainDeath,
    /// The backend is killed, and another one starts.
    Restart,
}

const ALL: [Step; 9] = [
    Step::Probe,
    Step::Pause,
    Step::Unpause,
    Step::Crash,
    Step::Remove,
    Step::Add,
    Step::Start,
    Step::DomainDeath,
    Step::Restart,
];

struct Story<'h> {
    host: &'h Hosted,
    spec: DiskSpec,
    opened: Option<(u32, Minor)>,
    device: Option<Device>,
    /// Its directory is there, and whether that names a tapdisk that runs.
    is_there: bool,
    has_disk: bool,
    is_pause_wanted: bool,
    told: String,
}

impl Story<'_> {
    fn node(&self, name: &str) -> Path {
        self.host.node(&self.spec, name)
    }

    async fn write(&self, name: &str, value: &str) {
        self.host.store.write(&self.node(name), value.as_bytes()).await.unwrap();
    }

    async fn take(&mut self, step: Step) {
        match step {
            Step::Probe if self.is_there => self.write("pause-token", "").await,
            Step::Pause if self.is_there => {
                self.is_pause_wanted = true;
                self.write("pause", "").await;
            }
            Step::Unpause if self.is_there => {
                self.is_pause_wanted = false;
                let _ = self.host.store.remove(&self.node("pause")).await;
            }
            Step::Crash => self.crash(),
            Step::Remove if self.is_there => {
                self.forget();
                for path in [self.spec.frontend_path().unwrap(), self.spec.backend_path().unwrap()] {
                    self.host.store.remove(&path).await.unwrap();
                }
            }
            Step::Add => {
                self.forget();
                self.host.toolstack.replace_disk(&self.spec).await.unwrap();
                self.is_there = true;
            }
            Step::Start if self.is_there => self.start().await,
            Step::DomainDeath if self.is_there => {
                self.forget();
                assert!(self.host.toolstack.remove_disk(&self.spec, true, LONG).await.unwrap(), "{}", self.told);
            }
            Step::Restart => {
                self.host.kill();
                self.host.start(&[]);
            }
            _ => {}
        }
    }

    /// The guest's kernel and the directory go.
    fn forget(&mut self) {
        self.device = None;
        (self.is_there, self.has_disk, self.is_pause_wanted) = (false, false, false);
    }

    fn crash(&mut self) {
        let Some((pid, minor)) = self.opened.take() else { return };
        let process = self.host.process(pid);
        process.kill().unwrap();
        assert!(process.wait_for_end(LONG).unwrap());
        // As a storage manager does that finds its tapdisk gone.
        self.host.run.free_minor(minor).unwrap();
        self.device = None;
        self.has_disk = false;
    }

    async fn start(&mut self) {
        let (pid, minor) = *self.opened.get_or_insert_with(|| self.host.open(&self.spec.image));
        // Whoever wanted the pause may still change images when its device goes, so the disk stays at rest; the storage side
        // brings it back when it gives it to the next one.
        if !self.is_pause_wanted && self.disks().iter().all(|disk| disk.state == State::Paused) {
            Client::new(&self.host.run, pid).resume(minor, &OpenRequest::default()).unwrap();
        }
        let socket = self.host.run.nbd_socket(pid, minor).display().to_string();
        self.host.wait_until_offered(&self.spec).await;
        for (name, value) in [
            ("pid", pid.to_string()),
            ("minor", minor.to_string()),
            ("physical-device-path", socket),
            ("hotplug-status", "connected".to_owned()),
        ] {
            self.write(name, &value).await;
        }
        self.has_disk = true;
        if self.device.is_none() {
            let device = self.host.device_of(&self.host.guest, &self.spec, DeviceOptions::default()).await;
            device.connected().await.unwrap();
            self.device = Some(device);
        }
    }

    /// What every tapdisk says of its disks.
    fn disks(&self) -> Vec<DiskSummary> {
        self.opened.iter().flat_map(|(pid, _)| self.host.disks(*pid)).collect()
    }

    fn rings(&self) -> usize {
        self.disks().iter().map(|disk| disk.rings.iter().filter(|ring| ring.domain == DOMAIN.0).count()).sum()
    }

    /// It comes to hold.
    async fn until(&self, what: &str, mut holds: impl AsyncFnMut() -> bool) {
        for _ in 0..20_000 {
            if holds().await {
                return;
            }
            self.host.executor.sleep(Duration::from_millis(5)).await;
        }
        panic!("never {what}: {}", self.told);
    }

    /// What holds when everybody has done what there was to do.
    async fn check(&self) {
        let is_answered = async || self.host.store.read(&self.node("pause-done")).await.unwrap().is_some();
        if self.is_there {
            let wanted = self.is_pause_wanted;
            self.until("answered", async || is_answered().await == wanted).await;
        } else {
            self.until("let go of", async || self.rings() == 0).await;
            assert_eq!(self.host.text(&self.spec, "state").await, None, "made again: {}", self.told);
        }
        assert!(self.rings() <= 1, "two channels: {}", self.told);
        if !self.has_disk {
            return;
        }
        // Whichever tapdisk it is, and whoever was killed meanwhile.
        let wanted = if self.is_pause_wanted { State::Paused } else { State::Running };
        self.until("as it shall be", async || self.disks().iter().all(|disk| disk.state == wanted)).await;
        if let (Some(device), false) = (&self.device, self.is_pause_wanted) {
            device.write(0, &[7; 512]).await.unwrap_or_else(|error| panic!("{error}: {}", self.told));
        }
    }

    /// Everything is taken away, and nothing stays.
    async fn end(mut self) {
        self.take(Step::DomainDeath).await;
        self.check().await;
        // The next tapdisk clears up behind those that were killed.
        let opened = self.opened.take().unwrap_or_else(|| self.host.open(&self.spec.image));
        self.host.close(opened);
        self.host.until_no_tapdisk_is_left().await;
        self.host.no_backend_directory_is_left("vbd3").await;
        assert_eq!(self.host.guest.account().unwrap().used, 0, "{}", self.told);
    }
}

#[test]
fn random_stories_of_a_disk_hold_what_the_tables_promise_on_the_running_system() {
    let seed = seed();
    let mut state = seed | 1;
    let mut random = move |count: usize| {
        state ^= state << 13;
        state ^= state >> 7;
        state ^= state << 17;
        usize::try_from(state % count as u64).unwrap()
    };
    let host = Hosted::new(&[]);
    let image = format!("aio:{}", host.image("disk").display());
    for number in 0..cycles(4, 150) {
        let mut story = Story {
            host: &host,
            spec: disk("xvda", &image, "block-tap"),
            opened: None,
            device: None,
            is_there: false,
            has_disk: false,
            is_pause_wanted: false,
            told: format!("seed {seed:#x}, story {number}:"),
        };
        // Most of what happens needs a disk.
        let steps = [Step::Add, Step::Start].into_iter().chain((0..STEPS).map(|_| ALL[random(ALL.len())]));
        for step in steps.collect::<Vec<_>>() {
            story.told += &format!(" {step:?}");
            println!("{step:?}");
            host.run(async {
                story.take(step).await;
                story.check().await;
            });
        }
        host.run(story.end());
    }
    assert_eq!(host.end().code(), Some(0));
    host.place_is_clean();
}
