//! The XenStore server as its clients know it.

#![allow(clippy::unwrap_used, reason = "a test that cannot go on fails")]

use wire::xenstore::{Message, MessageReader, Operation, strings, transaction_id};
use xenbus::server::{ConnectionId, Faults, Quotas, Store};

/// A server and what its clients say to it, in words; and events that came before a reply.
struct Host(Store, Vec<(ConnectionId, String)>);

impl Host {
    fn new() -> Host {
        Host(Store::new(Quotas::default()), Vec::new())
    }

    fn client(&mut self, domain: u16) -> ConnectionId {
        self.0.connect(domain)
    }

    /// Asks, within a transaction; gives the reply. Strings are divided by `|`.
    fn ask_in(&mut self, client: ConnectionId, transaction: u32, operation: Operation, payload: &str) -> String {
        let payload = payload.replace('|', "\0").into_bytes();
        self.0.handle(client, &Message { operation, request: 7, transaction, payload });
        let mut reply = self.next(client).unwrap();
        while reply.operation == Operation::WatchEvent {
            self.1.push((client, words(&reply)));
            reply = self.next(client).unwrap();
        }
        assert_eq!((reply.request, reply.transaction), (7, transaction));
        assert!(reply.operation == operation || reply.operation == Operation::Error, "{reply:?}");
        words(&reply)
    }

    fn ask(&mut self, client: ConnectionId, operation: Operation, payload: &str) -> String {
        self.ask_in(client, 0, operation, payload)
    }

    fn next(&mut self, client: ConnectionId) -> Option<Message> {
        let bytes = self.0.pop(client)?;
        let (taken, message) = MessageReader::new().feed(&bytes).unwrap();
        assert_eq!(taken, bytes.len());
        message
    }

    /// The events that wait for a client: `path|token`.
    fn events(&mut self, client: ConnectionId) -> Vec<String> {
        let mine = self.1.extract_if(.., |(other, _)| *other == client);
        let mut events: Vec<String> = mine.map(|(_, event)| event).collect();
        while let Some(message) = self.next(client) {
            assert_eq!(message.operation, Operation::WatchEvent);
            events.push(words(&message));
        }
        events
    }

    fn write(&mut self, client: ConnectionId, path: &str, value: &str) -> String {
        self.ask(client, Operation::Write, &format!("{path}|{value}"))
    }

    fn read(&mut self, client: ConnectionId, path: &str) -> String {
        self.ask(client, Operation::Read, &format!("{path}|"))
    }

    fn watch(&mut self, client: ConnectionId, path: &str, token: &str) -> String {
        self.ask(client, Operation::Watch, &format!("{path}|{token}|"))
    }

    fn begin(&mut self, client: ConnectionId) -> u32 {
        transaction_id(self.ask(client, Operation::TransactionStart, "|").replace('|', "\0").as_bytes()).unwrap()
    }

    fn end(&mut self, client: ConnectionId, transaction: u32, word: &str) -> String {
        self.ask_in(client, transaction, Operation::TransactionEnd, &format!("{word}|"))
    }
}

/// A payload in words: the name of an error, or what it is with `|` for zero bytes and none at the end.
fn words(message: &Message) -> String {
    let text = String::from_utf8(message.payload.clone()).unwrap().replace('\0', "|");
    text.strip_suffix('|').unwrap_or(&text).to_owned()
}

#[test]
fn nodes_are_written_read_listed_and_removed() {
    let mut host = Host::new();
    let client = host.client(0);
    assert_eq!(host.read(client, "/a"), "ENOENT");
    assert_eq!(host.write(client, "/a/b/c", "value"), "OK");
    assert_eq!((host.read(client, "/a/b/c"), host.read(client, "/a")), ("value".into(), String::new()));
    host.write(client, "/a/x", "");
    assert_eq!(host.ask(client, Operation::Directory, "/a|"), "b|x");
    assert_eq!(host.ask(client, Operation::Remove, "/a/b|"), "OK");
    assert_eq!(host.read(client, "/a/b/c"), "ENOENT");
    assert_eq!(host.ask(client, Operation::Directory, "/a|"), "x");
    assert_eq!(host.0.nodes(), 3);
}

