//! The data-path daemon: one process per disk by default, driven through its control socket.
//!
//! ```text
//!   control thread                                 home thread, one per attached disk
//!   ctl<pid> ----> Server --+--> Control --order-->  Home --> virtual disk --> image chain
//!   oxtap<pid> --> native --'     |   ^               |        ^
//!   signals                       |   '- Published ---'        |
//!                                 |                            +-- NBD connections: nbd<pid>.<minor> ..
//!                                 |                            '-- queue threads, when more connect than one
//!                                 '-- list, stats, limits: answered here
//! ```
//!
//! The control thread touches sockets only: what it tells about disks is published by them, so it answers also while
//! storage hangs. What is done to a disk is a job, whichever protocol asked: an order to its home thread, one after the
//! other for each disk; closing by force alone overtakes. The process ends when its last disk is detached, and leaves
//! nothing behind.
//!
//! There is wiring here and nothing else: images, requests and protocols are the other crates' business.

#![forbid(unsafe_code)]

mod answers;
mod arguments;
mod classic;
mod connections;
mod control;
mod daemon;
mod exports;
mod home;
mod jail;
mod jobs;
mod layers;
mod listener;
mod log;
mod loops;
mod native;
mod pages;
mod process_limits;
mod queues;
mod receiver;
mod rings;
mod server;
mod shared_memory;
mod slot;
mod statistics;
mod valve;

pub use arguments::program;
pub use daemon::main;
