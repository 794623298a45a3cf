//! Metrics of guests whose rings are connected to disks, and of the memory of the domain that serves them.

use control_api::native::{RingPages, RingStatistics};
use xen::budget::BudgetAccount;

use super::{
    super::xen_memory::XenMemory,
    exposition::{Exposition, Kind, Labels},
    families::{Metric, Subject, seconds},
};

/// The pages of an account, by the names that are their label.
fn parts(pages: &RingPages) -> [(&'static str, u64); 4] {
    let RingPages { granted, mapped, peak, leaked } = *pages;
    [("granted", granted), ("mapped", mapped), ("peak", peak), ("leaked", leaked)]
}

/// All guests of all disks.
pub(super) fn count_guests(page: &mut Exposition, disks: &[Subject<'_>]) {
    let mut accounts = page.family(
        "oxtap_disk_guest_pages",
        Kind::Gauge,
        "Pages of all guests that are or were connected: named by requests, mapped, the most that were, not given back.",
    );
    for Subject { labels, statistics, .. } in disks.iter().filter(|disk| disk.is_native) {
        for (part, count) in parts(&statistics.disk.ring_pages) {
            accounts.sample(&labels.with("pages", part), count);
        }
    }
    let guests: Vec<(Labels, &RingStatistics)> = disks.iter().flat_map(guests).collect();
    let mut pages = page.family("oxtap_guest_pages", Kind::Gauge, "Pages of a guest's device, likewise.");
    for (labels, guest) in &guests {
        for (part, count) in parts(&guest.pages) {
            pages.sample(&labels.with("pages", part), count);
        }
    }
    let gauges: [Metric<RingStatistics, u64>; 2] = [
        ("oxtap_guest_rings", "Rings of the device.", |guest| guest.queues.len() as u64),
        ("oxtap_guest_broken", "Whether a ring of it makes no sense and is not looked at any more.", |guest| {
            u64::from(guest.broken.is_some())
        }),
    ];
    for (name, help, value) in gauges {
        let mut family = page.family(name, Kind::Gauge, help);
        guests.iter().for_each(|(labels, guest)| family.sample(labels, value(guest)));
    }
    count_work(page, &guests);
}

fn count_work(page: &mut Exposition, guests: &[(Labels, &RingStatistics)]) {
    let counters: [Metric<RingStatistics, u64>; 7] = [
        ("oxtap_guest_requests", "Requests that were taken from rings.", |guest| guest.counters.requests),
        ("oxtap_guest_refused_requests", "Requests that made no sense or were not offered.", |guest| {
            guest.counters.refused
        }),
        ("oxtap_guest_kicks_in", "Events from the guest.", |guest| guest.counters.kicks_in),
        ("oxtap_guest_kicks_out", "Events to the guest.", |guest| guest.counters.kicks_out),
        ("oxtap_guest_grant_copies", "Parts of requests that were copied by the hypervisor.", |guest| {
            guest.counters.grant_copies
        }),
        (
            "oxtap_guest_mapped_copies",
            "Parts of requests that were copied by way of pages that stay mapped.",
            |guest| guest.counters.mapped_copies,
        ),
        ("oxtap_guest_throttled_requests", "Requests that had to wait for the host's budget of grants.", |guest| {
            guest.counters.throttled.requests
        }),
    ];
    for (name, help, value) in counters {
        let mut family = page.family(name, Kind::Counter, help);
        guests.iter().for_each(|(labels, guest)| family.sample(labels, value(guest)));
    }
    let help = "How long requests waited for the host's budget of grants, together.";
    let mut waited = page.family("oxtap_guest_throttled_seconds", Kind::Counter, help);
    for (labels, guest) in guests {
        waited.sample(labels, seconds(guest.counters.throttled.waited_us));
    }
}

fn guests<'a>(disk: &'a Subject<'a>) -> impl Iterator<Item = (Labels, &'a RingStatistics)> {
    let labels = |guest: &RingStatistics| disk.labels.with("domain", guest.domain).with("device", guest.device);
    disk.statistics.disk.rings.iter().map(move |guest| (labels(guest), guest))
}

/// The budget of grants that all guests of the host share, if there is one.
pub(super) fn tell_budget(page: &mut Exposition, budget: Option<&BudgetAccount>) {
    let none = Labels::default();
    let pairs: [Metric<BudgetAccount, [u32; 2]>; 2] = [
        ("oxtap_grant_budget_limit_pages", "Pages of guests that all tapdisks may use together.", |budget| {
            [budget.limits.copies, budget.limits.mapped]
        }),
        ("oxtap_grant_budget_used_pages", "Pages of guests that all tapdisks use.", |budget| {
            [budget.copied, budget.mapped]
        }),
    ];
    for (name, help, value) in pairs {
        let mut family = page.family(name, Kind::Gauge, help);
        for (what, pages) in budget.iter().flat_map(|budget| ["copy", "map"].into_iter().zip(value(budget))) {
            family.sample(&none.with("use", what), pages);
        }
    }
    let counts: [(Kind, Metric<BudgetAccount, u64>); 3] = [
        (Kind::Gauge, ("oxtap_grant_budget_disks", "Disks that take part.", |budget| budget.shares as u64)),
        (
            Kind::Gauge,
            ("oxtap_grant_budget_waiting_disks", "Disks that stand in line.", |budget| budget.waiting.into()),
        ),
        (Kind::Counter, ("oxtap_grant_budget_waits", "How often somebody had to wait.", |budget| budget.waits)),
    ];
    for (kind, (name, help, value)) in counts {
        let mut family = page.family(name, kind, help);
        budget.iter().for_each(|budget| family.sample(&none, value(budget)));
    }
    let mut waited = page.family("oxtap_grant_budget_waited_seconds", Kind::Counter, "How long, together.");
    budget.iter().for_each(|budget| waited.sample(&none, budget.waited.as_secs_f64()));
}

/// What Xen says of the memory of the domain that this runs in, if it runs in one.
pub(super) fn tell_memory(page: &mut Exposition, memory: Option<&XenMemory>) {
    let help = "Memory of the domain that serves the guests, as Xen tells it.";
    let mut family = page.family("oxtap_domain_memory_bytes", Kind::Gauge, help);
    for (what, bytes) in memory.iter().flat_map(|memory| memory.parts()) {
        family.sample(&Labels::default().with("memory", what), bytes);
    }
}
