//! The backend's hands against a XenStore server, with toolstacks and guests as they were seen to behave.

#![allow(clippy::unwrap_used, reason = "a test that cannot go on fails")]

mod adoption;
mod done;
mod hostile;
mod life;
mod lost;
mod nodes;
mod pause;
mod removal;
mod ring_nodes;
mod said;
mod signs;
mod toolstack;
mod watcher;
mod watches;
mod worker;
mod world;
