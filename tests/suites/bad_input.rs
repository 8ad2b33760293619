//! Bad input and bad surroundings: each gets a clear message, and nothing is lost.

#![allow(clippy::unwrap_used, reason = "a test fails by panicking")]

use std::net::TcpListener;

use e2e::{Fairway, Resources, Start, eventually};
use reqwest::{Method, StatusCode};
use serde_json::{Value, json};

const GATEWAYS: &str = "/apis/networking.istio.io/v1/namespaces/default/gateways";
const VIRTUAL_SERVICES: &str = "/apis/networking.istio.io/v1/namespaces/default/virtualservices";

/// A gateway on port 8080 that answers everything.
fn edge() -> Resources {
    Resources::edge(&[8080]).answers("edge", 200)
}

/// Waits until a condition of an object has this status, and answers its reason and message.
async fn condition(fairway: &Fairway, path: &str, kind: &str, status: &str) -> (String, String) {
    eventually(&format!("{path}: {kind} is {status}"), async || {
        let (_, object) = fairway.api().get(path).await;
        let conditions = object["status"]["conditions"].as_array().into_iter().flatten();
        let condition = conditions.clone().find(|c| c["type"] == kind).cloned().unwrap_or_default();
        let text = |key: &str| condition[key].as_str().unwrap_or_default().to_owned();
        let settled = text("status") == status && text("reason") != "Pending";
        if settled { Ok((text("reason"), text("message"))) } else { Err(condition) }
    })
    .await
}

