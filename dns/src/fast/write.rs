//! Writing a reply straight into the datagram that will be sent.

use std::net::IpAddr;

use store::{
    model::Ttl,
    steering::{self, Family},
};

use super::{
    memo::{Scratch, Selection, Selections},
    query::{HEADER, Plain},
    table::{Alias, Entry, Found, Image, Kind, Table},
};
use crate::{
    client::Client,
    cookie::{self, Cookie},
    edns,
    gate::Guard,
    lookup::Lookup,
    packet::{FastReply, PAYLOAD, Transport},
    rate::{Decision, Kind as Counted, Subject},
    record::{Rcode, RecordType},
};

/// What a query is answered with, on the way into its datagram.
struct Query<'a> {
    lookup: Lookup<'a>,
    client: Client,
    plain: Plain<'a>,
}

/// The owner of records: the name of the question.
const QUESTION: u16 = 0xc000 | HEADER as u16;

impl Table {
    /// Answers a plain query of `source` into `out`; `None` for what the general path has to answer. The lookup is the
    /// one this table was compiled from, at a time that is the same for all packets of a batch, and so is the gate.
    pub(crate) fn reply(
        &self,
        packet: &[u8],
        source: IpAddr,
        (lookup, guard): (Lookup<'_>, Guard<'_>),
        scratch: &mut Scratch,
        out: &mut [u8],
    ) -> Option<FastReply> {
        let (name, mut selections) = scratch.parts();
        let plain = Plain::read(packet, name)?;
        let limit = plain.limit().min(out.len());
        let mut reply = Writer { out: out.get_mut(..limit)?, at: 0 };
        reply.head(plain.head)?;
        let presented = guard.presented(plain.edns.and_then(|edns| edns.cookie), source);
        if presented == cookie::Presented::Malformed {
            return None;
        }
        let subnet = plain.edns.and_then(|edns| edns.subnet);
        let query = Query { lookup, client: Client { source, subnet }, plain };
        let Written { mut rcode, scope, counted } = match self.find(name.octets()) {
            Found::Elsewhere => return None,
            Found::Nothing(zone) => {
                self.absent(&mut reply, zone, name.octets(), Ttl::MAX)?;
                Written { rcode: Rcode::NxDomain, scope: 0, counted: self.absence(zone)? }
            }
            Found::Entry(entry) => self.entry(&mut reply, entry, name.octets(), &query, &mut selections)?,
        };
        let edns = query.plain.edns.map(|edns| (edns.signatures, edns.subnet.map(|subnet| (subnet, scope))));
        let cookie = guard.cookie(&presented, source);
        if let Some(edns) = edns {
            reply.opt(edns, cookie)?;
        }
        // Last, so that what is handed on is not counted twice.
        let decision = guard.admit(source, Transport::Udp, &presented, counted);
        if decision == Decision::Slip {
            rcode = Rcode::NoError;
            reply.truncate(query.plain.head.len());
            if let Some(edns) = edns {
                reply.opt(edns, cookie)?;
            }
        }
        reply.set(3, [query.plain.head.get(3)? & CHECKING_DISABLED | rcode.code().to_le_bytes()[0]]);
        let octets = if decision == Decision::Drop { 0 } else { reply.at };
        Some(FastReply { octets, rcode, subnet: query.client.subnet.is_some(), decision })
    }

    fn entry(
        &self,
        reply: &mut Writer<'_>,
        entry: &Entry,
        name: &[u8],
        query: &Query<'_>,
        selections: &mut Selections<'_>,
    ) -> Option<Written> {
        let wanted = query.plain.record_type;
        if let Some(image) = self.image(entry, wanted) {
            if image.len == 0 {
                return None;
            }
            reply.image(image, self.octets(image.at, image.len))?;
            return Some(Written { rcode: image.rcode, scope: 0, counted: image.counted });
        }
        let origin = match entry.kind {
            Kind::Static => {
                self.absent(reply, entry.zone, name, Ttl::MAX)?;
                return Some(Written { rcode: Rcode::NoError, scope: 0, counted: self.absence(entry.zone)? });
            }
            Kind::Steered => Origin { plan: entry.link, zone: entry.zone, owner: QUESTION },
            Kind::Alias => self.follow(reply, entry, wanted)?,
            Kind::Elsewhere | Kind::General => return None,
        };
        let (scope, absent) = self.steer(reply, origin, name, query, selections)?;
        let counted = if absent { self.absence(origin.zone)? } else { Counted::Answer(Subject::of(name)) };
        Some(Written { rcode: Rcode::NoError, scope, counted })
    }

