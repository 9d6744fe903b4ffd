//! DNS over HTTPS (RFC 8484), over HTTP/2 or HTTP/1.1 as the client chose by ALPN.
//!
//! A request becomes a message or a refusal with a line of text before an answer is looked up. What is kept
//! for a client is bounded: headers, streams, bodies, and the time between two requests.

use std::{convert::Infallible, sync::Arc, time::Duration};

use base64::{Engine as _, prelude::BASE64_URL_SAFE_NO_PAD};
use bytes::Bytes;
use http::{
    HeaderMap, HeaderValue, Method, Request, Response, StatusCode,
    header::{ALLOW, CACHE_CONTROL, CONTENT_LENGTH, CONTENT_TYPE},
};
use http_body_util::{BodyExt as _, Full, LengthLimitError, Limited};
use hyper::{
    body::Body,
    server::conn::{http1, http2},
    service::service_fn,
};
use hyper_util::rt::{TokioExecutor, TokioIo, TokioTimer};
use tokio::{
    net::TcpStream,
    sync::Notify,
    time::{Instant, sleep_until, timeout},
};
use tokio_rustls::server::TlsStream;

use super::{Responder, connection::ConnectionContext, end};
use crate::{options, packet::Dropped};

const PATH: &str = "/dns-query";
const MESSAGE: &str = "application/dns-message";
/// The longest message.
const MAX: usize = 65_535;
/// Requests of one connection at a time.
const STREAMS: u32 = 64;
const MAX_HEAD: u32 = 16 * 1024;
/// Room for the longest message as base64url in a GET's target, and the head around it.
const MAX_BUFFER: usize = 128 * 1024;
/// What clients may send before it was read, by stream and by connection.
const WINDOWS: (u32, u32) = (65_535, 256 * 1024);

/// Answers the requests of one connection until the client, the idle limit or the server's end ends it.
pub(super) async fn serve(stream: TlsStream<TcpStream>, context: ConnectionContext<impl Responder>) {
    let two = stream.get_ref().1.alpn_protocol() == Some(b"h2");
    let began = Arc::new(Notify::new());
    let service = {
        let (context, began) = (context.clone(), Arc::clone(&began));
        service_fn(move |request| {
            began.notify_one();
            let context = context.clone();
            async move { Ok::<_, Infallible>(respond(request, &context).await.map(Full::new)) }
        })
    };
    let stream = TokioIo::new(stream);
    if two {
        let connection = version_two().serve_connection(stream, service);
        tokio::pin!(connection);
        until_idle(connection, http2::Connection::graceful_shutdown, &began, context).await;
    } else {
        let connection = version_one(context.idle).serve_connection(stream, service);
        tokio::pin!(connection);
        until_idle(connection, http1::Connection::graceful_shutdown, &began, context).await;
    }
}

fn version_one(idle: Duration) -> http1::Builder {
    let mut server = http1::Builder::new();
    server.timer(TokioTimer::new()).header_read_timeout(idle).max_buf_size(MAX_BUFFER);
    server
}

fn version_two() -> http2::Builder<TokioExecutor> {
    let mut server = http2::Builder::new(TokioExecutor::new());
    server
        .timer(TokioTimer::new())
        .max_concurrent_streams(STREAMS)
        .max_header_list_size(MAX_HEAD)
        .max_send_buf_size(MAX)
        .initial_stream_window_size(WINDOWS.0)
        .initial_connection_window_size(WINDOWS.1);
    server
}

/// Drives a connection. When no request begins within the idle limit, or the server ends, what has begun may be
/// finished within another idle limit.
async fn until_idle<C: Future<Output = hyper::Result<()>>>(
    mut connection: std::pin::Pin<&mut C>,
    finish: fn(std::pin::Pin<&mut C>),
    began: &Notify,
    mut context: ConnectionContext<impl Responder>,
) {
    let mut deadline = Instant::now() + context.idle;
    let idle = loop {
        tokio::select! {
            ended = connection.as_mut() => return log(ended, &context),
            () = began.notified() => deadline = Instant::now() + context.idle,
            () = sleep_until(deadline) => break true,
            () = end(&mut context.stopped) => break false,
        }
    };
    if idle {
        context.responder.metrics().idle_connections.increment();
    }
    finish(connection.as_mut());
    match timeout(context.idle, connection).await {
        Ok(ended) => log(ended, &context),
        Err(_) => context.responder.metrics().slow_connections.increment(),
    }
}

