//! Calls to servers that are away, slow or wrong.

use std::{future::pending, path::PathBuf, time::Duration};

use axum::{
    Router,
    http::{HeaderMap, HeaderName},
    response::IntoResponse,
    routing::any,
};
use store::{
    handle::{Clock, channel},
    model::{ControlUrl, SiteControl},
};
use tempfile::TempDir;

use super::{
    exchange::{SITE_HEADER, VERSION_HEADER},
    *,
};
use crate::{api::SiteIdentity, listen};

const PATH: &str = "/v1/sites/identity";
/// Far more than an answer takes; only failures wait for it.
const DEADLINE: Duration = Duration::from_secs(20);
/// For servers that never answer.
const SHORT: Duration = Duration::from_millis(200);
const RIGHT: &str = r#"{"v":1,"site":"bj","node":"n","boot":"b"}"#;

async fn serve(router: Router) -> ControlUrl {
    let bound = listen::bind("test", "127.0.0.1:0".parse().unwrap(), None).await.unwrap();
    let url = format!("http://{}", bound.address()).parse().unwrap();
    tokio::spawn(bound.serve(router, pending()));
    url
}

/// A server that answers every request with these headers and this body.
async fn answering(status: u16, headers: &[(&'static str, &'static str)], body: &'static str) -> ControlUrl {
    let headers: Vec<_> =
        headers.iter().map(|(name, value)| (HeaderName::from_static(name), *value)).collect();
    let answer = move || {
        let mut response = body.into_response();
        *response.status_mut() = status.try_into().unwrap();
        response
            .headers_mut()
            .extend(headers.clone().into_iter().map(|(name, it)| (name, it.parse().unwrap())));
        async move { response }
    };
    serve(Router::new().fallback(any(answer))).await
}

const BJ: [(&str, &str); 2] = [(SITE_HEADER, "bj"), (VERSION_HEADER, "1")];

/// A server that accepts connections and never answers.
fn silent() -> (std::net::TcpListener, ControlUrl) {
    let listener = std::net::TcpListener::bind("127.0.0.1:0").unwrap();
    let url = format!("http://{}", listener.local_addr().unwrap()).parse().unwrap();
    (listener, url)
}

/// A URL at which no server listens.
fn closed() -> ControlUrl {
    silent().1
}

struct Caller {
    peers: Peers,
    folder: TempDir,
}

impl Caller {
    fn new() -> Self {
        let folder = tempfile::tempdir().unwrap();
        std::fs::write(folder.path().join("token"), "0123456789abcdef").unwrap();
        let (handle, _) = channel(Clock::default(), Duration::MAX);
        let own = Own {
            site: "sh".parse().unwrap(),
            node: "n".parse().unwrap(),
            boot: String::new(),
            certificate: None,
            folder: folder.path().to_owned(),
        };
        Self { peers: Peers::new(own, handle), folder }
    }

    fn to(&self, urls: impl Into<Vec<ControlUrl>>) -> Peer {
        let token_file = self.folder.path().join("token");
        self.with(urls, token_file)
    }

    fn with(&self, urls: impl Into<Vec<ControlUrl>>, token_file: PathBuf) -> Peer {
        let control = SiteControl { urls: urls.into(), ca_file: None, token_file };
        self.peers.peer("bj".parse().unwrap(), &control)
    }

    async fn error(&self, url: ControlUrl, deadline: Duration) -> PeerError {
        let error = self.to([url]).get::<SiteIdentity>(PATH, deadline, 1_000).await.unwrap_err();
        assert_eq!(self.peers.metrics().failures[error.index()].get(), 1, "{error}");
        error
    }
}

