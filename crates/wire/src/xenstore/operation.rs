//! What a message is about: its type.

/// The type of a message.
#[derive(Clone, Copy, Debug, PartialEq, Eq, Hash)]
pub enum Operation {
    /// Something about the server itself.
    Control,
    /// The names of a node's children.
    Directory,
    /// A node's value.
    Read,
    /// Who may do what with a node.
    GetPermissions,
    /// Events for a node and all below.
    Watch,
    /// No more events.
    Unwatch,
    /// Operations that become visible at once or not at all.
    TransactionStart,
    /// They do, or do not.
    TransactionEnd,
    /// A domain is about to connect.
    Introduce,
    /// A domain has gone.
    Release,
    /// Where a domain's nodes are.
    GetDomainPath,
    /// A node gets a value, and is made if it is not there.
    Write,
    /// A node is made, with its parents, if it is not there.
    MakeDirectory,
    /// A node goes, with all below.
    Remove,
    /// Who may do what with a node from now on.
    SetPermissions,
    /// Something has changed; from the server only.
    WatchEvent,
    /// A request has failed; from the server only.
    Error,
    /// Whether a domain is connected.
    IsDomainIntroduced,
    /// A domain goes on after it was suspended.
    Resume,
    /// A domain gets the rights of another.
    SetTarget,
    /// All watches and transactions of the connection go.
    ResetWatches,
    /// As `Directory`, in parts: for long lists.
    DirectoryPart,
    /// A number that is not known here; answered with ENOSYS.
    Unknown(u32),
}

/// Every operation with its number.
const NUMBERS: [(u32, Operation); 22] = [
    (0, Operation::Control),
    (1, Operation::Directory),
    (2, Operation::Read),
    (3, Operation::GetPermissions),
    (4, Operation::Watch),
    (5, Operation::Unwatch),
    (6, Operation::TransactionStart),
    (7, Operation::TransactionEnd),
    (8, Operation::Introduce),
    (9, Operation::Release),
    (10, Operation::GetDomainPath),
    (11, Operation::Write),
    (12, Operation::MakeDirectory),
    (13, Operation::Remove),
    (14, Operation::SetPermissions),
    (15, Operation::WatchEvent),
    (16, Operation::Error),
    (17, Operation::IsDomainIntroduced),
    (18, Operation::Resume),
    (19, Operation::SetTarget),
    (21, Operation::ResetWatches),
    (22, Operation::DirectoryPart),
];

impl Operation {
    /// What a number on the wire means.
    pub fn from_number(number: u32) -> Operation {
        let known = NUMBERS.iter().find(|(known, _)| *known == number);
        known.map_or(Operation::Unknown(number), |(_, operation)| *operation)
    }

    /// The number on the wire.
    pub fn number(self) -> u32 {
        match self {
            Operation::Unknown(number) => number,
            known => NUMBERS.iter().find(|(_, operation)| *operation == known).expect("all are in the table").0,
        }
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn numbers_and_operations_go_both_ways() {
        for number in (0..64).chain([65535, u32::MAX]) {
            assert_eq!(Operation::from_number(number).number(), number);
        }
        assert_eq!(Operation::from_number(20), Operation::Unknown(20), "was removed from the protocol");
        assert_eq!(Operation::DirectoryPart.number(), 22);
    }
}
