//! A minor that somebody else holds is an error, at once.

use crate::host::Host;

#[test]
fn attaching_a_held_minor_fails_and_the_tapdisk_lives() {
    let host = Host::new();
    let (_first, minors) = host.attached(1);
    let second = host.spawn().to_string();
    let attach = ["attach", "-p", &second, "-m", &minors[0]];
    let (status, line) = host.fails(&attach);
    assert_eq!((status, line.as_str()), (22, "minor 0 is held by another tapdisk: Invalid argument"));
    assert_eq!(host.fails(&["free", "-m", "0"]).0, 11);

    // It is not harmed: it takes another one.
    host.ok(&["allocate"]);
    host.ok(&["attach", "-p", &second, "-m", "1"]);
}

#[test]
fn attaching_what_cannot_be_attached_says_why() {
    let host = Host::new();
    let (pid, minors) = host.attached(1);
    let pid = pid.to_string();
    let reason = |minor: &str| host.fails(&["attach", "-p", &pid, "-m", minor]);
    assert_eq!(reason("5"), (22, "minor 5 is not allocated: Invalid argument".into()));
    assert_eq!(reason(&minors[0]), (22, "minor 0 is attached here already: Invalid argument".into()));
    let said = host.tap_ctl(&["detach", "-p", &pid, "-m", "5"]);
    assert_eq!((said.status, said.stdout), (22, format!("got unexpected result 'error' from {pid}\n")));
}

#[test]
fn the_protocol_tells_the_real_numbers() {
    let host = Host::new();
    let (first, _) = host.attached(1);
    let second = host.spawn();
    let number =
        |pid, minor: &str| control_api::errno(&host.client(pid).attach(crate::host::minor(minor)).unwrap_err());
    assert_eq!([number(second, "0"), number(second, "5"), number(first, "0")], [16, 1, 17]);
}
