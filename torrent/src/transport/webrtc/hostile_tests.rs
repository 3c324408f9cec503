//! Peers that break the rules, made with the library directly: what they do ends their connection and nothing else.

use std::sync::Arc;
use std::time::Duration;

use bytes::BytesMut;
use rtc::ice::mdns::MulticastDnsMode;
use tokio::io::AsyncReadExt;
use tokio::sync::Notify;
use webrtc::data_channel::{DataChannel, DataChannelEvent};
use webrtc::peer_connection::{
    PeerConnection, PeerConnectionBuilder, PeerConnectionEventHandler, RTCIceGatheringState,
    RTCSessionDescription, SettingEngineBuilder,
};

use super::tests::{LIMIT, Side, policy};
use super::*;

#[derive(Default)]
struct Gathered(Notify);

#[async_trait::async_trait]
impl PeerConnectionEventHandler for Gathered {
    async fn on_ice_gathering_state_change(&self, state: RTCIceGatheringState) {
        if state == RTCIceGatheringState::Complete {
            self.0.notify_one();
        }
    }
}

/// A peer with `channels` open channels, and what `side` made of it.
struct Hostile {
    _peer: Box<dyn PeerConnection>,
    channels: Vec<Arc<dyn DataChannel>>,
    connection: Result<Connection, RtcError>,
}

impl Hostile {
    async fn connect(side: &Side, channels: usize) -> Self {
        let gathered = Arc::new(Gathered::default());
        let settings = SettingEngineBuilder::new()
            .with_multicast_dns_mode(MulticastDnsMode::Disabled)
            .with_include_loopback_candidate(true)
            .build();
        let peer = PeerConnectionBuilder::new()
            .with_setting_engine(settings)
            .with_handler(Arc::<Gathered>::clone(&gathered))
            .with_udp_addrs(vec!["127.0.0.1:0"])
            .build()
            .await
            .unwrap();
        let mut made = Vec::new();
        for number in 0..channels {
            made.push(peer.create_data_channel(&number.to_string(), None).await.unwrap());
        }
        peer.set_local_description(peer.create_offer(None).await.unwrap()).await.unwrap();
        gathered.0.notified().await;
        let offer = peer.local_description().await.unwrap().sdp;
        let (answer, pending) = side.factory.answer(&offer).await.unwrap();
        peer.set_remote_description(RTCSessionDescription::answer(answer).unwrap()).await.unwrap();
        let connection = tokio::time::timeout(LIMIT, pending.connected()).await.unwrap();
        Self { _peer: Box::new(peer), channels: made, connection }
    }

    fn take(&mut self) -> Connection {
        std::mem::replace(&mut self.connection, Err(RtcError::Closing)).unwrap()
    }

    async fn is_open(&self) {
        while !matches!(self.channels[0].poll().await, Some(DataChannelEvent::OnOpen)) {}
    }
}

#[tokio::test(flavor = "multi_thread")]
async fn a_peer_that_opens_a_second_channel_is_dropped() {
    let side = Side::new(policy());
    let hostile = Hostile::connect(&side, 2).await;
    match hostile.connection {
        Err(error) => assert_eq!(error, RtcError::Failed(EndReason::Violation)),
        // The second came after the first was given out.
        Ok(mut connection) => {
            let read = tokio::time::timeout(LIMIT, connection.reader.read(&mut [0; 10])).await.unwrap();
            assert_eq!(read.unwrap_err().kind(), std::io::ErrorKind::InvalidData);
        }
    }
    side.is_idle().await;
}

#[tokio::test(flavor = "multi_thread")]
async fn a_peer_that_sends_text_is_dropped() {
    let side = Side::new(policy());
    let mut hostile = Hostile::connect(&side, 1).await;
    hostile.is_open().await;
    hostile.channels[0].send(BytesMut::from(&b"binary"[..])).await.unwrap();
    hostile.channels[0].send_text("text").await.unwrap();
    let mut connection = hostile.take();
    let mut read = Vec::new();
    let end = tokio::time::timeout(LIMIT, connection.reader.read_to_end(&mut read)).await.unwrap();
    assert_eq!(end.unwrap_err().kind(), std::io::ErrorKind::InvalidData);
    assert_eq!(read, b"binary");
    drop(connection);
    side.is_idle().await;
}

#[tokio::test(flavor = "multi_thread")]
async fn empty_messages_are_not_the_end_and_hold_nobody_up() {
    let side = Side::new(policy());
    let mut hostile = Hostile::connect(&side, 1).await;
    hostile.is_open().await;
    for _ in 0..1000 {
        hostile.channels[0].send(BytesMut::new()).await.unwrap();
    }
    hostile.channels[0].send(BytesMut::from(&b"x"[..])).await.unwrap();
    let mut connection = hostile.take();
    let mut read = [0; 1];
    tokio::time::timeout(LIMIT, connection.reader.read_exact(&mut read)).await.unwrap().unwrap();
    assert_eq!(&read, b"x");
}

#[tokio::test(flavor = "multi_thread")]
async fn a_flood_that_nobody_reads_stops_at_the_window() {
    let side = Side::new(policy());
    let mut hostile = Hostile::connect(&side, 1).await;
    hostile.is_open().await;
    let connection = hostile.take();
    let channel = Arc::clone(&hostile.channels[0]);
    let message = BytesMut::from(&[7; 100][..]);
    const SENT: usize = 60_000;
    for _ in 0..SENT {
        channel.send(message.clone()).await.unwrap();
    }
    // Once nothing moves any more, what is not acknowledged is what was not let in.
    let mut outstanding = channel.outstanding_bytes().await.unwrap();
    let moves = async |outstanding| {
        while channel.outstanding_bytes().await.unwrap() == outstanding {
            tokio::task::yield_now().await;
        }
    };
    while tokio::time::timeout(Duration::from_secs(2), moves(outstanding)).await.is_ok() {
        outstanding = channel.outstanding_bytes().await.unwrap();
    }
    let taken = SENT * message.len() - outstanding;
    assert!(taken < 2 << 20, "{taken} bytes taken that nobody read");
    drop(connection);
    drop(hostile);
    side.is_idle().await;
}
