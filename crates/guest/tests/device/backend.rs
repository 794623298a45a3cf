//! A backend without a disk: it plays the backend's part in XenStore, maps rings, and says that every request went well.

use std::{
    cell::{Cell, RefCell},
    rc::Rc,
    sync::atomic::{Ordering, fence},
};

use futures_util::future::select;
use storage_io::{Executor, Task};
use wire::{
    blkif::{Abi, RawRequest, Response, SLOT_BYTES_MAX, Status},
    xenstore::Path,
};
use xen::{
    Access, EventChannel, EventChannels, GrantRef, Grants, Mapping, Port,
    hosted::{HostedChannels, HostedGrants},
    store::Store,
};
use xenbus::{Backend, BackendAction, BackendEvent, State};

use crate::world::{DOMAIN, World};

/// How it behaves.
#[derive(Clone, Copy, Debug)]
pub(crate) struct Manners {
    pub(crate) order_max: u32,
    pub(crate) queues_max: u32,
    /// Requests are answered.
    pub(crate) answers: bool,
    /// Pages may stay granted.
    pub(crate) persistent: bool,
}

pub(crate) const GOOD: Manners = Manners { order_max: 4, queues_max: 4, answers: true, persistent: true };

/// A backend at work; dropping it is its death.
pub(crate) struct FakeBackend {
    pub(crate) seen: Rc<Seen>,
    _task: Task<()>,
}

/// What it has seen.
#[derive(Default)]
pub(crate) struct Seen {
    /// Of each connection: pages of each ring.
    pub(crate) connections: RefCell<Vec<Vec<usize>>>,
    pub(crate) abi: Cell<Option<Abi>>,
    pub(crate) requests: Cell<u32>,
    /// The states that were published.
    pub(crate) states: RefCell<Vec<State>>,
}

impl FakeBackend {
    pub(crate) fn start(world: &World, directory: Path, manners: Manners) -> FakeBackend {
        let seen = Rc::<Seen>::default();
        let hands = Hands {
            executor: world.executor.clone(),
            store: world.store("socket"),
            frontend: world.disk.frontend_path().unwrap(),
            directory,
            manners,
            grants: HostedGrants::connect(world.directory.path(), xen::DomainId(0)).unwrap(),
            channels: HostedChannels::connect(world.directory.path(), xen::DomainId(0)).unwrap(),
            seen: seen.clone(),
            rings: Vec::new(),
        };
        FakeBackend { seen, _task: world.executor.spawn(hands.run()) }
    }

    pub(crate) fn connections(&self) -> usize {
        self.seen.connections.borrow().len()
    }
}

struct Hands {
    executor: Executor,
    store: Store,
    directory: Path,
    frontend: Path,
    manners: Manners,
    grants: HostedGrants,
    channels: HostedChannels,
    seen: Rc<Seen>,
    rings: Vec<Task<()>>,
}

impl Hands {
    async fn run(mut self) {
        let own = self.store.watch(&self.directory);
        let peer = self.store.watch(&self.frontend.join("state").unwrap());
        let (mut machine, actions) = Backend::new();
        machine = self.perform(machine, actions).await;
        machine = self.note(machine, BackendEvent::Image(true)).await;
        loop {
            select(std::pin::pin!(own.next()), std::pin::pin!(peer.next())).await;
            let frontend = self.state(&self.frontend).await;
            let own_state = self.state(&self.directory).await;
            let online = self.text(&self.directory, "online").await != "0";
            machine = self.note(machine, BackendEvent::Online(online)).await;
            machine = self.note(machine, BackendEvent::OwnState(own_state)).await;
            machine = self.note(machine, BackendEvent::Frontend(frontend)).await;
        }
    }

    async fn note(&mut self, machine: Backend, event: BackendEvent) -> Backend {
        let (machine, actions) = machine.apply(event);
        self.perform(machine, actions).await
    }

