//! The mesh on hosts of its own, made of network namespaces: transparent capture, IPv4 and IPv6.

#![allow(clippy::unwrap_used, reason = "a test fails by panicking")]

use std::fs::File;
use std::net::IpAddr;
use std::path::Path;
use std::process::{Child, Command, Stdio};

use e2e::eventually;
use e2e::process::binary;
use tempfile::TempDir;
use testkit::{Host, Lan};

const PORT: u16 = 9080;
/// Who the clients are; the sidecars are root, and known by the mark on their connections.
const NOBODY: &str = "65534";

/// A process on a host. Dropping it ends it.
struct Running {
    child: Child,
    log: std::path::PathBuf,
}

impl Running {
    fn start(host: &Host, folder: &Path, name: &str, program: &str, arguments: &[&str]) -> Self {
        let log = folder.join(format!("{name}.log"));
        let file = File::create(&log).unwrap();
        let mut command = host.command(program);
        command.args(arguments).env("RUST_LOG", "info").stdin(Stdio::null());
        let child = command.stdout(file.try_clone().unwrap()).stderr(file).spawn().unwrap();
        Self { child, log }
    }
}

impl Drop for Running {
    fn drop(&mut self) {
        let _ = self.child.kill();
        let _ = self.child.wait();
        if std::thread::panicking() {
            eprintln!("--- {} ---\n{}", self.log.display(), std::fs::read_to_string(&self.log).unwrap_or_default());
        }
    }
}

/// A control plane on a host, and the hosts that joined it.
struct Mesh {
    control: Host,
    folder: TempDir,
    _running: Running,
}

impl Mesh {
    async fn start(lan: &Lan) -> Self {
        let (control, folder) = (lan.host("control"), TempDir::new().unwrap());
        let data = folder.path().join("control").display().to_string();
        let address = control.v4.to_string();
        let arguments = ["admin", "--data-dir", &data, "--push-addr", "[::]:15012", "--server-names", &address];
        let running = Running::start(&control, folder.path(), "control", &fairway(), &arguments);
        let mesh = Self { control, folder, _running: running };
        eventually("the control plane answers", async || mesh.try_fairway(&["get", "gw"], "").map(drop)).await;
        mesh
    }

    /// Runs a command of `fairway` on the control plane's host.
    fn fairway(&self, words: &[&str], input: &str) -> String {
        self.try_fairway(words, input).unwrap_or_else(|error| panic!("fairway {words:?}: {error}"))
    }

    fn try_fairway(&self, words: &[&str], input: &str) -> Result<String, String> {
        let file = self.folder.path().join("input");
        std::fs::write(&file, input).unwrap();
        let mut command = self.control.command(fairway());
        command.args(words).arg("--data-dir").arg(self.folder.path().join("control"));
        output(command.stdin(File::open(file).unwrap()))
    }

    /// A sidecar on a host, through which all traffic of the host is led.
    fn join(&self, host: &Host, account: &str, flags: &[&str]) -> Running {
        let path = |name: String| self.folder.path().join(name).display().to_string();
        let token =
            self.fairway(&["join-token", "create", "-n", "shop", "--service-account", account, "--ttl", "1h"], "");
        let file = path(format!("{account}.token"));
        std::fs::write(&file, token).unwrap();
        output(host.command(fairway()).args(["sidecar", "capture", "apply"])).unwrap();
        let url = format!("https://{}:15012", self.control.v4);
        let (ca, data) = (path("control/ca.crt".into()), path(account.into()));
        let mut arguments =
            vec!["sidecar", "--control-plane", &url, "--control-plane-ca", &ca, "--join-token-file", &file];
        arguments.extend(["--data-dir", &data, "--namespace", "shop", "--service-account", account]);
        arguments.extend(["--access-log", "text"]);
        arguments.extend(flags);
        Running::start(host, self.folder.path(), account, &fairway(), &arguments)
    }
}

fn fairway() -> String {
    binary("fairway").display().to_string()
}

