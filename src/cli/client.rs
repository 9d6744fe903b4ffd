//! A client of the admin API: one request, one answer, errors as text.

use std::{path::Path, time::Duration};

use percent_encoding::{AsciiSet, NON_ALPHANUMERIC, utf8_percent_encode};
use reqwest::{Method, RequestBuilder, StatusCode};
use serde::{Serialize, de::DeserializeOwned};

use super::{arguments::parse_url, failure::Failure};
use crate::{api::Problem, certificate, small_file, token_file};

/// Longer than control waits for an engine that hangs.
const TIMEOUT: Duration = Duration::from_secs(60);
/// A living server accepts a connection within this time, so a dead site does not delay a command any longer.
const CONNECT_TIMEOUT: Duration = Duration::from_secs(10);

#[derive(Debug)]
pub(super) struct Client {
    http: reqwest::Client,
    server: String,
    token: Option<String>,
}

impl Client {
    pub(super) fn new(
        server: &str,
        token_file: Option<&Path>,
        ca_file: Option<&Path>,
    ) -> Result<Self, Failure> {
        if let Err(expected) = parse_url(server) {
            return Err(Failure::Wrong(format!("--server {server:?}: {expected}")));
        }
        let read = |path: &Path| {
            small_file::read(path, small_file::MAX).map_err(|error| Failure::Wrong(error.to_string()))
        };
        let token = token_file.map(|path| token(path, &read(path)?)).transpose()?;
        let mut http =
            reqwest::Client::builder().connect_timeout(CONNECT_TIMEOUT).timeout(TIMEOUT).no_proxy();
        if let Some(path) = ca_file {
            let (pem, wrong) = (read(path)?, |error: &dyn std::fmt::Display| {
                Failure::Wrong(format!(
                    "--ca-file {}: {error}; expected certificates in PEM (BEGIN CERTIFICATE)",
                    path.display()
                ))
            });
            certificate::authorities(&pem).map_err(|error| wrong(&error))?;
            let certificates = reqwest::Certificate::from_pem_bundle(&pem).map_err(|error| wrong(&error))?;
            http = http.tls_certs_only(certificates);
        }
        let http = http.build().map_err(Failure::failed)?;
        Ok(Self { http, server: server.trim_end_matches('/').to_owned(), token })
    }

    /// The base address, without a slash at its end.
    pub(super) fn server(&self) -> &str {
        &self.server
    }

    fn request(&self, method: Method, path: &str) -> RequestBuilder {
        let request = self.http.request(method, format!("{}{path}", self.server));
        match &self.token {
            Some(token) => request.bearer_auth(token),
            None => request,
        }
    }

    fn unreachable(&self, error: &reqwest::Error) -> Failure {
        let mut text = format!("control at {} does not answer: {error}", self.server);
        let mut cause = std::error::Error::source(error);
        while let Some(deeper) = cause {
            text = format!("{text}: {deeper}");
            cause = deeper.source();
        }
        Failure::Failed(text)
    }

    async fn send(&self, request: RequestBuilder) -> Result<String, Failure> {
        let answer = request.send().await.map_err(|error| self.unreachable(&error))?;
        let status = answer.status();
        let body = answer.text().await.map_err(|error| self.unreachable(&error))?;
        if status.is_success() {
            return Ok(body);
        }
        Err(match serde_json::from_str::<Problem>(&body) {
            // The request itself is wrong: an unknown record type, a site that does not exist.
            Ok(Problem { error, mistakes }) if mistakes.is_empty() && status == StatusCode::BAD_REQUEST => {
                Failure::Wrong(error)
            }
            Ok(Problem { error, mistakes }) if mistakes.is_empty() => Failure::Failed(error),
            Ok(Problem { error, mistakes }) => Failure::Refused { errors: mistakes, summary: error },
            Err(_) => Failure::Failed(format!("control answered {status}: {}", body.trim())),
        })
    }

