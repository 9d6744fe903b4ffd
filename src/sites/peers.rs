//! The controls of all other sites that the documents name.

use std::{
    collections::BTreeMap,
    fmt,
    path::PathBuf,
    sync::{Arc, Mutex, PoisonError, Weak},
};

use store::{
    handle::Handle,
    model::{ControlUrl, Name, Site, SiteControl},
    snapshot::Snapshot,
};

use super::{Carrier, Peer, PeerMetrics, files::PeerFiles, http::Http};
use crate::certificate::CertificateFiles;

/// Who we are towards other sites.
#[derive(Clone, Debug)]
pub struct Own {
    /// Our site.
    pub site: Name,
    /// This node.
    pub node: Name,
    /// Drawn at the start of this process.
    pub boot: String,
    /// The certificate that we show.
    pub certificate: Option<CertificateFiles>,
    /// Where the relative paths in documents begin.
    pub folder: PathBuf,
}

/// Makes what carries requests to a site: over HTTP, or over a simulated network.
pub trait Carriers: fmt::Debug + Send + Sync + 'static {
    /// What carries requests to a site at the URLs of `control`; `site` is `None` if whichever site answers there is meant.
    fn carrier(&self, own: &Own, site: Option<&Name>, control: &SiteControl) -> Arc<dyn Carrier>;
}

#[derive(Debug)]
struct OverHttp;

impl Carriers for OverHttp {
    fn carrier(&self, own: &Own, site: Option<&Name>, control: &SiteControl) -> Arc<dyn Carrier> {
        let files = PeerFiles {
            site: site.cloned(),
            is_encrypted: control.urls.iter().any(ControlUrl::is_https),
            ca: control.ca_file.clone(),
            token: control.token_file.clone(),
            own: own.certificate.clone(),
        };
        Arc::new(Http::new(files, control.urls.clone()))
    }
}

/// The controls of other sites, as the documents that this node runs have them at present. Clones are one.
#[derive(Clone, Debug)]
pub struct Peers(Arc<Shared>);

#[derive(Debug)]
struct Shared {
    own: Own,
    handle: Handle,
    carriers: Arc<dyn Carriers>,
    metrics: Arc<PeerMetrics>,
    known: Mutex<Known>,
}

#[derive(Debug, Default)]
struct Known {
    /// What the peers were made of.
    of: Weak<Snapshot>,
    peers: BTreeMap<Name, (SiteControl, Peer)>,
}

impl Peers {
    /// Those of the documents that `handle` has.
    #[must_use]
    pub fn new(own: Own, handle: Handle) -> Self {
        Self::over(own, handle, Arc::new(OverHttp))
    }

    /// As [`Peers::new`], over other carriers than HTTP.
    #[must_use]
    pub fn over(own: Own, handle: Handle, carriers: Arc<dyn Carriers>) -> Self {
        Self(Arc::new(Shared { own, handle, carriers, metrics: Arc::default(), known: Mutex::default() }))
    }

    /// Who we are towards them.
    #[must_use]
    pub fn own(&self) -> &Own {
        &self.0.own
    }

    /// What is counted of calls, in both directions.
    #[must_use]
    pub fn metrics(&self) -> Arc<PeerMetrics> {
        Arc::clone(&self.0.metrics)
    }

    /// Every other site that has a control, by name. Later documents may have others: [`Handle::snapshots`] tells when.
    #[must_use]
    pub fn all(&self) -> Vec<Peer> {
        self.with_known(|known| known.peers.values().map(|(_, peer)| peer.clone()).collect())
    }

    /// One site; `None` if the documents name no control for it, or it is our own.
    #[must_use]
    pub fn of(&self, site: &Name) -> Option<Peer> {
        self.with_known(|known| known.peers.get(site).map(|(_, peer)| peer.clone()))
    }

    /// A site that is not in documents that we have: whichever site answers at these URLs. Over https its certificate must
    /// be of an authority in `ca_file` (absent: of the platform's) and name the site that it says it is. Relative paths
    /// begin where this process was started, since they are not from documents.
    #[must_use]
    pub fn at(&self, urls: Vec<ControlUrl>, ca_file: Option<PathBuf>, token_file: PathBuf) -> Peer {
        self.made(None, SiteControl { urls, ca_file, token_file })
    }

