//! The hubs that a command asks: a person who waits for them is told so, and what was named as one is asked whether it is.
//!
//! Without a network there is nobody to wait for, and nobody is asked.

use std::fmt;
use std::future::Future;
use std::pin::pin;
use std::time::Duration;

use wtfs_torrent::hf::{ApiAnswer, ApiRequest, Upstream, UpstreamError};

use crate::exit::{Exit, ended};
use crate::progress::Show;
use crate::table::printable;

/// After how long people wonder what is being waited for.
const WONDER: Duration = Duration::from_millis(1500);

/// How long a hub may take to show that it is one: as long as its answers may take otherwise.
const ANSWER: Duration = Duration::from_secs(10);

/// No repository can have this name, so that a hub answers by itself, without asking anybody else.
const NOBODYS: &str = "/api/models/-/-";

/// Those that are asked, in this order.
#[derive(Debug)]
pub(crate) struct Hubs {
    asked: Vec<Upstream>,
    show: Show,
}

impl Hubs {
    pub(crate) fn new(asked: Vec<Upstream>, show: Show) -> Self {
        Self { asked, show }
    }

    /// Waits for what hubs are asked for, and says whom it waits for where that takes long.
    ///
    /// # Cancel safety
    /// As `work`.
    pub(crate) async fn wait_for<T>(&self, work: impl Future<Output = T>) -> T {
        telling(work, tokio::time::sleep(WONDER), || {
            if self.show == Show::OnTerminal && !self.asked.is_empty() {
                eprintln!("wtfs: waiting for {self} to answer");
            }
        })
        .await
    }

    /// Asks the first whether it is a hub. One that does not answer now is believed to be one: the mount may outlive
    /// its absence.
    ///
    /// # Errors
    /// Something else answers there.
    ///
    /// # Cancel safety
    /// Cancel safe: nothing is changed.
    pub(crate) async fn check(&self) -> anyhow::Result<()> {
        let Some(hub) = self.asked.first() else { return Ok(()) };
        let asked = tokio::time::timeout(ANSWER, hub.pass(ApiRequest::get(NOBODYS), None));
        let endpoint = printable(hub.endpoint());
        match judge(self.wait_for(asked).await.ok()) {
            Verdict::Hub => Ok(()),
            Verdict::Away(why) => {
                tracing::warn!(
                    "{endpoint} does not answer now: {why}; what is not in the cache shows once it does"
                );
                Ok(())
            }
            Verdict::Other(why) => Err(ended(
                Exit::Source,
                format!(
                    "{endpoint} is no hub: {why}; give the address of a running `wtfs serve` with /hf behind it, as \
                     http://HOST:PORT/hf"
                ),
            )),
        }
    }
}

/// For people: their hosts.
impl fmt::Display for Hubs {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        let hosts: Vec<String> = self.asked.iter().map(Upstream::host).collect();
        f.write_str(&printable(&hosts.join(", then ")))
    }
}

/// Who it is that was asked.
#[derive(Debug, PartialEq, Eq)]
enum Verdict {
    Hub,
    /// Nobody answered, or somebody in front of it.
    Away(String),
    Other(String),
}

/// What comes of the question; `None` when time ran out.
fn judge(asked: Option<Result<ApiAnswer, UpstreamError>>) -> Verdict {
    match asked {
        None => Verdict::Away(format!("nothing came within {} s", ANSWER.as_secs())),
        Some(Err(error)) if error.is_transient() => Verdict::Away(error.to_string()),
        Some(Err(error)) => Verdict::Other(error.to_string()),
        // Hubs say what is wrong in headers of theirs.
        Some(Ok(answer)) if answer.error_code.is_some() || answer.error_message.is_some() => Verdict::Hub,
        Some(Ok(ApiAnswer { status, .. })) => {
            let why = format!("it answered with HTTP status {status}");
            if matches!(status, 408 | 429 | 500..) { Verdict::Away(why) } else { Verdict::Other(why) }
        }
    }
}

/// Calls `tell` once if `wonder` is over before `work` is.
async fn telling<T>(
    work: impl Future<Output = T>,
    wonder: impl Future<Output = ()>,
    tell: impl FnOnce(),
) -> T {
    let mut work = pin!(work);
    tokio::select! {
        biased;
        done = &mut work => return done,
        () = wonder => tell(),
    }
    work.await
}

#[cfg(test)]
mod tests {
    use std::future::{pending, ready};

    use tokio::sync::oneshot;

    use super::*;

    #[tokio::test(flavor = "multi_thread", worker_threads = 1)]
    async fn who_waits_long_is_told_and_who_does_not_is_not() {
        assert_eq!(telling(ready(7), ready(()), || panic!("told")).await, 7);
        assert_eq!(telling(async { 7 }, pending(), || panic!("told")).await, 7);
        let (tell, told) = oneshot::channel();
        assert_eq!(telling(told, ready(()), || tell.send(7).expect("waited for")).await, Ok(7));
    }

    #[test]
    fn a_hub_that_is_away_is_no_other_program() {
        let host = || "h".to_owned();
        assert!(matches!(judge(None), Verdict::Away(_)));
        assert!(matches!(judge(Some(Err(UpstreamError::Timeout { host: host() }))), Verdict::Away(_)));
        let refused = UpstreamError::Refused { host: host(), why: "why" };
        assert!(matches!(judge(Some(Err(refused))), Verdict::Other(_)));
    }
}
