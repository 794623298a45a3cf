//! The native protocol: many requests on one connection, jobs with progress.
//!
//! ```text
//!   oxtap<pid> --> Server --> Session: lines --> commands --> at once: list, stats, jobs
//!                                ^                       '--> a job: reports until it has ended
//!                                '------ lines out -----------'
//! ```

mod commands;
mod limits;
pub(crate) mod report;
mod rings;
mod server;
mod session;

pub(crate) use self::server::Server;
