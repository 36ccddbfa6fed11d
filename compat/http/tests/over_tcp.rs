//! axum and hyper over connections that stay on TCP: this process has acceleration turned off.

mod common;

use axum::serve::ListenerExt;
use common::{Bytes, app, client, text, with_watchdog};
use http_body_util::{BodyExt, Full};
use shmbc_http::{AxumListener, ShmPeer};
use shmbc_tokio::{Config, Path, Reason, ShmListener};

/// Acceleration is a matter of the whole process, so it is turned off once for all tests of this file.
fn acceleration_off() {
    static ONCE: std::sync::Once = std::sync::Once::new();
    ONCE.call_once(|| {
        Config::from_env().expect("environment").host_off().install().expect("nothing ran before");
    });
}

#[tokio::test]
async fn requests_over_tcp_are_answered_and_say_so() {
    acceleration_off();
    with_watchdog(async {
        let listener = AxumListener(ShmListener::bind("127.0.0.1:0").await.unwrap());
        let address = listener.0.local_addr().unwrap();
        tokio::spawn(async { axum::serve(listener, app().into_make_service_with_connect_info::<ShmPeer>()).await });

        let client = client();
        for round in 0..8 {
            let response = client.get(format!("http://{address}/path").parse().unwrap()).await.unwrap();
            let peer: ShmPeer = response.extensions().get::<ShmPeer>().unwrap().clone();
            assert_eq!(peer.addr(), address);
            assert_eq!(peer.path(), Path::Tcp(Reason::Disabled), "round {round}");
            assert!(peer.identity().is_none());
            assert_eq!(text(response).await, Path::Tcp(Reason::Disabled).to_string(), "the server sees the same");
        }
        let body = Bytes::from(vec![7; 3 << 20]);
        let request = http::Request::post(format!("http://{address}/echo")).body(Full::new(body.clone())).unwrap();
        let answer = client.request(request).await.unwrap().into_body().collect().await.unwrap().to_bytes();
        assert_eq!(answer, body);
    })
    .await;
}

#[tokio::test]
async fn listener_when_tapped_still_names_the_peer() {
    acceleration_off();
    with_watchdog(async {
        let listener = AxumListener::from(ShmListener::bind("[::1]:0").await.unwrap());
        let address = listener.0.local_addr().unwrap();
        let listener = listener.tap_io(|stream| stream.get_ref().set_nodelay(true).unwrap());
        tokio::spawn(async { axum::serve(listener, app().into_make_service_with_connect_info::<ShmPeer>()).await });
        let response = client().get(format!("http://{address}/addr").parse().unwrap()).await.unwrap();
        let local = response.extensions().get::<ShmPeer>().unwrap().local_addr();
        assert_eq!(text(response).await, local.to_string());
    })
    .await;
}

#[tokio::test]
async fn connecting_where_nobody_listens_is_an_error_that_names_the_target() {
    acceleration_off();
    with_watchdog(async {
        // Bound and not listening: refused, and no one else can take the port meanwhile.
        let socket = tokio::net::TcpSocket::new_v4().unwrap();
        socket.bind("127.0.0.1:0".parse().unwrap()).unwrap();
        let port = socket.local_addr().unwrap().port();
        let error = client().get(format!("http://127.0.0.1:{port}/").parse().unwrap()).await.unwrap_err();
        let source = std::error::Error::source(&error).unwrap().to_string();
        assert!(source.starts_with(&format!("cannot connect to 127.0.0.1 port {port}: ")), "{source}");
    })
    .await;
}
