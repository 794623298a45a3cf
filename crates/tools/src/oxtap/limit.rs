//! `oxtap limit`: how much a disk may do each second, and how much it may save up.

use std::time::Duration;

use block_core::{Error, ErrorKind, Result};
use control_api::native::{Command, Limits, LimitsInForce, Rate, ResultOf};

use super::{arguments::Limit, control::Disk, host::unexpected, size, text};

/// What the command line says about one limit.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Allowance {
    /// So much each second, and perhaps how much at once.
    Of(Rate),
    /// No limit.
    Unlimited,
}

impl Allowance {
    /// From `500`, `20k`, `500:2000` or `none`.
    pub(super) fn requests(text: &str) -> Result<Allowance> {
        Allowance::parse(text, size::parse_count)
    }

    /// From `50M`, `50M:1G` or `none`.
    pub(super) fn bytes(text: &str) -> Result<Allowance> {
        Allowance::parse(text, size::parse)
    }

    fn parse(text: &str, amount: fn(&str) -> Result<u64>) -> Result<Allowance> {
        if text == "none" {
            return Ok(Allowance::Unlimited);
        }
        let positive = |text| match amount(text)? {
            0 => Err(Error::new(
                ErrorKind::Invalid,
                "nothing at all is not a limit; `none` lifts it, `pause` stops a disk",
            )),
            amount => Ok(amount),
        };
        let (rate, burst) = text.split_once(':').map_or((text, None), |(rate, burst)| (rate, Some(burst)));
        Ok(Allowance::Of(Rate { per_second: positive(rate)?, burst: burst.map(positive).transpose()? }))
    }
}

pub(super) fn run(arguments: &Limit) -> Result<()> {
    let mut disk = Disk::find(&arguments.disk)?;
    let now = disk.statistics()?.limits;
    let limits = changed(now, arguments);
    let limits = if limits == now { now } else { set(&mut disk, limits)? };
    if arguments.json { text::print_json(&limits) } else { text::print(&to_table(&limits)) }
}

fn set(disk: &mut Disk, limits: Limits) -> Result<Limits> {
    match disk.ask(Command::Limit { minor: disk.place.minor, limits })? {
        ResultOf::Limit(LimitsInForce { limits }) => Ok(limits),
        _ => Err(unexpected("limit")),
    }
}

