//! Host names of instances, resolved in the background.
//!
//! Registries may hold host names where addresses are meant. A request never waits for the resolver: names in
//! use are looked up ahead and again when their TTL ends, and the last answer stands while nobody answers.

use std::{
    collections::{BTreeSet, HashMap},
    net::IpAddr,
    sync::{Arc, Mutex, PoisonError},
    time::Duration,
};

use arc_swap::ArcSwap;
use hickory_resolver::{TokioResolver, net::NetError};
use tokio::{sync::watch, task::JoinSet, time::Instant};

const SOONEST: Duration = Duration::from_secs(1);
const LATEST: Duration = Duration::from_secs(300);
const AFTER_FAILURE: Duration = Duration::from_secs(2);
/// More names than this are not resolved: the table is bounded.
const MOST_NAMES: usize = 4096;

/// A name's addresses, as last answered.
#[derive(Debug, Default)]
pub(crate) struct Resolved(ArcSwap<Vec<IpAddr>>);

impl Resolved {
    /// The addresses; empty until the first answer.
    pub(crate) fn addresses(&self) -> Arc<Vec<IpAddr>> {
        self.0.load_full()
    }
}

/// The names in use.
#[derive(Debug)]
pub(crate) struct Names {
    known: Mutex<HashMap<String, Arc<Resolved>>>,
    wanted: watch::Sender<BTreeSet<String>>,
}

impl Default for Names {
    fn default() -> Self {
        Self { known: Mutex::default(), wanted: watch::Sender::new(BTreeSet::new()) }
    }
}

impl Names {
    /// The addresses of a name. Takes a lock: keep what it returns.
    pub(crate) fn get(&self, name: &str) -> Arc<Resolved> {
        let mut known = self.known.lock().unwrap_or_else(PoisonError::into_inner);
        if let Some(found) = known.get(name) {
            return Arc::clone(found);
        }
        if known.len() >= MOST_NAMES {
            return Arc::default();
        }
        Arc::clone(known.entry(name.to_owned()).or_default())
    }

    /// Says which names to keep resolved, all of them.
    pub(crate) fn use_names(&self, mut names: BTreeSet<String>) {
        if names.len() > MOST_NAMES {
            tracing::warn!(
                names = names.len(),
                limit = MOST_NAMES,
                "too many host names among the instances"
            );
            names = names.into_iter().take(MOST_NAMES).collect();
        }
        self.known
            .lock()
            .unwrap_or_else(PoisonError::into_inner)
            .retain(|name, resolved| names.contains(name) || Arc::strong_count(resolved) > 1);
        self.wanted.send_if_modified(|wanted| {
            let changed = *wanted != names;
            if changed {
                *wanted = names;
            }
            changed
        });
    }

    /// Keeps the names in use resolved; never ends. `answered` is called whenever a name got an answer.
    pub(crate) async fn keep_resolved(&self) {
        let mut wanted = self.wanted.subscribe();
        let mut resolver = None;
        let mut running: JoinSet<String> = JoinSet::new();
        let mut followed: HashMap<String, tokio::task::AbortHandle> = HashMap::new();
        loop {
            let names = wanted.borrow_and_update().clone();
            followed.retain(|name, task| {
                let keep = names.contains(name);
                if !keep {
                    task.abort();
                }
                keep
            });
            if resolver.is_none() && !names.is_empty() {
                resolver = system_resolver();
            }
            if let Some(resolver) = &resolver {
                for name in &names {
                    followed.entry(name.clone()).or_insert_with(|| {
                        running.spawn(follow(Arc::clone(resolver), name.clone(), self.get(name)))
                    });
                }
            }
            tokio::select! {
                changed = wanted.changed() => if changed.is_err() { return },
                Some(_) = running.join_next() => {}
            }
        }
    }
}

fn system_resolver() -> Option<Arc<TokioResolver>> {
    let built = TokioResolver::builder_tokio().and_then(|builder| builder.build());
    match built {
        Ok(resolver) => Some(Arc::new(resolver)),
        Err(error) => {
            tracing::error!(%error, "no resolver: instances registered by host name cannot be reached");
            None
        }
    }
}

async fn follow(resolver: Arc<TokioResolver>, name: String, resolved: Arc<Resolved>) -> String {
    loop {
        let next = match resolve(&resolver, &name).await {
            Ok((addresses, valid)) => {
                resolved.0.store(Arc::new(addresses));
                valid.clamp(SOONEST, LATEST)
            }
            Err(error) => {
                tracing::warn!(name, %error, "a host name among the instances cannot be resolved");
                AFTER_FAILURE
            }
        };
        tokio::time::sleep_until(Instant::now() + next).await;
    }
}

async fn resolve(resolver: &TokioResolver, name: &str) -> Result<(Vec<IpAddr>, Duration), NetError> {
    let answer = resolver.lookup_ip(name).await?;
    let valid = answer.valid_until().saturating_duration_since(Instant::now().into_std());
    Ok((answer.iter().collect(), valid))
}

#[cfg(test)]
mod tests {
    use super::*;

    #[tokio::test]
    async fn a_name_of_the_hosts_file_is_resolved_and_kept() {
        let names = Arc::new(Names::default());
        let localhost = names.get("localhost");
        assert!(localhost.addresses().is_empty());
        names.use_names(["localhost".to_owned()].into());
        let keeper = tokio::spawn({
            let names = Arc::clone(&names);
            async move { names.keep_resolved().await }
        });
        crate::testing::eventually("localhost resolves", || {
            localhost.addresses().iter().any(IpAddr::is_loopback)
        })
        .await;
        names.use_names(BTreeSet::new());
        assert!(!localhost.addresses().is_empty(), "the last answer stands");
        keeper.abort();
    }
}
