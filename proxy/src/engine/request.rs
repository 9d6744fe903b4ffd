//! What is done with a request, from its head: refused, answered by the gateway, or forwarded with a head of ours.
//!
//! All of it happens at once, while the head is in the buffer. What is needed later is in the [`Plan`], so the buffer is
//! free for the body. Heads are never passed on as they came: fields about the connection are removed (RFC 9110
//! §7.6.1), the framing is ours, and the gateway sets its own fields.

use std::{borrow::Cow, net::IpAddr, ops::Range, sync::Arc};

use store::handle::asks_strictly;

use super::{
    client::Client,
    passed::{number, pass},
};
use crate::{
    balance::{retry::RetryPolicy, settings::Settings},
    engine::provisional::Reason,
    forwarded::{self, Family, Origin, Scheme},
    http1::{
        BodyLength, ConnectionOptions, Field, FieldId, Fields, Form, HeadError, Method, RequestLine, Version,
        connection_options, decimal, end_of_head, field, request_body,
    },
    route::{self, Table},
    target::{self, Authority, Target},
    via::{MaxForwards, Received},
    worker::Worker,
};

/// A request that is forwarded.
#[derive(Debug)]
pub(crate) struct Plan {
    pub(crate) table: Arc<Table>,
    /// The number of the service in the table.
    pub(crate) backend: usize,
    pub(crate) settings: Settings,
    pub(crate) retry: Arc<RetryPolicy>,
    /// A hash of what is asked for: method, host and path.
    pub(crate) target: u64,
    /// A hash of what decides about the instance; `None` if the service or the request has none.
    pub(crate) key: Option<u64>,
    pub(crate) method: Method,
    pub(crate) body: BodyLength,
    /// The client's version.
    pub(crate) version: Version,
    /// The client's connection may serve another request.
    pub(crate) keep_alive: bool,
    /// The client waits for a 100 before it sends the body.
    pub(crate) expects: bool,
    /// The client asks for another protocol on its connection.
    pub(crate) upgrades: bool,
    /// The client takes trailers.
    pub(crate) trailers: bool,
    /// Names of fields are passed on in the case they came in.
    pub(crate) keep_case: bool,
}

impl Plan {
    /// The name of the service.
    pub(crate) fn service(&self) -> &str {
        self.table.backend(self.backend).map_or("the service", |it| it.name.as_str())
    }

    /// How many instances the service has.
    pub(crate) fn instances(&self) -> usize {
        self.table.backend(self.backend).map_or(0, |it| it.slot.load().all().count())
    }
}

/// A request that the gateway answers itself.
#[derive(Debug)]
pub(crate) struct Answer {
    pub(crate) reason: Reason,
    pub(crate) words: Cow<'static, str>,
    pub(crate) method: Method,
    pub(crate) version: Version,
    /// Whether its body is on the way, or waits for a 100.
    pub(crate) body: BodyLength,
    pub(crate) expects: bool,
    pub(crate) keep_alive: bool,
}

/// What is done with a request.
#[derive(Debug)]
pub(crate) enum Step {
    /// Forwarded with this head.
    Forward(Plan, Vec<u8>),
    /// Answered by the gateway.
    Answer(Answer),
    /// Refused; nothing after it is read.
    Refuse(Reason, Cow<'static, str>),
}

/// A request's head with what was found out about it so far.
struct Request<'a> {
    octets: &'a [u8],
    line: &'a RequestLine,
    fields: &'a Fields,
    body: BodyLength,
    options: ConnectionOptions,
    expects: bool,
}

/// A request as routes are matched with it.
struct Routed<'a> {
    request: &'a Request<'a>,
    method: &'a str,
    host: &'a str,
    target: &'a Target<'a>,
    worker: &'a Worker,
    client: &'a Client,
}

