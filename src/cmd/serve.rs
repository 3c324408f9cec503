//! `wtfs serve`: runs a hub until a signal. Its settings are the table `[hub]`; what it does stands in wtfs-server.

use std::net::SocketAddr;
use std::pin::pin;
use std::time::Duration;

use anyhow::Context as _;
use tokio::task::JoinSet;
use tokio_util::sync::CancellationToken;
use wtfs_server::{Hub, listen};

use super::print_text;
use crate::cli::Serve;
use crate::config::{Loaded, Settings, printed};
use crate::control::Role;
use crate::engine;
use crate::exit::{Exit, OrEnd as _};
use crate::reporter::Reporter;
use crate::signals::Stop;

/// How long it may take to end before it is said what is waited for.
const WONDER: Duration = Duration::from_secs(1);

pub(super) fn run(args: &Serve, loaded: Loaded) -> anyhow::Result<Exit> {
    if args.print_config {
        print_text(&printed(&loaded.layer_under(args.layer()))?)?;
        return Ok(Exit::Success);
    }
    let settings = loaded.resolve(args.layer())?;
    engine::block_on(async {
        let stop = Stop::install(|| {})?;
        engine::raise_open_files();
        let sockets = listen::bind(&settings.hub.addrs()?, settings.hub.udp())
            .or_end(Exit::Usage, || "--listen: that address cannot be had, so choose another".into())?;
        if let Some(lines) = settings.hub.access_log {
            lines.apply();
        }
        let config = settings.hub.config(&settings.directories, settings.session.clone())?;
        let udp_port =
            sockets.udp.first().and_then(|socket| socket.local_addr().ok()).map(|addr| addr.port());
        let hub = Hub::open(config).await.or_end(Exit::Failure, || "the hub cannot start".into())?;
        let hub = hub.with_udp_port(udp_port);
        let outcome = serve(args, &settings, &hub, sockets, &stop).await;
        hub.shutdown().await;
        outcome
    })
}

async fn serve(
    args: &Serve,
    settings: &Settings,
    hub: &Hub,
    sockets: listen::Listeners,
    stop: &Stop,
) -> anyhow::Result<Exit> {
    let ending = CancellationToken::new();
    let _end_when_dropped = ending.clone().drop_guard();
    let addrs: Vec<SocketAddr> =
        sockets.http.iter().map(|listener| listener.local_addr()).collect::<Result<_, _>>()?;
    let mut serving = JoinSet::new();
    for listener in sockets.http {
        let (hub, ending) = (hub.clone(), ending.clone());
        serving.spawn(async move { hub.serve(listener, ending).await });
    }
    for socket in sockets.udp {
        let (hub, ending) = (hub.clone(), ending.clone());
        serving.spawn(async move { hub.serve_udp(socket, ending).await });
    }
    let _control =
        Reporter::new(hub.session(), Role::Serve, settings.hub.roots.iter().flatten().next().cloned())
            .show(settings);
    print_text(&ready_line(&addrs, hub, settings))?;
    settings.notify.ready();
    let outcome = tokio::select! {
        () = stop.wait() => Ok(Exit::Success),
        // A socket failed, or a source cannot be had.
        Some(ended) = serving.join_next() => {
            ended.context("serving")?.context("serving")?;
            Ok(Exit::Failure)
        }
        Err(error) = add_sources(args, settings, hub) => Err(error),
    };
    settings.notify.stopping();
    ending.cancel();
    let mut ended = pin!(async {
        while let Some(ended) = serving.join_next().await {
            if let Ok(Err(error)) = ended {
                tracing::warn!(%error, "a listener ended badly");
            }
        }
    });
    if tokio::time::timeout(WONDER, &mut ended).await.is_err() {
        eprintln!("wtfs: letting responses finish that have begun; Ctrl-C once more ends at once");
        ended.await;
    }
    outcome
}

/// Adds what was named on the command line. Never ends, but with an error.
async fn add_sources(args: &Serve, settings: &Settings, hub: &Hub) -> anyhow::Result<Exit> {
    let peers = engine::peers(&args.peers).await?;
    for typed in &args.sources {
        let source = engine::source(typed).await?;
        let options = engine::add_options(settings, &source, &peers);
        engine::add(hub.session(), source, options).await?;
    }
    std::future::pending().await
}

fn ready_line(addrs: &[SocketAddr], hub: &Hub, settings: &Settings) -> String {
    let scheme = if settings.hub.tls_cert.is_some() { "https" } else { "http" };
    let at: Vec<String> = addrs.iter().map(|addr| format!("{scheme}://{addr}")).collect();
    let peers: Vec<String> = hub.session().listening().iter().map(ToString::to_string).collect();
    let public = settings.hub.public_url.as_deref().map(|url| format!(" as {url}")).unwrap_or_default();
    format!("serving at {}{public}, peers at {}\n", at.join(" "), peers.join(" "))
}
