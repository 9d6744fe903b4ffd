//! HTTP checks through a client library, for what `http` does not do by itself: HTTP/2, and reading bodies.
//!
//! The connection is driven by the probe's own future, so that it ends with the probe.

use std::net::SocketAddr;

use bytes::{Buf as _, Bytes};
use http::{HeaderMap, Request, StatusCode};
use http_body_util::{BodyExt as _, Empty};
use hyper_util::rt::TokioIo;
use store::model::{GrpcProbe, HttpProbe, HttpVersion};
use tokio::{
    io::{AsyncRead, AsyncWrite},
    time::Instant,
};

use super::{Fault, Phases};

/// A longer header block than this is a failure.
pub(super) const MAX_HEAD: usize = 16 * 1024;

/// A plain or TLS stream.
pub(super) trait Stream: AsyncRead + AsyncWrite + Send + Unpin {}

impl<T: AsyncRead + AsyncWrite + Send + Unpin> Stream for T {}

/// A response.
pub(super) struct Answer {
    pub(super) status: StatusCode,
    headers: HeaderMap,
    pub(super) body: Vec<u8>,
    trailers: HeaderMap,
}

/// The authority of a request: the check's host, or the address.
pub(super) fn authority(host: Option<&str>, address: SocketAddr, usual: u16) -> String {
    match host {
        Some(host) => host.to_owned(),
        None if address.port() != usual => address.to_string(),
        None if address.is_ipv6() => format!("[{}]", address.ip()),
        None => address.ip().to_string(),
    }
}

fn lost(error: impl std::error::Error) -> Fault {
    let mut text = error.to_string();
    if let Some(source) = error.source() {
        text = format!("{text}: {source}");
    }
    Fault::Target(format!("no valid HTTP response: {text}"))
}

/// Sends the request of an HTTP check and reads as much of the response as the check needs.
pub(super) async fn send(
    probe: &HttpProbe,
    stream: impl Stream,
    address: SocketAddr,
    phases: &mut Phases,
) -> Result<Answer, Fault> {
    let (scheme, usual) = if probe.tls.is_some() { ("https", 443) } else { ("http", 80) };
    let authority = authority(probe.host.as_deref(), address, usual);
    let mut request = Request::builder().method(probe.method.as_str());
    request = match probe.http_version {
        HttpVersion::One => {
            request.uri(probe.path.as_str()).header("host", &authority).header("connection", "close")
        }
        HttpVersion::Two => request.uri(format!("{scheme}://{authority}{}", probe.path)),
    };
    request = request.header("user-agent", "waypost-prober").header("accept", "*/*");
    for header in &probe.headers {
        request = request.header(&header.name, &header.value);
    }
    let unsendable = |error: http::Error| Fault::Local(format!("the check cannot be sent: {error}"));
    let most = if probe.expect_body.is_some() { HttpProbe::MAX_BODY } else { 0 };
    match probe.http_version {
        HttpVersion::One => one(request.body(Empty::new()).map_err(unsendable)?, stream, most, phases).await,
        HttpVersion::Two => {
            two(request.body(()).map_err(unsendable)?, Bytes::new(), stream, most, phases).await
        }
    }
}

async fn one(
    request: Request<Empty<Bytes>>,
    stream: impl Stream,
    most: usize,
    phases: &mut Phases,
) -> Result<Answer, Fault> {
    let started = Instant::now();
    let mut builder = hyper::client::conn::http1::Builder::new();
    builder.max_buf_size(MAX_HEAD);
    let (mut sender, connection) = builder.handshake(TokioIo::new(stream)).await.map_err(lost)?;
    let exchange = async {
        let (parts, mut incoming) = sender.send_request(request).await.map_err(lost)?.into_parts();
        phases.first_byte = Some(started.elapsed());
        let mut body = Vec::new();
        while body.len() < most {
            let Some(frame) = incoming.frame().await else { break };
            if let Ok(data) = frame.map_err(lost)?.into_data() {
                body.extend(data.take(most - body.len()).chunk());
            }
        }
        Ok(Answer { status: parts.status, headers: parts.headers, body, trailers: HeaderMap::new() })
    };
    drive(exchange, connection).await
}

async fn two(
    request: Request<()>,
    content: Bytes,
    stream: impl Stream,
    most: usize,
    phases: &mut Phases,
) -> Result<Answer, Fault> {
    let started = Instant::now();
    let mut builder = h2::client::Builder::new();
    let longest = u32::try_from(MAX_HEAD).unwrap_or(u32::MAX);
    builder.max_header_list_size(longest).enable_push(false);
    let (sender, connection) = builder.handshake::<_, Bytes>(stream).await.map_err(lost)?;
    let exchange = async {
        let mut sender = sender.ready().await.map_err(lost)?;
        let (response, mut outgoing) = sender.send_request(request, content.is_empty()).map_err(lost)?;
        if !content.is_empty() {
            outgoing.send_data(content, true).map_err(lost)?;
        }
        let (parts, mut incoming) = response.await.map_err(lost)?.into_parts();
        phases.first_byte = Some(started.elapsed());
        let mut answer = Answer {
            status: parts.status,
            headers: parts.headers,
            body: Vec::new(),
            trailers: HeaderMap::new(),
        };
        while answer.body.len() < most {
            let Some(data) = incoming.data().await else {
                answer.trailers = incoming.trailers().await.map_err(lost)?.unwrap_or_default();
                break;
            };
            let data = data.map_err(lost)?;
            incoming.flow_control().release_capacity(data.len()).map_err(lost)?;
            let room = most - answer.body.len();
            answer.body.extend(data.take(room).chunk());
        }
        Ok(answer)
    };
    drive(exchange, connection).await
}

