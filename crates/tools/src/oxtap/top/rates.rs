//! What happened between two looks.

use std::{collections::BTreeMap, time::Instant};

use block_core::SECTOR;
use control_api::native::{DiskStatistics, RingPages, RingStatistics, State, Throttled};
use xen::budget::BudgetAccount;

use super::super::host::Process;

/// What all tapdisks told at some time.
#[derive(Clone, Debug)]
pub(super) struct Look {
    pub(super) at: Instant,
    pub(super) processes: Vec<Process>,
    /// What all guests use together, if there is a budget.
    pub(super) budget: Option<BudgetAccount>,
}

/// One disk at work. Rates are for each second; none until there are two looks at it.
#[derive(Clone, Debug, PartialEq)]
pub(super) struct Row {
    pub(super) pid: u32,
    pub(super) minor: u16,
    pub(super) image: String,
    pub(super) state: State,
    pub(super) trouble: bool,
    pub(super) in_flight: u64,
    pub(super) waiting: u64,
    /// Failed requests, ever.
    pub(super) errors: u64,
    pub(super) rates: Option<Rates>,
    pub(super) guests: Vec<GuestRow>,
}

/// A guest's device below its disk.
#[derive(Clone, Debug, PartialEq)]
pub(super) struct GuestRow {
    pub(super) domain: u16,
    pub(super) device: u32,
    pub(super) rings: usize,
    pub(super) pages: RingPages,
    /// What the host's budget of grants has cost it, ever.
    pub(super) throttled: Throttled,
    pub(super) broken: Option<String>,
    /// Requests for each second; none until there are two looks at it.
    pub(super) requests: Option<f64>,
}

/// What happened in a second, on average.
#[derive(Clone, Copy, Debug, Default, PartialEq)]
pub(super) struct Rates {
    /// Requests that ended.
    pub(super) requests: f64,
    pub(super) read_bytes: f64,
    pub(super) written_bytes: f64,
    /// Requests that were in the disk at any instant, on average: all their times together, by the time that passed.
    pub(super) load: f64,
    pub(super) errors: f64,
    /// Half of the requests that ended were served in this time.
    pub(super) p50_us: Option<u64>,
    /// 99 of 100 were.
    pub(super) p99_us: Option<u64>,
}

/// All disks as they are in `now`, with what they did since `before`.
pub(super) fn rows(before: Option<&Look>, now: &Look) -> Vec<Row> {
    let earlier: BTreeMap<(u32, u16), &DiskStatistics> = before.map(disks).into_iter().flatten().collect();
    let seconds = before.map_or(0.0, |before| now.at.duration_since(before.at).as_secs_f64());
    let row = |((pid, minor), statistics): ((u32, u16), &DiskStatistics)| {
        let earlier = earlier.get(&(pid, minor)).filter(|earlier| seconds > 0.0 && is_later(earlier, statistics));
        Row {
            pid,
            minor,
            image: statistics.disk.image.clone().unwrap_or_default(),
            state: statistics.disk.state,
            trouble: statistics.disk.trouble.is_some(),
            in_flight: statistics.disk.in_flight,
            waiting: statistics.disk.waiting,
            errors: sum(statistics, |count| count.errors),
            rates: earlier.map(|earlier| rates(earlier, statistics, seconds)),
            guests: statistics.disk.rings.iter().map(|guest| guest_row(earlier.copied(), guest, seconds)).collect(),
        }
    };
    disks(now).map(row).collect()
}

/// A device that was connected again counts from zero, as a disk does.
fn guest_row(disk_before: Option<&DiskStatistics>, now: &RingStatistics, seconds: f64) -> GuestRow {
    let known = disk_before.map(|disk| &disk.disk.rings[..]).unwrap_or_default();
    let before = known.iter().find(|guest| (guest.domain, guest.device) == (now.domain, now.device));
    let before = before.map(|guest| guest.counters.requests).filter(|before| *before <= now.counters.requests);
    GuestRow {
        domain: now.domain,
        device: now.device,
        rings: now.queues.len(),
        pages: now.pages,
        throttled: now.counters.throttled,
        broken: now.broken.clone(),
        requests: before.map(|before| per_second(before, now.counters.requests, seconds)),
    }
}

fn disks(look: &Look) -> impl Iterator<Item = ((u32, u16), &DiskStatistics)> {
    let of = |process: &'_ Process| process.pid;
    look.processes
        .iter()
        .flat_map(move |process| process.disks().iter().map(move |disk| ((of(process), disk.disk.minor), disk)))
}

/// A disk that was detached and attached again counts from zero: then there is nothing to compare.
fn is_later(before: &DiskStatistics, now: &DiskStatistics) -> bool {
    let came = |statistics| sum(statistics, |count| count.requests + count.sectors);
    came(now) >= came(before)
}

fn sum(statistics: &DiskStatistics, of: fn(&control_api::native::RequestCount) -> u64) -> u64 {
    statistics.requests.values().map(of).sum()
}

fn rates(before: &DiskStatistics, now: &DiskStatistics, seconds: f64) -> Rates {
    let grown = |of: fn(&control_api::native::RequestCount) -> u64| per_second(sum(before, of), sum(now, of), seconds);
    let bytes = |kind: &str| {
        let sectors = |statistics: &DiskStatistics| statistics.requests.get(kind).map_or(0, |count| count.sectors);
        per_second(sectors(before), sectors(now), seconds) * SECTOR as f64
    };
    let ended = served_since(before, now);
    Rates {
        requests: grown(|count| count.completed),
        read_bytes: bytes("read"),
        written_bytes: bytes("write"),
        load: grown(|count| count.queued_us.saturating_add(count.served_us)) / 1e6,
        errors: grown(|count| count.errors),
        p50_us: quantile(&ended, 0.5),
        p99_us: quantile(&ended, 0.99),
    }
}

