//! Which metrics there are, and where their numbers come from. docs/metrics.md says the same for people.

use std::time::Duration;

use block_core::SECTOR;
use control_api::native::{
    DiskStatistics, Histogram, Latency, Layer, Limit, LogStatistics, QueueStatistics, Rate, RequestCount,
};

use super::{
    super::{
        common::Common,
        host::Process,
        words::{self, STATES},
    },
    exposition::{Exposition, Kind, Labels},
    guests,
};

/// Bounds of the latency histograms: powers of two of microseconds, from 16 us to 67 s. The buckets of a tapdisk are
/// finer and fall into these; more of them would only make the page longer.
const LATENCY_BOUNDS: std::ops::RangeInclusive<u32> = 4..=26;

/// The name of a metric, its help, and where its number comes from.
pub(super) type Metric<From, To> = (&'static str, &'static str, fn(&From) -> To);

/// A disk with the labels that name it.
pub(super) struct Subject<'a> {
    pub(super) labels: Labels,
    /// Whether all is known of it that a tapdisk counts.
    pub(super) is_native: bool,
    pub(super) statistics: &'a DiskStatistics,
}

/// All metrics of these tapdisks, which took so long to tell them.
pub(super) fn render(processes: &[Process], common: &Common, took: Duration) -> String {
    let mut page = Exposition::default();
    page_of_processes(&mut page, processes);
    let disks: Vec<Subject> = processes.iter().flat_map(subjects).collect();
    describe(&mut page, &disks);
    count_requests(&mut page, &disks);
    count_errors(&mut page, &disks);
    time_requests(&mut page, &disks);
    limit(&mut page, &disks);
    count_queues(&mut page, &disks);
    count_images(&mut page, &disks);
    guests::count_guests(&mut page, &disks);
    guests::tell_budget(&mut page, common.budget.as_ref());
    guests::tell_memory(&mut page, common.memory.as_ref());
    let mut duration =
        page.family("oxtap_scrape_duration_seconds", Kind::Gauge, "How long it took to ask all tapdisks.");
    duration.sample(&Labels::default(), took.as_secs_f64());
    page.end()
}

fn subjects(process: &Process) -> impl Iterator<Item = Subject<'_>> {
    process.disks().iter().map(|statistics| Subject {
        labels: Labels::default().with("pid", process.pid).with("minor", statistics.disk.minor),
        is_native: process.is_native,
        statistics,
    })
}

fn page_of_processes(page: &mut Exposition, processes: &[Process]) {
    let labels = |process: &Process| Labels::default().with("pid", process.pid);
    let mut up = page.family("oxtap_tapdisk_up", Kind::Gauge, "Whether the tapdisk answered in time.");
    for process in processes {
        up.sample(&labels(process), u8::from(!process.is_silent()));
    }
    let told = || {
        let native = processes.iter().filter(|process| process.is_native);
        native.filter_map(|process| Some((labels(process), &process.statistics.as_ref()?.process)))
    };
    let mut about = page.family("oxtap_tapdisk", Kind::Info, "How the tapdisk works.");
    for (labels, process) in told() {
        about.sample(&labels.with("engine", &process.engine), 1);
    }
    let mut uptime = page.family("oxtap_tapdisk_uptime_seconds", Kind::Gauge, "Since the tapdisk was ready.");
    for (labels, process) in told() {
        uptime.sample(&labels, seconds(process.uptime_ms.saturating_mul(1000)));
    }
    let mut lines = page.family(
        "oxtap_tapdisk_log_lines",
        Kind::Counter,
        "Lines of the log: produced, written to the file or lost to it, sent to the host's log or dropped.",
    );
    for (labels, process) in told() {
        let LogStatistics { produced, written, lost, sent, dropped } = process.log;
        let fates =
            [("produced", produced), ("written", written), ("lost", lost), ("sent", sent), ("dropped", dropped)];
        for (fate, count) in fates {
            lines.sample(&labels.with("fate", fate), count);
        }
    }
}

