//! The URLs of the CDN: signed, and good for a while only.
//!
//! The path names repository and content by hashes of which neither is the sha256 of the file: nothing can be read off a
//! URL or off the CDN's ETag.

use std::{
    sync::Arc,
    time::{SystemTime, UNIX_EPOCH},
};

use sha1::Sha1;
use sha2::{Digest as _, Sha256};

use super::{
    State,
    content::hex,
    lock,
    repo::{Entry, Repo},
    route,
};

/// What lies at a path of the CDN.
pub(super) struct Found {
    pub(super) entry: Arc<Entry>,
    /// `org/name/file`.
    pub(super) name: String,
}

fn repo_hash(repo: &Repo) -> String {
    hex(&Sha1::digest(format!("{}{}", repo.kind.prefix(), repo.id)))[..24].to_owned()
}

fn now() -> u64 {
    SystemTime::now().duration_since(UNIX_EPOCH).map_or(0, |since| since.as_secs())
}

/// HMAC-SHA256 (RFC 2104), in hex.
fn hmac(key: &[u8], text: &str) -> String {
    let mut block = [0_u8; 64];
    block[..key.len()].copy_from_slice(key);
    let pad = |with: u8| block.map(|byte| byte ^ with);
    let inner = Sha256::new().chain_update(pad(0x36)).chain_update(text).finalize();
    hex(&Sha256::new().chain_update(pad(0x5c)).chain_update(inner).finalize())
}

/// A URL for a file in LFS, from now until it expires.
pub(super) fn url(state: &State, repo: &Repo, path: &str, entry: &Entry) -> String {
    let xet_hash = entry.lfs.as_ref().map_or("", |lfs| &lfs.xet_hash);
    let name = path.rsplit('/').next().unwrap_or(path);
    let place = format!("/xet-bridge-us/{}/{xet_hash}", repo_hash(repo));
    let expires = now() + state.settings.cdn_expiry.as_secs();
    let disposition =
        route::encode(&format!("inline; filename*=UTF-8''{}; filename=\"{name}\";", route::encode(name)));
    let query = format!("response-content-disposition={disposition}&Expires={expires}");
    let signature = hmac(&state.settings.secret, &format!("{place}?{query}"));
    format!("http://{}{place}?{query}&Signature={signature}&Key-Pair-Id=K2L8F4GPSG1IFC", state.cdn)
}

/// Whether the signature of a raw target holds, and has not expired.
pub(super) fn is_valid(state: &State, path: &str, query: &str) -> bool {
    let Some((signed, rest)) = query.split_once("&Signature=") else { return false };
    let given = rest.split('&').next().unwrap_or_default();
    let expires = route::pairs(signed).into_iter().find(|(key, _)| key == "Expires");
    let expires = expires.and_then(|(_, at)| at.parse::<u64>().ok());
    // The second in which it expires is still good: with an expiry of 0 a quick client may just make it.
    given == hmac(&state.settings.secret, &format!("{path}?{signed}"))
        && expires.is_some_and(|at| now() <= at)
}

/// Finds what a path of the CDN names.
pub(super) fn find(state: &State, path: &str) -> Option<Found> {
    let (repo_id, xet_hash) = path.strip_prefix("/xet-bridge-us/")?.split_once('/')?;
    let repos = lock(&state.repos);
    let repo = repos.iter().find(|repo| repo_hash(repo) == repo_id)?;
    let files = repo.commits.values().flat_map(|commit| &commit.files);
    let (path, entry) = files
        .filter(|(_, entry)| entry.lfs.as_ref().is_some_and(|lfs| lfs.xet_hash == xet_hash))
        .min_by_key(|(path, _)| path.as_str())?;
    Some(Found { entry: Arc::clone(entry), name: format!("{}/{path}", repo.id) })
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn the_signature_is_that_of_rfc_4231() {
        let expected = "5bdcc146bf60754e6a042426089575c75a003f089d2739839dec58b964ec3843";
        assert_eq!(hmac(b"Jefe", "what do ya want for nothing?"), expected);
    }
}
