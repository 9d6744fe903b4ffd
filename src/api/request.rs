//! The explanation of one request to a gateway.

use std::net::IpAddr;

use serde::{Deserialize, Serialize};
use store::model::Generation;
use utoipa::ToSchema;

use super::schema;

/// The request to explain.
#[derive(Clone, Debug, Serialize, Deserialize, ToSchema)]
#[serde(deny_unknown_fields)]
pub struct RequestQuestion {
    /// Its method.
    pub method: String,
    /// Its URL.
    pub url: String,
    /// Its header fields, each as `Name: value`.
    #[serde(default)]
    pub headers: Vec<String>,
    /// The address that it comes from; absent: 127.0.0.1.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    #[schema(value_type = Option<String>)]
    pub client: Option<IpAddr>,
    /// The cluster whose gateways it comes to; absent: that of the gateway which is asked, or the only one.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub cluster: Option<String>,
}

/// What becomes of a request, and why.
#[derive(Clone, Debug, Serialize, Deserialize, ToSchema)]
pub struct ExplainedRequest {
    /// The generation that decided it.
    #[schema(value_type = schema::Generation)]
    pub generation: Generation,
    /// The node that answers.
    pub node: String,
    /// The cluster whose gateways would serve it.
    pub cluster: String,
    /// The site of the gateway.
    pub site: String,
    /// The node is a gateway and answers with what its workers see: instances that are down or ejected, requests in flight,
    /// latencies. Otherwise it answers from documents and registry, as a gateway at its site would that has just started.
    pub live: bool,
    /// The gateway's listener that the request would come to.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub listener: Option<String>,
    /// The client's address, behind trusted proxies the one that they tell.
    #[schema(value_type = String)]
    pub client: IpAddr,
    /// The sender is in a trusted network.
    pub trusted: bool,
    /// `http` or `https`.
    pub scheme: String,
    /// The host that routes are compared with.
    pub host: String,
    /// The path that routes are compared with, in normal form; absent if the request is refused before.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub path: Option<String>,
    /// The hosts of routes that match, the most specific first.
    pub hosts: Vec<String>,
    /// The route that takes it; absent: none, or no route is looked for.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub route: Option<RequestRoute>,
    /// Other routes that its host and path lead to, and why they do not take it.
    pub lost: Vec<LostRoute>,
    /// How many more of them there are.
    pub more_lost: usize,
    /// What becomes of it.
    pub outcome: RequestOutcome,
    /// The services of the route by weight.
    pub shares: Vec<RequestShare>,
    /// What keeps this client at one of them.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub sticks_by: Option<String>,
    /// The service that gets copies.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub mirror: Option<RequestMirror>,
    /// The services that it may go to.
    pub services: Vec<RequestService>,
    /// What holds for it, if it is forwarded.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub rules: Option<RequestRules>,
    /// What else is to be known.
    pub notes: Vec<String>,
}

/// A route, and what of it matched.
#[derive(Clone, Debug, Serialize, Deserialize, ToSchema)]
pub struct RequestRoute {
    /// Its name.
    pub name: String,
    /// The host of it that matched; `*`: any.
    pub host: String,
    /// The path of it that matched.
    pub path: String,
    /// What kind of path that is: `exact`, `prefix`, `pattern` or `regex`.
    pub kind: String,
    /// Its priority.
    pub priority: i32,
    /// Its conditions besides host and path, all of which hold.
    pub conditions: Vec<String>,
}

/// A route that does not take the request.
#[derive(Clone, Debug, Serialize, Deserialize, ToSchema)]
pub struct LostRoute {
    /// Its name.
    pub name: String,
    /// The host of it that matched.
    pub host: String,
    /// The path of it.
    pub path: String,
    /// Why it does not take it.
    pub why: String,
}

/// What becomes of a request.
#[derive(Clone, Debug, PartialEq, Eq, Serialize, Deserialize, ToSchema)]
#[serde(tag = "kind", rename_all = "lowercase")]
pub enum RequestOutcome {
    /// It is sent to an instance.
    Forwarded {
        /// The target of the request line that the instance gets.
        target: String,
        /// Fields that the instance gets and the client did not send so, as `name: value`.
        added: Vec<String>,
        /// Fields of the client that the instance does not get.
        removed: Vec<String>,
        /// The cookie that the client gets, so that it stays at its service.
        #[serde(default, skip_serializing_if = "Option::is_none")]
        set_cookie: Option<String>,
    },
    /// The client is sent elsewhere.
    Redirected {
        /// The status.
        status: u16,
        /// Where to.
        location: String,
    },
    /// The route, or the gateway itself, answers.
    Answered {
        /// The status.
        status: u16,
        /// The media type.
        media_type: String,
        /// The body.
        body: String,
    },
    /// It is refused.
    Refused {
        /// The status.
        status: u16,
        /// The word of the cause, as in log, metrics and problem details.
        reason: String,
        /// The sentence in the answer.
        detail: String,
    },
}