    /// What an absence in a zone counts as.
    fn absence(&self, zone: u32) -> Option<Counted> {
        self.zones.get(zone as usize).map(|zone| Counted::Absence(zone.subject))
    }

    /// Writes the aliases on the way to a steered name.
    fn follow(&self, reply: &mut Writer<'_>, entry: &Entry, wanted: RecordType) -> Option<Origin> {
        let alias: &Alias = self.aliases.get(entry.link as usize)?;
        if alias.mixed && !matches!(wanted, RecordType::A | RecordType::AAAA) {
            return None;
        }
        let owner = reply.at + usize::from(alias.target);
        reply.octets(self.octets(alias.at, alias.len))?;
        reply.count(ANSWER, alias.records);
        Some(Origin { plan: alias.plan, zone: alias.zone, owner: 0xc000 | u16::try_from(owner).ok()? })
    }

    fn steer(
        &self,
        reply: &mut Writer<'_>,
        origin: Origin,
        name: &[u8],
        query: &Query<'_>,
        selections: &mut Selections<'_>,
    ) -> Option<(u8, bool)> {
        let plan = self.plans.get(origin.plan as usize)?;
        let located = query.client.locate(&query.lookup.snapshot.locality);
        let scope = steering::scope(&plan.domain, &located);
        let wanted = query.plain.record_type;
        if wanted == RecordType::HTTPS && plan.domain.domain.https.is_some() {
            return None;
        }
        let family = match wanted {
            RecordType::A => Family::V4,
            RecordType::AAAA => Family::V6,
            _ => {
                self.absent(reply, origin.zone, name, Ttl::MAX)?;
                return Some((scope, true));
            }
        };
        let selection = selections.get(origin.plan, &plan.domain, located, query.lookup)?;
        if selection.too_many {
            return None;
        }
        let absent = reply.addresses(selection, origin.owner, family)? == 0;
        if absent {
            self.absent(reply, origin.zone, name, selection.ttl(family))?;
        }
        Some((scope, absent))
    }

    /// The SOA that lets resolvers remember an absence, for `at_most` where it may end sooner.
    fn absent(&self, reply: &mut Writer<'_>, zone: u32, name: &[u8], at_most: Ttl) -> Option<()> {
        let zone = self.zones.get(zone as usize)?;
        match name.strip_suffix(&*zone.apex) {
            Some(before) => reply.octets(&(QUESTION + u16::try_from(before.len()).ok()?).to_be_bytes())?,
            // Behind an alias into another zone.
            None => reply.octets(&zone.apex)?,
        }
        reply.octets(&[0, 6, 0, 1])?;
        reply.octets(&zone.negative_ttl.min(at_most).as_secs().to_be_bytes())?;
        reply.octets(&u16::try_from(zone.soa.len()).ok()?.to_be_bytes())?;
        reply.octets(&zone.soa)?;
        reply.count(AUTHORITY, 1);
        Some(())
    }
}

/// What was written.
struct Written {
    rcode: Rcode,
    scope: u8,
    counted: Counted,
}

/// Where a name's addresses come from.
#[derive(Clone, Copy)]
struct Origin {
    plan: u32,
    zone: u32,
    /// The owner of the addresses, as a pointer.
    owner: u16,
}

/// The bit of the header that a reply repeats (RFC 4035 §3.1.6).
const CHECKING_DISABLED: u8 = 0b0001_0000;

/// Where the counts of the sections are in the header.
const ANSWER: usize = 6;
const AUTHORITY: usize = 8;
const ADDITIONAL: usize = 10;

/// A datagram being written; everything that does not fit ends in `None`, and the general path truncates.
struct Writer<'o> {
    out: &'o mut [u8],
    at: usize,
}

