//! What operators and tools order at a control, and what it answered.

use std::sync::{Arc, Mutex};

use store::model::{Authority as Model, Colour, DocumentId, Generation, Kind};
use waypost::{
    api::{Applied, Apply, FileText, Promotion},
    control::{ChangeError, ControlHandle, Lockout, Requester},
};

use super::{carry::Door, draw::mark};
use crate::net::{Id, lock};

/// Whose order it is.
#[derive(Clone, Copy, Debug, PartialEq, Eq, PartialOrd, Ord)]
pub enum Authority {
    Human,
    Tool,
}

/// An order, or a change of documents.
#[derive(Clone, Debug, PartialEq)]
pub enum Act {
    /// An override of a site.
    Override {
        name: String,
        site: u16,
        state: &'static str,
        by: Authority,
        expires: Option<u64>,
        reason: u16,
    },
    /// The end of an override.
    Release { name: String, by: Authority },
    /// The other colour of a domain.
    Switch { domain: String, by: Authority },
    /// Documents are applied that bear a mark.
    Apply { mark: u16 },
    /// The site becomes the home.
    Promote { force: bool },
    /// An instance is drained.
    Drain { instance: u16 },
}

impl Act {
    /// True for what is an order, which makes no generation.
    pub const fn is_order(&self) -> bool {
        matches!(self, Self::Override { .. } | Self::Release { .. } | Self::Switch { .. })
    }
}

/// What became of one.
#[derive(Clone, Debug)]
pub struct Done {
    /// The number of the act: its order bears it in the name of who gave it.
    pub number: u64,
    pub control: Id,
    pub act: Act,
    /// What was acknowledged; the text is why it was not.
    pub result: Result<Acknowledged, String>,
}

/// What a control acknowledged.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct Acknowledged {
    pub generation: Generation,
    /// Something was changed.
    pub changed: bool,
}

/// An act at a control, whose clock shows `now`.
pub struct Given {
    pub number: u64,
    pub control: Id,
    pub act: Act,
    pub now: u64,
}

/// What all acts became, as far as their controls answered.
pub type Results = Arc<Mutex<Vec<Done>>>;

/// The name under which an act is given.
pub fn giver(number: u64) -> String {
    format!("giver-{number}")
}

/// Gives an order at a control, and notes the answer.
pub async fn give(given: Given, control: ControlHandle, door: Door, results: Results) {
    let result = attempt(&given, &control, &door).await;
    let Given { number, control, act, .. } = given;
    lock(&results).push(Done { number, control, act, result });
}

async fn attempt(given: &Given, control: &ControlHandle, door: &Door) -> Result<Acknowledged, String> {
    let name = giver(given.number);
    let requester = |by: &Authority| Requester {
        name: &name,
        authority: match by {
            Authority::Human => Model::Human,
            Authority::Tool => Model::Tool,
        },
        may_change_tokens: true,
    };
    let plain = |applied: Result<Applied, ChangeError>| {
        let applied = applied.map_err(|error| match error {
            ChangeError::Input(errors) => format!("{errors:?}"),
            other => other.to_string(),
        })?;
        Ok(Acknowledged { generation: applied.generation, changed: !applied.differences.is_empty() })
    };
    match &given.act {
        Act::Override { name, site, state, by, expires, reason } => {
            let expires = expires.map_or_else(String::new, |it| {
                format!("expires: {}\n", store::model::Moment(given.now + it).rfc3339())
            });
            let text = format!(
                "kind: Override\nname: {name}\ntarget: {{ site: s{site} }}\nstate: {state}\nowner: sim\n\
                 reason: r{reason}\nforce: true\n{expires}"
            );
            let files = vec![FileText { name: "order.yaml".to_owned(), text }];
            plain(control.apply(requester(by), &Apply { files, prune: false, order: true }).await)
        }
        Act::Release { name, by } => {
            let id = DocumentId { kind: Kind::Override, name: name.clone() };
            plain(control.delete(requester(by), id, Lockout::Refused).await)
        }
        Act::Switch { domain, by } => {
            let to: Option<Colour> = None;
            plain(control.switch(requester(by), domain.clone(), to).await)
        }
        Act::Apply { mark: number } => {
            let files = vec![FileText { name: "mark.yaml".to_owned(), text: mark(*number) }];
            let wanted = Apply { files, prune: false, order: false };
            let answer = door.ask("POST", "/v1/apply", serde_json::to_string(&wanted).unwrap()).await;
            if answer.status != 200 {
                return Err(String::from_utf8_lossy(&answer.body).into_owned());
            }
            let applied: Applied = serde_json::from_slice(&answer.body).unwrap();
            Ok(Acknowledged { generation: applied.generation, changed: !applied.differences.is_empty() })
        }
        Act::Drain { instance } => {
            let changed = super::drains::order(control, *instance, &name).await?;
            Ok(Acknowledged { generation: Generation::default(), changed })
        }
        Act::Promote { force } => {
            let wanted = Promotion { force: *force };
            let promoted = control.promote(requester(&Authority::Human), &door.peers, wanted).await;
            let promoted = promoted.map_err(|error| error.to_string())?;
            Ok(Acknowledged { generation: promoted.generation, changed: true })
        }
    }
}
