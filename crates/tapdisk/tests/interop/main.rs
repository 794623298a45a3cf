//! Disks served by a tapdisk process, met by other people's programs: NBD clients on one side, readers and writers of
//! VHD on the other. One file, one behaviour.

#![allow(clippy::unwrap_used, reason = "a test that cannot go on ends here")]

mod broken_chains;
mod clients;
mod copies;
mod killed;
mod made_by_qemu;
mod marks;
mod oracle;
mod plain_reader;
mod room;
mod served;
mod snapshots;
mod storage_manager;
mod unaligned;
mod verified_load;
mod written_by_us;
