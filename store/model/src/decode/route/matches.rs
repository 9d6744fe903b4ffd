//! Which requests a route is for.

use std::{fmt, hash::Hash, str::FromStr};

use super::{MAX_PLACES, most, some};
use crate::{
    EncodedSlashes, FieldMatch, HeaderName, PathMatch, RequestMethod, Route, ValueMatch,
    read::{Fields, Reader},
};

/// The most conditions of one sort, and the most methods.
const MAX_CONDITIONS: usize = 16;

/// A route with these conditions, a name that the caller replaces, and nothing else.
pub(super) fn conditions(fields: &Fields<'_>) -> Route {
    let placeholder = "route".parse().expect("letters are a name");
    let mut route = Route::new(placeholder, Vec::new(), Vec::new());
    route.priority = fields.or("priority", 0, |field| field.int(i32::MIN..=i32::MAX));
    route.encoded_slashes = fields.or("encoded_slashes", EncodedSlashes::default(), |field| field.one_of());
    let allowed = route.encoded_slashes == EncodedSlashes::Allow;
    let paths = fields.optional("paths", |field| {
        most(&field, MAX_PLACES, |field| some(field, |item| path(&item, allowed)))
    });
    route.paths = paths.unwrap_or(route.paths);
    route.scheme = fields.optional("scheme", |field| field.one_of());
    route.methods = fields.or("methods", Vec::new(), |field| {
        most(&field, MAX_CONDITIONS, |field| some(field, |item| method(&item)))
    });
    route.headers = fields.or("headers", Vec::new(), |field| matches(&field, header));
    route.query_params = fields
        .or("query_params", Vec::new(), |field| matches(&field, |field| field.text(100).map(str::to_owned)));
    route.cookies = fields.or("cookies", Vec::new(), |field| matches(&field, |field| field.parse()));
    route.clients = fields
        .or("clients", Vec::new(), |field| most(&field, MAX_PLACES, |field| some(field, |item| item.net())));
    route
}

fn path(field: &Reader<'_>, encoded: bool) -> Option<PathMatch> {
    let fields = field.fields()?;
    let text = |key| fields.get(key).filter(|field| !field.is_null());
    let (exact, prefix, pattern, regex) = (text("exact"), text("prefix"), text("pattern"), text("regex"));
    let given = [&exact, &prefix, &pattern, &regex].into_iter().flatten().count();
    if given != 1 {
        let problem = if given == 0 { "there is no condition" } else { "there is more than one condition" };
        field.error(problem, "one of the keys exact, prefix, pattern or regex");
        return None;
    }
    if let Some(at) = regex {
        return at.parse().map(PathMatch::Regex);
    }
    let at = exact.as_ref().or(prefix.as_ref()).or(pattern.as_ref())?;
    let text = at.text(1_000)?;
    let found = if exact.is_some() {
        PathMatch::exact(text)
    } else if prefix.is_some() {
        PathMatch::prefix(text)
    } else {
        text.parse().map(PathMatch::Pattern)
    };
    match &found {
        Err(_) if pattern.is_none() && text.contains('{') => {
            at.error(format!("{text:?} has a parameter"), format!("{{ pattern: {text:?} }}"));
        }
        Err(expected) => at.wrong(expected),
        Ok(path) if !encoded && path.is_ambiguous() => {
            at.error("requests for it get a 400 in this route", "encoded_slashes: allow");
        }
        Ok(_) => {}
    }
    found.ok()
}

fn method(field: &Reader<'_>) -> Option<RequestMethod> {
    let text = field.text(100)?;
    match text.parse::<RequestMethod>() {
        Ok(method) if method.as_str() == "CONNECT" => {
            field.error("the gateway does not make tunnels", "other methods");
            None
        }
        Ok(method) => Some(method),
        Err(_) if text.to_ascii_uppercase().parse::<RequestMethod>().is_ok() => {
            let upper = text.to_ascii_uppercase();
            field.error(
                format!("{text:?} is another method than {upper}"),
                format!("{upper} in capital letters"),
            );
            None
        }
        Err(expected) => {
            field.wrong(expected);
            None
        }
    }
}

fn header(field: &Reader<'_>) -> Option<HeaderName> {
    let name: HeaderName = field.parse()?;
    if name.is(b"host") {
        field.error("the host is no field to match", "`hosts`");
        return None;
    }
    Some(name)
}

/// Conditions on named parts of a request. A name may have several, which must all hold.
fn matches<N: Clone + Eq + Hash + fmt::Display>(
    field: &Reader<'_>,
    mut name: impl FnMut(&Reader<'_>) -> Option<N>,
) -> Option<Vec<FieldMatch<N>>> {
    most(field, MAX_CONDITIONS, |field| field.distinct(|item| one(&item, &mut name)))
}

fn one<N>(field: &Reader<'_>, name: &mut impl FnMut(&Reader<'_>) -> Option<N>) -> Option<FieldMatch<N>> {
    let fields = field.fields()?;
    let name = fields.required("name", "its name", |field| name(&field));
    let exact = fields.optional("exact", |field| value(&field).map(ValueMatch::Exact));
    let regex = fields.optional("regex", |field| parsed(&field).map(ValueMatch::Regex));
    let present = fields.optional("present", |field| field.boolean().map(ValueMatch::Present));
    let written = ["exact", "regex", "present"]
        .into_iter()
        .filter(|key| fields.get(key).is_some_and(|it| !it.is_null()));
    if written.count() > 1 {
        field.error("there is more than one condition", "one of the keys exact, regex or present");
    }
    let value = exact.or(regex).or(present).unwrap_or(ValueMatch::Present(true));
    Some(FieldMatch { name: name?, value })
}

fn parsed<T: FromStr>(field: &Reader<'_>) -> Option<T>
where
    T::Err: fmt::Display,
{
    field.parse()
}

fn value(field: &Reader<'_>) -> Option<String> {
    field.text(1_000).map(str::to_owned)
}
