//! Rate limits, from the file that a person applies to the answer that a client gets.

use e2e::Start;
use reqwest::header::HOST;

use crate::{User, contains};

const POLICY: &str = "apiVersion: fairway.dev/v1
kind: RateLimitPolicy
metadata: {name: per-client}
spec:
  targetRefs: [{group: networking.istio.io, kind: VirtualService, name: reviews}]
  rules:
  - name: per-client
    key: [{clientIP: {}}]
    limit: {requests: 24, per: 24h, burst: 2}
";

#[tokio::test]
async fn a_policy_limits_and_an_edit_of_something_else_resets_nothing() {
    let fairway = Start::serve(&[8080]).run().await;
    for user in User::all(&fairway, false) {
        let host = user.host();
        user.ok(&["apply", "-f", &user.gateway()]);
        user.ok(&["apply", "-f", &user.virtual_service("reviews", &host, 200)]);
        contains(&user.ok(&["apply", "-f", &user.file("limit.yaml", POLICY)]), &["per-client created"]);
        for condition in ["Accepted", "ResolvedRefs", "Programmed"] {
            user.ok(&["wait", &format!("--for=condition={condition}"), "rlp/per-client", "--timeout=30s"]);
        }
        let edge = format!("http://{}/", fairway.listener(8080).await);
        let client = reqwest::Client::new();
        let get = async || client.get(&edge).header(HOST, &host).send().await.expect("an answer");
        for left in ["\"per-client\";r=1;t=3600", "\"per-client\";r=0;t=7200"] {
            let answer = get().await;
            assert_eq!((answer.status().as_u16(), answer.headers()["ratelimit"].as_bytes()), (200, left.as_bytes()));
        }
        let refused = get().await;
        assert_eq!((refused.status().as_u16(), refused.headers()["retry-after"].as_bytes()), (429, &b"3600"[..]));
        // The route itself changes, and its limit stays where it was.
        user.ok(&["apply", "-f", &user.virtual_service("reviews", &host, 201)]);
        user.ok(&["wait", "--for=condition=Programmed", "vs/reviews", "--timeout=30s"]);
        assert_eq!(get().await.status(), 429);
        // A policy on something that is not there is stored, and says so.
        let lost = POLICY.replace("name: per-client}", "name: lost}").replace("name: reviews", "name: gone");
        user.ok(&["apply", "-f", &user.file("lost.yaml", &lost)]);
        user.ok(&["wait", "--for=condition=ResolvedRefs=False", "rlp/lost", "--timeout=30s"]);
        contains(&user.ok(&["get", "rlp"]), &["per-client", "lost"]);
        user.ok(&["delete", "rlp", "per-client"]);
        user.ok(&["delete", "vs", "reviews"]);
    }
}
