//! A disk whose tapdisk has gone: told at once; given up, or taken up again where another tapdisk has it.
//!
//! ```text
//!   Open --its process ends--> Lost --fail, or nobody could help--> answered with errors --> the ring is broken, the image
//!                               |  ^                                                        is no more
//!      the nodes name another   |  | nothing can be done with that one
//!                               v  |
//!                            TakingUp --what was not answered is done again--> Open
//! ```

use std::rc::Rc;

use block_core::Result;
use control_api::native::{ConnectRing, RingConnected};
use rustix::io::Errno;
use xenbus::{
    BackendEvent as Event, Ring, State,
    agent::{Event as AgentEvent, vbd::Vbd},
};

use super::{Hands, JobEnd, image::Image, insist, let_go};
use crate::{
    Casualty, Disk, Exit, Guest, ImageNodes, OnDeath, Reports, Rescued, TurnBack,
    directory::{Change, StateChange},
    nodes::refusal,
    offer::properties,
    ring::read_rings,
    supervision::CLOSING_MAX,
};

impl Hands {
    /// From now on the end of a disk's process is told.
    pub(super) fn watch_process(&mut self, disk: Disk) {
        let (host, shared) = (self.host.clone(), self.shared.clone());
        self.process = Some(self.host.executor.spawn(async move {
            let exit = host.worker.exit(disk).await;
            shared.end(JobEnd::Exited(disk, exit));
        }));
    }

    pub(super) async fn note_exit(&mut self, gone: Disk, exit: &Exit) {
        let nodes = match &self.image {
            Image::Open { nodes, disk } if *disk == gone => nodes.clone(),
            _ => return,
        };
        self.image = Image::Lost { nodes: nodes.clone() };
        self.lost_disk = Some(gone);
        // It says the same, later, and knows of nobody who helps.
        self.follow = None;
        self.reports = Reports::new(&self.shared.came);
        self.rest_job = None;
        self.is_closing_disk = false;
        self.trouble = Some(refusal(Errno::NODEV, exit.to_string()));
        self.tell_agent(AgentEvent::Died).await;
        let host = self.host.clone();
        let is_told = matches!(host.on_death, OnDeath::Fail) && self.has_lost_ring();
        if !is_told {
            // Of a ring that is given up it is told with its end.
            self.report_trouble().await;
        }
        match &host.on_death {
            OnDeath::Fail => self.give_up(Image::Lost { nodes }),
            OnDeath::Help(rescue) => {
                if self.machine.ring() != Ring::Connected {
                    self.events.push_back(Event::Image(false));
                }
                let directory = self.name.directory(host.domain).as_str().to_owned();
                let helping = rescue.help(Casualty { device: self.name.clone(), directory, disk: gone });
                let shared = self.shared.clone();
                self.help = Some(host.executor.spawn(async move { shared.end(JobEnd::Helped(helping.await)) }));
            }
        }
    }

    /// The guest gets errors for what it has asked, and is told then: its kernel ends nothing by itself.
    fn give_up(&mut self, then: Image) {
        if !self.has_lost_ring() {
            self.image = then;
            return self.tell_the_guest();
        }
        self.giving_up = Some(then);
        let (name, shared, failing) =
            (self.name.clone(), self.shared.clone(), self.host.worker.fail(self.name.clone()));
        let host = self.host.clone();
        self.help = Some(self.host.executor.spawn(async move {
            match failing.await {
                Ok(count) => host.log.note(&name, &format!("{count} requests are answered with errors")),
                Err(error) => host.log.note(&name, &format!("its guest cannot be answered: {error}")),
            }
            shared.end(JobEnd::Answered);
        }));
    }

    pub(super) fn note_answered(&mut self) {
        if let Some(then) = self.giving_up.take().filter(|_| matches!(self.image, Image::Lost { .. })) {
            self.image = then;
            self.tell_the_guest();
        }
    }

    /// One that does not close its disk has that done for it, so that it does not wait for ever.
    fn tell_the_guest(&mut self) {
        self.close_lost_disk();
        self.events.extend([Event::RingBroken, Event::Image(false)]);
        let (executor, shared) = (self.host.executor.clone(), self.shared.clone());
        self.overdue = Some(self.host.executor.spawn(async move {
            executor.sleep(CLOSING_MAX).await;
            shared.end(JobEnd::Overdue);
        }));
    }

    pub(super) async fn note_helped(&mut self, helped: Result<Rescued>) {
        let Image::Lost { nodes } = &self.image else { return };
        let nodes = nodes.clone();
        match helped {
            Ok(Rescued::Waiting) => self.note("somebody takes care of it; its nodes shall name another disk"),
            Ok(Rescued::Disk { disk, socket }) => {
                self.note(&format!("tapdisk {} has the disk now", disk.pid));
                let nodes = [
                    ("pid", disk.pid.to_string()),
                    ("minor", disk.minor.to_string()),
                    ("physical-device-path", socket.display().to_string()),
                ];
                let change = Change { nodes: &nodes, removed: &[], state: StateChange::Keep };
                insist(&self.host, &self.name, async || self.directory.write(&change).await).await;
                self.shared.nudge();
            }
            Err(error) => {
                self.trouble = Some(error);
                if !self.has_lost_ring() {
                    self.report_trouble().await;
                }
                self.give_up(Image::Lost { nodes });
            }
        }
    }

