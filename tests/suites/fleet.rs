//! The demo, as who looks at it for the first time meets it: `fairway serve --demo`, then the page and its switches.

#![allow(clippy::unwrap_used, reason = "a test fails by panicking")]

use std::collections::BTreeMap;
use std::fs;
use std::process::Stdio;
use std::time::{Duration, Instant};

use e2e::process::binary;
use e2e::{Demo, Fairway, Origin, eventually};
use reqwest::{Client, RequestBuilder, Response, StatusCode};
use serde_json::{Value, json};
use tokio::io::{AsyncBufReadExt, BufReader};
use tokio::process::{Child, Command};

/// The demo, and a client that looks at it.
struct Visit {
    fairway: Fairway,
    base: String,
    client: Client,
}

async fn start() -> Visit {
    Visit::of(Demo::start().await)
}

impl Visit {
    fn of(Demo { fairway, base }: Demo) -> Self {
        Self { fairway, base, client: Client::new() }
    }

    /// Sends it, and again after a second when the rate limit says so.
    async fn send(&self, request: RequestBuilder) -> reqwest::Result<Response> {
        loop {
            let response = request.try_clone().unwrap().send().await?;
            if response.status() != StatusCode::TOO_MANY_REQUESTS {
                return Ok(response);
            }
            let seconds: u64 = response.headers()["retry-after"].to_str().unwrap().parse().unwrap();
            tokio::time::sleep(Duration::from_secs(seconds)).await;
        }
    }

    /// A GET as the page makes it, as a tester of a version or not.
    async fn try_get(&self, path: &str, version: Option<&str>) -> Result<Value, String> {
        let mut request = self.client.get(format!("{}{path}", self.base));
        if let Some(version) = version {
            request = request.header("x-fleet-version", version);
        }
        let response = self.send(request).await.map_err(|error| error.to_string())?;
        let status = response.status();
        let text = response.text().await.map_err(|error| error.to_string())?;
        if status != StatusCode::OK {
            return Err(format!("{status}: {text}"));
        }
        serde_json::from_str(&text).map_err(|error| format!("{error}: {text}"))
    }

    async fn get(&self, path: &str, version: Option<&str>) -> Value {
        self.try_get(path, version).await.unwrap_or_else(|error| panic!("{path}: {error}"))
    }

    async fn switch(&self, service: &str, fault: &Value) {
        let url = format!("{}/api/services/{service}/fault", self.base);
        let response = self.send(self.client.post(url).body(fault.to_string())).await.unwrap();
        assert_eq!(response.status(), StatusCode::OK, "{service} {fault}");
        let state: Value = response.json().await.unwrap();
        assert_eq!(format!("{}/{}", state["service"], state["version"]).replace('"', ""), service);
    }

    /// How many errors an instance has answered.
    async fn errors(&self, service: &str) -> u64 {
        let services = self.get("/api/services", None).await;
        let found = services.as_array().unwrap().iter().find(|told| {
            format!("{}/{}", told["service"].as_str().unwrap(), told["version"].as_str().unwrap()) == service
        });
        found.unwrap()["state"]["errors"].as_u64().unwrap()
    }
}

/// What kept a service out of an answer that others are in.
fn problem(answer: &Value, service: &str) -> Option<String> {
    let problems = answer["problems"].as_array().unwrap();
    let found = problems.iter().find(|problem| problem["service"] == service)?;
    Some(found["message"].as_str().unwrap().to_owned())
}

