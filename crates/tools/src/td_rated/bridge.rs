//! The clients, what they want, and who gets it next.

use std::{
    collections::{BTreeMap, VecDeque},
    fmt::Write as _,
    time::Duration,
};

use storage_io::Moment;
use wire::rate_limit::{Demand, NEED_BYTES_MAX};

use super::limiter::Limiter;

/// How many clients there may be.
const CLIENTS_MAX: usize = 1024;
/// Clients give up a limiter that grants this much at once or more.
const GRANT_BYTES_MAX: u64 = NEED_BYTES_MAX - 1;

/// Names a client.
pub(super) type ClientNumber = u64;

/// What one client wants and has.
#[derive(Debug, Default)]
struct Client {
    /// Wanted and not granted.
    need: u64,
    /// Granted and not used.
    granted: u64,
    /// Ever granted.
    granted_ever: u64,
    /// Ever used.
    done_ever: u64,
}

/// Everything but sockets and time.
#[derive(Debug)]
pub(super) struct Bridge {
    limiter: Limiter,
    clients: BTreeMap<ClientNumber, Client>,
    /// Those that want something, in the order in which they began to.
    waiting: VecDeque<ClientNumber>,
    next: ClientNumber,
    granted_ever: u64,
}

impl Bridge {
    pub(super) fn new(limiter: Limiter) -> Bridge {
        Bridge { limiter, clients: BTreeMap::new(), waiting: VecDeque::new(), next: 0, granted_ever: 0 }
    }

    /// A client has come; none if there are too many already.
    pub(super) fn connect(&mut self) -> Option<ClientNumber> {
        if self.clients.len() >= CLIENTS_MAX {
            return None;
        }
        self.next += 1;
        self.clients.insert(self.next, Client::default());
        Some(self.next)
    }

    /// A client has gone.
    pub(super) fn disconnect(&mut self, number: ClientNumber) {
        self.clients.remove(&number);
        self.waiting.retain(|waiting| *waiting != number);
    }

    /// A client wants something, or has used something. The error says how it broke the rules.
    pub(super) fn demand(&mut self, number: ClientNumber, demand: Demand) -> Result<(), String> {
        let Some(client) = self.clients.get_mut(&number) else { return Ok(()) };
        if demand.done > client.granted {
            return Err(format!("{} bytes are done of {} granted", demand.done, client.granted));
        }
        let need = client.need.checked_add(demand.need).filter(|need| *need <= NEED_BYTES_MAX);
        let need = need.ok_or_else(|| format!("{} bytes are needed beside {}", demand.need, client.need))?;
        client.granted -= demand.done;
        client.done_ever += demand.done;
        if client.need == 0 && need > 0 {
            self.waiting.push_back(number);
        }
        client.need = need;
        Ok(())
    }

    /// Grants what may be granted now: to whom, and how much.
    pub(super) fn dispatch(&mut self, now: Moment) -> Vec<(ClientNumber, u64)> {
        self.limiter.look(now, !self.waiting.is_empty());
        let mut grants = Vec::new();
        while self.limiter.is_open()
            && let Some(number) = self.waiting.pop_front()
        {
            let client = self.clients.get_mut(&number).expect("who has gone does not wait");
            let grant = client.need.min(GRANT_BYTES_MAX);
            client.need -= grant;
            client.granted += grant;
            client.granted_ever += grant;
            if client.need > 0 {
                self.waiting.push_back(number);
            }
            self.granted_ever += grant;
            self.limiter.take(grant);
            grants.push((number, grant));
        }
        grants
    }

    /// When to dispatch again if nothing happens before; never if nobody waits.
    pub(super) fn next_dispatch(&self) -> Option<Duration> {
        (!self.waiting.is_empty()).then(|| self.limiter.next_look())
    }

    /// All of it, for people.
    pub(super) fn status(&self) -> String {
        let mut text = format!(
            "{}\nclients={} waiting={} granted={}",
            self.limiter,
            self.clients.len(),
            self.waiting.len(),
            self.granted_ever
        );
        for (number, client) in &self.clients {
            let Client { need, granted, granted_ever, done_ever } = client;
            let _ =
                write!(text, "\nclient={number} need={need} granted={granted_ever} done={done_ever} in-use={granted}");
        }
        text
    }
}

#[cfg(test)]
mod tests {
    use std::num::NonZeroU64;

    use super::*;
    use crate::td_rated::bucket::Bucket;
    use storage_io::SimulatedClock;

    fn bridge(rate: u64, cap: u64) -> (Bridge, Moment) {
        (Bridge::new(Limiter::Token(Bucket::new(NonZeroU64::new(rate).unwrap(), cap))), SimulatedClock::new().now())
    }

