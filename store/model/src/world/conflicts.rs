//! Overrides that have no effect, because those before them leave no room for them.
//!
//! An override is checked when it is given. While sites cannot reach one another, two controls may take orders that each
//! is allowed and that together are not. Then the later one, in an order that is the same at every site, has no effect.
//! The rules are those of the check ([`super::overlays`]), so that there is one definition of what an override may do.

use super::{
    World,
    checker::Checker,
    overlays::{ended, turns_off},
    steered::SteeredName,
};
use crate::{Moment, Name, Override};

impl World {
    /// Of these overrides, those without effect and why. Each is checked together with the earlier ones that have an
    /// effect. The overrides that are documents of this world do not count.
    #[must_use]
    pub fn without_effect<'o>(
        &self,
        overrides: impl IntoIterator<Item = &'o Override>,
        now: Moment,
    ) -> Vec<(Name, String)> {
        let overrides: Vec<&Override> = overrides.into_iter().filter(|it| !ended(it, now)).collect();
        let mut without = Vec::new();
        if overrides.is_empty() {
            return without;
        }
        let steered: Vec<SteeredName<'_>> = self.names_with_clients().collect();
        let mut taken: Vec<&Override> = Vec::new();
        for order in overrides {
            if let Some(site) = order.target.site.as_ref().filter(|site| self.site(site.as_str()).is_none()) {
                without.push((order.name.clone(), format!("there is no Site {site}")));
                continue;
            }
            taken.push(order);
            if !turns_off(order) {
                continue;
            }
            let mut checker = Checker::without_places(self);
            checker.safe(&steered, &taken, now);
            // The earlier ones were safe together, so an error is due to this one.
            if let Some(error) = checker.errors.into_iter().next() {
                taken.pop();
                without.push((order.name.clone(), error.problem));
            }
        }
        without
    }
}
