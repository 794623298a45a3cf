//! Events between a guest and us.

use std::{fmt, future::Future, pin::Pin};

use block_core::Result;
use storage_io::Executor;

use crate::{DomainId, Port};

/// Where event channels come from.
pub trait EventChannels: fmt::Debug {
    /// Binds a channel to the end that a guest has left open for us. What it brings is waited for on `executor`.
    ///
    /// # Errors
    /// `NotFound` if there is no such domain, `Invalid` if it has left no such end open.
    fn bind(&self, executor: &Executor, domain: DomainId, remote: Port) -> Result<Box<dyn EventChannel>>;
}

/// One end of an event channel; dropping it unbinds it. Events are hints: several may come as one, and the first may
/// come for nothing.
pub trait EventChannel: fmt::Debug {
    /// Our number of it.
    fn port(&self) -> Port;

    /// Ends when there was an event. No other comes until [`unmask`](Self::unmask) is called; what happens meanwhile is
    /// kept.
    ///
    /// # Errors
    /// When the channel is broken.
    fn wait(&self) -> Pin<Box<dyn Future<Output = Result<()>> + '_>>;

    /// Lets events come again.
    fn unmask(&self);

    /// Tells the other side.
    fn notify(&self);
}
