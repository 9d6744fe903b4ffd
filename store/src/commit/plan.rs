//! What a commit will write, decided without the engine. Documents are checked here.

use std::{
    collections::{HashMap, HashSet},
    sync::Arc,
};

use bytes::Bytes;

use super::{
    Head, STORED_VERSION, Stored,
    difference::{Difference, compare, compare_these},
    history, shards,
};
use crate::{
    engine::Index,
    model::{
        Authority, Checked, Document, DocumentId, DomainName, Generation, InputError, Kind, Moment, Name,
        Override, Place, Placed, Service, World,
    },
};

/// One requested change.
#[derive(Clone, Debug, PartialEq)]
pub enum Change {
    /// Writes the document. A service without a UUID keeps the one it has, or gets the one that follows from its name
    /// and its cluster's zone ([`Service::uuid_in`]); an override without `since` keeps its own, or begins now.
    Put(Placed<Document>),
    /// Removes the document; it is an error if there is none.
    Delete(DocumentId),
}

/// The author of a commit.
#[derive(Clone, Copy, Debug)]
pub struct Author {
    /// The authority of the overrides that it orders.
    pub authority: Authority,
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
    pub(super) head: Head,
    /// The head key's index that the commit expects.
    pub(super) expected: Index,
    /// The parts of the new shards.
    pub(super) parts: Vec<(String, Bytes)>,
    differences: Vec<Difference>,
    world: World,
}

impl Plan {
    /// The generation that it will make.
    #[must_use]
    pub const fn generation(&self) -> Generation {
        self.head.generation
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
    author: Author,
) -> Result<Planned, Vec<InputError>> {
    plan_over(current, None, changes, now, author)
}

/// As [`plan`], in proportion to the changes if what is stored was checked before.
pub(super) fn plan_over(
    current: &Stored,
    checked: Option<&Checked>,
    changes: Vec<Change>,
    now: Moment,
    author: Author,
) -> Result<Planned, Vec<InputError>> {
    let mut errors = Vec::new();
    let mut touched = HashSet::new();
    let mut removed = Vec::new();
    let mut wanted: Vec<Placed<Arc<Document>>> = Vec::new();
    let put = changes.iter().filter_map(|change| match change {
        Change::Put(placed) => Some(&placed.value),
        Change::Delete(_) => None,
    });
    let completion = Completion::of(current, put, now, author);
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
            let Generation { epoch, number } = current.generation();
            let next = Generation { epoch: epoch.max(1), number: number + 1 };
            let differences = compare_these(current, &world, touched);
            let plan = planned(current, world, differences, (next, now), current.head.restored_over);
            let unchanged = plan.differences.is_empty();
            Ok(if unchanged {
                Planned::Unchanged(current.generation())
            } else {
                Planned::Changed(Box::new(plan))
            })
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
    author: Author,
) -> Result<Plan, Vec<InputError>> {
    let completion = Completion::of(current, documents.iter().map(|it| &it.value), now, author);
    let documents = documents.into_iter().map(|placed| {
        let value = Arc::new(completion.complete(placed.value));
        Placed { value, place: placed.place }
    });
    let world = World::check(documents, now)?;
    let before = current.generation();
    let generation = Generation {
        epoch: before.epoch.max(backup.epoch) + 1,
        number: before.number.max(backup.number) + 1,
    };
    let differences = compare(current, &world, |_| true);
    Ok(planned(current, world, differences, (generation, now), Some(before)))
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
    author: Author,
}

impl<'c> Completion<'c> {
    fn of<'d>(
        current: &'c Stored,
        wanted: impl Iterator<Item = &'d Document>,
        now: Moment,
        author: Author,
    ) -> Self {
        let zones = wanted.filter_map(|document| match document {
            Document::Cluster(cluster) => Some((cluster.name.clone(), cluster.zone.clone())),
            _ => None,
        });
        Self { current, zones: zones.collect(), now, author }
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
        let authority = match self.author.authority {
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
    author: Author,
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
) -> Plan {
    let (undo, parts) = history::record(current, &differences, generation).unzip();
    let (shards, written) = shards::after(current, differences.iter().map(|it| &it.id), &world, generation);
    let parts = parts.into_iter().flatten().chain(written).collect();
    let head = Head { v: STORED_VERSION, generation, shards, restored_over, at: Some(now), undo };
    Plan { head, expected: current.head_index, parts, differences, world }
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
    let author = Author { authority: Authority::Human };
    let wanted: Vec<&Document> = wanted.into_iter().collect();
    let completion = Completion::of(current, wanted.iter().copied(), Moment(0), author);
    let wanted: Vec<_> =
        wanted.into_iter().map(|document| Arc::new(completion.complete(document.clone()))).collect();
    let wanted = World::assemble(wanted);
    let kinds: HashSet<Kind> = wanted.documents().map(|document| document.id().kind).collect();
    compare(current, &wanted, |kind| prune && kinds.contains(&kind))
}
