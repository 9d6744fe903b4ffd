//! Services and routes.

use super::{host, name, sites, some};
use crate::{
    ConsulService, PathMatch, Route, RouteBy, RouteTarget, Service, Weight,
    read::{Fields, Reader},
};

pub(super) fn service(fields: &Fields<'_>) -> Option<Service> {
    let name = name(fields);
    let uuid = fields
        .optional("uuid", |field| field.parse_as("a UUID such as 6f0c1f6e-5c1e-4c53-9a52-0d5b6f7a9f10"));
    let cluster = fields.required("cluster", "the name of a Cluster", |field| field.parse());
    let consul = fields.optional("consul", |field| consul(&field));
    let hosts = fields.or("hosts", Vec::new(), |field| field.distinct(host));
    let sites = sites(fields);
    let route_by = fields.or("route_by", RouteBy::default(), |field| field.one_of());
    let check = fields.optional("check", |field| field.parse());
    let name = name?;
    let consul =
        consul.unwrap_or_else(|| ConsulService { service: name.as_str().to_owned(), tags: Vec::new() });
    Some(Service { uuid, consul, hosts, sites, route_by, check, ..Service::new(name, cluster?) })
}

fn consul(field: &Reader<'_>) -> Option<ConsulService> {
    let fields = field.fields()?;
    let expected = "the service's name in the registry";
    let service = fields.required("service", expected, registry_word);
    let tags = fields.or("tags", Vec::new(), |field| field.distinct(registry_word));
    Some(ConsulService { service: service?, tags })
}

/// A text that needs no escaping in a path or a query of the registry's API.
fn registry_word(field: Reader<'_>) -> Option<String> {
    let text = field.text(255)?;
    let fits =
        text.bytes().all(|b| b.is_ascii_graphic() && !matches!(b, b'/' | b'?' | b'#' | b'%' | b'"' | b'\\'));
    if !fits {
        field.wrong("a word of visible ASCII without / ? # % \" and \\");
    }
    fits.then(|| text.to_owned())
}

pub(super) fn route(fields: &Fields<'_>) -> Option<Route> {
    let name = name(fields);
    let hosts = fields.required("hosts", "at least one host name", |field| some(&field, host));
    let everything = || vec![PathMatch::Prefix("/".to_owned())];
    let paths = fields.optional("paths", |field| some(&field, |item| path(&item)));
    for key in ["methods", "headers"] {
        fields.not_yet(key, "hosts and paths");
    }
    let to = fields.required("to", "at least one { service, weight }", to);
    Some(Route { paths: paths.unwrap_or_else(everything), ..Route::new(name?, hosts?, to?) })
}

fn path(field: &Reader<'_>) -> Option<PathMatch> {
    let fields = field.fields()?;
    for key in ["exact", "regex"] {
        fields.not_yet(key, "prefix");
    }
    fields.required("prefix", "a path such as /api", |field| {
        let text = field.text(1_000)?;
        PathMatch::prefix(text).map_err(|expected| field.wrong(expected)).ok()
    })
}

fn to(field: Reader<'_>) -> Option<Vec<RouteTarget>> {
    let before = field.count();
    let targets = field.list(|item| {
        let fields = item.fields()?;
        let service = fields.required("service", "the name of a Service", |field| field.parse());
        let weight = Weight(fields.or("weight", 100, |field| field.int(0..=u16::MAX)));
        Some(RouteTarget { service: service?, weight })
    })?;
    if field.count() > before {
        return None;
    }
    let twice = (1..targets.len()).find(|&n| targets[..n].iter().any(|it| it.service == targets[n].service));
    if let Some(n) = twice {
        field.error(format!("the service {} is listed twice", targets[n].service), "each service once");
    } else if targets.iter().all(|target| target.weight.0 == 0) {
        field.error("no service gets a request", "at least one service with a weight above 0");
    }
    Some(targets)
}
