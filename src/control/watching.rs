//! Following a prefix of the engine's KV.

use std::{sync::Arc, time::Duration};

use store::engine::{
    Engine, EngineError, KvEntry,
    follower::{Follower, News, Watched},
};

/// Follows for ever. Passes on every reading, also one that repeats the last, and every failure.
pub(super) async fn follow(
    engine: &Arc<dyn Engine>,
    prefix: &str,
    at_most: Duration,
    (activity, meanwhile): (&'static str, &'static str),
    mut on: impl FnMut(Result<&[KvEntry], &EngineError>),
) {
    let mut follower = Follower::new(Arc::clone(engine), Watched::Prefix(prefix.to_owned()), at_most)
        .reporting(activity, meanwhile);
    loop {
        match follower.next().await {
            News::Read(reading) => on(Ok(&reading.read.value)),
            News::Failed(error) => on(Err(&error)),
        }
    }
}
