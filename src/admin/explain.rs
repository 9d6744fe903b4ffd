//! `/v1/explain`: one decision, whole: where the client is, what is known of each site, who ranks where, and the
//! answer with its TTL. The answer comes from `dns` and the ranking from `store::steering`: nothing is decided
//! a second time.

mod past;

use std::{collections::BTreeMap, net::IpAddr};

use axum::{Json, extract::State};
use serde::{Deserialize, Serialize};
use store::{
    board::Board,
    locality::Located,
    model::{Generation, Moment, Span},
    snapshot::{SiteId, Snapshot, SteeredDomain},
    steering::{self, Family, FamilyOutcome, Look, Tier},
};

use super::{
    Admin, Asked, Caller, Problem,
    status::{Forced, Seen, ViewStatus, forced, seen, view_of},
};
pub use past::PastExplained;

use crate::auth::Right;

#[derive(Debug, Deserialize)]
pub(super) struct Wanted {
    name: String,
    #[serde(rename = "type", default)]
    record_type: Option<String>,
    client: Option<IpAddr>,
    /// A past moment, as in RFC 3339.
    at: Option<jiff::Timestamp>,
}

/// A decision, for people and scripts.
#[derive(Clone, Debug, Serialize, Deserialize)]
pub struct Explained {
    /// The generation it was made with.
    pub generation: Generation,
    /// Of a past moment: when, and what is not known of it. Absent: now.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub past: Option<PastExplained>,
    /// Whether the verdicts it rests on follow what the vantages see; of a past moment it is not known.
    #[serde(default)]
    pub view: ViewStatus,
    /// The client.
    pub client: IpAddr,
    /// The site whose networks hold the client; absent: none, and the default order applies.
    pub home: Option<String>,
    /// The site nearest to where the GeoIP database of this node places the client, if it is in no site's networks.
    pub near: Option<String>,
    /// The country it is in, as far as this node knows.
    pub country: Option<String>,
    /// Whether this node has a GeoIP database. One that has may answer clients of no site's networks otherwise.
    #[serde(default)]
    pub geoip: bool,
    /// Clients that agree with this one in as many leading bits get the same answer.
    pub scope: u8,
    /// The sites, nearest first.
    pub order: Vec<String>,
    /// The zone of the name; absent: none of ours.
    pub zone: Option<String>,
    /// The aliases on the way.
    pub chain: Vec<String>,
    /// The domain that decided, if one did.
    pub domain: Option<String>,
    /// Its policy; of a domain with rules, that of the rule that fits the client now.
    pub policy: Option<String>,
    /// The rule that decided, counted from 1; absent: none fits, or there are none.
    #[serde(default)]
    pub rule: Option<usize>,
    /// From a site's death to the last client's last wrong answer, at most; absent without a check.
    #[serde(default)]
    pub failover: Option<FailoverExplained>,
    /// Its sites, best first.
    pub sites: Vec<SiteExplained>,
    /// Of a question for addresses that has no answer: an operator took out every site that has that family, and others
    /// are left for the other.
    #[serde(default)]
    pub taken_out: bool,
    /// The outcome, as `dig` shows it.
    pub rcode: String,
    /// The answer section.
    pub answer: Vec<String>,
    /// The authority section.
    pub authority: Vec<String>,
}

/// A failover in its parts.
#[derive(Clone, Debug, Default, Serialize, Deserialize)]
pub struct FailoverExplained {
    /// Until vantages are sure.
    pub detect: Span,
    /// Until every node answers otherwise.
    pub propagate: Span,
    /// Until resolvers have forgotten.
    pub ttl: Span,
    /// All of it.
    pub whole: Span,
    /// What it may be.
    pub budget: Option<Span>,
}

