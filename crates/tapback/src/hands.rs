//! The hands of a machine: what it decides is done, what comes of that and what is seen becomes its events.

mod agent;
mod done;
mod image;
mod loss;

use std::{
    cell::Cell,
    collections::VecDeque,
    pin::pin,
    rc::{Rc, Weak},
    time::Duration,
};

use block_core::{Error, Result};
use control_api::{
    errno,
    native::{ConnectRing, RingConnected, RingEvent, RingOperation},
    reason,
};
use futures_util::future::{Either, select};
use rustix::io::Errno;
use storage_io::Task;
use xen::store::Watch;
use xenbus::{
    Backend, BackendAction as Action, BackendEvent as Event, Ring, State,
    agent::{Agent, Event as AgentEvent, vbd::Vbd},
};

use agent::RestJob;
use done::DONE;
use image::Image;

use crate::{
    DeviceName, Disk, Exit, Guest, Host, ImageNodes, LetGo, Reports, Rescued,
    agent::{RestEnd, RestNodes},
    device::{REFUSED_PAUSE, Shared},
    directory::{Change, Directory, StateChange},
    look::{Look, Seen, frontend_state, look, state_node},
    nodes::refusal,
    offer::{Node, properties, size, withdrawn},
    pace::Pace,
    presence::Presence,
    refused::Refused,
    reports::Report,
    ring::read_rings,
    signs,
};

/// Between two attempts to make a tapdisk let go, at first.
const LET_GO_PAUSE_MIN: Duration = Duration::from_millis(10);
/// And at most.
const LET_GO_PAUSE_MAX: Duration = Duration::from_secs(10);

/// What was begun and has ended.
pub(crate) enum JobEnd {
    /// Opening an image; the token says whether anybody still wants it.
    Opened(Weak<()>, Result<Disk>),
    /// Opening an image that nobody wanted any more.
    OpenedTooLate,
    /// Bringing a disk to rest or back; the token says whether anybody still wants it.
    Rest(Weak<()>, RestEnd),
    Connected(Result<RingConnected>),
    Disconnected(LetGo),
    /// A ring that somebody else has let go of.
    LetGo(LetGo),
    /// The process of a disk has gone.
    Exited(Disk, Exit),
    /// Somebody was asked to help.
    Helped(Result<Rescued>),
    /// What was asked of a tapdisk that has gone is answered with errors, if anybody could do that.
    Answered,
    /// Another tapdisk was asked to serve the ring.
    TakenUp(Result<(Disk, RingConnected)>),
    /// The frontend has had the time to close.
    Overdue,
}

enum Told {
    End(JobEnd),
    Report(Report),
    Look,
}

pub(crate) struct Hands {
    host: Rc<Host>,
    name: DeviceName,
    shared: Rc<Shared>,
    directory: Directory,
    machine: Backend,
    /// What the machine has not been told yet.
    events: VecDeque<Event>,
    /// The directory was found gone.
    is_gone: bool,
    /// What was seen of the directory that has taken the place of ours.
    replacement: Option<Box<Seen>>,
    watch: Watch,
    refused: Refused,
    frontend_changed: bool,
    presence: Presence,
    /// Whether it waits for what it has asked.
    guest: Guest,
    pace: Pace,
    agent: Agent,
    /// What the agent has not been told yet.
    agent_events: VecDeque<AgentEvent>,
    rest_job: Option<RestJob>,
    /// What was told last is that a disk is not brought to rest, or not back.
    is_rest_refused: bool,
    /// The disk is let go of as soon as there is no ring.
    is_closing_disk: bool,
    image: Image,
    /// What the nodes say now.
    image_nodes: ImageNodes,
    rest_nodes: RestNodes,
    /// `params` when the disk came to rest.
    params_at_rest: Option<String>,
    /// Where rings are or were connected last.
    ring_disk: Option<Disk>,
    ring: Option<RingConnected>,
    reports: Rc<Reports>,
    follow: Option<Task<()>>,
    job: Option<Task<()>>,
    /// The disk to which a ring is connected now.
    served: Rc<Cell<Option<Disk>>>,
    _signs: Task<()>,
    /// Nothing more will be written for the guest, and what was written is durable.
    is_done: bool,
    /// Tells when the process of the disk has gone.
    process: Option<Task<()>>,
    help: Option<Task<()>>,
    /// The disk of a process that has gone, until it is given up.
    lost_disk: Option<Disk>,
    /// A guest whose disk has gone is being answered with errors; what is to be of the image when it is told.
    giving_up: Option<Image>,
    overdue: Option<Task<()>>,
    trouble: Option<Error>,
    looks: u64,
}

