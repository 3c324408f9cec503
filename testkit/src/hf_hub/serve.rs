//! The two listeners, on a runtime in a thread of its own, and connections that can be reset on purpose.

use std::{
    io,
    net::SocketAddr,
    pin::Pin,
    sync::{
        Arc,
        atomic::{AtomicBool, Ordering},
        mpsc,
    },
    task::{Context, Poll},
    thread::{self, JoinHandle},
    time::Duration,
};

use axum::{
    Router,
    extract::{ConnectInfo, connect_info::Connected},
    serve::{IncomingStream, Listener},
};
use tokio::{
    io::{AsyncRead, AsyncWrite, ReadBuf},
    net::{TcpListener, TcpStream},
    sync::oneshot,
};

use super::{State, answer, fault::Side};

/// Both origins at work. Dropping it ends them and every connection.
#[derive(Debug)]
pub(super) struct Serving {
    end: Option<oneshot::Sender<()>>,
    thread: Option<JoinHandle<()>>,
}

impl Serving {
    pub(super) fn start(state: &Arc<State>) -> Self {
        let (end, ended) = oneshot::channel();
        let (bound, is_bound) = mpsc::channel();
        let state = Arc::clone(state);
        let thread = thread::spawn(move || {
            let runtime = tokio::runtime::Builder::new_multi_thread().worker_threads(2).enable_all().build();
            let runtime = runtime.expect("a runtime can be made");
            runtime.block_on(async {
                let hub = bind(state.hub).await;
                let cdn = bind(state.cdn).await;
                let _told = bound.send(());
                tokio::select! {
                    _ = ended => {}
                    _ = serve(hub, Arc::clone(&state), Side::Hub) => {}
                    _ = serve(cdn, state, Side::Cdn) => {}
                }
            });
            // Takes the connections with it.
            runtime.shutdown_timeout(Duration::from_secs(5));
        });
        is_bound.recv().expect("both addresses can be bound");
        Self { end: Some(end), thread: Some(thread) }
    }
}

impl Drop for Serving {
    fn drop(&mut self) {
        drop(self.end.take());
        if let Some(thread) = self.thread.take() {
            let _ended = thread.join();
        }
    }
}

async fn bind(addr: SocketAddr) -> Listening {
    let listener = TcpListener::bind(addr).await.unwrap_or_else(|error| panic!("{addr}: {error}"));
    Listening { listener }
}

async fn serve(listener: Listening, state: Arc<State>, side: Side) -> io::Result<()> {
    let app = Router::new().fallback(move |ConnectInfo(doom): ConnectInfo<Doom>, request| {
        answer::answer(Arc::clone(&state), side, doom, request)
    });
    axum::serve(listener, app.into_make_service_with_connect_info::<Doom>()).await
}

/// Marks a connection that is to be reset.
#[derive(Clone, Debug, Default)]
pub(super) struct Doom(Arc<AtomicBool>);

impl Doom {
    /// From now on nothing more is written, and the connection ends with a reset.
    pub(super) fn seal(&self) {
        self.0.store(true, Ordering::Release);
    }

    fn is_sealed(&self) -> bool {
        self.0.load(Ordering::Acquire)
    }
}

impl Connected<IncomingStream<'_, Listening>> for Doom {
    fn connect_info(stream: IncomingStream<'_, Listening>) -> Self {
        stream.io().doom.clone()
    }
}

struct Listening {
    listener: TcpListener,
}

impl Listener for Listening {
    type Io = Wire;
    type Addr = SocketAddr;

    async fn accept(&mut self) -> (Wire, SocketAddr) {
        loop {
            match self.listener.accept().await {
                Ok((stream, addr)) => {
                    let _quick = stream.set_nodelay(true);
                    return (Wire { stream, doom: Doom::default() }, addr);
                }
                // Out of descriptors, or the client is gone already.
                Err(_) => tokio::time::sleep(Duration::from_millis(20)).await,
            }
        }
    }

    fn local_addr(&self) -> io::Result<SocketAddr> {
        self.listener.local_addr()
    }
}

/// A connection.
struct Wire {
    stream: TcpStream,
    doom: Doom,
}

impl Wire {
    fn check(&self) -> io::Result<()> {
        if self.doom.is_sealed() { Err(io::ErrorKind::ConnectionReset.into()) } else { Ok(()) }
    }
}

impl Drop for Wire {
    fn drop(&mut self) {
        if self.doom.is_sealed() {
            let _reset = self.stream.set_zero_linger();
        }
    }
}

impl AsyncRead for Wire {
    fn poll_read(
        mut self: Pin<&mut Self>,
        cx: &mut Context<'_>,
        buf: &mut ReadBuf<'_>,
    ) -> Poll<io::Result<()>> {
        Pin::new(&mut self.stream).poll_read(cx, buf)
    }
}

impl AsyncWrite for Wire {
    fn poll_write(mut self: Pin<&mut Self>, cx: &mut Context<'_>, buf: &[u8]) -> Poll<io::Result<usize>> {
        self.check()?;
        Pin::new(&mut self.stream).poll_write(cx, buf)
    }

    fn poll_flush(mut self: Pin<&mut Self>, cx: &mut Context<'_>) -> Poll<io::Result<()>> {
        self.check()?;
        Pin::new(&mut self.stream).poll_flush(cx)
    }

    fn poll_shutdown(mut self: Pin<&mut Self>, cx: &mut Context<'_>) -> Poll<io::Result<()>> {
        self.check()?;
        Pin::new(&mut self.stream).poll_shutdown(cx)
    }
}
