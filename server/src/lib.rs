//! The hub of wtfs as a library: an [`axum::Router`] over a [`Library`] of torrents.
//!
//! [`Library`] is the port: whatever has torrents can be served, and the engine's [`Session`](wtfs_torrent::Session)
//! is one. The hub only ever reads from it. What is here now is the least that is of use to others: which torrents
//! there are, and each as a `.torrent` or a magnet link. Trackers, web seed and the rest mount on the same router.
//!
//! ```
//! # async fn example(session: wtfs_torrent::Session) {
//! let hub = wtfs_server::Hub::open(std::sync::Arc::new(session));
//! let app: axum::Router = axum::Router::new().nest("/hub", hub.router());
//! # drop(app);
//! # }
//! ```
#![deny(missing_docs)]
#![forbid(unsafe_code)]

use std::io;
use std::sync::Arc;

use axum::Router;
use tokio::net::TcpListener;
use tokio_util::sync::CancellationToken;

mod client_addr;
mod library;
mod routes;
pub mod tracker;

pub use client_addr::{ClientAddr, Network, ParseNetworkError, TrustedProxies};
pub use library::{Library, Listed};

/// A hub over a library. Clones are the same hub.
#[derive(Debug, Clone)]
pub struct Hub {
    library: Arc<dyn Library>,
}

impl Hub {
    /// A hub that serves what `library` has.
    pub fn open(library: Arc<dyn Library>) -> Self {
        Self { library }
    }

    /// Everything the hub serves, to be merged into or nested in another application's router.
    pub fn router(&self) -> Router {
        routes::router(self.library.clone())
    }

    /// Serves on a listener until `stop` is cancelled; responses that have begun are finished.
    ///
    /// # Errors
    /// When the listener fails.
    ///
    /// # Cancel safety
    /// Dropping the future closes the listener and abandons what is being sent.
    pub async fn serve(&self, listener: TcpListener, stop: CancellationToken) -> io::Result<()> {
        axum::serve(listener, self.router()).with_graceful_shutdown(stop.cancelled_owned()).await
    }
}