impl Hands {
    /// Takes a device up as it is found, by a look before which the connection had been lost so often.
    pub(crate) async fn begin(
        host: &Rc<Host>,
        name: &DeviceName,
        shared: &Rc<Shared>,
        seen: Seen,
        losses: u64,
    ) -> Hands {
        let served = Rc::<Cell<Option<Disk>>>::default();
        let mut hands = Hands {
            host: host.clone(),
            name: name.clone(),
            shared: shared.clone(),
            directory: directory(host, name, &seen),
            machine: Backend::new().0,
            events: VecDeque::new(),
            is_gone: false,
            replacement: None,
            watch: host.store.watch(&state_node(&seen.frontend)),
            refused: Refused::default(),
            frontend_changed: false,
            presence: Presence::new(losses),
            guest: Guest::Waits,
            pace: Pace::new(host.executor.now()),
            agent: Agent::new(seen.rest.is_told),
            agent_events: VecDeque::new(),
            rest_job: None,
            is_rest_refused: false,
            is_closing_disk: false,
            image: Image::None,
            image_nodes: ImageNodes::default(),
            rest_nodes: seen.rest,
            params_at_rest: seen.image.params.clone(),
            ring_disk: None,
            ring: None,
            reports: Reports::new(&shared.came),
            follow: None,
            job: None,
            served: served.clone(),
            _signs: host.executor.spawn(signs::attend(host.clone(), name.clone(), served)),
            is_done: true,
            process: None,
            help: None,
            lost_disk: None,
            giving_up: None,
            overdue: None,
            trouble: None,
            looks: 0,
        };
        let (machine, actions) = hands.machine_for(&seen).await;
        hands.machine = machine;
        hands.note_seen(seen).await;
        hands.carry_out_all(actions).await;
        hands.settle().await;
        hands
    }

    /// The machine for a device in this state. One that shows more than a toolstack writes was served by somebody before
    /// us, and a tapdisk may still serve its rings. To connect them again tells: it is nothing new to the tapdisk then.
    async fn machine_for(&mut self, seen: &Seen) -> (Backend, Vec<Action>) {
        let is_known = matches!(seen.own, State::InitWait | State::Connected | State::Closing | State::Closed);
        if !is_known {
            return Backend::new();
        }
        if seen.own == State::Closed {
            // It had no ring any more, and needs no image before it begins anew.
            self.image = Image::Released;
            self.tell_agent(AgentEvent::Stop).await;
        } else if seen.image.are_ready() {
            self.adopt_image(seen).await;
        }
        let frontend = frontend_state(&self.host.store, &seen.frontend).await.unwrap_or(State::Unknown);
        let is_served = frontend.has_ring() && matches!(seen.own, State::InitWait | State::Connected);
        if let Some(disk) = self.ring_disk.filter(|_| seen.own == State::InitWait && !is_served) {
            // A ring that its frontend was never told of.
            let_go(&self.host, &self.name, disk, Guest::MayHaveGone).await;
        }
        let may_have_ring =
            self.ring_disk.is_some() && matches!(seen.own, State::Connected | State::Closing) && !is_served;
        self.is_done = !may_have_ring;
        let own = if is_served { State::InitWait } else { seen.own };
        // A disk that shall be at rest is that before it is given to anybody who does not have it yet.
        let has_image = may_have_ring || self.agent.is_served();
        Backend::adopted(own, frontend, may_have_ring, has_image, seen.online)
    }