impl route::Request for Routed<'_> {
    fn method(&self) -> &str {
        self.method
    }

    fn host(&self) -> &str {
        self.host
    }

    fn path(&self) -> &str {
        self.target.matched()
    }

    fn query(&self) -> Option<&str> {
        self.target.query
    }

    fn is_https(&self) -> bool {
        self.request.origin(self.worker, self.client).scheme == Scheme::Https
    }

    fn client(&self) -> IpAddr {
        self.request.origin(self.worker, self.client).client
    }

    fn fields<'r>(&'r self, name: &'r str) -> impl Iterator<Item = &'r [u8]> {
        let octets = self.request.octets;
        self.request.fields.find_all(octets, name.as_bytes()).map(|it| it.value.get(octets))
    }
}

/// Decides what is done with a request.
pub(crate) fn plan(worker: &Worker, client: &Client, line: &RequestLine, fields: &Fields) -> Step {
    let octets = client.input.as_ref().map_or(&[][..], |buffer| buffer.unread());
    let body = match request_body(line.version, fields, octets) {
        Ok(body) => body,
        Err(error) => return refuse_head(error),
    };
    let options = connection_options(fields, octets);
    let mut request = Request { octets, line, fields, body, options, expects: false };
    request.plan(worker, client).unwrap_or_else(|step| step)
}

/// The answer to a head that cannot be read.
pub(crate) fn refuse_head(error: HeadError) -> Step {
    Step::Refuse(Reason::of_status(error.status()), error.as_str().into())
}

fn refused(refusal: target::Refusal) -> Step {
    Step::Refuse(Reason::of_status(refusal.status()), refusal.to_string().into())
}

impl<'a> Request<'a> {
    fn plan(&mut self, worker: &Worker, client: &Client) -> Result<Step, Step> {
        self.expectation()?;
        let method = str::from_utf8(self.line.method.get(self.octets)).unwrap_or_default();
        let target = Target::read(method, self.line.target.get(self.octets)).map_err(refused)?;
        let named = self.authority()?;
        // An absolute target overrides the Host field (RFC 9112 §3.2.2).
        let authority = target.authority.as_ref().or(named.as_ref());
        let host = authority.map_or("", |it| &it.host);
        let Some(table) = worker.shared.table.load_full() else {
            return Err(self.answer(Reason::NoSnapshot, "no snapshot yet"));
        };
        if target.path == "/readyz" && is_ours(host, &table) {
            return Ok(self.readiness(worker, target.query.unwrap_or_default()));
        }
        let found = table.find(&Routed { request: self, method, host, target: &target, worker, client });
        if target.ambiguous && !found.is_some_and(|it| it.route.admits_ambiguous()) {
            return Err(refused(target::Refusal::Ambiguous));
        }
        let Some(found) = found else {
            return Err(self.answer(Reason::NoRoute, "no route"));
        };
        let hops = self.hops();
        if hops >= worker.limits().max_hops {
            worker.metrics().loops.increment();
            return Err(self.answer(Reason::Loop, "forwarding loop between gateways"));
        }
        let max_forwards = self.max_forwards()?;
        let Some(backend) = found.route.split.draw(|below| fastrand::u32(..below)) else {
            return Err(self.answer(Reason::NoWeight, "every weight of this route is zero"));
        };
        let mut text = worker.buffers.text();
        self.write_head(&mut text, &target, authority, (hops + 1, max_forwards), worker, client);
        let modern = self.line.version == Version::Http11;
        let plan = Plan {
            table,
            backend,
            settings: worker.shared.settings,
            retry: Arc::clone(&worker.shared.retry),
            target: worker.hash(&[method.as_bytes(), host.as_bytes(), target.path.as_bytes()]),
            key: None,
            method: self.line.known,
            body: self.body,
            version: self.line.version,
            keep_alive: self.options.persists(self.line.version),
            expects: self.expects,
            upgrades: self.upgrades(),
            trailers: self.options.te_trailers && modern,
            keep_case: false,
        };
        Ok(Step::Forward(plan, text))
    }

    fn expectation(&mut self) -> Result<(), Step> {
        for field in self.fields.all(FieldId::Expect) {
            if !field.value.get(self.octets).eq_ignore_ascii_case(b"100-continue") {
                return Err(self.answer(Reason::Expectation, "the only expectation met here is 100-continue"));
            }
            // A request without a body has nothing to wait for, and an old client knows no 100 (RFC 9110 §10.1.1).
            self.expects = !matches!(self.body, BodyLength::None | BodyLength::Sized(0))
                && self.line.version == Version::Http11;
        }
        Ok(())
    }

