//! What a guest has to tell at the end.

use std::time::Duration;

use block_core::Result;
use guest::workload::Done;
use serde::Serialize;

use crate::oxtap::{size, text};

/// What was done, and what was lost.
#[derive(Clone, Debug, Default, Serialize)]
pub(super) struct Report {
    pub(super) kernels: u64,
    /// How often a kernel was gone from one moment to the next.
    pub(super) crashes: u64,
    pub(super) queues: usize,
    pub(super) ring_order: u32,
    /// Both sides keep data pages between requests.
    pub(super) persistent: bool,
    pub(super) sectors: u64,
    pub(super) reads: u64,
    pub(super) writes: u64,
    pub(super) flushes: u64,
    pub(super) read_bytes: u64,
    pub(super) written_bytes: u64,
    /// Requests that were under way when a kernel left.
    pub(super) unanswered: u64,
    /// Blocks that were read back, over all kernels.
    pub(super) blocks_checked: u64,
    pub(super) resizes: u64,
    /// Pages that the backend still used when it should not: all of these should be 0.
    pub(super) stray_pages: u64,
    pub(super) kept_ring_pages: u64,
    pub(super) pages_granted_at_the_end: u32,
    pub(super) pages_used_at_the_end: u32,
    /// Open descriptors of the guest's process while the first kernel had its disk, and the last.
    pub(super) descriptors_of_the_first: usize,
    pub(super) descriptors_at_the_end: usize,
    pub(super) seconds: f64,
}

impl Report {
    pub(super) fn take(&mut self, done: Done, took: Duration) {
        (self.reads, self.writes, self.flushes) = (done.reads, done.writes, done.flushes);
        (self.read_bytes, self.written_bytes) = (done.read_bytes, done.written_bytes);
        self.unanswered = done.unanswered;
        self.seconds = took.as_secs_f64();
    }

    /// Pages that were lost, one way or the other.
    pub(super) fn lost(&self) -> u64 {
        let at_the_end = self.pages_granted_at_the_end + self.pages_used_at_the_end;
        self.stray_pages + self.kept_ring_pages + u64::from(at_the_end)
    }

    pub(super) fn print(&self, json: bool) -> Result<()> {
        if json { text::print_json(self) } else { text::print(&self.to_string()) }
    }
}

impl std::fmt::Display for Report {
    fn fmt(&self, f: &mut std::fmt::Formatter<'_>) -> std::fmt::Result {
        let requests = self.reads + self.writes + self.flushes;
        let bytes = [self.read_bytes, self.written_bytes].map(size::describe);
        writeln!(
            f,
            "kernels    {}, {} of them fell over; {} rings of order {}",
            self.kernels, self.crashes, self.queues, self.ring_order
        )?;
        writeln!(f, "requests   {requests} in {:.1} s, {} left unanswered", self.seconds, self.unanswered)?;
        writeln!(f, "data       {} read, {} written, every byte right", bytes[0], bytes[1])?;
        writeln!(f, "read back  {} blocks of 4 KiB", self.blocks_checked)?;
        writeln!(f, "pages      {} lost", self.lost())
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn pages_are_lost_in_several_ways() {
        let report = Report { stray_pages: 1, kept_ring_pages: 2, pages_granted_at_the_end: 4, ..Report::default() };
        assert_eq!(report.lost(), 7);
        assert!(report.to_string().ends_with("pages      7 lost\n"), "{report}");
    }
}