fn log(ended: hyper::Result<()>, context: &ConnectionContext<impl Responder>) {
    if let Err(error) = ended {
        tracing::debug!(%error, peer = %context.peer, "an HTTP connection ended early");
    }
}

/// Why a request gets no DNS message.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(crate) struct Refusal {
    /// The status.
    pub(crate) status: StatusCode,
    text: &'static str,
}

const fn refuse(status: StatusCode, text: &'static str) -> Refusal {
    Refusal { status, text }
}

const NO_SUCH_PATH: Refusal = refuse(StatusCode::NOT_FOUND, "DNS is served at /dns-query\n");
const NO_SUCH_METHOD: Refusal = refuse(StatusCode::METHOD_NOT_ALLOWED, "only GET and POST are served\n");
const NO_MESSAGE: Refusal =
    refuse(StatusCode::BAD_REQUEST, "a GET needs one parameter dns with a DNS message in base64url\n");
const NOT_BASE64: Refusal =
    refuse(StatusCode::BAD_REQUEST, "the parameter dns is not base64url without padding\n");
const NOT_A_QUERY: Refusal = refuse(StatusCode::BAD_REQUEST, "this is not a DNS query\n");
const DEFECT: Refusal = refuse(StatusCode::INTERNAL_SERVER_ERROR, "answering this query failed\n");
const BAD_LENGTH: Refusal =
    refuse(StatusCode::BAD_REQUEST, "the body is not as long as its content-length says\n");
const BROKEN_BODY: Refusal = refuse(StatusCode::BAD_REQUEST, "the body broke off\n");
const SLOW_BODY: Refusal = refuse(StatusCode::REQUEST_TIMEOUT, "the body did not come in time\n");
const TOO_LONG: Refusal = refuse(StatusCode::PAYLOAD_TOO_LARGE, "a DNS message has at most 65535 octets\n");
const NOT_DNS: Refusal =
    refuse(StatusCode::UNSUPPORTED_MEDIA_TYPE, "a POST needs the content type application/dns-message\n");

/// The response to a request, over any version of HTTP.
pub(super) async fn respond<B>(
    request: Request<B>,
    context: &ConnectionContext<impl Responder>,
) -> Response<Bytes>
where
    B: Body<Data = Bytes>,
    B::Error: Into<Box<dyn std::error::Error + Send + Sync>>,
{
    let outcome = match message(request, context.idle).await {
        Ok(query) => context.reply(&query).await.map_err(|dropped| match dropped {
            Dropped::Defect => DEFECT,
            _ => NOT_A_QUERY,
        }),
        Err(refusal) => Err(refusal),
    };
    match outcome {
        Ok(reply) => answer(reply),
        Err(refusal) => {
            context.responder.metrics().refuse_http(refusal.status.as_u16());
            refused(refusal)
        }
    }
}

/// The DNS message of a request.
async fn message<B>(request: Request<B>, patience: Duration) -> Result<Bytes, Refusal>
where
    B: Body<Data = Bytes>,
    B::Error: Into<Box<dyn std::error::Error + Send + Sync>>,
{
    if request.uri().path() != PATH {
        return Err(NO_SUCH_PATH);
    }
    match *request.method() {
        Method::GET => parameter(request.uri().query().unwrap_or_default()),
        Method::POST => {
            let length = announced(request.headers())?;
            let body = Limited::new(request.into_body(), MAX).collect();
            match timeout(patience, body).await {
                Ok(Ok(body)) => {
                    let body = body.to_bytes();
                    // hyper checks this for HTTP/1.1 and HTTP/2; over HTTP/3 it is checked here (RFC 9114 §4.1.2).
                    if length.is_some_and(|length| length != body.len()) {
                        return Err(BAD_LENGTH);
                    }
                    Ok(body)
                }
                Ok(Err(error)) if error.is::<LengthLimitError>() => Err(TOO_LONG),
                Ok(Err(_)) => Err(BROKEN_BODY),
                Err(_) => Err(SLOW_BODY),
            }
        }
        _ => Err(NO_SUCH_METHOD),
    }
}

