//! Watches that XenStore refuses: nobody tells what changes then, so that is told in the log, once.

use std::cell::Cell;

use xen::store::Watch;

/// What the log knows of a watch.
#[derive(Debug, Default)]
pub(crate) struct Refused(Cell<bool>);

impl Refused {
    /// What is to be said, if that has changed: whether the watch is refused now.
    pub(crate) fn news(&self, watch: &Watch) -> Option<String> {
        let refusal = watch.refusal();
        if self.0.replace(refusal.is_some()) == refusal.is_some() {
            return None;
        }
        let path = watch.path();
        Some(match refusal {
            Some(reason) => format!("{path} cannot be watched, and is looked at now and then: {reason}"),
            None => format!("{path} is watched again"),
        })
    }
}
