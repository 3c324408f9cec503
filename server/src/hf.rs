//! The caching proxy of a Hugging Face hub: its reading API and its files, fetched once from upstream and kept.
//!
//! [`HfProxy`] joins what is known ([`repos`]) with who may see it ([`rights`]) and asks upstream for what is missing,
//! once however many want it ([`flights`]). [`routes`] is HTTP over it; bytes are the engine's blobs.
//!
//! Nothing is served of a repository before upstream said, to this caller or to everybody, that it may be: also what is
//! in the cache, and what another repository put there. While upstream cannot be asked, what was public stays so.

use std::net::IpAddr;
use std::sync::{Arc, Mutex, MutexGuard, PoisonError};
use std::time::{Duration, Instant};

use tokio::sync::{Semaphore, SemaphorePermit};
use wtfs_proto::hf::{Commit, Repo, RepoInfo, RepoTree, Revision, TreeFile};
use wtfs_torrent::Session;
use wtfs_torrent::hf::blobs::{Blob, BlobOrigin, Blobs};
use wtfs_torrent::hf::{ApiRequest, DEFAULT_ENDPOINT, Token, Upstream, UpstreamConfig, UpstreamSetupError};

mod arrival;
mod caller;
mod config;
mod counters;
mod flights;
mod limits;
mod lookup;
mod nobody;
mod outage;
mod passing;
mod provenance;
mod recent;
mod refusal;
mod repos;
mod rights;
mod routes;
mod swarm;
mod taints;
mod trouble;

pub(crate) use caller::Caller;
pub use config::{HfConfig, HfMode, ParsePrivateSwarmsError, PrivateSwarms};
pub(crate) use counters::HfCounters;
pub(crate) use refusal::Refusal;
pub(crate) use routes::router;
pub(crate) use swarm::{HfNumbers, Swarms, router as swarm_router, stats_router};

use caller::OwnToken;
use counters::Counters;
use flights::Flights;
use limits::{Limits, Place};
use nobody::Nobody;
use outage::Outage;
use passing::{ANSWERS_BYTES_MAX, AnswerKey, KeptAnswer, Passed};
use provenance::Provenance;
use recent::Recent;
use refusal::Asker;
use repos::{Age, Found, Openness, Repos};
use rights::{Denial, Right, Rights, Standing, Terms, Viewer};
use taints::Taints;
use trouble::Trouble;

use crate::places::PublicUrl;

/// How long a whole tree may take to come, of which a large one has many pages.
const TREE_WAIT: Duration = Duration::from_secs(300);

/// Questions to upstream under way at once: each answer may take some megabytes.
const QUESTIONS_MAX: usize = 64;

/// Trees that are asked for at once, besides: one may be many pages, for which nobody else is to wait.
const LISTINGS_MAX: usize = 16;

/// Questions of either kind that one client may have caused; it waits with further ones.
const QUESTIONS_OF_ONE: usize = 16;

