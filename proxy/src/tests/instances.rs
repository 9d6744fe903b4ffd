//! Instances to forward to: normal ones on hyper, and scripted ones on plain sockets.

use std::{
    convert::Infallible,
    net::SocketAddr,
    sync::{
        Arc, Mutex,
        atomic::{AtomicUsize, Ordering},
    },
};

use bytes::Bytes;
use http_body_util::{BodyExt, Full};
use hyper::{Request, Response, body::Incoming, service::service_fn};
use hyper_util::rt::TokioIo;
use store::engine::Endpoint;
use tokio::{
    io::{AsyncReadExt, AsyncWriteExt},
    net::{TcpListener, TcpStream},
    sync::Notify,
    task::JoinHandle,
};

use crate::testing::endpoint;

/// A request as an instance received it.
#[derive(Clone, Debug)]
pub(super) struct Received {
    pub(super) head: Arc<http::request::Parts>,
    pub(super) body: Bytes,
}

/// An instance of `web` that runs until this is dropped.
pub(super) struct Instance {
    pub(super) endpoint: Endpoint,
    pub(super) received: Arc<Mutex<Vec<Received>>>,
    /// Connections it accepted.
    pub(super) connections: Arc<AtomicUsize>,
    /// Connections that are open.
    pub(super) open: Arc<AtomicUsize>,
    /// Lets one `/held` be answered.
    pub(super) release: Arc<Notify>,
    task: JoinHandle<()>,
}

struct Open(Arc<AtomicUsize>);

impl Drop for Open {
    fn drop(&mut self) {
        self.0.fetch_sub(1, Ordering::SeqCst);
    }
}

/// An address without a listener.
pub(super) async fn unreachable(id: &str) -> Endpoint {
    let listener = TcpListener::bind("127.0.0.1:0").await.unwrap();
    at(id, listener.local_addr().unwrap())
}

/// An address whose listener has a full queue, so that dials wait for as long as the second value lives.
pub(super) async fn full(id: &str) -> (Endpoint, (TcpListener, Vec<TcpStream>)) {
    let socket = tokio::net::TcpSocket::new_v4().unwrap();
    socket.bind("127.0.0.1:0".parse().unwrap()).unwrap();
    let listener = socket.listen(0).unwrap();
    let address = listener.local_addr().unwrap();
    let mut held = Vec::new();
    let short = std::time::Duration::from_millis(200);
    while let Ok(Ok(stream)) = tokio::time::timeout(short, TcpStream::connect(address)).await {
        held.push(stream);
    }
    (at(id, address), (listener, held))
}

fn at(id: &str, address: SocketAddr) -> Endpoint {
    Endpoint { id: id.into(), ..endpoint("web", address.port()) }
}

impl Instance {
    /// An instance that answers: `/held` after [`Instance::release`], `/echo` with the body it got, anything else with
    /// its id.
    pub(super) async fn new(id: &str) -> Self {
        let listener = TcpListener::bind("127.0.0.1:0").await.unwrap();
        let endpoint = at(id, listener.local_addr().unwrap());
        Self::answering(endpoint, listener)
    }

    /// A new process at the address of one that has ended.
    pub(super) async fn again(endpoint: Endpoint) -> Self {
        let listener = TcpListener::bind(("127.0.0.1", endpoint.port)).await.unwrap();
        Self::answering(endpoint, listener)
    }

    fn answering(endpoint: Endpoint, listener: TcpListener) -> Self {
        let id = endpoint.id.clone();
        let (received, release): (Arc<Mutex<Vec<Received>>>, Arc<Notify>) = Default::default();
        let (id_text, log, held) = (id, Arc::clone(&received), Arc::clone(&release));
        let answer = move |request: Request<Incoming>| {
            let (id, log, held) = (id_text.clone(), Arc::clone(&log), Arc::clone(&held));
            async move { Ok::<_, Infallible>(respond(id, &log, &held, request).await) }
        };
        let serve = move |stream: TcpStream, _| {
            let answer = answer.clone();
            async move {
                let served = hyper::server::conn::http1::Builder::new()
                    .serve_connection(TokioIo::new(stream), service_fn(answer));
                let _ = served.await;
            }
        };
        let mut instance = Self::doing(endpoint, listener, serve);
        (instance.received, instance.release) = (received, release);
        instance
    }