#[tokio::test]
async fn every_wrong_answer_is_told_apart() {
    let none: &[(&str, &str)] = &[];
    let huge: &str = Box::leak(format!("{{\"v\":1,\"site\":\"bj\"{}", " ".repeat(5_000)).into_boxed_str());
    for (reason, status, headers, body, words) in [
        ("too_large", 200, &BJ[..], huge, "more than 1000 octets"),
        ("malformed", 200, &BJ, "{\"v\":1", "cannot be read: EOF"),
        (
            "malformed",
            200,
            &BJ,
            "{\"v\":1,\"site\":\"Not A Name\",\"node\":\"n\",\"boot\":\"b\"}",
            "a name of 1 to 63",
        ),
        ("malformed", 200, none, RIGHT, "no control that knows sites"),
        ("malformed", 200, &BJ[..1], RIGHT, "no version of the exchange"),
        (
            "newer_version",
            200,
            &[(SITE_HEADER, "bj"), (VERSION_HEADER, "2")],
            RIGHT,
            "with version 2 of the exchange",
        ),
        ("newer_version", 200, &BJ, "{\"v\":3,\"who\":\"bj\"}", "with version 3 of the exchange"),
        (
            "other_site",
            200,
            &[(SITE_HEADER, "gz"), (VERSION_HEADER, "1")],
            RIGHT,
            "in the site \"gz\", not in bj",
        ),
        (
            "refused",
            403,
            &BJ,
            "{\"error\":\"the Site hk names no control\"}",
            "403: the Site hk names no control",
        ),
        ("refused", 404, none, "no such\npath", "404: no such path"),
        ("refused", 307, &BJ, "", "307"),
    ] {
        let error = Caller::new().error(answering(status, headers, body).await, DEADLINE).await;
        assert_eq!(error.reason(), reason, "{error}");
        assert!(error.to_string().contains(words), "{words}: {error}");
    }
}

#[tokio::test]
async fn a_server_that_is_away_or_silent_is_named_with_the_reason() {
    let url = closed();
    let error = Caller::new().error(url.clone(), DEADLINE).await;
    assert_eq!(error.reason(), "unreachable");
    assert!(
        error.to_string().contains(&format!("{url}: ")) && error.to_string().contains("refused"),
        "{error}"
    );
    let (_listener, url) = silent();
    let error = Caller::new().error(url.clone(), SHORT).await;
    assert_eq!(error, PeerError::Timeout { url, deadline: SHORT });
    // The head comes, and of the body only the beginning.
    let slow = || async {
        let first = futures_util::stream::once(async { Ok::<_, std::io::Error>(RIGHT.get(..9).unwrap()) });
        let body = axum::body::Body::from_stream(futures_util::StreamExt::chain(
            first,
            futures_util::stream::pending(),
        ));
        ([(SITE_HEADER, "bj"), (VERSION_HEADER, "1")], body)
    };
    let error = Caller::new().error(serve(Router::new().fallback(any(slow))).await, SHORT).await;
    assert_eq!(error.reason(), "timeout", "{error}");
}

#[tokio::test]
async fn a_call_begins_with_the_url_that_answered_last() {
    let caller = Caller::new();
    let good = answering(200, &BJ, RIGHT).await;
    let peer = caller.to([closed(), good.clone()]);
    peer.get::<SiteIdentity>(PATH, DEADLINE, 1_000).await.unwrap();
    let (_listener, silent) = silent();
    let peer = caller.to([silent.clone(), good]);
    let ask = |deadline| peer.get::<SiteIdentity>(PATH, deadline, 1_000);
    assert!(matches!(ask(SHORT).await, Err(PeerError::Timeout { url, .. }) if url == silent));
    ask(DEADLINE).await.unwrap();
    ask(DEADLINE).await.unwrap();
}

#[tokio::test]
async fn the_worst_reason_of_several_urls_names_the_error() {
    let caller = Caller::new();
    let other = answering(200, &[(SITE_HEADER, "gz")], RIGHT).await;
    let error = caller.to([closed(), other.clone()]).get::<SiteIdentity>(PATH, DEADLINE, 1_000).await;
    let Err(PeerError::OtherSite(Failures(all))) = error else { panic!("{error:?}") };
    assert_eq!((all.len(), &all[1].0), (2, &other));
}

#[tokio::test]
async fn a_request_is_sent_with_its_body_token_version_and_site() {
    let echo = |headers: HeaderMap, body: String| async move {
        let text = |name: &str| headers.get(name).map(|it| it.to_str().unwrap().to_owned());
        let said = [text("authorization"), text(VERSION_HEADER), text(exchange::FOR_HEADER)];
        ([(SITE_HEADER, "bj"), (VERSION_HEADER, "1")], axum::Json((said, body)))
    };
    let url = serve(Router::new().route("/v1/sites/echo", axum::routing::post(echo))).await;
    let answer: ([String; 3], String) =
        Caller::new().to([url]).call("/v1/sites/echo", &["have"], DEADLINE, 1_000).await.unwrap();
    assert_eq!(answer.0, ["Bearer 0123456789abcdef", "1", "bj"]);
    assert_eq!(answer.1, "[\"have\"]");
}