/// Why the proxy cannot start.
#[derive(Debug, thiserror::Error)]
#[non_exhaustive]
pub enum HfError {
    /// Its settings.
    #[error(transparent)]
    Upstream(#[from] UpstreamSetupError),
    /// The file with the hub's own token.
    #[error("the token in {} cannot be read: {why}; write it there, or leave that setting out", path.display())]
    Token {
        /// Which.
        path: std::path::PathBuf,
        /// What is wrong with it; never the token.
        why: String,
    },
}

/// The proxy. Clones are the same.
#[derive(Debug, Clone)]
pub(crate) struct HfProxy(Arc<Inner>);

#[derive(Debug)]
struct Inner {
    config: HfConfig,
    own_token: Option<OwnToken>,
    public_url: Option<PublicUrl>,
    upstream: Upstream,
    blobs: Blobs,
    repos: Repos,
    rights: Mutex<Rights>,
    under_way: UnderWay,
    questions: Semaphore,
    listings: Semaphore,
    asking: Limits,
    answers: Mutex<Recent<AnswerKey, KeptAnswer>>,
    outage: Mutex<Outage>,
    limits: Limits,
    taints: Arc<Mutex<Taints>>,
    provenance: Provenance,
    counters: Counters,
    sightings: swarm::Sightings,
}

/// Questions to upstream that others may wait for too.
#[derive(Debug, Default)]
struct UnderWay {
    infos: Flights<(Repo, Revision, Viewer), Result<Arc<RepoInfo>, Trouble>>,
    trees: Flights<(Repo, Commit, Viewer), Result<Arc<RepoTree>, Trouble>>,
    checks: Flights<(Repo, Viewer), Result<(), Trouble>>,
    answers: Flights<AnswerKey, Result<Passed, Trouble>>,
}

/// A revision of a repository that a caller may know of.
#[derive(Debug, Clone)]
pub(crate) struct Pinned {
    /// The repository as upstream has it, whatever it was asked by.
    pub(crate) repo: Repo,
    pub(crate) info: Arc<RepoInfo>,
    /// As whom upstream allows to see it: everybody, or the caller alone.
    viewer: Viewer,
    pub(crate) age: Age,
}

impl Pinned {
    pub(crate) fn commit(&self) -> Commit {
        self.info.commit
    }
}

/// A revision of a repository with all its names.
#[derive(Debug, Clone)]
pub(crate) struct Snapshot {
    pub(crate) pinned: Pinned,
    pub(crate) tree: Arc<RepoTree>,
    /// Whether everybody may read its content.
    pub(crate) is_public: bool,
}

impl HfProxy {
    /// Sets the proxy up. Asks nothing yet; reads the file with the token, if there is one.
    ///
    /// # Errors
    /// [`HfError`].
    pub(crate) fn open(
        config: HfConfig,
        session: &Session,
        cache_dir: &std::path::Path,
        public_url: Option<PublicUrl>,
    ) -> Result<Self, HfError> {
        let upstream = UpstreamConfig {
            allowed_hosts: config.allowed_hosts.clone(),
            may_be_private: config.upstream.trim_end_matches('/') != DEFAULT_ENDPOINT,
            ..UpstreamConfig::at(config.upstream.clone())
        };
        let upstream = Upstream::new(session.http().clone(), upstream)?;
        let own_token = match &config.token_file {
            None => None,
            Some(path) => {
                let wrong = |why: String| HfError::Token { path: path.clone(), why };
                let text = std::fs::read_to_string(path).map_err(|error| wrong(error.to_string()))?;
                let token = Token::parse(&text).map_err(|error| wrong(error.to_string()))?;
                Some(OwnToken { token, audience: config.token_audience.clone() })
            }
        };
        let terms = Terms {
            public: config.public_ttl,
            grant: config.grant_ttl,
            denial: config.denial_ttl,
            stale: config.stale_grants,
        };
        if config.private_swarms != PrivateSwarms::None {
            tracing::warn!(
                swarms = %config.private_swarms,
                "torrents are made of repositories that not everybody may read: this hub gives their metainfo to callers alone \
                 whose right upstream confirms, but whoever has learned an info hash can fetch all of it from the hub and \
                 from peers, also once the right is taken back"
            );
        }
        let repos = Repos::new(cache_dir.join("hf").join("repos"), config.ref_ttl, config.denial_ttl);
        Ok(Self(Arc::new(Inner {
            own_token,
            public_url,
            upstream,
            blobs: session.blobs().clone(),
            repos,
            rights: Mutex::new(Rights::new(terms)),
            under_way: UnderWay::default(),
            questions: Semaphore::new(QUESTIONS_MAX),
            listings: Semaphore::new(LISTINGS_MAX),
            asking: Limits::new(QUESTIONS_OF_ONE),
            answers: Mutex::new(Recent::new(ANSWERS_BYTES_MAX)),
            outage: Mutex::default(),
            limits: Limits::new(config.fetches_per_client),
            taints: Arc::default(),
            provenance: Provenance::open(cache_dir.join("hf").join("provenance")),
            counters: Counters::default(),
            sightings: swarm::Sightings::default(),
            config,
        })))
    }