#[test]
fn removing_what_is_not_there_is_fine_if_its_parent_is() {
    let mut host = Host::new();
    let client = host.client(0);
    host.write(client, "/a", "");
    assert_eq!(host.ask(client, Operation::Remove, "/a/none|"), "OK");
    assert_eq!(host.ask(client, Operation::Remove, "/b/none|"), "ENOENT");
    assert_eq!(host.ask(client, Operation::Remove, "/|"), "EINVAL");
}

#[test]
fn making_a_directory_keeps_what_is_there() {
    let mut host = Host::new();
    let client = host.client(0);
    host.write(client, "/a", "value");
    assert_eq!(host.ask(client, Operation::MakeDirectory, "/a|"), "OK");
    assert_eq!(host.read(client, "/a"), "value");
}

#[test]
fn what_makes_no_sense_is_refused() {
    let mut host = Host::new();
    let client = host.client(0);
    for (operation, payload, expected) in [
        (Operation::Read, "", "EINVAL"),
        (Operation::Read, "/a//b|", "EINVAL"),
        (Operation::Read, "@releaseDomain|", "EINVAL"),
        (Operation::Watch, "/a|", "EINVAL"),
        (Operation::SetPermissions, "/|", "EINVAL"),
        (Operation::SetPermissions, "/|x0|", "EINVAL"),
        (Operation::TransactionEnd, "T|", "ENOENT"),
        (Operation::Control, "check|", "ENOSYS"),
        (Operation::Unknown(99), "", "ENOSYS"),
        (Operation::WatchEvent, "a|b|", "ENOSYS"),
        (Operation::Unwatch, "/a|t|", "ENOENT"),
        (Operation::GetDomainPath, "x|", "EINVAL"),
    ] {
        assert_eq!(host.ask(client, operation, payload), expected, "{operation:?} {payload}");
    }
}

#[test]
fn a_domain_sees_its_own_nodes_by_short_names_and_others_not_at_all() {
    let mut host = Host::new();
    let (first, guest, other) = (host.client(0), host.client(5), host.client(6));
    host.write(first, "/local/domain/5/name", "guest");
    host.ask(first, Operation::SetPermissions, "/local/domain/5|n5|");
    host.ask(first, Operation::SetPermissions, "/local/domain/5/name|n5|");
    assert_eq!(host.read(guest, "name"), "guest");
    assert_eq!(host.read(guest, "/local/domain/5/name"), "guest");
    assert_eq!(host.read(other, "/local/domain/5/name"), "EACCES");
    assert_eq!(host.read(other, "/local/domain/5/none"), "EACCES", "not even that it is not there");
    assert_eq!(host.write(guest, "device/vbd/51712/state", "1"), "OK");
    assert_eq!(host.ask(first, Operation::GetPermissions, "/local/domain/5/device|"), "n5");
    assert_eq!(host.write(other, "/local/domain/5/x", ""), "EACCES");
}

#[test]
fn permissions_let_named_domains_in() {
    let mut host = Host::new();
    let (first, guest, other) = (host.client(0), host.client(5), host.client(6));
    host.write(first, "/x", "1");
    assert_eq!(host.ask(first, Operation::SetPermissions, "/x|n0|r5|b6|"), "OK");
    assert_eq!((host.read(guest, "/x"), host.write(guest, "/x", "2")), ("1".into(), "EACCES".into()));
    assert_eq!((host.write(other, "/x", "2"), host.read(guest, "/x")), ("OK".into(), "2".into()));
    assert_eq!(host.ask(other, Operation::SetPermissions, "/x|n6|"), "EACCES", "only its owner");
    host.ask(first, Operation::SetPermissions, "/x|n5|");
    assert_eq!(host.ask(guest, Operation::SetPermissions, "/x|n6|"), "EPERM", "it cannot be given away");
}

