//! The link to the control plane is slow, or loses packets: changes arrive, and nobody reconnects over and over.

use std::process::Command;
use std::time::Duration;

use e2e::{Fairway, Start, eventually};
use testkit::{Host, Lan};
use tokio::runtime::Builder;

use super::support::{
    Place, STRICT, apply, control_plane, lines_with, relay_to, status, until_logged, until_nothing_is_left,
    until_status,
};

/// A service that its clients' sidecars answer for with this status.
fn answering(status: u16) -> String {
    format!(
        "
apiVersion: networking.istio.io/v1
kind: ServiceEntry
metadata: {{name: answers, namespace: shop}}
spec:
  hosts: [answers.test]
  location: MESH_EXTERNAL
  resolution: STATIC
  ports: [{{number: 80, name: http, protocol: HTTP}}]
  endpoints: [{{address: 127.0.0.1}}]
---
apiVersion: networking.istio.io/v1
kind: VirtualService
metadata: {{name: answers, namespace: shop}}
spec:
  hosts: [answers.test]
  http: [{{directResponse: {{status: {status}}}}}]
"
    )
}

#[tokio::test]
async fn changes_arrive_over_a_slow_link() {
    let control = control_plane("24h").await;
    apply(&control, &answering(200)).await;
    let relay = relay_to(&control).await;
    relay.delay(Duration::from_millis(100));
    let client = Place::client(&control, "ratings", "answers.test", 80).await.through(&relay);
    let sidecar = client.run().await;
    for status in 201..211 {
        apply(&control, &answering(status)).await;
        until_status(&client.url(), status).await;
    }
    assert_eq!(lines_with(&sidecar, "lost the control plane"), 0, "{}", sidecar.log());
    assert!(relay.accepted() <= 3, "{} connections for a certificate and a stream", relay.accepted());
    until_nothing_is_left(&sidecar, 0.0, 0.0).await;
}

/// Does something on a host, whose sockets are its own.
fn on<T: Send>(host: &Host, work: impl AsyncFnOnce() -> T + Send) -> T {
    host.run(|| Builder::new_current_thread().enable_all().build().unwrap().block_on(work()))
}

/// Starts a process on a host.
async fn start(host: &Host, start: Start) -> Fairway {
    let wrapper = host.command("env");
    let words: Vec<&str> =
        [wrapper.get_program()].into_iter().chain(wrapper.get_args()).filter_map(|w| w.to_str()).collect();
    start.wrapped_by(&words).without_waiting().run().await
}

fn output(host: &Host, program: &str, arguments: &str) -> String {
    let mut command: Command = host.command(program);
    let output = command.args(arguments.split(' ')).output().unwrap();
    assert!(output.status.success(), "{program} {arguments}: {}", String::from_utf8_lossy(&output.stderr));
    String::from_utf8_lossy(&output.stdout).into_owned()
}

#[tokio::test]
async fn changes_arrive_over_a_link_that_loses_every_tenth_packet() {
    let Some(lan) = Lan::new() else { return };
    let (there, here) = (lan.host("control"), lan.host("ratings"));
    let address = there.v4.to_string();
    let admin = Start::admin().push_at(&format!("{address}:15012")).arg("--server-names").arg(&address);
    let control = start(&there, admin).await;
    eventually("the control plane is ready", async || {
        let url = format!("http://{}/readyz", control.ports()?["admin"].as_str().ok_or("no port")?);
        let ready = on(&there, async || reqwest::get(url).await.is_ok_and(|answer| answer.status() == 200));
        if ready { Ok(()) } else { Err("not ready".to_owned()) }
    })
    .await;
    let client = on(&there, async || {
        apply(&control, STRICT).await;
        apply(&control, &answering(200)).await;
        Place::client(&control, "ratings", "answers.test", 80).await
    });
    let lose = |part: &str| {
        for (chain, end) in [("INPUT", "--sport"), ("OUTPUT", "--dport")] {
            output(&here, "iptables", &format!("-F {chain}"));
            let rule = format!("-A {chain} -p tcp {end} 15012 -m statistic --mode random --probability {part} -j DROP");
            output(&here, "iptables", &rule);
        }
    };
    lose("0.1");
    let sidecar = start(&here, client.start.clone()).await;
    for status in 201..221 {
        on(&there, async || apply(&control, &answering(status)).await);
        on(&here, async || until_status(&client.url(), status).await);
    }
    let dropped = output(&here, "iptables", "-L -v -x -n");
    assert!(dropped.lines().any(|line| line.contains("DROP") && !line.trim().starts_with("0 ")), "{dropped}");
    // A connection that stalls for too long may be given up, but not each.
    let lost = lines_with(&sidecar, "lost the control plane");
    assert!(lost <= 2, "{}", sidecar.log());

    // Nothing gets through, and nobody says so.
    lose("1");
    until_logged(&sidecar, &["lost the control plane; the configuration it sent last goes on serving"]).await;
    on(&here, async || assert_eq!(status(&client.url()).await, Ok(220)));
    on(&there, async || apply(&control, &answering(230)).await);
    lose("0.1");
    on(&here, async || until_status(&client.url(), 230).await);
    on(&here, async || until_nothing_is_left(&sidecar, 0.0, 0.0).await);
}
