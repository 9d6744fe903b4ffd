//! Ejection by evidence: the instances of a service at which requests failed lately, and whether it was their fault.
//!
//! That requests fail at an instance does not prove that it is ill. `GET /crash` ends the connection at every instance,
//! and eight of them in a quiet minute would be eight failures in a row anywhere. So failures in a row are needed and,
//! besides, evidence that another instance would have answered. One of these is enough:
//!
//! - a request that failed here was sent again and answered well by another instance ([`Evidence::Contradicted`]);
//! - since the failures began the other instances answered ten requests well for each that failed there, and either the same
//!   target is among those that they answered, or several different targets failed here.
//!
//! The second compares rates. Were the requests the cause, they would fail everywhere at the same rate, and one instance would
//! hardly get several of them in a row, and none that is answered, while others get ten good ones for each bad one.
//!
//! A request that failed at several instances blames none of them ([`Evidence::Shared`]): what was asked is the cause,
//! or they all are ill, and then ejecting some gains nothing.
//!
//! A target is a hash of what was asked (method, host, path and query). Only a service with suspects pays for
//! this: while there is none, an answer costs one load ([`Suspects`] is behind a lock that is not touched then).

use std::{collections::HashMap, time::Duration};

use store::model::Moment;

/// When to eject, for how long, and how many.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(crate) struct Ejection {
    /// Failures in a row; zero never ejects.
    pub(crate) after: u16,
    /// For how long, the first time; it doubles with each that follows.
    pub(crate) base: Duration,
    /// The longest ejection.
    pub(crate) at_most: Duration,
    /// The share of a site's instances that may be ejected at once, in percent. One is allowed in any case if another
    /// one stays.
    pub(crate) max_percent: u8,
}

impl Default for Ejection {
    fn default() -> Self {
        Self { after: 5, base: Duration::from_secs(5), at_most: Duration::from_secs(60), max_percent: 50 }
    }
}

/// Different targets that must have failed before answers to other targets are evidence.
const DIFFERENT: usize = 3;
/// Requests that others answer well for each that fails there before that is evidence; so many also if none fails.
const WELL_FOR_EACH: u32 = 10;
/// More targets of a suspect are not remembered.
const REMEMBERED: usize = 8;
/// Failures that far apart are not in a row.
const TOGETHER: Duration = Duration::from_secs(60);
/// More suspects of a service than this are not watched.
const MOST: usize = 1_024;

/// What is known of the request that failed.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(crate) enum Evidence {
    /// Nothing but that it failed.
    Alone,
    /// Another instance answered the same request well.
    Contradicted,
    /// It failed at another instance too.
    Shared,
}

/// What follows from a failed request.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(crate) enum Judgement {
    /// Nothing: it may have been the request's fault.
    Open,
    /// Another instance answered the same well: not proof enough to eject it, and enough to leave it alone if it asks for that.
    Guilty,
    /// It has to be ejected for so long.
    Eject(Duration),
}

/// One instance and its failures in a row.
#[derive(Debug, Default)]
struct Suspect {
    failures: u32,
    last: Moment,
    contradicted: bool,
    targets: [u64; REMEMBERED],
    different: usize,
    /// Another instance answered one of the targets well.
    target_is_good: bool,
    /// What others answered well since the failures began, and what failed there.
    others: (u32, u32),
    ejections: u32,
}

impl Suspect {
    fn remember(&mut self, target: u64) {
        if !self.targets[..self.different].contains(&target) && self.different < REMEMBERED {
            self.targets[self.different] = target;
            self.different += 1;
        }
    }

    const fn is_guilty(&self) -> bool {
        let (well, failed) = self.others;
        let others_are_well = well >= failed.saturating_add(1).saturating_mul(WELL_FOR_EACH);
        self.contradicted || (others_are_well && (self.target_is_good || self.different >= DIFFERENT))
    }

    /// The failures end; how often it was ejected is remembered.
    fn acquit(&mut self) {
        *self = Self { ejections: self.ejections, last: self.last, ..Self::default() };
    }
}

/// The instances of one service at which requests failed lately, by their number.
#[derive(Debug, Default)]
pub(crate) struct Suspects(HashMap<u64, Suspect>);

impl Suspects {
    /// True while answers are of no interest.
    pub(crate) fn is_empty(&self) -> bool {
        self.0.is_empty()
    }