fn describe(page: &mut Exposition, disks: &[Subject]) {
    let mut about = page.family("oxtap_disk", Kind::Info, "What the disk is.");
    for Subject { labels, statistics, .. } in disks {
        let disk = &statistics.disk;
        let read_only = disk.geometry.is_some_and(|geometry| geometry.read_only);
        let labels = labels.with("image", disk.image.as_deref().unwrap_or_default());
        let labels = labels.with("read_only", read_only).with("shared", disk.shared).with("buffered", disk.buffered);
        about.sample(&labels, 1);
    }
    let mut state = page.family("oxtap_disk_state", Kind::StateSet, "Where the disk is in its life.");
    for Subject { labels, statistics, .. } in disks {
        for one in STATES {
            let labels = labels.with("oxtap_disk_state", words::state(one));
            state.sample(&labels, u8::from(statistics.disk.state == one));
        }
    }
    let mut size = page.family("oxtap_disk_size_bytes", Kind::Gauge, "Size of the disk, when it was last open.");
    for Subject { labels, statistics, .. } in disks {
        if let Some(geometry) = statistics.disk.geometry {
            size.sample(labels, geometry.bytes);
        }
    }
    let gauges: [Metric<DiskStatistics, u64>; 2] = [
        ("oxtap_disk_in_flight_requests", "Requests that are being carried out.", |all| all.disk.in_flight),
        ("oxtap_disk_waiting_requests", "Requests that wait for their next attempt.", |all| all.disk.waiting),
    ];
    for (name, help, value) in gauges {
        let mut family = page.family(name, Kind::Gauge, help);
        for Subject { labels, statistics, .. } in disks {
            family.sample(labels, value(statistics));
        }
    }
}

fn count_requests(page: &mut Exposition, disks: &[Subject]) {
    let counters: [Metric<RequestCount, u64>; 3] = [
        ("oxtap_disk_requests", "Requests that came.", |count| count.requests),
        ("oxtap_disk_completed_requests", "Requests that ended, failed ones included.", |count| count.completed),
        ("oxtap_disk_failed_requests", "Requests that ended with an error.", |count| count.errors),
    ];
    for (name, help, value) in counters {
        let mut family = page.family(name, Kind::Counter, help);
        for Subject { labels, statistics, .. } in disks.iter().filter(|disk| disk.is_native) {
            for (kind, count) in &statistics.requests {
                family.sample(&labels.with("kind", kind), value(count));
            }
        }
    }
    let mut bytes = page.family(
        "oxtap_disk_request_bytes",
        Kind::Counter,
        "Bytes that requests were about, in whole sectors, counted when they came.",
    );
    for Subject { labels, statistics, .. } in disks {
        for (kind, count) in &statistics.requests {
            bytes.sample(&labels.with("kind", kind), count.sectors.saturating_mul(SECTOR));
        }
    }
}

fn count_errors(page: &mut Exposition, disks: &[Subject]) {
    let mut errors = page.family("oxtap_disk_errors", Kind::Counter, "Requests that failed in the end, by error.");
    for Subject { labels, statistics, .. } in disks {
        for error in &statistics.errors {
            let name = if error.name.is_empty() { error.errno.to_string() } else { error.name.clone() };
            errors.sample(&labels.with("errno", name), error.count);
        }
    }
    let counters: [Metric<DiskStatistics, u64>; 3] = [
        ("oxtap_disk_retries", "Attempts beyond the first of any request.", |all| all.retries),
        ("oxtap_disk_stuck_requests", "Requests that took so long that they were reported.", |all| all.stuck),
        ("oxtap_disk_resizes", "How often the disk got another size.", |all| all.resized),
    ];
    for (name, help, value) in counters {
        let mut family = page.family(name, Kind::Counter, help);
        for Subject { labels, statistics, .. } in disks.iter().filter(|disk| disk.is_native) {
            family.sample(labels, value(statistics));
        }
    }
}

fn time_requests(page: &mut Exposition, disks: &[Subject]) {
    let histograms: [Metric<Latency, Histogram>; 2] = [
        ("oxtap_disk_queued_seconds", "From a request's coming to its beginning.", |latency| latency.queued.clone()),
        ("oxtap_disk_served_seconds", "From a request's beginning to its end.", |latency| latency.served.clone()),
    ];
    for (name, help, of) in histograms {
        let mut family = page.family(name, Kind::Histogram, help);
        for Subject { labels, statistics, .. } in disks {
            for (kind, latency) in &statistics.latency {
                let histogram = of(latency);
                let (buckets, count) = cumulative(&histogram);
                family.histogram(&labels.with("kind", kind), &buckets, count, seconds(histogram.sum_us));
            }
        }
    }
}

