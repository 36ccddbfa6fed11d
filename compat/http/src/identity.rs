//! A tower layer that knows who calls, without certificates, and turns away who may not.
//!
//! Decides with [`Requirement`] what `ShmPeer` has proven; knows nothing of how. Never lets a request pass of which it does
//! not know whose it is, when anything is required.

mod requirement;
mod with_peer;

use std::pin::Pin;
use std::sync::Arc;
use std::task::{Context, Poll};
use std::time::Duration;

use bytes::Bytes;
use http::header::{CONTENT_TYPE, HeaderMap, HeaderValue};
use http::{Extensions, Request, Response, StatusCode};
use http_body_util::{Either, Full};
use shmbc_tokio::{Identity, Reason};
use tower_layer::Layer;
use tower_service::Service;

pub use self::requirement::Requirement;
pub use self::with_peer::WithPeer;
use crate::ShmPeer;

/// How long a request waits for the proof of its caller's identity unless told otherwise. A proof takes less than a
/// millisecond once both ends have offered; this is what the host service gives the second end to come to it.
const WAIT: Duration = Duration::from_secs(2);

/// gRPC's code for "may not", which its callers understand better than an HTTP status.
const PERMISSION_DENIED: HeaderValue = HeaderValue::from_static("7");

/// Puts the caller's proven identity into each request, and turns away who is not what is required.
///
/// A request that passes has [`ProvenPeer`] in its extensions if its caller is proven. With nothing required every
/// request passes, at once; with a requirement a request whose caller is not proven *yet*, since a connection begins on
/// TCP, waits for that. One that is not proven in time, is proven to be somebody else, or never can be (plain TCP, another
/// host, no host service) is answered with `403 Forbidden` and a body that says what is required and what is known, and
/// the inner service never sees it.
///
/// # What is proven, by whom
///
/// The **host service** says who the other end of the TCP connection is: it looks at the socket in the process that
/// offered it (`pidfd_getfd`), at the process by a descriptor that cannot come to mean another one (pidfd), at
/// its container by the outermost cgroup, which a process cannot choose, and at the container's name and labels as Docker's
/// engine has them. The caller sends nothing, holds no secret, and cannot claim anything.
///
/// So trusted are: the kernel, the host service, the Docker engine, and with it everybody who may start or rename
/// containers. Whom the *process* serves is for it to know: a proxy in a container is what is proven, not who calls the
/// proxy; and a process that hands its connection to another speaks with its own identity still.
///
/// # The caller's side
///
/// The caller has to offer the connection too. A program that does not know of this does so with its second request on a
/// connection, too late for the first, which waits in vain and is answered with `403`. Make the caller offer as soon as it is
/// connected: [`ShmConnector::offer_at_once`](crate::ShmConnector::offer_at_once), or
/// [`ShmStream::upgraded`](shmbc_tokio::ShmStream::upgraded) on a stream of its own.
///
/// # Where the caller comes from
///
/// | server | line |
/// |---|---|
/// | axum | `into_make_service_with_connect_info::<ShmPeer>()`, and `Router::layer` |
/// | tonic | `serve_with_incoming(TonicIncoming::new(listener).with_peer())`, and `Server::layer` |
/// | hyper, hyper-util | [`WithPeer`] around the service of each connection |
///
/// Handlers that ask for axum's `ConnectInfo<SocketAddr>` or tonic's `Request::remote_addr()` get what they ask for
/// behind this layer.
///
/// ```
/// # #[cfg(feature = "axum08")]
/// # fn example() {
/// use axum::{Router, routing::get};
/// use shmbc_http::{IdentityLayer, ProvenPeer, Requirement};
///
/// let app: Router = Router::new()
///     .route("/invoices", get(async |caller: ProvenPeer| format!("for {:?}", caller.identity().container)))
///     .layer(IdentityLayer::new().require(Requirement::label("com.docker.compose.service", "billing")));
/// # drop(app);
/// # }
/// ```
#[derive(Clone, Debug)]
pub struct IdentityLayer {
    rules: Arc<Rules>,
}

#[derive(Clone, Debug)]
struct Rules {
    /// All must hold.
    required: Vec<Requirement>,
    wait: Duration,
}

