//! `/v1/txn`: several operations, all or none.

use base64::Engine as _;
use bytes::Bytes;
use serde_json::{Value, json};

use super::{
    Access, Call, Outcome,
    body::{self, At, Fields},
    catalog::node_row,
    json::Json,
    reply::Reply,
    shape,
};
use crate::{
    Index, MAX_TXN_BODY, MAX_TXN_OPS, SessionId,
    embedded::{
        Options, catalog,
        kv::{self, Miss, Verb},
        rows::{CheckRow, NodeRow, ServiceRow},
        txn::Txn,
    },
};

/// One operation, parsed.
enum Op {
    Kv {
        key: String,
        verb: Verb,
        reads: bool,
        shows: bool,
    },
    Node {
        verb: Catalog,
        row: NodeRow,
    },
    Service {
        verb: Catalog,
        row: ServiceRow,
    },
    Check {
        verb: Catalog,
        row: Box<CheckRow>,
    },
    /// Its verb is not known; reported with its position, as Consul does.
    Unknown(String),
    /// A write that is invalid; reported likewise.
    Wrong(String),
}

impl Op {
    const fn reads(&self) -> bool {
        match self {
            Self::Kv { reads, .. } => *reads,
            Self::Node { verb, .. } | Self::Service { verb, .. } | Self::Check { verb, .. } => {
                matches!(verb, Catalog::Get)
            }
            Self::Unknown(_) => true,
            Self::Wrong(_) => false,
        }
    }
}

#[derive(Clone, Copy, PartialEq, Eq)]
enum Catalog {
    Get,
    Set,
    Delete,
}

pub(super) async fn answer(call: &Call<'_>) -> Outcome {
    call.check_datacenter()?;
    if call.body.len() > MAX_TXN_BODY {
        let text =
            format!("Request body({} bytes) too large, max size: {MAX_TXN_BODY} bytes.", call.body.len());
        return Err(Reply::text(413, text));
    }
    let wrong = |why: &str| Reply::text(400, format!("Failed to parse body: {why}"));
    let parsed = Json::first_of(call.body).map_err(|error| wrong(&error))?;
    let items = match &parsed {
        Json::Null => &[][..],
        Json::List(items) => items.as_slice(),
        other => {
            return Err(wrong(&format!("json: cannot unmarshal {} into a list of operations", other.kind())));
        }
    };
    if items.len() > MAX_TXN_OPS {
        let text = format!("Transaction contains too many operations ({} > {MAX_TXN_OPS})", items.len());
        return Err(Reply::text(413, text));
    }
    let ops = items.iter().filter_map(|item| op(call, item).transpose()).collect::<Result<Vec<Op>, _>>()?;
    for op in &ops {
        require(call, op)?;
    }
    let only_reads = ops.iter().all(Op::reads);
    let own = call.engine.options().clone();
    let done = call.engine.try_write(move |txn| run(txn, ops, &own)).await?;
    let (status, mut value) = match done {
        Ok(results) => (200, json!({ "Results": results, "Errors": Value::Null })),
        Err(errors) => (409, json!({ "Results": Value::Null, "Errors": errors })),
    };
    if !only_reads {
        return Ok(Reply::json(value).status(status));
    }
    let read = json!({ "Index": 0, "LastContact": 0, "KnownLeader": true, "ConsistencyLevel": "" });
    if let (Value::Object(value), Value::Object(read)) = (&mut value, read) {
        value.extend(read);
    }
    let reply = Reply::json(value).with("X-Consul-Knownleader", "true").with("X-Consul-Lastcontact", "0");
    Ok(reply.status(status))
}

/// One operation; `None` for an item without one, which Consul ignores.
fn op(call: &Call<'_>, item: &Json) -> Result<Option<Op>, Reply> {
    let fields = Fields::of(item)?;
    if let Some(kv) = fields.fields("KV")? {
        return kv_op(kv).map(Some);
    }
    for kind in ["Node", "Service", "Check"] {
        if let Some(inner) = fields.fields(kind)? {
            return catalog_op(call, kind, inner).map(Some);
        }
    }
    Ok(None)
}

fn kv_op(fields: Fields<'_>) -> Result<Op, Reply> {
    let (key, session) = (fields.text("Key")?, SessionId(fields.text("Session")?));
    let value = base64::engine::general_purpose::STANDARD.decode(fields.text("Value")?);
    let value = value.map_err(|error| {
        let at = match error {
            base64::DecodeError::InvalidByte(at, _) => at,
            _ => 0,
        };
        Reply::text(400, format!("Failed to parse body: illegal base64 data at input byte {at}"))
    })?;
    let value = Bytes::from(value);
    let (flags, expected) = (fields.unsigned("Flags")?, Index(fields.unsigned("Index")?));
    let name = fields.text("Verb")?;
    let verb = match name.as_str() {
        "set" => Verb::Set { value, flags },
        "cas" => Verb::Cas { value, flags, expected },
        "lock" => Verb::Lock { value, flags, session },
        "unlock" => Verb::Unlock { value, flags, session },
        "get" => Verb::Get,
        "get-tree" => Verb::GetTree,
        "delete" => Verb::Delete,
        "delete-cas" => Verb::DeleteCas { expected },
        "delete-tree" => Verb::DeleteTree,
        "check-index" => Verb::CheckIndex { expected },
        "check-session" => Verb::CheckSession { session },
        "check-not-exists" => Verb::CheckNotExists,
        _ => return Ok(Op::Unknown(format!("unknown KV verb {name:?}"))),
    };
    let shows = matches!(verb, Verb::Get | Verb::GetTree);
    let checks = matches!(verb, Verb::CheckIndex { .. } | Verb::CheckSession { .. } | Verb::CheckNotExists);
    Ok(Op::Kv { key, verb, reads: shows || checks, shows })
}

