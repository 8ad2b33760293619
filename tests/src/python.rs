//! The Python clients and servers that some tests use.

use std::path::{Path, PathBuf};

/// The interpreter of the environment that `scripts/setup` makes in the target folder.
pub fn interpreter() -> PathBuf {
    let test = std::env::current_exe().expect("the path of this test");
    let target = test.ancestors().nth(3).expect("TARGET/PROFILE/deps");
    let beside_sources = Path::new(env!("CARGO_MANIFEST_DIR")).join("../target");
    let found = [target, &beside_sources].map(|folder| folder.join("python/bin/python"));
    let found = found.into_iter().find(|path| path.exists());
    found.unwrap_or_else(|| panic!("the Python environment is missing: run scripts/setup"))
}
