//! How requests to a service are balanced: a Service document as the balancer needs it.

use std::time::Duration;

use store::model::{self, Balance, Check, Percent, Service};

use super::circuit::CircuitLimits;
use crate::{
    config::Limits,
    health::{Dials, Ejection, Rules},
};

/// How an instance is picked among those that are fit.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq)]
pub(crate) enum Policy {
    /// The better of two that are drawn by weight, by requests in flight and latency.
    #[default]
    P2c,
    /// One after the other, by weight.
    RoundRobin,
    /// The one with the fewest requests in flight for its weight.
    LeastRequests,
    /// By consistent hash of the request's key; a request without one is balanced as by [`Policy::P2c`].
    Hash {
        /// The most requests in flight of an instance, in percent of the mean.
        bounded_percent: u16,
    },
}

/// The settings of a service.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(crate) struct Settings {
    /// How an instance is picked.
    pub(crate) policy: Policy,
    /// How long a new instance, or one that is back, takes to get its full share.
    pub(crate) slow_start: Duration,
    /// Whether the registry's weights count.
    pub(crate) registry_weights: bool,
    /// When instances are ejected or down.
    pub(crate) rules: Rules,
    /// When less than this share of a site's instances is fit, ejections do not count there, in percent.
    pub(crate) panic_percent: u8,
    /// A site keeps all requests while its healthy share times this is a whole, in percent.
    pub(crate) overprovision: u16,
    /// The largest share of requests that goes to other sites while the own one has an instance, in percent.
    pub(crate) cross_site_max: u8,
}

impl Default for Settings {
    fn default() -> Self {
        Self {
            policy: Policy::default(),
            slow_start: Duration::ZERO,
            registry_weights: true,
            rules: Rules::default(),
            panic_percent: 50,
            overprovision: 140,
            cross_site_max: 100,
        }
    }
}

impl Settings {
    /// Of a service, with its check; what the document does not say is the gateway's own.
    pub(crate) fn of(service: &Service, check: Option<&Check>, own: &Limits) -> Self {
        let usual = model::Ejection::default();
        let ejection = service.ejection.as_deref().unwrap_or(&usual);
        let at_most = if service.ejection.is_some() { ejection.at_most.0 } else { own.eject_at_most };
        let dials = check.map_or_else(Dials::default, |it| Dials { fall: it.fall, rise: it.rise });
        Self {
            policy: match &service.balance {
                Balance::P2c {} => Policy::P2c,
                Balance::RoundRobin {} => Policy::RoundRobin,
                Balance::LeastRequests {} => Policy::LeastRequests,
                Balance::Hash { bounded_load, .. } => Policy::Hash { bounded_percent: bounded_load.0 },
            },
            slow_start: service.slow_start.0,
            registry_weights: service.registry_weights,
            rules: Rules {
                ejection: Ejection {
                    after: ejection.consecutive.unwrap_or_else(|| own.eject_after.into()),
                    base: ejection.base.map_or(own.eject_for, |it| it.0),
                    at_most,
                    max_percent: at_most_whole(ejection.max_percent),
                },
                dials,
            },
            panic_percent: at_most_whole(ejection.panic_percent),
            overprovision: service.overprovision.0,
            cross_site_max: at_most_whole(service.cross_site_max),
        }
    }
}

/// The limits on what a service has at a time; `None` if it has none.
pub(crate) fn circuit_limits(service: &Service) -> Option<CircuitLimits> {
    service.circuit_breaker.as_deref().map(|it| CircuitLimits {
        connections: it.connections,
        pending: it.pending,
        requests: it.requests,
    })
}

/// How long the gateway waits from one dial by a service's check to the next; `None` if it dials by none.
pub(crate) fn dials_every(service: &Service, check: &Check) -> Option<Duration> {
    let health = service.health.as_deref().cloned().unwrap_or_default();
    health.active.then(|| health.interval.unwrap_or(check.interval).0)
}

fn at_most_whole(percent: Percent) -> u8 {
    u8::try_from(percent.0).unwrap_or(100).min(100)
}

#[cfg(test)]
mod tests {
    use store::model::Span;

    use super::*;
    use crate::testing::sources;

    fn service() -> Service {
        sources().services.remove(0)
    }

    #[test]
    fn a_document_without_settings_has_the_usual_ones_and_the_gateways_own() {
        let own = Limits { eject_after: 7, eject_at_most: Duration::from_secs(9), ..Limits::default() };
        let settings = Settings::of(&service(), None, &own);
        let ejection = Ejection { after: 7, at_most: Duration::from_secs(9), ..Ejection::default() };
        let rules = Rules { ejection, dials: Dials::default() };
        assert_eq!(settings, Settings { rules, ..Settings::default() });
        assert_eq!(circuit_limits(&service()), None);
    }

    #[test]
    fn a_document_says_otherwise() {
        let mut service = service();
        let seconds = |seconds| Span(Duration::from_secs(seconds));
        service.balance = Balance::RoundRobin {};
        service.slow_start = seconds(30);
        service.registry_weights = false;
        service.overprovision = Percent(200);
        service.cross_site_max = Percent(10);
        service.ejection = Some(Box::new(model::Ejection {
            consecutive: Some(9),
            base: Some(seconds(1)),
            at_most: seconds(2),
            max_percent: Percent(20),
            panic_percent: Percent(0),
        }));
        service.circuit_breaker = Some(Box::new(model::CircuitBreaker { requests: 5, ..Default::default() }));
        let ejection = Ejection {
            after: 9,
            base: Duration::from_secs(1),
            at_most: Duration::from_secs(2),
            max_percent: 20,
        };
        let expected = Settings {
            policy: Policy::RoundRobin,
            slow_start: Duration::from_secs(30),
            registry_weights: false,
            rules: Rules { ejection, dials: Dials::default() },
            panic_percent: 0,
            overprovision: 200,
            cross_site_max: 10,
        };
        assert_eq!(Settings::of(&service, None, &Limits::default()), expected);
        assert_eq!(circuit_limits(&service).map(|it| it.requests), Some(5));
    }
}
