//! Tokens, keys, leases and the states of proxies.

use std::time::Duration;

use admin_api::store::{ProxyState, StoreError, Token, TokenHash, TokenUse, Upkeep};
use jiff::{SignedDuration, Timestamp};
use route_model::meta::Revision;
use serde_json::json;
use testkit::eventually;

use crate::backend::Backend;
use crate::requests::{create, upsert};

fn token(id: &str, uses_left: Option<u32>, lives: SignedDuration) -> Token {
    Token {
        id: id.to_owned(),
        hash: TokenHash::of(&format!("secret of {id}")),
        purpose: TokenUse::Join,
        name: format!("for {id}"),
        scope: json!({"namespace": "istio-system"}),
        created_at: Timestamp::now(),
        created_by: "alice".to_owned(),
        expires_at: Some(Timestamp::now() + lives),
        uses_left,
        last_used_at: None,
    }
}

const HOUR: SignedDuration = SignedDuration::from_hours(1);

pub(crate) async fn a_single_use_token_is_used_once<B: Backend>(backend: B) {
    let store = backend.open().await;
    let once = token("once", Some(1), HOUR);
    store.put_token(&once).await.unwrap();
    assert!(matches!(store.put_token(&once).await, Err(StoreError::TokenExists)));
    let users: Vec<_> = (0..8)
        .map(|_| {
            let (store, hash) = (store.clone(), once.hash);
            tokio::spawn(async move { store.use_token(&hash).await.unwrap() })
        })
        .collect();
    let mut served = Vec::new();
    for user in users {
        served.extend(user.await.unwrap());
    }
    assert_eq!(served.len(), 1, "exactly one of eight");
    assert_eq!((&served[0].scope, served[0].uses_left), (&once.scope, Some(0)));
    assert!(served[0].last_used_at.is_some());

    store.put_token(&token("many", None, HOUR)).await.unwrap();
    store.put_token(&token("late", None, -HOUR)).await.unwrap();
    for _ in 0..3 {
        assert!(store.use_token(&TokenHash::of("secret of many")).await.unwrap().is_some());
    }
    assert!(store.use_token(&TokenHash::of("secret of late")).await.unwrap().is_none(), "expired");
    assert!(store.use_token(&TokenHash::of("a guess")).await.unwrap().is_none());
    assert_eq!(store.tokens().await.unwrap().len(), 3);
    assert!(store.delete_token("many").await.unwrap());
    assert!(!store.delete_token("many").await.unwrap());
    assert!(!backend.dump().await.contains("secret of"), "tokens are kept as hashes");
}

pub(crate) async fn tokens_show_in_the_snapshot<B: Backend>(backend: B) {
    let snapshot = backend.snapshot().await;
    let given = Token { purpose: TokenUse::Api, ..token("ci", None, HOUR) };
    snapshot.store().put_token(&given).await.unwrap();
    eventually("the token shows", async || snapshot.view().token(&given.hash).is_some()).await;
    let shown = snapshot.view().token(&given.hash).cloned().unwrap();
    assert_eq!((&shown.name, shown.purpose, &shown.scope), (&given.name, TokenUse::Api, &given.scope));
    assert!(shown.is_valid(Timestamp::now()) && !shown.is_valid(Timestamp::now() + HOUR + HOUR));
    snapshot.store().delete_token("ci").await.unwrap();
    eventually("the token is gone", async || snapshot.view().token(&given.hash).is_none()).await;
}

pub(crate) async fn keys_are_agreed_on_and_sealed<B: Backend>(backend: B) {
    let store = backend.open().await;
    assert_eq!(store.secret("ca").await.unwrap(), None);
    let starters: Vec<_> = (0..6u8)
        .map(|n| {
            let store = store.clone();
            tokio::spawn(async move { store.secret_or("ca", &[b'k', b'e', b'y', n]).await.unwrap() })
        })
        .collect();
    let mut agreed = Vec::new();
    for starter in starters {
        agreed.push(starter.await.unwrap());
    }
    agreed.dedup();
    assert_eq!(agreed.len(), 1, "all use the same key");
    store.put_secret("ca", b"PRIVATE KEY two").await.unwrap();
    assert_eq!(store.secret("ca").await.unwrap().as_deref(), Some(&b"PRIVATE KEY two"[..]));
    assert!(!backend.dump().await.contains("PRIVATE KEY"));

    // Sealed for its name: put in another's place it does not open.
    store.put_secret("session", b"x").await.unwrap();
    backend
        .sql(
            "UPDATE secret_keys SET sealed = (SELECT sealed FROM secret_keys WHERE name = 'ca') WHERE name = 'session'",
        )
        .await;
    assert!(matches!(store.secret("session").await, Err(StoreError::Sealed { .. })));
}

