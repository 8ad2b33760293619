//! A sidecar's process: how it joins, and how it starts, signals and outlives its application.

#![allow(clippy::unwrap_used, reason = "a test fails by panicking")]

use std::fs;
use std::path::Path;

use e2e::process::joined_sidecar;
use e2e::{Authority, Fairway, Start, eventually};
use serde_json::Value;
use tempfile::TempDir;

/// A folder for a CA and a token, so that a sidecar starts; there is no control plane where it looks for one.
struct Alone {
    folder: TempDir,
}

impl Alone {
    fn new() -> Self {
        let folder = TempDir::new().unwrap();
        fs::write(folder.path().join("ca.crt"), Authority::default().pem()).unwrap();
        fs::write(folder.path().join("token"), "fwj_none").unwrap();
        Self { folder }
    }

    fn path(&self, name: &str) -> String {
        self.folder.path().join(name).display().to_string()
    }

    fn sidecar(&self) -> Start {
        let start = Start::sidecar().standalone().arg("--control-plane").arg("https://127.0.0.1:1");
        start.arg("--control-plane-ca").arg(self.path("ca.crt")).arg("--join-token-file").arg(self.path("token"))
    }
}

async fn until_exists(path: &str) {
    eventually(&format!("the application makes {path}"), async || Path::new(path).exists()).await;
}

async fn until_logged(sidecar: &Fairway, text: &str) {
    eventually(&format!("{text:?} is logged"), async || {
        let log = sidecar.log();
        if log.contains(text) { Ok(()) } else { Err(log) }
    })
    .await;
}

#[tokio::test]
async fn a_sidecar_joins_and_acknowledges() {
    let control_plane = Start::admin().run().await;
    for (standalone, node) in [(false, "one"), (true, "two")] {
        let mut start = joined_sidecar(&control_plane, "shop", "reviews").await.arg("--node-id").arg(node);
        if standalone {
            start = start.standalone();
        }
        let mut sidecar = start.arg("--labels").arg("app=reviews,version=v2").run().await;
        let proxy = eventually("the control plane knows it", async || {
            let (_, proxies) = control_plane.api().get("/api/fairway/v1/proxies").await;
            let is_it = |proxy: &&Value| proxy["id"] == node && proxy["ackedRevision"].as_u64().is_some_and(|n| n > 0);
            proxies["items"].as_array().and_then(|items| items.iter().find(is_it).cloned()).ok_or(proxies)
        })
        .await;
        for (key, value) in [("role", "sidecar"), ("namespace", "shop"), ("serviceAccount", "reviews")] {
            assert_eq!(proxy[key], value, "{proxy}");
        }
        let ready = format!("http://{}/readyz", sidecar.address("metrics"));
        assert_eq!(reqwest::get(ready).await.unwrap().status(), 200);
        assert_eq!(sidecar.stop().await.code(), Some(0));
    }
}

#[tokio::test]
async fn an_application_waits_for_the_first_configuration_only() {
    let mut control_plane = Start::admin().run().await;
    let push = control_plane.address("push");
    let folder = control_plane.data_dir.clone();
    let copy = TempDir::new().unwrap();
    let started = copy.path().join("started").display().to_string();
    let own = copy.path().join("sidecar");
    let start = async |control_plane: &Fairway| {
        let words = ["sh", "-c", "echo x > $0; exec sleep 1000", &started];
        let start = joined_sidecar(control_plane, "shop", "default").await.arg("--wait-ready").application(&words);
        start.data_dir(&own)
    };
    let waiting = start(&control_plane).await;
    control_plane.stop().await;
    let mut sidecar = waiting.run().await;
    until_logged(&sidecar, "the application is started when there is a configuration").await;
    until_logged(&sidecar, "cannot reach the control plane").await;
    assert!(!Path::new(&started).exists(), "nothing could serve it yet");

    let mut control_plane = Start::admin().push_at(&push).data_dir(&folder).run().await;
    until_exists(&started).await;
    sidecar.stop().await;

    // What it kept is as good.
    fs::remove_file(&started).unwrap();
    let again = start(&control_plane).await;
    control_plane.stop().await;
    let mut sidecar = again.run().await;
    until_exists(&started).await;
    assert!(sidecar.log().contains("serving the last good configuration"), "{}", sidecar.log());
    sidecar.stop().await;
}

#[tokio::test]
async fn signals_are_the_applications_and_its_exit_code_is_the_sidecars() {
    let alone = Alone::new();
    let started = alone.path("started");
    let script = "trap 'echo user >> $0' USR1; trap 'exit 7' TERM; echo x > $0; while :; do sleep 0.02; done";
    let mut sidecar = alone.sidecar().application(&["sh", "-c", script, &started]).run().await;
    until_exists(&started).await;
    sidecar.signal(10);
    eventually("the application got it", async || fs::read_to_string(&started).unwrap().contains("user")).await;
    assert_eq!(sidecar.stop().await.code(), Some(7));
    let log = sidecar.log();
    let at = |text: &str| log.find(text).unwrap_or_else(|| panic!("{text:?} is missing in {log}"));
    assert!(at("handing on to the application") < at("the application has ended"), "{log}");
    assert!(at("the application has ended") < at("drained"), "the sidecar outlives it: {log}");
}

#[tokio::test]
async fn the_end_of_an_application_is_told_as_shells_tell_it() {
    let alone = Alone::new();
    for (words, code) in [
        (&["sh", "-c", "exit 3"][..], 3),
        (&["true"], 0),
        (&["sh", "-c", "kill -9 $$"], 137),
        (&["no-such-program"], 127),
        (&["/etc/passwd"], 126),
    ] {
        let mut sidecar = alone.sidecar().application(words).without_waiting().run().await;
        assert_eq!(sidecar.wait_exit().await.code(), Some(code), "{words:?}: {}", sidecar.log());
    }
}

#[tokio::test]
async fn a_variable_that_is_set_to_nothing_is_a_list_of_nothing() {
    let alone = Alone::new();
    let lists = ["FAIRWAY_PORTS", "FAIRWAY_LABELS", "FAIRWAY_BIND_SERVICES"];
    let start = lists.iter().fold(alone.sidecar(), |start, list| start.env(list, ""));
    let mut sidecar = start.application(&["true"]).without_waiting().run().await;
    assert_eq!(sidecar.wait_exit().await.code(), Some(0), "{}", sidecar.log());
}

#[tokio::test]
async fn an_application_that_waits_is_not_started_after_a_signal() {
    let alone = Alone::new();
    let started = alone.path("started");
    let start = alone.sidecar().arg("--wait-ready").application(&["touch", &started]);
    let mut sidecar = start.run().await;
    until_logged(&sidecar, "the application is started when there is a configuration").await;
    assert_eq!(sidecar.stop().await.code(), Some(143), "as if SIGTERM had ended the application");
    assert!(!Path::new(&started).exists());
}
