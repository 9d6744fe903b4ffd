//! A worker's life: it accepts connections, serves them, and shuts down gracefully.

use std::{rc::Rc, sync::Arc, sync::atomic::Ordering, time::Duration};

use futures_util::FutureExt;
use store::vital;
use tokio::{
    net::{TcpListener, TcpStream},
    runtime::{Builder, LocalOptions},
};

use crate::{
    engine::{connection, stream::Stream},
    listen::Listeners,
    shared::{Phase, Shared},
    worker::Worker,
};

/// How long connections without a request stay open after the last moment for new ones: requests that are on their way
/// when the gateway stops are served.
const GRACE: Duration = Duration::from_secs(1);

/// Runs a worker on this thread until the gateway closes and its requests are done or the deadline passed.
pub(crate) fn run(shared: Arc<Shared>, number: usize, listeners: Listeners) -> std::io::Result<()> {
    let runtime = Builder::new_current_thread().enable_all().build_local(LocalOptions::default())?;
    runtime.block_on(serve(shared, number, listeners))
}

async fn serve(shared: Arc<Shared>, number: usize, listeners: Listeners) -> std::io::Result<()> {
    let worker = Worker::new(Arc::clone(&shared), number);
    let own = |worker: &Rc<Worker>| Rc::clone(worker);
    tokio::task::spawn_local({
        let worker = own(&worker);
        vital::task("the gateway's follower of drains", async move { worker.upstream.follow_drains().await })
    });
    tokio::task::spawn_local({
        let wheel = Rc::clone(&worker.wheel);
        vital::task("the gateway's time limits", async move { wheel.drive().await })
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
    worker.close_idle(GRACE);
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
        if let (Ok(peer), Ok(local)) = (stream.peer_addr(), stream.local_addr()) {
            // Without it a small response waits for the client's acknowledgement of the one before.
            let _ = stream.set_nodelay(true);
            connection::serve(Rc::clone(&worker), Stream::Plain(stream), peer, local).await;
        }
        worker.shared.connections.fetch_sub(1, Ordering::Relaxed);
        drop(open);
    });
}

/// Answers a connection over the limit with 503, as far as that is possible without waiting.
fn refuse(stream: &TcpStream) {
    const ANSWER: &[u8] =
        b"HTTP/1.1 503 Service Unavailable\r\nconnection: close\r\ncontent-length: 21\r\n\r\ntoo many connections\n";
    let _ = stream.try_write(ANSWER);
}
