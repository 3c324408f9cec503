//! One file of a revision: from the tree, or by asking for it alone where the tree takes long to come.
//!
//! The tree of a repository with a hundred thousand files is a hundred pages. Who asks for one file of it gives up after
//! 10 s; so after a moment that file is asked for by itself, and the tree goes on coming for those who ask next.

use std::pin::pin;
use std::sync::Arc;
use std::time::Duration;

use bytes::Bytes;
use serde_json::json;
use wtfs_proto::hf::{FilePath, RepoTree, TreeFile, TreePages};
use wtfs_torrent::hf::{ApiMethod, ApiRequest};

use super::{Caller, HfProxy, Pinned, Refusal, Snapshot};

/// How long the tree is waited for first.
const TREE_FIRST: Duration = Duration::from_secs(2);

impl HfProxy {
    /// A file of a revision that was found. The snapshot's tree may hold that file alone.
    ///
    /// # Errors
    /// [`Refusal`]: there is none, or upstream must be asked and cannot be.
    ///
    /// # Cancel safety
    /// Cancel safe: a tree that was asked for goes on coming for others.
    pub(super) async fn file_at(
        &self,
        pinned: Pinned,
        path: &FilePath,
        caller: &Caller,
    ) -> Result<(Snapshot, TreeFile), Refusal> {
        let mut whole = pin!(self.snapshot(pinned.clone(), caller));
        let whole = match tokio::time::timeout(TREE_FIRST, whole.as_mut()).await {
            Ok(snapshot) => snapshot,
            Err(_elapsed) => tokio::select! {
                snapshot = whole => snapshot,
                Some((tree, file)) = self.ask_file(&pinned, path, caller) => {
                    let is_public = self.is_public(&pinned);
                    return Ok((Snapshot { pinned, tree, is_public }, file));
                }
            },
        };
        let snapshot = whole?;
        let missing = || Refusal::Entry { commit: snapshot.tree.commit, path: path.to_string() };
        let file = snapshot.tree.find(path.as_str()).ok_or_else(missing)?.clone();
        self.0.sightings.note(&snapshot);
        Ok((snapshot, file))
    }

    /// What upstream says of one path. `None` when it says nothing that helps: then the tree has to.
    async fn ask_file(
        &self,
        pinned: &Pinned,
        path: &FilePath,
        caller: &Caller,
    ) -> Option<(Arc<RepoTree>, TreeFile)> {
        let question = json!({ "paths": [path.as_str()], "expand": false }).to_string();
        let request = ApiRequest {
            method: ApiMethod::Post,
            body: Some(("application/json", Bytes::from(question))),
            ..ApiRequest::get(pinned.repo.api_path_at("paths-info", &pinned.commit().into()))
        };
        let answer = self.pass_of(pinned, request, caller).await.ok()?;
        let mut pages = TreePages::default();
        pages.push(&answer.body).ok()?;
        let tree = pages.finish(pinned.commit());
        let file = tree.find(path.as_str())?.clone();
        Some((Arc::new(tree), file))
    }
}
