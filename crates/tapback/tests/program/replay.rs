//! What Xen's toolstack, its script and guests have done on a real host, done again: only the backend is ours.
//!
//! ```text
//!   traces/*.trace   xl | script | guest   write | remove | permissions   PATH [VALUE]      done, in this order
//!                    begin ... end                                                          at once
//!                    backend               state DIRECTORY N | node PATH                    waited for, and found
//!                    script                add | remove DIRECTORY                           tapdisks are started and ended
//! ```
//!
//! `A` and `B` are domains; `A.front` and `A.back` are the directories of a disk. They were recorded with Xen 4.20 and
//! another backend; requests that change nothing were left out.

use std::{cell::RefCell, collections::HashMap, rc::Rc};

use control_api::Minor;
use guest::{Front, FrontOptions};
use storage_io::Task;
use wire::{
    blkif::Abi,
    xenstore::{Path, Permission},
};
use xen::{DomainId, hosted::Guest, store::Store};

use crate::{
    blocks::Blocks,
    host::{DOMAIN, Hosted, OTHER_DOMAIN},
};

/// A disk under load, after so many requests.
const REQUESTS: u64 = 20;
const DEVICE: &str = "51712";

/// A line of a trace.
#[derive(Clone, Copy, Debug)]
struct Step<'t> {
    who: &'t str,
    act: &'t str,
    place: &'t str,
    value: &'t str,
}

impl<'t> Step<'t> {
    fn parse(line: &'t str) -> Step<'t> {
        let mut words = line.splitn(4, ' ');
        let mut next = || words.next().unwrap_or_default();
        Step { who: next(), act: next(), place: next(), value: next() }
    }

    fn domain(&self) -> &'t str {
        &self.place[..1]
    }
}

/// A ring, and a guest at work on it.
struct Used {
    front: Front,
    load: Option<Task<()>>,
}

/// The real side of a story.
struct Player<'h> {
    host: &'h Hosted,
    kind: &'static str,
    image: String,
    opened: Option<(u32, Minor)>,
    blocks: Rc<Blocks>,
    guests: HashMap<&'static str, (Guest, Store)>,
    rings: HashMap<String, Used>,
    /// What the backend's state was seen to be, and by whom it was to be made that.
    seen: HashMap<&'static str, Rc<RefCell<Vec<String>>>>,
    recorded: HashMap<String, Vec<String>>,
    _observers: Vec<Task<()>>,
    /// Nodes that must be there when the state is.
    promised: Vec<Path>,
}

