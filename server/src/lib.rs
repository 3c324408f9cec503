//! The hub of wtfs as a library: trackers, web seed and torrents of shared directories in one [`axum::Router`].
//!
//! [`Hub::open`] starts it, [`Hub::router`] is what it serves, to be nested in any application, and [`Hub::serve`] runs
//! it on a listener of its own, with limits, time-outs, and bytes of files that go from the page cache to the socket.
//!
//! ```
//! # async fn example() -> Result<(), wtfs_server::OpenError> {
//! let hub = wtfs_server::Hub::open(wtfs_server::HubConfig::new("/var/cache/hub".into())).await?;
//! let app: axum::Router = axum::Router::new().nest("/hub", hub.router());
//! # drop(app);
//! # Ok(())
//! # }
//! ```
//!
//! What holds throughout: no byte is served under a hash that was not made of it; no name from a request reaches the
//! file system; what clients send is bounded in length, number and time.
#![deny(missing_docs)]
#![forbid(unsafe_code)]

mod access_log;
mod audience;
mod browser_page;
mod client_addr;
mod closed_swarms;
mod config;
mod dashboard;
mod hf;
mod hub;
mod library;
pub mod listen;
mod metrics;
mod names;
mod own_peer;
mod page;
mod places;
mod roots;
mod routes;
mod serving;
mod shelves;
mod stats;
mod tls;
pub mod tracker;
mod webseed;

pub use access_log::{ACCESS_TARGET, AccessLog};
pub use audience::Audience;
pub use client_addr::{ClientAddr, Network, ParseNetworkError, TrustedProxies};
pub use config::HubConfig;
pub use hf::{HfConfig, HfError, HfMode, ParsePrivateSwarmsError, PrivateSwarms};
pub use hub::{Hub, OpenError};
pub use places::{PublicUrl, PublicUrlError};
pub use serving::ServingConfig;
pub use tls::{TlsError, TlsFiles};
