//! The configuration and the verdicts of a moment in the past.
//!
//! The documents come from the history of commits and are compiled as every node compiles them; the verdicts come from
//! the journal. The ranking on top of both is the same as for the present.

use std::sync::Arc;

use store::{
    board::Board,
    commit::history::{self, NotKept},
    journal::{self, MAX_PAGES, Page},
    keys,
    model::{Moment, World},
    snapshot::Snapshot,
};

use crate::{
    admin::{Admin, Problem},
    api::PastMoment,
};

/// What was known at a moment in the past.
pub(super) struct Past {
    pub(super) snapshot: Arc<Snapshot>,
    pub(super) board: Board,
    pub(super) moment: Moment,
    pub(super) shown: PastMoment,
}

/// What was known at a moment.
///
/// # Errors
/// If the moment is in the future or before everything that is kept, or the engine cannot be read.
pub(super) async fn at(admin: &Admin, at: jiff::Timestamp) -> Result<Past, Problem> {
    let moment = Moment(u64::try_from(at.as_millisecond()).unwrap_or(0));
    if moment > admin.handle.now() {
        return Err(Problem::wrong(format!("at: {at} is in the future; expected a moment in the past")));
    }
    let engine = admin.engine.as_ref();
    let known = history::as_of(engine, moment).await?.map_err(|why| Problem::gone(refusal(moment, why)))?;
    let entries = engine.kv_list(keys::JOURNAL, None).await?.value;
    let pages: Vec<Page> = entries.iter().filter_map(|it| serde_json::from_slice(&it.value).ok()).collect();
    let past = journal::past(&pages, &admin.handle.health_view().await.verdicts, moment);
    // Unless a page was dropped, nothing happened before the first page.
    let dropped = pages.len() >= MAX_PAGES;
    let begins = past.begins.filter(|_| dropped);
    if let Some(begins) = begins.filter(|begins| *begins > moment) {
        let earliest = NotKept::Forgotten { earliest: Some(begins) };
        return Err(Problem::gone(refusal(moment, earliest)));
    }

    let board = Board::default();
    let sources = World::assemble(known.documents).sources();
    let mut snapshot = Snapshot::compile(sources, known.generation, &board);
    let geo = admin.handle.snapshot().and_then(|now| now.locality.geo());
    snapshot.locality = std::mem::take(&mut snapshot.locality).with_geo(geo);
    let slots = snapshot.targets.values().map(|target| (&target.key, target.slot));
    for (key, slot) in slots.chain(snapshot.regional.iter().map(|(key, regional)| (key, regional.slot))) {
        board.write(slot, past.readings.get(key).copied().unwrap_or_default());
    }
    let mut caveats = vec![
        "what each vantage saw and how loaded sites were is not kept; zone files and the targets of ALIAS records \
         are the present ones"
            .to_owned(),
    ];
    let silent = snapshot.targets.keys().filter(|key| !past.readings.contains_key(*key)).count();
    if dropped && silent > 0 {
        caveats.push(format!(
            "no verdict of {silent} targets is kept for this moment: they count as unknown, as new targets do"
        ));
    }
    let shown = PastMoment { at: at.to_string(), generation: Some(known.generation), caveats };
    Ok(Past { snapshot: Arc::new(snapshot), board, moment, shown })
}

fn refusal(moment: Moment, why: NotKept) -> String {
    let at = moment.rfc3339();
    match why {
        NotKept::NothingYet { first } => {
            format!("at: nothing was configured at {at}; the first documents came at {}", first.rfc3339())
        }
        NotKept::Forgotten { earliest: Some(earliest) } => format!(
            "at: what decided at {at} is not kept any more; the earliest moment that can be explained is {} \
             (see history_commits and history_bytes in [control])",
            earliest.rfc3339()
        ),
        NotKept::Forgotten { earliest: None } => format!(
            "at: what decided at {at} is not kept: the present documents were committed by an older version, and \
             moments can be explained from the next commit on"
        ),
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_refusal_names_the_moments_that_can_be_explained() {
        let (at, later) = (Moment(1_790_000_000_000), Moment(1_790_000_100_000));
        let text = |why| refusal(at, why);
        assert_eq!(
            text(NotKept::NothingYet { first: later }),
            "at: nothing was configured at 2026-09-21T14:13:20Z; the first documents came at 2026-09-21T14:15:00Z"
        );
        let forgotten = text(NotKept::Forgotten { earliest: Some(later) });
        assert!(
            forgotten.contains("the earliest moment that can be explained is 2026-09-21T14:15:00Z"),
            "{forgotten}"
        );
        assert!(text(NotKept::Forgotten { earliest: None }).contains("from the next commit on"));
    }
}
