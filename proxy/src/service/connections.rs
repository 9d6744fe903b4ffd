//! How connections to the instances of a service are made and kept.

use std::{io, sync::Arc, time::Duration};

use async_trait::async_trait;
use store::{
    dial::{Handshake, NotShaken, Secured},
    engine::Endpoint,
    model::{ProxyProtocol, Service},
};
use tokio::net::TcpStream;

use crate::{config::Limits, tls};

/// How connections to the instances of a service are made and kept.
#[derive(Clone, Debug)]
pub(crate) struct Connections {
    /// TLS with the instances; `None`: in the clear.
    pub(crate) tls: Option<InstanceTls>,
    /// The header that each begins with. Such a connection is one client's, and serves no other.
    pub(crate) proxy_protocol: Option<ProxyProtocol>,
    /// How long they are kept.
    pub(crate) keep: Keep,
}

/// How long connections are kept.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(crate) struct Keep {
    /// How long an idle one is kept.
    pub(crate) idle_for: Duration,
    /// The most idle ones to an address of an instance, per worker.
    pub(crate) most: usize,
    /// After how many requests one is closed.
    pub(crate) requests: u32,
}

impl Keep {
    /// True if a connection with so many requests behind it may serve another.
    pub(crate) const fn allows(&self, served: u32) -> bool {
        served < self.requests && self.most > 0 && !self.idle_for.is_zero()
    }

    const fn usual(own: &Limits) -> Self {
        Self { idle_for: own.idle_for, most: own.idle_per_instance, requests: u32::MAX }
    }
}

/// TLS with the instances of a service.
#[derive(Clone, Debug)]
pub(crate) struct InstanceTls {
    settings: Arc<tls::Backend>,
    /// The name that is asked for; `None`: the instance's own.
    name: Option<Arc<str>>,
}

/// What TLS has verified of the other side of a connection. A connection with another identity is another connection,
/// although it is to the same address.
#[derive(Clone, Debug)]
pub(crate) struct Identity {
    settings: Arc<tls::Backend>,
    name: Arc<str>,
}

impl Connections {
    /// Of a service; what the document does not say is the gateway's own. Reads files if they are new.
    pub(crate) fn of(service: &Service, own: &Limits, tls: &tls::Backends) -> Self {
        let usual = Keep::usual(own);
        let keep = service.keep_alive.as_deref().map_or(usual, |it| Keep {
            idle_for: it.idle.map_or(usual.idle_for, |it| it.0),
            most: it.most.map_or(usual.most, usize::from),
            requests: it.requests.unwrap_or(usual.requests),
        });
        let tls = InstanceTls::of(service, tls);
        Self { tls, proxy_protocol: service.proxy_protocol, keep }
    }

    /// To gateways of another site, which stand for the instances there: they are no instances, and meet those as the document
    /// says.
    pub(crate) const fn with_gateways(own: &Limits) -> Self {
        Self { tls: None, proxy_protocol: None, keep: Keep::usual(own) }
    }

    /// True if a connection with this identity may serve a request to an instance.
    pub(crate) fn admit(&self, identity: Option<&Identity>, instance: &Endpoint) -> bool {
        match (&self.tls, identity) {
            (None, None) => true,
            (Some(tls), Some(identity)) => {
                Arc::ptr_eq(&tls.settings, &identity.settings) && *identity.name == *tls.name(instance)
            }
            _ => false,
        }
    }

    /// True if a connection may serve one client after another.
    pub(crate) const fn are_shared(&self) -> bool {
        self.proxy_protocol.is_none()
    }
}

impl InstanceTls {
    /// Of a service; `None` if it is spoken with in the clear. Reads files if they are new.
    pub(crate) fn of(service: &Service, tls: &tls::Backends) -> Option<Self> {
        let settings = service.tls.as_deref()?;
        // A wildcard is no name to ask for.
        let host = || service.hosts.iter().find(|it| !it.as_str().starts_with("*."));
        let name = settings.server_name.as_ref().or_else(host).map(|it| it.as_str().into());
        Some(Self { settings: tls.get(settings), name })
    }

    fn name<'a>(&'a self, instance: &'a Endpoint) -> &'a str {
        self.name.as_deref().unwrap_or(&instance.address)
    }

    /// The identity that an instance must have.
    pub(crate) fn identity(&self, instance: &Endpoint) -> Identity {
        let own = || instance.address.as_str().into();
        Identity { settings: Arc::clone(&self.settings), name: self.name.clone().unwrap_or_else(own) }
    }
}

