//! What is said about requests: a line for people, and fields for a journal.

use std::time::Duration;

use block_core::{Error, GuestRange};
use control_api::{Field, Minor, Severity, describe, errno, reason};
use virtual_disk::{Failure, Report, RequestKind, Retrying, StuckRequest};

use super::causes::is_nonsense;

/// A line, and what a journal keeps apart.
#[derive(Debug)]
pub(super) struct Told {
    pub(super) severity: Severity,
    pub(super) text: String,
    pub(super) fields: Vec<Field>,
}

/// What is said about a report of a disk.
pub(super) fn tell(minor: Minor, image: &str, report: &Report, has_fields: bool) -> Told {
    let (severity, words) = match report {
        Report::Failed(failure) => (severity(failure), failed(failure)),
        Report::Retrying(retrying) => (Severity::Warning, retried(retrying)),
        Report::Stuck(request) => (Severity::Warning, stuck(request)),
        Report::Ended(request) => (Severity::Info, ended(request)),
    };
    let (_, kind, range) = subject(report);
    let text = format!("minor={minor} image={image}: {} {words}", request(kind, range));
    let fields = if has_fields { fields(minor, image, report) } else { Vec::new() };
    Told { severity, text, fields }
}

fn fields(minor: Minor, image: &str, report: &Report) -> Vec<Field> {
    let mut fields = match report {
        Report::Failed(failure) => fields_of_failure(failure),
        Report::Retrying(retrying) => fields_of_error(&retrying.error),
        Report::Stuck(_) | Report::Ended(_) => Vec::new(),
    };
    let (queue, kind, range) = subject(report);
    fields.push(("OXTAP_MINOR", minor.to_string()));
    fields.push(("OXTAP_IMAGE", image.to_owned()));
    fields.push(("OXTAP_QUEUE", queue.to_string()));
    fields.push(("OXTAP_REQUEST", request(kind, range)));
    fields
}

fn subject(report: &Report) -> (u16, RequestKind, Option<GuestRange>) {
    match report {
        Report::Failed(Failure { queue, kind, range, .. })
        | Report::Retrying(Retrying { queue, kind, range, .. })
        | Report::Stuck(StuckRequest { queue, kind, range, .. })
        | Report::Ended(StuckRequest { queue, kind, range, .. }) => (*queue, *kind, *range),
    }
}

/// `write 0x2000+0x1000`.
fn request(kind: RequestKind, range: Option<GuestRange>) -> String {
    match range {
        Some(range) => format!("{} {range}", kind.name()),
        None => kind.name().to_owned(),
    }
}

fn severity(failure: &Failure) -> Severity {
    if is_nonsense(failure) { Severity::Warning } else { Severity::Error }
}

fn failed(failure: &Failure) -> String {
    let Failure { queue, error, attempts, lasted, kicks_in, kicks_out, requests, .. } = failure;
    format!(
        "failed: {}; attempts {attempts} in {}; queue {queue}: kicks {kicks_in} in {kicks_out} out, {requests} requests, \
         {} per kick",
        why(error),
        seconds(*lasted),
        ratio(*requests, *kicks_in),
    )
}

fn retried(retrying: &Retrying) -> String {
    format!("is attempted again: {}; queue {}", why(&retrying.error), retrying.queue)
}

fn stuck(request: &StuckRequest) -> String {
    let StuckRequest { queue, lasted, images, operations, .. } = request;
    let under_way = if operations.is_empty() { "nothing".to_owned() } else { operations.join(", ") };
    format!("stuck for {}: queue {queue}; images {}; under way: {under_way}", seconds(*lasted), images.join(" > "))
}

fn ended(request: &StuckRequest) -> String {
    format!("was stuck and has ended after {}; queue {}", seconds(request.lasted), request.queue)
}

/// `/a.vhd: Input/output error (errno 5) at /a.vhd`.
fn why(error: &Error) -> String {
    let (number, words) = (errno(error), reason(error));
    let words = if words.is_empty() { describe(number) } else { format!("{words}: {}", describe(number)) };
    match error.origin() {
        Some(origin) => format!("{words} (errno {number}) at {}", origin.place),
        None => format!("{words} (errno {number}), never reached storage"),
    }
}

fn fields_of_failure(failure: &Failure) -> Vec<Field> {
    let mut fields = fields_of_error(&failure.error);
    fields.push(("OXTAP_ATTEMPTS", failure.attempts.to_string()));
    fields
}

fn fields_of_error(error: &Error) -> Vec<Field> {
    let place = error.origin().map(|origin| ("OXTAP_STORAGE", origin.place.to_string()));
    [("OXTAP_ERRNO", errno(error).to_string())].into_iter().chain(place).collect()
}

