//! What a route changes, and what it answers by itself.

use super::most;
use crate::{
    DirectResponse, HeaderField, HeaderModifier, HeaderName, PathMatch, PathRewrite, PatternSegment, Percent,
    RegularExpression, RequestMirror, RequestRedirect, Route, Scheme, UrlRewrite,
    read::{Fields, Reader},
    tree::Value,
};

/// The most fields that a modifier sets, adds or removes.
const MAX_FIELDS: usize = 64;

pub(super) fn read(fields: &Fields<'_>, route: &mut Route) {
    let modifier = |key, of| fields.optional(key, |field| modifier(&field, of)).map(Box::new);
    route.request_header_modifier = modifier("request_header_modifier", Message::Request);
    route.response_header_modifier = modifier("response_header_modifier", Message::Answer);
    route.url_rewrite = fields.optional("url_rewrite", |field| rewrite(&field, route)).map(Box::new);
    route.request_redirect =
        fields.optional("request_redirect", |field| redirect(&field, route)).map(Box::new);
    route.direct_response = fields.optional("direct_response", |field| direct(&field)).map(Box::new);
    if let (Some(at), Some(_)) = (fields.get("direct_response"), &route.request_redirect) {
        at.error("the route redirects, so it gives no other answer", "either of the two");
    }
    route.request_mirror = fields.optional("request_mirror", |field| mirror(&field)).map(Box::new);
}

fn modifier(field: &Reader<'_>, of: Message) -> Option<HeaderModifier> {
    let before = field.count();
    let fields = field.fields()?;
    let list = |key| {
        fields.or(key, Vec::new(), |field| {
            most(&field, MAX_FIELDS, |field| field.list(|item| header_field(&item, key, of)))
        })
    };
    let (set, add) = (list("set"), list("add"));
    let remove: Vec<HeaderName> = fields.or("remove", Vec::new(), |field| {
        most(&field, MAX_FIELDS, |field| field.distinct(|item| header(&item, "remove", of)))
    });
    let names = || set.iter().map(|it: &HeaderField| &it.name).chain(&remove);
    let same = |(n, name): (usize, &HeaderName)| names().take(n).any(|it| it.is(name.as_str().as_bytes()));
    if let Some(name) = names().enumerate().find(|it| same(*it)).map(|(_, name)| name) {
        field.error(format!("{name} is set or removed twice"), "each field once in `set` and `remove`");
    }
    if set.is_empty() && add.is_empty() && remove.is_empty() && field.count() == before {
        field.error("nothing is changed", "at least one of the keys set, add or remove");
    }
    Some(HeaderModifier { set, add, remove })
}

fn header_field(field: &Reader<'_>, how: &str, of: Message) -> Option<HeaderField> {
    let fields = field.fields()?;
    let name = fields.required("name", "the name of a header field", |field| header(&field, how, of));
    let value = fields.required("value", "its value", |field| super::super::check::header_value(&field));
    Some(HeaderField { name: name?, value: value? })
}

/// What a modifier is about.
#[derive(Clone, Copy, PartialEq, Eq)]
enum Message {
    Request,
    Answer,
}

/// Names of fields, in lower case, with what to use.
type Owned = &'static [(&'static str, &'static str)];

/// Fields that stay the gateway's, or that belong to one connection (RFC 9110 §7.6.1).
const OWNED: Owned = &[
    ("host", "url_rewrite: { hostname: NAME }"),
    ("content-length", "no such field: the gateway frames what it sends"),
    ("transfer-encoding", "no such field: the gateway frames what it sends"),
    ("trailer", "no such field: trailers are passed on as they are"),
    ("te", "no such field: it is about one connection"),
    ("connection", "no such field: it is about one connection"),
    ("keep-alive", "`keep_alive` of the Service"),
    ("proxy-connection", "no such field: it is about one connection"),
    ("upgrade", "`upgrade` of the route"),
    ("expect", "no such field: the gateway passes it on, and waits for the 100"),
    ("waypost-hops", "no such field: it is what ends loops between gateways"),
];

/// Those of requests alone.
const OWNED_IN_REQUESTS: Owned = &[
    ("via", "no such field: each gateway writes itself into it (RFC 9110 section 7.6.3)"),
    ("max-forwards", "no such field: the gateway counts it down (RFC 9110 section 7.6.2)"),
];

/// Fields that the gateway writes, and of which a message has one.
const SINGLE: [&str; 7] = [
    "content-type",
    "date",
    "x-forwarded-host",
    "x-forwarded-port",
    "x-forwarded-proto",
    "x-real-ip",
    "x-request-id",
];

/// The name of a field for `set`, `add` or `remove`.
fn header(field: &Reader<'_>, how: &str, of: Message) -> Option<HeaderName> {
    let name: HeaderName = field.parse()?;
    let is = |it: &str| name.is(it.as_bytes());
    let more = if of == Message::Request { OWNED_IN_REQUESTS } else { &[] };
    if let Some((_, instead)) = OWNED.iter().chain(more).find(|(owned, _)| is(owned)) {
        field.error(format!("{name} is the gateway's own"), *instead);
        return None;
    }
    if how == "add" && SINGLE.iter().any(|it| is(it)) {
        field.error(format!("a message has one {name}"), "`set`, which takes the place of what is there");
        return None;
    }
    if how == "remove" && of == Message::Answer && is("date") {
        let problem = "every answer has a date (RFC 9110 section 6.6.1)";
        field.error(problem, "`set` if it has to be another one");
        return None;
    }
    Some(name)
}