impl PartialEq for Identity {
    fn eq(&self, other: &Self) -> bool {
        Arc::ptr_eq(&self.settings, &other.settings) && self.name == other.name
    }
}

impl Eq for Identity {}

impl Identity {
    /// What the handshake is made with.
    ///
    /// # Errors
    /// Why this gateway has nothing to make it with.
    pub(crate) fn tls(&self) -> Result<tls::ClientTls, String> {
        self.settings.tls()
    }

    /// The name that is asked for, and that the certificate must be for.
    pub(crate) fn name(&self) -> &str {
        &self.name
    }
}

/// Checks speak TLS as requests do.
#[async_trait]
impl Handshake for Identity {
    async fn shake(&self, stream: TcpStream, protocols: &[&[u8]]) -> Result<Box<dyn Secured>, NotShaken> {
        let tls = self.tls().map_err(NotShaken::Here)?.anew(protocols);
        let stream = tls.connect(self.name(), stream).await.map_err(NotShaken::There)?;
        if protocols == [b"h2".as_slice()] && stream.get_ref().1.alpn_protocol() != Some(b"h2") {
            return Err(NotShaken::There(io::Error::other(
                "the instance does not agree to HTTP/2 (ALPN h2)",
            )));
        }
        Ok(Box::new(stream))
    }
}

#[cfg(test)]
mod tests {
    use store::model::{BackendTls, KeepAlive, Span};

    use super::*;
    use crate::testing::{endpoint, sources};

    fn of(change: impl FnOnce(&mut Service)) -> Connections {
        let mut service = sources().services.remove(0);
        change(&mut service);
        Connections::of(&service, &Limits::default(), &tls::Backends::default())
    }

    fn secured(hosts: &[&str], server_name: Option<&str>) -> Connections {
        of(|service| {
            service.hosts = hosts.iter().map(|it| it.parse().unwrap()).collect();
            let server_name = server_name.map(|it| it.parse().unwrap());
            service.tls = Some(Box::new(BackendTls { server_name, verify: false, ..BackendTls::default() }));
        })
    }

    #[test]
    fn connections_are_kept_as_the_document_says_or_as_the_gateway_does() {
        let own = Limits::default();
        let usual = Keep { idle_for: own.idle_for, most: own.idle_per_instance, requests: u32::MAX };
        assert_eq!(of(|_| {}).keep, usual);
        assert!(usual.allows(1_000_000));
        let kept = KeepAlive { idle: None, most: Some(3), requests: Some(2) };
        let keep = of(|it| it.keep_alive = Some(Box::new(kept))).keep;
        assert_eq!(keep, Keep { idle_for: own.idle_for, most: 3, requests: 2 });
        assert!(keep.allows(1) && !keep.allows(2));
        let none = KeepAlive { idle: Some(Span::default()), most: None, requests: None };
        assert!(!of(|it| it.keep_alive = Some(Box::new(none))).keep.allows(0), "each request has its own");
        assert!(
            !of(|it| it.keep_alive = Some(Box::new(KeepAlive { most: Some(0), ..Default::default() })))
                .keep
                .allows(0)
        );
    }

    #[test]
    fn the_name_is_the_documents_or_a_host_or_the_instances_own() {
        let name = |connections: &Connections| {
            let instance = Endpoint { address: "web.internal".into(), ..endpoint("web", 1) };
            connections.tls.as_ref().unwrap().identity(&instance).name().to_owned()
        };
        assert_eq!(name(&secured(&["a.example"], Some("b.example"))), "b.example");
        assert_eq!(name(&secured(&["*.apps.example", "a.example"], None)), "a.example");
        assert_eq!(name(&secured(&["*.apps.example"], None)), "web.internal");
    }

    #[test]
    fn a_connection_serves_only_its_own_identity() {
        let instance = endpoint("web", 1);
        let (plain, a, b) = (of(|_| {}), secured(&["a.example"], None), secured(&["b.example"], None));
        let identity = a.tls.as_ref().unwrap().identity(&instance);
        assert!(plain.admit(None, &instance) && !plain.admit(Some(&identity), &instance));
        assert!(a.admit(Some(&identity), &instance) && !a.admit(None, &instance));
        assert!(!b.admit(Some(&identity), &instance));
        let mut other_name = a.clone();
        other_name.tls.as_mut().unwrap().name = Some("b.example".into());
        assert!(!other_name.admit(Some(&identity), &instance), "the same settings for another name");
        let proxied = of(|it| it.proxy_protocol = Some(ProxyProtocol::V2));
        assert!(!proxied.are_shared() && plain.are_shared());
    }
}
