//! A worker's life: it accepts connections, serves them, and shuts down gracefully.

use std::{rc::Rc, sync::Arc, time::Duration};

use store::vital;
use tokio::{
    net::TcpStream,
    runtime::{Builder, LocalOptions},
};

use crate::{
    accept::{Accepted, Door},
    engine::worker::Worker,
    engine::{
        arrival::{self, Arrived},
        connection,
    },
    shared::Shared,
};

/// How long connections without a request stay open after the last moment for new ones: requests that are on their way
/// when the gateway stops are served.
const GRACE: Duration = Duration::from_secs(1);

/// How long requests that are cut at the deadline may take to say so.
const LAST_WORDS: Duration = Duration::from_millis(500);

/// Runs a worker on this thread until the gateway closes and its requests are done or the deadline passed.
pub(crate) fn run(shared: Arc<Shared>, number: usize, door: Door) -> std::io::Result<()> {
    let runtime = Builder::new_current_thread().enable_all().build_local(LocalOptions::default())?;
    runtime.block_on(serve(shared, number, door))
}

async fn serve(shared: Arc<Shared>, number: usize, door: Door) -> std::io::Result<()> {
    let worker = Worker::new(Arc::clone(&shared), number);
    let own = |worker: &Rc<Worker>| Rc::clone(worker);
    tokio::task::spawn_local({
        let worker = own(&worker);
        vital::task("the gateway's follower of drains", async move { worker.upstream.follow_drains().await })
    });
    tokio::task::spawn_local({
        let worker = own(&worker);
        vital::task("the gateway's follower of crowds", async move { worker.upstream.follow_crowds().await })
    });
    tokio::task::spawn_local({
        let wheel = Rc::clone(&worker.wheel);
        vital::task("the gateway's time limits", async move { wheel.drive().await })
    });
    tokio::task::spawn_local({
        let worker = own(&worker);
        vital::task("the gateway's sweep", async move { worker.sweep().await })
    });
    tokio::task::spawn_local({
        let worker = own(&worker);
        vital::task("the gateway's cutting of requests", async move { worker.follow_cuts().await })
    });
    if worker.log.borrow().is_some() {
        let worker = own(&worker);
        let ticking = async move { worker.tick_log().await };
        tokio::task::spawn_local(vital::task("the gateway's access log", ticking));
    }
    let mut arrivals = door.open()?;
    while let Some(accepted) = arrivals.next().await {
        spawn(&worker, accepted);
    }
    worker.close_idle(GRACE);
    if tokio::time::timeout(shared.config.shutdown_deadline, worker.all_closed()).await.is_err() {
        let (connections, requests_of_all_workers) =
            (worker.open_connections(), shared.instances.in_flight());
        tracing::warn!(
            worker = number,
            connections,
            requests_of_all_workers,
            "requests still in flight at the deadline are cut off"
        );
        // Each tells its client, the log and the metrics.
        worker.cut_all();
        let _ = tokio::time::timeout(LAST_WORDS, worker.all_closed()).await;
    }
    Ok(())
}

fn spawn(worker: &Rc<Worker>, accepted: Accepted) {
    let Accepted { stream, peer, local, listener, mut place } = accepted;
    let stream = match TcpStream::from_std(stream) {
        Ok(stream) => stream,
        Err(error) => {
            tracing::warn!(%peer, %error, "a connection cannot be served");
            return;
        }
    };
    let arrived = Arrived { stream, peer, local, listener };
    let open = worker.count_connection();
    let (worker, time) = (Rc::clone(worker), Rc::clone(&worker.time));
    tokio::task::spawn_local(time.of(async move {
        if let Some(mut client) = arrival::establish(&worker, arrived, &mut place).await {
            connection::serve(&worker, &mut client).await;
        }
        drop((place, open));
    }));
}
