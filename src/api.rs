//! The requests and answers of the admin API, as the server, the command line and the demo use them.
//!
//! These are plain types: serde decides how they look on the wire, and the OpenAPI document takes their schemas. Nothing
//! here depends on HTTP.

mod documents;
mod domains;
mod drains;
pub mod exchange;
mod explain;
pub mod moments;
mod orders;
mod probing;
mod problem;
mod request;
mod rollout;
mod schema;
mod services;
mod simulate;
mod site_drains;
mod sites;
mod status;
mod tokens;

pub use documents::{
    Applied, Apply, AuditRecord, DocumentChange, DocumentsQuery, FileText, ForceQuery, StoredDocument,
    SwitchQuery,
};
pub use domains::{
    Answering, DeadEnd, DomainSite, DomainStatus, FailoverTime, HeldBackStatus, OverrideInForce,
};
pub use drains::{CancelledDrain, DrainOrder, DrainView, HookState, OrderedDrain, StillRegistered};
pub use explain::{ExplainQuery, ExplainedAddress, ExplainedSite, Explanation, PastMoment};
pub use orders::{OrderView, OrderWithoutEffect, OrdersQuery, SwitchInForce};
pub use probing::{Report, ReportReply, VantageWork, WorkQuery};
pub use problem::Problem;
pub use request::{
    ExplainedRequest, LostRoute, RequestCircuit, RequestInstance, RequestMirror, RequestOutcome,
    RequestQuestion, RequestRoute, RequestRules, RequestService, RequestShare, RequestSite,
};
pub use rollout::{Enough, Rollout, RolloutQuery, SiteRollout};
pub use services::{InstanceCount, InstanceStatus, ServiceStatus};
pub use simulate::{MovedClients, MovedDomain, SimulateQuery, Simulation, SiteLoad, UnservedDomain};
pub use site_drains::{DrainAnswer, DrainChange, DrainsAnswer, DrainsQuery, PassedOnDrain, Progress};
pub use sites::{
    ChangeAtHome, ExchangeAnswer, ExchangeQuery, HomeAnswer, HomeChange, InstancesAnswer, InstancesQuery,
    JoinOrder, Joined, LostConfiguration, OtherSite, Promoted, Promotion, ShardsAnswer, ShardsQuery,
    SiteBearers, SiteIdentity, SiteNode, SiteShares, SiteState, SiteVerdictsAnswer,
};
pub use status::{
    CnameToSet, Finding, NodeStatus, SeenByVantage, Status, StatusQuery, TargetStatus, VantageStatus,
    ViewStatus,
};
pub use tokens::{BootstrapOrder, BootstrapState, MadeToken, NewToken, PendingToken, TokenDigest, TokenView};
