//! A whole answer of a hub's API, within a limit.

use std::time::Duration;

use bytes::{Bytes, BytesMut};
use reqwest::header::{CONTENT_ENCODING, CONTENT_TYPE, LINK};
use wtfs_proto::hf::{Commit, ErrorCode, link_of_next};

use super::Token;
use super::error::UpstreamError;
use super::request::{Landed, Verdict, header};

/// An answer, whatever its status.
#[derive(Debug, Clone)]
pub struct ApiAnswer {
    /// The status.
    pub status: u16,
    /// What `X-Error-Code` and `X-Error-Message` say.
    pub error_code: Option<ErrorCode>,
    /// `X-Error-Message`.
    pub error_message: Option<String>,
    /// How long the hub asks to wait.
    pub retry_after: Option<Duration>,
    /// `X-Repo-Commit`.
    pub commit: Option<Commit>,
    /// `Content-Type`.
    pub content_type: Option<String>,
    /// Where the next page is: an address of the hub's, to be given to nobody.
    pub next_page: Option<String>,
    /// The body. It may name the hub's hosts, and Xet.
    pub body: Bytes,
    verdict: Verdict,
    host: String,
}

impl ApiAnswer {
    pub(super) async fn read(landed: Landed, most: usize, idle: Duration) -> Result<Self, UpstreamError> {
        let (verdict, error_message) = (landed.verdict(), landed.message());
        let Landed { mut response, host, commit, .. } = landed;
        if header(&response, &CONTENT_ENCODING).is_some_and(|coding| coding != "identity") {
            return Err(UpstreamError::Garbage { host, why: "it is compressed, unasked".to_owned() });
        }
        let content_type = header(&response, &CONTENT_TYPE).map(str::to_owned);
        let next_page = header(&response, &LINK).and_then(link_of_next).map(str::to_owned);
        let too_large = || UpstreamError::TooLarge { host: host.clone() };
        if response.content_length().is_some_and(|bytes| usize::try_from(bytes).is_ok_and(|n| n > most)) {
            return Err(too_large());
        }
        let mut body = BytesMut::new();
        loop {
            let part = tokio::time::timeout(idle, response.chunk()).await;
            match part {
                Err(_) => return Err(UpstreamError::Timeout { host }),
                // The length that was announced did not come, or the connection broke.
                Ok(Err(_)) => return Err(UpstreamError::CutShort { host }),
                Ok(Ok(None)) => break,
                Ok(Ok(Some(part))) if body.len() + part.len() > most => return Err(too_large()),
                Ok(Ok(Some(part))) => body.extend_from_slice(&part),
            }
        }
        Ok(Self {
            status: verdict.status.as_u16(),
            error_code: verdict.code,
            error_message,
            retry_after: verdict.retry_after,
            commit,
            content_type,
            next_page,
            body: body.freeze(),
            verdict,
            host,
        })
    }

    /// The answer if it is a success, else what it stands for. `token` is the one it was asked with.
    ///
    /// # Errors
    /// [`UpstreamError`].
    pub fn successful(self, token: Option<&Token>) -> Result<Self, UpstreamError> {
        match self.verdict.error(&self.host, token.into(), self.commit) {
            None => Ok(self),
            Some(error) => Err(error),
        }
    }
}