    /// Finds a revision of a repository for a caller, asking upstream for what is not known or not believed any more.
    ///
    /// # Errors
    /// [`Refusal`]: there is none, the caller may not know of it, or upstream cannot be asked.
    ///
    /// # Cancel safety
    /// Cancel safe: a question that was sent goes on for others.
    pub(crate) async fn pin(
        &self,
        typed: &Repo,
        revision: &Revision,
        caller: &Caller,
    ) -> Result<Pinned, Refusal> {
        let inner = &self.0;
        let now = Instant::now();
        let found = inner.repos.find(typed, revision, now).await;
        let repo = match &found {
            Found::Ref(found) => found.repo.clone(),
            Found::Missing | Found::Nothing => inner.repos.canonical(typed),
        };
        let known = match &found {
            Found::Ref(found) => {
                inner.repos.info(&found.repo, found.commit).await.map(|info| (info, found.age))
            }
            Found::Missing | Found::Nothing => None,
        };
        let standing = inner.rights().standing(&repo, caller.viewer, Right::Listing, now);
        let viewers = match standing {
            Standing::Denied(denial) => return Err(Refusal::Denied(denial, caller.asker())),
            Standing::Allowed(viewer) => match (&found, &known) {
                (_, Some((info, Age::Fresh))) => {
                    return Ok(Pinned { repo, info: info.clone(), viewer, age: Age::Fresh });
                }
                (Found::Missing, _) => return Err(Refusal::Revision(revision.to_string())),
                _ if viewer == caller.viewer => vec![viewer],
                // It may have been closed to the public since.
                _ => vec![viewer, caller.viewer],
            },
            // What everybody may see is asked for as nobody in particular, so that one answer serves all.
            Standing::Unknown => {
                let is_closed = inner.rights().is_closed(&repo, Right::Listing, now);
                let anonymous = (!is_closed).then_some(Viewer::Anonymous);
                let own = (caller.viewer != Viewer::Anonymous).then_some(caller.viewer);
                anonymous.into_iter().chain(own).collect()
            }
        };
        let stale = known.and_then(|(info, _)| {
            let viewer = self.lapsed(&repo, &found, caller, Right::Listing, now)?;
            Some(Pinned { repo: repo.clone(), info, viewer, age: Age::Stale })
        });
        if inner.config.mode == HfMode::Offline {
            return stale.ok_or(Refusal::Offline);
        }
        if let Some(stale) = &stale
            && inner.outage().spares(now)
        {
            return Ok(stale.clone());
        }
        inner.ask_nobody_in_vain(stale.as_ref(), now)?;
        let mut denial = Denial::Hidden;
        for viewer in viewers {
            let asked = self.ask_info(typed, &repo, revision, viewer, caller);
            let wait = inner.wait(stale.as_ref());
            let answer = tokio::time::timeout(wait, asked).await;
            match answer.unwrap_or(Err(Trouble::Away(Refusal::Timeout))) {
                Ok(info) => {
                    let repo = Repo { kind: typed.kind, id: info.id.clone() };
                    return Ok(Pinned { repo, info, viewer, age: Age::Fresh });
                }
                Err(Trouble::Denied(why)) => denial = why,
                Err(Trouble::Missing | Trouble::NoEntry) => {
                    return Err(Refusal::Revision(revision.to_string()));
                }
                Err(Trouble::Away(refusal)) => {
                    inner.note_refusal(&refusal, now);
                    return stale.ok_or(refusal);
                }
                Err(Trouble::Failed(refusal)) => return Err(refusal),
            }
        }
        Err(Refusal::Denied(denial, caller.asker()))
    }

    /// As whom a right may be used although it lapsed. What is known from an earlier run counts as far as it was public.
    fn lapsed(
        &self,
        repo: &Repo,
        found: &Found,
        caller: &Caller,
        right: Right,
        now: Instant,
    ) -> Option<Viewer> {
        let mut rights = self.0.rights();
        if let Found::Ref(found) = found {
            match (found.openness, right) {
                (Openness::Open, _) | (Openness::Gated, Right::Listing) => {
                    rights.recall_public(repo, right, now);
                }
                _ => {}
            }
        }
        rights.lapsed(repo, caller.viewer, right, now)
    }

