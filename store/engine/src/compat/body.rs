//! Bodies of requests, read as Go reads them into its structs, in one place for every endpoint.
//!
//! Keys match in any case, and the later of two that match counts. Keys of maps (`Meta`, `NodeMeta`,
//! `TaggedAddresses`) are data and stay as they are. The agent's endpoints also accept some keys in snake case. Unknown
//! keys are ignored, because newer clients send some; a real agent of the captures' version refuses them at some
//! endpoints.

use std::{collections::BTreeMap, time::Duration};

use serde_json::Value;

use super::{json::Json, query::duration, reply::Reply};
use crate::{
    CheckStatus,
    embedded::rows::{CheckRow, ServiceRow, TaggedAddress},
};

/// Keys that agent endpoints accept in snake case as well, as a real agent does.
const SNAKE: &[(&str, &str)] = &[
    ("EnableTagOverride", "enable_tag_override"),
    ("TaggedAddresses", "tagged_addresses"),
    ("ServiceID", "service_id"),
    ("DeregisterCriticalServiceAfter", "deregister_critical_service_after"),
    ("DockerContainerID", "docker_container_id"),
    ("ScriptArgs", "script_args"),
    ("TLSSkipVerify", "tls_skip_verify"),
];

/// A JSON object whose keys are found in any case.
#[derive(Clone, Copy, Debug)]
pub(super) struct Fields<'a> {
    fields: &'a [(String, Json)],
    /// True at endpoints that accept snake case.
    snake: bool,
}

fn decode_failed(why: impl std::fmt::Display) -> Reply {
    Reply::text(400, format!("Request decode failed: {why}"))
}

/// The first JSON value of a body.
pub(super) fn parse(body: &[u8]) -> Result<Json, Reply> {
    Json::first_of(body).map_err(decode_failed)
}

impl<'a> Fields<'a> {
    /// The fields of an object; those of `null` are all absent.
    pub(super) fn of(value: &'a Json) -> Result<Self, Reply> {
        match value {
            Json::Null => Ok(Self { fields: &[], snake: false }),
            Json::Object(fields) => Ok(Self { fields, snake: false }),
            other => {
                Err(decode_failed(format_args!("json: cannot unmarshal {} into a JSON object", other.kind())))
            }
        }
    }

    /// As [`Fields::of`], at an endpoint of the agent.
    pub(super) fn of_agent(value: &'a Json) -> Result<Self, Reply> {
        Ok(Self { snake: true, ..Self::of(value)? })
    }

