//! Who wrote each heartbeat last, noted in the engine by the listener that saw the token.
//!
//! The Consul face notes nodes, and the admin API notes vantages; both may run in other processes than the control
//! that reads the notes. A note is written only when it changes. A node without a note does not use Waypost's
//! listeners: it runs in the engine's own process, or writes to a real Consul, whose ACLs protect the keys.

use std::collections::BTreeMap;

use serde::{Deserialize, Serialize};

use crate::{
    engine::{Engine, EngineError, KvOp},
    keys,
    model::{Bearer, Token},
};

/// Who wrote.
#[derive(Clone, Debug, Default, PartialEq, Eq, Serialize, Deserialize)]
pub struct Writer {
    /// The name of the token; `None` for a request without a Waypost token.
    pub token: Option<String>,
    /// The secret of that token, see [`mark`]; absent in notes of earlier versions, and for a listener's own first
    /// token.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub mark: Option<String>,
}

impl Writer {
    /// True when this token was used with its present secret.
    #[must_use]
    pub fn used(&self, token: &Token) -> bool {
        self.token.as_deref() == Some(token.name.as_str())
            && self.mark.as_deref().is_none_or(|it| it == mark(&token.secret_sha256))
    }
}

/// The beginning of a secret's SHA-256 (hexadecimal): enough to distinguish it from another secret of the same token.
#[must_use]
pub fn mark(secret_sha256: &str) -> &str {
    secret_sha256.get(..16).unwrap_or(secret_sha256)
}

/// Notes who wrote a heartbeat, unless the note is there already.
///
/// # Errors
/// When the engine fails.
pub async fn note(engine: &dyn Engine, bearer: &Bearer, writer: &Writer) -> Result<(), EngineError> {
    let key = keys::writer(bearer);
    let value = serde_json::to_vec(writer).expect("a text has no failing serialiser");
    let there = engine.kv_get(&key, None).await?.value;
    if there.is_some_and(|it| it.value == value) {
        return Ok(());
    }
    engine.txn(vec![KvOp::Set { key, value: value.into() }]).await.map(drop)
}

/// Forgets who wrote a heartbeat: from now on it comes from the engine's own process.
///
/// # Errors
/// When the engine fails.
pub async fn forget(engine: &dyn Engine, bearer: &Bearer) -> Result<(), EngineError> {
    engine.txn(vec![KvOp::Delete { key: keys::writer(bearer) }]).await.map(drop)
}

/// Every note.
///
/// # Errors
/// When the engine fails.
pub async fn all(engine: &dyn Engine) -> Result<BTreeMap<Bearer, Writer>, EngineError> {
    let listed = engine.kv_list(keys::WRITERS, None).await?.value;
    let one = |key: &str, value: &[u8]| Some((keys::parse_writer(key)?, serde_json::from_slice(value).ok()?));
    Ok(listed.iter().filter_map(|it| one(&it.key, &it.value)).collect())
}

#[cfg(test)]
mod tests {
    use super::*;
    use engine::embedded::{Embedded, Options};

    #[tokio::test]
    async fn a_note_is_written_when_it_changes() {
        let engine = Embedded::in_memory(Options::default()).await;
        let bearer: Bearer = "node/gw".parse().unwrap();
        let none = Writer::default();
        let by = Writer { token: Some("gw".to_owned()), mark: Some("0123456789abcdef".to_owned()) };
        let index =
            async || engine.kv_get(&keys::writer(&bearer), None).await.unwrap().value.unwrap().modify_index;
        note(engine.as_ref(), &bearer, &none).await.unwrap();
        let first = index().await;
        note(engine.as_ref(), &bearer, &none).await.unwrap();
        assert_eq!(index().await, first);
        note(engine.as_ref(), &bearer, &by).await.unwrap();
        assert!(index().await > first);
        assert_eq!(all(engine.as_ref()).await.unwrap(), BTreeMap::from([(bearer.clone(), by)]));
        forget(engine.as_ref(), &bearer).await.unwrap();
        assert_eq!(all(engine.as_ref()).await.unwrap(), BTreeMap::new());
    }

    #[test]
    fn a_token_with_another_secret_was_not_used() {
        let token = |name: &str, secret: char| Token {
            name: name.parse().unwrap(),
            role: model::Role::Node,
            scope: model::Scope::default(),
            secret_sha256: secret.to_string().repeat(64),
            waits_for: Vec::new(),
        };
        let writer: Writer = serde_json::from_str(r#"{"token":"gw","mark":"aaaaaaaaaaaaaaaa"}"#).unwrap();
        assert!(writer.used(&token("gw", 'a')));
        assert!(!writer.used(&token("gw", 'b')) && !writer.used(&token("dns", 'a')));
        let noted_earlier: Writer = serde_json::from_str(r#"{"token":"gw"}"#).unwrap();
        assert!(noted_earlier.used(&token("gw", 'b')));
        assert!(!Writer::default().used(&token("gw", 'a')));
    }
}
