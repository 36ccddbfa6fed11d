//! tokio-util's codecs over the stream, and the listener as others' traits have it.

use futures_util::{SinkExt, StreamExt};
use shmbc_tokio::{ShmListener, ShmListenerStream, ShmStream};
use tokio_util::codec::{Framed, LengthDelimitedCodec, LinesCodec};
use tokio_util::either::Either;
use tokio_util::net::Listener;

use super::{Bytes, Route, on_final_path, pair};

pub(crate) async fn frames_when_sent_both_ways_arrive_whole_and_in_order(route: Route) {
    let (client, server) = pair(route).await;
    let mut codec = LengthDelimitedCodec::builder();
    let codec = codec.max_frame_length(16 << 20);
    let (mut client, mut server) = (codec.new_framed(client), codec.new_framed(server));
    // Around the edges of everything: empty, small, larger than the ring.
    let frames: Vec<Bytes> = [0, 1, 4095, 4096, 65_537, 9 << 20, 3].map(|len| vec![len as u8; len].into()).into();
    let echo = async {
        while let Some(frame) = server.next().await {
            server.send(frame.unwrap().freeze()).await.unwrap();
        }
    };
    let ask = async {
        for frame in &frames {
            client.send(frame.clone()).await.unwrap();
            assert!(client.next().await.unwrap().unwrap() == *frame, "a frame came back changed");
        }
        drop(client);
    };
    tokio::join!(echo, ask);
}

pub(crate) async fn listener_as_a_stream_accepts_and_gives_the_listener_back(route: Route) {
    let listener = ShmListener::bind("127.0.0.1:0").await.unwrap();
    let address = listener.local_addr().unwrap();
    let mut connections = ShmListenerStream::new(listener);
    assert_eq!(connections.as_ref().local_addr().unwrap(), address);
    connections.as_mut().set_ttl(17).unwrap();
    for _ in 0..3 {
        let (client, server) = tokio::join!(ShmStream::connect(address), connections.next());
        let (client, server) = (client.unwrap(), server.unwrap().unwrap());
        assert_eq!(server.peer_addr().unwrap(), client.local_addr().unwrap());
        on_final_path(route, &client, &server).await;
        let (mut client, mut server) = (Framed::new(client, LinesCodec::new()), Framed::new(server, LinesCodec::new()));
        client.send("a line").await.unwrap();
        assert_eq!(server.next().await.unwrap().unwrap(), "a line");
    }
    let listener = connections.into_inner();
    assert_eq!((listener.local_addr().unwrap(), listener.ttl().unwrap()), (address, 17));
}

pub(crate) async fn listener_when_used_by_tokio_utils_trait_accepts_either_kind(route: Route) {
    async fn accept<L: Listener, R: Listener>(either: &mut Either<L, R>) -> Either<(L::Io, L::Addr), (R::Io, R::Addr)> {
        either.accept().await.unwrap()
    }
    let ours = ShmListener::bind("127.0.0.1:0").await.unwrap();
    let address = ours.local_addr().unwrap();
    let mut either: Either<ShmListener, tokio::net::TcpListener> = Either::Left(ours);
    let (client, accepted) = tokio::join!(ShmStream::connect(address), accept(&mut either));
    let (client, Either::Left((server, from))) = (client.unwrap(), accepted) else { panic!("the other kind") };
    assert_eq!(from, client.local_addr().unwrap());
    on_final_path(route, &client, &server).await;
}
