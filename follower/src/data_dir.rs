//! The folder that outlives the process.

use std::fs::{self, DirBuilder, File, OpenOptions, TryLockError};
use std::io::{self, Write};
use std::os::unix::fs::{DirBuilderExt, OpenOptionsExt};
use std::path::{Path, PathBuf};

use crate::Error;

/// A data folder, locked against a second proxy for as long as this lives.
#[derive(Debug)]
pub(crate) struct DataDir {
    root: PathBuf,
    _lock: File,
}

impl DataDir {
    /// Makes the folder if it is missing.
    pub(crate) fn open(root: &Path) -> Result<Self, Error> {
        let failed = |source| Error::DataDir { path: root.to_owned(), source };
        DirBuilder::new().recursive(true).mode(0o700).create(root).map_err(failed)?;
        let lock = private().write(true).create(true).truncate(false).open(root.join("proxy.lock")).map_err(failed)?;
        match lock.try_lock() {
            Ok(()) => Ok(Self { root: root.to_owned(), _lock: lock }),
            Err(TryLockError::WouldBlock) => Err(Error::InUse(root.to_owned())),
            Err(TryLockError::Error(source)) => Err(failed(source)),
        }
    }

    pub(crate) fn path(&self, name: &str) -> PathBuf {
        self.root.join(name)
    }

    /// The id that this proxy keeps from start to start.
    pub(crate) fn node_id(&self) -> Result<String, Error> {
        let path = self.path("node-id");
        if let Ok(id) = fs::read_to_string(&path) {
            let id = id.trim();
            if !id.is_empty() && id.len() <= 253 && id.bytes().all(|byte| byte.is_ascii_graphic()) {
                return Ok(id.to_owned());
            }
        }
        let id = format!("{}-{:08x}", hostname(), fastrand::u32(..));
        write(&path, format!("{id}\n").as_bytes()).map_err(|source| Error::DataDir { path, source })?;
        Ok(id)
    }
}

fn hostname() -> String {
    let name = fs::read_to_string("/proc/sys/kernel/hostname").unwrap_or_default();
    let name: String =
        name.trim().chars().take(200).filter(|c| c.is_ascii_alphanumeric() || matches!(c, '-' | '.')).collect();
    if name.is_empty() { "proxy".to_owned() } else { name }
}

fn private() -> OpenOptions {
    let mut options = OpenOptions::new();
    options.mode(0o600);
    options
}

/// Replaces a file so that a reader, and a restart after a power cut, sees all of the old or all of the new content.
/// Only this user may read it.
pub(crate) fn write(path: &Path, content: &[u8]) -> io::Result<()> {
    let mut name = path.file_name().unwrap_or_default().to_owned();
    name.push(".new");
    let temporary = path.with_file_name(name);
    // A left-over of a crash may have other permissions.
    match fs::remove_file(&temporary) {
        Err(error) if error.kind() != io::ErrorKind::NotFound => return Err(error),
        _ => {}
    }
    let mut file = private().write(true).create_new(true).open(&temporary)?;
    file.write_all(content)?;
    file.sync_all()?;
    fs::rename(&temporary, path)?;
    match path.parent() {
        Some(parent) => File::open(parent)?.sync_all(),
        None => Ok(()),
    }
}

#[cfg(test)]
mod tests {
    use std::os::unix::fs::PermissionsExt;

    use super::*;

    #[test]
    fn the_node_id_is_made_once() {
        let root = tempfile::tempdir().unwrap();
        let first = DataDir::open(root.path()).unwrap().node_id().unwrap();
        assert_eq!(DataDir::open(root.path()).unwrap().node_id().unwrap(), first);
        fs::write(root.path().join("node-id"), "\u{0}\n").unwrap();
        assert_ne!(DataDir::open(root.path()).unwrap().node_id().unwrap(), first);
    }

    #[test]
    fn a_folder_serves_one_proxy_at_a_time() {
        let root = tempfile::tempdir().unwrap();
        let first = DataDir::open(root.path()).unwrap();
        assert!(matches!(DataDir::open(root.path()), Err(Error::InUse(_))));
        drop(first);
        DataDir::open(root.path()).unwrap();
    }

    #[test]
    fn files_are_replaced_whole_and_private() {
        let root = tempfile::tempdir().unwrap();
        let path = root.path().join("file");
        fs::write(root.path().join("file.new"), "left by a crash").unwrap();
        write(&path, b"one").unwrap();
        write(&path, b"two").unwrap();
        assert_eq!(fs::read(&path).unwrap(), b"two");
        assert_eq!(fs::metadata(&path).unwrap().permissions().mode() & 0o777, 0o600);
        assert_eq!(fs::read_dir(root.path()).unwrap().count(), 1);
    }
}