    /// Asks upstream for a revision, and notes what it says.
    async fn ask_info(
        &self,
        typed: &Repo,
        repo: &Repo,
        revision: &Revision,
        viewer: Viewer,
        caller: &Caller,
    ) -> Result<Arc<RepoInfo>, Trouble> {
        let key = (typed.clone(), revision.clone(), viewer);
        let (proxy, typed, repo, revision) = (self.clone(), typed.clone(), repo.clone(), revision.clone());
        let client = caller.client;
        let token = caller.token_as(viewer).cloned();
        let ask = move || async move {
            let inner = &proxy.0;
            let _turn = inner.turn_to_ask(client).await?;
            let info = inner.upstream.info(&typed, &revision, token.as_ref()).await;
            let now = Instant::now();
            match info {
                Ok(info) => {
                    inner.outage().end();
                    let info = Arc::new(info);
                    let openness = openness(&info, viewer);
                    inner.note_openness(
                        &Repo { kind: typed.kind, id: info.id.clone() },
                        viewer,
                        openness,
                        now,
                    );
                    inner.repos.note(&typed, &revision, info.clone(), openness, now).await;
                    Ok(info)
                }
                Err(error) => {
                    let trouble = Trouble::of(&error, viewer.into());
                    tracing::debug!(%error, %typed, %revision, "upstream tells nothing of a repository");
                    match &trouble {
                        Trouble::Denied(denial) => {
                            inner.outage().end();
                            let mut rights = inner.rights();
                            rights.note(&repo, viewer, Right::Listing, Err(*denial), now);
                            rights.note(&repo, viewer, Right::Content, Err(*denial), now);
                        }
                        Trouble::Missing | Trouble::NoEntry => {
                            inner.outage().end();
                            inner.rights().note(&repo, viewer, Right::Listing, Ok(()), now);
                            inner.repos.note_missing(&typed, &revision, now);
                        }
                        Trouble::Away(_) | Trouble::Failed(_) => {}
                    }
                    Err(trouble)
                }
            }
        };
        let lost = || Err(Trouble::Failed(Refusal::Internal));
        self.0.under_way.infos.run(key, ask).await.unwrap_or_else(lost)
    }

    /// All names of a revision that was found.
    ///
    /// # Errors
    /// [`Refusal`] when upstream must be asked and cannot be, or has none.
    ///
    /// # Cancel safety
    /// Cancel safe: a question that was sent goes on for others.
    pub(crate) async fn snapshot(&self, pinned: Pinned, caller: &Caller) -> Result<Snapshot, Refusal> {
        let inner = &self.0;
        let commit = pinned.commit();
        let tree = match inner.repos.tree(&pinned.repo, commit).await {
            Some(tree) => tree,
            None if inner.config.mode == HfMode::Offline => return Err(Refusal::Offline),
            None => {
                let key = (pinned.repo.clone(), commit, pinned.viewer);
                let (proxy, repo) = (self.clone(), pinned.repo.clone());
                let (viewer, token) = (pinned.viewer, caller.token_as(pinned.viewer).cloned());
                let client = caller.client;
                let ask = move || async move {
                    let _place = proxy.0.place_to_ask(client).await?;
                    let _turn = proxy.0.listings.acquire().await;
                    let asked = proxy.0.upstream.tree(&repo, commit, token.as_ref());
                    let tree = match tokio::time::timeout(TREE_WAIT, asked).await {
                        Ok(Ok(tree)) => Arc::new(tree),
                        Ok(Err(error)) => {
                            tracing::debug!(%error, %repo, %commit, "upstream gives no tree");
                            return Err(Trouble::of(&error, viewer.into()));
                        }
                        Err(_elapsed) => return Err(Trouble::Away(Refusal::Timeout)),
                    };
                    proxy.0.repos.keep_tree(&repo, tree.clone()).await;
                    Ok(tree)
                };
                let lost = || Err(Trouble::Failed(Refusal::Internal));
                let asked = inner.under_way.trees.run(key, ask);
                let tree = match tokio::time::timeout(inner.config.patience, asked).await {
                    Ok(answer) => answer.unwrap_or_else(lost),
                    Err(_elapsed) => Err(Trouble::Away(Refusal::Timeout)),
                };
                tree.map_err(|trouble| trouble.refusal(caller.asker()))?
            }
        };
        let is_public = self.is_public(&pinned);
        Ok(Snapshot { pinned, tree, is_public })
    }