/// How many took at most as long as each of our bounds, and how many there are. All from the buckets: the histogram was
/// read while it changed, and its own count may be a few ahead or behind.
fn cumulative(histogram: &Histogram) -> (Vec<(f64, u64)>, u64) {
    let up_to = |bound: u64| {
        let buckets = histogram.buckets.iter().filter(|bucket| bucket.to_us <= bound);
        buckets.map(|bucket| bucket.count).sum::<u64>()
    };
    let bounds = LATENCY_BOUNDS.map(|exponent| 1_u64 << exponent);
    (bounds.map(|bound| (seconds(bound), up_to(bound))).collect(), up_to(u64::MAX))
}

fn limit(page: &mut Exposition, disks: &[Subject]) {
    let scopes = |disk: &Subject| {
        let limits = disk.statistics.limits;
        [("all", limits.total), ("read", limits.read), ("write", limits.write)]
    };
    let gauges: [Metric<Limit, Option<Rate>>; 2] = [
        ("oxtap_disk_limit_requests_per_second", "Requests that the disk may do, if that is limited.", |limit| {
            limit.requests
        }),
        ("oxtap_disk_limit_bytes_per_second", "Bytes that the disk may move, if that is limited.", |limit| limit.bytes),
    ];
    for (name, help, rate) in gauges {
        let mut family = page.family(name, Kind::Gauge, help);
        for disk in disks {
            for (scope, limit) in scopes(disk) {
                if let Some(rate) = rate(&limit) {
                    family.sample(&disk.labels.with("scope", scope), rate.per_second);
                }
            }
        }
    }
    let native = || disks.iter().filter(|disk| disk.is_native);
    let mut requests =
        page.family("oxtap_disk_throttled_requests", Kind::Counter, "Requests that had to wait for a limit.");
    for Subject { labels, statistics, .. } in native() {
        requests.sample(labels, statistics.throttled.requests);
    }
    let mut waited =
        page.family("oxtap_disk_throttled_seconds", Kind::Counter, "How long requests waited for limits, together.");
    for Subject { labels, statistics, .. } in native() {
        waited.sample(labels, seconds(statistics.throttled.waited_us));
    }
}

fn count_queues(page: &mut Exposition, disks: &[Subject]) {
    let counters: [Metric<QueueStatistics, u64>; 3] = [
        ("oxtap_queue_requests", "Requests that the queue took.", |queue| queue.requests),
        ("oxtap_queue_kicks_in", "How often requests were fetched, several at a time.", |queue| queue.kicks_in),
        ("oxtap_queue_kicks_out", "How often answers were handed out, several at a time.", |queue| queue.kicks_out),
    ];
    let gauges: [Metric<QueueStatistics, u64>; 2] = [
        ("oxtap_queue_in_flight_requests", "Requests that the queue carries out.", |queue| queue.in_flight),
        ("oxtap_queue_throttled_requests", "Requests that wait for a limit.", |queue| queue.throttled),
    ];
    let counters = counters.map(|(name, help, value)| (name, help, Kind::Counter, value));
    let gauges = gauges.map(|(name, help, value)| (name, help, Kind::Gauge, value));
    for (name, help, kind, value) in counters.into_iter().chain(gauges) {
        let mut family = page.family(name, kind, help);
        for Subject { labels, statistics, .. } in disks {
            for queue in &statistics.queues {
                family.sample(&labels.with("queue", queue.queue), value(queue));
            }
        }
    }
}

fn count_images(page: &mut Exposition, disks: &[Subject]) {
    let images = |disk: &Subject| -> Vec<(Labels, Layer)> {
        let layers = disk.statistics.chain.iter().enumerate();
        let labels = |(depth, layer): (usize, &Layer)| {
            let labels = disk.labels.with("depth", depth).with("path", &layer.path);
            (labels.with("format", &layer.format), layer.clone())
        };
        layers.map(labels).collect()
    };
    let mut bytes = page.family("oxtap_image_bytes", Kind::Counter, "Bytes moved to and from an image of a chain.");
    for (labels, layer) in disks.iter().flat_map(images) {
        bytes.sample(&labels.with("direction", "read"), layer.read_sectors.saturating_mul(SECTOR));
        bytes.sample(&labels.with("direction", "write"), layer.write_sectors.saturating_mul(SECTOR));
    }
    let mut errors = page.family("oxtap_image_errors", Kind::Counter, "Reads and writes of an image that failed.");
    for (labels, layer) in disks.iter().flat_map(images) {
        errors.sample(&labels.with("direction", "read"), layer.read_errors);
        errors.sample(&labels.with("direction", "write"), layer.write_errors);
    }
}

