//! Zones made of aliases: redirections (DNAME) to names below themselves, above, beside and elsewhere, aliases (CNAME)
//! into them and out of them, wildcards, names as long as names can be, and zones that are redirected whole.
//!
//! Labels are few, so that most chains meet another redirection, the same one again, or a name that they have passed before.

use std::{
    collections::{BTreeMap, BTreeSet},
    fmt::Write as _,
};

use fastrand::Rng;

use super::zones::ZoneFile;

const LABELS: &[&str] = &["a", "b", "c", "d", "e"];

/// Zones beside one another, every fourth below the one before it.
pub fn many(random: &mut Rng, count: usize) -> Vec<ZoneFile> {
    let apexes: Vec<_> = (0..count)
        .map(|at| match at % 4 {
            3 => format!("child.x{}.test", at - 1),
            _ => format!("x{at}.test"),
        })
        .collect();
    apexes.iter().map(|apex| one(random, apex, &apexes)).collect()
}

#[derive(Clone, Copy, PartialEq, Eq)]
enum Kind {
    Redirection,
    Alias,
    Address,
}

fn one(random: &mut Rng, apex: &str, apexes: &[String]) -> ZoneFile {
    // No name, and no zone, may be below a redirection (RFC 6672 §2.4).
    let has_a_zone_below = apexes.iter().any(|it| it.ends_with(&format!(".{apex}")));
    let whole = random.u8(..8) == 0 && !has_a_zone_below;
    let mut owners: BTreeMap<String, Kind> = BTreeMap::new();
    if !whole {
        for _ in 0..random.usize(4..24) {
            let name = relative(random);
            let kind = match random.u8(..10) {
                0..5 => Kind::Redirection,
                5..8 => Kind::Alias,
                _ => Kind::Address,
            };
            owners.entry(name).or_insert(kind);
        }
        let redirected: BTreeSet<String> = owners
            .iter()
            .filter(|(_, kind)| **kind == Kind::Redirection)
            .map(|(name, _)| name.clone())
            .collect();
        owners.retain(|name, _| !redirected.iter().any(|it| name.ends_with(&format!(".{it}"))));
        for _ in 0..random.u8(..3) {
            let below = relative(random);
            let hidden = owners.iter().any(|(name, kind)| {
                *kind == Kind::Redirection && (below == *name || below.ends_with(&format!(".{name}")))
            });
            if !hidden {
                owners.insert(format!("*.{below}"), if random.bool() { Kind::Alias } else { Kind::Address });
            }
        }
    }
    let mut text = format!(
        "$ORIGIN {apex}.\n$TTL 3600\n@ SOA ns.elsewhere.example. hostmaster.elsewhere.example. 1 7200 600 86400 300\n\
         @ NS ns.elsewhere.example.\n"
    );
    if whole {
        writeln!(text, "@ 300 DNAME {}.", random.choice(apexes).unwrap()).unwrap();
    }
    let known: Vec<String> = owners.keys().filter(|it| !it.starts_with('*')).cloned().collect();
    for (name, kind) in &owners {
        let ttl = random.u32(1..100_000);
        match kind {
            Kind::Redirection => {
                writeln!(text, "{name} {ttl} DNAME {}", redirected(random, name, &known, apexes)).unwrap();
                if random.u8(..4) == 0 {
                    writeln!(text, "{name} {ttl} A 192.0.2.{}", random.u8(1..255)).unwrap();
                }
            }
            Kind::Alias => {
                writeln!(text, "{name} {ttl} CNAME {}", aliased(random, &known, apexes)).unwrap();
            }
            Kind::Address => writeln!(text, "{name} {ttl} A 192.0.2.{}", random.u8(1..255)).unwrap(),
        }
    }
    let names = known.into_iter().map(|name| format!("{name}.{apex}")).chain([apex.to_owned()]).collect();
    ZoneFile::of(apex, text, names)
}

/// Where a redirection leads.
fn redirected(random: &mut Rng, name: &str, known: &[String], apexes: &[String]) -> String {
    match random.u8(..12) {
        // Below itself, and itself: the name grows, or stays, for ever.
        0 | 1 => format!("{}.{name}", relative(random)),
        2 => name.to_owned(),
        // Above itself.
        3 => name.split_once('.').map_or_else(|| "@".to_owned(), |(_, above)| above.to_owned()),
        // As long as will do.
        4 => format!("{}.{}", ["l"; 3].map(|it| it.repeat(random.usize(20..63))).join("."), relative(random)),
        5 => "www.elsewhere.example.".to_owned(),
        6 => format!("{}.", random.choice(apexes).unwrap()),
        7 => format!("{}.{}.", relative(random), random.choice(apexes).unwrap()),
        8 => relative(random),
        _ => random.choice(known).unwrap().clone(),
    }
}

/// Where an alias leads: mostly below a redirection, one or two labels.
fn aliased(random: &mut Rng, known: &[String], apexes: &[String]) -> String {
    let target = random.choice(known).cloned().unwrap_or_else(|| "a".to_owned());
    match random.u8(..10) {
        0 => "www.elsewhere.example.".to_owned(),
        1 => format!("{}.{}.", relative(random), random.choice(apexes).unwrap()),
        2 => relative(random),
        3 | 4 => target,
        _ => format!("{}.{target}", relative(random)),
    }
}

fn relative(random: &mut Rng) -> String {
    let depth = *random.choice(&[1, 1, 1, 2, 2, 3]).unwrap();
    (0..depth).map(|_| *random.choice(LABELS).unwrap()).collect::<Vec<_>>().join(".")
}

/// A name, mostly below a name that a zone has, now and then as long as names can be.
pub fn question(random: &mut Rng, zone: &ZoneFile) -> String {
    let known = random.choice(zone.names()).unwrap();
    match random.u8(..12) {
        0..2 => known.clone(),
        2..9 => format!("{}.{known}", relative(random)),
        9 => {
            let room = 253_usize.saturating_sub(known.len() + 1);
            let labels = ["q"; 4].map(|it| it.repeat(random.usize(1..63))).join(".");
            let labels = labels.get(labels.len().saturating_sub(room)..).unwrap_or_default();
            let labels = labels.trim_start_matches('.');
            if labels.is_empty() { known.clone() } else { format!("{labels}.{known}") }
        }
        _ => format!("{}.{}", relative(random), zone.apex),
    }
}
