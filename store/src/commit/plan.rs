//! What a commit will write, decided without the engine. Documents are checked here.

use std::{
    collections::{HashMap, HashSet},
    sync::Arc,
};

use bytes::Bytes;

use super::{
    Head, STORED_VERSION, Stored,
    difference::{Difference, DifferenceKind, compare, compare_these},
    history, lineage, shards,
};
use crate::{
    engine::Index,
    model::{
        Authority, Checked, Colour, Document, DocumentId, DomainName, Generation, InputError, Kind, Moment,
        Name, Override, Place, Placed, Service, SiteTag, World,
    },
    orders::{MAX_AT_ONCE, MAX_ORDERS, Order, OrderContent, OrderKind, OrderRecord, OrderTarget},
};

/// One requested change.
#[expect(clippy::large_enum_variant, reason = "nearly all are of the large kind, and none is kept")]
#[derive(Clone, Debug, PartialEq)]
pub enum Change {
    /// Writes the document. A service without a UUID keeps the one it has, or gets the one that follows from its name
    /// and its cluster's zone ([`Service::uuid_in`]); an override without `since` keeps its own, or begins now.
    Put(Placed<Document>),
    /// Removes the document; it is an error if there is none.
    Delete(DocumentId),
}

/// The author of a commit, and the control that makes it.
#[derive(Clone, Copy, Debug)]
pub struct Author<'a> {
    /// The authority of the overrides that it orders.
    pub authority: Authority,
    /// The name of its token, or `local`.
    pub by: &'a str,
    /// The site of the control; empty where it is not known, and then orders name none.
    pub site: SiteTag,
    /// Its site becomes the home when the documents first name the control of a site.
    pub founds: bool,
    /// The overrides that it orders come from a file, so that a pruning apply may end them.
    pub applied: bool,
}

/// The result of planning.
#[derive(Clone, Debug)]
pub enum Planned {
    /// Nothing has to be changed.
    Unchanged(Generation),
    /// This has to be committed.
    Changed(Box<Plan>),
}

/// A commit that has only to be written. Its documents were checked together.
#[derive(Clone, Debug)]
pub struct Plan {
    /// The head and the parts of the new shards; absent if only orders change.
    pub(super) commit: Option<(Head, Vec<(String, Bytes)>)>,
    /// The head key's index that the commit expects.
    pub(super) expected: Index,
    /// The generation that is in force after it.
    generation: Generation,
    /// The orders, each with the index that its key must have.
    pub(super) orders: Vec<(OrderRecord, Index)>,
    /// Records of overrides that an older version stored as documents. They order what is in force already.
    pub(super) converted: Vec<OrderRecord>,
    differences: Vec<Difference>,
    world: World,
}

impl Plan {
    /// The plan to take a configuration of another site.
    pub(super) fn of_copy(
        current: &Stored,
        commit: (Head, Vec<(String, Bytes)>),
        differences: Vec<Difference>,
        world: World,
    ) -> Self {
        Self {
            expected: current.head_index,
            generation: commit.0.generation,
            commit: Some(commit),
            orders: Vec::new(),
            converted: Vec::new(),
            differences,
            world,
        }
    }

    /// The generation that is in force after it: a new one, unless only orders change.
    #[must_use]
    pub const fn generation(&self) -> Generation {
        self.generation
    }

    /// True if it contains orders.
    #[must_use]
    pub const fn gives_orders(&self) -> bool {
        !self.orders.is_empty()
    }

    /// True if it changes documents, which only the home may commit. Otherwise it consists of orders.
    #[must_use]
    pub const fn is_commit(&self) -> bool {
        self.commit.is_some()
    }

    /// The differences that it makes.
    #[must_use]
    pub fn differences(&self) -> &[Difference] {
        &self.differences
    }

    /// The documents after it.
    #[must_use]
    pub const fn world(&self) -> &World {
        &self.world
    }
}

/// Plans a commit of changes on top of what is stored. `now` decides which overrides have ended, and is when new ones
/// begin.
///
/// # Errors
/// Every error that the documents would have together, those of already stored documents included: a deletion
/// can invalidate documents that stay.
pub fn plan(
    current: &Stored,
    changes: Vec<Change>,
    now: Moment,
    author: Author<'_>,
) -> Result<Planned, Vec<InputError>> {
    plan_over(current, None, changes, now, author)
}

