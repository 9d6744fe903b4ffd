//! Schemas of the records of other crates that the admin API shows.
//!
//! Those crates do not depend on OpenAPI, and the API writes their moments in RFC 3339 where the stored form counts
//! milliseconds, see [`super::moments`]. These types are never made: they only describe. A test compares real answers
//! with them.

#![expect(dead_code, reason = "only the schemas of these types are used")]

use std::collections::{BTreeMap, BTreeSet};

use utoipa::ToSchema;

/// A version of the configuration.
#[derive(ToSchema)]
pub(super) struct Generation {
    /// Raised by a restore and by a promotion.
    epoch: u32,
    /// The site that gave the epoch, which is the home; absent if the engine is connected to no other site.
    #[schema(required = false)]
    site: String,
    /// Raised by every change.
    number: u64,
}

/// One error in a document, with its place.
#[derive(ToSchema)]
pub(super) struct InputError {
    /// The name of the file.
    file: String,
    /// The line, counted from 1.
    #[schema(required = false)]
    line: u32,
    /// The document, as `Domain gw.example.com`; absent if it is not known.
    #[schema(required = false)]
    document: String,
    /// The field, as `records[3].data`; absent for the document as a whole.
    #[schema(required = false)]
    field: String,
    /// What is wrong.
    problem: String,
    /// What would be right; absent if the problem says so.
    #[schema(required = false)]
    expected: String,
}

/// The kind and the name of a document.
#[derive(ToSchema)]
pub(super) struct DocumentId {
    /// The kind, as `Domain`.
    kind: String,
    /// The name.
    name: String,
}

/// A document and how it differs.
#[derive(ToSchema)]
pub(super) struct Difference {
    /// The kind, as `Domain`.
    kind: String,
    /// The name.
    name: String,
    /// `added`, `changed` or `removed`.
    difference: String,
    /// The fields that differ; only of a changed document.
    #[schema(required = false)]
    fields: Vec<String>,
}

/// One field that differs.
#[derive(ToSchema)]
pub(super) struct FieldChange {
    /// The field, as `policy.type` or `gateways.bj.a[1]`.
    field: String,
    /// The stored value; absent if there is none.
    #[schema(required = false, value_type = Value)]
    before: serde_json::Value,
    /// The new value; absent if there is none.
    #[schema(required = false, value_type = Value)]
    after: serde_json::Value,
}

/// One write.
#[derive(ToSchema)]
pub(super) struct AuditEntry {
    /// When.
    #[schema(format = DateTime)]
    at: String,
    /// The name of the token, or `local`.
    who: String,
    /// What was done, such as `apply: Domain gw.example.com changed (ttl)`.
    what: String,
    /// The generation that it made; absent if it changed no document.
    #[schema(required = false)]
    generation: Generation,
}

/// What a token may do.
#[derive(ToSchema)]
#[schema(rename_all = "lowercase")]
pub(super) enum Role {
    /// Everything.
    Operator,
    /// Everything except tokens, backup and restore.
    Automation,
    /// The reports and the work of its vantage.
    Vantage,
    /// Register services and their checks.
    Registrar,
    /// What a node needs.
    Node,
    /// What a node with the role `control` needs.
    Control,
    /// Read everything except secrets.
    Reader,
}

/// What a token's role is limited to.
#[derive(ToSchema)]
pub(super) struct Scope {
    /// The vantage that it reports for.
    #[schema(required = false)]
    vantage: String,
    /// The names of the services, or globs, that it may register.
    #[schema(required = false)]
    services: Vec<String>,
    /// The site whose control bears it.
    #[schema(required = false)]
    site: String,
}

/// Health, as one vantage sees it or as the quorum decides.
#[derive(ToSchema)]
#[schema(rename_all = "lowercase")]
pub(super) enum State {
    /// Not known.
    Unknown,
    /// It serves.
    Up,
    /// It does not serve.
    Down,
}

/// What is concluded about one target from what all vantages see.
#[derive(ToSchema)]
pub(super) struct Verdict {
    /// The state.
    state: State,
    /// Since when; `null` if it was never judged.
    #[schema(format = DateTime)]
    since: Option<String>,
    /// Too few vantages agree, so the last state stays.
    held: bool,
    /// A vantage disagrees, or is confirming its observation.
    unsettled: bool,
    /// It is up and was down before, so the hold-down applies.
    recovered: bool,
    /// The votes are for up, but it went down too often, so it stays down until it has been quiet.
    #[schema(required = false)]
    damped: bool,
    /// It went down several times recently.
    #[schema(required = false)]
    flapping: bool,
    /// The votes are for down, but too many other targets went down as well, so the last state stays.
    #[schema(required = false)]
    frozen: bool,
    /// The votes.
    tally: Tally,
    /// The last changes, oldest first.
    history: Vec<Transition>,
}

/// The votes of the configured vantages.
#[derive(ToSchema)]
pub(super) struct Tally {
    /// Fresh, and up.
    up: u16,
    /// Fresh, and down.
    down: u16,
    /// Fresh, and unknown.
    unknown: u16,
    /// Not fresh.
    stale: u16,
}

/// One change of a verdict.
#[derive(ToSchema)]
pub(super) struct Transition {
    /// When.
    #[schema(format = DateTime)]
    at: String,
    /// The new state.
    to: State,
}

