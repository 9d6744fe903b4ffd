//! How requests to a service are balanced: a Service document as the balancer needs it.

use std::time::Duration;

use crate::health::Rules;

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
