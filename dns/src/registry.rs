//! The names of a registry: services, nodes and addresses of a catalog, as Consul's DNS gives them.
//!
//! [`answer()`] is pure: its arguments are a view of a catalog, a question, and what would be drawn at random.
//! [`Registry`] answers from a catalog, [`Server`] has the sockets (8600 of the embedded engine). The DNS role answers the same names from what its node follows of any registry, as configured by an [`Offer`].
//!
//! ```text
//! [tag.]NAME.service[.DC].DOMAIN    A, AAAA, SRV; an alias where the address is a host name
//! _NAME._TAG.service[.DC].DOMAIN    the same (RFC 2782); `_tcp` is any tag
//! NODE.node[.DC].DOMAIN             A, AAAA, TXT (its metadata)
//! HEX.addr[.DC].DOMAIN              the address itself, so that SRV has a name to point at
//! ```
//!
//! It differs from Consul where Consul differs from the standards or from the facts: an answer that does not fit is
//! marked (TC) and whole over TCP; a name that has names below it exists (`service.consul` is empty, not absent,
//! RFC 8020); a type that is not there is an empty answer with an SOA, never records of another type. Aliases are
//! given and not followed: the resolver goes on from there.

mod discovery;
mod in_use;
mod metrics;
mod packet;
mod query;
mod records;
mod server;

use std::{collections::HashSet, net::IpAddr};

use store::{
    engine::{
        CheckStatus,
        catalog::{Instance, Node, View},
    },
    model::{DomainName, Moment, RecordData, StartOfAuthority, Ttl},
};

pub(crate) use self::discovery::Discovery;
pub use self::{
    discovery::Offer,
    metrics::RegistryMetrics,
    server::{Registry, Server, bind},
};
use self::{
    query::Query,
    records::{Place, address_record, node_text},
};
use crate::{
    answer::Answer,
    extended::ExtendedError,
    question::{Question, unanswerable},
    record::{Data, Owner, Rcode, Record, RecordType, Soa},
};

/// What the names look like.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct Names {
    domain: DomainName,
    datacenter: String,
    /// What generated names end in: with the data centre where it can be written as a label.
    within: DomainName,
    server: Option<String>,
    ttl: Ttl,
}

impl Names {
    /// Names below `domain`, of one data centre, all remembered for `ttl` (zero is Consul's default).
    #[must_use]
    pub fn new(domain: DomainName, datacenter: &str, ttl: Ttl) -> Self {
        let datacenter = datacenter.to_ascii_lowercase();
        let one_label = !datacenter.contains('.');
        let within = domain.resolve(&datacenter).ok().filter(|_| one_label).unwrap_or_else(|| domain.clone());
        Self { domain, datacenter, within, server: None, ttl }
    }

    /// The node that answers for the domain.
    #[must_use]
    pub fn served_by(mut self, node: &str) -> Self {
        self.server = Some(node.to_ascii_lowercase());
        self
    }

    /// What all names end in.
    #[must_use]
    pub const fn domain(&self) -> &DomainName {
        &self.domain
    }

    fn below(&self, relative: &str) -> Option<DomainName> {
        self.within.resolve(relative).ok()
    }

    fn of_node(&self, node: &str) -> Option<DomainName> {
        self.below(&format!("{node}.node"))
    }

    fn of_address(&self, ip: IpAddr) -> Option<DomainName> {
        match ip {
            IpAddr::V4(ip) => self.below(&format!("{:08x}.addr", ip.to_bits())),
            IpAddr::V6(ip) => self.below(&format!("{:032x}.addr", ip.to_bits())),
        }
    }
}

/// What an answer depends on beside the catalog and the question.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq)]
pub struct Draw {
    /// Which of the instances comes first, so that clients that take the first are spread.
    pub turn: usize,
    /// Now; the SOA's serial.
    pub now: Moment,
}

