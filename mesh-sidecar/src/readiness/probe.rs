//! One look at the application, and how often it is taken.

use std::fmt;
use std::net::{Ipv4Addr, Ipv6Addr, SocketAddr};
use std::process::Stdio;
use std::time::Duration;

use route_model::kinds::workload_group::{self, HttpProbe};
use rustix::process::{Pid, Signal, kill_process_group};
use tokio::net::TcpStream;
use tokio::process::Command;

use super::http::{get, grpc_health};
use crate::options::Readiness;

/// How an application is probed.
#[derive(Clone, Debug, PartialEq, Eq)]
pub(super) struct Probe {
    check: Check,
    /// From the first configuration on.
    pub(super) initial_delay: Duration,
    timeout: Duration,
    pub(super) period: Duration,
    /// So many in a row make it ready; at least 1.
    pub(super) success_threshold: u32,
    /// So many in a row make it unready; at least 1.
    pub(super) failure_threshold: u32,
}

#[derive(Clone, Debug, PartialEq, Eq)]
enum Check {
    /// A connection comes about.
    Tcp(Target),
    /// A GET is answered 200 to 399.
    Http { target: Target, tls: bool, path: String, headers: Vec<(String, String)> },
    /// A command ends with 0.
    Exec(Vec<String>),
    /// The standard health service says SERVING.
    Grpc { target: Target, service: String },
}

/// Where the application listens.
#[derive(Clone, Debug, PartialEq, Eq)]
pub(super) struct Target {
    /// Empty: this host.
    host: String,
    port: u16,
}

impl From<Readiness> for Probe {
    /// Each second; three failures in a row count.
    fn from(flag: Readiness) -> Self {
        let target = |address: SocketAddr| Target { host: address.ip().to_string(), port: address.port() };
        let check = match flag {
            Readiness::Tcp(address) => Check::Tcp(target(address)),
            Readiness::Http { address, path } => {
                Check::Http { target: target(address), tls: false, path, headers: Vec::new() }
            }
        };
        let second = Duration::from_secs(1);
        Self {
            check,
            initial_delay: Duration::ZERO,
            timeout: second,
            period: second,
            success_threshold: 1,
            failure_threshold: 3,
        }
    }
}

impl Probe {
    /// What a WorkloadGroup says; nothing if it names no method.
    pub(super) fn of(probe: &workload_group::Probe) -> Option<Self> {
        let check = if let Some(http) = &probe.http_get {
            http_check(http)
        } else if let Some(tcp) = &probe.tcp_socket {
            Check::Tcp(Target::new(&tcp.host, *tcp.port))
        } else if let Some(exec) = &probe.exec {
            Check::Exec(exec.command.to_vec())
        } else {
            let grpc = probe.grpc.as_ref()?;
            Check::Grpc { target: Target::new("", *grpc.port), service: grpc.service.to_string() }
        };
        let or = |written: i32, default: u32| u32::try_from(written).ok().filter(|n| *n > 0).unwrap_or(default);
        let seconds = |written: i32, default| Duration::from_secs(or(written, default).into());
        Some(Self {
            check,
            initial_delay: seconds(*probe.initial_delay_seconds, 0),
            timeout: seconds(*probe.timeout_seconds, 1),
            period: seconds(*probe.period_seconds, 10),
            success_threshold: or(*probe.success_threshold, 1),
            failure_threshold: or(*probe.failure_threshold, 3),
        })
    }

    /// Looks once.
    ///
    /// # Errors
    /// What was looked at and what was wrong with it.
    pub(super) async fn run(&self) -> Result<(), String> {
        let outcome = tokio::time::timeout(self.timeout, self.check.run()).await;
        let outcome = outcome.unwrap_or_else(|_| Err(format!("nothing within {} s", self.timeout.as_secs())));
        outcome.map_err(|why| format!("{}: {why}", self.check))
    }
}

fn http_check(probe: &HttpProbe) -> Check {
    let path = if probe.path.starts_with('/') { probe.path.to_string() } else { format!("/{}", *probe.path) };
    let headers = probe.http_headers.iter().map(|header| (header.name.to_string(), header.value.to_string()));
    Check::Http {
        target: Target::new(&probe.host, *probe.port),
        tls: probe.scheme.eq_ignore_ascii_case("HTTPS"),
        path,
        headers: headers.collect(),
    }
}

impl Check {
    async fn run(&self) -> Result<(), String> {
        match self {
            Self::Tcp(target) => target.connect().await.map(drop),
            Self::Http { target, tls, path, headers } => get(target, *tls, path, headers).await,
            Self::Exec(command) => exec(command).await,
            Self::Grpc { target, service } => grpc_health(target, service).await,
        }
    }
}