    /// Serves it to its end.
    pub(crate) async fn live(mut self) {
        while !self.machine.is_forgotten() {
            match self.wait().await {
                Told::End(end) => self.note_end(end).await,
                Told::Report(report) => self.note_report(report).await,
                Told::Look => self.look().await,
            }
            self.settle().await;
        }
        self.release_image();
        // What was opened too late is not needed.
        let ends = self.shared.ends.take();
        for end in ends {
            if let JobEnd::Opened(_, Ok(disk)) = end {
                self.host.opener.close(&self.name, disk);
            }
        }
        insist(&self.host, &self.name, async || self.directory.clear_report().await).await;
    }

    /// What comes first: what has ended before what was reported before what is to be seen.
    async fn wait(&mut self) -> Told {
        let shared = self.shared.clone();
        loop {
            let end = shared.ends.borrow_mut().pop_front();
            if let Some(end) = end {
                return Told::End(end);
            }
            if let Some(report) = self.reports.take() {
                return Told::Report(report);
            }
            let executor = &self.host.executor;
            let due = match self.frontend_changed || shared.is_nudged.get() {
                false => None,
                true => match self.pace.take(executor.now()) {
                    Ok(()) => return Told::Look,
                    Err(due) => Some(due),
                },
            };
            let has_told = || !shared.ends.borrow().is_empty() || !self.reports.is_empty();
            let told = pin!(shared.came.until(|| has_told() || (due.is_none() && shared.is_nudged.get())));
            let end_of_grace = self.presence.end_of_grace(self.host.offer.grace);
            let seen = pin!(async {
                let changed = pin!(self.watch.next());
                match (due, end_of_grace) {
                    (Some(due), _) => executor.sleep_until(due).await,
                    (None, Some(end)) => drop(select(changed, pin!(executor.sleep_until(end))).await),
                    (None, None) => drop(changed.await),
                }
            });
            let changed = matches!(select(told, seen).await, Either::Right(_)) && due.is_none();
            self.frontend_changed |= changed;
        }
    }

    /// Tells the machine of everything that has happened, and does what it wants, until there is nothing left to do.
    async fn settle(&mut self) {
        while let Some(event) = self.events.pop_front() {
            let (machine, actions) = self.machine.apply(event);
            self.machine = machine;
            self.carry_out_all(actions).await;
            if self.is_closing_disk && self.machine.ring() == Ring::None {
                self.close_disk();
                self.tell_agent_the_rest().await;
            }
        }
        let disk = self.disk();
        let trouble = self.trouble.as_ref().map(Error::to_string);
        let Hands { machine, looks, .. } = self;
        let (own, frontend, ring) = (machine.own(), machine.frontend(), machine.ring());
        let vbd = self.agent.vbd();
        let summary = crate::Summary { own, frontend, ring, vbd, disk, trouble, looks: *looks };
        self.shared.summary.replace(summary);
    }

    async fn look(&mut self) {
        self.looks += 1;
        self.frontend_changed = false;
        // However often it was written, it is read once.
        drop(self.watch.take());
        if let Some(words) = self.refused.news(&self.watch) {
            self.note(&words);
        }
        let is_nudged = self.shared.is_nudged.replace(false);
        if let Err(error) = self.try_look(is_nudged).await {
            self.note(&format!("cannot look at it: {error}"));
            self.host.executor.sleep(REFUSED_PAUSE).await;
            self.shared.nudge();
        }
    }

