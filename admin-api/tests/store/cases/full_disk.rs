//! A database file that cannot grow.

use std::path::{Path, PathBuf};
use std::process::Command;

use admin_api::store::seal::MasterKey;
use admin_api::store::{ChangeSet, Precondition, ProxyState, SqliteOptions, SqliteStore, Store, StoreError};
use jiff::Timestamp;
use route_model::meta::Revision;
use serde_json::json;

use crate::requests::{answering, create, put, service, set, status_of};

fn heavy(n: usize) -> ChangeSet {
    let name = format!("s{n}");
    let mut object = answering(&name, 200);
    object["metadata"]["annotations"] = json!({"weight": "x".repeat(8000)});
    set([put(&service(&name), Precondition::Absent, object)])
}

/// Fills the database until it refuses; answers how many objects it took.
async fn fill(store: &SqliteStore) -> usize {
    for stored in 0..5000 {
        if let Err(refused) = store.commit(heavy(stored)).await {
            assert!(matches!(refused, StoreError::Full { .. }), "{refused:?}");
            assert!(refused.is_transient() && refused.to_string().contains("is full"), "{refused}");
            return stored;
        }
    }
    panic!("the bound is never met");
}

async fn count(store: &SqliteStore) -> usize {
    let loaded = store.load().await.unwrap();
    let services = loaded.objects.iter().filter(|object| object.key.kind == service("").kind);
    services.inspect(|object| assert_eq!(status_of(&object.object), 200)).count()
}

/// What is too large for the space that is left, beside resources.
fn heavy_state() -> ProxyState {
    ProxyState {
        node: "node".to_owned(),
        replica: String::new(),
        connected: true,
        acked: Revision(1),
        sent: Revision(1),
        issues: json!("x".repeat(64 << 10)),
        info: json!({}),
        seen: Timestamp::now(),
    }
}

/// The refusal leaves nothing half done behind, however often it happens and whatever it meets.
async fn refuses_cleanly(store: &SqliteStore, stored: usize) {
    for _ in 0..3 {
        let beside = store.put_proxies("replica", &[heavy_state()]).await;
        assert!(matches!(beside, Err(StoreError::Full { .. })), "{beside:?}");
        let refused = store.commit(heavy(stored)).await;
        assert!(matches!(refused, Err(StoreError::Full { .. })), "{refused:?}");
    }
    assert_eq!(count(store).await, stored, "reads go on");
}

pub(crate) async fn a_file_at_its_bound_loses_nothing() {
    let dir = tempfile::tempdir().unwrap();
    let options = SqliteOptions::new(dir.path().join("fairway.db"));
    let master = MasterKey::random();
    let bounded = SqliteOptions { max_pages: Some(120), ..options.clone() };
    let store = SqliteStore::open(bounded, master.clone()).await.unwrap();
    let stored = fill(&store).await;
    refuses_cleanly(&store, stored).await;
    store.close().await;

    let store = SqliteStore::open(options, master).await.unwrap();
    assert_eq!(count(&store).await, stored, "nothing was lost");
    let before = store.head().await.unwrap();
    let next = store.commit(create("after", 200)).await.unwrap();
    assert_eq!(next.written[0].object.as_ref().unwrap().resource_version, before.resource_version + 1);
}

/// A small file system of its own, where the machine permits it.
struct Disk {
    dir: tempfile::TempDir,
}

impl Disk {
    fn mount() -> Option<Self> {
        let dir = tempfile::tempdir().unwrap();
        let mounted = Command::new("mount").args(["-t", "tmpfs", "-o", "size=3m", "tmpfs"]).arg(dir.path()).output();
        mounted.is_ok_and(|output| output.status.success()).then(|| Self { dir })
    }

    fn path(&self) -> &Path {
        self.dir.path()
    }
}

impl Drop for Disk {
    fn drop(&mut self) {
        let _ = Command::new("umount").arg("--lazy").arg(self.path()).status();
    }
}

pub(crate) async fn a_full_disk_loses_nothing() {
    let Some(disk) = Disk::mount() else {
        eprintln!("skipped: this user may not mount a small disk to fill");
        return;
    };
    let ballast: PathBuf = disk.path().join("ballast");
    std::fs::write(&ballast, vec![0; 512 << 10]).unwrap();
    let master = MasterKey::random();
    let options = SqliteOptions::new(disk.path().join("fairway.db"));
    let store = SqliteStore::open(options.clone(), master.clone()).await.unwrap();
    let stored = fill(&store).await;
    refuses_cleanly(&store, stored).await;

    // Space is made under the running store, and it goes on by itself.
    std::fs::remove_file(&ballast).unwrap();
    store.commit(heavy(stored)).await.unwrap();
    assert_eq!(count(&store).await, stored + 1);
    store.close().await;
    let store = SqliteStore::open(options, master).await.unwrap();
    assert_eq!(count(&store).await, stored + 1, "nothing was lost");
}
