//! What is in force, as JSON for operators. Of secrets it shows the names only.

use route_model::table::cluster::{Discovery, EndpointAddress, LoadBalancer, UpstreamProtocol};
use route_model::table::hash::HashAlgorithm;
use route_model::table::redirect::RedirectPath;
use route_model::table::route::RouteOrigin;
use route_model::table::tls::{
    CaSource, CertificateSource, TlsChoice, TlsMode, TlsRoutes, TlsServer, TlsTerms, TlsVersion,
};
use route_model::table::{
    Action, Cluster, HttpRoutes, InboundPort, Listener, ListenerProtocol, MutualTls, PortRoutes, Route, RouteTable,
    ServerRef, Speaks, StreamRoutes, VirtualHost,
};
use serde_json::{Value, json};

use crate::proxy::BoundPorts;
use crate::runtime_table::RuntimeTable;
use crate::upstream::cluster_state::{ClusterState, Discovered};

/// The table in force.
pub(super) fn table(table: &RouteTable) -> Value {
    let settings = &table.settings;
    json!({
        "revision": table.revision,
        "settings": {
            "num_trusted_proxies": settings.num_trusted_proxies,
            "connect_timeout_ms": settings.connect_timeout.as_millis() as u64,
            "dns_refresh_rate_ms": settings.dns_refresh_rate.as_millis() as u64,
        },
        "listeners": table.listeners.iter().map(|one| listener(table, one)).collect::<Vec<_>>(),
        "clusters": table.clusters.iter().flatten().map(|one| cluster(one)).collect::<Vec<_>>(),
    })
}

/// The clusters in force with the endpoints known now.
pub(super) fn clusters(runtime: &RuntimeTable) -> Value {
    runtime.clusters.iter().flatten().map(|state| cluster_state(state)).collect()
}

/// The sockets that accept connections.
pub(super) fn listeners(bound: &BoundPorts) -> Value {
    bound
        .listeners
        .iter()
        .map(|listener| {
            json!({
                "port": listener.port,
                "bind": listener.bind.map(|ip| ip.to_string()),
                "address": listener.address.to_string(),
            })
        })
        .collect()
}

fn cluster_state(state: &ClusterState) -> Value {
    let mut shown = cluster(&state.cluster);
    shown["resolved"] = json!(state.is_known());
    shown["endpoints"] = endpoints(&state.discovered);
    shown["under_way"] = state.load.dump();
    if let Some(fault) = state.tls_at_fault.as_ref().and_then(|terms| terms.fault()) {
        shown["tls"]["fault"] = json!(fault.message);
    }
    if let Some(names) = &state.names {
        let names = names.names().into_iter();
        let names = names.map(|(name, discovered)| json!({"name": name, "endpoints": endpoints(&discovered)}));
        shown["names"] = names.collect();
    }
    shown
}

fn endpoints(discovered: &Discovered) -> Value {
    let (_, set) = discovered.current();
    set.endpoints
        .iter()
        .map(|endpoint| {
            json!({
                "address": endpoint.state.name,
                "weight": endpoint.weight,
                "priority": endpoint.rank.priority,
                "active_requests": endpoint.state.active(),
            })
        })
        .collect()
}

fn cluster(cluster: &Cluster) -> Value {
    json!({
        "name": cluster.name,
        "host": cluster.key.host,
        "port": cluster.key.port,
        "subset": cluster.key.subset,
        "namespace": cluster.key.namespace,
        "discovery": discovery(&cluster.discovery),
        "load_balancer": match &cluster.load_balancer {
            LoadBalancer::LeastRequest => "LEAST_REQUEST",
            LoadBalancer::RoundRobin => "ROUND_ROBIN",
            LoadBalancer::Random => "RANDOM",
            LoadBalancer::Hash(hash) => match hash.algorithm {
                HashAlgorithm::Ring(_) => "RING_HASH",
                HashAlgorithm::Maglev(_) => "MAGLEV",
            },
        },
        "protocol": match cluster.protocol {
            UpstreamProtocol::Http1 => "HTTP/1.1",
            UpstreamProtocol::Http2 => "HTTP/2",
            UpstreamProtocol::Client => "as the client's",
        },
        "connect_timeout_ms": cluster.connect_timeout.as_millis() as u64,
        "idle_timeout_ms": cluster.idle_timeout.as_millis() as u64,
        "tls": cluster.policy.tls.as_ref().map(|tls| json!({
            "rule": tls.rule.to_string(),
            "sni": tls.sni,
            "subject_alt_names": tls.subject_alt_names,
            "client_certificate": tls.mutual,
            "verified": tls.verify,
        })),
    })
}

