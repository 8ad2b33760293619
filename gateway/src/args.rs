//! The command line of a gateway, shared by `fairway-gateway`, `fairway gateway` and `fairway serve`.

use std::collections::BTreeMap;
use std::net::IpAddr;
use std::path::PathBuf;

use follower::args::{self, JoinArgs};
use follower::{Options, Transport};
use proxy::ProxyIdentity;
use route_model::compile::{ProxyRole, ProxyScope};
use route_model::names::is_dns_subdomain;
use serde_json::{Map, Value};

/// A gateway that follows a control plane elsewhere.
#[derive(Clone, Debug, clap::Args)]
pub struct Args {
    #[command(flatten)]
    pub join: JoinArgs,

    /// Where the last good configuration, the node id and ports.json are kept
    #[arg(long, env = "FAIRWAY_DATA_DIR", value_name = "DIR", default_value = "./fairway-gateway-data")]
    pub data_dir: PathBuf,

    #[command(flatten)]
    pub gateway: GatewayArgs,
}

/// What a gateway is, wherever its control plane is.
#[derive(Clone, Debug, clap::Args)]
pub struct GatewayArgs {
    /// The address that listeners bind unless their Gateway names one
    #[arg(long, env = "FAIRWAY_GATEWAY_BIND", value_name = "IP", default_value = "0.0.0.0")]
    pub gateway_bind: IpAddr,

    /// Bind other ports than the Gateways name: 80=8080,443=8443; 0 takes a free one
    #[arg(long, env = "FAIRWAY_PORT_MAP", value_name = "PORT=PORT", value_delimiter = ',', value_parser = port_pair)]
    pub port_map: Vec<(u16, u16)>,

    /// The namespace that the gateway runs in: its TLS secrets are there, and exportTo is held against it
    #[arg(long, env = "FAIRWAY_GATEWAY_NAMESPACE", value_name = "NAMESPACE", default_value = "istio-system")]
    pub gateway_namespace: String,

    /// The service account that the gateway runs as: with its namespace, its identity in the mesh
    #[arg(
        long,
        env = "FAIRWAY_GATEWAY_SERVICE_ACCOUNT",
        value_name = "NAME",
        default_value = "default",
        value_parser = service_account
    )]
    pub gateway_service_account: String,

    /// The labels that Gateway selectors are held against
    #[arg(
        long,
        env = "FAIRWAY_GATEWAY_LABELS",
        value_name = "KEY=VALUE",
        value_delimiter = ',',
        value_parser = args::label,
        default_value = "istio=ingressgateway,app=istio-ingressgateway"
    )]
    pub gateway_labels: Vec<(String, String)>,

    /// Where the gateway runs, for endpoints that are nearer than others: region/zone/subzone, as far as it matters
    #[arg(long, env = "FAIRWAY_GATEWAY_LOCALITY", value_name = "REGION/ZONE/SUBZONE", value_parser = args::locality)]
    pub gateway_locality: Option<String>,

    /// The network that the gateway is in, held against the network of endpoints
    #[arg(long, env = "FAIRWAY_GATEWAY_NETWORK", value_name = "NAME")]
    pub gateway_network: Option<String>,

    /// Worker threads [default: the cores that this process may use]
    #[arg(long, env = "FAIRWAY_GATEWAY_WORKERS", value_name = "N", value_parser = clap::value_parser!(u16).range(1..=1024))]
    pub gateway_workers: Option<u16>,

    #[command(flatten)]
    pub proxy: args::ProxyArgs,
}

impl Args {
    /// Reads the files that the command line names.
    pub fn into_parts(self) -> anyhow::Result<(Options, Transport)> {
        let transport = self.join.into_transport(&self.data_dir, proxy::OwnTraffic::NotLedHere)?;
        Ok((self.gateway.into_options(self.data_dir, Map::new()), transport))
    }
}

impl GatewayArgs {
    /// What the control plane compiles and sends for this gateway.
    pub fn scope(&self) -> ProxyScope {
        ProxyScope {
            role: ProxyRole::Gateway,
            namespace: self.gateway_namespace.as_str().into(),
            labels: self.labels(),
        }
    }

    fn labels(&self) -> BTreeMap<String, String> {
        args::labels(self.gateway_locality.as_deref(), self.gateway_network.as_deref(), &self.gateway_labels)
    }

    /// `other_ports`: see [`Options::other_ports`].
    pub fn into_options(self, data_dir: PathBuf, other_ports: Map<String, Value>) -> Options {
        let scope = self.scope();
        let mut proxy = proxy::Options {
            bind: self.gateway_bind,
            port_map: self.port_map.into_iter().collect(),
            identity: ProxyIdentity { workload: workload(&scope), ..ProxyIdentity::default() },
            ..self.proxy.options()
        };
        if let Some(workers) = self.gateway_workers {
            proxy.workers = workers.into();
        }
        Options {
            node_id: self.proxy.node_id,
            scope,
            sidecar: None,
            service_account: self.gateway_service_account,
            proxy,
            data_dir,
            other_ports,
            workload: None,
        }
    }
}

