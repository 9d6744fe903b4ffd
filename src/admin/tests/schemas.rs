//! Compares requests and answers with the OpenAPI document: every field has its schema, and every required one is there.

use std::collections::{BTreeMap, BTreeSet};

use serde_json::Value;

fn document() -> Value {
    serde_json::from_str(include_str!("../../../docs/openapi.json")).unwrap()
}

/// The operation of a path that parameters and a query are filled into.
fn operation(document: &Value, method: &str, path: &str) -> Value {
    let path = path.split('?').next().unwrap_or_default();
    let fits = |template: &str| {
        let parts = template.split('/').zip(path.split('/'));
        template.split('/').count() == path.split('/').count()
            && parts.into_iter().all(|(wanted, part)| wanted.starts_with('{') || wanted == part)
    };
    let paths = document["paths"].as_object().unwrap();
    let fitting: Vec<_> = paths.iter().filter(|(template, _)| fits(template)).collect();
    let exact = fitting.iter().find(|(template, _)| *template == path).or_else(|| fitting.first());
    let (_, item) = exact.unwrap_or_else(|| panic!("{path} is not in the document"));
    item[method.to_lowercase()].clone()
}

pub(super) fn check_answer(method: &str, path: &str, status: u16, answer: &Value) {
    let document = document();
    let responses = &operation(&document, method, path)["responses"];
    let response = Some(&responses[status.to_string()]).filter(|it| !it.is_null());
    let schema = &response.unwrap_or_else(|| &responses["default"])["content"]["application/json"]["schema"];
    assert!(schema.is_object(), "{method} {path} {status}: no schema");
    check(&document, schema, answer, &format!("{method} {path} {status}"));
}

pub(super) fn check_request(method: &str, path: &str, body: &Value) {
    let document = document();
    let body_schema =
        &operation(&document, method, path)["requestBody"]["content"]["application/json"]["schema"];
    check(&document, body_schema, body, &format!("{method} {path}"));
}

fn check(document: &Value, schema: &Value, value: &Value, place: &str) {
    if let Err(error) = fits(document, schema, value, place) {
        panic!("{error}: {value}");
    }
}

fn resolved<'a>(document: &'a Value, schema: &'a Value) -> &'a Value {
    match schema["$ref"].as_str() {
        Some(reference) => document.pointer(reference.trim_start_matches('#')).unwrap(),
        None => schema,
    }
}

fn fits(document: &Value, schema: &Value, value: &Value, place: &str) -> Result<(), String> {
    let schema = resolved(document, schema);
    if let Some(any) = schema["oneOf"].as_array().or_else(|| schema["anyOf"].as_array()) {
        let all: Vec<_> = any.iter().map(|one| fits(document, one, value, place)).collect();
        return match all.iter().any(Result::is_ok) {
            true => Ok(()),
            false => Err(all.into_iter().filter_map(Result::err).collect::<Vec<_>>().join("; ")),
        };
    }
    if let Some(words) = schema["enum"].as_array() {
        return if words.contains(value) { Ok(()) } else { Err(format!("{place}: not one of {words:?}")) };
    }
    let types: Vec<&str> = match &schema["type"] {
        Value::String(one) => vec![one],
        Value::Array(all) => all.iter().filter_map(Value::as_str).collect(),
        _ => Vec::new(),
    };
    let is = |wanted: &str| match wanted {
        "null" => value.is_null(),
        "string" => value.is_string(),
        "boolean" => value.is_boolean(),
        "integer" => value.is_u64() || value.is_i64(),
        "number" => value.is_number(),
        "array" => value.is_array(),
        "object" => value.is_object(),
        _ => false,
    };
    if !types.is_empty() && !types.iter().any(|it| is(it)) {
        return Err(format!("{place}: not of the type {types:?}"));
    }
    match value {
        Value::Array(items) => items
            .iter()
            .enumerate()
            .try_for_each(|(at, item)| fits(document, &schema["items"], item, &format!("{place}[{at}]"))),
        Value::Object(_) => object_fits(document, schema, value, place),
        _ => Ok(()),
    }
}

/// The properties of an object and of what is flattened into it, and which of them are required.
fn properties<'a>(
    document: &'a Value,
    schema: &'a Value,
    into: &mut (BTreeMap<&'a str, &'a Value>, BTreeSet<&'a str>),
) {
    let schema = resolved(document, schema);
    for part in schema["allOf"].as_array().into_iter().flatten() {
        properties(document, part, into);
    }
    let own = schema["properties"].as_object().into_iter().flatten();
    into.0.extend(own.map(|(name, property)| (name.as_str(), property)));
    into.1.extend(schema["required"].as_array().into_iter().flatten().filter_map(Value::as_str));
}

fn object_fits(document: &Value, schema: &Value, value: &Value, place: &str) -> Result<(), String> {
    let mut known = (BTreeMap::new(), BTreeSet::new());
    properties(document, schema, &mut known);
    let (known, required) = known;
    for name in required {
        if value.get(name).is_none() {
            return Err(format!("{place}: {name} is missing"));
        }
    }
    let others = &schema["additionalProperties"];
    for (name, inner) in value.as_object().into_iter().flatten() {
        let place = format!("{place}.{name}");
        match known.get(name.as_str()) {
            Some(property) => fits(document, property, inner, &place)?,
            None if others.is_object() => fits(document, others, inner, &place)?,
            // An object without any properties is one of unknown form.
            None if known.is_empty() => {}
            None => return Err(format!("{place}: no such property")),
        }
    }
    Ok(())
}