    /// Whether everybody may read a revision's content, as far as is known.
    fn is_public(&self, pinned: &Pinned) -> bool {
        let openness = self.0.repos.openness(&pinned.repo);
        pinned.viewer == Viewer::Anonymous
            && openness.is_none_or(|openness| openness == Openness::Open)
            && pinned.info.is_public()
    }

    /// Whether a caller may read the content of a revision, and with which token upstream gives it.
    ///
    /// # Errors
    /// [`Refusal`]: it may not, or that cannot be found out.
    ///
    /// # Cancel safety
    /// Cancel safe: a question that was sent goes on for others.
    pub(crate) async fn may_read(&self, pinned: &Pinned, caller: &Caller) -> Result<Option<Token>, Refusal> {
        let inner = &self.0;
        let (repo, now) = (&pinned.repo, Instant::now());
        let as_viewer = |viewer| Ok(caller.token_as(viewer).cloned());
        let denied = |denial| Err(Refusal::Denied(denial, caller.asker()));
        let standing = inner.rights().standing(repo, caller.viewer, Right::Content, now);
        match standing {
            Standing::Allowed(viewer) => return as_viewer(viewer),
            // What nobody may without a token, somebody may with one.
            Standing::Denied(denial) => return denied(denial),
            Standing::Unknown => {}
        }
        let openness = inner.repos.openness(repo).unwrap_or_else(|| openness(&pinned.info, pinned.viewer));
        match openness {
            Openness::Open | Openness::Private { is_gated: false } => return as_viewer(pinned.viewer),
            Openness::Disabled => return denied(Denial::Disabled),
            Openness::Gated | Openness::Private { is_gated: true } => {}
        }
        if caller.viewer == Viewer::Anonymous {
            return denied(Denial::Gated);
        }
        let lapsed = inner.rights().lapsed(repo, caller.viewer, Right::Content, now);
        if inner.config.mode == HfMode::Offline {
            return lapsed.map_or(Err(Refusal::Offline), as_viewer);
        }
        if let Some(viewer) = lapsed
            && inner.outage().spares(now)
        {
            return as_viewer(viewer);
        }
        inner.ask_nobody_in_vain(lapsed.as_ref(), now)?;
        let checked = tokio::time::timeout(inner.config.patience, self.check(repo, caller)).await;
        match checked.unwrap_or(Err(Trouble::Away(Refusal::Timeout))) {
            Ok(()) => as_viewer(caller.viewer),
            Err(Trouble::Away(refusal)) => {
                inner.note_refusal(&refusal, now);
                lapsed.map_or(Err(refusal), as_viewer)
            }
            Err(trouble) => Err(trouble.refusal(caller.asker())),
        }
    }

    /// Asks upstream whether a token may read a repository's content, and notes what it says.
    async fn check(&self, repo: &Repo, caller: &Caller) -> Result<(), Trouble> {
        let (proxy, key) = (self.clone(), (repo.clone(), caller.viewer));
        let (repo, viewer) = key.clone();
        let (client, token) = (caller.client, caller.token_as(viewer).cloned());
        let ask = move || async move {
            let _turn = proxy.0.turn_to_ask(client).await?;
            let request = ApiRequest::get(format!("{}/auth-check", repo.api_path()));
            let answer = proxy.0.upstream.pass(request, token.as_ref()).await;
            let outcome = answer.and_then(|answer| answer.successful(token.as_ref()));
            let outcome = outcome.map(drop).map_err(|error| Trouble::of(&error, Asker::SignedIn));
            let noted = match &outcome {
                Ok(()) => Ok(()),
                Err(Trouble::Denied(denial)) => Err(*denial),
                Err(_) => return outcome,
            };
            proxy.0.rights().note(&repo, viewer, Right::Content, noted, Instant::now());
            outcome
        };
        let lost = || Err(Trouble::Failed(Refusal::Internal));
        self.0.under_way.checks.run(key, ask).await.unwrap_or_else(lost)
    }

    /// The blob of a file, for one reader.
    pub(crate) fn blob_of(&self, file: &TreeFile) -> Blob {
        self.0.blobs.get(file.id, file.bytes)
    }

