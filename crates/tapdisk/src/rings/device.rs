//! A guest's device as it shall be connected: both protocols are read into these words.

use std::{fmt, time::Duration};

use block_core::{Error, ErrorKind, Result};
use control_api::{
    native::{ConnectRing, RingAbi},
    protocol::{RingIdentity, RingParameters},
};
use export::blkif::{Polling, RingFeatures, RingOptions};
use rustix::io::Errno;
use virtual_disk::Geometry;
use wire::blkif::{Abi, INDIRECT_SEGMENTS_MAX, Limits, RING_ORDER_MAX};
use xen::{DomainId, GrantRef, Port};

/// More rings than this serve no guest: it has no more processors that wait for storage.
const RINGS_MAX: usize = 64;

/// A ring is not looked at for longer without being told: that costs a processor.
const POLLING_MAX: Duration = Duration::from_millis(100);

/// A guest's device, as whoever talks to XenStore names it.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(crate) struct RingName {
    pub(crate) domain: u32,
    pub(crate) device: u32,
}

impl fmt::Display for RingName {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        write!(f, "{}-{}", self.domain, self.device)
    }
}

impl From<RingIdentity> for RingName {
    fn from(identity: RingIdentity) -> RingName {
        RingName { domain: identity.domid, device: identity.devid }
    }
}

/// A device that shall be connected: all its rings, and what was agreed on.
#[derive(Clone, Debug, PartialEq, Eq)]
pub(crate) struct Device {
    pub(crate) name: RingName,
    domain: DomainId,
    pub(crate) rings: Vec<RingPlace>,
    abi: Abi,
    features: RingFeatures,
    indirect_segments: u16,
    is_read_only: bool,
    may_discard: bool,
    /// Rings of other guests that may write are held; after they were waited for for so long.
    pub(crate) exclusive: Option<Duration>,
}

/// Whether the rings of a device were served by a tapdisk that has gone.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(crate) struct Adoption {
    pub(crate) is_wanted: bool,
    /// What would change the disk may be done again: this process has the writer's lock, and so nothing of another comes
    /// any more.
    pub(crate) repeats_changes: bool,
}

/// Where one ring of a guest is.
#[derive(Clone, Debug, PartialEq, Eq)]
pub(crate) struct RingPlace {
    pub(crate) pages: Vec<GrantRef>,
    port: Port,
}

impl RingPlace {
    fn new(pages: &[u32], port: u32) -> Result<RingPlace> {
        if !pages.len().is_power_of_two() || pages.len() > 1 << RING_ORDER_MAX {
            let words = format!("a ring has 1, 2, 4, 8 or 16 pages, and not {}", pages.len());
            return Err(Error::new(ErrorKind::Invalid, words));
        }
        Ok(RingPlace { pages: pages.iter().map(|grant| GrantRef(*grant)).collect(), port: Port(port) })
    }
}

impl Device {
    /// What a message of the older protocol asks to connect: one ring.
    ///
    /// # Errors
    /// `Invalid` for a ring that is none, `EPROTONOSUPPORT` for a layout that nobody knows.
    pub(crate) fn from_message(parameters: &RingParameters) -> Result<Device> {
        let name = RingName::from(parameters.identity);
        let invalid = |words: String| Error::new(ErrorKind::Invalid, words);
        let domain = u16::try_from(name.domain).map_err(|_| invalid(format!("there is no domain {}", name.domain)))?;
        let pages = parameters.pages().ok_or_else(|| invalid(format!("a ring of order {}", parameters.order)))?;
        // Nobody measures how idle processors are: they never are idle enough where that is asked for.
        let polling_us = if parameters.poll_idle_threshold > 0 { 0 } else { parameters.poll_duration };
        let abi = match parameters.protocol {
            1 | 3 => Abi::X86_64,
            2 => Abi::X86_32,
            other => {
                let error = std::io::Error::from_raw_os_error(Errno::PROTONOSUPPORT.raw_os_error());
                return Err(Error::from_os(format!("protocol {other}"), error));
            }
        };
        Ok(Device {
            name,
            domain: DomainId(domain),
            rings: vec![RingPlace::new(pages, parameters.port)?],
            abi,
            features: RingFeatures { persistent: false, polling: polling(polling_us) },
            indirect_segments: INDIRECT_SEGMENTS_MAX,
            is_read_only: false,
            may_discard: true,
            exclusive: None,
        })
    }

    /// What a command of the native protocol asks to connect.
    ///
    /// # Errors
    /// `Invalid` for no rings or too many, and for rings that are none.
    pub(crate) fn from_command(asked: &ConnectRing) -> Result<Device> {
        let count = asked.queues.len();
        if !(1..=RINGS_MAX).contains(&count) {
            let words = format!("a device has between 1 and {RINGS_MAX} rings, and not {count}");
            return Err(Error::new(ErrorKind::Invalid, words));
        }
        let rings = asked.queues.iter().map(|queue| RingPlace::new(&queue.pages, queue.port));
        Ok(Device {
            name: RingName { domain: asked.domain.into(), device: asked.device },
            domain: DomainId(asked.domain),
            rings: rings.collect::<Result<_>>()?,
            abi: match asked.abi {
                RingAbi::X86_64 | RingAbi::Arm => Abi::X86_64,
                RingAbi::X86_32 => Abi::X86_32,
            },
            features: RingFeatures { persistent: asked.persistent, polling: polling(asked.polling_us) },
            indirect_segments: asked.indirect_segments.min(INDIRECT_SEGMENTS_MAX),
            is_read_only: asked.read_only,
            may_discard: !asked.no_discard,
            exclusive: asked.exclusive.then(|| Duration::from_millis(asked.hold_ms)),
        })
    }

