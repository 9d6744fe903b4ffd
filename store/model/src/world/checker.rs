//! The errors of a check of all documents: each part of the check reports here, with the document and its field.

use std::{borrow::Borrow, collections::HashMap, sync::Arc};

use super::World;
use crate::{DocumentId, InputError, InputErrors, Kind, Place, input_error::suggestion};

/// Collects what is wrong with a world.
pub(super) struct Checker<'w> {
    pub(super) world: &'w World,
    pub(super) places: HashMap<DocumentId, Place>,
    pub(super) errors: Vec<InputError>,
    /// How many more suggestions are worth their time: each looks at every name.
    pub(super) hints: u32,
}

impl<'w> Checker<'w> {
    /// For a check whose errors are not shown with their places, because it is not known where the documents were written.
    pub(super) fn without_places(world: &'w World) -> Self {
        Self { world, places: HashMap::new(), errors: Vec::new(), hints: 0 }
    }

    pub(super) fn report_at(
        &mut self,
        place: &Place,
        id: &DocumentId,
        field: &str,
        problem: String,
        expected: String,
    ) {
        if self.errors.len() < InputErrors::MAX {
            self.errors.push(InputError {
                file: Arc::clone(place.file()),
                line: place.line_of(field),
                document: id.to_string(),
                field: field.to_owned(),
                problem,
                expected,
            });
        }
    }

    /// Records an error in a field of a document.
    pub(super) fn report(
        &mut self,
        id: &DocumentId,
        field: &str,
        problem: impl Into<String>,
        expected: impl Into<String>,
    ) {
        let place = self.places.get(id).cloned().unwrap_or_else(|| Place::elsewhere("implied"));
        self.report_at(&place, id, field, problem.into(), expected.into());
    }

    /// Where a document was written, for messages.
    pub(super) fn place(&self, id: &DocumentId) -> String {
        self.places.get(id).map(Place::to_string).unwrap_or_default()
    }

    /// True if a document that a field names exists.
    pub(super) fn refer(&mut self, from: &DocumentId, field: &str, kind: Kind, name: &str) -> bool {
        if self.world.named(kind, name).is_some() {
            return true;
        }
        let known = self.world.of(kind).map(|it| it.name());
        let hint = if self.hints > 0 { suggestion(name, known) } else { String::new() };
        self.hints = self.hints.saturating_sub(1);
        self.report(from, field, format!("there is no {kind} {name}{hint}"), format!("the name of a {kind}"));
        false
    }
}

pub(super) fn id<N: Borrow<str> + ?Sized>(kind: Kind, name: &N) -> DocumentId {
    DocumentId { kind, name: name.borrow().to_owned() }
}
