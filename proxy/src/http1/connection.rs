//! What a message says about its connection, and which fields are not passed on because of it (RFC 9110 §7.6.1).

use super::{
    fields::{Field, FieldId, Fields},
    head::Version,
};

/// Fields about one connection, whether or not `Connection` lists them. `Trailer` is not among them, since trailers are
/// passed on; who does not pass them on leaves it out.
const HOP_BY_HOP: u64 = FieldId::Connection.bit()
    | FieldId::KeepAlive.bit()
    | FieldId::ProxyConnection.bit()
    | FieldId::ProxyAuthenticate.bit()
    | FieldId::ProxyAuthorization.bit()
    | FieldId::ProxyAuthenticationInfo.bit()
    | FieldId::Http2Settings.bit()
    | FieldId::Te.bit()
    | FieldId::TransferEncoding.bit()
    | FieldId::Upgrade.bit();

/// Fields that a client cannot have removed by listing them: the gateway decides on them itself, and programs behind it rely on
/// them.
const KEPT: u64 = FieldId::Host.bit()
    | FieldId::ContentLength.bit()
    | FieldId::Via.bit()
    | FieldId::MaxForwards.bit()
    | FieldId::Forwarded.bit()
    | FieldId::XForwardedFor.bit()
    | FieldId::XForwardedHost.bit()
    | FieldId::XForwardedPort.bit()
    | FieldId::XForwardedProto.bit()
    | FieldId::XRealIp.bit()
    | FieldId::RequestId.bit()
    | FieldId::Traceparent.bit()
    | FieldId::Hops.bit();

/// The options of a message's `Connection` fields, and what else it says about its connection.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq)]
pub(crate) struct ConnectionOptions {
    pub(crate) close: bool,
    pub(crate) keep_alive: bool,
    /// `Upgrade` is listed and there is such a field.
    pub(crate) upgrade: bool,
    /// There is a `TE` with `trailers`. A sender has to list it (RFC 9110 §10.1.4), but many do not, and a recipient need not ask for
    /// that.
    pub(crate) te_trailers: bool,
    listed: u64,
    /// A name that is not known and not an option is listed.
    others: bool,
}

/// Reads the `Connection` fields of a head. An option that is not a token has no meaning and is left out.
pub(crate) fn connection_options(fields: &Fields, bytes: &[u8]) -> ConnectionOptions {
    let mut options = ConnectionOptions::default();
    for option in fields.elements(FieldId::Connection, bytes) {
        if option.eq_ignore_ascii_case(b"close") {
            options.close = true;
        } else if option.eq_ignore_ascii_case(b"keep-alive") {
            options.keep_alive = true;
        } else {
            match FieldId::of(option) {
                FieldId::Other => options.others = true,
                known => options.listed |= known.bit(),
            }
        }
    }
    options.upgrade = options.listed & FieldId::Upgrade.bit() != 0 && fields.has(FieldId::Upgrade);
    let mut codings = fields.elements(FieldId::Te, bytes);
    options.te_trailers = codings.any(|it| it.eq_ignore_ascii_case(b"trailers"));
    options
}

/// Whether a message is of NTLM or Negotiate, after which servers take all that follows on the connection for the same user's, against
/// RFC 9110 §3.3 (RFC 4559 §6). A connection to an instance then serves nobody else.
pub(crate) fn authenticates_connection(fields: &Fields, bytes: &[u8]) -> bool {
    let is_such = |field: &Field| {
        let value = field.value.get(bytes);
        [b"NTLM".as_slice(), b"Negotiate"]
            .iter()
            .any(|scheme| value.get(..scheme.len()).is_some_and(|start| start.eq_ignore_ascii_case(scheme)))
    };
    [FieldId::Authorization, FieldId::WwwAuthenticate].into_iter().any(|id| fields.all(id).any(is_such))
}

impl ConnectionOptions {
    /// Whether the connection stays open after this message and what it asks for (RFC 9112 §9.3).
    pub(crate) const fn persists(&self, version: Version) -> bool {
        match version {
            Version::Http11 => !self.close,
            Version::Http10 => self.keep_alive && !self.close,
        }
    }

    /// Whether fields are listed that could be trailers. The trailers must then go without them (RFC 9110 §7.6.1).
    pub(crate) const fn may_list_trailers(&self) -> bool {
        self.others || self.listed & !HOP_BY_HOP != 0
    }

    /// Whether this field is about the connection only because `Connection` lists it. `fields` and `bytes` are those the
    /// options were read from.
    pub(crate) fn is_listed(&self, field: &Field, fields: &Fields, bytes: &[u8]) -> bool {
        match field.id {
            FieldId::Other => {
                let name = field.name.get(bytes);
                let mut options = fields.elements(FieldId::Connection, bytes);
                self.others && options.any(|option| option.eq_ignore_ascii_case(name))
            }
            known => self.listed & !KEPT & known.bit() != 0,
        }
    }

    /// Whether this field goes no further than this connection.
    pub(crate) fn strips(&self, field: &Field, fields: &Fields, bytes: &[u8]) -> bool {
        is_hop_by_hop(field.id) || self.is_listed(field, fields, bytes)
    }
}

/// Whether fields of this name are about one connection, also if `Connection` does not list them.
const fn is_hop_by_hop(id: FieldId) -> bool {
    HOP_BY_HOP & id.bit() != 0
}