fn catalog_op(call: &Call<'_>, kind: &str, fields: Fields<'_>) -> Result<Op, Reply> {
    let name = fields.text("Verb")?;
    let verb = match name.as_str() {
        "get" => Catalog::Get,
        "set" => Catalog::Set,
        "delete" => Catalog::Delete,
        _ => return Ok(Op::Unknown(format!("unknown {kind} verb {name:?}"))),
    };
    let missing = || Reply::text(400, format!("Failed to parse body: expected {kind} beside its verb"));
    let inner = fields.fields(kind)?.ok_or_else(missing)?;
    Ok(match kind {
        "Node" => {
            let there = call
                .engine
                .read(|view| view.tables.nodes.get(&inner.text("Node").unwrap_or_default()).cloned());
            Op::Node { verb, row: node_row(inner, there.as_ref())? }
        }
        "Service" if verb != Catalog::Get && inner.text("Service")?.is_empty() => {
            Op::Wrong("Must provide service name with ID".to_owned())
        }
        "Service" => {
            let at = if verb == Catalog::Get { At::Lookup } else { At::Catalog };
            Op::Service { verb, row: body::service(inner, &fields.text("Node")?, at)? }
        }
        _ => Op::Check { verb, row: Box::new(body::catalog_check(inner, &inner.text("Node")?)?) },
    })
}

fn require(call: &Call<'_>, op: &Op) -> Result<(), Reply> {
    match op {
        Op::Kv { key, reads: true, .. } => call.require(Access::KeyRead(key)),
        Op::Kv { key, .. } => call.require(Access::KeyWrite(key)),
        Op::Node { verb: Catalog::Get, .. }
        | Op::Service { verb: Catalog::Get, .. }
        | Op::Check { verb: Catalog::Get, .. } => call.require(Access::Registry),
        Op::Node { .. } => call.require(Access::Nodes),
        Op::Service { verb: Catalog::Delete, row } => call.require_instance(&row.node, &row.id).map(drop),
        Op::Service { row, .. } => {
            call.require(Access::Register(&row.name))?;
            call.require_instance(&row.node, &row.id).map(drop)
        }
        Op::Check { verb: Catalog::Delete, row } => call.require_check(&row.node, &row.id).map(drop),
        Op::Check { row, .. } => call.require_put(row, None),
        Op::Unknown(_) | Op::Wrong(_) => Ok(()),
    }
}

fn run(txn: &mut Txn<'_>, ops: Vec<Op>, own: &Options) -> Result<Vec<Value>, Vec<Value>> {
    let (mut results, mut errors) = (Vec::new(), Vec::new());
    for (at, op) in ops.into_iter().enumerate() {
        match one(txn, op, own) {
            Ok(shown) => results.extend(shown),
            Err(what) => errors.push(json!({ "OpIndex": at, "What": what })),
        }
    }
    if errors.is_empty() { Ok(results) } else { Err(errors) }
}

/// A service as transactions show it: an empty list of tags is `null` here.
fn bare(row: &ServiceRow) -> Value {
    let mut value = shape::service(row, true);
    if row.tags.is_empty() {
        value["Tags"] = Value::Null;
    }
    value
}

fn one(txn: &mut Txn<'_>, op: Op, own: &Options) -> Result<Vec<Value>, String> {
    match op {
        Op::Unknown(what) | Op::Wrong(what) => Err(what),
        Op::Kv { key, verb, shows, .. } => {
            let entries = kv::run(txn, &key, verb).map_err(Miss::into_text)?;
            Ok(entries.iter().map(|entry| json!({ "KV": shape::entry(entry, shows) })).collect())
        }
        Op::Node { verb, row } => {
            let node = match verb {
                Catalog::Set => Some(catalog::put_node(txn, row)),
                Catalog::Get => Some(txn.tables().nodes.get(&row.name).cloned().ok_or("node doesn't exist")?),
                Catalog::Delete if row.name == own.node => {
                    return Err(format!("node {:?} is the engine's own and stays", row.name));
                }
                Catalog::Delete => {
                    catalog::remove_node(txn, &row.name);
                    None
                }
            };
            Ok(node.map(|it| json!({ "Node": shape::node(&it, &own.datacenter) })).into_iter().collect())
        }
        Op::Service { verb, row } => {
            if verb == Catalog::Set && !txn.tables().nodes.contains_key(&row.node) {
                return Err("Missing node registration".to_owned());
            }
            let service = match verb {
                Catalog::Set => Some(catalog::put_service(txn, row)),
                Catalog::Get => {
                    Some(txn.tables().service(&row.node, &row.id).cloned().ok_or("service doesn't exist")?)
                }
                Catalog::Delete => {
                    catalog::remove_service(txn, &row.node, &row.id);
                    None
                }
            };
            Ok(service.map(|it| json!({ "Service": bare(&it) })).into_iter().collect())
        }
        Op::Check { verb, row } => {
            let check = match verb {
                Catalog::Set => Some(catalog::put_check(txn, *row)?),
                Catalog::Get => {
                    Some(txn.tables().check(&row.node, &row.id).cloned().ok_or("check doesn't exist")?)
                }
                Catalog::Delete => {
                    catalog::remove_check(txn, &row.node, &row.id);
                    None
                }
            };
            Ok(check.map(|it| json!({ "Check": shape::check(&it) })).into_iter().collect())
        }
    }
}
