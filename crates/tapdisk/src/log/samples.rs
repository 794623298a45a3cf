//! Reports for tests.

use std::{io, time::Duration};

use block_core::{Error, GuestRange, Origin};
use virtual_disk::{Failure, RequestKind};

/// A write that failed in a storage; with no place, it never reached any.
pub(super) fn failure(errno: i32, place: &str) -> Failure {
    let error = Error::from_os("fill", io::Error::from_raw_os_error(errno));
    let error = match place {
        "" => error,
        place => error.with_origin(Origin { place: place.into(), is_remote: false }),
    };
    Failure {
        queue: 1,
        kind: RequestKind::Write,
        range: GuestRange::checked(0x2000, 0x1000),
        error,
        attempts: 3,
        lasted: Duration::from_micros(1_005_900),
        kicks_in: 12,
        kicks_out: 9,
        requests: 40,
    }
}