#[tokio::test]
async fn a_bad_document_is_refused_with_its_reason_and_changes_nothing() {
    let fairway = Start::serve(&[8080]).run().await;
    let api = fairway.api();
    api.apply(&edge()).await;
    let (_, before) = api.get(VIRTUAL_SERVICES).await;

    let send = async |method: Method, path: String, content_type: &str, body: Vec<u8>| {
        let request = api.request(method, &path).header("content-type", content_type.to_owned()).body(body);
        let response = request.send().await.expect("an answer, not a broken connection");
        let status = response.status().as_u16();
        (status, response.text().await.unwrap())
    };
    let vs = |spec: Value| {
        let object = json!({"apiVersion": "networking.istio.io/v1", "kind": "VirtualService",
                            "metadata": {"name": "new"}, "spec": spec});
        object.to_string().into_bytes()
    };
    let strict = format!("{VIRTUAL_SERVICES}?fieldValidation=Strict");
    let json_type = "application/json";

    let (status, text) = send(Method::POST, VIRTUAL_SERVICES.into(), "application/yaml", b"a: [1".to_vec()).await;
    assert_eq!(status, 400, "malformed YAML: {text}");

    let unknown = vs(json!({"hosts": ["a.example"], "http": [{"directResponse": {"status": 200}}], "hostz": 1}));
    let (status, text) = send(Method::POST, strict.clone(), json_type, unknown).await;
    assert!(status == 400 && text.contains(r#"unknown field \"spec.hostz\""#), "{status} {text}");

    let (status, text) = send(Method::POST, GATEWAYS.into(), json_type, vs(json!({"hosts": ["a"]}))).await;
    assert!(status == 400 && text.contains("VirtualService"), "wrong kind: {status} {text}");

    let wrong_type = vs(json!({"hosts": "a.example"}));
    let (status, text) = send(Method::POST, VIRTUAL_SERVICES.into(), json_type, wrong_type).await;
    assert!(status == 422 && text.contains("spec.hosts"), "{status} {text}");

    let (status, text) = send(Method::POST, VIRTUAL_SERVICES.into(), json_type, vec![b' '; 5 << 20]).await;
    assert_eq!(status, 413, "5 MiB: {text}");

    let mut stale = before["items"][0].clone();
    stale["metadata"]["resourceVersion"] = json!("1");
    stale["spec"]["hosts"] = json!(["stale.example"]);
    let path = format!("{VIRTUAL_SERVICES}/edge");
    let (status, text) = send(Method::PUT, path, json_type, stale.to_string().into_bytes()).await;
    assert!(status == 409 && text.contains("modified"), "stale resourceVersion: {status} {text}");

    let (_, after) = api.get(VIRTUAL_SERVICES).await;
    let stored = |list: &Value| -> Vec<(Value, Value)> {
        let items = list["items"].as_array().cloned().unwrap_or_default();
        items.into_iter().map(|item| (item["metadata"].clone(), item["spec"].clone())).collect()
    };
    assert_eq!(stored(&before), stored(&after), "nothing was stored");
    let base = format!("http://{}", fairway.listener(8080).await);
    assert_eq!(reqwest::get(base).await.unwrap().status(), StatusCode::OK, "and traffic did not notice");
}

#[tokio::test]
async fn a_port_that_another_program_holds_leaves_the_others_serving() {
    let taken = TcpListener::bind("127.0.0.1:0").unwrap();
    let port = taken.local_addr().unwrap().port();
    let fairway = Start::serve(&[8080]).run().await;
    fairway.api().apply(&edge().gateway("blocked", &[port]).answers("blocked", 200)).await;
    let base = format!("http://{}", fairway.listener(8080).await);
    assert_eq!(reqwest::get(base).await.unwrap().status(), StatusCode::OK);
    let (reason, message) = condition(&fairway, &format!("{GATEWAYS}/blocked"), "Programmed", "False").await;
    assert_eq!(reason, "PortInUse", "{message}");
    assert!(message.contains(&port.to_string()), "{message}");
    condition(&fairway, &format!("{GATEWAYS}/edge"), "Programmed", "True").await;
    // Once it is free it is taken, and said to be, without an edit.
    drop(taken);
    condition(&fairway, &format!("{GATEWAYS}/blocked"), "Programmed", "True").await;
    let blocked = format!("http://{}", fairway.listener(port).await);
    assert_eq!(reqwest::get(blocked).await.unwrap().status(), StatusCode::OK);
}

#[tokio::test]
async fn a_missing_secret_fails_its_handshakes_and_nothing_else() {
    let fairway = Start::serve(&[8080, 8443]).run().await;
    fairway.api().apply(&edge().https_gateway("secure", 8443, "absent")).await;
    let plain = format!("http://{}", fairway.listener(8080).await);
    assert_eq!(reqwest::get(plain).await.unwrap().status(), StatusCode::OK);
    let secure = format!("https://{}", fairway.listener(8443).await);
    let client = reqwest::Client::builder().tls_danger_accept_invalid_certs(true).build().unwrap();
    assert!(client.get(secure).send().await.is_err(), "there is no certificate to shake hands with");
    let (reason, message) = condition(&fairway, &format!("{GATEWAYS}/secure"), "ResolvedRefs", "False").await;
    assert!(message.contains("absent"), "{reason} {message}");
}

#[tokio::test]
async fn a_certificate_and_a_key_that_do_not_match_are_refused() {
    let fairway = Start::serve(&[8080]).run().await;
    let pair = || rcgen::generate_simple_self_signed(vec!["a.example".to_owned()]).unwrap();
    let secret = json!({"apiVersion": "v1", "kind": "Secret", "type": "kubernetes.io/tls",
        "metadata": {"name": "mixed", "namespace": "istio-system"},
        "stringData": {"tls.crt": pair().cert.pem(), "tls.key": pair().signing_key.serialize_pem()}});
    let (status, body) = fairway.api().post("/api/v1/namespaces/istio-system/secrets", &secret).await;
    assert_eq!(status, StatusCode::UNPROCESSABLE_ENTITY, "{body}");
    let message = body["message"].as_str().unwrap_or_default();
    assert!(message.contains("match") || message.contains("belong"), "{message}");
}

#[tokio::test]
async fn a_privileged_port_is_explained_to_an_unprivileged_user() {
    let limit = std::fs::read_to_string("/proc/sys/net/ipv4/ip_unprivileged_port_start").unwrap_or_default();
    assert_eq!(limit.trim(), "1024", "this machine lets everybody bind port 80");
    let folder = tempfile::tempdir().unwrap();
    let program = folder.path().join("fairway");
    std::fs::copy(e2e::process::binary("fairway"), &program).unwrap();
    let data = folder.path().join("data");
    std::fs::create_dir(&data).unwrap();
    for (path, mode) in [(folder.path(), "755"), (program.as_path(), "755"), (data.as_path(), "777")] {
        assert!(std::process::Command::new("chmod").arg(mode).arg(path).status().unwrap().success());
    }
    let nobody =
        ["setpriv", "--reuid=65534", "--regid=65534", "--clear-groups", "--inh-caps=-all", "--bounding-set=-all"];
    let fairway = Start::serve(&[8080]).program(&program).wrapped_by(&nobody).data_dir(&data).run().await;
    fairway.api().apply(&edge().gateway("low", &[80]).answers("low", 200)).await;
    let (reason, message) = condition(&fairway, &format!("{GATEWAYS}/low"), "Programmed", "False").await;
    assert_eq!(reason, "PortForbidden", "{message}");
    assert!(message.contains("--port-map"), "it says what to do: {message}");
    let base = format!("http://{}", fairway.listener(8080).await);
    assert_eq!(reqwest::get(base).await.unwrap().status(), StatusCode::OK);
}

#[tokio::test]
async fn an_unreachable_database_at_start_is_said() {
    let mut fairway = Start::admin()
        .env("DATABASE_URL", "postgres://fairway@127.0.0.1:1/fairway")
        .env("FAIRWAY_MASTER_KEY", "AAAAAAAAAAAAAAAAAAAAAAAAAAAAAAAAAAAAAAAAAAA=")
        .without_waiting()
        .run()
        .await;
    assert!(!fairway.wait_exit().await.success());
    let log = fairway.log();
    assert!(log.contains("127.0.0.1") && log.contains("not available"), "{log}");
}

#[tokio::test]
async fn postgres_without_a_master_key_is_refused() {
    let start = Start::admin().env("DATABASE_URL", "postgres://fairway@127.0.0.1:1/fairway");
    let mut fairway = start.without_waiting().run().await;
    assert!(!fairway.wait_exit().await.success());
    assert!(fairway.log().contains("--master-key-file"), "{}", fairway.log());
}

#[tokio::test]
async fn a_wrong_master_key_is_refused_and_harms_nothing() {
    let folder = tempfile::tempdir().unwrap();
    let data = folder.path().join("data");
    let mut fairway = Start::serve(&[8080]).data_dir(&data).run().await;
    fairway.api().apply(&edge()).await;
    fairway.stop().await;

    let other = "AQEBAQEBAQEBAQEBAQEBAQEBAQEBAQEBAQEBAQEBAQE=";
    let start = Start::serve(&[8080]).data_dir(&data).env("FAIRWAY_MASTER_KEY", other);
    let mut wrong = start.without_waiting().run().await;
    assert!(!wrong.wait_exit().await.success());
    assert!(wrong.log().contains("master key"), "{}", wrong.log());

    let fairway = Start::serve(&[8080]).data_dir(&data).run().await;
    let base = format!("http://{}", fairway.listener(8080).await);
    assert_eq!(reqwest::get(base).await.unwrap().status(), StatusCode::OK);
}

#[tokio::test]
async fn a_corrupted_last_good_file_is_set_aside() {
    let folder = tempfile::tempdir().unwrap();
    let (admin_data, data) = (folder.path().join("admin"), folder.path().join("gateway"));
    let mut admin = Start::admin().data_dir(&admin_data).run().await;
    let start = e2e::process::joined_gateway(&admin, &[8080]).await;
    let mut gateway_process = start.data_dir(&data).run().await;
    admin.api().apply(&edge()).await;
    let last_good = data.join("last-good");
    eventually("the last good set is on disk", async || {
        let files: Vec<_> = std::fs::read_dir(&data).unwrap().flatten().map(|e| e.file_name()).collect();
        if last_good.exists() { Ok(()) } else { Err(files) }
    })
    .await;
    gateway_process.stop().await;
    let mut bytes = std::fs::read(&last_good).unwrap();
    let middle = bytes.len() / 2;
    bytes[middle] ^= 0xff;
    std::fs::write(&last_good, bytes).unwrap();

    let start = e2e::process::joined_gateway(&admin, &[8080]).await;
    let gateway_process = start.data_dir(&data).run().await;
    let base = format!("http://{}", gateway_process.listener(8080).await);
    assert_eq!(reqwest::get(base).await.unwrap().status(), StatusCode::OK, "the control plane sends it again");
    assert!(gateway_process.log().contains("last good"), "it says so: {}", gateway_process.log());
    admin.stop().await;
}

#[tokio::test]
async fn a_full_disk_refuses_writes_and_keeps_serving() {
    let folder = tempfile::tempdir().unwrap();
    let disk = folder.path().join("disk");
    std::fs::create_dir(&disk).unwrap();
    let mounted =
        std::process::Command::new("mount").args(["-t", "tmpfs", "-o", "size=2m", "tmpfs"]).arg(&disk).status();
    assert!(mounted.is_ok_and(|status| status.success()), "this test mounts a small tmpfs and needs root");
    let unmount = Unmount(disk.clone());
    let fairway = Start::serve(&[8080]).data_dir(&disk.join("data")).run().await;
    let api = fairway.api();
    api.apply(&edge()).await;

    let filler = disk.join("filler");
    let full = std::process::Command::new("sh").arg("-c").arg(format!("cat /dev/zero > {}", filler.display())).output();
    assert!(full.is_ok(), "the disk fills");
    let body = "x".repeat(200_000);
    let big = json!({"apiVersion": "networking.istio.io/v1", "kind": "VirtualService", "metadata": {"name": "big"},
        "spec": {"hosts": ["big.example"], "gateways": ["edge"],
                 "http": [{"directResponse": {"status": 200, "body": {"string": body}}}]}});
    let (status, answer) = api.post(VIRTUAL_SERVICES, &big).await;
    assert_eq!(status, StatusCode::SERVICE_UNAVAILABLE, "{answer}");
    assert!(answer["message"].as_str().unwrap_or_default().contains("full"), "{answer}");
    let base = format!("http://{}", fairway.listener(8080).await);
    assert_eq!(reqwest::get(&base).await.unwrap().status(), StatusCode::OK, "traffic goes on");

    std::fs::remove_file(&filler).unwrap();
    eventually("writes work again", async || {
        let (status, answer) = api.post(VIRTUAL_SERVICES, &big).await;
        if status == StatusCode::CREATED { Ok(()) } else { Err(answer) }
    })
    .await;
    drop(fairway);
    drop(unmount);
}

/// Unmounts the small disk, whatever became of the test.
struct Unmount(std::path::PathBuf);

impl Drop for Unmount {
    fn drop(&mut self) {
        let _ = std::process::Command::new("umount").arg("-l").arg(&self.0).status();
    }
}
