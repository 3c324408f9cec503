//! Answers of upstream that are passed on, without being understood: which repositories there are, branches and tags,
//! commits, whose token it is.
//!
//! Only JSON is, without Xet, and no header but where the next page is, which is made ours. Answers are kept for a short
//! while, by whom they were given to; of a repository's branches the last one is kept for when upstream is away.

use std::sync::PoisonError;
use std::time::{Duration, Instant};

use bytes::Bytes;
use serde_json::Value;
use wtfs_proto::hf::{Repo, RepoKind, clean};
use wtfs_torrent::hf::{ApiRequest, Token};

use super::refusal::Refusal;
use super::repos::Age;
use super::rights::{Denial, Viewer};
use super::trouble::Trouble;
use super::{Caller, HfMode, HfProxy, Pinned};

/// Answers kept, in bytes.
pub(crate) const ANSWERS_BYTES_MAX: usize = 16 << 20;

/// How long it is believed whose a token is: upstream limits that question strictly.
const WHO_AM_I: Duration = Duration::from_secs(60);

/// How long a list of repositories is believed.
const LIST: Duration = Duration::from_secs(60);

/// By whom, and what was asked.
#[derive(Debug, Clone, PartialEq, Eq, Hash)]
pub(crate) struct AnswerKey {
    viewer: Viewer,
    path: String,
    query: Option<String>,
    /// The body of a question that has one.
    question: Option<Bytes>,
}

/// An answer, and when it came.
#[derive(Debug, Clone)]
pub(crate) struct KeptAnswer {
    answer: Passed,
    at: Instant,
}

/// JSON to be passed on.
#[derive(Debug, Clone)]
pub(crate) struct Passed {
    pub(crate) body: Bytes,
    /// Path and query, below upstream's address, of the next page.
    pub(crate) next: Option<String>,
    /// Whether it may be out of date.
    pub(crate) age: Age,
}

impl HfProxy {
    /// Asks upstream, as `viewer`, or remembers what it said within `ttl`; once however many ask the same.
    ///
    /// # Errors
    /// [`Trouble`].
    ///
    /// # Cancel safety
    /// Cancel safe: a question that was sent goes on for others.
    async fn pass(
        &self,
        request: ApiRequest,
        viewer: Viewer,
        caller: &Caller,
        ttl: Duration,
    ) -> Result<Passed, Trouble> {
        let question = request.body.as_ref().map(|(_, body)| body.clone());
        let key = AnswerKey { viewer, path: request.path.clone(), query: request.query.clone(), question };
        let kept = self.kept(&key);
        let inner = &self.0;
        let now = Instant::now();
        if let Some(kept) = kept.as_ref().filter(|kept| now.saturating_duration_since(kept.at) < ttl) {
            return Ok(kept.answer.clone());
        }
        // What is a little old is better than nothing.
        let old = kept.map(|kept| Passed { age: Age::Stale, ..kept.answer });
        if inner.config.mode == HfMode::Offline {
            return old.ok_or(Trouble::Away(Refusal::Offline));
        }
        if let Some(old) = &old
            && inner.outage().spares(now)
        {
            return Ok(old.clone());
        }
        inner.ask_nobody_in_vain(old.as_ref(), now).map_err(Trouble::Away)?;
        let wait = inner.wait(old.as_ref());
        let (proxy, asked, token) = (self.clone(), key.clone(), caller.token_as(viewer).cloned());
        let client = caller.client;
        let ask = move || async move {
            let _turn = proxy.0.turn_to_ask(client).await?;
            proxy.ask_json(request, asked, token).await
        };
        let answer = tokio::time::timeout(wait, inner.under_way.answers.run(key, ask)).await;
        let lost = Err(Trouble::Failed(Refusal::Internal));
        match answer.map_or(Err(Trouble::Away(Refusal::Timeout)), |answer| answer.unwrap_or(lost)) {
            Err(Trouble::Away(refusal)) => {
                // Of a limit or nonsense other questions know nothing.
                if matches!(refusal, Refusal::Timeout | Refusal::Unavailable(_)) {
                    // Nor of how long this one took: it may be a large list.
                    inner.note_away(Instant::now());
                }
                old.ok_or(Trouble::Away(refusal))
            }
            answer => answer,
        }
    }

    async fn ask_json(
        &self,
        request: ApiRequest,
        key: AnswerKey,
        token: Option<Token>,
    ) -> Result<Passed, Trouble> {
        let inner = &self.0;
        let answer = inner.upstream.pass(request, token.as_ref()).await;
        let answer = answer.and_then(|answer| answer.successful(token.as_ref()));
        let answer = answer.map_err(|error| Trouble::of(&error, key.viewer.into()))?;
        let mut json: Value = serde_json::from_slice(&answer.body).map_err(|_| {
            Trouble::Away(Refusal::BadGateway("what upstream answered is no JSON".to_owned()))
        })?;
        clean(&mut json);
        let next = answer.next_page.as_deref().and_then(|next| below(next, inner.upstream.endpoint()));
        inner.outage().end();
        let answer = Passed { body: Bytes::from(json.to_string()), next, age: Age::Fresh };
        let weight = answer.body.len()
            + key.path.len()
            + key.query.as_ref().map_or(0, String::len)
            + key.question.as_ref().map_or(0, Bytes::len)
            + 200;
        let mut answers = inner.answers.lock().unwrap_or_else(PoisonError::into_inner);
        answers.put(key, KeptAnswer { answer: answer.clone(), at: Instant::now() }, weight);
        Ok(answer)
    }

