//! `axum::serve` over a `ShmListener`.

use std::net::SocketAddr;
use std::sync::Arc;

use axum::Router;
use axum::extract::{ConnectInfo, DefaultBodyLimit};
use axum::routing::{get, post};
use axum::serve::ListenerExt;
use http_body_util::{BodyExt, Full};
use shmbc_http::{AxumListener, ShmPeer};
use shmbc_tokio::{Path, ShmListener};
use tokio::sync::{Notify, oneshot};

use super::{Bytes, OneConnection, Route, client, get as ask, large_body};

async fn serve(app: Router) -> SocketAddr {
    let listener = AxumListener(ShmListener::bind("127.0.0.1:0").await.unwrap());
    let address = listener.0.local_addr().unwrap();
    tokio::spawn(async { axum::serve(listener, app.into_make_service_with_connect_info::<ShmPeer>()).await });
    address
}

/// Which way the request came, and the caller's process as the host service proved it.
async fn who(ConnectInfo(peer): ConnectInfo<ShmPeer>) -> String {
    format!("{}, {:?}", peer.path(), peer.identity().map(|identity| identity.pid))
}

/// A client which keeps its connection needs to do nothing for the upgrade.
pub(crate) async fn axum_when_called_again_and_again_names_the_caller_and_its_path(route: Route) {
    let address = serve(Router::new().route("/who", get(who))).await;
    let client = client();
    let process = match route {
        Route::SharedMemory => Some(std::process::id()),
        Route::Tcp => None,
    };
    let mut same = 0;
    while same < 3 {
        // The pool may open a second connection when the first has not come back yet, so what the server says is
        // compared with what is known of the very connection it said it by.
        let (_, server_sees, peer) = ask(&client, address, "/who").await;
        assert_eq!(peer.addr(), address);
        // This end may have switched, and the server has yet to see it.
        same += i32::from(route.is_final(&peer.path()) && server_sees == format!("{}, {process:?}", route.words()));
        assert_eq!(peer.path() == Path::SharedMemory, peer.identity().is_some() && route.is_final(&peer.path()));
        tokio::task::yield_now().await;
    }
}

pub(crate) async fn axum_when_bodies_are_larger_than_the_ring_keeps_them_whole(route: Route) {
    let echo = post(async |body: Bytes| body);
    let address = serve(Router::new().route("/echo", echo).layer(DefaultBodyLimit::disable())).await;
    let (client, body) = (client(), large_body());
    let mut on_final_path = 0;
    while on_final_path < 2 {
        let request = http::Request::post(format!("http://{address}/echo")).body(Full::new(body.clone())).unwrap();
        let response = client.request(request).await.unwrap();
        let peer = response.extensions().get::<ShmPeer>().unwrap().clone();
        let answer = response.into_body().collect().await.unwrap().to_bytes();
        assert!(answer == body, "a body came back changed");
        on_final_path += i32::from(route.is_final(&peer.path()));
    }
}

pub(crate) async fn axum_when_tapped_names_the_caller_by_address(route: Route) {
    let listener = AxumListener::from(ShmListener::bind("[::1]:0").await.unwrap());
    let address = listener.0.local_addr().unwrap();
    let app = Router::new().route("/", get(async |ConnectInfo(addr): ConnectInfo<SocketAddr>| addr.to_string()));
    let listener = listener.tap_io(|stream| stream.get_ref().set_nodelay(true).unwrap());
    tokio::spawn(async { axum::serve(listener, app.into_make_service_with_connect_info::<SocketAddr>()).await });
    let client = client();
    loop {
        let (_, says, peer) = ask(&client, address, "/").await;
        assert_eq!(says, peer.local_addr().to_string());
        if route.is_final(&peer.path()) {
            break;
        }
    }
}

pub(crate) async fn axum_when_shut_down_answers_what_it_has_begun(route: Route) {
    let listener = AxumListener(ShmListener::bind("127.0.0.1:0").await.unwrap());
    let address = listener.0.local_addr().unwrap();
    let (begun, finish) = (Arc::new(Notify::new()), Arc::new(Notify::new()));
    let slow = {
        let (begun, finish) = (Arc::clone(&begun), Arc::clone(&finish));
        get(async move || {
            begun.notify_one();
            finish.notified().await;
            "done"
        })
    };
    let path = get(async |ConnectInfo(peer): ConnectInfo<ShmPeer>| peer.path().to_string());
    let app = Router::new().route("/path", path).route("/slow", slow);
    let (stop, stopped) = oneshot::channel::<()>();
    let serving = tokio::spawn(async move {
        let app = app.into_make_service_with_connect_info::<ShmPeer>();
        axum::serve(listener, app).with_graceful_shutdown(async { drop(stopped.await) }).await
    });
    let mut client = OneConnection::to(address, route).await;
    let asking = async {
        let answer = client.get("/slow").await;
        (answer, client.peer.path())
    };
    let stopping = async {
        begun.notified().await;
        stop.send(()).unwrap();
        finish.notify_one();
    };
    let ((answer, path), ()) = tokio::join!(asking, stopping);
    assert_eq!(answer, "done");
    assert!(route.is_final(&path));
    serving.await.unwrap().unwrap();
    let refused = super::client().get(format!("http://{address}/").parse().unwrap()).await;
    assert!(refused.is_err(), "nobody listens any more");
}