#[test]
fn a_watch_begins_with_an_event_and_tells_of_the_node_and_all_below() {
    let mut host = Host::new();
    let (watcher, writer) = (host.client(0), host.client(0));
    assert_eq!(host.watch(watcher, "/a", "token"), "OK");
    assert_eq!(host.events(watcher), ["/a|token"]);
    host.write(writer, "/a/b", "1");
    host.write(writer, "/ab", "1");
    assert_eq!(host.events(watcher), ["/a/b|token"]);
    host.ask(writer, Operation::SetPermissions, "/a/b|n0|");
    assert_eq!(host.events(watcher), ["/a/b|token"]);
    assert_eq!(host.watch(watcher, "/a", "token"), "EEXIST");
    assert_eq!(host.watch(watcher, "/a", "other"), "OK");
    host.ask(watcher, Operation::Unwatch, "/a|token|");
    let _ = host.events(watcher);
    host.write(writer, "/a", "");
    assert_eq!(host.events(watcher), ["/a|other"]);
}

#[test]
fn a_removal_is_told_once_above_and_to_those_who_watch_what_goes_with_it() {
    let mut host = Host::new();
    let client = host.client(0);
    host.write(client, "/a/b/c/d", "");
    for (path, token) in [("/a", "above"), ("/a/b/c", "within"), ("/a/b/c/none", "none")] {
        host.watch(client, path, token);
        host.events(client);
    }
    host.ask(client, Operation::Remove, "/a/b|");
    assert_eq!(host.events(client), ["/a/b|above", "/a/b/c|within"]);
}

#[test]
fn a_watch_by_a_short_name_is_told_by_short_names() {
    let mut host = Host::new();
    let (first, guest) = (host.client(0), host.client(5));
    host.write(first, "/local/domain/5", "");
    host.ask(first, Operation::SetPermissions, "/local/domain/5|n5|");
    host.watch(guest, "device", "t");
    host.watch(guest, "/local/domain/5/device", "t");
    assert_eq!(host.events(guest), ["device|t", "/local/domain/5/device|t"]);
    host.write(guest, "device/vbd", "");
    assert_eq!(host.events(guest), ["device/vbd|t", "/local/domain/5/device/vbd|t"]);
}

#[test]
fn an_event_that_waits_already_is_not_told_again_unless_wanted() {
    let mut host = Host::new();
    let (watcher, writer) = (host.client(0), host.client(0));
    host.watch(watcher, "/a", "t");
    host.events(watcher);
    (0..3).for_each(|_| _ = host.write(writer, "/a", "1"));
    assert_eq!(host.events(watcher), ["/a|t"]);
    host.0.set_faults(Faults { keep_equal_events: true, ..Faults::default() });
    (0..3).for_each(|_| _ = host.write(writer, "/a", "1"));
    assert_eq!(host.events(watcher).len(), 3);
}

#[test]
fn those_who_may_not_read_a_node_do_not_hear_of_it() {
    let mut host = Host::new();
    let (first, guest) = (host.client(0), host.client(5));
    host.write(first, "/secret/x", "");
    host.ask(first, Operation::SetPermissions, "/secret|n0|");
    host.ask(first, Operation::SetPermissions, "/secret/x|n0|");
    host.watch(guest, "/secret", "t");
    host.events(guest);
    host.write(first, "/secret/x", "1");
    assert_eq!(host.events(guest), [""; 0]);
    host.ask(first, Operation::SetPermissions, "/secret/x|n0|r5|");
    assert_eq!(host.events(guest), ["/secret/x|t"]);
}

#[test]
fn a_transaction_is_seen_by_others_when_it_has_ended_and_whole() {
    let mut host = Host::new();
    let (client, other) = (host.client(0), host.client(0));
    host.watch(other, "/a", "t");
    host.events(other);
    let transaction = host.begin(client);
    host.ask_in(client, transaction, Operation::Write, "/a/b|1");
    host.ask_in(client, transaction, Operation::Write, "/a/c|2");
    assert_eq!(host.ask_in(client, transaction, Operation::Directory, "/a|"), "b|c");
    assert_eq!((host.read(other, "/a/b"), host.events(other)), ("ENOENT".into(), vec![]));
    assert_eq!(host.end(client, transaction, "T"), "OK");
    assert_eq!(host.events(other), ["/a/b|t", "/a/c|t"]);
    assert_eq!(host.read(other, "/a/b"), "1");
    assert_eq!(host.end(client, transaction, "T"), "ENOENT");
}

