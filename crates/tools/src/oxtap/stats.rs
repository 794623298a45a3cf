//! `oxtap stats`: everything that is counted of a disk, in readable form.

use std::time::{Duration, UNIX_EPOCH};

use block_core::{Result, SECTOR};
use control_api::native::{
    DiskStatistics, FailureCause, Histogram, InFlightRequest, Layer, RequestPhase, RingCounters,
};

use super::{
    arguments::Stats,
    control::Disk,
    name::Place,
    size::{self, count, describe_microseconds as time},
    text::{self, columns},
    words,
};

/// Running requests that are shown; the oldest are the interesting ones.
const RUNNING_SHOWN: usize = 20;

pub(super) fn run(arguments: &Stats) -> Result<()> {
    let mut disk = Disk::find(&arguments.disk)?;
    let statistics = disk.statistics()?;
    if arguments.json { text::print_json(&statistics) } else { text::print(&report(disk.place, &statistics)) }
}

fn report(place: Place, statistics: &DiskStatistics) -> String {
    let sections = [
        head(place, statistics),
        requests(statistics),
        latencies(statistics),
        errors(statistics),
        queues(statistics),
        guests(statistics),
        images(statistics),
        running(statistics),
    ];
    let sections: Vec<String> = sections.into_iter().filter(|section| !section.is_empty()).collect();
    sections.join("\n")
}

fn head(place: Place, statistics: &DiskStatistics) -> String {
    let disk = &statistics.disk;
    let image = disk.image.as_deref().unwrap_or("no image");
    let mut lines = vec![("state", words::state(disk.state).to_owned())];
    let mut add = |name, words: Option<String>| lines.extend(words.map(|words| (name, words)));
    add("doing", disk.step.clone());
    add("trouble", disk.trouble.clone());
    add(
        "size",
        disk.geometry.map(|geometry| {
            let access = if geometry.read_only { ", read-only" } else { "" };
            let (logical, physical) = (geometry.logical_block_bytes, geometry.physical_block_bytes);
            format!("{}, blocks of {logical} bytes ({physical} on storage){access}", size::describe(geometry.bytes))
        }),
    );
    add("NBD", disk.nbd.clone());
    add("now", Some(format!("{} in flight, {} to be tried again", count(disk.in_flight, "request"), disk.waiting)));
    add("limits", words::limits(&statistics.limits));
    add("budget", statistics.valve.clone());
    add("pages", Some(words::pages(&disk.ring_pages)));
    let throttled = &statistics.throttled;
    add(
        "held back",
        (throttled.requests > 0)
            .then(|| format!("{}, for {} in all", count(throttled.requests, "request"), time(throttled.waited_us))),
    );
    add("retries", (statistics.retries > 0).then(|| statistics.retries.to_string()));
    add("stuck", (statistics.stuck > 0).then(|| format!("{} took very long", count(statistics.stuck, "request"))));
    add("resized", (statistics.resized > 0).then(|| count(statistics.resized, "time")));
    let lines = lines.into_iter().map(|(name, words)| format!("  {name:<10} {words}\n"));
    format!("disk {place}  {image}\n{}", lines.collect::<String>())
}

fn table<const N: usize>(head: [&str; N], rows: Vec<[String; N]>) -> String {
    if rows.is_empty() {
        return String::new();
    }
    columns(&std::iter::once(head.map(str::to_owned)).chain(rows).collect::<Vec<_>>())
}

fn requests(statistics: &DiskStatistics) -> String {
    let rows = statistics.requests.iter().filter(|(_, count)| count.requests > 0);
    let rows = rows.map(|(kind, count)| {
        let mean = |total: u64| total.checked_div(count.completed).map_or_else(|| "-".to_owned(), time);
        [
            kind.clone(),
            count.requests.to_string(),
            count.completed.to_string(),
            count.errors.to_string(),
            size::describe(count.sectors.saturating_mul(SECTOR)),
            mean(count.queued_us),
            mean(count.served_us),
        ]
    });
    table(["REQUESTS", "CAME", "ENDED", "FAILED", "BYTES", "MEAN QUEUED", "MEAN SERVED"], rows.collect())
}

