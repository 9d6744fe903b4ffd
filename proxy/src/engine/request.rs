//! What is done with a request, from its head: refused, answered by the gateway, or forwarded with a head of ours.
//!
//! All of it happens at once, while the head is in the buffer. What is needed later is in the [`Plan`], so the buffer is
//! free for the body. Heads are never passed on as they came: fields about the connection are removed (RFC 9110
//! §7.6.1), the framing is ours, and the gateway sets its own fields.

use std::{borrow::Cow, cell::Cell, net::IpAddr, sync::Arc};

use store::{
    handle::asks_strictly,
    model::{Balance, HashOn},
};

use super::{
    asked::{Asked, Place, Request},
    client::Client,
    logged::Logged,
    sent::write_head,
};
use crate::{
    answers::{Form, Reason},
    config::Limits,
    cookies::cookie,
    engine::worker::Worker,
    forwarded::{Scheme, is_replaced},
    http1::{
        BodyLength, Field, FieldId, Fields, HeadError, Method, RequestLine, authenticates_connection,
        connection_options, request_body,
    },
    request_id::{RequestId, trace_id},
    route::{self, CompiledRoute, Matched, NewPath, NewSession, Table, session_key, stable_hash},
    shared::Shared,
    target::{self, Authority, Target, encode_query},
    via::MaxForwards,
};

/// A request that is forwarded.
#[derive(Debug)]
pub(crate) struct Plan {
    pub(crate) asked: Asked,
    pub(crate) table: Arc<Table>,
    /// The number of the service in the table.
    pub(crate) backend: usize,
    pub(crate) route: Arc<CompiledRoute>,
    /// A hash of what is asked for: method, host, path and query.
    pub(crate) target: u64,
    /// A hash of what decides about the instance; `None` if the service or the request has none.
    pub(crate) key: Option<u64>,
    /// The client waits for a 100 before it sends the body.
    pub(crate) expects: bool,
    /// The other protocols that the client asks for on its connection, as a list; `None` if it asks for none.
    pub(crate) upgrade: Option<Box<[u8]>>,
    /// The client takes trailers.
    pub(crate) trailers: bool,
    /// The request's own trailers are passed on.
    pub(crate) own_trailers: bool,
    /// The connection to the instance serves nobody else after it.
    pub(crate) authenticates: bool,
    /// The cookie that keeps the client at the service from now on.
    pub(crate) set_cookie: Option<Box<str>>,
}

impl Plan {
    /// The name of the service.
    pub(crate) fn service(&self) -> &str {
        self.table.backend(self.backend).map_or("the service", |it| it.name.as_str())
    }

    /// The most octets of the body.
    pub(crate) fn body_limit(&self, limits: &Limits) -> u64 {
        let own = self.route.document.limits.as_deref().and_then(|it| it.request_body);
        own.map(|it| it.0).or(limits.max_body_bytes).unwrap_or(u64::MAX)
    }

    /// True if an instance that answers with 101 switches to what the client has asked for (RFC 9110 §7.8). Names of
    /// protocols have no case.
    pub(crate) fn asks_for(&self, fields: &Fields, octets: &[u8]) -> bool {
        let Some(asked) = self.upgrade.as_deref() else { return false };
        let is_asked = |name: &[u8]| asked.split(|it| *it == b',').any(|it| it.eq_ignore_ascii_case(name));
        fields.has(FieldId::Upgrade) && fields.elements(FieldId::Upgrade, octets).all(is_asked)
    }

    /// Names of fields are passed on in the case they came in.
    pub(crate) fn keeps_case(&self) -> bool {
        self.route.document.preserve_header_case
    }
}