fn per_second(before: u64, now: u64, seconds: f64) -> f64 {
    now.saturating_sub(before) as f64 / seconds
}

/// How many requests of any kind ended with each service time: by the longest time of a bucket.
fn served_since(before: &DiskStatistics, now: &DiskStatistics) -> BTreeMap<u64, u64> {
    let mut ended: BTreeMap<u64, u64> = BTreeMap::new();
    for bucket in now.latency.values().flat_map(|latency| &latency.served.buckets) {
        *ended.entry(bucket.to_us).or_default() += bucket.count;
    }
    for bucket in before.latency.values().flat_map(|latency| &latency.served.buckets) {
        if let Some(count) = ended.get_mut(&bucket.to_us) {
            *count = count.saturating_sub(bucket.count);
        }
    }
    ended.into_iter().filter(|(_, count)| *count > 0).collect()
}

/// The time that this part of them did not exceed.
fn quantile(ended: &BTreeMap<u64, u64>, part: f64) -> Option<u64> {
    let total: u64 = ended.values().sum();
    let wanted = total as f64 * part;
    let mut counted = 0;
    ended.iter().find_map(|(to, count)| {
        counted += count;
        (counted as f64 >= wanted).then_some(*to)
    })
}

#[cfg(test)]
pub(super) mod tests {
    use super::{
        super::super::{common::tests::account, host::tests::process},
        *,
    };
    use control_api::native::{Bucket, Histogram, Latency, RequestCount, RingCounters, RingQueueStatistics};
    use std::time::Duration;

    fn histogram(buckets: &[(u64, u64)]) -> Histogram {
        let buckets = buckets.iter().map(|&(to_us, count)| Bucket { to_us, count }).collect();
        Histogram { buckets, ..Histogram::default() }
    }

    /// A look at one disk that has done so many reads of 4 KiB, each in 100 us of service.
    pub(in super::super) fn look(at: Instant, reads: u64) -> Look {
        let mut process = process(70, &[(3, "vhd:/images/a.vhd"), (4, "vhd:/images/b.vhd")]);
        let disk = &mut process.statistics.as_mut().unwrap().disks[0];
        let (served_us, errors) = (reads * 100, reads / 10);
        let read =
            RequestCount { requests: reads, completed: reads, sectors: reads * 8, served_us, errors, queued_us: 0 };
        disk.requests.insert("read".to_owned(), read);
        let served = histogram(&[(127, reads), (1023, reads / 50)]);
        disk.latency.insert("read".to_owned(), Latency { served, ..Latency::default() });
        disk.disk.in_flight = 2;
        Look { at, processes: vec![process], budget: None }
    }

    /// The same, and a guest that has asked for all of it by two rings.
    pub(in super::super) fn look_with_guest(at: Instant, reads: u64) -> Look {
        let mut look = look(at, reads);
        let disk = &mut look.processes[0].statistics.as_mut().unwrap().disks[0];
        let throttled = Throttled { requests: 3, waited_us: 1020 };
        let counters = RingCounters { requests: reads, throttled, ..RingCounters::default() };
        let pages = RingPages { granted: 22, mapped: 4, peak: 356, leaked: 0 };
        let queues = vec![RingQueueStatistics::default(); 2];
        let guest = RingStatistics { domain: 7, device: 51712, queues, pages, counters, ..RingStatistics::default() };
        disk.disk.rings = vec![guest];
        Look { budget: Some(account()), ..look }
    }

    #[test]
    fn guests_have_rates_unless_they_were_connected_anew() {
        let start = Instant::now();
        let later = start + Duration::from_secs(2);
        let rates = |before: &Look, now| rows(Some(before), &now)[0].guests[0].requests;
        let before = look_with_guest(start, 1000);
        assert_eq!(rates(&before, look_with_guest(later, 3000)), Some(1000.0));
        assert_eq!(rates(&look(start, 1000), look_with_guest(later, 3000)), None, "it was not there before");
        let mut anew = look_with_guest(later, 3000);
        anew.processes[0].statistics.as_mut().unwrap().disks[0].disk.rings[0].counters.requests = 10;
        assert_eq!(rates(&before, anew), None);
    }

    #[test]
    fn rates_are_differences_by_time() {
        let start = Instant::now();
        let (before, now) = (look(start, 1000), look(start + Duration::from_secs(2), 3000));
        let rows = rows(Some(&before), &now);
        let rates = rows[0].rates.unwrap();
        assert_eq!((rates.requests, rates.read_bytes, rates.written_bytes), (1000.0, 4_096_000.0, 0.0));
        assert_eq!((rates.load, rates.errors), (0.1, 100.0));
        assert_eq!((rates.p50_us, rates.p99_us), (Some(127), Some(1023)));
        assert_eq!((rows[0].errors, rows[0].in_flight), (300, 2));
        assert_eq!(rows[1].rates.unwrap(), Rates::default());
    }

    #[test]
    fn the_first_look_has_no_rates_and_neither_has_a_disk_that_began_anew() {
        let start = Instant::now();
        let first = look(start, 1000);
        assert_eq!(rows(None, &first)[0].rates, None);
        let anew = look(start + Duration::from_secs(1), 10);
        assert_eq!(rows(Some(&first), &anew)[0].rates, None);
        assert_eq!(rows(Some(&first), &look(start, 2000))[0].rates, None, "no time has passed");
    }
}