fn rewrite(field: &Reader<'_>, route: &Route) -> Option<UrlRewrite> {
    let fields = field.fields()?;
    let hostname = fields.optional("hostname", super::super::host);
    let path = fields.optional("path", |field| path(&field, route));
    if fields.get("hostname").is_none() && fields.get("path").is_none() {
        field.error("nothing is rewritten", "at least one of the keys hostname or path");
    }
    Some(UrlRewrite { hostname, path })
}

fn path(field: &Reader<'_>, route: &Route) -> Option<PathRewrite> {
    let fields = field.fields()?;
    let is_there = |key| fields.get(key).is_some_and(|it| !it.is_null());
    let (prefix, full, regex) =
        (is_there("replace_prefix_match"), is_there("replace_full_path"), is_there("regex"));
    let substitution = fields.get("substitution");
    if [prefix, full, regex].into_iter().filter(|it| *it).count() != 1 {
        let expected = "one of the keys replace_prefix_match, replace_full_path or regex";
        field.error("there is not one way to rewrite the path", expected);
        return None;
    }
    if let (Some(at), false) = (&substitution, regex) {
        at.error("means nothing without a regular expression", "this key only with `regex`");
    }
    if prefix {
        let replace_prefix_match = fields.optional("replace_prefix_match", |field| new_prefix(&field));
        if route.paths.iter().any(|it| !matches!(it, PathMatch::Prefix(_))) {
            field
                .error("there is a path that is no prefix", "only prefixes in `paths`, or replace_full_path");
        }
        return Some(PathRewrite::Prefix { replace_prefix_match: replace_prefix_match? });
    }
    if full {
        let replace_full_path = fields.optional("replace_full_path", |field| full_path(&field, route));
        return Some(PathRewrite::Full { replace_full_path: replace_full_path? });
    }
    let regex: Option<RegularExpression> = fields.optional("regex", |field| field.parse());
    let expected = "what takes the place of each match, such as /v2/$1";
    let substitution =
        fields.required("substitution", expected, |field| substitution_of(&field, regex.as_ref()));
    Some(PathRewrite::Regex { regex: regex?, substitution: substitution? })
}

/// What takes the place of a prefix; nothing is the root.
fn new_prefix(field: &Reader<'_>) -> Option<String> {
    let found = if is_nothing(field) { Ok(PathMatch::root()) } else { PathMatch::prefix(field.text(1_000)?) };
    match found {
        Ok(path) => Some(path.to_string()),
        Err(expected) => {
            field.wrong(expected);
            None
        }
    }
}

/// A whole path, in which parameters that every path of the route has may stand.
fn full_path(field: &Reader<'_>, route: &Route) -> Option<String> {
    let text = field.text(1_000)?;
    let (plain, parameters) = without_parameters(text);
    if let Err(expected) = PathMatch::exact(&plain) {
        field.wrong(expected);
        return None;
    }
    let has = |path: &PathMatch, name| match path {
        PathMatch::Pattern(pattern) => pattern.segments().any(|it| it == PatternSegment::Parameter(name)),
        _ => false,
    };
    let unknown = parameters.into_iter().find(|name| !route.paths.iter().all(|path| has(path, name)));
    if let Some(name) = unknown {
        field.error(
            format!("not every path of the route has the parameter {{{name}}}"),
            format!("only {{ pattern: PATH }} in `paths`, each with {{{name}}}"),
        );
        return None;
    }
    Some(text.to_owned())
}

/// A path with a letter in place of each `{name}`, and these names. Other braces stay.
fn without_parameters(text: &str) -> (String, Vec<&str>) {
    let (mut plain, mut names, mut rest) = (String::new(), Vec::new(), text);
    let is_name = |it: &str| !it.is_empty() && it.bytes().all(|b| b.is_ascii_alphanumeric() || b == b'_');
    while let Some((before, after)) = rest.split_once('{') {
        plain.push_str(before);
        rest = match after.split_once('}').filter(|(name, _)| is_name(name)) {
            Some((name, after)) => {
                plain.push('x');
                names.push(name);
                after
            }
            None => {
                plain.push('{');
                after
            }
        };
    }
    plain.push_str(rest);
    (plain, names)
}

/// True for an empty text in quotes.
fn is_nothing(field: &Reader<'_>) -> bool {
    matches!(&field.node().value, Value::Scalar(scalar) if scalar.quoted && scalar.text.is_empty())
}