    /// The last value under a key that matches `name`; `null` counts as absent.
    pub(super) fn get(self, name: &str) -> Option<&'a Json> {
        let snake = SNAKE.iter().find(|(it, _)| self.snake && *it == name).map(|(_, snake)| *snake);
        let matches = |key: &str| {
            key.eq_ignore_ascii_case(name) || snake.is_some_and(|it| key.eq_ignore_ascii_case(it))
        };
        let found = self.fields.iter().rev().find(|(key, value)| matches(key) && !value.is_null());
        found.map(|(_, value)| value)
    }

    fn wrong(name: &str, expected: &str) -> Reply {
        decode_failed(format_args!("{name}: expected {expected}"))
    }

    pub(super) fn text(self, name: &str) -> Result<String, Reply> {
        match self.get(name) {
            None => Ok(String::new()),
            Some(Json::Text(text)) => Ok(text.clone()),
            Some(_) => Err(Self::wrong(name, "a string")),
        }
    }

    pub(super) fn flag(self, name: &str) -> Result<bool, Reply> {
        match self.get(name) {
            None => Ok(false),
            Some(Json::Bool(flag)) => Ok(*flag),
            Some(_) => Err(Self::wrong(name, "true or false")),
        }
    }

    pub(super) fn number(self, name: &str, default: i64) -> Result<i64, Reply> {
        match self.get(name) {
            None => Ok(default),
            Some(Json::Number(number)) => number.as_i64().ok_or_else(|| Self::wrong(name, "a whole number")),
            Some(_) => Err(Self::wrong(name, "a whole number")),
        }
    }

    /// A number of 64 bits, as flags and indexes are.
    pub(super) fn unsigned(self, name: &str) -> Result<u64, Reply> {
        let wrong = || Self::wrong(name, "a whole number from 0 to 18446744073709551615");
        match self.get(name) {
            None => Ok(0),
            Some(Json::Number(number)) => number.as_u64().ok_or_else(wrong),
            Some(_) => Err(wrong()),
        }
    }

    fn port(self, name: &str) -> Result<u16, Reply> {
        u16::try_from(self.number(name, 0)?).map_err(|_| Self::wrong(name, "a port from 0 to 65535"))
    }

    /// A list, if there is one.
    pub(super) fn list(self, name: &str) -> Result<Option<&'a [Json]>, Reply> {
        match self.get(name) {
            None => Ok(None),
            Some(Json::List(items)) => Ok(Some(items)),
            Some(_) => Err(Self::wrong(name, "a list")),
        }
    }

    /// A list of strings; Go reads `null` among them as an empty one.
    pub(super) fn texts(self, name: &str) -> Result<Vec<String>, Reply> {
        let one = |item: &Json| match item {
            Json::Null => Ok(String::new()),
            item => item.text().map(str::to_owned).ok_or_else(|| Self::wrong(name, "a list of strings")),
        };
        self.list(name)?.unwrap_or_default().iter().map(one).collect()
    }

    /// A map: its keys are data.
    fn entries(self, name: &str) -> Result<&'a [(String, Json)], Reply> {
        match self.get(name) {
            None => Ok(&[]),
            Some(Json::Object(entries)) => Ok(entries),
            Some(_) => Err(Self::wrong(name, "a map")),
        }
    }

    /// A map of strings; Go reads `null` among them as an empty one.
    pub(super) fn map(self, name: &str) -> Result<BTreeMap<String, String>, Reply> {
        let pair = |(key, value): &(String, Json)| match value {
            Json::Null => Ok((key.clone(), String::new())),
            Json::Text(text) => Ok((key.clone(), text.clone())),
            _ => Err(Self::wrong(name, "a map of strings")),
        };
        self.entries(name)?.iter().map(pair).collect()
    }

    pub(super) fn fields(self, name: &str) -> Result<Option<Self>, Reply> {
        self.get(name).map(|value| self.inside(value)).transpose()
    }

    /// The fields of a value inside this object: in snake case too, if this one's are.
    fn inside(self, value: &'a Json) -> Result<Self, Reply> {
        Ok(Self { snake: self.snake, ..Self::of(value)? })
    }

    pub(super) fn span(self, name: &str) -> Result<Option<Duration>, Reply> {
        let expected = "a duration such as 10s";
        match self.get(name) {
            None => Ok(None),
            Some(Json::Text(text)) if text.is_empty() => Ok(None),
            Some(Json::Text(text)) => duration(text).map(Some).ok_or_else(|| Self::wrong(name, expected)),
            Some(Json::Number(number)) => number
                .as_u64()
                .map(|n| Some(Duration::from_nanos(n)))
                .ok_or_else(|| Self::wrong(name, expected)),
            Some(_) => Err(Self::wrong(name, expected)),
        }
    }

    /// A list of objects; `null` among them is passed over.
    pub(super) fn objects(self, name: &str) -> Result<Vec<Self>, Reply> {
        let listed = self.list(name)?.unwrap_or_default().iter().filter(|it| !it.is_null());
        listed.map(|it| self.inside(it)).collect()
    }

    /// One object, or a list of them, or none.
    pub(super) fn several(self, one: &str, many: &str) -> Result<Vec<Self>, Reply> {
        Ok(self.fields(one)?.into_iter().chain(self.objects(many)?).collect())
    }
}

