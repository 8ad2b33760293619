//! A mesh on hosts of its own, as `tests/mesh-lab` builds it, with applications of the test's.

use std::fs;
use std::io::{BufRead as _, BufReader};
use std::net::{IpAddr, Ipv4Addr, Ipv6Addr, SocketAddr, TcpListener};
use std::process::{Child, Command, Stdio};
use std::time::Duration;

use e2e::process::binary;
use e2e::{Origin, eventually};
use http::Request;
use http::request::Builder;
use serde_json::{Value, json};
use testkit::netns::{self, within};
use tokio::net::TcpStream;

use crate::client::{Answer, Connection, get};

const SCRIPT: &str = concat!(env!("CARGO_MANIFEST_DIR"), "/mesh-lab");
/// Where the script keeps what the processes write.
const STATE: &str = "/run/fairway";

/// The ports of the service `reviews`.
pub(crate) const HTTP: u16 = 9080;
pub(crate) const WEBSOCKET: u16 = 9081;
pub(crate) const TCP: u16 = 9090;
pub(crate) const TLS: u16 = 9443;
pub(crate) const GRPC: u16 = 7070;
const PORTS: &str = "http=9080,http-ws=9081,tcp=9090,tls=9443,grpc=7070";
/// Where the edge listens.
const EDGE: u16 = 8080;
/// Where the host without a sidecar serves plain HTTP.
pub(crate) const OUTSIDE: u16 = 8000;

/// How connections come to the sidecars, and what the hosts speak to each other.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(crate) enum How {
    TransparentV4,
    TransparentV6,
    ExplicitV4,
    ExplicitV6,
}

impl How {
    pub(crate) fn is_transparent(self) -> bool {
        matches!(self, Self::TransparentV4 | Self::TransparentV6)
    }

    fn is_v6(self) -> bool {
        matches!(self, Self::TransparentV6 | Self::ExplicitV6)
    }
}

/// A host.
#[derive(Clone, Debug)]
pub(crate) struct Place {
    namespace: String,
    pub(crate) ip: IpAddr,
}

impl Place {
    pub(crate) fn listen(&self, address: SocketAddr) -> TcpListener {
        within(&self.namespace, || TcpListener::bind(address)).unwrap()
    }

    /// A connection that an application on this host opens.
    pub(crate) async fn connect(&self, to: SocketAddr) -> Result<TcpStream, String> {
        let namespace = self.namespace.clone();
        let connect = move || {
            within(&namespace, || std::net::TcpStream::connect_timeout(&to, Duration::from_secs(10))).and_then(
                |stream| {
                    stream.set_nonblocking(true)?;
                    Ok(stream)
                },
            )
        };
        let stream = tokio::task::spawn_blocking(connect).await.unwrap();
        stream.and_then(TcpStream::from_std).map_err(|error| format!("{to}: {error}"))
    }

    /// A program that is to run on this host.
    pub(crate) fn command(&self, program: impl AsRef<std::ffi::OsStr>) -> Command {
        let mut command = Command::new("ip");
        command.args(["netns", "exec", &self.namespace]).arg(program);
        command
    }
}

/// One of the two that the service consists of.
pub(crate) struct Member {
    pub(crate) place: Place,
    pub(crate) http: Origin,
}

/// Everything that is up. It goes down when it is dropped, or when the process ends.
pub(crate) struct Lab {
    pub(crate) how: How,
    name: String,
    script: Child,
    control: Place,
    pub(crate) client: Place,
    pub(crate) gateway: Place,
    pub(crate) outside: Place,
    pub(crate) v1: Member,
    pub(crate) v2: Member,
    /// A plain server on the host without a sidecar.
    pub(crate) elsewhere: Origin,
}