/// Every limit of a disk, with its name and what the command line says about it.
fn each<'a>(limits: &'a mut Limits, arguments: &Limit) -> [(&'a mut Option<Rate>, Option<Allowance>); 6] {
    let Limits { total, read, write } = limits;
    [
        (&mut total.requests, arguments.iops),
        (&mut total.bytes, arguments.bandwidth),
        (&mut read.requests, arguments.read_iops),
        (&mut read.bytes, arguments.read_bandwidth),
        (&mut write.requests, arguments.write_iops),
        (&mut write.bytes, arguments.write_bandwidth),
    ]
}

/// The limits that the command line makes of those that are in force.
fn changed(now: Limits, arguments: &Limit) -> Limits {
    let mut limits = if arguments.none { Limits::default() } else { now };
    let is_any_named = each(&mut limits, arguments).iter().any(|(_, named)| named.is_some());
    for (limit, named) in each(&mut limits, arguments) {
        match named {
            Some(Allowance::Of(rate)) => *limit = Some(rate),
            Some(Allowance::Unlimited) => *limit = None,
            None => {}
        }
        let amount_is_named = matches!(named, Some(Allowance::Of(Rate { burst: Some(_), .. })));
        let is_meant = if is_any_named { named.is_some() && !amount_is_named } else { true };
        if let (Some(rate), Some(burst)) = (limit.as_mut().filter(|_| is_meant), arguments.burst) {
            rate.burst = Some(saved_up(rate.per_second, burst));
        }
    }
    limits
}

/// What is not used in this time; at least one.
#[expect(clippy::cast_possible_truncation, reason = "beyond 2^64 the largest number is as good as unlimited")]
#[expect(clippy::cast_sign_loss, reason = "neither is negative")]
fn saved_up(per_second: u64, time: Duration) -> u64 {
    ((per_second as f64 * time.as_secs_f64()) as u64).max(1)
}

fn to_table(limits: &Limits) -> String {
    let scopes = [("reads and writes", limits.total), ("reads", limits.read), ("writes", limits.write)];
    let rates = scopes.iter().flat_map(|(scope, limit)| [(*scope, limit.requests, false), (*scope, limit.bytes, true)]);
    let lines: Vec<[String; 3]> = rates
        .filter_map(|(scope, rate, is_bytes)| {
            let Rate { per_second, burst } = rate?;
            let amount = |amount| if is_bytes { size::describe(amount) } else { size::count(amount, "request") };
            let burst = burst.map(amount).unwrap_or_else(|| "-".to_owned());
            Some([scope.to_owned(), format!("{}/s", amount(per_second)), burst])
        })
        .collect();
    if lines.is_empty() {
        return "no limits\n".to_owned();
    }
    let head = ["LIMITED", "RATE", "BURST"].map(str::to_owned);
    text::columns(&std::iter::once(head).chain(lines).collect::<Vec<_>>())
}

#[cfg(test)]
mod tests {
    use super::{
        super::arguments::{Arguments, Command as Given},
        *,
    };
    use clap::Parser;

    fn given(line: &str) -> Limit {
        let words = ["oxtap", "limit", "4"].into_iter().chain(line.split_whitespace());
        match Arguments::parse_from(words).command {
            Given::Limit(limit) => limit,
            other => panic!("{other:?}"),
        }
    }

    fn rate(per_second: u64, burst: Option<u64>) -> Option<Rate> {
        Some(Rate { per_second, burst })
    }

    #[test]
    fn what_is_named_changes_and_the_rest_stays() {
        let first = changed(Limits::default(), &given("--iops 500 --bandwidth 50M:1G --write-iops 20k"));
        assert_eq!((first.total.requests, first.total.bytes), (rate(500, None), rate(50 << 20, Some(1 << 30))));
        assert_eq!(first.write.requests, rate(20_000, None));
        let second = changed(first, &given("--iops none --read-bandwidth 1M"));
        assert_eq!((second.total.requests, second.total.bytes), (None, first.total.bytes));
        assert_eq!((second.read.bytes, second.write), (rate(1 << 20, None), first.write));
        assert_eq!(changed(second, &given("")), second);
        assert_eq!(changed(second, &given("--none")), Limits::default());
        let only = changed(second, &given("--none --iops 7"));
        assert_eq!((only.total.requests, only.total.bytes, only.read.bytes), (rate(7, None), None, None));
    }

    #[test]
    fn a_burst_in_seconds_is_for_what_is_named_or_for_all() {
        let first = changed(Limits::default(), &given("--iops 500 --bandwidth 1M:3M --burst 2"));
        assert_eq!((first.total.requests, first.total.bytes), (rate(500, Some(1000)), rate(1 << 20, Some(3 << 20))));
        let second = changed(first, &given("--write-iops 10 --burst 0.001"));
        assert_eq!((second.total, second.write.requests), (first.total, rate(10, Some(1))));
        let all = changed(second, &given("--burst 0.5"));
        assert_eq!((all.total.requests, all.total.bytes), (rate(500, Some(250)), rate(1 << 20, Some(1 << 19))));
        assert_eq!(all.write.requests, rate(10, Some(5)));
    }

    #[test]
    fn nonsense_is_refused() {
        for wrong in ["--iops 0", "--iops 1.5", "--iops 5:", "--bandwidth x", "--iops 5:0", "--burst -1"] {
            let words = ["oxtap", "limit", "4"].into_iter().chain(wrong.split(' '));
            assert!(Arguments::try_parse_from(words).is_err(), "{wrong}");
        }
    }

    #[test]
    fn limits_are_shown_with_their_bursts() {
        let limits = changed(Limits::default(), &given("--iops 500:1000 --write-bandwidth 10M"));
        assert_eq!(
            to_table(&limits),
            "LIMITED           RATE            BURST\n\
             reads and writes  500 requests/s  1000 requests\n\
             writes            10 MiB/s        -\n"
        );
        assert_eq!(to_table(&Limits::default()), "no limits\n");
    }
}