fn discovery(discovery: &Discovery) -> Value {
    let names = |names: &[route_model::table::cluster::DnsEndpoint]| -> Vec<Value> {
        names.iter().map(|name| json!({"name": name.name, "port": name.port, "weight": name.weight})).collect()
    };
    match discovery {
        Discovery::Static(endpoints) => {
            let addresses = endpoints.iter().map(|endpoint| match &endpoint.address {
                EndpointAddress::Ip(ip, port) => {
                    json!({"address": std::net::SocketAddr::new(*ip, *port).to_string(), "weight": endpoint.weight})
                }
                EndpointAddress::Unix(path) => json!({"address": path, "weight": endpoint.weight}),
            });
            json!({"type": "STATIC", "endpoints": addresses.collect::<Vec<_>>()})
        }
        Discovery::Dns(all) => json!({"type": "DNS", "names": names(all)}),
        Discovery::LogicalDns(one) => json!({"type": "DNS_ROUND_ROBIN", "names": names(std::slice::from_ref(one))}),
        Discovery::Undeclared(all) => json!({"type": "UNDECLARED", "names": names(all)}),
        Discovery::Dynamic(names) => {
            json!({"type": "DYNAMIC_DNS", "host": format!("*{}", names.suffix), "port": names.port})
        }
        Discovery::Original => json!({"type": "ORIGINAL_DST"}),
        Discovery::None => json!({"type": "NONE"}),
    }
}

fn listener(table: &RouteTable, listener: &Listener) -> Value {
    let servers: Vec<Value> = listener.servers.iter().map(server_ref).collect();
    let mut shown = json!({
        "port": listener.port,
        "bind": listener.bind.map(|ip| ip.to_string()),
        "trusted_proxies": table.settings.trusted_hops(listener),
        "servers": servers,
        "proxy_protocol": listener.proxy_protocol,
    });
    match &listener.protocol {
        ListenerProtocol::Http(http) => shown["http"] = routes(table, http),
        ListenerProtocol::Tcp(tcp) => shown["tcp"] = streams(table, tcp),
        ListenerProtocol::Tls(tls) => {
            let of = |choice: TlsChoice| -> Vec<String> {
                tls.by_sni.iter().filter(|(_, to)| **to == choice).map(|(host, _)| host.to_string()).collect()
            };
            let servers = (0..).zip(&tls.servers);
            let terminating = servers.map(|(index, server)| tls_server(table, server, of(TlsChoice::Terminate(index))));
            let passthrough = (0..).zip(&tls.passthrough).map(|(index, server)| {
                json!({
                    "server": server_ref(&server.server),
                    "server_names": of(TlsChoice::PassThrough(index)),
                    "passthrough": streams(table, &server.routes),
                })
            });
            shown["tls"] = terminating.chain(passthrough).collect();
        }
        ListenerProtocol::Service(port) => shown["service"] = port_routes(table, port),
        ListenerProtocol::Outbound(outbound) => {
            let addresses = outbound.by_address.iter().map(|((ip, port), routes)| {
                (std::net::SocketAddr::new(*ip, *port).to_string(), port_routes(table, routes))
            });
            let ports = outbound.by_port.iter().map(|(port, routes)| (port.to_string(), port_routes(table, routes)));
            shown["outbound"] = json!({
                "addresses": addresses.collect::<serde_json::Map<_, _>>(),
                "ports": ports.collect::<serde_json::Map<_, _>>(),
                "elsewhere": port_routes(table, &outbound.unknown),
            });
        }
        ListenerProtocol::Inbound { port, inbound } => {
            let ports = inbound.ports.iter().map(|(port, routes)| (port.to_string(), inbound_port(table, routes)));
            shown["inbound"] = json!({
                "port": port,
                "ports": ports.collect::<serde_json::Map<_, _>>(),
                "others": inbound_port(table, &inbound.other),
            });
        }
    }
    shown
}

fn inbound_port(table: &RouteTable, port: &InboundPort) -> Value {
    let mutual_tls = match port.mutual_tls {
        MutualTls::Disable => "DISABLE",
        MutualTls::Permissive => "PERMISSIVE",
        MutualTls::Strict => "STRICT",
    };
    json!({"mutual_tls": mutual_tls, "routes": port_routes(table, &port.routes)})
}

fn port_routes(table: &RouteTable, port: &PortRoutes) -> Value {
    json!({
        "speaks": match port.speaks {
            Speaks::Http => "HTTP",
            Speaks::Bytes => "TCP",
            Speaks::Tls => "TLS",
            Speaks::Detect => "detected",
        },
        "http": routes(table, &port.http),
        "tcp": port.streams.as_ref().map(|tcp| streams(table, tcp)),
    })
}

fn server_ref(server: &ServerRef) -> Value {
    json!({"gateway": server.gateway.to_string(), "server": server.index})
}