/// Checks the headers of a POST: the type of a DNS message, and its length if they have one.
fn announced(headers: &HeaderMap) -> Result<Option<usize>, Refusal> {
    let text = |name| headers.get(name).and_then(|value: &HeaderValue| value.to_str().ok());
    let kind = text(CONTENT_TYPE).and_then(|it| it.split(';').next()).unwrap_or_default();
    if !kind.trim().eq_ignore_ascii_case(MESSAGE) {
        return Err(NOT_DNS);
    }
    let Some(length) = headers.get(CONTENT_LENGTH) else { return Ok(None) };
    // Several that differ are an error (RFC 9110 §8.6).
    if headers.get_all(CONTENT_LENGTH).iter().any(|it| it != length) {
        return Err(BAD_LENGTH);
    }
    let digits = length.to_str().ok().filter(|it| it.bytes().all(|it| it.is_ascii_digit()));
    let digits = digits.filter(|it| !it.is_empty()).ok_or(BAD_LENGTH)?;
    // A number that does not fit is too long as well.
    match digits.parse::<usize>() {
        Ok(length) if length <= MAX => Ok(Some(length)),
        _ => Err(TOO_LONG),
    }
}

/// The message in a GET's query (RFC 8484 §6); several parameters `dns` are an error.
fn parameter(query: &str) -> Result<Bytes, Refusal> {
    let mut given = query.split('&').filter_map(|it| it.strip_prefix("dns="));
    let (Some(text), None) = (given.next(), given.next()) else { return Err(NO_MESSAGE) };
    let message = BASE64_URL_SAFE_NO_PAD.decode(text).map_err(|_| NOT_BASE64)?;
    if message.len() > MAX { Err(TOO_LONG) } else { Ok(message.into()) }
}

/// A reply. It may be kept as long as its records, but only by the client: others may be sent elsewhere.
fn answer(reply: Vec<u8>) -> Response<Bytes> {
    let keep = HeaderValue::from_str(&format!("private, max-age={}", options::freshness(&reply)));
    let mut response = Response::new(Bytes::from(reply));
    let headers = response.headers_mut();
    headers.insert(CONTENT_TYPE, HeaderValue::from_static(MESSAGE));
    headers.insert(CACHE_CONTROL, keep.unwrap_or_else(|_| HeaderValue::from_static("no-store")));
    response
}

fn refused(refusal: Refusal) -> Response<Bytes> {
    let mut response = Response::new(Bytes::from_static(refusal.text.as_bytes()));
    *response.status_mut() = refusal.status;
    let headers = response.headers_mut();
    headers.insert(CONTENT_TYPE, HeaderValue::from_static("text/plain; charset=utf-8"));
    if refusal == NO_SUCH_METHOD {
        headers.insert(ALLOW, HeaderValue::from_static("GET, POST"));
    }
    response
}

#[cfg(test)]
mod tests {
    use super::*;

    const PATIENCE: Duration = Duration::from_secs(20);

    async fn outcome(
        method: &str,
        target: &str,
        kind: Option<&str>,
        body: Vec<u8>,
    ) -> Result<Bytes, Refusal> {
        let mut request = Request::builder().method(method).uri(target);
        if let Some(kind) = kind {
            request = request.header(CONTENT_TYPE, kind);
        }
        message(request.body(Full::new(Bytes::from(body))).unwrap(), PATIENCE).await
    }

