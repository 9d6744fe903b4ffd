//! A decision as text: the aliases that were followed, and the answer.

use std::{fmt, sync::Arc};

use store::{
    model::{DomainName, Ttl},
    snapshot::SteeredDomain,
};

use crate::{
    answer::{Answer, answer},
    client::Client,
    lookup::{Found, Lookup, alias, find, zone_for},
    name::QueryName,
    question::Question,
    record::{Data, Owner, Record},
};
use store::model::RecordData;

/// Why a question is answered as it is. `store::steering` shows the ranking behind it.
#[derive(Clone, Debug)]
pub struct Explanation {
    /// The zone the name lies in; `None`: in none of ours.
    pub zone: Option<DomainName>,
    /// The aliases on the way.
    pub chain: Vec<Step>,
    /// The steered domain that decided, if one did.
    pub steered: Option<Arc<SteeredDomain>>,
    /// The outcome, as `dig` shows it.
    pub rcode: &'static str,
    /// Which other clients get this answer: all that have this many leading bits in common with the client.
    pub scope: u8,
    /// The answer section in presentation form.
    pub answer: Vec<String>,
    /// The authority section.
    pub authority: Vec<String>,
    /// The additional section.
    pub additional: Vec<String>,
}

/// One alias that was followed.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct Step {
    /// The name that is an alias.
    pub name: String,
    /// Where it points.
    pub target: DomainName,
    /// How long it may be remembered.
    pub ttl: Ttl,
    /// Why it is there.
    pub why: Alias,
}

/// Why there is an alias.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Alias {
    /// The name is a service's host.
    Service,
    /// It is written in the zone.
    Record,
    /// A wildcard covers the name.
    Wildcard,
    /// A DNAME above it redirects the name (RFC 6672).
    Redirection,
}

impl fmt::Display for Alias {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.write_str(match self {
            Self::Service => "host of a service",
            Self::Record => "CNAME in the zone",
            Self::Wildcard => "covered by a wildcard",
            Self::Redirection => "redirected by a DNAME above it",
        })
    }
}

/// Answers a question and explains the answer.
#[must_use]
pub fn explain(lookup: Lookup<'_>, question: &Question, client: &Client) -> Explanation {
    let Answer { rcode, scope, answer, authority, additional, steered, .. } =
        answer(lookup, question, client);
    let text = |records: &[Record]| records.iter().map(|it| line(it, &question.name)).collect();
    Explanation {
        zone: zone_for(lookup, question).map(|zone| zone.zone.name.clone()),
        chain: answer.iter().filter_map(|record| step(lookup, record, &question.name)).collect(),
        steered,
        rcode: rcode.as_str(),
        scope,
        answer: text(&answer),
        authority: text(&authority),
        additional: text(&additional),
    }
}

fn step(lookup: Lookup<'_>, record: &Record, queried: &QueryName) -> Option<Step> {
    let Data::Plain(RecordData::Cname(target)) = &record.data else { return None };
    let name = match &record.owner {
        Owner::QueryName => queried.key(),
        Owner::At(name) => name.as_str(),
    };
    let zone = lookup.zone_of(name)?;
    let why = match find(zone, name, record.data.record_type()) {
        Found::Entry { wildcard: true, .. } => Alias::Wildcard,
        Found::Entry { entry, .. } if alias(zone, entry).is_some_and(|_| entry.alias.is_none()) => {
            Alias::Record
        }
        Found::Entry { .. } => Alias::Service,
        Found::Redirection { .. } => Alias::Redirection,
        Found::Delegation { .. } | Found::Nothing => return None,
    };
    Some(Step { name: name.to_owned(), target: target.clone(), ttl: record.ttl, why })
}

fn line(record: &Record, queried: &QueryName) -> String {
    let owner = match &record.owner {
        Owner::QueryName => queried.to_string(),
        Owner::At(name) => format!("{name}."),
    };
    format!("{owner} {} IN {} {}", record.ttl.as_secs(), record.data.record_type(), record.data)
}
