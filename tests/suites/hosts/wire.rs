//! What somebody sees who listens on the wires between the hosts.

use std::net::SocketAddr;
use std::path::Path;
use std::process::{Child, Stdio};

use e2e::eventually;
use tempfile::TempDir;

use crate::client::{Connection, get};
use crate::lab::{HTTP, Lab, OUTSIDE, TCP};
use crate::streams::{say, serve_lines};

/// In bodies of requests and answers.
const SECRET: &str = "nobody-is-to-read-this-on-the-wire";

/// tcpdump, on all wires.
struct Capture {
    tcpdump: Child,
    folder: TempDir,
}

impl Drop for Capture {
    fn drop(&mut self) {
        let _ = self.tcpdump.kill();
        let _ = self.tcpdump.wait();
    }
}

impl Capture {
    fn start(lab: &Lab) -> Self {
        let folder = TempDir::new().unwrap();
        let mut command = lab.script(&["capture"]);
        command.arg(folder.path().join("packets")).stdin(Stdio::null()).stderr(Stdio::null());
        Self { tcpdump: command.spawn().unwrap(), folder }
    }

    fn packets(&self) -> Vec<Packet> {
        packets(&self.folder.path().join("packets"))
    }

    /// Everything that was sent before is in the file: what is sent now, is.
    async fn until_seen(&self, lab: &Lab, marker: &str) {
        eventually(&format!("tcpdump sees {marker}"), async || {
            let stream = lab.gateway.connect(SocketAddr::new(lab.outside.ip, OUTSIDE)).await?;
            Connection::new(stream).await?.ask(get(&format!("/{marker}"))).await?;
            if self.packets().iter().any(|packet| packet.contains(marker)) { Ok(()) } else { Err("not yet".to_owned()) }
        })
        .await;
    }
}

/// What a TCP segment carried.
struct Packet {
    ports: [u16; 2],
    payload: Vec<u8>,
}

impl Packet {
    fn contains(&self, text: &str) -> bool {
        self.payload.windows(text.len()).any(|window| window == text.as_bytes())
    }

    /// A TLS record of an application's data begins it (RFC 8446 section 5.1).
    fn is_tls(&self) -> bool {
        self.payload.starts_with(&[23, 3, 3])
    }
}

/// The TCP segments in a file of libpcap's format, of Ethernet frames; the last one may not be written yet.
fn packets(file: &Path) -> Vec<Packet> {
    let bytes = std::fs::read(file).unwrap_or_default();
    let (mut found, mut rest) = (Vec::new(), bytes.get(24..).unwrap_or_default());
    while let Some((head, after)) = rest.split_first_chunk::<16>() {
        let length = u32::from_ne_bytes([head[8], head[9], head[10], head[11]]) as usize;
        let Some((frame, after)) = after.split_at_checked(length) else { break };
        found.extend(segment(frame));
        rest = after;
    }
    found
}

fn segment(frame: &[u8]) -> Option<Packet> {
    const PROTOCOL_TCP: u8 = 6;
    let packet = frame.get(14..)?;
    let segment = match frame.get(12..14)? {
        [0x08, 0x00] if packet.get(9) == Some(&PROTOCOL_TCP) => packet.get(usize::from(packet[0] & 15) * 4..)?,
        [0x86, 0xdd] if packet.get(6) == Some(&PROTOCOL_TCP) => packet.get(40..)?,
        _ => return None,
    };
    let payload = segment.get(usize::from(segment.get(12)? >> 4) * 4..)?.to_vec();
    let port = |at: usize| u16::from_be_bytes([segment[at], segment[at + 1]]);
    Some(Packet { ports: [port(0), port(2)], payload })
}

/// The client sends the secret to the service and gets it back, by HTTP and in a protocol of lines.
async fn exchange(lab: &Lab) {
    for _ in 0..4 {
        let answer = eventually("a server of lines answers", async || match say(lab, SECRET).await? {
            answer if answer.is_empty() => Err("it was closed".to_owned()),
            answer => Ok(answer),
        })
        .await;
        assert!(answer.contains(SECRET), "{answer}");
        let request = http::Request::post("/secret").header("host", "reviews:9080");
        let answer = lab.connection().await.unwrap().send(request, SECRET).await.unwrap();
        assert!(answer.status == 200 && answer.text.contains(SECRET), "{answer:?}");
    }
}

pub(crate) async fn nothing_can_be_read_between_hosts(lab: &Lab) {
    let _servers = serve_lines(lab);
    let capture = Capture::start(lab);
    capture.until_seen(lab, "first-marker").await;
    exchange(lab).await;
    lab.ask_edge(get("/marker-at-the-edge")).await;
    capture.until_seen(lab, "second-marker").await;
    let ports = [HTTP, TCP].map(|port| lab.inbound(&lab.v1, port).port());
    let seen = capture.packets();
    for port in ports {
        let mut of_port = seen.iter().filter(|packet| packet.ports.contains(&port));
        assert!(of_port.any(Packet::is_tls), "what came to port {port} came in TLS");
    }
    let of_service: Vec<_> =
        seen.iter().filter(|packet| ports.iter().any(|port| packet.ports.contains(port))).collect();
    assert!(!seen.iter().any(|packet| packet.contains(SECRET)), "the secret is on the wire");
    assert!(!of_service.iter().any(|packet| packet.contains("HTTP/1.1")), "a request is on the wire");
    assert!(seen.iter().any(|packet| packet.contains("marker-at-the-edge")), "what comes to the edge is plain");
    assert!(!of_service.iter().any(|packet| packet.contains("marker-at-the-edge")), "what it passes on is not");

    // The same check finds what is there to be found.
    let plain = "
apiVersion: security.istio.io/v1
kind: PeerAuthentication
metadata: {name: plain, namespace: shop}
spec: {mtls: {mode: DISABLE}}
---
apiVersion: networking.istio.io/v1
kind: DestinationRule
metadata: {name: plain, namespace: shop}
spec:
  host: reviews
  trafficPolicy: {tls: {mode: DISABLE}}
";
    lab.with(plain, async || {
        exchange(lab).await;
        capture.until_seen(lab, "third-marker").await;
        let seen = capture.packets();
        for port in ports {
            let found = seen.iter().filter(|packet| packet.ports.contains(&port) && packet.contains(SECRET)).count();
            assert!(found >= 8, "four times there and back, but {found} packets of port {port} have the secret");
        }
    })
    .await;
}
