//! The command line of a gateway, shared by `fairway-gateway`, `fairway gateway` and `fairway serve`.

use std::collections::BTreeMap;
use std::net::{IpAddr, Ipv4Addr, SocketAddr};
use std::path::PathBuf;
use std::sync::Arc;
use std::time::Duration;

use anyhow::Context;
use clap::ValueEnum;
use proxy::{AccessLogFormat, ListenAddr};
use push::client::Token;
use push::transport::TlsTransport;
use route_model::compile::{TOPOLOGY_NETWORK, TOPOLOGY_REGION, TOPOLOGY_SUBZONE, TOPOLOGY_ZONE};
use route_model::table::locality::Locality;
use serde_json::Map;

use crate::{Options, Transport};

const DEFAULT_ADMIN: SocketAddr = SocketAddr::new(IpAddr::V4(Ipv4Addr::LOCALHOST), 15000);
const DEFAULT_METRICS: SocketAddr = SocketAddr::new(IpAddr::V4(Ipv4Addr::UNSPECIFIED), 15020);

/// A gateway that follows a control plane elsewhere.
#[derive(Clone, Debug, clap::Args)]
pub struct Args {
    /// The control plane's push address
    #[arg(long, env = "FAIRWAY_CONTROL_PLANE", value_name = "URL", default_value = "https://127.0.0.1:15012")]
    pub control_plane: String,

    /// The CA that must have signed the control plane's certificate, as PEM
    #[arg(long, env = "FAIRWAY_CONTROL_PLANE_CA", value_name = "FILE")]
    pub control_plane_ca: PathBuf,

    /// The token from `fairway join-token create`
    #[arg(long, env = "FAIRWAY_JOIN_TOKEN_FILE", value_name = "FILE")]
    pub join_token_file: PathBuf,

    /// Where the last good configuration, the node id and ports.json are kept
    #[arg(long, env = "FAIRWAY_DATA_DIR", value_name = "DIR", default_value = "./fairway-gateway-data")]
    pub data_dir: PathBuf,

    #[command(flatten)]
    pub proxy: ProxyArgs,
}

/// What a gateway is, wherever its control plane is.
#[derive(Clone, Debug, clap::Args)]
pub struct ProxyArgs {
    /// The address that listeners bind unless their Gateway names one
    #[arg(long, env = "FAIRWAY_GATEWAY_BIND", value_name = "IP", default_value = "0.0.0.0")]
    pub gateway_bind: IpAddr,

    /// Bind other ports than the Gateways name: 80=8080,443=8443; 0 takes a free one
    #[arg(long, env = "FAIRWAY_PORT_MAP", value_name = "PORT=PORT", value_delimiter = ',', value_parser = port_pair)]
    pub port_map: Vec<(u16, u16)>,

    /// The namespace that the gateway runs in: its TLS secrets are there, and exportTo is held against it
    #[arg(long, env = "FAIRWAY_GATEWAY_NAMESPACE", value_name = "NAMESPACE", default_value = "istio-system")]
    pub gateway_namespace: String,

