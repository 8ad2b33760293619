//! A database file that cannot grow.

use std::sync::Arc;

use admin_api::store::{Precondition, SqliteOptions, SqliteStore, Store, StoreError};

use crate::backend::{Backend, OnSqlite};
use crate::requests::{answering, create, put, service, set, status_of};

pub(crate) async fn a_full_disk_loses_nothing(backend: OnSqlite) {
    let bounded = SqliteOptions { max_pages: Some(120), ..SqliteOptions::new(backend.path()) };
    let store: Arc<dyn Store> = Arc::new(SqliteStore::open(bounded, backend.master().clone()).await.unwrap());

    let mut stored = 0;
    let refused = loop {
        assert!(stored < 1000, "the bound is never met");
        let name = format!("s{stored}");
        let mut object = answering(&name, 200);
        object["metadata"]["annotations"] = serde_json::json!({"weight": "x".repeat(8000)});
        match store.commit(set([put(&service(&name), Precondition::Absent, object)])).await {
            Ok(_) => stored += 1,
            Err(error) => break error,
        }
    };
    assert!(matches!(refused, StoreError::Full { .. }), "{refused:?}");
    assert!(refused.is_transient() && refused.to_string().contains("is full"), "{refused}");
    assert!(stored > 5);
    let loaded = store.load().await.unwrap();
    assert_eq!(loaded.objects.iter().filter(|o| o.key.kind == service("").kind).count(), stored, "reads go on");
    for _ in 0..3 {
        // Again and again: the refusal leaves nothing half done behind.
        let error = store.commit(create("late", 200)).await;
        if let Err(error) = error {
            assert!(matches!(error, StoreError::Full { .. }), "{error:?}");
        } else {
            stored += 1;
            break;
        }
    }
    store.close().await;

    let store = backend.open().await;
    let loaded = store.load().await.unwrap();
    let kept = loaded.objects.iter().filter(|o| o.key.kind == service("").kind);
    assert_eq!(kept.inspect(|o| assert_eq!(status_of(&o.object), 200)).count(), stored, "nothing was lost");
    let next = store.commit(create("after", 200)).await.unwrap();
    assert_eq!(next.written[0].object.as_ref().unwrap().resource_version, loaded.head.resource_version + 1);
}