impl IdentityLayer {
    /// Requires nothing: tells who calls where that is proven already.
    pub fn new() -> Self {
        Self { rules: Arc::new(Rules { required: Vec::new(), wait: WAIT }) }
    }

    /// Requires this too, of every request. Whatever was required before has to hold as well.
    #[must_use]
    pub fn require(mut self, requirement: Requirement) -> Self {
        Arc::make_mut(&mut self.rules).required.push(requirement);
        self
    }

    /// How long a request may wait for the proof, 2 seconds unless told otherwise.
    ///
    /// Every caller that cannot be proven may keep one request waiting for so long; one that the host service has
    /// answered about is not waited for again.
    #[must_use]
    pub fn wait_at_most(mut self, wait: Duration) -> Self {
        Arc::make_mut(&mut self.rules).wait = wait;
        self
    }
}

impl Default for IdentityLayer {
    fn default() -> Self {
        Self::new()
    }
}

impl<S> Layer<S> for IdentityLayer {
    type Service = IdentityService<S>;

    fn layer(&self, inner: S) -> Self::Service {
        IdentityService { rules: Arc::clone(&self.rules), inner }
    }
}

/// The caller of a request, proven: in the extensions of each request that passed an [`IdentityLayer`] with a requirement,
/// and of those that passed one without if the proof had come by then. An extractor for axum.
#[derive(Clone, Debug)]
pub struct ProvenPeer(ShmPeer);

impl ProvenPeer {
    /// Who it is.
    pub fn identity(&self) -> &Identity {
        self.0.identity().expect("there is no unproven one, and what is proven stays so")
    }

    /// The connection it calls by.
    pub const fn peer(&self) -> &ShmPeer {
        &self.0
    }
}

/// What [`IdentityLayer`] makes of a service.
#[derive(Clone, Debug)]
pub struct IdentityService<S> {
    rules: Arc<Rules>,
    inner: S,
}

impl<S, B, R> Service<Request<B>> for IdentityService<S>
where
    S: Service<Request<B>, Response = Response<R>> + Clone + Send + 'static,
    S::Future: Send,
    B: Send + 'static,
{
    /// The inner service's answer, or the refusal.
    type Response = Response<Either<R, Full<Bytes>>>;
    type Error = S::Error;
    type Future = Pin<Box<dyn Future<Output = Result<Self::Response, Self::Error>> + Send>>;

    fn poll_ready(&mut self, cx: &mut Context<'_>) -> Poll<Result<(), Self::Error>> {
        self.inner.poll_ready(cx)
    }

    fn call(&mut self, mut request: Request<B>) -> Self::Future {
        // The one that was found ready is the one to be called.
        let next = self.inner.clone();
        let mut inner = std::mem::replace(&mut self.inner, next);
        let rules = Arc::clone(&self.rules);
        Box::pin(async move {
            // What somebody else may have put there is not proven.
            request.extensions_mut().remove::<ProvenPeer>();
            let peer = peer(request.extensions());
            if let Err(known) = rules.check(peer.as_ref()).await {
                return Ok(refusal(&rules.required, &known, request.headers()));
            }
            if let Some(peer) = peer {
                introduce(peer, request.extensions_mut());
            }
            Ok(inner.call(request).await?.map(Either::Left))
        })
    }
}

/// What is known of a caller that is turned away.
enum Known {
    /// It is proven to be this one.
    Other(Box<Identity>),
    /// Nothing, since the connection is on TCP for this reason.
    Unproven(Reason),
    /// Nothing yet, and the request has waited long enough.
    NotInTime(Duration),
    /// Nothing, since the server does not say which connection the request came by.
    NoConnection,
}

impl Rules {
    async fn check(&self, peer: Option<&ShmPeer>) -> Result<(), Known> {
        if self.required.is_empty() {
            return Ok(());
        }
        let peer = peer.ok_or(Known::NoConnection)?;
        let identity = match tokio::time::timeout(self.wait, peer.proven()).await {
            Ok(Ok(identity)) => identity,
            Ok(Err(reason)) => return Err(Known::Unproven(reason)),
            Err(_) => return Err(Known::NotInTime(self.wait)),
        };
        if self.required.iter().all(|requirement| requirement.met_by(identity)) {
            Ok(())
        } else {
            Err(Known::Other(Box::new(identity.clone())))
        }
    }
}

