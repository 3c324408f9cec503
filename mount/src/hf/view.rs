//! Texts of the view in the shape of the clients' cache.

use serde::Serialize;
use serde::ser::SerializeMap;
use wtfs_proto::hf::{ContentId, RepoTree};

/// The version of the format that is written here.
const FORMAT: u32 = 1;

#[derive(Serialize)]
struct Listing<'a> {
    format_version: u32,
    files: Files<'a>,
}

struct Files<'a>(&'a RepoTree);

#[derive(Serialize)]
struct File {
    size: u64,
    blob_id: String,
    #[serde(skip_serializing_if = "Option::is_none")]
    lfs_sha256: Option<String>,
    #[serde(skip_serializing_if = "Option::is_none")]
    lfs_size: Option<u64>,
}

impl Serialize for Files<'_> {
    fn serialize<S: serde::Serializer>(&self, serializer: S) -> Result<S::Ok, S::Error> {
        let mut map = serializer.serialize_map(Some(self.0.files().len()))?;
        for file in self.0.files() {
            let is_lfs = file.lfs.is_some();
            let entry = File {
                size: file.bytes,
                blob_id: ContentId::GitSha1(file.git_oid).to_string(),
                lfs_sha256: is_lfs.then(|| file.id.to_string()),
                lfs_size: is_lfs.then_some(file.bytes),
            };
            map.serialize_entry(file.path.as_str(), &entry)?;
        }
        map.end()
    }
}

/// `trees/<commit>.json`: by which the clients know whether a snapshot is whole without asking.
pub(super) fn tree_text(tree: &RepoTree) -> String {
    let listing = Listing { format_version: FORMAT, files: Files(tree) };
    serde_json::to_string(&listing).expect("text and numbers are JSON")
}
