//! `fairway kubeconfig`.

use std::fs;
use std::net::SocketAddr;
use std::path::PathBuf;

use anyhow::Context;
use serde_json::json;

use crate::client::read_ports;

#[derive(clap::Args)]
#[command(after_help = "fairway kubeconfig > kc && kubectl --kubeconfig kc get vs -A")]
pub(crate) struct Args {
    /// The data folder of the server
    #[arg(long, env = "FAIRWAY_DATA_DIR", default_value = "./fairway-data", value_name = "DIR")]
    data_dir: PathBuf,
    /// The address to write, where kubectl reaches the server by another one than it bound (host:port)
    #[arg(long, value_name = "ADDR")]
    admin_tls_addr: Option<String>,
    /// The namespace that kubectl uses without -n
    #[arg(short = 'n', long, default_value = "default")]
    namespace: String,
}

pub(crate) fn run(args: &Args) -> anyhow::Result<()> {
    let address = if let Some(address) = &args.admin_tls_addr {
        address.clone()
    } else {
        let ports = read_ports(&args.data_dir)?;
        reachable(ports["adminTls"].as_str().context("ports.json names no TLS admin port")?)
    };
    let read = |name: &str| {
        let path = args.data_dir.join(name);
        fs::read_to_string(&path).with_context(|| format!("cannot read {}; has the server started?", path.display()))
    };
    let token = match std::env::var("FAIRWAY_ADMIN_TOKEN") {
        Ok(token) if !token.is_empty() => token,
        _ => read("admin.token")?,
    };
    let ca = read("ca.crt")?;
    let config = json!({
        "apiVersion": "v1",
        "kind": "Config",
        "clusters": [{"name": "fairway", "cluster": {
            "server": format!("https://{address}"),
            "certificate-authority-data": admin_api::base64(ca.as_bytes()),
        }}],
        "users": [{"name": "admin", "user": {"token": token.trim()}}],
        "contexts": [{"name": "fairway", "context": {"cluster": "fairway", "user": "admin", "namespace": args.namespace}}],
        "current-context": "fairway",
    });
    print!("{}", admin_api::yaml::to_string(&config)?);
    Ok(())
}

/// A wildcard address is reached by loopback.
fn reachable(bound: &str) -> String {
    match bound.parse::<SocketAddr>() {
        Ok(address) if address.ip().is_unspecified() && address.is_ipv4() => format!("127.0.0.1:{}", address.port()),
        Ok(address) if address.ip().is_unspecified() => format!("[::1]:{}", address.port()),
        _ => bound.to_owned(),
    }
}

#[cfg(test)]
mod tests {
    use super::reachable;

    #[test]
    fn wildcard_addresses_become_loopback() {
        assert_eq!(reachable("0.0.0.0:7443"), "127.0.0.1:7443");
        assert_eq!(reachable("[::]:7443"), "[::1]:7443");
        assert_eq!(reachable("10.0.0.1:7443"), "10.0.0.1:7443");
    }
}