    /// An instance that handles its connections, which are numbered, with this function.
    pub(super) async fn scripted<F>(id: &str, serve: impl Fn(TcpStream, usize) -> F + Send + 'static) -> Self
    where
        F: Future<Output = ()> + Send + 'static,
    {
        let listener = TcpListener::bind("127.0.0.1:0").await.unwrap();
        let endpoint = at(id, listener.local_addr().unwrap());
        Self::doing(endpoint, listener, serve)
    }

    fn doing<F>(
        endpoint: Endpoint,
        listener: TcpListener,
        serve: impl Fn(TcpStream, usize) -> F + Send + 'static,
    ) -> Self
    where
        F: Future<Output = ()> + Send + 'static,
    {
        let (connections, open): (Arc<AtomicUsize>, Arc<AtomicUsize>) = Default::default();
        let (accepted, opened) = (Arc::clone(&connections), Arc::clone(&open));
        let task = tokio::spawn(async move {
            let mut serving = tokio::task::JoinSet::new();
            while let Ok((stream, _)) = listener.accept().await {
                let number = accepted.fetch_add(1, Ordering::SeqCst);
                opened.fetch_add(1, Ordering::SeqCst);
                let counted = Open(Arc::clone(&opened));
                let served = serve(stream, number);
                serving.spawn(async move {
                    served.await;
                    drop(counted);
                });
            }
        });
        Self { endpoint, received: Arc::default(), connections, open, release: Arc::default(), task }
    }

    /// An instance that reads a request's head, writes these bytes and closes the connection.
    pub(super) async fn saying(id: &str, bytes: &'static str) -> Self {
        let serve = move |mut stream: TcpStream, _| async move {
            read_head(&mut stream).await;
            let _ = stream.write_all(bytes.as_bytes()).await;
        };
        Self::scripted(id, serve).await
    }

    /// The same instance in another site.
    pub(super) fn in_site(mut self, site: &str) -> Self {
        self.endpoint.meta.insert("site".into(), site.into());
        self
    }

    pub(super) fn count(&self) -> usize {
        self.received.lock().unwrap().len()
    }

    pub(super) fn last(&self) -> Received {
        self.received.lock().unwrap().last().cloned().unwrap()
    }

    pub(super) fn accepted(&self) -> usize {
        self.connections.load(Ordering::SeqCst)
    }

    pub(super) fn open(&self) -> usize {
        self.open.load(Ordering::SeqCst)
    }

    /// Ends the process: its listener and its connections are closed.
    pub(super) async fn kill(self) -> Endpoint {
        self.task.abort();
        while !self.task.is_finished() {
            tokio::task::yield_now().await;
        }
        self.endpoint.clone()
    }
}

impl Drop for Instance {
    fn drop(&mut self) {
        self.task.abort();
    }
}

async fn respond(
    id: String,
    log: &Mutex<Vec<Received>>,
    held: &Notify,
    request: Request<Incoming>,
) -> Response<Full<Bytes>> {
    let (head, body) = request.into_parts();
    let path = head.uri.path().to_owned();
    // A request counts as received only when it was whole.
    let Ok(body) = body.collect().await else { return Response::new(Full::default()) };
    let body = body.to_bytes();
    log.lock().unwrap().push(Received { head: Arc::new(head), body: body.clone() });
    if path == "/held" {
        held.notified().await;
    }
    let answer = if path == "/echo" { body } else { Bytes::from(id) };
    Response::builder()
        .header("x-secret", "s")
        .header("connection", "x-secret")
        .body(Full::new(answer))
        .unwrap()
}

/// Reads up to the end of a head; returns everything read.
pub(super) async fn read_head(stream: &mut TcpStream) -> String {
    let mut read = Vec::new();
    while !read.windows(4).any(|it| it == b"\r\n\r\n") {
        if stream.read_buf(&mut read).await.unwrap_or(0) == 0 {
            break;
        }
    }
    String::from_utf8_lossy(&read).into_owned()
}

/// Everything that arrives until the other side ends it.
pub(super) async fn read_all(mut stream: TcpStream) -> String {
    let mut read = Vec::new();
    while stream.read_buf(&mut read).await.unwrap_or(0) > 0 {}
    String::from_utf8_lossy(&read).into_owned()
}

/// What scripted instances received.
pub(super) type ReceivedText = Arc<Mutex<Vec<String>>>;

/// An instance that never answers and records what it received on each connection once that ended.
pub(super) async fn silent(id: &str) -> (Instance, ReceivedText) {
    let heard = ReceivedText::default();
    let log = Arc::clone(&heard);
    let serve = move |stream, _| {
        let log = Arc::clone(&log);
        async move {
            let all = read_all(stream).await;
            log.lock().unwrap().push(all);
        }
    };
    (Instance::scripted(id, serve).await, heard)
}
