//! Orders at any control: those about an instance of another site are passed on to that site, which leads its drain.

use std::{sync::Arc, time::Duration};

use store::{
    drain::{Drain, DrainId, Phase},
    engine::Index,
    model::Name,
    remote::reader,
};

use super::PASS_ON;
use crate::{
    api::{DrainAnswer, DrainChange, DrainOrder, PassedOnDrain, Problem, exchange::Version},
    control::{
        ControlHandle, Refusal, Refused,
        drains::{checked, new_id},
        intake::bounded,
    },
    sites::{PeerError, Peers},
};

/// The longest that the other site may take.
const DEADLINE: Duration = Duration::from_secs(10);
/// The largest answer.
const MAX_ANSWER: usize = 1024 * 1024;
/// How long it is waited for the copy of what was ordered elsewhere, so that it can be shown here.
const PATIENCE: Duration = Duration::from_secs(3);

/// A cancelled drain.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct Cancelled {
    /// Its record.
    pub drain: Drain,
    /// The site that leads it, if it could not be asked: it learns of the cancellation when it answers.
    pub not_told: Option<Name>,
}

impl ControlHandle {
    /// Orders the drain of an instance of any site. The site whose registry has it leads the drain.
    ///
    /// # Errors
    /// As [`ControlHandle::drain`]. Conflict: several other sites have the instance. Unavailable: the site that has it cannot be
    /// asked.
    pub async fn drain_anywhere(&self, order: DrainOrder, peers: &Peers) -> Result<Drain, Refused> {
        checked(&order)?;
        let own = &self.shared.config.site;
        match order.site.clone() {
            Some(site) if site == *own => return self.drain(order).await,
            Some(site) => return self.pass_order_on(order, site, peers).await,
            None => {}
        }
        let refused = match self.drain(order.clone()).await {
            Err(refused) if refused.kind == Refusal::NotFound && !peers.all().is_empty() => refused,
            done => return done,
        };
        let sites = self.sites_with(&order, peers).await?;
        match sites.as_slice() {
            [] => {
                let text = format!("{refused}, and no other site has told of {}", order.instance);
                Err(Refused::new(Refusal::NotFound, text))
            }
            [site] => self.pass_order_on(order, site.clone(), peers).await,
            several => {
                let names: Vec<&str> = several.iter().map(Name::as_str).collect();
                let text = format!(
                    "{} of {} is registered at each of {}: say which with `site`",
                    order.instance,
                    order.service,
                    names.join(", ")
                );
                Err(Refused::new(Refusal::Conflict, text))
            }
        }
    }

    /// The other sites that have told of an instance.
    async fn sites_with(&self, order: &DrainOrder, peers: &Peers) -> Result<Vec<Name>, Refused> {
        let service = self.drain_orders.registry_name(&order.service);
        let mut found = Vec::new();
        for site in peers.all().iter().filter_map(|it| it.site()) {
            let copy = bounded(reader::load(self.shared.engine.as_ref(), site)).await?;
            let told = copy.as_ref().and_then(|it| it.state.get(&service));
            let fits = |it: &store::remote::Instance| {
                it.id == order.instance && order.node.as_ref().is_none_or(|node| it.node == *node)
            };
            if told.is_some_and(|it| it.instances.iter().any(fits)) {
                found.push(site.clone());
            }
        }
        Ok(found)
    }

    async fn pass_order_on(&self, order: DrainOrder, site: Name, peers: &Peers) -> Result<Drain, Refused> {
        let (instance, service) = (order.instance.clone(), self.drain_orders.registry_name(&order.service));
        let by = order.by.clone();
        let change = DrainChange::Order(DrainOrder { site: None, service: service.clone(), ..order });
        let passed_on = PassedOnDrain { v: Version, by, id: new_id(), change };
        let drain = match self.pass_on(passed_on, &site, peers).await? {
            Ok(answer) => answer?,
            Err(error) => {
                let text = format!(
                    "{instance} of {service} is registered at the site {site}, whose control leads its drain and cannot be \
                     asked ({error}): nothing is drained. `waypost override set` takes the whole site out meanwhile"
                );
                return Err(Refused::new(Refusal::Unavailable, text));
            }
        };
        self.wait_for_copy(&drain.id, |_| true).await;
        Ok(Drain { site: Some(site), ..drain })
    }

