//! What outlives this process of guests' rings: a file of shared memory for each, which another tapdisk goes on with.

use block_core::Result;
use control_api::{RingRecordFile, RingRecordName};
use export::blkif::RECORD_BYTES;
use xen::SharedMemory;

use super::{Entry, Life, Rings};

impl Rings {
    /// The records of a device's rings, in order. A ring that can have none is served all the same: only the death of this
    /// process would show that.
    pub(super) fn hold_records(&self, entry: &Entry) -> Vec<Option<SharedMemory>> {
        let name = entry.device.name;
        let names = (0..).take(entry.device.rings.len()).map(|ring| {
            let (domain, device) = (name.domain, name.device);
            RingRecordName { domain, device, ring }
        });
        let hold = |name: RingRecordName| {
            let file = self.records.hold(name, RECORD_BYTES as u64)?;
            let memory = SharedMemory::map(file.file(), 0, RECORD_BYTES)?;
            entry.records.borrow_mut().push(file);
            Ok(memory)
        };
        let held = names.map(|record| {
            let held: Result<SharedMemory> = hold(record);
            held.map_err(|error| self.books.has_no_record(name, &error)).ok()
        });
        held.collect()
    }
}

impl Entry {
    /// It has gone. Of one that was served nobody needs to know what was in its rings; of one that was to be adopted, and was
    /// not, another needs to.
    pub(super) fn drop_records(&self) {
        if self.life.get() != Life::Connecting {
            self.remove_records();
        }
        drop(self.records.take());
    }

    pub(super) fn remove_records(&self) {
        self.records.take().into_iter().for_each(RingRecordFile::remove);
    }
}
