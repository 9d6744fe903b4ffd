//! The index of routes: the route for a request in a time that does not depend on how many there are.
//!
//! Hosts are found by hash: the exact one, then the wildcards from the longest, then any host. A host has lists of rules by
//! path, found by hash too: one for each exact path and prefix, one for each pattern with its parameters blank, and one for
//! each literal start of regular expressions. It knows how deep its prefixes are and in which segments its patterns have
//! parameters, so that a look-up probes only what may be there: two hosts with one prefix each cost two probes, whatever
//! else the table has, and a client cannot make it probe more.
//!
//! Priority is compared before everything else. Without priorities, a host's route is preferred to those of less specific
//! hosts; these apply if no route of the host matches, as in Gateway API.

use std::{
    hash::{Hash as _, Hasher as _},
    sync::Arc,
};

use rustc_hash::FxHasher;
use store::{
    model::{PathMatch, PatternSegment},
    sharing::SharingMap,
};

use super::{
    compiled::{CompiledRoute, Matched, PathRank, Rule},
    request::{Request, Segments},
};

/// The name under which routes for any host stand.
const ANY: &str = "*";

/// Routes by host and path. A clone shares everything until it is changed.
#[derive(Clone, Debug, Default)]
pub(crate) struct Index {
    hosts: SharingMap<Arc<Host>>,
    /// The numbers of labels that wildcards have after the asterisk.
    wildcards: Counted<usize>,
    any: Option<Arc<Host>>,
}

/// What is there, in order, and how often.
#[derive(Clone, Debug)]
struct Counted<K>(Vec<(K, u32)>);

impl<K> Default for Counted<K> {
    fn default() -> Self {
        Self(Vec::new())
    }
}

impl<K: Ord> Counted<K> {
    fn add(&mut self, key: K) {
        match self.0.binary_search_by(|(it, _)| it.cmp(&key)) {
            Ok(at) => self.0[at].1 += 1,
            Err(at) => self.0.insert(at, (key, 1)),
        }
    }

    fn take(&mut self, key: &K) {
        if let Ok(at) = self.0.binary_search_by(|(it, _)| it.cmp(key)) {
            self.0[at].1 -= 1;
            if self.0[at].1 == 0 {
                self.0.remove(at);
            }
        }
    }

    fn has(&self, key: &K) -> bool {
        self.0.binary_search_by(|(it, _)| it.cmp(key)).is_ok()
    }

    fn iter(&self) -> impl DoubleEndedIterator<Item = &K> {
        self.0.iter().map(|(key, _)| key)
    }
}

/// The routes of one host.
#[derive(Clone, Debug)]
pub(super) struct Host {
    /// In lower case: exact, `*.` and a suffix, or `*` for any.
    name: Box<str>,
    lists: SharingMap<List>,
    priorities: Counted<i32>,
    exact: u32,
    /// The depths of prefixes, in segments.
    prefixes: Counted<usize>,
    patterns: Counted<Shape>,
    /// The depths of the literal starts of regular expressions.
    regexes: Counted<usize>,
}

/// Where the parameters of a pattern are.
#[derive(Clone, Debug, PartialEq, Eq, PartialOrd, Ord)]
struct Shape {
    segments: usize,
    parameters: Box<[usize]>,
}

#[derive(Clone, Copy, Debug, PartialEq, Eq, Hash)]
enum Way {
    Exact,
    Prefix,
    Pattern,
    Regex,
}

/// The rules of one host and path, the first to be chosen first.
#[derive(Clone, Debug)]
pub(super) struct List {
    way: Way,
    /// The path, the prefix without a slash at its end, the pattern with `{}` for parameters, or the literal start.
    key: Arc<str>,
    rules: Rules,
}

/// Nearly all lists are of one rule, which then is where the list is.
#[derive(Clone, Debug)]
enum Rules {
    One(Rule),
    More(Arc<Vec<Rule>>),
}

impl List {
    /// Its rules, the first to be chosen first.
    pub(super) fn rules(&self) -> &[Rule] {
        match &self.rules {
            Rules::One(rule) => std::slice::from_ref(rule),
            Rules::More(rules) => rules,
        }
    }