    /// A site as a document names it, whether or not our documents have it.
    pub(crate) fn peer(&self, site: Name, control: &SiteControl) -> Peer {
        let here = |path: &PathBuf| self.0.own.folder.join(path);
        let control = SiteControl {
            urls: control.urls.clone(),
            ca_file: control.ca_file.as_ref().map(here),
            token_file: here(&control.token_file),
        };
        self.made(Some(site), control)
    }

    fn made(&self, site: Option<Name>, control: SiteControl) -> Peer {
        let carrier = self.0.carriers.carrier(&self.0.own, site.as_ref(), &control);
        Peer::over(site, carrier, self.metrics())
    }

    fn with_known<T>(&self, read: impl FnOnce(&Known) -> T) -> T {
        let mut known = self.0.known.lock().unwrap_or_else(PoisonError::into_inner);
        if let Some(snapshot) = self.0.handle.snapshot()
            && known.of.as_ptr() != Arc::as_ptr(&snapshot)
        {
            known.of = Arc::downgrade(&snapshot);
            self.follow(&mut known.peers, &snapshot.sites);
        }
        read(&known)
    }

    /// Peers whose documents did not change keep their connections.
    fn follow(&self, peers: &mut BTreeMap<Name, (SiteControl, Peer)>, sites: &[Arc<Site>]) {
        let control = |site: &Site| site.control.clone().filter(|_| site.name != self.0.own.site);
        peers.retain(|name, (before, _)| {
            sites.iter().any(|it| it.name == *name && control(it).as_ref() == Some(before))
        });
        for site in sites {
            if let Some(control) = control(site).filter(|_| !peers.contains_key(&site.name)) {
                let peer = self.peer(site.name.clone(), &control);
                peers.insert(site.name.clone(), (control, peer));
            }
        }
    }
}

#[cfg(test)]
mod tests {
    use std::time::Duration;

    use store::{
        board::Board,
        handle::{Clock, channel},
        model::{Generation, Sources},
    };

    use super::*;

    fn site(name: &str, urls: &str) -> Site {
        let control = match urls {
            "" => String::new(),
            urls => format!(r#","control":{{"urls":[{urls}],"token_file":"/t"}}"#),
        };
        serde_json::from_str(&format!(r#"{{"name":"{name}"{control}}}"#)).unwrap()
    }

    #[test]
    fn the_peers_are_the_other_sites_with_a_control_and_follow_the_documents() {
        let (handle, publisher) = channel(Clock::default(), Duration::MAX);
        let own = Own {
            site: "sh".parse().unwrap(),
            node: "control-1".parse().unwrap(),
            boot: "boot".to_owned(),
            certificate: None,
            folder: PathBuf::new(),
        };
        let peers = Peers::new(own, handle);
        assert!(peers.all().is_empty(), "without documents");
        let publish = |sites: Vec<Site>, number: u64| {
            let sources = Sources { sites, ..Sources::default() };
            let generation = Generation { number, ..Generation::default() };
            publisher.publish_snapshot(Arc::new(Snapshot::compile(sources, generation, &Board::default())));
        };
        let named = || peers.all().iter().map(|it| it.site().unwrap().to_string()).collect::<Vec<_>>();
        let (bj, gz) = ("bj".parse().unwrap(), "gz".parse().unwrap());
        publish(vec![site("bj", r#""https://a.b""#), site("gz", ""), site("sh", r#""https://s.h""#)], 1);
        assert_eq!(named(), ["bj"]);
        let before = peers.of(&bj).unwrap();
        assert!(peers.of(&gz).is_none());
        publish(vec![site("bj", r#""https://a.b""#), site("gz", r#""https://g.z""#)], 2);
        assert_eq!(named(), ["bj", "gz"]);
        assert!(peers.of(&bj).unwrap().is_same(&before), "its connections are kept");
        publish(vec![site("bj", r#""https://a.b","https://b.b""#)], 3);
        assert_eq!(named(), ["bj"]);
        assert!(!peers.of(&bj).unwrap().is_same(&before));
        assert_eq!(peers.of(&bj).unwrap().urls().len(), 2);
    }
}
