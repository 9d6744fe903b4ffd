//! A route, compiled from its document: regular expressions, conditions, rewrites and shares, ready to be used by all workers.
//!
//! It is compiled once per document. If only the services behind it change, everything but the shares is taken over.

use std::{cmp::Reverse, sync::Arc};

use regex::bytes::Regex;
use store::model::{EncodedSlashes, Name, PathMatch, PatternSegment, Percent, Route};

use super::{
    conditions::{Conditions, Specificity},
    request::Request,
    rewrite::{FieldChanges, PathChange, Redirect},
    split::Split,
};

/// A route, compiled.
#[derive(Clone, Debug)]
pub(crate) struct CompiledRoute {
    /// Its document, for everything that needs no preparation.
    pub(crate) document: Arc<Route>,
    /// Its services by weight.
    pub(crate) split: Split,
    /// The service that a share of its requests is sent to as well.
    pub(crate) mirror: Option<Mirror>,
    /// What it changes; plain routes have nothing.
    pub(crate) changes: Option<Box<Changes>>,
    conditions: Option<Box<Conditions>>,
    specificity: Specificity,
    /// The expression of each of its paths that is one.
    regexes: Box<[Option<Regex>]>,
}

/// What a route changes in requests and responses.
#[derive(Clone, Debug, Default)]
pub(crate) struct Changes {
    /// The host for the instance.
    pub(crate) host: Option<Box<str>>,
    /// The path for the instance.
    pub(crate) path: Option<PathChange>,
    /// The client is sent elsewhere.
    pub(crate) redirect: Option<Redirect>,
    /// The header of requests.
    pub(crate) request_fields: Option<FieldChanges>,
    /// The header of responses.
    pub(crate) response_fields: Option<FieldChanges>,
}

/// The service that a share of the requests is sent to as well.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(crate) struct Mirror {
    /// Its number in the table.
    pub(crate) backend: usize,
    percent: Percent,
}
impl Mirror {
    /// True for the share of requests that is mirrored, by a number drawn below the given bound.
    pub(crate) fn takes(self, draw: impl FnOnce(u32) -> u32) -> bool {
        self.percent.0 >= 100 || draw(100) < u32::from(self.percent.0)
    }
}

impl Changes {
    fn compile(route: &Route) -> Option<Box<Self>> {
        let rewrite = route.url_rewrite.as_ref();
        let it = Self {
            host: rewrite.and_then(|it| it.hostname.as_ref()).map(|host| host.as_str().into()),
            path: rewrite.and_then(|it| it.path.as_ref()).and_then(PathChange::compile),
            redirect: route.request_redirect.as_deref().map(Redirect::compile),
            request_fields: route.request_header_modifier.as_deref().map(FieldChanges::compile),
            response_fields: route.response_header_modifier.as_deref().map(FieldChanges::compile),
        };
        let any = it.host.is_some()
            || it.path.is_some()
            || it.redirect.is_some()
            || it.request_fields.is_some()
            || it.response_fields.is_some();
        any.then(|| Box::new(it))
    }
}

impl CompiledRoute {
    /// Compiles a document. `number` tells the backends of the services that are this cluster's.
    pub(crate) fn compile(document: Arc<Route>, number: impl Fn(&Name) -> Option<usize>) -> Self {
        let conditions = Conditions::compile(&document);
        let regexes = document.paths.iter().map(|path| match path {
            PathMatch::Regex(expression) => expression.whole().ok(),
            _ => None,
        });
        let (split, mirror) = Self::led(&document, number);
        Self {
            specificity: conditions.as_ref().map(|it| it.specificity()).unwrap_or_default(),
            conditions,
            regexes: regexes.collect(),
            changes: Changes::compile(&document),
            split,
            mirror,
            document,
        }
    }

    /// The same route after a change of the services behind it.
    pub(super) fn with(&self, number: impl Fn(&Name) -> Option<usize>) -> Self {
        let (split, mirror) = Self::led(&self.document, number);
        Self { split, mirror, ..self.clone() }
    }

    fn led(document: &Route, number: impl Fn(&Name) -> Option<usize>) -> (Split, Option<Mirror>) {
        let mirror = document.request_mirror.as_ref().and_then(|it| {
            let backend = number(&it.service)?;
            Some(Mirror { backend, percent: it.percent })
        });
        (Split::new(&document.to, number), mirror)
    }

    /// Its name.
    pub(crate) fn name(&self) -> &Name {
        &self.document.name
    }