#[tokio::test]
async fn the_page_is_there_and_the_vehicles_move() {
    let demo = start().await;
    for (path, media_type) in [
        ("/", "text/html; charset=utf-8"),
        ("/style.css", "text/css; charset=utf-8"),
        ("/app.js", "text/javascript; charset=utf-8"),
        ("/draw.js", "text/javascript; charset=utf-8"),
        ("/area.json", "application/json"),
    ] {
        let response = demo.client.get(format!("{}{path}", demo.base)).send().await.unwrap();
        assert_eq!(
            (response.status(), &response.headers()["content-type"]),
            (StatusCode::OK, &media_type.parse().unwrap())
        );
        let text = response.text().await.unwrap();
        assert!(!text.contains("https://"), "{path} needs nothing from elsewhere");
    }
    let places = async || -> BTreeMap<String, (f64, f64)> {
        let answer = demo.get("/api/vehicles", None).await;
        let vehicles = answer["vehicles"].as_array().unwrap().iter();
        vehicles
            .map(|v| (v["vehicle"].as_str().unwrap().to_owned(), (v["x"].as_f64().unwrap(), v["y"].as_f64().unwrap())))
            .collect()
    };
    let before = places().await;
    eventually("most of the vehicles are elsewhere", async || {
        let moved = places().await.iter().filter(|(vehicle, place)| before[*vehicle] != **place).count();
        if moved >= 7 { Ok(()) } else { Err(moved) }
    })
    .await;
    let heron = demo.get("/api/vehicles/heron", None).await;
    assert!(heron["driver"]["name"].is_string() && heron["telemetry"]["battery_percent"].is_number(), "{heron}");
    assert!(!heron["trail"].as_array().unwrap().is_empty(), "{heron}");
    assert_eq!(heron["problems"], json!([]));
}

#[tokio::test]
async fn a_canary_gets_its_share_and_testers_what_they_ask_for() {
    let demo = start().await;
    for (version, shift) in [("v1", false), ("v2", true)] {
        let heron = demo.get("/api/vehicles/heron", Some(version)).await;
        assert_eq!(heron["driver"]["shift"].is_object(), shift, "{version}: {heron}");
        let request = demo.client.get(format!("{}/api/photos/heron", demo.base)).header("x-fleet-version", version);
        let response = demo.send(request).await.unwrap();
        let chain = format!("photo-service {version}, api-gateway v1, webapp v1");
        assert_eq!(response.headers()["x-served-by"], *chain);
        let coloured = response.text().await.unwrap().contains("hsl(");
        assert_eq!(coloured, version == "v2", "the versions can be told apart by looking");
    }
    // As api-gateway asks, by its own sidecar: the rate limit is for the edge.
    let ports = fs::read_to_string(demo.fairway.data_dir.join("demo/api-gateway-v1/ports.json")).unwrap();
    let ports: Value = serde_json::from_str(&ports).unwrap();
    let sidecar = format!("http://{}", ports["listeners"]["127.0.0.1:15001"].as_str().unwrap());
    let client = Client::builder().proxy(reqwest::Proxy::http(sidecar).unwrap()).build().unwrap();
    for (host, path, shares) in [("staff-service", "drivers", 5..=90), ("photo-service", "photos", 40..=140)] {
        let mut second = 0;
        for _ in 0..300 {
            let response = client.get(format!("http://{host}/{path}/heron")).send().await.unwrap();
            let by = response.headers()["x-served-by"].to_str().unwrap().to_owned();
            assert!(by == format!("{host} v1") || by == format!("{host} v2"), "{by}");
            second += u32::from(by.ends_with("v2"));
        }
        assert!(shares.contains(&second), "{host}: {second} of 300 by v2");
    }
}

