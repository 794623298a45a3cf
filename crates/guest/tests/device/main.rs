//! A guest's device against backends that do what real ones do, and what they should not.

#![allow(clippy::unwrap_used, reason = "a test that cannot go on fails")]

mod backend;
mod closing;
mod connecting;
mod nonsense;
mod resuming;
mod world;