/// The record of a drain.
#[derive(ToSchema)]
pub(super) struct Drain {
    /// The version of the record.
    v: u32,
    /// The drain's id.
    id: String,
    /// The service in the registry.
    service: String,
    /// The instance's id in the registry.
    instance: String,
    /// The instance, as it was registered when the drain was ordered.
    endpoint: Endpoint,
    /// Who ordered it.
    by: String,
    /// The URL that is called once every receipt has arrived.
    #[schema(required = false)]
    hook: String,
    /// Silent gateways are waited for without end.
    require_all: bool,
    /// A gateway that has been silent for longer is not waited for.
    lease: String,
    /// When it was ordered.
    #[schema(format = DateTime)]
    created: String,
    /// The phase.
    phase: Phase,
    /// When the phase began.
    #[schema(format = DateTime)]
    since: String,
    /// The gateways that were given up on, without a receipt.
    unproven: BTreeSet<String>,
    /// The last failure of the step that is being tried.
    #[schema(required = false)]
    trouble: String,
    /// How long the instance is refused at most after the drain is done.
    #[schema(required = false)]
    linger: String,
    /// When it was done.
    #[schema(required = false, format = DateTime)]
    done: String,
    /// When every gateway had seen the instance end.
    #[schema(required = false, format = DateTime)]
    ended: String,
    /// Why it was cancelled, if no operator at the site that leads it did so.
    #[schema(required = false)]
    note: String,
    /// The site that leads it; absent: the site that is asked.
    #[schema(required = false)]
    site: String,
    /// The index of the record in the engine of that site.
    #[schema(required = false)]
    revision: u64,
    /// What to do about a site that does not answer: `hold` waits for it, `unproven` goes on after the lease.
    dark_site: String,
}

/// The phase of a drain.
#[derive(ToSchema)]
#[schema(rename_all = "lowercase")]
pub(super) enum Phase {
    /// The receipts are being collected.
    Draining,
    /// The instance is being deregistered.
    Deregistering,
    /// The hook is being called.
    Calling,
    /// The drain is done.
    Done,
    /// The drain was cancelled.
    Cancelled,
}

/// An instance of a service, as the registry has it.
#[derive(ToSchema)]
pub(super) struct Endpoint {
    /// The node that it is registered on.
    node: String,
    /// The node's address.
    node_address: String,
    /// The node has no agent.
    external: bool,
    /// The service.
    service: String,
    /// Its id.
    id: String,
    /// Its IP address or host name.
    address: String,
    /// Its port.
    port: u16,
    /// Its tags.
    tags: Vec<String>,
    /// Its metadata, over that of the node.
    meta: BTreeMap<String, String>,
    /// Its weight.
    weight: u32,
    /// `passing`, `warning` or `critical`.
    status: String,
    /// It or its node is in maintenance.
    maintenance: bool,
    /// The registry's index at its registration.
    create_index: u64,
    /// The registry's index at its last change.
    modify_index: u64,
}

/// The proof of a gateway that an instance gets no more traffic from it.
#[derive(ToSchema)]
pub(super) struct Receipt {
    /// The drain.
    drain: String,
    /// The gateway.
    gateway: String,
    /// The gateway's process.
    boot: String,
    /// The index of the drain's record at the gateway.
    index: u64,
    /// When.
    #[schema(format = DateTime)]
    at: String,
}

/// That a gateway saw a drained process end.
#[derive(ToSchema)]
pub(super) struct Ended {
    /// The drain.
    drain: String,
    /// The gateway.
    gateway: String,
    /// The gateway's process.
    boot: String,
    /// When.
    #[schema(format = DateTime)]
    at: String,
    /// How it knows: `refused` (its port refused a connection) or `boot` (another process registered).
    proof: String,
}

/// A report of a prober.
#[derive(ToSchema)]
pub(crate) struct Batch {
    /// The vantage that reports.
    vantage: String,
    /// The prober's process.
    boot: String,
    /// Raised by every report with observations.
    number: u64,
    /// Raised by every report.
    heartbeat: u64,
    /// Grows with time and with what is seen, for all controls together; 0 or absent if what was seen is not complete with this report.
    #[schema(required = false)]
    taken: u64,
    /// The vantage doubts its own network, so its votes do not count.
    withheld: bool,
    /// Every target is in the report, not only those that changed.
    full: bool,
    /// What it sees.
    observations: Vec<Observation>,
}

/// What a vantage sees of one target.
#[derive(ToSchema)]
pub(super) struct Observation {
    /// The target's key.
    target: String,
    /// The state.
    state: State,
    /// Since when, in milliseconds since 1970, by the prober's clock.
    since: u64,
    /// Why, such as `connection refused`.
    reason: String,
    /// How long the last successful probe took, as `3ms`.
    #[schema(required = false)]
    latency: String,
    /// The last probe contradicts the state and is being confirmed.
    #[schema(required = false)]
    suspect: bool,
}

/// The answer to a report.
#[derive(ToSchema)]
#[schema(rename_all = "lowercase")]
pub(crate) enum BatchReply {
    /// The report was stored, or was known already.
    Accepted,
    /// A report is missing: send every target again.
    Resend,
}

/// The work of a vantage.
#[derive(ToSchema)]
pub(crate) struct Work {
    /// Send it as `?index=` to wait for other work.
    index: u64,
    /// Every target to dial; absent if nothing changed since the index that was sent.
    #[schema(required = false)]
    targets: Vec<WorkTarget>,
    /// The targets to dial at once, because another vantage suspects them.
    confirm: Vec<ConfirmNow>,
}

/// One target to dial.
#[derive(ToSchema)]
pub(super) struct WorkTarget {
    /// Its key.
    key: String,
    /// Its address; the check has the port.
    address: String,
    /// Its site.
    site: String,
    /// How to dial it: the document of the Check.
    #[schema(value_type = Object)]
    check: serde_json::Value,
}

/// A target to dial at once.
#[derive(ToSchema)]
pub(super) struct ConfirmNow {
    /// A number that is never used twice.
    number: u64,
    /// The target's key.
    target: String,
    /// The vantage that suspects it.
    by: String,
}