    async fn parsed<T: DeserializeOwned>(&self, request: RequestBuilder) -> Result<T, Failure> {
        let body = self.send(request).await?;
        let wrong = |error| Failure::Failed(format!("the answer of {} cannot be read: {error}", self.server));
        serde_json::from_str(&body).map_err(wrong)
    }

    pub(super) async fn get<T: DeserializeOwned>(
        &self,
        path: &str,
        query: &[(&str, &str)],
    ) -> Result<T, Failure> {
        self.parsed(self.request(Method::GET, &with_query(path, query))).await
    }

    pub(super) async fn text(&self, path: &str) -> Result<String, Failure> {
        self.send(self.request(Method::GET, path)).await
    }

    pub(super) async fn post<T: DeserializeOwned>(
        &self,
        path: &str,
        body: &impl Serialize,
    ) -> Result<T, Failure> {
        self.parsed(self.request(Method::POST, path).json(body)).await
    }

    pub(super) async fn post_text<T: DeserializeOwned>(
        &self,
        path: &str,
        body: String,
    ) -> Result<T, Failure> {
        self.parsed(self.request(Method::POST, path).body(body)).await
    }

    /// Whether there is something at a path.
    pub(super) async fn has(&self, path: &str) -> Result<bool, Failure> {
        let request = self.request(Method::GET, path);
        let answer = request.send().await.map_err(|error| self.unreachable(&error))?;
        match answer.status() {
            StatusCode::NOT_FOUND => Ok(false),
            status if status.is_success() => Ok(true),
            _ => self.send(self.request(Method::GET, path)).await.map(|_| true),
        }
    }

    pub(super) async fn delete<T: DeserializeOwned>(&self, path: &str) -> Result<T, Failure> {
        self.parsed(self.request(Method::DELETE, path)).await
    }
}

/// The token in a file. A text that cannot be a token is not sent: the server would only answer that it is unknown.
fn token(path: &Path, bytes: &[u8]) -> Result<String, Failure> {
    token_file::word(bytes).map(str::to_owned).map_err(|problem| {
        let path = path.display();
        Failure::Wrong(format!("--token-file {path}: {problem}; expected a token on one line"))
    })
}

fn with_query(path: &str, query: &[(&str, &str)]) -> String {
    if query.is_empty() {
        return path.to_owned();
    }
    // The base only makes it a whole URL, which is what pairs can be appended to.
    let mut url = reqwest::Url::parse("http://query.invalid").expect("it is one");
    url.query_pairs_mut().extend_pairs(query);
    format!("{path}?{}", url.query().unwrap_or_default())
}

/// All octets but the unreserved ones of RFC 3986 §2.3.
const RESERVED: AsciiSet = NON_ALPHANUMERIC.remove(b'-').remove(b'_').remove(b'.').remove(b'~');

/// One segment of a path, in which a slash of a name is no separator.
pub(super) fn segment(text: &str) -> String {
    utf8_percent_encode(text, &RESERVED).to_string()
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_token_is_one_word() {
        let read = |bytes: &[u8]| token(Path::new("t"), bytes).map_err(|it| it.text());
        assert_eq!(read(b" 0123456789abcdef\n"), Ok("0123456789abcdef".to_owned()));
        assert_eq!(read(b" \n").unwrap_err(), "--token-file t: it is empty; expected a token on one line");
        for none in [&b"two words"[..], b"two\nlines", b"\xff\xfe", "\u{e9}".as_bytes()] {
            assert!(read(none).unwrap_err().contains("it holds no token"), "{none:?}");
        }
    }

    #[test]
    fn names_stay_one_segment() {
        assert_eq!(segment("gw.example.com"), "gw.example.com");
        assert_eq!(segment("a/b?c"), "a%2Fb%3Fc");
        assert_eq!(with_query("/v1/explain", &[("name", "a&b")]), "/v1/explain?name=a%26b");
    }
}