impl FailoverExplained {
    pub(super) fn of(snapshot: &Snapshot, domain: &SteeredDomain) -> Option<Self> {
        let it = snapshot.failover(domain)?;
        Some(Self {
            detect: Span(it.detect),
            propagate: Span(it.propagate),
            ttl: Span(it.ttl),
            whole: Span(it.whole()),
            budget: domain.domain.budget,
        })
    }
}

/// One site of a decision.
#[derive(Clone, Debug, Serialize, Deserialize)]
pub struct SiteExplained {
    /// The site.
    pub site: String,
    /// Its tier, overrides included.
    pub tier: String,
    /// What the probes say.
    pub real: String,
    /// The override in force.
    pub forced: Option<Forced>,
    /// It is full, and this client is among those that go elsewhere.
    #[serde(default)]
    pub full: bool,
    /// It may be answered.
    pub usable: bool,
    /// Of a question for addresses: why this site has none of that family to answer with.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub lacks: Option<String>,
    /// Its addresses with what is known of each.
    pub addresses: Vec<AddressExplained>,
}

/// One address of a site.
#[derive(Clone, Debug, Serialize, Deserialize)]
pub struct AddressExplained {
    /// The address.
    pub address: IpAddr,
    /// The verdict's state; absent without a check.
    pub verdict: Option<String>,
    /// How long it has been so.
    pub lasting: Option<Span>,
    /// What each vantage sees.
    pub observations: BTreeMap<String, Seen>,
}

pub(super) async fn explain(
    State(admin): State<Admin>,
    caller: Caller,
    Asked(asked): Asked<Wanted>,
) -> Result<Json<Explained>, Problem> {
    caller.needs(Right::Read)?;
    let snapshot = admin.handle.snapshot();
    let snapshot = snapshot.ok_or_else(|| Problem::not_found("this node has no configuration yet"))?;
    let name: dns::QueryName =
        asked.name.parse().map_err(|error| Problem::wrong(format!("name: {error}")))?;
    let record_type = asked.record_type.as_deref().unwrap_or("A").parse::<dns::RecordType>();
    let record_type = record_type.map_err(|error| Problem::wrong(format!("type: {error}")))?;
    let client = asked.client.unwrap_or_else(|| IpAddr::from([127, 0, 0, 1]));
    let past = match asked.at {
        Some(at) => Some(past::world_at(&admin, at).await?),
        None => None,
    };
    let snapshot = past.as_ref().map_or(snapshot, |then| std::sync::Arc::clone(&then.snapshot));
    let (board, now) = match &past {
        Some(then) => (&then.board, then.moment),
        None => (&**admin.handle.board(), admin.handle.now()),
    };
    let picture = admin.handle.picture().await;
    let (zones, targets) = (admin.zones.load(), admin.targets.load());
    let world = dns::Lookup { snapshot: &snapshot, zones: &zones, targets: &targets, board, now };
    let family = match record_type {
        dns::RecordType::A => Some(Family::V4),
        dns::RecordType::AAAA => Some(Family::V6),
        _ => None,
    };
    let question = dns::Question { name, record_type, class: dns::Question::IN };
    let explanation = dns::explain(world, &question, &dns::Client::at(client));
    drop(zones);
    let located = snapshot.locality.locate(client);
    let sites = explanation
        .steered
        .as_ref()
        .map(|steered| {
            let asked = (family, past.is_none().then_some(&picture));
            sites(&snapshot, steered, &located, (board, now), asked)
        })
        .unwrap_or_default();
    let alias =
        |step: &dns::Step| format!("{} -> {} ({}, TTL {})", step.name, step.target, step.why, step.ttl);
    Ok(Json(Explained {
        generation: snapshot.generation,
        past: past.as_ref().map(|then| then.told.clone()),
        view: if past.is_none() { view_of(&admin) } else { ViewStatus::default() },
        client,
        home: located.home.map(|id| site_name(&snapshot, id)),
        near: located.near.filter(|_| located.home.is_none()).map(|id| site_name(&snapshot, id)),
        country: located.country.map(|it| it.to_string()),
        geoip: snapshot.locality.knows_countries(),
        scope: explanation.scope,
        order: located.order.iter().map(|id| site_name(&snapshot, *id)).collect(),
        zone: explanation.zone.as_ref().map(ToString::to_string),
        chain: explanation.chain.iter().map(alias).collect(),
        domain: explanation.steered.as_ref().map(|it| it.domain.name.to_string()),
        policy: explanation.steered.as_ref().map(|it| {
            let rule = steering::rule_for(it, &located, now);
            rule.and_then(|at| it.domain.rules.get(at))
                .map_or(&it.domain.policy, |it| &it.policy)
                .as_str()
                .to_owned()
        }),
        rule: explanation.steered.as_ref().and_then(|it| Some(steering::rule_for(it, &located, now)? + 1)),
        failover: explanation.steered.as_ref().and_then(|it| FailoverExplained::of(&snapshot, it)),
        sites: sites.0,
        taken_out: sites.1,
        rcode: explanation.rcode.to_owned(),
        answer: explanation.answer,
        authority: explanation.authority,
    }))
}

