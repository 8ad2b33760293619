//! Against a small name server on a loopback socket.

use std::collections::HashMap;

use hickory_resolver::proto::op::{Message, ResponseCode};
use hickory_resolver::proto::rr::{RData, Record};

use super::*;

#[derive(Clone)]
pub(in super::super) enum Reply {
    Addresses(&'static [&'static str], u32),
    NoSuchName,
    Broken,
    Silence,
}

#[derive(Clone, Default)]
pub(in super::super) struct Zone(Arc<Mutex<HashMap<String, Reply>>>, Arc<Mutex<Vec<String>>>);

impl Zone {
    pub(in super::super) fn set(&self, name: &str, reply: Reply) {
        self.0.lock().unwrap().insert(format!("{name}."), reply);
    }

    /// How often the IPv4 addresses of a name were asked for.
    pub(in super::super) fn asked(&self, name: &str) -> usize {
        self.1.lock().unwrap().iter().filter(|asked| **asked == format!("{name}.")).count()
    }

    fn answer(&self, query: &[u8]) -> Option<Vec<u8>> {
        let query = Message::from_vec(query).unwrap();
        let question = query.queries[0].clone();
        let name = question.name().to_ascii().to_lowercase();
        if question.query_type() == RecordType::A {
            self.1.lock().unwrap().push(name.clone());
        }
        let mut response = Message::response(query.metadata.id, query.metadata.op_code);
        response.add_query(question.clone());
        match self.0.lock().unwrap().get(&name).cloned().unwrap_or(Reply::NoSuchName) {
            Reply::Silence => return None,
            Reply::Broken => response.metadata.response_code = ResponseCode::ServFail,
            Reply::NoSuchName => response.metadata.response_code = ResponseCode::NXDomain,
            Reply::Addresses(addresses, ttl) => {
                for ip in addresses.iter().map(|ip| ip.parse::<IpAddr>().unwrap()) {
                    let data = match (ip, question.query_type()) {
                        (IpAddr::V4(ip), RecordType::A) => RData::A(ip.into()),
                        (IpAddr::V6(ip), RecordType::AAAA) => RData::AAAA(ip.into()),
                        _ => continue,
                    };
                    response.add_answer(Record::from_rdata(question.name().clone(), ttl, data));
                }
            }
        }
        Some(response.to_vec().unwrap())
    }

    async fn serve(self) -> SocketAddr {
        let socket = tokio::net::UdpSocket::bind("127.0.0.1:0").await.unwrap();
        let address = socket.local_addr().unwrap();
        tokio::spawn(async move {
            let mut buffer = [0; 4096];
            while let Ok((size, client)) = socket.recv_from(&mut buffer).await {
                if let Some(answer) = self.answer(&buffer[..size]) {
                    socket.send_to(&answer, client).await.unwrap();
                }
            }
        });
        address
    }
}

/// A quick schedule: what takes a second in life takes ten milliseconds here.
pub(in super::super) const QUICK: Schedule = Schedule {
    floor: Duration::from_millis(10),
    ceiling: Duration::from_millis(40),
    timeout: Duration::from_millis(300),
};
pub(in super::super) const RETRY: Duration = Duration::from_millis(60);

pub(in super::super) async fn resolver(zone: &Zone, schedule: Schedule, hosts: &str, search: &[&str]) -> Arc<Resolver> {
    let server = zone.clone().serve().await;
    let search = search.iter().map(|domain| Name::from_ascii(domain).unwrap()).collect();
    let config = ResolverConfig::from_parts(None, search, asking(&[server]).name_servers().to_vec());
    let mut options = ResolverOpts::default();
    options.timeout = Duration::from_millis(100);
    options.attempts = 1;
    let mut listed = Hosts::default();
    listed.read_hosts_conf(hosts.as_bytes()).unwrap();
    let handle = Handle::current();
    let current = Arc::new(Names { hosts: listed, servers: build(&handle, config, options) });
    Resolver::new(handle, schedule, System { current, files: None })
}

fn name(name: &str) -> DnsEndpoint {
    DnsEndpoint::new(name.into(), 80, 1)
}

fn show(discovered: &Discovered) -> Vec<String> {
    let (_, set) = discovered.current();
    set.endpoints.iter().map(|endpoint| format!("{}*{}", endpoint.state.name, endpoint.weight)).collect()
}