    /// Passes an order on. The outer error: the site has no control.
    async fn pass_on(
        &self,
        passed_on: PassedOnDrain,
        site: &Name,
        peers: &Peers,
    ) -> Result<Result<Result<Drain, Refused>, PeerError>, Refused> {
        let Some(peer) = peers.of(site) else {
            let text = format!("the documents name no control of a site {site}");
            return Err(Refused::new(Refusal::NotFound, text));
        };
        let answer = peer.call::<_, DrainAnswer>(PASS_ON, &passed_on, DEADLINE, MAX_ANSWER).await;
        Ok(answer.map(|answer| match answer {
            DrainAnswer::Record { drain } => Ok(*drain),
            DrainAnswer::Refused { status, problem } => {
                Err(Refused::new(Refusal::of_status(status), format!("{site}: {}", problem.error)))
            }
        }))
    }

    /// Carries out what another site passed on, about an instance of our registry.
    pub async fn drain_passed_on(&self, site: &Name, asked: PassedOnDrain) -> DrainAnswer {
        let PassedOnDrain { by, id, change, .. } = asked;
        let by = format!("{by} at {site}");
        let done = match change {
            DrainChange::Order(order) => {
                self.drain(DrainOrder { by, id: Some(id), site: None, ..order }).await
            }
            DrainChange::Cancel => self.cancel_led_here(&id, &by).await,
        };
        match done {
            Ok(mut drain) => {
                drain.hook = None;
                DrainAnswer::Record { drain: Box::new(drain) }
            }
            Err(refused) => DrainAnswer::Refused {
                status: refused.kind.status(),
                problem: Problem { error: refused.text, mistakes: Vec::new() },
            },
        }
    }

    async fn cancel_led_here(&self, id: &DrainId, by: &str) -> Result<Drain, Refused> {
        match self.drain_orders.record(&id.0).await? {
            Some((_, drain)) if drain.is_led_here() => self.cancel(&id.0, by).await,
            _ => Err(Refused::new(Refusal::NotFound, format!("there is no drain {id} that is led here"))),
        }
    }

    /// Cancels a drain of any site. If the site that leads it cannot be asked, or no longer has it, the drain is cancelled
    /// here, and the leading site learns of it once it answers: a cancellation, like an order of any kind, has to work
    /// at a site that is alone.
    ///
    /// # Errors
    /// As [`ControlHandle::cancel`].
    pub async fn cancel_anywhere(&self, id: &str, by: &str, peers: &Peers) -> Result<Cancelled, Refused> {
        let here = |drain| Cancelled { drain, not_told: None };
        let site = match self.drain_orders.record(id).await? {
            Some((_, Drain { site: Some(site), phase, .. })) if phase != Phase::Cancelled => site,
            _ => return self.cancel(id, by).await.map(here),
        };
        let change = DrainChange::Cancel;
        let passed_on = PassedOnDrain { v: Version, by: by.to_owned(), id: DrainId(id.to_owned()), change };
        let Ok(answer) = self.pass_on(passed_on, &site, peers).await else {
            // Its document is gone, and with it the site.
            return self.cancel(id, by).await.map(here);
        };
        match answer {
            Ok(Ok(drain)) => {
                self.wait_for_copy(&drain.id, |copy| copy.phase == Phase::Cancelled).await;
                Ok(here(Drain { site: Some(site), ..drain }))
            }
            Ok(Err(refused)) if refused.kind == Refusal::NotFound => self.cancel(id, by).await.map(here),
            Ok(Err(refused)) => Err(refused),
            Err(error) => {
                tracing::warn!(%site, drain = id, %error, "the site that leads a drain learns of its cancellation later");
                let drain = self.cancel(id, by).await?;
                Ok(Cancelled { drain, not_told: Some(site) })
            }
        }
    }

    /// Waits for a short time until this node has the copy of a drain.
    async fn wait_for_copy(&self, id: &DrainId, fits: impl Fn(&Drain) -> bool) {
        let mut drains = self.shared.handle.drains();
        let has = |known: &(Index, Arc<Drain>)| fits(&known.1);
        let copied = drains.wait_for(|drains| drains.records.get(id).is_some_and(has));
        let _ = tokio::time::timeout(PATIENCE, copied).await;
    }
}

impl Refusal {
    /// Its status of HTTP between sites.
    const fn status(self) -> u16 {
        match self {
            Self::NotFound => 404,
            Self::Wrong => 400,
            Self::Conflict => 409,
            Self::Unavailable => 503,
        }
    }

    const fn of_status(status: u16) -> Self {
        match status {
            404 => Self::NotFound,
            400 => Self::Wrong,
            409 => Self::Conflict,
            _ => Self::Unavailable,
        }
    }
}
