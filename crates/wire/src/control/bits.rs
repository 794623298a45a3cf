//! Fields of bits in messages.

use std::fmt;

use crate::flags::flags;

flags! {
    /// How an image chain is to be opened.
    OpenFlags: u32 {
        /// Several disks share the leaf.
        SHARED = 0x001,
        /// The leaf is only read.
        READ_ONLY = 0x002,
        /// Cache the first shared read-only image in memory.
        ADD_CACHE = 0x004,
        /// The name is that of a VHD index. Kept, without effect.
        VHD_INDEX = 0x008,
        /// Record changed blocks; the path of the log follows the message.
        ADD_LOG = 0x010,
        /// Cache what is read on local storage.
        ADD_LOCAL_CACHE = 0x020,
        /// The parent is served by another tapdisk. For information: the parent's minor decides.
        REUSE_PARENT = 0x040,
        /// The secondary name is valid.
        SECONDARY = 0x080,
        /// The secondary is a standby, not a mirror.
        STANDBY = 0x100,
        /// Go through the page cache.
        NO_O_DIRECT = 0x200,
        /// The images are encrypted; the key follows the message.
        ENCRYPTED = 0x400,
    }
}

flags! {
    /// The state of a disk as LIST tells it; shown as `%#x` does: `0`, `0x2a`.
    VbdState: u32 {
        /// Gone for good.
        DEAD = 0x001,
        /// Closed.
        CLOSED = 0x002,
        /// To become quiet.
        QUIESCE_REQUESTED = 0x004,
        /// Quiet.
        QUIESCED = 0x008,
        /// To be paused.
        PAUSE_REQUESTED = 0x010,
        /// Paused.
        PAUSED = 0x020,
        /// To be shut down.
        SHUTDOWN_REQUESTED = 0x040,
        /// Waiting for a lock.
        LOCKING = 0x080,
        /// A request took suspiciously long once.
        LOG_DROPPED = 0x100,
        /// The last attempt to resume failed.
        RESUME_FAILED = 0x200,
    }
}

impl VbdState {
    /// What a disk that is being paused reports.
    pub const PAUSING: Self = Self::QUIESCE_REQUESTED.union(Self::PAUSE_REQUESTED);
    /// What a paused disk reports: its images are closed.
    pub const PAUSED_NORMALLY: Self = Self::CLOSED.union(Self::QUIESCED).union(Self::PAUSED);
}

impl fmt::Display for VbdState {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        if self.is_empty() { f.write_str("0") } else { write!(f, "{:#x}", self.bits()) }
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn states_are_shown_as_toolstacks_parse_them() {
        assert_eq!(VbdState::EMPTY.to_string(), "0");
        assert_eq!(VbdState::CLOSED.to_string(), "0x2");
        assert_eq!(VbdState::PAUSED_NORMALLY.to_string(), "0x2a");
        assert_eq!((VbdState::PAUSED_NORMALLY | VbdState::RESUME_FAILED).to_string(), "0x22a");
        assert_eq!(VbdState::PAUSING.to_string(), "0x14");
    }

    #[test]
    fn flags_are_one_bit_each_in_the_order_of_the_protocol() {
        let open = [
            OpenFlags::SHARED,
            OpenFlags::READ_ONLY,
            OpenFlags::ADD_CACHE,
            OpenFlags::VHD_INDEX,
            OpenFlags::ADD_LOG,
            OpenFlags::ADD_LOCAL_CACHE,
            OpenFlags::REUSE_PARENT,
            OpenFlags::SECONDARY,
            OpenFlags::STANDBY,
            OpenFlags::NO_O_DIRECT,
            OpenFlags::ENCRYPTED,
        ];
        assert!(open.into_iter().enumerate().all(|(bit, flag)| flag.bits() == 1 << bit));
        let state = [
            VbdState::DEAD,
            VbdState::CLOSED,
            VbdState::QUIESCE_REQUESTED,
            VbdState::QUIESCED,
            VbdState::PAUSE_REQUESTED,
            VbdState::PAUSED,
            VbdState::SHUTDOWN_REQUESTED,
            VbdState::LOCKING,
            VbdState::LOG_DROPPED,
            VbdState::RESUME_FAILED,
        ];
        assert!(state.into_iter().enumerate().all(|(bit, flag)| flag.bits() == 1 << bit));
    }
}
