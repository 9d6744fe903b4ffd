//! `/v1/kv/…`.

use std::collections::BTreeSet;

use http::Method;
use serde_json::{Value, json};

use super::{Access, Call, Outcome, reply::Reply, shape};
use crate::{
    Index, MAX_VALUE, SessionId,
    embedded::kv::{self, Miss, Verb},
};

pub(super) async fn answer(call: &Call<'_>, key: &str) -> Outcome {
    call.check_datacenter()?;
    match *call.method {
        Method::GET => get(call, key).await,
        Method::PUT => put(call, key).await,
        _ => delete(call, key).await,
    }
}

async fn get(call: &Call<'_>, key: &str) -> Outcome {
    let wait = call.wait()?;
    if call.query.has("keys") {
        call.require(Access::KeyRead(key))?;
        let read = call.engine.blocking(wait, |view| {
            let keys = view.tables.below(key).map(|entry| entry.key.clone()).collect::<Vec<_>>();
            (view.prefix_index(key), keys)
        });
        let read = read.await;
        let keys = folded(read.value, key, call.query.get("separator").unwrap_or_default());
        let found = !keys.is_empty();
        return Ok(shown(found, json!(keys), read.index));
    }
    if call.query.has("recurse") {
        call.require(Access::KeyRead(key))?;
        let read = call.engine.blocking(wait, |view| {
            (view.prefix_index(key), view.tables.below(key).cloned().collect::<Vec<_>>())
        });
        let read = read.await;
        let entries: Vec<Value> = read.value.iter().map(|entry| shape::entry(entry, true)).collect();
        return Ok(shown(!entries.is_empty(), Value::Array(entries), read.index));
    }
    if key.is_empty() {
        return Err(Reply::text(400, "Missing key name"));
    }
    call.require(Access::KeyRead(key))?;
    let read =
        call.engine.blocking(wait, |view| (view.key_index(key), view.tables.kv.get(key).cloned())).await;
    let Some(entry) = read.value else { return Ok(Reply::not_found().indexed(read.index.0)) };
    if call.query.has("raw") {
        // A browser must not run scripts in stored values.
        let reply = Reply::raw(entry.value.clone()).indexed(read.index.0);
        return Ok(reply
            .with("X-Content-Type-Options", "nosniff")
            .with("Content-Security-Policy", "sandbox"));
    }
    Ok(Reply::json(Value::Array(vec![shape::entry(&entry, true)])).indexed(read.index.0))
}

fn shown(found: bool, value: Value, index: Index) -> Reply {
    if found { Reply::json(value).indexed(index.0) } else { Reply::not_found().indexed(index.0) }
}

/// Keys up to the first separator after the prefix, each once.
fn folded(keys: Vec<String>, prefix: &str, separator: &str) -> Vec<String> {
    if separator.is_empty() {
        return keys;
    }
    let fold = |key: String| {
        let end = key.get(prefix.len()..).and_then(|rest| rest.find(separator));
        end.map_or_else(
            || key.clone(),
            |at| key.get(..prefix.len() + at + separator.len()).unwrap_or(&key).to_owned(),
        )
    };
    keys.into_iter().map(fold).collect::<BTreeSet<_>>().into_iter().collect()
}

/// Refuses parameters that exclude each other.
fn exclusive(call: &Call<'_>, names: &[&str]) -> Result<(), Reply> {
    let there: Vec<String> =
        names.iter().filter_map(|name| call.query.get(name).map(|value| format!("{name}={value}"))).collect();
    if there.len() > 1 {
        return Err(Reply::text(400, format!("Conflicting flags: {}", there.join("&"))));
    }
    Ok(())
}

async fn put(call: &Call<'_>, key: &str) -> Outcome {
    if key.is_empty() {
        return Err(Reply::text(400, "Missing key name"));
    }
    exclusive(call, &["acquire", "release", "cas"])?;
    let flags = call.query.number::<u64>("flags")?.unwrap_or(0);
    if call.body.len() > MAX_VALUE {
        let text = format!("Request body({} bytes) too large, max size: {MAX_VALUE} bytes.", call.body.len());
        return Err(Reply::text(413, text));
    }
    call.require(Access::KeyWrite(key))?;
    let value = call.body.clone();
    let session = |id: &str| SessionId(id.to_owned());
    let verb = match (call.query.get("acquire"), call.query.get("release"), call.query.number::<u64>("cas")?)
    {
        (Some(id), _, _) => Verb::Lock { value, flags, session: session(id) },
        (_, Some(id), _) => Verb::Unlock { value, flags, session: session(id) },
        (_, _, Some(expected)) => Verb::Cas { value, flags, expected: Index(expected) },
        _ => Verb::Set { value, flags },
    };
    run(call, key, verb).await
}

async fn delete(call: &Call<'_>, key: &str) -> Outcome {
    let recurse = call.query.has("recurse");
    exclusive(call, &["cas", "recurse"])?;
    if key.is_empty() && !recurse {
        return Err(Reply::text(400, "Missing key name"));
    }
    call.require(Access::KeyWrite(key))?;
    let verb = match call.query.number::<u64>("cas")? {
        _ if recurse => Verb::DeleteTree,
        Some(0) => return Ok(Reply::json(json!(false))),
        Some(expected) => Verb::DeleteCas { expected: Index(expected) },
        None => Verb::Delete,
    };
    run(call, key, verb).await
}

async fn run(call: &Call<'_>, key: &str, verb: Verb) -> Outcome {
    let key = key.to_owned();
    match call.engine.try_write(move |txn| kv::run(txn, &key, verb)).await? {
        Ok(_) => Ok(Reply::json(json!(true))),
        Err(Miss::State(_)) => Ok(Reply::json(json!(false))),
        Err(Miss::Wrong(text)) => Err(Reply::text(500, text)),
    }
}
