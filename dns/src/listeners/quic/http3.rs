//! DNS over HTTP/3: the requests of RFC 8484, as in [`super::super::https`], on the streams of RFC 9114.

use bytes::{Buf, Bytes};
use futures_util::stream;
use h3::server::{Connection, RequestResolver, RequestStream};
use http::{Method, Request};
use http_body_util::StreamBody;
use hyper::body::Frame;
use quinn::VarInt;
use tokio::{
    task::JoinSet,
    time::{Instant, sleep_until, timeout},
};

use super::{super::https, ConnectionContext, Responder, code, end};

/// H3_EXCESSIVE_LOAD (RFC 9114 §8.1).
pub(super) const EXCESSIVE_LOAD: VarInt = code(0x107);

/// The largest head of a request: a longest message as base64url in its target, and the rest around it.
const MAX_HEAD: u64 = 128 * 1024;

type Server = Connection<h3_quinn::Connection, Bytes>;
type Resolver = RequestResolver<h3_quinn::Connection, Bytes>;

/// Answers the requests of one connection until the client, the idle limit or the server's end ends it.
pub(super) async fn serve(connection: quinn::Connection, mut context: ConnectionContext<impl Responder>) {
    let mut builder = h3::server::builder();
    builder.max_field_section_size(MAX_HEAD);
    // It needs streams that the client may withhold.
    let building = timeout(context.idle, builder.build(h3_quinn::Connection::new(connection)));
    let built = tokio::select! {
        biased;
        () = end(&mut context.stopped) => return,
        built = building => built,
    };
    let mut server: Server = match built {
        Ok(Ok(server)) => server,
        Ok(Err(error)) => {
            tracing::debug!(%error, peer = %context.peer, "an HTTP/3 connection could not begin");
            return;
        }
        Err(_) => {
            tracing::debug!(peer = %context.peer, "an HTTP/3 client gives no room for the streams it needs");
            return;
        }
    };
    let mut requests = JoinSet::new();
    let mut deadline = Instant::now() + context.idle;
    loop {
        tokio::select! {
            biased;
            () = end(&mut context.stopped) => break,
            Some(_) = requests.join_next() => deadline = Instant::now() + context.idle,
            accepted = server.accept() => match accepted {
                Ok(Some(request)) => drop(requests.spawn(exchange(request, context.clone()))),
                Ok(None) => return,
                Err(error) => {
                    tracing::debug!(%error, peer = %context.peer, "an HTTP/3 connection ended");
                    return;
                }
            },
            () = sleep_until(deadline), if requests.is_empty() => {
                context.responder.metrics().idle_connections.increment();
                break;
            }
        }
    }
    // Says that no more requests are taken; every request that is there has a limit of its own.
    let _ = timeout(context.idle, server.shutdown(0)).await;
    while requests.join_next().await.is_some() {}
}

/// Reads one request and answers it, each within the idle limit.
async fn exchange(resolver: Resolver, context: ConnectionContext<impl Responder>) {
    let Ok(Ok((head, stream))) = timeout(context.idle, resolver.resolve_request()).await else { return };
    let (mut reply, query) = stream.split();
    // RFC 9110 §9.3.2: no answer to a HEAD has content.
    let bare = head.method() == Method::HEAD;
    let request: Request<_> = head.map(|()| body(query));
    let (head, body) = https::respond(request, &context).await.into_parts();
    let sending = async {
        reply.send_response(http::Response::from_parts(head, ())).await?;
        if !bare {
            reply.send_data(body).await?;
        }
        reply.finish().await
    };
    match timeout(context.idle, sending).await {
        Ok(Ok(())) => {}
        Ok(Err(error)) => tracing::debug!(%error, peer = %context.peer, "an HTTP/3 request ended early"),
        Err(_) => context.responder.metrics().slow_connections.increment(),
    }
}

type Receiving =
    RequestStream<<h3_quinn::BidiStream<Bytes> as h3::quic::BidiStream<Bytes>>::RecvStream, Bytes>;

/// A request's body as it comes.
fn body(
    receiving: Receiving,
) -> StreamBody<impl stream::Stream<Item = Result<Frame<Bytes>, h3::error::StreamError>> + Send> {
    StreamBody::new(stream::unfold(Some(receiving), |receiving| async {
        let mut receiving = receiving?;
        match receiving.recv_data().await {
            Ok(Some(mut data)) => {
                let data = data.copy_to_bytes(data.remaining());
                Some((Ok(Frame::data(data)), Some(receiving)))
            }
            Ok(None) => None,
            Err(error) => Some((Err(error), None)),
        }
    }))
}
