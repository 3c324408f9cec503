//! TLS from a certificate and a key in files, read again when they change.
//!
//! Owns which certificate new connections are given. Connections that are open are not touched by a new one. What cannot be
//! read, does not fit together or is not complete yet leaves the old one in place, with an error in the log.
//!
//! Invariant: there is always a certificate whose key is ours.

use std::fmt;
use std::fs::File;
use std::io::{self, Read as _};
use std::path::{Path, PathBuf};
use std::sync::{Arc, PoisonError, RwLock};
use std::time::Duration;

use notify::{RecommendedWatcher, RecursiveMode, Watcher as _};
use rustls::ServerConfig;
use rustls::pki_types::pem::PemObject as _;
use rustls::pki_types::{CertificateDer, PrivateKeyDer};
use rustls::server::{ClientHello, ResolvesServerCert};
use rustls::sign::CertifiedKey;
use tokio::sync::Notify;
use tokio_rustls::TlsAcceptor;
use tokio_util::sync::CancellationToken;

/// No file of a certificate chain or a key is longer.
const FILE_BYTES_MAX: u64 = 1 << 20;

/// How long to wait after a change for the other file to change too.
const SETTLE: Duration = Duration::from_millis(300);

/// How often the files are looked at, whatever the kernel tells: network file systems tell nothing.
const LOOK: Duration = Duration::from_secs(60);

/// Where the certificate and its key are, in PEM. The chain begins with the server's own certificate.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct TlsFiles {
    /// The chain.
    pub cert: PathBuf,
    /// The private key.
    pub key: PathBuf,
}

/// Why TLS cannot be had with some files.
#[derive(Debug, thiserror::Error)]
#[non_exhaustive]
pub enum TlsError {
    /// One cannot be read.
    #[error("{} cannot be read: {source}", path.display())]
    Read {
        /// Which.
        path: PathBuf,
        /// The system's error.
        source: io::Error,
    },
    /// One holds nothing of what it should.
    #[error("{} holds no {what} in PEM", path.display())]
    Empty {
        /// Which.
        path: PathBuf,
        /// What was looked for.
        what: &'static str,
    },
    /// They do not fit each other, or are of a kind that is not supported.
    #[error("certificate and key cannot be used: {0}")]
    Unusable(#[source] rustls::Error),
}

/// A certificate that is kept up to date. Clones are the same.
#[derive(Clone)]
pub(crate) struct Tls {
    acceptor: TlsAcceptor,
}

impl fmt::Debug for Tls {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.debug_struct("Tls").finish_non_exhaustive()
    }
}

impl Tls {
    /// Reads the files and begins to watch them, until `stop`. Must run on a tokio runtime.
    ///
    /// # Errors
    /// See [`TlsError`].
    ///
    /// # Cancel safety
    /// Cancel safe.
    pub(crate) async fn open(files: TlsFiles, stop: CancellationToken) -> Result<Self, TlsError> {
        let lost =
            |path: &Path, lost| TlsError::Read { path: path.to_owned(), source: io::Error::other(lost) };
        let first = files.clone();
        let read = tokio::task::spawn_blocking(move || read(&first)).await;
        let found = read.unwrap_or_else(|error| Err(lost(&files.cert, error)))?;
        let current = Arc::new(Current(RwLock::new(found)));
        let provider = Arc::new(rustls::crypto::ring::default_provider());
        let mut config = ServerConfig::builder_with_provider(provider)
            .with_safe_default_protocol_versions()
            .map_err(TlsError::Unusable)?
            .with_no_client_auth()
            .with_cert_resolver(current.clone());
        config.alpn_protocols = vec![b"http/1.1".to_vec()];
        tokio::spawn(stop.run_until_cancelled_owned(reload_task(files, current)));
        Ok(Self { acceptor: TlsAcceptor::from(Arc::new(config)) })
    }

    pub(crate) fn acceptor(&self) -> &TlsAcceptor {
        &self.acceptor
    }
}

/// The certificate for new connections.
#[derive(Debug)]
struct Current(RwLock<Arc<CertifiedKey>>);

impl Current {
    fn get(&self) -> Arc<CertifiedKey> {
        self.0.read().unwrap_or_else(PoisonError::into_inner).clone()
    }

    /// Gives whether it is another one.
    fn replace(&self, new: Arc<CertifiedKey>) -> Outcome {
        let mut current = self.0.write().unwrap_or_else(PoisonError::into_inner);
        if current.cert == new.cert {
            return Outcome::Same;
        }
        *current = new;
        Outcome::Replaced
    }
}

#[derive(Debug, PartialEq, Eq)]
enum Outcome {
    Same,
    Replaced,
}