fn latencies(statistics: &DiskStatistics) -> String {
    let both = |(kind, latency): (&String, _)| {
        let control_api::native::Latency { queued, served } = latency;
        [(format!("{kind} queued"), queued), (format!("{kind} served"), served)]
    };
    let histograms = statistics.latency.iter().map(|(kind, latency)| (kind, latency.clone())).flat_map(both);
    let rows = histograms.filter(|(_, histogram)| histogram.count > 0).map(|(name, histogram)| {
        let Histogram { count, p50_us, p90_us, p99_us, p999_us, max_us, .. } = histogram;
        let [p50, p90, p99, p999, max] = [p50_us, p90_us, p99_us, p999_us, max_us].map(time);
        [name, count.to_string(), p50, p90, p99, p999, max]
    });
    table(["LATENCY", "COUNT", "50 %", "90 %", "99 %", "99.9 %", "LONGEST"], rows.collect())
}

fn errors(statistics: &DiskStatistics) -> String {
    let rows = statistics
        .errors
        .iter()
        .map(|error| [error.name.clone(), error.count.to_string(), control_api::describe(error.errno)]);
    let mut section = table(["ERRORS", "COUNT", "MEANING"], rows.collect());
    for failure in &statistics.failures {
        section += &cause(failure);
    }
    section
}

/// `  3 x write, /a.vhd: Input/output error (first Nov 21 04:44:05, last Nov 21 05:00:00)`
fn cause(failure: &FailureCause) -> String {
    let FailureCause { errno, kind, place, reason, first_ms, last_ms, count } = failure;
    let place = place.as_deref().unwrap_or("never reached storage");
    let at = |milliseconds| control_api::timestamp(UNIX_EPOCH + Duration::from_millis(milliseconds));
    let words = text::failure(*errno, reason);
    let (first, last) = (at(*first_ms), at(*last_ms));
    let when = if *count == 1 { format!("at {last}") } else { format!("first {first}, last {last}") };
    format!("  {count} x {kind}, {place}: {words} ({when} UTC)\n")
}

fn queues(statistics: &DiskStatistics) -> String {
    let rows = statistics.queues.iter().map(|queue| {
        let per_kick = |kicks: u64| if kicks == 0 { "-".to_owned() } else { tenths(queue.requests, kicks) };
        [
            queue.queue.to_string(),
            queue.requests.to_string(),
            queue.in_flight.to_string(),
            queue.waiting.to_string(),
            queue.throttled.to_string(),
            queue.kicks_in.to_string(),
            queue.kicks_out.to_string(),
            per_kick(queue.kicks_in),
            per_kick(queue.kicks_out),
        ]
    });
    let head =
        ["QUEUE", "REQUESTS", "IN FLIGHT", "TO RETRY", "HELD BACK", "KICKS IN", "KICKS OUT", "PER IN", "PER OUT"];
    table(head, rows.collect())
}

/// The rings of guests.
fn guests(statistics: &DiskStatistics) -> String {
    let rows = statistics.disk.rings.iter().flat_map(|guest| {
        guest.queues.iter().map(move |ring| {
            let RingCounters { requests, refused, kicks_in, kicks_out, throttled, .. } = ring.counters;
            let per_kick = |kicks: u64| if kicks == 0 { "-".to_owned() } else { tenths(requests, kicks) };
            [
                format!("{}-{}", guest.domain, guest.device),
                ring.queue.to_string(),
                ring.ring_pages.to_string(),
                requests.to_string(),
                refused.to_string(),
                throttled.requests.to_string(),
                kicks_in.to_string(),
                kicks_out.to_string(),
                per_kick(kicks_in),
                per_kick(kicks_out),
            ]
        })
    });
    let head =
        ["GUEST", "QUEUE", "PAGES", "REQUESTS", "REFUSED", "HELD BACK", "KICKS IN", "KICKS OUT", "PER IN", "PER OUT"];
    let mut section = table(head, rows.collect());
    for guest in &statistics.disk.rings {
        section += &format!("  {}\n", words::guest(guest));
    }
    section
}