#[tokio::test]
async fn a_switched_failure_is_retried_away_or_told_and_never_takes_the_rest_along() {
    let demo = start().await;
    let heron = async || demo.get("/api/vehicles/heron", Some("v1")).await;

    demo.switch("staff-service/v1", &json!({"error_percent": 40})).await;
    let mut whole = 0;
    for _ in 0..30 {
        whole += u32::from(heron().await["driver"]["name"].is_string());
    }
    assert!(whole >= 20, "{whole} of 30 had a driver, although two retries hide most of the errors");
    assert!(demo.errors("staff-service/v1").await > 0, "it did fail");

    demo.switch("staff-service/v1", &json!({"error_percent": 100})).await;
    let answer = heron().await;
    assert!(problem(&answer, "staff-service").is_some_and(|problem| problem.contains("500")), "{answer}");
    assert!(answer["driver"].is_null() && answer["telemetry"].is_object(), "the rest is there: {answer}");

    demo.switch("staff-service/v1", &json!({"hang": true})).await;
    let begun = Instant::now();
    let answer = heron().await;
    assert!(problem(&answer, "staff-service").is_some_and(|problem| problem.contains("504")), "{answer}");
    assert!(begun.elapsed() < Duration::from_secs(15), "the route's timeout ends it, not somebody's patience");
    assert!(answer["telemetry"].is_object(), "{answer}");

    let other = demo.get("/api/vehicles/heron", Some("v2")).await;
    assert!(other["driver"]["shift"].is_object(), "the other version knows nothing of it: {other}");

    demo.switch("staff-service/v1", &json!({})).await;
    assert!(heron().await["driver"]["name"].is_string());

    // What nothing can be said without is an error of its own; the switches work all the same.
    demo.switch("position-tracker/v1", &json!({"error_percent": 100})).await;
    let refused = demo.try_get("/api/vehicles", None).await.unwrap_err();
    assert!(refused.starts_with("502") && refused.contains("position-tracker answered 500"), "{refused}");
    demo.switch("api-gateway/v1", &json!({"hang": true})).await;
    demo.switch("webapp/v1", &json!({"hang": true})).await;
    for service in ["webapp/v1", "api-gateway/v1", "position-tracker/v1"] {
        demo.switch(service, &json!({})).await;
    }
    demo.get("/api/vehicles", None).await;
}

const SERVICES: [&str; 9] = [
    "api-gateway-v1",
    "photo-service-v1",
    "photo-service-v2",
    "position-simulator-v1",
    "position-tracker-v1",
    "staff-service-v1",
    "staff-service-v2",
    "vehicle-telemetry-v1",
    "webapp-v1",
];

/// A process that stays the same one whatever becomes of its number.
#[derive(Clone, Debug, PartialEq, Eq)]
struct Pid {
    number: i32,
    began: String,
}

impl Pid {
    /// With its parent. `None`: it has ended, and at most waits for somebody to notice.
    fn find(number: i32) -> Option<(Self, i32)> {
        let stat = fs::read_to_string(format!("/proc/{number}/stat")).ok()?;
        // Behind the name, which may hold anything.
        let fields: Vec<&str> = stat.rsplit_once(')')?.1.split_whitespace().collect();
        let is_there = !["Z", "X"].contains(&fields[0]);
        is_there.then(|| (Self { number, began: fields[19].to_owned() }, fields[1].parse().unwrap()))
    }

    fn lives(&self) -> bool {
        Self::find(self.number).is_some_and(|(found, _)| found == *self)
    }

    fn command(&self) -> String {
        fs::read_to_string(format!("/proc/{}/cmdline", self.number)).unwrap_or_default().replace('\0', " ")
    }
}

/// Whatever a process started, and what those started.
fn started_by(process: i32) -> Vec<Pid> {
    let numbers = fs::read_dir("/proc").unwrap().flatten().filter_map(|entry| entry.file_name().to_str()?.parse().ok());
    let all: Vec<(Pid, i32)> = numbers.filter_map(Pid::find).collect();
    let mut found: Vec<Pid> = Vec::new();
    let mut parents = vec![process];
    while let Some(parent) = parents.pop() {
        let children = all.iter().filter(|(_, of)| *of == parent).map(|(child, _)| child.clone());
        found.extend(children.inspect(|child| parents.push(child.number)));
    }
    found
}

async fn until_gone(processes: &[Pid]) {
    eventually("everything that the demo started has ended", async || {
        let left: Vec<String> = processes.iter().filter(|process| process.lives()).map(Pid::command).collect();
        if left.is_empty() { Ok(()) } else { Err(left.join("\n")) }
    })
    .await;
}

/// The sidecar of an instance among what a demo started.
fn sidecar_of<'a>(processes: &'a [Pid], name: &str) -> &'a Pid {
    let is_it = |process: &&Pid| process.command().contains(&format!("--node-id {name} "));
    processes.iter().find(is_it).unwrap()
}

