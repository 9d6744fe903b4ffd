//! The agent's endpoints: its registrations and checks, and the eviction of instances at the agent that owns them.
//!
//! An instance that is removed from the catalog comes back with its agent's next anti-entropy run (64 s were
//! measured), so it must be removed at that agent. Only nodes without an agent are changed in the catalog.

use reqwest::Url;
use serde::Serialize;

use super::{
    Consul,
    client::{Answer, Client, Request},
    wire::{AgentSelf, RegisterBody},
};
use crate::{CheckStatus, Endpoint, EngineError, Registration, Result};

/// Registers an instance at the configured agent, with exactly the checks it names.
pub(super) async fn register(client: &Client, registration: &Registration) -> Result<()> {
    let request = Request::put("v1/agent/service/register")
        .param("replace-existing-checks", "true")
        .json(&RegisterBody::from(registration))?;
    client.call(request).await?.ok().map(drop)
}

/// Reports a TTL check of the configured agent.
pub(super) async fn ttl_update(client: &Client, id: &str, status: CheckStatus, note: &str) -> Result<()> {
    #[derive(Debug, Serialize)]
    #[serde(rename_all = "PascalCase")]
    struct Update<'a> {
        status: CheckStatus,
        output: &'a str,
    }
    let request = Request::put("v1/agent/check/update").name(id).json(&Update { status, output: note })?;
    let answer = client.call(request).await?;
    // Consul 1.8 answers 500 for an unknown check, newer versions 404. Either way the request was wrong.
    if answer.excerpt().contains("does not have associated TTL") {
        return Err(EngineError::Refused(format!("check {id:?}: expected a TTL check of this agent")));
    }
    answer.ok().map(drop)
}

/// Removes an instance from an agent; absent is success.
pub(super) async fn deregister(client: &Client, agent: &Url, id: &str) -> Result<()> {
    let request = Request::put("v1/agent/service/deregister").name(id).at(agent);
    unless_absent(client.call(request).await?)
}

/// Switches the maintenance of an instance at an agent; absent is success.
async fn maintenance(client: &Client, agent: &Url, id: &str, enable: bool, reason: &str) -> Result<()> {
    let mut request = Request::put("v1/agent/service/maintenance")
        .name(id)
        .param("enable", if enable { "true" } else { "false" })
        .at(agent);
    if enable {
        request = request.param("reason", reason);
    }
    unless_absent(client.call(request).await?)
}

/// Consul 1.8 accepts unknown ids when deregistering; newer versions answer 404 with a text. An empty 404 does not
/// come from an agent.
fn unless_absent(answer: Answer) -> Result<()> {
    if answer.is_absent() && !answer.excerpt().is_empty() {
        return Ok(());
    }
    answer.ok().map(drop)
}

async fn node_name(client: &Client, agent: &Url) -> Result<String> {
    let request = Request::get("v1/agent/self").at(agent);
    let agent: AgentSelf =
        client.call(request).await?.ok()?.json("a JSON object with Config.NodeName").await?;
    Ok(agent.config.node_name)
}

/// Names the agent in an error, since it may not be the one the program was configured with.
fn naming_agent(endpoint: &Endpoint, agent: &Url, error: EngineError) -> EngineError {
    let place = |text: String| {
        format!("agent of node {:?} at {}: {text}", endpoint.node, agent.origin().ascii_serialization())
    };
    match error {
        EngineError::Unreachable(text) => EngineError::Unreachable(place(text)),
        EngineError::Denied(text) => EngineError::Denied(place(text)),
        EngineError::Refused(text) => EngineError::Refused(place(text)),
        EngineError::Unusable(text) => EngineError::Unusable(place(text)),
        storage @ EngineError::Storage(_) => storage,
    }
}

impl Consul {
    /// Starts maintenance first, so that watchers notice even if the deregistration after it fails.
    pub(super) async fn evict_at_owner(&self, endpoint: &Endpoint, reason: &str) -> Result<()> {
        if endpoint.external {
            return self.deregister_in_catalog(endpoint).await;
        }
        let agent = self.owner(endpoint).await?;
        let steps = async {
            maintenance(&self.client, &agent, &endpoint.id, true, reason).await?;
            deregister(&self.client, &agent, &endpoint.id).await
        };
        steps.await.map_err(|error| naming_agent(endpoint, &agent, error))
    }

    /// Ends the maintenance of an instance, if it is there.
    pub(super) async fn end_maintenance(&self, endpoint: &Endpoint) -> Result<()> {
        if endpoint.external {
            return Ok(());
        }
        let agent = self.owner(endpoint).await?;
        maintenance(&self.client, &agent, &endpoint.id, false, "")
            .await
            .map_err(|error| naming_agent(endpoint, &agent, error))
    }

    /// The URL of the agent that owns the instance. Its node name is checked, because the answer "no such instance" of
    /// a wrong agent would count as success.
    async fn owner(&self, endpoint: &Endpoint) -> Result<Url> {
        let own = self.node.get_or_try_init(|| node_name(&self.client, self.client.base())).await?;
        if *own == endpoint.node {
            return Ok(self.client.base().clone());
        }
        let agent = self.client.agent_on(&endpoint.node_address)?;
        let found =
            node_name(&self.client, &agent).await.map_err(|error| naming_agent(endpoint, &agent, error))?;
        if found == endpoint.node {
            return Ok(agent);
        }
        let wrong = EngineError::Unusable(format!("expected this node, found node {found:?}"));
        Err(naming_agent(endpoint, &agent, wrong))
    }

    async fn deregister_in_catalog(&self, endpoint: &Endpoint) -> Result<()> {
        #[derive(Debug, Serialize)]
        #[serde(rename_all = "PascalCase")]
        struct Deregistration<'a> {
            node: &'a str,
            #[serde(rename = "ServiceID")]
            service_id: &'a str,
        }
        let body = Deregistration { node: &endpoint.node, service_id: &endpoint.id };
        self.put(self.client.in_datacenter(Request::put("v1/catalog/deregister")).json(&body)?).await
    }
}
