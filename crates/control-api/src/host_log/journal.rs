//! The journal's own protocol: a datagram of fields.
//!
//! ```text
//!   NAME=value\n                     a value without a line break
//!   NAME\n  length (8, little endian)  value\n      any other
//! ```
//!
//! Ours are always one line, so the second form is not needed.

use std::io::Write;

use super::{Record, Speaker, line};

/// Appends one message.
pub(super) fn encode(speaker: &Speaker, record: &Record, out: &mut Vec<u8>) {
    let mut field = |name: &str, value: &str| {
        writeln!(out, "{name}={value}").expect("memory takes everything");
    };
    field("MESSAGE", &line(&record.text));
    field("PRIORITY", &(record.severity as u8).to_string());
    field("SYSLOG_FACILITY", &(speaker.facility as u8).to_string());
    field("SYSLOG_IDENTIFIER", speaker.program);
    field("SYSLOG_PID", &speaker.pid.to_string());
    for (name, value) in &record.fields {
        field(name, &line(value));
    }
}

#[cfg(test)]
mod tests {
    use std::time::UNIX_EPOCH;

    use super::{
        super::{Facility, Severity},
        *,
    };

    #[test]
    fn every_field_is_a_line() {
        let speaker = Speaker { program: "tapdisk", pid: 7, facility: Facility::Daemon };
        let record = Record {
            severity: Severity::Error,
            time: UNIX_EPOCH,
            text: "one\ntwo".into(),
            fields: vec![("OXTAP_MINOR", "4".into()), ("OXTAP_IMAGE", "vhd:/a\nMESSAGE=no".into())],
        };
        let mut bytes = Vec::new();
        encode(&speaker, &record, &mut bytes);
        let expected = "MESSAGE=one two\nPRIORITY=3\nSYSLOG_FACILITY=3\nSYSLOG_IDENTIFIER=tapdisk\nSYSLOG_PID=7\n\
                        OXTAP_MINOR=4\nOXTAP_IMAGE=vhd:/a MESSAGE=no\n";
        assert_eq!(String::from_utf8(bytes).unwrap(), expected);
    }
}
