//! A Fairway process of the test's own: started on free ports, its log shown when the test fails, ended with it.

use std::fs::{self, File};
use std::path::{Path, PathBuf};
use std::process::{Child, Command, ExitStatus, Stdio};
use std::time::{Duration, Instant};

use serde_json::Value;
use tempfile::TempDir;

use crate::api::Api;
use testkit::wait::{DEADLINE, eventually};

/// The admin token of every process that the tests start.
pub const TOKEN: &str = "token-of-the-tests";

/// The built binary: beside the test binaries, in the target folder.
pub fn binary(name: &str) -> PathBuf {
    let test = std::env::current_exe().expect("the path of this test");
    let folder = test.parent().and_then(Path::parent).expect("target/PROFILE/deps");
    let path = folder.join(name);
    assert!(path.exists(), "{} is missing; build it first: cargo build --workspace --bins", path.display());
    path
}

/// How to start a process.
#[derive(Clone, Debug)]
pub struct Start {
    /// `None` for a binary without subcommands.
    subcommand: Option<&'static str>,
    /// Where it shows that it is ready: a key of `ports.json`, and a path.
    ready_at: (&'static str, &'static str),
    arguments: Vec<String>,
    application: Vec<String>,
    environment: Vec<(String, String)>,
    data_dir: Option<PathBuf>,
    wrapper: Vec<String>,
    program: Option<PathBuf>,
    expect_ready: bool,
}

impl Start {
    /// `fairway serve`: control plane and gateway; every gateway port in `ports` is bound to a free one.
    pub fn serve(ports: &[u16]) -> Self {
        let mut start = Self::of("serve", ("admin", "/readyz"));
        start.admin_ports();
        start.proxy_ports(ports);
        start
    }

    /// `fairway admin`: the control plane alone.
    pub fn admin() -> Self {
        let mut start = Self::of("admin", ("admin", "/readyz"));
        start.admin_ports();
        start
    }

    /// `fairway gateway`: without its control plane, CA and token, which the test names.
    pub fn gateway(ports: &[u16]) -> Self {
        let mut start = Self::of("gateway", ("metrics", "/healthz"));
        start.proxy_ports(ports);
        start
    }

    /// `fairway sidecar`: without its control plane, CA and token, which the test names.
    pub fn sidecar() -> Self {
        let mut start = Self::of("sidecar", ("metrics", "/healthz"));
        start.own_ports();
        for flag in ["--outbound-addr", "--inbound-addr"] {
            start.arguments.extend([flag.to_owned(), "127.0.0.1:0".to_owned()]);
        }
        start.arguments.extend(["--workers", "1"].map(str::to_owned));
        start
    }

    /// The same from the binary `fairway-gateway` or `fairway-sidecar` instead of a command of `fairway`.
    pub fn standalone(mut self) -> Self {
        let name = self.subcommand.take().expect("a command");
        assert!(["gateway", "sidecar"].contains(&name), "{name} has no binary of its own");
        self.program(&binary(&format!("fairway-{name}")))
    }

    /// What a sidecar is to start: program and arguments.
    pub fn application(mut self, words: &[&str]) -> Self {
        self.application = words.iter().map(|&word| word.to_owned()).collect();
        self
    }

    fn of(subcommand: &'static str, ready_at: (&'static str, &'static str)) -> Self {
        Self {
            subcommand: Some(subcommand),
            ready_at,
            arguments: Vec::new(),
            application: Vec::new(),
            environment: vec![("FAIRWAY_ADMIN_TOKEN".into(), TOKEN.into())],
            data_dir: None,
            wrapper: Vec::new(),
            program: None,
            expect_ready: true,
        }
    }

    fn admin_ports(&mut self) {
        for flag in ["--admin-addr", "--admin-tls-addr", "--push-addr"] {
            self.arguments.extend([flag.to_owned(), "127.0.0.1:0".to_owned()]);
        }
    }

    fn own_ports(&mut self) {
        for flag in ["--proxy-admin-addr", "--metrics-addr"] {
            self.arguments.extend([flag.to_owned(), "127.0.0.1:0".to_owned()]);
        }
    }

