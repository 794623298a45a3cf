//! Rings of guests: what whoever talks to XenStore asks, and what it is told.

use serde::{Deserialize, Serialize};

use super::{Geometry, Throttled};

/// What is usual for a guest that says nothing else: as many as anybody asks for.
const INDIRECT_SEGMENTS: u16 = 256;

/// A guest's device as it has said in XenStore. All its rings are connected, or none.
#[derive(Clone, Debug, Default, PartialEq, Eq, Serialize, Deserialize)]
#[serde(deny_unknown_fields)]
pub struct ConnectRing {
    /// Which disk.
    pub minor: u16,
    /// The guest.
    pub domain: u16,
    /// Its device.
    pub device: u32,
    /// The rings, in order: one, or one for each queue of the guest.
    pub queues: Vec<RingQueue>,
    /// How slots are laid out.
    pub abi: RingAbi,
    /// Data pages stay mapped between requests: the guest was offered that, and has agreed.
    #[serde(default)]
    pub persistent: bool,
    /// How long to go on looking at a ring after the last request before the guest has to ring again; 0: not at all.
    /// More than a tenth of a second is taken as that.
    #[serde(default)]
    pub polling_us: u32,
    /// Segments of an indirect request that the guest was offered; 0: none.
    #[serde(default = "indirect_segments")]
    pub indirect_segments: u16,
    /// Changes are refused, though the disk may take them.
    #[serde(default)]
    pub read_only: bool,
    /// Discards are refused, though the disk may take them.
    #[serde(default)]
    pub no_discard: bool,
    /// Nobody but this guest may write: rings of other guests that may are held before its first request is taken, until
    /// it is disconnected.
    #[serde(default)]
    pub exclusive: bool,
    /// How long rings of other guests are waited for, that may be leaving by themselves, before they are held.
    #[serde(default)]
    pub hold_ms: u64,
    /// Rings that are connected already, or that another tapdisk has served and that have records of it, or in which everything
    /// is answered, or none: a guest that was served before has requests in its rings, and only whoever served it knows which
    /// of them were taken.
    #[serde(default)]
    pub adopt: bool,
}

fn indirect_segments() -> u16 {
    INDIRECT_SEGMENTS
}

/// One ring.
#[derive(Clone, Debug, Default, PartialEq, Eq, Serialize, Deserialize)]
#[serde(deny_unknown_fields)]
pub struct RingQueue {
    /// Grant references of its pages, in order: 1, 2, 4, 8 or 16.
    pub pages: Vec<u32>,
    /// The guest's end of the event channel.
    pub port: u32,
}

/// What a guest was compiled for, as its node `protocol` names it.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq, Hash, Serialize, Deserialize)]
pub enum RingAbi {
    /// 64-bit x86.
    #[default]
    #[serde(rename = "x86_64-abi")]
    X86_64,
    /// 32-bit x86.
    #[serde(rename = "x86_32-abi")]
    X86_32,
    /// ARM, 32 and 64 bits.
    #[serde(rename = "arm-abi")]
    Arm,
}

/// The rings of a device are served.
#[derive(Clone, Debug, Default, PartialEq, Eq, Serialize, Deserialize)]
pub struct RingConnected {
    /// They were served before, with the same parameters.
    pub already: bool,
    /// What the disk is like, as this guest may see it.
    pub geometry: Geometry,
    /// What the guest may be told that it can ask.
    pub offer: RingOffer,
}

/// What a guest may be told that it can ask.
#[derive(Clone, Debug, Default, PartialEq, Eq, Serialize, Deserialize)]
pub struct RingOffer {
    /// `feature-flush-cache`.
    pub flush: bool,
    /// `feature-barrier`.
    pub barrier: bool,
    /// `feature-discard`.
    pub discard: bool,
    /// `discard-granularity`, in bytes; 0 without discard.
    pub discard_granularity: u32,
    /// `discard-alignment`, in bytes.
    pub discard_alignment: u32,
    /// `discard-secure`.
    pub discard_secure: bool,
    /// `feature-persistent`.
    pub persistent: bool,
    /// `feature-max-indirect-segments`.
    pub indirect_segments: u16,
}

/// The rings of a device have been let go of.
#[derive(Clone, Debug, Default, PartialEq, Eq, Serialize, Deserialize)]
pub struct RingDisconnected {
    /// False: they were not connected, which is as good.
    pub connected: bool,
    /// What they had done.
    pub counters: RingCounters,
    /// Nothing is mapped any more; `leaked` should be 0, ever.
    pub pages: RingPages,
    /// What was wrong with a ring, if anything.
    pub broken: Option<String>,
    /// Why what the guest was answered is not all durable, if it is not.
    #[serde(default)]
    pub not_durable: Option<String>,
}