pub(super) fn seconds(microseconds: u64) -> f64 {
    microseconds as f64 / 1e6
}

#[cfg(test)]
mod tests {
    use super::{
        super::super::{common::tests::account, host::tests::process, xen_memory::XenMemory},
        *,
    };
    use control_api::native::{Bucket, ErrorCount, Layer, Limit, RingPages, RingStatistics};

    /// The labels and values of all samples with this name.
    fn lines(page: &str, name: &str) -> Vec<String> {
        let rest = page.lines().filter_map(|line| line.strip_prefix(name));
        rest.filter(|rest| rest.starts_with(['{', ' '])).map(|rest| rest.trim_start().to_owned()).collect()
    }

    fn busy() -> Process {
        let mut process = process(70, &[(3, "vhd:/a.vhd")]);
        let disk = &mut process.statistics.as_mut().unwrap().disks[0];
        let read = RequestCount { requests: 5, completed: 4, errors: 1, sectors: 3, queued_us: 1, served_us: 2 };
        disk.requests.insert("read".to_owned(), read);
        let buckets =
            vec![Bucket { to_us: 15, count: 1 }, Bucket { to_us: 31, count: 2 }, Bucket { to_us: 1 << 40, count: 1 }];
        let served = Histogram { count: 5, sum_us: 2_500_000, buckets, ..Histogram::default() };
        disk.latency.insert("read".to_owned(), Latency { served, ..Latency::default() });
        disk.errors.push(ErrorCount { errno: 28, name: "ENOSPC".to_owned(), count: 1 });
        disk.limits.read = Limit { requests: Some(Rate { per_second: 7, burst: None }), bytes: None };
        disk.queues.push(QueueStatistics { queue: 1, kicks_in: 9, ..QueueStatistics::default() });
        let (path, format) = ("/a.vhd".to_owned(), "vhd".to_owned());
        disk.disk.ring_pages = RingPages { granted: 0, mapped: 4, peak: 9, leaked: 0 };
        disk.disk.rings.push(RingStatistics { domain: 7, device: 51712, ..RingStatistics::default() });
        disk.chain.push(Layer { path, format, read_sectors: 2, write_sectors: 1, read_errors: 0, write_errors: 4 });
        process
    }

    #[test]
    fn numbers_stand_under_the_names_of_the_manual() {
        let page = render(&[busy()], &Common::default(), Duration::from_millis(1500));
        let disk = "{pid=\"70\",minor=\"3\"";
        assert_eq!(lines(&page, "oxtap_tapdisk_up"), ["{pid=\"70\"} 1"]);
        assert_eq!(lines(&page, "oxtap_disk_requests_total"), [format!("{disk},kind=\"read\"}} 5")]);
        assert_eq!(lines(&page, "oxtap_disk_request_bytes_total"), [format!("{disk},kind=\"read\"}} 1536")]);
        assert_eq!(lines(&page, "oxtap_disk_errors_total"), [format!("{disk},errno=\"ENOSPC\"}} 1")]);
        assert_eq!(lines(&page, "oxtap_disk_limit_requests_per_second"), [format!("{disk},scope=\"read\"}} 7")]);
        assert_eq!(lines(&page, "oxtap_queue_kicks_in_total"), [format!("{disk},queue=\"1\"}} 9")]);
        let failed = format!("{disk},depth=\"0\",path=\"/a.vhd\",format=\"vhd\",direction=\"write\"}} 4");
        assert!(lines(&page, "oxtap_image_errors_total").contains(&failed));
        let running = format!("{disk},oxtap_disk_state=\"running\"}} 1");
        assert_eq!(lines(&page, "oxtap_disk_state").len(), STATES.len());
        assert!(lines(&page, "oxtap_disk_state").contains(&running));
        let accounts = ["granted\"} 0", "mapped\"} 4", "peak\"} 9", "leaked\"} 0"];
        assert_eq!(lines(&page, "oxtap_disk_guest_pages"), accounts.map(|part| format!("{disk},pages=\"{part}")));
        let guest = format!("{disk},domain=\"7\",device=\"51712\"");
        assert_eq!(lines(&page, "oxtap_guest_broken"), [format!("{guest}}} 0")]);
        assert!(lines(&page, "oxtap_guest_pages").contains(&format!("{guest},pages=\"leaked\"}} 0")));
        assert_eq!(lines(&page, "oxtap_scrape_duration_seconds"), ["1.5"]);
        assert!(page.ends_with("\n# EOF\n"));
    }