/// What is done with a request.
#[derive(Debug)]
pub(crate) enum Step {
    /// Forwarded with this head.
    Forward(Plan, Vec<u8>),
    /// Not served, with what exactly is wrong.
    Fail(Asked, Reason, Cow<'static, str>),
    /// Answered with a short text of the gateway.
    Text(Asked, u16, &'static str),
    /// Sent elsewhere.
    Redirect(Asked, u16, String, Option<Arc<CompiledRoute>>),
    /// Answered as the route says.
    Direct(Asked, Arc<CompiledRoute>),
}

/// A request as routes are matched with it.
pub(crate) struct Routed<'a> {
    request: &'a Request<'a>,
    method: &'a str,
    host: &'a str,
    target: &'a Target<'a>,
}

impl Routed<'_> {
    /// The hash that decides about the instance of a service; `None` if the service or the request has none.
    pub(crate) fn key(&self, table: &Table, backend: usize) -> Option<u64> {
        self.request.key(table, backend, self, None)
    }
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
        self.request.origin.scheme == Scheme::Https
    }

    fn client(&self) -> IpAddr {
        self.request.origin.client
    }

    fn fields<'r>(&'r self, name: &'r str) -> impl Iterator<Item = &'r [u8]> {
        let octets = self.request.octets;
        // What the instance is not told, because a stranger claims it, decides nothing here either.
        let claimed = !self.request.trusted && is_replaced(name.as_bytes(), false);
        let found = self.request.fields.find_all(octets, name.as_bytes()).filter(move |_| !claimed);
        found.map(|it| it.value.get(octets))
    }
}

/// The reason of a refusal with this status.
pub(crate) const fn reason(status: u16) -> Reason {
    match status {
        414 => Reason::UriTooLong,
        431 => Reason::HeadTooLarge,
        501 => Reason::NotImplemented,
        505 => Reason::VersionNotSupported,
        _ => Reason::BadRequest,
    }
}

/// Decides what is done with a request.
pub(crate) fn plan(worker: &Worker, client: &Client, line: &RequestLine, fields: &Fields) -> Step {
    let octets = client.input.as_ref().map_or(&[][..], |buffer| buffer.unread());
    let (shared, listener, hop) = (&*worker.shared, client.listener, &client.hop);
    let step = decide(&Place { shared, listener, hop, worker: Some(worker) }, octets, line, fields);
    if matches!(step, Step::Fail(_, Reason::Loop, _)) {
        worker.metrics().loops.increment();
    }
    step
}

/// Decides what is done with a request that came to this place. Reads nothing else, so that an explanation is decided alike.
pub(crate) fn decide(place: &Place<'_>, octets: &[u8], line: &RequestLine, fields: &Fields) -> Step {
    let body = request_body(line.version, fields, octets);
    let mut request = Request::of(place, octets, line, fields, body.unwrap_or(BodyLength::UntilClose));
    if let Err(error) = body {
        return *request.refuse_head(error);
    }
    request.plan(place).unwrap_or_else(|step| *step)
}

