//! What is not in the mesh.

use std::net::IpAddr;

use e2e::eventually;

use crate::client::{Connection, get};
use crate::lab::{Lab, OUTSIDE};

pub(crate) async fn what_nobody_declares_is_let_through_or_not(lab: &Lab) {
    let answer = lab.ask_elsewhere("/open").await.unwrap();
    assert_eq!((answer.status, answer.origin()), (200, "elsewhere"), "{answer:?}");
    assert_eq!(answer.got("x-forwarded-client-cert"), None, "nobody outside is told who asks");
    let policy = |mode: &str| {
        format!(
            "
apiVersion: fairway.dev/v1
kind: MeshConfig
metadata: {{name: default}}
spec: {{outboundTrafficPolicy: {{mode: {mode}}}}}
"
        )
    };
    lab.apply(&policy("REGISTRY_ONLY")).await;
    assert_eq!(lab.ask_elsewhere("/closed").await.unwrap().status, 502);
    assert_eq!(lab.ask(get("/")).await.status, 200, "what is declared is reached");
    lab.apply(&policy("ALLOW_ANY")).await;
    assert_eq!(lab.ask_elsewhere("/open").await.unwrap().status, 200);
    assert_eq!(lab.elsewhere.requests(), 2);
}

/// Istio's task "Egress gateways", with mutual TLS between the sidecar and the gateway.
fn egress(lab: &Lab) -> String {
    let egress: IpAddr = match lab.outside.ip {
        IpAddr::V4(_) => "10.77.0.6".parse().unwrap(),
        IpAddr::V6(_) => "fd77::6".parse().unwrap(),
    };
    include_str!("egress.yaml")
        .replace("${EGRESS}", &egress.to_string())
        .replace("${OUTSIDE}", &lab.outside.ip.to_string())
        .replace("${PORT}", &OUTSIDE.to_string())
}

pub(crate) async fn an_egress_gateway_is_the_way_out(lab: &Lab) {
    let port = if lab.how.is_transparent() { 80 } else { OUTSIDE };
    lab.with(&egress(lab), async || {
        let ask = async || {
            let stream = lab.connect(port).await?;
            let request = http::Request::get("/by-egress").header("host", "outside.example");
            Connection::new(stream).await?.ask(request).await
        };
        let answer = eventually("the world outside answers", async || {
            let answer = ask().await?;
            if answer.status == 200 { Ok(answer) } else { Err(format!("{answer:?}")) }
        })
        .await;
        assert_eq!(answer.origin(), "elsewhere", "{answer:?}");
        eventually("the egress gateway has seen it", async || {
            let log = lab.log("egress", "gateway");
            if log.contains("\"GET /by-egress HTTP/2\" 200") { Ok(()) } else { Err(log) }
        })
        .await;
    })
    .await;
}