impl ResolvesServerCert for Current {
    fn resolve(&self, _: ClientHello<'_>) -> Option<Arc<CertifiedKey>> {
        Some(self.get())
    }
}

async fn reload_task(files: TlsFiles, current: Arc<Current>) {
    let touched = Arc::new(Notify::new());
    let _watcher = watch(&files, touched.clone());
    let mut complaint = String::new();
    loop {
        tokio::select! {
            () = touched.notified() => tokio::time::sleep(SETTLE).await,
            () = tokio::time::sleep(LOOK) => {}
        }
        let again = files.clone();
        let Ok(outcome) = tokio::task::spawn_blocking(move || read(&again)).await else { continue };
        match outcome.map(|new| current.replace(new)) {
            Ok(Outcome::Replaced) => {
                complaint.clear();
                tracing::info!(cert = %files.cert.display(), "the new certificate is used from now on");
            }
            Ok(Outcome::Same) => complaint.clear(),
            Err(error) => {
                // Once for each thing that is wrong, not at each look.
                let text = error.to_string();
                if text != complaint {
                    tracing::error!(%error, "the certificate stays as it was");
                    complaint = text;
                }
            }
        }
    }
}

/// Watches the directories that the files are in: files are commonly replaced, or links turned elsewhere.
fn watch(files: &TlsFiles, touched: Arc<Notify>) -> Option<RecommendedWatcher> {
    let heard = move |event: notify::Result<notify::Event>| {
        // Reading the files ourselves is no change.
        if !event.is_ok_and(|event| event.kind.is_access()) {
            touched.notify_one();
        }
    };
    let mut watcher = match notify::recommended_watcher(heard) {
        Ok(watcher) => watcher,
        Err(error) => {
            tracing::warn!(%error, "changes of the certificate are found once a minute");
            return None;
        }
    };
    let mut dirs: Vec<PathBuf> = Vec::new();
    for file in [&files.cert, &files.key] {
        let there = file.canonicalize().ok();
        for file in [Some(file), there.as_ref()].into_iter().flatten() {
            let dir = match file.parent() {
                Some(dir) if !dir.as_os_str().is_empty() => dir.to_owned(),
                _ => PathBuf::from("."),
            };
            if !dirs.contains(&dir) {
                dirs.push(dir);
            }
        }
    }
    for dir in dirs {
        if let Err(error) = watcher.watch(&dir, RecursiveMode::NonRecursive) {
            tracing::warn!(dir = %dir.display(), %error, "changes of the certificate are found once a minute");
        }
    }
    Some(watcher)
}

fn read(files: &TlsFiles) -> Result<Arc<CertifiedKey>, TlsError> {
    let text = read_file(&files.cert)?;
    let chain: Vec<CertificateDer<'static>> =
        CertificateDer::pem_slice_iter(&text).collect::<Result<_, _>>().unwrap_or_default();
    if chain.is_empty() {
        return Err(TlsError::Empty { path: files.cert.clone(), what: "certificate" });
    }
    let text = read_file(&files.key)?;
    let key = PrivateKeyDer::from_pem_slice(&text)
        .map_err(|_| TlsError::Empty { path: files.key.clone(), what: "private key" })?;
    let provider = rustls::crypto::ring::default_provider();
    let found = CertifiedKey::from_der(chain, key, &provider).map_err(TlsError::Unusable)?;
    Ok(Arc::new(found))
}

fn read_file(path: &Path) -> Result<Vec<u8>, TlsError> {
    let wrong = |source| TlsError::Read { path: path.to_owned(), source };
    let file = File::open(path).map_err(wrong)?;
    let mut text = Vec::new();
    let length = file.take(FILE_BYTES_MAX + 1).read_to_end(&mut text).map_err(wrong)?;
    if length as u64 > FILE_BYTES_MAX {
        return Err(wrong(io::Error::other("it is longer than a certificate or key")));
    }
    Ok(text)
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn what_is_no_certificate_is_named() {
        let dir = tempfile::tempdir().expect("a directory");
        let files = TlsFiles { cert: dir.path().join("cert.pem"), key: dir.path().join("key.pem") };
        assert!(matches!(read(&files), Err(TlsError::Read { path, .. }) if path == files.cert));
        std::fs::write(&files.cert, "nothing").expect("written");
        assert!(matches!(read(&files), Err(TlsError::Empty { what: "certificate", .. })));
        std::fs::write(&files.cert, vec![b'x'; (1 << 20) + 1]).expect("written");
        assert!(matches!(read(&files), Err(TlsError::Read { .. })));
    }
}