/// As [`plan`], in proportion to the changes if what is stored was checked before.
pub(super) fn plan_over(
    current: &Stored,
    checked: Option<&Checked>,
    changes: Vec<Change>,
    now: Moment,
    author: Author<'_>,
) -> Result<Planned, Vec<InputError>> {
    let mut errors = Vec::new();
    let mut touched = HashSet::new();
    let mut removed = Vec::new();
    let mut wanted: Vec<Placed<Arc<Document>>> = Vec::new();
    let put = changes.iter().filter_map(|change| match change {
        Change::Put(placed) => Some(&placed.value),
        Change::Delete(_) => None,
    });
    let completion = Completion::of(current, put, now, author.authority);
    for change in changes {
        match change {
            Change::Put(Placed { value, place }) => {
                touched.insert(value.id());
                let value = completion.complete(value);
                errors.extend(outranked(&value.id(), Some(&value), current, author, Some(&place)));
                wanted.push(Placed { value: Arc::new(value), place });
            }
            Change::Delete(id) if current.get(&id).is_some() => {
                errors.extend(outranked(&id, None, current, author, None));
                touched.insert(id.clone());
                removed.push(id);
            }
            Change::Delete(id) => errors.push(not_there(&id)),
        }
    }
    let world = match checked {
        Some(checked) => checked.check(wanted, &removed, now),
        None => {
            let untouched = current.documents().filter(|document| !touched.contains(&document.id()));
            World::check(untouched.map(Placed::stored).chain(wanted), now)
        }
    };
    match world {
        Ok(world) if errors.is_empty() => {
            let next = next(current, &world, author);
            let differences = compare_these(current, &world, touched);
            let over = current.head.restored_over;
            let plan = planned(current, world, differences, (next, now), over, author);
            if plan.differences.is_empty() {
                return Ok(Planned::Unchanged(current.generation()));
            }
            let errors = too_many_orders(current, &plan);
            if errors.is_empty() { Ok(Planned::Changed(Box::new(plan))) } else { Err(errors) }
        }
        Ok(_) => Err(errors),
        Err(found) => Err(errors.into_iter().chain(found).collect()),
    }
}

/// Plans to replace everything with exactly these documents, as a generation above both the engine's and the
/// backup's, under a higher epoch, so that every node takes them although they are older, also from a new and empty
/// engine. There is always something to commit, even if no document differs.
///
/// # Errors
/// Every error that the documents have together.
pub fn plan_restore(
    current: &Stored,
    backup: Generation,
    documents: Vec<Placed<Document>>,
    now: Moment,
    author: Author<'_>,
) -> Result<Plan, Vec<InputError>> {
    let completion = Completion::of(current, documents.iter().map(|it| &it.value), now, author.authority);
    let documents = documents.into_iter().map(|placed| {
        let value = Arc::new(completion.complete(placed.value));
        Placed { value, place: placed.place }
    });
    let world = World::check(documents, now)?;
    let before = current.generation();
    let generation = Generation {
        epoch: before.epoch.max(backup.epoch) + 1,
        site: home(before, &world, author),
        number: before.number.max(backup.number) + 1,
    };
    let differences = compare(current, &world, |_| true);
    let mut plan = planned(current, world, differences, (generation, now), Some(before), author);
    if plan.commit.is_none() {
        plan.commit = Some(commit_of(current, &plan, (generation, now), Some(before)));
        plan.generation = generation;
    }
    if let Some((head, _)) = &mut plan.commit {
        lineage::add(head, backup);
        head.foundation = None;
    }
    let errors = too_many_orders(current, &plan);
    if errors.is_empty() { Ok(plan) } else { Err(errors) }
}

/// Plans to make a site the home: the same documents, in a new epoch that this site gives. Its generation is above the
/// present one and above another one that is known.
#[must_use]
pub fn plan_promotion(current: &Stored, above: Generation, now: Moment, site: SiteTag) -> Plan {
    let before = current.generation();
    let epoch = before.epoch.max(above.epoch).saturating_add(1);
    let generation = Generation { epoch, site, number: before.number.max(above.number).saturating_add(1) };
    let mut plan = Plan {
        commit: None,
        expected: current.head_index,
        generation,
        orders: Vec::new(),
        converted: Vec::new(),
        differences: Vec::new(),
        world: current.world(),
    };
    plan.commit = Some(commit_of(current, &plan, (generation, now), current.head.restored_over));
    plan
}

