//! `/v1/explain`: one decision, whole: where the client is, what is known of each site, who ranks where, and the
//! answer with its TTL. The answer comes from `dns` and the ranking from `store::steering`: nothing is decided
//! a second time.

mod past;

use std::net::IpAddr;

use axum::{Json, extract::State};
use serde::Deserialize;
use store::{
    board::Board,
    locality::Located,
    model::{Moment, Span},
    snapshot::{Snapshot, SteeredDomain},
    steering::{self, Family, FamilyOutcome, Look},
};

use super::{
    Admin, Asked, Caller, Problem,
    shown::{failover, forced, seen, site_name, tier, view},
};
use crate::{
    api::{AddressExplained, Explained, SiteExplained, ViewStatus},
    auth::Right,
};

#[derive(Debug, Deserialize)]
pub(super) struct Wanted {
    name: String,
    #[serde(rename = "type", default)]
    record_type: Option<String>,
    client: Option<IpAddr>,
    /// A past moment, as in RFC 3339.
    at: Option<jiff::Timestamp>,
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
    let health_view = admin.handle.health_view().await;
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
            let asked = (family, past.is_none().then_some(&health_view));
            sites(&snapshot, steered, &located, (board, now), asked)
        })
        .unwrap_or_default();
    let alias =
        |step: &dns::Step| format!("{} -> {} ({}, TTL {})", step.name, step.target, step.why, step.ttl);
    Ok(Json(Explained {
        generation: snapshot.generation,
        past: past.as_ref().map(|then| then.told.clone()),
        view: if past.is_none() { view(&admin) } else { ViewStatus::default() },
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
        failover: explanation.steered.as_ref().and_then(|it| failover(&snapshot, it)),
        sites: sites.0,
        taken_out: sites.1,
        rcode: explanation.rcode.to_owned(),
        answer: explanation.answer,
        authority: explanation.authority,
    }))
}

/// The sites, best first, and whether an operator took out all that have the family. Without the present health view only
/// what the board says is known of an address.
fn sites(
    snapshot: &Snapshot,
    steered: &SteeredDomain,
    asker: &Located<'_>,
    (board, now): (&Board, Moment),
    (family, health_view): (Option<Family>, Option<&store::beliefs::HealthView>),
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
            let observations =
                target.zip(health_view).map(|(target, health_view)| seen(health_view, &target.key));
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
