//! The open connections with others of the mesh, and when they end.
//!
//! A handshake judges a peer once; a [`Bond`] goes on judging it. A connection whose peer's identity is denied is cut,
//! and so is one whose peer has shown a certificate that has run out by now: no key counts for longer than its
//! certificate, however long a connection is kept. Clients move to new connections well before that ([`Bond::retires`]),
//! so that it costs no request.
//!
//! Each worker has its own, and looks at them once a second at most when there is news: another trust, or a certificate
//! that ran out. Between those a connection costs a flag, which is read with its bytes.

use std::cell::{Cell, RefCell};
use std::collections::HashMap;
use std::io;
use std::pin::Pin;
use std::rc::Rc;
use std::sync::Arc;
use std::task::{Context, Poll, Waker};
use std::time::{Duration, Instant, SystemTime};

use rustls_pki_types::CertificateDer;
use tokio::io::{AsyncRead, AsyncWrite, ReadBuf};
use x509_parser::prelude::{FromDer, X509Certificate};

use super::identity::{Credentials, Identity, spiffe_id};

/// The part of the time that the certificates of both ends have left, after which a connection takes no new request.
const RETIRES_AFTER: f64 = 0.9;

/// The connections of one worker with others of the mesh.
#[derive(Clone, Debug)]
pub(crate) struct Bonds(Rc<Shared>);

#[derive(Debug)]
struct Shared {
    identity: Identity,
    open: RefCell<HashMap<u64, Rc<State>>>,
    last: Cell<u64>,
    /// The generation of the credentials that all were judged by.
    judged: Cell<u64>,
    /// When the first certificate runs out.
    next: Cell<Option<SystemTime>>,
}

/// One connection with another of the mesh, for as long as it is open.
#[derive(Debug)]
pub(crate) struct Bond {
    bonds: Bonds,
    number: u64,
    state: Rc<State>,
    retires: Instant,
}

#[derive(Debug)]
struct State {
    peer: Arc<str>,
    /// From here on its certificate counts for nothing.
    expires: SystemTime,
    cut: Cell<Option<Cut>>,
    /// Whoever waits for bytes, and whoever waits to send some.
    reader: RefCell<Option<Waker>>,
    writer: RefCell<Option<Waker>>,
}

/// Why a connection was ended.
#[derive(Clone, Copy, Debug, PartialEq, Eq, Hash, thiserror::Error)]
pub(crate) enum Cut {
    #[error("the identity of the peer is denied")]
    Denied,
    #[error("the certificate that the peer had shown has expired")]
    Expired,
}

/// A stream that breaks off when its bond is cut. Without a bond it never does.
#[derive(Debug)]
pub(crate) struct Bound<IO> {
    io: IO,
    bond: Option<Bond>,
}

impl Bonds {
    /// `identity`: whom this proxy accepts.
    pub(crate) fn new(identity: Identity) -> Self {
        Self(Rc::new(Shared {
            identity,
            open: RefCell::default(),
            last: Cell::default(),
            judged: Cell::default(),
            next: Cell::default(),
        }))
    }

    /// A bond with the peer that showed this chain in its handshake, which took it; `None`: it names no workload.
    pub(crate) fn enter(&self, chain: Option<&[CertificateDer<'_>]>) -> Option<Bond> {
        let leaf = chain?.first()?;
        let (peer, expires) = (spiffe_id(leaf).ok()?, expires(leaf)?);
        let current = self.0.identity.current();
        let now = SystemTime::now();
        let last = current.as_ref().map_or(expires, |own| own.not_after().min(expires));
        let left = last.duration_since(now).unwrap_or_default();
        let state =
            State { peer, expires, cut: Cell::default(), reader: RefCell::default(), writer: RefCell::default() };
        // What was denied while the handshake ran.
        state.cut.set(state.judged(current.as_deref(), now));
        let state = Rc::new(state);
        let number = self.0.last.get() + 1;
        self.0.last.set(number);
        self.0.open.borrow_mut().insert(number, Rc::clone(&state));
        self.0.next.set(Some(self.0.next.get().map_or(expires, |next| next.min(expires))));
        let retires = Instant::now() + left.mul_f64(RETIRES_AFTER);
        Some(Bond { bonds: self.clone(), number, state, retires })
    }

    /// Cuts what is not to be any more. To be called once a second.
    pub(crate) fn look(&self, now: SystemTime) {
        let shared = &*self.0;
        let current = shared.identity.current();
        let generation = current.as_ref().map_or(0, |current| current.generation());
        if shared.judged.get() == generation && shared.next.get().is_none_or(|next| now < next) {
            return;
        }
        let mut next: Option<SystemTime> = None;
        let mut ended: HashMap<(Arc<str>, Cut), usize> = HashMap::new();
        for state in shared.open.borrow().values().filter(|state| state.cut.get().is_none()) {
            match state.judged(current.as_deref(), now) {
                Some(cut) => {
                    state.end(cut);
                    *ended.entry((Arc::clone(&state.peer), cut)).or_default() += 1;
                }
                None => next = Some(next.map_or(state.expires, |next| next.min(state.expires))),
            }
        }
        shared.judged.set(generation);
        shared.next.set(next);
        for ((peer, reason), connections) in ended {
            tracing::info!(peer = &*peer, %reason, connections, "closed connections with another of the mesh");
        }
    }
}

impl Bond {
    /// From when on the connection is to take no new request.
    pub(crate) fn retires(&self) -> Instant {
        self.retires
    }
}

impl Drop for Bond {
    fn drop(&mut self) {
        self.bonds.0.open.borrow_mut().remove(&self.number);
    }
}

impl State {
    fn judged(&self, current: Option<&Credentials>, now: SystemTime) -> Option<Cut> {
        if current.is_some_and(|current| current.denies(&self.peer)) {
            Some(Cut::Denied)
        } else {
            (self.expires <= now).then_some(Cut::Expired)
        }
    }