    fn proxy_ports(&mut self, ports: &[u16]) {
        self.own_ports();
        self.arguments.extend(["--gateway-bind", "127.0.0.1", "--gateway-workers", "1"].map(str::to_owned));
        if !ports.is_empty() {
            let map: Vec<String> = ports.iter().map(|port| format!("{port}=0")).collect();
            self.arguments.extend(["--port-map".to_owned(), map.join(",")]);
        }
    }

    /// The push port at this address, as an earlier process had it.
    pub fn push_at(self, address: &str) -> Self {
        self.replace("--push-addr", address)
    }

    /// Another value for a flag that was given.
    pub fn replace(mut self, flag: &str, value: &str) -> Self {
        let position = self.arguments.iter().position(|argument| argument == flag).expect("the flag");
        value.clone_into(&mut self.arguments[position + 1]);
        self
    }

    pub fn arg(mut self, argument: impl Into<String>) -> Self {
        self.arguments.push(argument.into());
        self
    }

    pub fn env(mut self, name: &str, value: impl Into<String>) -> Self {
        self.environment.push((name.to_owned(), value.into()));
        self
    }

    /// Use this folder, for instance one that an earlier process left; it is not removed.
    pub fn data_dir(mut self, folder: &Path) -> Self {
        self.data_dir = Some(folder.to_owned());
        self
    }

    /// Run the binary by another program: `setpriv …`.
    pub fn wrapped_by(mut self, words: &[&str]) -> Self {
        self.wrapper = words.iter().map(|&word| word.to_owned()).collect();
        self
    }

    /// Run this copy of the binary.
    pub fn program(mut self, path: &Path) -> Self {
        self.program = Some(path.to_owned());
        self
    }

    /// Do not wait for readiness: the process is expected to fail, or to wait.
    pub fn without_waiting(mut self) -> Self {
        self.expect_ready = false;
        self
    }

    /// Starts it and waits until it is ready.
    pub async fn run(self) -> Fairway {
        let temporary = TempDir::new().expect("a temporary folder");
        let data_dir = self.data_dir.clone().unwrap_or_else(|| temporary.path().join("data"));
        let log = temporary.path().join("log");
        let file = File::create(&log).expect("the log file");
        let binary = self.program.clone().unwrap_or_else(|| binary("fairway"));
        let mut words = self.wrapper.iter().cloned().chain([binary.display().to_string()]);
        let mut command = Command::new(words.next().expect("a program"));
        command.args(words).args(self.subcommand).args(&self.arguments).arg("--data-dir").arg(&data_dir);
        if !self.application.is_empty() {
            command.arg("--").args(&self.application);
        }
        command.env("RUST_LOG", "info,sqlx=warn").envs(self.environment.iter().map(|(k, v)| (k, v)));
        command.stdin(Stdio::null()).stdout(file.try_clone().expect("the log file")).stderr(file);
        // What an earlier process wrote about its ports must not be taken for this one's.
        let _ = fs::remove_file(data_dir.join("ports.json"));
        let child = command.spawn().expect("the fairway binary starts");
        let mut fairway = Fairway { child, data_dir, log, _temporary: temporary };
        if self.expect_ready {
            fairway.wait_ready(self.ready_at).await;
        }
        fairway
    }
}

/// A running process. Dropping it ends it.
#[derive(Debug)]
pub struct Fairway {
    child: Child,
    pub data_dir: PathBuf,
    log: PathBuf,
    _temporary: TempDir,
}

impl Fairway {
    async fn wait_ready(&mut self, (port, path): (&str, &str)) {
        let start = Instant::now();
        while start.elapsed() < DEADLINE {
            if let Some(status) = self.child.try_wait().expect("the state of the process") {
                panic!("the process ended at once ({status}):\n{}", self.log());
            }
            if let Some(address) = self.ports().ok().and_then(|ports| ports[port].as_str().map(str::to_owned))
                && let Ok(response) = reqwest::get(format!("http://{address}{path}")).await
                && response.status().is_success()
            {
                return;
            }
            tokio::time::sleep(Duration::from_millis(20)).await;
        }
        panic!("the process was not ready in time:\n{}", self.log());
    }