#[test]
fn a_transaction_that_is_given_up_was_never_there() {
    let mut host = Host::new();
    let client = host.client(0);
    let transaction = host.begin(client);
    host.ask_in(client, transaction, Operation::Write, "/a|1");
    assert_eq!(host.end(client, transaction, "F"), "OK");
    assert_eq!((host.read(client, "/a"), host.0.nodes()), ("ENOENT".into(), 1));
}

#[test]
fn a_transaction_that_has_read_what_others_have_changed_is_done_again() {
    let mut host = Host::new();
    let (client, other) = (host.client(0), host.client(0));
    host.write(client, "/a", "1");
    for (operation, payload) in [(Operation::Read, "/a|"), (Operation::Directory, "/|"), (Operation::Read, "/none|")] {
        let transaction = host.begin(client);
        host.ask_in(client, transaction, operation, payload);
        host.ask_in(client, transaction, Operation::Write, "/mine|x");
        host.write(other, "/a", "2");
        host.write(other, "/none", "");
        host.ask(other, Operation::Remove, "/none|");
        let expected = if payload == "/none|" { "OK" } else { "EAGAIN" };
        assert_eq!(host.end(client, transaction, "T"), expected, "{operation:?}");
    }
}

#[test]
fn nodes_that_were_only_written_do_not_conflict() {
    let mut host = Host::new();
    let (client, other) = (host.client(0), host.client(0));
    host.write(client, "/dir/a", "1");
    let transaction = host.begin(client);
    host.ask_in(client, transaction, Operation::Write, "/dir/a|2");
    host.ask_in(client, transaction, Operation::Write, "/dir/new|2");
    host.write(other, "/dir/a", "3");
    host.write(other, "/dir/other", "3");
    assert_eq!(host.end(client, transaction, "T"), "OK");
    assert_eq!(host.ask(client, Operation::Directory, "/dir|"), "a|new|other");
    assert_eq!(host.read(client, "/dir/a"), "2");
}

#[test]
fn a_transaction_does_not_write_below_what_has_gone() {
    let mut host = Host::new();
    let (client, other) = (host.client(0), host.client(0));
    host.write(client, "/backend/state", "4");
    let transaction = host.begin(client);
    host.ask_in(client, transaction, Operation::Write, "/backend/state|6");
    host.ask(other, Operation::Remove, "/backend|");
    assert_eq!(host.end(client, transaction, "T"), "EAGAIN");
    assert_eq!(host.read(client, "/backend"), "ENOENT");
}

#[test]
fn a_removal_in_a_transaction_takes_all_below_with_it() {
    let mut host = Host::new();
    let client = host.client(0);
    host.write(client, "/a/b/c", "");
    let transaction = host.begin(client);
    host.ask_in(client, transaction, Operation::Write, "/a/b/new|");
    host.ask_in(client, transaction, Operation::Remove, "/a/b|");
    assert_eq!(host.ask_in(client, transaction, Operation::Directory, "/a|"), "");
    host.ask_in(client, transaction, Operation::Write, "/a/b|again");
    assert_eq!(host.end(client, transaction, "T"), "OK");
    assert_eq!(
        (host.read(client, "/a/b"), host.ask(client, Operation::Directory, "/a/b|")),
        ("again".into(), "".into())
    );
    assert_eq!(host.0.nodes(), 3);
}

#[test]
fn a_transaction_does_not_take_away_what_others_have_put_something_below() {
    let mut host = Host::new();
    let (one, other) = (host.client(0), host.client(0));
    host.write(one, "/a", "1");
    let transaction = host.begin(one);
    host.ask_in(one, transaction, Operation::Write, "/a|2");
    host.ask_in(one, transaction, Operation::Remove, "/a|");
    host.write(other, "/a/b", "new");
    assert_eq!(host.end(one, transaction, "T"), "EAGAIN");
    assert_eq!(host.read(other, "/a/b"), "new");
    assert_eq!(host.ask(other, Operation::Remove, "/a/b|"), "OK");
}