impl fmt::Display for Check {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        match self {
            Self::Tcp(target) => write!(f, "a connection to {target}"),
            Self::Http { target, tls, path, .. } => {
                write!(f, "GET {}://{target}{path}", if *tls { "https" } else { "http" })
            }
            Self::Exec(command) => f.write_str(&command.join(" ")),
            Self::Grpc { target, service } if service.is_empty() => write!(f, "the gRPC health of {target}"),
            Self::Grpc { target, service } => write!(f, "the gRPC health of {service} at {target}"),
        }
    }
}

impl Target {
    fn new(host: &str, port: u32) -> Self {
        // Port 0, which nothing listens at, stands for what validation refuses.
        Self { host: host.to_owned(), port: u16::try_from(port).unwrap_or_default() }
    }

    pub(super) fn host(&self) -> &str {
        if self.host.is_empty() { "localhost" } else { &self.host }
    }

    pub(super) async fn connect(&self) -> Result<TcpStream, String> {
        if !self.host.is_empty() {
            return TcpStream::connect((&*self.host, self.port)).await.map_err(|error| error.to_string());
        }
        // Without asking anybody what this host is called.
        match TcpStream::connect((Ipv4Addr::LOCALHOST, self.port)).await {
            Ok(stream) => Ok(stream),
            // The first error is the one to tell: there may be no IPv6 here.
            Err(error) => TcpStream::connect((Ipv6Addr::LOCALHOST, self.port)).await.map_err(|_| error.to_string()),
        }
    }
}

impl fmt::Display for Target {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        match self.host() {
            host if host.contains(':') => write!(f, "[{host}]:{}", self.port),
            host => write!(f, "{host}:{}", self.port),
        }
    }
}

async fn exec(command: &[String]) -> Result<(), String> {
    let [program, arguments @ ..] = command else { return Err("no command is named".to_owned()) };
    let mut child = Command::new(program)
        .args(arguments)
        .stdin(Stdio::null())
        .stdout(Stdio::null())
        .stderr(Stdio::null())
        .process_group(0)
        .kill_on_drop(true)
        .spawn()
        .map_err(|error| error.to_string())?;
    let unfinished = Unfinished(child.id().and_then(|id| Pid::from_raw(id as i32)));
    let status = child.wait().await.map_err(|error| error.to_string())?;
    unfinished.forget();
    if status.success() { Ok(()) } else { Err(status.to_string()) }
}

/// A command that takes too long is ended with all that it started.
struct Unfinished(Option<Pid>);

impl Unfinished {
    fn forget(mut self) {
        self.0 = None;
    }
}

impl Drop for Unfinished {
    fn drop(&mut self) {
        if let Some(group) = self.0 {
            // Fails when all of it has ended meanwhile.
            let _ = kill_process_group(group, Signal::KILL);
        }
    }
}

#[cfg(test)]
mod tests {
    use serde_json::{Value, json};
    use tokio::io::{AsyncReadExt, AsyncWriteExt};
    use tokio::net::TcpListener;

    use super::*;

    fn probe(fields: Value) -> Option<Probe> {
        Probe::of(&serde_json::from_value(fields).unwrap())
    }

    async fn outcome(fields: Value) -> Result<(), String> {
        probe(fields).unwrap().run().await
    }

    /// Answers each connection with these bytes once it has sent something; gives what each sent.
    async fn answering(answer: &'static str) -> (u16, tokio::sync::mpsc::UnboundedReceiver<String>) {
        let listener = TcpListener::bind("127.0.0.1:0").await.unwrap();
        let port = listener.local_addr().unwrap().port();
        let (sender, asked) = tokio::sync::mpsc::unbounded_channel();
        tokio::spawn(async move {
            while let Ok((mut stream, _)) = listener.accept().await {
                let mut buffer = vec![0; 4096];
                let read = stream.read(&mut buffer).await.unwrap_or_default();
                let _ = sender.send(String::from_utf8_lossy(&buffer[..read]).into_owned());
                let _ = stream.write_all(answer.as_bytes()).await;
            }
        });
        (port, asked)
    }

    async fn closed_port() -> u16 {
        TcpListener::bind("127.0.0.1:0").await.unwrap().local_addr().unwrap().port()
    }