    fn end(&self, cut: Cut) {
        self.cut.set(Some(cut));
        for waiting in [&self.reader, &self.writer] {
            if let Some(waker) = waiting.borrow_mut().take() {
                waker.wake();
            }
        }
    }
}

impl<IO> Bound<IO> {
    pub(crate) fn new(io: IO, bond: Option<Bond>) -> Self {
        Self { io, bond }
    }

    pub(crate) fn get_ref(&self) -> &IO {
        &self.io
    }

    pub(crate) fn bond(&self) -> Option<&Bond> {
        self.bond.as_ref()
    }

    /// # Errors
    /// The bond is cut.
    fn check(&self) -> io::Result<()> {
        match self.bond.as_ref().and_then(|bond| bond.state.cut.get()) {
            None => Ok(()),
            Some(cut) => Err(io::Error::new(io::ErrorKind::ConnectionAborted, cut)),
        }
    }

    /// Has the task woken when the bond is cut.
    fn waits(&self, waiting: impl Fn(&State) -> &RefCell<Option<Waker>>, cx: &Context<'_>) {
        let Some(bond) = &self.bond else { return };
        match &mut *waiting(&bond.state).borrow_mut() {
            Some(waker) => waker.clone_from(cx.waker()),
            none => *none = Some(cx.waker().clone()),
        }
    }

    fn writing<T>(&self, polled: Poll<T>, cx: &Context<'_>) -> Poll<T> {
        if polled.is_pending() {
            self.waits(|state| &state.writer, cx);
        }
        polled
    }
}

impl<IO: AsyncRead + Unpin> AsyncRead for Bound<IO> {
    fn poll_read(self: Pin<&mut Self>, cx: &mut Context<'_>, buf: &mut ReadBuf<'_>) -> Poll<io::Result<()>> {
        let this = self.get_mut();
        this.check()?;
        let polled = Pin::new(&mut this.io).poll_read(cx, buf);
        if polled.is_pending() {
            this.waits(|state| &state.reader, cx);
        }
        polled
    }
}

impl<IO: AsyncWrite + Unpin> AsyncWrite for Bound<IO> {
    fn poll_write(self: Pin<&mut Self>, cx: &mut Context<'_>, buf: &[u8]) -> Poll<io::Result<usize>> {
        let this = self.get_mut();
        this.check()?;
        let polled = Pin::new(&mut this.io).poll_write(cx, buf);
        this.writing(polled, cx)
    }

    fn poll_write_vectored(
        self: Pin<&mut Self>,
        cx: &mut Context<'_>,
        bufs: &[io::IoSlice<'_>],
    ) -> Poll<io::Result<usize>> {
        let this = self.get_mut();
        this.check()?;
        let polled = Pin::new(&mut this.io).poll_write_vectored(cx, bufs);
        this.writing(polled, cx)
    }

    fn is_write_vectored(&self) -> bool {
        self.io.is_write_vectored()
    }

    fn poll_flush(self: Pin<&mut Self>, cx: &mut Context<'_>) -> Poll<io::Result<()>> {
        let this = self.get_mut();
        this.check()?;
        let polled = Pin::new(&mut this.io).poll_flush(cx);
        this.writing(polled, cx)
    }

    fn poll_shutdown(self: Pin<&mut Self>, cx: &mut Context<'_>) -> Poll<io::Result<()>> {
        let this = self.get_mut();
        this.check()?;
        let polled = Pin::new(&mut this.io).poll_shutdown(cx);
        this.writing(polled, cx)
    }
}

/// The end of the second that is the certificate's last (RFC 5280, section 4.1.2.5), as handshakes take it.
fn expires(leaf: &CertificateDer<'_>) -> Option<SystemTime> {
    let (_, parsed) = X509Certificate::from_der(leaf).ok()?;
    let seconds = u64::try_from(parsed.validity().not_after.timestamp()).ok()?;
    SystemTime::UNIX_EPOCH.checked_add(Duration::from_secs(seconds + 1))
}

#[cfg(test)]
mod tests {
    use rcgen::{CertificateParams, KeyPair, SanType};
    use rustls_pki_types::PrivateKeyDer;
    use tokio::io::{AsyncReadExt as _, AsyncWriteExt as _, DuplexStream};