/// Calls `then` with a request as routes are matched with it; `None` if its target or host is refused.
pub(crate) fn looked_up<T>(
    place: &Place<'_>,
    octets: &[u8],
    line: &RequestLine,
    fields: &Fields,
    then: impl FnOnce(&Routed<'_>) -> T,
) -> Option<T> {
    let request = Request::of(place, octets, line, fields, BodyLength::None);
    let method = request.method();
    let sent = request.sent(place);
    let target = Target::read(method, &sent).ok()?;
    let named = request.authority().ok()?;
    let host = target.authority.as_ref().or(named.as_ref()).map_or("", |it| &it.host);
    Some(then(&Routed { request: &request, method, host, target: &target }))
}

impl<'a> Request<'a> {
    /// The target, its query encoded if it may have to be.
    fn sent(&self, place: &Place<'_>) -> Cow<'a, [u8]> {
        let sent = self.line.target.get(self.octets);
        if place.shared.config.limits.lenient_query { encode_query(sent) } else { Cow::Borrowed(sent) }
    }

    fn of(
        place: &Place<'a>,
        octets: &'a [u8],
        line: &'a RequestLine,
        fields: &'a Fields,
        body: BodyLength,
    ) -> Self {
        let networks = &place.shared.config.listeners[place.listener].trusted_networks;
        let values = |id| fields.all(id).map(|it| it.value.get(octets));
        let taken = fields.value(FieldId::RequestId, octets).filter(|_| place.hop.trusted());
        Self {
            octets,
            line,
            fields,
            body,
            options: connection_options(fields, octets),
            expects: false,
            trusted: place.hop.trusted(),
            origin: place.hop.origin(values, |address| networks.contain(address)),
            id: taken.and_then(RequestId::taken).unwrap_or_else(|| place.next_id()),
            logs: place.worker.filter(|it| it.log.borrow().is_some()),
            access_log: Cell::new(None),
        }
    }

    fn method(&self) -> &'a str {
        str::from_utf8(self.line.method.get(self.octets)).unwrap_or_default()
    }

    fn plan(&mut self, place: &Place<'_>) -> Result<Step, Box<Step>> {
        let shared = place.shared;
        self.expectation()?;
        let method = self.method();
        let sent = self.sent(place);
        let target = Target::read(method, &sent).map_err(|it| self.refuse(it))?;
        let named = self.authority()?;
        // An absolute target overrides the Host field (RFC 9112 §3.2.2).
        let authority = target.authority.as_ref().or(named.as_ref());
        let host = authority.map_or("", |it| &it.host);
        let table = shared.table.load_full().ok_or_else(|| self.fail(Reason::NoSnapshot, ""))?;
        if target.path == "/readyz" && is_ours(host, &table) {
            return Ok(self.readiness(shared, target.query.unwrap_or_default()));
        }
        self.over_https(place, &target, authority)?;
        let routed = Routed { request: self, method, host, target: &target };
        let found = table.find(&routed);
        if target.ambiguous && !found.is_some_and(|it| it.route.admits_ambiguous()) {
            return Err(self.refuse(target::Refusal::Ambiguous));
        }
        let found = found.ok_or_else(|| self.fail(Reason::NoRoute, ""))?;
        self.access_log.set(found.route.document.access_log);
        self.answer_by_route(&found, &target, authority)?;
        let hops = self.hops();
        if hops >= shared.config.limits.max_hops {
            return Err(self.fail_by(Reason::Loop, found.route));
        }
        let max_forwards = self.max_forwards()?;
        let (backend, session) = self.split(&found, &routed)?;
        let changes = found.route.changes.as_deref();
        let path = match changes.and_then(|it| it.path.as_ref()) {
            Some(change) if !target.is_asterisk() => change
                .apply(found.path(), &target.path)
                .map_err(|error| self.fail_with(Reason::UriTooLong, error.to_string().into()))?,
            _ => NewPath { start: Cow::Borrowed(target.forwarded()), rest: "" },
        };
        let mut text = place.text();
        let upgrades = self.upgrades(found.route);
        write_head(
            self,
            &mut text,
            (&path, target.query),
            authority,
            (hops + 1, max_forwards),
            place,
            (found.route, upgrades),
        );
        let plan = Plan {
            asked: self.asked(),
            backend,
            target: shared.hash(&[
                method.as_bytes(),
                host.as_bytes(),
                target.path.as_bytes(),
                target.query.unwrap_or_default().as_bytes(),
            ]),
            key: self.key(&table, backend, &routed, session.as_ref()),
            expects: self.expects,
            upgrade: upgrades.then(|| self.protocols()),
            own_trailers: self.passes_trailers(found.route),
            trailers: self.options.te_trailers && self.is_modern(),
            authenticates: authenticates_connection(self.fields, self.octets),
            set_cookie: session.map(|it| it.set_cookie.into()),
            route: Arc::clone(found.route),
            table,
        };
        Ok(Step::Forward(plan, text))
    }

    fn asked(&self) -> Asked {
        Asked {
            method: self.line.known,
            version: self.line.version,
            body: self.body,
            keep_alive: self.options.persists(self.line.version),
            form: Form::wanted(self.fields.all(FieldId::Accept).map(|it| it.value.get(self.octets))),
            id: self.id,
            logged: self.logs.filter(|_| self.access_log.get() != Some(false)).map(|it| self.logged(it)),
        }
    }

    /// What the access log tells of it.
    fn logged(&self, worker: &Worker) -> Box<Logged> {
        let value = |id| self.fields.value(id, self.octets).unwrap_or_default();
        let target = self.line.target.get(self.octets);
        let end = target.iter().position(|octet| *octet == b'?').unwrap_or(target.len());
        let query = target.get(end + 1..).unwrap_or_default();
        let client = (self.origin.client, self.origin.client_port, self.origin.scheme.as_str());
        let texts = [
            self.line.method.get(self.octets),
            value(FieldId::Host),
            &target[..end],
            query,
            value(FieldId::UserAgent),
            value(FieldId::Referer),
            trace_id(value(FieldId::Traceparent)).unwrap_or_default(),
        ];
        let mut logged = Logged::new(worker, client, self.line.version, texts);
        if self.access_log.get() == Some(true) {
            logged.always();
        }
        logged
    }

    fn fail(&self, reason: Reason, words: &'static str) -> Box<Step> {
        self.fail_with(reason, words.into())
    }

    /// A failure that operators find by its route.
    fn fail_by(&self, reason: Reason, route: &CompiledRoute) -> Box<Step> {
        self.fail_with(reason, format!("the route is {}", route.name()).into())
    }

    fn fail_with(&self, reason: Reason, words: Cow<'static, str>) -> Box<Step> {
        Box::new(Step::Fail(self.asked(), reason, words))
    }

    fn refuse(&self, refusal: target::Refusal) -> Box<Step> {
        self.fail_with(reason(refusal.status()), refusal.to_string().into())
    }

    fn refuse_head(&self, error: HeadError) -> Box<Step> {
        self.fail(reason(error.status()), error.as_str())
    }

    fn expectation(&mut self) -> Result<(), Box<Step>> {
        for field in self.fields.all(FieldId::Expect) {
            if !field.value.get(self.octets).eq_ignore_ascii_case(b"100-continue") {
                return Err(self.fail(Reason::ExpectationFailed, ""));
            }
            // A request without a body has nothing to wait for, and an old client knows no 100 (RFC 9110 §10.1.1).
            self.expects = !matches!(self.body, BodyLength::None | BodyLength::Sized(0)) && self.is_modern();
        }
        Ok(())
    }

    /// What `Host` says; there is one at most, and only HTTP/1.0 may go without.
    fn authority(&self) -> Result<Option<Authority<'a>>, Box<Step>> {
        let host = self.fields.value(FieldId::Host, self.octets);
        host.map(Authority::read).transpose().map_err(|it| self.refuse(it))
    }

    /// Whether load balancers may send traffic here. With `?strict` also whether this gateway's data may be out of date;
    /// the reasons are only on the status listener, for operators.
    fn readiness(&self, shared: &Shared, query: &str) -> Step {
        let (status, text) = match shared.unready() {
            None if asks_strictly(query) && !shared.handle.doubts().is_empty() => {
                (503, "in doubt: the data of this gateway may be out of date (see its log and metrics)")
            }
            None => (200, "ready"),
            Some(reason) => (503, reason),
        };
        Step::Text(self.asked(), status, text)
    }

    /// Sends clients of a listener for redirects to the same URL by https.
    fn over_https(
        &self,
        place: &Place<'_>,
        target: &Target<'_>,
        authority: Option<&Authority<'_>>,
    ) -> Result<(), Box<Step>> {
        let listener = &place.shared.config.listeners[place.listener];
        let Some(port) = listener.redirect_to_https else { return Ok(()) };
        if self.origin.scheme == Scheme::Https {
            return Ok(());
        }
        let Some(authority) = authority else {
            return Err(self.fail(Reason::BadRequest, "no Host, and this listener answers by redirects"));
        };
        let mut url = format!("https://{}", authority.host);
        if port != 443 {
            url.push_str(&format!(":{port}"));
        }
        url.push_str(if target.is_asterisk() { "/" } else { target.forwarded() });
        if let Some(query) = target.query {
            url.push('?');
            url.push_str(query);
        }
        // 308 keeps the method; clients of old know 301 alone.
        let status = if matches!(self.line.known, Method::Get | Method::Head) { 301 } else { 308 };
        Err(Box::new(Step::Redirect(self.asked(), status, url, None)))
    }

    /// Answers what the route answers by itself.
    fn answer_by_route(
        &self,
        found: &Matched<'_>,
        target: &Target<'_>,
        authority: Option<&Authority<'_>>,
    ) -> Result<(), Box<Step>> {
        if found.route.document.direct_response.is_some() {
            return Err(Box::new(Step::Direct(self.asked(), Arc::clone(found.route))));
        }
        let Some(redirect) = found.route.changes.as_ref().and_then(|it| it.redirect.as_ref()) else {
            return Ok(());
        };
        let Some(authority) = authority else {
            return Err(self.fail(Reason::BadRequest, "no Host, and the answer is a redirect"));
        };
        let https = self.origin.scheme == Scheme::Https;
        let location = redirect
            .location(found.path(), target, authority, https)
            .map_err(|error| self.fail_with(Reason::UriTooLong, error.to_string().into()))?;
        let route = Some(Arc::clone(found.route));
        Err(Box::new(Step::Redirect(self.asked(), redirect.status, location, route)))
    }

    /// The service that the request goes to, and the session that begins with it.
    fn split(
        &self,
        found: &Matched<'_>,
        routed: &Routed<'_>,
    ) -> Result<(usize, Option<NewSession>), Box<Step>> {
        let split = &found.route.split;
        let (mut key, mut begun) = (None, None);
        if let Some(persistence) = found.route.document.session_persistence.as_deref() {
            key = session_key(persistence, routed);
            let https = self.origin.scheme == Scheme::Https;
            if key.is_none()
                && let Some(new) = NewSession::begin(persistence, fastrand::u64(..), https)
            {
                key = Some(new.key);
                begun = Some(new);
            }
        }
        let backend = match key {
            Some(key) => split.stick(key),
            None => split.draw(|below| fastrand::u32(..below)),
        };
        let backend = backend.ok_or_else(|| {
            let weighs = found.route.document.to.iter().any(|it| it.weight.0 > 0);
            self.fail_by(if weighs { Reason::NoService } else { Reason::NoWeight }, found.route)
        })?;
        Ok((backend, begun))
    }

    /// The hash that decides about the instance.
    fn key(
        &self,
        table: &Table,
        backend: usize,
        routed: &Routed<'_>,
        session: Option<&NewSession>,
    ) -> Option<u64> {
        let Balance::Hash { hash_on, .. } = &table.backend(backend)?.document.balance else { return None };
        match hash_on {
            HashOn::Header(name) => {
                route::Request::fields(routed, name.as_str()).next().map(|value| stable_hash(0, value))
            }
            HashOn::Cookie(name) => {
                let lines = self.fields.all(FieldId::Cookie).map(|it| it.value.get(self.octets));
                let shown = cookie(lines, name.as_str().as_bytes()).map(|value| stable_hash(0, value));
                // The first request goes where those go that show the cookie.
                shown.or_else(|| session.filter(|it| it.is_named(name)).map(|it| it.key))
            }
            HashOn::Client => {
                let client = match self.origin.client {
                    IpAddr::V4(ip) => ip.to_ipv6_mapped().octets(),
                    IpAddr::V6(ip) => ip.octets(),
                };
                Some(stable_hash(0, &client))
            }
        }
    }

    /// The value that the field `Max-Forwards` is sent on with, if it is another than the client's (RFC 9110 §7.6.2).
    fn max_forwards(&self) -> Result<Option<u32>, Box<Step>> {
        if !self.fields.has(FieldId::MaxForwards) {
            return Ok(None);
        }
        let lines = self.fields.all(FieldId::MaxForwards).map(|it| it.value.get(self.octets));
        match MaxForwards::of(self.line.method.get(self.octets), lines) {
            MaxForwards::Ignored => Ok(None),
            MaxForwards::Forward(left) => Ok(Some(left)),
            MaxForwards::Answer if self.line.known == Method::Options => {
                Err(Box::new(Step::Text(self.asked(), 200, "this gateway is the last recipient")))
            }
            MaxForwards::Answer => Err(self.fail(Reason::MethodNotServed, "")),
            MaxForwards::Malformed => Err(self.fail(Reason::BadRequest, "Max-Forwards is not one number")),
        }
    }

    /// How many gateways the request has come through.
    fn hops(&self) -> u8 {
        let value = self.fields.value(FieldId::Hops, self.octets);
        let read = |value: &[u8]| str::from_utf8(value).ok().and_then(|text| text.parse().ok());
        value.map_or(0, |value| read(value).unwrap_or(u8::MAX))
    }

    /// Another protocol is asked for that the route allows.
    fn upgrades(&self, route: &CompiledRoute) -> bool {
        let refused = |field: &Field| {
            let mut names = field.value.get(self.octets).split(|it| *it == b',');
            names
                .any(|name| name.trim_ascii().is_empty() || !route.document.upgrade.admits(name.trim_ascii()))
        };
        self.options.upgrade
            && self.is_modern()
            && matches!(self.body, BodyLength::None | BodyLength::Sized(0))
            && !self.fields.all(FieldId::Upgrade).any(refused)
    }

    /// The protocols it asks for, separated by commas.
    fn protocols(&self) -> Box<[u8]> {
        let names: Vec<_> = self.fields.elements(FieldId::Upgrade, self.octets).collect();
        names.join(&b',').into()
    }
}

/// True for the names that address the gateway itself: load balancers and probers ask for its readiness by them.
fn is_ours(host: &str, table: &Table) -> bool {
    host.is_empty()
        || table.gateway_domain.as_ref().is_some_and(|domain| domain.as_str() == host)
        || host.trim_start_matches('[').trim_end_matches(']').parse::<IpAddr>().is_ok()
}
