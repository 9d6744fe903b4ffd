use super::*;

fn alike(answers: &[(&str, &str)], sites: &[(&str, Tier, &str)]) -> OneSeen {
    Arc::new(Alike {
        answers: answers.iter().map(|(who, what)| ((*who).into(), (*what).into())).collect(),
        sites: sites.iter().map(|(site, tier, order)| ((*site).into(), *tier, (*order).into())).collect(),
    })
}

fn seen(generation: u64, domains: &[(&str, &OneSeen)]) -> Seen {
    let domains = domains.iter().map(|(name, seen)| (name.parse().unwrap(), Arc::clone(seen))).collect();
    Seen { generation: generation.to_string(), domains }
}

fn up() -> OneSeen {
    let sites = [("bj", Tier::Up, ""), ("sh", Tier::Up, "")];
    alike(&[("bj", "bj"), ("sh", "sh"), (OTHERS, "bj")], &sites)
}

fn bj_is(tier: Tier, order: &str) -> OneSeen {
    alike(&[("bj", "sh"), ("sh", "sh"), (OTHERS, "sh")], &[("bj", tier, order), ("sh", Tier::Up, "")])
}

#[test]
fn an_answer_that_changes_says_for_whom_and_why() {
    let (up, down) = (up(), bj_is(Tier::Down, ""));
    let lines = Story::of(&seen(1, &[("a.example", &up)]), &seen(1, &[("a.example", &down)])).lines();
    let why = "bj was up and is down".to_owned();
    let (from, to) = ("bj".to_owned(), "sh".to_owned());
    let (domains, clients) = ("a.example".to_owned(), "near bj, all others".to_owned());
    assert_eq!(lines, [Line::Answer { domains, clients, from, to, why }]);
    let forced = bj_is(Tier::ForcedDown, " (override work: down, by ops: switch)");
    let lines = Story::of(&seen(1, &[("a.example", &up)]), &seen(2, &[("a.example", &forced)])).lines();
    let Line::Answer { why, .. } = &lines[0] else { panic!("{lines:?}") };
    assert_eq!(why, "bj was up and is forced down (override work: down, by ops: switch); configuration 2");
    assert!(Story::of(&seen(1, &[("a.example", &up)]), &seen(2, &[("a.example", &up)])).lines().is_empty());
}

#[test]
fn a_hold_down_begins_and_ends() {
    let (down, held) = (bj_is(Tier::Down, ""), bj_is(Tier::HeldDown, ""));
    let hold_down = |begins| Line::HoldDown { domains: "a.example".into(), site: "bj".into(), begins };
    let lines = Story::of(&seen(1, &[("a.example", &down)]), &seen(1, &[("a.example", &held)])).lines();
    assert_eq!(lines, [hold_down(true)]);
    let lines = Story::of(&seen(1, &[("a.example", &held)]), &seen(1, &[("a.example", &up())])).lines();
    assert_eq!((lines.len(), &lines[1]), (2, &hold_down(false)), "{lines:?}");
}

#[test]
fn a_hundred_thousand_domains_that_change_alike_are_one_line() {
    let (up, down) = (up(), bj_is(Tier::Down, ""));
    let world = |seen: &OneSeen| {
        let domains = (0..100_000).map(|n| (format!("d{n:06}.example").parse().unwrap(), Arc::clone(seen)));
        Seen { generation: "1".to_owned(), domains: domains.collect() }
    };
    let lines = Story::of(&world(&up), &world(&down)).lines();
    let Line::Answer { domains, .. } = &lines[0] else { panic!("{lines:?}") };
    assert_eq!(lines.len(), 1);
    assert!(domains.starts_with("d000000.example, ") && domains.ends_with(" and 99995 more"), "{domains}");
}

#[test]
fn changes_that_are_all_different_are_bounded() {
    let sites = [("bj", Tier::Up, "")];
    let one = |answer: &str| alike(&[(OTHERS, answer)], &sites);
    let world = |more: &str| {
        let domains = (0..50).map(|n| (format!("d{n}.example").parse().unwrap(), one(&format!("{more}{n}"))));
        Seen { generation: "1".to_owned(), domains: domains.collect() }
    };
    let lines = Story::of(&world("a"), &world("b")).lines();
    assert_eq!(lines.len(), MOST_LINES + 1);
    assert_eq!(lines.last(), Some(&Line::More { kinds: 30, domains: 30 }));
}
