//! What a control keeps of the configuration between changes, so that a change costs in proportion to itself.
//!
//! Without it every change reads, checks and compares everything that is stored. With it a change reads the head and the
//! shards that others have changed meanwhile, and is checked against what it concerns ([`Checked`]).

use super::{Author, Change, Planned, ReadError, Stored, difference::replacements, plan, read};
use crate::{
    engine::Engine,
    model::{Checked, InputError, Moment, World},
};

/// The configuration as it was read last.
#[derive(Debug, Default)]
pub struct Basis {
    stored: Stored,
    /// The documents of a configuration that was read earlier or last, checked; absent if it was not checked yet, or has
    /// errors.
    checked: Option<(Stored, Checked)>,
}

impl Basis {
    /// Reads what has changed since it was read last.
    ///
    /// # Errors
    /// As [`read`]; then it stays as it was.
    pub async fn read(&mut self, engine: &dyn Engine) -> Result<&Stored, ReadError> {
        let stored = read(engine, Some(&self.stored)).await?;
        self.stored = stored;
        Ok(&self.stored)
    }

    /// The configuration as it was read last.
    #[must_use]
    pub const fn stored(&self) -> &Stored {
        &self.stored
    }

    /// The documents of what was checked last, or else read last.
    #[must_use]
    pub fn world(&self) -> World {
        self.checked.as_ref().map_or_else(|| self.stored.world(), |(_, checked)| checked.world().clone())
    }

    /// Checks what was read last, unless it was checked already. Planning does so, too: this only does it before.
    pub fn check(&mut self, now: Moment) {
        let checked = match self.checked.take() {
            None => Checked::of(self.stored.documents(), now),
            Some((before, mut checked)) => {
                checked.advance(&replacements(&before, &self.stored), now).map(|()| checked)
            }
        };
        // An older program may have committed what this one refuses; then every plan reports that.
        self.checked = checked.ok().map(|checked| (self.stored.clone(), checked));
    }

    /// [`plan()`] on top of what was read last.
    ///
    /// # Errors
    /// As [`plan()`].
    pub fn plan(
        &mut self,
        changes: Vec<Change>,
        now: Moment,
        author: Author<'_>,
    ) -> Result<Planned, Vec<InputError>> {
        self.check(now);
        plan::plan_over(&self.stored, self.checked.as_ref().map(|(_, checked)| checked), changes, now, author)
    }
}

#[cfg(test)]
mod tests {
    use proptest::prelude::*;

    use super::*;
    use crate::{
        commit::{AuditEntry, commit},
        engine::embedded::{Embedded, Options},
        model::{Authority, DocumentId, Kind, Placed, SiteTag, parse},
    };

    const AUTHOR: Author<'static> =
        Author { authority: Authority::Human, by: "t", site: SiteTag::NONE, founds: false, applied: false };

    /// A world in which some services and routes share names, so that some changes are refused.
    fn document(kind: u8, n: u8, more: u8) -> String {
        match kind {
            0 => format!("kind: Service\nname: s{n}\ncluster: main\nhosts: [h{more}.z.org]\n"),
            1 => format!("kind: Route\nname: r{n}\nhosts: [h{more}.z.org]\nto: [{{ service: s{n} }}]\n"),
            2 => format!("kind: Domain\nname: d{n}.z.org\ncluster: main\nttl: {}s\n", 10 + more),
            3 => format!("kind: Vantage\nname: v{n}\nregion: r{more}\n"),
            _ => format!(
                "kind: Override\nname: o{n}\ntarget: {{ site: s{more} }}\nstate: drain\nowner: o\nreason: r\n"
            ),
        }
    }

    const FOUNDATION: &str = "kind: Site\nname: s0\n---\nkind: Site\nname: s1\n---\n\
        kind: Zone\nname: z.org\nnameservers: [{ name: ns.x. }]\n---\n\
        kind: Cluster\nname: main\nzone: z.org\ngateway_domain: gw.z.org\n\
        gateways: { s0: { a: [203.0.113.1] }, s1: { a: [203.0.113.2] } }\n";

    fn puts(text: &str) -> Vec<Change> {
        parse("t.yaml", text).unwrap().into_iter().map(Change::Put).collect()
    }

    /// What a plan says and writes.
    fn shown(planned: &Result<Planned, Vec<InputError>>) -> String {
        match planned {
            Ok(Planned::Changed(plan)) => {
                let documents: Vec<_> = plan.world().documents().collect();
                format!("{:?} {documents:?} {:?} {:?}", plan.differences(), plan.commit, plan.orders)
            }
            other => format!("{other:?}"),
        }
    }

    proptest! {
        #![proptest_config(ProptestConfig::with_cases(24))]

        /// Whoever commits, a plan from what was kept is the plan from everything that is stored.
        #[test]
        fn a_plan_is_the_one_that_reads_and_checks_everything(
            rounds in prop::collection::vec(
                (any::<bool>(), prop::collection::vec((0_u8..5, 0_u8..3, 0_u8..4, prop::bool::weighted(0.3)), 1..4)),
                1..12,
            )
        ) {
            let runtime = tokio::runtime::Builder::new_current_thread().enable_all().build().unwrap();
            runtime.block_on(async {
                let engine = Embedded::in_memory(Options::default()).await;
                let mut basis = Basis::default();
                let first = (true, puts(FOUNDATION));
                let rounds = rounds.into_iter().map(|(ours, wishes)| {
                    let wish = |(kind, n, more, removal)| {
                        let put = puts(&document(kind, n, more)).remove(0);
                        match put {
                            Change::Put(Placed { value, .. }) if removal => Change::Delete(value.id()),
                            put => put,
                        }
                    };
                    (ours, wishes.into_iter().map(wish).collect())
                });
                for (now, (ours, changes)) in (1_000..).map(Moment).zip([first].into_iter().chain(rounds)) {
                    let changes: Vec<Change> = changes;
                    let stored = read(engine.as_ref(), None).await.unwrap();
                    let full = plan(&stored, changes.clone(), now, AUTHOR);
                    if ours {
                        assert_eq!(basis.read(engine.as_ref()).await.unwrap(), &stored);
                        let quick = basis.plan(changes, now, AUTHOR);
                        assert_eq!(shown(&quick), shown(&full));
                    }
                    if let Ok(Planned::Changed(plan)) = full {
                        let entry = AuditEntry { at: now, who: "t".into(), what: "t".into(), generation: None };
                        commit(engine.as_ref(), *plan, entry).await.unwrap();
                    }
                }
            });
        }
    }

    #[tokio::test]
    async fn only_shards_that_others_changed_are_read_and_compared() {
        let engine = Embedded::in_memory(Options::default()).await;
        let mut basis = Basis::default();
        for (now, text) in [(1, FOUNDATION.to_owned()), (2, document(0, 0, 0)), (3, document(0, 1, 1))] {
            let before = basis.stored().clone();
            basis.read(engine.as_ref()).await.unwrap();
            basis.check(Moment(now));
            let Ok(Planned::Changed(plan)) = basis.plan(puts(&text), Moment(now), AUTHOR) else { panic!() };
            let entry = AuditEntry { at: Moment(now), who: "t".into(), what: "t".into(), generation: None };
            commit(engine.as_ref(), *plan, entry).await.unwrap();
            let after = basis.read(engine.as_ref()).await.unwrap();
            if now > 1 {
                let changed = replacements(&before, after);
                assert!(changed.iter().all(|it| it.before.is_none()), "{changed:?}");
            }
        }
        let service = DocumentId { kind: Kind::Service, name: "s1".into() };
        assert!(basis.stored().get(&service).is_some());
    }
}