    /// Of how many segments its key is.
    fn depth(&self) -> usize {
        self.key.matches('/').count()
    }
}

impl Index {
    /// The route for a request.
    pub(crate) fn find<'i>(&'i self, request: &impl Request) -> Option<Matched<'i>> {
        let path = Segments::of(request.path());
        let mut best: Option<(&Rule, &Host)> = None;
        for host in self.hosts_of(request.host()) {
            // A less specific host has to have a higher priority.
            let above = best.map(|(rule, _)| rule.rank.priority);
            if above.is_some_and(|above| host.highest() <= above) {
                continue;
            }
            if let Some(rule) = host.find(request, &path)
                && above.is_none_or(|above| rule.rank.priority > above)
            {
                best = Some((rule, host));
            }
        }
        best.map(|(rule, host)| host.matched(rule))
    }

    /// The hosts that a name matches, the most specific first.
    pub(super) fn hosts_of<'i>(&'i self, name: &str) -> impl Iterator<Item = &'i Host> {
        let exact = self.hosts.get(hash_of(name), |host| *host.name == *name);
        let labels = if self.wildcards.0.is_empty() { 0 } else { name.split('.').count() };
        let suffixes = name.match_indices('.').map(|(at, _)| &name[at + 1..]).zip((0..labels).rev());
        let wildcards =
            suffixes.filter(|(_, labels)| self.wildcards.has(labels)).filter_map(|(suffix, _)| {
                let is = |host: &Arc<Host>| host.name.strip_prefix("*.") == Some(suffix);
                self.hosts.get(hash_of(("*", suffix)), is)
            });
        exact.into_iter().chain(wildcards).chain(&self.any).map(|host| &**host)
    }

    /// Adds a route under each of its hosts and paths.
    pub(crate) fn add(&mut self, route: &Arc<CompiledRoute>) {
        self.change(route, |host| {
            for (at, path) in route.document.paths.iter().enumerate() {
                host.add(path, Rule::new(route, at));
            }
        });
    }

    /// Takes a route out that was added.
    pub(crate) fn take(&mut self, route: &Arc<CompiledRoute>) {
        self.change(route, |host| {
            for path in &route.document.paths {
                host.take(path, route);
            }
        });
    }

    fn change(&mut self, route: &CompiledRoute, change: impl Fn(&mut Host)) {
        let changed = |name: &str, host: Option<Arc<Host>>| {
            let mut host = host.unwrap_or_else(|| Arc::new(Host::new(name)));
            change(Arc::make_mut(&mut host));
            (!host.lists.is_empty()).then_some(host)
        };
        if route.document.hosts.is_empty() {
            self.any = changed(ANY, self.any.take());
        }
        for name in &route.document.hosts {
            let name = name.as_str();
            if name == ANY {
                self.any = changed(ANY, self.any.take());
                continue;
            }
            let (mut was, mut is) = (false, false);
            self.hosts.change(
                host_hash(name),
                |host| *host.name == *name,
                |host| {
                    was = host.is_some();
                    let host = changed(name, host);
                    is = host.is_some();
                    host
                },
            );
            let Some(suffix) = name.strip_prefix("*.") else { continue };
            let labels = suffix.split('.').count();
            match (was, is) {
                (false, true) => self.wildcards.add(labels),
                (true, false) => self.wildcards.take(&labels),
                _ => {}
            }
        }
    }
}

fn hash_of(value: impl std::hash::Hash) -> u64 {
    let mut hasher = FxHasher::default();
    value.hash(&mut hasher);
    hasher.finish()
}

fn host_hash(name: &str) -> u64 {
    name.strip_prefix("*.").map_or_else(|| hash_of(name), |suffix| hash_of(("*", suffix)))
}

/// The hash of a pattern, or of a path read with the parameters of one.
fn pattern_hash<'s>(segments: impl Iterator<Item = Option<&'s str>>) -> u64 {
    let mut hasher = FxHasher::default();
    let count = segments.map(|segment| segment.hash(&mut hasher)).count();
    count.hash(&mut hasher);
    hasher.finish()
}

impl Host {
    fn new(name: &str) -> Self {
        Self {
            name: name.into(),
            lists: SharingMap::default(),
            priorities: Counted::default(),
            exact: 0,
            prefixes: Counted::default(),
            patterns: Counted::default(),
            regexes: Counted::default(),
        }
    }