/// Where a service is registered, on which the rules for its weights and its name depend.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(super) enum At {
    /// At an agent, which validates the fields.
    Agent,
    /// In the catalog, which replaces invalid weights.
    Catalog,
    /// In the catalog, for a lookup: an id is enough.
    Lookup,
}

/// The largest weight: that of an SRV record.
const MAX_WEIGHT: i64 = 65_535;

/// The weights of an instance while passing and while warning. Without weights both are 1; if only one is given, the
/// other is 0.
fn weights(fields: Fields<'_>, at: At) -> Result<(u32, u32), Reply> {
    let Some(given) = fields.fields("Weights")? else { return Ok((1, 1)) };
    let (passing, warning) = (given.number("Passing", 0)?, given.number("Warning", 0)?);
    let wrong = |why: &str| Err(Reply::text(400, format!("Invalid Weights: {why}")));
    match at {
        // Go's client always sends weights, and zeros if none were given.
        At::Catalog | At::Lookup if passing < 1 || warning < 0 => return Ok((1, 1)),
        At::Catalog | At::Lookup => {}
        At::Agent if passing < 1 => return wrong("Passing must be greater than 0"),
        At::Agent if warning < 0 => return wrong("Warning must be greater or equal than 0"),
        At::Agent if passing.max(warning) > MAX_WEIGHT => {
            return wrong("DNS Weight must be between 0 and 65535");
        }
        At::Agent => {}
    }
    let weight = |number: i64| u32::try_from(number.clamp(0, MAX_WEIGHT)).unwrap_or_default();
    Ok((weight(passing), weight(warning)))
}

/// A service on a node. Its name is in `Name` at an agent and in `Service` in the catalog.
pub(super) fn service(fields: Fields<'_>, node: &str, at: At) -> Result<ServiceRow, Reply> {
    let (name_field, status) = match at {
        At::Agent => ("Name", 400),
        At::Catalog | At::Lookup => ("Service", 500),
    };
    let (name, id) = (fields.text(name_field)?, fields.text("ID")?);
    if name.is_empty() && at != At::Lookup {
        let missing =
            if at == At::Agent { "Missing service name" } else { "Must provide service name with ID" };
        return Err(Reply::text(status, missing));
    }
    let address = fields.text("Address")?;
    if matches!(address.as_str(), "0.0.0.0" | "::" | "[::]") {
        return Err(Reply::text(status, "Invalid service address"));
    }
    let (weight_passing, weight_warning) = weights(fields, at)?;
    let port = fields.port("Port")?;
    Ok(ServiceRow {
        node: node.to_owned(),
        id: if id.is_empty() { name.clone() } else { id },
        name,
        tags: fields.texts("Tags")?,
        tagged_addresses: tagged(fields)?,
        address,
        port,
        meta: fields.map("Meta")?,
        weight_passing,
        weight_warning,
        enable_tag_override: fields.flag("EnableTagOverride")?,
        create: 0,
        modify: 0,
    })
}

/// The tagged addresses.
fn tagged(fields: Fields<'_>) -> Result<BTreeMap<String, TaggedAddress>, Reply> {
    let one = |(name, value): &(String, Json)| {
        let fields = fields.inside(value)?;
        Ok((name.clone(), TaggedAddress { address: fields.text("Address")?, port: fields.port("Port")? }))
    };
    fields.entries("TaggedAddresses")?.iter().map(one).collect()
}

/// Adds an IP address under the names of its family as well, as an agent does.
pub(super) fn complete_addresses(row: &mut ServiceRow) {
    let names = match row.address.parse() {
        Ok(std::net::IpAddr::V4(_)) => ["lan_ipv4", "wan_ipv4"],
        Ok(std::net::IpAddr::V6(_)) => ["lan_ipv6", "wan_ipv6"],
        Err(_) => return,
    };
    for name in names {
        let own = TaggedAddress { address: row.address.clone(), port: row.port };
        row.tagged_addresses.entry(name.to_owned()).or_insert(own);
    }
}

