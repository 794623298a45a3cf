//! The list as text: which columns there are, and what a cell says.

use control_api::native::{RingPages, Throttled};

use super::{
    super::{common, size, text, words},
    model::Model,
    rates::{GuestRow, Row},
};

/// A column of the list. In a narrow terminal the less important ones are left out.
#[derive(Clone, Copy, Debug)]
pub(super) struct Column {
    pub(super) head: &'static str,
    pub(super) width: u16,
    /// Columns with higher numbers go first when room is short.
    pub(super) rank: u8,
    pub(super) cell: fn(&Row) -> String,
    /// What it says of a guest.
    pub(super) guest: fn(&GuestRow) -> String,
}

impl Column {
    const fn new(head: &'static str, width: u16, rank: u8, cell: fn(&Row) -> String) -> Column {
        Column { head, width, rank, cell, guest: |_| String::new() }
    }

    /// A column that says something of guests, too.
    const fn and(self, guest: fn(&GuestRow) -> String) -> Column {
        Column { guest, ..self }
    }
}

/// All columns but the image, which takes what is left of a line.
pub(super) const COLUMNS: [Column; 10] = [
    Column::new("DISK", 12, 0, |row| format!("{}:{}", row.pid, row.minor))
        .and(|guest| format!(" {}-{}", guest.domain, guest.device)),
    Column::new("STATE", 13, 4, state).and(|guest| match guest.broken {
        Some(_) => "broken!".to_owned(),
        None => size::count(guest.rings as u64, "ring"),
    }),
    Column::new("IOPS", 8, 1, |row| of(row, |rates| number(rates.requests)))
        .and(|guest| guest.requests.map_or_else(|| "-".to_owned(), number)),
    Column::new("READ/s", 11, 2, |row| of(row, |rates| bytes(rates.read_bytes))),
    Column::new("WRITE/s", 11, 2, |row| of(row, |rates| bytes(rates.written_bytes))),
    Column::new("LOAD", 6, 7, |row| of(row, |rates| format!("{:.1}", rates.load))),
    Column::new("P50", 8, 6, |row| of(row, |rates| time(rates.p50_us))),
    Column::new("P99", 8, 3, |row| of(row, |rates| time(rates.p99_us))),
    Column::new("BUSY", 7, 5, busy),
    Column::new("ERRORS", 7, 5, |row| row.errors.to_string()),
];

/// What stands of a guest where its disk has the image.
pub(super) fn about(guest: &GuestRow) -> String {
    let RingPages { granted, mapped, .. } = guest.pages;
    let mut words = format!("{granted} granted, {mapped} mapped");
    if guest.pages.leaked > 0 {
        words += &format!(", {} lost", guest.pages.leaked);
    }
    let Throttled { requests, waited_us } = guest.throttled;
    if requests > 0 {
        words += &format!(", {requests} held back for {}", size::describe_microseconds(waited_us));
    }
    if let Some(reason) = &guest.broken {
        words += &format!(", {reason}");
    }
    words
}

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
    let shown = model.shown();
    let lines = shown.iter().flat_map(|row| {
        let disk = COLUMNS.iter().map(|column| (column.cell)(row)).chain([row.image.clone()]).collect();
        let guest = |guest| COLUMNS.iter().map(|column| (column.guest)(guest)).chain([about(guest)]).collect();
        std::iter::once(disk).chain(guests(model, row).iter().map(guest))
    });
    let lines: Vec<[String; COLUMNS.len() + 1]> =
        [head].into_iter().chain(lines).map(|line: Vec<String>| line.try_into().expect("every column")).collect();
    let budget = model.budget().map(|budget| common::describe(budget) + "\n").unwrap_or_default();
    format!("{}\n{budget}{}", summary(model), text::columns(&lines))
}

/// The guests that stand below a disk.
pub(super) fn guests<'a>(model: &Model, row: &'a Row) -> &'a [GuestRow] {
    if model.shows_guests { &row.guests } else { &[] }
}

#[cfg(test)]
mod tests {
    use super::{
        super::{
            model::Order,
            rates::tests::{look, look_with_guest},
        },
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
    fn guests_stand_below_their_disk_and_what_all_use_above_the_list() {
        let mut model = Model::new(Order::Load, String::new()).with_guests(true);
        let start = Instant::now();
        model.take(look_with_guest(start, 1000));
        model.take(look_with_guest(start + Duration::from_secs(1), 13_000));
        assert_eq!(
            whole(&model),
            "2 disks, 12000 IOPS, reading 46.8 MiB/s, writing 0 B/s, load 1.2\n\
             grant budget: 264 of 300 pages copied, 4 of 400 mapped, 2 disks, 1 waiting, 3 waits so far (1.02 ms)\n\
             DISK      STATE    IOPS   READ/s    WRITE/s  LOAD  P50     P99      BUSY  ERRORS  IMAGE\n\
             70:3      running  12000  46.8 MiB  0 B      1.2   127 us  1.02 ms  2     1300    vhd:/images/a.vhd\n \
             7-51712  2 rings  12000                                                          \
             22 granted, 4 mapped, 3 held back for 1.02 ms\n\
             70:4      running  0      0 B       0 B      0.0   -       -        0     0       vhd:/images/b.vhd\n"
        );
    }

    #[test]
    fn of_a_guest_that_is_broken_the_reason_is_told() {
        let mut model = Model::new(Order::Load, String::new());
        model.take(look_with_guest(Instant::now(), 1000));
        let mut guest = model.shown()[0].guests[0].clone();
        (guest.broken, guest.pages.leaked, guest.throttled) = (Some("nonsense".into()), 1, Throttled::default());
        assert_eq!(about(&guest), "22 granted, 4 mapped, 1 lost, nonsense");
        let told: Vec<String> = COLUMNS.iter().map(|column| (column.guest)(&guest)).collect();
        assert_eq!(told[..3], [" 7-51712", "broken!", "-"]);
    }

    #[test]
    fn numbers_have_few_digits() {
        assert_eq!([0.0, 0.25, 9.0, 99.6, 12_345.0, 1.5e6].map(number), ["0", "0.2", "9", "100", "12345", "1500k"]);
    }
}