    #[test]
    fn a_histogram_counts_everything_up_to_each_bound() {
        let page = render(&[busy()], &Common::default(), Duration::ZERO);
        let labels = "{pid=\"70\",minor=\"3\",kind=\"read\"";
        let buckets = lines(&page, "oxtap_disk_served_seconds_bucket");
        assert_eq!(buckets[0], format!("{labels},le=\"1.6e-5\"}} 1"));
        assert_eq!(buckets[1], format!("{labels},le=\"3.2e-5\"}} 3"));
        assert_eq!(buckets[buckets.len() - 2], format!("{labels},le=\"67.108864\"}} 3"));
        assert_eq!(buckets[buckets.len() - 1], format!("{labels},le=\"+Inf\"}} 4"));
        // The count of the buckets, whatever was counted elsewhere in the meantime.
        assert_eq!(lines(&page, "oxtap_disk_served_seconds_count"), [format!("{labels}}} 4")]);
        assert_eq!(lines(&page, "oxtap_disk_served_seconds_sum"), [format!("{labels}}} 2.5")]);
    }

    #[test]
    fn the_memory_of_the_domain_is_told_if_there_is_xen() {
        let place = tempfile::tempdir().unwrap();
        std::fs::create_dir(place.path().join("info")).unwrap();
        for (name, text) in [("info/current_kb", "2048\n"), ("target_kb", "4096\n"), ("info/low_kb", "16\n")] {
            std::fs::write(place.path().join(name), text).unwrap();
        }
        let page = |memory| render(&[], &Common { memory, budget: None }, Duration::ZERO);
        let told = page(XenMemory::read_in(place.path()));
        let expected = ["{memory=\"current\"} 2097152", "{memory=\"target\"} 4194304", "{memory=\"low\"} 16384"];
        assert_eq!(lines(&told, "oxtap_domain_memory_bytes"), expected);
        assert_eq!(lines(&page(None), "oxtap_domain_memory_bytes"), [""; 0]);
    }

    #[test]
    fn the_budget_of_grants_is_told_if_there_is_one() {
        let page = |budget| render(&[], &Common { memory: None, budget }, Duration::ZERO);
        let told = page(Some(account()));
        let both = |name, [copied, mapped]: [u32; 2]| {
            let expected = [format!("{{use=\"copy\"}} {copied}"), format!("{{use=\"map\"}} {mapped}")];
            assert_eq!(lines(&told, name), expected);
        };
        both("oxtap_grant_budget_limit_pages", [300, 400]);
        both("oxtap_grant_budget_used_pages", [264, 4]);
        let one = |name| lines(&told, name).concat();
        assert_eq!(
            (one("oxtap_grant_budget_disks"), one("oxtap_grant_budget_waiting_disks")),
            ("2".into(), "1".into())
        );
        let waits = (one("oxtap_grant_budget_waits_total"), one("oxtap_grant_budget_waited_seconds_total"));
        assert_eq!(waits, ("3".into(), "0.00102".into()));
        assert!(page(None).lines().all(|line| line.starts_with('#') || !line.contains("grant_budget")));
    }

    #[test]
    fn one_who_does_not_answer_is_down() {
        let silent = Process { pid: 72, is_native: true, statistics: None };
        let page = render(&[silent], &Common::default(), Duration::ZERO);
        assert_eq!(lines(&page, "oxtap_tapdisk_up"), ["{pid=\"72\"} 0"]);
    }

    #[test]
    fn every_family_is_in_the_manual_and_nothing_else_is() {
        let manual = include_str!("../../../../../docs/metrics.md");
        let told: std::collections::BTreeSet<&str> =
            manual.lines().filter_map(|line| line.strip_prefix("| `")?.split('`').next()).collect();
        let page = render(&[], &Common::default(), Duration::ZERO);
        let made = page.lines().filter_map(|line| line.strip_prefix("# TYPE ")?.split(' ').next()).collect();
        assert_eq!(told, made);
    }
}
