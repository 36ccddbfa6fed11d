//! tokio-rustls over the stream, which needs nothing for it.

use std::sync::Arc;

use tokio::io::{AsyncReadExt, AsyncWriteExt};
use tokio_rustls::rustls::pki_types::{PrivatePkcs8KeyDer, ServerName};
use tokio_rustls::rustls::{ClientConfig, RootCertStore, ServerConfig};
use tokio_rustls::{TlsAcceptor, TlsConnector};

use super::{Route, large_body, pair};

fn both_sides() -> (TlsConnector, TlsAcceptor) {
    let made = rcgen::generate_simple_self_signed(["server".to_owned()]).unwrap();
    let certificate = made.cert.der().clone();
    let key = PrivatePkcs8KeyDer::from(made.signing_key.serialize_der());
    let mut roots = RootCertStore::empty();
    roots.add(certificate.clone()).unwrap();
    let client = ClientConfig::builder().with_root_certificates(roots).with_no_client_auth();
    let server = ServerConfig::builder().with_no_client_auth().with_single_cert(vec![certificate], key.into()).unwrap();
    (TlsConnector::from(Arc::new(client)), TlsAcceptor::from(Arc::new(server)))
}

pub(crate) async fn tls_when_spoken_over_the_stream_carries_bytes_both_ways(route: Route) {
    let (client, server) = pair(route).await;
    let (connector, acceptor) = both_sides();
    let body = large_body();
    let echo = async {
        let mut stream = acceptor.accept(server).await.unwrap();
        let mut got = Vec::new();
        stream.read_to_end(&mut got).await.unwrap();
        stream.write_all(&got).await.unwrap();
        stream.shutdown().await.unwrap();
        assert!(route.is_final(&stream.get_ref().0.path()));
    };
    let ask = async {
        let mut stream = connector.connect(ServerName::try_from("server").unwrap(), client).await.unwrap();
        stream.write_all(&body).await.unwrap();
        stream.shutdown().await.unwrap();
        let mut got = Vec::new();
        stream.read_to_end(&mut got).await.unwrap();
        assert!(got == body, "it came back changed");
    };
    tokio::join!(echo, ask);
}
