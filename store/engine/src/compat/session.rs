//! `/v1/session/…`.

use std::time::Duration;

use serde_json::{Value, json};

use super::{
    Access, Call, Outcome,
    body::{self, Fields},
    json::Json,
    query::duration,
    reply::Reply,
    shape,
};
use crate::embedded::{
    rows::{Behavior, SERF_HEALTH, SessionRow},
    sessions,
};

const LOCK_DELAY: Duration = Duration::from_secs(15);
/// A lock-delay that is a number below this means seconds.
const SECONDS_BELOW: f64 = 1_000.0;

pub(super) async fn answer(call: &Call<'_>, path: &[&str]) -> Outcome {
    call.check_datacenter()?;
    match path {
        ["create"] => create(call).await,
        ["renew" | "destroy" | "info", ""] => Err(Reply::text(400, "Missing session")),
        ["renew" | "destroy" | "info", id] if uuid::Uuid::try_parse(id).is_err() => {
            Err(Reply::text(500, "failed session lookup: index error: UUID must be 36 characters"))
        }
        ["renew", id] => {
            call.require(Access::Sessions)?;
            let wanted = (*id).to_owned();
            let renewed = call.engine.write(move |txn| sessions::renew(txn, &wanted)).await?;
            let missing = || Reply::text(404, format!("Session id '{id}' not found"));
            let session = renewed.ok_or_else(missing)?;
            Ok(Reply::json(json!([shape::session(&session)])))
        }
        ["destroy", id] => {
            call.require(Access::Sessions)?;
            let id = (*id).to_owned();
            call.engine.write(move |txn| sessions::destroy(txn, &id)).await?;
            Ok(Reply::json(json!(true)))
        }
        ["info", id] => list(call, |session| session.id == *id).await,
        ["node", ""] => Err(Reply::text(400, "Missing node name")),
        ["node", node] => list(call, |session| session.node == *node).await,
        ["list"] => list(call, |_| true).await,
        _ => Err(Reply::not_found()),
    }
}

async fn list(call: &Call<'_>, wanted: impl Fn(&SessionRow) -> bool + Send + Sync) -> Outcome {
    let wait = call.wait()?;
    call.require(Access::Registry)?;
    let read = call.engine.blocking(wait, |view| {
        let all = view.tables.sessions.values().filter(|it| wanted(it)).map(|it| shape::session(it));
        (view.sessions_index(), all.collect::<Vec<_>>())
    });
    let read = read.await;
    Ok(Reply::json(Value::Array(read.value)).indexed(read.index.0))
}

async fn create(call: &Call<'_>) -> Outcome {
    call.require(Access::Sessions)?;
    let body = if call.body.is_empty() { Json::Null } else { body::parse(call.body)? };
    let row = session(Fields::of(&body)?, call.node())?;
    let id = row.id.clone();
    let created = call.engine.try_write(move |txn| sessions::create(txn, row)).await?;
    created.map_err(|text| Reply::text(500, text))?;
    Ok(Reply::json(json!({ "ID": id })))
}

/// The TTL of a session; without one it does not expire.
fn ttl(text: &str) -> Result<Option<Duration>, Reply> {
    if text.is_empty() {
        return Ok(None);
    }
    let wrong = || Reply::text(500, format!("Session TTL '{text}' invalid: time: invalid duration {text:?}"));
    let ttl = duration(text).ok_or_else(wrong)?;
    if ttl.is_zero() {
        return Ok(None);
    }
    if ttl < sessions::TTL.0 || ttl > sessions::TTL.1 {
        let text = format!("Invalid Session TTL '{}', must be between [10s=24h0m0s]", ttl.as_nanos());
        return Err(Reply::text(500, text));
    }
    Ok(Some(ttl))
}

/// The node checks a session is bound to: the node's own health, unless others or none are given.
fn node_checks(fields: Fields<'_>) -> Result<Vec<String>, Reply> {
    for name in ["NodeChecks", "Checks"] {
        if fields.list(name)?.is_some() {
            return fields.texts(name);
        }
    }
    Ok(vec![SERF_HEALTH.to_owned()])
}

fn session(fields: Fields<'_>, own: String) -> Result<SessionRow, Reply> {
    let behavior = match fields.text("Behavior")?.as_str() {
        "" | "release" => Behavior::Release,
        "delete" => Behavior::Delete,
        other => return Err(Reply::text(500, format!("Invalid Behavior setting '{other}'"))),
    };
    let node = fields.text("Node")?;
    let ttl_text = fields.text("TTL")?;
    let service_checks = fields.objects("ServiceChecks")?.into_iter().map(|it| it.text("ID"));
    Ok(SessionRow {
        id: uuid::Uuid::new_v4().to_string(),
        name: fields.text("Name")?,
        node: if node.is_empty() { own } else { node },
        ttl: ttl(&ttl_text)?,
        ttl_text: Some(ttl_text).filter(|it| !it.is_empty()),
        lock_delay: lock_delay(fields.get("LockDelay"))?,
        behavior,
        node_checks: node_checks(fields)?,
        service_checks: service_checks.collect::<Result<_, _>>()?,
        create: 0,
        modify: 0,
    })
}

/// A duration as text or as a number, which is truncated: seconds when it is small, else nanoseconds, as Consul reads it.
/// A negative one is zero.
fn lock_delay(value: Option<&Json>) -> Result<Duration, Reply> {
    let delay = match value {
        None => Some(LOCK_DELAY),
        Some(Json::Text(text)) => match text.strip_prefix('-') {
            Some(positive) => duration(positive).map(|_| Duration::ZERO),
            None => duration(text),
        },
        Some(Json::Number(number)) => number.as_f64().map(|n| match n.trunc() {
            n if n < SECONDS_BELOW => Duration::try_from_secs_f64(n).unwrap_or_default(),
            // At most as many nanoseconds as 64 bits hold.
            n => Duration::try_from_secs_f64(n / 1e9).unwrap_or_default().min(Duration::from_nanos(u64::MAX)),
        }),
        Some(_) => None,
    };
    delay.ok_or_else(|| Reply::text(400, "Request decode failed: invalid LockDelay"))
}