/// A quotient with one digit behind the point.
fn tenths(dividend: u64, divisor: u64) -> String {
    format!("{:.1}", dividend as f64 / divisor as f64)
}

fn images(statistics: &DiskStatistics) -> String {
    let bytes = |sectors: u64| size::describe(sectors.saturating_mul(SECTOR));
    let rows = statistics.chain.iter().map(|layer| {
        let Layer { path, format, read_sectors, write_sectors, read_errors, write_errors } = layer;
        let failed = format!("{read_errors}/{write_errors}");
        [format.clone(), bytes(*read_sectors), bytes(*write_sectors), failed, path.clone()]
    });
    table(["IMAGE", "READ", "WRITTEN", "FAILED R/W", "PATH"], rows.collect())
}

fn running(statistics: &DiskStatistics) -> String {
    let rows = statistics.running.iter().take(RUNNING_SHOWN).map(|request| {
        let InFlightRequest { queue, kind, offset, length, age_us, phase, attempts } = request;
        let phase = match phase {
            RequestPhase::Running => "being carried out",
            RequestPhase::Waiting => "waits for its next attempt",
        };
        let place = format!("{offset:#x}+{length:#x}");
        [kind.clone(), place, time(*age_us), attempts.to_string(), queue.to_string(), phase.to_owned()]
    });
    let mut section = table(["RUNNING", "WHERE", "AGE", "ATTEMPTS", "QUEUE", "STATE"], rows.collect());
    let rest = statistics.running.len().saturating_sub(RUNNING_SHOWN);
    if rest > 0 {
        section += &format!("  and {rest} more\n");
    }
    section
}

#[cfg(test)]
mod tests {
    use super::{super::older, *};
    use control_api::native::{
        ErrorCount, Geometry, Latency, Limit, Limits, QueueStatistics, Rate, RequestCount, RingPages,
        RingQueueStatistics, RingStatistics, State, Throttled,
    };

    fn everything() -> DiskStatistics {
        let mut all = older::disk(4, Some("vhd:/a.vhd".to_owned()));
        all.disk.state = State::ResumeFailed;
        all.disk.trouble = Some("/a.vhd: No such file or directory".to_owned());
        all.disk.geometry =
            Some(Geometry { bytes: 64 << 20, logical_block_bytes: 512, physical_block_bytes: 4096, read_only: true });
        all.disk.in_flight = 1;
        let count = RequestCount { requests: 4, completed: 2, errors: 1, sectors: 24, queued_us: 20, served_us: 3740 };
        all.requests.insert("read".to_owned(), count);
        let served = Histogram {
            count: 2,
            sum_us: 3740,
            max_us: 1900,
            p50_us: 1800,
            p90_us: 1900,
            p99_us: 1900,
            p999_us: 1900,
            buckets: Vec::new(),
        };
        all.latency.insert("read".to_owned(), Latency { served, ..Latency::default() });
        all.errors.push(ErrorCount { errno: 5, name: "EIO".to_owned(), count: 3 });
        all.failures.push(FailureCause {
            errno: 5,
            kind: "read".to_owned(),
            place: Some("/a.vhd".to_owned()),
            reason: "read 0x200+0x200".to_owned(),
            first_ms: 1_795_236_245_000,
            last_ms: 1_795_236_246_000,
            count: 3,
        });
        let queue = QueueStatistics { requests: 4, kicks_in: 3, ..QueueStatistics::default() };
        all.queues.push(queue);
        all.chain.push(Layer {
            path: "/a.vhd".to_owned(),
            format: "vhd".to_owned(),
            read_sectors: 8,
            write_sectors: 0,
            read_errors: 3,
            write_errors: 0,
        });
        all.running.push(InFlightRequest {
            queue: 0,
            kind: "write".to_owned(),
            offset: 4096,
            length: 512,
            age_us: 12_000_000,
            phase: RequestPhase::Waiting,
            attempts: 7,
        });
        let total = Limit { requests: Some(Rate { per_second: 500, burst: None }), bytes: None };
        all.limits = Limits { total, ..Limits::default() };
        all.throttled = Throttled { requests: 1, waited_us: 2000 };
        all
    }