    /// The labels that Gateway selectors are held against
    #[arg(
        long,
        env = "FAIRWAY_GATEWAY_LABELS",
        value_name = "KEY=VALUE",
        value_delimiter = ',',
        value_parser = label,
        default_value = "istio=ingressgateway,app=istio-ingressgateway"
    )]
    pub gateway_labels: Vec<(String, String)>,

    /// Where the gateway runs, for endpoints that are nearer than others: region/zone/subzone, as far as it matters
    #[arg(long, env = "FAIRWAY_GATEWAY_LOCALITY", value_name = "REGION/ZONE/SUBZONE", value_parser = locality)]
    pub gateway_locality: Option<String>,

    /// The network that the gateway is in, held against the network of endpoints
    #[arg(long, env = "FAIRWAY_GATEWAY_NETWORK", value_name = "NAME")]
    pub gateway_network: Option<String>,

    /// Worker threads [default: the cores that this process may use]
    #[arg(long, env = "FAIRWAY_GATEWAY_WORKERS", value_name = "N", value_parser = clap::value_parser!(u16).range(1..=1024))]
    pub gateway_workers: Option<u16>,

    /// One line on standard output for each request
    #[arg(long, env = "FAIRWAY_ACCESS_LOG", value_name = "FORMAT", default_value = "text")]
    pub access_log: AccessLog,

    /// Config dump and drain [default: 127.0.0.1:15000, or a free port if that is taken]
    #[arg(long, env = "FAIRWAY_PROXY_ADMIN_ADDR", value_name = "IP:PORT")]
    pub proxy_admin_addr: Option<SocketAddr>,

    /// /metrics, /healthz and /readyz [default: 0.0.0.0:15020, or a free port if that is taken]
    #[arg(long, env = "FAIRWAY_METRICS_ADDR", value_name = "IP:PORT")]
    pub metrics_addr: Option<SocketAddr>,

    /// Name servers for the hosts of services, in place of those in /etc/resolv.conf: 127.0.0.1:8600
    #[arg(long, env = "FAIRWAY_DNS_SERVERS", value_name = "IP:PORT", value_delimiter = ',')]
    pub dns_servers: Vec<SocketAddr>,

    /// How long requests under way may take to finish when the gateway is told to end, or a listener is removed
    #[arg(long, env = "FAIRWAY_DRAIN_TIME", value_name = "TIME", default_value = "30s", value_parser = duration)]
    pub drain_time: Duration,

    /// The gateway's name towards the control plane [default: made once and kept in the data folder]
    #[arg(long, env = "FAIRWAY_NODE_ID", value_name = "NAME", value_parser = node_id)]
    pub node_id: Option<String>,
}

#[derive(Clone, Copy, Debug, PartialEq, Eq, ValueEnum)]
pub enum AccessLog {
    Text,
    Json,
    Off,
}

impl Args {
    /// Reads the files that the command line names.
    pub fn into_parts(self) -> anyhow::Result<(Options, Transport)> {
        let ca = std::fs::read(&self.control_plane_ca)
            .with_context(|| format!("cannot read the control plane's CA {}", self.control_plane_ca.display()))?;
        let connect = TlsTransport::new(&self.control_plane, &ca).context("--control-plane")?;
        let token = std::fs::read_to_string(&self.join_token_file)
            .with_context(|| format!("cannot read the join token {}", self.join_token_file.display()))?;
        let token = Token::new(&token).with_context(|| format!("{}", self.join_token_file.display()))?;
        let transport = Transport { connect: Arc::new(connect), token: Some(token) };
        Ok((self.proxy.into_options(self.data_dir, Map::new()), transport))
    }
}

impl ProxyArgs {
    /// The labels of the gateway, with those that say where it is. A label that was written counts.
    pub fn labels(&self) -> BTreeMap<String, String> {
        let place = Locality::parse(self.gateway_locality.as_deref().unwrap_or_default());
        let network = self.gateway_network.as_deref().unwrap_or_default();
        let places = [
            (TOPOLOGY_REGION, place.region),
            (TOPOLOGY_ZONE, place.zone),
            (TOPOLOGY_SUBZONE, place.subzone),
            (TOPOLOGY_NETWORK, network),
        ];
        let known = places.iter().filter(|(_, part)| !part.is_empty());
        let known = known.map(|(label, part)| ((*label).to_owned(), (*part).to_owned()));
        known.chain(self.gateway_labels.iter().cloned()).collect()
    }

    /// `other_ports`: see [`Options::other_ports`].
    pub fn into_options(self, data_dir: PathBuf, other_ports: Map<String, serde_json::Value>) -> Options {
        let labels = self.labels();
        let mut proxy = proxy::Options {
            bind: self.gateway_bind,
            port_map: self.port_map.into_iter().collect(),
            access_log: match self.access_log {
                AccessLog::Text => AccessLogFormat::Text,
                AccessLog::Json => AccessLogFormat::Json,
                AccessLog::Off => AccessLogFormat::Off,
            },
            admin_addr: Some(listen(self.proxy_admin_addr, DEFAULT_ADMIN)),
            metrics_addr: Some(listen(self.metrics_addr, DEFAULT_METRICS)),
            drain_time: self.drain_time,
            name_servers: self.dns_servers,
            ..proxy::Options::default()
        };
        if let Some(workers) = self.gateway_workers {
            proxy.workers = workers.into();
        }
        Options { node_id: self.node_id, namespace: self.gateway_namespace, labels, proxy, data_dir, other_ports }
    }
}

