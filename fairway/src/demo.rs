//! `fairway serve --demo`: a few HTTP services in this process and the resources that lead to them.

use std::net::SocketAddr;

use anyhow::Context;
use axum::Router;
use axum::extract::Request;
use serde_json::{Value, json};
use tokio::net::TcpListener;

use crate::client::Client;

/// The resources of the demo as a newcomer would write them; the services' ports are filled in.
const RESOURCES: &str = include_str!("../../examples/demo.yaml");

/// A service of the demo: its name, its version, and the placeholder of its port in the resources.
const SERVICES: [(&str, &str, &str); 3] =
    [("web", "v1", "${WEB_V1_PORT}"), ("web", "v2", "${WEB_V2_PORT}"), ("api", "v1", "${API_V1_PORT}")];

/// Starts the services on loopback and loads the resources through the API, as anybody would.
pub(crate) async fn start(client: &Client) -> anyhow::Result<()> {
    let mut resources = RESOURCES.to_owned();
    for (name, version, placeholder) in SERVICES {
        let address = start_service(name, version).await?;
        resources = resources.replace(placeholder, &address.port().to_string());
    }
    let documents = admin_api::yaml::documents(&resources).context("the demo's resources")?;
    let changes: Vec<Value> = documents.into_iter().map(|object| json!({"op": "apply", "object": object})).collect();
    let body = json!({"message": "load the demo", "changes": changes});
    client
        .post("/api/fairway/v1/changes?fieldManager=demo&force=true", &body)
        .await
        .context("cannot load the demo's resources")?;
    Ok(())
}

async fn start_service(name: &'static str, version: &'static str) -> anyhow::Result<SocketAddr> {
    let listener = TcpListener::bind("127.0.0.1:0").await.context("cannot start a demo service")?;
    let address = listener.local_addr()?;
    let answer = move |request: Request| async move {
        let path = request.uri().path().to_owned();
        let forwarded =
            request.headers().get("x-forwarded-for").and_then(|v| v.to_str().ok()).unwrap_or("-").to_owned();
        format!("{name} {version} got {} {path} from {forwarded}\n", request.method())
    };
    let service = Router::new().fallback(answer);
    tokio::spawn(async move { axum::serve(listener, service).await });
    Ok(address)
}