pub(crate) async fn the_states_of_proxies_are_merged<B: Backend>(backend: B) {
    let store = backend.open().await;
    let state = |node: &str, connected, acked| ProxyState {
        node: node.to_owned(),
        replica: String::new(),
        connected,
        acked: Revision(acked),
        sent: Revision(acked + 1),
        issues: json!([]),
        info: json!({"role": "gateway"}),
        seen: Timestamp::UNIX_EPOCH,
    };
    let stale = Duration::from_mins(1);
    store.put_proxies("a", &[state("gw-1", true, 5), state("gw-2", true, 7)]).await.unwrap();
    store.put_proxies("a", &[state("gw-1", false, 5)]).await.unwrap();
    // It has reconnected to another replica; what the first one says of it is older.
    store.put_proxies("b", &[state("gw-1", true, 6)]).await.unwrap();
    let merged = store.proxies(stale, None).await.unwrap();
    let seen: Vec<_> = merged.iter().map(|p| (&*p.node, &*p.replica, p.connected, p.acked.0, p.sent.0)).collect();
    assert_eq!(seen, [("gw-1", "b", true, 6, 7), ("gw-2", "a", true, 7, 8)]);
    assert!(merged[0].seen > Timestamp::now() - HOUR);
    let others = store.proxies(stale, Some("a")).await.unwrap();
    assert_eq!(others.iter().map(|p| (&*p.node, &*p.replica)).collect::<Vec<_>>(), [("gw-1", "b")]);

    eventually("a replica that says nothing more knows nothing more", async || {
        store.proxies(Duration::from_millis(10), None).await.unwrap().iter().all(|proxy| !proxy.connected)
    })
    .await;
    store.forget_proxies(stale).await.unwrap();
    assert_eq!(store.proxies(stale, None).await.unwrap().len(), 2);
    store.forget_proxies(Duration::from_millis(10)).await.unwrap();
    assert!(store.proxies(stale, None).await.unwrap().is_empty());
}

pub(crate) async fn a_lease_has_one_holder<B: Backend>(backend: B) {
    let store = backend.open().await;
    let mut lease = store.lease("upkeep").await.unwrap().unwrap();
    assert!(lease.is_held().await);
    assert!(store.lease("upkeep").await.unwrap().is_none());
    let other = store.lease("other").await.unwrap();
    assert!(other.is_some(), "leases of other names are free");
    drop(lease);
    eventually("a dropped lease is free again", async || store.lease("upkeep").await.unwrap()).await;
}

pub(crate) async fn upkeep_forgets_what_is_past<B: Backend>(backend: B) {
    let snapshot = backend.snapshot().await;
    snapshot.commit(create("reviews", 200)).await.unwrap();
    snapshot.commit(upsert("reviews", 201)).await.unwrap();
    let store = snapshot.store();
    store.put_token(&token("late", None, -HOUR)).await.unwrap();
    store.put_token(&token("fresh", None, HOUR)).await.unwrap();
    let written = snapshot.view().resource_version();

    let soon = Duration::from_millis(20);
    let upkeep = Upkeep { every: soon, history: soon, tokens: soon, proxies: soon, workloads: soon };
    tokio::spawn(upkeep.run(snapshot.clone()));
    eventually("the history is compacted", async || {
        matches!(store.tail(written - 1, 1).await, Err(StoreError::Expired { .. }))
    })
    .await;
    eventually("the ended token is forgotten", async || snapshot.view().tokens().count() == 1).await;
    assert!(snapshot.store().lease("upkeep").await.unwrap().is_none(), "one replica does it");
    assert_eq!(store.load().await.unwrap().head.resource_version, written);
}