    fn authority(&self) -> Result<Option<Authority<'a>>, Step> {
        if self.fields.has_several(FieldId::Host) {
            return Err(Step::Refuse(Reason::BadRequest, "more than one Host".into()));
        }
        match self.fields.value(FieldId::Host, self.octets) {
            Some(host) => Authority::read(host).map(Some).map_err(refused),
            None if self.line.version == Version::Http10 => Ok(None),
            None => Err(Step::Refuse(Reason::BadRequest, "no Host".into())),
        }
    }

    fn answer(&self, reason: Reason, words: &'static str) -> Step {
        Step::Answer(Answer {
            reason,
            words: words.into(),
            method: self.line.known,
            version: self.line.version,
            body: self.body,
            expects: self.expects,
            keep_alive: self.options.persists(self.line.version),
        })
    }

    /// Whether load balancers may send traffic here. With `?strict` also whether this gateway's data may be out of date;
    /// the reasons are only on the status listener, for operators.
    fn readiness(&self, worker: &Worker, query: &str) -> Step {
        match worker.shared.unready() {
            None if asks_strictly(query) && !worker.shared.handle.doubts().is_empty() => self.answer(
                Reason::Unready,
                "in doubt: the data of this gateway may be out of date (see its log and metrics)",
            ),
            None => self.answer(Reason::Ready, "ready"),
            Some(reason) => self.answer(Reason::Unready, reason),
        }
    }

    /// The value that the field `Max-Forwards` is sent on with, if it is another than the client's (RFC 9110 §7.6.2).
    fn max_forwards(&self) -> Result<Option<u32>, Step> {
        if !self.fields.has(FieldId::MaxForwards) {
            return Ok(None);
        }
        let lines = self.fields.all(FieldId::MaxForwards).map(|it| it.value.get(self.octets));
        match MaxForwards::of(self.line.method.get(self.octets), lines) {
            MaxForwards::Ignored => Ok(None),
            MaxForwards::Forward(left) => Ok(Some(left)),
            MaxForwards::Answer => Err(self.answer(Reason::Ready, "this gateway is the last recipient")),
            MaxForwards::Malformed => {
                Err(Step::Refuse(Reason::BadRequest, "Max-Forwards is not one number".into()))
            }
        }
    }

    /// How many gateways the request has come through.
    fn hops(&self) -> u8 {
        let value = self.fields.value(FieldId::Hops, self.octets);
        let read = |value: &[u8]| str::from_utf8(value).ok().and_then(|text| text.parse().ok());
        value.map_or(0, |value| read(value).unwrap_or(u8::MAX))
    }

    /// Another protocol is asked for, and it is not HTTP/2, which a gateway must not pass on unread.
    fn upgrades(&self) -> bool {
        let names_h2c = |field: &Field| {
            let mut names = field.value.get(self.octets).split(|it| *it == b',');
            names.any(|name| name.trim_ascii().eq_ignore_ascii_case(b"h2c"))
        };
        self.options.upgrade
            && self.line.version == Version::Http11
            && self.body == BodyLength::None
            && !self.fields.all(FieldId::Upgrade).any(names_h2c)
    }

    /// Writes the head for the instance.
    #[expect(clippy::too_many_arguments, reason = "the parts of one head")]
    fn write_head(
        &self,
        text: &mut Vec<u8>,
        target: &Target<'_>,
        authority: Option<&Authority<'_>>,
        (hops, max_forwards): (u8, Option<u32>),
        worker: &Worker,
        client: &Client,
    ) {
        let octets = self.octets;
        text.extend_from_slice(self.line.method.get(octets));
        text.push(b' ');
        text.extend_from_slice(target.forwarded().as_bytes());
        if let Some(query) = target.query {
            text.push(b'?');
            text.extend_from_slice(query.as_bytes());
        }
        text.extend_from_slice(b" HTTP/1.1\r\nhost: ");
        let host_at = text.len();
        if let Some(authority) = authority {
            push_authority(text, authority);
        }
        let host = host_at..text.len();
        text.extend_from_slice(b"\r\n");
        let trusted = client.hop.trusted();
        for field in self.fields.iter().filter(|it| self.passes(it, trusted, max_forwards.is_none())) {
            pass(text, field, octets, false);
        }
        if let Some(left) = max_forwards {
            number(text, b"max-forwards", u64::from(left));
        }
        self.write_own_fields(text, host, hops, worker, client);
        end_of_head(text);
    }

    /// True for fields that are passed on as they are.
    fn passes(&self, field: &Field, trusted: bool, max_forwards: bool) -> bool {
        match field.id {
            FieldId::Host | FieldId::ContentLength | FieldId::Hops => false,
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
            FieldId::Trailer => self.body == BodyLength::Chunked,
            FieldId::Expect => self.expects,
            _ => !self.options.strips(field, self.fields, self.octets),
        }
    }

    /// Where the request comes from, as far as those who tell are trusted.
    fn origin(&self, worker: &Worker, client: &'a Client) -> Origin<'a> {
        let networks = &worker.shared.config.listeners[client.listener].trusted_networks;
        let lines = |id| self.fields.all(id).map(|it| it.value.get(self.octets));
        client.hop.origin(Family::XForwarded, lines, |address| networks.contain(address))
    }

    fn write_own_fields(
        &self,
        text: &mut Vec<u8>,
        host: Range<usize>,
        hops: u8,
        worker: &Worker,
        client: &Client,
    ) {
        match self.body {
            BodyLength::Sized(length) => number(text, b"content-length", length),
            BodyLength::Chunked => field(text, b"transfer-encoding", b"chunked"),
            BodyLength::None | BodyLength::UntilClose => {}
        }
        if self.upgrades() {
            text.extend_from_slice(b"connection: upgrade\r\nupgrade: ");
            self.push_list(text, FieldId::Upgrade);
            text.truncate(text.len() - 2);
            text.extend_from_slice(b"\r\n");
        } else if self.options.te_trailers && self.line.version == Version::Http11 {
            text.extend_from_slice(b"connection: te\r\nte: trailers\r\n");
        }
        let lines = |id| self.fields.all(id).map(|it| it.value.get(self.octets));
        let origin = self.origin(worker, client);
        let standard = self.fields.has(FieldId::Forwarded);
        text.extend_from_slice(worker.shared.via.line(match self.line.version {
            Version::Http11 => Received::Http11,
            Version::Http10 => Received::Http10,
        }));
        // Only a URL as target has another host than the field; the copy is rare.
        let url_host = matches!(self.line.form, Form::Absolute { .. }).then(|| text[host].to_vec());
        let host = url_host.as_deref().or(self.fields.value(FieldId::Host, self.octets)).unwrap_or_default();
        client.hop.append_to(text, &origin, host, standard, lines);
        number(text, b"waypost-hops", u64::from(hops));
    }

    /// Appends every member of a list that the request has, each with a comma behind it.
    fn push_list(&self, text: &mut Vec<u8>, id: FieldId) {
        for field in self.fields.all(id).filter(|it| !it.value.is_empty()) {
            text.extend_from_slice(field.value.get(self.octets));
            text.extend_from_slice(b", ");
        }
    }
}

/// True for the names that address the gateway itself: load balancers and probers ask for its readiness by them.
fn is_ours(host: &str, table: &Table) -> bool {
    host.is_empty()
        || table.gateway_domain.as_ref().is_some_and(|domain| domain.as_str() == host)
        || host.trim_start_matches('[').trim_end_matches(']').parse::<IpAddr>().is_ok()
}

fn push_authority(text: &mut Vec<u8>, authority: &Authority<'_>) {
    text.extend_from_slice(authority.host.as_bytes());
    if let Some(port) = authority.port {
        text.push(b':');
        decimal(text, u64::from(port));
    }
}