    /// Where the bytes of a file come from, for who may read it ([`Self::may_read`]).
    pub(crate) fn origin_of(
        &self,
        pinned: &Pinned,
        file: &TreeFile,
        token: Option<Token>,
    ) -> Arc<dyn BlobOrigin> {
        let (repo, path) = (pinned.repo.clone(), file.path.clone());
        let fetched = self.0.upstream.file(repo, pinned.commit(), path, file.bytes, token);
        match self.0.config.mode {
            HfMode::Online => Arc::new(fetched),
            HfMode::Offline => Arc::new(Nobody),
        }
    }

    /// The hub that is asked.
    pub(crate) fn upstream(&self) -> &Upstream {
        &self.0.upstream
    }

    /// What was served and asked for, since the start.
    pub(crate) fn counters(&self) -> HfCounters {
        self.0.counters.read(self.0.upstream.counters(), self.0.repos.tree_count())
    }
}

impl Inner {
    fn rights(&self) -> MutexGuard<'_, Rights> {
        // Whole between any two statements.
        self.rights.lock().unwrap_or_else(PoisonError::into_inner)
    }

    /// How long an answer of upstream is waited for: half as long where something older could be served.
    fn wait<T>(&self, older: Option<&T>) -> Duration {
        if older.is_some() { self.config.patience / 2 } else { self.config.patience }
    }

    /// A place among the questions that one client may cause.
    async fn place_to_ask(&self, client: IpAddr) -> Result<Place, Trouble> {
        self.asking.take(client, self.config.patience).await.ok_or(Trouble::Failed(Refusal::Busy))
    }

    /// The same, and a turn to ask upstream.
    async fn turn_to_ask(&self, client: IpAddr) -> Result<(Place, Option<SemaphorePermit<'_>>), Trouble> {
        let place = self.place_to_ask(client).await?;
        // Never closed.
        Ok((place, self.questions.acquire().await.ok()))
    }

    fn outage(&self) -> MutexGuard<'_, Outage> {
        self.outage.lock().unwrap_or_else(PoisonError::into_inner)
    }

    fn is_away(&self, now: Instant) -> bool {
        self.outage().is_on(now)
    }

    /// A question asked at `asked` was not answered.
    fn note_away(&self, asked: Instant) {
        self.outage().note(asked, Instant::now());
    }

    /// The same, by what is told to who asked. An upstream that answered, with an error and after some tries, is not
    /// silent, and the next question is worth asking.
    fn note_refusal(&self, refusal: &Refusal, asked: Instant) {
        self.note_away(if *refusal == Refusal::Timeout { asked } else { Instant::now() });
    }

    /// Refuses a question that there is nothing older for, if others waited for upstream in vain just now.
    fn ask_nobody_in_vain<T>(&self, older: Option<&T>, now: Instant) -> Result<(), Refusal> {
        if older.is_some() {
            return Ok(());
        }
        match self.outage().refuses(now) {
            Some(again) => Err(Refusal::Unavailable(Some(again))),
            None => Ok(()),
        }
    }

    /// Notes the rights that follow from how open a repository is, as upstream told `viewer`.
    fn note_openness(&self, repo: &Repo, viewer: Viewer, openness: Openness, now: Instant) {
        let mut rights = self.rights();
        rights.note(repo, viewer, Right::Listing, Ok(()), now);
        match openness {
            Openness::Open | Openness::Private { is_gated: false } => {
                rights.note(repo, viewer, Right::Content, Ok(()), now);
            }
            // Others with a token are asked about one by one.
            Openness::Gated => {
                rights.note(repo, Viewer::Anonymous, Right::Content, Err(Denial::Gated), now);
            }
            Openness::Private { is_gated: true } => {}
            Openness::Disabled => rights.note(repo, viewer, Right::Content, Err(Denial::Disabled), now),
        }
    }
}

/// How open a repository is, by what upstream told somebody of it.
fn openness(info: &RepoInfo, viewer: Viewer) -> Openness {
    match viewer {
        _ if info.is_disabled => Openness::Disabled,
        Viewer::Anonymous if info.is_gated => Openness::Gated,
        Viewer::Anonymous => Openness::Open,
        // It was refused to others before; or it is asked for as before.
        Viewer::Token(_) if info.is_private => Openness::Private { is_gated: info.is_gated },
        Viewer::Token(_) if info.is_gated => Openness::Private { is_gated: true },
        Viewer::Token(_) => Openness::Private { is_gated: false },
    }
}
