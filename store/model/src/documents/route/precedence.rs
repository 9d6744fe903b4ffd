//! Which of several routes takes a request that all of them match.

use std::cmp::Reverse;

use super::{PathMatch, PatternSegment, Route};
use crate::DomainName;

/// The place of a route, for one of its hosts and one of its paths, among those that match a request: the smallest takes it.
///
/// Compared in this order: `priority`, the higher first; the host, exact before wildcards, longer ones first, before any host;
/// the path, exact before prefixes and patterns, before expressions; of prefixes and patterns the one with more octets outside
/// parameters, and of as many the pattern; whether there are methods; how many headers, query parameters and cookies; whether
/// there are clients and a scheme; the name.
#[derive(Clone, Debug, PartialEq, Eq, PartialOrd, Ord)]
pub struct Precedence<'r> {
    priority: Reverse<i32>,
    host: (u8, Reverse<usize>),
    path: (u8, Reverse<usize>, u8),
    conditions: Reverse<Conditions>,
    name: &'r str,
}

/// How specific a route is beside its hosts and paths; more is greater.
type Conditions = (bool, usize, usize, usize, bool, bool);

impl Route {
    /// Its place for one of its hosts (none: any) and one of its paths.
    #[must_use]
    pub fn precedence(&self, host: Option<&DomainName>, path: &PathMatch) -> Precedence<'_> {
        let host = match host {
            Some(name) if !name.is_wildcard() => (0, Reverse(0)),
            Some(name) => (1, Reverse(name.labels().count())),
            None => (2, Reverse(0)),
        };
        let octets = |segment| match segment {
            PatternSegment::Literal(text) => text.len() + 1,
            PatternSegment::Parameter(_) => 1,
        };
        let path = match path {
            PathMatch::Exact(_) => (0, Reverse(0), 0),
            PathMatch::Pattern(pattern) => (1, Reverse(pattern.segments().map(octets).sum()), 0),
            PathMatch::Prefix(text) => (1, Reverse(text.trim_end_matches('/').len()), 1),
            PathMatch::Regex(_) => (2, Reverse(0), 0),
        };
        let conditions = (
            !self.methods.is_empty(),
            self.headers.len(),
            self.query_params.len(),
            self.cookies.len(),
            !self.clients.is_empty(),
            self.scheme.is_some(),
        );
        let (priority, conditions) = (Reverse(self.priority), Reverse(conditions));
        Precedence { priority, host, path, conditions, name: self.name.as_str() }
    }
}