    fn kept(&self, key: &AnswerKey) -> Option<KeptAnswer> {
        self.0.answers.lock().unwrap_or_else(PoisonError::into_inner).find(key).cloned()
    }

    /// Whose token the caller has.
    ///
    /// # Errors
    /// [`Refusal`].
    ///
    /// # Cancel safety
    /// Cancel safe.
    pub(super) async fn who_am_i(&self, caller: &Caller) -> Result<Passed, Refusal> {
        let answer = self.pass(ApiRequest::get("/api/whoami-v2"), caller.viewer, caller, WHO_AM_I).await;
        answer.map_err(|trouble| match trouble {
            Trouble::Denied(_) => Refusal::Denied(Denial::BadToken, caller.asker()),
            trouble => trouble.refusal(caller.asker()),
        })
    }

    /// Which repositories there are, as upstream tells the caller: with a token private ones too.
    ///
    /// # Errors
    /// [`Refusal`].
    ///
    /// # Cancel safety
    /// Cancel safe.
    pub(super) async fn list(
        &self,
        kind: RepoKind,
        query: Option<String>,
        caller: &Caller,
    ) -> Result<Passed, Refusal> {
        let request = ApiRequest { query, ..ApiRequest::get(format!("/api/{}", kind.api())) };
        let answer = self.pass(request, caller.viewer, caller, LIST).await;
        answer.map_err(|trouble| match trouble {
            // There is nothing to be hidden.
            Trouble::Missing | Trouble::NoEntry => Refusal::Nowhere,
            trouble => trouble.refusal(caller.asker()),
        })
    }

    /// The branches and tags of a repository of which a revision was found.
    ///
    /// # Errors
    /// [`Refusal`].
    ///
    /// # Cancel safety
    /// Cancel safe.
    pub(super) async fn refs(
        &self,
        pinned: &Pinned,
        query: Option<String>,
        caller: &Caller,
    ) -> Result<Passed, Refusal> {
        let name = if query.is_some() { "refs-all" } else { "refs" };
        if self.0.is_away(Instant::now())
            && let Some(kept) = self.kept_refs(&pinned.repo, name).await
        {
            return Ok(kept);
        }
        let request = ApiRequest { query, ..ApiRequest::get(format!("{}/refs", pinned.repo.api_path())) };
        match self.pass(request, pinned.viewer, caller, self.0.config.ref_ttl).await {
            Ok(answer) => {
                self.0.repos.keep_answer(&pinned.repo, name, answer.body.to_vec()).await;
                Ok(answer)
            }
            Err(Trouble::Away(refusal)) => self.kept_refs(&pinned.repo, name).await.ok_or(refusal),
            Err(trouble) => Err(trouble.refusal(caller.asker())),
        }
    }

    async fn kept_refs(&self, repo: &Repo, name: &'static str) -> Option<Passed> {
        let kept = self.0.repos.answer(repo, name).await;
        let kept = kept.filter(|kept| serde_json::from_slice::<Value>(kept).is_ok())?;
        Some(Passed { body: kept.into(), next: None, age: Age::Stale })
    }

    /// Any other question about a repository that was found.
    ///
    /// # Errors
    /// [`Refusal`].
    ///
    /// # Cancel safety
    /// Cancel safe.
    pub(super) async fn pass_of(
        &self,
        pinned: &Pinned,
        request: ApiRequest,
        caller: &Caller,
    ) -> Result<Passed, Refusal> {
        let answer = self.pass(request, pinned.viewer, caller, self.0.config.ref_ttl).await;
        answer.map_err(|trouble| trouble.refusal(caller.asker()))
    }

    /// Whether upstream lets the caller write.
    ///
    /// # Errors
    /// [`Refusal`]: it does not.
    ///
    /// # Cancel safety
    /// Dropping the future ends the question.
    pub(super) async fn may_write(&self, repo: &Repo, caller: &Caller) -> Result<(), Refusal> {
        if self.0.config.mode == HfMode::Offline {
            return Err(Refusal::Offline);
        }
        let request = ApiRequest::get(format!("{}/auth-check/write", repo.api_path()));
        let turn = self.0.turn_to_ask(caller.client).await;
        let _turn = turn.map_err(|trouble| trouble.refusal(caller.asker()))?;
        let asked = self.0.upstream.pass(request, caller.token());
        let answer =
            tokio::time::timeout(self.0.config.patience, asked).await.map_err(|_elapsed| Refusal::Timeout)?;
        let outcome = answer.and_then(|answer| answer.successful(caller.token()));
        outcome.map(drop).map_err(|error| Trouble::of(&error, caller.asker()).refusal(caller.asker()))
    }
}

/// What of an address is below upstream's: path and query.
fn below(next: &str, endpoint: &str) -> Option<String> {
    let rest = next.strip_prefix(endpoint).unwrap_or(next);
    // Anything else leads away from upstream, and nobody is sent there; nor to what this hub has besides.
    rest.starts_with("/api/").then(|| rest.to_owned())
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn the_next_page_is_one_of_upstreams_or_none() {
        let endpoint = "https://hf.example/x";
        assert_eq!(below("https://hf.example/x/api/a?p=2", endpoint).as_deref(), Some("/api/a?p=2"));
        assert_eq!(below("/api/a?p=2", endpoint).as_deref(), Some("/api/a?p=2"));
        for elsewhere in [
            "https://evil.example/api/",
            "api/?p=2",
            "",
            "https://hf.example/xy",
            "//evil.example/api/",
            "/torrent/a/b",
        ] {
            assert_eq!(below(elsewhere, endpoint), None, "{elsewhere}");
        }
    }
}
