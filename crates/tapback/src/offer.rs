//! What a guest is told in nodes: what it may ask for, and what its disk is like.

use std::time::Duration;

use control_api::native::{Geometry, RingConnected, RingOffer, RingOperation};

use crate::ImageNodes;

/// A node's name and value.
pub(crate) type Node = (&'static str, String);

/// What guests are offered before anything is known of their disk. Whether pages stay mapped and how long rings are looked
/// at is what is usual: the nodes of a disk may say otherwise.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct Offer {
    /// A ring has at most two to the power of this many pages.
    pub ring_order_max: u32,
    /// Rings of one device.
    pub queues_max: u32,
    /// Segments of an indirect request; 0: there are none.
    pub indirect_segments: u16,
    /// Data pages may stay mapped between requests.
    pub persistent: bool,
    /// How long a ring is looked at after the last request before the guest has to ring again; 0: not at all.
    pub polling_us: u32,
    /// Writes that keep their place among others, besides flushes.
    pub barrier: bool,
    /// How long a guest is served without its directory, if that may have gone with its XenStore, before it is believed
    /// that somebody has removed it.
    pub grace: Duration,
}

/// That long if nobody says otherwise: it only delays the end of disks that were removed while there was no XenStore.
const GRACE: Duration = Duration::from_secs(600);

impl Default for Offer {
    fn default() -> Offer {
        Offer {
            ring_order_max: 4,
            queues_max: 4,
            indirect_segments: 256,
            persistent: false,
            polling_us: 0,
            barrier: true,
            grace: GRACE,
        }
    }
}

impl Offer {
    /// The nodes that are there before `InitWait`.
    pub(crate) fn nodes(&self) -> Vec<Node> {
        let mut nodes = vec![
            ("max-ring-page-order", self.ring_order_max.to_string()),
            ("max-ring-pages", (1_u32 << self.ring_order_max).to_string()),
            ("multi-queue-max-queues", self.queues_max.to_string()),
        ];
        if self.indirect_segments > 0 {
            nodes.push(("feature-max-indirect-segments", self.indirect_segments.to_string()));
        }
        nodes
    }
}

/// The nodes that are there before `Connected`, and the names of those that must not be.
pub(crate) fn properties(ring: &RingConnected, image: &ImageNodes, pid: u32) -> (Vec<Node>, Vec<&'static str>) {
    let RingOffer { flush, barrier, persistent, .. } = ring.offer;
    let mut nodes = size(&ring.geometry);
    nodes.extend([
        ("feature-flush-cache", bit(flush)),
        ("feature-barrier", bit(barrier)),
        ("feature-persistent", bit(persistent)),
        ("info", image.information(ring.geometry.read_only).to_string()),
        ("kthread-pid", pid.to_string()),
    ]);
    let may_discard = ring.offer.discard && image.may_discard();
    nodes.push(("feature-discard", bit(may_discard)));
    let details = ["discard-granularity", "discard-alignment", "discard-secure"];
    if !may_discard {
        return (nodes, details.to_vec());
    }
    let RingOffer { discard_granularity, discard_alignment, discard_secure, .. } = ring.offer;
    nodes.extend([
        (details[0], discard_granularity.to_string()),
        (details[1], discard_alignment.to_string()),
        (details[2], bit(discard_secure)),
    ]);
    (nodes, Vec::new())
}

/// The nodes that say how large a disk is. Sectors have 512 bytes, whatever the disk's blocks have.
pub(crate) fn size(geometry: &Geometry) -> Vec<Node> {
    vec![
        ("sectors", (geometry.bytes / 512).to_string()),
        ("sector-size", geometry.logical_block_bytes.to_string()),
        ("physical-sector-size", geometry.physical_block_bytes.to_string()),
    ]
}

/// The node of an operation that turned out not to be possible.
pub(crate) fn withdrawn(operation: RingOperation) -> Node {
    let name = match operation {
        RingOperation::Flush => "feature-flush-cache",
        RingOperation::Barrier => "feature-barrier",
        RingOperation::Discard => "feature-discard",
    };
    (name, bit(false))
}

fn bit(value: bool) -> String {
    u8::from(value).to_string()
}

#[cfg(test)]
mod tests {
    use super::*;

    fn ring() -> RingConnected {
        let offer = RingOffer {
            flush: true,
            discard: true,
            discard_granularity: 65536,
            discard_alignment: 512,
            ..RingOffer::default()
        };
        let geometry =
            Geometry { bytes: 1 << 20, logical_block_bytes: 4096, physical_block_bytes: 8192, read_only: false };
        RingConnected { already: false, geometry, offer }
    }

    fn value(nodes: &[Node], name: &str) -> Option<String> {
        nodes.iter().find(|node| node.0 == name).map(|node| node.1.clone())
    }

    #[test]
    fn sectors_have_512_bytes_whatever_the_blocks_have() {
        let (nodes, _) = properties(&ring(), &ImageNodes::default(), 4711);
        let values = ["sectors", "sector-size", "physical-sector-size"].map(|name| value(&nodes, name).unwrap());
        assert_eq!(values, ["2048", "4096", "8192"]);
    }

    #[test]
    fn only_what_works_is_offered() {
        let (nodes, _) = properties(&ring(), &ImageNodes::default(), 4711);
        let values = ["feature-flush-cache", "feature-barrier", "feature-discard", "discard-granularity"];
        assert_eq!(values.map(|name| value(&nodes, name).unwrap()), ["1", "0", "1", "65536"]);
        let image = ImageNodes { discard_enable: Some("0".into()), ..ImageNodes::default() };
        let (nodes, removed) = properties(&ring(), &image, 4711);
        assert_eq!(value(&nodes, "feature-discard").as_deref(), Some("0"));
        assert_eq!((value(&nodes, "discard-granularity"), removed.len()), (None, 3));
    }

    #[test]
    fn no_indirect_requests_are_offered_by_their_absence() {
        let nodes = Offer { indirect_segments: 0, ..Offer::default() }.nodes();
        assert_eq!(value(&nodes, "feature-max-indirect-segments"), None);
        assert_eq!(value(&nodes, "max-ring-pages").as_deref(), Some("16"));
    }
}
