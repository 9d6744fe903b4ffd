//! From `store::steering`'s decision to addresses and a TTL. Nothing is ranked here.

use std::net::IpAddr;

use store::{
    board::Board,
    locality::Located,
    model::{DomainName, Https, Moment, RecordData, Ttl},
    snapshot::{SteeredDomain, SteeredSite},
    steering::{self, Family, FamilyOutcome, Look, Outcome, Ranking},
};

use crate::record::RecordType;

/// Gives `add` the addresses of one family, best site first, an address that two sites share twice, and returns how
/// long that may be remembered, also that there is nothing. The ranking is the same for all types of a name.
pub(crate) fn choose(
    domain: &SteeredDomain,
    ranking: &Ranking,
    look: Look<'_>,
    add: &mut impl FnMut(IpAddr),
) -> Ttl {
    match steering::for_family(domain, ranking, look) {
        FamilyOutcome::Sites(sites) => sites.addresses().for_each(add),
        FamilyOutcome::Backup(backup) => match look.family {
            Family::V4 => backup.a.iter().copied().map(IpAddr::V4).for_each(add),
            Family::V6 => backup.aaaa.iter().copied().map(IpAddr::V6).for_each(add),
        },
        FamilyOutcome::Nodata => {}
        // It ends when the operator's order does.
        FamilyOutcome::TakenOut => return domain.domain.min_ttl,
    }
    steering::ttl(domain, ranking)
}

/// The HTTPS records of a domain: of the sites it is ranked to answer with, whichever families they have. The hints of a
/// record are the addresses of its own site, also where another site answers for a family that this one lacks.
pub(super) fn bind(
    domain: &SteeredDomain,
    client: &Located<'_>,
    board: &Board,
    now: Moment,
) -> (Vec<RecordData>, Ttl) {
    let ranking = steering::rank(domain, client, board, now);
    let ttl = steering::ttl(domain, &ranking);
    let Some(https) = &domain.domain.https else { return (Vec::new(), ttl) };
    let records = match steering::outcome(domain, &ranking) {
        Outcome::Sites(sites) => {
            let chosen = sites.iter().filter_map(|it| domain.sites.get(usize::from(it.at)));
            let binding = |(rank, site): (u16, &SteeredSite)| {
                let look = |family| Look { family, region: client.region, board };
                let addresses: Vec<_> =
                    Family::BOTH.into_iter().flat_map(|it| look(it).addresses(site)).collect();
                binding(https, rank, site.name.as_ref(), &addresses)
            };
            (1..).zip(chosen).map(binding).collect()
        }
        Outcome::Backup(backup) => {
            let v4 = backup.a.iter().copied().map(IpAddr::V4);
            let addresses: Vec<_> = v4.chain(backup.aaaa.iter().copied().map(IpAddr::V6)).collect();
            vec![binding(https, 1, None, &addresses)]
        }
        Outcome::Nodata => Vec::new(),
    };
    (records, ttl)
}

/// One HTTPS record in wire form (RFC 9460 §2.2), its parameters in the order of their keys. Without a target it is
/// the owner's own.
fn binding(https: &Https, priority: u16, target: Option<&DomainName>, addresses: &[IpAddr]) -> RecordData {
    let mut data = priority.to_be_bytes().to_vec();
    for label in target.into_iter().flat_map(DomainName::octets) {
        data.extend(u8::try_from(label.len()));
        data.extend_from_slice(&label);
    }
    data.push(0);
    let mut parameter = |key: u16, value: Vec<u8>| {
        if let Ok(length) = u16::try_from(value.len())
            && length > 0
        {
            data.extend(key.to_be_bytes());
            data.extend(length.to_be_bytes());
            data.extend(value);
        }
    };
    let protocol = |it: &String| u8::try_from(it.len()).into_iter().chain(it.bytes()).collect::<Vec<_>>();
    parameter(1, https.alpn.iter().flat_map(protocol).collect());
    parameter(3, https.port.into_iter().flat_map(u16::to_be_bytes).collect());
    let hints = |wanted_v4: bool| {
        addresses.iter().filter(move |ip| ip.is_ipv4() == wanted_v4).flat_map(|ip| match ip {
            IpAddr::V4(ip) => ip.octets().to_vec(),
            IpAddr::V6(ip) => ip.octets().to_vec(),
        })
    };
    parameter(4, hints(true).collect());
    parameter(6, hints(false).collect());
    RecordData::Other { record_type: RecordType::HTTPS.0, data }
}