    async fn try_look(&mut self, is_nudged: bool) -> Result<()> {
        let losses = self.host.store.losses();
        let frontend = frontend_state(&self.host.store, self.directory.frontend()).await?;
        // A frontend that has gone may have gone with the whole store.
        if is_nudged || frontend == State::Unknown || self.presence.is_missing() {
            match look(&self.host, &self.name).await? {
                Look::Lost => {
                    self.presence.lose();
                    return Ok(());
                }
                Look::Gone if self.is_gone => {}
                Look::Gone if self.may_come_back() => return Ok(()),
                Look::There(seen) if self.is_half_there(&seen, frontend) && self.may_come_back() => return Ok(()),
                Look::Gone => {
                    self.is_gone = true;
                    self.replacement = None;
                    self.events.push_back(Event::Removed);
                    self.tell_agent(AgentEvent::Removed).await;
                }
                Look::There(seen) => {
                    if self.presence.is_missing() {
                        self.note("its directory is there again");
                    }
                    self.presence = Presence::new(losses);
                    self.note_seen(*seen).await;
                }
            }
        }
        self.note_frontend(frontend);
        // What is seen of the frontend of a new directory counts when that directory is taken up.
        if self.replacement.is_none() {
            self.events.push_back(Event::Frontend(frontend));
        }
        Ok(())
    }

    /// Nobody ends a device like this; but somebody who restores a store may have come so far.
    fn is_half_there(&self, seen: &Seen, frontend: State) -> bool {
        frontend == State::Unknown && seen.online && seen.own == self.directory.shown()
    }

    /// Whether what is missing may have gone with the store, and not by anybody's wish.
    fn may_come_back(&mut self) -> bool {
        let was_missing = self.presence.is_missing();
        let may = self.presence.miss(self.host.store.losses(), self.host.executor.now(), self.host.offer.grace);
        if may && !was_missing {
            self.note("its directory has gone with the store; its guest is served until it comes back");
        }
        if was_missing && !may {
            self.note("its directory has not come back");
        }
        may
    }

    async fn note_seen(&mut self, seen: Seen) {
        let begins_anew = seen.own == State::Initialising && self.directory.shown() != State::Initialising;
        let is_other = begins_anew || seen.frontend != *self.directory.frontend();
        if self.is_gone || is_other {
            if self.is_gone || self.replacement.is_none() {
                self.events.push_back(Event::Recycled);
            }
            self.is_gone = false;
            self.rest_nodes = seen.rest;
            self.replacement = Some(Box::new(seen));
            self.tell_agent(AgentEvent::Recycled).await;
            return;
        }
        self.events.push_back(Event::Online(seen.online));
        if seen.own == State::Closing && self.directory.shown() != State::Closing {
            self.note_closing().await;
        }
        let is_mended = self.agent.vbd() == Vbd::Broken && seen.image != self.image_nodes;
        (self.image_nodes, self.rest_nodes) = (seen.image, seen.rest);
        self.update_image().await;
        if is_mended {
            self.tell_agent(AgentEvent::Start).await;
        }
        self.tell_agent(AgentEvent::Pause(self.rest_nodes.is_wanted)).await;
    }

    /// The toolstack has put `Closing` into our state.
    async fn note_closing(&mut self) {
        let was_closed = self.directory.shown() == State::Closed;
        self.directory.note_shown(State::Closing);
        if was_closed {
            // We had closed before it wrote, which it waits for.
            self.publish(&[], &[], State::Closed).await;
        } else {
            self.events.push_back(Event::OwnState(State::Closing));
        }
    }

    async fn note_end(&mut self, end: JobEnd) {
        match end {
            JobEnd::Opened(token, opened) => self.note_opened(&token, opened).await,
            JobEnd::OpenedTooLate => self.tell_agent(AgentEvent::Launched(false)).await,
            JobEnd::Rest(token, end) => self.note_rest(&token, end).await,
            JobEnd::Connected(Ok(mut ring)) => {
                ring.offer.barrier &= self.host.offer.barrier;
                self.ring = Some(ring);
                self.served.set(self.ring_disk);
                self.follow();
                self.events.push_back(Event::RingConnected(true));
            }
            JobEnd::Connected(Err(error)) => self.note_unconnected(error),
            JobEnd::LetGo(ended) => self.note_let_go(ended).await,
            JobEnd::Disconnected(ended) => {
                self.note_let_go(ended).await;
                self.ring = None;
                self.events.push_back(Event::RingDisconnected);
                // An image that has changed meanwhile may be changed now.
                self.shared.nudge();
            }
            JobEnd::Exited(disk, exit) => self.note_exit(disk, &exit).await,
            JobEnd::Helped(helped) => self.note_helped(helped).await,
            JobEnd::Answered => self.note_answered(),
            JobEnd::TakenUp(taken) => self.note_taken_up(taken).await,
            JobEnd::Overdue => self.events.push_back(Event::Overdue),
        }
    }

