//! Bodies of registrations. Go reads keys in any case, and agent endpoints take snake case as well; unknown keys are
//! ignored, because newer clients send some.

use std::{collections::BTreeMap, time::Duration};

use serde_json::{Map, Value};

use super::{query::duration, reply::Reply};
use crate::engine::{
    CheckStatus,
    embedded::rows::{CheckRow, ServiceRow, TaggedAddress},
};

/// A JSON object whose keys are found in any case, with underscores or without.
#[derive(Clone, Copy, Debug)]
pub(super) struct Fields<'a>(&'a Map<String, Value>);

fn normal(key: &str) -> String {
    key.chars().filter(|it| *it != '_').map(|it| it.to_ascii_lowercase()).collect()
}

pub(super) fn parse(body: &[u8]) -> Result<Value, Reply> {
    serde_json::from_slice(body).map_err(|error| Reply::text(400, format!("Request decode failed: {error}")))
}

impl<'a> Fields<'a> {
    pub(super) fn of(value: &'a Value) -> Result<Self, Reply> {
        value
            .as_object()
            .map(Self)
            .ok_or_else(|| Reply::text(400, "Request decode failed: expected a JSON object"))
    }

    pub(super) fn get(self, name: &str) -> Option<&'a Value> {
        let wanted = normal(name);
        self.0
            .iter()
            .find(|(key, _)| normal(key) == wanted)
            .map(|(_, value)| value)
            .filter(|it| !it.is_null())
    }

    fn wrong(name: &str, expected: &str) -> Reply {
        Reply::text(400, format!("Request decode failed: {name}: expected {expected}"))
    }

    pub(super) fn text(self, name: &str) -> Result<String, Reply> {
        match self.get(name) {
            None => Ok(String::new()),
            Some(Value::String(text)) => Ok(text.clone()),
            Some(_) => Err(Self::wrong(name, "a string")),
        }
    }

    fn flag(self, name: &str) -> Result<bool, Reply> {
        self.get(name).map_or(Ok(false), |it| it.as_bool().ok_or_else(|| Self::wrong(name, "true or false")))
    }

    pub(super) fn number(self, name: &str, default: i64) -> Result<i64, Reply> {
        self.get(name)
            .map_or(Ok(default), |it| it.as_i64().ok_or_else(|| Self::wrong(name, "a whole number")))
    }

    fn port(self, name: &str) -> Result<u16, Reply> {
        u16::try_from(self.number(name, 0)?).map_err(|_| Self::wrong(name, "a port from 0 to 65535"))
    }

    fn texts(self, name: &str) -> Result<Vec<String>, Reply> {
        let Some(value) = self.get(name) else { return Ok(Vec::new()) };
        let items =
            value.as_array().and_then(|all| all.iter().map(|it| it.as_str().map(str::to_owned)).collect());
        items.ok_or_else(|| Self::wrong(name, "a list of strings"))
    }

    pub(super) fn map(self, name: &str) -> Result<BTreeMap<String, String>, Reply> {
        let Some(value) = self.get(name) else { return Ok(BTreeMap::new()) };
        let pair = |(key, value): (&String, &Value)| Some((key.clone(), value.as_str()?.to_owned()));
        let map = value.as_object().and_then(|map| map.iter().map(pair).collect());
        map.ok_or_else(|| Self::wrong(name, "a map of strings"))
    }

    pub(super) fn fields(self, name: &str) -> Result<Option<Self>, Reply> {
        self.get(name).map(Fields::of).transpose()
    }

    pub(super) fn span(self, name: &str) -> Result<Option<Duration>, Reply> {
        match self.get(name) {
            None => Ok(None),
            Some(Value::String(text)) if text.is_empty() => Ok(None),
            Some(Value::String(text)) => {
                duration(text).map(Some).ok_or_else(|| Self::wrong(name, "a duration such as 10s"))
            }
            Some(number) => number
                .as_u64()
                .map(|n| Some(Duration::from_nanos(n)))
                .ok_or_else(|| Self::wrong(name, "a duration such as 10s")),
        }
    }

    /// One object, or a list of them, or none.
    pub(super) fn several(self, one: &str, many: &str) -> Result<Vec<Self>, Reply> {
        let mut all: Vec<Self> = self.fields(one)?.into_iter().collect();
        if let Some(list) = self.get(many) {
            let list = list.as_array().ok_or_else(|| Self::wrong(many, "a list"))?;
            all.extend(list.iter().map(Fields::of).collect::<Result<Vec<_>, _>>()?);
        }
        Ok(all)
    }
}

