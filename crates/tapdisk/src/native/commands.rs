//! What commands of the native protocol do.

use std::{future::Future, pin::Pin, rc::Rc, time::Duration};

use block_core::{Error, ErrorKind, Result};
use control_api::native::{
    Cancelled, Command, ConnectRing, Disks, Done, Faults, Grow, JobList, Limits, LimitsInForce, OpenImages, ResultOf,
    RingEvent, Statistics,
};
use storage_io::Receiver;

use super::{limits, report};
use crate::{
    control::Control,
    home::{Job, Name, Open},
    jobs::JobRecord,
    layers::ValveName,
    rings::{self, Device, FailingDevice, Parting, RingName},
};

/// More threads than this serve no disk.
const QUEUES_MAX: u16 = 64;

/// How a command has begun.
pub(super) enum Begun {
    /// It has ended, too.
    Answered(Result<ResultOf>),
    /// It goes on, whoever waits for it.
    Job(Rc<JobRecord>),
    /// It tells of these, and ends with them.
    Watching(Receiver<RingEvent>),
    /// Everything in the rings of a device fails, as long as whoever asked is there.
    Failing(FailingDevice),
    /// Its answer comes in a moment.
    Asked(Pin<Box<dyn Future<Output = Result<ResultOf>>>>),
}

impl Control {
    pub(super) fn begin_command(self: &Rc<Self>, command: Command) -> Begun {
        let milliseconds = |deadline: Option<u64>| deadline.map(Duration::from_millis);
        match command {
            Command::List {} => Begun::Answered(Ok(ResultOf::List(self.disks()))),
            Command::Stats { minor } => Begun::Answered(self.all_statistics(minor).map(ResultOf::Stats)),
            Command::Jobs {} => Begun::Answered(Ok(ResultOf::Jobs(self.job_list()))),
            Command::Attach { minor } => {
                let control = self.clone();
                Begun::Asked(Box::pin(async move { control.attach(minor).await.map(|()| ResultOf::Attach(Done {})) }))
            }
            Command::Dump {} => {
                let control = self.clone();
                Begun::Asked(Box::pin(async move { Ok(ResultOf::Dump(report::dump(control.look_at_loops().await))) }))
            }
            Command::Watch { job } => begun(self.jobs.find(job)),
            Command::Cancel { job } => self.cancel_by_number(job),
            Command::Detach { minor } => self.begin_job(minor, Job::Detach),
            Command::Open(asked) => match open(&asked) {
                Ok(open) => self.begin_job(asked.minor, Job::Open(Box::new(open))),
                Err(error) => Begun::Answered(Err(error)),
            },
            Command::Pause { minor, deadline_ms } => {
                self.begin_job(minor, Job::Pause { deadline: milliseconds(deadline_ms) })
            }
            Command::Resume { minor, image } => self.begin_job(minor, Job::Resume(image.map(Name::from))),
            Command::Quiesce { minor, deadline_ms } => {
                self.begin_job(minor, Job::Quiesce { deadline: milliseconds(deadline_ms) })
            }
            Command::Grow(Grow { minor, bytes }) => self.begin_job(minor, Job::Grow(bytes)),
            Command::Close { minor, force: true, .. } => self.begin_job(minor, Job::ForceClose),
            Command::Close { minor, force: false, deadline_ms } => {
                self.begin_job(minor, Job::Close { deadline: milliseconds(deadline_ms) })
            }
            Command::ConnectRing(asked) => begun(self.begin_to_connect(&asked)),
            Command::DisconnectRing { minor, domain, device, deadline_ms, is_removed } => {
                let name = RingName { domain: domain.into(), device };
                let parting = Parting { deadline: milliseconds(deadline_ms), is_removed };
                self.begin_job(minor, Job::DisconnectRing { name, parting })
            }
            Command::SettleRing { minor, domain, device } => {
                self.begin_job(minor, Job::SettleRing(RingName { domain: domain.into(), device }))
            }
            Command::WatchRing { minor, domain, device } => {
                match self.watch_ring(minor, RingName { domain: domain.into(), device }) {
                    Ok(events) => Begun::Watching(events),
                    Err(error) => Begun::Answered(Err(error)),
                }
            }
            Command::FailRing { domain, device } => {
                match FailingDevice::adopt(self, RingName { domain: domain.into(), device }) {
                    Ok(failing) => Begun::Failing(failing),
                    Err(error) => Begun::Answered(Err(error)),
                }
            }
            Command::Limit { minor, limits } => Begun::Answered(self.limit(minor, limits)),
            Command::Faults(Faults { minor, rules }) => {
                let replaced = self.slot(minor).and_then(|slot| slot.replace_faults(&rules));
                Begun::Answered(replaced.map(|()| ResultOf::Faults(Done {})))
            }
            Command::Budget { minor, valve } => {
                let control = self.clone();
                Begun::Asked(Box::pin(async move { control.draw_on(minor, valve).await }))
            }
        }
    }

