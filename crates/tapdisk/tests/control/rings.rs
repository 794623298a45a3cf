//! Without Xen there are no rings, and the answers say so.

use crate::host::{Host, minor};
use control_api::protocol::{Body, Errno, Message, Request, RingIdentity, RingParameters};

#[test]
fn rings_are_refused_with_the_numbers_that_tapback_knows() {
    let host = Host::new();
    let (pid, _) = host.attached(1);
    let number = |cookie: u16, body: Body| match host.client(pid).exchange(&Request::new(Message::new(cookie, body))) {
        Ok(Message { body: Body::Error(Errno(number), _), .. }) => number,
        other => panic!("{other:?}"),
    };
    let ring = RingParameters { identity: RingIdentity { domid: 1, devid: 51712 }, ..RingParameters::default() };
    assert_eq!(number(9, Body::RingConnect(ring.clone())), 19, "no such minor");
    assert_eq!(number(minor("0").number(), Body::RingConnect(ring.clone())), 2, "no Xen");
    assert_eq!(number(0, Body::RingDisconnect(ring.identity)), 19, "no such ring");
}