impl Lab {
    /// `None` where network namespaces cannot be made.
    pub(crate) async fn start(how: How) -> Option<Self> {
        let name = netns::names()?;
        let mut command = Command::new(SCRIPT);
        command.args(["--name", &name, "up", "--no-applications", "--wait", "--egress", "--ports", PORTS]);
        command.args(["--family", if how.is_v6() { "6" } else { "4" }]);
        command.args(["--capture", if how.is_transparent() { "transparent" } else { "explicit" }]);
        // Two ways to keep a sidecar's own connections from being redirected to it: by its user, and by their mark.
        command.args(["--user", if how == How::TransparentV6 { "root" } else { "1337" }]);
        command.args(["--bind", &format!("outside.example:80={OUTSIDE}")]);
        command.env("FAIRWAY", binary("fairway")).stdin(Stdio::piped()).stdout(Stdio::piped());
        let mut script = command.spawn().unwrap();
        let out = script.stdout.take().unwrap();
        let first = tokio::task::spawn_blocking(move || {
            let mut line = String::new();
            BufReader::new(out).read_line(&mut line).unwrap();
            line
        });
        let first = first.await.unwrap();
        assert!(first.starts_with("up: "), "the lab did not come up: {first}");
        // In the order in which the script numbers them.
        let place = |host: &str, number: u8| Place {
            namespace: format!("{name}-{host}"),
            ip: if how.is_v6() {
                Ipv6Addr::new(0xfd77, 0, 0, 0, 0, 0, 0, number.into()).into()
            } else {
                Ipv4Addr::new(10, 77, 0, number).into()
            },
        };
        let outside = place("outside", 7);
        let elsewhere = Origin::on("elsewhere", outside.listen(any(OUTSIDE)), None);
        let member = |host, number| {
            let place = place(host, number);
            // What the kernel does not redirect must not be reached but through the sidecar.
            let address = application(how, HTTP);
            Member { http: Origin::on(host, place.listen(address), None), place }
        };
        let (v1, v2) = (member("reviews-v1", 3), member("reviews-v2", 4));
        let (control, client, gateway) = (place("control", 1), place("client", 2), place("gateway", 5));
        let lab = Self { how, name, script, control, client, gateway, outside, v1, v2, elsewhere };
        for version in [&lab.v1, &lab.v2] {
            eventually("both versions answer", async || {
                let answer = lab.try_ask(get("/")).await?;
                if version.http.requests() > 0 { Ok(()) } else { Err(format!("{} {}", answer.status, answer.text)) }
            })
            .await;
        }
        Some(lab)
    }

    /// Where an application of the service listens.
    pub(crate) fn application(&self, port: u16) -> SocketAddr {
        application(self.how, port)
    }

    /// Where the client connects to for a service. Nobody has the address, unless it is the listener for it.
    pub(crate) fn address(&self, port: u16) -> SocketAddr {
        let ip: IpAddr = match self.how {
            How::TransparentV4 => Ipv4Addr::new(198, 51, 100, 1).into(),
            How::TransparentV6 => Ipv6Addr::new(0x2001, 0xdb8, 0, 0, 0, 0, 0, 1).into(),
            How::ExplicitV4 => Ipv4Addr::LOCALHOST.into(),
            How::ExplicitV6 => Ipv6Addr::LOCALHOST.into(),
        };
        SocketAddr::new(ip, port)
    }

    /// Where others reach a port of a member, at its sidecar.
    pub(crate) fn inbound(&self, member: &Member, port: u16) -> SocketAddr {
        SocketAddr::new(member.place.ip, if self.how.is_transparent() { port } else { port + 10_000 })
    }

    /// The client's connection to a port of the service.
    pub(crate) async fn connect(&self, port: u16) -> Result<TcpStream, String> {
        self.client.connect(self.address(port)).await
    }

    /// A connection for several requests of the client to the service.
    pub(crate) async fn connection(&self) -> Result<Connection, String> {
        Connection::new(self.connect(HTTP).await?).await
    }

    /// What the service answers the client.
    pub(crate) async fn try_ask(&self, request: Builder) -> Result<Answer, String> {
        self.connection().await?.ask(request).await
    }

    pub(crate) async fn ask(&self, request: Builder) -> Answer {
        self.try_ask(request).await.unwrap()
    }

    /// What the edge answers the host outside.
    pub(crate) async fn ask_edge(&self, request: Builder) -> Answer {
        let edge = SocketAddr::new(self.gateway.ip, EDGE);
        Connection::new(self.outside.connect(edge).await.unwrap()).await.unwrap().ask(request).await.unwrap()
    }

