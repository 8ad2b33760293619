//! Several control planes on one Postgres.

use std::time::{Duration, Instant};
use testkit::wait::{DEADLINE, eventually};

use crate::backend::{Backend, OnPostgres};
use crate::requests::{create, service, upsert};

pub(crate) async fn a_write_at_one_replica_shows_at_the_other(backend: OnPostgres) {
    let (a, b) = tokio::join!(backend.snapshot(), backend.snapshot());
    let mut took = Vec::new();
    for n in 0..20 {
        let (from, to) = if n % 2 == 0 { (&a, &b) } else { (&b, &a) };
        let started = Instant::now();
        let revision = from.commit(upsert("reviews", 200 + n)).await.unwrap().revision;
        tokio::time::timeout(DEADLINE, to.reached(revision)).await.unwrap();
        took.push(started.elapsed());
    }
    took.sort();
    println!("write at one, visible at the other: median {:?}, worst {:?}", took[10], took[19]);
    assert!(took[10] < Duration::from_millis(100), "median {:?}", took[10]);

    a.store().close().await;
    b.commit(create("alone", 200)).await.unwrap();
    eventually("the other goes on alone", async || b.view().get(&service("alone")).is_some()).await;
}

pub(crate) async fn a_lease_passes_on_when_its_holder_ends(backend: OnPostgres) {
    let (a, b) = (backend.open().await, backend.open().await);
    let lease = a.lease("upkeep").await.unwrap().unwrap();
    assert!(b.lease("upkeep").await.unwrap().is_none());
    drop((lease, a));
    let mut lease = eventually("the lease is free", async || b.lease("upkeep").await.unwrap()).await;
    assert!(lease.is_held().await);
    backend.sql("SELECT pg_terminate_backend(pid) FROM pg_locks WHERE locktype = 'advisory'").await;
    assert!(!lease.is_held().await, "lost with its connection, and it says so");
}
