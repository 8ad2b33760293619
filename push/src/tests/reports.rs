//! What a proxy says of itself beside the configuration.

use std::time::Duration;

use route_model::meta::Revision;

use super::support::{PATIENCE, Plane, gateway, options};
use crate::client::Subscriber;
use crate::message::Report;
use crate::server::Event;

fn reported(plane: &Plane) -> Vec<u64> {
    let of = |event| if let Event::Reported(report) = event { Some(report.connections) } else { None };
    plane.events().into_iter().filter_map(of).collect()
}

async fn until_reported(plane: &Plane, expected: &[u64]) {
    let all = async {
        while reported(plane) != expected {
            tokio::time::sleep(Duration::from_millis(2)).await;
        }
    };
    let done = tokio::time::timeout(PATIENCE, all).await;
    assert!(done.is_ok(), "{:?}", reported(plane));
}

#[tokio::test]
async fn a_report_is_sent_when_it_differs_and_after_a_reconnect() {
    let plane = Plane::start();
    plane.scope.publish(Revision(1), [gateway("a")], []);
    let proxy = Subscriber::start(options("edge-1"), plane.transport());
    assert!(plane.until_connected(1).await.uptime > 0);
    until_reported(&plane, &[0]).await;
    for connections in [3, 3, 4] {
        proxy.report(Report { connections });
    }
    until_reported(&plane, &[0, 3, 4]).await;
    // Another connection of the same node ends the first one, which comes again.
    let other = Subscriber::start(options("edge-1"), plane.transport());
    plane.until_connected(2).await;
    until_reported(&plane, &[0, 3, 4, 0]).await;
    drop(other);
    until_reported(&plane, &[0, 3, 4, 0, 4]).await;
}

#[tokio::test]
async fn since_when_a_proxy_is_behind_is_when_its_state_ended() {
    let plane = Plane::start();
    let publish = |revision, name| plane.scope.publish(Revision(revision), [gateway(name)], []);
    let since = |acked| plane.scope.behind_since(Revision(acked));
    publish(1, "a");
    assert_eq!(since(1), None);
    publish(2, "a");
    assert_eq!(since(1), None, "nothing changed for this scope");
    publish(3, "b");
    publish(4, "c");
    let (first, second) = (since(1).unwrap(), since(3).unwrap());
    assert!(first <= second, "who is further behind is so for longer");
    assert_eq!((since(2), since(4), since(9)), (Some(first), None, None));
}
