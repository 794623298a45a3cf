//! What a guest that means harm writes where XenStore's frontends write.

use block_core::Result;
use wire::xenstore::Path;
use xen::store::Store;

use super::Random;

/// What a guest does to the nodes of its device.
#[derive(Clone, Copy, Debug, PartialEq, Eq, Hash)]
pub enum HostileNodes {
    /// A ring of two to the power of 31 pages.
    PageOrder,
    /// Values as long as they can be, and longer.
    LongValues,
    /// Values that are no numbers, or too large.
    Nonsense,
    /// States in any order, as fast as it can.
    StateStorm,
    /// Nodes that come and go, with ever other names.
    NodeStorm,
}

impl HostileNodes {
    /// All of them, and what they are called.
    pub const ALL: [(HostileNodes, &'static str); 5] = [
        (HostileNodes::PageOrder, "page-order-31"),
        (HostileNodes::LongValues, "long-values"),
        (HostileNodes::Nonsense, "nonsense-nodes"),
        (HostileNodes::StateStorm, "state-storm"),
        (HostileNodes::NodeStorm, "node-storm"),
    ];

    /// The one of this name.
    pub fn from_name(name: &str) -> Option<HostileNodes> {
        HostileNodes::ALL.into_iter().find(|(_, known)| *known == name).map(|(nodes, _)| nodes)
    }

    /// Writes to a frontend's directory, so many times. The state is written last. What the server refuses is its right:
    /// says how often it did.
    ///
    /// # Errors
    /// When a name does not fit into a path.
    pub async fn write(self, store: &Store, frontend: &Path, rounds: u64, seed: u64) -> Result<u64> {
        let mut random = Random::new(seed);
        let mut refused = 0;
        for round in 0..rounds {
            for (name, value) in self.nodes(round, &mut random) {
                let path = frontend.join(&name).map_err(|error| {
                    block_core::Error::new(block_core::ErrorKind::Invalid, format!("{frontend}/{name}: {error}"))
                })?;
                let done = match value {
                    Some(value) => store.write(&path, &value).await,
                    None => store.remove(&path).await,
                };
                refused += u64::from(done.is_err());
            }
        }
        Ok(refused)
    }

    /// What is written in one round; none: removed.
    fn nodes(self, round: u64, random: &mut Random) -> Vec<(String, Option<Vec<u8>>)> {
        let node = |name: &str, value: &[u8]| (name.to_owned(), Some(value.to_vec()));
        let nonsense =
            [b"".as_slice(), b"-1", b"4294967296", b"18446744073709551616", b"0x10", b"1 ", b"\xff\xfe", b"1\x00\x32"];
        let any = |random: &mut Random| nonsense[random.index(nonsense.len())].to_vec();
        match self {
            HostileNodes::PageOrder => {
                vec![
                    node("ring-page-order", b"31"),
                    node("ring-ref0", b"1"),
                    node("event-channel", b"1"),
                    node("state", b"3"),
                ]
            }
            HostileNodes::LongValues => {
                let digits = |count| vec![b'1'; count];
                let lengths = [2048, 2049, 4000, 65536].into_iter().enumerate();
                let refs = lengths.map(|(index, count)| (format!("ring-ref{index}"), Some(digits(count))));
                refs.chain([node("ring-page-order", b"2"), node("event-channel", &digits(2000)), node("state", b"3")])
                    .collect()
            }
            HostileNodes::Nonsense => {
                let names =
                    ["ring-ref", "ring-page-order", "event-channel", "protocol", "multi-queue-num-queues", "state"];
                names.into_iter().map(|name| (name.to_owned(), Some(any(random)))).collect()
            }
            HostileNodes::StateStorm => {
                let value = match random.below(12) {
                    state @ 0..10 => Some(state.to_string().into_bytes()),
                    10 => Some(any(random)),
                    _ => None,
                };
                vec![("state".to_owned(), value)]
            }
            HostileNodes::NodeStorm => {
                let name = format!("queue-{round}/ring-ref");
                vec![(name, Some(b"1".to_vec())), (format!("queue-{round}"), None)]
            }
        }
    }
}