    fn note_unconnected(&mut self, error: Error) {
        self.trouble = Some(error);
        self.events.push_back(Event::RingConnected(false));
        // An image that has changed meanwhile may be changed now.
        self.shared.nudge();
    }

    async fn note_report(&mut self, report: Report) {
        match report {
            Report::Event(RingEvent::Resized { geometry }) => {
                let Some(ring) = self.ring.as_mut().filter(|ring| ring.geometry != geometry) else { return };
                ring.geometry = geometry;
                self.note(&format!("it has {} sectors now", geometry.bytes / 512));
                self.amend(&size(&geometry), StateChange::Again).await;
            }
            Report::Event(RingEvent::Unsupported { operation }) => {
                let Some(ring) = self.ring.as_mut() else { return };
                match operation {
                    RingOperation::Flush => ring.offer.flush = false,
                    RingOperation::Barrier => ring.offer.barrier = false,
                    RingOperation::Discard => ring.offer.discard = false,
                }
                self.note(&format!("{operation:?} turned out not to be possible"));
                self.amend(&[withdrawn(operation)], StateChange::Keep).await;
            }
            Report::Event(RingEvent::Broken { reason }) => {
                self.trouble = Some(refusal(Errno::INVAL, reason));
                self.events.push_back(Event::RingBroken);
            }
            Report::Ended => {
                self.trouble = Some(refusal(Errno::NODEV, "the tapdisk has gone, or has let go of the ring"));
                self.events.push_back(Event::RingBroken);
                self.ask_whether_done();
            }
        }
    }

    async fn carry_out_all(&mut self, actions: Vec<Action>) {
        for action in actions {
            self.carry_out(action).await;
        }
    }

    async fn carry_out(&mut self, action: Action) {
        match action {
            Action::Offer => self.offer().await,
            Action::Publish(state) => {
                self.note(&format!("{state}"));
                self.publish(&[], &[], state).await;
            }
            Action::ConnectRing => self.connect_ring().await,
            Action::PublishConnected => self.publish_connected().await,
            Action::DisconnectRing => self.disconnect_ring(),
            Action::ReportBadRing => self.report_trouble().await,
            Action::Finish => {
                self.tell_agent(AgentEvent::Stop).await;
                self.release_image();
                self.image = Image::Released;
                self.events.push_back(Event::Image(false));
            }
            Action::Forget => self.note("forgotten"),
        }
    }

    async fn offer(&mut self) {
        if let Some(seen) = self.replacement.take() {
            self.note("its directory was replaced");
            self.watch = self.host.store.watch(&state_node(&seen.frontend));
            self.directory = directory(&self.host, &self.name, &seen);
            self.close_disk();
            self.release_image();
            self.tell_agent_the_rest().await;
        }
        if matches!(self.image, Image::Released) {
            self.image = Image::None;
        }
        self.overdue = None;
        self.note("offered");
        let nodes = self.host.offer.nodes();
        self.publish(&nodes, &[DONE], State::InitWait).await;
        // There is more to be seen than what the machine has been told since.
        self.shared.nudge();
    }