/// The connection by which a request came, wherever its server says so.
fn peer(extensions: &Extensions) -> Option<ShmPeer> {
    #[cfg(feature = "axum08")]
    if let Some(axum::extract::ConnectInfo(peer)) = extensions.get::<axum::extract::ConnectInfo<ShmPeer>>() {
        return Some(peer.clone());
    }
    extensions.get::<ShmPeer>().cloned()
}

/// Tells the inner service who calls, in each way in which it may ask.
fn introduce(peer: ShmPeer, extensions: &mut Extensions) {
    #[cfg(feature = "axum08")]
    if extensions.get::<axum::extract::ConnectInfo<std::net::SocketAddr>>().is_none() {
        extensions.insert(axum::extract::ConnectInfo(peer.addr()));
    }
    #[cfg(feature = "tonic014")]
    if extensions.get::<tonic::transport::server::TcpConnectInfo>().is_none() {
        extensions.insert(crate::tonic014::tcp_info(&peer));
    }
    if peer.identity().is_some() {
        extensions.insert(ProvenPeer(peer.clone()));
    }
    extensions.insert(peer);
}

fn refusal<R>(required: &[Requirement], known: &Known, headers: &HeaderMap) -> Response<Either<R, Full<Bytes>>> {
    let wanted: Vec<_> = required.iter().map(ToString::to_string).collect();
    let known = match known {
        Known::Other(identity) => match &identity.container {
            Some(container) if container.id.is_empty() => {
                format!(
                    "proven: it is process {} in a container that the host service does not recognise",
                    identity.pid
                )
            }
            Some(container) => {
                format!("proven: it is the container {:?} ({}), without that", container.name, container.id)
            }
            None => format!("proven: it is process {} outside of any known container", identity.pid),
        },
        Known::Unproven(reason) => format!("not proven: its connection is on TCP ({reason})"),
        Known::NotInTime(wait) => {
            format!("not proven: the connection was not upgraded within {wait:?}; the caller has to offer it at once")
        }
        Known::NoConnection => {
            tracing::error!("no ShmPeer in the request: the server does not say which connection it came by");
            "not proven: this server does not say which connection the request came by".to_owned()
        }
    };
    let text = format!("required of the caller: {}\n{known}\n", wanted.join(", and "));
    tracing::debug!(text, "request refused");
    let grpc = headers.get(CONTENT_TYPE).is_some_and(|kind| kind.as_bytes().starts_with(b"application/grpc"));
    let mut response = Response::new(Either::Right(Full::new(Bytes::from(text.clone()))));
    *response.status_mut() = StatusCode::FORBIDDEN;
    let headers = response.headers_mut();
    if grpc {
        // Its callers read the headers and not the body.
        *response.body_mut() = Either::Right(Full::default());
        let headers = response.headers_mut();
        headers.insert(CONTENT_TYPE, HeaderValue::from_static("application/grpc"));
        headers.insert("grpc-status", PERMISSION_DENIED);
        headers.insert("grpc-message", percent_encoded(text.trim_end()));
    } else {
        headers.insert(CONTENT_TYPE, HeaderValue::from_static("text/plain; charset=utf-8"));
    }
    response
}

/// As gRPC wants it in a header: printable ASCII as it is, everything else and `%` by its bytes.
fn percent_encoded(text: &str) -> HeaderValue {
    let encoded: String = text
        .bytes()
        .map(|byte| match byte {
            b'%' => "%25".to_owned(),
            b' '..=b'~' => char::from(byte).to_string(),
            _ => format!("%{byte:02X}"),
        })
        .collect();
    HeaderValue::from_str(&encoded).expect("only printable ASCII is left")
}

#[cfg(feature = "axum08")]
impl<S: Sync> axum::extract::FromRequestParts<S> for ProvenPeer {
    type Rejection = (StatusCode, &'static str);

    async fn from_request_parts(parts: &mut http::request::Parts, _: &S) -> Result<Self, Self::Rejection> {
        let missing = (StatusCode::FORBIDDEN, "the caller is not proven\n");
        parts.extensions.get().cloned().ok_or(missing)
    }
}

#[cfg(test)]
mod tests {
    use std::convert::Infallible;

    use http_body_util::BodyExt;
    use shmbc_tokio::ContainerIdentity;
    use tower::{ServiceExt, service_fn};

    use super::*;

