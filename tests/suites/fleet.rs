//! The demo, as who looks at it for the first time meets it: `fairway serve --demo`, then the page and its switches.

#![allow(clippy::unwrap_used, reason = "a test fails by panicking")]

use std::collections::BTreeMap;
use std::process::Stdio;
use std::time::{Duration, Instant};

use e2e::process::binary;
use e2e::{Fairway, Origin, Start, eventually};
use reqwest::{Client, RequestBuilder, Response, StatusCode};
use serde_json::{Value, json};
use tokio::io::{AsyncBufReadExt, BufReader};
use tokio::process::{Child, Command};

struct Demo {
    fairway: Fairway,
    base: String,
    client: Client,
}

async fn start() -> Demo {
    let fairway = Start::serve(&[8080, 8090]).arg("--demo").run().await;
    let base = format!("http://{}", fairway.listener(8080).await);
    let demo = Demo { fairway, base, client: Client::new() };
    eventually("all services answer", async || {
        let services = demo.try_get("/api/services", None).await?;
        let silent = services.as_array().unwrap().iter().find(|service| service["state"].is_null());
        silent.map_or(Ok(()), |service| Err(service.to_string()))
    })
    .await;
    eventually("the vehicles are reported", async || {
        let count = demo.try_get("/api/vehicles", None).await?["vehicles"].as_array().unwrap().len();
        if count == 12 { Ok(()) } else { Err(format!("{count} vehicles")) }
    })
    .await;
    demo
}

impl Demo {
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
    // As api-gateway asks: the rate limit is for the edge.
    let internal = demo.fairway.listener_of("127.0.0.1:8090").await;
    for (host, path, shares) in [("staff-service", "drivers", 5..=90), ("photo-service", "photos", 40..=140)] {
        let mut second = 0;
        for _ in 0..300 {
            let request = demo.client.get(format!("http://{internal}/{path}/heron"));
            let response = request.header("host", format!("{host}.fleet.svc.cluster.local")).send().await.unwrap();
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
