//! Whole lives of rings whose guests do anything in any order.

use crate::session::Host;

#[test]
fn whatever_a_guest_does_in_whatever_order() {
    let (mut host, mut lives, mut found_out) = (Host::default(), 0, 0);
    test_support::feed("ring", 4096, (80, 8000), |bytes| {
        lives += 1;
        found_out += u64::from(host.live(bytes));
    });
    host.end();
    println!("{found_out} of {lives} guests were found out");
}
