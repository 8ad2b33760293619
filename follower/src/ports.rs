//! `ports.json`: where this process can be reached, for people and scripts.

use std::path::PathBuf;

use proxy::BoundPorts;
use serde_json::{Map, Value};
use tracing::warn;

use crate::data_dir;

/// The file, rewritten when something in it changes.
#[derive(Debug)]
pub(crate) struct PortsFile {
    path: PathBuf,
    others: Map<String, Value>,
    written: Option<Value>,
}

impl PortsFile {
    pub(crate) fn new(path: PathBuf, others: Map<String, Value>) -> Self {
        Self { path, others, written: None }
    }

    pub(crate) fn write(&mut self, bound: &BoundPorts) {
        let content = content(self.others.clone(), bound);
        if self.written.as_ref() == Some(&content) {
            return;
        }
        match data_dir::write(&self.path, format!("{content:#}\n").as_bytes()) {
            Ok(()) => self.written = Some(content),
            Err(error) => warn!(path = %self.path.display(), %error, "cannot write which ports are bound"),
        }
    }
}

/// Listeners by Gateway port; one with a `bind` of its own by `address:port`.
fn content(mut entries: Map<String, Value>, bound: &BoundPorts) -> Value {
    if let Some(metrics) = bound.metrics {
        entries.insert("metrics".into(), metrics.to_string().into());
    }
    if let Some(admin) = bound.admin {
        entries.insert("proxyAdmin".into(), admin.to_string().into());
    }
    let listeners: Map<String, Value> = bound
        .listeners
        .iter()
        .map(|listener| {
            let name = match listener.bind {
                None => listener.port.to_string(),
                Some(ip) => std::net::SocketAddr::new(ip, listener.port).to_string(),
            };
            (name, listener.address.to_string().into())
        })
        .collect();
    entries.insert("listeners".into(), listeners.into());
    Value::Object(entries)
}

#[cfg(test)]
mod tests {
    use proxy::BoundListener;
    use serde_json::json;

    use super::*;

    #[test]
    fn ports_are_found_under_the_names_that_people_wrote() {
        let mut others = Map::new();
        others.insert("admin".into(), "127.0.0.1:7080".into());
        let bound = BoundPorts {
            listeners: vec![
                BoundListener { port: 80, bind: None, address: "0.0.0.0:8080".parse().unwrap() },
                BoundListener { port: 443, bind: Some("::1".parse().unwrap()), address: "[::1]:8443".parse().unwrap() },
            ],
            metrics: Some("0.0.0.0:15020".parse().unwrap()),
            admin: Some("127.0.0.1:15000".parse().unwrap()),
        };
        assert_eq!(
            content(others, &bound),
            json!({
                "admin": "127.0.0.1:7080",
                "metrics": "0.0.0.0:15020",
                "proxyAdmin": "127.0.0.1:15000",
                "listeners": {"80": "0.0.0.0:8080", "[::1]:443": "[::1]:8443"},
            })
        );
    }
}