    /// Its name: exact, `*.` and a suffix, or `*` for any.
    pub(super) fn name(&self) -> &str {
        &self.name
    }

    pub(super) fn matched<'i>(&'i self, rule: &'i Rule) -> Matched<'i> {
        Matched { route: &rule.route, host: &self.name, path: rule.path }
    }

    fn highest(&self) -> i32 {
        self.priorities.iter().next_back().copied().unwrap_or(i32::MIN)
    }

    /// The first of its rules that match.
    fn find<'i>(&'i self, request: &impl Request, path: &Segments<'_>) -> Option<&'i Rule> {
        let highest = self.highest();
        let mut best: Option<&Rule> = None;
        // Nothing of a lower rank of paths can be before a rule of the highest priority.
        let settled = |best: Option<&Rule>, next: PathRank| {
            best.is_some_and(|it| it.rank.priority == highest && it.rank.path > next)
        };
        let consider = |best: &mut Option<&'i Rule>, list: &'i List| {
            for rule in list.rules() {
                if best.is_some_and(|best| best.beats(rule)) {
                    break;
                }
                if rule.admits(request) {
                    *best = Some(rule);
                    break;
                }
            }
        };
        if let Some(list) = self.exact(path) {
            consider(&mut best, list);
            if settled(best, PathRank::REGEX) {
                return best;
            }
        }
        for list in self.patterns(path) {
            consider(&mut best, list);
        }
        for prefix in self.prefixes(path) {
            if settled(best, PathRank::prefix(prefix.len())) {
                break;
            }
            if let Some(list) = self.list(Way::Prefix, prefix) {
                consider(&mut best, list);
            }
        }
        if !settled(best, PathRank::REGEX) {
            for list in self.regexes(path) {
                consider(&mut best, list);
            }
        }
        best
    }

    /// Every list that a path leads to. Of regular expressions, only the literal starts were compared.
    pub(super) fn lists<'h>(&'h self, path: &Segments<'_>) -> impl Iterator<Item = &'h List> {
        let prefixes = self.prefixes(path).filter_map(|prefix| self.list(Way::Prefix, prefix));
        self.exact(path).into_iter().chain(self.patterns(path)).chain(prefixes).chain(self.regexes(path))
    }

    fn exact<'h>(&'h self, path: &Segments<'_>) -> Option<&'h List> {
        if self.exact == 0 { None } else { self.list(Way::Exact, path.path()) }
    }