/// Plans to switch a domain to a colour, or to its other one, until a commit changes the active colour in its document.
/// `None` if the document has no colours; [`Planned::Unchanged`] if the colour is active already.
#[must_use]
pub fn plan_switch(
    current: &Stored,
    domain: &DomainName,
    to: Option<Colour>,
    now: Moment,
    author: Author<'_>,
) -> Option<Planned> {
    let id = DocumentId { kind: Kind::Domain, name: domain.to_string() };
    let active = current.colour_of(&id)?;
    let to = to.unwrap_or_else(|| active.other());
    if to == active {
        return Some(Planned::Unchanged(current.generation()));
    }
    let target = OrderTarget::Switch(domain.clone());
    let record = ordered(current, target, OrderKind::Switch(to), author.authority, (now, author));
    let expected = current.orders.index(&record.target);
    Some(Planned::Changed(Box::new(Plan {
        commit: None,
        expected: current.head_index,
        generation: current.generation(),
        orders: vec![(record, expected)],
        converted: Vec::new(),
        differences: vec![Difference {
            id,
            kind: DifferenceKind::Changed { fields: vec!["policy".to_owned()] },
        }],
        world: current.world(),
    })))
}

/// The generation after the present one.
fn next(current: &Stored, world: &World, author: Author<'_>) -> Generation {
    let before = current.generation();
    Generation { epoch: before.epoch.max(1), site: home(before, world, author), number: before.number + 1 }
}

/// The home after a commit. An engine becomes the home when its documents first name the control of a site: until then it is
/// connected to no other.
fn home(before: Generation, world: &World, author: Author<'_>) -> SiteTag {
    let connected = || world.sites().any(|it| it.control.is_some());
    if before.site.is_empty() && author.founds && connected() { author.site } else { before.site }
}

/// Orders beyond their bounds.
fn too_many_orders(current: &Stored, plan: &Plan) -> Vec<InputError> {
    let new = plan.orders.iter().filter(|(record, _)| current.orders.get(&record.target).is_none()).count();
    let error = |problem: String, expected: String| InputError {
        file: "request".into(),
        line: None,
        document: "Override".to_owned(),
        field: String::new(),
        problem,
        expected,
    };
    let mut errors = Vec::new();
    if plan.orders.len() > MAX_AT_ONCE {
        let problem = format!("{} overrides change at once", plan.orders.len());
        errors.push(error(problem, format!("at most {MAX_AT_ONCE} in one change")));
    }
    if current.orders.len() + plan.converted.len() + new > MAX_ORDERS {
        let problem = format!("there would be {} orders", current.orders.len() + plan.converted.len() + new);
        errors.push(error(problem, format!("at most {MAX_ORDERS}, ended ones included")));
    }
    errors
}

fn not_there(id: &DocumentId) -> InputError {
    InputError {
        file: "delete".into(),
        line: None,
        document: id.to_string(),
        field: String::new(),
        problem: "is not there".to_owned(),
        expected: format!("a stored {}", id.kind),
    }
}

/// Fills in what documents leave open: a stored service always has a UUID, an override a beginning and an authority. A
/// document written without one keeps its own.
struct Completion<'c> {
    current: &'c Stored,
    /// The zones of the clusters that are written at the same time.
    zones: HashMap<Name, DomainName>,
    now: Moment,
    authority: Authority,
}