fn tls_server(table: &RouteTable, server: &TlsServer, names: Vec<String>) -> Value {
    let (inside, shown) = match &server.routes {
        TlsRoutes::Http(http) => ("http", routes(table, http)),
        TlsRoutes::Tcp(tcp) => ("tcp", streams(table, tcp)),
    };
    json!({
        "server": server_ref(&server.server),
        "server_names": names,
        "terms": terms(&server.terms),
        inside: shown,
    })
}

fn terms(terms: &TlsTerms) -> Value {
    let version = |version: TlsVersion| match version {
        TlsVersion::V1_2 => "TLSV1_2",
        TlsVersion::V1_3 => "TLSV1_3",
    };
    let certificates = terms.certificates.iter().map(|source| match source {
        CertificateSource::Secret(credential) => json!({"secret": credential.secret.to_string()}),
        CertificateSource::Files { certificate, private_key } => {
            json!({"certificate_file": certificate, "private_key_file": private_key})
        }
        CertificateSource::Mesh => json!("mesh"),
    });
    json!({
        "mode": match terms.mode {
            TlsMode::Simple => "SIMPLE",
            TlsMode::Mutual => "MUTUAL",
            TlsMode::OptionalMutual => "OPTIONAL_MUTUAL",
        },
        "certificates": certificates.collect::<Vec<_>>(),
        "client_ca": terms.client_ca.as_ref().map(|ca| match ca {
            CaSource::Secret(credential) => json!({"secret": credential.secret.to_string()}),
            CaSource::Files { ca, crl } => json!({"ca_file": ca, "crl_file": crl}),
            CaSource::Mesh => json!("mesh"),
        }),
        "subject_alt_names": terms.subject_alt_names,
        "verify_certificate_spki": terms.verify_certificate_spki,
        "verify_certificate_hash": terms.verify_certificate_hash,
        "min_version": version(terms.min_version),
        "max_version": version(terms.max_version),
        "cipher_suites": terms.cipher_suites,
    })
}

fn routes(table: &RouteTable, routes: &HttpRoutes) -> Value {
    let hosts = routes.hosts.iter().map(|(_, host)| virtual_host(table, host));
    json!({"name": routes.name, "virtual_hosts": hosts.collect::<Vec<_>>()})
}

fn streams(table: &RouteTable, routes: &StreamRoutes) -> Value {
    let rules = routes.rules().iter().map(|rule| {
        let destinations = rule.destinations.iter().map(|to| {
            let cluster = table.cluster(to.cluster).map(|cluster| &cluster.name);
            json!({"cluster": cluster, "weight": to.weight})
        });
        json!({
            "virtual_service": rule.origin.virtual_service.to_string(),
            "rule": rule.origin.path().to_string(),
            "destinations": destinations.collect::<Vec<_>>(),
        })
    });
    json!({"name": routes.name, "rules": rules.collect::<Vec<_>>()})
}

fn virtual_host(table: &RouteTable, host: &VirtualHost) -> Value {
    json!({
        "domain": host.domain.to_string(),
        "https_redirect": host.https_redirect,
        "routes": host.routes().iter().map(|one| route(table, one)).collect::<Vec<_>>(),
    })
}

/// The rule is named, not repeated: the VirtualService says what it takes.
fn route(table: &RouteTable, route: &Route) -> Value {
    let RouteOrigin { virtual_service, rule, match_index, delegate } = &*route.origin;
    json!({
        "name": route.name,
        "virtual_service": virtual_service.to_string(),
        "rule": rule,
        "match": match_index,
        "delegate": delegate.as_ref().map(|(of, rule)| json!({"virtual_service": of.to_string(), "rule": rule})),
        "action": action(table, &route.action),
    })
}

fn action(table: &RouteTable, action: &Action) -> Value {
    match action {
        Action::Forward(forward) => {
            let destinations = forward.destinations.iter().map(|destination| {
                let cluster = table.cluster(destination.cluster);
                json!({"cluster": cluster.map(|cluster| &cluster.name), "weight": destination.weight})
            });
            json!({
                "forward": destinations.collect::<Vec<_>>(),
                "timeout_ms": forward.timeout.map(|timeout| timeout.as_millis() as u64),
                "rewrites_path": forward.path_rewrite.is_some(),
            })
        }
        Action::Redirect(redirect) => json!({
            "redirect": redirect.status.as_u16(),
            "scheme": redirect.scheme,
            "authority": redirect.authority,
            "port": redirect.port,
            "path": match &redirect.path {
                RedirectPath::Keep => None,
                RedirectPath::Full(path) | RedirectPath::Prefix(path) => Some(path),
            },
        }),
        Action::Direct(direct) => json!({"respond": direct.status.as_u16(), "body_bytes": direct.body.len()}),
    }
}