    #[tokio::test]
    async fn a_message_comes_in_a_body_or_in_the_target() {
        let query = vec![1, 2, 250, 255];
        let posted = outcome("POST", "/dns-query", Some(MESSAGE), query.clone()).await;
        let parameters =
            outcome("POST", "/dns-query", Some("Application/DNS-Message; x=y"), query.clone()).await;
        let got = outcome("GET", "/dns-query?ct=x&dns=AQL6_w&x", None, vec![]).await;
        for message in [posted, parameters, got] {
            assert_eq!(message.unwrap(), query);
        }
        let longest = outcome("POST", "/dns-query", Some(MESSAGE), vec![0; MAX]).await;
        assert_eq!(longest.unwrap().len(), MAX);
    }

    #[tokio::test]
    async fn what_is_no_dns_request_is_refused_by_its_status() {
        let cases = [
            ("GET", "/", None, 0, NO_SUCH_PATH),
            ("GET", "/dns-query/", None, 0, NO_SUCH_PATH),
            ("GET", "/dns-query", None, 0, NO_MESSAGE),
            ("GET", "/dns-query?xdns=AQL6", None, 0, NO_MESSAGE),
            ("GET", "/dns-query?dns=AQL6&dns=AQL6", None, 0, NO_MESSAGE),
            ("GET", "/dns-query?dns=AQL6%3D", None, 0, NOT_BASE64),
            ("GET", "/dns-query?dns=AQL6_w==", None, 0, NOT_BASE64),
            ("GET", "/dns-query?dns=AQL6+w", None, 0, NOT_BASE64),
            ("HEAD", "/dns-query", None, 0, NO_SUCH_METHOD),
            ("PUT", "/dns-query", Some(MESSAGE), 12, NO_SUCH_METHOD),
            ("POST", "/dns-query", None, 12, NOT_DNS),
            ("POST", "/dns-query", Some("application/dns-json"), 12, NOT_DNS),
            ("POST", "/dns-query", Some(MESSAGE), MAX + 1, TOO_LONG),
        ];
        for (method, target, kind, octets, refusal) in cases {
            let got = outcome(method, target, kind, vec![0; octets]).await;
            assert_eq!(got, Err(refusal), "{method} {target} {kind:?}");
        }
        let length = HeaderMap::from_iter([
            (CONTENT_TYPE, HeaderValue::from_static(MESSAGE)),
            (CONTENT_LENGTH, HeaderValue::from_static("65536")),
        ]);
        assert_eq!(announced(&length), Err(TOO_LONG), "before the body came");
    }

    #[tokio::test]
    async fn a_body_has_the_length_of_its_header() {
        let with = |lengths: &[&'static str]| {
            let mut request = Request::post("/dns-query").header(CONTENT_TYPE, MESSAGE);
            for length in lengths {
                request = request.header(CONTENT_LENGTH, *length);
            }
            message(request.body(Full::new(Bytes::from_static(&[0; 12]))).unwrap(), PATIENCE)
        };
        for good in [&["12"][..], &["12", "12"], &[]] {
            assert_eq!(with(good).await.unwrap(), vec![0; 12], "{good:?}");
        }
        for bad in [&["5"][..], &["13"], &["12", "13"], &["+12"], &[""], &["12, 12"]] {
            assert_eq!(with(bad).await, Err(BAD_LENGTH), "{bad:?}");
        }
        assert_eq!(with(&["99999999999999999999999999"]).await, Err(TOO_LONG));
    }

    #[tokio::test]
    async fn a_body_that_does_not_come_is_not_waited_for_long() {
        let body = http_body_util::StreamBody::new(futures_util::stream::pending::<
            Result<hyper::body::Frame<Bytes>, std::io::Error>,
        >());
        let request = Request::post("/dns-query").header(CONTENT_TYPE, MESSAGE).body(body).unwrap();
        assert_eq!(message(request, Duration::from_millis(1)).await, Err(SLOW_BODY));
    }
}