#[tokio::test]
async fn every_service_is_in_the_mesh_by_a_sidecar_of_its_own() {
    let demo = start().await;
    let proxies = demo.fairway.api().get("/api/fairway/v1/proxies").await.1;
    let (sidecars, others): (Vec<&Value>, Vec<&Value>) =
        proxies["items"].as_array().unwrap().iter().partition(|proxy| proxy["role"] == "sidecar");
    let names: Vec<&str> = sidecars.iter().map(|sidecar| sidecar["id"].as_str().unwrap()).collect();
    assert_eq!((names, others.len()), (SERVICES.to_vec(), 1), "the gateway is the other one: {proxies:#}");
    for sidecar in sidecars {
        assert_eq!((&sidecar["connected"], &sidecar["workload"]["ready"]), (&json!(true), &json!(true)), "{sidecar}");
        assert!(sidecar["certificateExpires"].is_string(), "{sidecar}");
    }

    // Whoever is not of the mesh gets no word out of a service, wherever others are told that it is.
    let entries = "/apis/networking.istio.io/v1/namespaces/fleet/workloadentries";
    for name in SERVICES {
        let spec = &demo.fairway.api().get(&format!("{entries}/{name}")).await.1["spec"];
        let url = format!("http://{}:{}/fault", spec["address"].as_str().unwrap(), spec["ports"]["http"]);
        let refused = demo.client.get(url).send().await.unwrap_err();
        assert!(refused.is_request(), "{name}: {refused:?}");
        eventually("the log says why", async || {
            let log = fs::read_to_string(demo.fairway.data_dir.join(format!("demo/{name}.log"))).unwrap();
            let why = "refused a connection that is not mutual TLS of the mesh";
            if log.contains(why) { Ok(()) } else { Err(log) }
        })
        .await;
    }
}

#[tokio::test]
async fn ctrl_c_ends_all_of_it_and_another_start_goes_on_with_its_folder() {
    let mut demo = start().await;
    let processes = started_by(demo.fairway.pid());
    assert_eq!(processes.len(), 2 * SERVICES.len(), "a sidecar and a service each: {processes:?}");
    demo.fairway.signal(2);
    let status = demo.fairway.wait_exit().await;
    assert!(status.success(), "{status}");
    until_gone(&processes).await;
    assert!(demo.fairway.log().contains("Stopping the services and their sidecars."));

    let again = Demo::start_again(&demo.fairway.data_dir).await;
    let tokens = again.fairway.api().get("/api/fairway/v1/join-tokens").await.1;
    assert_eq!(tokens["items"].as_array().unwrap().len(), 7, "those of the first time are gone: {tokens}");
}

#[tokio::test]
async fn nothing_outlives_a_demo_that_is_killed_and_another_start_goes_on_with_its_folder() {
    let mut demo = start().await;
    let processes = started_by(demo.fairway.pid());
    assert_eq!(processes.len(), 2 * SERVICES.len(), "a sidecar and a service each: {processes:?}");
    demo.fairway.kill();
    until_gone(&processes).await;
    Demo::start_again(&demo.fairway.data_dir).await;
}

#[tokio::test]
async fn a_sidecar_that_dies_is_told_about_and_comes_back() {
    let demo = start().await;
    let before = started_by(demo.fairway.pid());
    let sidecar = sidecar_of(&before, "staff-service-v2");
    let service: Vec<Pid> = started_by(sidecar.number);
    let killed = Command::new("kill").arg("-9").arg(sidecar.number.to_string()).status().await.unwrap();
    assert!(killed.success());
    until_gone(&service).await;
    eventually("it is told about", async || {
        let log = demo.fairway.log();
        let told = log.contains("the sidecar of staff-service v2 has ended") && log.contains("SIGKILL");
        if told { Ok(()) } else { Err(log) }
    })
    .await;
    eventually("testers of the version are served again", async || {
        let heron = demo.try_get("/api/vehicles/heron", Some("v2")).await?;
        if heron["driver"]["shift"].is_object() { Ok(()) } else { Err(heron.to_string()) }
    })
    .await;
}

/// One service in a process of its own, ended with it.
struct Process {
    _child: Child,
    base: String,
}

