//! The form that syslog daemons read: `<priority>Mon dd hh:mm:ss program[pid]: text`.

use std::{
    io::Write,
    time::{Duration, SystemTime, UNIX_EPOCH},
};

use super::{Record, Speaker, line};

/// Appends one message.
pub(super) fn encode(speaker: &Speaker, record: &Record, out: &mut Vec<u8>) {
    let priority = (speaker.facility as u8) << 3 | record.severity as u8;
    let (time, text) = (timestamp(record.time), line(&record.text));
    let Speaker { program, pid, .. } = speaker;
    write!(out, "<{priority}>{time} {program}[{pid}]: {text}").expect("memory takes everything");
}

/// `Nov  7 15:04:05`, as logs write it, in UTC.
pub fn timestamp(time: SystemTime) -> String {
    const MONTHS: [&str; 12] = ["Jan", "Feb", "Mar", "Apr", "May", "Jun", "Jul", "Aug", "Sep", "Oct", "Nov", "Dec"];
    let seconds = time.duration_since(UNIX_EPOCH).unwrap_or(Duration::ZERO).as_secs();
    let (month, day) = month_and_day(seconds / 86400);
    let (hour, minute, second) = (seconds / 3600 % 24, seconds / 60 % 60, seconds % 60);
    format!("{} {day:2} {hour:02}:{minute:02}:{second:02}", MONTHS[month])
}

/// The month (from 0) and the day (from 1) of a day counted from 1 January 1970.
fn month_and_day(mut day: u64) -> (usize, u64) {
    let is_leap = |year: u64| year.is_multiple_of(4) && (!year.is_multiple_of(100) || year.is_multiple_of(400));
    let mut year = 1970;
    // 400 years have 146097 days; the rest is counted year by year.
    day %= 146_097;
    while day >= 365 + u64::from(is_leap(year)) {
        day -= 365 + u64::from(is_leap(year));
        year += 1;
    }
    let lengths = [31, 28 + u64::from(is_leap(year)), 31, 30, 31, 30, 31, 31, 30, 31, 30, 31];
    let mut month = 0;
    while day >= lengths[month] {
        day -= lengths[month];
        month += 1;
    }
    (month, day + 1)
}

#[cfg(test)]
mod tests {
    use super::{
        super::{Facility, Severity},
        *,
    };

    fn at(seconds: u64) -> String {
        timestamp(UNIX_EPOCH + Duration::from_secs(seconds))
    }

    #[test]
    fn timestamps_read_as_in_every_log() {
        assert_eq!(at(0), "Jan  1 00:00:00");
        assert_eq!(at(951_782_400), "Feb 29 00:00:00");
        assert_eq!(at(1_709_251_199), "Feb 29 23:59:59");
        assert_eq!(at(1_795_236_245), "Nov 21 04:44:05");
        assert_eq!(at(4_107_542_400), "Mar  1 00:00:00");
    }

    #[test]
    fn a_message_is_one_line_whatever_is_in_it() {
        let speaker = Speaker { program: "tapdisk", pid: 7, facility: Facility::Daemon };
        let time = UNIX_EPOCH + Duration::from_secs(1_795_236_245);
        let mut record = Record { severity: Severity::Warning, time, text: "one\ntwo".into(), fields: Vec::new() };
        let encoded = |record: &Record| {
            let mut bytes = Vec::new();
            encode(&speaker, record, &mut bytes);
            String::from_utf8(bytes).unwrap()
        };
        assert_eq!(encoded(&record), "<28>Nov 21 04:44:05 tapdisk[7]: one two");
        record.text = "\u{e9}".repeat(9000);
        assert!(encoded(&record).ends_with("\u{e9}") && encoded(&record).len() < 8100);
    }
}
