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

use super::policy::Wide;
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
        Self::connect_saying(side, channels, "").await
    }

    /// The same, with `more` lines in its offer.
    async fn connect_saying(side: &Side, channels: usize, more: &str) -> Self {
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
        let (answer, pending) = side.factory.answer(&format!("{offer}{more}")).await.unwrap();
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

/// What is taken of `count` messages that nobody reads.
async fn flood(hostile: &Hostile, message: &[u8], count: usize) -> usize {
    hostile.is_open().await;
    let channel = Arc::clone(&hostile.channels[0]);
    for _ in 0..count {
        channel.send(BytesMut::from(message)).await.unwrap();
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
    count * message.len() - outstanding
}

#[tokio::test(flavor = "multi_thread")]
async fn a_flood_that_nobody_reads_stops_at_the_window() {
    let side = Side::new(policy());
    let mut hostile = Hostile::connect(&side, 1).await;
    let connection = hostile.take();
    let taken = flood(&hostile, &[7; 100], 60_000).await;
    assert!(taken < 2 << 20, "{taken} bytes taken that nobody read");
    drop(connection);
    drop(hostile);
    side.is_idle().await;
}

#[tokio::test(flavor = "multi_thread")]
async fn only_a_few_who_call_themselves_like_us_have_a_wide_window() {
    let wide = Wide { connections_max: 1, ..Wide::default() };
    let side = Side::new(RtcPolicy { wide, ..policy() });
    let kin = "a=x-wtfs-batches\r\n";
    let mut first = Hostile::connect_saying(&side, 1, kin).await;
    let first_unread = first.take();
    const COUNT: usize = 10_000;
    let message = [7; 1000];
    let taken = flood(&first, &message, COUNT).await;
    assert!(taken < 6 << 20, "{taken} bytes taken that nobody read");
    let more = async {
        while COUNT * message.len() - first.channels[0].outstanding_bytes().await.unwrap() <= 2 << 20 {
            tokio::task::yield_now().await;
        }
    };
    tokio::time::timeout(LIMIT, more).await.expect("a wide window takes more than the usual one");
    let mut second = Hostile::connect_saying(&side, 1, kin).await;
    let second_unread = second.take();
    let taken = flood(&second, &message, COUNT).await;
    assert!(taken < 2 << 20, "{taken} bytes taken that nobody read");
    drop((first_unread, second_unread, first, second));
    side.is_idle().await;
    assert_eq!(side.factory.0.wide.available_permits(), 1, "the place is given back");
}

#[tokio::test(flavor = "multi_thread")]
async fn offers_leave_half_of_the_wide_places_to_peers_known_to_be_like_us() {
    let wide = Wide { connections_max: 2, ..Wide::default() };
    let side = Side::new(RtcPolicy { wide, ..policy() });
    let first = side.factory.offer().await.unwrap();
    let second = side.factory.offer().await.unwrap();
    assert_eq!(side.factory.0.wide.available_permits(), 1);
    drop((first, second));
    side.is_idle().await;
    assert_eq!(side.factory.0.wide.available_permits(), 2);
}
