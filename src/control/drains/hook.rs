//! Calls the platform: at least once, keyed by the drain's id.

use std::time::Duration;

use reqwest::{Client, StatusCode, Url, redirect};
use serde::Serialize;
use store::drain::Drain;

use super::view::address;

/// The longest address of a hook.
const LONGEST: usize = 2_048;

/// Calls hooks.
#[derive(Clone, Debug)]
pub(in crate::control) struct Hooks {
    client: Client,
}

/// What a hook is told.
#[derive(Serialize)]
struct Call<'a> {
    drain: &'a str,
    service: &'a str,
    instance: &'a str,
    address: String,
    unproven: Vec<&'a str>,
}

impl Hooks {
    /// With the longest that one call may take.
    pub(in crate::control) fn new(deadline: Duration) -> Result<Self, reqwest::Error> {
        if rustls::crypto::CryptoProvider::get_default().is_none() {
            // Somebody else may be faster, which is as good.
            let _ = rustls::crypto::ring::default_provider().install_default();
        }
        let client = Client::builder()
            .timeout(deadline)
            .redirect(redirect::Policy::none())
            .no_proxy()
            .user_agent(concat!("waypost/", env!("CARGO_PKG_VERSION")))
            .build()?;
        Ok(Self { client })
    }

    /// One attempt, and the status it was answered with; anything but 2xx is a failure, in words.
    pub(super) async fn call(&self, url: &str, drain: &Drain) -> Result<StatusCode, String> {
        let call = Call {
            drain: &drain.id.0,
            service: &drain.service,
            instance: &drain.instance,
            address: address(drain),
            unproven: drain.unproven.iter().map(String::as_str).collect(),
        };
        let sent = self.client.post(url).header("idempotency-key", &drain.id.0).json(&call).send().await;
        match sent {
            Ok(answer) if answer.status().is_success() => Ok(answer.status()),
            Ok(answer) => Err(format!("the hook {url} answered {}, expected 2xx", answer.status())),
            Err(error) => Err(format!("the hook {url} cannot be called: {}", reasons(&error))),
        }
    }
}

fn reasons(error: &reqwest::Error) -> String {
    if error.is_timeout() {
        return "no answer in time".to_owned();
    }
    let mut text = String::new();
    let mut next: Option<&dyn std::error::Error> = std::error::Error::source(error);
    while let Some(cause) = next {
        text = cause.to_string();
        next = cause.source();
    }
    if text.is_empty() { error.to_string() } else { text }
}

/// What is wrong with a hook's address, if anything.
pub(super) fn check(hook: &str) -> Result<(), String> {
    let expected = || format!("hook {hook:?} is not a URL such as http://127.0.0.1:9000/stop");
    let url = Url::parse(hook).map_err(|_| expected())?;
    let fits = matches!(url.scheme(), "http" | "https") && url.host().is_some() && hook.len() <= LONGEST;
    if fits { Ok(()) } else { Err(expected()) }
}