    const REPORT: &str = "\
disk 70:4  vhd:/a.vhd
  state      resume failed
  trouble    /a.vhd: No such file or directory
  size       64 MiB, blocks of 512 bytes (4096 on storage), read-only
  now        1 request in flight, 0 to be tried again
  limits     500 IOPS
  pages      0 granted, 0 mapped, 0 at most, 0 lost
  held back  1 request, for 2.00 ms in all

REQUESTS  CAME  ENDED  FAILED  BYTES   MEAN QUEUED  MEAN SERVED
read      4     2      1       12 KiB  10 us        1.87 ms

LATENCY      COUNT  50 %     90 %     99 %     99.9 %   LONGEST
read served  2      1.80 ms  1.90 ms  1.90 ms  1.90 ms  1.90 ms

ERRORS  COUNT  MEANING
EIO     3      Input/output error
  3 x read, /a.vhd: read 0x200+0x200: Input/output error (first Nov 21 04:44:05, last Nov 21 04:44:06 UTC)

QUEUE  REQUESTS  IN FLIGHT  TO RETRY  HELD BACK  KICKS IN  KICKS OUT  PER IN  PER OUT
0      4         0          0         0          3         0          1.3     -

IMAGE  READ   WRITTEN  FAILED R/W  PATH
vhd    4 KiB  0 B      3/0         /a.vhd

RUNNING  WHERE         AGE     ATTEMPTS  QUEUE  STATE
write    0x1000+0x200  12.0 s  7         0      waits for its next attempt
";

    #[test]
    fn everything_is_told_in_readable_form() {
        assert_eq!(report(Place { pid: 70, minor: 4 }, &everything()), REPORT);
    }

    #[test]
    fn the_rings_of_guests_are_told() {
        let mut all = older::disk(4, None);
        let counters = RingCounters { requests: 6, kicks_in: 3, ..RingCounters::default() };
        let queues = vec![RingQueueStatistics { queue: 1, ring_pages: 16, counters }];
        let pages = RingPages { mapped: 16, peak: 16, ..RingPages::default() };
        let guest = RingStatistics { domain: 7, device: 5, queues, pages, counters, ..RingStatistics::default() };
        (all.disk.rings, all.disk.ring_pages) = (vec![guest], pages);
        let report = report(Place { pid: 70, minor: 4 }, &all);
        assert!(report.contains("  pages      0 granted, 16 mapped, 16 at most, 0 lost\n"), "{report}");
        let section = "\
GUEST  QUEUE  PAGES  REQUESTS  REFUSED  HELD BACK  KICKS IN  KICKS OUT  PER IN  PER OUT
7-5    1      16     6         0        0          3         0          2.0     -
  7-5: 1 ring, 6 requests, pages: 0 granted, 16 mapped, 16 at most, 0 lost
";
        assert!(report.ends_with(section), "{report}");
    }

    #[test]
    fn a_disk_that_has_done_nothing_has_a_short_report() {
        let report = report(Place { pid: 70, minor: 4 }, &older::disk(4, None));
        assert_eq!(
            report,
            "disk 70:4  no image\n  state      running\n  now        0 requests in flight, 0 to be tried again\n  pages      0 granted, 0 mapped, 0 at most, 0 lost\n"
        );
    }

    #[test]
    fn of_very_many_running_requests_the_oldest_are_shown() {
        let mut many = everything();
        many.running = vec![many.running[0].clone(); RUNNING_SHOWN + 5];
        assert!(running(&many).ends_with("  and 5 more\n"));
    }
}
