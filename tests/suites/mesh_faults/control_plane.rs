//! The control plane is away.

use e2e::{Start, eventually};

use super::support::{
    Place, Service, control_plane, seen, signed, status, until_logged, until_nothing_is_left, until_status,
};

/// An hour of a day's certificate, in proportion: long enough to be renewed in it on a loaded machine.
const TTL: &str = "40s";

#[tokio::test]
async fn traffic_goes_on_without_a_control_plane_and_all_renew_when_it_is_back() {
    let mut control = control_plane(TTL).await;
    let (push, folder) = (control.address("push"), control.data_dir.clone());
    let reviews = Service::new(&control, "reviews").await;
    let client = Place::client(&control, "ratings", "reviews", reviews.origin.port()).await;
    let newcomer = Place::client(&control, "details", "reviews", reviews.origin.port()).await;
    let (mut server, mut caller) = (reviews.place.run().await, client.run().await);
    until_status(&client.url(), 200).await;
    control.kill();

    // Both are started again, and serve what they had.
    for (sidecar, place) in [(&mut server, &reviews.place), (&mut caller, &client)] {
        assert_eq!(status(&client.url()).await, Ok(200));
        sidecar.stop().await;
        *sidecar = place.run().await;
        until_logged(sidecar, &["serving the last good configuration"]).await;
        until_logged(sidecar, &["using the certificate that was kept"]).await;
        until_logged(sidecar, &["cannot reach the control plane"]).await;
        until_status(&client.url(), 200).await;
    }
    let newcomer_runs = newcomer.run().await;
    until_logged(&newcomer_runs, &["cannot get a certificate; until there is one no proxy of the mesh accepts"]).await;
    until_logged(&newcomer_runs, &["there is no configuration to serve yet"]).await;
    assert!(status(&newcomer.url()).await.is_err(), "nobody has told it to listen");
    until_logged(&caller, &["cannot renew the certificate, the one there is is good"]).await;
    assert_eq!(status(&client.url()).await, Ok(200));

    let control = Start::admin().arg("--cert-ttl").arg(TTL).push_at(&push).data_dir(&folder).run().await;
    until_status(&newcomer.url(), 200).await;
    for sidecar in [&server, &caller] {
        eventually("it is renewed", async || if signed(sidecar).await >= 1.0 { Ok(()) } else { Err(sidecar.log()) })
            .await;
    }
    eventually("all are back", async || {
        for node in ["reviews", "ratings", "details"] {
            let proxy = seen(&control, node).await;
            if proxy["connected"] != true {
                return Err(proxy);
            }
        }
        Ok(())
    })
    .await;
    until_status(&client.url(), 200).await;
    until_nothing_is_left(&newcomer_runs, 0.0, 1.0).await;
    until_nothing_is_left(&caller, 0.0, 1.0).await;
    until_nothing_is_left(&server, 2.0, 1.0).await;
}
