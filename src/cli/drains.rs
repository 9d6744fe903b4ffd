//! `waypost drain`: starting, following and cancelling drains.

use std::{collections::BTreeSet, time::Duration};

use serde_json::{Value, json};
use store::drain::Phase;

use super::{
    arguments::Drain,
    client::{Client, segment},
    failure::{Failure, Outcome},
    show,
    table::table,
};
use crate::{
    api::DrainView,
    out::{out, outln},
};

const POLL_EVERY: Duration = Duration::from_millis(200);
/// Control may be restarted while a drain is followed; after this time without an answer the command fails.
const GIVE_UP_AFTER: Duration = Duration::from_secs(60);

pub(super) async fn run(client: &Client, drain: Drain, json: bool) -> Outcome {
    match drain {
        Drain::Instance { service, id, node, hook, lease, require_all, linger, wait } => {
            let mut body = json!({
                "service": service, "instance": id, "node": node, "hook": hook, "lease": lease,
                "require_all": require_all,
            });
            // Only if it is given: an older control does not know the field.
            if let Some(linger) = linger {
                body["linger"] = json!(linger);
            }
            let ordered: Value = client.post("/v1/drains", &body).await?;
            let drain = ordered["id"].as_str().unwrap_or_default().to_owned();
            if wait {
                return follow(client, &drain, json).await;
            }
            if json {
                return show::json(&ordered);
            }
            outln!("{drain}");
            Ok(())
        }
        Drain::List => {
            let all: Vec<DrainView> = client.get("/v1/drains", &[]).await?;
            if json {
                return show::json(&all);
            }
            out!("{}", table(show::DRAIN_HEADS, &all.iter().map(show::drain_row).collect::<Vec<_>>()));
            Ok(())
        }
        Drain::Show { id } => {
            let view: DrainView = client.get(&path(&id), &[]).await?;
            if json {
                return show::json(&view);
            }
            out!("{}", table(show::DRAIN_HEADS, &[show::drain_row(&view)]));
            Ok(())
        }
        Drain::Cancel { id } => {
            let cancelled: Value = client.delete(&path(&id)).await?;
            if json {
                return show::json(&cancelled);
            }
            outln!("{}", cancelled_text(&cancelled));
            Ok(())
        }
    }
}

fn path(id: &str) -> String {
    format!("/v1/drains/{}", segment(id))
}

/// What a cancellation means. It names no step that did not happen.
fn cancelled_text(cancelled: &Value) -> String {
    let text = |key: &str| cancelled[key].as_str().unwrap_or_default();
    let instance = format!("{} of {}", text("instance"), text("service"));
    let before = match (cancelled["done"].is_null(), cancelled["hook_called"] == true) {
        (true, _) => "",
        (false, false) => "it was done; ",
        (false, true) => "it was done and its hook was called; ",
    };
    let after = if let Some(other) = cancelled["still_refused_by"].as_str() {
        format!("drain {other} still refuses {instance}; to let it in: waypost drain cancel {other}")
    } else if before.is_empty() && cancelled["deregistered"] != true {
        format!("gateways pick {instance} again")
    } else {
        format!("gateways let {instance} in again as soon as it is registered")
    };
    format!("{} cancelled: {before}{after}", text("id"))
}

/// Prints each step as it happens, until the drain is over.
async fn follow(client: &Client, id: &str, json: bool) -> Outcome {
    let mut last = LastReported::default();
    let mut away = None;
    loop {
        let view = match client.get::<DrainView>(&path(id), &[]).await {
            Ok(view) => {
                away = None;
                view
            }
            Err(failure) => {
                let since = *away.get_or_insert_with(tokio::time::Instant::now);
                if since.elapsed() > GIVE_UP_AFTER {
                    return Err(failure);
                }
                tokio::time::sleep(POLL_EVERY * 5).await;
                continue;
            }
        };
        if !json {
            last.report(&view);
        }
        match view.drain.phase {
            Phase::Done => return if json { show::json(&view) } else { Ok(()) },
            Phase::Cancelled => return Err(Failure::Failed(format!("{id} was cancelled"))),
            Phase::Draining | Phase::Deregistering | Phase::Calling => tokio::time::sleep(POLL_EVERY).await,
        }
    }
}

/// What was printed of a drain, so that each step is printed once.
#[derive(Default)]
struct LastReported {
    receipts: BTreeSet<String>,
    awaited: BTreeSet<String>,
    phase: Option<Phase>,
    trouble: Option<String>,
    stuck: bool,
}

impl LastReported {
    fn report(&mut self, view: &DrainView) {
        let drain = &view.drain;
        if self.phase.is_none() {
            outln!("{}: {} of {} at {}", drain.id, drain.instance, drain.service, view.address);
        }
        for receipt in &view.receipts {
            if self.receipts.insert(receipt.gateway.clone()) {
                outln!("receipt from {}", receipt.gateway);
            }
        }
        if self.awaited != view.awaited {
            self.awaited.clone_from(&view.awaited);
            if !self.awaited.is_empty() {
                outln!("waiting for {}", self.awaited.iter().cloned().collect::<Vec<_>>().join(", "));
            }
        }
        if self.phase != Some(drain.phase) {
            self.phase = Some(drain.phase);
            outln!("{}", show::phase(view));
            if drain.phase == Phase::Done && !drain.unproven.is_empty() {
                let names: Vec<_> = drain.unproven.iter().cloned().collect();
                outln!("UNPROVEN by {}: silent for longer than {}", names.join(", "), drain.lease);
            }
            if drain.phase == Phase::Done {
                let until = drain.linger.map_or_else(String::new, |it| format!(", for {it} at most"));
                outln!("{} is refused until it has ended{until}", drain.instance);
                outln!("to let it in before that: waypost drain cancel {}", drain.id);
            }
        }
        // The text contains a growing duration, so it is printed once.
        if let Some(why) = view.stuck.as_ref().filter(|_| !self.stuck && drain.trouble.is_none()) {
            outln!("stuck: {why}");
        }
        self.stuck = view.stuck.is_some();
        if self.trouble != drain.trouble {
            self.trouble.clone_from(&drain.trouble);
            if let Some(trouble) = &self.trouble {
                outln!("trouble: {trouble}");
            }
        }
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_cancellation_names_no_hook_call_that_was_not_made() {
        let mut cancelled = json!({
            "id": "d1", "phase": "cancelled", "service": "orders", "instance": "o-1", "done": null, "hook_called": false,
        });
        assert_eq!(cancelled_text(&cancelled), "d1 cancelled: gateways pick o-1 of orders again");
        cancelled["deregistered"] = json!(true);
        let again = "gateways let o-1 of orders in again as soon as it is registered";
        assert_eq!(cancelled_text(&cancelled), format!("d1 cancelled: {again}"), "while the hook is called");
        cancelled["done"] = json!("2026-11-26T17:00:00Z");
        assert!(!cancelled_text(&cancelled).contains("hook"));
        cancelled["hook_called"] = json!(true);
        let text = cancelled_text(&cancelled);
        assert!(text.contains("its hook was called") && text.ends_with(again), "{text}");
        cancelled["still_refused_by"] = json!("d2");
        let text = cancelled_text(&cancelled);
        assert!(text.ends_with("waypost drain cancel d2") && !text.contains("in again"), "{text}");
    }
}
