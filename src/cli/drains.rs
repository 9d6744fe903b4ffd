//! `waypost drain`: ordering, watching, calling off.

use std::{collections::BTreeSet, time::Duration};

use serde_json::{Value, json};
use store::drain::Phase;

use super::{
    Drain, Failure, Outcome,
    client::{Client, segment},
    commands::print,
    show,
};
use crate::control::DrainView;

const POLL: Duration = Duration::from_millis(200);
/// Control may be restarted while a drain is watched; longer than this it is not waited for.
const AWAY: Duration = Duration::from_secs(60);

pub(super) async fn run(client: &Client, drain: Drain, json: bool) -> Outcome {
    match drain {
        Drain::Instance { service, id, node, hook, lease, require_all, wait } => {
            let body = json!({
                "service": service, "instance": id, "node": node, "hook": hook, "lease": lease,
                "require_all": require_all,
            });
            let ordered: Value = client.post("/v1/drains", &body).await?;
            let drain = ordered["id"].as_str().unwrap_or_default().to_owned();
            if wait {
                return follow(client, &drain, json).await;
            }
            if json {
                return show::json(&ordered);
            }
            print(&format!("{drain}\n"))
        }
        Drain::List => {
            let all: Vec<DrainView> = client.get("/v1/drains", &[]).await?;
            if json {
                return show::json(&all);
            }
            print(&show::table(show::DRAIN_HEADS, &all.iter().map(show::drain_row).collect::<Vec<_>>()))
        }
        Drain::Show { id } => {
            let view: DrainView = client.get(&path(&id), &[]).await?;
            if json {
                return show::json(&view);
            }
            print(&show::table(show::DRAIN_HEADS, &[show::drain_row(&view)]))
        }
        Drain::Cancel { id } => {
            let cancelled: Value = client.delete(&path(&id)).await?;
            if json {
                return show::json(&cancelled);
            }
            print(&format!("{id} cancelled\n"))
        }
    }
}

fn path(id: &str) -> String {
    format!("/v1/drains/{}", segment(id))
}

/// Tells each step as it happens, until the drain is over.
async fn follow(client: &Client, id: &str, json: bool) -> Outcome {
    let mut told = Told::default();
    let mut away = None;
    loop {
        let view = match client.get::<DrainView>(&path(id), &[]).await {
            Ok(view) => {
                away = None;
                view
            }
            Err(failure) => {
                let since = *away.get_or_insert_with(tokio::time::Instant::now);
                if since.elapsed() > AWAY {
                    return Err(failure);
                }
                tokio::time::sleep(POLL * 5).await;
                continue;
            }
        };
        if !json {
            told.tell(&view);
        }
        match view.drain.phase {
            Phase::Done => return if json { show::json(&view) } else { Ok(()) },
            Phase::Cancelled => return Err(Failure::Failed(format!("{id} was cancelled"))),
            Phase::Draining | Phase::Deregistering | Phase::Calling => tokio::time::sleep(POLL).await,
        }
    }
}

#[derive(Default)]
struct Told {
    receipts: BTreeSet<String>,
    awaited: BTreeSet<String>,
    phase: Option<Phase>,
    trouble: Option<String>,
    stuck: bool,
}

impl Told {
    fn tell(&mut self, view: &DrainView) {
        let drain = &view.drain;
        if self.phase.is_none() {
            println!("{}: {} of {} at {}", drain.id, drain.instance, drain.service, view.address);
        }
        for receipt in &view.receipts {
            if self.receipts.insert(receipt.gateway.clone()) {
                println!("receipt from {}", receipt.gateway);
            }
        }
        if self.awaited != view.awaited {
            self.awaited.clone_from(&view.awaited);
            if !self.awaited.is_empty() {
                println!("waiting for {}", self.awaited.iter().cloned().collect::<Vec<_>>().join(", "));
            }
        }
        if self.phase != Some(drain.phase) {
            self.phase = Some(drain.phase);
            println!("{}", show::phase(view));
            if drain.phase == Phase::Done && !drain.unproven.is_empty() {
                let names: Vec<_> = drain.unproven.iter().cloned().collect();
                println!("UNPROVEN by {}: silent for longer than {}", names.join(", "), drain.lease);
            }
        }
        // Its words grow older by the second; that it is stuck is said once.
        if let Some(why) = view.stuck.as_ref().filter(|_| !self.stuck && drain.trouble.is_none()) {
            println!("stuck: {why}");
        }
        self.stuck = view.stuck.is_some();
        if self.trouble != drain.trouble {
            self.trouble.clone_from(&drain.trouble);
            if let Some(trouble) = &self.trouble {
                println!("trouble: {trouble}");
            }
        }
    }
}