impl<'c> Completion<'c> {
    fn of<'d>(
        current: &'c Stored,
        wanted: impl Iterator<Item = &'d Document>,
        now: Moment,
        authority: Authority,
    ) -> Self {
        let zones = wanted.filter_map(|document| match document {
            Document::Cluster(cluster) => Some((cluster.name.clone(), cluster.zone.clone())),
            _ => None,
        });
        Self { current, zones: zones.collect(), now, authority }
    }

    fn complete(&self, document: Document) -> Document {
        let stored = self.current.get(&document.id()).map(|kept| &*kept.document);
        match (document, stored) {
            (Document::Service(service), stored) if service.uuid.is_none() => {
                let had = match stored {
                    Some(Document::Service(stored)) => stored.uuid,
                    _ => None,
                };
                let uuid =
                    had.or_else(|| Some(Service::uuid_in(&service.name, &self.zone_of(&service.cluster)?)));
                Document::Service(Service { uuid, ..service })
            }
            (Document::Override(order), stored) => {
                let had = match stored {
                    Some(Document::Override(had)) => Some(had).filter(|had| is_the_same(&order, had)),
                    _ => None,
                };
                Document::Override(self.begun(order, had))
            }
            (document, _) => document,
        }
    }

    /// The zone of a cluster; `None` if there is no such cluster, which is an error that the check reports.
    fn zone_of(&self, cluster: &Name) -> Option<DomainName> {
        if let Some(zone) = self.zones.get(cluster) {
            return Some(zone.clone());
        }
        let id = DocumentId { kind: Kind::Cluster, name: cluster.to_string() };
        match &*self.current.get(&id)?.document {
            Document::Cluster(cluster) => Some(cluster.zone.clone()),
            _ => None,
        }
    }

    fn begun(&self, order: Override, had: Option<&Override>) -> Override {
        let begins =
            || i64::try_from(self.now.0).ok().and_then(|ms| jiff::Timestamp::from_millisecond(ms).ok());
        let since = order.since.or_else(|| had.map_or_else(begins, |had| had.since));
        let authority = match self.authority {
            Authority::Human => order.authority,
            Authority::Tool => had.map_or(Authority::Tool, |had| had.authority),
        };
        Override { since, authority, ..order }
    }
}

/// Whether two overrides are equal but for their beginning and author.
fn is_the_same(order: &Override, had: &Override) -> bool {
    let same_begin = order.since.is_none() || order.since == had.since;
    same_begin && Override { since: had.since, authority: had.authority, ..order.clone() } == *had
}

/// Automation neither changes nor ends an override that a person ordered.
fn outranked(
    id: &DocumentId,
    wanted: Option<&Document>,
    current: &Stored,
    author: Author<'_>,
    place: Option<&Place>,
) -> Option<InputError> {
    let stored = current.get(id)?;
    let Document::Override(had) = &*stored.document else { return None };
    let touches = wanted != Some(&*stored.document);
    (author.authority < had.authority && touches).then(|| InputError {
        file: place.map_or_else(|| "request".into(), |place| Arc::clone(place.file())),
        line: place.and_then(|place| place.line_of("name")),
        document: id.to_string(),
        field: "name".to_owned(),
        problem: format!("was ordered by a person ({}), which outranks automation", had.owner),
        expected: "an override of another name, or an operator's token".to_owned(),
    })
}

fn planned(
    current: &Stored,
    world: World,
    differences: Vec<Difference>,
    (generation, now): (Generation, Moment),
    restored_over: Option<Generation>,
    author: Author<'_>,
) -> Plan {
    let converted: Vec<OrderRecord> = current.unordered().collect();
    let mut orders = Vec::new();
    for difference in &differences {
        let Some((target, kind, authority)) = order_of(current, &world, difference, author) else { continue };
        let record = ordered(current, target, kind, authority, (now, author));
        let expected = current.orders.index(&record.target);
        orders.push((record, expected));
    }
    let home = current.generation().site;
    if home == author.site && orders.len() > MAX_AT_ONCE {
        // The commit removes these tokens as well.
        orders.retain(|(record, _)| !matches!(record.target, OrderTarget::Token(_)));
    }
    let mut plan = Plan {
        commit: None,
        expected: current.head_index,
        generation: current.generation(),
        orders,
        converted,
        differences,
        world,
    };
    let is_commit = |it: &Difference| match it.id.kind {
        Kind::Override => false,
        // The home removes the document with the order, or with its next commit if the order was given elsewhere.
        Kind::Token if it.kind == DifferenceKind::Removed => home.is_empty() || home == author.site,
        _ => true,
    };
    if plan.differences.iter().any(is_commit) {
        plan.commit = Some(commit_of(current, &plan, (generation, now), restored_over));
        plan.generation = generation;
    }
    plan
}