    /// The prefixes of a path that are as deep as prefixes of routes, the longest first.
    fn prefixes<'p>(&self, path: &Segments<'p>) -> impl Iterator<Item = &'p str> {
        let depths = self.prefixes.iter().rev().filter(|depth| **depth <= path.count());
        depths.map(|depth| path.prefix(*depth))
    }

    fn regexes<'h>(&'h self, path: &Segments<'_>) -> impl Iterator<Item = &'h List> {
        let depths = self.regexes.iter().rev().filter(|depth| **depth <= path.count());
        depths.filter_map(|depth| self.list(Way::Regex, path.prefix(*depth)))
    }

    fn patterns<'h>(&'h self, path: &Segments<'_>) -> impl Iterator<Item = &'h List> {
        let start = self.patterns.0.partition_point(|(shape, _)| shape.segments < path.count());
        let shapes = self.patterns.0[start..].iter().map(|(shape, _)| shape);
        shapes.take_while(|shape| shape.segments == path.count()).filter_map(|shape| {
            let blanked = || {
                path.iter().enumerate().map(|(at, segment)| {
                    let is_parameter = shape.parameters.binary_search(&at).is_ok();
                    if is_parameter { None } else { Some(segment) }
                })
            };
            let full =
                shape.parameters.iter().all(|at| path.prefix(at + 1).len() > path.prefix(*at).len() + 1);
            let is = |list: &List| {
                let key = list.key.strip_prefix('/').unwrap_or(&list.key).split('/');
                let same =
                    |(it, segment): (&str, Option<&str>)| segment.map_or(it == "{}", |text| it == text);
                list.way == Way::Pattern && list.depth() == shape.segments && key.zip(blanked()).all(same)
            };
            if full { self.lists.get(pattern_hash(blanked()), is) } else { None }
        })
    }

    fn list<'h>(&'h self, way: Way, key: &str) -> Option<&'h List> {
        self.lists.get(hash_of((way, key)), |list| list.way == way && *list.key == *key)
    }

    fn add(&mut self, path: &PathMatch, rule: Rule) {
        let place = Place::of(path);
        self.priorities.add(rule.rank.priority);
        place.count(self, true);
        let (hash, is) = (place.hash(path), place.is());
        let new = |rules| List { way: place.way, key: Arc::clone(&place.key), rules };
        self.lists.change(hash, is, |list| {
            let mut rules = match list.map(|list| list.rules) {
                None => return Some(new(Rules::One(rule))),
                Some(Rules::One(other)) => Arc::new(vec![other]),
                Some(Rules::More(rules)) => rules,
            };
            let sorted = Arc::make_mut(&mut rules);
            let at = sorted.partition_point(|it| it.order() < rule.order());
            sorted.insert(at, rule);
            Some(new(Rules::More(rules)))
        });
    }

    /// Takes out every rule of a route under this path.
    fn take(&mut self, path: &PathMatch, route: &CompiledRoute) {
        let place = Place::of(path);
        let (hash, is) = (place.hash(path), place.is());
        let mut taken = 0;
        self.lists.change(hash, is, |list| {
            let List { way, key, rules } = list?;
            let mut rules = match rules {
                Rules::One(rule) => Arc::new(vec![rule]),
                Rules::More(rules) => rules,
            };
            let left = Arc::make_mut(&mut rules);
            let before = left.len();
            left.retain(|rule| rule.route.name() != route.name());
            taken = before - left.len();
            let rules = if left.len() > 1 { Rules::More(rules) } else { Rules::One(left.pop()?) };
            Some(List { way, key, rules })
        });
        for _ in 0..taken {
            self.priorities.take(&route.document.priority);
            place.count(self, false);
        }
    }
}

/// Where the list of a path is.
struct Place {
    way: Way,
    key: Arc<str>,
}

impl Place {
    fn of(path: &PathMatch) -> Self {
        let (way, key) = match path {
            PathMatch::Exact(text) => (Way::Exact, text.as_str().into()),
            PathMatch::Prefix(text) => (Way::Prefix, text.trim_end_matches('/').into()),
            PathMatch::Pattern(pattern) => {
                let blank = |segment| match segment {
                    PatternSegment::Literal(text) => ["/", text],
                    PatternSegment::Parameter(_) => ["/", "{}"],
                };
                (Way::Pattern, pattern.segments().flat_map(blank).collect::<String>().into())
            }
            PathMatch::Regex(expression) => (Way::Regex, expression.literal_start().into()),
        };
        Self { way, key }
    }

    fn hash(&self, path: &PathMatch) -> u64 {
        match path {
            PathMatch::Pattern(pattern) => pattern_hash(pattern.segments().map(|segment| match segment {
                PatternSegment::Literal(text) => Some(text),
                PatternSegment::Parameter(_) => None,
            })),
            _ => hash_of((self.way, &*self.key)),
        }
    }

    fn is(&self) -> impl Fn(&List) -> bool {
        |list| list.way == self.way && list.key == self.key
    }

    fn count(&self, host: &mut Host, more: bool) {
        let depth = self.key.matches('/').count();
        let counted = match self.way {
            Way::Exact => {
                host.exact = if more { host.exact + 1 } else { host.exact - 1 };
                return;
            }
            Way::Pattern => {
                let blank = self.key.split('/').skip(1).enumerate().filter(|(_, segment)| *segment == "{}");
                let shape = Shape { segments: depth, parameters: blank.map(|(at, _)| at).collect() };
                return if more { host.patterns.add(shape) } else { host.patterns.take(&shape) };
            }
            Way::Prefix => &mut host.prefixes,
            Way::Regex => &mut host.regexes,
        };
        if more { counted.add(depth) } else { counted.take(&depth) }
    }
}

#[cfg(test)]
#[path = "index_tests.rs"]
mod tests;