pub(in super::super) async fn until(what: &str, mut holds: impl FnMut() -> bool) {
    let deadline = Instant::now() + Duration::from_secs(10);
    while !holds() {
        assert!(Instant::now() < deadline, "never happened: {what}");
        tokio::time::sleep(Duration::from_millis(2)).await;
    }
}

async fn follow(resolver: &Arc<Resolver>, discovery: &Discovery) -> (Arc<Discovered>, Task) {
    let discovered = Arc::new(Discovered::new());
    let following = resolver.follow(discovery, &discovered, RETRY).unwrap();
    tokio::time::timeout(Duration::from_secs(10), discovered.known()).await.expect("the first answer ends the wait");
    (discovered, following)
}

#[tokio::test]
async fn every_address_of_every_name_is_an_endpoint() {
    let zone = Zone::default();
    zone.set("a.test", Reply::Addresses(&["127.0.0.3", "127.0.0.2", "127.0.0.2"], 60));
    zone.set("b.test", Reply::Addresses(&["127.0.0.2", "127.0.0.4"], 60));
    let resolver = resolver(&zone, QUICK, "", &[]).await;
    let names = [name("a.test"), DnsEndpoint { weight: 3, ..name("b.test") }, name("127.0.0.9"), name("gone.test")];
    let (discovered, _following) = follow(&resolver, &Discovery::Dns(names.into())).await;
    assert_eq!(show(&discovered), ["127.0.0.2:80*4", "127.0.0.3:80*1", "127.0.0.4:80*3", "127.0.0.9:80*1"]);
}

#[tokio::test]
async fn addresses_follow_the_ttl_and_unchanged_ones_keep_their_state() {
    let zone = Zone::default();
    zone.set("a.test", Reply::Addresses(&["127.0.0.2", "127.0.0.3"], 1));
    let by_ttl = Schedule { ceiling: Duration::from_hours(1), ..QUICK };
    let resolver = resolver(&zone, by_ttl, "", &[]).await;
    let (discovered, _following) = follow(&resolver, &Discovery::Dns([name("a.test")].into())).await;
    let started = Instant::now();
    let (version, before) = discovered.current();
    zone.set("a.test", Reply::Addresses(&["127.0.0.4", "127.0.0.3"], 3600));
    until("the new address", || show(&discovered) == ["127.0.0.3:80*1", "127.0.0.4:80*1"]).await;
    assert!(started.elapsed() > Duration::from_millis(700), "not before the TTL of a second: {:?}", started.elapsed());
    let (_, after) = discovered.current();
    assert!(Arc::ptr_eq(&before.endpoints[1].state, &after.endpoints[0].state));
    assert_eq!(discovered.version(), version + 1);
}

#[tokio::test]
async fn a_long_ttl_is_cut_and_the_same_answer_publishes_nothing() {
    let zone = Zone::default();
    zone.set("a.test", Reply::Addresses(&["127.0.0.2"], 600));
    let resolver = resolver(&zone, QUICK, "", &[]).await;
    let (discovered, _following) = follow(&resolver, &Discovery::Dns([name("a.test")].into())).await;
    until("several look-ups", || zone.asked("a.test") > 3).await;
    assert_eq!(discovered.version(), 1);
}

#[tokio::test]
async fn no_answer_keeps_what_was_known_and_no_such_name_does_not() {
    let zone = Zone::default();
    zone.set("a.test", Reply::Addresses(&["127.0.0.2"], 600));
    let resolver = resolver(&zone, QUICK, "", &[]).await;
    let (discovered, _following) = follow(&resolver, &Discovery::Dns([name("a.test")].into())).await;
    for failure in [Reply::Broken, Reply::Silence] {
        zone.set("a.test", failure);
        let asked = zone.asked("a.test");
        until("tries while nobody answers", || zone.asked("a.test") > asked + 2).await;
        assert_eq!(show(&discovered), ["127.0.0.2:80*1"]);
    }
    zone.set("a.test", Reply::NoSuchName);
    until("the cluster is empty", || show(&discovered).is_empty()).await;
    zone.set("a.test", Reply::Addresses(&["127.0.0.3"], 600));
    until("recovery", || show(&discovered) == ["127.0.0.3:80*1"]).await;
}

