//! The types of messages and their names in traces.

macro_rules! kinds {
    ($($(#[$doc:meta])* $kind:ident = $number:literal, $name:literal;)*) => {
        /// The type of a message.
        #[derive(Clone, Copy, Debug, PartialEq, Eq, Hash)]
        #[repr(u16)]
        pub enum Kind {
            $($(#[$doc])* $kind = $number,)*
        }

        impl Kind {
            /// Every type, in order of its number.
            pub const ALL: &[Kind] = &[$(Kind::$kind),*];

            /// The type with this number.
            pub const fn from_number(number: u16) -> Option<Self> {
                match number {
                    $($number => Some(Kind::$kind),)*
                    _ => None,
                }
            }

            /// The name in traces.
            pub const fn name(self) -> &'static str {
                match self {
                    $(Kind::$kind => $name,)*
                }
            }
        }
    };
}

kinds! {
    /// A request failed.
    Error = 1, "error";
    /// Never sent.
    RuntimeError = 2, "unknown";
    /// Who are you?
    Pid = 3, "pid";
    /// The process id.
    PidResponse = 4, "pid response";
    /// Make a slot for a minor.
    Attach = 5, "attach";
    /// Done.
    AttachResponse = 6, "attach response";
    /// Open an image chain in a slot.
    Open = 7, "open";
    /// Done, and how large the disk is.
    OpenResponse = 8, "open response";
    /// Drain, and close the images.
    Pause = 9, "pause";
    /// Done.
    PauseResponse = 10, "pause response";
    /// Open the images again, perhaps others.
    Resume = 11, "resume";
    /// Done.
    ResumeResponse = 12, "resume response";
    /// Close the images for good.
    Close = 13, "close";
    /// Done; also the answer to a forced shutdown.
    CloseResponse = 14, "close response";
    /// Remove a slot.
    Detach = 15, "detach";
    /// Done.
    DetachResponse = 16, "detach response";
    /// Not served by any tapdisk.
    ListMinors = 17, "list minors";
    /// Not served by any tapdisk.
    ListMinorsResponse = 18, "list minors response";
    /// Tell all slots.
    List = 19, "list";
    /// One slot, or the end of the list.
    ListResponse = 20, "list response";
    /// Tell statistics.
    Stats = 21, "stats";
    /// How many bytes of text follow.
    StatsResponse = 22, "stats response";
    /// Close, without waiting for what cannot end.
    ForceShutdown = 23, "force shutdown";
    /// Connect a guest's ring.
    RingConnect = 24, "sring connect";
    /// Done.
    RingConnectResponse = 25, "sring connect rsp";
    /// Disconnect a guest's ring.
    RingDisconnect = 26, "sring disconnect";
    /// Done.
    RingDisconnectResponse = 27, "sring disconnect rsp";
    /// How large is the disk?
    DiskInfo = 28, "disk info";
    /// Its size.
    DiskInfoResponse = 29, "disk info rsp";
    /// Not served by any tapdisk.
    Exit = 30, "exit";
}

impl Kind {
    /// The number on the wire.
    pub const fn number(self) -> u16 {
        self as u16
    }

    /// The name of a number in traces, known or not.
    pub fn name_of(number: u16) -> &'static str {
        Kind::from_number(number).map_or("unknown", Kind::name)
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn numbers_go_there_and_back() {
        assert_eq!(Kind::ALL.len(), 30);
        assert!(Kind::ALL.iter().all(|kind| Kind::from_number(kind.number()) == Some(*kind)));
        assert!(Kind::ALL.iter().zip(1..).all(|(kind, number)| kind.number() == number));
        assert_eq!((Kind::from_number(0), Kind::from_number(31)), (None, None));
    }

    #[test]
    fn traces_name_strangers_unknown() {
        assert_eq!((Kind::name_of(29), Kind::name_of(31)), ("disk info rsp", "unknown"));
    }
}
