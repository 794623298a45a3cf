//! What a guest and we have agreed on besides the layout of its ring, and the account of its pages.

use std::time::Duration;

/// What a guest and we have agreed on: each only if both want it.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq)]
pub struct RingFeatures {
    /// The guest uses the same pages again and again and leaves them granted, so that they can stay mapped. Their data is
    /// copied all the same, but without asking the hypervisor.
    pub persistent: bool,
    /// Looking at the ring for a while before asking to be told of the next request.
    pub polling: Option<Polling>,
}

/// How long a ring is looked at without asking to be told. Costs a processor, and saves the guest an event and us a
/// wake-up for each request.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct Polling {
    /// For how long after the last request was taken or answered.
    pub window: Duration,
}

/// The pages of a guest that its ring makes use of.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq)]
pub struct RingPages {
    /// Pages of data that requests under way name. The guest must leave them granted until these are answered.
    pub granted: u32,
    /// Pages that are mapped: the ring's own, and those that stay mapped between requests.
    pub mapped: u32,
    /// The most pages that were mapped at one time; for several rings only [`DeviceAccount`](super::DeviceAccount) knows.
    pub peak: u32,
    /// Pages that could not be given back. Once the ring is disconnected, whatever is still mapped is among them.
    pub leaked: u32,
}
