//! `fairway serve --demo`: the application of `examples/fleet`, each of its services behind a sidecar, and the resources
//! that lead to them.
//!
//! What it starts are processes of this very binary ([`member`]), which end with the one that started them ([`part`]).

mod member;
mod part;

use std::collections::{BTreeMap, BTreeSet};
use std::convert::Infallible;
use std::path::{Path, PathBuf};
use std::time::{Duration, Instant};

use admin_api::server::Bound;
use anyhow::Context;
use fleet::Service;
use serde_json::{Value, json};
use tokio::sync::{oneshot, watch};
use tokio::task::JoinSet;

use self::member::{ControlPlane, Member};
pub(crate) use self::part::as_part;
use crate::client::{Client, ServerArgs, read_ports};

/// Where the resources have the gateway take requests: a key of `ports.json`.
const PUBLIC: &str = "8080";
/// How long to wait for the services before it is said which ones do not answer.
const PATIENCE: Duration = Duration::from_secs(20);
const POLL: Duration = Duration::from_millis(100);
const JOIN_TOKENS: &str = "/api/fairway/v1/join-tokens";

/// Loads the resources through the API, as anybody would, and runs the services until `stop` is sent, or dropped.
///
/// # Errors
/// The demo could not be started. A sidecar that ends later is none: it is told about and started again.
pub(crate) async fn run(data_dir: &Path, bound: Bound, mut stop: oneshot::Receiver<()>) -> anyhow::Result<()> {
    let server = ServerArgs {
        data_dir: data_dir.to_owned(),
        server: Some(format!("http://{}", bound.admin)),
        token_file: None,
        ca_file: None,
    };
    let client = Client::connect(&server)?;
    let control_plane = ControlPlane::new(bound.push, data_dir.join("ca.crt"));
    let mut tokens = JoinTokens::default();
    let prepared = tokio::select! {
        prepared = prepare(&client, data_dir, &mut tokens) => Some(prepared),
        _ = &mut stop => None,
    };
    let result = match prepared {
        Some(Ok(members)) => {
            let (end, ending) = watch::channel(false);
            let running = members.into_iter().map(|member| member.run(control_plane.clone(), ending.clone()));
            let mut running: JoinSet<()> = running.collect();
            tokio::select! {
                never = welcome(&client, data_dir, bound) => match never {},
                _ = &mut stop => {}
            }
            println!("Stopping the services and their sidecars.");
            end.send_replace(true);
            while running.join_next().await.is_some() {}
            Ok(())
        }
        Some(Err(error)) => Err(error),
        None => Ok(()),
    };
    tokens.revoke(&client).await;
    result
}

/// The resources, and a folder with a join token for every service in every version.
async fn prepare(client: &Client, data_dir: &Path, tokens: &mut JoinTokens) -> anyhow::Result<Vec<Member>> {
    let mut changes = Vec::new();
    for text in fleet::RESOURCES {
        for object in admin_api::yaml::documents(text).context("the demo's resources")? {
            changes.push(json!({"op": "apply", "object": object}));
        }
    }
    let body = json!({"message": "load the demo", "changes": changes});
    client
        .post("/api/fairway/v1/changes?fieldManager=demo&force=true", &body)
        .await
        .context("cannot load the demo's resources")?;
    let folder = folder(data_dir);
    let mut members = Vec::new();
    for (service, version) in Service::instances() {
        let token = tokens.of(client, service).await.context("cannot make a join token for the demo")?;
        let member = Member::prepare(service, version, &folder, &token);
        members.push(member.with_context(|| format!("cannot prepare {service} {version} in {}", folder.display()))?);
    }
    Ok(members)
}

/// What the services have in the data folder.
fn folder(data_dir: &Path) -> PathBuf {
    data_dir.join("demo")
}

/// The tokens by which the sidecars join, one a service account. They are the demo's own, and go with it.
#[derive(Debug, Default)]
struct JoinTokens {
    texts: BTreeMap<Service, String>,
    ids: Vec<String>,
}

impl JoinTokens {
    async fn of(&mut self, client: &Client, service: Service) -> anyhow::Result<String> {
        if let Some(token) = self.texts.get(&service) {
            return Ok(token.clone());
        }
        // Longer than a certificate is good, so that a machine that slept over it needs no restart.
        let wanted = json!({"namespace": fleet::NAMESPACE, "serviceAccount": service.name(), "ttl": "7d"});
        let answer = client.post(JOIN_TOKENS, &wanted).await?.body;
        self.ids.extend(answer["id"].as_str().map(str::to_owned));
        let token = answer["token"].as_str().context("the answer holds no token")?.to_owned();
        self.texts.insert(service, token.clone());
        Ok(token)
    }