pub(super) fn status(text: &str) -> Option<CheckStatus> {
    match text {
        "passing" => Some(CheckStatus::Passing),
        "warning" => Some(CheckStatus::Warning),
        "critical" => Some(CheckStatus::Critical),
        _ => None,
    }
}

fn checked_status(fields: Fields<'_>) -> Result<CheckStatus, Reply> {
    let text = fields.text("Status")?;
    match text.as_str() {
        "" => Ok(CheckStatus::Critical),
        text => status(text).ok_or_else(|| Reply::text(400, format!("Bad check status: '{text}'"))),
    }
}

/// A check at the agent: a TTL check, or it is refused.
pub(super) fn agent_check(
    fields: Fields<'_>,
    node: &str,
    default_id: &str,
    default_name: &str,
) -> Result<CheckRow, Reply> {
    for kind in
        ["HTTP", "TCP", "GRPC", "Args", "ScriptArgs", "DockerContainerID", "AliasNode", "AliasService"]
    {
        if fields.get(kind).is_some() {
            let text = format!(
                "Invalid check: {kind}: this engine runs no checks of its own; use a TTL check and report it, or \
                 a Consul agent"
            );
            return Err(Reply::text(400, text));
        }
    }
    let ttl = fields.span("TTL")?.filter(|ttl| !ttl.is_zero());
    let ttl = ttl.ok_or_else(|| Reply::text(400, "Invalid check: TTL must be > 0 for TTL checks"))?;
    let or = |text: String, default: &str| if text.is_empty() { default.to_owned() } else { text };
    let name = or(fields.text("Name")?, default_name);
    let id = [fields.text("CheckID")?, fields.text("ID")?].into_iter().find(|it| !it.is_empty());
    let default_id = if default_id.is_empty() { name.clone() } else { default_id.to_owned() };
    let status = checked_status(fields)?;
    Ok(CheckRow {
        name,
        notes: fields.text("Notes")?,
        kind: "ttl".to_owned(),
        ttl: Some(ttl),
        deregister_after: fields.span("DeregisterCriticalServiceAfter")?,
        ..CheckRow::of_node(node.to_owned(), id.unwrap_or(default_id), status)
    })
}

/// A check in the catalog. Its definition is kept for display only, because no agent runs it.
pub(super) fn catalog_check(fields: Fields<'_>, node: &str) -> Result<CheckRow, Reply> {
    let name = fields.text("Name")?;
    let id = fields.text("CheckID")?;
    let id = if id.is_empty() { name.clone() } else { id };
    let of = fields.text("Node")?;
    if !of.is_empty() && !of.eq_ignore_ascii_case(node) {
        return Err(Reply::text(500, format!("check node {of:?} does not match node {node:?}")));
    }
    if id.is_empty() {
        let text = format!("failed inserting check: it has neither CheckID nor Name on node {node:?}");
        return Err(Reply::text(500, text));
    }
    let (definition, kind) = definition(fields)?;
    let status = checked_status(fields)?;
    Ok(CheckRow {
        name,
        notes: fields.text("Notes")?,
        output: fields.text("Output")?,
        service_id: fields.text("ServiceID")?,
        kind,
        definition,
        ..CheckRow::of_node(node.to_owned(), id, status)
    })
}

/// The keys of a check's definition, as they are shown.
const DEFINITION: &[&str] = &[
    "HTTP",
    "TCP",
    "TTL",
    "Interval",
    "Timeout",
    "DeregisterCriticalServiceAfter",
    "Header",
    "Method",
    "Body",
    "TLSSkipVerify",
    "GRPC",
];

