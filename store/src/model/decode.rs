//! From trees to documents: the fields of the ten kinds, their defaults and what a single document can get wrong.
//!
//! What only several documents together can get wrong is [`super::World`]'s. A kind of probe, policy or path that
//! is designed but not built yet is refused by name, never half obeyed.

mod check;
mod domain;
mod traffic;
mod zone;

use std::{collections::BTreeMap, sync::Arc};

use super::{
    Addresses, Cluster, Document, DomainName, Kind, Location, Mistake, Mistakes, Name, Override,
    OverrideState, OverrideTarget, Role, Scope, Site, Token, Vantage,
    mistake::suggestion,
    read::{Fields, Reader, join},
    tree::{Node, Place, Placed},
    yaml,
};

/// Reads every document of a text in YAML or JSON; `file` stands in mistakes.
///
/// # Errors
/// Every mistake of the file, by line, if there is any. A text without documents is not a mistake.
pub fn parse(file: &str, text: &str) -> Result<Vec<Placed<Document>>, Vec<Mistake>> {
    let mistakes = Mistakes::new(file.into());
    let trees = yaml::parse(text, &mistakes);
    let mut documents = Vec::with_capacity(trees.len());
    for tree in trees {
        if let Some(value) = document(&tree, &mistakes) {
            let place = Place::written(Arc::clone(mistakes.file()), Arc::new(tree));
            documents.push(Placed { value, place });
        }
    }
    if mistakes.count() == 0 { Ok(documents) } else { Err(mistakes.into_vec()) }
}

/// Decodes one document; `None` if anything in it is a mistake.
#[must_use]
pub fn document(tree: &Node, mistakes: &Mistakes) -> Option<Document> {
    let before = mistakes.count();
    let called = label(tree);
    let reader = Reader::new(mistakes, &called, tree);
    let mut fields = reader.fields()?;
    let Some(kind) = fields.required("kind", &kinds(), kind) else {
        fields.ignore_rest();
        return None;
    };
    let document = match kind {
        Kind::Site => site(&fields).map(Document::Site),
        Kind::Cluster => cluster(&fields).map(Document::Cluster),
        Kind::Zone => zone::zone(&fields).map(Document::Zone),
        Kind::Check => check::check(&fields).map(Document::Check),
        Kind::Domain => domain::domain(&fields).map(Document::Domain),
        Kind::Service => traffic::service(&fields).map(Document::Service),
        Kind::Route => traffic::route(&fields).map(Document::Route),
        Kind::Vantage => vantage(&fields).map(Document::Vantage),
        Kind::Override => over_ride(&fields).map(Document::Override),
        Kind::Token => token(&fields).map(Document::Token),
    };
    drop(fields);
    document.filter(|_| mistakes.count() == before)
}

/// What mistakes call the document, as far as it says: `Domain gw.example.com`.
fn label(tree: &Node) -> String {
    let word = |key| match tree.entry(key).map(|entry| &entry.value.value) {
        Some(super::tree::Value::Scalar(scalar)) => {
            scalar.text.chars().filter(|c| !c.is_control()).take(80).collect()
        }
        _ => String::new(),
    };
    let (kind, name): (String, String) = (word("kind"), word("name"));
    format!("{kind} {name}").trim().to_owned()
}

fn kinds() -> String {
    format!("one of {}", join(Kind::ALL.iter().map(|kind| kind.as_str())))
}

fn kind(field: Reader<'_>) -> Option<Kind> {
    let text = field.text(80)?;
    let found = Kind::ALL.into_iter().find(|kind| kind.as_str() == text);
    if found.is_none() {
        let hint = match Kind::parse(text) {
            Some(kind) => format!("; did you mean {:?}?", kind.as_str()),
            None => suggestion(text, Kind::ALL.iter().map(|kind| kind.as_str())),
        };
        field.mistake(format!("{text:?} is not a kind{hint}"), kinds());
    }
    found
}

const A_NAME: &str = "a name of characters a-z, 0-9, '-', '_' or '.'";
const A_DOMAIN: &str = "a domain name such as gw.example.com";

fn name(fields: &Fields<'_>) -> Option<Name> {
    fields.required("name", A_NAME, |field| field.parse())
}

/// A domain name that stands for itself, not a wildcard.
fn host(field: Reader<'_>) -> Option<DomainName> {
    let name: DomainName = field.parse()?;
    if name.as_str().starts_with("*.") || name.as_str() == "*" {
        field.mistake("a wildcard is not supported here yet", "each name in full");
        return None;
    }
    Some(name)
}

/// A list that says something: at least one item, none twice.
fn some<T: Clone + Eq + std::hash::Hash>(
    field: &Reader<'_>,
    read: impl FnMut(Reader<'_>) -> Option<T>,
) -> Option<Vec<T>> {
    let before = field.count();
    let items = field.distinct(read)?;
    if items.is_empty() && field.count() == before {
        field.mistake("the list is empty", "at least one");
    }
    (!items.is_empty()).then_some(items)
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
        field.mistake("no address", "at least one address in `a` or `aaaa`");
    }
    Some(found)
}

/// One of the words that work, or a mistake that tells a word that will work one day from one that never will.
fn supported<T: Copy>(field: &Reader<'_>, words: &[(&str, T)], later: &[&str]) -> Option<T> {
    if let super::tree::Value::Scalar(scalar) = &field.node().value
        && later.contains(&scalar.text.as_str())
    {
        let supported = join(words.iter().map(|(word, _)| *word));
        field
            .mistake(format!("{:?} is not supported yet: supported are {supported}", scalar.text), supported);
        return None;
    }
    field.word(words)
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
    Some(Site { name: name?, location, networks })
}

