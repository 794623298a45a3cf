//! The text of OpenMetrics 1.0: families, each with its help, type and samples, and the end that says it is whole.
//!
//! ```text
//!   # TYPE oxtap_disk_requests counter
//!   # HELP oxtap_disk_requests Requests that were taken.
//!   oxtap_disk_requests_total{pid="7",minor="0",kind="read"} 12
//!   ...
//!   # EOF
//! ```
//!
//! Samples of one family stand together: the format asks for it, so one family is written to its end before the next.

use std::fmt::{Display, Write as _};

/// What a server says that it answers with.
pub(super) const CONTENT_TYPE: &str = "application/openmetrics-text; version=1.0.0; charset=utf-8";

/// What the numbers of a family mean.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(super) enum Kind {
    /// Goes up and down.
    Gauge,
    /// Only grows while the process lives.
    Counter,
    /// How many were at most so large.
    Histogram,
    /// Words about something that has no number.
    Info,
    /// Which of several states holds.
    StateSet,
}

impl Kind {
    const fn name(self) -> &'static str {
        match self {
            Kind::Gauge => "gauge",
            Kind::Counter => "counter",
            Kind::Histogram => "histogram",
            Kind::Info => "info",
            Kind::StateSet => "stateset",
        }
    }
}

/// Names and values that tell samples of one family apart, in the order in which they are written.
#[derive(Clone, Debug, Default)]
pub(super) struct Labels(String);

impl Labels {
    /// These, and one more.
    pub(super) fn with(&self, name: &str, value: impl Display) -> Labels {
        let comma = if self.0.is_empty() { "" } else { "," };
        Labels(format!("{}{comma}{name}=\"{}\"", self.0, escaped(&value.to_string())))
    }
}

/// A text that grows family by family.
#[derive(Debug, Default)]
pub(super) struct Exposition(String);

impl Exposition {
    /// Begins a family. `unit` is what its name ends in, if its numbers have one.
    pub(super) fn family(&mut self, name: &'static str, kind: Kind, help: &str) -> Family<'_> {
        let _ = writeln!(self.0, "# TYPE {name} {}", kind.name());
        if let Some(unit) = ["seconds", "bytes"].into_iter().find(|unit| name.ends_with(&format!("_{unit}"))) {
            let _ = writeln!(self.0, "# UNIT {name} {unit}");
        }
        let _ = writeln!(self.0, "# HELP {name} {}", escaped(help));
        Family { text: &mut self.0, name, kind }
    }

    /// The whole text.
    pub(super) fn end(mut self) -> String {
        self.0.push_str("# EOF\n");
        self.0
    }
}

/// A family that samples are added to.
pub(super) struct Family<'a> {
    text: &'a mut String,
    name: &'static str,
    kind: Kind,
}

impl Family<'_> {
    /// One sample of a gauge, counter, state or information.
    pub(super) fn sample(&mut self, labels: &Labels, value: impl Display) {
        let suffix = match self.kind {
            Kind::Counter => "_total",
            Kind::Info => "_info",
            Kind::Gauge | Kind::StateSet => "",
            Kind::Histogram => unreachable!("histograms are written whole"),
        };
        self.line(suffix, labels, value);
    }

    /// One histogram: how many were at most as large as each bound (each count includes the smaller ones), how many
    /// there were, and their sum.
    pub(super) fn histogram(&mut self, labels: &Labels, buckets: &[(f64, u64)], count: u64, sum: f64) {
        assert_eq!(self.kind, Kind::Histogram, "{} is no histogram", self.name);
        for &(bound, at_most) in buckets {
            self.line("_bucket", &labels.with("le", number(bound)), at_most);
        }
        self.line("_bucket", &labels.with("le", "+Inf"), count);
        self.line("_count", labels, count);
        self.line("_sum", labels, number(sum));
    }

    fn line(&mut self, suffix: &str, labels: &Labels, value: impl Display) {
        let name = self.name;
        let _ = if labels.0.is_empty() {
            writeln!(self.text, "{name}{suffix} {value}")
        } else {
            writeln!(self.text, "{name}{suffix}{{{}}} {value}", labels.0)
        };
    }
}

/// A number as the format writes those with a point: `le` is compared as text by some, so always in one way.
fn number(value: f64) -> String {
    format!("{value:?}")
}

/// Text between quotes, and help: what would end it or the line is escaped.
fn escaped(text: &str) -> String {
    let mut escaped = String::with_capacity(text.len());
    for character in text.chars() {
        match character {
            '\\' => escaped.push_str("\\\\"),
            '"' => escaped.push_str("\\\""),
            '\n' => escaped.push_str("\\n"),
            other => escaped.push(other),
        }
    }
    escaped
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn families_are_written_as_the_format_says() {
        let mut exposition = Exposition::default();
        let labels = Labels::default().with("pid", 7).with("image", "vhd:/a \"b\"\\\n");
        let mut family = exposition.family("x_requests", Kind::Counter, "Requests\nthat came.");
        family.sample(&labels, 3);
        exposition.family("x_size_bytes", Kind::Gauge, "Size.").sample(&Labels::default(), 512);
        exposition.family("x", Kind::Info, "Words.").sample(&Labels::default().with("version", "1"), 1);
        assert_eq!(
            exposition.end(),
            "# TYPE x_requests counter\n# HELP x_requests Requests\\nthat came.\n\
             x_requests_total{pid=\"7\",image=\"vhd:/a \\\"b\\\"\\\\\\n\"} 3\n\
             # TYPE x_size_bytes gauge\n# UNIT x_size_bytes bytes\n# HELP x_size_bytes Size.\nx_size_bytes 512\n\
             # TYPE x info\n# HELP x Words.\nx_info{version=\"1\"} 1\n# EOF\n"
        );
    }

    #[test]
    fn a_histogram_ends_in_infinity_count_and_sum() {
        let mut exposition = Exposition::default();
        let mut family = exposition.family("x_seconds", Kind::Histogram, "Time.");
        family.histogram(&Labels::default().with("kind", "read"), &[(0.001, 1), (1.0, 4)], 5, 7.5);
        let text = exposition.end();
        let samples: Vec<&str> = text.lines().filter(|line| !line.starts_with('#')).collect();
        assert_eq!(
            samples,
            [
                "x_seconds_bucket{kind=\"read\",le=\"0.001\"} 1",
                "x_seconds_bucket{kind=\"read\",le=\"1.0\"} 4",
                "x_seconds_bucket{kind=\"read\",le=\"+Inf\"} 5",
                "x_seconds_count{kind=\"read\"} 5",
                "x_seconds_sum{kind=\"read\"} 7.5",
            ]
        );
    }
}
