//! Reading a plain query where it lies.

use super::name::Key;
use crate::{
    client::Subnet,
    edns::{self, COOKIE, SIGNATURES, SUBNET},
    packet::{PAYLOAD, Transport, max_reply},
    record::RecordType,
};

/// Octets before the question.
pub(super) const HEADER: usize = 12;

/// A query of the plain kind: QUERY, one question of class IN for an ordinary type, and at most EDNS version 0
/// beside it. Its name is in the [`Key`] it was read into.
#[derive(Clone, Copy, Debug)]
pub(super) struct Plain<'p> {
    /// Header and question as they came.
    pub(super) head: &'p [u8],
    /// The requested type.
    pub(super) record_type: RecordType,
    /// What came with EDNS, if it came.
    pub(super) edns: Option<PlainEdns<'p>>,
}

/// The parts of EDNS that shape a reply.
#[derive(Clone, Copy, Debug)]
pub(super) struct PlainEdns<'p> {
    /// The largest datagram that the client takes.
    payload: u16,
    /// The network that it names.
    pub(super) subnet: Option<Subnet>,
    /// A cookie option, unread (RFC 7873).
    pub(super) cookie: Option<&'p [u8]>,
    /// Whether the client accepts signatures, as the flags have it (RFC 3225).
    pub(super) signatures: u8,
}

impl<'p> Plain<'p> {
    /// Reads a packet; `None` for one that is not plain, or not well-formed.
    pub(super) fn read(packet: &'p [u8], name: &mut Key) -> Option<Self> {
        let (header, rest) = packet.split_first_chunk::<HEADER>()?;
        let &[_, _, flags, _, counts @ ..] = header;
        // QR and the opcode: neither a response nor anything but QUERY.
        if flags & 0b1111_1000 != 0 {
            return None;
        }
        let [0, 1, 0, 0, 0, 0, 0, additional @ (0 | 1)] = counts else { return None };
        let length = name.read(rest)?;
        let (question, rest) = rest.get(length..)?.split_first_chunk::<4>()?;
        let &[type_high, type_low, 0, 1] = question else { return None };
        let record_type = RecordType(u16::from_be_bytes([type_high, type_low]));
        let edns = match (additional, rest) {
            (0, []) => None,
            (1, opt) => Some(PlainEdns::read(opt)?),
            _ => return None,
        };
        let head = packet.get(..HEADER + length + question.len())?;
        is_ordinary(record_type).then_some(Self { head, record_type, edns })
    }

    /// The longest reply that the client takes, as for the general path.
    pub(super) fn limit(&self) -> usize {
        max_reply(Transport::Udp, self.edns.map(|edns| edns.payload), PAYLOAD).into()
    }
}

/// Types that are looked up like any other. The rest (DS, which belongs to the parent, and those that request
/// something else than records) is for the general path.
const fn is_ordinary(record_type: RecordType) -> bool {
    !matches!(record_type, RecordType(0 | 249..=255) | RecordType::OPT | RecordType::DS)
}

impl<'p> PlainEdns<'p> {
    /// Reads an OPT record that ends the packet (RFC 6891 §6.1.2).
    fn read(opt: &'p [u8]) -> Option<Self> {
        let (head, mut options) = opt.split_first_chunk::<11>()?;
        let &[0, 0, 41, payload_high, payload_low, _, 0, flags, _, length_high, length_low] = head else {
            return None;
        };
        if options.len() != usize::from(u16::from_be_bytes([length_high, length_low])) {
            return None;
        }
        let payload = u16::from_be_bytes([payload_high, payload_low]);
        let mut edns = Self { payload, subnet: None, cookie: None, signatures: flags & SIGNATURES };
        while !options.is_empty() {
            let (code, option, rest) = edns::option(options)?;
            match code {
                SUBNET if edns.subnet.is_none() => edns.subnet = Some(Subnet::parse(option)?),
                COOKIE if edns.cookie.is_none() => edns.cookie = Some(option),
                _ => {}
            }
            options = rest;
        }
        Some(edns)
    }
}
