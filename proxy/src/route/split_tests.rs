//! Shares by weight, and clients that stay with theirs.

use std::{collections::BTreeMap, time::Duration};

use proptest::prelude::*;
use store::model::{Span, Weight};

use super::*;
use crate::route::testing::{TestRequest, request};

fn service(at: usize) -> Name {
    format!("s{at}").parse().unwrap()
}

fn split(weights: &[u16]) -> Split {
    let targets: Vec<_> = weights
        .iter()
        .enumerate()
        .map(|(at, weight)| RouteTarget { service: service(at), weight: Weight(*weight) })
        .collect();
    Split::new(&targets, |name| (0..weights.len()).find(|at| service(*at) == *name))
}

fn counts(split: &Split, clients: u64) -> BTreeMap<usize, u64> {
    let mut counts = BTreeMap::new();
    for client in 0..clients {
        *counts.entry(split.stick(stable_hash(1, &client.to_le_bytes())).unwrap()).or_default() += 1;
    }
    counts
}

proptest! {
    #[test]
    fn a_split_gives_every_share_its_part(weights in prop::collection::vec(0u16..5, 0..5)) {
        let split = split(&weights);
        let total: u32 = weights.iter().map(|weight| u32::from(*weight)).sum();
        let mut counts = vec![0u16; weights.len()];
        for drawn in 0..total {
            counts[split.draw(|_| drawn).unwrap()] += 1;
        }
        if weights.iter().filter(|weight| **weight > 0).count() > 1 {
            prop_assert_eq!(counts, weights);
        } else {
            prop_assert_eq!(split.draw(|_| 0).is_some(), total > 0);
        }
        prop_assert_eq!(split.stick(1).is_some(), total > 0);
    }

    #[test]
    fn a_client_moves_only_towards_what_gained_weight(
        before in prop::collection::vec(1u16..20, 2..5),
        at in 0_usize..5,
        weight in 0u16..40,
        key in any::<u64>(),
    ) {
        let at = at % before.len();
        let mut after = before.clone();
        after[at] = weight;
        let (was, is) = (split(&before).stick(key), split(&after).stick(key));
        if was != is {
            let to_or_from = if weight > before[at] { is } else { was };
            prop_assert_eq!(to_or_from, Some(at));
        }
    }
}

#[test]
fn clients_are_kept_in_the_shares_that_the_weights_say() {
    let even = counts(&split(&[90, 10]), 20_000);
    assert!((1_800..2_200).contains(&even[&1]), "{even:?}");
    let thirds = counts(&split(&[1, 1, 1]), 30_000);
    assert!(thirds.values().all(|count| (9_500..10_500).contains(count)), "{thirds:?}");
}

#[test]
fn a_canary_that_grows_keeps_its_clients() {
    let (small, large) = (split(&[95, 5]), split(&[80, 20]));
    let keys = || (0..20_000_u64).map(|client| stable_hash(1, &client.to_le_bytes()));
    let canary = keys().filter(|key| small.stick(*key) == Some(1));
    assert!(canary.clone().count() > 800);
    assert!(canary.into_iter().all(|key| large.stick(key) == Some(1)));
    let moved = keys().filter(|key| small.stick(*key) != large.stick(*key)).count();
    assert!((2_700..3_300).contains(&moved), "15 of 100 move, not {moved} of 20000");
}

#[test]
fn what_a_client_is_known_by() {
    let header = SessionPersistence::Header { session_name: "X-User".parse().unwrap() };
    let by_cookie = SessionPersistence::Cookie {
        session_name: "sid".parse().unwrap(),
        absolute_timeout: Some(Span(Duration::from_secs(90))),
    };
    let plain = request("GET", "h", "/");
    let with = |name: &str, value: &str| TestRequest {
        fields: vec![(name.to_owned(), value.to_owned())],
        ..plain.clone()
    };
    assert_eq!(session_key(&header, &plain), None);
    assert_eq!(session_key(&header, &with("x-user", "anna")), Some(stable_hash(0, b"anna")));
    assert_eq!(session_key(&by_cookie, &with("cookie", "a=b; sid=x")), Some(stable_hash(0, b"x")));
    assert_eq!(session_key(&by_cookie, &with("cookie", "a=b")), None);

    let new = NewSession::begin(&by_cookie, 0xab, true).unwrap();
    assert_eq!(new.set_cookie, "sid=00000000000000ab; Path=/; HttpOnly; SameSite=Lax; Max-Age=90; Secure");
    let cookie = new.set_cookie.split(';').next().unwrap();
    assert_eq!(
        session_key(&by_cookie, &with("cookie", cookie)),
        Some(new.key),
        "it stays where it was sent first"
    );
    assert_eq!(NewSession::begin(&header, 1, false), None);

    let from = |ip: &str| {
        session_key(
            &SessionPersistence::Client {},
            &TestRequest { client: ip.parse().unwrap(), ..plain.clone() },
        )
    };
    assert_eq!(from("192.0.2.1"), from("192.0.2.200"));
    assert_eq!(from("192.0.2.1"), from("::ffff:192.0.2.200"));
    assert_ne!(from("192.0.2.1"), from("192.0.3.1"));
    assert_eq!(from("2001:db8:0:1ff::1"), from("2001:db8:0:100::2"));
    assert_ne!(from("2001:db8:0:100::1"), from("2001:db8:0:200::1"));
}
