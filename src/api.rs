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

pub use documents::{Applied, Apply, Audited, DocumentChange, FileText, KeptDocument};
pub use domains::{Answering, DeadEnd, DomainSite, DomainStatus, FailoverExplained, Forced, HeldBackStatus};
pub use drains::{DrainOrder, DrainView, HookState, OrderedDrain, StillRegistered};
pub use explain::{AddressExplained, Explained, PastExplained, SiteExplained};
pub use services::{InstanceStatus, Known, ServiceStatus};
pub use simulate::{DomainSimulated, GroupSimulated, LoadSimulated, Simulated, Unserved};
pub use status::{CnameToSet, Finding, NodeStatus, Seen, Status, TargetStatus, VantageStatus, ViewStatus};
pub use tokens::{Bootstrap, BootstrapOrder, Keyed, MadeToken, NewToken, Pending, TokenView};