    /// The nodes name another disk than the one that has gone, and there is a ring that nobody serves.
    pub(super) fn take_up(&mut self) {
        let nodes = self.image_nodes.clone();
        self.image = Image::TakingUp { nodes: nodes.clone() };
        let (host, name, shared) = (self.host.clone(), self.name.clone(), self.shared.clone());
        let frontend = self.directory.frontend().clone();
        let is_at_rest = matches!(self.agent.vbd(), Vbd::Pausing | Vbd::Paused);
        let taking = async move {
            let disk = host.opener.open(&name, nodes.clone()).await?;
            let taken = async {
                if is_at_rest {
                    // A pause outlives the process that was paused, and nobody is served before.
                    host.worker.pause(disk, Rc::<TurnBack>::default()).await?;
                }
                let ring = read_rings(&host.store, &name, &frontend, &nodes.offer(&host.offer)).await?;
                let (read_only, no_discard) = (nodes.are_read_only(), !nodes.may_discard());
                let ring = ConnectRing { minor: disk.minor, read_only, no_discard, adopt: true, ..ring };
                let ring = ConnectRing { exclusive: nodes.are_for_one(), ..ring };
                host.worker.connect(disk, ring).await
            };
            match taken.await {
                Ok(connected) => Ok((disk, connected)),
                Err(error) => {
                    // An answer may have been lost.
                    let_go(&host, &name, disk, Guest::Waits).await;
                    host.opener.close(&name, disk);
                    Err(error)
                }
            }
        };
        self.job = Some(self.host.executor.spawn(async move { shared.end(JobEnd::TakenUp(taking.await)) }));
    }

    pub(super) async fn note_taken_up(&mut self, taken: Result<(Disk, RingConnected)>) {
        if !self.is_taking_up() {
            return;
        }
        let Image::TakingUp { nodes } = std::mem::replace(&mut self.image, Image::None) else { return };
        let is_wanted = self.machine.ring() == Ring::Connected;
        match taken {
            Ok((disk, ring)) => {
                self.close_lost_disk();
                self.hold(nodes.clone(), disk).await;
                self.ring_disk = Some(disk);
                match is_wanted {
                    true => self.go_on(&nodes, disk, ring).await,
                    false => self.disconnect_ring(),
                }
                self.tell_agent(AgentEvent::Launched(true)).await;
            }
            Err(error) => {
                // Without the ring there may well be a disk: it is opened anew when the nodes are looked at.
                self.trouble = Some(error);
                match is_wanted {
                    true => {
                        self.image = Image::Lost { nodes };
                        self.give_up(Image::None);
                    }
                    false => self.events.extend([Event::Image(false), Event::RingDisconnected]),
                }
                self.tell_agent(AgentEvent::Launched(false)).await;
            }
        }
        // There may be others to be seen by now.
        self.shared.nudge();
    }

    /// Another tapdisk serves the ring; its guest has seen nothing of it.
    async fn go_on(&mut self, image: &ImageNodes, disk: Disk, ring: RingConnected) {
        self.note(&format!("tapdisk {} serves its ring now", disk.pid));
        let (nodes, _) = properties(&ring, image, disk.pid);
        let is_resized = self.ring.as_ref().is_some_and(|before| before.geometry != ring.geometry);
        self.ring = Some(ring);
        self.served.set(Some(disk));
        self.follow();
        self.trouble = None;
        self.amend(&nodes, if is_resized { StateChange::Again } else { StateChange::Keep }).await;
        insist(&self.host, &self.name, async || self.directory.clear_report().await).await;
    }

    /// The device needs the disk of the process that has gone no more. Before that its number is not free.
    pub(super) fn close_lost_disk(&mut self) {
        if let Some(disk) = self.lost_disk.take() {
            self.host.opener.close(&self.name, disk);
        }
    }

    /// Whether another tapdisk is being asked to serve the ring: what comes of that is waited for before it is let go of.
    pub(super) fn is_taking_up(&self) -> bool {
        matches!(self.image, Image::TakingUp { .. })
    }

    /// Whether there is a ring whose disk has gone, and that somebody may still take up.
    pub(super) fn has_lost_ring(&self) -> bool {
        let is_served = self.machine.ring() == Ring::Connected && self.directory.shown() == State::Connected;
        matches!(self.image, Image::Lost { .. }) && is_served && self.giving_up.is_none()
    }
}
