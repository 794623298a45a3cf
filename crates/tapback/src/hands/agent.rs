//! Carrying out what the agent decides: which tapdisk there is, whether its disk is at rest, and who is told.

use std::{
    future::Future,
    rc::{Rc, Weak},
};

use storage_io::Task;
use xenbus::{
    BackendEvent as Event, Ring,
    agent::{Action, Agent, Event as AgentEvent},
};

use super::{Hands, JobEnd, insist};
use crate::{
    Disk, NewImage,
    agent::{RestEnd, TurnBack, bring_back, bring_to_rest},
};

/// What a tapdisk is being asked for. Dropping it leaves the tapdisk with it, and nobody hears of its end.
pub(super) struct RestJob {
    token: Rc<()>,
    turn_back: Rc<TurnBack>,
    task: Option<Task<()>>,
}

impl Hands {
    /// Tells the agent what has happened, and does what it wants.
    pub(super) async fn tell_agent(&mut self, event: AgentEvent) {
        self.agent_events.push_back(event);
        self.tell_agent_the_rest().await;
    }

    /// Tells it what came of what was done.
    pub(super) async fn tell_agent_the_rest(&mut self) {
        while let Some(event) = self.agent_events.pop_front() {
            let (agent, actions) = self.agent.apply(event);
            self.agent = agent;
            for action in actions {
                self.obey(action).await;
            }
        }
    }

    async fn obey(&mut self, action: Action) {
        match action {
            Action::Launch if self.has_lost_ring() => self.take_up(),
            Action::Launch => {
                self.release_image();
                self.open_image();
            }
            Action::Serve => self.events.push_back(Event::Image(self.disk().is_some())),
            Action::Pause => self.pause_disk(),
            Action::TurnBack => {
                if let Some(job) = &self.rest_job {
                    job.turn_back.want();
                }
            }
            Action::Resume => self.resume_disk(),
            Action::Close => {
                self.give_up_rest_job();
                self.is_closing_disk = true;
                self.close_disk();
            }
            Action::TellPaused => self.tell_rest(true).await,
            Action::TellUnpaused => self.tell_rest(false).await,
            Action::Report => self.report_trouble().await,
            Action::Reprobe => {
                insist(&self.host, &self.name, async || self.directory.touch().await).await;
            }
            Action::Forget => {
                self.agent = Agent::new(self.rest_nodes.is_told);
                self.shared.nudge();
            }
        }
    }

    /// Lets go of a disk that the agent does not want any more; not before its ring has been let go of.
    pub(super) fn close_disk(&mut self) {
        if self.is_closing_disk && self.machine.ring() == Ring::None {
            self.is_closing_disk = false;
            self.release_image();
            self.agent_events.push_back(AgentEvent::Closed);
        }
    }

    fn pause_disk(&mut self) {
        self.note("pausing");
        let Some((disk, job, wanted)) = self.begin_rest_job() else { return };
        let (host, name, shared) = (self.host.clone(), self.name.clone(), self.shared.clone());
        let end = move |end| shared.end(JobEnd::Rest(wanted.clone(), end));
        self.do_rest_job(async move { end(bring_to_rest(&host, &name, disk, &job, &end).await) });
    }

    fn resume_disk(&mut self) {
        self.note("resuming");
        let Some((disk, _, wanted)) = self.begin_rest_job() else { return };
        let params = self.image_nodes.params.clone();
        let image = NewImage { is_another: params != self.params_at_rest, name: params };
        let (host, shared) = (self.host.clone(), self.shared.clone());
        let resuming = async move { shared.end(JobEnd::Rest(wanted, bring_back(&host, disk, image).await)) };
        self.do_rest_job(resuming);
    }

    fn begin_rest_job(&mut self) -> Option<(Disk, Rc<TurnBack>, Weak<()>)> {
        let Some(disk) = self.disk() else {
            self.agent_events.push_back(AgentEvent::Died);
            return None;
        };
        let job = RestJob { token: Rc::new(()), turn_back: Rc::default(), task: None };
        let (turn_back, wanted) = (job.turn_back.clone(), Rc::downgrade(&job.token));
        self.rest_job = Some(job);
        Some((disk, turn_back, wanted))
    }

    fn do_rest_job(&mut self, body: impl Future<Output = ()> + 'static) {
        if let Some(job) = &mut self.rest_job {
            job.task = Some(self.host.executor.spawn(body));
        }
    }

    /// Nobody is there any more for whom a disk would be resumed: it is not paused if that is still possible.
    fn give_up_rest_job(&mut self) {
        if let Some(RestJob { turn_back, task, .. }) = self.rest_job.take() {
            turn_back.want();
            task.into_iter().for_each(Task::detach);
        }
    }

    /// What was asked for has ended. Of what nobody wants any more, nothing counts.
    pub(super) async fn note_rest(&mut self, token: &Weak<()>, end: RestEnd) {
        let is_wanted = self.rest_job.as_ref().is_some_and(|job| std::ptr::eq(Rc::as_ptr(&job.token), token.as_ptr()));
        if !is_wanted {
            return;
        }
        if let RestEnd::Refused(error) = end {
            if self.trouble.is_none() {
                self.trouble = Some(error);
                self.report_trouble().await;
                self.is_rest_refused = true;
            }
            return;
        }
        self.rest_job = None;
        let event = match end {
            RestEnd::Paused(is_at_rest) => AgentEvent::Paused(is_at_rest),
            RestEnd::Resumed(Ok(())) => AgentEvent::Resumed(true),
            RestEnd::Resumed(Err(error)) => {
                self.trouble = Some(error);
                self.is_rest_refused = true;
                AgentEvent::Resumed(false)
            }
            RestEnd::Gone | RestEnd::Refused(_) => AgentEvent::Died,
        };
        if event != AgentEvent::Resumed(false) {
            self.take_back_refusal().await;
        }
        self.tell_agent(event).await;
    }

    /// What was told of a pause or a resume that was refused does not hold any more.
    async fn take_back_refusal(&mut self) {
        if std::mem::take(&mut self.is_rest_refused) {
            self.trouble = None;
            insist(&self.host, &self.name, async || self.directory.clear_report().await).await;
        }
    }

    /// Answers a pause or takes the answer back. If the directory is not what it was, a look will tell what it is.
    async fn tell_rest(&mut self, is_at_rest: bool) {
        self.note(if is_at_rest { "paused" } else { "resumed" });
        if is_at_rest {
            self.params_at_rest = self.image_nodes.params.clone();
        }
        if !insist(&self.host, &self.name, async || self.directory.tell_rest(is_at_rest).await).await {
            self.shared.nudge();
        }
    }
}
