//! Guests' devices, in the protocol's words.

use control_api::native::{
    Handover, RingAbi, RingConnected, RingCounters, RingDisconnected, RingOffer, RingPages, RingQueueStatistics,
    RingStatistics, Throttled,
};
use export::blkif;
use wire::blkif::{Abi, Limits};

use super::report;
use crate::{
    rings::{Connected, Disconnected, ShownDevice, ShownRing},
    slot::Slot,
};

/// A device that is connected.
pub(super) fn statistics(device: &ShownDevice) -> RingStatistics {
    let name = device.name();
    RingStatistics {
        domain: u16::try_from(name.domain).expect("it is connected"),
        device: name.device,
        abi: abi(device.abi()),
        queues: device.rings().iter().map(queue).collect(),
        pages: pages(device.pages()),
        counters: counters(device.counters()),
        broken: device.broken(),
        held: device.is_held(),
        settled: device.is_settled(),
        handover: device.handover().map(|(before, blackout)| Handover {
            domain: u16::try_from(before.domain).expect("it was connected"),
            device: before.device,
            blackout_us: blackout.map(|time| u64::try_from(time.as_micros()).unwrap_or(u64::MAX)),
        }),
    }
}

/// The pages of all guests that are or were connected to a disk.
pub(super) fn all_pages(slot: &Slot) -> RingPages {
    let (devices, past) = slot.rings();
    devices.iter().map(|device| device.pages()).fold(pages(past), |all, one| RingPages {
        granted: all.granted + u64::from(one.granted),
        mapped: all.mapped + u64::from(one.mapped),
        peak: all.peak.max(one.peak.into()),
        leaked: all.leaked + u64::from(one.leaked),
    })
}

fn queue(ring: &ShownRing) -> RingQueueStatistics {
    let counters = counters(ring.status.counters());
    RingQueueStatistics { queue: ring.queue, ring_pages: ring.pages, counters }
}

fn abi(abi: Abi) -> RingAbi {
    match abi {
        Abi::X86_64 if cfg!(any(target_arch = "arm", target_arch = "aarch64")) => RingAbi::Arm,
        Abi::X86_64 => RingAbi::X86_64,
        Abi::X86_32 => RingAbi::X86_32,
    }
}

fn pages(pages: blkif::RingPages) -> RingPages {
    let blkif::RingPages { granted, mapped, peak, leaked } = pages;
    RingPages { granted: granted.into(), mapped: mapped.into(), peak: peak.into(), leaked: leaked.into() }
}

fn counters(counters: blkif::RingCounters) -> RingCounters {
    let blkif::RingCounters { requests, refused, kicks_in, kicks_out, grant_copies, mapped_copies, .. } = counters;
    let throttled = Throttled { requests: counters.throttled, waited_us: counters.throttled_ns / 1000 };
    RingCounters { requests, refused, kicks_in, kicks_out, grant_copies, mapped_copies, throttled }
}

/// What whoever has connected a device may tell its guest.
pub(super) fn connected(connected: &Connected) -> RingConnected {
    let Connected { already, geometry, offer } = *connected;
    let Limits { flush, barrier, discard, indirect_segments } = offer;
    RingConnected {
        already,
        geometry: report::geometry(geometry),
        offer: RingOffer {
            flush,
            barrier,
            discard,
            discard_granularity: if discard { geometry.physical_block_size } else { 0 },
            discard_alignment: 0,
            discard_secure: false,
            persistent: true,
            indirect_segments,
        },
    }
}

/// How a device ended.
pub(super) fn disconnected(ended: Disconnected) -> RingDisconnected {
    RingDisconnected {
        connected: ended.was_connected,
        counters: counters(ended.counters),
        pages: pages(ended.pages),
        broken: ended.broken,
        not_durable: ended.not_durable,
    }
}