    fn need(bridge: &mut Bridge, number: ClientNumber, need: u64) {
        bridge.demand(number, Demand { need, done: 0 }).unwrap();
    }

    #[test]
    fn a_client_is_granted_all_it_needs_while_there_is_credit() {
        let (mut bridge, now) = bridge(1000, 500);
        let client = bridge.connect().unwrap();
        need(&mut bridge, client, 4096);
        assert_eq!(bridge.dispatch(now), [(client, 4096)]);
        assert_eq!(bridge.next_dispatch(), None);
        need(&mut bridge, client, 1);
        assert_eq!(bridge.dispatch(now), []);
        let wait = bridge.next_dispatch().unwrap();
        assert_eq!(wait, Duration::from_millis(3596));
        assert_eq!(bridge.dispatch(now + (wait - Duration::from_nanos(1))), []);
        assert_eq!(bridge.dispatch(now + wait), [(client, 1)]);
    }

    #[test]
    fn clients_take_turns_and_together_keep_to_the_rate() {
        let (mut bridge, start) = bridge(1_000_000, 0);
        let clients = [bridge.connect().unwrap(), bridge.connect().unwrap(), bridge.connect().unwrap()];
        let (mut now, mut granted) = (start, [0; 3]);
        clients.iter().zip([4096, 65536, 512]).for_each(|(client, bytes)| need(&mut bridge, *client, bytes));
        while now < start + Duration::from_secs(10) {
            for (number, bytes) in bridge.dispatch(now) {
                let index = clients.iter().position(|client| *client == number).unwrap();
                granted[index] += bytes;
                bridge.demand(number, Demand { need: bytes, done: bytes }).unwrap();
            }
            now = now + bridge.next_dispatch().unwrap();
        }
        let all: u64 = granted.iter().sum();
        assert!(all.abs_diff(10_000_000) <= 65536, "{all}");
        assert!(granted[0] / 4096 >= granted[2] / 512 - 1 && granted[1] / 65536 >= granted[2] / 512 - 1, "{granted:?}");
    }

    #[test]
    fn a_grant_never_reaches_what_makes_clients_give_up() {
        let (mut bridge, now) = bridge(1 << 30, 1 << 30);
        let client = bridge.connect().unwrap();
        need(&mut bridge, client, NEED_BYTES_MAX);
        assert_eq!(bridge.dispatch(now), [(client, NEED_BYTES_MAX - 1), (client, 1)]);
    }

    #[test]
    fn who_breaks_the_rules_is_found_out() {
        let (mut bridge, now) = bridge(1, 1 << 30);
        let client = bridge.connect().unwrap();
        let demand = |bridge: &mut Bridge, need, done| bridge.demand(client, Demand { need, done }).is_ok();
        assert!(!demand(&mut bridge, NEED_BYTES_MAX + 1, 0), "too much at once");
        assert!(!demand(&mut bridge, 0, 1), "nothing was granted");
        assert!(demand(&mut bridge, NEED_BYTES_MAX, 0));
        assert!(!demand(&mut bridge, 1, 0), "too much together");
        assert!(!demand(&mut bridge, u64::MAX, 0), "and more than can be counted");
        bridge.dispatch(now);
        assert!(demand(&mut bridge, 0, NEED_BYTES_MAX));
        assert!(!demand(&mut bridge, 0, 1), "all was done before");
    }

    #[test]
    fn who_has_gone_gets_nothing_and_makes_room() {
        let (mut bridge, now) = bridge(1, 0);
        let clients: Vec<ClientNumber> = (0..CLIENTS_MAX).map(|_| bridge.connect().unwrap()).collect();
        assert_eq!(bridge.connect(), None);
        need(&mut bridge, clients[0], 10);
        need(&mut bridge, clients[1], 20);
        bridge.disconnect(clients[0]);
        assert_eq!(bridge.dispatch(now), [(clients[1], 20)]);
        assert!(bridge.connect().is_some());
        bridge.demand(clients[0], Demand { need: 1, done: 0 }).unwrap();
        assert_eq!(bridge.next_dispatch(), None);
    }

    #[test]
    fn the_status_tells_all() {
        let (mut bridge, now) = bridge(10, 20);
        let client = bridge.connect().unwrap();
        need(&mut bridge, client, 100);
        bridge.dispatch(now);
        bridge.demand(client, Demand { need: 7, done: 60 }).unwrap();
        let expected = "token: rate=10 cap=20 credit=-80\nclients=1 waiting=1 granted=100\n\
                        client=1 need=7 granted=100 done=60 in-use=40";
        assert_eq!(bridge.status(), expected);
    }
}
