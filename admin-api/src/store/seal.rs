//! Encryption at rest: the master key, and sealing under it.
//!
//! Sealed bytes are `1 ‖ key id (8) ‖ nonce (12) ‖ AES-256-GCM ciphertext and tag`. The additional data is what the
//! bytes belong to (a row's identity), so that sealed bytes cannot be moved to another row.

use std::fmt;
use std::fs::{File, OpenOptions};
use std::io::{self, Read, Write};
use std::os::unix::fs::OpenOptionsExt;
use std::path::{Path, PathBuf};

use aws_lc_rs::aead::{AES_256_GCM, Aad, Nonce, RandomizedNonceKey};
use aws_lc_rs::{hmac, rand};
use base64::Engine;
use base64::prelude::BASE64_STANDARD;

const KEY_LEN: usize = 32;
const KEY_ID_LEN: usize = 8;
const NONCE_LEN: usize = 12;
const FORMAT: u8 = 1;
/// A key file is one line; whatever is longer is another file given by mistake.
const MAX_KEY_FILE: u64 = 4096;

/// Why there is no master key.
#[derive(Debug, thiserror::Error)]
pub enum MasterKeyError {
    #[error("the master key file {path} cannot be read: {source}")]
    Read { path: PathBuf, source: io::Error },
    #[error("the master key file {path} cannot be made: {source}")]
    Make { path: PathBuf, source: io::Error },
    #[error(
        "the database {database} was made with a master key, but there is none in {path}: restore that file, or give \
         the key by --master-key-file or FAIRWAY_MASTER_KEY"
    )]
    Lost { path: PathBuf, database: PathBuf },
    #[error(
        "the master key in {origin} is not 32 bytes in base64 or hex; make one with `openssl rand -base64 32` (a new \
         key opens no existing database)"
    )]
    Malformed { origin: String },
}

/// The key that everything secret in the database is sealed under.
#[derive(Clone)]
pub struct MasterKey {
    bytes: [u8; KEY_LEN],
    id: [u8; KEY_ID_LEN],
}

impl MasterKey {
    /// Reads `text`: base64 or hex of 32 bytes, white space around it. `origin` names it in the error.
    pub fn parse(text: &str, origin: &str) -> Result<Self, MasterKeyError> {
        let text = text.trim();
        let bytes = if text.len() == 2 * KEY_LEN { decode_hex(text) } else { BASE64_STANDARD.decode(text).ok() };
        match bytes.and_then(|bytes| <[u8; KEY_LEN]>::try_from(bytes).ok()) {
            Some(bytes) => Ok(Self::new(bytes)),
            None => Err(MasterKeyError::Malformed { origin: origin.to_owned() }),
        }
    }

    pub fn from_file(path: &Path) -> Result<Self, MasterKeyError> {
        let mut text = String::new();
        File::open(path)
            .and_then(|file| file.take(MAX_KEY_FILE).read_to_string(&mut text))
            .map_err(|source| MasterKeyError::Read { path: path.to_owned(), source })?;
        Self::parse(&text, &path.display().to_string())
    }

    /// Reads the key from `path`, or makes one there (mode 0600) when there is no such file and no database yet that
    /// another key would be the wrong one for.
    pub fn from_file_or_new(path: &Path, database: &Path) -> Result<Self, MasterKeyError> {
        if !path.exists() && database.metadata().is_ok_and(|file| file.len() > 0) {
            return Err(MasterKeyError::Lost { path: path.to_owned(), database: database.to_owned() });
        }
        let made = OpenOptions::new().write(true).create_new(true).mode(0o600).open(path);
        let mut file = match made {
            Ok(file) => file,
            Err(error) if error.kind() == io::ErrorKind::AlreadyExists => return Self::from_file(path),
            Err(source) => return Err(MasterKeyError::Make { path: path.to_owned(), source }),
        };
        let key = Self::random();
        let line = format!("{}\n", BASE64_STANDARD.encode(key.bytes));
        if let Err(source) = file.write_all(line.as_bytes()).and_then(|()| file.sync_all()) {
            drop(file);
            // Half a key would pass for a malformed one at the next start.
            let _ = std::fs::remove_file(path);
            return Err(MasterKeyError::Make { path: path.to_owned(), source });
        }
        Ok(key)
    }

    pub fn random() -> Self {
        let mut bytes = [0; KEY_LEN];
        rand::fill(&mut bytes).expect("the operating system gives random bytes");
        Self::new(bytes)
    }

    fn new(bytes: [u8; KEY_LEN]) -> Self {
        let tag = hmac::sign(&hmac::Key::new(hmac::HMAC_SHA256, &bytes), b"fairway master key fingerprint");
        let mut id = [0; KEY_ID_LEN];
        id.copy_from_slice(&tag.as_ref()[..KEY_ID_LEN]);
        Self { bytes, id }
    }

    /// Tells keys apart without telling anything about them.
    pub fn fingerprint(&self) -> String {
        encode_hex(&self.id)
    }

