//! Sets of bits with names. A set keeps the bits that it does not know, so that what a peer sent is not lost; whoever
//! cares asks for [`unknown`](crate::nbd::ClientFlags::unknown).

/// Defines a type for a field of bits: its named bits as constants, and the operations of a set.
macro_rules! flags {
    (
        $(#[$doc:meta])*
        $name:ident: $integer:ty {
            $($(#[$flag_doc:meta])* $flag:ident = $bits:expr,)*
        }
    ) => {
        $(#[$doc])*
        #[derive(Clone, Copy, Default, PartialEq, Eq, Hash)]
        pub struct $name($integer);

        impl $name {
            $($(#[$flag_doc])* pub const $flag: Self = Self($bits);)*

            /// No bit at all.
            pub const EMPTY: Self = Self(0);

            /// Every bit that has a name.
            pub const KNOWN: Self = Self(0 $(| $bits)*);

            /// The set that a field of the protocol holds, with the bits that have no name here.
            pub const fn from_bits(bits: $integer) -> Self {
                Self(bits)
            }

            /// The field of the protocol.
            pub const fn bits(self) -> $integer {
                self.0
            }

            /// Whether every bit of `other` is in this set.
            pub const fn contains(self, other: Self) -> bool {
                self.0 & other.0 == other.0
            }

            /// Whether no bit is set.
            pub const fn is_empty(self) -> bool {
                self.0 == 0
            }

            /// The bits of either set.
            #[must_use]
            pub const fn union(self, other: Self) -> Self {
                Self(self.0 | other.0)
            }

            /// This set without the bits of `other`.
            #[must_use]
            pub const fn without(self, other: Self) -> Self {
                Self(self.0 & !other.0)
            }

            /// This set with the bits of `other`, if `wanted`.
            #[must_use]
            pub const fn with_if(self, other: Self, wanted: bool) -> Self {
                if wanted { self.union(other) } else { self }
            }

            /// The bits that have no name here.
            #[must_use]
            pub const fn unknown(self) -> Self {
                self.without(Self::KNOWN)
            }
        }

        impl std::ops::BitOr for $name {
            type Output = Self;
            fn bitor(self, other: Self) -> Self {
                self.union(other)
            }
        }

        impl std::ops::BitOrAssign for $name {
            fn bitor_assign(&mut self, other: Self) {
                *self = self.union(other);
            }
        }

        impl std::fmt::Debug for $name {
            fn fmt(&self, f: &mut std::fmt::Formatter<'_>) -> std::fmt::Result {
                let named: &[(&str, Self)] = &[$((stringify!($flag), Self::$flag)),*];
                write!(f, concat!(stringify!($name), "({:#x}"), self.0)?;
                for (name, _) in named.iter().filter(|(_, flag)| self.contains(*flag)) {
                    write!(f, " {name}")?;
                }
                f.write_str(")")
            }
        }
    };
}

pub(crate) use flags;

#[cfg(test)]
mod tests {
    use crate::nbd::ClientFlags;

    #[test]
    fn a_set_keeps_and_tells_the_bits_it_does_not_know() {
        let set = ClientFlags::from_bits(0x8002);
        assert_eq!((set.bits(), set.unknown().bits()), (0x8002, 0x8000));
        assert_eq!(format!("{set:?}"), "ClientFlags(0x8002 NO_ZEROES)");
    }

    #[test]
    fn sets_are_joined_and_cut() {
        let (fixed, waived) = (ClientFlags::FIXED_NEWSTYLE, ClientFlags::NO_ZEROES);
        let both = ClientFlags::EMPTY.with_if(fixed, true).with_if(waived, false) | waived;
        assert_eq!(both, ClientFlags::KNOWN);
        assert!(both.contains(fixed) && !both.without(fixed).contains(fixed));
        assert!(ClientFlags::EMPTY.is_empty() && !both.is_empty());
    }
}
