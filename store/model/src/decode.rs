//! From trees to documents: the fields of the ten kinds, their defaults and what a single document can get wrong.
//!
//! What only several documents together can get wrong is [`super::World`]'s. A kind of probe, policy or path that
//! is designed but not built yet is refused by name, and no part of it is used.

mod check;
mod domain;
mod overlay;
mod policy;
mod route;
mod service;
mod site;
mod zone;

use std::{collections::BTreeMap, sync::Arc};

use super::{
    Addresses, BlastRadius, Cluster, Document, DomainName, InputError, InputErrors, Keep, Kind, Location,
    Name, Role, Scope, Site, Token, Vantage, Words as _,
    input_error::suggestion,
    read::{Fields, Reader},
    tree::{Node, Place, Placed, Value},
    yaml,
};

/// Reads every document of a text in YAML or JSON; `file` is its name in errors.
///
/// # Errors
/// Every error of the file, by line, if there is any. A text without documents is not an error.
pub fn parse(file: &str, text: &str) -> Result<Vec<Placed<Document>>, Vec<InputError>> {
    let errors = InputErrors::new(file.into());
    let trees = yaml::parse(text, &errors);
    let mut documents = Vec::with_capacity(trees.len());
    for tree in trees {
        if let Some(value) = document(&tree, &errors) {
            let place = Place::written(Arc::clone(errors.file()), Arc::new(tree));
            documents.push(Placed { value, place });
        }
    }
    if errors.count() == 0 { Ok(documents) } else { Err(errors.into_vec()) }
}

/// Decodes one document; `None` if anything in it is an error.
#[must_use]
pub fn document(tree: &Node, errors: &InputErrors) -> Option<Document> {
    let before = errors.count();
    let called = label(tree);
    let reader = Reader::new(errors, &called, tree);
    let mut fields = reader.fields()?;
    let Some(kind) = fields.required("kind", &Kind::expected(), kind) else {
        fields.ignore_rest();
        return None;
    };
    let document = match kind {
        Kind::Site => site(&fields).map(Document::Site),
        Kind::Cluster => cluster(&fields).map(Document::Cluster),
        Kind::Zone => zone::zone(&fields).map(Document::Zone),
        Kind::Check => check::check(&fields).map(Document::Check),
        Kind::Domain => domain::domain(&fields).map(|it| Document::Domain(it.into())),
        Kind::Service => service::service(&fields).map(Document::Service),
        Kind::Route => route::route(&fields).map(Document::Route),
        Kind::Vantage => vantage(&fields).map(Document::Vantage),
        Kind::Override => overlay::over_ride(&fields).map(Document::Override),
        Kind::Token => token(&fields).map(Document::Token),
    };
    drop(fields);
    document.filter(|_| errors.count() == before)
}

/// The name of the document in errors, as far as it has one: `Domain gw.example.com`.
fn label(tree: &Node) -> String {
    let word = |key| match tree.entry(key).map(|entry| &entry.value.value) {
        Some(Value::Scalar(scalar)) => scalar.text.chars().filter(|c| !c.is_control()).take(80).collect(),
        _ => String::new(),
    };
    let (kind, name): (String, String) = (word("kind"), word("name"));
    format!("{kind} {name}").trim().to_owned()
}

fn kind(field: Reader<'_>) -> Option<Kind> {
    let text = field.text(80)?;
    let found = Kind::of_word(text);
    if found.is_none() {
        let hint = match Kind::parse(text) {
            Some(kind) => format!("; did you mean {:?}?", kind.as_str()),
            None => suggestion(text, Kind::ALL.iter().map(|kind| kind.as_str())),
        };
        field.error(format!("{text:?} is not a kind{hint}"), Kind::expected());
    }
    found
}

const A_NAME: &str = "a name of characters a-z, 0-9, '-', '_' or '.'";
const A_DOMAIN: &str = "a domain name such as gw.example.com";

fn name(fields: &Fields<'_>) -> Option<Name> {
    fields.required("name", A_NAME, |field| field.parse())
}

