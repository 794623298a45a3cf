//! The life of a device between a Xen guest and its backend: who may be in which state, and what is done on the way.
//!
//! ```text
//!   watch events --read again, as levels--> Event --> machine --> Action --> (whoever has hands: tapback, a guest)
//! ```
//!
//! The machines are pure: a value of what is known, an event, and out come the new value and what to do, in order.
//! They never wait, read no clock and talk to nobody; what takes time comes back as an event. XenStore delivers levels,
//! not steps: a state may be seen twice or never, and machines that only look at what *is* cannot miss a step.
//! Source: Xen's public header `io/xenbus.h`, Linux's drivers, and what toolstacks were seen to do.

#![forbid(unsafe_code)]

pub mod agent;
mod machine;
pub mod server;
mod state;

pub use machine::{
    backend::{Action as BackendAction, Backend, Event as BackendEvent, Ring},
    frontend::{Action as FrontendAction, Event as FrontendEvent, Frontend, Outcome, Phase},
};
pub use state::{State, UnknownState};
