//! Why a request has the route it has: the one that was chosen, and those that its host and path lead to and that lost.

use std::fmt;

use super::{
    compiled::{Matched, Rule},
    conditions::Unmet,
    index::{Host, Index, List},
    request::{Request, Segments},
};

/// How many routes that lost are told.
pub(crate) const MAX_LOST: usize = 32;

/// Why a request has the route it has.
#[derive(Debug)]
pub(crate) struct Explanation<'i> {
    /// The route that takes the request.
    pub(crate) chosen: Option<Matched<'i>>,
    /// Other routes for its host and path, at most [`MAX_LOST`], in the order in which hosts and paths are looked at.
    pub(crate) lost: Vec<(Matched<'i>, Lost<'i>)>,
    /// How many more lost.
    pub(crate) more: usize,
    /// The hosts of routes that the request's host matches, the most specific first.
    pub(crate) hosts: Vec<&'i str>,
}

/// Why a route does not take a request.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(crate) enum Lost<'i> {
    /// Its regular expression does not match the path.
    Expression,
    /// A condition is not met.
    Unmet(Unmet<'i>),
    /// The chosen one has a higher priority.
    Priority,
    /// The chosen one is for a more specific host.
    Host,
    /// The chosen one has a more specific path.
    Path,
    /// The chosen one has more conditions.
    Conditions,
    /// They are equal, and the chosen one is the first by name.
    Name,
}

impl fmt::Display for Lost<'_> {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        match self {
            Self::Expression => f.write_str("its regular expression does not match the path"),
            Self::Unmet(unmet) => unmet.fmt(f),
            Self::Priority => f.write_str("its priority is lower"),
            Self::Host => f.write_str("its host is less specific"),
            Self::Path => f.write_str("its path is less specific"),
            Self::Conditions => f.write_str("it has fewer conditions"),
            Self::Name => f.write_str("its name comes later"),
        }
    }
}

impl Index {
    /// Why a request has the route it has.
    pub(crate) fn explain<'i>(&'i self, request: &'i impl Request) -> Explanation<'i> {
        let chosen = self.find(request);
        let path = Segments::of(request.path());
        let hosts: Vec<&Host> = self.hosts_of(request.host()).collect();
        let (mut lost, mut more) = (Vec::new(), 0);
        let mut by: Option<(&Rule, usize)> = None;
        let mut matching = Vec::new();
        for (at, host) in hosts.iter().enumerate() {
            for rule in host.lists(&path).flat_map(List::rules) {
                let it = host.matched(rule);
                if chosen.is_some_and(|chosen| chosen.is(it)) {
                    by = Some((rule, at));
                } else if chosen.is_none_or(|chosen| chosen.route.name() != rule.route.name()) {
                    matching.push((rule, at));
                }
            }
        }
        for (rule, at) in matching {
            if lost.len() == MAX_LOST {
                more += 1;
            } else if let Some(why) = why(rule, at, by, request) {
                lost.push((hosts[at].matched(rule), why));
            }
        }
        Explanation { chosen, lost, more, hosts: hosts.iter().map(|host| host.name()).collect() }
    }
}

/// Why a rule lost against the chosen one, each with the place of its host.
fn why<'i>(
    rule: &'i Rule,
    at: usize,
    chosen: Option<(&Rule, usize)>,
    request: &impl Request,
) -> Option<Lost<'i>> {
    if rule.is_regex() && !rule.has_matching_regex(request.path()) {
        return Some(Lost::Expression);
    }
    if let Some(unmet) = rule.route.conditions().and_then(|it| it.unmet(request)) {
        return Some(Lost::Unmet(unmet));
    }
    let (chosen, chosen_at) = chosen?;
    let (rank, best) = (rule.rank, chosen.rank);
    Some(match () {
        () if rank.priority < best.priority => Lost::Priority,
        () if at > chosen_at => Lost::Host,
        () if rank.path < best.path => Lost::Path,
        () if rank.conditions < best.conditions => Lost::Conditions,
        () => Lost::Name,
    })
}
