//! Rings of guests that are connected to a disk, and where they come from.
//!
//! A guest, its device and the pages of its ring are named by whoever talks to XenStore; this process never does.

use std::{
    cell::{OnceCell, RefCell},
    ffi::OsString,
    path::PathBuf,
    sync::Arc,
};

use block_core::{Error, ErrorKind, Result, ResultExt};
use control_api::protocol::{RingIdentity, RingParameters};
use export::blkif::{ConnectedRing, RingEnd, RingFeatures, RingOptions};
use rustix::io::Errno;
use virtual_disk::{DiskQueue, Geometry};
use wire::blkif::{Abi, INDIRECT_SEGMENTS_MAX, Limits};
use xen::{
    DomainId, EventChannels, GrantRef, Grants, Port,
    hosted::{HostedChannels, HostedGrants},
    linux::{LinuxChannels, LinuxGrants},
};

/// Says which platform there is: nothing for the devices of Xen, or `hosted:DIRECTORY`.
pub(crate) const PLATFORM_VARIABLE: &str = "OXTAP_XEN";
/// This process acts for the domain that it runs in: the first, as far as the hosted platform goes.
const OWN_DOMAIN: DomainId = DomainId(0);

/// Where guests and their pages are.
#[derive(Clone, Debug, Default, PartialEq, Eq)]
pub(crate) enum Platform {
    /// The devices of a Linux domain.
    #[default]
    Xen,
    /// Processes of a host without Xen; the broker's socket is in this directory.
    Hosted(PathBuf),
}

impl Platform {
    /// `xen` or `hosted:DIRECTORY`.
    pub(crate) fn parse(value: OsString) -> Option<Platform> {
        match value.to_str()?.split_once(':') {
            Some(("hosted", directory)) if !directory.is_empty() => Some(Platform::Hosted(directory.into())),
            None if value == "xen" => Some(Platform::Xen),
            _ => None,
        }
    }

    fn open(&self) -> Result<Doors> {
        match self {
            Platform::Xen => {
                let grants = LinuxGrants::open()?;
                Ok(Doors { grants: Arc::new(grants), channels: Box::new(LinuxChannels::new()) })
            }
            Platform::Hosted(directory) => Ok(Doors {
                grants: Arc::new(HostedGrants::connect(directory, OWN_DOMAIN)?),
                channels: Box::new(HostedChannels::connect(directory, OWN_DOMAIN)?),
            }),
        }
    }
}

/// What a platform is used by.
struct Doors {
    grants: Arc<dyn Grants>,
    channels: Box<dyn EventChannels>,
}

/// A guest's device, as whoever talks to XenStore names it.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(crate) struct RingName {
    pub(crate) domain: u32,
    pub(crate) device: u32,
}

impl std::fmt::Display for RingName {
    fn fmt(&self, f: &mut std::fmt::Formatter<'_>) -> std::fmt::Result {
        write!(f, "{}-{}", self.domain, self.device)
    }
}

impl From<RingIdentity> for RingName {
    fn from(identity: RingIdentity) -> RingName {
        RingName { domain: identity.domid, device: identity.devid }
    }
}

/// A ring that shall be connected.
#[derive(Clone, Debug, PartialEq, Eq)]
struct Ring {
    name: RingName,
    domain: DomainId,
    pages: Vec<GrantRef>,
    port: Port,
    abi: Abi,
}

impl Ring {
    /// What a message asks to connect.
    ///
    /// # Errors
    /// `Invalid` for a ring that is none, `EPROTONOSUPPORT` for a layout that nobody knows.
    fn new(parameters: &RingParameters) -> Result<Ring> {
        let name = RingName::from(parameters.identity);
        let invalid = |words: String| Error::new(ErrorKind::Invalid, words);
        let domain = u16::try_from(name.domain).map_err(|_| invalid(format!("there is no domain {}", name.domain)))?;
        let count = 1_usize.checked_shl(parameters.order).filter(|count| *count <= parameters.references.len());
        let count = count.ok_or_else(|| invalid(format!("a ring of order {}", parameters.order)))?;
        let abi = match parameters.protocol {
            1 | 3 => Abi::X86_64,
            2 => Abi::X86_32,
            other => {
                let error = std::io::Error::from_raw_os_error(Errno::PROTONOSUPPORT.raw_os_error());
                return Err(Error::from_os(format!("protocol {other}"), error));
            }
        };
        let pages = parameters.references[..count].iter().map(|grant| GrantRef(*grant)).collect();
        Ok(Ring { name, domain: DomainId(domain), pages, port: Port(parameters.port), abi })
    }
}

