//! A XenStore server: the tree, who may do what with it, watches, transactions and quotas.
//!
//! ```text
//!   Message of a connection --> Store::handle --> the tree, directly or through a transaction
//!                                   |                      |
//!                                   v                      v what has changed
//!               messages for the connection <-- replies, events of watches
//! ```
//!
//! It is for hosts without Xen: tests, demonstrations, development. It answers as Xen's own server does, as far as
//! backends, guests and toolstacks can tell, and it can be told to be as awkward as real ones are at their worst
//! ([`Faults`], [`SocketFaults`]). [`Store`] owns no descriptor and reads no clock; [`Sockets`] feeds it.

mod connection;
mod events;
mod requests;
mod sockets;
mod store;
mod transaction;
mod tree;
mod view;

pub use connection::ConnectionId;
pub use sockets::{SocketFaults, Sockets};
pub use store::{Faults, Quotas, Store};