#[test]
fn an_event_that_fits_into_no_message_is_not_told() {
    let mut host = Host::new();
    let client = host.client(0);
    let token = "t".repeat(4000);
    assert_eq!(host.watch(client, "/a", &token), "OK");
    assert_eq!(host.events(client).len(), 1);
    assert_eq!(host.write(client, &format!("/a/{}", "b".repeat(100)), "1"), "OK");
    assert_eq!(host.events(client), [""; 0]);
    host.write(client, "/a", "2");
    assert_eq!(host.events(client), [format!("/a|{token}")]);
}

#[test]
fn the_server_may_want_any_transaction_again() {
    let mut host = Host::new();
    let client = host.client(0);
    host.0.set_faults(Faults { again_every: 2, ..Faults::default() });
    let answers: Vec<_> = (0..4)
        .map(|_| {
            let transaction = host.begin(client);
            host.end(client, transaction, "T")
        })
        .collect();
    assert_eq!(answers, ["OK", "EAGAIN", "OK", "EAGAIN"]);
}

#[test]
fn a_long_list_is_fetched_in_parts() {
    let mut host = Host::new();
    let client = host.client(0);
    let names: Vec<String> = (0..500).map(|number| format!("a-rather-long-name-{number:04}")).collect();
    names.iter().for_each(|name| _ = host.write(client, &format!("/dir/{name}"), ""));
    assert_eq!(host.ask(client, Operation::Directory, "/dir|"), "E2BIG");
    let (mut list, mut generations) = (Vec::new(), Vec::new());
    while list.last() != Some(&0) || !list.ends_with(b"\0\0") {
        let payload = format!("/dir\0{}\0", list.len()).into_bytes();
        let operation = Operation::DirectoryPart;
        host.0.handle(client, &Message { operation, request: 1, transaction: 0, payload });
        let reply = host.next(client).unwrap().payload;
        let end = reply.iter().position(|byte| *byte == 0).unwrap() + 1;
        generations.push(reply[..end].to_vec());
        list.extend_from_slice(&reply[end..]);
    }
    list.pop();
    let found: Vec<_> = strings(&list).unwrap().map(|name| String::from_utf8(name.to_vec()).unwrap()).collect();
    assert_eq!(found, names);
    assert!(generations.len() > 2 && generations.iter().all(|generation| *generation == generations[0]));
}

#[test]
fn domains_come_and_go_with_their_nodes() {
    let mut host = Host::new();
    let (first, watcher) = (host.client(0), host.client(0));
    host.watch(watcher, "@introduceDomain", "in");
    host.watch(watcher, "@releaseDomain", "out");
    host.watch(watcher, "/local/domain/5", "nodes");
    host.events(watcher);
    assert_eq!(host.ask(first, Operation::Introduce, "5|1|2|"), "OK");
    assert_eq!(host.ask(first, Operation::IsDomainIntroduced, "5|"), "T");
    assert_eq!(host.events(watcher), ["@introduceDomain|in"]);
    host.write(first, "/local/domain/5/device/x", "");
    for path in ["", "/device", "/device/x"] {
        host.ask(first, Operation::SetPermissions, &format!("/local/domain/5{path}|n5|"));
    }
    host.events(watcher);
    assert_eq!(host.ask(first, Operation::Release, "5|"), "OK");
    assert_eq!(host.events(watcher), ["/local/domain/5|nodes", "@releaseDomain|out"]);
    assert_eq!(host.ask(first, Operation::IsDomainIntroduced, "5|"), "F");
    let guest = host.client(6);
    assert_eq!(host.ask(guest, Operation::Introduce, "7|1|2|"), "EACCES");
}

