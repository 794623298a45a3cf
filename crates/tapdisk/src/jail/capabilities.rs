//! Capabilities: one is kept, the others go for good.
//!
//! | capability | needed |
//! | --- | --- |
//! | `CAP_DAC_OVERRIDE` | always: root opens images that belong to others |
//! | `CAP_IPC_LOCK`, `CAP_SYS_RESOURCE` | until limits are raised and memory is locked, which has been done |
//! | all others | never |
//!
//! A process that has none of them keeps none. The one that is kept opens no door that being root does not open: files of
//! root are the root user's also without it. What limits files is the list of directories.

use std::io;

use rustix::thread::{
    CapabilitySet, CapabilitySets, capabilities, capability_is_in_bounding_set, clear_ambient_capability_set,
    remove_capability_from_bounding_set, set_capabilities,
};

/// What stays, if it was there.
pub(super) const KEPT: CapabilitySet = CapabilitySet::DAC_OVERRIDE;

/// Gives up all capabilities but those kept, in every set of this thread. The bounding set, from which a program that is
/// executed may take, is emptied where that is allowed; nothing is executed in here anyway.
pub(super) fn give_up() -> io::Result<()> {
    let held = capabilities(None)?;
    if held.effective.contains(CapabilitySet::SETPCAP) {
        empty_bounding_set()?;
    }
    // Kernels before 4.3 have no such set.
    let _ = clear_ambient_capability_set();
    let kept = held.permitted & KEPT;
    let sets = CapabilitySets { effective: kept, permitted: kept, inheritable: CapabilitySet::empty() };
    Ok(set_capabilities(None, sets)?)
}

fn empty_bounding_set() -> io::Result<()> {
    for number in 0..u64::BITS {
        let capability = CapabilitySet::from_bits_retain(1 << number);
        match capability_is_in_bounding_set(capability) {
            Ok(true) => remove_capability_from_bounding_set(capability)?,
            Ok(false) => {}
            // Behind the last one that this kernel knows.
            Err(_) => break,
        }
    }
    Ok(())
}
