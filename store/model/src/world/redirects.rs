//! Redirects that may lead a client back to the route it comes from, again and again.
//!
//! Decoding refuses those of which one document shows it. Whether others do depends on the routes beside them: one that comes
//! first for the target ends the circle. If there is none, `apply` and `check` warn.

use std::collections::HashSet;

use super::{
    Places, World, implied_by,
    routes::{Index, covers, implies, places, route_id},
};
use crate::{
    DomainName, InputError, PathMatch, PathRewrite, Precedence, RequestMethod, RequestRedirect, Route, Scheme,
};

impl World {
    /// Changed routes with a redirect that may lead back to them, because no other route takes its target before them.
    pub(super) fn circling(&self, changed: &[&Route], at: &Places) -> Vec<InputError> {
        let suspects = changed.iter().filter_map(|route| Some((*route, Followed::of(route)?)));
        let suspects: Vec<(&Route, Followed<'_>)> = suspects.collect();
        if suspects.is_empty() {
            return Vec::new();
        }
        let named: HashSet<&DomainName> = self.declared_routes().flat_map(|it| &it.hosts).collect();
        let implied: Vec<Route> =
            self.services().filter_map(|it| implied_by(it, |host| named.contains(host))).collect();
        let index = Index::of(self.declared_routes().chain(&implied));
        let warning = |(route, followed): &(&Route, Followed<'_>)| {
            let (host, path) = followed.back_to(route, &index)?;
            let foreign = followed.named.filter(|name| !route.hosts.contains(name));
            let condition =
                foreign.map(|name| format!("if {name} leads to these gateways, ")).unwrap_or_default();
            let host = host.map_or("every host with ", DomainName::as_str);
            let problem = format!(
                "{condition}requests for {host}{path} come back to this route, again and again: no other one comes first for \
                 all of them"
            );
            let (id, field) = (route_id(route), "request_redirect");
            Some(at.warning((id.to_string(), field.to_owned()), (&id, field), problem))
        };
        suspects.iter().filter_map(warning).collect()
    }
}

/// What a client asks for next that follows the redirect of a route.
struct Followed<'r> {
    /// The host that the redirect names.
    named: Option<&'r DomainName>,
    /// None: any.
    hosts: Vec<Option<&'r DomainName>>,
    paths: Vec<PathMatch>,
    /// The conditions of the route, with each scheme that a request may have next.
    conditions: Vec<Route>,
}

impl<'r> Followed<'r> {
    /// `None` if the route has no redirect, or none that may lead back to it: where other ports lead to is not known, nor
    /// what an expression makes of paths.
    fn of(route: &'r Route) -> Option<Self> {
        let redirect = route.request_redirect.as_deref().filter(|it| it.port.is_none())?;
        let methods = vec![method(route, redirect)?];
        let schemes = Scheme::ALL.iter().copied().filter(|to| {
            redirect.scheme.is_none_or(|it| it == *to) && route.scheme.is_none_or(|it| it == *to)
        });
        let next = |scheme| Route { scheme: Some(scheme), methods: methods.clone(), ..route.clone() };
        let hosts = match &redirect.hostname {
            Some(name) => vec![Some(name)],
            None if route.hosts.is_empty() => vec![None],
            None => route.hosts.iter().map(Some).collect(),
        };
        let paths = match &redirect.path {
            None => route.paths.clone(),
            Some(PathRewrite::Prefix { replace_prefix_match }) => {
                vec![PathMatch::Prefix(replace_prefix_match.clone())]
            }
            Some(PathRewrite::Full { replace_full_path }) if replace_full_path.contains('{') => {
                vec![PathMatch::Pattern(replace_full_path.parse().ok()?)]
            }
            Some(PathRewrite::Full { replace_full_path }) => {
                vec![PathMatch::Exact(replace_full_path.clone())]
            }
            Some(PathRewrite::Regex { .. }) => return None,
        };
        let (named, conditions) = (redirect.hostname.as_ref(), schemes.map(next).collect());
        let followed = Self { named, hosts, paths, conditions };
        let leads_back = followed.targets().any(|(host, path)| place(route, host, path).is_some());
        (leads_back && !followed.conditions.is_empty()).then_some(followed)
    }

    fn targets(&self) -> impl Iterator<Item = (Option<&'r DomainName>, &PathMatch)> {
        self.hosts.iter().flat_map(|host| self.paths.iter().map(|path| (*host, path)))
    }

    /// A target that the route takes itself, because no other comes first for all of it.
    fn back_to(&self, route: &Route, index: &Index<'_>) -> Option<(Option<&'r DomainName>, &PathMatch)> {
        self.targets().find(|(host, path)| {
            let Some(own) = place(route, *host, path) else { return false };
            let others = index.around(*host, path, route.priority);
            let first = |other: &&Route| {
                other.name != route.name && place(other, *host, path).is_some_and(|it| it < own)
            };
            let others: Vec<&Route> = others.into_iter().filter(first).collect();
            self.conditions.iter().any(|next| !others.iter().any(|other| implies(next, other)))
        })
    }
}

/// The method of a request that follows the redirect and that the route takes: GET if that is one.
fn method(route: &Route, redirect: &RequestRedirect) -> Option<RequestMethod> {
    let get = "GET".parse().ok()?;
    if route.methods.is_empty() || route.methods.contains(&get) {
        return Some(get);
    }
    route.methods.iter().find(|method| redirect.keeps(method)).cloned()
}

/// The best place of a route that is about all of a host (none: any) and a path.
fn place<'r>(route: &'r Route, host: Option<&DomainName>, path: &PathMatch) -> Option<Precedence<'r>> {
    let about = |own: Option<&DomainName>| own.is_none_or(|own| host.is_some_and(|host| own.covers(host)));
    let matches = |own: &PathMatch| match (own, path) {
        (PathMatch::Regex(_), PathMatch::Exact(path)) => own.matches(path),
        (own, path) => covers(own, path),
    };
    let all = places(route).filter(|(own, it)| about(*own) && matches(it));
    all.map(|(own, it)| route.precedence(own, it)).min()
}

#[cfg(test)]
#[path = "redirects_tests.rs"]
mod tests;
