//! The flags that a control plane takes, alone (`fairway admin`) or with a gateway (`fairway serve`).

use std::net::SocketAddr;
use std::path::{Path, PathBuf};
use std::time::Duration;

use admin_api::server::{Database, MasterKeySource, Options};
use anyhow::bail;
use route_model::compile::ProxyScope;
use serde_json::{Map, Value, json};

#[derive(clap::Args, Clone, Debug)]
#[command(next_help_heading = "Control plane")]
pub(crate) struct ControlPlaneArgs {
    /// postgres://user:password@host/database; without it SQLite in the data folder
    #[arg(long, env = "DATABASE_URL", value_name = "URL", hide_env_values = true)]
    pub database_url: Option<String>,
    /// The key that secrets in the database are sealed under: a file with 32 bytes in base64 or hex.
    /// Required with Postgres (or FAIRWAY_MASTER_KEY); made in the data folder with SQLite
    #[arg(long, env = "FAIRWAY_MASTER_KEY_FILE", value_name = "FILE")]
    pub master_key_file: Option<PathBuf>,
    /// REST and console over plain HTTP; a loopback address
    #[arg(long, env = "FAIRWAY_ADMIN_ADDR", default_value = "127.0.0.1:7080", value_name = "ADDR")]
    pub admin_addr: SocketAddr,
    /// The same over TLS; kubectl needs this one
    #[arg(long, env = "FAIRWAY_ADMIN_TLS_ADDR", default_value = "127.0.0.1:7443", value_name = "ADDR")]
    pub admin_tls_addr: SocketAddr,
    /// Where gateways connect to (gRPC over TLS)
    #[arg(long, env = "FAIRWAY_PUSH_ADDR", default_value = "127.0.0.1:15012", value_name = "ADDR")]
    pub push_addr: SocketAddr,
    /// A certificate for the TLS port (PEM); else Fairway's own CA issues one
    #[arg(long, env = "FAIRWAY_ADMIN_CERT", value_name = "FILE", requires = "admin_key")]
    pub admin_cert: Option<PathBuf>,
    /// The key to --admin-cert (PEM)
    #[arg(long, env = "FAIRWAY_ADMIN_KEY", value_name = "FILE", requires = "admin_cert")]
    pub admin_key: Option<PathBuf>,
    /// The CA that signs the certificates of proxies (and of the ports, without --admin-cert): a chain in PEM, its
    /// root last; else Fairway makes a root on first start
    #[arg(long, env = "FAIRWAY_CA_CERT", value_name = "FILE", requires = "ca_key")]
    pub ca_cert: Option<PathBuf>,
    /// The key to the first certificate in --ca-cert (PEM)
    #[arg(long, env = "FAIRWAY_CA_KEY", value_name = "FILE", requires = "ca_cert")]
    pub ca_key: Option<PathBuf>,
    /// How long the certificates of proxies are good: 10s to 90d
    #[arg(long, env = "FAIRWAY_CERT_TTL", default_value = "24h", value_name = "TIME", value_parser = duration)]
    pub cert_ttl: Duration,
    /// More names by which clients reach this server, for the certificates that Fairway's CA issues
    #[arg(long, env = "FAIRWAY_SERVER_NAMES", value_name = "NAME", value_delimiter = ',')]
    pub server_names: Vec<String>,
}

impl ControlPlaneArgs {
    pub(crate) fn options(&self, data_dir: &Path, gateway: ProxyScope) -> anyhow::Result<Options> {
        let master_key = match (&self.master_key_file, non_empty_env("FAIRWAY_MASTER_KEY")) {
            (Some(file), _) => Some(MasterKeySource::File(file.clone())),
            (None, Some(text)) => Some(MasterKeySource::Text(text)),
            (None, None) => None,
        };
        let database = match self.database_url.as_deref().filter(|url| !url.is_empty()) {
            None => Database::Sqlite { master_key },
            Some(url) if url.starts_with("postgres://") || url.starts_with("postgresql://") => {
                Database::Postgres { url: url.to_owned(), master_key }
            }
            Some(_) => bail!("the database URL must begin with postgres://; for SQLite leave it out"),
        };
        Ok(Options {
            data_dir: data_dir.to_owned(),
            database,
            admin_token: non_empty_env("FAIRWAY_ADMIN_TOKEN"),
            admin_addr: self.admin_addr,
            admin_tls_addr: self.admin_tls_addr,
            push_addr: self.push_addr,
            admin_certificate: self.admin_cert.clone().zip(self.admin_key.clone()),
            ca: self.ca_cert.clone().zip(self.ca_key.clone()),
            cert_ttl: self.cert_ttl,
            server_names: self.server_names.clone(),
            gateway,
        })
    }
}

/// `90s`, `30m`, `24h`, `7d`.
fn duration(text: &str) -> Result<Duration, String> {
    admin_api::parse_duration(text).ok_or_else(|| format!("{text:?} is not a time such as 30m, 24h or 7d"))
}

fn non_empty_env(name: &str) -> Option<String> {
    std::env::var(name).ok().filter(|value| !value.is_empty())
}

/// What a control plane bound, as `ports.json` has it.
pub(crate) fn ports(bound: &admin_api::server::Bound) -> Map<String, Value> {
    let ports = json!({
        "admin": bound.admin.to_string(), "adminTls": bound.admin_tls.to_string(), "push": bound.push.to_string(),
    });
    match ports {
        Value::Object(map) => map,
        _ => Map::new(),
    }
}