impl Writer<'_> {
    fn octets(&mut self, octets: &[u8]) -> Option<()> {
        let end = self.at + octets.len();
        self.out.get_mut(self.at..end)?.copy_from_slice(octets);
        self.at = end;
        Some(())
    }

    /// Changes octets that were written.
    fn set<const N: usize>(&mut self, at: usize, octets: [u8; N]) {
        if let Some(place) = self.out.get_mut(at..at + N) {
            place.copy_from_slice(&octets);
        }
    }

    fn count(&mut self, section: usize, records: u16) {
        self.set(section, records.to_be_bytes());
    }

    /// The query's header and question as a reply's: an authoritative answer, with nothing in it yet.
    fn head(&mut self, head: &[u8]) -> Option<()> {
        const RECURSION_DESIRED: u8 = 1;
        const AUTHORITATIVE_RESPONSE: u8 = 0b1000_0100;
        self.octets(head)?;
        let flags = head.get(2)? & RECURSION_DESIRED | AUTHORITATIVE_RESPONSE;
        self.set(2, [flags]);
        self.count(ADDITIONAL, 0);
        Some(())
    }

    fn image(&mut self, image: &Image, octets: &[u8]) -> Option<()> {
        self.octets(octets)?;
        for (section, count) in [ANSWER, AUTHORITY, ADDITIONAL].into_iter().zip(image.counts) {
            self.count(section, count);
        }
        Some(())
    }

    /// The addresses of one family; returns how many there were.
    fn addresses(&mut self, selection: &Selection, owner: u16, family: Family) -> Option<u16> {
        let ttl = selection.ttl(family).as_secs();
        let records = match family {
            Family::V4 => {
                for ip in selection.v4() {
                    self.address::<4, 16>(owner, RecordType::A, ttl, ip.octets())?;
                }
                selection.v4().len()
            }
            Family::V6 => {
                for ip in selection.v6() {
                    self.address::<16, 28>(owner, RecordType::AAAA, ttl, ip.octets())?;
                }
                selection.v6().len()
            }
        };
        let records = u16::try_from(records).ok()?;
        let aliases = self.out.get(ANSWER..ANSWER + 2)?.try_into().map_or(0, u16::from_be_bytes);
        self.count(ANSWER, aliases + records);
        Some(records)
    }

    /// One address record of `RECORD` octets.
    fn address<const DATA: usize, const RECORD: usize>(
        &mut self,
        owner: u16,
        wanted: RecordType,
        ttl: u32,
        address: [u8; DATA],
    ) -> Option<()> {
        let mut record = [0; RECORD];
        let (head, data) = record.split_first_chunk_mut::<12>()?;
        let [owner_high, owner_low] = owner.to_be_bytes();
        let [type_high, type_low] = wanted.0.to_be_bytes();
        let [a, b, c, d] = ttl.to_be_bytes();
        *head = [owner_high, owner_low, type_high, type_low, 0, 1, a, b, c, d, 0, DATA.to_le_bytes()[0]];
        data.copy_from_slice(&address);
        self.octets(&record)
    }

    /// Leaves the header and the question, and sets TC, with which the client comes again over TCP.
    fn truncate(&mut self, head: usize) {
        const TRUNCATED: u8 = 0b0000_0010;
        let flags = self.out.get(2).copied().unwrap_or_default();
        self.set(2, [flags | TRUNCATED]);
        [ANSWER, AUTHORITY, ADDITIONAL].into_iter().for_each(|section| self.count(section, 0));
        self.at = head;
    }

    fn option(&mut self, code: u16, data: &[u8]) -> Option<()> {
        self.octets(&code.to_be_bytes())?;
        self.octets(&u16::try_from(data.len()).ok()?.to_be_bytes())?;
        self.octets(data)
    }

    /// The OPT record, as [`crate::reply`] writes it.
    fn opt(
        &mut self,
        (signatures, subnet): (u8, Option<(crate::client::Subnet, u8)>),
        cookie: Option<Cookie>,
    ) -> Option<()> {
        let [payload_high, payload_low] = PAYLOAD.to_be_bytes();
        self.octets(&[0, 0, 41, payload_high, payload_low, 0, 0, signatures, 0])?;
        let length = self.at;
        self.octets(&[0, 0])?;
        if let Some((subnet, scope)) = subnet {
            let (octets, len) = subnet.octets(scope);
            self.option(edns::SUBNET, octets.get(..len)?)?;
        }
        if let Some(cookie) = cookie {
            self.option(edns::COOKIE, &cookie)?;
        }
        let options = u16::try_from(self.at - length - 2).ok()?;
        self.set(length, options.to_be_bytes());
        let additional = self.out.get(ADDITIONAL..ADDITIONAL + 2)?.try_into().map_or(0, u16::from_be_bytes);
        self.count(ADDITIONAL, additional + 1);
        Some(())
    }
}
