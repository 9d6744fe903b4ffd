//! Times as the admin API shows them: RFC 3339 in UTC. The stored records count milliseconds, and that format must not
//! change; the admin API shows the same records through this module: `#[serde(with = "crate::api::moments")]`.

use serde::{
    Deserialize, Deserializer, Serialize, Serializer, de::DeserializeOwned, de::Error as _, ser::Error as _,
};
use serde_json::Value;
use store::model::Moment;

/// The fields of stored records that hold a moment.
const FIELDS: &[&str] = &["at", "created", "done", "ended", "since"];

/// Serialises a record with its moments as text. The moment 0, which means never, is `null`.
///
/// # Errors
/// When the record cannot be serialised at all.
pub fn serialize<T: Serialize, S: Serializer>(record: &T, serializer: S) -> Result<S::Ok, S::Error> {
    let mut value = serde_json::to_value(record).map_err(S::Error::custom)?;
    each_moment(&mut value, &|it| match it.as_u64() {
        Some(0) => *it = Value::Null,
        Some(millis) => *it = Moment(millis).rfc3339().into(),
        None => {}
    });
    value.serialize(serializer)
}

/// Reads a record whose moments are text.
///
/// # Errors
/// When the value is no such record.
pub fn deserialize<'de, T: DeserializeOwned, D: Deserializer<'de>>(deserializer: D) -> Result<T, D::Error> {
    let mut value = Value::deserialize(deserializer)?;
    each_moment(&mut value, &|moment| {
        let at = moment.as_str().and_then(|text| text.parse::<jiff::Timestamp>().ok());
        let millis = at.and_then(|at| u64::try_from(at.as_millisecond()).ok());
        match millis {
            Some(millis) => *moment = millis.into(),
            None if moment.is_null() => *moment = 0.into(),
            None => {}
        }
    });
    serde_json::from_value(value).map_err(D::Error::custom)
}

fn each_moment(value: &mut Value, change: &impl Fn(&mut Value)) {
    match value {
        Value::Array(items) => items.iter_mut().for_each(|item| each_moment(item, change)),
        Value::Object(map) => {
            for (key, inner) in map {
                if FIELDS.contains(&key.as_str()) && !inner.is_object() && !inner.is_array() {
                    change(inner);
                } else {
                    each_moment(inner, change);
                }
            }
        }
        _ => {}
    }
}

#[cfg(test)]
mod tests {
    use store::{
        commit::AuditEntry,
        health::{State, Transition, Verdict},
    };

    use super::*;

    #[derive(Debug, PartialEq, Serialize, Deserialize)]
    struct Shown<T: Serialize + DeserializeOwned> {
        #[serde(with = "super")]
        inner: T,
        #[serde(flatten, with = "super")]
        flat: AuditEntry,
    }

    #[test]
    fn moments_are_shown_as_text_and_read_back() {
        let at = Moment(1_790_000_000_123);
        let verdict =
            Verdict { since: at, history: [Transition { at, to: State::Up }].into(), ..Verdict::default() };
        let flat = AuditEntry { at, who: "ops".into(), what: "at 5".into(), generation: None };
        let shown = Shown { inner: vec![verdict, Verdict::default()], flat };
        let text = serde_json::to_value(&shown).unwrap();
        assert_eq!(text["at"], "2026-09-21T14:13:20.123Z");
        assert_eq!(text["inner"][0]["history"][0]["at"], "2026-09-21T14:13:20.123Z");
        assert_eq!(text["inner"][1]["since"], Value::Null, "never");
        assert_eq!(serde_json::from_value::<Shown<Vec<Verdict>>>(text).unwrap(), shown);
    }
}
