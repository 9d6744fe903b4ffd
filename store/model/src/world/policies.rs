//! What policies, rules and recoveries get wrong about the sites and checks they name.

use std::collections::BTreeMap;

use super::checker::Checker;
use crate::{
    BlueGreen, DocumentId, Domain, Jurisdiction, Kind, Name, Policy, Weight, input_error::suggestion,
};

pub(super) fn check(checker: &mut Checker<'_>, at: &DocumentId, domain: &Domain, sites: &[Name]) {
    let mut part = Part { checker, at, sites };
    part.policy("policy", &domain.policy);
    for (n, rule) in domain.rules.iter().enumerate() {
        part.policy(&format!("rules[{n}].policy"), &rule.policy);
    }
    if let Some(gate) = &domain.recovery.gate {
        checker.refer(at, "recovery.gate", Kind::Check, gate.as_str());
    }
    if domain.verdict == Jurisdiction::Regional {
        regional(checker, at);
    }
}

/// At least one vantage must have a region in which a site lies.
fn regional(checker: &mut Checker<'_>, at: &DocumentId) {
    let world = checker.world;
    let lived_in = |region: &Name| world.sites().any(|site| site.region.as_ref() == Some(region));
    let spoken_for = world.vantages().any(|vantage| {
        let of_site = || world.site(vantage.site.as_ref()?.as_str())?.region.as_ref();
        vantage.region.as_ref().or_else(of_site).is_some_and(lived_in)
    });
    if !spoken_for {
        let expected = "a Site and a Vantage with the same region, or verdict: global";
        checker.report(at, "verdict", "no vantage speaks for a region in which a site lies", expected);
    }
}

struct Part<'c, 'w> {
    checker: &'c mut Checker<'w>,
    at: &'c DocumentId,
    sites: &'c [Name],
}

impl Part<'_, '_> {
    fn policy(&mut self, field: &str, policy: &Policy) {
        match policy {
            Policy::Nearest {} => {}
            Policy::Failover { order } => self.failover(field, order),
            Policy::Weighted { weights } => self.weights(field, weights),
            Policy::BlueGreen(it) => self.colours(field, it),
        }
    }

    fn no_site(&mut self, field: &str, site: &Name, expected: &str) {
        let hint = suggestion(site.as_str(), self.sites.iter().map(Name::as_str));
        self.checker.report(self.at, field, format!("{site} is no site of the domain{hint}"), expected);
    }

    /// A failover order names every site of the domain, each once.
    fn failover(&mut self, field: &str, order: &[Name]) {
        let expected = "every site of the domain, each once";
        for (n, site) in order.iter().enumerate() {
            let field = format!("{field}.order[{n}]");
            if !self.sites.contains(site) {
                self.no_site(&field, site, expected);
            } else if order[..n].contains(site) {
                self.checker.report(self.at, &field, format!("{site} is a duplicate value"), expected);
            }
        }
        for site in self.sites.iter().filter(|site| !order.contains(site)) {
            let problem = format!("the site {site} is missing");
            self.checker.report(self.at, &format!("{field}.order"), problem, expected);
        }
    }

    fn weights(&mut self, field: &str, weights: &BTreeMap<Name, Weight>) {
        let expected = "a weight for every site of the domain; 0 for one that is only a back-up";
        for site in weights.keys().filter(|site| !self.sites.contains(site)) {
            self.no_site(&format!("{field}.weights.{site}"), site, expected);
        }
        for site in self.sites.iter().filter(|site| !weights.contains_key(*site)) {
            let problem = format!("the site {site} is missing");
            self.checker.report(self.at, &format!("{field}.weights"), problem, expected);
        }
    }

    fn colours(&mut self, field: &str, policy: &BlueGreen) {
        let expected = "every site of the domain in one of the two";
        for (colour, sites) in [("blue", &policy.blue), ("green", &policy.green)] {
            for (n, site) in sites.iter().enumerate() {
                let field = format!("{field}.{colour}[{n}]");
                if !self.sites.contains(site) {
                    self.no_site(&field, site, expected);
                } else if colour == "green" && policy.blue.contains(site) {
                    self.checker.report(self.at, &field, format!("{site} is blue already"), expected);
                }
            }
        }
        for site in
            self.sites.iter().filter(|site| !policy.blue.contains(site) && !policy.green.contains(site))
        {
            let problem = format!("the site {site} has no colour");
            self.checker.report(self.at, field, problem, expected);
        }
    }
}