fn output(command: &mut Command) -> Result<String, String> {
    let done = command.output().unwrap();
    let text = |bytes: &[u8]| String::from_utf8_lossy(bytes).into_owned();
    if done.status.success() { Ok(text(&done.stdout)) } else { Err(text(&done.stdout) + &text(&done.stderr)) }
}

/// The status of a GET of one of the host's applications, by curl.
fn get(host: &Host, to: IpAddr, authority: &str) -> Result<String, String> {
    let to = if to.is_ipv4() { to.to_string() } else { format!("[{to}]") };
    let mut command = host.command("setpriv");
    command.args([
        "--reuid",
        NOBODY,
        "--clear-groups",
        "curl",
        "-s",
        "-m",
        "5",
        "-o",
        "/dev/null",
        "-w",
        "%{http_code}",
    ]);
    let place = format!("{authority}:{PORT}:{to}");
    output(command.args(["--resolve", &place, &format!("http://{authority}:{PORT}/")]))
}

async fn until(host: &Host, to: IpAddr, status: &str) {
    eventually(&format!("{to} answers {status}"), async || {
        let found = get(host, to, "reviews")?;
        if found == status { Ok(()) } else { Err(found) }
    })
    .await;
}

#[tokio::test]
async fn captured_traffic_goes_by_mutual_tls_and_the_mesh_s_rules() {
    let Some(lan) = Lan::new() else { return };
    let mesh = Mesh::start(&lan).await;
    let base = "
apiVersion: v1
kind: Namespace
metadata: {name: shop}
---
apiVersion: security.istio.io/v1
kind: PeerAuthentication
metadata: {name: default, namespace: istio-system}
spec: {mtls: {mode: STRICT}}
";
    mesh.fairway(&["apply", "-f", "-"], base);
    let (server, client, stranger) = (lan.host("reviews"), lan.host("ratings"), lan.host("stranger"));
    let folder = mesh.folder.path();
    let number = PORT.to_string();
    let words = ["-m", "http.server", &number, "--bind", "::"];
    let _application = Running::start(&server, folder, "application", "python3", &words);
    let named = format!("http={PORT}");
    let _reviews =
        mesh.join(&server, "reviews", &["--service", "reviews", "--port", &named, "--labels", "app=reviews"]);
    let _ratings = mesh.join(&client, "ratings", &[]);
    for address in server.addresses() {
        until(&client, address, "200").await;
        // Who is no member gets no answer.
        assert!(get(&stranger, address, "reviews").is_err(), "{address}");
    }
    // What nobody declared goes where it was going.
    let words = ["-m", "http.server", &number, "--bind", "::"];
    let _elsewhere = Running::start(&stranger, folder, "elsewhere", "python3", &words);
    for address in stranger.addresses() {
        eventually("what is not declared answers", async || {
            let found = get(&client, address, "elsewhere.test")?;
            if found == "200" { Ok(()) } else { Err(found) }
        })
        .await;
    }
    let rules = "
apiVersion: networking.istio.io/v1
kind: VirtualService
metadata: {name: reviews, namespace: shop}
spec:
  hosts: [reviews]
  http:
  - fault: {abort: {percentage: {value: 100}, httpStatus: 418}}
    route: [{destination: {host: reviews}}]
";
    mesh.fairway(&["apply", "-f", "-"], rules);
    until(&client, server.v6.into(), "418").await;
    mesh.fairway(&["delete", "virtualservice", "reviews", "-n", "shop"], "");
    until(&client, server.v4.into(), "200").await;
    let only_details = "
apiVersion: security.istio.io/v1
kind: AuthorizationPolicy
metadata: {name: reviews, namespace: shop}
spec:
  selector: {matchLabels: {app: reviews}}
  rules: [{from: [{source: {principals: [cluster.local/ns/shop/sa/details]}}]}]
";
    mesh.fairway(&["apply", "-f", "-"], only_details);
    until(&client, server.v4.into(), "403").await;
}
