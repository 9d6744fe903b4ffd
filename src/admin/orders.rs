//! The orders through the API: what is ordered, by whom, and which sites have it.

use std::collections::BTreeMap;

use axum::extract::State;
use store::{
    model::{Moment, Name, Override},
    orders::{Order, OrderKind, OrderRecord, OrderTarget},
    snapshot::OrdersInForce,
};

use super::{Admin, Caller, Problem, QueryParams, describe::List};
use crate::{
    api::{OrderView, OrdersQuery},
    auth::Right,
    control::{SeenSite, Stamps},
};

/// The orders, by target.
pub(super) async fn list(
    State(admin): State<Admin>,
    caller: Caller,
    QueryParams(query): QueryParams<OrdersQuery>,
) -> Result<List<OrderView>, Problem> {
    caller.needs(Right::Read)?;
    let snapshot = admin.handle.snapshot().unwrap_or_default();
    let sites = admin.control.other_sites().all();
    let (own, now) = (&admin.peers.own().site, admin.handle.now());
    let views = snapshot.orders.all.records().filter_map(|it| view(it, &snapshot.orders, own, &sites, now));
    Ok(List(views.filter(|it| query.all || it.in_force || it.without_effect.is_some()).collect()))
}

/// One record; `None` if nothing was ever ordered in it.
fn view(
    record: &OrderRecord,
    orders: &OrdersInForce,
    own: &Name,
    sites: &BTreeMap<Name, SeenSite>,
    now: Moment,
) -> Option<OrderView> {
    let order = record.current()?;
    let expires = match &order.kind {
        OrderKind::Override(it) => it.expires,
        _ => None,
    };
    let has_ended = expires.is_some_and(|it| i128::from(it.as_millisecond()) <= i128::from(now.0));
    let without_effect = without_effect(&record.target, order, orders);
    let asks = order.kind != OrderKind::Released && !has_ended;
    let stamps = Stamps::of(record);
    let has_it =
        |seen: &SeenSite| seen.orders.get(&record.target).is_some_and(|theirs| theirs.contain(&stamps));
    let (mut arrived, mut pending) = (vec![own.to_string()], Vec::new());
    for (site, seen) in sites {
        if has_it(seen) { &mut arrived } else { &mut pending }.push(site.to_string());
    }
    arrived.sort();
    Some(OrderView {
        about: record.target.to_string(),
        order: if has_ended { "ended".to_owned() } else { text(&order.kind) },
        in_force: asks && without_effect.is_none(),
        without_effect: without_effect.filter(|_| asks),
        by: order.by.clone(),
        authority: order.authority.as_str().to_owned(),
        site: order.stamp.site.name().map(|it| it.to_string()),
        counter: order.stamp.counter,
        at: order.at.rfc3339(),
        expires: expires.map(|it| it.to_string()),
        arrived,
        pending,
    })
}

fn without_effect(target: &OrderTarget, order: &Order, orders: &OrdersInForce) -> Option<String> {
    if let Some(found) = orders.without.iter().find(|it| it.target == *target) {
        return Some(found.reason.clone());
    }
    match target {
        OrderTarget::Switch(domain) if !orders.switches.iter().any(|it| it.domain == *domain) => {
            let is_switch = matches!(order.kind, OrderKind::Switch(_));
            is_switch.then(|| "the document of the domain says the same, or was changed since".to_owned())
        }
        _ => None,
    }
}

fn text(kind: &OrderKind) -> String {
    match kind {
        OrderKind::Override(it) => of_override(it),
        OrderKind::Switch(colour) => colour.as_str().to_owned(),
        OrderKind::Deleted => "deleted".to_owned(),
        OrderKind::Released => "ended".to_owned(),
    }
}

/// What an override asks for, such as `drain site bj for *.example.com`.
fn of_override(it: &Override) -> String {
    let site = it.target.site.as_ref().map_or_else(|| "all sites".to_owned(), |site| format!("site {site}"));
    let domains = it.target.domain.as_ref().map_or_else(String::new, |it| format!(" for {it}"));
    format!("{} {site}{domains}", it.state.as_str())
}

#[cfg(test)]
mod tests {
    use std::sync::Arc;

    use store::{
        model::{Authority, Colour, Generation},
        orders::{OrderContent, WithoutEffect},
    };

    use super::*;

    fn record(target: OrderTarget, kind: OrderKind) -> OrderRecord {
        let content = OrderContent {
            kind,
            by: "ops".into(),
            authority: Authority::Human,
            at: Moment(1_795_000_000_000),
            under: Generation::default(),
            applied: false,
        };
        let mut record = OrderRecord::empty(target.clone());
        record.take(Order::new(&target, 3, "sh".parse().unwrap(), content));
        record
    }

    #[test]
    fn an_order_is_shown_with_its_effect_and_the_sites_that_have_it() {
        let token = record(OrderTarget::Token("old".parse().unwrap()), OrderKind::Deleted);
        let colour = OrderTarget::Switch("shop.example.com".parse().unwrap());
        let switch = record(colour.clone(), OrderKind::Switch(Colour::Green));
        let has = |record: &OrderRecord| SeenSite {
            orders: Arc::new([(record.target.clone(), Stamps::of(record))].into()),
            ..SeenSite::default()
        };
        let own: Name = "bj".parse().unwrap();
        let sites: BTreeMap<Name, SeenSite> =
            [("gz".parse().unwrap(), SeenSite::default()), ("sh".parse().unwrap(), has(&token))].into();
        let orders = OrdersInForce::default();
        let now = Moment(1_795_000_100_000);
        let shown = view(&token, &orders, &own, &sites, now).unwrap();
        assert_eq!((shown.about.as_str(), shown.order.as_str()), ("Token old", "deleted"));
        assert_eq!((shown.in_force, shown.site.as_deref(), shown.counter), (true, Some("sh"), 3));
        assert_eq!(
            (shown.arrived, shown.pending),
            (vec!["bj".to_owned(), "sh".into()], vec!["gz".to_owned()])
        );
        let shown = view(&switch, &orders, &own, &sites, now).unwrap();
        assert!(!shown.in_force && shown.without_effect.is_some(), "{shown:?}");
        let reason = "breaks a rule".to_owned();
        let without = vec![WithoutEffect { target: colour, reason: reason.clone() }];
        let shown = view(&switch, &OrdersInForce { without, ..orders }, &own, &sites, now).unwrap();
        assert_eq!(shown.without_effect, Some(reason));
    }
}