    async fn connect_ring(&mut self) {
        let Hands { host, name, directory, .. } = &*self;
        let offer = self.image_nodes.offer(&host.offer);
        let read = read_rings(&host.store, name, directory.frontend(), &offer).await;
        let (ring, disk) = match (read, self.disk()) {
            (Ok(ring), Some(disk)) => (ring, disk),
            (Ok(_), None) => return self.note_unconnected(refusal(Errno::NODEV, "its image is not open")),
            // What somebody has connected before us is connected still, whatever the nodes say by now.
            (Err(error), Some(disk)) if self.directory.shown() == State::Connected => {
                return self.let_go_of_old_ring(disk, error);
            }
            (Err(error), _) => return self.note_unconnected(error),
        };
        // While `Connected` is shown the guest asks, and has been answered: only the ring that was served all the time will do.
        let adopt = self.directory.shown() == State::Connected;
        let (read_only, no_discard) = (self.image_nodes.are_read_only(), !self.image_nodes.may_discard());
        let exclusive = self.image_nodes.are_for_one();
        let ring = ConnectRing { minor: disk.minor, read_only, no_discard, adopt, exclusive, ..ring };
        self.ring_disk = Some(disk);
        self.is_done = false;
        let (host, name, shared) = (self.host.clone(), self.name.clone(), self.shared.clone());
        self.job = Some(self.host.executor.spawn(async move {
            let connected = connect(&host, &name, disk, ring).await;
            if connected.is_err() {
                // An answer may have been lost.
                shared.end(JobEnd::LetGo(let_go(&host, &name, disk, Guest::Waits).await));
            }
            shared.end(JobEnd::Connected(connected));
        }));
    }

    fn let_go_of_old_ring(&mut self, disk: Disk, error: Error) {
        let (host, name, shared) = (self.host.clone(), self.name.clone(), self.shared.clone());
        self.job = Some(self.host.executor.spawn(async move {
            shared.end(JobEnd::LetGo(let_go(&host, &name, disk, Guest::MayHaveGone).await));
            shared.end(JobEnd::Connected(Err(error)));
        }));
    }

    async fn publish_connected(&mut self) {
        let (ring, disk) = (self.ring.clone(), self.ring_disk);
        let (ring, disk) = (ring.expect("a ring is connected"), disk.expect("to a disk"));
        let (mut nodes, removed) = properties(&ring, &self.image_nodes, disk.pid);
        if self.image_nodes.script.is_none() && self.image_nodes.hotplug_status.is_none() {
            // Nobody else will say so.
            nodes.push(("hotplug-status", "connected".to_owned()));
        }
        self.note("connected");
        self.trouble = None;
        // A guest that was connected all the time is told of what has changed while nobody was here to tell it.
        let is_news = self.directory.shown() == State::Connected
            && insist(&self.host, &self.name, async || self.directory.differs(&size(&ring.geometry)).await).await;
        let state = if is_news { StateChange::Again } else { StateChange::To(State::Connected) };
        self.change(&Change { nodes: &nodes, removed: &removed, state }).await;
        insist(&self.host, &self.name, async || self.directory.clear_report().await).await;
    }

    fn disconnect_ring(&mut self) {
        self.follow = None;
        self.served.set(None);
        self.reports = Reports::new(&self.shared.came);
        if self.is_taking_up() {
            // It is let go of when it is known who has it.
            return;
        }
        let Some(disk) = self.ring_disk else {
            self.events.push_back(Event::RingDisconnected);
            return;
        };
        self.note("disconnecting");
        let (host, name, shared) = (self.host.clone(), self.name.clone(), self.shared.clone());
        let guest = self.guest;
        self.job = Some(self.host.executor.spawn(async move {
            let ended = let_go(&host, &name, disk, guest).await;
            shared.end(JobEnd::Disconnected(ended));
        }));
    }

    /// The frontend shows this state. One that has gone while its last requests are waited for must not be touched.
    fn note_frontend(&mut self, frontend: State) {
        let guest = Guest::showing(frontend);
        let goes = std::mem::replace(&mut self.guest, guest) == Guest::Waits && guest == Guest::MayHaveGone;
        let is_drained = goes && self.machine.ring() == Ring::Disconnecting;
        let Some(disk) = self.ring_disk.filter(|_| is_drained) else { return };
        let (host, name) = (self.host.clone(), self.name.clone());
        // Whoever waits for the requests does so already, and tells what becomes of them.
        let cutting = async move { drop(host.worker.disconnect(disk, name, guest).await) };
        self.host.executor.spawn(cutting).detach();
    }

