//! The emulated huggingface.co as a process, for benches and for tests that are not written in Rust.
//!
//!     hf-emulator [DIR] [--listen ADDR] [--cdn ADDR] [--page-size N] [--cdn-expiry SECONDS] [--xet]
//!                 [--ramp org/name/file=BYTES]... [--small org/name=FILES]... [--token NAME=TOKEN]...
//!                 [--rate BYTES]
//!
//! Serves a directory (`models/org/name/…`, `datasets/…`, `spaces/…`), and repositories of generated content: files of
//! any length by `--ramp`, many small ones by `--small`. `--rate` holds every body of the CDN to so many bytes a second.
//! Prints one line, `hub URL cdn URL`, and serves until its standard input ends. Faults and the log: `/_admin/…`.

use std::{
    collections::BTreeMap,
    env,
    io::{self, Read as _, Write as _},
    net::SocketAddr,
    path::Path,
    process::ExitCode,
    time::Duration,
};

use wtfs_testkit::{
    hf_hub::{Content, Fault, FaultKind, HfHub, HfHubBuilder},
    net,
};

/// Of the small files of `--small`.
const SMALL_BYTES: u64 = 2_000;

fn main() -> ExitCode {
    match described(env::args().skip(1)) {
        Ok((builder, rate)) => {
            let hub = builder.start();
            if let Some(rate) = rate {
                hub.fault(Fault::cdn(FaultKind::Slow { rate }));
            }
            println!("hub {} cdn {}", hub.endpoint(), hub.cdn());
            let _flushed = io::stdout().flush();
            let _ended = io::stdin().read_to_end(&mut Vec::new());
            ExitCode::SUCCESS
        }
        Err(message) => {
            eprintln!("hf-emulator: {message}");
            ExitCode::from(2)
        }
    }
}

fn described(mut args: impl Iterator<Item = String>) -> Result<(HfHubBuilder, Option<u64>), String> {
    let mut builder = HfHub::builder();
    let mut files: BTreeMap<String, Vec<(String, Content)>> = BTreeMap::new();
    let (mut hub, mut cdn, mut rate) = (net::fresh_addr(), net::fresh_addr(), None);
    while let Some(arg) = args.next() {
        let mut value = || args.next().ok_or_else(|| format!("{arg} needs a value"));
        match arg.as_str() {
            "--listen" => hub = number::<SocketAddr>(&value()?)?,
            "--cdn" => cdn = number::<SocketAddr>(&value()?)?,
            "--page-size" => builder = builder.page_size(number(&value()?)?),
            "--cdn-expiry" => builder = builder.cdn_expiry(Duration::from_secs(number(&value()?)?)),
            "--rate" => rate = Some(number(&value()?)?),
            "--xet" => builder = builder.with_xet(),
            "--token" => {
                let (name, token) = pair(&value()?)?;
                builder = builder.account(&name, &token);
            }
            "--ramp" => {
                let (path, len) = pair(&value()?)?;
                let mut parts = path.splitn(3, '/');
                let (Some(org), Some(name), Some(file)) = (parts.next(), parts.next(), parts.next()) else {
                    return Err(format!("{path} is no org/name/file"));
                };
                let of = files.entry(format!("{org}/{name}")).or_default();
                of.push((file.to_owned(), Content::ramp(of.len() as u64, number(&len)?)));
            }
            "--small" => {
                let (id, count) = pair(&value()?)?;
                let of = files.entry(id).or_default();
                for n in 0..number::<u64>(&count)? {
                    let content = Content::ramp(1 << 32 | n, SMALL_BYTES);
                    of.push((format!("part-{:03}/file-{n:06}.dat", n / 100), content));
                }
            }
            _ if arg.starts_with('-') => return Err(format!("{arg} is not known")),
            dir => builder = builder.directory(Path::new(dir)),
        }
    }
    for (id, contents) in files {
        builder = builder.model(&id);
        for (path, content) in contents {
            builder = builder.file(&path, content);
        }
    }
    Ok((builder.listen(hub, cdn), rate))
}

fn number<T: std::str::FromStr>(text: &str) -> Result<T, String> {
    text.parse().map_err(|_| format!("{text} is not understood"))
}

fn pair(text: &str) -> Result<(String, String), String> {
    let (key, value) = text.rsplit_once('=').ok_or_else(|| format!("{text} has no `=`"))?;
    Ok((key.to_owned(), value.to_owned()))
}