#[tokio::test]
async fn a_suspicion_is_looked_into_at_once_but_not_all_the_time() {
    let zone = Zone::default();
    zone.set("a.test", Reply::Addresses(&["127.0.0.2"], 600));
    let slow = Schedule { floor: Duration::from_millis(50), ceiling: Duration::from_hours(1), ..QUICK };
    let resolver = resolver(&zone, slow, "", &[]).await;
    let (discovered, _following) = follow(&resolver, &Discovery::Dns([name("a.test")].into())).await;
    zone.set("a.test", Reply::Addresses(&["127.0.0.3"], 600));
    discovered.suspect();
    until("the new address", || show(&discovered) == ["127.0.0.3:80*1"]).await;
    let (asked, started) = (zone.asked("a.test"), Instant::now());
    while started.elapsed() < Duration::from_millis(300) {
        discovered.suspect();
        tokio::task::yield_now().await;
    }
    let more = zone.asked("a.test") - asked;
    assert!((1..=8).contains(&more), "{more} look-ups in 300 ms with 50 ms between them");
}

#[tokio::test]
async fn a_logical_name_stays_with_one_address_while_it_is_answered() {
    let zone = Zone::default();
    zone.set("a.test", Reply::Addresses(&["127.0.0.5", "127.0.0.4"], 60));
    let resolver = resolver(&zone, QUICK, "", &[]).await;
    let (discovered, _following) = follow(&resolver, &Discovery::LogicalDns(name("a.test"))).await;
    assert_eq!(show(&discovered), ["127.0.0.4:80*1"]);
    zone.set("a.test", Reply::Addresses(&["127.0.0.2", "127.0.0.4"], 60));
    let asked = zone.asked("a.test");
    until("more look-ups", || zone.asked("a.test") > asked + 1).await;
    assert_eq!(show(&discovered), ["127.0.0.4:80*1"]);
    zone.set("a.test", Reply::Addresses(&["127.0.0.2"], 60));
    until("the other address", || show(&discovered) == ["127.0.0.2:80*1"]).await;
}

#[tokio::test]
async fn undeclared_names_are_tried_in_order() {
    let zone = Zone::default();
    zone.set("reviews.default.svc.cluster.local", Reply::Addresses(&["127.0.0.9"], 60));
    let resolver = resolver(&zone, QUICK, "", &[]).await;
    let names = [name("reviews"), name("reviews.default.svc.cluster.local")];
    let (discovered, _following) = follow(&resolver, &Discovery::Undeclared(names.into())).await;
    assert_eq!(show(&discovered), ["127.0.0.9:80*1"]);
    zone.set("reviews", Reply::Addresses(&["127.0.0.2"], 60));
    until("the name as written wins", || show(&discovered) == ["127.0.0.2:80*1"]).await;
    zone.set("reviews", Reply::Broken);
    let asked = zone.asked("reviews");
    until("more look-ups", || zone.asked("reviews") > asked + 2).await;
    assert_eq!(show(&discovered), ["127.0.0.2:80*1"], "nobody else takes over from a name that is unanswered");
    zone.set("reviews", Reply::NoSuchName);
    until("the expanded name again", || show(&discovered) == ["127.0.0.9:80*1"]).await;
}

#[tokio::test]
async fn names_are_found_as_the_system_finds_them() {
    let zone = Zone::default();
    zone.set("my_service", Reply::Addresses(&["127.0.0.2"], 60));
    zone.set("short.corp.test", Reply::Addresses(&["127.0.0.3"], 60));
    zone.set("listed.test", Reply::Addresses(&["127.0.0.66"], 60));
    let hosts = "127.0.0.4 listed.test\n127.0.0.1 localhost\n::1 localhost\n";
    let resolver = resolver(&zone, QUICK, hosts, &["corp.test"]).await;
    for (asked, expected) in [
        ("my_service", "127.0.0.2:80*1"),
        ("short", "127.0.0.3:80*1"),
        ("listed.test", "127.0.0.4:80*1"),
        ("localhost", "127.0.0.1:80*1"),
    ] {
        let (discovered, _following) = follow(&resolver, &Discovery::Undeclared([name(asked)].into())).await;
        assert_eq!(show(&discovered), [expected], "{asked}");
    }
    assert_eq!(zone.asked("listed.test"), 0);
}

#[tokio::test]
async fn dropping_the_guard_ends_the_look_ups() {
    let zone = Zone::default();
    zone.set("a.test", Reply::Addresses(&["127.0.0.2"], 0));
    let resolver = resolver(&zone, QUICK, "", &[]).await;
    let (discovered, following) = follow(&resolver, &Discovery::Dns([name("a.test")].into())).await;
    drop(following);
    until("only the test holds the endpoints", || Arc::strong_count(&discovered) == 1).await;
}