/// What guests are offered. Whoever talks to XenStore tells them; a guest that was told less asks for less.
fn offer(geometry: &Geometry) -> Limits {
    let discard = geometry.can_discard && !geometry.read_only;
    Limits { flush: true, barrier: true, discard, indirect_segments: INDIRECT_SEGMENTS_MAX }
}

/// The rings of one disk, on its home thread.
pub(crate) struct Rings {
    platform: Platform,
    doors: OnceCell<Doors>,
    connected: RefCell<Vec<(RingName, ConnectedRing)>>,
}

impl Rings {
    pub(crate) fn new(platform: Platform) -> Rings {
        Rings { platform, doors: OnceCell::new(), connected: RefCell::default() }
    }

    /// Connects a ring; its guest is served from now on. Without a platform nothing else matters.
    pub(crate) fn connect(&self, queue: &DiskQueue, parameters: &RingParameters) -> Result<RingName> {
        let doors = self.doors()?;
        let Ring { name, domain, pages, port, abi } = Ring::new(parameters)?;
        let geometry = queue.status().geometry();
        let geometry = geometry.ok_or_else(|| Error::new(ErrorKind::Closed, "the disk was never open"))?;
        let (offer, features) = (offer(&geometry), RingFeatures::default());
        let options = RingOptions { domain, pages, port, abi, offer, features, read_only: false };
        let connected = ConnectedRing::connect(queue, doors.grants.clone(), &*doors.channels, &options);
        self.connected.borrow_mut().push((name, connected.context(format!("ring {name}"))?));
        Ok(name)
    }

    /// Lets a guest go: no more requests are taken, and those that were taken have been answered.
    pub(crate) async fn disconnect(&self, name: RingName) -> Result<RingEnd> {
        let ring = {
            let mut connected = self.connected.borrow_mut();
            let index = connected.iter().position(|(other, _)| *other == name);
            index.map(|index| connected.swap_remove(index).1)
        };
        let ring = ring.ok_or_else(|| unknown(name))?;
        Ok(ring.disconnect().await)
    }

    /// The rings that are connected.
    pub(crate) fn names(&self) -> Vec<RingName> {
        self.connected.borrow().iter().map(|(name, _)| *name).collect()
    }

    /// Lets go of all rings at once: what storage still holds is not answered any more.
    pub(crate) fn abandon(&self) {
        let rings = self.connected.take();
        drop(rings);
    }

    fn doors(&self) -> Result<&Doors> {
        if let Some(doors) = self.doors.get() {
            return Ok(doors);
        }
        let doors = self.platform.open()?;
        Ok(self.doors.get_or_init(|| doors))
    }
}

/// The refusal of a ring that is not there.
pub(crate) fn unknown(name: RingName) -> Error {
    Error::from_os(format!("ring {name} is not connected"), Errno::NODEV.into())
}

/// The refusal of a ring that is there already.
pub(crate) fn known(name: RingName) -> Error {
    Error::from_os(format!("ring {name} is connected already"), Errno::ALREADY.into())
}

#[cfg(test)]
mod tests {
    use super::*;

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
        let pages = |order| Ring::new(&RingParameters { order, ..parameters() }).map(|ring| ring.pages.len());
        assert_eq!((pages(0).unwrap(), pages(3).unwrap()), (1, 8));
        for order in [4, 31, 63, 64, u32::MAX] {
            assert_eq!(pages(order).unwrap_err().kind(), ErrorKind::Invalid, "{order}");
        }
    }

    #[test]
    fn layouts_are_told_by_number() {
        let abi = |protocol| Ring::new(&RingParameters { protocol, ..parameters() }).map(|ring| ring.abi);
        assert_eq!((abi(1).unwrap(), abi(2).unwrap(), abi(3).unwrap()), (Abi::X86_64, Abi::X86_32, Abi::X86_64));
        assert_eq!(abi(4).unwrap_err().os_error(), Some(93));
        assert_eq!(abi(0).unwrap_err().os_error(), Some(93));
    }

    #[test]
    fn platforms_by_their_names() {
        let parse = |text: &str| Platform::parse(text.into());
        assert_eq!(parse("xen").unwrap(), Platform::Xen);
        assert_eq!(parse("hosted:/run/x").unwrap(), Platform::Hosted("/run/x".into()));
        for wrong in ["", "hosted", "hosted:", "kvm", "x:y"] {
            assert!(parse(wrong).is_none(), "{wrong}");
        }
    }
}