fn site_name(snapshot: &Snapshot, id: SiteId) -> String {
    snapshot.sites.get(usize::from(id.0)).map_or_else(String::new, |site| site.name.to_string())
}

/// The sites, best first, and whether an operator took out all that have the family. Without a picture of the present only
/// what the board says is known of an address.
fn sites(
    snapshot: &Snapshot,
    steered: &SteeredDomain,
    asker: &Located<'_>,
    (board, now): (&Board, Moment),
    (family, picture): (Option<Family>, Option<&store::beliefs::Picture>),
) -> (Vec<SiteExplained>, bool) {
    let ranking = steering::rank(steered, asker, board, now);
    let look = family.map(|family| Look { family, region: asker.region, board });
    let outcome = look.map(|look| steering::for_family(steered, &ranking, look));
    let taken_out = matches!(outcome, Some(FamilyOutcome::TakenOut));
    let usable = ranking.usable().len();
    let of = |(place, ranked): (usize, &steering::Ranked)| {
        let site = steered.sites.get(usize::from(ranked.at))?;
        let address = |it: &store::snapshot::SteeredAddress| {
            let target = snapshot.targets.values().find(|target| Some(target.slot) == it.slot);
            let reading = it.slot.map(|slot| board.read(slot));
            let known = reading.filter(|it| it.since > Moment(0));
            let observations = target.zip(picture).map(|(target, picture)| seen(picture, &target.key));
            AddressExplained {
                address: it.ip,
                verdict: reading.map(|it| it.state.as_str().to_owned()),
                lasting: known.map(|it| Span(std::time::Duration::from_secs(now.since(it.since).as_secs()))),
                observations: observations.unwrap_or_default(),
            }
        };
        Some(SiteExplained {
            site: site_name(snapshot, ranked.site),
            tier: tier(ranked.tier, steered),
            real: ranked.real.as_str().to_owned(),
            forced: steering::override_in_force(site, now).map(forced),
            full: ranked.overflows,
            usable: place < usable,
            lacks: look.and_then(|look| steering::lacks(site, look)),
            addresses: site.addresses.iter().map(address).collect(),
        })
    };
    (ranking.all().iter().enumerate().filter_map(of).collect(), taken_out)
}

pub(super) fn tier(tier: Tier, domain: &SteeredDomain) -> String {
    let recovery = &domain.domain.recovery;
    let gate = recovery.gate.as_ref().map_or_else(String::new, |gate| format!(", gate {gate}"));
    match tier {
        Tier::Up => "up",
        Tier::Unknown => "unknown",
        Tier::HeldDown => {
            return format!("held down (recovered, not let back yet: {}{gate})", recovery.mode.as_str());
        }
        Tier::Down => "down",
        Tier::Draining => "draining",
        Tier::ForcedDown => "forced down",
    }
    .to_owned()
}
