//! The head of a request as it is sent to an instance.

use std::ops::Range;

use super::{
    asked::{Place, Request},
    passed::{number, pass},
};
use crate::{
    forwarded,
    http1::{BodyLength, Field, FieldId, Form, Version, decimal, end_of_head, field},
    route::{CompiledRoute, FieldChanges, NewPath},
    target::Authority,
    via::Received,
};

/// What the gateway says of the client and the request, unless the route says something else. Documents cannot name the other
/// fields that are written here.
const OWN: u64 = FieldId::Forwarded.bit()
    | FieldId::XRealIp.bit()
    | FieldId::XForwardedFor.bit()
    | FieldId::XForwardedProto.bit()
    | FieldId::XForwardedHost.bit()
    | FieldId::XForwardedPort.bit()
    | FieldId::RequestId.bit();

/// Writes the head for the instance.
pub(super) fn write_head(
    request: &Request<'_>,
    text: &mut Vec<u8>,
    (path, query): (&NewPath<'_>, Option<&str>),
    authority: Option<&Authority<'_>>,
    (hops, max_forwards): (u8, Option<u32>),
    place: &Place<'_>,
    (route, upgrades): (&CompiledRoute, bool),
) {
    let octets = request.octets;
    let changes = route.changes.as_deref();
    text.extend_from_slice(request.line.method.get(octets));
    text.push(b' ');
    text.extend_from_slice(path.start.as_bytes());
    text.extend_from_slice(path.rest.as_bytes());
    if let Some(query) = query {
        text.push(b'?');
        text.extend_from_slice(query.as_bytes());
    }
    text.extend_from_slice(b" HTTP/1.1\r\nhost: ");
    let host_at = text.len();
    match (changes.and_then(|it| it.host.as_deref()), authority) {
        (Some(host), _) => text.extend_from_slice(host.as_bytes()),
        (None, Some(authority)) => push_authority(text, authority),
        (None, None) => {}
    }
    let host = host_at..text.len();
    text.extend_from_slice(b"\r\n");
    let changed = changes.and_then(|it| it.request_fields.as_ref());
    let (trusted, keep_case) = (place.hop.trusted(), route.document.preserve_header_case);
    for field in request.fields.iter() {
        if request.passes(field, trusted, max_forwards.is_none(), route)
            && !changed.is_some_and(|it| it.drops(field.name.get(octets)))
        {
            pass(text, field, octets, keep_case);
        }
    }
    if let Some(left) = max_forwards {
        number(text, b"max-forwards", u64::from(left));
    }
    let own = text.len();
    request.write_own_fields(text, host, (hops, upgrades), place);
    if let Some(changed) = changed {
        if changed.drop_any(OWN) {
            changed.take_out(text, own);
        }
        text.extend_from_slice(changed.lines());
    }
    end_of_head(text);
}

impl Request<'_> {
    /// True if trailers are passed on with the body.
    pub(super) fn passes_trailers(&self, route: &CompiledRoute) -> bool {
        let changed = route.changes.as_deref().and_then(|it| it.request_fields.as_ref());
        !self.options.may_list_trailers() && !changed.is_some_and(FieldChanges::removes)
    }

    /// True for fields that are passed on as they are.
    fn passes(&self, field: &Field, trusted: bool, max_forwards: bool, route: &CompiledRoute) -> bool {
        match field.id {
            FieldId::Host | FieldId::ContentLength | FieldId::Hops | FieldId::RequestId => false,
            FieldId::Other
            | FieldId::Forwarded
            | FieldId::XRealIp
            | FieldId::XForwardedFor
            | FieldId::XForwardedProto
            | FieldId::XForwardedHost
            | FieldId::XForwardedPort
                if forwarded::is_replaced(field.name.get(self.octets), trusted) =>
            {
                false
            }
            FieldId::MaxForwards => max_forwards,
            FieldId::Trailer => self.body == BodyLength::Chunked && self.passes_trailers(route),
            FieldId::Expect => self.expects,
            _ => !self.options.strips(field, self.fields, self.octets),
        }
    }

    fn write_own_fields(
        &self,
        text: &mut Vec<u8>,
        host: Range<usize>,
        (hops, upgrades): (u8, bool),
        place: &Place<'_>,
    ) {
        match self.body {
            BodyLength::Sized(length) => number(text, b"content-length", length),
            BodyLength::Chunked => field(text, b"transfer-encoding", b"chunked"),
            BodyLength::None | BodyLength::UntilClose => {}
        }
        if upgrades {
            text.extend_from_slice(b"connection: upgrade\r\nupgrade: ");
            for (at, protocol) in self.fields.elements(FieldId::Upgrade, self.octets).enumerate() {
                text.extend_from_slice(if at == 0 { b"" } else { b", " });
                text.extend_from_slice(protocol);
            }
            text.extend_from_slice(b"\r\n");
        } else if self.options.te_trailers && self.is_modern() {
            text.extend_from_slice(b"connection: te\r\nte: trailers\r\n");
        }
        text.extend_from_slice(place.shared.via.line(match self.line.version {
            Version::Http11 => Received::Http11,
            Version::Http10 => Received::Http10,
        }));
        // Only a URL as target has another host than the field; the copy is rare.
        let url_host = matches!(self.line.form, Form::Absolute { .. }).then(|| text[host].to_vec());
        let host =
            url_host.as_deref().or_else(|| self.fields.value(FieldId::Host, self.octets)).unwrap_or_default();
        let lines = |id| self.fields.all(id).map(|it| it.value.get(self.octets));
        place.hop.append_to(text, &self.origin, host, self.fields.has(FieldId::Forwarded), lines);
        field(text, b"x-request-id", self.id.as_bytes());
        number(text, b"waypost-hops", u64::from(hops));
    }
}

fn push_authority(text: &mut Vec<u8>, authority: &Authority<'_>) {
    text.extend_from_slice(authority.host.as_bytes());
    if let Some(port) = authority.port {
        text.push(b':');
        decimal(text, u64::from(port));
    }
}
