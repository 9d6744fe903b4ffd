//! Policies, rules and schedules.

use std::collections::BTreeMap;

use super::some;
use crate::{
    BlueGreen, Country, Day, Name, NotACountry, Policy, PolicyType, Rule, Schedule, TimeOfDay, Weight,
    read::{Fields, Reader},
};

/// What one rule may list, so that a client can be compared with all of them.
const MAX_LISTED: usize = 64;

pub(super) fn policy(field: &Reader<'_>) -> Option<Policy> {
    let mut fields = field.fields()?;
    match fields.required_word("type") {
        Some(PolicyType::Nearest) => Some(Policy::Nearest {}),
        Some(PolicyType::Failover) => {
            let expected = "every site of the domain, first choice first";
            let order = fields.required("order", expected, |field| some(&field, |item| item.parse()));
            Some(Policy::Failover { order: order? })
        }
        Some(PolicyType::Weighted) => {
            let weights = fields.required("weights", "a weight for every site of the domain", weights);
            Some(Policy::Weighted { weights: weights? })
        }
        Some(PolicyType::BlueGreen) => blue_green(&fields),
        None => {
            fields.ignore_rest();
            None
        }
    }
}

fn weights(field: Reader<'_>) -> Option<BTreeMap<Name, Weight>> {
    let before = field.count();
    let mut weights = BTreeMap::new();
    for (key, at) in field.entries()? {
        match key.parse::<Name>() {
            Ok(site) => weights.extend(at.int(0..=u16::MAX).map(|weight| (site, Weight(weight)))),
            Err(expected) => at.error(format!("{key:?} is not {expected}"), expected.to_string()),
        }
    }
    if field.count() == before && weights.values().all(|weight| weight.0 == 0) {
        field.error("no site has a weight above 0", "at least one site that gets traffic");
    }
    Some(weights)
}

fn blue_green(fields: &Fields<'_>) -> Option<Policy> {
    let active = fields.required_word("active");
    let sites = |key| fields.required(key, "its sites", |field| some(&field, |item| item.parse()));
    let (blue, green): (Option<Vec<Name>>, Option<Vec<Name>>) = (sites("blue"), sites("green"));
    Some(Policy::BlueGreen(Box::new(BlueGreen { active: active?, blue: blue?, green: green? })))
}

/// The rules of a domain, in their order.
pub(super) fn rules(field: &Reader<'_>) -> Option<Vec<Rule>> {
    const MAX: usize = 32;
    let rules = field.list(|item| rule(&item))?;
    if rules.len() > MAX {
        field.error(format!("{} rules", rules.len()), format!("at most {MAX}"));
    }
    Some(rules)
}

fn rule(field: &Reader<'_>) -> Option<Rule> {
    let fields = field.fields()?;
    let networks = fields.optional("networks", |field| few(&field, |item| item.net()));
    let countries = fields.optional("countries", |field| few(&field, |item| country(&item)));
    let during = fields.optional("during", |field| schedule(&field));
    let policy = fields.required("policy", "{ type: … }", |field| policy(&field));
    if ["networks", "countries", "during"].iter().all(|key| fields.get(key).is_none()) {
        field.error("has no condition", "networks, countries or during");
    }
    Some(Rule {
        networks: networks.unwrap_or_default(),
        countries: countries.unwrap_or_default(),
        during,
        policy: policy?,
    })
}

fn country(field: &Reader<'_>) -> Option<Country> {
    let text = field.text(16)?;
    text.parse().map_err(|expected: NotACountry| field.wrong(expected)).ok()
}

fn few<T: Clone + Eq + std::hash::Hash>(
    field: &Reader<'_>,
    read: impl FnMut(Reader<'_>) -> Option<T>,
) -> Option<Vec<T>> {
    let found = some(field, read)?;
    if found.len() > MAX_LISTED {
        field.error(format!("{} of them", found.len()), format!("at most {MAX_LISTED}"));
    }
    Some(found)
}

/// Hours of the week.
pub(super) fn schedule(field: &Reader<'_>) -> Option<Schedule> {
    let fields = field.fields()?;
    let zone = "a time zone of the IANA database, such as Asia/Shanghai or UTC";
    let time_zone = fields.required("time_zone", zone, |field| {
        let text = field.text(64)?;
        let known = jiff::tz::TimeZone::get(text).is_ok();
        if !known {
            let names: Vec<String> = jiff::tz::db().available().map(|it| it.to_string()).collect();
            let hint = super::suggestion(text, names.iter().map(String::as_str));
            field.error(format!("there is no time zone {text:?}{hint}"), zone);
        }
        known.then(|| text.to_owned())
    });
    let days = fields.optional("days", |field| some(&field, |item| item.one_of()));
    let time = |key| fields.required(key, "a time of day such as \"02:30\"", |field| field.parse());
    let (from, to): (Option<TimeOfDay>, Option<TimeOfDay>) = (time("from"), time("to"));
    if let (Some(from), Some(to), Some(at)) = (from, to, fields.get("to"))
        && from == to
    {
        at.error("ends when it begins", "another time; a whole day is from \"00:00\" to \"24:00\"");
    }
    Some(Schedule {
        time_zone: time_zone?,
        days: days.unwrap_or_else(|| Day::ALL.to_vec()),
        from: from?,
        to: to?,
    })
}
