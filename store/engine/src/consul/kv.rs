//! The KV store: which keys may be sent, and transactions, through which every write goes.

use base64::{Engine as _, engine::general_purpose::STANDARD as BASE64};
use http::StatusCode;
use serde::Serialize;

use super::{
    client::{Answer, Client, Request},
    wire::{KvPair, TxnAnswer},
};
use crate::{EngineError, Index, KvOp, MAX_TXN_BODY, MAX_TXN_OPS, MAX_VALUE, Result, TxnOutcome};

/// What `/v1/kv/...` answers, for error messages.
pub(super) const ENTRIES: &str = "a JSON list of KV entries";

/// Refuses keys that some Consul version refuses, or that a URL cannot carry.
pub(super) fn check_key(key: &str) -> Result<()> {
    if key.is_empty() {
        return Err(EngineError::Refused("key: expected at least one character".to_owned()));
    }
    check_prefix(key)
}

/// As [`check_key`], but the prefix may be empty, which means every key.
pub(super) fn check_prefix(prefix: &str) -> Result<()> {
    let wrong = |c: char| !(c.is_ascii_alphanumeric() || matches!(c, '/' | '_' | '.' | '-'));
    if prefix.contains(wrong) || prefix.split('/').any(|part| part == "." || part.contains("..")) {
        return Err(EngineError::Refused(format!(
            "key {prefix:?}: expected characters of [A-Za-z0-9/_.-] and no \"..\" or \"/./\""
        )));
    }
    if prefix.starts_with('/') || prefix.contains("//") {
        return Err(EngineError::Refused(format!("key {prefix:?}: expected no empty parts between slashes")));
    }
    Ok(())
}

/// An operation as Consul wants it: `{"KV": {"Verb": …}}`.
#[derive(Debug, Serialize)]
struct TxnOp<'a> {
    #[serde(rename = "KV")]
    kv: KvVerb<'a>,
}

#[derive(Debug, Default, Serialize)]
#[serde(rename_all = "PascalCase")]
struct KvVerb<'a> {
    verb: &'static str,
    key: &'a str,
    #[serde(skip_serializing_if = "Option::is_none")]
    value: Option<String>,
    #[serde(skip_serializing_if = "Option::is_none")]
    index: Option<Index>,
    #[serde(skip_serializing_if = "Option::is_none")]
    session: Option<&'a str>,
}

impl<'a> From<&'a KvOp> for TxnOp<'a> {
    fn from(op: &'a KvOp) -> Self {
        let value = |value: &bytes::Bytes| Some(BASE64.encode(value));
        let verb = KvVerb { key: key(op), ..KvVerb::default() };
        let kv = match op {
            KvOp::Set { value: new, .. } => KvVerb { verb: "set", value: value(new), ..verb },
            KvOp::Cas { value: new, expected, .. } => {
                KvVerb { verb: "cas", value: value(new), index: Some(*expected), ..verb }
            }
            KvOp::Delete { .. } => KvVerb { verb: "delete", ..verb },
            KvOp::DeleteTree { .. } => KvVerb { verb: "delete-tree", ..verb },
            // Consul's check-index always fails on an absent key; absence has a verb of its own.
            KvOp::CheckIndex { expected: Index(0), .. } => KvVerb { verb: "check-not-exists", ..verb },
            KvOp::CheckIndex { expected, .. } => {
                KvVerb { verb: "check-index", index: Some(*expected), ..verb }
            }
            KvOp::CheckSession { session, .. } => {
                KvVerb { verb: "check-session", session: Some(&session.0), ..verb }
            }
            KvOp::Lock { value: new, session, .. } => {
                KvVerb { verb: "lock", value: value(new), session: Some(&session.0), ..verb }
            }
            KvOp::Unlock { value: new, session, .. } => {
                KvVerb { verb: "unlock", value: value(new), session: Some(&session.0), ..verb }
            }
        };
        Self { kv }
    }
}

fn key(op: &KvOp) -> &str {
    match op {
        KvOp::Set { key, .. }
        | KvOp::Cas { key, .. }
        | KvOp::Delete { key }
        | KvOp::CheckIndex { key, .. }
        | KvOp::CheckSession { key, .. }
        | KvOp::Lock { key, .. }
        | KvOp::Unlock { key, .. } => key,
        KvOp::DeleteTree { prefix } => prefix,
    }
}

/// True if the results of a transaction have an entry for this operation.
const fn has_result(op: &KvOp) -> bool {
    !matches!(op, KvOp::Delete { .. } | KvOp::DeleteTree { .. } | KvOp::CheckIndex { expected: Index(0), .. })
}

/// Sends the operations as one transaction, once.
pub(super) async fn txn(client: &Client, ops: &[KvOp]) -> Result<TxnOutcome> {
    if ops.is_empty() {
        return Ok(TxnOutcome::Committed(Vec::new()));
    }
    let request = client.in_datacenter(Request::put("v1/txn")).json(&checked(ops)?)?;
    if request.body_len() > MAX_TXN_BODY {
        return Err(EngineError::Refused(format!(
            "transaction of {} bytes: expected at most {MAX_TXN_BODY}",
            request.body_len()
        )));
    }
    let answer = client.call(request).await?;
    if answer.status == StatusCode::CONFLICT {
        return refused(answer).await;
    }
    let answer: TxnAnswer = answer.ok()?.json("a JSON object with Results").await?;
    indexes(ops, answer).map(TxnOutcome::Committed)
}

fn checked(ops: &[KvOp]) -> Result<Vec<TxnOp<'_>>> {
    if ops.len() > MAX_TXN_OPS {
        return Err(EngineError::Refused(format!(
            "transaction of {} operations: expected at most {MAX_TXN_OPS}",
            ops.len()
        )));
    }
    for op in ops {
        match op {
            KvOp::DeleteTree { prefix } => check_prefix(prefix)?,
            op => check_key(key(op))?,
        }
        if let KvOp::Set { value, .. }
        | KvOp::Cas { value, .. }
        | KvOp::Lock { value, .. }
        | KvOp::Unlock { value, .. } = op
            && value.len() > MAX_VALUE
        {
            return Err(EngineError::Refused(format!(
                "value of {:?} has {} bytes: expected at most {MAX_VALUE}",
                key(op),
                value.len()
            )));
        }
    }
    Ok(ops.iter().map(TxnOp::from).collect())
}

async fn refused(answer: Answer) -> Result<TxnOutcome> {
    let answer: TxnAnswer = answer.json("a JSON object with Errors").await?;
    let errors = answer.errors.unwrap_or_default();
    // Consul denies an anonymous write with this text and the status of a conflict.
    if let Some(denied) = errors.iter().find(|error| error.what.starts_with("Permission denied")) {
        return Err(EngineError::Denied(format!("transaction: {}", denied.what)));
    }
    Ok(TxnOutcome::Refused(errors.into_iter().map(|error| (error.op_index, error.what)).collect()))
}

/// The modify index of each operation: results come in order, but only for some operations.
fn indexes(ops: &[KvOp], answer: TxnAnswer) -> Result<Vec<Option<Index>>> {
    let mut results = answer.results.unwrap_or_default().into_iter().filter_map(|result| result.kv);
    ops.iter()
        .map(|op| {
            if !has_result(op) {
                return Ok(None);
            }
            let result: Option<KvPair> = results.next();
            match result {
                Some(pair) if pair.key == key(op) => Ok(Some(Index(pair.modify_index))),
                other => Err(EngineError::Unusable(format!(
                    "transaction: expected a result for key {:?}, got one for {:?}",
                    key(op),
                    other.map(|pair| pair.key)
                ))),
            }
        })
        .collect()
}
