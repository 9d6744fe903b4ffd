//! The shutdown of a process: requested by a signal, passed to every part, and awaited.

use tokio::{
    signal::unix::{SignalKind, signal},
    sync::watch,
};

/// Completes when SIGINT or SIGTERM requests the shutdown.
pub async fn signalled() {
    let (interrupt, terminate) = (signal(SignalKind::interrupt()), signal(SignalKind::terminate()));
    match (interrupt, terminate) {
        (Ok(mut interrupt), Ok(mut terminate)) => {
            tokio::select! {
                _ = interrupt.recv() => {}
                _ = terminate.recv() => {}
            }
        }
        _ => {
            tracing::error!("cannot listen for signals; only SIGKILL ends this process");
            std::future::pending::<()>().await;
        }
    }
}

/// Requests the shutdown of every part of a node.
#[derive(Clone, Debug)]
pub struct Shutdown(watch::Sender<bool>);

impl Default for Shutdown {
    fn default() -> Self {
        Self(watch::Sender::new(false))
    }
}

impl Shutdown {
    /// Requests the shutdown.
    pub fn begin(&self) {
        self.0.send_replace(true);
    }

    /// True once the shutdown was requested.
    #[must_use]
    pub fn has_begun(&self) -> bool {
        *self.0.borrow()
    }

    /// Completes once the shutdown was requested.
    pub fn begun(&self) -> impl Future<Output = ()> + Send + 'static {
        let mut requested = self.0.subscribe();
        async move {
            // An error means that the sender is gone, which is a shutdown as well.
            let _ = requested.wait_for(|requested| *requested).await;
        }
    }
}