    fn begin_to_connect(self: &Rc<Self>, asked: &ConnectRing) -> Result<Rc<JobRecord>> {
        let slot = self.slot(asked.minor)?;
        let device = Device::from_command(asked)?;
        // Here it may be the same; elsewhere it cannot.
        if self.slot_of_ring(device.name).is_some_and(|other| other.minor() != slot.minor()) {
            return Err(rings::known(device.name));
        }
        self.begin(&slot, Job::ConnectRing { device: Box::new(device), adopt: asked.adopt })
    }

    fn watch_ring(&self, minor: u16, name: RingName) -> Result<Receiver<RingEvent>> {
        self.slot(minor)?.ring(name).ok_or_else(|| rings::unknown(name))?.watch()
    }

    fn limit(&self, minor: u16, limits: Limits) -> Result<ResultOf> {
        let slot = self.slot(minor)?;
        let limiter = slot.limiter()?;
        limiter.set(limits::wanted(limits)?);
        Ok(ResultOf::Limit(LimitsInForce { limits: limits::told(&limiter.limits()) }))
    }

    async fn draw_on(&self, minor: u16, valve: Option<String>) -> Result<ResultOf> {
        let valve = valve.map(|name| ValveName::parse(&name)).transpose()?;
        self.slot(minor)?.draw_on(valve).await?;
        Ok(ResultOf::Budget(Done {}))
    }

    fn begin_job(self: &Rc<Self>, minor: u16, job: Job) -> Begun {
        begun(self.slot(minor).and_then(|slot| self.begin(&slot, job)))
    }

    fn cancel_by_number(self: &Rc<Self>, number: u64) -> Begun {
        let job = match self.jobs.find(number) {
            Ok(job) => job,
            Err(error) => return Begun::Answered(Err(error)),
        };
        let control = self.clone();
        Begun::Asked(Box::pin(async move { Ok(ResultOf::Cancel(Cancelled { cancelled: control.cancel(&job).await })) }))
    }

    fn disks(&self) -> Disks {
        Disks { disks: self.slots.borrow().iter().map(|slot| report::summary(self, slot)).collect() }
    }

    fn all_statistics(&self, minor: Option<u16>) -> Result<Statistics> {
        let slots = match minor {
            Some(minor) => vec![self.slot(minor)?],
            None => self.slots.borrow().clone(),
        };
        let disks = slots.iter().map(|slot| report::statistics(self, slot)).collect();
        Ok(Statistics { process: report::process(self), disks })
    }

    fn job_list(&self) -> JobList {
        let now = self.now();
        JobList { jobs: self.jobs.all().iter().map(|job| report::job(self, job, now)).collect() }
    }
}

fn begun(job: Result<Rc<JobRecord>>) -> Begun {
    match job {
        Ok(job) => Begun::Job(job),
        Err(error) => Begun::Answered(Err(error)),
    }
}

fn open(asked: &OpenImages) -> Result<Open> {
    let seconds = |given: Option<u64>| given.filter(|seconds| *seconds > 0).map(Duration::from_secs);
    if asked.queues.is_some_and(|queues| !(1..=QUEUES_MAX).contains(&queues)) {
        return Err(Error::new(ErrorKind::Invalid, format!("a disk has between 1 and {QUEUES_MAX} queues")));
    }
    Ok(Open {
        name: asked.image.clone().into(),
        is_read_only: asked.read_only,
        is_shared: asked.shared,
        is_late: asked.late,
        is_buffered: asked.buffered,
        key: None,
        timeout: seconds(asked.request_timeout_seconds),
        retry_eio: asked.retry_eio,
        stuck_after: seconds(asked.stuck_after_seconds),
        queues: asked.queues,
        limits: asked.limits.map(limits::wanted).transpose()?,
        faults: asked.faults.clone(),
    })
}
