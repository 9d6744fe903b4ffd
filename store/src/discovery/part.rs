//! What another site tells of its registry, judged. Pure.
//!
//! That site has judged its registry's answers itself: what it removes is removed with a proof of its own, and instances
//! that it doubts it dials itself. So what it tells is used as it is, for as long as it tells. While the site is dark
//! nothing proves a removal, and nothing shows the health of its instances: each stays, in doubt without a time limit, and
//! is used while it answers dials.

use std::collections::{HashMap, HashSet};

use super::{
    Entry, Standing,
    doubt::{Cause, Doubt, Fate, InstanceKey},
    judge::{Judgement, serves, settle},
};
use crate::{
    engine::{Endpoint, Index},
    model::Moment,
};

/// Judges what a site tells of a service against the previous part. `dark` is the reason for which the site tells nothing
/// at present: then `told` is what it told last. `dials` is true where its instances may be dialled.
#[must_use]
pub fn judge_part(previous: &Entry, told: Entry, dark: Option<&str>, dials: bool, now: Moment) -> Judgement {
    let listed: HashSet<_> = told.endpoints.iter().map(InstanceKey::of).collect();
    let held: HashMap<_, _> = previous.doubts.iter().map(|it| (it.key(), it)).collect();
    let used = previous.endpoints.iter().filter(|it| serves(it)).map(InstanceKey::of);
    let left_out = previous.doubts.iter().filter(|it| !it.held).map(Doubt::key);
    let gone = used.chain(left_out).filter(|it| !listed.contains(it));
    let mut fates: Vec<_> = gone.map(|it| (it, Fate::Told)).collect();
    let Some(reason) = dark else {
        let ended = held.keys().filter(|it| listed.contains(it)).cloned();
        fates.extend(ended.map(|it| (it, Fate::Cleared)));
        let same = std::mem::discriminant(&told.standing) == std::mem::discriminant(&previous.standing);
        let since = if same { previous.since } else { now };
        return Judgement { entry: Entry { since, ..told }, fates };
    };
    let mut doubts = Vec::new();
    let mut plain = Vec::new();
    for endpoint in told.endpoints {
        let known = held.get(&InstanceKey::of(&endpoint)).copied();
        if !dials || endpoint.port == 0 || !serves(&endpoint) {
            plain.push(endpoint);
            continue;
        }
        if known.is_none() {
            fates.push((InstanceKey::of(&endpoint), Fate::Doubted));
        }
        doubts.push(match known {
            Some(doubt) => Doubt { endpoint, ..doubt.clone() },
            None => dark_doubt(endpoint, now),
        });
    }
    let index = previous.index;
    let settled = settle(previous, index, plain, doubts, Vec::new(), now);
    let standing = Standing::Unreachable { reason: reason.to_owned() };
    let unreachable = matches!(previous.standing, Standing::Unreachable { .. });
    let since = if unreachable { previous.since } else { now };
    Judgement { entry: Entry { standing, since, ..settled }, fates }
}

const fn dark_doubt(endpoint: Endpoint, since: Moment) -> Doubt {
    let (cause, index) = (Cause::Dark, Index(0));
    Doubt { endpoint, cause, since, index, held: true, failures: 0, dialled: String::new() }
}

#[cfg(test)]
mod tests {
    use proptest::{collection::vec, prelude::*};

    use super::*;
    use crate::{
        dial::Answer,
        discovery::{dialled, doubtful},
        engine::CheckStatus,
    };

    fn endpoint(id: usize) -> Endpoint {
        doubtful(id, Cause::Missing, Moment(0)).endpoint
    }

    fn told(ids: &[usize]) -> Entry {
        let endpoints: Vec<_> = ids.iter().map(|it| endpoint(*it)).collect();
        let standing = if ids.is_empty() { Standing::Gone } else { Standing::Present };
        Entry { endpoints, standing, ..Entry::default() }
    }

    fn used(entry: &Entry) -> Vec<String> {
        entry.endpoints.iter().filter(|it| serves(it)).map(|it| it.id.clone()).collect()
    }

    const DARK: Option<&str> = Some("it does not answer");

    fn failing(mut entry: Entry, id: usize) -> Entry {
        for _ in 0..3 {
            let answer = Answer::Failed("refused".into());
            if let Some(judged) = dialled(&entry, &InstanceKey::of(&endpoint(id)), &answer, 3, Moment(9)) {
                entry = judged.entry;
            }
        }
        entry
    }

