//! What the index must agree with: every host and path of every route looked at one after the other, and the order that the
//! model states.

use std::sync::Arc;

use store::model::{DomainName, Precedence};

use super::{compiled::CompiledRoute, request::Request};

/// The route for a request.
pub(crate) fn find<'r>(
    routes: &'r [Arc<CompiledRoute>],
    request: &impl Request,
) -> Option<&'r Arc<CompiledRoute>> {
    let first = |route: &'r Arc<CompiledRoute>| Some((precedence(route, request)?, route));
    routes.iter().filter_map(first).min_by(|a, b| a.0.cmp(&b.0)).map(|(_, route)| route)
}

/// The best place of a route among those of its hosts and paths that a request matches.
fn precedence<'r>(route: &'r CompiledRoute, request: &impl Request) -> Option<Precedence<'r>> {
    if route.conditions().is_some_and(|it| it.unmet(request).is_some()) {
        return None;
    }
    let document = &*route.document;
    let host = request.host().parse::<DomainName>().ok();
    let covers = |it: &&DomainName| host.as_ref().is_some_and(|host| it.covers(host));
    let any = document.hosts.is_empty().then_some(None);
    let hosts = || document.hosts.iter().filter(covers).map(Some).chain(any);
    let paths = document.paths.iter().filter(|path| path.matches(request.path()));
    paths.flat_map(|path| hosts().map(move |host| document.precedence(host, path))).min()
}
