//! Sidecar resources: what of the mesh a workload sees.

use super::super::lines;
use super::*;
use crate::table::Speaks;

/// Three services of three namespaces on port 80, of which the first has port 81 too.
fn services() -> String {
    let web = port(80, "http", "HTTP");
    [
        service(
            "shop",
            "own",
            0,
            "[own.test]",
            "[{number: 80, name: a, protocol: HTTP}, {number: 81, name: b, protocol: HTTP}]",
            "",
        ),
        service("bank", "ledger", 1, "[ledger.test]", &web, ""),
        service("istio-system", "root", 2, "[root.other]", &web, ""),
        service("bank", "hidden", 3, "[hidden.test]", &web, "exportTo: ['.']"),
        service("bank", "nobodys", 4, "[nobodys.test]", &web, "exportTo: ['~']"),
        service("bank", "shown", 5, "[shown.test]", &web, "exportTo: [shop]"),
    ]
    .concat()
}

fn egress(namespace: &str, name: &str, created: u32, hosts: &str) -> String {
    resource("Sidecar", namespace, name, created, &format!("{{egress: [{{hosts: {hosts}}}]}}"))
}

impl Mesh {
    /// The services that are called by their names, in order, each with its ports.
    fn visible(&self) -> String {
        let mut found = Vec::new();
        for host in ["own.test", "ledger.test", "root.other", "hidden.test", "nobodys.test", "shown.test"] {
            let ports = [80, 81].into_iter().filter(|port| {
                self.send(&format!("10.9.9.9:{port}"), &format!("GET {host} /"))
                    .starts_with(&format!("outbound|{port}||{host}"))
            });
            let ports: Vec<_> = ports.map(|port| port.to_string()).collect();
            if !ports.is_empty() {
                found.push(format!("{}:{}", host.split('.').next().expect("a name"), ports.join("+")));
            }
        }
        found.join(" ")
    }
}

#[test]
fn egress_hosts_bring_in_services_by_namespace_and_name() {
    let all = "own:80+81 ledger:80 root:80 shown:80";
    for (hosts, want) in [
        ("['*/*']", all),
        ("['./*']", "own:80+81"),
        ("['bank/*']", "ledger:80 shown:80"),
        ("['*/*.test']", "own:80+81 ledger:80 shown:80"),
        ("['*/ledger.test', './own.test']", "own:80+81 ledger:80"),
        ("['./ledger.test']", ""),
        ("['~/*']", ""),
        ("['~/*', './*']", "own:80+81"),
        ("['*/*', '~bank/*']", "own:80+81 root:80"),
        ("['*/*', '~bank/shown.test']", "own:80+81 ledger:80 root:80"),
        ("['*/*', '~./*']", "ledger:80 root:80 shown:80"),
        ("['*/*', '~*/*.test']", "root:80"),
    ] {
        let mesh = sidecar(&(services() + &egress("shop", "default", 0, hosts)));
        assert_eq!(mesh.visible(), want, "{hosts}");
    }
    assert_eq!(sidecar(&services()).visible(), all);
}

#[test]
fn the_narrowest_and_then_the_oldest_sidecar_is_in_force() {
    let selecting = |namespace: &str, created: u32, app: &str, hosts: &str| {
        let spec = format!("{{workloadSelector: {{labels: {{app: {app}}}}}, egress: [{{hosts: {hosts}}}]}}");
        resource("Sidecar", namespace, &format!("{app}-{created}"), created, &spec)
    };
    let (own, bank, root) = ("own:80+81", "ledger:80 shown:80", "root:80");
    let all = "own:80+81 ledger:80 root:80 shown:80";
    let of_root = egress("istio-system", "root", 0, "['istio-system/*']");
    let of_home = |created| egress("shop", &format!("home-{created}"), created, "['bank/*']");
    for (resources, want) in [
        (of_root.clone(), root),
        (of_root.clone() + &of_home(5), bank),
        (of_root.clone() + &of_home(5) + &selecting("shop", 9, "web", "['./*']"), own),
        (of_home(5) + &selecting("shop", 9, "other", "['./*']"), bank),
        (of_home(5) + &egress("shop", "older", 0, "['./*']"), own),
        (selecting("shop", 1, "web", "['./*']") + &selecting("shop", 0, "web", "['bank/*']"), bank),
        (egress("bank", "elsewhere", 0, "['./*']"), all),
        (selecting("istio-system", 0, "web", "['./*']"), all),
        // One that says nothing of what can be called changes nothing of it.
        (
            of_root + &resource("Sidecar", "shop", "inbound", 0, "{inboundConnectionPool: {tcp: {maxConnections: 1}}}"),
            all,
        ),
    ] {
        assert_eq!(sidecar(&(services() + &resources)).visible(), want, "{resources}");
    }
}

#[test]
fn a_listener_with_a_port_says_what_is_on_that_port() {
    let egress =
        |listeners: &str| services() + &resource("Sidecar", "shop", "default", 0, &format!("{{egress: {listeners}}}"));
    let at = |port: u16, hosts: &str| format!("{{port: {{number: {port}, name: p, protocol: HTTP}}, hosts: {hosts}}}");
    for (listeners, want) in [
        (format!("[{}]", at(80, "['*/*']")), "own:80 ledger:80 root:80 shown:80"),
        (format!("[{}]", at(81, "['*/*']")), "own:81"),
        (format!("[{}, {{hosts: ['*/*']}}]", at(80, "['bank/*']")), "own:81 ledger:80 shown:80"),
        (format!("[{}, {}]", at(80, "['bank/*']"), at(81, "['./*']")), "own:81 ledger:80 shown:80"),
    ] {
        assert_eq!(sidecar(&egress(&listeners)).visible(), want, "{listeners}");
    }
}

