//! Authorization: who is let through, who is refused, and what is told and counted.

use std::sync::Arc;

use proxy::{ListenAddr, Options, Proxy};
use route_model::kind::Kind;
use route_model::meta::ResourceKey;
use route_model::table::stream::Subnet;
use route_model::table::{ListenerProtocol, ProxySettings, RouteTable};
use route_model::verdict::authorization::{
    Action, AddressSet, Attribute, Authorization, Check, Policy, Rule, Term, TextSet, Which,
};
use tokio::io::AsyncReadExt as _;

use crate::client::Http1;
use crate::table::{direct, listener, route, table};
use crate::{addr, apply, eventually, metrics, start_with};

fn rule(number: usize, check: Check) -> Arc<Rule> {
    let term = Term { field: "field".into(), check, negated: false };
    let denial = format!("rbac_access_denied_matched_policy[ns[istio-system]-policy[p]-rule[{number}]]");
    Arc::new(Rule {
        number,
        denial: denial.into(),
        from: Box::default(),
        to: [[term].into()].into(),
        when: Box::default(),
    })
}

fn path(texts: &[&str]) -> Check {
    Check::Text(Attribute::Path, TextSet::paths(texts))
}

fn from(which: Which, subnets: &[&str]) -> Check {
    Check::Address(which, AddressSet::new(subnets.iter().filter_map(|text| Subnet::parse(text))))
}

pub(crate) fn policy(name: &str, action: Action, checks: Vec<Check>) -> Policy {
    let rules: Box<[_]> = checks.into_iter().enumerate().map(|(number, check)| rule(number, check)).collect();
    Policy {
        resource: ResourceKey::new(Kind::AuthorizationPolicy, "istio-system", name),
        action,
        dry_run: false,
        gateways: Box::default(),
        http: rules.clone(),
        tcp: rules,
    }
}

fn under(policies: Vec<Policy>) -> RouteTable {
    let listener = listener(80, vec![("h", vec![route("/", direct(200, "ok"))])]);
    let authorization = Arc::new(Authorization::new(policies.into_iter().map(Arc::new).collect()));
    RouteTable { authorization, ..table(vec![listener], Vec::new()) }
}

async fn serving(table: RouteTable) -> (Proxy, Http1) {
    let metrics_addr = Some(ListenAddr { addr: ([127, 0, 0, 1], 0).into(), explicit: true });
    let proxy = start_with(Options { workers: 1, metrics_addr, ..Options::default() });
    apply(&proxy, table).await;
    let client = Http1::connect(addr(&proxy, 80)).await;
    (proxy, client)
}

async fn counted(proxy: &Proxy, policy: &str, result: &str) -> u64 {
    let metrics = metrics(proxy).await;
    let start = format!("fairway_authorization_verdicts_total{{policy=\"{policy}\",result=\"{result}\"}} ");
    let line = metrics.lines().find_map(|line| line.strip_prefix(&start));
    line.unwrap_or_else(|| panic!("no {start} in {metrics}")).parse().expect("a number")
}

#[tokio::test]
async fn a_denied_request_is_told_so_and_counted_by_its_policy() {
    let deny = policy("deny", Action::Deny, vec![path(&["/admin*"])]);
    let allow = policy("allow", Action::Allow, vec![path(&["/a*"])]);
    let (proxy, mut client) = serving(under(vec![deny, allow])).await;
    let reply = client.get("h", "/admin").await;
    assert_eq!((reply.status, reply.text()), (403, "RBAC: access denied"));
    assert_eq!((reply.header("content-type"), reply.header("server")), (Some("text/plain"), Some("fairway")));
    for (path, status) in [("/a", 200), ("/ab", 200), ("/b", 403), ("/admin/x", 403), ("/x/../admin", 403)] {
        assert_eq!(client.get("h", path).await.status, status, "{path}");
    }
    // Nothing is said about hosts and paths that there are not.
    assert_eq!(client.get("other", "/b").await.status, 403);
    assert_eq!(client.get("other", "/a").await.status, 404);
    assert_eq!(counted(&proxy, "istio-system/deny", "denied").await, 3);
    assert_eq!(counted(&proxy, "istio-system/allow", "allowed").await, 3);
    assert_eq!(counted(&proxy, "", "denied").await, 2);
    let all = metrics(&proxy).await;
    assert!(all.contains("response_code=\"403\",grpc_response_status=\"\",response_flags=\"-\""), "{all}");
}

#[tokio::test]
async fn a_grpc_client_is_told_in_its_own_words() {
    let (_proxy, mut client) = serving(under(vec![policy("none", Action::Allow, Vec::new())])).await;
    client.send("POST /a.B/C HTTP/1.1\r\nHost: h\r\ncontent-type: application/grpc\r\ncontent-length: 0\r\n\r\n").await;
    let reply = client.reply().await;
    assert_eq!((reply.status, reply.header("grpc-status")), (200, Some("7")));
    assert_eq!(reply.header("grpc-message"), Some("RBAC: access denied"));
}