#[tokio::test]
async fn a_relative_path_begins_at_the_folder_of_the_caller() {
    let caller = Caller::new();
    std::fs::create_dir(caller.folder.path().join("tokens")).unwrap();
    std::fs::rename(caller.folder.path().join("token"), caller.folder.path().join("tokens/bj")).unwrap();
    let url = answering(200, &BJ, RIGHT).await;
    let ask = async |path: &str| {
        caller.with([url.clone()], PathBuf::from(path)).get::<SiteIdentity>(PATH, DEADLINE, 1_000).await
    };
    ask("tokens/bj").await.unwrap();
    let absolute = caller.folder.path().join("tokens/bj");
    ask(absolute.to_str().unwrap()).await.unwrap();
    let error = ask("token").await.unwrap_err().to_string();
    let missing = caller.folder.path().join("token").display().to_string();
    assert!(error.contains(&missing), "{error}");
}

#[tokio::test]
async fn a_file_that_is_missing_or_wrong_is_named() {
    for (content, words) in [(None, "token: No such file"), (Some("short"), "token: the file holds no token")]
    {
        let caller = Caller::new();
        let path = caller.folder.path().join("token");
        match content {
            Some(content) => std::fs::write(&path, content).unwrap(),
            None => std::fs::remove_file(&path).unwrap(),
        }
        let error = caller.error(closed(), DEADLINE).await;
        assert_eq!(error.reason(), "own_files");
        assert!(error.to_string().contains(words), "{error}");
    }
}

#[tokio::test]
async fn files_are_read_again_when_they_change_and_stay_in_use_when_they_are_gone() {
    let folder = tempfile::tempdir().unwrap();
    let path = |name: &str| folder.path().join(name);
    let (one, two) = (testing::Authority::new(), testing::Authority::new());
    std::fs::write(path("ca"), one.pem()).unwrap();
    std::fs::write(path("token"), "0123456789abcdef").unwrap();
    let files = files::PeerFiles {
        site: Some("bj".parse().unwrap()),
        is_encrypted: true,
        ca: Some(path("ca")),
        token: path("token"),
        own: Some(one.issue(&["waypost:site:sh"]).write(folder.path(), "own")),
    };
    let first = files.prepare(None).unwrap();
    std::fs::write(path("token"), "fedcba9876543210").unwrap();
    let second = files.prepare(Some(&first)).unwrap();
    assert_eq!((first.token.expose(), second.token.expose()), ("0123456789abcdef", "fedcba9876543210"));
    for (name, content, words) in [
        ("ca", "none".to_owned(), "ca: there is no certificate in it"),
        ("ca", two.pem(), ""),
        ("own.key", "none".to_owned(), "own.key: key: "),
    ] {
        std::fs::write(path(name), content).unwrap();
        match files.prepare(Some(&second)) {
            Ok(_) => assert_eq!(words, ""),
            Err(why) => assert!(!words.is_empty() && why.contains(words), "{why}"),
        }
    }
}

#[tokio::test]
async fn a_token_that_changes_is_sent_and_one_that_is_gone_stays_in_use() {
    let says = |headers: HeaderMap| async move {
        let token = headers["authorization"].to_str().unwrap().to_owned();
        ([(SITE_HEADER, "bj"), (VERSION_HEADER, "1")], axum::Json(token))
    };
    let caller = Caller::new();
    let files = files::PeerFiles {
        site: Some("bj".parse().unwrap()),
        is_encrypted: false,
        ca: None,
        token: caller.folder.path().join("token"),
        own: None,
    };
    let http =
        std::sync::Arc::new(http::Http::new(files, vec![serve(Router::new().fallback(any(says))).await]));
    let peer = Peer::over(None, std::sync::Arc::<http::Http>::clone(&http), caller.peers.metrics());
    let sent = async || peer.get::<String>(PATH, DEADLINE, 1_000).await.unwrap();
    assert_eq!(sent().await, "Bearer 0123456789abcdef");
    std::fs::write(caller.folder.path().join("token"), "fedcba9876543210").unwrap();
    assert_eq!(sent().await, "Bearer 0123456789abcdef", "files are not looked at for each call");
    // Only the clock of the next look; the call itself runs in real time.
    http.look_now().await;
    assert_eq!(sent().await, "Bearer fedcba9876543210");
    std::fs::remove_file(caller.folder.path().join("token")).unwrap();
    http.look_now().await;
    assert_eq!(sent().await, "Bearer fedcba9876543210");
}