    /// A request failed at an instance. When it must be ejected, the caller finds out whether its site allows that
    /// ([`may_eject`]) and then calls [`Suspects::ejected`].
    pub(crate) fn failed(
        &mut self,
        instance: u64,
        target: u64,
        evidence: Evidence,
        rule: &Ejection,
        now: Moment,
    ) -> Judgement {
        if evidence == Evidence::Shared || rule.after == 0 {
            return Judgement::Open;
        }
        for (number, suspect) in &mut self.0 {
            if *number != instance && suspect.failures > 0 {
                suspect.others.1 = suspect.others.1.saturating_add(1);
            }
        }
        if self.0.len() >= MOST && !self.0.contains_key(&instance) {
            self.forget(rule, now);
            if self.0.len() >= MOST {
                return Judgement::Open;
            }
        }
        let suspect = self.0.entry(instance).or_default();
        if now.since(suspect.last) > TOGETHER {
            suspect.acquit();
        }
        suspect.failures = suspect.failures.saturating_add(1);
        suspect.last = now;
        suspect.contradicted |= evidence == Evidence::Contradicted;
        suspect.remember(target);
        if !suspect.is_guilty() || suspect.failures < u32::from(rule.after) {
            let others_can = suspect.contradicted || suspect.target_is_good;
            return if others_can { Judgement::Guilty } else { Judgement::Open };
        }
        Judgement::Eject(rule.base.saturating_mul(1 << suspect.ejections.min(16)).min(rule.at_most))
    }

    /// It was ejected until then.
    pub(crate) fn ejected(&mut self, instance: u64, until: Moment) {
        if let Some(suspect) = self.0.get_mut(&instance) {
            suspect.acquit();
            suspect.ejections = suspect.ejections.saturating_add(1);
            suspect.last = until;
        }
    }

    /// An instance answered a request well: its own failures end, and it is evidence against the others.
    pub(crate) fn answered(&mut self, instance: u64, target: u64, rule: &Ejection, now: Moment) {
        let mut own = None;
        for (number, suspect) in &mut self.0 {
            if *number == instance {
                suspect.acquit();
                own = Some(suspect.ejections == 0 || now.since(suspect.last) > rule.at_most);
            } else if suspect.failures > 0 {
                suspect.others.0 = suspect.others.0.saturating_add(1);
                suspect.target_is_good |= suspect.targets[..suspect.different].contains(&target);
            }
        }
        if own == Some(true) {
            self.0.remove(&instance);
        }
    }

    /// Forgets the suspects whose last failure is too long ago to matter.
    pub(crate) fn forget(&mut self, rule: &Ejection, now: Moment) {
        let kept = TOGETHER.max(rule.at_most * 2);
        self.0.retain(|_, suspect| now.since(suspect.last) <= kept);
    }
}

/// Whether one more instance of a site may be ejected: of `all` that are not down, `ejected` are already. A share at
/// most, but one in any case; and one always stays.
pub(crate) const fn may_eject(rule: &Ejection, all: usize, ejected: usize) -> bool {
    let share = all * rule.max_percent as usize / 100;
    let allowed = if share == 0 && rule.max_percent > 0 { 1 } else { share };
    ejected < allowed && ejected + 1 < all
}

#[cfg(test)]
mod tests {
    use super::*;

    const RULE: Ejection = Ejection {
        after: 3,
        base: Duration::from_secs(5),
        at_most: Duration::from_secs(60),
        max_percent: 50,
    };
    const FIVE_SECONDS: Judgement = Judgement::Eject(Duration::from_secs(5));

    fn fail(suspects: &mut Suspects, targets: &[u64], evidence: Evidence) -> Judgement {
        let mut last = Judgement::Open;
        for target in targets {
            last = suspects.failed(1, *target, evidence, &RULE, Moment(1_000));
        }
        last
    }

    fn answered(suspects: &mut Suspects, instance: u64, target: u64) {
        suspects.answered(instance, target, &RULE, Moment(1_000));
    }

    /// So many requests for something else were answered well by another instance.
    fn well(suspects: &mut Suspects, count: usize) {
        for _ in 0..count {
            answered(suspects, 2, 1);
        }
    }

    #[test]
    fn one_url_ejects_no_instance() {
        let mut suspects = Suspects::default();
        assert_eq!(fail(&mut suspects, &[7; 100], Evidence::Alone), Judgement::Open);
        well(&mut suspects, 1_000);
        assert_eq!(
            fail(&mut suspects, &[7; 100], Evidence::Alone),
            Judgement::Open,
            "others are well, this URL was not asked of them"
        );
        assert_eq!(fail(&mut suspects, &[7; 100], Evidence::Shared), Judgement::Open);
    }

    #[test]
    fn an_answer_elsewhere_to_what_fails_here_is_evidence() {
        let mut suspects = Suspects::default();
        assert_eq!(fail(&mut suspects, &[7, 7], Evidence::Alone), Judgement::Open);
        answered(&mut suspects, 2, 7);
        assert_eq!(fail(&mut suspects, &[7], Evidence::Alone), Judgement::Guilty, "a body may differ");
        well(&mut suspects, 9);
        assert_eq!(fail(&mut suspects, &[7], Evidence::Alone), FIVE_SECONDS);
    }