#[test]
fn a_listener_with_an_address_has_its_own_services() {
    let egress = |listeners: &str| resource("Sidecar", "shop", "default", 0, &format!("{{egress: {listeners}}}"));
    let db = service("shop", "db", 9, "[db.test]", &port(5432, "db", "TCP"), "");
    let yaml = services()
        + &db
        + &egress(
            "[{port: {number: 8080, name: a, protocol: HTTP}, captureMode: NONE, hosts: ['bank/*']}, \
              {port: {number: 3306, name: b, protocol: MYSQL}, bind: 127.0.0.9, captureMode: NONE, hosts: ['./db.test']}, \
              {port: {number: 80, name: c, protocol: HTTP}, bind: 10.1.0.1, hosts: ['istio-system/*']}, \
              {port: {number: 0, name: d, protocol: HTTP}, bind: 'unix:///tmp/x', hosts: ['*/*']}, \
              {hosts: ['./own.test']}]",
        );
    let mesh = sidecar(&yaml);
    assert_eq!(mesh.visible(), "own:80+81");
    assert_eq!(mesh.send("10.1.0.1:80", "GET root.other /"), "outbound|80||root.other by default");
    assert_eq!(mesh.send("10.1.0.1:80", "GET own.test /"), "PassthroughCluster by allow_any");
    let listener = |bind: &str, port: u16| {
        let bind = Some(address(&format!("{bind}:1")).ip());
        let found = mesh.table.listeners.iter().find(|listener| (listener.bind, listener.port) == (bind, port));
        match &found.expect("a listener").protocol {
            ListenerProtocol::Service(routes) => routes,
            other => panic!("{other:?}"),
        }
    };
    let web = listener("127.0.0.1", 8080);
    assert_eq!(web.speaks, Speaks::Http);
    assert_eq!(mesh.request(&web.http, "GET ledger.test /"), "outbound|80||ledger.test by default");
    // Nothing was redirected: there is no way on.
    assert_eq!(mesh.request(&web.http, "GET own.test /"), "502 by block_all");
    let db = listener("127.0.0.9", 3306);
    assert_eq!(
        (db.speaks, mesh.stream(db, address("127.0.0.9:3306"), None)),
        (Speaks::Bytes, "outbound|5432||db.test".into())
    );
    assert_eq!(lines(&mesh.findings), ["Warning NotSupported Sidecar shop/default spec.egress[3]"]);
}

#[test]
fn a_name_is_the_own_namespaces_service_or_else_the_oldest_that_is_brought_in() {
    let web = port(80, "http", "HTTP");
    let named = |namespace: &str, created| service(namespace, "same", created, "[same.test]", &web, "");
    let home = |resources: String| sidecar(&resources).cluster("outbound|80||same.test").key.namespace.to_string();
    let elsewhere = named("bank", 0) + &named("chess", 1);
    assert_eq!(home(elsewhere.clone()), "bank");
    assert_eq!(home(elsewhere.clone() + &named("shop", 2)), "shop");
    assert_eq!(home(elsewhere.clone() + &egress("shop", "default", 0, "['chess/*']")), "chess");
    // Whoever leads there: the VirtualService's own namespace has one too.
    let rules = "{hosts: [other.test], http: [{route: [{destination: {host: same.test}}]}]}";
    let rules = resource("VirtualService", "chess", "rules", 0, rules);
    assert_eq!(home(elsewhere + &rules), "bank");
}

#[test]
fn virtual_services_are_brought_in_with_their_namespace_and_lead_anywhere() {
    let rules = |namespace: &str| {
        let rules = "{hosts: [own.test], http: [{name: RULE, route: [{destination: {host: ledger.test}}]}]}";
        resource("VirtualService", namespace, "rules", 0, &rules.replace("RULE", namespace))
    };
    let yaml = services() + &rules("shop") + &rules("bank").replace("00Z", "09Z");
    let send = |hosts: &str| {
        sidecar(&(yaml.clone() + &egress("shop", "default", 0, hosts))).send("10.9.9.9:80", "GET own.test /")
    };
    assert_eq!(send("['./*']"), "outbound|80||ledger.test by shop");
    assert_eq!(send("['shop/own.test', 'bank/*']"), "outbound|80||ledger.test by shop");
    assert_eq!(send("['*/*', '~shop/other']"), "outbound|80||ledger.test by shop");
    let hidden = rules("bank").replace("{hosts", "{exportTo: ['.'], hosts");
    let of_bank = |rules: String| {
        sidecar(&(services() + &rules + &egress("shop", "default", 0, "['*/*']"))).send("10.9.9.9:80", "GET own.test /")
    };
    assert_eq!(of_bank(rules("bank")), "outbound|80||ledger.test by bank");
    assert_eq!(of_bank(hidden), "outbound|80||own.test by default");
}
