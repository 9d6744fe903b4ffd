//! The catalog as the registry's DNS reads it: in place, borrowed, without waiting.
//!
//! It is apart from the trait [`Engine`](super::Engine), whose reads are asynchronous and copy what they return,
//! because an answer over DNS needs a few rows, a hundred thousand times a second.

use std::{collections::BTreeMap, fmt, net::IpAddr};

use super::{CheckStatus, Endpoint};

/// A catalog that can be looked at.
pub trait Catalog: fmt::Debug + Send + Sync + 'static {
    /// Looks at what is committed now, all of it at one moment. A look holds up the catalog's writer, so it
    /// should be short; it waits at most while a commit is shown, which is done in memory.
    fn look(&self, look: &mut dyn FnMut(&dyn View));
}

/// What a look sees. Names are compared without regard to case, as in DNS; callers pass them in lower case.
pub trait View {
    /// The instances of a service, also the critical ones, by node and id.
    fn instances<'a>(&'a self, service: &str) -> Vec<Instance<'a>>;

    /// A node; the first by spelling where several differ in case alone.
    fn node<'a>(&'a self, name: &str) -> Option<Node<'a>>;

    /// The first node with this address.
    fn node_at<'a>(&'a self, address: IpAddr) -> Option<Node<'a>>;

    /// The name of the first service with an instance that is registered under this address.
    fn service_at(&self, address: IpAddr) -> Option<&str>;
}

/// A node of the catalog.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct Node<'a> {
    /// Its name.
    pub name: &'a str,
    /// An IP address or a host name.
    pub address: &'a str,
    /// Its metadata.
    pub meta: Option<&'a BTreeMap<String, String>>,
}

/// An instance of a service.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct Instance<'a> {
    /// The node it is registered on.
    pub node: Node<'a>,
    /// An IP address or a host name; `None` for an instance that has its node's.
    pub address: Option<&'a str>,
    /// Its port.
    pub port: u16,
    /// Its tags.
    pub tags: &'a [String],
    /// Its weight in the state it is in.
    pub weight: u32,
    /// The worst of its checks and its node's.
    pub status: CheckStatus,
}

impl<'a> From<&'a Endpoint> for Instance<'a> {
    /// The address counts as the instance's own: an endpoint does not record whether it was the node's.
    fn from(endpoint: &'a Endpoint) -> Self {
        Self {
            node: Node { name: &endpoint.node, address: &endpoint.node_address, meta: None },
            address: Some(&endpoint.address),
            port: endpoint.port,
            tags: &endpoint.tags,
            weight: endpoint.weight,
            status: endpoint.status,
        }
    }
}
