//! Istio's bookinfo sample, unchanged, through kubectl.

#![allow(clippy::unwrap_used, reason = "a test fails by panicking")]

use std::collections::BTreeMap;
use std::path::PathBuf;
use std::time::{Duration, Instant};

use e2e::{Fairway, Kubectl, Origin, Start};
use testkit::wait::eventually;

const REQUESTS: u64 = 10_000;

fn data(path: &str) -> PathBuf {
    PathBuf::from(env!("CARGO_MANIFEST_DIR")).join("data").join(path)
}

fn sample(name: &str) -> String {
    data("istio-samples/bookinfo/networking").join(name).display().to_string()
}

struct Bookinfo {
    fairway: Fairway,
    kubectl: Kubectl,
    base: String,
    /// productpage, then the versions of reviews.
    origins: Vec<Origin>,
}

async fn start() -> Bookinfo {
    let fairway = Start::serve(&[8080]).run().await;
    let kubectl = Kubectl::new(&fairway);
    let services = std::fs::read_to_string(data("bookinfo/services.yaml")).unwrap();
    let mut origins = Vec::new();
    let mut filled = services;
    for (name, placeholder) in [
        ("productpage", "${PRODUCTPAGE}"),
        ("reviews-v1", "${REVIEWS_V1}"),
        ("reviews-v2", "${REVIEWS_V2}"),
        ("reviews-v3", "${REVIEWS_V3}"),
    ] {
        let origin = Origin::start(name).await;
        filled = filled.replace(placeholder, &origin.port().to_string());
        origins.push(origin);
    }
    let file = fairway.data_dir.join("services.yaml");
    std::fs::write(&file, filled).unwrap();
    kubectl.run(&["apply", "-f", &file.display().to_string()]);
    kubectl.run(&["apply", "-f", &sample("destination-rule-all.yaml")]);
    kubectl.run(&["apply", "-f", &sample("bookinfo-gateway.yaml")]);
    kubectl.run(&["wait", "--for=condition=Programmed", "gateway/bookinfo-gateway", "vs/bookinfo", "--timeout=30s"]);
    let base = format!("http://{}", fairway.listener(8080).await);
    Bookinfo { fairway, kubectl, base, origins }
}

impl Bookinfo {
    /// Which origin answers, or the status where none does.
    async fn answers(&self, host: Option<&str>, path: &str, headers: &[(&str, &str)]) -> String {
        let client = reqwest::Client::new();
        let mut request = client.get(format!("{}{path}", self.base));
        if let Some(host) = host {
            request = request.header("host", host);
        }
        for (name, value) in headers {
            request = request.header(*name, *value);
        }
        let response = request.send().await.unwrap();
        match response.headers().get("x-origin") {
            Some(origin) => origin.to_str().unwrap().to_owned(),
            None => response.status().as_str().to_owned(),
        }
    }

    /// How many of many requests each origin answers.
    async fn split(&self, host: &str) -> BTreeMap<String, u64> {
        let client = reqwest::Client::new();
        let mut counts = BTreeMap::new();
        for _ in 0..REQUESTS {
            let response = client.get(&self.base).header("host", host).send().await.unwrap();
            let origin = response.headers()["x-origin"].to_str().unwrap().to_owned();
            *counts.entry(origin).or_default() += 1;
        }
        counts
    }
}

#[tokio::test]
async fn the_gateway_serves_the_paths_of_its_file_and_no_others() {
    let bookinfo = start().await;
    for path in ["/productpage", "/static/x", "/static", "/login", "/logout", "/api/v1/products/1"] {
        assert_eq!(bookinfo.answers(None, path, &[]).await, "productpage", "{path}");
    }
    for path in ["/", "/productpage/", "/unknown", "/api/v1"] {
        assert_eq!(bookinfo.answers(None, path, &[]).await, "404", "{path}");
    }
}

