//! The exchange between sites over real sockets: a server in the site bj and callers of other sites.

use std::{path::PathBuf, time::Duration};

use store::model::{ControlUrl, SiteControl};
use tempfile::TempDir;

use super::*;
use crate::{
    admin::testing::Api,
    certificate::clients::ClientAuthorities,
    listen,
    sites::{Own, Peer, PeerError, Peers, caller::REFUSALS, testing::Authority},
};

const PATH: &str = "/v1/sites/identity";
/// Far more than an answer takes; only failures wait for it.
const DEADLINE: Duration = Duration::from_secs(20);
const MAX: usize = 4_096;

/// The admin API of a control in the site bj, served on loopback.
struct Server {
    api: Api,
    url: ControlUrl,
    folder: TempDir,
    /// Of the certificates of the sites, the server's too.
    authority: Authority,
}

/// What a caller of the site sh has.
struct Has<'a> {
    token: &'a str,
    /// The authority and the URIs of its certificate.
    certificate: Option<(&'a Authority, &'a [&'a str])>,
    /// The authority that it trusts.
    trusts: &'a Authority,
}

impl Server {
    /// Over TLS with these URIs in its certificate; over plain HTTP without.
    async fn start(uris: Option<&[&str]>) -> Self {
        let (api, folder, authority) = (Api::start().await, tempfile::tempdir().unwrap(), Authority::new());
        let files = uris.map(|it| authority.issue(it).write(folder.path(), "server"));
        let bound = listen::bind("test", "127.0.0.1:0".parse().unwrap(), files.as_ref()).await.unwrap();
        let scheme = if files.is_some() { "https" } else { "http" };
        let url = format!("{scheme}://{}", bound.address()).parse().unwrap();
        let authorities = ClientAuthorities::new(authority.pem().as_bytes()).unwrap();
        let router = api.router.clone();
        tokio::spawn(bound.judging(Some(authorities)).serve(router, std::future::pending()));
        let server = Self { api, url, folder, authority };
        server.apply_documents().await;
        server
    }

    async fn apply_documents(&self) {
        let control = "control: { urls: [https://192.0.2.1:1], token_file: /t }";
        let mut text = format!(
            "kind: Site\nname: bj\ncontrol: {{ urls: ['{}'], token_file: /t }}\n---\nkind: Site\nname: sh\n{control}\n\
             ---\nkind: Site\nname: gz\n{}\n---\nkind: Site\nname: hk\n",
            self.url,
            control.replace("192.0.2.1", "192.0.2.2")
        );
        for site in ["bj", "sh", "gz", "hk"] {
            text += &token(site, &format!("role: control\nscope: {{ site: {site} }}"));
        }
        text += &token("ci", "role: automation");
        let body = serde_json::json!({ "files": [{ "name": "w.yaml", "text": text }] });
        let applied = self.api.ask("POST", "/v1/apply", &body.to_string()).await;
        assert_eq!(applied.status, 200, "{}", applied.text);
        let mut snapshots = self.api.handle.snapshots();
        snapshots.wait_for(|it| it.as_ref().is_some_and(|it| it.sites.len() == 4)).await.unwrap();
    }

    fn file(&self, name: &str, content: &str) -> PathBuf {
        let path = self.folder.path().join(name);
        std::fs::write(&path, content).unwrap();
        path
    }

    /// The control of bj as a caller has it.
    fn peer(&self, has: &Has<'_>) -> Peer {
        let certificate = has
            .certificate
            .map(|(authority, uris)| authority.issue(uris).write(self.folder.path(), "caller"));
        let own = Own {
            site: "sh".parse().unwrap(),
            node: "control-sh".parse().unwrap(),
            boot: "b".into(),
            certificate,
            folder: PathBuf::new(),
        };
        let control = SiteControl {
            urls: vec![self.url.clone()],
            ca_file: Some(self.file("ca.pem", &has.trusts.pem())),
            token_file: self.file("token", &secret(has.token)),
        };
        Peers::new(own, self.api.handle.clone()).peer("bj".parse().unwrap(), &control)
    }

    async fn call(&self, has: &Has<'_>) -> Result<SiteIdentity, PeerError> {
        self.peer(has).get(PATH, DEADLINE, MAX).await
    }

    fn refused(&self, reason: &str) -> u64 {
        let at = REFUSALS.iter().position(|it| *it == reason).unwrap();
        self.api.peers.metrics().refused[at].get()
    }
}

fn secret(name: &str) -> String {
    format!("{name}-0123456789abcdef")
}

fn token(name: &str, role: &str) -> String {
    let digest = crate::auth::digest(&secret(name));
    format!("---\nkind: Token\nname: {name}\n{role}\nsecret_sha256: \"{digest}\"\n")
}

fn refusal(answer: Result<SiteIdentity, PeerError>) -> (u16, String) {
    match answer {
        Err(PeerError::Refused { status, text, .. }) => (status, text),
        other => panic!("{other:?}"),
    }
}

const BJ: Option<&[&str]> = Some(&["waypost:site:bj"]);

#[tokio::test]
async fn the_control_of_another_site_is_answered() {
    let server = Server::start(BJ).await;
    let ours = &server.authority;
    let has = Has { token: "sh", certificate: Some((ours, &["waypost:site:sh"])), trusts: ours };
    let peer = server.peer(&has);
    for _ in 0..2 {
        let answer: SiteIdentity = peer.get(PATH, DEADLINE, MAX).await.unwrap();
        assert_eq!((answer.site.as_str(), answer.node.as_str(), &*answer.boot), ("bj", "control-1", "boot"));
    }
    let found: Peers = Peers::new(
        Own {
            site: "sh".parse().unwrap(),
            node: "n".parse().unwrap(),
            boot: String::new(),
            certificate: None,
            folder: PathBuf::new(),
        },
        server.api.handle.clone(),
    );
    assert_eq!(found.of(&"bj".parse().unwrap()).unwrap().urls(), std::slice::from_ref(&server.url));
    assert!(found.of(&"sh".parse().unwrap()).is_none() && found.of(&"hk".parse().unwrap()).is_none());
}

#[tokio::test]
async fn every_caller_that_is_not_another_sites_control_is_refused_with_the_reason() {
    let server = Server::start(BJ).await;
    let (ours, foreign) = (&server.authority, Authority::new());
    let sh: &[&str] = &["waypost:site:sh"];
    for (token, certificate, status, reason, words) in [
        ("sh", None, 403, "no_certificate", "the caller has shown none"),
        (
            "sh",
            Some((&foreign, sh)),
            403,
            "untrusted_certificate",
            "no authority in `[control] peer_ca_file`",
        ),
        ("sh", Some((ours, &["waypost:site:gz"][..])), 403, "other_certificate", "the certificate names gz"),
        ("sh", Some((ours, &[][..])), 403, "other_certificate", "the certificate names no site"),
        ("gz", Some((ours, sh)), 403, "other_certificate", "of the site gz and the certificate names sh"),
        ("hk", Some((ours, sh)), 403, "no_control", "the Site hk names no `control`"),
        ("bj", Some((ours, &["waypost:site:bj"][..])), 403, "own_site", "the site of this control itself"),
        ("ci", Some((ours, sh)), 403, "role", "the token ci is not one of a site's control"),
    ] {
        let before = server.refused(reason);
        let (found, text) = refusal(server.call(&Has { token, certificate, trusts: ours }).await);
        assert_eq!(found, status, "{text}");
        assert!(text.contains(words), "{words}: {text}");
        assert_eq!(server.refused(reason), before + 1, "{reason}");
    }
    // Without an operator's token in the cluster, an unknown token is ignored: the caller is one without a token.
    let unknown = Has { token: "nobody", certificate: Some((ours, sh)), trusts: ours };
    assert_eq!(refusal(server.call(&unknown).await).0, 401);
}

#[tokio::test]
async fn a_server_that_is_not_the_site_that_is_called_gets_no_token() {
    let ours = |server: &Server| Authority::pem(&server.authority);
    for (uris, words) in [
        (&["waypost:site:gz"][..], "its certificate names the site gz, not the site bj"),
        (&[][..], "its certificate names no site"),
    ] {
        let server = Server::start(Some(uris)).await;
        assert!(!ours(&server).is_empty());
        let has = Has { token: "sh", certificate: None, trusts: &server.authority };
        let error = server.call(&has).await.unwrap_err();
        assert!(matches!(error, PeerError::OtherSite(_)), "{error:?}");
        assert!(error.to_string().contains(words), "{error}");
        assert_eq!(server.refused("no_certificate"), 0, "nothing was sent");
    }
    let server = Server::start(BJ).await;
    let has = Has { token: "sh", certificate: None, trusts: &Authority::new() };
    let error = server.call(&has).await.unwrap_err();
    assert!(matches!(error, PeerError::NotTrusted(_)), "{error:?}");
    assert!(error.to_string().contains("UnknownIssuer"), "{error}");
}

#[tokio::test]
async fn over_plain_http_the_token_alone_decides() {
    let server = Server::start(None).await;
    let trusts = &server.authority;
    let has = |token| Has { token, certificate: None, trusts };
    assert_eq!(server.call(&has("sh")).await.unwrap().site.as_str(), "bj");
    assert_eq!(refusal(server.call(&has("hk")).await).0, 403);
    let peer = server.peer(&has("sh"));
    let status: serde_json::Value = match peer.get("/v1/status", DEADLINE, 1 << 20).await {
        Err(PeerError::Malformed { why, .. }) => why.into(),
        other => other.unwrap(),
    };
    assert!(status.to_string().contains(SITE_HEADER), "only the exchange names its site: {status}");
}

#[tokio::test]
async fn a_request_for_another_site_or_of_a_newer_version_is_refused() {
    let server = Server::start(None).await;
    let client = reqwest::Client::builder().no_proxy().build().unwrap();
    for (header, value, status, words) in [
        (FOR_HEADER, "gz", 421, "meant for the site \"gz\", and this control is in bj"),
        (VERSION_HEADER, "2", 400, "has version 2 of the exchange"),
        (VERSION_HEADER, "-", 400, "not a whole number"),
    ] {
        let request = client.get(format!("{}{PATH}", server.url)).bearer_auth(secret("sh"));
        let answer = request.header(header, value).send().await.unwrap();
        assert_eq!(answer.status().as_u16(), status);
        assert_eq!(answer.headers()[SITE_HEADER], "bj", "a refusal says who refuses");
        let text = answer.text().await.unwrap();
        assert!(text.contains(&words.replace('"', "\\\"")), "{words}: {text}");
    }
}

#[tokio::test]
async fn a_question_that_is_huge_malformed_or_of_a_newer_version_is_refused_and_counted() {
    let server = Server::start(None).await;
    let client = reqwest::Client::builder().no_proxy().build().unwrap();
    let huge = format!("{{\"v\":1{}}}", " ".repeat(MAX_BODY));
    for (body, status, reason, count, words) in [
        (huge.as_str(), 413, "too_large", 1, "more than 33554432 octets"),
        ("{\"v\":1", 400, "malformed", 1, "cannot be read: EOF"),
        ("{\"v\":1,\"last\":{\"generation\":7}}", 400, "malformed", 2, "cannot be read: invalid type"),
        ("{\"v\":2,\"who\":\"sh\"}", 400, "newer_version", 1, "has version 2 of the exchange"),
    ] {
        let request = client.post(format!("{}/v1/sites/exchange", server.url)).bearer_auth(secret("sh"));
        let answer = request.body(body.to_owned()).send().await.unwrap();
        assert_eq!((answer.status().as_u16(), server.refused(reason)), (status, count), "{reason}");
        let text = answer.text().await.unwrap();
        assert!(text.contains(words), "{words}: {text}");
    }
}

#[tokio::test]
async fn a_new_site_finds_out_which_site_it_calls() {
    let server = Server::start(BJ).await;
    let ours = &server.authority;
    let certificate = ours.issue(&["waypost:site:sh"]).write(server.folder.path(), "caller");
    let own = Own {
        site: "sh".parse().unwrap(),
        node: "n".parse().unwrap(),
        boot: String::new(),
        certificate: Some(certificate),
        folder: PathBuf::new(),
    };
    let (ca, token) = (server.file("ca.pem", &ours.pem()), server.file("token", &secret("sh")));
    let joins = Peers::new(own, server.api.handle.clone()).at(vec![server.url.clone()], Some(ca), token);
    assert_eq!(joins.site(), None);
    assert_eq!(joins.get::<SiteIdentity>(PATH, DEADLINE, MAX).await.unwrap().site.as_str(), "bj");
}