    /// Seals `plain` for `owner`: the name of what it belongs to.
    pub fn seal(&self, owner: &str, plain: &[u8]) -> Vec<u8> {
        let mut text = plain.to_vec();
        let nonce = self
            .aead()
            .seal_in_place_append_tag(Aad::from(owner.as_bytes()), &mut text)
            .expect("AES-256-GCM seals anything shorter than 64 GiB");
        let mut sealed = Vec::with_capacity(1 + KEY_ID_LEN + NONCE_LEN + text.len());
        sealed.push(FORMAT);
        sealed.extend_from_slice(&self.id);
        sealed.extend_from_slice(nonce.as_ref());
        sealed.append(&mut text);
        sealed
    }

    /// Opens what [`seal`](Self::seal) made for the same owner under the same key; nothing otherwise.
    pub fn open(&self, owner: &str, sealed: &[u8]) -> Option<Vec<u8>> {
        let (&FORMAT, rest) = sealed.split_first()? else { return None };
        let (id, rest) = rest.split_at_checked(KEY_ID_LEN)?;
        let (nonce, text) = rest.split_at_checked(NONCE_LEN)?;
        if id != self.id {
            return None;
        }
        let mut text = text.to_vec();
        let nonce = Nonce::try_assume_unique_for_key(nonce).ok()?;
        let len = self.aead().open_in_place(nonce, Aad::from(owner.as_bytes()), &mut text).ok()?.len();
        text.truncate(len);
        Some(text)
    }

    fn aead(&self) -> RandomizedNonceKey {
        RandomizedNonceKey::new(&AES_256_GCM, &self.bytes).expect("the key has the length of AES-256")
    }
}

impl fmt::Debug for MasterKey {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        write!(f, "MasterKey({})", self.fingerprint())
    }
}

pub(crate) fn encode_hex(bytes: &[u8]) -> String {
    const DIGITS: &[u8; 16] = b"0123456789abcdef";
    bytes.iter().flat_map(|b| [b >> 4, b & 15]).map(|d| char::from(DIGITS[usize::from(d)])).collect()
}

pub(super) fn decode_hex(text: &str) -> Option<Vec<u8>> {
    let digit = |d: &u8| char::from(*d).to_digit(16).map(|d| d as u8);
    let (pairs, []) = text.as_bytes().as_chunks::<2>() else { return None };
    pairs.iter().map(|[high, low]| Some(digit(high)? << 4 | digit(low)?)).collect()
}

#[cfg(test)]
mod tests {
    use std::os::unix::fs::PermissionsExt;

    use super::*;

    #[test]
    fn a_key_is_read_from_base64_and_hex() {
        let key = MasterKey::random();
        for text in
            [BASE64_STANDARD.encode(key.bytes), encode_hex(&key.bytes), format!(" {}\n", encode_hex(&key.bytes))]
        {
            assert_eq!(MasterKey::parse(&text, "test").unwrap().fingerprint(), key.fingerprint());
        }
        for text in ["", "abc", &"g".repeat(64), &BASE64_STANDARD.encode([0; 31])] {
            assert!(matches!(MasterKey::parse(text, "test"), Err(MasterKeyError::Malformed { .. })), "{text:?}");
        }
    }

    #[test]
    fn a_key_file_is_made_once_and_only_the_owner_reads_it() {
        let dir = tempfile::tempdir().unwrap();
        let path = dir.path().join("master.key");
        let database = dir.path().join("fairway.db");
        let made = MasterKey::from_file_or_new(&path, &database).unwrap();
        assert_eq!(std::fs::metadata(&path).unwrap().permissions().mode() & 0o777, 0o600);
        assert_eq!(MasterKey::from_file_or_new(&path, &database).unwrap().fingerprint(), made.fingerprint());

        std::fs::write(&database, "not empty").unwrap();
        assert!(MasterKey::from_file_or_new(&path, &database).is_ok());
        std::fs::remove_file(&path).unwrap();
        let lost = MasterKey::from_file_or_new(&path, &database);
        assert!(matches!(lost, Err(MasterKeyError::Lost { .. })), "{lost:?}");
        assert!(!path.exists(), "a new key would be the wrong one");
    }

    #[test]
    fn what_is_sealed_opens_for_its_owner_only() {
        let key = MasterKey::random();
        let sealed = key.seal("Secret shop/tls", b"private");
        assert!(!sealed.windows(7).any(|w| w == b"private"));
        assert_eq!(key.open("Secret shop/tls", &sealed).as_deref(), Some(&b"private"[..]));
        assert_eq!(key.open("Secret shop/other", &sealed), None);
        assert_eq!(MasterKey::random().open("Secret shop/tls", &sealed), None);
        for at in 0..sealed.len() {
            let mut altered = sealed.clone();
            altered[at] ^= 1;
            assert_eq!(key.open("Secret shop/tls", &altered), None, "byte {at}");
            assert_eq!(key.open("Secret shop/tls", &sealed[..at]), None, "cut at {at}");
        }
    }
}