    /// How its slots are laid out.
    pub(crate) fn abi(&self) -> Abi {
        self.abi
    }

    /// The disk as this guest may see it.
    pub(crate) fn sees(&self, geometry: Geometry) -> Geometry {
        Geometry { read_only: geometry.read_only || self.is_read_only, ..geometry }
    }

    /// What it may ask. Whoever talks to XenStore tells it; a guest that was told less asks for less.
    pub(crate) fn offer(&self, geometry: &Geometry) -> Limits {
        let discard = self.may_discard && geometry.can_discard && !self.sees(*geometry).read_only;
        Limits { flush: true, barrier: true, discard, indirect_segments: self.indirect_segments }
    }

    /// How one of its rings is connected.
    pub(super) fn options(&self, ring: &RingPlace, geometry: &Geometry, adoption: Adoption) -> RingOptions {
        RingOptions {
            domain: self.domain,
            pages: ring.pages.clone(),
            port: ring.port,
            abi: self.abi,
            offer: self.offer(geometry),
            features: self.features,
            read_only: self.is_read_only,
            adopted: adoption.is_wanted,
            repeats_changes: adoption.repeats_changes,
        }
    }
}

fn polling(microseconds: u32) -> Option<Polling> {
    let window = Duration::from_micros(microseconds.into()).min(POLLING_MAX);
    (microseconds > 0).then_some(Polling { window })
}

#[cfg(test)]
mod tests {
    use super::*;
    use control_api::native::RingQueue;

    fn parameters() -> RingParameters {
        RingParameters {
            identity: RingIdentity { domid: 5, devid: 51712 },
            references: [1, 2, 3, 4, 5, 6, 7, 8],
            protocol: 3,
            ..RingParameters::default()
        }
    }

    #[test]
    fn a_ring_has_as_many_pages_as_its_order_says() {
        let pages = |order| Device::from_message(&RingParameters { order, ..parameters() });
        let count = |order| pages(order).unwrap().rings[0].pages.len();
        assert_eq!((count(0), count(3)), (1, 8));
        for order in [4, 31, 63, 64, u32::MAX] {
            assert_eq!(pages(order).unwrap_err().kind(), ErrorKind::Invalid, "{order}");
        }
    }

    #[test]
    fn layouts_are_told_by_number() {
        let abi = |protocol| Device::from_message(&RingParameters { protocol, ..parameters() }).map(|ring| ring.abi);
        assert_eq!((abi(1).unwrap(), abi(2).unwrap(), abi(3).unwrap()), (Abi::X86_64, Abi::X86_32, Abi::X86_64));
        assert_eq!(abi(4).unwrap_err().os_error(), Some(93));
        assert_eq!(abi(0).unwrap_err().os_error(), Some(93));
    }

    #[test]
    fn a_ring_is_looked_at_for_as_long_as_is_asked_for_within_bounds() {
        let window = |features: RingFeatures| features.polling.map(|polling| polling.window.as_micros());
        let queues = vec![RingQueue { pages: vec![8], port: 1 }];
        let by_command = |polling_us| {
            let asked = ConnectRing { queues: queues.clone(), polling_us, ..ConnectRing::default() };
            window(Device::from_command(&asked).unwrap().features)
        };
        assert_eq!([0, 1, 100_000, u32::MAX].map(by_command), [None, Some(1), Some(100_000), Some(100_000)]);
        let by_message = |poll_duration, poll_idle_threshold| {
            let asked = RingParameters { poll_duration, poll_idle_threshold, ..parameters() };
            window(Device::from_message(&asked).unwrap().features)
        };
        assert_eq!((by_message(1000, 0), by_message(u32::MAX, 0)), (Some(1000), Some(100_000)));
        assert_eq!((by_message(0, 0), by_message(1000, 50)), (None, None), "nobody knows how idle the host is");
    }

    #[test]
    fn rings_that_are_none_are_refused() {
        let queue = |count| RingQueue { pages: (0..count).collect(), port: 1 };
        let device = |queues| Device::from_command(&ConnectRing { queues, ..ConnectRing::default() });
        assert_eq!(device(vec![queue(16), queue(1)]).unwrap().rings.len(), 2);
        for count in [0, 3, 5, 15, 17, 32] {
            assert_eq!(device(vec![queue(count)]).unwrap_err().kind(), ErrorKind::Invalid, "{count} pages");
        }
        assert!(device(Vec::new()).is_err() && device(vec![queue(1); RINGS_MAX + 1]).is_err());
    }

    #[test]
    fn a_guest_that_may_only_read_is_offered_no_discard() {
        let queues = vec![RingQueue { pages: vec![8], port: 1 }];
        let device = |read_only| {
            Device::from_command(&ConnectRing { queues: queues.clone(), read_only, ..ConnectRing::default() }).unwrap()
        };
        let geometry = Geometry {
            sectors: 8,
            logical_block_size: 512,
            physical_block_size: 512,
            read_only: false,
            can_discard: true,
        };
        assert!(device(false).offer(&geometry).discard && !device(true).offer(&geometry).discard);
        assert!(!device(false).sees(geometry).read_only && device(true).sees(geometry).read_only);
    }
}
