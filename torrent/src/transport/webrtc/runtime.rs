//! What the library runs on: tokio, with our sockets, and two things told that it does not tell by itself: that it has
//! done a round of its work, and that its task has ended, however it did. It can be made to do a round, too.

use std::fmt;
use std::future::Future;
use std::io;
use std::net::SocketAddr;
use std::pin::Pin;
use std::sync::Arc;
use std::time::Duration;

use tokio::sync::Notify;
use tokio_util::sync::CancellationToken;
use webrtc::runtime::{
    AsyncInterval, AsyncTcpListener, AsyncTcpStream, AsyncUdpSocket, JoinHandle, Runtime, TokioRuntime,
};

use super::pacing::Pace;
use super::policy::RtcPolicy;
use super::socket::PacedSocket;

type Boxed<'a, T> = Pin<Box<dyn Future<Output = T> + Send + 'a>>;

/// The runtime of one connection.
pub(super) struct RtcRuntime {
    tokio: TokioRuntime,
    policy: RtcPolicy,
    watch: Arc<Watch>,
    pace: Arc<Pace>,
}

/// What a connection's task learns of the library's.
#[derive(Debug, Default)]
pub(super) struct Watch {
    /// Notified each time the library has handled what was received and is about to wait.
    pub(super) worked: Notify,
    /// Cancelled once the library's task has ended or panicked.
    pub(super) ended: CancellationToken,
    /// Ends the library's wait.
    nudged: Notify,
}

/// Rounds of the library after which all that it had has been handed over, if somebody takes it: one may have been half
/// done; the next takes up what was left in the association's own queue, and one more hands that over.
const SETTLING_ROUNDS: usize = 3;

impl Watch {
    /// Waits until the library has handed over all it had when this was called.
    ///
    /// # Cancel safety
    ///
    /// Dropped, it leaves a round that nobody waits for.
    pub(super) async fn settled(&self) {
        for _ in 0..SETTLING_ROUNDS {
            let worked = self.worked.notified();
            tokio::pin!(worked);
            worked.as_mut().enable();
            self.nudged.notify_one();
            tokio::select! {
                () = worked => {}
                () = self.ended.cancelled() => return,
            }
        }
    }
}

impl RtcRuntime {
    pub(super) fn new(policy: &RtcPolicy, watch: Arc<Watch>, pace: Arc<Pace>) -> Self {
        Self { tokio: TokioRuntime, policy: policy.clone(), watch, pace }
    }

    fn watched(&self, future: Boxed<'static, ()>) -> Boxed<'static, ()> {
        let ended = self.watch.ended.clone().drop_guard();
        Box::pin(async move {
            let _ended = ended;
            future.await;
        })
    }
}

impl Runtime for RtcRuntime {
    fn spawn(&self, future: Boxed<'static, ()>) -> Box<dyn JoinHandle> {
        self.tokio.spawn(future)
    }

    /// The library's own task: the only one it spawns so.
    fn spawn_reactor(&self, pool_size: usize, future: Boxed<'static, ()>) -> Box<dyn JoinHandle> {
        self.tokio.spawn_reactor(pool_size, self.watched(future))
    }

    fn wrap_udp_socket(&self, socket: std::net::UdpSocket) -> io::Result<Arc<dyn AsyncUdpSocket>> {
        let RtcPolicy { socket_buffer_bytes, flush, burst, .. } = self.policy;
        Ok(Arc::new(PacedSocket::new(socket, socket_buffer_bytes, flush, burst, Arc::clone(&self.pace))?))
    }

    fn wrap_tcp_listener(&self, _: std::net::TcpListener) -> io::Result<Arc<dyn AsyncTcpListener>> {
        Err(io::ErrorKind::Unsupported.into())
    }

    /// A stranger's description must not make us connect anywhere.
    fn connect_tcp<'a>(&'a self, _: SocketAddr) -> Boxed<'a, io::Result<Arc<dyn AsyncTcpStream>>> {
        Box::pin(std::future::ready(Err(io::ErrorKind::Unsupported.into())))
    }

    /// Names were looked up before ([`super::servers`]).
    fn resolve_host<'a>(&'a self, host: &'a str) -> Boxed<'a, io::Result<Vec<SocketAddr>>> {
        let parsed = host.parse().map(|addr| vec![addr]);
        Box::pin(std::future::ready(parsed.map_err(|_| io::ErrorKind::Unsupported.into())))
    }

    /// Called once each time the library is about to wait.
    fn sleep(&self, duration: Duration) -> Boxed<'static, ()> {
        self.watch.worked.notify_waiters();
        let (sleep, watch) = (self.tokio.sleep(duration), Arc::clone(&self.watch));
        Box::pin(async move {
            tokio::select! {
                () = sleep => {}
                () = watch.nudged.notified() => {}
            }
        })
    }

    fn interval(&self, period: Duration) -> Box<dyn AsyncInterval> {
        self.tokio.interval(period)
    }

    fn block_on(&self, future: Pin<Box<dyn Future<Output = ()> + '_>>) {
        self.tokio.block_on(future);
    }

    fn yield_now(&self) -> Boxed<'static, ()> {
        self.tokio.yield_now()
    }

    fn name(&self) -> &'static str {
        "wtfs"
    }
}

impl fmt::Debug for RtcRuntime {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.debug_struct("RtcRuntime").finish_non_exhaustive()
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[tokio::test]
    async fn the_end_of_the_librarys_task_is_told_also_when_it_panics() {
        for panics in [false, true] {
            let watch = Arc::new(Watch::default());
            let runtime = RtcRuntime::new(&RtcPolicy::default(), Arc::clone(&watch), Arc::default());
            assert!(!watch.ended.is_cancelled());
            runtime.spawn_reactor(1, Box::pin(async move { assert!(!panics, "as told") }));
            let told = tokio::time::timeout(Duration::from_secs(60), watch.ended.cancelled());
            told.await.unwrap();
        }
    }

    #[tokio::test]
    async fn a_description_makes_nobody_connect_or_look_names_up() {
        let runtime = RtcRuntime::new(&RtcPolicy::default(), Arc::default(), Arc::default());
        let addr = "127.0.0.1:9".parse().unwrap();
        assert_eq!(runtime.connect_tcp(addr).await.unwrap_err().kind(), io::ErrorKind::Unsupported);
        assert_eq!(runtime.resolve_host("localhost:9").await.unwrap_err().kind(), io::ErrorKind::Unsupported);
        assert_eq!(runtime.resolve_host("127.0.0.1:9").await.unwrap(), [addr]);
    }
}