/// In whole numbers, so that no rounding ever shows a time that goes backwards.
pub(crate) fn seconds(duration: Duration) -> String {
    format!("{}.{:03} s", duration.as_secs(), duration.subsec_millis())
}

/// With one decimal, cut.
fn ratio(requests: u64, kicks: u64) -> String {
    match (u128::from(requests) * 10).checked_div(kicks.into()) {
        Some(tenths) => format!("{}.{}", tenths / 10, tenths % 10),
        None => "none".to_owned(),
    }
}

#[cfg(test)]
mod tests {
    use block_core::ErrorKind;

    use super::{super::samples::failure, *};

    fn told(report: Report) -> Told {
        tell(Minor::new(4).unwrap(), "vhd:/a.vhd", &report, true)
    }

    fn stuck_request(operations: usize) -> StuckRequest {
        StuckRequest {
            queue: 1,
            kind: RequestKind::Flush,
            range: None,
            lasted: Duration::from_millis(10_002),
            images: ["/a.vhd".into(), "/b.vhd".into()].into(),
            operations: (0..operations).map(|number| format!("sync /{number}")).collect(),
        }
    }

    #[test]
    fn a_failure_is_a_whole_story_in_one_line() {
        let told = told(Report::Failed(failure(5, "/b.vhd")));
        assert_eq!(
            told.text,
            "minor=4 image=vhd:/a.vhd: write 0x2000+0x1000 failed: fill: Input/output error (errno 5) at /b.vhd; \
             attempts 3 in 1.005 s; queue 1: kicks 12 in 9 out, 40 requests, 3.3 per kick"
        );
        let expected = [
            ("OXTAP_ERRNO", "5"),
            ("OXTAP_STORAGE", "/b.vhd"),
            ("OXTAP_ATTEMPTS", "3"),
            ("OXTAP_MINOR", "4"),
            ("OXTAP_IMAGE", "vhd:/a.vhd"),
            ("OXTAP_QUEUE", "1"),
            ("OXTAP_REQUEST", "write 0x2000+0x1000"),
        ];
        assert_eq!(told.fields, expected.map(|(name, value)| (name, value.to_owned())));
    }

    #[test]
    fn a_failure_of_our_own_finding_never_reached_storage() {
        let error = Error::new(ErrorKind::Corrupt, "/a.vhd: block 7 lies beyond the end");
        let told = told(Report::Failed(Failure { error, kicks_in: 0, ..failure(5, "") }));
        let why = "failed: /a.vhd: block 7 lies beyond the end: Invalid argument (errno 22), never reached storage;";
        assert!(told.text.contains(why) && told.text.ends_with("40 requests, none per kick"), "{}", told.text);
        assert!(!told.fields.iter().any(|(name, _)| *name == "OXTAP_STORAGE"));
    }

    #[test]
    fn what_is_refused_at_the_door_is_no_error_of_ours() {
        assert_eq!(told(Report::Failed(failure(5, "/a"))).severity, Severity::Error);
        assert_eq!(told(Report::Failed(Failure { attempts: 0, ..failure(22, "") })).severity, Severity::Warning);
        let error = Error::new(ErrorKind::Closed, "the disk is closed");
        let closed = Failure { attempts: 0, error, ..failure(22, "") };
        assert_eq!(told(Report::Failed(closed)).severity, Severity::Error, "it waited until the disk was closed");
    }

    #[test]
    fn a_retry_names_its_reason() {
        let Failure { queue, kind, range, error, .. } = failure(11, "/a.vhd");
        let told = told(Report::Retrying(Retrying { queue, kind, range, error }));
        assert_eq!(
            told.text,
            "minor=4 image=vhd:/a.vhd: write 0x2000+0x1000 is attempted again: \
             fill: Resource temporarily unavailable (errno 11) at /a.vhd; queue 1"
        );
    }

    #[test]
    fn a_stuck_request_names_what_is_under_way_and_its_end_says_how_long_it_took() {
        assert_eq!(
            told(Report::Stuck(stuck_request(2))).text,
            "minor=4 image=vhd:/a.vhd: flush stuck for 10.002 s: queue 1; images /a.vhd > /b.vhd; \
             under way: sync /0, sync /1"
        );
        assert!(told(Report::Stuck(stuck_request(0))).text.ends_with("under way: nothing"));
        let ended = told(Report::Ended(stuck_request(2)));
        assert_eq!(ended.text, "minor=4 image=vhd:/a.vhd: flush was stuck and has ended after 10.002 s; queue 1");
    }
}