/// Nothing is done for a guest's device until it asks.
#[derive(Clone, Debug, Default, PartialEq, Eq, Serialize, Deserialize)]
pub struct RingSettled {
    /// False: it is not connected, which is as good.
    pub connected: bool,
    /// Why what the guest was answered is not all durable, if it is not.
    pub not_durable: Option<String>,
}

/// What a guest has asked of a tapdisk that has gone is answered with errors.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq, Serialize, Deserialize)]
pub struct RingFailed {
    /// Rings of the device that were found.
    pub rings: u16,
    /// Requests that had been taken and had no answer.
    pub answered: u64,
}

/// What `watch_ring` tells. What holds already is told at once, so nothing is missed between two watches.
#[derive(Clone, Debug, PartialEq, Eq, Serialize, Deserialize)]
#[serde(rename_all = "snake_case")]
pub enum RingEvent {
    /// The disk is like this now.
    Resized {
        /// As this guest may see it.
        geometry: Geometry,
    },
    /// Something turned out not to be possible: it is not offered any more.
    Unsupported {
        /// What.
        operation: RingOperation,
    },
    /// A ring makes no sense: it is not looked at any more. Its pages are held until the device is disconnected.
    Broken {
        /// Why, for the guest's error node and for people.
        reason: String,
    },
}

/// An operation that a guest can be told not to ask for.
#[derive(Clone, Copy, Debug, PartialEq, Eq, Hash, Serialize, Deserialize)]
#[serde(rename_all = "snake_case")]
pub enum RingOperation {
    /// `feature-flush-cache`.
    Flush,
    /// `feature-barrier`.
    Barrier,
    /// `feature-discard`.
    Discard,
}

/// A guest's device that is connected.
#[derive(Clone, Debug, Default, PartialEq, Eq, Serialize, Deserialize)]
pub struct RingStatistics {
    /// The guest.
    pub domain: u16,
    /// Its device.
    pub device: u32,
    /// How slots are laid out.
    pub abi: RingAbi,
    /// Its rings.
    pub queues: Vec<RingQueueStatistics>,
    /// Its pages.
    pub pages: RingPages,
    /// What all its rings have done.
    pub counters: RingCounters,
    /// What is wrong with a ring, if anything.
    pub broken: Option<String>,
    /// No request of it is taken: another guest has the disk for itself.
    #[serde(default)]
    pub held: bool,
    /// Nothing is done for it until its guest asks.
    #[serde(default)]
    pub settled: bool,
    /// The guest whose place it has taken, if it has.
    #[serde(default)]
    pub handover: Option<Handover>,
}

/// A guest has taken the place of another.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq, Serialize, Deserialize)]
pub struct Handover {
    /// The guest before.
    pub domain: u16,
    /// Its device.
    pub device: u32,
    /// From its last answer to the first request of the guest that came; none: there was none yet.
    pub blackout_us: Option<u64>,
}

/// A ring that is connected.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq, Serialize, Deserialize)]
pub struct RingQueueStatistics {
    /// The queue of the disk that serves it.
    pub queue: u16,
    /// Pages of the ring.
    pub ring_pages: u16,
    /// What it has done.
    pub counters: RingCounters,
}

/// Pages of a guest.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq, Serialize, Deserialize)]
pub struct RingPages {
    /// Pages of data that requests under way name.
    pub granted: u64,
    /// Mapped here now: those of its rings, and those that stay mapped between requests.
    pub mapped: u64,
    /// The most that were mapped here of one device at one time.
    pub peak: u64,
    /// Mapped when they had to be given back, and not given back. There should be none, ever.
    pub leaked: u64,
}

/// What a ring has done.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq, Serialize, Deserialize)]
pub struct RingCounters {
    /// Requests taken.
    pub requests: u64,
    /// Requests that were refused before they were begun.
    pub refused: u64,
    /// Events from the guest.
    pub kicks_in: u64,
    /// Events to the guest.
    pub kicks_out: u64,
    /// Parts of requests that were copied by asking the hypervisor.
    #[serde(default)]
    pub grant_copies: u64,
    /// Parts of requests that were copied by way of pages that stay mapped.
    #[serde(default)]
    pub mapped_copies: u64,
    /// What waiting for the host's budget of grants has cost.
    pub throttled: Throttled,
}
