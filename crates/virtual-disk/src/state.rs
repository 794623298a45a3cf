//! The life of a disk.

/// Where a disk is in its life.
///
/// ```text
///   new ---> Attached ----- open -----> Opening ---- opened ---> Running <-----------------------+
///               ^                         |                        | ^                           |
///               +------ open failed ------+                        | |                           |
///                                                                  | |                           |
///     Running -- pause ----> Pausing ---- drained, closed ---> Paused -----+                     |
///        ^                     |                                 ^         | resume              |
///        +--- not in time -----+         files closed            |         v                     |
///        |                               +-----------------------+     Resuming --- resumed -----+
///        |                               | pause                 |      ^ | | ^                 |
///     Running -- quiesce --> Quiescing --+-- drained ----> Quiesced ------+ | | +-- ResumeFailed  |
///        ^                     |                             ^  ^           | +---> (no files)    |
///        +--- not in time -----+                             |  +-- failed -+                     |
///        |                                                   |                                    |
///     Running -- grow -----> Growing ---- cannot be read ----+                                    |
///                              |                                                                  |
///                              +---- grown, or not: as it was ------------------------------------+
///
///     Running -- first writer comes, last one goes --> Switching -- read anew --> Running, or Quiesced if that fails
///
///     any of them, but Attached -- close, or close by force --> Closing -- all has ended --> Closed -- open --> Opening
///                                                                  |                            ^
///                                  storage hangs, closed by force  +---> Stuck -- all has ended-+
/// ```
#[derive(Clone, Copy, Debug, PartialEq, Eq, Hash)]
#[repr(u8)]
pub enum DiskState {
    /// Known, never opened.
    Attached,
    /// The images are being opened.
    Opening,
    /// Requests are served.
    Running,
    /// No new request is taken; those that run end, then the images are closed.
    Pausing,
    /// The images are closed and free to change; requests are held.
    Paused,
    /// The images are being opened again.
    Resuming,
    /// As `Paused`; the last attempt to resume failed, and the status says why. What was quiesced gets here when the image
    /// that was named for it does not fit.
    ResumeFailed,
    /// No new request is taken; those that run end, then the writer's lock is given up.
    Quiescing,
    /// The images may be changed by others, but their files are open; requests are held. If an attempt to resume failed,
    /// the status says why.
    Quiesced,
    /// No new request is taken; those that run end, then the images get longer, or are found longer.
    Growing,
    /// No new request is taken; those that run end, then write access is taken or given up.
    Switching,
    /// New requests are refused; those that run end, then the images are closed.
    Closing,
    /// Closed by force while storage still holds requests: files and locks are kept until it lets them go.
    Stuck,
    /// The images are closed and the disk may be opened again.
    Closed,
}

/// What happens to a request that comes now.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(crate) enum Intake {
    Serve,
    Hold,
    Refuse,
}

impl DiskState {
    /// Every state.
    pub const ALL: [DiskState; 14] = [
        DiskState::Attached,
        DiskState::Opening,
        DiskState::Running,
        DiskState::Pausing,
        DiskState::Paused,
        DiskState::Resuming,
        DiskState::ResumeFailed,
        DiskState::Quiescing,
        DiskState::Quiesced,
        DiskState::Growing,
        DiskState::Switching,
        DiskState::Closing,
        DiskState::Stuck,
        DiskState::Closed,
    ];

    /// Whether `next` may come directly after this state.
    pub fn may_become(self, next: DiskState) -> bool {
        use DiskState::*;
        match self {
            Attached => matches!(next, Opening | Closed),
            Opening => matches!(next, Running | Attached | Closed | Closing),
            Running => matches!(next, Pausing | Quiescing | Growing | Switching | Closing),
            Pausing => matches!(next, Paused | Running | Closing),
            Paused | ResumeFailed => matches!(next, Resuming | Closing),
            Resuming => matches!(next, Running | ResumeFailed | Quiesced | Closing),
            Quiescing => matches!(next, Quiesced | Running | Closing),
            Quiesced => matches!(next, Resuming | Paused | Closing),
            Growing | Switching => matches!(next, Running | Quiesced | Closing),
            Closing => matches!(next, Closed | Stuck),
            Stuck => next == Closed,
            Closed => next == Opening,
        }
    }

    /// Whether images are open, or may be.
    pub fn holds_images(self) -> bool {
        use DiskState::*;
        matches!(
            self,
            Opening | Running | Pausing | Resuming | Quiescing | Quiesced | Growing | Switching | Closing | Stuck
        )
    }

    pub(crate) fn intake(self) -> Intake {
        use DiskState::*;
        match self {
            Running => Intake::Serve,
            Opening | Pausing | Paused | Resuming | ResumeFailed | Quiescing | Quiesced | Growing | Switching => {
                Intake::Hold
            }
            Attached | Closing | Stuck | Closed => Intake::Refuse,
        }
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    /// A row per state, a column per state that may come next, in the order of `DiskState::ALL`.
    const TABLE: [&str; 14] = [
        // A  O  R  p  P  r  F  q  Q  g  s  c  S  C
        ". x . . . . . . . . . . . x", // Attached
        "x . x . . . . . . . . x . x", // Opening
        ". . . x . . . x . x x x . .", // Running
        ". . x . x . . . . . . x . .", // Pausing
        ". . . . . x . . . . . x . .", // Paused
        ". . x . . . x . x . . x . .", // Resuming
        ". . . . . x . . . . . x . .", // ResumeFailed
        ". . x . . . . . x . . x . .", // Quiescing
        ". . . . x x . . . . . x . .", // Quiesced
        ". . x . . . . . x . . x . .", // Growing
        ". . x . . . . . x . . x . .", // Switching
        ". . . . . . . . . . . . x x", // Closing
        ". . . . . . . . . . . . . x", // Stuck
        ". x . . . . . . . . . . . .", // Closed
    ];

    #[test]
    fn all_pairs_are_as_drawn() {
        for (state, row) in DiskState::ALL.into_iter().zip(TABLE) {
            for (next, cell) in DiskState::ALL.into_iter().zip(row.split(' ')) {
                assert_eq!(state.may_become(next), cell == "x", "{state:?} -> {next:?}");
            }
        }
    }

    #[test]
    fn every_state_can_be_left_and_leads_to_closed() {
        for start in DiskState::ALL {
            let mut reached = vec![start];
            let mut next = 0;
            while let Some(&state) = reached.get(next) {
                next += 1;
                let followers = DiskState::ALL.into_iter().filter(|&follower| state.may_become(follower));
                let new: Vec<_> = followers.filter(|follower| !reached.contains(follower)).collect();
                reached.extend(new);
            }
            assert!(reached.contains(&DiskState::Closed), "{start:?}");
        }
    }

    #[test]
    fn requests_are_held_exactly_while_images_may_come_back() {
        let held: Vec<_> = DiskState::ALL.into_iter().filter(|state| state.intake() == Intake::Hold).collect();
        use DiskState::*;
        assert_eq!(held, [Opening, Pausing, Paused, Resuming, ResumeFailed, Quiescing, Quiesced, Growing, Switching]);
    }
}