    use super::super::identity::{Svid, Trust};
    use super::*;

    const RATINGS: &str = "spiffe://cluster.local/ns/shop/sa/ratings";
    const REVIEWS: &str = "spiffe://cluster.local/ns/shop/sa/reviews";
    const HOUR: Duration = Duration::from_hours(1);

    /// A self-signed certificate that is good for so long.
    fn certificate(id: &str, life: Duration) -> (CertificateDer<'static>, KeyPair) {
        let mut params = CertificateParams::default();
        params.subject_alt_names = vec![SanType::URI(id.try_into().unwrap())];
        params.not_after = (SystemTime::now() + life).into();
        let key = KeyPair::generate().unwrap();
        (params.self_signed(&key).unwrap().der().clone(), key)
    }

    fn trust(identity: &Identity, denied: &[&str]) {
        let (own, key) = certificate(REVIEWS, 2 * HOUR);
        let svid = Svid {
            chain: vec![own.clone()],
            key: PrivateKeyDer::Pkcs8(key.serialize_der().into()),
            spiffe_id: REVIEWS.to_owned(),
            not_after: SystemTime::now() + 2 * HOUR,
        };
        let denied = denied.iter().map(|&id| id.to_owned()).collect();
        identity.replace(svid, Trust { roots: [("cluster.local".to_owned(), vec![own])].into(), denied }).unwrap();
    }

    fn bound(bonds: &Bonds, id: &str) -> (Bound<DuplexStream>, DuplexStream) {
        let (near, far) = tokio::io::duplex(64);
        (Bound::new(near, Some(bonds.enter(Some(&[certificate(id, HOUR).0])).unwrap())), far)
    }

    fn why(error: &io::Error) -> Cut {
        *error.get_ref().unwrap().downcast_ref().unwrap()
    }

    #[tokio::test]
    async fn connections_of_a_denied_identity_end_at_once_and_the_others_go_on() {
        let local = tokio::task::LocalSet::new();
        local
            .run_until(async {
                let identity = Identity::default();
                trust(&identity, &[]);
                let bonds = Bonds::new(identity.clone());
                let (mut other, mut far) = bound(&bonds, "spiffe://cluster.local/ns/shop/sa/details");
                let (mut denied, _end) = bound(&bonds, RATINGS);
                bonds.look(SystemTime::now());
                let waiting = tokio::task::spawn_local(async move { (denied.read(&mut [0; 8]).await, denied) });
                tokio::task::yield_now().await;
                trust(&identity, &[RATINGS]);
                bonds.look(SystemTime::now());
                let (read, mut denied) = waiting.await.unwrap();
                assert_eq!(why(&read.unwrap_err()), Cut::Denied);
                assert_eq!(why(&denied.write(b"x").await.unwrap_err()), Cut::Denied);
                far.write_all(b"x").await.unwrap();
                assert_eq!(other.read(&mut [0; 8]).await.unwrap(), 1);

                let (mut late, _end) = bound(&bonds, RATINGS);
                assert_eq!(why(&late.read(&mut [0; 8]).await.unwrap_err()), Cut::Denied, "denied in its handshake");
                drop((late, denied, other));
                assert_eq!(bonds.0.open.borrow().len(), 0);
            })
            .await;
    }

    #[tokio::test]
    async fn a_connection_lasts_no_longer_than_the_certificate_of_its_peer() {
        let identity = Identity::default();
        trust(&identity, &[]);
        let bonds = Bonds::new(identity);
        let (mut near, _far) = bound(&bonds, RATINGS);
        let retires = near.bond().unwrap().retires().duration_since(Instant::now());
        assert!(HOUR.mul_f64(0.88) < retires && retires < HOUR.mul_f64(0.901), "{retires:?}");
        bonds.look(SystemTime::now() + HOUR - Duration::from_secs(2));
        assert_eq!(near.write(b"x").await.unwrap(), 1);
        bonds.look(SystemTime::now() + HOUR + Duration::from_secs(1));
        assert_eq!(why(&near.write(b"x").await.unwrap_err()), Cut::Expired);
        let ended = io::Error::from(io::ErrorKind::ConnectionAborted);
        assert_eq!(near.shutdown().await.unwrap_err().kind(), ended.kind());
    }

    #[tokio::test]
    async fn a_stream_without_a_bond_is_as_it_was() {
        let bonds = Bonds::new(Identity::default());
        let (other, _key) = certificate("https://a.test/", HOUR);
        assert!(bonds.enter(Some(&[other])).is_none() && bonds.enter(None).is_none());
        let (near, mut far) = tokio::io::duplex(64);
        let mut near = Bound::new(near, None);
        near.write_all(b"abc").await.unwrap();
        assert_eq!(far.read(&mut [0; 8]).await.unwrap(), 3);
    }
}
