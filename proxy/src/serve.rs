//! A worker's life: it accepts connections, serves them, and shuts down gracefully.

use std::{rc::Rc, sync::Arc, sync::atomic::Ordering, time::Duration};

use futures_util::FutureExt;
use hyper::{server::conn::http1, service::service_fn};
use hyper_util::rt::{TokioIo, TokioTimer};
use store::vital;
use tokio::{
    net::{TcpListener, TcpStream},
    task::LocalSet,
};

use crate::{
    connection::{CheckedStream, ConnectionState, refuse},
    forward,
    listen::Listeners,
    shared::{Phase, Shared},
    worker::Worker,
};

/// Runs a worker on this thread until the gateway closes and its requests are done or the deadline passed.
pub(crate) fn run(shared: Arc<Shared>, number: usize, listeners: Listeners) -> std::io::Result<()> {
    let runtime = tokio::runtime::Builder::new_current_thread().enable_all().build()?;
    let local = LocalSet::new();
    let served = local.block_on(&runtime, serve(shared, number, listeners));
    runtime.block_on(async { drop(local) });
    served
}

async fn serve(shared: Arc<Shared>, number: usize, listeners: Listeners) -> std::io::Result<()> {
    let (worker, to_close) = Worker::new(Arc::clone(&shared), number);
    let own = |worker: &Rc<Worker>| Rc::clone(worker);
    tokio::task::spawn_local({
        let worker = own(&worker);
        vital::task("the gateway's closing of connections", async move {
            worker.upstream.close_in_order(to_close).await
        })
    });
    tokio::task::spawn_local({
        let worker = own(&worker);
        vital::task("the gateway's follower of drains", async move { worker.upstream.follow_drains().await })
    });
    tokio::task::spawn_local({
        let worker = own(&worker);
        vital::task("the gateway's sweep", async move { worker.sweep().await })
    });
    let mut accepting = tokio::task::JoinSet::new();
    for listener in listeners {
        let listener = TcpListener::from_std(listener)?;
        let accepting_here = accept(own(&worker), listener);
        accepting.spawn_local(vital::task("a listener of the gateway", accepting_here));
    }
    while accepting.join_next().await.is_some() {}
    if tokio::time::timeout(shared.config.shutdown_deadline, worker.all_closed()).await.is_err() {
        tracing::warn!(worker = number, "requests still in flight at the deadline are cut off");
    }
    Ok(())
}

async fn accept(worker: Rc<Worker>, listener: TcpListener) {
    let mut phase = worker.shared.phase.subscribe();
    loop {
        let accepted = tokio::select! {
            biased;
            _ = phase.wait_for(|phase| *phase == Phase::Closing) => break,
            accepted = listener.accept() => accepted,
        };
        match accepted {
            Ok((stream, _)) => spawn_connection(&worker, stream),
            Err(error) => {
                // Most likely the process is out of file descriptors. Retrying at once would spin.
                tracing::error!(%error, "cannot accept connections");
                tokio::time::sleep(Duration::from_millis(50)).await;
            }
        }
    }
    // Connections that the kernel has completed already would be reset when the listener is closed.
    while let Some(Ok((stream, _))) = listener.accept().now_or_never() {
        spawn_connection(&worker, stream);
    }
}

fn spawn_connection(worker: &Rc<Worker>, stream: TcpStream) {
    let shared = &worker.shared;
    let open = shared.connections.fetch_add(1, Ordering::Relaxed);
    if open >= shared.config.limits.max_connections {
        shared.connections.fetch_sub(1, Ordering::Relaxed);
        shared.metrics.connections_refused.increment();
        refuse(&stream);
        return;
    }
    let open = worker.count_connection();
    let worker = Rc::clone(worker);
    tokio::task::spawn_local(async move {
        serve_connection(&worker, stream).await;
        worker.shared.connections.fetch_sub(1, Ordering::Relaxed);
        drop(open);
    });
}

async fn serve_connection(worker: &Rc<Worker>, stream: TcpStream) {
    let Ok(peer) = stream.peer_addr() else { return };
    // Without it a small response waits for the client's acknowledgement of the one before.
    let _ = stream.set_nodelay(true);
    let limits = worker.limits();
    let client = ConnectionState::new(peer);
    let checked = CheckedStream::new(stream, Rc::clone(&client), limits.max_header_bytes);
    let service = service_fn(|request| forward::answer(Rc::clone(worker), Rc::clone(&client), request));
    let connection = http1::Builder::new()
        .timer(TokioTimer::new())
        .header_read_timeout(limits.client_idle)
        .max_header_size(limits.max_header_bytes)
        .serve_connection(TokioIo::new(checked), service);
    let mut connection = std::pin::pin!(connection);
    let mut phase = worker.shared.phase.subscribe();
    let ended = tokio::select! {
        ended = connection.as_mut() => ended,
        _ = phase.wait_for(|phase| *phase == Phase::Closing) => {
            connection.as_mut().graceful_shutdown();
            connection.await
        }
    };
    if let Err(error) = ended {
        if error.is_parse() {
            worker.metrics().refused_requests.increment();
        }
        tracing::debug!(%peer, %error, "client connection ended");
    }
}