#[test]
fn a_guest_has_quotas_and_the_first_domain_has_none() {
    let quotas = Quotas { nodes: 3, watches: 1, transactions: 1, value_bytes: 10, ..Quotas::default() };
    let mut host = Host(Store::new(quotas), Vec::new());
    let (first, guest) = (host.client(0), host.client(5));
    host.write(first, "/g", "");
    host.ask(first, Operation::SetPermissions, "/g|n5|");
    assert_eq!((host.write(guest, "/g/a", ""), host.write(guest, "/g/b", "")), ("OK".into(), "OK".into()));
    assert_eq!(host.write(guest, "/g/c", ""), "ENOSPC");
    assert_eq!(host.write(guest, "/g/a", "01234567890"), "ENOSPC");
    assert_eq!(host.watch(guest, "/g", "1"), "OK");
    host.events(guest);
    assert_eq!(host.watch(guest, "/g", "2"), "ENOSPC");
    host.begin(guest);
    assert_eq!(host.ask(guest, Operation::TransactionStart, "|"), "ENOSPC");
    (0..20).for_each(|number| assert_eq!(host.write(first, &format!("/h/{number}"), "01234567890"), "OK"));
}

#[test]
fn transactions_make_no_more_nodes_than_a_guest_may_have() {
    let mut host = Host(Store::new(Quotas { nodes: 3, ..Quotas::default() }), Vec::new());
    let (first, guest) = (host.client(0), host.client(5));
    host.write(first, "/local/domain/5", "");
    host.ask(first, Operation::SetPermissions, "/local/domain/5|b0|b5|");
    let [one, other] = [host.begin(guest), host.begin(guest)];
    let mut write = |transaction, path: &str| host.ask_in(guest, transaction, Operation::Write, &format!("{path}|x"));
    assert_eq!(["a", "b", "c", "d"].map(|path| write(one, path)), ["OK", "OK", "OK", "ENOSPC"]);
    assert_eq!(write(other, "e"), "OK");
    assert_eq!((host.end(guest, one, "T"), host.end(guest, other, "T")), ("OK".into(), "ENOSPC".into()));
}

#[test]
fn resetting_drops_watches_and_transactions() {
    let mut host = Host::new();
    let client = host.client(0);
    host.watch(client, "/a", "t");
    host.events(client);
    let transaction = host.begin(client);
    assert_eq!(host.ask(client, Operation::ResetWatches, "|"), "OK");
    host.write(client, "/a", "");
    assert_eq!(host.events(client), [""; 0]);
    assert_eq!(host.end(client, transaction, "T"), "ENOENT");
}

#[test]
fn events_may_overtake_replies() {
    let mut host = Host::new();
    let client = host.client(0);
    host.0.set_faults(Faults { events_first: true, ..Faults::default() });
    let watch = Message { operation: Operation::Watch, request: 1, transaction: 0, payload: b"/a\0t\0".to_vec() };
    host.0.handle(client, &watch);
    let order: Vec<_> = std::iter::from_fn(|| host.next(client)).map(|message| message.operation).collect();
    assert_eq!(order, [Operation::WatchEvent, Operation::Watch]);
}

#[test]
fn events_may_come_late_and_in_another_order() {
    let mut host = Host::new();
    let client = host.client(0);
    host.watch(client, "/a", "t");
    host.events(client);
    host.0.set_faults(Faults { hold_events: true, ..Faults::default() });
    for round in ["in order", "reversed"] {
        for path in ["/a/1", "/a/2", "/a/1"] {
            host.write(client, path, "");
        }
        assert_eq!(host.events(client), [""; 0], "{round}");
        host.0.let_go_of_events();
        let expected = if round == "in order" { ["/a/1|t", "/a/2|t"] } else { ["/a/2|t", "/a/1|t"] };
        assert_eq!(host.events(client), expected, "{round}");
        host.0.set_faults(Faults { hold_events: true, reverse_events: true, ..Faults::default() });
    }
}

#[test]
fn a_client_that_fetches_nothing_is_overdue() {
    let mut host = Host(Store::new(Quotas { waiting_bytes: 1000, ..Quotas::default() }), Vec::new());
    let (watcher, writer) = (host.client(5), host.client(0));
    host.watch(watcher, "/", "t");
    for number in 0..100 {
        host.write(writer, &format!("/{number}"), "");
    }
    assert!(host.0.is_overdue(watcher) && !host.0.is_overdue(writer));
    host.0.disconnect(watcher);
    assert!(host.0.pop(watcher).is_none());
}