/// A substitution whose groups are in the expression, and whose other octets can stand in a path.
fn substitution_of(field: &Reader<'_>, regex: Option<&RegularExpression>) -> Option<String> {
    // Nothing is a substitution too: it takes matches out.
    if is_nothing(field) {
        return Some(String::new());
    }
    let text = field.text(1_000)?;
    if !text.bytes().all(|b| b.is_ascii_graphic() && !matches!(b, b'?' | b'#' | b'\\')) {
        field.wrong("visible characters without ? # and \\");
        return None;
    }
    if let Some(compiled) = regex.and_then(|it| it.part().ok()) {
        let known = |group: &str| match group.parse::<usize>() {
            Ok(number) => number < compiled.captures_len(),
            Err(_) => compiled.capture_names().flatten().any(|name| name == group),
        };
        for group in groups(text).into_iter().filter(|group| !known(group)) {
            let expected =
                "groups of the expression; ${1} where a letter or digit follows, and $$ for a dollar sign";
            field.error(format!("the expression has no group {group:?}"), expected);
        }
    }
    Some(text.to_owned())
}

/// The groups that a substitution names, as the `regex` crate reads it: the longest name after a dollar sign.
fn groups(text: &str) -> Vec<&str> {
    let mut found = Vec::new();
    let mut rest = text;
    while let Some((_, after)) = rest.split_once('$') {
        if let Some(after) = after.strip_prefix('$') {
            rest = after;
        } else if let Some((name, after)) = after.strip_prefix('{').and_then(|it| it.split_once('}')) {
            found.push(name);
            rest = after;
        } else {
            let end = after.find(|c: char| !(c.is_ascii_alphanumeric() || c == '_')).unwrap_or(after.len());
            found.extend(Some(&after[..end]).filter(|name| !name.is_empty()));
            rest = &after[end..];
        }
    }
    found
}

fn redirect(field: &Reader<'_>, route: &Route) -> Option<RequestRedirect> {
    let before = field.count();
    let fields = field.fields()?;
    let redirect = RequestRedirect {
        scheme: fields.optional("scheme", |field| field.one_of()),
        hostname: fields.optional("hostname", super::super::host),
        port: fields.optional("port", |field| field.int(1..=u16::MAX)),
        path: fields.optional("path", |field| path(&field, route)),
        status_code: fields.or("status_code", RequestRedirect::STATUS, |field| {
            let words = RequestRedirect::STATUSES.map(|status| status.to_string());
            let words: Vec<_> = words.iter().map(String::as_str).zip(RequestRedirect::STATUSES).collect();
            field.word(&words)
        }),
    };
    if field.count() == before && leads_back(&redirect, route) {
        let expected = match redirect.scheme {
            Some(Scheme::Https) => "`scheme: http` in the route, or another target",
            Some(Scheme::Http) => "`scheme: https` in the route, or another target",
            None => "a target that the route itself does not match",
        };
        field.error("it leads back to this route, again and again", expected);
    }
    Some(redirect)
}

/// True if a request that follows the redirect is the one that was redirected, for sure; the World looks at what else may
/// lead back, with the routes beside this one.
fn leads_back(redirect: &RequestRedirect, route: &Route) -> bool {
    let scheme = redirect.scheme.is_none_or(|to| route.scheme.is_none_or(|from| from == to));
    let host = redirect.hostname.as_ref().is_none_or(|to| route.hosts.contains(to));
    let path = match &redirect.path {
        None => true,
        Some(PathRewrite::Full { replace_full_path: to }) => {
            route.paths.contains(&PathMatch::Exact(to.clone()))
        }
        Some(PathRewrite::Prefix { replace_prefix_match: to }) => {
            route.paths.contains(&PathMatch::Prefix(to.clone()))
        }
        Some(PathRewrite::Regex { .. }) => false,
    };
    let method = route.methods.is_empty() || route.methods.iter().any(|method| redirect.keeps(method));
    scheme && host && path && method && redirect.port.is_none()
}

fn direct(field: &Reader<'_>) -> Option<DirectResponse> {
    let fields = field.fields()?;
    let status = fields.required("status", "a status from 200 to 599", |field| field.int(200..=599));
    let content_type = fields.optional("content_type", |field| super::super::check::header_value(&field));
    let body = fields.optional("body", |field| body(&field)).unwrap_or_default();
    // RFC 9110 §15.3.5, §15.3.6 and §15.4.5.
    if let (Some(at), Some(204 | 205 | 304)) = (fields.get("body"), status)
        && !body.is_empty()
    {
        at.error("an answer with this status has no body", "another status, or no such key");
    }
    Some(DirectResponse {
        status: status?,
        content_type: content_type.unwrap_or_else(|| DirectResponse::CONTENT_TYPE.to_owned()),
        body,
    })
}

/// Any text, line ends and all.
fn body(field: &Reader<'_>) -> Option<String> {
    match &field.node().value {
        Value::Scalar(scalar) if scalar.text.len() <= DirectResponse::MAX_BODY => Some(scalar.text.clone()),
        _ => {
            field.wrong(format_args!("a text of at most {} bytes", DirectResponse::MAX_BODY));
            None
        }
    }
}

fn mirror(field: &Reader<'_>) -> Option<RequestMirror> {
    let fields = field.fields()?;
    let service = fields.required("service", "the name of a Service", |field| field.parse());
    let percent = fields.or("percent", Percent(100), |field| field.int(1..=100).map(Percent));
    Some(RequestMirror { service: service?, percent })
}