/// The order that makes a difference; `None` if it is a change of documents alone. Overrides are orders always. The
/// deletion of a token is one where sites are connected, so that no site has to wait for the home to refuse the token,
/// and a home that replaces this one does not bring it back.
fn order_of(
    current: &Stored,
    world: &World,
    difference: &Difference,
    author: Author<'_>,
) -> Option<(OrderTarget, OrderKind, Authority)> {
    let name = || difference.id.name.parse().ok();
    match difference.id.kind {
        Kind::Override => Some(match world.get(&difference.id).map(|document| &**document) {
            Some(Document::Override(it)) => {
                (OrderTarget::Override(name()?), OrderKind::Override(Box::new(it.clone())), it.authority)
            }
            _ => (OrderTarget::Override(name()?), OrderKind::Released, author.authority),
        }),
        Kind::Token
            if difference.kind == DifferenceKind::Removed && !current.generation().site.is_empty() =>
        {
            Some((OrderTarget::Token(name()?), OrderKind::Deleted, author.authority))
        }
        _ => None,
    }
}

/// The record of a target with one more order.
fn ordered(
    current: &Stored,
    target: OrderTarget,
    kind: OrderKind,
    authority: Authority,
    (now, author): (Moment, Author<'_>),
) -> OrderRecord {
    let stored = current.orders.get(&target).cloned();
    let unordered = || current.unordered().find(|it| it.target == target);
    let mut record = stored.or_else(unordered).unwrap_or_else(|| OrderRecord::empty(target.clone()));
    let site = if current.generation().site.is_empty() { SiteTag::NONE } else { author.site };
    let mut give = |kind: OrderKind, authority: Authority| {
        let content = OrderContent {
            kind,
            by: author.by.to_owned(),
            authority,
            at: now,
            under: current.generation(),
            applied: author.applied,
        };
        let order = Order::new(&target, record.counter() + 1, site, content);
        record.take(order);
    };
    // A person may hand an override over to a tool. Their own then ends, because it would outrank the tool's.
    if authority == Authority::Tool && author.authority == Authority::Human {
        give(OrderKind::Released, Authority::Human);
    }
    give(kind, authority);
    record
}

/// The head and the shards that a commit writes. Overrides are orders, so no shard contains them.
fn commit_of(
    current: &Stored,
    plan: &Plan,
    (generation, now): (Generation, Moment),
    restored_over: Option<Generation>,
) -> (Head, Vec<(String, Bytes)>) {
    let configured: Vec<&Difference> =
        plan.differences.iter().filter(|it| it.id.kind != Kind::Override).collect();
    // Shards of an older version are written without their overrides.
    let converted = plan.converted.iter().filter_map(|record| match &record.target {
        OrderTarget::Override(name) => Some(DocumentId { kind: Kind::Override, name: name.to_string() }),
        _ => None,
    });
    // So are those with tokens that were deleted by an order.
    let deleted = current.deleted_tokens().map(|kept| kept.document.id());
    let without: Vec<DocumentId> = converted.chain(deleted).collect();
    let changed = configured.iter().map(|it| &it.id).chain(&without);
    let (undo, parts) = history::record(current, &configured, generation).unzip();
    let (shards, written) = shards::after(current, changed, &plan.world, generation);
    let before = current.generation();
    let founds = generation.epoch > before.epoch;
    let lineage = if founds { lineage::on(current) } else { current.head.lineage.clone() };
    let foundation = match before == Generation::default() {
        true => Some(lineage::foundation(&shards, now)),
        false => current.head.foundation.clone(),
    };
    let at = Some(now);
    let head = Head { v: STORED_VERSION, generation, shards, restored_over, lineage, foundation, at, undo };
    (head, parts.into_iter().flatten().chain(written).collect())
}

/// How documents differ from what is stored. With `prune`, stored documents that are not wanted count as removed,
/// except for kinds of which no document is wanted: a file with sites does not remove tokens and overrides.
#[must_use]
pub fn diff<'d>(
    current: &Stored,
    wanted: impl IntoIterator<Item = &'d Document>,
    prune: bool,
) -> Vec<Difference> {
    // A service without a UUID keeps its own, which is no difference.
    let wanted: Vec<&Document> = wanted.into_iter().collect();
    let completion = Completion::of(current, wanted.iter().copied(), Moment(0), Authority::Human);
    let wanted: Vec<_> =
        wanted.into_iter().map(|document| Arc::new(completion.complete(document.clone()))).collect();
    let wanted = World::assemble(wanted);
    let kinds: HashSet<Kind> = wanted.documents().map(|document| document.id().kind).collect();
    compare(current, &wanted, |kind| prune && kinds.contains(&kind))
}
