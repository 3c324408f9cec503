//! Takes files from a hub as programs do that stand on the crate `hf-hub`, blocking or not, and prints a line for each.
//!
//!     hf-hub-client sync|tokio ENDPOINT CACHE_DIR REPOSITORY REVISION FILE...
//!
//! Each line is the length and a checksum (the sum of all bytes, each times its place) of what is in the cache afterwards;
//! after them one line tells the commit and how many files the repository has.

use std::{env, fs, path::Path, process::ExitCode};

use hf_hub::{Repo, RepoType, api};

fn main() -> ExitCode {
    let args: Vec<String> = env::args().skip(1).collect();
    let [flavour, endpoint, cache, id, revision, files @ ..] = &args[..] else {
        eprintln!("usage: hf-hub-client sync|tokio ENDPOINT CACHE_DIR REPOSITORY REVISION FILE...");
        return ExitCode::from(2);
    };
    let repo = Repo::with_revision(id.clone(), RepoType::Model, revision.clone());
    let done = match flavour.as_str() {
        "sync" => blocking(endpoint, cache, repo, files).map_err(|error| error.to_string()),
        _ => concurrent(endpoint, cache, repo, files).map_err(|error| error.to_string()),
    };
    match done {
        Ok(()) => ExitCode::SUCCESS,
        Err(error) => {
            eprintln!("hf-hub-client: {error}");
            ExitCode::FAILURE
        }
    }
}

fn blocking(
    endpoint: &str,
    cache: &str,
    repo: Repo,
    files: &[String],
) -> Result<(), Box<dyn std::error::Error>> {
    let builder = api::sync::ApiBuilder::new().with_progress(false).with_endpoint(endpoint.to_owned());
    let repo = builder.with_cache_dir(cache.into()).with_token(None).build()?.repo(repo);
    for file in files {
        tell(&repo.get(file)?)?;
    }
    let info = repo.info()?;
    println!("{} {}", info.sha, info.siblings.len());
    Ok(())
}

fn concurrent(
    endpoint: &str,
    cache: &str,
    repo: Repo,
    files: &[String],
) -> Result<(), Box<dyn std::error::Error>> {
    let runtime = tokio::runtime::Runtime::new()?;
    runtime.block_on(async {
        let builder = api::tokio::ApiBuilder::new().with_progress(false).with_endpoint(endpoint.to_owned());
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

fn tell(path: &Path) -> Result<(), std::io::Error> {
    let bytes = fs::read(path)?;
    let sum = (1_u64..)
        .zip(&bytes)
        .fold(0_u64, |sum, (place, byte)| sum.wrapping_add(place.wrapping_mul(u64::from(*byte))));
    println!("{} {sum}", bytes.len());
    Ok(())
}