    fn container(name: &str, role: &str) -> ShmPeer {
        let labels = [("role".to_owned(), role.to_owned())].into();
        let container = ContainerIdentity { id: "c".repeat(64), name: name.to_owned(), labels };
        ShmPeer::gone(Some(Identity { container: Some(container), pid: 7, ..Identity::default() }))
    }

    /// Status and text of the answer; the application answers with the caller's name.
    async fn answer(layer: &IdentityLayer, request: Request<&'static str>) -> (StatusCode, HeaderMap, String) {
        let application = service_fn(async |request: Request<&'static str>| {
            let proven = request.extensions().get::<ProvenPeer>().and_then(|peer| peer.identity().container.clone());
            Ok::<_, Infallible>(Response::new(Full::new(Bytes::from(proven.unwrap_or_default().name))))
        });
        let Ok(response) = layer.layer(application).oneshot(request).await;
        let (parts, body) = response.into_parts();
        let body = body.collect().await.expect("a body of plain bytes").to_bytes();
        (parts.status, parts.headers, String::from_utf8(body.to_vec()).expect("text"))
    }

    fn request(peer: Option<ShmPeer>) -> Request<&'static str> {
        let mut request = Request::new("");
        request.extensions_mut().extend(peer.into_iter().fold(Extensions::new(), |mut all, peer| {
            all.insert(peer);
            all
        }));
        request
    }

    #[tokio::test]
    async fn request_when_its_caller_is_what_is_required_passes_with_its_identity() {
        let layer =
            IdentityLayer::new().require(Requirement::label("role", "web")).require(Requirement::container("a"));
        let (status, _, text) = answer(&layer, request(Some(container("a", "web")))).await;
        assert_eq!((status, &*text), (StatusCode::OK, "a"));
    }

    #[tokio::test]
    async fn request_when_only_some_of_what_is_required_holds_is_forbidden_and_names_both() {
        let layer =
            IdentityLayer::new().require(Requirement::label("role", "web")).require(Requirement::container("a"));
        for caller in [container("a", "api"), container("b", "web")] {
            let (status, _, text) = answer(&layer, request(Some(caller.clone()))).await;
            assert_eq!(status, StatusCode::FORBIDDEN);
            let name = &caller.identity().expect("proven").container.as_ref().expect("in one").name;
            let id = "c".repeat(64);
            let expected = format!(
                "required of the caller: the label \"role\"=\"web\", and the container named \"a\"\n\
                 proven: it is the container {name:?} ({id}), without that\n"
            );
            assert_eq!(text, expected);
        }
    }

    #[tokio::test]
    async fn request_when_nobody_says_whose_it_is_is_forbidden_unless_nothing_is_required() {
        let layer = IdentityLayer::new();
        assert_eq!(answer(&layer, request(None)).await.0, StatusCode::OK);
        let layer = layer.require(Requirement::has_label("role"));
        for peer in [None, Some(ShmPeer::gone(None))] {
            let (status, _, text) = answer(&layer, request(peer)).await;
            assert_eq!(status, StatusCode::FORBIDDEN);
            assert!(text.contains("not proven: "), "{text}");
        }
    }

    #[tokio::test]
    async fn request_when_it_brings_a_proof_of_its_own_is_not_believed() {
        let mut forged = request(Some(ShmPeer::gone(None)));
        forged.extensions_mut().insert(ProvenPeer(container("a", "web")));
        let (status, _, text) = answer(&IdentityLayer::new(), forged).await;
        assert_eq!((status, &*text), (StatusCode::OK, ""));
    }

    #[tokio::test]
    async fn request_when_it_is_grpc_is_refused_in_grpcs_words() {
        let layer = IdentityLayer::new().require(Requirement::label("größe", "100%"));
        let mut call = request(None);
        call.headers_mut().insert(CONTENT_TYPE, HeaderValue::from_static("application/grpc+proto"));
        let (status, headers, text) = answer(&layer, call).await;
        assert_eq!((status, &*text), (StatusCode::FORBIDDEN, ""));
        assert_eq!(headers["grpc-status"], "7");
        let message = headers["grpc-message"].to_str().expect("ASCII");
        assert!(
            message.starts_with("required of the caller: the label \"gr%C3%B6%C3%9Fe\"=\"100%25\"%0Anot"),
            "{message}"
        );
    }
}
