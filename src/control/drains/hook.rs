//! Calls a drain's hook, by which the platform stops the process: at least once, with the drain's id as the key.

use std::time::Duration;

use reqwest::{Client, StatusCode, Url, redirect};
use serde::Serialize;
use store::drain::Drain;

/// The longest URL of a hook, in bytes.
const MAX: usize = 2_048;

/// Calls hooks.
#[derive(Clone, Debug)]
pub(in crate::control) struct Hooks {
    client: Client,
}

/// The body of a call.
#[derive(Serialize)]
struct Call<'a> {
    drain: &'a str,
    service: &'a str,
    instance: &'a str,
    address: String,
    unproven: Vec<&'a str>,
}

impl Hooks {
    /// With the longest time that one call may take.
    pub(in crate::control) fn new(deadline: Duration) -> Result<Self, reqwest::Error> {
        if rustls::crypto::CryptoProvider::get_default().is_none() {
            // Another thread may install it first, which is as good.
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

    /// One attempt; the status of the answer. Any status but 2xx is a failure, described in words.
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
            Ok(answer) => Err(format!("the hook {} answered {}, expected 2xx", shown(url), answer.status())),
            Err(error) => {
                Err(format!("the hook {} cannot be called: {}", shown(url), reasons(&error.without_url())))
            }
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

/// A hook's URL as people and logs may see it: without user name, password, query and fragment, which may be secrets.
pub(super) fn shown(hook: &str) -> String {
    let Ok(mut url) = Url::parse(hook) else { return "(no URL)".to_owned() };
    let before = url.clone();
    // Both fail only for URLs that can have neither.
    let _ = url.set_username("");
    let _ = url.set_password(None);
    url.set_query(None);
    url.set_fragment(None);
    if url == before { hook.to_owned() } else { url.into() }
}

/// Where the instance serves.
pub(super) fn address(drain: &Drain) -> String {
    let (address, port) = (&drain.endpoint.address, drain.endpoint.port);
    if address.contains(':') { format!("[{address}]:{port}") } else { format!("{address}:{port}") }
}

/// Checks a hook's URL.
///
/// # Errors
/// What is wrong with it.
pub(super) fn check(hook: &str) -> Result<(), String> {
    let expected = || format!("hook {hook:?} is not a URL such as http://127.0.0.1:9000/stop");
    let url = Url::parse(hook).map_err(|_| expected())?;
    let fits = matches!(url.scheme(), "http" | "https") && url.host().is_some() && hook.len() <= MAX;
    if fits { Ok(()) } else { Err(expected()) }
}

#[cfg(test)]
mod tests {
    use store::drain::Phase;

    use super::*;
    use crate::control::drains::tests::drain;

    #[test]
    fn what_is_shown_of_a_hook_has_no_secrets() {
        for (hook, text) in [
            ("http://127.0.0.1:9000", "http://127.0.0.1:9000"),
            ("https://ci.example/stop", "https://ci.example/stop"),
            ("http://user:secret@127.0.0.1:40999/stop?token=abc#x", "http://127.0.0.1:40999/stop"),
            ("http://token@[::1]:9000/stop", "http://[::1]:9000/stop"),
            ("https://ci.example/stop?", "https://ci.example/stop"),
        ] {
            assert_eq!(shown(hook), text);
        }
    }

    #[tokio::test]
    async fn a_hook_that_cannot_be_called_does_not_tell_its_secrets() {
        let hooks = Hooks::new(Duration::from_secs(5)).unwrap();
        let drain = drain(Phase::Calling, None);
        let trouble = hooks.call("http://user:secret@127.0.0.1:1/stop?token=abc", &drain).await.unwrap_err();
        assert!(trouble.starts_with("the hook http://127.0.0.1:1/stop cannot be called: "), "{trouble}");
        assert!(!trouble.contains("secret") && !trouble.contains("abc"), "{trouble}");
    }
}