/// A check's definition under the keys that it is shown with, and the kind of check that it is.
fn definition(fields: Fields<'_>) -> Result<(serde_json::Map<String, Value>, String), Reply> {
    let mut shown = serde_json::Map::new();
    let Some(given) = fields.fields("Definition")? else { return Ok((shown, String::new())) };
    let known = |key: &str| DEFINITION.iter().find(|it| it.eq_ignore_ascii_case(key));
    for (key, value) in given.fields {
        let key = known(key).map_or_else(|| key.clone(), |it| (*it).to_owned());
        shown.insert(key, value.to_value());
    }
    let is = |kind: &&&str| given.get(kind).and_then(Json::text).is_some_and(|it| !it.is_empty());
    let kind = ["HTTP", "TCP", "TTL"].iter().find(is).map(|kind| kind.to_lowercase());
    Ok((shown, kind.unwrap_or_default()))
}

#[cfg(test)]
mod tests {
    use super::*;

    fn read(text: &str) -> Json {
        parse(text.as_bytes()).unwrap()
    }

    #[test]
    fn keys_are_found_in_any_case_and_the_later_one_counts() {
        let value =
            read(r#"{"NAME":"x","port":9,"Unheard":{},"Port":null,"a":1,"A":2,"a":3,"b":1,"B":null}"#);
        let fields = Fields::of(&value).unwrap();
        assert_eq!(fields.text("Name").unwrap(), "x");
        assert_eq!(fields.port("Port").unwrap(), 9, "null leaves what was there");
        assert_eq!(fields.number("A", 0).unwrap(), 3);
        assert_eq!(fields.number("B", 0).unwrap(), 1);
        assert!(fields.text("Port").is_err());
    }

    #[test]
    fn snake_case_is_accepted_at_agent_endpoints_only() {
        let value = read(r#"{"enable_tag_override":true,"lock_delay":"1s","Check":{"service_id":"a"}}"#);
        let agent = Fields::of_agent(&value).unwrap();
        assert!(agent.flag("EnableTagOverride").unwrap());
        assert_eq!(agent.fields("Check").unwrap().unwrap().text("ServiceID").unwrap(), "a");
        let other = Fields::of(&value).unwrap();
        assert!(!other.flag("EnableTagOverride").unwrap());
        assert_eq!(other.span("LockDelay").unwrap(), None);
    }

    #[test]
    fn the_keys_of_maps_are_data() {
        let value = read(r#"{"meta":{"Site":"bj","site":"sh","n":null},"tags":["x",null]}"#);
        let fields = Fields::of(&value).unwrap();
        let meta = fields.map("Meta").unwrap();
        assert_eq!((meta["Site"].as_str(), meta["site"].as_str(), meta["n"].as_str()), ("bj", "sh", ""));
        assert_eq!(fields.texts("Tags").unwrap(), ["x", ""]);
    }

    #[test]
    fn an_agent_validates_weights_and_the_catalog_replaces_invalid_ones() {
        let of = |text: &str, at| weights(Fields::of(&read(text)).unwrap(), at).ok();
        for (text, agent, catalog) in [
            ("{}", Some((1, 1)), Some((1, 1))),
            (r#"{"weights":null}"#, Some((1, 1)), Some((1, 1))),
            (r#"{"Weights":{"Passing":0,"Warning":0}}"#, None, Some((1, 1))),
            (r#"{"Weights":{}}"#, None, Some((1, 1))),
            (r#"{"Weights":{"passing":0,"warning":5}}"#, None, Some((1, 1))),
            (r#"{"Weights":{"passing":-5,"warning":-2}}"#, None, Some((1, 1))),
            (r#"{"Weights":{"passing":5,"warning":-2}}"#, None, Some((1, 1))),
            (r#"{"Weights":{"passing":3}}"#, Some((3, 0)), Some((3, 0))),
            (r#"{"Weights":{"passing":5,"warning":2}}"#, Some((5, 2)), Some((5, 2))),
        ] {
            assert_eq!((of(text, At::Agent), of(text, At::Catalog)), (agent, catalog), "{text}");
        }
        assert_eq!(of(r#"{"Weights":{"passing":70000}}"#, At::Agent), None);
    }
}