    async fn perform(&mut self, mut machine: Backend, actions: Vec<BackendAction>) -> Backend {
        let mut actions = std::collections::VecDeque::from(actions);
        while let Some(action) = actions.pop_front() {
            let event = match action {
                BackendAction::Offer => {
                    self.write("max-ring-page-order", self.manners.order_max).await;
                    self.write("multi-queue-max-queues", self.manners.queues_max).await;
                    self.write("feature-max-indirect-segments", 256).await;
                    self.publish(State::InitWait).await;
                    continue;
                }
                BackendAction::Publish(state) => {
                    self.publish(state).await;
                    continue;
                }
                BackendAction::PublishConnected => {
                    self.write("sectors", 2048).await;
                    self.write("feature-flush-cache", 1).await;
                    self.write("feature-persistent", self.manners.persistent.into()).await;
                    self.publish(State::Connected).await;
                    continue;
                }
                BackendAction::ConnectRing => {
                    self.connect().await;
                    BackendEvent::RingConnected(true)
                }
                BackendAction::DisconnectRing => {
                    self.rings.clear();
                    BackendEvent::RingDisconnected
                }
                _ => continue,
            };
            let (next, more) = machine.apply(event);
            machine = next;
            actions.extend(more);
        }
        machine
    }

    async fn connect(&mut self) {
        let abi = Abi::from_protocol(Some(&self.text(&self.frontend, "protocol").await)).unwrap();
        let queues: usize = self.text(&self.frontend, "multi-queue-num-queues").await.parse().unwrap_or(1);
        let order: Option<u32> = self.text(&self.frontend, "ring-page-order").await.parse().ok();
        let mut pages_of_all = Vec::new();
        for index in 0..queues {
            let place = if queues > 1 { format!("queue-{index}/") } else { String::new() };
            let names: Vec<String> = match order {
                Some(order) => (0..1 << order).map(|page| format!("{place}ring-ref{page}")).collect(),
                None => vec![format!("{place}ring-ref")],
            };
            let mut pages = Vec::new();
            for name in names {
                pages.push(GrantRef(self.text(&self.frontend, &name).await.parse().unwrap()));
            }
            let port = Port(self.text(&self.frontend, &format!("{place}event-channel")).await.parse().unwrap());
            let memory = self.grants.map(DOMAIN, &pages, Access::Write).unwrap();
            let channel = self.channels.bind(&self.executor, DOMAIN, port).unwrap();
            let slots = abi.slots(pages.len().trailing_zeros()).unwrap();
            pages_of_all.push(pages.len());
            let (seen, answers) = (self.seen.clone(), self.manners.answers);
            self.rings.push(self.executor.spawn(serve(memory, channel, abi, slots, seen, answers)));
        }
        self.seen.abi.set(Some(abi));
        self.seen.connections.borrow_mut().push(pages_of_all);
    }

    async fn publish(&self, state: State) {
        self.seen.states.borrow_mut().push(state);
        self.write("state", state.number().into()).await;
    }

    async fn write(&self, name: &str, value: u32) {
        self.store.write(&self.directory.join(name).unwrap(), value.to_string().as_bytes()).await.unwrap();
    }

    async fn state(&self, directory: &Path) -> State {
        self.text(directory, "state").await.parse().unwrap_or(State::Unknown)
    }

    async fn text(&self, directory: &Path, name: &str) -> String {
        let value = self.store.read(&directory.join(name).unwrap()).await.unwrap();
        String::from_utf8(value.unwrap_or_default()).unwrap()
    }
}

/// Says of every request that it went well.
async fn serve(memory: Mapping, channel: Box<dyn EventChannel>, abi: Abi, slots: u32, seen: Rc<Seen>, answers: bool) {
    let mut taken = memory.word(8).load(Ordering::SeqCst);
    loop {
        channel.wait().await.unwrap();
        channel.unmask();
        loop {
            let produced = memory.word(0).load(Ordering::Acquire);
            while taken != produced {
                let mut bytes = [0; SLOT_BYTES_MAX];
                let at = abi.slot_offset(taken, slots);
                memory.copy_out(at, &mut bytes[..abi.slot_bytes()]);
                let request = RawRequest::new(abi, bytes);
                taken = taken.wrapping_add(1);
                seen.requests.set(seen.requests.get() + 1);
                if answers {
                    let response = Response { id: request.id(), operation: request.operation(), status: Status::Okay };
                    let (bytes, length) = response.encode(abi);
                    memory.copy_in(at, &bytes[..length]);
                    memory.word(8).store(taken, Ordering::Release);
                    channel.notify();
                }
            }
            memory.word(4).store(taken.wrapping_add(1), Ordering::Relaxed);
            fence(Ordering::SeqCst);
            if memory.word(0).load(Ordering::Acquire) == taken {
                break;
            }
        }
    }
}