#[tokio::test]
async fn a_policy_on_trial_counts_and_denies_nobody() {
    let trial = |name, action, checks| Policy { dry_run: true, ..policy(name, action, checks) };
    let policies = vec![
        trial("deny", Action::Deny, vec![path(&["/admin"])]),
        trial("allow", Action::Allow, vec![path(&["/a"])]),
        policy("audit", Action::Audit, vec![path(&["/a*"])]),
    ];
    let (proxy, mut client) = serving(under(policies)).await;
    for path in ["/admin", "/a", "/b"] {
        assert_eq!(client.get("h", path).await.status, 200, "{path}");
    }
    assert_eq!(counted(&proxy, "istio-system/deny", "shadow_denied").await, 1);
    assert_eq!(counted(&proxy, "istio-system/allow", "shadow_allowed").await, 1);
    assert_eq!(counted(&proxy, "", "shadow_denied").await, 1);
    assert_eq!(counted(&proxy, "istio-system/audit", "audited").await, 2);
}

#[tokio::test]
async fn nobody_gets_in_by_a_forwarded_address_that_no_trusted_proxy_wrote() {
    let office = || from(Which::Remote, &["203.0.113.0/24"]);
    let behind = |hops| RouteTable {
        settings: Arc::new(ProxySettings { num_trusted_proxies: hops, ..ProxySettings::default() }),
        ..under(vec![policy("office", Action::Allow, vec![office()])])
    };
    for (hops, forwarded, status) in [
        (0, "", 403),
        (0, "203.0.113.7", 403),
        (1, "", 403),
        (1, "203.0.113.7", 200),
        // The proxy in front appended what it saw; what stands before is the client's own tale.
        (1, "203.0.113.7, 198.51.100.9", 403),
        (1, "198.51.100.9, 203.0.113.7", 200),
        (2, "203.0.113.7", 403),
        (2, "203.0.113.7, 10.0.0.1", 200),
        (2, "203.0.113.7, 198.51.100.9, 10.0.0.1", 403),
        (1, "203.0.113.7x", 403),
        (1, "203.0.113.7, ", 403),
    ] {
        let (_proxy, mut client) = serving(behind(hops)).await;
        let field = if forwarded.is_empty() { String::new() } else { format!("X-Forwarded-For: {forwarded}\r\n") };
        client.send(format!("GET / HTTP/1.1\r\nHost: h\r\n{field}\r\n")).await;
        assert_eq!(client.reply().await.status, status, "{forwarded:?} behind {hops}");
    }
    // The peer is another matter.
    let peer = || from(Which::Source, &["127.0.0.0/8"]);
    let (_proxy, mut client) = serving(under(vec![policy("local", Action::Deny, vec![peer()])])).await;
    client.send("GET / HTTP/1.1\r\nHost: h\r\nX-Forwarded-For: 203.0.113.7\r\n\r\n").await;
    assert_eq!(client.reply().await.status, 403);
}

#[tokio::test]
async fn counts_outlive_tables_while_their_policy_does() {
    let deny = || policy("deny", Action::Deny, vec![path(&["/*"])]);
    let (proxy, mut client) = serving(under(vec![deny()])).await;
    assert_eq!(client.get("h", "/").await.status, 403);
    apply(&proxy, under(vec![deny(), policy("more", Action::Allow, Vec::new())])).await;
    assert_eq!(client.get("h", "/").await.status, 403);
    assert_eq!(counted(&proxy, "istio-system/deny", "denied").await, 2);
    apply(&proxy, under(Vec::new())).await;
    assert_eq!(client.get("h", "/").await.status, 200);
    assert!(!metrics(&proxy).await.contains("policy=\"istio-system/deny\""));
}

#[tokio::test]
async fn a_denied_connection_is_closed_without_a_byte() {
    let table = |checks| {
        let mut table = under(vec![policy("peers", Action::Deny, checks)]);
        let tcp = route_model::table::StreamRoutes::tcp("tcp".into(), Vec::new());
        let mut listener = (*table.listeners[0]).clone();
        listener.protocol = ListenerProtocol::Tcp(Arc::new(tcp));
        table.listeners = vec![Arc::new(listener)];
        table
    };
    let (proxy, _) = serving(table(vec![from(Which::Source, &["127.0.0.0/8"])])).await;
    let mut stream = tokio::net::TcpStream::connect(addr(&proxy, 80)).await.expect("a connection");
    let mut answer = Vec::new();
    // Reset or closed: nothing comes.
    let _ = stream.read_to_end(&mut answer).await;
    assert!(answer.is_empty());
    let proxy = &proxy;
    for _ in 0..100 {
        if counted(proxy, "istio-system/peers", "denied").await > 0 {
            break;
        }
    }
    let denied = counted(proxy, "istio-system/peers", "denied").await;
    eventually("the connections are counted", || denied >= 1).await;
}