/// A domain name that is not a wildcard.
fn host(field: Reader<'_>) -> Option<DomainName> {
    let name: DomainName = field.parse()?;
    if name.as_str().starts_with("*.") || name.as_str() == "*" {
        field.error("a wildcard is not one name", "each name in full");
        return None;
    }
    Some(name)
}

/// A list with at least one item and no duplicates.
fn some<T: Clone + Eq + std::hash::Hash>(
    field: &Reader<'_>,
    read: impl FnMut(Reader<'_>) -> Option<T>,
) -> Option<Vec<T>> {
    let before = field.count();
    let items = field.distinct(read)?;
    if items.is_empty() && field.count() == before {
        field.error("the list is empty", "at least one");
    }
    (!items.is_empty()).then_some(items)
}

/// A list of at most so many items.
fn most<'a, T>(
    field: &Reader<'a>,
    most: usize,
    read: impl FnOnce(&Reader<'a>) -> Option<Vec<T>>,
) -> Option<Vec<T>> {
    if let Value::List(items) = &field.node().value
        && items.len() > most
    {
        field.error(format!("a list of {} is too long", items.len()), format!("at most {most}"));
        return None;
    }
    read(field)
}

/// The sites of something; absent: all.
fn sites(fields: &Fields<'_>) -> Option<Vec<Name>> {
    fields.optional("sites", |field| some(&field, |item| item.parse()))
}

fn addresses(fields: &Fields<'_>) -> Addresses {
    Addresses {
        a: fields.or("a", Vec::new(), |field| field.distinct(|item| item.parse_as("an IPv4 address"))),
        aaaa: fields.or("aaaa", Vec::new(), |field| field.distinct(|item| item.parse_as("an IPv6 address"))),
    }
}

/// Addresses of which there must be at least one.
fn some_addresses(field: &Reader<'_>) -> Option<Addresses> {
    let before = field.count();
    let found = addresses(&field.fields()?);
    if found.a.is_empty() && found.aaaa.is_empty() && field.count() == before {
        field.error("no address", "at least one address in `a` or `aaaa`");
    }
    Some(found)
}

fn site(fields: &Fields<'_>) -> Option<Site> {
    let name = name(fields);
    let location = fields.optional("location", |field| {
        let fields = field.fields()?;
        let lat = fields.required("lat", "degrees from -90 to 90", |field| field.float(-90.0..=90.0));
        let lon = fields.required("lon", "degrees from -180 to 180", |field| field.float(-180.0..=180.0));
        Some(Location { lat: lat?, lon: lon? })
    });
    let networks = fields.or("networks", Vec::new(), |field| field.distinct(|item| item.net()));
    let region = fields.optional("region", |field| field.parse());
    let control = fields.optional("control", |field| site::control(&field));
    let reach = fields.or("reach", BTreeMap::new(), |field| site::reach(&field));
    Some(Site { name: name?, location, networks, region, control, reach })
}

fn cluster(fields: &Fields<'_>) -> Option<Cluster> {
    let name = name(fields);
    let zone = fields.required("zone", "the name of a Zone", host);
    let gateway_domain = fields.required("gateway_domain", A_DOMAIN, host);
    let gateways = fields.required("gateways", "per site, the addresses clients are sent to", gateways);
    let capacity = fields.or("capacity", BTreeMap::new(), |field| capacity(&field));
    let keep = fields.or("keep", Vec::new(), |field| field.list(|item| keep(&item)));
    let guard = fields.optional("guard", |field| guard(&field));
    Some(Cluster {
        name: name?,
        zone: zone?,
        gateway_domain: gateway_domain?,
        gateways: gateways?,
        capacity,
        keep,
        guard,
    })
}

fn capacity(field: &Reader<'_>) -> Option<BTreeMap<Name, u32>> {
    let mut capacity = BTreeMap::new();
    for (key, at) in field.entries()? {
        match key.parse::<Name>() {
            Ok(site) => capacity.extend(at.int(1..=u32::MAX).map(|rate| (site, rate))),
            Err(expected) => at.error(format!("{key:?} is not {expected}"), expected.to_string()),
        }
    }
    Some(capacity)
}

fn keep(field: &Reader<'_>) -> Option<Keep> {
    let fields = field.fields()?;
    let at_least = fields.required("at_least", "how many sites stay on", |field| field.int(1..=u8::MAX));
    let of = fields.required("of", "sites of the cluster", |field| some(&field, |item| item.parse()));
    let (at_least, of): (u8, Vec<Name>) = (at_least?, of?);
    if usize::from(at_least) > of.len() {
        let problem = format!("{at_least} of {} sites can never stay on", of.len());
        field.error(problem, "at most as many as it names sites");
    }
    Some(Keep { at_least, of })
}

fn guard(field: &Reader<'_>) -> Option<BlastRadius> {
    let fields = field.fields()?;
    let percent = fields.required("percent", "a share from 1 to 99", |field| field.int(1..=99));
    let window = fields.required("window", "a duration such as 30s", |field| {
        field.span_within(check::millis(1_000)..=check::DAY)
    });
    Some(BlastRadius { percent: percent?, window: window? })
}

fn gateways(field: Reader<'_>) -> Option<BTreeMap<Name, Addresses>> {
    let entries = field.entries()?;
    if entries.is_empty() {
        field.error("no site", "at least one site with its addresses");
    }
    let mut gateways = BTreeMap::new();
    for (key, at) in entries {
        match key.parse::<Name>() {
            Ok(site) => gateways.extend(some_addresses(&at).map(|found| (site, found))),
            Err(expected) => at.error(format!("{key:?} is not {expected}"), expected.to_string()),
        }
    }
    Some(gateways)
}

fn vantage(fields: &Fields<'_>) -> Option<Vantage> {
    let name = name(fields);
    let site = fields.optional("site", |field| field.parse());
    let region = fields.optional("region", |field| field.parse());
    Some(Vantage { name: name?, site, region })
}

fn token(fields: &Fields<'_>) -> Option<Token> {
    let name = name(fields);
    let role = fields.required_word("role");
    let scope = fields.or("scope", Scope::default(), |field| scope(&field, role));
    if role == Some(Role::Vantage) && fields.get("scope").is_none() {
        fields.whole().error("a vantage's token has no scope", "scope: { vantage: NAME }");
    }
    let sha256 = "the SHA-256 of the secret: 64 hexadecimal digits, as `waypost token create` prints them";
    let secret_sha256 = fields.required("secret_sha256", sha256, |field| {
        let text = field.text(1_000).unwrap_or_default();
        let fits = text.len() == 64 && text.bytes().all(|b| b.is_ascii_hexdigit());
        if !fits {
            // The text is not repeated: it may be the secret itself.
            field.error(format!("is not {sha256}"), sha256);
        }
        fits.then(|| text.to_ascii_lowercase())
    });
    let waits_for = fields.or("waits_for", Vec::new(), |field| field.distinct(|item| item.parse()));
    if let Some(at) = fields.get("waits_for")
        && role.is_some_and(|role| role != Role::Operator)
    {
        at.error("means nothing in this role", "no such key but in an operator's token");
    }
    Some(Token { name: name?, role: role?, scope, secret_sha256: secret_sha256?, waits_for })
}

fn scope(field: &Reader<'_>, role: Option<Role>) -> Option<Scope> {
    let fields = field.fields()?;
    let vantage = fields.optional("vantage", |field| field.parse());
    let services =
        fields.optional("services", |field| some(&field, |item| item.text(255).map(str::to_owned)));
    let site = fields.optional("site", |field| field.parse());
    let of_roles = [("vantage", Role::Vantage), ("services", Role::Registrar), ("site", Role::Control)];
    for (key, of) in of_roles {
        if let (Some(at), Some(role)) = (fields.get(key), role)
            && role != of
        {
            at.error("limits nothing in this role", "no such key in the scope of this role");
        }
    }
    if role == Some(Role::Vantage) && fields.get("vantage").is_none() {
        field.error("a vantage's token names no vantage", "scope: { vantage: NAME }");
    }
    Some(Scope { vantage, services, site })
}

#[cfg(test)]
mod page;
#[cfg(test)]
mod tests;