fn listen(asked: Option<SocketAddr>, default: SocketAddr) -> ListenAddr {
    ListenAddr { addr: asked.unwrap_or(default), explicit: asked.is_some() }
}

fn port_pair(text: &str) -> Result<(u16, u16), String> {
    let wrong = || format!("{text:?} is not of the form PORT=PORT, as in 80=8080");
    let (from, to) = text.split_once('=').ok_or_else(wrong)?;
    let from: u16 = from.trim().parse().map_err(|_| wrong())?;
    let to = to.trim().parse().map_err(|_| wrong())?;
    if from == 0 { Err("port 0 cannot be mapped".to_owned()) } else { Ok((from, to)) }
}

fn label(text: &str) -> Result<(String, String), String> {
    match text.split_once('=') {
        Some((key, value)) if !key.trim().is_empty() => Ok((key.trim().to_owned(), value.trim().to_owned())),
        _ => Err(format!("{text:?} is not of the form KEY=VALUE, as in istio=ingressgateway")),
    }
}

fn locality(text: &str) -> Result<String, String> {
    let parts: Vec<&str> = text.split('/').collect();
    if parts.len() <= 3 && parts.iter().all(|part| !part.is_empty() && !part.contains('*')) {
        Ok(text.to_owned())
    } else {
        Err(format!("{text:?} is not of the form REGION/ZONE/SUBZONE, as in eu-west/a or eu-west/a/rack3"))
    }
}

fn node_id(text: &str) -> Result<String, String> {
    if !text.is_empty() && text.len() <= 253 && text.bytes().all(|byte| byte.is_ascii_graphic()) {
        Ok(text.to_owned())
    } else {
        Err("a node id has 1 to 253 visible ASCII characters".to_owned())
    }
}

/// `500ms`, `30s`, `5m`, `1h`.
fn duration(text: &str) -> Result<Duration, String> {
    let digits = text.find(|c: char| !c.is_ascii_digit()).unwrap_or(text.len());
    let (number, unit) = text.split_at(digits);
    let wrong = || format!("{text:?} is not a time such as 500ms, 30s or 5m");
    let number: u64 = number.parse().map_err(|_| wrong())?;
    let milliseconds = match unit {
        "ms" => 1,
        "s" => 1_000,
        "m" => 60_000,
        "h" => 3_600_000,
        _ => return Err(wrong()),
    };
    number.checked_mul(milliseconds).map(Duration::from_millis).ok_or_else(wrong)
}

#[cfg(test)]
mod tests {
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
        let options = parse(&[]).unwrap().proxy.into_options("d".into(), Map::new());
        assert_eq!(options.namespace, "istio-system");
        assert_eq!(options.labels["istio"], "ingressgateway");
        assert_eq!(options.labels["app"], "istio-ingressgateway");
        assert_eq!(options.proxy.drain_time, Duration::from_secs(30));
        let admin = options.proxy.admin_addr.unwrap();
        assert_eq!((admin.addr.to_string().as_str(), admin.explicit), ("127.0.0.1:15000", false));
    }

    #[test]
    fn what_is_asked_for_counts() {
        let args = ["--port-map", "80=8080,443=0", "--gateway-labels", "a=b,c=", "--drain-time", "500ms"];
        let more = ["--metrics-addr", "127.0.0.1:0", "--gateway-workers", "3", "--access-log", "off"];
        let options = parse(&[&args[..], &more].concat()).unwrap().proxy.into_options("d".into(), Map::new());
        assert_eq!(options.proxy.port_map, BTreeMap::from([(80, 8080), (443, 0)]));
        assert_eq!(options.labels, BTreeMap::from([("a".into(), "b".into()), ("c".into(), String::new())]));
        assert!(options.proxy.metrics_addr.unwrap().explicit);
        assert_eq!((options.proxy.workers, options.proxy.drain_time.as_millis()), (3, 500));
    }

    #[test]
    fn where_a_gateway_is_goes_into_its_labels() {
        let place = ["--gateway-locality", "eu/a", "--gateway-network", "n1"];
        let written = ["--gateway-labels", "app=x,topology.kubernetes.io/zone=b"];
        let labels = parse(&[&place[..], &written].concat()).unwrap().proxy.labels();
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
        ] {
            let error = parse(&[flag, value]).unwrap_err().to_string();
            assert!(error.contains(hint), "{flag} {value}: {error}");
        }
    }
}