/// Starts it on a free port, which it names in its first line.
async fn process(arguments: &[&str]) -> Process {
    let mut command = Command::new(binary("fleet"));
    command.args(arguments).args(["--listen", "127.0.0.1:0"]).stdout(Stdio::piped()).kill_on_drop(true);
    let mut child = command.spawn().unwrap();
    let mut line = String::new();
    BufReader::new(child.stdout.take().unwrap()).read_line(&mut line).await.unwrap();
    let base = line.trim().rsplit_once(' ').unwrap_or_else(|| panic!("{arguments:?}: {line:?}")).1.to_owned();
    Process { _child: child, base }
}

#[tokio::test]
async fn each_service_runs_by_itself_and_finds_the_others_where_it_is_told() {
    let staff = process(&["staff-service", "--version", "v2"]).await;
    let photo = process(&["photo-service", "--error-percent", "100"]).await;
    let at = |service: &str, process: &Process| format!("{service}={}", process.base.trim_start_matches("http://"));
    let (staff_at, photo_at) = (at("staff-service", &staff), at("photo-service", &photo));
    // Nobody is at the third one's address.
    let arguments = ["--peer", &staff_at, "--peer", &photo_at, "--peers", "127.0.0.1:1"];
    let api = process(&[["api-gateway"].as_slice(), &arguments].concat()).await;
    let webapp = process(&["webapp", "--peer", &at("api-gateway", &api)]).await;

    let heron: Value = reqwest::get(format!("{}/api/vehicles/heron", webapp.base)).await.unwrap().json().await.unwrap();
    assert!(heron["driver"]["shift"].is_object(), "version 2 was asked: {heron}");
    assert!(
        problem(&heron, "vehicle-telemetry").is_some_and(|problem| problem.contains("cannot be reached")),
        "{heron}"
    );
    let picture = reqwest::get(format!("{}/api/photos/heron", webapp.base)).await.unwrap();
    assert_eq!(picture.status(), StatusCode::BAD_GATEWAY);
    assert!(picture.text().await.unwrap().contains("photo-service v1 fails on purpose"), "its flag said so");
}

#[tokio::test]
async fn a_call_names_who_it_is_for_and_what_it_belongs_to() {
    let origin = Origin::start("peer").await;
    let webapp = process(&["webapp", "--peer", &format!("api-gateway={}", origin.address)]).await;
    let request = Client::new().get(format!("{}/api/vehicles?all=1", webapp.base));
    let request = request.header("x-request-id", "7").header("x-fleet-version", "v2").header("cookie", "secret");
    let got: Value = request.send().await.unwrap().json().await.unwrap();
    let headers: BTreeMap<&str, &str> = got["headers"]
        .as_array()
        .unwrap()
        .iter()
        .map(|pair| (pair[0].as_str().unwrap(), pair[1].as_str().unwrap()))
        .collect();
    assert_eq!(got["target"], "/vehicles?all=1");
    assert_eq!(headers["host"], "api-gateway.fleet.svc.cluster.local", "a proxy goes by it");
    assert_eq!((headers["x-request-id"], headers["x-fleet-version"]), ("7", "v2"));
    assert_eq!(headers["traceparent"].len(), 55, "a trace begins with it");
    assert!(!headers.contains_key("cookie"), "{headers:?}");
}

#[tokio::test]
async fn a_client_that_asks_too_often_is_told_to_wait() {
    let demo = start().await;
    // Again if need be: sent slowly enough, a hundred are within the limit.
    let counts = eventually("some of a hundred requests at once are turned away", async || {
        let asked: Vec<_> = (0..100)
            .map(|_| {
                let request = demo.client.get(format!("{}/api/vehicles", demo.base));
                tokio::spawn(async move {
                    let response = request.send().await.unwrap();
                    (response.status(), response.headers().contains_key("retry-after"))
                })
            })
            .collect();
        let mut counts = BTreeMap::new();
        for asked in asked {
            *counts.entry(asked.await.unwrap()).or_insert(0) += 1;
        }
        if counts.contains_key(&(StatusCode::TOO_MANY_REQUESTS, true)) { Ok(counts) } else { Err(counts) }
    })
    .await;
    assert!(counts.len() <= 2 && counts.contains_key(&(StatusCode::OK, false)), "the others are served: {counts:?}");
    eventually("the client is served again", async || demo.try_get("/api/vehicles", None).await).await;
}
