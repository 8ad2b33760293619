//! `fairway serve --demo`: the application of `examples/fleet` in this process, and the resources that lead to it.

use std::net::{IpAddr, Ipv4Addr};
use std::path::Path;
use std::time::Duration;

use anyhow::Context;
use fleet::{Fleet, Peers, Service};
use serde_json::{Value, json};

use crate::client::{Client, read_ports};

/// Where the resources have the gateway take requests of everybody, and those of the services to each other: keys of
/// `ports.json`.
const PUBLIC: &str = "8080";
const INTERNAL: &str = "127.0.0.1:8090";

/// Where the gateway really listens. `None`: it could not bind the port.
#[derive(Debug)]
pub(crate) struct Started {
    pub public: Option<String>,
    pub internal: Option<String>,
}

/// Starts the services on loopback and loads the resources through the API, as anybody would.
pub(crate) async fn start(client: &Client, data_dir: &Path) -> anyhow::Result<Started> {
    let fleet = Fleet::bind(IpAddr::V4(Ipv4Addr::LOCALHOST), true).await.context("cannot start the demo's services")?;
    let mut changes = Vec::new();
    for text in fleet::RESOURCES {
        for mut object in admin_api::yaml::documents(text).context("the demo's resources")? {
            lead_to(&fleet, &mut object);
            changes.push(json!({"op": "apply", "object": object}));
        }
    }
    let body = json!({"message": "load the demo", "changes": changes});
    client
        .post("/api/fairway/v1/changes?fieldManager=demo&force=true", &body)
        .await
        .context("cannot load the demo's resources")?;
    let internal = listener(data_dir, INTERNAL).await;
    let peers = Peers::new(fleet::DOMAIN);
    let peers = match &internal {
        Some(address) => peers.all_at(address),
        None => fleet.direct(peers),
    };
    tokio::spawn(fleet.run(peers));
    Ok(Started { public: listener(data_dir, PUBLIC).await, internal })
}

/// The ports of a ServiceEntry's endpoints are those that the services have when they run by themselves; here they have
/// others, so that the demo starts whatever else runs on this host.
fn lead_to(fleet: &Fleet, object: &mut Value) {
    for endpoint in object["spec"]["endpoints"].as_array_mut().into_iter().flatten() {
        let written = endpoint["ports"]["http"].as_u64();
        let member = fleet
            .members()
            .iter()
            .find(|member| written == Some(u64::from(Service::default_port(member.service, member.version))));
        if let Some(member) = member {
            endpoint["ports"]["http"] = member.address.port().into();
        }
    }
}

/// The address of a listener of the gateway, once it is bound.
async fn listener(data_dir: &Path, key: &str) -> Option<String> {
    for _ in 0..500 {
        if let Ok(ports) = read_ports(data_dir)
            && let Some(address) = ports["listeners"][key].as_str()
        {
            return Some(address.replace("0.0.0.0", "127.0.0.1"));
        }
        tokio::time::sleep(Duration::from_millis(10)).await;
    }
    None
}
