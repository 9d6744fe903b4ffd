//! `/v1/session/…`.

use std::time::Duration;

use serde::Deserialize;
use serde_json::{Value, json};

use super::{Access, Ask, Outcome, query::duration, reply::Reply, shape};
use crate::engine::embedded::{
    rows::{Behavior, SERF_HEALTH, SessionRow},
    sessions,
};

const LOCK_DELAY: Duration = Duration::from_secs(15);
const LONGEST_LOCK_DELAY: Duration = Duration::from_secs(60);

/// What a session is created with.
#[derive(Debug, Default, Deserialize)]
#[serde(rename_all = "PascalCase", default)]
struct Wanted {
    name: String,
    node: String,
    lock_delay: Option<Value>,
    #[serde(rename = "TTL")]
    ttl: String,
    behavior: String,
    checks: Option<Vec<String>>,
    node_checks: Option<Vec<String>>,
    service_checks: Option<Vec<Value>>,
}

pub(super) async fn answer(ask: &Ask<'_>, path: &[&str]) -> Outcome {
    ask.here()?;
    match path {
        ["create"] => create(ask).await,
        ["renew", id] => {
            ask.needs(Access::Sessions)?;
            let wanted = (*id).to_owned();
            let renewed = ask.engine.write(move |txn| sessions::renew(txn, &wanted)).await?;
            let missing = || Reply::text(404, format!("Session id '{id}' not found"));
            let session = renewed.ok_or_else(missing)?;
            Ok(Reply::json(json!([shape::session(&session)])))
        }
        ["destroy", id] => {
            ask.needs(Access::Sessions)?;
            let id = (*id).to_owned();
            ask.engine.write(move |txn| sessions::destroy(txn, &id)).await?;
            Ok(Reply::json(json!(true)))
        }
        ["info", id] if uuid::Uuid::try_parse(id).is_err() => {
            Err(Reply::text(500, "failed session lookup: index error: UUID must be 36 characters"))
        }
        ["info", id] => list(ask, |session| session.id == *id).await,
        ["node", node] => list(ask, |session| session.node == *node).await,
        ["list"] => list(ask, |_| true).await,
        _ => Err(Reply::not_found()),
    }
}

async fn list(ask: &Ask<'_>, wanted: impl Fn(&SessionRow) -> bool + Send + Sync) -> Outcome {
    let wait = ask.read()?;
    ask.needs(Access::Registry)?;
    let read = ask.engine.blocking(wait, |view| {
        let all = view.tables.sessions.values().filter(|it| wanted(it)).map(|it| shape::session(it));
        (view.sessions_index(), all.collect::<Vec<_>>())
    });
    let read = read.await;
    Ok(Reply::json(Value::Array(read.value)).indexed(read.index.0))
}

async fn create(ask: &Ask<'_>) -> Outcome {
    ask.needs(Access::Sessions)?;
    let wanted: Wanted = if ask.body.is_empty() {
        Wanted::default()
    } else {
        let wrong = |error| Reply::text(400, format!("Request decode failed: {error}"));
        serde_json::from_slice(ask.body).map_err(wrong)?
    };
    let row = session(wanted, ask.node())?;
    let id = row.id.clone();
    let created = ask.engine.try_write(move |txn| sessions::create(txn, row)).await?;
    created.map_err(|text| Reply::text(500, text))?;
    Ok(Reply::json(json!({ "ID": id })))
}

fn session(wanted: Wanted, own: String) -> Result<SessionRow, Reply> {
    let ttl = match wanted.ttl.as_str() {
        "" => None,
        text => {
            let wrong =
                || Reply::text(500, format!("Session TTL '{text}' invalid: time: invalid duration {text:?}"));
            let ttl = duration(text).ok_or_else(wrong)?;
            if ttl < sessions::TTL.0 || ttl > sessions::TTL.1 {
                let text = format!("Invalid Session TTL '{}', must be between [10s=24h0m0s]", ttl.as_nanos());
                return Err(Reply::text(500, text));
            }
            Some(ttl)
        }
    };
    let behavior = match wanted.behavior.as_str() {
        "" | "release" => Behavior::Release,
        "delete" => Behavior::Delete,
        other => return Err(Reply::text(500, format!("Invalid Behavior setting '{other}'"))),
    };
    let named = |check: &Value| check.as_str().or_else(|| check["ID"].as_str()).map(str::to_owned);
    let checks = wanted.node_checks.or(wanted.checks);
    Ok(SessionRow {
        id: uuid::Uuid::new_v4().to_string(),
        name: wanted.name,
        node: if wanted.node.is_empty() { own } else { wanted.node },
        ttl,
        lock_delay: lock_delay(wanted.lock_delay.as_ref())?,
        behavior,
        node_checks: checks.unwrap_or_else(|| vec![SERF_HEALTH.to_owned()]),
        service_checks: wanted.service_checks.unwrap_or_default().iter().filter_map(named).collect(),
        create: 0,
        modify: 0,
    })
}

/// A duration as text; a number is seconds when it is small, else nanoseconds (as Consul reads it).
fn lock_delay(value: Option<&Value>) -> Result<Duration, Reply> {
    let delay = match value {
        None | Some(Value::Null) => Some(LOCK_DELAY),
        Some(Value::String(text)) => duration(text),
        Some(number) => {
            number.as_u64().map(|n| if n < 1_000 { Duration::from_secs(n) } else { Duration::from_nanos(n) })
        }
    };
    let delay = delay.ok_or_else(|| Reply::text(400, "Request decode failed: invalid LockDelay"))?;
    Ok(delay.min(LONGEST_LOCK_DELAY))
}