    /// From now on we are told what happens to the ring.
    fn follow(&mut self) {
        let disk = self.ring_disk.expect("a ring is connected to a disk");
        let reports = Reports::new(&self.shared.came);
        self.reports = reports.clone();
        let (host, name) = (self.host.clone(), self.name.clone());
        self.follow = Some(self.host.executor.spawn(async move {
            while let Err(error) = host.worker.watch(disk, name.clone(), reports.clone()).await {
                host.log.note(&name, &format!("its ring cannot be watched at the moment: {error}"));
                host.executor.sleep(REFUSED_PAUSE).await;
            }
            reports.end();
        }));
    }

    async fn report_trouble(&mut self) {
        let Some(trouble) = &self.trouble else { return };
        let (number, words) = (errno(trouble), reason(trouble));
        self.note(&format!("error {number}: {words}"));
        insist(&self.host, &self.name, async || self.directory.report(number, &words).await).await;
    }

    /// Writes nodes and a state at once. If the directory is not what it was, a look will tell what it is.
    async fn publish(&mut self, nodes: &[Node], removed: &[&str], state: State) {
        let done = self.done_with(state);
        let nodes = &[nodes, &done].concat();
        self.change(&Change { nodes, removed, state: StateChange::To(state) }).await;
    }

    /// Changes what was said of a disk that is connected.
    async fn amend(&mut self, nodes: &[Node], state: StateChange) {
        if self.directory.shown() != State::Connected {
            return;
        }
        self.change(&Change { nodes, removed: &[], state }).await;
    }

    async fn change(&mut self, change: &Change<'_>) {
        if !insist(&self.host, &self.name, async || self.directory.write(change).await).await {
            self.shared.nudge();
        }
    }

    fn note(&self, words: &str) {
        self.host.log.note(&self.name, words);
    }
}

fn directory(host: &Host, name: &DeviceName, seen: &Seen) -> Directory {
    let (path, errors) = (name.directory(host.domain), name.error_directory(host.domain));
    Directory::new(&host.store, path, errors, seen.frontend.clone(), seen.own)
}

/// Connects a ring. If others of the device are connected, those are of a frontend that has gone unseen.
async fn connect(host: &Host, name: &DeviceName, disk: Disk, ring: ConnectRing) -> Result<RingConnected> {
    let is_persistent = ring.persistent;
    let mut connected = host.worker.connect(disk, ring.clone()).await;
    if matches!(&connected, Err(error) if error.os_error() == Some(Errno::ALREADY.raw_os_error())) {
        let_go(host, name, disk, Guest::MayHaveGone).await;
        // Nothing was lost: all that was taken is answered, or it was another's.
        connected = host.worker.connect(disk, ConnectRing { adopt: false, ..ring }).await;
    }
    if let Ok(connected) = &mut connected {
        // A guest that hears of it gives up a copy for a page that it leaves granted.
        connected.offer.persistent &= is_persistent;
    }
    connected
}

/// Ends when nothing of a device is connected: before that its guest must not be told that it is closed.
async fn let_go(host: &Host, name: &DeviceName, disk: Disk, guest: Guest) -> LetGo {
    let mut pause = LET_GO_PAUSE_MIN;
    loop {
        match host.worker.disconnect(disk, name.clone(), guest).await {
            Ok(ended) => return ended,
            Err(error) => host.log.note(name, &format!("its ring is not let go of: {error}")),
        }
        host.executor.sleep(pause).await;
        pause = (pause * 2).min(LET_GO_PAUSE_MAX);
    }
}

/// Has XenStore do something; what it refuses is tried again, since everything else depends on it.
async fn insist<T>(host: &Host, name: &DeviceName, body: impl AsyncFn() -> Result<T>) -> T {
    loop {
        match body().await {
            Ok(value) => return value,
            Err(error) => {
                host.log.note(name, &format!("XenStore refuses: {error}"));
                host.executor.sleep(REFUSED_PAUSE).await;
            }
        }
    }
}
