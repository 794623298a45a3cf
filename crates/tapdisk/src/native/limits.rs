//! Limits: the protocol's words and the disk's.

use block_core::{Error, ErrorKind, Result};
use control_api::native::{Limit, Limits, Rate};
use virtual_disk::RateLimits;

/// What is asked for, as a disk takes it.
pub(super) fn wanted(limits: Limits) -> Result<virtual_disk::Limits> {
    let Limits { total, read, write } = limits;
    Ok(virtual_disk::Limits { total: of_scope(total)?, read: of_scope(read)?, write: of_scope(write)? })
}

fn of_scope(limit: Limit) -> Result<RateLimits> {
    let rate = |rate: Option<Rate>| rate.map(of_rate).transpose();
    Ok(RateLimits { requests: rate(limit.requests)?, bytes: rate(limit.bytes)? })
}

fn of_rate(Rate { per_second, burst }: Rate) -> Result<virtual_disk::Rate> {
    let nothing = || Error::new(ErrorKind::Invalid, "a rate of 0 would let nothing pass; without a rate all passes");
    let rate = virtual_disk::Rate::new(per_second).ok_or_else(nothing)?;
    Ok(burst.map_or(rate, |burst| rate.with_burst(burst)))
}

/// What a disk does, as it is told.
pub(super) fn told(limits: &virtual_disk::Limits) -> Limits {
    let rate = |rate: Option<virtual_disk::Rate>| {
        rate.map(|rate| Rate { per_second: rate.per_second.get(), burst: Some(rate.burst) })
    };
    let limit = |limits: RateLimits| Limit { requests: rate(limits.requests), bytes: rate(limits.bytes) };
    Limits { total: limit(limits.total), read: limit(limits.read), write: limit(limits.write) }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn limits_are_told_as_they_were_wanted_with_a_burst() {
        let rate = |burst| Some(Rate { per_second: 1000, burst });
        let read = Limit { requests: rate(Some(50)), bytes: rate(None) };
        let asked = Limits { read, ..Limits::default() };
        let told = told(&wanted(asked).unwrap());
        assert_eq!((told.total, told.write, told.read.requests), (asked.total, asked.write, read.requests));
        assert!(told.read.bytes.unwrap().burst.unwrap() > 0);
    }

    #[test]
    fn a_rate_of_nothing_is_refused() {
        let read = Limit { bytes: Some(Rate { per_second: 0, burst: None }), ..Limit::default() };
        assert_eq!(wanted(Limits { read, ..Limits::default() }).unwrap_err().kind(), ErrorKind::Invalid);
    }
}
