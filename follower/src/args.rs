//! The flags that every proxy takes, and how their values are written.

use std::collections::BTreeMap;
use std::io;
use std::net::{IpAddr, Ipv4Addr, SocketAddr};
use std::path::{Path, PathBuf};
use std::sync::Arc;
use std::time::Duration;

use anyhow::Context;
use clap::ValueEnum;
use proxy::{AccessLogFormat, ListenAddr, OwnTraffic};
use push::client::Token;
use push::credential::Credential;
use push::transport::TlsTransport;
use route_model::compile::{TOPOLOGY_NETWORK, TOPOLOGY_REGION, TOPOLOGY_SUBZONE, TOPOLOGY_ZONE};
use route_model::table::locality::Locality;
use tokio::net::TcpSocket;
use tracing::info;

use crate::{Transport, identity};

const DEFAULT_ADMIN: SocketAddr = SocketAddr::new(IpAddr::V4(Ipv4Addr::LOCALHOST), 15000);
const DEFAULT_METRICS: SocketAddr = SocketAddr::new(IpAddr::V4(Ipv4Addr::UNSPECIFIED), 15020);

/// The way to a control plane elsewhere.
#[derive(Clone, Debug, clap::Args)]
pub struct JoinArgs {
    /// The control plane's push address
    #[arg(long, env = "FAIRWAY_CONTROL_PLANE", value_name = "URL", default_value = "https://127.0.0.1:15012")]
    pub control_plane: String,

    /// The CA that must have signed the control plane's certificate, as PEM
    #[arg(long, env = "FAIRWAY_CONTROL_PLANE_CA", value_name = "FILE")]
    pub control_plane_ca: PathBuf,

    /// The token from `fairway join-token create`; not needed any more once the data folder holds a certificate
    #[arg(long, env = "FAIRWAY_JOIN_TOKEN_FILE", value_name = "FILE")]
    pub join_token_file: PathBuf,
}

impl JoinArgs {
    /// Reads the files that the command line names. A token that is gone is no error if `data_dir` holds a certificate.
    /// `own_traffic` is that of the proxy's connections to upstreams.
    pub fn into_transport(self, data_dir: &Path, own_traffic: OwnTraffic) -> anyhow::Result<Transport> {
        let ca = std::fs::read(&self.control_plane_ca)
            .with_context(|| format!("cannot read the control plane's CA {}", self.control_plane_ca.display()))?;
        let credential = Arc::new(Credential::default());
        let connect = TlsTransport::new(&self.control_plane, &ca).context("--control-plane")?;
        let connect = connect.with_credential(credential.clone()).context("--control-plane")?;
        let connect = match own_traffic {
            OwnTraffic::Marked(mark) => {
                connect.with_sockets(Arc::new(move |socket: &TcpSocket| proxy::set_mark(socket, mark)))
            }
            OwnTraffic::NotLedHere | OwnTraffic::Watched => connect,
        };
        let connect = Arc::new(connect);
        Ok(Transport { connect, token: self.token(data_dir)?, credential: Some(credential) })
    }

    fn token(&self, data_dir: &Path) -> anyhow::Result<Option<Token>> {
        let file = self.join_token_file.display();
        match std::fs::read_to_string(&self.join_token_file) {
            Ok(token) => Ok(Some(Token::new(&token).with_context(|| file.to_string())?)),
            Err(error) if error.kind() == io::ErrorKind::NotFound && identity::is_kept(data_dir) => {
                info!(%file, "there is no join token any more, the certificate in the data folder has to do");
                Ok(None)
            }
            Err(error) => Err(error).with_context(|| format!("cannot read the join token {file}")),
        }
    }
}

/// What a proxy does besides its traffic.
#[derive(Clone, Debug, clap::Args)]
pub struct ProxyArgs {
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

    /// How long requests under way may take to finish when the proxy is told to end, or a listener is removed
    #[arg(long, env = "FAIRWAY_DRAIN_TIME", value_name = "TIME", default_value = "30s", value_parser = duration)]
    pub drain_time: Duration,

    /// The proxy's name towards the control plane [default: made once and kept in the data folder]
    #[arg(long, env = "FAIRWAY_NODE_ID", value_name = "NAME", value_parser = node_id)]
    pub node_id: Option<String>,
}

#[derive(Clone, Copy, Debug, PartialEq, Eq, ValueEnum)]
pub enum AccessLog {
    Text,
    Json,
    Off,
}

impl ProxyArgs {
    /// The options of a proxy without its listeners.
    pub fn options(&self) -> proxy::Options {
        proxy::Options {
            access_log: match self.access_log {
                AccessLog::Text => AccessLogFormat::Text,
                AccessLog::Json => AccessLogFormat::Json,
                AccessLog::Off => AccessLogFormat::Off,
            },
            admin_addr: Some(listen(self.proxy_admin_addr, DEFAULT_ADMIN)),
            metrics_addr: Some(listen(self.metrics_addr, DEFAULT_METRICS)),
            drain_time: self.drain_time,
            name_servers: self.dns_servers.clone(),
            ..proxy::Options::default()
        }
    }
}

fn listen(asked: Option<SocketAddr>, default: SocketAddr) -> ListenAddr {
    ListenAddr { addr: asked.unwrap_or(default), explicit: asked.is_some() }
}

/// The labels of a proxy, with those that say where it is. A label that was written counts.
pub fn labels(locality: Option<&str>, network: Option<&str>, written: &[(String, String)]) -> BTreeMap<String, String> {
    let place = Locality::parse(locality.unwrap_or_default());
    let places = [
        (TOPOLOGY_REGION, place.region),
        (TOPOLOGY_ZONE, place.zone),
        (TOPOLOGY_SUBZONE, place.subzone),
        (TOPOLOGY_NETWORK, network.unwrap_or_default()),
    ];
    let known = places.iter().filter(|(_, part)| !part.is_empty());
    let known = known.map(|(label, part)| ((*label).to_owned(), (*part).to_owned()));
    known.chain(written.iter().cloned()).collect()
}

/// `KEY=VALUE`
pub fn label(text: &str) -> Result<(String, String), String> {
    match text.split_once('=') {
        Some((key, value)) if !key.trim().is_empty() => Ok((key.trim().to_owned(), value.trim().to_owned())),
        _ => Err(format!("{text:?} is not of the form KEY=VALUE, as in istio=ingressgateway")),
    }
}

/// `REGION`, `REGION/ZONE` or `REGION/ZONE/SUBZONE`
pub fn locality(text: &str) -> Result<String, String> {
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

/// `500ms`, `30s`, `5m`, `1h`
pub fn duration(text: &str) -> Result<Duration, String> {
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