    /// What becomes of a request of the client to the host outside, which nobody has declared.
    pub(crate) async fn ask_elsewhere(&self, path: &str) -> Result<Answer, String> {
        let to = SocketAddr::new(self.outside.ip, OUTSIDE);
        if self.how.is_transparent() {
            return Connection::new(self.client.connect(to).await?).await?.ask(get(path)).await;
        }
        // As to a forward proxy.
        let request = get(&format!("http://{to}{path}"));
        Connection::new(self.connect(15001).await?).await?.ask(request).await
    }

    /// Applies resources; when this returns every proxy runs them.
    pub(crate) async fn apply(&self, yaml: &str) {
        self.change("apply", yaml).await;
    }

    /// Does something while resources are in force.
    pub(crate) async fn with(&self, yaml: &str, work: impl AsyncFnOnce()) {
        self.change("apply", yaml).await;
        work().await;
        self.change("delete", yaml).await;
    }

    async fn change(&self, op: &str, yaml: &str) {
        let documents: Vec<Value> = serde_saphyr::from_multiple(yaml).unwrap();
        let documents = documents.into_iter().filter(|document| !document.is_null());
        let changes: Vec<Value> = documents.map(|object| json!({"op": op, "object": object})).collect();
        let body = json!({"allowDangling": true, "changes": changes}).to_string();
        let request = Request::post("/api/fairway/v1/changes?fieldManager=tests&force=true");
        let changed = self.ask_control(request, &body).await;
        let revision = changed["revision"].as_u64().unwrap_or_else(|| panic!("{op}: {changed}\n{yaml}"));
        let path = format!("/api/fairway/v1/revisions/{revision}/applied?timeout=30s");
        eventually(&format!("revision {revision} is in force"), async || {
            let answer = self.ask_control(Request::get(&path), "").await;
            if answer["applied"] == true { Ok(()) } else { Err(answer) }
        })
        .await;
    }

    /// What the control plane answers.
    async fn ask_control(&self, request: Builder, body: &str) -> Value {
        let token = fs::read_to_string(format!("{STATE}/{}/control/admin.token", self.name)).unwrap();
        let request = request.header("host", "control").header("content-type", "application/json");
        let request = request.header("authorization", format!("Bearer {}", token.trim()));
        let stream = self.control.connect(SocketAddr::new(Ipv4Addr::LOCALHOST.into(), 7080)).await.unwrap();
        let answer = Connection::new(stream).await.unwrap().send(request, body).await.unwrap();
        serde_json::from_str(&answer.text).unwrap_or_else(|error| panic!("{error}: {answer:?}"))
    }

    /// A command of the script for this lab.
    pub(crate) fn script(&self, words: &[&str]) -> Command {
        let mut command = Command::new(SCRIPT);
        command.args(["--name", &self.name]).args(words);
        command
    }

    /// What a process has printed.
    pub(crate) fn log(&self, host: &str, process: &str) -> String {
        fs::read_to_string(format!("{STATE}/{}/{host}.{process}.log", self.name)).unwrap_or_default()
    }
}

impl Drop for Lab {
    fn drop(&mut self) {
        if std::thread::panicking() {
            for (host, process) in [
                ("control", "fairway"),
                ("client", "sidecar"),
                ("reviews-v1", "sidecar"),
                ("reviews-v2", "sidecar"),
                ("gateway", "gateway"),
                ("egress", "gateway"),
            ] {
                let log = self.log(host, process);
                let lines: Vec<&str> = log.lines().collect();
                let end = &lines[lines.len().saturating_sub(40)..];
                eprintln!("--- the end of the log of {process} on {host} ---\n{}", end.join("\n"));
            }
        }
        drop(self.script.stdin.take());
        let _ = self.script.wait();
    }
}

/// On every address of both families.
pub(crate) fn any(port: u16) -> SocketAddr {
    SocketAddr::new(Ipv6Addr::UNSPECIFIED.into(), port)
}

fn application(how: How, port: u16) -> SocketAddr {
    if how.is_transparent() { any(port) } else { SocketAddr::new(Ipv4Addr::LOCALHOST.into(), port) }
}
