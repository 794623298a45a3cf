//! A platform without Xen: processes that share memory, and a broker that knows what belongs to whom.
//!
//! ```text
//!   guest (a process)                      broker                         backend (a process)
//!   Guest  --hello, memory, ports-->  domains, channels  <--attach, bind--  HostedGrants, HostedChannels
//!      |                                                                        |
//!      +---- pages of the domain (memfd, sealed), its grant table (memfd) ------+
//!      +---- eventfds, two for each channel ------------------------------------+
//! ```
//!
//! As on Xen, a guest writes its grant table itself, and a backend's copy looks at the entry at the moment of the copy:
//! nothing is asked of the broker per request. What a backend has pinned stands in a table of its own, which the broker
//! keeps when the backend is killed and then clears. So a guest's [`Guest::end_access`] tells truly whether anybody still
//! uses a page.

mod broker;
mod connection;
mod grants;
mod guest;
mod layout;
mod pinning;
mod ports;
mod thread;

pub use broker::{Broker, BrokerLimits};
pub use grants::HostedGrants;
pub use guest::{Guest, GuestChannel};

pub use crate::{Account, EndAccess};
pub use ports::HostedChannels;
pub use thread::BrokerThread;

/// The name of the broker's socket in its directory.
pub const SOCKET_NAME: &str = "xen";
