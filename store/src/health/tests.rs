use proptest::prelude::*;

use super::*;
use model::{Probe, TcpProbe, Tls, TlsProbe};

const fn vote(state: State) -> Vote {
    Vote { state, fresh: true, suspect: false }
}

const STALE_UP: Vote = Vote { state: State::Up, fresh: false, suspect: false };

#[test]
fn a_majority_of_the_configured_vantages_decides() {
    let start = Verdict::default();
    let up =
        merge(&start, &[vote(State::Up), vote(State::Up), vote(State::Down)], Quorum::Majority, Moment(5));
    assert_eq!((up.state, up.since, up.held, up.unsettled), (State::Up, Moment(5), false, true));
    let alone = merge(&start, &[vote(State::Up), STALE_UP, STALE_UP], Quorum::Majority, Moment(5));
    assert_eq!((alone.state, alone.held), (State::Unknown, true));
}

#[test]
fn the_last_verdict_is_kept_without_a_quorum() {
    let up = merge(&Verdict::default(), &[vote(State::Up); 3], Quorum::Majority, Moment(5));
    let held = merge(&up, &[vote(State::Down), STALE_UP, STALE_UP], Quorum::Majority, Moment(9));
    assert_eq!((held.state, held.since, held.held), (State::Up, Moment(5), true));
}

#[test]
fn recovery_is_remembered_and_a_first_up_is_none() {
    let votes = |state| [vote(state); 3];
    let first = merge(&Verdict::default(), &votes(State::Up), Quorum::Majority, Moment(1));
    assert!(!first.recovered);
    let down = merge(&first, &votes(State::Down), Quorum::Majority, Moment(2));
    let back = merge(&down, &votes(State::Up), Quorum::Majority, Moment(3));
    assert_eq!((back.recovered, back.since), (true, Moment(3)));
    assert_eq!(back.history.len(), 3);
}

#[test]
fn quorums_count_as_written() {
    for (quorum, configured, needed) in [
        (Quorum::Majority, 1, 1),
        (Quorum::Majority, 4, 3),
        (Quorum::Any, 5, 1),
        (Quorum::All, 5, 5),
        (Quorum::Count(2), 5, 2),
        (Quorum::All, 0, 1),
    ] {
        assert_eq!(quorum.votes_needed(configured), needed, "{quorum:?} of {configured}");
    }
}

fn votes() -> impl Strategy<Value = Vec<Vote>> {
    let state = prop_oneof![Just(State::Unknown), Just(State::Up), Just(State::Down)];
    let vote = (state, any::<bool>(), any::<bool>()).prop_map(|(state, fresh, suspect)| Vote {
        state,
        fresh,
        suspect,
    });
    prop::collection::vec(vote, 0..7)
}

fn quorums() -> impl Strategy<Value = Quorum> {
    prop_oneof![
        Just(Quorum::Majority),
        Just(Quorum::Any),
        Just(Quorum::All),
        (1u16..5).prop_map(Quorum::Count)
    ]
}

proptest! {
    /// DESIGN invariant 4, over random histories.
    #[test]
    fn a_change_needs_a_fresh_quorum(history in prop::collection::vec(votes(), 1..20), quorum in quorums()) {
        let mut verdict = Verdict::default();
        for (at, votes) in history.iter().enumerate() {
            let next = merge(&verdict, votes, quorum, Moment(at as u64 + 1));
            let fresh = |state| votes.iter().filter(|it| it.fresh && it.state == state).count();
            let needed = quorum.votes_needed(votes.len());
            if next.state != verdict.state {
                prop_assert!(fresh(next.state) >= needed);
                prop_assert_eq!(next.since, Moment(at as u64 + 1));
                prop_assert_ne!(next.state, State::Unknown);
            } else {
                prop_assert_eq!(next.since, verdict.since);
            }
            prop_assert!(next.history.len() <= Verdict::HISTORY);
            verdict = next;
        }
    }

    #[test]
    fn the_order_of_vantages_does_not_matter(votes in votes(), quorum in quorums(), seed: u64) {
        let mut shuffled = votes.clone();
        fastrand::Rng::with_seed(seed).shuffle(&mut shuffled);
        let verdict = |votes: &[Vote]| merge(&Verdict::default(), votes, quorum, Moment(1));
        prop_assert_eq!(verdict(&votes), verdict(&shuffled));
    }
}

#[test]
fn the_same_check_by_another_name_is_the_same_dial() {
    let span = |text: &str| text.parse().unwrap();
    let check = Check {
        name: "web".parse().unwrap(),
        probe: Probe::tcp(),
        port: 80,
        interval: span("1s"),
        timeout: span("800ms"),
        fall: 4,
        rise: 2,
        quorum: Quorum::Majority,
        damping: Check::DAMPING,
    };
    let key = |check: &Check| TargetKey::new([192, 0, 2, 1].into(), check);
    assert_eq!(key(&check), key(&Check { name: "other".parse().unwrap(), ..check.clone() }));
    let expect = TcpProbe { send: None, expect: Some("220".into()) };
    assert_ne!(key(&check), key(&Check { probe: Probe::Tcp(expect), ..check.clone() }));
    let sni = |name: &str| {
        let tls = Tls { server_name: Some(name.parse().unwrap()), ..Tls::default() };
        key(&Check { probe: Probe::Tls(Box::new(TlsProbe { tls })), ..check.clone() })
    };
    assert_ne!(sni("a.example.com"), sni("b.example.com"));
}