/// Runs an exchange together with the connection it needs.
async fn drive<E>(
    exchange: impl Future<Output = Result<Answer, Fault>>,
    connection: impl Future<Output = Result<(), E>>,
) -> Result<Answer, Fault> {
    let mut exchange = std::pin::pin!(exchange);
    tokio::select! {
        biased;
        done = &mut exchange => return done,
        // The exchange gets the connection's error as well and describes it better.
        _ = connection => {}
    }
    exchange.await
}

/// Calls the health service of a gRPC server (grpc.health.v1).
pub(super) async fn grpc(
    probe: &GrpcProbe,
    stream: impl Stream,
    address: SocketAddr,
    phases: &mut Phases,
) -> Result<String, Fault> {
    let (scheme, usual) = if probe.tls.is_some() { ("https", 443) } else { ("http", 80) };
    let authority = authority(probe.host.as_deref(), address, usual);
    let request = Request::builder()
        .method("POST")
        .uri(format!("{scheme}://{authority}/grpc.health.v1.Health/Check"))
        .header("content-type", "application/grpc")
        .header("te", "trailers")
        .header("user-agent", "waypost-prober")
        .body(())
        .map_err(|error| Fault::Local(format!("the check cannot be sent: {error}")))?;
    let answer = two(request, health_request(&probe.service), stream, 1024, phases).await?;
    judge_grpc(&answer)
}

/// The length-prefixed message with the service's name as field 1.
fn health_request(service: &str) -> Bytes {
    let mut message = Vec::new();
    if !service.is_empty() {
        message.push(0x0a);
        varint(service.len(), &mut message);
        message.extend(service.as_bytes());
    }
    let length = u32::try_from(message.len()).unwrap_or(u32::MAX);
    [&[0], length.to_be_bytes().as_slice(), &message].concat().into()
}

fn varint(mut number: usize, out: &mut Vec<u8>) {
    while number >= 0x80 {
        out.push(u8::try_from(number & 0x7f).unwrap_or_default() | 0x80);
        number >>= 7;
    }
    out.push(u8::try_from(number).unwrap_or_default());
}

fn judge_grpc(answer: &Answer) -> Result<String, Fault> {
    if answer.status != StatusCode::OK {
        return Err(Fault::Target(format!(
            "status {}, expected 200 of a gRPC server",
            answer.status.as_u16()
        )));
    }
    let code = answer.trailers.get("grpc-status").or_else(|| answer.headers.get("grpc-status"));
    match code.map(http::HeaderValue::as_bytes) {
        Some(b"0") => {}
        Some(b"5") => return Err(Fault::Target("the server does not know the service".to_owned())),
        Some(b"12") => return Err(Fault::Target("the server has no health service".to_owned())),
        Some(code) => return Err(Fault::Target(format!("grpc-status {}", code.escape_ascii()))),
        None => return Err(Fault::Target("not a gRPC answer: no grpc-status".to_owned())),
    }
    match serving(&answer.body) {
        Some(1) => Ok("SERVING".to_owned()),
        Some(2) => Err(Fault::Target("NOT_SERVING".to_owned())),
        Some(3) => Err(Fault::Target("SERVICE_UNKNOWN".to_owned())),
        Some(_) => Err(Fault::Target("UNKNOWN".to_owned())),
        None => Err(Fault::Target("not an answer of the health service".to_owned())),
    }
}

/// Field 1 of an uncompressed answer; absent is 0.
fn serving(body: &[u8]) -> Option<u8> {
    let (&[0, a, b, c, d], message) = body.split_first_chunk()? else { return None };
    let length = usize::try_from(u32::from_be_bytes([a, b, c, d])).ok()?;
    match message {
        [] if length == 0 => Some(0),
        [0x08, state @ 0..=0x7f, ..] if length == message.len() => Some(*state),
        _ => None,
    }
}

#[cfg(test)]
mod tests {
    use proptest::prelude::*;

    use super::*;

    #[test]
    fn the_health_messages() {
        assert_eq!(health_request("").as_ref(), [0, 0, 0, 0, 0]);
        assert_eq!(health_request("a.B").as_ref(), b"\0\0\0\0\x05\x0a\x03a.B");
        assert_eq!(health_request(&"x".repeat(200))[5..8], [0x0a, 0xc8, 0x01]);
        assert_eq!(serving(&[0, 0, 0, 0, 2, 8, 1]), Some(1));
        assert_eq!(serving(&[0, 0, 0, 0, 0]), Some(0));
        for bad in [[].as_slice(), &[1, 0, 0, 0, 0], &[0, 0, 0, 0, 9, 8, 1], &[0, 0, 0, 0, 2, 9, 1]] {
            assert_eq!(serving(bad), None);
        }
    }

    proptest! {
        #[test]
        fn no_answer_panics(bytes: Vec<u8>) {
            let _ = serving(&bytes);
        }
    }
}
