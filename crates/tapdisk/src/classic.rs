//! The protocol of `tap-ctl`: one request, one answer.

use std::rc::Rc;

use block_core::{Error, ErrorKind, Result};
use control_api::protocol::{ALL_MINORS, Body, DecodeError, ImageInformation, Message, Request, RingParameters};

use crate::{
    answers,
    control::Control,
    home::{Gave, Job, Open},
    rings::{self, Connected, Device, Parting, RingName},
    slot::{Slot, information},
    statistics::json_of_all,
};

impl Control {
    /// The answer to something that is no request.
    pub(crate) fn refuse(&self, error: DecodeError) -> Vec<u8> {
        answers::failure(error.cookie, &error.into())
    }

    /// The answer to a request.
    pub(crate) async fn answer(self: &Rc<Self>, request: Request) -> Vec<u8> {
        let Request { message: Message { cookie, body }, log_path, key } = request;
        let has_log = log_path.is_some();
        match body {
            Body::Pid => answers::message(cookie, Body::PidResponse(self.pid.cast_signed())),
            Body::List => answers::list(cookie, self.slots.borrow().iter().map(|slot| &**slot)),
            Body::Stats => self.statistics(cookie),
            Body::DiskInfo => {
                let size = self.slot(cookie).map(|slot| slot.information());
                answers::sized(cookie, size, Body::DiskInfoResponse)
            }
            Body::Attach => answers::done(cookie, self.attach(cookie).await, Body::AttachResponse),
            Body::Detach => answers::done(cookie, self.order(cookie, Job::Detach).await, Body::DetachResponse),
            Body::Open(parameters) => {
                let size = match answers::open(parameters, has_log, key) {
                    Ok(open) => self.open(cookie, open).await,
                    Err(error) => Err(error),
                };
                answers::sized(cookie, size, Body::OpenResponse)
            }
            Body::Resume(parameters) => {
                let result = match answers::resume(parameters, has_log) {
                    Ok(name) => self.order(cookie, Job::Resume(name)).await,
                    Err(error) => self.slot(cookie).and(Err(error)),
                };
                answers::done(cookie, result, Body::ResumeResponse)
            }
            Body::Pause => {
                let pause = Job::Pause { deadline: None };
                answers::done(cookie, self.order(cookie, pause).await, Body::PauseResponse)
            }
            Body::Close => {
                let close = Job::Close { deadline: None };
                answers::done(cookie, self.order(cookie, close).await, Body::CloseResponse)
            }
            Body::ForceShutdown => {
                answers::done(cookie, self.order(cookie, Job::ForceClose).await, Body::CloseResponse)
            }
            Body::RingConnect(parameters) => {
                let result = self.connect_ring(cookie, parameters).await;
                answers::done(cookie, result, Body::RingConnectResponse)
            }
            Body::RingDisconnect(ring) => {
                answers::done(cookie, self.disconnect_ring(ring.into()).await, Body::RingDisconnectResponse)
            }
            other => {
                let words = format!("'{}' is not served", other.kind().name());
                answers::failure(0, &Error::new(ErrorKind::Invalid, words))
            }
        }
    }

    fn statistics(&self, cookie: u16) -> Vec<u8> {
        if cookie == ALL_MINORS {
            let all: Vec<String> = self.slots.borrow().iter().map(|slot| slot.statistics()).collect();
            return answers::statistics(cookie, json_of_all(&all));
        }
        match self.slot(cookie) {
            Ok(slot) => answers::statistics(cookie, slot.statistics()),
            Err(error) => answers::failure(cookie, &error),
        }
    }

    async fn open(self: &Rc<Self>, cookie: u16, open: Open) -> Result<ImageInformation> {
        let missing = || Error::new(ErrorKind::Invalid, format!("minor {cookie} is not attached here"));
        let slot = self.find(cookie).ok_or_else(missing)?;
        Ok(match self.have_done(&slot, Job::Open(Box::new(open))).await? {
            Gave::Opened(geometry) => information(geometry),
            _ => ImageInformation::default(),
        })
    }

    async fn connect_ring(self: &Rc<Self>, cookie: u16, ring: RingParameters) -> Result<()> {
        let slot = self.slot(cookie)?;
        let name = ring.identity.into();
        if self.slot_of_ring(name).is_some() {
            return Err(rings::known(name));
        }
        // Without a platform nothing else matters.
        self.platform().look()?;
        let device = Device::from_message(&ring)?;
        match self.have_done(&slot, Job::ConnectRing { device: Box::new(device), adopt: false }).await? {
            Gave::RingConnected(Connected { already: true, .. }) => Err(rings::known(name)),
            _ => Ok(()),
        }
    }

    /// Answers when the ring has been drained and let go of.
    async fn disconnect_ring(self: &Rc<Self>, name: RingName) -> Result<()> {
        let slot = self.slot_of_ring(name).ok_or_else(|| rings::unknown(name))?;
        self.have_done(&slot, Job::DisconnectRing { name, parting: Parting::default() }).await.map(drop)
    }

    /// The slot of a guest's device that is connected.
    pub(crate) fn slot_of_ring(&self, name: RingName) -> Option<Rc<Slot>> {
        self.slots.borrow().iter().find(|slot| slot.ring(name).is_some()).cloned()
    }

    async fn order(self: &Rc<Self>, cookie: u16, job: Job) -> Result<()> {
        self.have_done(&self.slot(cookie)?, job).await.map(drop)
    }
}
