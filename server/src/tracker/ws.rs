//! Web sockets: WebTorrent clients announce, and meet by offers and answers that pass through here.
//!
//! Owns the upgrade of a request, and who may have a socket. What is said on one is in `socket`, and how messages
//! reach others in `registry`.
//!
//! Invariant: a socket costs little while it is idle: its buffers are small and grow with what is said.

use std::net::IpAddr;
use std::time::Duration;

use axum::body::Body;
use axum::extract::ws::WebSocketUpgrade;
use axum::extract::{FromRequestParts, Request};
use axum::http::header::{CONNECTION, ORIGIN, UPGRADE};
use axum::http::{HeaderMap, Response, StatusCode};
use axum::response::IntoResponse;

use super::Tracker;
use crate::client_addr::ClientAddr;

mod registry;
mod socket;

pub(super) use registry::Registry;
pub(super) use socket::serve_own;

/// Bytes that are read from a socket at once. There is such a buffer for each.
const READ_BUFFER_BYTES: usize = 1024;

/// Bytes that tungstenite may hold besides the message it writes.
const WRITE_BUFFER_BYTES: usize = 16 * 1024;

/// Whether a request wants to become a web socket (RFC 6455, section 4.1).
pub fn is_upgrade(headers: &HeaderMap) -> bool {
    let has = |name, word: &str| {
        let values = headers.get_all(name).iter().filter_map(|value| value.to_str().ok());
        values.flat_map(|value| value.split(',')).any(|value| value.trim().eq_ignore_ascii_case(word))
    };
    has(UPGRADE, "websocket") && has(CONNECTION, "upgrade")
}

/// Turns a request into a web socket that speaks to the tracker.
pub(super) async fn upgrade(tracker: Tracker, passkey: Option<String>, request: Request) -> Response<Body> {
    let (mut parts, _) = request.into_parts();
    let upgrade = match WebSocketUpgrade::from_request_parts(&mut parts, &()).await {
        Ok(upgrade) => upgrade,
        Err(rejection) => return rejection.into_response(),
    };
    let refuse = |status: StatusCode, why: &'static str| {
        tracker.shared.counters.sockets_refused.add_one();
        (status, why).into_response()
    };
    let Some(ClientAddr(client)) = ClientAddr::of(&parts) else {
        return refuse(StatusCode::INTERNAL_SERVER_ERROR, "the server does not tell clients' addresses\n");
    };
    let origin = parts.headers.get(ORIGIN).map(|origin| origin.to_str().unwrap_or("null"));
    if !tracker.shared.access.welcomes(origin) {
        return refuse(StatusCode::FORBIDDEN, "pages of this origin may not use this tracker\n");
    }
    if tracker.shared.access.admit(passkey.as_deref()).is_err() {
        return refuse(StatusCode::FORBIDDEN, "this tracker needs a passkey in its URL\n");
    }
    let from: IpAddr = super::canonical(client);
    let limits = &tracker.shared.config.sockets;
    let Some(seat) = tracker.shared.registry.seat(from) else {
        return refuse(StatusCode::TOO_MANY_REQUESTS, "too many web sockets\n");
    };
    tracker.shared.counters.sockets_opened.add_one();
    let upgrade = upgrade
        .read_buffer_size(READ_BUFFER_BYTES)
        .write_buffer_size(0)
        // A message is written or waited for: the buffer holds the one and what it is framed with.
        .max_write_buffer_size(limits.max_message_bytes * 4 + WRITE_BUFFER_BYTES)
        .max_message_size(limits.max_message_bytes)
        .max_frame_size(limits.max_message_bytes);
    drop(parts);
    let tracker = tracker.clone();
    upgrade.on_upgrade(move |socket| socket::serve(tracker, socket, seat, from, passkey)).into_response()
}

/// How long a socket may be silent before it is given up.
fn silence(ping_interval: Duration) -> Duration {
    ping_interval * 5 / 2
}

#[cfg(test)]
pub(super) mod tests;