    #[test]
    fn what_fails_everywhere_at_one_rate_is_no_evidence() {
        let mut suspects = Suspects::default();
        fail(&mut suspects, &[7, 8, 9], Evidence::Alone);
        well(&mut suspects, 15);
        suspects.failed(2, 10, Evidence::Alone, &RULE, Moment(1_000));
        assert_eq!(fail(&mut suspects, &[7], Evidence::Alone), Judgement::Open, "15 and 1 elsewhere");
        suspects.answered(3, 1, &RULE, Moment(1_000));
        well(&mut suspects, 4);
        assert_eq!(fail(&mut suspects, &[7], Evidence::Alone), FIVE_SECONDS, "20 and 1 elsewhere");
    }

    #[test]
    fn an_answer_elsewhere_to_the_same_request_is_evidence() {
        let mut suspects = Suspects::default();
        assert_eq!(
            fail(&mut suspects, &[7, 7], Evidence::Contradicted),
            Judgement::Guilty,
            "not yet so many"
        );
        assert_eq!(fail(&mut suspects, &[7], Evidence::Alone), FIVE_SECONDS);
    }

    #[test]
    fn several_targets_count_when_others_are_well() {
        let mut suspects = Suspects::default();
        assert_eq!(
            fail(&mut suspects, &[7, 8, 9, 10], Evidence::Alone),
            Judgement::Open,
            "perhaps all are ill"
        );
        answered(&mut suspects, 2, 1);
        assert_eq!(fail(&mut suspects, &[7], Evidence::Alone), Judgement::Open, "one answer is little");
        well(&mut suspects, 9);
        assert_eq!(fail(&mut suspects, &[7], Evidence::Alone), FIVE_SECONDS);
        let mut suspects = Suspects::default();
        well(&mut suspects, 20);
        assert_eq!(fail(&mut suspects, &[7, 8, 9, 10], Evidence::Alone), Judgement::Open, "that was before");
    }

    #[test]
    fn an_own_answer_ends_the_failures() {
        let mut suspects = Suspects::default();
        fail(&mut suspects, &[7, 8], Evidence::Contradicted);
        answered(&mut suspects, 1, 1);
        assert!(suspects.is_empty());
        assert_eq!(fail(&mut suspects, &[9, 10], Evidence::Contradicted), Judgement::Guilty);
    }

    #[test]
    fn failures_far_apart_are_not_in_a_row() {
        let mut suspects = Suspects::default();
        for at in 0..10 {
            let at = Moment(at * 61_000);
            assert_eq!(suspects.failed(1, 7, Evidence::Contradicted, &RULE, at), Judgement::Guilty);
        }
        suspects.forget(&RULE, Moment(9 * 61_000 + 120_001));
        assert!(suspects.is_empty());
    }

    #[test]
    fn each_ejection_is_longer_up_to_a_minute_and_good_conduct_is_forgiven() {
        let mut suspects = Suspects::default();
        let mut now = 1_000;
        for seconds in [5, 10, 20, 40, 60, 60] {
            let mut last = Judgement::Open;
            for _ in 0..3 {
                last = suspects.failed(1, 7, Evidence::Contradicted, &RULE, Moment(now));
            }
            assert_eq!(last, Judgement::Eject(Duration::from_secs(seconds)));
            now += seconds * 1_000;
            suspects.ejected(1, Moment(now));
            suspects.answered(1, 7, &RULE, Moment(now + 10));
        }
        assert!(!suspects.is_empty(), "it answered once");
        suspects.answered(1, 7, &RULE, Moment(now + 60_001));
        assert!(suspects.is_empty());
    }

    #[test]
    fn a_share_may_be_ejected_and_one_stays() {
        let most = |percent, all| {
            let rule = Ejection { max_percent: percent, ..RULE };
            (0..=all).find(|ejected| !may_eject(&rule, all, *ejected)).unwrap()
        };
        let cases = [
            ((50, 1), 0),
            ((50, 2), 1),
            ((50, 3), 1),
            ((50, 10), 5),
            ((10, 10), 1),
            ((10, 3), 1),
            ((10, 30), 3),
            ((0, 10), 0),
            ((100, 10), 9),
            ((100, 1), 0),
        ];
        for ((percent, all), expected) in cases {
            assert_eq!(most(percent, all), expected, "{percent} % of {all}");
        }
    }

    #[test]
    fn their_number_is_bounded() {
        let mut suspects = Suspects::default();
        for instance in 0..10_000 {
            suspects.failed(instance, 7, Evidence::Alone, &RULE, Moment(1));
        }
        assert_eq!(suspects.0.len(), MOST);
    }
}