    /// What the process wrote into `ports.json`.
    pub fn ports(&self) -> Result<Value, String> {
        let text = fs::read_to_string(self.data_dir.join("ports.json")).map_err(|error| error.to_string())?;
        serde_json::from_str(&text).map_err(|error| error.to_string())
    }

    /// A port by its key in `ports.json`: `admin`, `adminTls`, `push`, `metrics`, `proxyAdmin`.
    pub fn address(&self, key: &str) -> String {
        let ports = self.ports().expect("ports.json");
        ports[key].as_str().unwrap_or_else(|| panic!("ports.json has no {key}: {ports}")).to_owned()
    }

    /// The address that a gateway port was really bound to, once it is.
    pub async fn listener(&self, port: u16) -> String {
        self.listener_of(&port.to_string()).await
    }

    /// The same of a server with `bind`, by `bind:port`.
    pub async fn listener_of(&self, key: &str) -> String {
        eventually(&format!("a listener for {key}"), async || {
            let ports = self.ports()?;
            ports["listeners"][key].as_str().map(str::to_owned).ok_or(ports.to_string())
        })
        .await
    }

    pub fn api(&self) -> Api {
        Api::new(format!("http://{}", self.address("admin")), TOKEN)
    }

    /// Everything the process printed so far.
    pub fn log(&self) -> String {
        fs::read_to_string(&self.log).unwrap_or_default()
    }

    pub fn pid(&self) -> i32 {
        self.child.id() as i32
    }

    pub fn signal(&self, signal: i32) {
        let status = Command::new("kill").arg(format!("-{signal}")).arg(self.child.id().to_string()).status();
        assert!(status.is_ok_and(|status| status.success()), "kill -{signal} failed");
    }

    /// Ends it at once (SIGKILL), as a crash would.
    pub fn kill(&mut self) {
        let _ = self.child.kill();
        let _ = self.child.wait();
    }

    /// Waits until it has ended by itself.
    pub async fn wait_exit(&mut self) -> ExitStatus {
        let start = Instant::now();
        loop {
            if let Some(status) = self.child.try_wait().expect("the state of the process") {
                return status;
            }
            assert!(start.elapsed() < DEADLINE, "the process did not end:\n{}", self.log());
            tokio::time::sleep(Duration::from_millis(20)).await;
        }
    }

    /// Asks it to end (SIGTERM) and waits until it has.
    pub async fn stop(&mut self) -> ExitStatus {
        self.signal(15);
        self.wait_exit().await
    }
}

impl Drop for Fairway {
    fn drop(&mut self) {
        self.kill();
        if std::thread::panicking() {
            eprintln!("--- log of fairway (pid {}) ---\n{}\n---", self.child.id(), self.log());
        }
    }
}

/// How to start a gateway that has a fresh join token of this control plane.
pub async fn joined_gateway(control_plane: &Fairway, ports: &[u16]) -> Start {
    joined(control_plane, Start::gateway(ports), "istio-system", "default").await
}

/// How to start a sidecar of this service account that has a fresh join token of this control plane.
pub async fn joined_sidecar(control_plane: &Fairway, namespace: &str, service_account: &str) -> Start {
    let start = Start::sidecar().arg("--namespace").arg(namespace).arg("--service-account").arg(service_account);
    joined(control_plane, start, namespace, service_account).await
}

async fn joined(control_plane: &Fairway, start: Start, namespace: &str, service_account: &str) -> Start {
    let body = serde_json::json!({"namespace": namespace, "serviceAccount": service_account, "ttl": "1h"});
    let (status, answer) = control_plane.api().post("/api/fairway/v1/join-tokens", &body).await;
    assert!(status.is_success(), "{status}: {answer}");
    let file = control_plane.data_dir.join("join.token");
    fs::write(&file, answer["token"].as_str().expect("a token")).expect("the token file");
    start
        .arg("--control-plane")
        .arg(format!("https://{}", control_plane.address("push")))
        .arg("--control-plane-ca")
        .arg(control_plane.data_dir.join("ca.crt").display().to_string())
        .arg("--join-token-file")
        .arg(file.display().to_string())
}
