//! Following a prefix of the engine's KV.

use std::time::Duration;

use store::{
    engine::{Engine, EngineError, Index, KvEntry, Wait},
    follow::Backoff,
};

/// A reading that says nothing new is not followed by the next at once: a prefix without keys wakes with every
/// change of the whole KV.
const BREATHE: Duration = Duration::from_millis(50);

/// Follows for ever. Every reading is handed on, also one that repeats the last, and every failure.
pub(super) async fn follow(
    engine: &dyn Engine,
    prefix: &str,
    at_most: Duration,
    mut on: impl FnMut(Result<&[KvEntry], &EngineError>),
) {
    let mut after = Index(0);
    let mut backoff = Backoff::default();
    let mut last: Option<Vec<KvEntry>> = None;
    loop {
        match engine.kv_list(prefix, Some(Wait { after, at_most })).await {
            Ok(read) => {
                backoff.reset();
                on(Ok(&read.value));
                // An index that went back means that the engine started over; zero would never block.
                after = if read.index < after { Index(0) } else { read.index.max(Index(1)) };
                if last.as_ref() == Some(&read.value) {
                    tokio::time::sleep(BREATHE).await;
                }
                last = Some(read.value);
            }
            Err(error) => {
                if !backoff.is_failing() {
                    tracing::warn!(prefix, %error, "the engine cannot be read");
                }
                on(Err(&error));
                after = Index(0);
                backoff.wait().await;
            }
        }
    }
}