/// A service, on a node. Its name stands under `name` (agent) or `service` (catalog).
pub(super) fn service(fields: Fields<'_>, node: &str, name_field: &str) -> Result<ServiceRow, Reply> {
    let name = fields.text(name_field)?;
    if name.is_empty() {
        return Err(Reply::text(400, "Missing service name"));
    }
    let address = fields.text("Address")?;
    if matches!(address.as_str(), "0.0.0.0" | "::" | "[::]") {
        return Err(Reply::text(400, "Invalid service address"));
    }
    let id = fields.text("ID")?;
    let weights = fields.fields("Weights")?;
    let weight = |name, default| weights.map_or(Ok(default), |it| it.number(name, default));
    let (passing, warning) = (weight("Passing", 1)?, weight("Warning", 1)?);
    if passing < 1 {
        return Err(Reply::text(400, "Invalid Weights: Passing must be greater than 0"));
    }
    if warning < 0 {
        return Err(Reply::text(400, "Invalid Weights: Warning must be greater or equal than 0"));
    }
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
        weight_passing: u32::try_from(passing).unwrap_or(u32::MAX),
        weight_warning: u32::try_from(warning).unwrap_or(u32::MAX),
        enable_tag_override: fields.flag("EnableTagOverride")?,
        create: 0,
        modify: 0,
    })
}

/// The addresses that were given by name.
fn tagged(fields: Fields<'_>) -> Result<BTreeMap<String, TaggedAddress>, Reply> {
    let Some(map) = fields.get("TaggedAddresses") else { return Ok(BTreeMap::new()) };
    let Some(map) = map.as_object() else {
        return Err(Reply::text(400, "Request decode failed: TaggedAddresses: expected a map"));
    };
    let one = |(name, value): (&String, &Value)| {
        let fields = Fields::of(value)?;
        Ok((name.clone(), TaggedAddress { address: fields.text("Address")?, port: fields.port("Port")? }))
    };
    map.iter().map(one).collect()
}

/// As an agent does it: an IP address stands under its family's names as well.
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

/// A check in the catalog: as it is given, for people; nobody runs it.
pub(super) fn catalog_check(fields: Fields<'_>, node: &str) -> Result<CheckRow, Reply> {
    let name = fields.text("Name")?;
    let id = fields.text("CheckID")?;
    let id = if id.is_empty() { name.clone() } else { id };
    let definition = fields.get("Definition").and_then(Value::as_object).cloned().unwrap_or_default();
    let given =
        |name: &str| definition.get(name).is_some_and(|it| it.as_str().is_some_and(|it| !it.is_empty()));
    let kind = ["HTTP", "TCP", "TTL"].into_iter().find(|kind| given(kind)).unwrap_or_default().to_lowercase();
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

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn keys_are_found_in_any_spelling() {
        let value = serde_json::json!({ "enable_tag_override": true, "NAME": "x", "port": 9, "Unheard": {} });
        let fields = Fields::of(&value).unwrap();
        assert_eq!(fields.text("Name").unwrap(), "x");
        assert!(fields.flag("EnableTagOverride").unwrap());
        assert_eq!(fields.port("Port").unwrap(), 9);
        assert!(fields.text("Port").is_err());
    }
}