    /// True if paths may have what servers read in different ways.
    pub(crate) fn admits_ambiguous(&self) -> bool {
        self.document.encoded_slashes == EncodedSlashes::Allow
    }

    /// Its conditions besides host and path.
    pub(super) fn conditions(&self) -> Option<&Conditions> {
        self.conditions.as_deref()
    }
}

/// A path of a route, as it stands in the list of those with the same host and path.
#[derive(Clone, Debug)]
pub(super) struct Rule {
    pub(super) rank: Rank,
    pub(super) route: Arc<CompiledRoute>,
    /// Which of the route's paths it is.
    pub(super) path: usize,
}

/// What decides between routes for one host that match a request; the greater wins, then the first by name.
#[derive(Clone, Copy, Debug, PartialEq, Eq, PartialOrd, Ord)]
pub(super) struct Rank {
    pub(super) priority: i32,
    pub(super) path: PathRank,
    pub(super) conditions: Specificity,
}

/// How specific a path is.
#[derive(Clone, Copy, Debug, PartialEq, Eq, PartialOrd, Ord)]
pub(super) struct PathRank(u32);

impl PathRank {
    pub(super) const EXACT: Self = Self(u32::MAX);
    pub(super) const REGEX: Self = Self(0);

    /// Of a prefix of this many octets.
    pub(super) const fn prefix(octets: usize) -> Self {
        Self((octets as u32) << 1 | 1)
    }

    /// Of a pattern of this many octets outside its parameters: it is about whole paths, so it is before an equal prefix.
    pub(super) const fn pattern(octets: usize) -> Self {
        Self((octets as u32 + 1) << 1)
    }

    /// Of a path of a document.
    pub(super) fn of(path: &PathMatch) -> Self {
        match path {
            PathMatch::Exact(_) => Self::EXACT,
            PathMatch::Prefix(text) => Self::prefix(text.trim_end_matches('/').len()),
            PathMatch::Pattern(pattern) => {
                let octets = |segment| match segment {
                    PatternSegment::Literal(text) => text.len() + 1,
                    PatternSegment::Parameter(_) => 1,
                };
                Self::pattern(pattern.segments().map(octets).sum())
            }
            PathMatch::Regex(_) => Self::REGEX,
        }
    }
}

impl Rule {
    pub(super) fn new(route: &Arc<CompiledRoute>, path: usize) -> Self {
        let of = route.document.paths.get(path).map_or(PathRank::REGEX, PathRank::of);
        let rank = Rank { priority: route.document.priority, path: of, conditions: route.specificity };
        Self { rank, route: Arc::clone(route), path }
    }

    /// True if it is before another one that matches too.
    pub(super) fn beats(&self, other: &Self) -> bool {
        self.order() < other.order()
    }

    /// The least is the first.
    pub(super) fn order(&self) -> impl Ord + '_ {
        (Reverse(self.rank), self.route.name(), self.path)
    }

    /// The expression of its path, if that is one.
    pub(super) fn regex(&self) -> Option<&Regex> {
        self.route.regexes.get(self.path)?.as_ref()
    }

    /// True if the path's expression and the other conditions match; host and the rest of the path were compared already.
    pub(super) fn admits(&self, request: &impl Request) -> bool {
        (!self.is_regex() || self.has_matching_regex(request.path()))
            && self.route.conditions().is_none_or(|it| it.unmet(request).is_none())
    }

    pub(super) fn is_regex(&self) -> bool {
        self.rank.path == PathRank::REGEX
    }

    pub(super) fn has_matching_regex(&self, path: &str) -> bool {
        self.regex().is_some_and(|regex| regex.is_match(path.as_bytes()))
    }
}

/// The route for a request, and which of its hosts and paths matched.
#[derive(Clone, Copy, Debug)]
pub(crate) struct Matched<'t> {
    /// The route.
    pub(crate) route: &'t Arc<CompiledRoute>,
    /// The host it was found at: exact, `*.` and a suffix, or `*` for any.
    pub(crate) host: &'t str,
    /// Which of its paths.
    pub(super) path: usize,
}

impl<'t> Matched<'t> {
    /// True if this is the same host and path of the same route.
    pub(super) fn is(self, other: Self) -> bool {
        Arc::ptr_eq(self.route, other.route) && self.path == other.path && self.host == other.host
    }

    /// The path that matched.
    pub(crate) fn path(self) -> &'t PathMatch {
        &self.route.document.paths[self.path]
    }
}
