//! What a gateway knows of the health of instances from its own traffic and its own dials.
//!
//! The engine reports facts ([`Outcome`]); one function says what a fact says about an instance ([`Outcome::says`]).
//! Failures are of two kinds, which have different consequences:
//!
//! - *Dials* that fail `fall` times in a row, those of requests and those of the gateway's own checks together, prove
//!   that nothing can be served there: the instance is **down** ([`Vitals`]). No client has a part in a dial, so there
//!   is no limit to how many may be down, and a site whose instances are all down is left at once. A down instance is
//!   dialled until it answers ([`active`]).
//! - *Requests* that fail may fail because of what was asked. They count only with evidence that another instance
//!   would have answered ([`Suspects`]); then the instance is **ejected** for a while. No more than a share of a site
//!   is ejected, one always stays, and traffic does not leave a site for it.
//!
//! All of this is known to the gateway as a whole: with more workers it does not take more failures.

pub(crate) mod active;
mod latency;
mod outcome;
mod schedule;
mod service;
mod suspects;
mod vitals;

pub(crate) use outcome::{Outcome, Says, Sent};
pub(crate) use service::{Member, Rules, ServiceHealth};
pub(crate) use suspects::{Ejection, Evidence};
pub(crate) use vitals::{Changes, Condition, Dials, Vitals};
