//! `waypost drain`: starting, following and cancelling drains.

use std::{collections::BTreeSet, time::Duration};

use store::{drain::Phase, model::UnknownWord};

use super::{
    arguments::Drain,
    client::{Client, segment},
    failure::{Failure, Outcome},
    show,
    table::table,
};
use crate::{
    api::{CancelledDrain, DrainOrder, DrainView, OrderedDrain},
    out::{out, outln},
};

const POLL_EVERY: Duration = Duration::from_millis(200);
/// Control may be restarted while a drain is followed; after this time without an answer the command fails.
const GIVE_UP_AFTER: Duration = Duration::from_secs(60);

pub(super) async fn run(client: &Client, drain: Drain, json: bool) -> Outcome {
    match drain {
        Drain::Instance { service, id, site, node, hook, lease, require_all, dark_site, linger, wait } => {
            let instance = id;
            let dark_site = dark_site.map(|it| it.parse()).transpose();
            let dark_site =
                dark_site.map_err(|error: UnknownWord| Failure::Failed(format!("--dark-site: {error}")))?;
            let order = DrainOrder {
                service,
                instance,
                node,
                hook,
                lease,
                require_all,
                linger,
                site,
                dark_site,
                ..DrainOrder::default()
            };
            let ordered: OrderedDrain = client.post("/v1/drains", &order).await?;
            let drain = ordered.drain.id.to_string();
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
            let cancelled: CancelledDrain = client.delete(&path(&id)).await?;
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
fn cancelled_text(cancelled: &CancelledDrain) -> String {
    let instance = format!("{} of {}", cancelled.instance, cancelled.service);
    let before = match (cancelled.done.is_some(), cancelled.hook_called) {
        (false, _) => "",
        (true, false) => "it was done; ",
        (true, true) => "it was done and its hook was called; ",
    };
    let after = if let Some(other) = &cancelled.still_refused_by {
        format!("drain {other} still refuses {instance}; to let it in: waypost drain cancel {other}")
    } else if before.is_empty() && !cancelled.deregistered {
        format!("gateways pick {instance} again")
    } else {
        format!("gateways let {instance} in again as soon as it is registered")
    };
    let later = cancelled.not_told.as_ref().map_or_else(String::new, |site| {
        format!(
            "; the site {site}, which leads the drain, does not answer: until it does, this holds at the site that was asked"
        )
    });
    format!("{} cancelled: {before}{after}{later}", cancelled.id)
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
    use store::drain::DrainId;

    use super::*;

    #[test]
    fn a_cancellation_names_no_hook_call_that_was_not_made() {
        // An older control answers with fewer fields.
        let mut cancelled: CancelledDrain = serde_json::from_value(serde_json::json!({
            "id": "d1", "phase": "cancelled", "service": "orders", "instance": "o-1", "done": null, "hook_called": false,
        }))
        .unwrap();
        assert_eq!(cancelled_text(&cancelled), "d1 cancelled: gateways pick o-1 of orders again");
        cancelled.deregistered = true;
        let again = "gateways let o-1 of orders in again as soon as it is registered";
        assert_eq!(cancelled_text(&cancelled), format!("d1 cancelled: {again}"), "while the hook is called");
        cancelled.done = Some("2026-11-26T17:00:00Z".to_owned());
        assert!(!cancelled_text(&cancelled).contains("hook"));
        cancelled.hook_called = true;
        let text = cancelled_text(&cancelled);
        assert!(text.contains("its hook was called") && text.ends_with(again), "{text}");
        cancelled.still_refused_by = Some(DrainId("d2".to_owned()));
        let text = cancelled_text(&cancelled);
        assert!(text.ends_with("waypost drain cancel d2") && !text.contains("in again"), "{text}");
        cancelled.not_told = Some("sh".parse().unwrap());
        let text = cancelled_text(&cancelled);
        assert!(text.contains("the site sh, which leads the drain, does not answer"), "{text}");
    }
}
