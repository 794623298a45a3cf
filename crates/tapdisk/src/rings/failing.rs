//! Guests whose tapdisk has gone: what they have asked of it, and go on asking, is answered with errors. This process needs
//! neither a disk nor an image for that, and waits for no storage.
//!
//! ```text
//!   fail_ring --> records held, rings mapped, all answered --> answer --whoever asked hangs up--> let go of --> process ends
//! ```

use std::rc::Rc;

use block_core::{Error, ErrorKind, Result, ResultExt};
use control_api::{RingRecordFile, RingRecords, native::RingFailed};
use export::blkif::{FailingRing, RECORD_BYTES};
use futures_util::future::join_all;
use xen::SharedMemory;

use super::RingName;
use crate::control::Control;

/// The rings of a device in which everything fails, until this is dropped.
pub(crate) struct FailingDevice {
    control: Rc<Control>,
    name: RingName,
    rings: Vec<FailingRing>,
    records: Vec<RingRecordFile>,
}

impl FailingDevice {
    /// Those of a device that a tapdisk has served that has gone.
    ///
    /// # Errors
    /// `NotFound` if nothing is known of its rings, `EBUSY` if somebody serves them, or what the platform says.
    pub(crate) fn adopt(control: &Rc<Control>, name: RingName) -> Result<FailingDevice> {
        let context = || format!("ring {name}");
        let records = RingRecords::new(&control.run).hold_all(name.domain, name.device, RECORD_BYTES as u64)?;
        if records.is_empty() {
            return Err(Error::new(ErrorKind::NotFound, "it has no record")).context(context());
        }
        let platform = control.platform();
        // Not of the host's budget: a few pages, of a guest that had them before, so that nobody waits for ever.
        let (grants, channels) = (platform.grants()?, platform.channels()?);
        let adopt = |record: &RingRecordFile| {
            let memory = SharedMemory::map(record.file(), 0, RECORD_BYTES)?;
            FailingRing::adopt(control.executor(), &*grants, &*channels, memory)
        };
        let rings = records.iter().map(adopt).collect::<Result<Vec<_>>>().context(context())?;
        let device = FailingDevice { control: control.clone(), name, rings, records };
        let RingFailed { rings, answered } = device.told();
        control.begins_to_fail();
        control.log.info(format!("ring {name} fails: {answered} requests in {rings} rings are answered with errors"));
        Ok(device)
    }

    /// What was found.
    pub(crate) fn told(&self) -> RingFailed {
        let answered = self.rings.iter().map(|ring| ring.answered() as u64).sum();
        RingFailed { rings: u16::try_from(self.rings.len()).unwrap_or(u16::MAX), answered }
    }
}

impl Drop for FailingDevice {
    fn drop(&mut self) {
        let (rings, records) = (std::mem::take(&mut self.rings), std::mem::take(&mut self.records));
        let (control, name) = (self.control.clone(), self.name);
        let ending = async move {
            join_all(rings.into_iter().map(FailingRing::let_go)).await;
            // The files stay: whoever asked knows whether anybody needs them.
            drop(records);
            control.log.info(format!("ring {name} was let go of"));
            control.fails_no_more();
        };
        self.control.executor().spawn(ending).detach();
    }
}
