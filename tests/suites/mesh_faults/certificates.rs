//! Certificates that run out while nobody renews them.

use std::net::SocketAddr;

use e2e::{Start, eventually};
use tokio::io::{AsyncReadExt as _, AsyncWriteExt as _};
use tokio::net::TcpStream;

use super::support::{
    Load, Place, Service, control_plane, relay_to, signed, status, until_logged, until_nothing_is_left,
    until_requests_log, until_status,
};

/// Long enough to be renewed on a loaded machine, short enough to wait for its end.
const TTL: &str = "10s";
const EXPIRED: &str = "the certificate has expired: no proxy of the mesh accepts this one now";

#[tokio::test]
async fn a_client_whose_certificate_ran_out_is_refused_until_it_has_another() {
    let control = control_plane(TTL).await;
    let relay = relay_to(&control).await;
    let reviews = Service::new(&control, "reviews").await;
    let client = Place::client(&control, "ratings", "reviews", reviews.origin.port()).await.through(&relay);
    let (server, caller) = (reviews.place.run().await, client.run().await);
    until_status(&client.url(), 200).await;

    relay.cut();
    until_logged(&caller, &[EXPIRED]).await;
    until_status(&client.url(), 503).await;
    let refused = ["refused a connection that is not mutual TLS of the mesh", "expired"];
    until_requests_log(&client.url(), &server, &refused).await;
    let said = ["there is no mutual TLS with an endpoint of the mesh", "\"GET / HTTP/1.1\" 503"];
    eventually("the client's log says why, of the endpoint and of a request", async || {
        // A connection that is closed at once does not always say why.
        let found = status(&client.url()).await;
        let log = caller.log();
        let line = |said: &str| log.lines().any(|line| line.contains(said) && line.contains("CertificateExpired"));
        if found == Ok(503) && said.iter().all(|said| line(said)) { Ok(()) } else { Err((found, log)) }
    })
    .await;

    relay.mend();
    until_status(&client.url(), 200).await;
    until_nothing_is_left(&caller, 0.0, 1.0).await;
}

#[tokio::test]
async fn a_mesh_whose_certificates_all_ran_out_recovers_by_itself() {
    let mut control = control_plane(TTL).await;
    let (push, folder) = (control.address("push"), control.data_dir.clone());
    let reviews = Service::new(&control, "reviews").await;
    let client = Place::client(&control, "ratings", "reviews", reviews.origin.port()).await;
    let (server, caller) = (reviews.place.run().await, client.run().await);
    until_status(&client.url(), 200).await;

    control.kill();
    for sidecar in [&server, &caller] {
        until_logged(sidecar, &[EXPIRED]).await;
    }
    until_status(&client.url(), 503).await;
    let failed = ["there is no mutual TLS with an endpoint of the mesh", "expired"];
    until_requests_log(&client.url(), &caller, &failed).await;

    let _control = Start::admin().arg("--cert-ttl").arg(TTL).push_at(&push).data_dir(&folder).run().await;
    until_status(&client.url(), 200).await;
    until_nothing_is_left(&caller, 0.0, 1.0).await;
    until_nothing_is_left(&server, 1.0, 1.0).await;
}

#[tokio::test]
async fn no_request_is_lost_to_renewals_however_long_its_connections_last() {
    let control = control_plane(TTL).await;
    let reviews = Service::new(&control, "reviews").await;
    let client = Place::client(&control, "ratings", "reviews", reviews.origin.port()).await;
    let (server, caller) = (reviews.place.run().await, client.run().await);
    until_status(&client.url(), 200).await;
    let load = Load::start(&client.url());
    let mut idle = TcpStream::connect(SocketAddr::new(client.address, 9080)).await.unwrap();
    eventually("three renewals", async || {
        let signed = signed(&caller).await;
        if signed >= 4.0 { Ok(()) } else { Err(signed) }
    })
    .await;
    assert_eq!(load.stop().await, []);
    // What the application keeps open to its own sidecar is nobody's business.
    idle.write_all(b"GET / HTTP/1.1\r\nhost: reviews\r\nconnection: close\r\n\r\n").await.unwrap();
    let mut answer = String::new();
    idle.read_to_string(&mut answer).await.unwrap();
    assert!(answer.starts_with("HTTP/1.1 200"), "{answer}");
    // The connections of the certificates before are gone.
    until_nothing_is_left(&caller, 0.0, 4.0).await;
    until_nothing_is_left(&server, 4.0, 4.0).await;
}