    #[test]
    fn what_is_left_out_is_as_in_kubernetes() {
        let seconds = Duration::from_secs;
        let bare = probe(json!({"tcpSocket": {"port": 1}})).unwrap();
        assert_eq!((bare.initial_delay, bare.timeout, bare.period), (seconds(0), seconds(1), seconds(10)));
        assert_eq!((bare.success_threshold, bare.failure_threshold), (1, 3));
        let written = probe(json!({
            "tcpSocket": {"port": 1, "host": "::1"}, "initialDelaySeconds": 1, "timeoutSeconds": 2, "periodSeconds": 3,
            "successThreshold": 4, "failureThreshold": 5,
        }));
        let written = written.unwrap();
        assert_eq!((written.initial_delay, written.timeout, written.period), (seconds(1), seconds(2), seconds(3)));
        assert_eq!((written.success_threshold, written.failure_threshold), (4, 5));
        assert_eq!(written.check.to_string(), "a connection to [::1]:1");
        assert_eq!(probe(json!({"periodSeconds": 3})), None);
    }

    #[tokio::test]
    async fn a_connection_comes_about_or_not() {
        let listener = TcpListener::bind("127.0.0.1:0").await.unwrap();
        let open = listener.local_addr().unwrap().port();
        assert_eq!(outcome(json!({"tcpSocket": {"port": open}})).await, Ok(()));
        let closed = closed_port().await;
        let why = outcome(json!({"tcpSocket": {"port": closed, "host": "127.0.0.1"}})).await.unwrap_err();
        assert!(why.starts_with(&format!("a connection to 127.0.0.1:{closed}: Connection refused")), "{why}");
    }

    #[tokio::test]
    async fn a_get_is_answered_well_or_not() {
        let (fine, mut asked) = answering("HTTP/1.1 302 Found\r\ncontent-length: 0\r\n\r\n").await;
        let headers = json!([{"name": "X-Who", "value": "probe"}, {"name": "Host", "value": "reviews"}]);
        let fields = json!({"httpGet": {"port": fine, "path": "healthz?full", "httpHeaders": headers}});
        assert_eq!(outcome(fields).await, Ok(()));
        let request = asked.recv().await.unwrap().to_lowercase();
        assert!(request.starts_with("get /healthz?full http/1.1\r\n"), "{request}");
        assert!(request.contains("\r\nhost: reviews\r\n") && request.contains("\r\nx-who: probe\r\n"), "{request}");
        assert!(!request.contains("localhost"), "{request}");

        let (failing, _) = answering("HTTP/1.1 503 Service Unavailable\r\ncontent-length: 0\r\n\r\n").await;
        let (babbling, _) = answering("SSH-2.0-x\r\n").await;
        let (silent, _) = answering("").await;
        for (port, reason) in [(failing, "503 Service Unavailable"), (babbling, "invalid"), (silent, "closed")] {
            let why = outcome(json!({"httpGet": {"port": port, "path": "/h"}})).await.unwrap_err();
            assert!(why.starts_with(&format!("GET http://localhost:{port}/h: ")) && why.contains(reason), "{why}");
        }
    }

    #[tokio::test]
    async fn who_does_not_answer_in_time_fails() {
        // It accepts, in the kernel, and says nothing.
        let listener = TcpListener::bind("127.0.0.1:0").await.unwrap();
        let port = listener.local_addr().unwrap().port();
        let why = outcome(json!({"httpGet": {"port": port}})).await.unwrap_err();
        assert!(why.ends_with("nothing within 1 s"), "{why}");
    }

    #[tokio::test]
    async fn a_command_ends_well_or_not() {
        assert_eq!(outcome(json!({"exec": {"command": ["sh", "-c", "exit 0"]}})).await, Ok(()));
        let why = outcome(json!({"exec": {"command": ["sh", "-c", "exit 3"]}})).await.unwrap_err();
        assert_eq!(why, "sh -c exit 3: exit status: 3");
        let why = outcome(json!({"exec": {"command": ["/no/such/program"]}})).await.unwrap_err();
        assert!(why.contains("No such file"), "{why}");
    }

    #[tokio::test]
    async fn a_command_that_hangs_is_ended_with_what_it_started() {
        let folder = tempfile::tempdir().unwrap();
        let pid = folder.path().join("pid");
        let script = format!("sleep 1000 & echo $! > {}; wait", pid.display());
        let why = outcome(json!({"exec": {"command": ["sh", "-c", script]}})).await.unwrap_err();
        assert!(why.ends_with("nothing within 1 s"), "{why}");
        let child: i32 = std::fs::read_to_string(&pid).unwrap().trim().parse().unwrap();
        testkit::eventually("the child to be gone", async || {
            let state = std::fs::read_to_string(format!("/proc/{child}/stat")).unwrap_or_default();
            // Nobody may have waited for it yet.
            state.is_empty() || state.contains(") Z ")
        })
        .await;
    }
}
