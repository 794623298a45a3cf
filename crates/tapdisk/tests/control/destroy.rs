//! `destroy` answers when it is done, with the real error and the step that it is about.

use crate::host::Host;

#[test]
fn the_step_that_fails_is_named() {
    let host = Host::new();
    let (pid, _) = host.attached(1);
    let pid = pid.to_string();
    let (status, line) = host.fails(&["destroy", "-p", &pid, "-m", "7"]);
    assert_eq!((status, line.as_str()), (19, "close: minor 7 is not attached here: No such device"));
    assert_eq!(host.fails(&["destroy", "-p", "1073741824", "-m", "0"]).0, 2);
    // What failed can be done again.
    host.ok(&["destroy", "-p", &pid, "-m", "0"]);
    host.place.assert_nothing_left();
}

#[test]
fn what_is_closed_already_is_taken_away() {
    let host = Host::new();
    let (pid, _) = host.attached(1);
    host.ok(&["close", "-p", &pid.to_string(), "-m", "0"]);
    host.ok(&["destroy", "-p", &pid.to_string(), "-m", "0", "-t", "30"]);
    host.place.assert_nothing_left();
}