/// What Istio's metrics call this workload: the `app` label, as its own gateways do.
fn workload(scope: &ProxyScope) -> String {
    scope.labels.get("app").map_or("fairway-gateway", String::as_str).to_owned()
}

fn service_account(text: &str) -> Result<String, String> {
    if is_dns_subdomain(text) {
        Ok(text.to_owned())
    } else {
        Err(format!("{text:?} is no service account: lower-case letters, digits, inner hyphens and dots"))
    }
}

fn port_pair(text: &str) -> Result<(u16, u16), String> {
    let wrong = || format!("{text:?} is not of the form PORT=PORT, as in 80=8080");
    let (from, to) = text.split_once('=').ok_or_else(wrong)?;
    let from: u16 = from.trim().parse().map_err(|_| wrong())?;
    let to = to.trim().parse().map_err(|_| wrong())?;
    if from == 0 { Err("port 0 cannot be mapped".to_owned()) } else { Ok((from, to)) }
}

#[cfg(test)]
mod tests {
    use std::time::Duration;

    use clap::Parser;

    use super::*;

    #[derive(Debug, Parser)]
    struct Cli {
        #[command(flatten)]
        args: Args,
    }

    fn parse(more: &[&str]) -> Result<Args, clap::Error> {
        let required = ["gateway", "--control-plane-ca", "ca.pem", "--join-token-file", "token"];
        Cli::try_parse_from(required.iter().chain(more)).map(|cli| cli.args)
    }

    #[test]
    fn the_defaults_bind_istios_samples() {
        let options = parse(&[]).unwrap().gateway.into_options("d".into(), Map::new());
        assert_eq!(&*options.scope.namespace, "istio-system");
        assert_eq!(options.service_account, "default");
        assert_eq!(options.scope.labels["istio"], "ingressgateway");
        assert_eq!(options.scope.labels["app"], "istio-ingressgateway");
        assert_eq!(options.proxy.drain_time, Duration::from_secs(30));
        let admin = options.proxy.admin_addr.unwrap();
        assert_eq!((admin.addr.to_string().as_str(), admin.explicit), ("127.0.0.1:15000", false));
    }

    #[test]
    fn what_is_asked_for_counts() {
        let args = ["--port-map", "80=8080,443=0", "--gateway-labels", "a=b,c=", "--drain-time", "500ms"];
        let more = ["--metrics-addr", "127.0.0.1:0", "--gateway-workers", "3", "--access-log", "off"];
        let options = parse(&[&args[..], &more].concat()).unwrap().gateway.into_options("d".into(), Map::new());
        assert_eq!(options.proxy.port_map, BTreeMap::from([(80, 8080), (443, 0)]));
        assert_eq!(options.scope.labels, BTreeMap::from([("a".into(), "b".into()), ("c".into(), String::new())]));
        assert!(options.proxy.metrics_addr.unwrap().explicit);
        assert_eq!((options.proxy.workers, options.proxy.drain_time.as_millis()), (3, 500));
    }

    #[test]
    fn where_a_gateway_is_goes_into_its_labels() {
        let place = ["--gateway-locality", "eu/a", "--gateway-network", "n1"];
        let written = ["--gateway-labels", "app=x,topology.kubernetes.io/zone=b"];
        let labels = parse(&[&place[..], &written].concat()).unwrap().gateway.labels();
        let expected = [
            ("app", "x"),
            ("topology.istio.io/network", "n1"),
            ("topology.kubernetes.io/region", "eu"),
            ("topology.kubernetes.io/zone", "b"),
        ];
        assert_eq!(labels, expected.map(|(label, value)| (label.to_owned(), value.to_owned())).into());
    }

    #[test]
    fn nonsense_is_refused_with_a_hint() {
        for (flag, value, hint) in [
            ("--port-map", "80", "80=8080"),
            ("--port-map", "0=1", "cannot be mapped"),
            ("--port-map", "80=70000", "80=8080"),
            ("--gateway-labels", "=x", "KEY=VALUE"),
            ("--gateway-locality", "eu//1", "REGION/ZONE/SUBZONE"),
            ("--gateway-locality", "eu/a/1/2", "REGION/ZONE/SUBZONE"),
            ("--drain-time", "30", "500ms"),
            ("--drain-time", "99999999999999999h", "500ms"),
            ("--gateway-workers", "0", "1..=1024"),
            ("--node-id", "two words", "visible"),
            ("--gateway-service-account", "Two Words", "is no service account"),
        ] {
            let error = parse(&[flag, value]).unwrap_err().to_string();
            assert!(error.contains(hint), "{flag} {value}: {error}");
        }
    }
}