    #[test]
    fn a_dark_site_is_unreachable_and_its_instances_are_kept_while_they_answer() {
        let known = judge_part(&Entry::default(), told(&[1, 2]), None, true, Moment(1)).entry;
        assert_eq!(
            (used(&known), &known.standing),
            (vec!["web-1".into(), "web-2".into()], &Standing::Present)
        );
        let dark = judge_part(&known, told(&[1, 2]), DARK, true, Moment(2));
        let fates: Vec<_> = dark.fates.into_iter().map(|(_, fate)| fate).collect();
        assert_eq!(fates, [Fate::Doubted, Fate::Doubted]);
        assert_eq!(used(&dark.entry), ["web-1", "web-2"]);
        let unreachable = Standing::Unreachable { reason: "it does not answer".into() };
        assert_eq!((&dark.entry.standing, dark.entry.since), (&unreachable, Moment(2)));
        let one = failing(dark.entry, 1);
        assert_eq!(used(&one), ["web-2"]);
        assert!(matches!(one.standing, Standing::Unreachable { .. }));
        // It is never forgotten, however long the site is dark.
        let later = judge_part(&one, told(&[1, 2]), DARK, true, Moment(u64::MAX)).entry;
        assert_eq!((used(&later), later.doubts.len()), (vec!["web-2".to_owned()], 2));
        assert_eq!(later.since, Moment(2));
        // It answers again before the site does.
        let answers =
            dialled(&later, &InstanceKey::of(&endpoint(1)), &Answer::Answered, 3, Moment(9)).unwrap();
        assert_eq!(used(&answers.entry), ["web-1", "web-2"]);
        // The site returns, without one of them.
        let back = judge_part(&later, told(&[2]), None, true, Moment(10));
        assert_eq!((used(&back.entry), &back.entry.standing), (vec!["web-2".to_owned()], &Standing::Present));
        assert!(back.entry.doubts.is_empty());
        assert!(back.fates.iter().any(|(key, fate)| key.id == "web-1" && *fate == Fate::Told));
    }

    #[test]
    fn where_instances_may_not_be_dialled_they_are_kept_without_doubts() {
        let dark = judge_part(&told(&[1, 2]), told(&[1, 2]), DARK, false, Moment(2)).entry;
        assert_eq!((used(&dark).len(), dark.doubts.len()), (2, 0));
        assert!(matches!(dark.standing, Standing::Unreachable { .. }));
    }

    #[test]
    fn what_does_not_serve_is_not_in_doubt() {
        let mut entry = told(&[1, 2, 3]);
        entry.endpoints[0].status = CheckStatus::Critical;
        entry.endpoints[1].maintenance = true;
        let dark = judge_part(&entry, entry.clone(), DARK, true, Moment(2)).entry;
        assert_eq!((used(&dark), dark.doubts.len(), dark.endpoints.len()), (vec!["web-3".into()], 1, 3));
    }

    #[derive(Clone, Debug)]
    enum Step {
        Tells(Vec<usize>),
        Dark,
        Light,
        Dials(usize, bool),
    }

    fn step() -> impl Strategy<Value = Step> {
        prop_oneof![
            vec(0..5_usize, 0..5).prop_map(Step::Tells),
            Just(Step::Dark),
            Just(Step::Light),
            (0..5_usize, any::<bool>()).prop_map(|(id, answers)| Step::Dials(id, answers)),
        ]
    }

    proptest! {
        /// An instance is unused only if its site did not tell of it last, or its dials failed while the site was dark.
        #[test]
        fn nothing_is_dropped_unless_its_site_says_so_or_dials_fail(steps in vec(step(), 1..60)) {
            let (mut entry, mut last, mut dark) = (Entry::default(), Vec::new(), None);
            for step in steps {
                match step {
                    Step::Tells(ids) => {
                        last = ids;
                        last.sort_unstable();
                        last.dedup();
                        dark = None;
                    }
                    Step::Dark => dark = DARK,
                    Step::Light => dark = None,
                    Step::Dials(id, answers) => {
                        let answer = if answers { Answer::Answered } else { Answer::Failed("refused".into()) };
                        if let Some(judged) = dialled(&entry, &InstanceKey::of(&endpoint(id)), &answer, 3, Moment(9)) {
                            entry = judged.entry;
                        }
                    }
                }
                entry = judge_part(&entry, told(&last), dark, true, Moment(5)).entry;
                for id in &last {
                    let failed = entry.doubts.iter().any(|it| it.endpoint.id == format!("web-{id}") && it.failures >= 3);
                    let name = format!("web-{id}");
                    prop_assert!(used(&entry).contains(&name) || (failed && dark.is_some()));
                }
                prop_assert!(entry.endpoints.len() <= last.len());
            }
        }
    }
}