fn cluster(fields: &Fields<'_>) -> Option<Cluster> {
    let name = name(fields);
    let zone = fields.required("zone", "the name of a Zone", host);
    let gateway_domain = fields.required("gateway_domain", A_DOMAIN, host);
    let gateways = fields.required("gateways", "per site, the addresses clients are sent to", gateways);
    Some(Cluster { name: name?, zone: zone?, gateway_domain: gateway_domain?, gateways: gateways? })
}

fn gateways(field: Reader<'_>) -> Option<BTreeMap<Name, Addresses>> {
    let entries = field.entries()?;
    if entries.is_empty() {
        field.mistake("no site", "at least one site with its addresses");
    }
    let mut gateways = BTreeMap::new();
    for (key, at) in entries {
        match key.parse::<Name>() {
            Ok(site) => gateways.extend(some_addresses(&at).map(|found| (site, found))),
            Err(expected) => at.mistake(format!("{key:?} is not {expected}"), expected.to_string()),
        }
    }
    Some(gateways)
}

fn vantage(fields: &Fields<'_>) -> Option<Vantage> {
    let name = name(fields);
    let site = fields.optional("site", |field| field.parse());
    Some(Vantage { name: name?, site })
}

fn over_ride(fields: &Fields<'_>) -> Option<Override> {
    let name = name(fields);
    let target = fields.required("target", "a site, a domain or both", |field| {
        let fields = field.fields()?;
        let site = fields.optional("site", |field| field.parse());
        let domain = fields.optional("domain", glob);
        if fields.get("site").is_none() && fields.get("domain").is_none() {
            field.mistake("names nothing", "a site, a domain or both");
        }
        Some(OverrideTarget { site, domain })
    });
    let states = [("up", OverrideState::Up), ("down", OverrideState::Down), ("drain", OverrideState::Drain)];
    let state = fields.required("state", "one of up, down or drain", |field| field.word(&states));
    let owner = fields.required("owner", "who answers for it", |field| field.text(255));
    let reason = fields.required("reason", "why", |field| field.text(1_000));
    let moment = "a moment as in RFC 3339, such as 2026-12-01T04:00:00Z";
    let expires = fields.optional("expires", |field| field.parse_as(moment));
    let force = fields.or("force", false, |field| field.boolean());
    let (owner, reason) = (owner?.to_owned(), reason?.to_owned());
    Some(Override { name: name?, target: target?, state: state?, owner, reason, expires, force })
}

/// A domain name in which `*` stands for any run of characters.
fn glob(field: Reader<'_>) -> Option<String> {
    let text = field.text(253)?;
    let glob = text.strip_suffix('.').unwrap_or(text).to_ascii_lowercase();
    let fits = |b: u8| b.is_ascii_alphanumeric() || matches!(b, b'-' | b'_' | b'.' | b'*');
    // Each star multiplies the ways to match.
    let few_stars = glob.bytes().filter(|b| *b == b'*').count() <= 4;
    if glob.is_empty() || !few_stars || !glob.bytes().all(fits) {
        field.wrong("a domain name or a glob with at most four *, such as *.gslb.example.com");
        return None;
    }
    Some(glob)
}

fn token(fields: &Fields<'_>) -> Option<Token> {
    let name = name(fields);
    let roles = [
        ("operator", Role::Operator),
        ("automation", Role::Automation),
        ("vantage", Role::Vantage),
        ("registrar", Role::Registrar),
        ("node", Role::Node),
        ("reader", Role::Reader),
    ];
    let expected = format!("one of {}", join(roles.iter().map(|(word, _)| *word)));
    let role = fields.required("role", &expected, |field| field.word(&roles));
    let scope = fields.or("scope", Scope::default(), |field| scope(&field, role));
    if role == Some(Role::Vantage) && fields.get("scope").is_none() {
        fields.whole().mistake("a vantage's token has no scope", "scope: { vantage: NAME }");
    }
    let sha256 = "the SHA-256 of the secret: 64 hexadecimal digits, as `waypost token create` prints them";
    let secret_sha256 = fields.required("secret_sha256", sha256, |field| {
        let text = field.text(1_000).unwrap_or_default();
        let fits = text.len() == 64 && text.bytes().all(|b| b.is_ascii_hexdigit());
        if !fits {
            // The text is not repeated: it may be the secret itself.
            field.mistake(format!("is not {sha256}"), sha256);
        }
        fits.then(|| text.to_ascii_lowercase())
    });
    Some(Token { name: name?, role: role?, scope, secret_sha256: secret_sha256? })
}

fn scope(field: &Reader<'_>, role: Option<Role>) -> Option<Scope> {
    let fields = field.fields()?;
    let vantage = fields.optional("vantage", |field| field.parse());
    let services =
        fields.optional("services", |field| some(&field, |item| item.text(255).map(str::to_owned)));
    for (key, of) in [("vantage", Role::Vantage), ("services", Role::Registrar)] {
        if let (Some(at), Some(role)) = (fields.get(key), role)
            && role != of
        {
            at.mistake("limits nothing in this role", "no such key in the scope of this role");
        }
    }
    if role == Some(Role::Vantage) && fields.get("vantage").is_none() {
        field.mistake("a vantage's token names no vantage", "scope: { vantage: NAME }");
    }
    Some(Scope { vantage, services })
}

#[cfg(test)]
mod tests;