#[tokio::test]
async fn rules_for_the_mesh_do_not_change_the_gateway() {
    let bookinfo = start().await;
    let samples = std::fs::read_dir(data("istio-samples/bookinfo/networking")).unwrap();
    let mut applied = 0;
    for entry in samples.map(|entry| entry.unwrap().file_name().into_string().unwrap()) {
        if entry.starts_with("virtual-service-") {
            bookinfo.kubectl.run(&["apply", "-f", &sample(&entry)]);
            applied += 1;
        }
    }
    assert!(applied >= 6, "the samples are there");
    let revision: u64 = bookinfo.fairway.api().get("/api/fairway/v1/proxies").await.1["items"][0]["ackedRevision"]
        .as_u64()
        .expect("the proxy acknowledges");
    bookinfo.fairway.api().applied(revision).await;
    assert_eq!(bookinfo.answers(None, "/productpage", &[]).await, "productpage");
    assert_eq!(bookinfo.answers(Some("reviews"), "/reviews/1", &[]).await, "404");
    assert_eq!(bookinfo.answers(Some("reviews.default.svc.cluster.local"), "/", &[]).await, "404");
}

#[tokio::test]
async fn the_rules_bound_to_the_gateway_do_what_their_headings_say() {
    let bookinfo = start().await;
    let file = data("bookinfo/reviews-on-gateway.yaml").display().to_string();
    bookinfo.kubectl.run(&["apply", "-f", &file]);
    bookinfo.kubectl.run(&["wait", "--for=condition=Programmed", "vs", "--all", "--timeout=30s"]);

    let host = Some("reviews-test-v2.example");
    assert_eq!(bookinfo.answers(host, "/", &[("end-user", "jason")]).await, "reviews-v2");
    assert_eq!(bookinfo.answers(host, "/", &[("end-user", "bob")]).await, "reviews-v1");
    assert_eq!(bookinfo.answers(host, "/", &[]).await, "reviews-v1");

    for (host, minor, share) in
        [("reviews-50-v3.example", "reviews-v3", 0.5), ("reviews-80-20.example", "reviews-v2", 0.2)]
    {
        let expected = REQUESTS as f64 * share;
        let sigma = (REQUESTS as f64 * share * (1.0 - share)).sqrt();
        let mut counts = bookinfo.split(host).await;
        let minority = |counts: &BTreeMap<String, u64>| counts.get(minor).copied().unwrap_or_default();
        let within = |got: u64| (got as f64 - expected).abs() <= 3.0 * sigma;
        // A fair split leaves 3 sigma once in 370 runs; twice in a row is no chance.
        if !within(minority(&counts)) {
            counts = bookinfo.split(host).await;
        }
        let got = minority(&counts);
        assert!(within(got), "{host}: {counts:?}, expected {expected} ± {}", 3.0 * sigma);
        let all: u64 = counts.get("reviews-v1").copied().unwrap_or_default() + got;
        assert_eq!(all, REQUESTS, "{counts:?}");
    }
}

#[tokio::test]
async fn faults_and_mirrors_do_what_their_headings_say() {
    let bookinfo = start().await;
    let file = data("bookinfo/faults-on-gateway.yaml").display().to_string();
    bookinfo.kubectl.run(&["apply", "-f", &file]);
    bookinfo.kubectl.run(&["wait", "--for=condition=Programmed", "vs", "--all", "--timeout=30s"]);

    let jason = [("end-user", "jason")];
    let host = Some("ratings-abort.example");
    assert_eq!(bookinfo.answers(host, "/", &jason).await, "500");
    assert_eq!(bookinfo.answers(host, "/", &[]).await, "reviews-v1");

    let host = Some("ratings-delay.example");
    let before = Instant::now();
    let (delayed, others) = tokio::join!(bookinfo.answers(host, "/", &jason), async {
        let answer = bookinfo.answers(host, "/", &[]).await;
        (answer, before.elapsed())
    });
    assert_eq!(delayed, "reviews-v1");
    assert!(before.elapsed() >= Duration::from_secs(7));
    assert!(others.0 == "reviews-v1" && others.1 < Duration::from_secs(7), "{others:?}");

    let (before, requests) = (bookinfo.origins[3].requests(), 1000_u64);
    for _ in 0..requests {
        assert_eq!(bookinfo.answers(Some("reviews-mirror.example"), "/", &[]).await, "reviews-v1");
    }
    // Half of them, within 5 sigma: sqrt(1000 / 4) is 16.
    let copied = || bookinfo.origins[3].requests() - before;
    eventually("the copies arrive", async || copied() >= requests / 2 - 80).await;
    assert!(copied() <= requests / 2 + 80, "{}", copied());
}
