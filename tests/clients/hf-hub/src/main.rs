//! Takes files from a hub as programs do that stand on the crate `hf-hub`, of today or of before, blocking or not, and prints
//! a line for each. What `1.0` takes is the whole repository, twice.
//!
//!     hf-hub-client 1.0|sync|tokio|sync-0.4|tokio-0.4 ENDPOINT CACHE_DIR REPOSITORY REVISION FILE...
//!
//! Each line is the length and a checksum (the sum of all bytes, each times its place) of what is in the cache afterwards;
//! after them one line tells the commit and how many files the repository has.

use std::{env, error::Error, fs, path::Path, process::ExitCode};

use hf_hub_1::repository::RepoTreeEntry;

fn main() -> ExitCode {
    let args: Vec<String> = env::args().skip(1).collect();
    let [flavour, endpoint, cache, id, revision, files @ ..] = &args[..] else {
        eprintln!("usage: hf-hub-client FLAVOUR ENDPOINT CACHE_DIR REPOSITORY REVISION FILE...");
        return ExitCode::from(2);
    };
    let take = match flavour.as_str() {
        "1.0" => snapshot,
        "sync" => today::blocking,
        "tokio" => today::concurrent,
        "sync-0.4" => before::blocking,
        "tokio-0.4" => before::concurrent,
        _ => {
            eprintln!("hf-hub-client: {flavour} is not known");
            return ExitCode::from(2);
        }
    };
    match take(endpoint, cache, (id, revision), files) {
        Ok(()) => ExitCode::SUCCESS,
        Err(error) => {
            eprintln!("hf-hub-client: {error}");
            ExitCode::FAILURE
        }
    }
}

/// The same program on one version of the crate.
macro_rules! version {
    ($name:ident, $hf_hub:ident) => {
        mod $name {
            use std::error::Error;

            use $hf_hub::{Repo, RepoType, api};

            use super::tell;

            pub fn blocking(
                endpoint: &str,
                cache: &str,
                (id, revision): (&str, &str),
                files: &[String],
            ) -> Result<(), Box<dyn Error>> {
                let repo = Repo::with_revision(id.to_owned(), RepoType::Model, revision.to_owned());
                let builder =
                    api::sync::ApiBuilder::new().with_progress(false).with_endpoint(endpoint.to_owned());
                let repo = builder.with_cache_dir(cache.into()).with_token(None).build()?.repo(repo);
                for file in files {
                    tell(&repo.get(file)?)?;
                }
                let info = repo.info()?;
                println!("{} {}", info.sha, info.siblings.len());
                Ok(())
            }

            pub fn concurrent(
                endpoint: &str,
                cache: &str,
                (id, revision): (&str, &str),
                files: &[String],
            ) -> Result<(), Box<dyn Error>> {
                let repo = Repo::with_revision(id.to_owned(), RepoType::Model, revision.to_owned());
                tokio::runtime::Runtime::new()?.block_on(async {
                    let builder =
                        api::tokio::ApiBuilder::new().with_progress(false).with_endpoint(endpoint.to_owned());
                    // Parts of 1 MB, eight at a time: the last one asks for one byte more than there is.
                    let builder = builder.with_chunk_size(Some(1_000_000)).with_max_files(8);
                    let repo = builder.with_cache_dir(cache.into()).with_token(None).build()?.repo(repo);
                    for file in files {
                        tell(&repo.get(file).await?)?;
                    }
                    let info = repo.info().await?;
                    println!("{} {}", info.sha, info.siblings.len());
                    Ok(())
                })
            }
        }
    };
}

version!(today, hf_hub);
version!(before, hf_hub_0_4);

fn snapshot(
    endpoint: &str,
    cache: &str,
    (id, revision): (&str, &str),
    files: &[String],
) -> Result<(), Box<dyn Error>> {
    let client = hf_hub_1::HFClient::builder().endpoint(endpoint).cache_dir(cache).build_sync()?;
    let (owner, name) = id.split_once('/').ok_or("the repository has no owner")?;
    let repo = client.model(owner, name);
    let first = repo.snapshot_download().revision(revision).send()?;
    // Now it has all, and asks whether anything is new.
    let again = repo.snapshot_download().revision(revision).send()?;
    if first != again {
        return Err(format!("it is in {} and in {}", first.display(), again.display()).into());
    }
    for file in files {
        tell(&again.join(file))?;
    }
    let listed = repo.list_tree().revision(revision).recursive(true).send()?;
    let is_file = |entry: &&RepoTreeEntry| matches!(entry, RepoTreeEntry::File { .. });
    let commit = again.file_name().unwrap_or_default().display();
    println!("{commit} {}", listed.iter().filter(is_file).count());
    Ok(())
}

fn tell(path: &Path) -> Result<(), std::io::Error> {
    let bytes = fs::read(path)?;
    let sum = (1_u64..)
        .zip(&bytes)
        .fold(0_u64, |sum, (place, byte)| sum.wrapping_add(place.wrapping_mul(u64::from(*byte))));
    println!("{} {sum}", bytes.len());
    Ok(())
}