/// Answers a question about the catalog's names; those of others are refused.
#[must_use]
pub fn answer(view: &dyn View, names: &Names, question: &Question, draw: Draw) -> Answer {
    if let Some((rcode, extended)) = unanswerable(question) {
        return Answer::failed(rcode, extended);
    }
    let answer = Answer { authoritative: true, ..Answer::default() };
    let mut search = Search { view, names, draw, wanted: question.record_type, answer };
    match query::read(question.name.key(), names) {
        Query::Outside => return Answer::failed(Rcode::Refused, ExtendedError::NOT_AUTHORITATIVE),
        Query::Nothing => search.absent(),
        Query::Branch => search.nothing_of_that_type(),
        Query::Apex => search.apex(),
        Query::Service { name, tag } => search.service(name, tag),
        Query::Node(name) => search.node(name),
        Query::Address(ip) => search.address(ip),
        Query::Reverse(ip) => return search.reverse(ip),
    }
    search.answer
}

struct Search<'a> {
    view: &'a dyn View,
    names: &'a Names,
    draw: Draw,
    wanted: RecordType,
    answer: Answer,
}

impl Search<'_> {
    fn record(&self, owner: Owner, data: Data) -> Record {
        Record { owner, ttl: self.names.ttl, data }
    }

    fn put(&mut self, data: RecordData) {
        self.answer.answer.push(self.record(Owner::QueryName, Data::Plain(data)));
    }

    fn add(&mut self, owner: &DomainName, data: RecordData) {
        self.answer.additional.push(self.record(Owner::At(owner.clone()), Data::Plain(data)));
    }

    fn wants(&self, record_type: RecordType) -> bool {
        self.wanted == record_type || self.wanted == RecordType::ANY
    }

    fn soa(&self) -> Data {
        let label = |label| self.names.domain.resolve(label).unwrap_or_else(|_| self.names.domain.clone());
        let seconds = self.draw.now.0 / 1000 % (u64::from(u32::MAX) + 1);
        Data::Soa(Soa {
            mname: label("ns"),
            rname: label("hostmaster"),
            serial: u32::try_from(seconds).unwrap_or_default(),
            refresh: StartOfAuthority::REFRESH,
            retry: StartOfAuthority::RETRY,
            expire: StartOfAuthority::EXPIRE,
            // What is not there now may be registered a moment later.
            minimum: Ttl::ZERO,
        })
    }

    fn absent(&mut self) {
        self.answer.rcode = Rcode::NxDomain;
        self.nothing_of_that_type();
    }

    fn nothing_of_that_type(&mut self) {
        let (owner, ttl) = (Owner::At(self.names.domain.clone()), Ttl::ZERO);
        self.answer.authority.push(Record { owner, ttl, data: self.soa() });
    }

    fn apex(&mut self) {
        if self.wants(RecordType::SOA) {
            self.answer.answer.push(self.record(Owner::QueryName, self.soa()));
        }
        if self.wants(RecordType::NS) {
            self.name_server();
        }
        if self.answer.answer.is_empty() {
            self.nothing_of_that_type();
        }
    }

    fn name_server(&mut self) {
        let node = self.names.server.as_deref().and_then(|it| self.view.node(it));
        let name = node.and_then(|it| self.names.of_node(it.name));
        if let (Some(node), Some(name)) = (node, &name)
            && let Ok(ip) = node.address.parse()
        {
            self.add(name, address_record(ip));
        }
        if let Some(name) = name.or_else(|| self.names.domain.resolve("ns").ok()) {
            self.put(RecordData::Ns(name));
        }
    }

    fn service(&mut self, name: &str, tag: Option<&str>) {
        let tagged =
            |it: &Instance<'_>| tag.is_none_or(|tag| it.tags.iter().any(|its| its.eq_ignore_ascii_case(tag)));
        let mut instances = self.view.instances(name);
        instances.retain(|it| it.status != CheckStatus::Critical && tagged(it));
        if instances.is_empty() {
            // Below `_tcp.service` there are names, and resolvers query from the top down (RFC 9156).
            let may_lead_on = name.starts_with('_') && tag.is_none();
            return if may_lead_on { self.nothing_of_that_type() } else { self.absent() };
        }
        let first = self.draw.turn % instances.len();
        instances.rotate_left(first);
        match self.wanted {
            RecordType::SRV => self.locations(&instances),
            _ => self.addresses(&instances),
        }
        if self.answer.answer.is_empty() {
            self.nothing_of_that_type();
        }
    }

    /// The addresses; where there are only host names, an alias to one of them, which every type shares
    /// (RFC 1034 §3.6.2).
    fn addresses(&mut self, instances: &[Instance<'_>]) {
        let places = || instances.iter().filter_map(|it| Place::read(it.address.unwrap_or(it.node.address)));
        let mut seen = HashSet::new();
        for place in places() {
            if let Place::Address(ip) = place
                && seen.insert(ip)
            {
                self.put_address(ip);
            }
        }
        let mut hosts = places().filter_map(Place::host);
        if let Some(host) = hosts.next().filter(|_| seen.is_empty()) {
            self.put(RecordData::Cname(host));
        }
    }

    fn put_address(&mut self, ip: IpAddr) {
        let wanted = if ip.is_ipv4() { RecordType::A } else { RecordType::AAAA };
        if self.wants(wanted) {
            self.put(address_record(ip));
        }
    }

    /// Where the instances are, each place once; then its address, and last the metadata of the nodes, because
    /// that is what is left out first.
    fn locations(&mut self, instances: &[Instance<'_>]) {
        let (mut seen, mut named) = (HashSet::new(), HashSet::new());
        for instance in instances {
            let Some((target, place)) = self.locate(instance) else { continue };
            let weight = u16::try_from(instance.weight).unwrap_or(u16::MAX);
            if !seen.insert((target.clone(), instance.port, weight)) {
                continue;
            }
            if let Some(Place::Address(ip)) = place
                && named.insert(target.clone())
            {
                self.add(&target, address_record(ip));
            }
            self.put(RecordData::Srv { priority: 1, weight, port: instance.port, target });
        }
        let mut described = HashSet::new();
        for node in instances.iter().map(|it| it.node).filter(|it| described.insert(it.name)) {
            if let Some(owner) = self.names.of_node(node.name) {
                node_text(&node).for_each(|text| self.add(&owner, text));
            }
        }
    }

    /// Where one instance is: by its address, by its host name, or by its node.
    fn locate(&self, instance: &Instance<'_>) -> Option<(DomainName, Option<Place>)> {
        let node = instance.node;
        let by_node = || self.names.of_node(node.name).map(|it| (it, Place::read(node.address)));
        let by_place = |text| {
            let place = Place::read(text)?;
            let target = match &place {
                Place::Address(ip) => self.names.of_address(*ip)?,
                Place::Host(host) => host.clone(),
            };
            Some((target, Some(place)))
        };
        match instance.address {
            Some(text) => by_place(text),
            // A node whose name cannot be written in DNS is reached by its address.
            None => by_node().or_else(|| by_place(node.address)),
        }
    }

    fn node(&mut self, name: &str) {
        let Some(node) = self.view.node(name) else { return self.absent() };
        match Place::read(node.address) {
            Some(Place::Host(host)) => self.put(RecordData::Cname(host)),
            Some(Place::Address(ip)) => self.put_address(ip),
            None => {}
        }
        if self.wants(RecordType::TXT) && !matches!(Place::read(node.address), Some(Place::Host(_))) {
            node_text(&node).for_each(|text| self.put(text));
        }
        if matches!(self.wanted, RecordType::A | RecordType::AAAA) {
            self.describe_queried(&node);
        }
        if self.answer.answer.is_empty() {
            self.nothing_of_that_type();
        }
    }

    fn describe_queried(&mut self, node: &Node<'_>) {
        for text in node_text(node) {
            let record = self.record(Owner::QueryName, Data::Plain(text));
            self.answer.additional.push(record);
        }
    }

    fn address(&mut self, ip: IpAddr) {
        self.put_address(ip);
        if self.answer.answer.is_empty() {
            self.nothing_of_that_type();
        }
    }

    /// The node with an address, else a service. Addresses that are not in the catalog are not ours.
    fn reverse(mut self, ip: IpAddr) -> Answer {
        let node = self.view.node_at(ip).and_then(|it| self.names.of_node(it.name));
        let service = || self.names.below(&format!("{}.service", self.view.service_at(ip)?));
        let Some(name) = node.or_else(service) else {
            return Answer::failed(Rcode::Refused, ExtendedError::NOT_AUTHORITATIVE);
        };
        // Without an SOA where PTR is not wanted: the zone is not ours, and without it the absence is not cached.
        if self.wants(RecordType::PTR) {
            self.put(RecordData::Ptr(name));
        }
        self.answer
    }
}

#[cfg(test)]
mod tests;
