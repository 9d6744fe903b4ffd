//! The requests and answers of the admin API, as the server, the command line and the demo use them.
//!
//! Plain types: what they mean on the wire is what serde makes of them, and nothing here knows of HTTP.

mod documents;
mod domains;
mod drains;
mod explain;
pub mod moments;
mod services;
mod simulate;
mod status;
mod tokens;

pub use documents::{Applied, Apply, AuditRecord, DocumentChange, FileText, StoredDocument};
pub use domains::{
    Answering, DeadEnd, DomainSite, DomainStatus, FailoverTime, HeldBackStatus, OverrideInForce,
};
pub use drains::{DrainOrder, DrainView, HookState, OrderedDrain, StillRegistered};
pub use explain::{ExplainedAddress, ExplainedSite, Explanation, PastMoment};
pub use services::{InstanceCount, InstanceStatus, ServiceStatus};
pub use simulate::{MovedClients, MovedDomain, Simulation, SiteLoad, UnservedDomain};
pub use status::{
    CnameToSet, Finding, NodeStatus, SeenByVantage, Status, TargetStatus, VantageStatus, ViewStatus,
};
pub use tokens::{BootstrapOrder, BootstrapState, MadeToken, NewToken, PendingToken, TokenDigest, TokenView};
