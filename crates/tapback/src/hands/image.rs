//! The image behind a device: opened when scripts have done their work, closed when it is not needed any more.

use std::rc::{Rc, Weak};

use block_core::Result;
use xenbus::{BackendEvent as Event, Ring, agent::Event as AgentEvent};

use super::{Hands, JobEnd, insist};
use crate::{
    Disk, ImageNodes,
    directory::{Change, StateChange},
    look::Seen,
};

/// The image behind a device.
pub(super) enum Image {
    /// None that could be opened.
    None,
    Opening {
        nodes: ImageNodes,
        token: Rc<()>,
    },
    Open {
        nodes: ImageNodes,
        disk: Disk,
    },
    /// It could not be opened; it is tried again when the nodes say something else.
    Failed {
        nodes: ImageNodes,
    },
    /// The process that had it has gone.
    Lost {
        nodes: ImageNodes,
    },
    /// That happened to a ring, and another process is asked to serve it.
    TakingUp {
        nodes: ImageNodes,
    },
    /// The device has ended, and does not need it before it begins anew.
    Released,
}

impl Hands {
    pub(super) fn disk(&self) -> Option<Disk> {
        match &self.image {
            Image::Open { disk, .. } => Some(*disk),
            _ => None,
        }
    }

    /// Brings the image closer to what the nodes say. One that a ring uses stays until there is no ring.
    pub(super) async fn update_image(&mut self) {
        let is_ready = self.image_nodes.are_ready();
        let stays = match &self.image {
            Image::Released | Image::TakingUp { .. } => true,
            Image::None => !is_ready,
            Image::Open { .. } if self.machine.ring() != Ring::None => true,
            Image::Lost { .. } if self.machine.ring() != Ring::None && !self.has_lost_ring() => true,
            Image::Open { nodes, .. }
            | Image::Opening { nodes, .. }
            | Image::Failed { nodes }
            | Image::Lost { nodes } => nodes.mean_the_same(&self.image_nodes) && (is_ready || self.has_lost_ring()),
        };
        if stays {
            return;
        }
        if self.has_lost_ring() {
            if is_ready {
                // It revives the channel; a ring that waits is taken up with it.
                self.tell_agent(AgentEvent::Start).await;
            }
            return;
        }
        self.tell_agent(AgentEvent::Stop).await;
        self.release_image();
        if is_ready {
            self.tell_agent(AgentEvent::Start).await;
        }
    }

    /// Takes over the image of a device that somebody has served before us.
    pub(super) async fn adopt_image(&mut self, seen: &Seen) {
        // It is launched here and now.
        self.agent = self.agent.apply(AgentEvent::Start).0;
        let adopted = self.host.opener.adopt(&self.name, seen.image.clone()).await;
        let is_known = adopted.is_ok();
        if let Ok(disk) = adopted {
            self.hold(seen.image.clone(), disk).await;
            self.ring_disk = Some(disk);
        }
        self.tell_agent(AgentEvent::Pause(seen.rest.is_wanted)).await;
        self.tell_agent(AgentEvent::Launched(is_known)).await;
    }

    pub(super) fn open_image(&mut self) {
        let nodes = self.image_nodes.clone();
        let token = Rc::new(());
        let wanted = Rc::downgrade(&token);
        self.image = Image::Opening { nodes: nodes.clone(), token };
        let (host, name, shared) = (self.host.clone(), self.name.clone(), self.shared.clone());
        // It goes on when nobody wants the image any more, since it may have opened it already.
        let opening = async move {
            let opened = host.opener.open(&name, nodes).await;
            match opened {
                opened if wanted.strong_count() == 0 => {
                    if let Ok(disk) = opened {
                        host.opener.close(&name, disk);
                    }
                    shared.end(JobEnd::OpenedTooLate);
                }
                opened => shared.end(JobEnd::Opened(wanted, opened)),
            }
        };
        self.host.executor.spawn(opening).detach();
    }

    pub(super) async fn note_opened(&mut self, token: &Weak<()>, opened: Result<Disk>) {
        let nodes = match &self.image {
            Image::Opening { nodes, token: wanted } if std::ptr::eq(Rc::as_ptr(wanted), token.as_ptr()) => {
                nodes.clone()
            }
            _ => {
                // Others are meant by now.
                if let Ok(disk) = opened {
                    self.host.opener.close(&self.name, disk);
                }
                self.tell_agent(AgentEvent::Launched(false)).await;
                return;
            }
        };
        match opened {
            Ok(disk) => {
                self.hold(nodes, disk).await;
                self.tell_agent(AgentEvent::Launched(true)).await;
            }
            Err(error) => {
                self.image = Image::Failed { nodes };
                self.trouble = Some(error);
                self.report_trouble().await;
                self.tell_agent(AgentEvent::Launched(false)).await;
            }
        }
    }

    pub(super) fn release_image(&mut self) {
        self.process = None;
        self.close_lost_disk();
        if let Image::Open { disk, .. } = std::mem::replace(&mut self.image, Image::None) {
            self.host.opener.close(&self.name, disk);
            self.events.push_back(Event::Image(false));
        }
    }

    /// Keeps a disk that was opened by what these nodes say. Where no script has written which one it is, we do.
    pub(super) async fn hold(&mut self, nodes: ImageNodes, disk: Disk) {
        let named = self.host.opener.nodes(disk);
        let nodes = nodes.with(&named);
        self.image = Image::Open { nodes, disk };
        self.watch_process(disk);
        if named.is_empty() {
            return;
        }
        let change = Change { nodes: &named, removed: &[], state: StateChange::Keep };
        if !insist(&self.host, &self.name, async || self.directory.write(&change).await).await {
            self.shared.nudge();
        }
    }
}