/// A service of the route with its share.
#[derive(Clone, Debug, Serialize, Deserialize, ToSchema)]
pub struct RequestShare {
    /// The service.
    pub service: String,
    /// Its weight.
    pub weight: u16,
    /// Its share of such requests in percent.
    pub percent: f64,
    /// It is no service of this cluster.
    #[serde(default, skip_serializing_if = "std::ops::Not::not")]
    pub elsewhere: bool,
}

/// The service that gets copies of requests.
#[derive(Clone, Debug, Serialize, Deserialize, ToSchema)]
pub struct RequestMirror {
    /// The service.
    pub service: String,
    /// Of a hundred requests so many are copied.
    pub percent: u16,
}

/// A service that a request may go to.
#[derive(Clone, Debug, Serialize, Deserialize, ToSchema)]
pub struct RequestService {
    /// Its name.
    pub name: String,
    /// Its name in the registry.
    pub registry: String,
    /// How an instance is picked: `p2c`, `round_robin`, `least_requests` or `hash`.
    pub balance: String,
    /// What a consistent hash is of.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub hashed: Option<String>,
    /// The instance that the hash leads to, while its load is within bounds.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub chosen: Option<String>,
    /// Its discovery: `present`, `gone`, `unreachable`, `suspicious` or `unread`.
    pub standing: String,
    /// Why it is that.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub reason: Option<String>,
    /// What it may have at a time.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub circuit: Option<RequestCircuit>,
    /// The gateway's own site, then the others in their order.
    pub sites: Vec<RequestSite>,
    /// Instances that are never picked.
    pub out: Vec<RequestInstance>,
    /// Every instance that could be picked is down, and they are tried all the same.
    pub last_resort: bool,
}

/// What a service may have at a time, for each gateway.
#[derive(Clone, Debug, Serialize, Deserialize, ToSchema)]
pub struct RequestCircuit {
    /// Requests in flight.
    pub requests: u32,
    /// Requests that wait.
    pub pending: u32,
    /// Connections.
    pub connections: u32,
}

/// A site and its instances.
#[derive(Clone, Debug, Serialize, Deserialize, ToSchema)]
pub struct RequestSite {
    /// Its name.
    pub site: String,
    /// Why it has this place.
    pub why: String,
    /// Its share of the requests in percent.
    pub share: f64,
    /// Its instances are reached by its gateways, which are listed in their place.
    pub by_gateways: bool,
    /// Too few of its instances are fit, so that ejected ones are used.
    pub panics: bool,
    /// Those that get requests, largest share first, then the others.
    pub instances: Vec<RequestInstance>,
}

/// An instance.
#[derive(Clone, Debug, Serialize, Deserialize, ToSchema)]
pub struct RequestInstance {
    /// Its id in the registry.
    pub id: String,
    /// Its node.
    pub node: String,
    /// Address and port.
    pub address: String,
    /// `used`, `starting`, `warning`, `ejected`, `down`, `critical`, `draining`, `maintenance` or `unusable`.
    pub state: String,
    /// Why it is in this state.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub reason: Option<String>,
    /// Its share of its site's requests in percent.
    pub share: f64,
    /// The weight that counts.
    pub weight: u32,
    /// Requests in flight from this gateway.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub in_flight: Option<usize>,
    /// Recent latency seen by this gateway in milliseconds, recent peaks counting more.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub latency_ms: Option<f64>,
}

/// What holds for a request. Times are in milliseconds; one that is absent is not limited.
#[derive(Clone, Debug, Serialize, Deserialize, ToSchema)]
pub struct RequestRules {
    /// For a connection to an instance.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub connect_ms: Option<u64>,
    /// From the end of the request until the answer begins.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub first_byte_ms: Option<u64>,
    /// Without a byte once the answer has begun.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub idle_ms: Option<u64>,
    /// Of one attempt.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub per_try_ms: Option<u64>,
    /// Of the request in all.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub total_ms: Option<u64>,
    /// Bytes of the request's body; absent: any number.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub max_body_bytes: Option<u64>,
    /// How often it is sent again at most.
    pub retries: u8,
    /// After which failures.
    pub retry_on: Vec<String>,
    /// After answers with which statuses.
    pub retry_codes: Vec<String>,
    /// It may be sent again although an instance may have received it.
    pub repeatable: bool,
    /// After how long without an answer a further instance is asked.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub hedge_after_ms: Option<u64>,
    /// How many further instances at most.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub hedge_most: Option<u8>,
}
