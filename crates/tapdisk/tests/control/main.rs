//! tapdisk and tap-ctl as storage managers meet them: programs, sockets and files. One file, one behaviour.

#![allow(clippy::unwrap_used, reason = "a test that cannot go on ends here")]

mod clients;
mod cycles;
mod descriptors;
mod destroy;
mod encrypted;
mod errors_of_open;
mod fence;
mod grant_budget;
mod held_marker;
mod host;
mod hosted;
mod hostile_clients;
mod hostile_guests;
mod hung_storage;
mod jail;
mod killed_clients;
mod late;
mod leases;
mod life_of_a_disk;
mod list_of_many_disks;
mod logging;
mod many_guests;
mod many_sides;
mod native_commands;
mod native_hostile;
mod native_jobs;
mod pause;
mod privileges;
mod retries;
mod rings;
mod rings_native;
mod rings_when_storage_fails;
mod settle;
mod signals;
mod split_requests;
mod stale_files;
mod start;
mod statistics;
mod valve;
