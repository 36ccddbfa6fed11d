//! TLS over the stream, with tokio-rustls, which takes any stream: nothing is needed for it.
//!
//! `cargo run --example tls`, or `-- server 0.0.0.0:4433` here and `-- client HOST:4433` there, with `CERTIFICATE` in the
//! environment of both: the file into which the server puts its certificate, made anew each time, and from which the
//! client takes it. Shared memory is not readable to others either; TLS is for those who have it in their protocol.

use std::sync::Arc;

use shmbc_examples::{Failure, is_settled, run};
use shmbc_tokio::{ShmListener, ShmStream};
use tokio::io::{AsyncReadExt, AsyncWriteExt};
use tokio_rustls::rustls::pki_types::{CertificateDer, PrivatePkcs8KeyDer, ServerName};
use tokio_rustls::rustls::{ClientConfig, RootCertStore, ServerConfig};
use tokio_rustls::{TlsAcceptor, TlsConnector};

/// The name in the certificate, by whatever address the server is reached.
const NAME: &str = "server.example";

/// What goes there and back at once: some TLS records.
const LEN: usize = 100_000;

struct Certificate {
    public: CertificateDer<'static>,
    key: PrivatePkcs8KeyDer<'static>,
}

fn make() -> Result<Certificate, Failure> {
    let made = rcgen::generate_simple_self_signed([NAME.to_owned()])?;
    let public = made.cert.der().clone();
    if let Some(file) = std::env::var_os("CERTIFICATE") {
        std::fs::write(file, &public)?;
    }
    Ok(Certificate { public, key: made.signing_key.serialize_der().into() })
}

async fn server(listener: ShmListener, certificate: Certificate) -> Result<(), Failure> {
    let config = ServerConfig::builder().with_no_client_auth();
    let config = config.with_single_cert(vec![certificate.public], certificate.key.into())?;
    let acceptor = TlsAcceptor::from(Arc::new(config));
    loop {
        let (stream, _) = listener.accept().await?;
        let acceptor = acceptor.clone();
        tokio::spawn(async move {
            let mut tls = acceptor.accept(stream).await?;
            let mut buf = vec![0; LEN];
            while tls.read_exact(&mut buf).await.is_ok() {
                tls.write_all(&buf).await?;
                tls.flush().await?;
            }
            Ok::<_, std::io::Error>(())
        });
    }
}

async fn client(address: String, certificate: Option<CertificateDer<'static>>) -> Result<(), Failure> {
    let certificate = match certificate {
        Some(certificate) => certificate,
        None => std::fs::read(std::env::var_os("CERTIFICATE").ok_or("CERTIFICATE names no file")?)?.into(),
    };
    let mut roots = RootCertStore::empty();
    roots.add(certificate)?;
    let config = ClientConfig::builder().with_root_certificates(roots).with_no_client_auth();
    let stream = ShmStream::connect(address).await?;
    let mut tls = TlsConnector::from(Arc::new(config)).connect(ServerName::try_from(NAME)?, stream).await?;
    let mut answer = vec![0; LEN];
    for n in 1.. {
        let message = vec![n as u8; LEN];
        tls.write_all(&message).await?;
        tls.flush().await?;
        tls.read_exact(&mut answer).await?;
        assert!(answer == message, "it came back changed");
        let (stream, session) = tls.get_ref();
        let (version, path) = (session.protocol_version().ok_or("no handshake")?, stream.path());
        if n == 1 || is_settled(&path) {
            println!("client: {LEN} bytes and back in {version:?}, time {n}, by {path}");
        }
        if is_settled(&path) {
            break;
        }
    }
    tls.shutdown().await?;
    Ok(())
}

#[tokio::main(flavor = "current_thread")]
async fn main() -> Result<(), Failure> {
    let alone = std::env::args().len() == 1;
    let certificate = make_unless_client()?;
    let public = certificate.as_ref().filter(|_| alone).map(|certificate| certificate.public.clone());
    run(
        async |listener| server(listener, certificate.ok_or("the server makes one")?).await,
        |address| client(address, public),
    )
    .await
}

fn make_unless_client() -> Result<Option<Certificate>, Failure> {
    if std::env::args().nth(1).is_some_and(|role| role == "client") { Ok(None) } else { make().map(Some) }
}