    /// As far as it can be done: those that stay expire.
    async fn revoke(self, client: &Client) {
        for id in self.ids {
            if let Err(error) = client.delete(&format!("{JOIN_TOKENS}/{id}")).await {
                tracing::warn!(id, %error, "cannot revoke a join token of the demo");
            }
        }
    }
}

/// Says what is where, once the page works, and leaves it at that.
async fn welcome(client: &Client, data_dir: &Path, bound: Bound) -> Infallible {
    let gateway = listener(data_dir).await;
    let silent = match &gateway {
        Some(address) => until_all_answer(client, address).await,
        None => BTreeSet::new(),
    };
    let (data, demo) = (data_dir.display(), folder(data_dir));
    println!(
        "Fairway {} is running with the demo: seven services, each behind its sidecar.",
        env!("CARGO_PKG_VERSION")
    );
    match &gateway {
        Some(address) => println!("  page     http://{address}/"),
        None => println!("  page     none: port 8080 could not be bound, see `fairway get proxies -o yaml`"),
    }
    for name in silent {
        println!("  missing  {name} does not answer yet, see {}", demo.join(format!("{name}.log")).display());
    }
    println!(
        "  API      http://{} and https://{}, described at http://{}/docs",
        bound.admin, bound.admin_tls, bound.admin
    );
    println!("  data     {data} (the admin token is in {data}/admin.token)");
    println!("  logs     {}", demo.join("*.log").display());
    let program = std::env::args().next().unwrap_or_else(|| "fairway".to_owned());
    let server = if data_dir == Path::new("./fairway-data") { String::new() } else { format!(" --data-dir {data}") };
    println!("Try, in another terminal:");
    println!("  curl http://{}/api/vehicles/heron", gateway.as_deref().unwrap_or("127.0.0.1:8080"));
    println!("  {program} get proxies{server}");
    println!("  {program} explain --url http://127.0.0.1:8080/api/vehicles{server}");
    println!("Ctrl-C stops it.");
    std::future::pending().await
}

/// The address of the gateway's port for everybody, once it is bound. `None`: it is not.
async fn listener(data_dir: &Path) -> Option<String> {
    let began = Instant::now();
    while began.elapsed() < PATIENCE / 4 {
        if let Ok(ports) = read_ports(data_dir)
            && let Some(address) = ports["listeners"][PUBLIC].as_str()
        {
            return Some(address.replace("0.0.0.0", "127.0.0.1"));
        }
        tokio::time::sleep(POLL / 10).await;
    }
    None
}

/// Waits until every service is ready and has answered as the page asks it, and returns those that have not in time.
async fn until_all_answer(client: &Client, gateway: &str) -> BTreeSet<String> {
    let began = Instant::now();
    loop {
        // Nobody is asked before: what there is to be seen of it would be errors.
        let mut silent = unready(client).await;
        if silent.is_empty() {
            silent = unanswered(gateway).await;
        }
        if silent.is_empty() || began.elapsed() > PATIENCE {
            return silent;
        }
        tokio::time::sleep(POLL).await;
    }
}

fn names() -> BTreeSet<String> {
    Service::instances().map(|(service, version)| member::name(service, version)).collect()
}

/// Those whose sidecars are not there, or have not said that they are ready.
async fn unready(client: &Client) -> BTreeSet<String> {
    let mut unready = names();
    let proxies = client.get("/api/fairway/v1/proxies").await.map(|answer| answer.body).unwrap_or_default();
    for proxy in proxies["items"].as_array().into_iter().flatten() {
        if proxy["connected"] == true && proxy["workload"]["ready"] == true {
            unready.remove(proxy["id"].as_str().unwrap_or_default());
        }
    }
    unready
}

/// Those that do not answer by way of the gateway and their sidecars.
async fn unanswered(gateway: &str) -> BTreeSet<String> {
    let mut silent = names();
    let asked = async {
        let client = reqwest::Client::builder().no_proxy().timeout(PATIENCE / 4).build()?;
        client.get(format!("http://{gateway}/api/services")).send().await?.json::<Value>().await
    };
    // Until webapp is there, a proxy answers in its place, and not in JSON.
    let answer = asked.await.unwrap_or_default();
    for told in answer.as_array().into_iter().flatten().filter(|told| told["state"].is_object()) {
        let text = |key: &str| told[key].as_str().unwrap_or_default();
        silent.remove(&format!("{}-{}", text("service"), text("version")));
    }
    silent
}
