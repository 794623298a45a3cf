//! Numbers that must not be taken for each other.

use std::fmt;

macro_rules! number {
    ($(#[$doc:meta])* $name:ident($integer:ty)) => {
        $(#[$doc])*
        #[derive(Clone, Copy, Debug, PartialEq, Eq, Hash, PartialOrd, Ord)]
        pub struct $name(pub $integer);

        impl fmt::Display for $name {
            fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
                self.0.fmt(f)
            }
        }
    };
}

number! {
    /// A domain: a virtual machine, or the host's own.
    DomainId(u16)
}

number! {
    /// A page that a domain has granted to another: an index in its grant table.
    GrantRef(u32)
}

number! {
    /// One end of an event channel, as its domain numbers it.
    Port(u32)
}
