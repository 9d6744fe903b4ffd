//! What other sites tell of the services, as last heard. The judgement of it is [`crate::discovery::judge_part`].

use std::{
    collections::{BTreeMap, HashMap},
    sync::Arc,
};

use super::super::remote::RemoteNews;
use crate::{discovery::Entry, model::Name, remote::Told};

#[derive(Debug, Default)]
struct Site {
    told: HashMap<String, Arc<Told>>,
    dark: Option<String>,
}

/// All other sites.
#[derive(Debug, Default)]
pub(super) struct Parts {
    sites: BTreeMap<Name, Site>,
}

/// The services that news are about.
pub(super) enum About {
    All,
    These(Vec<String>),
}

impl Parts {
    /// Takes news; the site and the services that they are about.
    pub(super) fn take(&mut self, news: RemoteNews) -> (Name, About) {
        match news {
            RemoteNews::Told(name, services) => {
                let site = self.sites.entry(name.clone()).or_default();
                let mut about = Vec::with_capacity(services.len());
                for (service, told) in services {
                    match told {
                        Some(told) => drop(site.told.insert(service.clone(), told)),
                        None => drop(site.told.remove(&service)),
                    }
                    about.push(service);
                }
                (name, About::These(about))
            }
            RemoteNews::Whole(name, services) => {
                self.sites.entry(name.clone()).or_default().told = services.into_iter().collect();
                (name, About::All)
            }
            RemoteNews::Dark(name, dark) => {
                self.sites.entry(name.clone()).or_default().dark = dark;
                (name, About::All)
            }
            RemoteNews::Forgotten(name) => {
                self.sites.remove(&name);
                (name, About::All)
            }
        }
    }

    /// The names of the sites.
    pub(super) fn sites(&self) -> Vec<Name> {
        self.sites.keys().cloned().collect()
    }

    /// What a site tells of a service, and why it is dark if it is.
    pub(super) fn told(&self, site: &Name, service: &str) -> Option<(Entry, Option<&str>)> {
        let heard = self.sites.get(site)?;
        let told = heard.told.get(service)?;
        Some((told.entry(service, site), heard.dark.as_deref()))
    }
}