impl<'h> Player<'h> {
    async fn new(host: &'h Hosted, kind: &'static str) -> Player<'h> {
        let image = format!("aio:{}", host.image("disk").display());
        let mut player = Player {
            host,
            kind,
            image,
            opened: None,
            blocks: Rc::new(Blocks::default()),
            guests: HashMap::new(),
            rings: HashMap::new(),
            seen: HashMap::new(),
            recorded: HashMap::new(),
            _observers: Vec::new(),
            promised: Vec::new(),
        };
        let other = host.boot(OTHER_DOMAIN).await;
        for (name, guest) in [("A", host.guest.clone()), ("B", other)] {
            let store = host.guest_store(guest.domain());
            player.guests.insert(name, (guest, store));
            player.observe(name);
        }
        player
    }

    /// Every state that is there long enough to be seen is remembered.
    fn observe(&mut self, name: &'static str) {
        let seen = Rc::<RefCell<Vec<String>>>::default();
        self.seen.insert(name, seen.clone());
        let (store, node) = (self.host.another_store(), self.path(&format!("{name}.back/state")));
        self._observers.push(self.host.executor.spawn(async move {
            let watch = store.watch(&node);
            loop {
                watch.next().await;
                let Some(value) = store.read(&node).await.unwrap() else { continue };
                let value = String::from_utf8(value).unwrap();
                let mut seen = seen.borrow_mut();
                if seen.last() != Some(&value) {
                    seen.push(value);
                }
            }
        }));
    }

    fn number(&self, name: &str) -> DomainId {
        if name == "A" { DOMAIN } else { OTHER_DOMAIN }
    }

    fn path(&self, place: &str) -> Path {
        let (name, rest) = place.split_once('.').unwrap();
        let (side, below) = rest.split_once('/').unwrap_or((rest, ""));
        let domain = self.number(name);
        let directory = match side {
            "front" => format!("/local/domain/{domain}/device/vbd/{DEVICE}"),
            "back" => format!("/local/domain/0/backend/{}/{domain}/{DEVICE}", self.kind),
            side => format!("/local/domain/{domain}/{side}"),
        };
        let mut path: Path = directory.parse().unwrap();
        for part in below.split('/').filter(|part| !part.is_empty()) {
            path = if part == ".." { path.parent().unwrap() } else { path.join(part).unwrap() };
        }
        path
    }

    /// What is to be written, with what belongs to this host in the place of what belonged to the other.
    fn value(&self, step: &Step<'_>) -> String {
        let opened = || self.opened.expect("a script has run");
        match step.value {
            "$image" => self.image.clone(),
            "$pid" => opened().0.to_string(),
            "$minor" => opened().1.to_string(),
            "$socket" => self.host.run.nbd_socket(opened().0, opened().1).display().to_string(),
            "$ring" => self.rings[step.domain()].front.ring_grants()[0].to_string(),
            "$port" => self.rings[step.domain()].front.port().to_string(),
            "A.front" | "A.back" | "B.front" | "B.back" => self.path(step.value).as_str().to_owned(),
            value => self.numbered(value),
        }
    }

    fn numbered(&self, text: &str) -> String {
        text.replace("{A}", &DOMAIN.to_string()).replace("{B}", &OTHER_DOMAIN.to_string())
    }

    async fn play(&mut self, trace: &str) {
        let lines: Vec<&str> = trace.lines().filter(|line| !line.starts_with('#')).collect();
        let mut rest = lines.as_slice();
        while let [first, others @ ..] = rest {
            let length = match *first {
                "begin" => others.iter().position(|line| *line == "end").expect("a group has an end"),
                _ => 0,
            };
            let group: Vec<Step<'_>> = match length {
                0 => vec![Step::parse(first)],
                _ => others[..length].iter().map(|line| Step::parse(line)).collect(),
            };
            rest = if length == 0 { others } else { &others[length + 1..] };
            let next = rest.iter().take(3).map(|line| Step::parse(line));
            self.prepare(&group, next).await;
            self.take(&group).await;
        }
        self.end().await;
    }

    /// Before a guest names a ring it has one.
    async fn prepare<'t>(&mut self, group: &[Step<'t>], next: impl Iterator<Item = Step<'t>>) {
        let Some(step) = group.iter().find(|step| step.value == "$ring") else { return };
        let told = group.iter().copied().chain(next).find(|step| step.place.ends_with("/protocol"));
        let abi = Abi::from_protocol(told.map(|step| step.value)).unwrap();
        let options = FrontOptions { abi, ..FrontOptions::default() };
        let front = Front::new(&self.host.executor, &self.guests[step.domain()].0, options).unwrap();
        self.rings.insert(step.domain().to_owned(), Used { front, load: None });
    }

    async fn take(&mut self, group: &[Step<'_>]) {
        let first = group[0];
        match (first.who, first.act) {
            ("backend", "node") => self.promised.push(self.path(first.place)),
            ("backend", "state") => self.expect(first.place, first.value).await,
            ("script", "add") => {
                let image = &self.image;
                self.opened.get_or_insert_with(|| self.host.open(image));
            }
            ("script", "remove") => self.run_remove(first).await,
            _ => self.write(group).await,
        }
    }

    /// A script ends the tapdisk that it has started, unless another disk needs it.
    async fn run_remove(&mut self, step: Step<'_>) {
        let other = if step.domain() == "A" { "B.back" } else { "A.back" };
        if self.host.store.directory(&self.path(other)).await.unwrap().is_none() {
            self.host.close(self.opened.take().unwrap());
        }
    }

    async fn write(&mut self, group: &[Step<'_>]) {
        let first = group[0];
        for step in group.iter().filter(|step| step.act == "write") {
            if step.place.ends_with(".back/state") {
                self.recorded.entry(step.domain().to_owned()).or_default().push(step.value.to_owned());
            }
            if step.who == "guest" && step.place.ends_with(".front/state") && ["5", "6"].contains(&step.value) {
                self.blocks.stop();
            }
        }
        let store = match first.who {
            "guest" => self.guests[first.domain()].1.clone(),
            _ => self.host.store.clone(),
        };
        let done = store.transaction(async |transaction| {
            for step in group {
                let path = self.path(step.place);
                match step.act {
                    "write" => transaction.write(&path, self.value(step).as_bytes()).await?,
                    // Nothing above it is there either.
                    "remove" => drop(transaction.remove(&path).await),
                    "permissions" => {
                        let entries = self.numbered(step.value);
                        let entries = entries.split(' ').map(|entry| entry.parse().unwrap());
                        transaction.set_permissions(&path, &entries.collect::<Vec<Permission>>()).await?;
                    }
                    act => panic!("nobody knows how to {act}"),
                }
            }
            Ok(())
        });
        done.await.unwrap();
    }

    /// The toolstack waits: the state comes, and with it all that was promised before.
    async fn expect(&mut self, directory: &str, state: &str) {
        let name = directory[..1].to_owned();
        self.recorded.entry(name.clone()).or_default().push(state.to_owned());
        let node = self.path(directory).join("state").unwrap();
        let watch = self.host.store.watch(&node);
        loop {
            let value = self.host.store.read(&node).await.unwrap();
            let value = value.unwrap_or_else(|| panic!("{directory} vanished while a toolstack waited for {state}"));
            if value == state.as_bytes() {
                break;
            }
            watch.next().await;
        }
        for promised in std::mem::take(&mut self.promised) {
            assert!(self.host.store.read(&promised).await.unwrap().is_some(), "{state} without {promised:?}");
        }
        match state {
            "4" => self.begin_load(&name).await,
            "6" => self.let_go(&name).await,
            _ => {}
        }
    }

    /// The guest reads what was written before, by whichever kernel and domain, and works on from there.
    async fn begin_load(&mut self, name: &str) {
        let used = self.rings.get_mut(name).unwrap();
        self.blocks.verify(&used.front).await;
        let (blocks, front) = (self.blocks.clone(), used.front.clone());
        used.load = Some(self.host.executor.spawn(async move { blocks.work(&front).await }));
        self.blocks.until(self.blocks.answered() + REQUESTS).await;
    }

    /// Whoever says that it is closed has nothing of the guest any more.
    async fn let_go(&mut self, name: &str) {
        let Some(used) = self.rings.remove(name) else { return };
        assert_eq!((used.front.end().unwrap(), used.front.stray_pages()), (0, 0), "pages are in use");
        used.load.unwrap().await;
    }

    /// What was recorded may have ended before the disk did; then nothing may be left.
    async fn end(&mut self) {
        for name in ["A", "B"] {
            let back = self.path(&format!("{name}.back"));
            if self.host.store.directory(&back).await.unwrap().is_some() {
                let steps = [("remove", "front", ""), ("write", "back/online", "0"), ("write", "back/state", "5")];
                let places = steps.map(|(act, place, value)| (act, format!("{name}.{place}"), value));
                let group: Vec<Step<'_>> =
                    places.iter().map(|(act, place, value)| Step { who: "xl", act, place, value }).collect();
                self.blocks.stop();
                self.write(&group).await;
                self.expect(&format!("{name}.back"), "6").await;
                self.host.store.remove(&back).await.unwrap();
            }
            let (seen, recorded) = (self.seen[name].borrow(), self.recorded.remove(name).unwrap_or_default());
            let mut left = recorded.iter();
            assert!(seen.iter().all(|state| left.any(|known| known == state)), "{seen:?} of {recorded:?}");
        }
        if let Some(opened) = self.opened.take() {
            self.host.close(opened);
        }
        assert_eq!(self.host.run.minors().unwrap(), []);
        for (name, (guest, _)) in &self.guests {
            assert_eq!(guest.account().unwrap().used, 0, "{name}");
        }
    }
}

fn replay(kind: &'static str, trace: &str) {
    let host = Hosted::new(&["-n", kind]);
    host.run(async {
        let mut player = Player::new(&host, kind).await;
        player.play(trace).await;
        drop(player);
        host.no_backend_directory_is_left(kind).await;
    });
    assert_eq!(host.end().code(), Some(0));
    host.place_is_clean();
}

#[test]
fn a_guest_with_a_disk_is_created_and_halts() {
    replay("vbd3", include_str!("traces/create.trace"));
}

#[test]
fn a_boot_loader_of_a_pv_guest_is_followed_by_linux() {
    replay("vbd3", include_str!("traces/grub_pv.trace"));
}

#[test]
fn a_boot_loader_of_32_bits_is_followed_by_linux_of_64() {
    replay("vbd3", include_str!("traces/grub_pvh.trace"));
}

#[test]
fn a_disk_of_another_kind_has_a_script_of_its_own() {
    replay("vbd", include_str!("traces/vbd_script.trace"));
}

#[test]
fn a_guest_is_saved_and_restored() {
    replay("vbd3", include_str!("traces/save_restore.trace"));
}

#[test]
fn a_guest_reboots() {
    replay("vbd3", include_str!("traces/reboot.trace"));
}

#[test]
fn a_guest_moves_within_its_host() {
    replay("vbd3", include_str!("traces/migrate.trace"));
}

#[test]
fn a_disk_is_detached_by_two_at_a_time() {
    replay("vbd3", include_str!("traces/detach.trace"));
}

#[test]
fn a_disk_is_detached_by_force() {
    replay("vbd3", include_str!("traces/detach_force.trace"));
}

#[test]
fn a_guest_is_destroyed() {
    replay("vbd3", include_str!("traces/destroy.trace"));
}
