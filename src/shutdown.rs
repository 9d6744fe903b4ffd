//! The end of a process: asked for by a signal, given to every part, awaited.

use tokio::{
    signal::unix::{SignalKind, signal},
    sync::watch,
};

/// Ready once SIGINT or SIGTERM asks this process to end.
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

/// Tells every part of a node that it is to end.
#[derive(Clone, Debug)]
pub struct Shutdown(watch::Sender<bool>);

impl Default for Shutdown {
    fn default() -> Self {
        Self(watch::Sender::new(false))
    }
}

impl Shutdown {
    /// Asks everybody to end.
    pub fn begin(&self) {
        self.0.send_replace(true);
    }

    /// Whether somebody asked.
    #[must_use]
    pub fn has_begun(&self) -> bool {
        *self.0.borrow()
    }

    /// Ready once somebody asked.
    pub fn begun(&self) -> impl Future<Output = ()> + Send + 'static {
        let mut asked = self.0.subscribe();
        async move {
            // Nobody left to ask is an end as well.
            let _ = asked.wait_for(|asked| *asked).await;
        }
    }
}
