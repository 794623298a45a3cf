//! The list as text: which columns there are, and what a cell says.

use super::{
    super::{size, text, words},
    model::Model,
    rates::Row,
};

/// A column of the list. In a narrow terminal the less important ones are left out.
#[derive(Clone, Copy, Debug)]
pub(super) struct Column {
    pub(super) head: &'static str,
    pub(super) width: u16,
    /// Columns with higher numbers go first when room is short.
    pub(super) rank: u8,
    pub(super) cell: fn(&Row) -> String,
}

/// All columns but the image, which takes what is left of a line.
pub(super) const COLUMNS: [Column; 10] = [
    Column { head: "DISK", width: 12, rank: 0, cell: |row| format!("{}:{}", row.pid, row.minor) },
    Column { head: "STATE", width: 13, rank: 4, cell: state },
    Column { head: "IOPS", width: 8, rank: 1, cell: |row| of(row, |rates| number(rates.requests)) },
    Column { head: "READ/s", width: 11, rank: 2, cell: |row| of(row, |rates| bytes(rates.read_bytes)) },
    Column { head: "WRITE/s", width: 11, rank: 2, cell: |row| of(row, |rates| bytes(rates.written_bytes)) },
    Column { head: "LOAD", width: 6, rank: 7, cell: |row| of(row, |rates| format!("{:.1}", rates.load)) },
    Column { head: "P50", width: 8, rank: 6, cell: |row| of(row, |rates| time(rates.p50_us)) },
    Column { head: "P99", width: 8, rank: 3, cell: |row| of(row, |rates| time(rates.p99_us)) },
    Column { head: "BUSY", width: 7, rank: 5, cell: busy },
    Column { head: "ERRORS", width: 7, rank: 5, cell: |row| row.errors.to_string() },
];

/// What stands above the images.
pub(super) const IMAGE: &str = "IMAGE";

fn of(row: &Row, describe: impl Fn(super::rates::Rates) -> String) -> String {
    row.rates.map_or_else(|| "-".to_owned(), describe)
}

fn state(row: &Row) -> String {
    format!("{}{}", words::state(row.state), if row.trouble { "!" } else { "" })
}

fn busy(row: &Row) -> String {
    let waiting = if row.waiting > 0 { format!("+{}", row.waiting) } else { String::new() };
    format!("{}{waiting}", row.in_flight)
}

/// A rate without more digits than anybody reads.
pub(super) fn number(rate: f64) -> String {
    match rate {
        rate if rate < 10.0 && rate.fract() > 0.0 => format!("{rate:.1}"),
        rate if rate < 100_000.0 => format!("{rate:.0}"),
        rate => format!("{:.0}k", rate / 1000.0),
    }
}

/// Bytes of a rate.
#[expect(clippy::cast_possible_truncation, reason = "a rate beyond 2^64 is shown as that")]
#[expect(clippy::cast_sign_loss, reason = "a rate is not negative")]
pub(super) fn bytes(rate: f64) -> String {
    size::describe(rate as u64)
}

fn time(microseconds: Option<u64>) -> String {
    microseconds.map_or_else(|| "-".to_owned(), size::describe_microseconds)
}

/// All disks together, in one line.
pub(super) fn summary(model: &Model) -> String {
    let sum = model.sum();
    let mut line = format!(
        "{}, {} IOPS, reading {}/s, writing {}/s, load {:.1}",
        size::count(model.disks() as u64, "disk"),
        number(sum.requests),
        bytes(sum.read_bytes),
        bytes(sum.written_bytes),
        sum.load,
    );
    if !model.silent().is_empty() {
        let pids: Vec<String> = model.silent().iter().map(u32::to_string).collect();
        line += &format!("; no answer from tapdisk {}", pids.join(", "));
    }
    line
}

/// The whole list, for those who have no terminal.
pub(super) fn whole(model: &Model) -> String {
    let head: Vec<String> = COLUMNS.iter().map(|column| column.head).chain([IMAGE]).map(str::to_owned).collect();
    let cells = |row: &&Row| -> Vec<String> {
        COLUMNS.iter().map(|column| (column.cell)(row)).chain([row.image.clone()]).collect()
    };
    let shown = model.shown();
    let rows = std::iter::once(head).chain(shown.iter().map(cells));
    let rows: Vec<[String; COLUMNS.len() + 1]> =
        rows.map(|row| row.try_into().expect("every row has every column")).collect();
    format!("{}\n{}", summary(model), text::columns(&rows))
}

#[cfg(test)]
mod tests {
    use super::{
        super::{model::Order, rates::tests::look},
        *,
    };
    use std::time::{Duration, Instant};

    #[test]
    fn the_list_is_one_table() {
        let mut model = Model::new(Order::Load, String::new());
        let start = Instant::now();
        model.take(look(start, 1000));
        model.take(look(start + Duration::from_secs(1), 13_000));
        assert_eq!(
            whole(&model),
            "2 disks, 12000 IOPS, reading 46.8 MiB/s, writing 0 B/s, load 1.2\n\
             DISK  STATE    IOPS   READ/s    WRITE/s  LOAD  P50     P99      BUSY  ERRORS  IMAGE\n\
             70:3  running  12000  46.8 MiB  0 B      1.2   127 us  1.02 ms  2     1300    vhd:/images/a.vhd\n\
             70:4  running  0      0 B       0 B      0.0   -       -        0     0       vhd:/images/b.vhd\n"
        );
    }

    #[test]
    fn numbers_have_few_digits() {
        assert_eq!([0.0, 0.25, 9.0, 99.6, 12_345.0, 1.5e6].map(number), ["0", "0.2", "9", "100", "12345", "1500k"]);
    }
}
